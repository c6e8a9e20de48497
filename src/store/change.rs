//! Changes that the nodes of a fleet report to each other through the store that they share.

use std::sync::Arc;

use uuid::Uuid;

use super::TakenAway;
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::approvals::ApprovalState;
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

/// One change of what is stored. Taking it in twice is taking it in once, but for flags.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Registered(Arc<Agent>),
    /// An operator has set a level: change `number` of the agent.
    Trust {
        id: AgentId,
        level: TrustLevel,
        number: u64,
    },
    TakenAway(TakenAway),
    /// An agent is forgotten, its id perhaps kept.
    Purged {
        id: AgentId,
        tombstone: bool,
    },
    /// Added, or replaced under the same id: change `version` of all delegations.
    Delegation {
        delegation: Delegation,
        version: u64,
    },
    DelegationEnded {
        id: Uuid,
        version: u64,
    },
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
    /// An approval is in this state. Its call is left out, which may be long.
    Approval {
        id: Uuid,
        state: ApprovalState,
    },
}

impl Change {
    /// Checks whether a node takes in its own change of this kind: what it counted or asked for itself it
    /// does not hear again. All else comes back by the feed, so that a lost answer loses nothing.
    pub(super) fn returns_to_its_node(&self) -> bool {
        match self {
            Self::Registered(_)
            | Self::Trust { .. }
            | Self::TakenAway(_)
            | Self::Purged { .. }
            | Self::Delegation { .. }
            | Self::DelegationEnded { .. }
            | Self::TokenRevoked { .. }
            | Self::SessionOpened(_)
            | Self::SessionClosed { .. }
            | Self::Frozen(_)
            | Self::Unfrozen(_)
            | Self::Approval { .. } => true,
            Self::Flagged { .. } | Self::Wanted(_) => false,
        }
    }
}

/// Position of a node in the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

/// Bookmark up to which a node has taken in the changes: its position, and how the store looked from there.
///
/// The follower alone keeps it. A gap, a history that was rewritten and another server are found by
/// comparison with the bookmark, and so are found again until the follower goes on from another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    pub position: Position,
    /// Mark of the change at the position, once that was seen.
    pub(super) mark: Option<String>,
    /// Number of the connection that was asked last; zero before the first.
    pub(super) connection: u64,
}

impl From<Position> for Bookmark {
    /// Returns a bookmark of which only the position is known.
    fn from(position: Position) -> Self {
        Self { position, mark: None, connection: 0 }
    }
}

/// Changes in the order in which they were made.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    pub changes: Vec<Change>,
    /// Bookmark behind the last of them.
    pub bookmark: Bookmark,
    /// The ledger's time when it was asked, if it says.
    pub time: Option<Timestamp>,
    /// The server was reached by another connection than before: it may be another server, which has
    /// not got all that the one before had acknowledged.
    pub reconnected: bool,
}
