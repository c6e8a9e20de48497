//! One agent in memory: what the store says of it, and what is kept over that.

use std::sync::Arc;

use super::overlay::{Kept, effective};
use crate::firewall::agent::{Agent, AgentId, TrustLevel};
use crate::firewall::checks::drift::FlagHistory;
use crate::firewall::time::Now;
use crate::store::{Lowered, StoredAgent, TakenAway};

/// Agent in memory.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it counts here: what the store says, with what is kept over it.
    pub(super) agent: Arc<Agent>,
    pub(super) stored: StoredAgent,
    pub(super) kept: Kept,
    /// True if the store does not know the agent any more. Such an agent may not act: what narrowed
    /// it may be lost as well.
    pub(super) lost: bool,
    /// Most agents never drift.
    pub(super) flags: Option<Box<FlagHistory>>,
    /// Set while anything is delegated to it.
    pub(super) delegate: bool,
    /// The chain of an agent to whom nothing was delegated: the agent itself.
    pub(super) alone: Arc<[AgentId]>,
}

impl Entry {
    pub(super) fn new(stored: StoredAgent, now: Now) -> Self {
        let alone = [stored.agent.id].into();
        let flags = FlagHistory::recall(stored.flags.iter().map(|f| (f.at, f.count)), now);
        let mut kept = Kept::default();
        kept.take_over(&stored);
        Self {
            agent: Arc::clone(&stored.agent),
            stored: StoredAgent { flags: Vec::new(), ..stored },
            kept,
            lost: false,
            flags: flags.map(Box::new),
            delegate: false,
            alone,
        }
    }

    /// Works out again how the agent counts. One that loses something starts with no flags.
    pub(super) fn refresh(&mut self) {
        let mut agent = effective(&self.stored, &self.kept);
        agent.active &= !self.lost;
        if agent != *self.agent {
            if !agent.active || agent.trust != self.agent.trust {
                self.flags = None;
            }
            self.agent = Arc::new(agent);
        }
    }

    /// Takes in that an operator has set a level.
    pub(super) fn set_trust(&mut self, level: TrustLevel, number: u64) {
        if number >= self.stored.number {
            self.stored.number = number;
            Arc::make_mut(&mut self.stored.agent).trust = level;
            self.flags = None;
        }
        let id = self.stored.agent.id;
        let lowered = Some(Lowered { level, number });
        self.kept.take(&TakenAway { id, inactive: false, lowered });
        self.refresh();
    }

    /// The number of the latest change of its trust that is known.
    pub(super) fn number(&self) -> u64 {
        self.stored.number.max(self.kept.number())
    }
}
