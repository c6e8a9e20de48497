//! The agents and delegations of this node: read from memory on every call, written to the store
//! first.
//!
//! A write that the store does not take changes nothing. Two things cannot wait for the store: a
//! demotion, which counts at once and is stored behind the call's back by a task of the registry's
//! own, and reading.

use std::collections::BTreeSet;
use std::mem;
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
use demotions::Demotions;
use graph::Graph;

mod demotions;
mod graph;
#[cfg(test)]
mod tests;

/// Revoked tokens remembered at most. Tokens live a day at the longest.
const MAX_REVOKED: usize = 100_000;

/// What is said about an agent when it is registered.
#[derive(Clone, Debug)]
pub struct NewAgent {
    pub owner: String,
    pub model: String,
    pub capabilities: Vec<String>,
    pub trust: TrustLevel,
    pub expires_at: Option<Timestamp>,
}

/// Why a delegation was not made.
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

/// Why a token was not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    #[error("{cap} tokens are revoked and not yet expired, and no more can be")]
    Full { cap: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The agents and delegations of this node.
#[derive(Debug)]
pub struct Registry {
    inner: Arc<Inner>,
    demotions: Demotions,
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
    /// How many are in `revoked`: nearly always none, which is cheaper to ask than the map.
    revoked_count: AtomicUsize,
    /// Demoted in memory and not yet in the store.
    dirty: Mutex<BTreeSet<AgentId>>,
    demoted: Notify,
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
}

impl Registry {
    /// Loads everything, and starts the task that stores demotions on the current runtime.
    pub async fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        let agents = DashMap::new();
        let mut by_age = BTreeSet::new();
        let mut active = 0;
        for agent in store.agents().await? {
            by_age.insert((agent.created_at, agent.id));
            active += usize::from(agent.active);
            agents.insert(agent.id, Entry { agent, flags: None });
        }
        let graph = Graph::load(store.delegations().await?)
            .map_err(|source| StoreError::Damaged { what: "delegation", source: source.into() })?;
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
            dirty: Mutex::default(),
            demoted: Notify::new(),
            writing: WriteLock::default(),
        });
        let demotions = Demotions::start(Arc::clone(&inner));
        Ok(Self { inner, demotions })
    }

    /// Stores the demotions that are still to be stored, and ends the registry's task.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.demotions.stop().await;
        self.inner.store_demotions().await
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
            let entry = Entry { agent: Arc::clone(&agent), flags: None };
            inner.agents.insert(agent.id, entry);
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

    /// How many agents are registered and not deactivated.
    pub fn active_count(&self) -> usize {
        self.inner.active.load(Ordering::Relaxed)
    }

    /// Sets an agent's trust, and forgets its drift flags. None if it is not known.
    pub async fn set_trust(
        &self,
        id: AgentId,
        trust: TrustLevel,
    ) -> Result<Option<Arc<Agent>>, StoreError> {
        if self.agent(id).is_none() {
            return Ok(None);
        }
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            let _writing = inner.writing.lock().await;
            inner.store.set_trust(vec![(id, trust)]).await?;
            // A demotion of the meantime is overruled, in memory as in the store.
            let Some(mut entry) = inner.agents.get_mut(&id) else { return Ok(None) };
            Arc::make_mut(&mut entry.agent).trust = trust;
            entry.flags = None;
            inner.dirty().remove(&id);
            Ok(Some(Arc::clone(&entry.agent)))
        })
        .await
    }

    /// Deactivates an agent and every delegate below it; says which ones were still active. None if
    /// it is not known.
    pub async fn deactivate(&self, id: AgentId) -> Result<Option<Vec<AgentId>>, StoreError> {
        if self.agent(id).is_none() {
            return Ok(None);
        }
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            let _writing = inner.writing.lock().await;
            let mut ids = read(&inner.graph).with_all_below(id);
            ids.retain(|&id| inner.agent(id).is_some_and(|agent| agent.active));
            inner.store.deactivate(ids.clone()).await?;
            for id in &ids {
                if let Some(mut entry) = inner.agents.get_mut(id) {
                    Arc::make_mut(&mut entry.agent).active = false;
                    entry.flags = None;
                }
            }
            inner.active.fetch_sub(ids.len(), Ordering::Relaxed);
            Ok(Some(ids))
        })
        .await
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
            write(&inner.graph).insert(delegation.clone());
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

    /// Whom an agent acts for: from the one at the top, by each one's oldest delegation, down to the
    /// agent itself.
    pub fn chain(&self, id: AgentId) -> Arc<[AgentId]> {
        read(&self.inner.graph).chain(id)
    }

    /// The capabilities an agent has when what was delegated to it, and to those above it, is taken
    /// into account; sorted. None if it is not known, or nobody stands behind it any more.
    pub fn effective_capabilities(&self, id: AgentId, now: Timestamp) -> Option<Vec<String>> {
        let standing = read(&self.inner.graph).standing(id, now, |id| self.agent(id)).ok()?;
        Some(standing.capabilities.into_iter().collect())
    }

    /// Counts drift flags against an agent. Too many demote it: at once on this node, and soon in the
    /// store. Returns the new level if they did.
    pub fn flag(&self, id: AgentId, flags: u32, now: Now) -> Option<TrustLevel> {
        let mut entry = self.inner.agents.get_mut(&id)?;
        let demoted = entry.agent.trust.demoted();
        if flags == 0 || !entry.agent.active || demoted == entry.agent.trust {
            return None;
        }
        if !entry.flags.get_or_insert_default().add(flags, now.mono) {
            return None;
        }
        Arc::make_mut(&mut entry.agent).trust = demoted;
        entry.flags = None;
        self.inner.dirty().insert(id);
        drop(entry);
        self.inner.demoted.notify_one();
        Some(demoted)
    }

    /// Refuses a token from now on; it need not be remembered after `until`, when it expires.
    pub async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), RevokeError> {
        if until <= now {
            return Ok(());
        }
        let token_id = token_id.to_owned();
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            let _writing = inner.writing.lock().await;
            inner.revoked.retain(|_, until| *until > now);
            inner.revoked_count.store(inner.revoked.len(), Ordering::Release);
            if inner.revoked.len() >= MAX_REVOKED && !inner.revoked.contains_key(&token_id) {
                return Err(RevokeError::Full { cap: MAX_REVOKED });
            }
            inner.store.revoke_token(&token_id, until, now).await?;
            let mut kept = inner.revoked.entry(token_id).or_insert(until);
            *kept = until.max(*kept);
            drop(kept);
            inner.revoked_count.store(inner.revoked.len(), Ordering::Release);
            Ok(())
        })
        .await
    }

    pub fn is_revoked(&self, token_id: &str) -> bool {
        self.inner.revoked_count.load(Ordering::Acquire) > 0
            && self.inner.revoked.contains_key(token_id)
    }
}

impl Registry {
    pub fn registered_elsewhere(&self, _agent: Arc<Agent>) {}
    pub fn trust_elsewhere(&self, _id: AgentId, _trust: TrustLevel) {}
    pub fn deactivated_elsewhere(&self, _id: AgentId) {}
    pub fn delegated_elsewhere(&self, _delegation: Delegation) {}
    pub fn revoked_elsewhere(&self, _token_id: String, _until: Timestamp) {}
    pub fn flagged_elsewhere(&self, _id: AgentId, _flags: u32, _now: Now) {}
    pub async fn reload(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Inner {
    fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        self.agents.get(&id).map(|entry| Arc::clone(&entry.agent))
    }

    fn dirty(&self) -> MutexGuard<'_, BTreeSet<AgentId>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the trust that demoted agents have now. What the store does not take stays to be done.
    async fn store_demotions(&self) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        // Taken out before they are looked at: one that is demoted again meanwhile is put in again.
        let ids = mem::take(&mut *self.dirty());
        if ids.is_empty() {
            return Ok(());
        }
        let levels = ids.iter().filter_map(|&id| Some((id, self.agent(id)?.trust))).collect();
        let stored = self.store.set_trust(levels).await;
        if stored.is_err() {
            self.dirty().extend(ids);
        }
        stored
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
