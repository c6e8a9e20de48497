//! The agents and delegations of this node: read from memory on every call.
//!
//! A change that gives (an agent, a delegation, a promotion) is stored first: if the store refuses
//! it, nothing changes. A change that takes away (a demotion, a deactivation, a revoked token) waits
//! for nothing: it is in memory at once, and a task of the registry sends it to the store until the
//! store accepts it. Such changes override the store's content ([`overlay`]), and are written again
//! whenever the store turns out not to have them.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock::Clock;
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::time::{Now, Timestamp};
use crate::store::retries::Retries;
use crate::store::{Replicas, Store, StoreError, to_the_end};
pub use authorization::Acting;
use authorization::Authorizations;
use entry::Entry;
use graph::Graph;
pub use outcome::{
    Deactivated, DelegateError, Delegated, Demotion, Ended, RevokeError, TrustError,
};
use pending::{Flagged, Pending};
pub use purge::Retention;

mod authorization;
mod changes;
mod entry;
mod follow;
mod graph;
mod outcome;
mod overlay;
mod pending;
mod purge;
#[cfg(test)]
mod tests;

/// An agent's description at its registration.
#[derive(Clone, Debug)]
pub struct NewAgent {
    pub owner: String,
    pub model: String,
    pub capabilities: Vec<String>,
    pub trust: TrustLevel,
    pub expires_at: Option<Timestamp>,
    /// Name of the admin key or person that registers the agent.
    pub registered_by: Option<Arc<str>>,
}

/// The agents and delegations of this node.
#[derive(Debug)]
pub struct Registry {
    inner: Arc<Inner>,
    retries: Retries,
}

/// Lock held from a check of memory over the write to the store to the change of memory, so that two
/// changes that are valid alone cannot break a rule together (a cycle, a lost trust level).
#[expect(clippy::disallowed_types, reason = "held across the store's answer, off the hot path")]
type WriteLock = tokio::sync::Mutex<()>;

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    clock: Clock,
    agents: DashMap<AgentId, Entry>,
    by_age: RwLock<BTreeSet<(Timestamp, AgentId)>>,
    active: AtomicUsize,
    graph: RwLock<Graph>,
    /// Agents that were purged after they had been deactivated: no issuer brings them in again.
    tombstones: RwLock<BTreeSet<AgentId>>,
    revoked: DashMap<String, Timestamp>,
    /// Number of entries in `revoked`: nearly always none, which is cheaper to read than the map.
    revoked_count: AtomicUsize,
    authorizations: Authorizations,
    /// In force and not yet in the store.
    pending: Mutex<Pending>,
    unsaved: Notify,
    writing: WriteLock,
}

impl Registry {
    /// Loads everything, and starts the task that stores what is pending on the current runtime.
    pub async fn load(store: Arc<Store>, clock: Clock) -> Result<Self, StoreError> {
        let now = clock.now();
        let agents = DashMap::new();
        let mut by_age = BTreeSet::new();
        let mut active = 0;
        for stored in store.agents().await? {
            let agent = &stored.agent;
            by_age.insert((agent.created_at, agent.id));
            active += usize::from(agent.active);
            agents.insert(agent.id, Entry::new(stored, now));
        }
        let graph = graph::load(store.delegations().await?)?;
        for mut entry in agents.iter_mut() {
            entry.delegate = !graph.incoming(*entry.key()).is_empty();
        }
        let tombstones = store.tombstones().await?.into_iter().collect();
        let revoked: DashMap<String, Timestamp> =
            store.revoked_tokens().await?.into_iter().collect();
        let inner = Arc::new(Inner {
            store,
            clock,
            agents,
            by_age: RwLock::new(by_age),
            active: AtomicUsize::new(active),
            graph: RwLock::new(graph),
            tombstones: RwLock::new(tombstones),
            revoked_count: AtomicUsize::new(revoked.len()),
            revoked,
            authorizations: Authorizations::default(),
            pending: Mutex::default(),
            unsaved: Notify::new(),
            writing: WriteLock::default(),
        });
        let retries = Retries::start(Arc::clone(&inner));
        Ok(Self { inner, retries })
    }

    /// Stores what is still to be stored, and ends the registry's task.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.retries.stop().await;
        self.inner.store_pending().await.map(drop)
    }

    pub fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        self.inner.agent(id)
    }

    pub async fn register(&self, new: NewAgent, now: Timestamp) -> Result<Arc<Agent>, StoreError> {
        self.register_as(AgentId::random(), new, now).await
    }

    /// Registers an agent under a new id that is already on record.
    pub async fn register_as(
        &self,
        id: AgentId,
        new: NewAgent,
        now: Timestamp,
    ) -> Result<Arc<Agent>, StoreError> {
        let agent = Arc::new(Agent {
            id,
            owner: new.owner,
            model: new.model,
            capabilities: new.capabilities,
            trust: new.trust,
            active: true,
            created_at: now,
            expires_at: new.expires_at,
            registered_by: new.registered_by,
        });
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            inner.store.insert_agent(&agent).await?;
            // A later change by another node may have arrived before this answer.
            inner.registered(&agent);
            Ok(agent)
        })
        .await
    }

    /// Agents in the order of their registration, from the one that follows `after`. With an `after`
    /// that is not known there are none.
    pub fn list(&self, after: Option<AgentId>, limit: usize) -> Vec<Arc<Agent>> {
        let from = match after {
            None => Bound::Unbounded,
            Some(id) => match self.agent(id) {
                Some(agent) => Bound::Excluded((agent.created_at, id)),
                None => return Vec::new(),
            },
        };
        let by_age = read(&self.inner.by_age);
        let ids = by_age.range((from, Bound::Unbounded)).take(limit);
        ids.filter_map(|&(_, id)| self.agent(id)).collect()
    }

    /// Returns the number of registered agents that are not deactivated.
    pub fn active_count(&self) -> usize {
        self.inner.active.load(Ordering::Relaxed)
    }

    /// Sets an agent's trust, and forgets its drift flags. None if it is not known. Less trust counts
    /// from the first poll on, more of it when it is stored.
    pub async fn set_trust(
        &self,
        id: AgentId,
        trust: TrustLevel,
    ) -> Result<Option<(Arc<Agent>, Replicas)>, TrustError> {
        if self.agent(id).is_none() {
            return Ok(None);
        }
        let demoted = self.inner.lower(id, trust, u64::MAX);
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            let _writing = inner.writing.lock().await;
            let above = inner.agents.get(&id).map_or(0, |entry| entry.number());
            let set = match inner.store.set_trust(id, trust, above).await {
                Ok(set) => set,
                Err(source) => {
                    // An earlier promotion may have been stored meanwhile.
                    let in_force = inner.lower(id, trust, u64::MAX) || demoted;
                    inner.unsaved.notify_one();
                    return Err(TrustError { in_force, source });
                }
            };
            // A demotion made meanwhile is overwritten, in memory as in the store.
            let Some((number, replicas)) = set else { return Ok(None) };
            inner.trust_set(id, trust, number);
            Ok(inner.agent(id).map(|agent| (agent, replicas)))
        })
        .await
    }

    /// Deactivates an agent and every delegate below it, from the first poll on. None if it is not
    /// known.
    pub async fn deactivate(&self, id: AgentId) -> Option<Deactivated> {
        self.agent(id)?;
        let (ids, all) = self.inner.deactivate(id);
        let inner = Arc::clone(&self.inner);
        let stored = to_the_end(async move { inner.store_pending().await }).await;
        Some(Deactivated { ids, all, stored })
    }

    /// Lets `to` act for `from` within `scopes`, which `from` must have itself at this time. A delegation
    /// with the same scopes between the two is put in the place of the one that there is.
    pub async fn delegate(
        &self,
        from: AgentId,
        to: AgentId,
        scopes: Vec<String>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Delegated, DelegateError> {
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            let _writing = inner.writing.lock().await;
            let (delegation, is_new, version) = {
                let graph = read(&inner.graph);
                let like = graph.like(from, to, &scopes);
                let is_new = like.is_none();
                let (id, created_at) =
                    like.map_or_else(|| (Uuid::new_v4(), now), |like| (like.id, like.created_at));
                let delegation = Delegation { id, from, to, scopes, created_at, expires_at };
                graph.check(&delegation, now, |id| inner.agent(id))?;
                (delegation, is_new, graph.version())
            };
            let version = inner.store.put_delegation(&delegation, version).await?;
            inner.delegated(delegation.clone(), version);
            // If `from` was deactivated while this was stored, its deactivation did not reach this delegate.
            if !inner.agent(from).is_some_and(|agent| agent.active) {
                inner.deactivate(to);
                inner.unsaved.notify_one();
            }
            Ok(Delegated { delegation, is_new })
        })
        .await
    }

    /// Ends a delegation, from the first poll on. None if there is none with this id.
    pub async fn end_delegation(&self, id: Uuid) -> Option<Ended> {
        let now = self.inner.clock.now().wall;
        let (delegation, below) = {
            let graph = read(&self.inner.graph);
            let delegation = graph.get(id)?;
            (Delegation::clone(&delegation), graph.with_all_below(delegation.to, now))
        };
        self.inner.delegation_ended(id, None);
        self.inner.pending().ended.insert(id);
        let inner = Arc::clone(&self.inner);
        let stored = to_the_end(async move { inner.store_pending().await }).await;
        Some(Ended { delegation, below, stored })
    }

    /// Returns a delegation by its id.
    pub fn delegation(&self, id: Uuid) -> Option<Arc<Delegation>> {
        read(&self.inner.graph).get(id)
    }

    /// Delegations to and from an agent, oldest first. None if it is not known.
    pub fn delegations(&self, id: AgentId) -> Option<(Vec<Delegation>, Vec<Delegation>)> {
        self.agent(id)?;
        let graph = read(&self.inner.graph);
        let copy = |of: &[Arc<Delegation>]| of.iter().map(|d| Delegation::clone(d)).collect();
        Some((copy(graph.incoming(id)), copy(graph.outgoing(id))))
    }

    /// Counts drift flags against an agent, here and in the store. Too many are to demote it, which is
    /// the caller's to record and then to do ([`Registry::demote`]): the count starts again.
    pub fn flag(&self, id: AgentId, flags: u32, now: Now) -> Option<Demotion> {
        let counted = self.inner.count(id, flags, now)?;
        let mut pending = self.inner.pending();
        let told = pending.flags.entry(id).or_insert(Flagged { count: 0, at: now.wall });
        told.count = told.count.saturating_add(flags);
        drop(pending);
        self.inner.unsaved.notify_one();
        counted
    }

    /// Lowers the trust of an agent that drifted too often: at once on this node, and soon in the store.
    pub fn demote(&self, demotion: &Demotion) {
        self.inner.lower(demotion.agent, demotion.to, demotion.number);
        self.inner.unsaved.notify_one();
    }

    /// Checks whether the id is that of a deactivated agent that was purged.
    pub fn is_tombstone(&self, id: AgentId) -> bool {
        read(&self.inner.tombstones).contains(&id)
    }

    /// Refuses a token from the first poll on; it need not be remembered after `until`, when it
    /// expires.
    pub async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Replicas, RevokeError> {
        if until <= now {
            return Ok(Replicas::default());
        }
        self.inner.revoke(token_id, until, now)?;
        let inner = Arc::clone(&self.inner);
        to_the_end(async move { inner.store_pending().await }).await.map_err(RevokeError::NotStored)
    }

    pub fn is_revoked(&self, token_id: &str) -> bool {
        self.inner.revoked_count.load(Ordering::Acquire) > 0
            && self.inner.revoked.contains_key(token_id)
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read()
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write()
}
