//! Steps of approvals, as a store takes them: each from the version that it has, all of them or none.

use uuid::Uuid;

use super::Replicas;
use crate::firewall::approvals::{Limits, MAX_PENDING, MAX_PENDING_OF_OWNER};

/// Numbers of approvals that may be pending. A store that one node has to itself leaves them to it.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub of_agent: usize,
    pub of_owner: usize,
    pub in_all: usize,
}

impl Room {
    pub fn under(limits: Limits) -> Self {
        Self {
            of_agent: limits.max_pending_per_agent,
            of_owner: MAX_PENDING_OF_OWNER,
            in_all: MAX_PENDING,
        }
    }

    /// Room for approvals that were pending before.
    pub const UNLIMITED: Self =
        Self { of_agent: usize::MAX, of_owner: usize::MAX, in_all: usize::MAX };
}

/// Outcome of storing steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Done(Replicas),
    /// Nothing was stored: this approval is not what the node takes it for, or asks for the same call.
    Overtaken(Uuid),
    /// Nothing was stored: by the ledger's clock this approval is over.
    Over(Uuid),
    /// Nothing was stored: too many are pending.
    TooMany,
}
