//! The live sessions of this node: found by id, counted under one short lock each, leased in blocks.
//!
//! A session's work order never changes; its usage is counted here and never in the store. What may
//! be counted is a *lease*: a block of calls that the store booked as spent before the first of them
//! is used. So no crash can lead to spending more than the budget; it costs at most the rest of a
//! block. A clean stop gives the rest back, and the counts are exact again.
//!
//! INVARIANT: `calls_made <= booked <= call_budget`, and `booked` grows in memory only after it has
//! grown in the store.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::firewall::agent::AgentId;
use crate::firewall::session::{SessionId, Status, WorkOrder};
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::store::{Closing, Settlement, Store, StoreError, to_the_end};
use index::Index;
pub use live::Live;

mod index;
mod live;
#[cfg(test)]
mod tests;

/// For how long an ended session is still known, so that its callers learn how it ended.
const RETENTION_SECS: u64 = 3600;
/// Sessions forgotten in one run of the clean-up at most, and in one transaction.
const FORGET_PER_RUN: usize = 20_000;
const FORGET_AT_ONCE: usize = 500;
/// Sessions settled in one transaction at a clean stop.
const SETTLE_AT_ONCE: usize = 1000;
/// Bookings of different sessions that can wait for the store at the same time, at least.
const BOOKING_LANES: usize = 64;
/// Sessions looked at under one hold of the index's lock while listing.
const LIST_STEP: usize = 256;

/// The part of the configuration that matters here.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub max_per_agent: usize,
    pub rate_window_secs: u64,
}

/// Which sessions to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub agent: Option<AgentId>,
    pub status: Option<Status>,
}

/// Why a session was not opened.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("the agent has {cap} active sessions, and may not have more")]
    TooManySessions { cap: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The live sessions of this node.
#[derive(Debug)]
pub struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    settings: Settings,
    live: DashMap<SessionId, Arc<Live>>,
    index: Mutex<Index>,
    /// One booking at a time for each session; sessions share lanes.
    lanes: Vec<Arc<Semaphore>>,
    lane_of: RandomState,
    /// Closed here, but not (yet) in the store: tried again until the store takes it.
    unsaved: Mutex<BTreeMap<SessionId, Closing>>,
    /// Sessions that had ended by then were not loaded, and are still to be forgotten by the store.
    leftover: Mutex<Option<Timestamp>>,
}

impl Sessions {
    /// Loads what the last run left. What was booked counts as made.
    pub async fn open(store: Arc<Store>, settings: Settings, now: Now) -> Result<Self, StoreError> {
        let cutoff = before(now.wall, RETENTION_SECS);
        let stored = store.sessions(cutoff).await?;
        let live = DashMap::with_capacity(stored.len());
        let mut index = Index::default();
        for session in stored {
            let closed_at = session.closed_at.map(|at| now.mono_at(at));
            let session = Arc::new(Live::load(session, settings.rate_window_secs, now));
            index.insert(&session.order, session.deadline);
            if let Some(closed_at) = closed_at {
                index.end(&session.order, session.deadline, closed_at);
            }
            live.insert(session.order.id, session);
        }
        let lanes = (0..BOOKING_LANES).map(|_| Arc::new(Semaphore::new(1))).collect();
        let inner = Inner {
            store,
            settings,
            live,
            index: Mutex::new(index),
            lanes,
            lane_of: RandomState::new(),
            unsaved: Mutex::default(),
            leftover: Mutex::new(Some(cutoff)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens a session, if its agent has fewer than the cap that are neither closed nor expired.
    pub async fn create(&self, order: WorkOrder, now: Now) -> Result<Arc<Live>, CreateError> {
        let cap = self.inner.settings.max_per_agent;
        let agent = order.agent;
        if !self.inner.index().reserve(agent, cap, now.mono) {
            return Err(CreateError::TooManySessions { cap });
        }
        let mut place = Place { inner: Arc::clone(&self.inner), agent, held: true };
        to_the_end(async move {
            let live = Arc::new(Live::new(order, now));
            place.inner.store.insert_session(&live.order, cap).await?;
            place.fill(&live);
            Ok(live)
        })
        .await
    }

    pub fn get(&self, id: SessionId) -> Option<Arc<Live>> {
        self.inner.live.get(&id).map(|found| Arc::clone(&found))
    }

    /// Sessions in the order of their creation, from the one that follows `after`. With an `after`
    /// that is not known (any more) there are none.
    pub fn list(
        &self,
        filter: Filter,
        after: Option<SessionId>,
        limit: usize,
        now: Now,
    ) -> Vec<Arc<Live>> {
        let mut found = Vec::new();
        let mut cursor = None;
        if let Some(after) = after {
            let Some(session) = self.get(after) else { return found };
            cursor = Some((session.order.created_at, after));
        }
        while found.len() < limit {
            let page = self.inner.index().page(filter.agent, cursor, LIST_STEP);
            let Some(&last) = page.last() else { break };
            cursor = Some(last);
            let sessions = page.into_iter().filter_map(|(_, id)| self.get(id));
            let wanted = sessions
                .filter(|session| filter.status.is_none_or(|wanted| session.status(now) == wanted));
            found.extend(wanted.take(limit - found.len()));
        }
        found
    }

    /// Closes a session: on this node before the store is even asked, for good once this returns.
    /// None if it is not known. What a failing store does not take, the clean-up tries again.
    pub async fn close(&self, id: SessionId, now: Now) -> Result<Option<Arc<Live>>, StoreError> {
        let Some(live) = self.get(id) else { return Ok(None) };
        self.inner.end(&live, now.mono);
        let closing = Arc::clone(&live);
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            // INVARIANT: whoever holds the session's lane is alone in changing what it has booked.
            let _lane = inner.lane(id).await?;
            inner.save_closed(&[closing], now.wall).await
        })
        .await?;
        Ok(Some(live))
    }

    /// Closes every session of these agents; says how many were active.
    pub async fn close_agents(&self, agents: &[AgentId], now: Now) -> Result<usize, StoreError> {
        let ids = self.inner.index().active_of(agents, now.mono);
        let lives: Vec<Arc<Live>> = ids.into_iter().filter_map(|id| self.get(id)).collect();
        for live in &lives {
            self.inner.end(live, now.mono);
        }
        let closed = lives.len();
        if closed == 0 {
            return Ok(0);
        }
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            let _lanes = inner.every_lane().await?;
            inner.save_closed(&lives, now.wall).await
        })
        .await?;
        Ok(closed)
    }

    /// Whether [`Sessions::lease`] has something to do before `price` calls can be counted.
    pub fn needs_lease(&self, live: &Live, price: u64) -> bool {
        live.block_for(price).is_some()
    }

    /// Sees to it that `price` calls are booked and not yet counted, unless the budget cannot cover
    /// them any more or the session is closed. Others may count them first: ask, then count, then
    /// ask again.
    pub async fn lease(&self, live: &Arc<Live>, price: u64) -> Result<(), StoreError> {
        if !self.needs_lease(live, price) {
            return Ok(());
        }
        let lane = self.inner.lane(live.order.id).await?;
        // Whoever held the lane before may have booked enough for all who waited.
        let Some(block) = live.block_for(price) else { return Ok(()) };
        let inner = Arc::clone(&self.inner);
        let live = Arc::clone(live);
        to_the_end(async move {
            let booked = inner.store.book(block).await?;
            live.receive(booked);
            drop(lane);
            Ok(())
        })
        .await
    }

    /// How many sessions are neither closed nor expired.
    pub fn active_count(&self, now: Now) -> usize {
        self.inner.index().active_count(now.mono)
    }

    /// Forgets sessions that ended longer ago than the retention, here and in the store; a bounded
    /// number in one run. Says how many.
    pub async fn cleanup(&self, now: Now) -> Result<usize, StoreError> {
        self.inner.save_closed(&[], now.wall).await?;
        let mut forgotten = 0;
        while forgotten < FORGET_PER_RUN {
            let ended = self.inner.index().ended(now.mono, RETENTION_SECS, FORGET_AT_ONCE);
            if ended.is_empty() {
                break;
            }
            forgotten += ended.len();
            let ids = ended.iter().map(|&(_, id)| id).collect();
            self.inner.store.forget_sessions(ids).await?;
            for (ended_at, id) in ended {
                if let Some((_, live)) = self.inner.live.remove(&id) {
                    self.inner.index().forget(&live.order, ended_at);
                }
            }
        }
        self.forget_leftovers().await?;
        Ok(forgotten)
    }

    /// A clean stop, once no more calls are counted: what was booked and not used goes back to the
    /// store, and the calls of the last rate window are kept there. The next run then knows exactly.
    pub async fn close_all_leases(&self, now: Now) -> Result<(), StoreError> {
        let _lanes = self.inner.every_lane().await?;
        let lives: Vec<Arc<Live>> =
            self.inner.live.iter().map(|entry| Arc::clone(entry.value())).collect();
        self.inner.save_closed(&[], now.wall).await?;
        let window_secs = self.inner.settings.rate_window_secs;
        let mut settlements = lives.iter().filter_map(|live| live.settle(window_secs, now));
        loop {
            let some: Vec<Settlement> = settlements.by_ref().take(SETTLE_AT_ONCE).collect();
            if some.is_empty() {
                return Ok(());
            }
            self.inner.store.settle(some).await?;
        }
    }

    /// Has the store forget what was too old to be loaded when this run began.
    async fn forget_leftovers(&self) -> Result<(), StoreError> {
        let cutoff = *self.inner.leftover();
        let Some(cutoff) = cutoff else { return Ok(()) };
        let limit = u32::try_from(FORGET_AT_ONCE).unwrap_or(u32::MAX);
        for _ in 0..FORGET_PER_RUN / FORGET_AT_ONCE {
            if self.inner.store.forget_ended(cutoff, limit).await? == 0 {
                *self.inner.leftover() = None;
                break;
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Closes the session in memory: no call is counted after this.
    fn end(&self, live: &Live, now: Mono) {
        live.with(|usage| usage.closed = true);
        self.index().end(&live.order, live.deadline, now);
    }

    /// Has the store close these sessions, whose lanes the caller holds, and those it did not take
    /// before.
    async fn save_closed(&self, lives: &[Arc<Live>], at: Timestamp) -> Result<(), StoreError> {
        let closings: Vec<Closing> = {
            let mut unsaved = self.unsaved();
            for live in lives {
                let id = live.order.id;
                let unused = live.give_back();
                unsaved.entry(id).or_insert(Closing { id, unused });
            }
            unsaved.values().copied().collect()
        };
        if closings.is_empty() {
            return Ok(());
        }
        self.store.close_sessions(closings.clone(), at).await?;
        let mut unsaved = self.unsaved();
        for closing in closings {
            unsaved.remove(&closing.id);
        }
        Ok(())
    }

    async fn lane(&self, id: SessionId) -> Result<OwnedSemaphorePermit, StoreError> {
        let lanes = u64::try_from(self.lanes.len()).unwrap_or(u64::MAX);
        let lane = self.lane_of.hash_one(id).checked_rem(lanes);
        let lane = lane.and_then(|lane| self.lanes.get(usize::try_from(lane).ok()?));
        let lane = lane.ok_or(StoreError::Stopped)?;
        Arc::clone(lane).acquire_owned().await.map_err(|_closed| StoreError::Stopped)
    }

    /// Waits until nothing is being booked, and keeps it so. Always in the same order, so that two
    /// who want every lane do not wait for each other.
    async fn every_lane(&self) -> Result<Vec<OwnedSemaphorePermit>, StoreError> {
        let mut permits = Vec::with_capacity(self.lanes.len());
        for lane in &self.lanes {
            let permit = Arc::clone(lane).acquire_owned().await;
            permits.push(permit.map_err(|_closed| StoreError::Stopped)?);
        }
        Ok(permits)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsaved(&self) -> MutexGuard<'_, BTreeMap<SessionId, Closing>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leftover(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.leftover.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place under the agent's cap, held while its session is being stored.
struct Place {
    inner: Arc<Inner>,
    agent: AgentId,
    held: bool,
}

impl Place {
    /// Gives the place to the session: in one step, as it is one place and not two or none.
    fn fill(&mut self, live: &Arc<Live>) {
        self.inner.live.insert(live.order.id, Arc::clone(live));
        let mut index = self.inner.index();
        index.release(self.agent);
        index.insert(&live.order, live.deadline);
        self.held = false;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.held {
            self.inner.index().release(self.agent);
        }
    }
}

fn before(at: Timestamp, secs: u64) -> Timestamp {
    let micros = i64::try_from(secs.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    Timestamp(at.0.saturating_sub(micros))
}
