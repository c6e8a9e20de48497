//! Changes of agents, delegations and tokens by other nodes, applied here.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::graph::Graph;
use super::{Entry, Inner, Registry, read, write};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::time::{Now, Timestamp};
use crate::store::StoreError;

impl Registry {
    /// Another node has registered an agent; says whether it was not known here.
    pub fn registered_elsewhere(&self, agent: &Arc<Agent>) -> bool {
        let is_new = self.agent(agent.id).is_none();
        self.inner.take_in_agent(agent);
        is_new
    }

    /// Another node has set an agent's trust, and forgotten its drift flags.
    pub fn trust_elsewhere(&self, id: AgentId, trust: TrustLevel) {
        if let Some(mut entry) = self.inner.agents.get_mut(&id) {
            // A demotion that is not stored yet counts; the store will be told.
            if self.inner.pending().demoted.contains(&id) && entry.agent.trust < trust {
                return;
            }
            Arc::make_mut(&mut entry.agent).trust = trust;
            entry.flags = None;
        }
        self.inner.standings.changed();
    }

    pub fn deactivated_elsewhere(&self, id: AgentId) {
        if let Some(mut entry) = self.inner.agents.get_mut(&id)
            && entry.agent.active
        {
            Arc::make_mut(&mut entry.agent).active = false;
            entry.flags = None;
            self.inner.active.fetch_sub(1, Ordering::Relaxed);
        }
        self.inner.standings.changed();
    }

    pub fn delegated_elsewhere(&self, delegation: Delegation) {
        self.inner.take_in(delegation);
    }

    pub fn revoked_elsewhere(&self, token_id: String, until: Timestamp) {
        self.inner.remember_revoked(token_id, until);
    }

    /// Another node has counted drift flags against an agent: they count here too, and whichever
    /// node sees the last of too many demotes it, all of them to the same level.
    pub fn flagged_elsewhere(&self, id: AgentId, flags: u32, now: Now) {
        self.inner.flag(id, flags, now);
    }

    /// Takes in everything anew, because changes were missed. Whom the store does not know any more
    /// may not act: what narrowed that agent may be lost with it.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let _writing = self.inner.writing.lock().await;
        // Those were in the store before it is asked; later ones may come in meanwhile.
        let mut lost: HashSet<AgentId> = self.inner.agents.iter().map(|e| *e.key()).collect();
        let store = &self.inner.store;
        let delegations = store.delegations().await?;
        let graph = Graph::load(delegations.clone())
            .map_err(|source| StoreError::Damaged { what: "delegation", source: source.into() })?;
        *write(&self.inner.graph) = graph;
        for agent in store.agents().await? {
            lost.remove(&agent.id);
            self.inner.take_in_agent(&agent);
        }
        for id in lost {
            self.deactivated_elsewhere(id);
        }
        for delegation in delegations {
            self.inner.is_delegate(delegation.to);
        }
        for (token_id, until) in store.revoked_tokens().await? {
            self.inner.remember_revoked(token_id, until);
        }
        self.inner.standings.changed();
        Ok(())
    }
}

impl Inner {
    /// Takes an agent as the store has it. What counts here and is not stored yet goes on counting, and
    /// nobody who was deactivated comes back: what is told may be older than what is known.
    fn take_in_agent(&self, agent: &Agent) {
        let (id, born) = (agent.id, agent.created_at);
        let delegate = !read(&self.graph).incoming(id).is_empty();
        let (before, after) = {
            let mut is_new = false;
            let mut entry = self.agents.entry(id).or_insert_with(|| {
                is_new = true;
                let unknown = Agent { active: false, ..agent.clone() };
                Entry::new(Arc::new(unknown))
            });
            let before = entry.agent.active;
            let pending = self.pending();
            let trust = match entry.agent.trust {
                lower if pending.demoted.contains(&id) => lower.min(agent.trust),
                _ => agent.trust,
            };
            let active = agent.active && (is_new || before) && !pending.deactivated.contains(&id);
            drop(pending);
            entry.agent = Arc::new(Agent { trust, active, ..agent.clone() });
            entry.delegate |= delegate;
            (before, active)
        };
        match (before, after) {
            (false, true) => self.active.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.active.fetch_sub(1, Ordering::Relaxed),
            (false, false) | (true, true) => 0,
        };
        write(&self.by_age).insert((born, id));
        self.standings.changed();
    }

    fn remember_revoked(&self, token_id: String, until: Timestamp) {
        // The node that revoked it saw to the cap.
        let mut kept = self.revoked.entry(token_id).or_insert(until);
        *kept = until.max(*kept);
        drop(kept);
        self.revoked_count.store(self.revoked.len(), Ordering::Release);
    }
}
