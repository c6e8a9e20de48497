//! Which sessions there are, in the orders that listing, the cap and the clean-up need, so that none
//! of them looks at every session.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use crate::firewall::agent::AgentId;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::{Mono, Timestamp};

/// Where a session stands in the order of creation.
pub(super) type Age = (Timestamp, SessionId);

/// INVARIANT: each session is in `by_age`, in its agent's `by_age`, and in one of `running` and
/// `ended`; in its agent's `active` at most while it is in `running`.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_age: BTreeSet<Age>,
    agents: HashMap<AgentId, OfAgent>,
    /// Not closed, and not yet noticed to have expired, by deadline.
    running: BTreeSet<(Mono, SessionId)>,
    /// Closed or expired, by when that was.
    ended: BTreeSet<(Mono, SessionId)>,
}

#[derive(Debug, Default)]
struct OfAgent {
    by_age: BTreeSet<Age>,
    /// With their deadlines; expired ones are dropped when the cap is next looked at.
    active: Vec<(Mono, SessionId)>,
    /// Places held for sessions that are being stored.
    reserved: usize,
}

impl Index {
    /// Holds a place for one more session of this agent, if it has fewer than `cap` active ones.
    pub(super) fn reserve(&mut self, agent: AgentId, cap: usize, now: Mono) -> bool {
        let of_agent = self.agents.entry(agent).or_default();
        of_agent.active.retain(|&(deadline, _)| now < deadline);
        let free = of_agent.active.len().saturating_add(of_agent.reserved) < cap;
        if free {
            of_agent.reserved += 1;
        }
        self.drop_if_unused(agent);
        free
    }

    pub(super) fn release(&mut self, agent: AgentId) {
        if let Some(of_agent) = self.agents.get_mut(&agent) {
            of_agent.reserved = of_agent.reserved.saturating_sub(1);
        }
        self.drop_if_unused(agent);
    }

    pub(super) fn insert(&mut self, order: &WorkOrder, deadline: Mono) {
        let age = (order.created_at, order.id);
        self.by_age.insert(age);
        let of_agent = self.agents.entry(order.agent).or_default();
        of_agent.by_age.insert(age);
        of_agent.active.push((deadline, order.id));
        self.running.insert((deadline, order.id));
    }

    /// Notes that a session was closed. Twice is once.
    pub(super) fn end(&mut self, order: &WorkOrder, deadline: Mono, at: Mono) {
        if self.running.remove(&(deadline, order.id)) {
            self.ended.insert((at.min(deadline), order.id));
        }
        if let Some(of_agent) = self.agents.get_mut(&order.agent) {
            of_agent.active.retain(|&(_, id)| id != order.id);
        }
    }

    /// Sessions of these agents that are neither closed nor expired.
    pub(super) fn active_of(&self, agents: &[AgentId], now: Mono) -> Vec<SessionId> {
        let active = agents.iter().filter_map(|id| self.agents.get(id)).flat_map(|a| &a.active);
        active.filter(|&&(deadline, _)| now < deadline).map(|&(_, id)| id).collect()
    }

    pub(super) fn active_count(&mut self, now: Mono) -> usize {
        self.notice_expired(now);
        self.running.len()
    }

    /// At most `limit` sessions that ended at least `retention_secs` ago, oldest first, with when
    /// that was.
    pub(super) fn ended(
        &mut self,
        now: Mono,
        retention_secs: u64,
        limit: usize,
    ) -> Vec<(Mono, SessionId)> {
        self.notice_expired(now);
        let old = self.ended.iter().take_while(|(at, _)| at.plus_secs(retention_secs) <= now);
        old.take(limit).copied().collect()
    }

    /// Forgets a session that ended at `ended_at`.
    pub(super) fn forget(&mut self, order: &WorkOrder, ended_at: Mono) {
        let age = (order.created_at, order.id);
        self.by_age.remove(&age);
        self.ended.remove(&(ended_at, order.id));
        if let Some(of_agent) = self.agents.get_mut(&order.agent) {
            of_agent.by_age.remove(&age);
            of_agent.active.retain(|&(_, id)| id != order.id);
        }
        self.drop_if_unused(order.agent);
    }

    /// At most `limit` sessions, of one agent or of all, that follow `after` in the order of creation.
    pub(super) fn page(
        &self,
        agent: Option<AgentId>,
        after: Option<Age>,
        limit: usize,
    ) -> Vec<Age> {
        let by_age = match agent {
            None => &self.by_age,
            Some(agent) => match self.agents.get(&agent) {
                Some(of_agent) => &of_agent.by_age,
                None => return Vec::new(),
            },
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        by_age.range((from, Bound::Unbounded)).take(limit).copied().collect()
    }

    fn notice_expired(&mut self, now: Mono) {
        while let Some(&(deadline, id)) = self.running.first()
            && deadline <= now
        {
            self.running.pop_first();
            self.ended.insert((deadline, id));
        }
    }

    fn drop_if_unused(&mut self, agent: AgentId) {
        if self.agents.get(&agent).is_some_and(|a| a.by_age.is_empty() && a.reserved == 0) {
            self.agents.remove(&agent);
        }
    }
}
