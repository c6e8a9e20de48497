//! Records that a store keeps of agents, delegations and sessions.

use std::sync::Arc;

use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::saturate::SaturatingFrom as _;

use super::RateUse;

/// Flags that no longer weigh anything are not kept.
pub(super) const FLAGS_KEPT_US: u64 = 17 * 3_600_000_000;
/// Entries of an agent's flags at most; later ones push the oldest out.
pub(super) const FLAGS_KEPT: usize = 100;

/// An agent as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAgent {
    pub agent: Arc<Agent>,
    /// The change number: raised by every trust level that an operator sets.
    pub number: u64,
    /// The time of its deactivation, if it was deactivated.
    pub ended_at: Option<Timestamp>,
    /// Drift flags that were counted against it, oldest first.
    pub flags: Vec<Flags>,
}

impl StoredAgent {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent, number: 0, ended_at: None, flags: Vec::new() }
    }

    /// Takes away what is not gone yet; returns whether that changed anything.
    pub(crate) fn take_away(&mut self, taken: &TakenAway, at: Timestamp) -> bool {
        let mut changed = false;
        if taken.inactive && self.agent.active {
            Arc::make_mut(&mut self.agent).active = false;
            self.ended_at = Some(at);
            changed = true;
        }
        if let Some(lowered) = taken.lowered
            && lowered.number >= self.number
            && (lowered.level < self.agent.trust || lowered.number > self.number)
        {
            self.number = lowered.number;
            let agent = Arc::make_mut(&mut self.agent);
            agent.trust = agent.trust.min(lowered.level);
            changed = true;
        }
        if changed {
            self.flags.clear();
        }
        changed
    }

    /// Returns what was taken away with the level that results: another node may have lowered it further.
    pub(crate) fn resulting(&self, taken: &TakenAway) -> TakenAway {
        let lowered = taken.lowered.map(|lowered| {
            let is_latest = lowered.number >= self.number;
            Lowered { level: if is_latest { self.agent.trust } else { lowered.level }, ..lowered }
        });
        TakenAway { lowered, ..*taken }
    }

    /// Sets the level, whatever it is; returns the number of this change.
    pub(crate) fn set_trust(&mut self, level: TrustLevel, above: u64) -> u64 {
        Arc::make_mut(&mut self.agent).trust = level;
        self.flags.clear();
        self.number = self.number.max(above).saturating_add(1);
        self.number
    }

    pub(super) fn flag(&mut self, count: u32, at: Timestamp) {
        let kept = i64::saturating_from(FLAGS_KEPT_US);
        self.flags.retain(|flags| flags.at.0 > at.0.saturating_sub(kept));
        self.flags.push(Flags { at, count });
        let surplus = self.flags.len().saturating_sub(FLAGS_KEPT);
        self.flags.drain(..surplus);
    }

    /// Checks whether the agent ended at least `retention_secs` ago, deactivated or by its own end.
    pub(crate) fn is_over(&self, now: Timestamp, retention_secs: u64) -> bool {
        let over = |end: Timestamp| end.plus_secs(retention_secs) <= now;
        self.ended_at.filter(|_| !self.agent.active).is_some_and(over)
            || self.agent.expires_at.is_some_and(over)
    }
}

/// Drift flags that were counted against an agent at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    pub at: Timestamp,
    pub count: u32,
}

/// Everything that was taken away of one agent, to be held by the store as by the nodes.
///
/// INVARIANT: taking away twice, in any order, is taking away once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenAway {
    pub id: AgentId,
    pub inactive: bool,
    pub lowered: Option<Lowered>,
}

/// A level that an agent's trust is not above, until an operator sets one after this change number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lowered {
    pub level: TrustLevel,
    pub number: u64,
}

/// All delegations, and the number of the change that made the latest of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredDelegations {
    pub all: Vec<Delegation>,
    pub version: u64,
}

/// Agents to be forgotten if they ended long enough ago by the ledger's time.
#[derive(Clone, Debug)]
pub struct Purge {
    pub ids: Vec<AgentId>,
    pub retention_secs: u64,
    /// Keeps the ids of deactivated ones, so that no issuer brings them in again.
    pub tombstones: bool,
}

/// The number of replicas that hold a change, where the configuration asks for some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    pub wanted: u32,
    pub reached: u32,
}

impl Replicas {
    /// Checks whether fewer have it than the configuration asks for.
    pub fn are_short(self) -> bool {
        self.reached < self.wanted
    }

    /// Two changes of one act: what the worse of them reached.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self.wanted, other.wanted) {
            (0, _) => other,
            (_, 0) => self,
            _ => Self { wanted: self.wanted, reached: self.reached.min(other.reached) },
        }
    }
}

/// A session as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    pub order: Arc<WorkOrder>,
    /// Calls that were booked and not given back: at least as many as were made.
    pub booked: u64,
    pub closed_at: Option<Timestamp>,
    /// The calls of the last rate window, if a clean stop left them and nothing was booked since.
    pub recent: Option<Vec<RecentCalls>>,
}

/// Calls counted at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecentCalls {
    pub at: Timestamp,
    pub count: u32,
}

/// The outcome of opening a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Yes,
    /// Its agent has as many active sessions as it may have.
    TooMany,
    /// Its agent was deactivated, or is not known.
    NoAgent,
}

/// A session that ends before its time.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    pub id: SessionId,
    /// Booked calls that were not made.
    pub unused: u64,
}

/// Everything that a clean stop leaves behind for one session.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub id: SessionId,
    /// Booked calls that were not made.
    pub unused: u64,
    /// The calls of the last rate window; none leaves what is stored as it is.
    pub recent: Option<Vec<RecentCalls>>,
    /// The use of the permits of a shared rate limit, if there were any.
    pub rate: Option<RateUse>,
}
