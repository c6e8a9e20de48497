//! Delegations between agents: narrowing, expiry, depth and cycles, judged without waiting.
//!
//! The narrowest reading holds: with several delegations to it, an agent has only what all of them
//! give (`firewall::delegation`). A delegation counts while it has not ended and its giver may still
//! act. An agent whose delegations have all ended is what it is registered as, on its own account.
//! One with a delegation in force, and none of those that counts, may neither act nor delegate.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use uuid::Uuid;

use super::DelegateError;
use crate::firewall::agent::{Agent, AgentId, Delegation};
use crate::firewall::delegation::{Authorization, Lapse};
use crate::firewall::time::Timestamp;
use crate::store::{StoreError, StoredDelegations};

/// Delegations from the top to the bottom of a chain, at most.
const MAX_DEPTH: usize = 8;

/// Ended delegations that are kept over what the store says, at most: the oldest go first.
const MOST_ENDED: usize = 100_000;

/// INVARIANT: there is no cycle, no path is longer than `MAX_DEPTH`, and each list is oldest first.
/// Delegations whose time is over are still there until they are removed.
#[derive(Debug, Default)]
pub(super) struct Graph {
    incoming: HashMap<AgentId, Vec<Arc<Delegation>>>,
    outgoing: HashMap<AgentId, Vec<Arc<Delegation>>>,
    by_id: HashMap<Uuid, Arc<Delegation>>,
    /// The number of the latest change that was taken in.
    version: u64,
    /// Delegations that were ended, oldest first: a store that lost its last writes must not bring them
    /// back.
    ended: VecDeque<Uuid>,
}

/// Takes in stored delegations.
pub(super) fn load(stored: StoredDelegations) -> Result<Graph, StoreError> {
    let damaged = |source: &str| StoreError::Damaged { what: "delegation", source: source.into() };
    Graph::load(stored).map_err(damaged)
}

impl Graph {
    /// Takes in what is stored, unless it cannot have come from [`Graph::check`].
    fn load(stored: StoredDelegations) -> Result<Self, &'static str> {
        let mut graph = Self::default();
        for delegation in stored.all {
            graph.insert(delegation, 0);
        }
        graph.version = stored.version;
        // From the top, one step at a time: after the longest path allowed nobody is left.
        let mut open: HashMap<AgentId, usize> =
            graph.incoming.iter().map(|(&id, from)| (id, from.len())).collect();
        let tops = graph.outgoing.keys().filter(|&id| !open.contains_key(id));
        let mut level: Vec<AgentId> = tops.copied().collect();
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for to in level.iter().flat_map(|&id| graph.below(id)) {
                if let Some(left) = open.get_mut(&to) {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        open.remove(&to);
                        next.push(to);
                    }
                }
            }
            level = next;
        }
        if open.is_empty() { Ok(graph) } else { Err("delegations run in a circle or too deep") }
    }

    /// Takes in a delegation that was checked, by the change with this number; it takes the place of the
    /// one with its id.
    pub(super) fn insert(&mut self, delegation: Delegation, version: u64) {
        self.version = self.version.max(version);
        self.remove(delegation.id);
        let delegation = Arc::new(delegation);
        let lists = [
            self.incoming.entry(delegation.to).or_default(),
            self.outgoing.entry(delegation.from).or_default(),
        ];
        let age = |delegation: &Delegation| (delegation.created_at, delegation.id);
        for list in lists {
            let place = list.partition_point(|older| age(older) < age(&delegation));
            list.insert(place, Arc::clone(&delegation));
        }
        self.by_id.insert(delegation.id, delegation);
    }

    /// Ends a delegation, by the change with this number if that is known; returns it if it was there.
    pub(super) fn end(&mut self, id: Uuid, version: Option<u64>) -> Option<Arc<Delegation>> {
        self.version = self.version.max(version.unwrap_or(0));
        let removed = self.remove(id)?;
        if self.ended.len() >= MOST_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(id);
        Some(removed)
    }

    /// Keeps over a newly loaded graph what was ended here; returns which of those the store still had.
    pub(super) fn keep_ended(&mut self, before: &Self) -> Vec<Uuid> {
        self.ended.clone_from(&before.ended);
        let back = before.ended.iter().filter(|id| self.by_id.contains_key(*id));
        let back: Vec<Uuid> = back.copied().collect();
        for id in &back {
            self.remove(*id);
        }
        back
    }

    fn remove(&mut self, id: Uuid) -> Option<Arc<Delegation>> {
        let removed = self.by_id.remove(&id)?;
        for (lists, agent) in [(&mut self.incoming, removed.to), (&mut self.outgoing, removed.from)]
        {
            if let Some(list) = lists.get_mut(&agent) {
                list.retain(|delegation| delegation.id != id);
                if list.is_empty() {
                    lists.remove(&agent);
                }
            }
        }
        Some(removed)
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, id: Uuid) -> Option<Arc<Delegation>> {
        self.by_id.get(&id).map(Arc::clone)
    }

    /// Returns the delegation between the two that has these scopes, in any order.
    pub(super) fn like(
        &self,
        from: AgentId,
        to: AgentId,
        scopes: &[String],
    ) -> Option<Arc<Delegation>> {
        let wanted: BTreeSet<&String> = scopes.iter().collect();
        let same = |delegation: &&Arc<Delegation>| {
            delegation.from == from && delegation.scopes.iter().collect::<BTreeSet<_>>() == wanted
        };
        self.incoming(to).iter().find(same).map(Arc::clone)
    }

    /// Returns all delegations whose time was over by then.
    pub(super) fn over(&self, by: Timestamp) -> Vec<Uuid> {
        let over = self.by_id.values().filter(|delegation| !delegation.in_force(by));
        over.map(|delegation| delegation.id).collect()
    }

    pub(super) fn incoming(&self, id: AgentId) -> &[Arc<Delegation>] {
        self.incoming.get(&id).map_or(&[], Vec::as_slice)
    }

    pub(super) fn outgoing(&self, id: AgentId) -> &[Arc<Delegation>] {
        self.outgoing.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Checks whether this delegation may be taken in.
    pub(super) fn check(
        &self,
        new: &Delegation,
        now: Timestamp,
        agent: impl Fn(AgentId) -> Option<Arc<Agent>>,
    ) -> Result<(), DelegateError> {
        let to = agent(new.to).ok_or(DelegateError::Unknown(new.to))?;
        let from = agent(new.from).ok_or(DelegateError::Unknown(new.from))?;
        let authorization = View::new(self, now, agent).authorization(&from);
        let authorization = authorization.map_err(|_lapse| DelegateError::Inactive(new.from))?;
        if !to.may_act(now) {
            return Err(DelegateError::Inactive(new.to));
        }
        // Those whose time is over count here: a clock that is set back brings them to life.
        if new.from == new.to || self.closure(new.to, |_| true).contains(&new.from) {
            return Err(DelegateError::Cycle);
        }
        let has = |scope: &&String| authorization.capabilities.contains(*scope);
        let extra: Vec<String> = new.scopes.iter().filter(|s| !has(s)).cloned().collect();
        if !extra.is_empty() {
            return Err(DelegateError::ScopeNarrowing { extra });
        }
        if new.expires_at.is_some_and(|end| end <= now) {
            return Err(DelegateError::Past);
        }
        if let Some(bound) = authorization.ends_at
            && new.expires_at.is_none_or(|end| end > bound)
        {
            return Err(DelegateError::ExpiryWidening(bound));
        }
        let above = depth(new.from, &mut HashMap::new(), &|id| self.above(id));
        let below = depth(new.to, &mut HashMap::new(), &|id| self.below(id));
        if above + 1 + below > MAX_DEPTH {
            return Err(DelegateError::TooDeep { max: MAX_DEPTH });
        }
        Ok(())
    }

    /// The agent, then everyone below it by delegations in force, each once.
    pub(super) fn with_all_below(&self, id: AgentId, now: Timestamp) -> Vec<AgentId> {
        self.closure(id, |delegation| delegation.in_force(now))
    }

    fn closure(&self, id: AgentId, follow: impl Fn(&Delegation) -> bool) -> Vec<AgentId> {
        let mut seen = HashSet::from([id]);
        let mut all = vec![id];
        let mut next = 0;
        while let Some(&id) = all.get(next) {
            next += 1;
            let followed = self.outgoing(id).iter().filter(|delegation| follow(delegation));
            all.extend(followed.map(|d| d.to).filter(|&below| seen.insert(below)));
        }
        all
    }

    fn above(&self, id: AgentId) -> impl Iterator<Item = AgentId> + '_ {
        self.incoming(id).iter().map(|delegation| delegation.from)
    }

    fn below(&self, id: AgentId) -> impl Iterator<Item = AgentId> + '_ {
        self.outgoing(id).iter().map(|delegation| delegation.to)
    }
}

/// The graph at one instant: each agent's authorization is worked out once.
pub(super) struct View<'g, A> {
    graph: &'g Graph,
    now: Timestamp,
    agent: A,
    known: HashMap<AgentId, Result<Authorization, Lapse>>,
    /// The first instant at which time alone may change anything that was looked at.
    changes_at: Option<Timestamp>,
}

impl<'g, A: Fn(AgentId) -> Option<Arc<Agent>>> View<'g, A> {
    pub(super) fn new(graph: &'g Graph, now: Timestamp, agent: A) -> Self {
        Self { graph, now, agent, known: HashMap::new(), changes_at: None }
    }

    /// Returns until when time alone changes nothing of what was worked out.
    pub(super) fn holds_until(&self) -> Option<Timestamp> {
        self.changes_at
    }

    /// Works out what an agent may do and hand on.
    pub(super) fn authorization(&mut self, agent: &Agent) -> Result<Authorization, Lapse> {
        if !agent.may_act(self.now) {
            return Err(Lapse::Agent);
        }
        self.note(agent.expires_at);
        let in_force = self.in_force(agent.id);
        // As deep as a chain may be.
        for delegation in &in_force {
            self.note(delegation.expires_at);
            self.know(delegation.from);
        }
        let counting: Vec<(&Delegation, &Authorization)> =
            in_force.iter().filter_map(|delegation| self.counts(delegation)).collect();
        if counting.is_empty() && !in_force.is_empty() {
            return Err(Lapse::Above);
        }
        Ok(Authorization::narrow(agent, counting))
    }

    fn note(&mut self, end: Option<Timestamp>) {
        self.changes_at = [self.changes_at, end].into_iter().flatten().min();
    }

    fn in_force(&self, id: AgentId) -> Vec<Arc<Delegation>> {
        let incoming = self.graph.incoming(id).iter();
        incoming.filter(|delegation| delegation.in_force(self.now)).map(Arc::clone).collect()
    }

    /// From the top, by each one's oldest delegation that counts, down to the agent itself; by the
    /// oldest in force if none of them counts.
    pub(super) fn chain(&mut self, id: AgentId) -> Arc<[AgentId]> {
        let mut chain = vec![id];
        // No path is longer, so this ends; a damaged store is no reason to run in circles.
        while let Some(&id) = chain.last()
            && chain.len() <= MAX_DEPTH
        {
            let in_force = self.in_force(id);
            for delegation in &in_force {
                self.know(delegation.from);
            }
            let counts = in_force.iter().find(|delegation| self.counts(delegation).is_some());
            let Some(link) = counts.or(in_force.first()) else { break };
            chain.push(link.from);
        }
        chain.reverse();
        chain.into()
    }

    /// Checks whether every agent of a chain may act and every link of it is in force.
    pub(super) fn holds(&self, chain: &[AgentId]) -> Result<(), Lapse> {
        let links = chain.iter().zip(chain.iter().skip(1));
        for (&from, &to) in links {
            if !(self.agent)(from).is_some_and(|agent| agent.may_act(self.now)) {
                return Err(Lapse::Above);
            }
            let incoming = self.graph.incoming(to);
            let mut given = incoming.iter().filter(|delegation| delegation.from == from);
            if !given.any(|delegation| delegation.in_force(self.now)) {
                let own = chain.last() == Some(&to);
                return Err(if own { Lapse::Delegation } else { Lapse::Above });
            }
        }
        Ok(())
    }

    fn know(&mut self, id: AgentId) {
        if !self.known.contains_key(&id) {
            let authorization = match (self.agent)(id) {
                Some(agent) => self.authorization(&agent),
                None => Err(Lapse::Agent),
            };
            self.known.insert(id, authorization);
        }
    }

    /// Returns the delegation with the authorization of its giver, if it counts.
    fn counts<'d>(&self, delegation: &'d Delegation) -> Option<(&'d Delegation, &Authorization)> {
        let from = self.known.get(&delegation.from)?.as_ref().ok()?;
        delegation.in_force(self.now).then_some((delegation, from))
    }
}

/// Returns the number of steps of the longest path from `id`.
fn depth<I: Iterator<Item = AgentId>>(
    id: AgentId,
    known: &mut HashMap<AgentId, usize>,
    next: &impl Fn(AgentId) -> I,
) -> usize {
    if let Some(&depth) = known.get(&id) {
        return depth;
    }
    let longest = next(id).map(|id| depth(id, known, next) + 1).max().unwrap_or(0);
    known.insert(id, longest);
    longest
}
