//! What the nodes of a fleet tell each other through the store that they share.

use std::sync::Arc;

use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

/// What another node did that this one has to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Registered(Arc<Agent>),
    Trust(AgentId, TrustLevel),
    Deactivated(AgentId),
    Delegation(Delegation),
    TokenRevoked {
        token_id: String,
        until: Timestamp,
    },
    /// Drift flags were counted against an agent.
    Flagged {
        agent: AgentId,
        flags: u32,
    },
    SessionOpened(Arc<WorkOrder>),
    SessionClosed {
        id: SessionId,
        at: Timestamp,
    },
    /// Another node needs what this one holds of the session's budget and does not use.
    Wanted(SessionId),
}

/// How far a node has followed the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

/// Changes of other nodes, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    pub changes: Vec<Change>,
    pub position: Position,
}
