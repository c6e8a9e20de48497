//! Changes that nodes made to agents, delegations and tokens, taken in here: other nodes' and this one's
//! own, whose answer may have been lost.

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use super::entry::Entry;
use super::pending::Revoked;
use super::{Demotion, Inner, Registry, graph, read, write};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::time::{Now, Timestamp};
use crate::store::{StoreError, StoredAgent, TakenAway};

impl Registry {
    /// Takes in a new agent; returns whether it was not known here.
    pub fn registered(&self, agent: &Arc<Agent>) -> bool {
        self.inner.registered(agent)
    }

    /// Takes in the level that an operator has set by the change with this number.
    pub fn trust_set(&self, id: AgentId, level: TrustLevel, number: u64) {
        self.inner.trust_set(id, level, number);
    }

    pub fn taken_away(&self, taken: &TakenAway) {
        let at = self.inner.clock.now().wall;
        self.inner.change(taken.id, |entry| {
            entry.stored.take_away(taken, at);
            entry.kept.take(taken);
        });
        self.inner.authorizations.changed();
    }

    /// Takes in that an agent was forgotten; returns it if it was known here.
    pub fn purged(&self, id: AgentId, tombstone: bool) -> Option<Arc<Agent>> {
        self.inner.purged(id, tombstone)
    }

    pub fn delegated(&self, delegation: Delegation, version: u64) {
        self.inner.delegated(delegation, version);
    }

    pub fn delegation_ended(&self, id: Uuid, version: u64) {
        self.inner.delegation_ended(id, Some(version));
    }

    pub fn token_revoked(&self, token_id: String, until: Timestamp) {
        self.inner.remember_revoked(token_id, until);
    }

    /// Takes in drift flags that another node has counted against an agent: they count here too, and
    /// each node that sees the last of too many demotes it, all of them to the same level.
    pub fn flagged_elsewhere(&self, id: AgentId, flags: u32, now: Now) -> Option<Demotion> {
        self.inner.count(id, flags, now).flatten()
    }

    /// Reloads everything, because changes were missed or another server answers. An agent that
    /// the store does not know any more may not act (what narrowed it may be lost with it) until the
    /// store knows it again. Rights that were taken away and are back in the store are taken away
    /// again.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let _writing = inner.writing.lock().await;
        // These were in the store before it was asked; later ones may arrive meanwhile.
        let mut lost: HashSet<AgentId> = inner.agents.iter().map(|e| *e.key()).collect();
        let mut loaded = graph::load(inner.store.delegations().await?)?;
        let agents = inner.store.agents().await?;
        let revoked = inner.store.revoked_tokens().await?;
        let tombstones = inner.store.tombstones().await?;
        let back = {
            let mut graph = write(&inner.graph);
            let back = loaded.keep_ended(&graph);
            *graph = loaded;
            back
        };
        inner.pending().ended.extend(back);
        for stored in agents {
            lost.remove(&stored.agent.id);
            inner.loaded(stored);
        }
        for id in lost {
            inner.change(id, |entry| entry.lost = true);
        }
        write(&inner.tombstones).extend(tombstones);
        inner.assert_revoked(revoked);
        inner.authorizations.changed();
        inner.unsaved.notify_one();
        Ok(())
    }
}

impl Inner {
    /// Takes in a new agent. A known agent is kept as it is, as the change may be older.
    pub(super) fn registered(&self, agent: &Arc<Agent>) -> bool {
        let is_known = self.agents.get(&agent.id).is_some_and(|entry| !entry.lost);
        if !is_known {
            self.loaded(StoredAgent::new(Arc::clone(agent)));
        }
        !is_known
    }

    /// Takes in an agent as the store has it, and asserts again what the store does not have.
    fn loaded(&self, stored: StoredAgent) {
        let (id, born) = (stored.agent.id, stored.agent.created_at);
        let now = self.clock.now();
        let delegate = !read(&self.graph).incoming(id).is_empty();
        let (before, after) = {
            let mut before = false;
            let mut entry = self
                .agents
                .entry(id)
                .and_modify(|entry| before = entry.agent.active)
                .or_insert_with(|| Entry::new(stored.clone(), now));
            entry.lost = false;
            entry.delegate = delegate;
            if entry.kept.is_missing_in(&stored) {
                self.pending().taken.insert(id);
            }
            entry.kept.take_over(&stored);
            // The flags that are counted here are at least those that the store has.
            entry.stored = StoredAgent { flags: Vec::new(), ..stored };
            entry.refresh();
            (before, entry.agent.active)
        };
        self.count_active(before, after);
        write(&self.by_age).insert((born, id));
        self.authorizations.changed();
    }

    pub(super) fn purged(&self, id: AgentId, tombstone: bool) -> Option<Arc<Agent>> {
        if tombstone {
            write(&self.tombstones).insert(id);
        }
        let (_, entry) = self.agents.remove(&id)?;
        self.count_active(entry.agent.active, false);
        write(&self.by_age).remove(&(entry.agent.created_at, id));
        self.authorizations.forget(id);
        self.authorizations.changed();
        Some(entry.agent)
    }

    fn remember_revoked(&self, token_id: String, until: Timestamp) {
        // The node that revoked it saw to the cap.
        let mut kept = self.revoked.entry(token_id).or_insert(until);
        *kept = until.max(*kept);
        drop(kept);
        self.count_revoked();
    }

    /// Takes in the store's revoked tokens, and writes again those that the store does not have.
    fn assert_revoked(&self, stored: Vec<(String, Timestamp)>) {
        let now = self.clock.now().wall;
        let there: HashSet<&str> = stored.iter().map(|(id, _)| id.as_str()).collect();
        let missing: Vec<(String, Timestamp)> = self
            .revoked
            .iter()
            .filter(|kept| *kept.value() > now && !there.contains(kept.key().as_str()))
            .map(|kept| (kept.key().clone(), *kept.value()))
            .collect();
        self.pending()
            .revoked
            .extend(missing.into_iter().map(|(id, until)| (id, Revoked { until, at: now })));
        for (token_id, until) in stored {
            self.remember_revoked(token_id, until);
        }
    }
}
