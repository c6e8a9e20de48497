//! Who delegated what to whom: narrowing, expiry, depth and cycles, judged without waiting.
//!
//! The narrowest reading holds: with several delegations to it, an agent has only what all of them
//! give. A delegation counts while it has not expired and whoever gave it may still act. An agent
//! that once was delegated to, and to whom nothing counts any more, may not delegate.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::DelegateError;
use crate::firewall::agent::{Agent, AgentId, Delegation};
use crate::firewall::time::Timestamp;

/// Delegations from the top to the bottom of a chain, at most.
const MAX_DEPTH: usize = 8;

/// INVARIANT: there is no cycle, no path is longer than `MAX_DEPTH`, and each list is oldest first.
#[derive(Debug, Default)]
pub(super) struct Graph {
    incoming: HashMap<AgentId, Vec<Arc<Delegation>>>,
    outgoing: HashMap<AgentId, Vec<Arc<Delegation>>>,
}

/// What an agent may hand on.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) capabilities: BTreeSet<String>,
    pub(super) ends_at: Option<Timestamp>,
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
            list.insert(place, Arc::clone(&delegation));
        }
    }

    /// How many delegations there are.
    pub(super) fn len(&self) -> usize {
        self.incoming.values().map(Vec::len).sum()
    }

    pub(super) fn incoming(&self, id: AgentId) -> &[Arc<Delegation>] {
        self.incoming.get(&id).map_or(&[], Vec::as_slice)
    }

    pub(super) fn outgoing(&self, id: AgentId) -> &[Arc<Delegation>] {
        self.outgoing.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Whether this delegation may be taken in.
    pub(super) fn check(
        &self,
        new: &Delegation,
        now: Timestamp,
        agent: impl Fn(AgentId) -> Option<Arc<Agent>>,
    ) -> Result<(), DelegateError> {
        let to = agent(new.to).ok_or(DelegateError::Unknown(new.to))?;
        let standing = self.standing(new.from, now, agent)?;
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

    /// What an agent may hand on at `now`, and until when.
    pub(super) fn standing(
        &self,
        id: AgentId,
        now: Timestamp,
        agent: impl Fn(AgentId) -> Option<Arc<Agent>>,
    ) -> Result<Standing, DelegateError> {
        self.standing_of(id, now, &agent, &mut HashMap::new())
    }

    fn standing_of(
        &self,
        id: AgentId,
        now: Timestamp,
        agent: &impl Fn(AgentId) -> Option<Arc<Agent>>,
        known: &mut HashMap<AgentId, Option<Standing>>,
    ) -> Result<Standing, DelegateError> {
        let own = agent(id).ok_or(DelegateError::Unknown(id))?;
        if !own.may_act(now) {
            return Err(DelegateError::Inactive(id));
        }
        let mut standing = Standing {
            capabilities: own.capabilities.iter().cloned().collect(),
            ends_at: own.expires_at,
        };
        let incoming = self.incoming(id);
        let mut counts = incoming.is_empty();
        for delegation in incoming {
            if delegation.expires_at.is_some_and(|end| end <= now) {
                continue;
            }
            if !known.contains_key(&delegation.from) {
                let from = self.standing_of(delegation.from, now, agent, known).ok();
                known.insert(delegation.from, from);
            }
            let Some(Some(from)) = known.get(&delegation.from) else { continue };
            counts = true;
            standing.capabilities.retain(|scope| {
                delegation.scopes.contains(scope) && from.capabilities.contains(scope)
            });
            standing.ends_at =
                [standing.ends_at, delegation.expires_at, from.ends_at].into_iter().flatten().min();
        }
        if counts { Ok(standing) } else { Err(DelegateError::Inactive(id)) }
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

    /// From the top, by each one's oldest delegation, down to the agent itself.
    pub(super) fn chain(&self, id: AgentId) -> Arc<[AgentId]> {
        let mut chain = vec![id];
        let mut above = self.above(id).next();
        // No path is longer, so this ends; a damaged store is no reason to run in circles.
        while let Some(id) = above
            && chain.len() <= MAX_DEPTH
        {
            chain.push(id);
            above = self.above(id).next();
        }
        chain.reverse();
        chain.into()
    }

    fn above(&self, id: AgentId) -> impl Iterator<Item = AgentId> + '_ {
        self.incoming(id).iter().map(|delegation| delegation.from)
    }

    fn below(&self, id: AgentId) -> impl Iterator<Item = AgentId> + '_ {
        self.outgoing(id).iter().map(|delegation| delegation.to)
    }
}

/// How many steps the longest path from `id` has.
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
