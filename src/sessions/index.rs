//! Index of sessions, in the orders that listing, the cap and the clean-up need, so that none of
//! them examines every session.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Live;
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;
use crate::firewall::time::{Mono, Timestamp};

/// INVARIANT: each session is in `by_age`, in `by_agent`, and once in `by_end`; among its agent's
/// `active` ones at least until it is closed or expires.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_age: BTreeSet<(Timestamp, ById)>,
    by_agent: BTreeSet<(AgentId, Timestamp, ById)>,
    /// A tree as well: a hash table that grows moves all at once, and everyone waits.
    agents: BTreeMap<AgentId, OfAgent>,
    /// By when each was closed or will have expired. Time passes and nothing has to be moved.
    by_end: BTreeSet<(Mono, ById)>,
    /// Up to here, `by_end` was counted.
    counted_to: Option<(Mono, ById)>,
    /// Number of entries of `by_end` up to and including `counted_to`.
    counted: usize,
}

/// A session, ordered by its id, which distinguishes those of one instant. None comes before all.
/// One pointer wide.
#[derive(Clone, Debug)]
struct ById(Option<Arc<Live>>);

/// Active sessions of an agent, for the cap.
#[derive(Debug, Default)]
struct OfAgent {
    /// Expired ones are dropped when the cap is next looked at.
    active: SmallVec<[Arc<Live>; 2]>,
    /// Places held for sessions that are being stored.
    reserved: usize,
}

impl Index {
    /// Sessions of an earlier run, with when they were closed, if they were.
    pub(super) fn load(lives: &[(Arc<Live>, Option<Mono>)]) -> Self {
        let mut agents: BTreeMap<AgentId, OfAgent> = BTreeMap::new();
        for (live, _) in lives.iter().filter(|(_, closed_at)| closed_at.is_none()) {
            agents.entry(live.order.agent).or_default().active.push(Arc::clone(live));
        }
        let orders = lives.iter().map(|(live, _)| (&live.order, live));
        // Sets that are made of all at once are packed full.
        Self {
            by_age: orders
                .clone()
                .map(|(order, live)| (order.created_at, ById::of(live)))
                .collect(),
            by_agent: orders
                .map(|(order, live)| (order.agent, order.created_at, ById::of(live)))
                .collect(),
            agents,
            by_end: lives
                .iter()
                .map(|(live, closed_at)| {
                    let end = closed_at.map_or(live.deadline, |at| at.min(live.deadline));
                    (end, ById::of(live))
                })
                .collect(),
            counted_to: None,
            counted: 0,
        }
    }

    /// Holds a place for one more session of this agent, if it has fewer than `cap` active ones.
    pub(super) fn reserve(&mut self, agent: AgentId, cap: usize, now: Mono) -> bool {
        let of_agent = self.agents.entry(agent).or_default();
        of_agent.active.retain(|live| now < live.deadline);
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

    pub(super) fn insert(&mut self, live: &Arc<Live>) {
        let (order, by_id) = (&live.order, ById::of(live));
        self.by_age.insert((order.created_at, by_id.clone()));
        self.by_agent.insert((order.agent, order.created_at, by_id));
        self.agents.entry(order.agent).or_default().active.push(Arc::clone(live));
        self.add_end(live.deadline, live);
    }

    /// Notes that a session was closed. Twice is once.
    pub(super) fn end(&mut self, live: &Arc<Live>, at: Mono) {
        let at = at.min(live.deadline);
        if at < live.deadline && self.remove_end(live.deadline, live) {
            self.add_end(at, live);
        }
        self.not_active(live, at);
    }

    /// Sessions of these agents that are neither closed nor expired.
    pub(super) fn active_of(&self, agents: &[AgentId], now: Mono) -> Vec<Arc<Live>> {
        let active = agents.iter().filter_map(|id| self.agents.get(id)).flat_map(|a| &a.active);
        active.filter(|live| now < live.deadline).cloned().collect()
    }

    /// Returns the number of sessions neither closed nor expired. Examines at most `limit` sessions
    /// that ended since the last call; `None` if there are more, which the next call continues
    /// with.
    pub(super) fn active_count(&mut self, now: Mono, limit: usize) -> Option<usize> {
        let from = self.counted_to.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.by_end.range((from, Bound::Unbounded));
        let mut last = None;
        let mut seen = 0;
        for end in later.take_while(|(at, _)| *at <= now).take(limit) {
            last = Some(end);
            seen += 1;
        }
        if let Some(last) = last.cloned() {
            self.counted_to = Some(last);
            self.counted += seen;
        }
        (seen < limit).then(|| self.by_end.len() - self.counted)
    }

    /// At most `limit` sessions that ended at least `retention_secs` ago, oldest first, with when
    /// that was.
    pub(super) fn ended(
        &self,
        now: Mono,
        retention_secs: u64,
        limit: usize,
    ) -> Vec<(Mono, Arc<Live>)> {
        let old = self.by_end.iter().take_while(|(at, _)| at.plus_secs(retention_secs) <= now);
        old.take(limit).filter_map(|(at, live)| Some((*at, live.0.clone()?))).collect()
    }

    /// Forgets a session that ended at `ended_at`.
    pub(super) fn forget(&mut self, live: &Arc<Live>, ended_at: Mono, now: Mono) {
        let (order, by_id) = (&live.order, ById::of(live));
        self.by_agent.remove(&(order.agent, order.created_at, by_id.clone()));
        self.by_age.remove(&(order.created_at, by_id));
        self.remove_end(ended_at, live);
        self.not_active(live, now);
    }

    /// At most `limit` sessions, of one agent or of all, that follow `after` in the order of creation.
    pub(super) fn page(
        &self,
        agent: Option<AgentId>,
        after: Option<&Arc<Live>>,
        limit: usize,
    ) -> Vec<Arc<Live>> {
        let (created_at, after) = after.map_or((Timestamp(i64::MIN), ById(None)), |live| {
            (live.order.created_at, ById::of(live))
        });
        let Some(agent) = agent else {
            let from = Bound::Excluded((created_at, after));
            let following = self.by_age.range((from, Bound::Unbounded)).take(limit);
            return following.filter_map(|(_, live)| live.0.clone()).collect();
        };
        let from = Bound::Excluded((agent, created_at, after));
        let following = self.by_agent.range((from, Bound::Unbounded));
        let of_agent = following.take_while(|(of, ..)| *of == agent);
        of_agent.take(limit).filter_map(|(.., live)| live.0.clone()).collect()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_age.is_empty()
            && self.by_agent.is_empty()
            && self.agents.is_empty()
            && self.by_end.is_empty()
            && self.counted == 0
    }

    fn add_end(&mut self, at: Mono, live: &Arc<Live>) {
        let end = (at, ById::of(live));
        self.counted += usize::from(self.is_counted(&end));
        self.by_end.insert(end);
    }

    fn remove_end(&mut self, at: Mono, live: &Arc<Live>) -> bool {
        let end = (at, ById::of(live));
        let removed = self.by_end.remove(&end);
        self.counted -= usize::from(removed && self.is_counted(&end));
        removed
    }

    fn is_counted(&self, end: &(Mono, ById)) -> bool {
        self.counted_to.as_ref().is_some_and(|to| end <= to)
    }

    /// Takes a session from its agent's active ones, and with it whatever has expired, so that the
    /// many of one agent do not cost each other a look.
    fn not_active(&mut self, live: &Arc<Live>, now: Mono) {
        let agent = live.order.agent;
        if let Some(of_agent) = self.agents.get_mut(&agent) {
            of_agent.active.retain(|other| !Arc::ptr_eq(other, live) && now < other.deadline);
        }
        self.drop_if_unused(agent);
    }

    fn drop_if_unused(&mut self, agent: AgentId) {
        if self.agents.get(&agent).is_some_and(|a| a.active.is_empty() && a.reserved == 0) {
            self.agents.remove(&agent);
        }
    }
}

impl ById {
    fn of(live: &Arc<Live>) -> Self {
        Self(Some(Arc::clone(live)))
    }

    fn id(&self) -> Option<SessionId> {
        self.0.as_ref().map(|live| live.order.id)
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id().cmp(&other.id())
    }
}
