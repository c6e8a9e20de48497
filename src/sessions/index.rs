//! Which sessions there are, in the orders that listing, the cap and the clean-up need, so that none
//! of them looks at every session.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use smallvec::SmallVec;
use uuid::Uuid;

use crate::firewall::agent::AgentId;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::{Mono, Timestamp};

/// Where a session stands in the order of creation.
pub(super) type Age = (Timestamp, SessionId);

/// INVARIANT: each session is in `by_age`, in `by_agent`, and in one of `running` and `ended`; among
/// its agent's `active` ones at least until it is closed or expires.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_age: BTreeSet<Age>,
    by_agent: BTreeSet<(AgentId, Age)>,
    agents: HashMap<AgentId, OfAgent>,
    /// Not closed, and not yet noticed to have expired, by deadline.
    running: BTreeSet<(Mono, SessionId)>,
    /// Closed or expired, by when that was.
    ended: BTreeSet<(Mono, SessionId)>,
}

/// What the cap needs to know of an agent that has active sessions.
#[derive(Debug, Default)]
struct OfAgent {
    /// With their deadlines; expired ones are dropped when the cap is next looked at. Most agents
    /// have one.
    active: SmallVec<[(Mono, SessionId); 1]>,
    /// Places held for sessions that are being stored.
    reserved: usize,
}

impl Index {
    /// Holds a place for one more session of this agent, if it has fewer than `cap` active ones.
    pub(super) fn reserve(&mut self, agent: AgentId, cap: usize, now: Mono) -> bool {
        let of_agent = self.agents.entry(agent).or_default();
        of_agent.active.retain(|(deadline, _)| now < *deadline);
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
        self.by_agent.insert((order.agent, age));
        let of_agent = self.agents.entry(order.agent).or_default();
        of_agent.active.push((deadline, order.id));
        self.running.insert((deadline, order.id));
    }

    /// Notes that a session was closed. Twice is once.
    pub(super) fn end(&mut self, order: &WorkOrder, deadline: Mono, at: Mono) {
        if self.running.remove(&(deadline, order.id)) {
            self.ended.insert((at.min(deadline), order.id));
        }
        if let Some(of_agent) = self.agents.get_mut(&order.agent) {
            of_agent.active.retain(|(_, id)| *id != order.id);
        }
        self.drop_if_unused(order.agent);
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
        self.by_agent.remove(&(order.agent, age));
        self.ended.remove(&(ended_at, order.id));
        if let Some(of_agent) = self.agents.get_mut(&order.agent) {
            of_agent.active.retain(|(_, id)| *id != order.id);
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
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let Some(agent) = agent else {
            return self.by_age.range((from, Bound::Unbounded)).take(limit).copied().collect();
        };
        // No session comes before this one.
        let first = (Timestamp(i64::MIN), SessionId(Uuid::nil()));
        let from = match from {
            Bound::Excluded(age) => Bound::Excluded((agent, age)),
            Bound::Included(_) | Bound::Unbounded => Bound::Included((agent, first)),
        };
        let following = self.by_agent.range((from, Bound::Unbounded));
        let of_agent = following.take_while(|(of, _)| *of == agent);
        of_agent.take(limit).map(|&(_, age)| age).collect()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_age.is_empty()
            && self.by_agent.is_empty()
            && self.agents.is_empty()
            && self.running.is_empty()
            && self.ended.is_empty()
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
        if self.agents.get(&agent).is_some_and(|a| a.active.is_empty() && a.reserved == 0) {
            self.agents.remove(&agent);
        }
    }
}
