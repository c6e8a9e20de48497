//! The owner: the agent that `x-agent-id` names, the token's and the session's are one.

use super::session::{AgentHeader, Claimed};
use crate::firewall::agent::AgentId;
use crate::firewall::denial::{Code, Denial};

/// Refuses a caller that is another agent than the one that the header names or the session is for.
pub fn check(caller: AgentId, header: AgentHeader, claimed: &Claimed<'_>) -> Result<(), Denial> {
    let named = match header {
        AgentHeader::Is(agent) => agent == caller,
        AgentHeader::Malformed => false,
        AgentHeader::Absent => !claimed.is_made(),
    };
    if named && claimed.found().is_none_or(|found| found.order.agent == caller) {
        return Ok(());
    }
    Err(Denial::new(
        Code::AgentMismatch,
        "x-agent-id, the token's agent and the session's agent must be the same",
    ))
}
