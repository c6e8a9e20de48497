//! Graph of delegations: narrowing, expiry, depth and cycles, judged without waiting.
//!
//! The narrowest reading holds: with several delegations to it, an agent has only what all of them
//! give (`firewall::delegation`). A delegation counts while it has not expired and whoever gave it
//! may still act. An agent that once was delegated to, and to whom nothing counts any more, may
//! neither act nor delegate.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::DelegateError;
use crate::firewall::agent::{Agent, AgentId, Delegation};
use crate::firewall::delegation::{Lapse, Standing};
use crate::firewall::time::Timestamp;

/// Delegations from the top to the bottom of a chain, at most.
const MAX_DEPTH: usize = 8;

/// INVARIANT: there is no cycle, no path is longer than `MAX_DEPTH`, and each list is oldest first.
#[derive(Debug, Default)]
pub(super) struct Graph {
    incoming: HashMap<AgentId, Vec<Arc<Delegation>>>,
    outgoing: HashMap<AgentId, Vec<Arc<Delegation>>>,
}

impl Graph {
    /// Takes in what is stored, unless it cannot have come from [`Graph::check`].
    pub(super) fn load(delegations: Vec<Delegation>) -> Result<Self, &'static str> {
        let mut graph = Self::default();
        for delegation in delegations {
            graph.insert(delegation);
        }
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

    /// Takes in a delegation that was checked.
    pub(super) fn insert(&mut self, delegation: Delegation) {
        let delegation = Arc::new(delegation);
        let lists = [
            self.incoming.entry(delegation.to).or_default(),
            self.outgoing.entry(delegation.from).or_default(),
        ];
        let age = |delegation: &Delegation| (delegation.created_at, delegation.id);
        for list in lists {
            let place = list.partition_point(|older| age(older) < age(&delegation));
            // Another node may have told of one that is here already.
            if list.get(place).is_none_or(|known| known.id != delegation.id) {
                list.insert(place, Arc::clone(&delegation));
            }
        }
    }

    /// Returns the number of delegations.
    pub(super) fn len(&self) -> usize {
        self.incoming.values().map(Vec::len).sum()
    }

    pub(super) fn incoming(&self, id: AgentId) -> &[Arc<Delegation>] {
        self.incoming.get(&id).map_or(&[], Vec::as_slice)
    }

    pub(super) fn outgoing(&self, id: AgentId) -> &[Arc<Delegation>] {
        self.outgoing.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Checks that this delegation may be added.
    pub(super) fn check(
        &self,
        new: &Delegation,
        now: Timestamp,
        agent: impl Fn(AgentId) -> Option<Arc<Agent>>,
    ) -> Result<(), DelegateError> {
        let to = agent(new.to).ok_or(DelegateError::Unknown(new.to))?;
        let from = agent(new.from).ok_or(DelegateError::Unknown(new.from))?;
        let standing = View::new(self, now, agent).standing(&from);
        let standing = standing.map_err(|_lapse| DelegateError::Inactive(new.from))?;
        if !to.may_act(now) {
            return Err(DelegateError::Inactive(new.to));
        }
        if new.from == new.to || self.with_all_below(new.to).contains(&new.from) {
            return Err(DelegateError::Cycle);
        }
        let has = |scope: &&String| standing.capabilities.contains(*scope);
        let extra: Vec<String> = new.scopes.iter().filter(|s| !has(s)).cloned().collect();
        if !extra.is_empty() {
            return Err(DelegateError::ScopeNarrowing { extra });
        }
        if new.expires_at.is_some_and(|end| end <= now) {
            return Err(DelegateError::Past);
        }
        if let Some(bound) = standing.ends_at
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

    /// The agent, then everyone below it, each once.
    pub(super) fn with_all_below(&self, id: AgentId) -> Vec<AgentId> {
        let mut seen = HashSet::from([id]);
        let mut all = vec![id];
        let mut next = 0;
        while let Some(&id) = all.get(next) {
            next += 1;
            all.extend(self.below(id).filter(|&below| seen.insert(below)));
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

/// The graph at one instant: each agent's standing is worked out once.
pub(super) struct View<'g, A> {
    graph: &'g Graph,
    now: Timestamp,
    agent: A,
    known: HashMap<AgentId, Result<Standing, Lapse>>,
}

impl<'g, A: Fn(AgentId) -> Option<Arc<Agent>>> View<'g, A> {
    pub(super) fn new(graph: &'g Graph, now: Timestamp, agent: A) -> Self {
        Self { graph, now, agent, known: HashMap::new() }
    }

    /// Returns the rights of an agent.
    pub(super) fn standing(&mut self, agent: &Agent) -> Result<Standing, Lapse> {
        if !agent.may_act(self.now) {
            return Err(Lapse::Agent);
        }
        // As deep as a chain may be.
        for from in self.graph.above(agent.id) {
            self.know(from);
        }
        let incoming = self.graph.incoming(agent.id);
        let counting: Vec<(&Delegation, &Standing)> =
            incoming.iter().filter_map(|delegation| self.counts(delegation)).collect();
        if counting.is_empty() && !incoming.is_empty() {
            let some_in_force = incoming.iter().any(|delegation| delegation.in_force(self.now));
            return Err(if some_in_force { Lapse::Above } else { Lapse::Delegation });
        }
        Ok(Standing::narrow(agent, counting))
    }

    /// From the top, by each one's oldest delegation that counts, down to the agent itself. Where
    /// none counts any more it is the oldest: who stood behind the agent once.
    pub(super) fn chain(&mut self, id: AgentId) -> Arc<[AgentId]> {
        let mut chain = vec![id];
        // No path is longer, so this ends; a damaged store is no reason to run in circles.
        while let Some(&id) = chain.last()
            && chain.len() <= MAX_DEPTH
        {
            for from in self.graph.above(id) {
                self.know(from);
            }
            let incoming = self.graph.incoming(id);
            let counts = incoming.iter().find(|delegation| self.counts(delegation).is_some());
            let Some(link) = counts.or(incoming.first()) else { break };
            chain.push(link.from);
        }
        chain.reverse();
        chain.into()
    }

    /// Reports whether every agent of a chain may act and every link of it is in force.
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
            let standing = match (self.agent)(id) {
                Some(agent) => self.standing(&agent),
                None => Err(Lapse::Agent),
            };
            self.known.insert(id, standing);
        }
    }

    /// A delegation that counts, with the standing of who gave it.
    fn counts<'d>(&self, delegation: &'d Delegation) -> Option<(&'d Delegation, &Standing)> {
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
