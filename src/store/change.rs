//! Changes that the nodes of a fleet publish through their shared store.

use std::sync::Arc;

use uuid::Uuid;

use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

/// Change by another node.
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
    Frozen(Arc<Freeze>),
    Unfrozen(Uuid),
}

/// Position of a node in the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

/// Changes of other nodes, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    pub changes: Vec<Change>,
    pub position: Position,
}
