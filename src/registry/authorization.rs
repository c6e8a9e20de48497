//! The rights of agents right now, the delegations above them included.
//!
//! An agent to whom nothing was delegated is judged as it is registered, for the price of a look at
//! its entry. The rights left to a delegate are computed at its call and cached until anything of
//! the graph changes (an agent's trust, its end, a delegation) or until a time limit on which they
//! depend has passed. At most one result is cached for each delegate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use super::graph::View;
use super::{Inner, Registry, read};
use crate::firewall::agent::{Agent, AgentId};
use crate::firewall::delegation::Lapse;
use crate::firewall::time::Timestamp;

/// An agent as it may act at an instant.
#[derive(Clone, Debug)]
pub struct Acting {
    /// The agent with only the rights that all its delegators have too, or the reason why it may not act.
    pub agent: Result<Arc<Agent>, Lapse>,
    /// Ids from the first delegator down to the agent itself.
    pub chain: Arc<[AgentId]>,
}

/// Results that were worked out for delegates.
#[derive(Debug, Default)]
pub(super) struct Authorizations {
    /// Counts the changes that may change a authorization.
    version: AtomicU64,
    known: DashMap<AgentId, Known>,
}

#[derive(Debug)]
struct Known {
    version: u64,
    /// Instant of the computation; the result is not used for earlier ones, should the clock be set back.
    from: Timestamp,
    until: Option<Timestamp>,
    acting: Acting,
}

impl Authorizations {
    /// Discards what was worked out before: to be called after every change of trust, of who may act,
    /// and of delegations.
    pub(super) fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Forgets what was worked out for an agent.
    pub(super) fn forget(&self, id: AgentId) {
        self.known.remove(&id);
    }

    fn get(&self, id: AgentId, version: u64, now: Timestamp) -> Option<Acting> {
        let known = self.known.get(&id)?;
        let fresh = known.version == version
            && known.from <= now
            && known.until.is_none_or(|until| now < until);
        fresh.then(|| known.acting.clone())
    }
}

impl Registry {
    /// Returns an agent as it may act at `now`, limited by all its delegators. None if it is not known.
    pub fn acting(&self, id: AgentId, now: Timestamp) -> Option<Acting> {
        let (agent, chain, delegate) = {
            let entry = self.inner.agents.get(&id)?;
            (Arc::clone(&entry.agent), Arc::clone(&entry.alone), entry.delegate)
        };
        if delegate {
            return Some(self.inner.under_others(&agent, now));
        }
        let agent = if agent.may_act(now) { Ok(agent) } else { Err(Lapse::Agent) };
        Some(Acting { agent, chain })
    }

    /// Checks whether every agent of a chain may act at `now`, but for the last, and every link between them
    /// is in force.
    pub fn holds(&self, chain: &[AgentId], now: Timestamp) -> Result<(), Lapse> {
        if chain.len() < 2 {
            return Ok(());
        }
        View::new(&read(&self.inner.graph), now, |id| self.inner.agent(id)).holds(chain)
    }
}

impl Inner {
    fn under_others(&self, agent: &Agent, now: Timestamp) -> Acting {
        // Read first, so that a change made meanwhile invalidates the result at once.
        let version = self.authorizations.version.load(Ordering::Acquire);
        if let Some(acting) = self.authorizations.get(agent.id, version, now) {
            return acting;
        }
        let (acting, until) = {
            let graph = read(&self.graph);
            let mut view = View::new(&graph, now, |id| self.agent(id));
            let authorization = view.authorization(agent);
            let acting = Acting {
                agent: authorization.map(|authorization| Arc::new(authorization.apply(agent))),
                chain: view.chain(agent.id),
            };
            (acting, view.holds_until())
        };
        let known = Known { version, from: now, until, acting: acting.clone() };
        self.authorizations.known.insert(agent.id, known);
        acting
    }
}
