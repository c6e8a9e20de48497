//! The agents and delegations of this node: read from memory on every call.
//!
//! What gives (an agent, a delegation, a promotion) is stored first: what the store does not take
//! changes nothing. What takes away (a demotion, a deactivation, a revoked token) waits for nobody:
//! it counts in memory at once, and a task of the registry's own brings it to the store until that
//! takes it.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dashmap::DashMap;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::checks::drift::FlagHistory;
use crate::firewall::time::{Now, Timestamp};
use crate::store::{Store, StoreError, to_the_end};
use graph::Graph;
use pending::{Pending, Retries, Revoked};
pub use standing::Acting;
use standing::Standings;

mod follow;
mod graph;
mod pending;
mod standing;
#[cfg(test)]
mod tests;

/// Revoked tokens remembered at most. Tokens live a day at the longest.
const MAX_REVOKED: usize = 100_000;

/// Description of an agent at its registration.
#[derive(Clone, Debug)]
pub struct NewAgent {
    pub owner: String,
    pub model: String,
    pub capabilities: Vec<String>,
    pub trust: TrustLevel,
    pub expires_at: Option<Timestamp>,
}

/// Reason why a delegation was not made.
#[derive(Debug, thiserror::Error)]
pub enum DelegateError {
    #[error("agent `{0}` is not known")]
    Unknown(AgentId),
    /// Deactivated or expired, or whoever delegated to it no longer stands behind it.
    #[error("agent `{0}` may not act any more")]
    Inactive(AgentId),
    #[error("the delegator does not have {}", .extra.join(", "))]
    ScopeNarrowing { extra: Vec<String> },
    #[error("the delegation would end where it began")]
    Cycle,
    #[error("the delegation would outlive what it rests on, which ends at {0}")]
    ExpiryWidening(Timestamp),
    #[error("the delegation would be over before it begins")]
    Past,
    #[error("delegations may not be more than {max} deep")]
    TooDeep { max: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reason why a token was not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    #[error("{cap} tokens are revoked and not yet expired, and no more can be")]
    Full { cap: usize },
    /// The revocation is in force on this node, and is stored when the store accepts it.
    #[error("the revocation is not stored yet")]
    NotStored(#[from] StoreError),
}

/// The store did not take a new trust level.
#[derive(Debug, thiserror::Error)]
#[error("the trust level was not stored")]
pub struct TrustError {
    /// A demotion counts on this node, and will be stored when the store takes it.
    pub in_force: bool,
    pub source: StoreError,
}

impl From<StoreError> for TrustError {
    fn from(source: StoreError) -> Self {
        Self { in_force: false, source }
    }
}

/// Agents that were deactivated on this node, whatever the store says.
#[derive(Debug)]
pub struct Deactivated {
    /// Agents that were still active.
    pub ids: Vec<AgentId>,
    /// The agent, and everyone below it.
    pub all: Vec<AgentId>,
    /// Result of the write; rejected writes are retried.
    pub stored: Result<(), StoreError>,
}

/// The agents and delegations of this node.
#[derive(Debug)]
pub struct Registry {
    inner: Arc<Inner>,
    retries: Retries,
}

/// Held over a look at memory, the write to the store and the change of memory that follows, so that
/// two writers cannot both be right and together wrong (a cycle, a lost trust level).
#[expect(clippy::disallowed_types, reason = "held across the store's answer, off the hot path")]
type WriteLock = tokio::sync::Mutex<()>;

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    agents: DashMap<AgentId, Entry>,
    by_age: RwLock<BTreeSet<(Timestamp, AgentId)>>,
    active: AtomicUsize,
    graph: RwLock<Graph>,
    revoked: DashMap<String, Timestamp>,
    /// Number of entries in `revoked`: nearly always none, which is cheaper to read than the map.
    revoked_count: AtomicUsize,
    standings: Standings,
    /// In force and not yet in the store.
    pending: Mutex<Pending>,
    unsaved: Notify,
    /// Held over a look at memory, the write to the store and the change of memory that follows, so
    /// that two writers cannot both be right and together wrong (a cycle, a lost trust level).
    #[expect(
        clippy::disallowed_types,
        reason = "held across the store's answer, off the hot path"
    )]
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    agent: Arc<Agent>,
    /// Most agents never drift.
    flags: Option<Box<FlagHistory>>,
    /// True if anything was ever delegated to it.
    delegate: bool,
    /// The chain of an agent to whom nothing was delegated: the agent itself.
    alone: Arc<[AgentId]>,
}

impl Entry {
    fn new(agent: Arc<Agent>) -> Self {
        let alone = [agent.id].into();
        Self { agent, flags: None, delegate: false, alone }
    }
}

impl Registry {
    /// Loads everything, and starts the task that stores what is pending on the current runtime.
    pub async fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        let agents = DashMap::new();
        let mut by_age = BTreeSet::new();
        let mut active = 0;
        for agent in store.agents().await? {
            by_age.insert((agent.created_at, agent.id));
            active += usize::from(agent.active);
            agents.insert(agent.id, Entry::new(agent));
        }
        let graph = Graph::load(store.delegations().await?)
            .map_err(|source| StoreError::Damaged { what: "delegation", source: source.into() })?;
        for mut entry in agents.iter_mut() {
            entry.delegate = !graph.incoming(*entry.key()).is_empty();
        }
        let revoked: DashMap<String, Timestamp> =
            store.revoked_tokens().await?.into_iter().collect();
        let inner = Arc::new(Inner {
            store,
            agents,
            by_age: RwLock::new(by_age),
            active: AtomicUsize::new(active),
            graph: RwLock::new(graph),
            revoked_count: AtomicUsize::new(revoked.len()),
            revoked,
            standings: Standings::default(),
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
        self.inner.store_pending().await
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
        });
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            inner.store.insert_agent(&agent).await?;
            inner.agents.insert(agent.id, Entry::new(Arc::clone(&agent)));
            inner.active.fetch_add(1, Ordering::Relaxed);
            write(&inner.by_age).insert((agent.created_at, agent.id));
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
    ) -> Result<Option<Arc<Agent>>, TrustError> {
        if self.agent(id).is_none() {
            return Ok(None);
        }
        let demoted = self.inner.demote(id, trust);
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            let _writing = inner.writing.lock().await;
            if let Err(source) = inner.store.set_trust(vec![(id, trust)]).await {
                // A promotion that was before us may have been stored meanwhile.
                let in_force = inner.demote(id, trust) || demoted;
                inner.unsaved.notify_one();
                return Err(TrustError { in_force, source });
            }
            // A demotion of the meantime is overruled, in memory as in the store.
            let Some(mut entry) = inner.agents.get_mut(&id) else { return Ok(None) };
            Arc::make_mut(&mut entry.agent).trust = trust;
            entry.flags = None;
            inner.pending().demoted.remove(&id);
            let agent = Arc::clone(&entry.agent);
            drop(entry);
            inner.standings.changed();
            Ok(Some(agent))
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

    /// Lets `to` act for `from` within `scopes`, which `from` must have itself at this time.
    pub async fn delegate(
        &self,
        from: AgentId,
        to: AgentId,
        scopes: Vec<String>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Delegation, DelegateError> {
        let delegation =
            Delegation { id: Uuid::new_v4(), from, to, scopes, created_at: now, expires_at };
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            let _writing = inner.writing.lock().await;
            let known = {
                let graph = read(&inner.graph);
                graph.check(&delegation, now, |id| inner.agent(id))?;
                graph.len()
            };
            inner.store.insert_delegation(&delegation, known).await?;
            inner.take_in(delegation.clone());
            // Deactivated while this was stored, it did not find this delegate below it.
            if !inner.agent(from).is_some_and(|agent| agent.active) {
                inner.deactivate(to);
                inner.unsaved.notify_one();
            }
            Ok(delegation)
        })
        .await
    }

    /// Delegations to and from an agent, oldest first. None if it is not known.
    pub fn delegations(&self, id: AgentId) -> Option<(Vec<Delegation>, Vec<Delegation>)> {
        self.agent(id)?;
        let graph = read(&self.inner.graph);
        let copy = |of: &[Arc<Delegation>]| of.iter().map(|d| Delegation::clone(d)).collect();
        Some((copy(graph.incoming(id)), copy(graph.outgoing(id))))
    }

    /// Counts drift flags against an agent. Too many demote it: at once on this node, and soon in the
    /// store. Returns the new level if they did.
    pub fn flag(&self, id: AgentId, flags: u32, now: Now) -> Option<TrustLevel> {
        if flags > 0 && self.inner.store.is_shared() {
            let mut pending = self.inner.pending();
            let told = pending.flags.entry(id).or_default();
            *told = told.saturating_add(flags);
            drop(pending);
            self.inner.unsaved.notify_one();
        }
        self.inner.flag(id, flags, now)
    }

    /// Refuses a token from the first poll on; it need not be remembered after `until`, when it
    /// expires.
    pub async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), RevokeError> {
        if until <= now {
            return Ok(());
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

impl Inner {
    fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        self.agents.get(&id).map(|entry| Arc::clone(&entry.agent))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lowers an agent's trust in memory; says whether it was higher.
    fn demote(&self, id: AgentId, trust: TrustLevel) -> bool {
        let Some(mut entry) = self.agents.get_mut(&id) else { return false };
        if entry.agent.trust <= trust {
            return false;
        }
        Arc::make_mut(&mut entry.agent).trust = trust;
        entry.flags = None;
        self.pending().demoted.insert(id);
        drop(entry);
        self.standings.changed();
        true
    }

    /// Deactivates an agent and everyone below it in memory; gives those that were still active, and
    /// all of them.
    fn deactivate(&self, id: AgentId) -> (Vec<AgentId>, Vec<AgentId>) {
        // Held until all are marked: a delegation that is taken in meanwhile finds its giver marked.
        let graph = read(&self.graph);
        let all = graph.with_all_below(id);
        let mut ids = Vec::new();
        for &id in &all {
            if let Some(mut entry) = self.agents.get_mut(&id)
                && entry.agent.active
            {
                Arc::make_mut(&mut entry.agent).active = false;
                entry.flags = None;
                ids.push(id);
            }
        }
        drop(graph);
        self.standings.changed();
        self.active.fetch_sub(ids.len(), Ordering::Relaxed);
        self.pending().deactivated.extend(&ids);
        (ids, all)
    }

    fn take_in(&self, delegation: Delegation) {
        let to = delegation.to;
        write(&self.graph).insert(delegation);
        self.is_delegate(to);
        self.standings.changed();
    }

    fn is_delegate(&self, id: AgentId) {
        if let Some(mut entry) = self.agents.get_mut(&id) {
            entry.delegate = true;
        }
    }

    fn flag(&self, id: AgentId, flags: u32, now: Now) -> Option<TrustLevel> {
        let mut entry = self.agents.get_mut(&id)?;
        let demoted = entry.agent.trust.demoted();
        if flags == 0 || !entry.agent.active || demoted == entry.agent.trust {
            return None;
        }
        if !entry.flags.get_or_insert_default().add(flags, now.mono) {
            return None;
        }
        Arc::make_mut(&mut entry.agent).trust = demoted;
        entry.flags = None;
        self.pending().demoted.insert(id);
        drop(entry);
        self.standings.changed();
        self.unsaved.notify_one();
        Some(demoted)
    }

    fn revoke(&self, token_id: &str, until: Timestamp, at: Timestamp) -> Result<(), RevokeError> {
        // Held so that the cap is exact.
        let mut pending = self.pending();
        self.revoked.retain(|_, until| *until > at);
        let full = self.revoked.len() >= MAX_REVOKED && !self.revoked.contains_key(token_id);
        if !full {
            let mut kept = self.revoked.entry(token_id.to_owned()).or_insert(until);
            *kept = until.max(*kept);
            pending.revoked.insert(token_id.to_owned(), Revoked { until: *kept, at });
        }
        self.revoked_count.store(self.revoked.len(), Ordering::Release);
        if full { Err(RevokeError::Full { cap: MAX_REVOKED }) } else { Ok(()) }
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
