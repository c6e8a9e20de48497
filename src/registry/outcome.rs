//! Outcomes of what operators ask of the registry, and of too many drift flags.

use crate::firewall::agent::{AgentId, Delegation, TrustLevel};
use crate::firewall::time::Timestamp;
use crate::store::{Replicas, StoreError};

/// Reason why a delegation was not made.
#[derive(Debug, thiserror::Error)]
pub enum DelegateError {
    #[error("agent `{0}` is not known")]
    Unknown(AgentId),
    /// Deactivated or expired, or no delegation to it is in force any more.
    #[error("agent `{0}` may not act any more")]
    Inactive(AgentId),
    #[error("the delegator does not have {}", .extra.join(", "))]
    ScopeNarrowing { extra: Vec<String> },
    #[error("the delegation would create a cycle")]
    Cycle,
    #[error("the delegation would outlive what it rests on, which ends at {0}")]
    ExpiryWidening(Timestamp),
    #[error("the delegation would be over before it begins")]
    Past,
    #[error("delegations may not be more than {max} deep")]
    TooDeep { max: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reason why a token was not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    #[error("{cap} tokens are revoked and not yet expired, and no more can be")]
    Full { cap: usize },
    /// The revocation is in force on this node, and is stored when the store accepts it.
    #[error("the revocation is not stored yet")]
    NotStored(#[from] StoreError),
}

/// The store did not take a new trust level.
#[derive(Debug, thiserror::Error)]
#[error("the trust level was not stored")]
pub struct TrustError {
    /// A demotion counts on this node, and will be stored when the store takes it.
    pub in_force: bool,
    pub source: StoreError,
}

impl From<StoreError> for TrustError {
    fn from(source: StoreError) -> Self {
        Self { in_force: false, source }
    }
}

/// Agents that were deactivated on this node, whatever the store says.
#[derive(Debug)]
pub struct Deactivated {
    /// Agents that were still active.
    pub ids: Vec<AgentId>,
    /// The agent, and everyone below it.
    pub all: Vec<AgentId>,
    /// Writes the store rejected are retried.
    pub stored: Result<Replicas, StoreError>,
}

/// A delegation that was made: added, or put in the place of one like it.
#[derive(Debug)]
pub struct Delegated {
    pub delegation: Delegation,
    pub is_new: bool,
}

/// A delegation that was ended.
#[derive(Debug)]
pub struct Ended {
    pub delegation: Delegation,
    /// The agent that acted under it, and everyone below that one.
    pub below: Vec<AgentId>,
    /// Writes the store rejected are retried.
    pub stored: Result<Replicas, StoreError>,
}

/// Too many drift flags: an agent is to lose a level of trust as soon as that is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demotion {
    pub agent: AgentId,
    pub from: TrustLevel,
    pub to: TrustLevel,
    /// The change number up to which it counts.
    pub(super) number: u64,
}
