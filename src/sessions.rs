//! The live sessions of this node: found by id, counted under one short lock each, leased in blocks.
//!
//! A session's work order never changes; its usage is counted here and never in the store. Calls are
//! counted against a *lease*: a block of calls that the store booked as spent before the first of
//! them is used. So no crash can lead to spending more than the budget; it costs at most the rest of
//! a block. A clean stop gives the rest back, and the counts are exact again.
//!
//! INVARIANT: `calls_made <= booked <= call_budget`, and `booked` grows in memory only after it has
//! grown in the store.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OwnedSemaphorePermit;

use crate::clock::Clock;
use crate::firewall::agent::AgentId;
use crate::firewall::checks::rate;
use crate::firewall::session::{SessionId, Status, WorkOrder};
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::saturate::SaturatingFrom as _;
use crate::store::{
    Booked, Booking, Closing, Opened, Queue, Replicas, Settlement, Store, StoreError, before, left,
    to_the_end,
};
use horizon::Horizon;
use idle::Leased;
use index::Index;
use intern::InternedGrants;
pub use live::Live;
use table::Table;
use unsaved::Unsaved;

mod follow;
mod horizon;
mod idle;
mod index;
mod intern;
mod live;
mod load;
mod permits;
mod table;
#[cfg(test)]
mod tests;
mod unsaved;
#[cfg(test)]
pub(crate) use tests::model::explore as model;

/// Seconds for which an ended session is still known, so that its callers learn how it ended.
const RETENTION_SECS: u64 = 3600;
/// Sessions forgotten in one run of the clean-up at most, and in one transaction.
const FORGET_PER_RUN: usize = 200_000;
const FORGET_AT_ONCE: usize = 50;
/// Pause for other users of the store after each batch.
const FORGET_PAUSE: Duration = Duration::from_millis(2);
/// Sessions that have ended counted under one hold of the index's lock.
const COUNT_STEP: usize = 1_024;
/// Sessions settled in one transaction at a clean stop.
const SETTLE_AT_ONCE: usize = 1000;
/// Bookings of different sessions that can wait for the store at the same time, at least.
const BOOKING_LANES: usize = 64;
/// Sessions looked up in a shared store at the same time, at most.
const FINDING: usize = 32;
/// Sessions looked at under one hold of the index's lock while listing.
const LIST_STEP: usize = 256;
/// Longest wait of a call for other nodes' leases of its budget, and the interval of its attempts.
const REGAIN_US: u64 = 400_000;
const REGAIN_EVERY: Duration = Duration::from_millis(25);
/// Time for which an exhausted budget is cached: with leases on other nodes, and without.
const SPENT_NOW_US: u64 = 250_000;
const SPENT_US: u64 = 2_000_000;

/// The part of the configuration that matters here.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub max_per_agent: usize,
    pub rate_window_secs: u64,
}

/// Filter of listed sessions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub agent: Option<AgentId>,
    pub status: Option<Status>,
}

/// Reason why a session was not opened.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("the agent has {cap} active sessions, and may not have more")]
    TooManySessions { cap: usize },
    #[error("the agent was deactivated")]
    NoAgent,
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
    live: Table,
    index: Mutex<Index>,
    /// One booking at a time for each session; sessions share lanes.
    lanes: Vec<Queue>,
    lane_of: RandomState,
    /// Closed here, but not (yet) in the store: tried again until the store takes it.
    unsaved: Mutex<Unsaved>,
    /// Sessions of which this node holds something that it may not need.
    leased: Leased,
    /// Sessions of other nodes that are being looked up.
    finding: Queue,
    interned: InternedGrants,
    /// Sessions that were closed before their end, until that has passed: a store that lost its last
    /// writes must not open them again.
    closed: Mutex<HashMap<SessionId, Timestamp>>,
    horizon: Horizon,
}

impl Sessions {
    /// Loads the sessions of the last run. Booked calls count as made.
    pub async fn load(store: Arc<Store>, settings: Settings, now: Now) -> Result<Self, StoreError> {
        let horizon = Horizon::new(store.newest(Timestamp(i64::MIN)).await?, now);
        let cutoff = before(horizon.at(now), RETENTION_SECS);
        let (live, index, interned) = load::all(&store, settings, cutoff, now).await?;
        let lanes = (0..BOOKING_LANES).map(|_| Queue::new(1)).collect();
        let inner = Inner {
            store,
            settings,
            live,
            index: Mutex::new(index),
            lanes,
            lane_of: RandomState::new(),
            unsaved: Mutex::default(),
            leased: Leased::default(),
            finding: Queue::new(FINDING),
            interned,
            closed: Mutex::default(),
            horizon,
        };
        for live in inner.live.all().iter().filter(|live| live.is_closed()) {
            inner.note_closed(live);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens a session, if its agent has fewer than the cap that are neither closed nor expired.
    pub async fn create(&self, order: WorkOrder, now: Now) -> Result<Arc<Live>, CreateError> {
        let cap = self.inner.settings.max_per_agent;
        let agent = order.agent;
        let shared = self.inner.store.is_shared();
        // A shared store counts for all nodes; what this one knows may be a moment old.
        let here = if shared { usize::MAX } else { cap };
        if !self.inner.index().reserve(agent, here, now.mono) {
            return Err(CreateError::TooManySessions { cap });
        }
        let mut place = PlaceUnderCap { inner: Arc::clone(&self.inner), agent, held: true };
        to_the_end(async move {
            let mut order = Arc::new(order);
            place.inner.interned.share(&mut order);
            let live = Live::of(order, shared, now);
            match place.inner.store.insert_session(&live.order, cap).await? {
                Opened::Yes => Ok(place.fill(live)),
                Opened::TooMany => Err(CreateError::TooManySessions { cap }),
                Opened::NoAgent => Err(CreateError::NoAgent),
            }
        })
        .await
    }

    pub fn get(&self, id: SessionId) -> Option<Arc<Live>> {
        self.inner.live.get(id)
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
            cursor = Some(session);
        }
        while found.len() < limit {
            let page = self.inner.index().page(filter.agent, cursor.as_ref(), LIST_STEP);
            let Some(last) = page.last() else { break };
            cursor = Some(Arc::clone(last));
            let wanted = page
                .into_iter()
                .filter(|session| filter.status.is_none_or(|wanted| session.status(now) == wanted));
            found.extend(wanted.take(limit - found.len()));
        }
        found
    }

    /// Closes a session: on this node before the store is even asked, for good once this returns.
    /// None if it is not known. The clean-up tries again to store a closing that a failing store
    /// did not take.
    pub async fn close(
        &self,
        id: SessionId,
        now: Now,
    ) -> Result<Option<(Arc<Live>, Replicas)>, StoreError> {
        let Some(live) = self.get(id) else { return Ok(None) };
        self.inner.end(&live, now.mono);
        let closing = Arc::clone(&live);
        let inner = Arc::clone(&self.inner);
        let replicas = to_the_end(async move {
            // INVARIANT: the holder of the session's lane is alone in changing what it has booked.
            let _lane = inner.lane(id)?.enter_at_last().await?;
            inner.save_closed(&[closing], &[], now.wall).await
        })
        .await?;
        Ok(Some((live, replicas)))
    }

    /// Closes every session of these agents; returns how many were active.
    pub async fn close_agents(
        &self,
        agents: &[AgentId],
        now: Now,
    ) -> Result<(usize, Replicas), StoreError> {
        self.close_those(agents, |_| true, now).await
    }

    /// Closes the sessions of these agents that were opened under a delegation between the two given;
    /// returns how many were active.
    pub async fn close_under(
        &self,
        agents: &[AgentId],
        from: AgentId,
        to: AgentId,
        now: Now,
    ) -> Result<(usize, Replicas), StoreError> {
        let under = |live: &Live| {
            live.order.delegation_chain.windows(2).any(|link| link == [from, to].as_slice())
        };
        self.close_those(agents, under, now).await
    }

    async fn close_those(
        &self,
        agents: &[AgentId],
        which: impl Fn(&Live) -> bool,
        now: Now,
    ) -> Result<(usize, Replicas), StoreError> {
        let mut lives = self.inner.index().active_of(agents, now.mono);
        lives.retain(|live| which(live));
        for live in &lives {
            self.inner.end(live, now.mono);
        }
        let closed = lives.len();
        if closed == 0 {
            return Ok((0, Replicas::default()));
        }
        let inner = Arc::clone(&self.inner);
        let replicas = to_the_end(async move {
            let _lanes = inner.every_lane().await?;
            inner.save_closed(&lives, &[], now.wall).await
        })
        .await?;
        Ok((closed, replicas))
    }

    /// Sees to it that `price` calls are booked and not yet counted, and have permits where a rate
    /// limit is shared, unless the budget or the limit cannot cover them or the session is closed.
    /// Others may count them first: ask, then count, then ask again. The caller `arrived` at the store
    /// when it asked for the first time, and waits no longer from then on than an answer may take.
    pub async fn lease(
        &self,
        live: &Arc<Live>,
        price: u64,
        arrived: Mono,
        clock: &Clock,
    ) -> Result<(), StoreError> {
        let id = live.order.id;
        let patience = self.inner.store.patience();
        let lane = self.inner.lane(id)?.enter(arrived, patience, clock).await?;
        let inner = Arc::clone(&self.inner);
        let live = Arc::clone(live);
        let leasing = clock.clone();
        let leased = to_the_end(async move {
            // An earlier holder of the lane may have booked enough for all who waited.
            let done = inner.lease(&live, price, &leasing).await;
            let done = inner.lane(id)?.noted(done, &leasing);
            if matches!(done, Err(StoreError::Missing(_))) {
                inner.lose(&live, leasing.mono());
            }
            drop(lane);
            done
        });
        match patience {
            None => leased.await,
            Some(patience) => tokio::time::timeout(left(arrived, patience, clock), leased)
                .await
                .map_err(|_elapsed| StoreError::Late)?,
        }
    }

    /// Asks a shared store how much of a budget is booked by all, so that what is shown is true.
    pub async fn refresh(&self, live: &Arc<Live>, clock: &Clock) -> Result<(), StoreError> {
        if !self.inner.store.is_shared() {
            return Ok(());
        }
        let lane = self.inner.lane(live.order.id)?;
        let asked_at = clock.mono();
        let _lane = lane.enter(asked_at, self.inner.store.patience(), clock).await?;
        let asked_at = clock.mono();
        let booked = lane.noted(self.inner.store.book(live.look()).await, clock)?;
        self.inner.receive(live, booked, asked_at, clock.now()).await
    }

    /// Returns the time by which something may be deleted for good.
    pub fn deletes_by(&self, now: Now) -> Timestamp {
        self.inner.horizon.at(now)
    }

    /// Notes the time in the store, which is the smallest write that there is.
    pub async fn note_time(&self, now: Now) -> Result<(), StoreError> {
        self.inner.store.newest(self.inner.horizon.at(now)).await.map(drop)
    }

    /// Number of sessions that are neither closed nor expired.
    pub fn active_count(&self, now: Now) -> usize {
        loop {
            let count = self.inner.index().active_count(now.mono, COUNT_STEP);
            if let Some(count) = count {
                return count;
            }
        }
    }

    /// Forgets sessions that ended longer ago than the retention, here and in the store; a bounded
    /// number in one run, a few at a time. Says how many.
    ///
    /// A call waits for a few of them at most, for any number that ended at one instant.
    pub async fn cleanup(&self, now: Now) -> Result<usize, StoreError> {
        self.inner.save_closed(&[], &[], now.wall).await?;
        self.note_time(now).await?;
        let at = self.inner.horizon.at(now);
        self.inner.closed().retain(|_, end| *end > at);
        let mut forgotten = 0;
        while forgotten < FORGET_PER_RUN {
            let ended = self.inner.index().ended(now.mono, RETENTION_SECS, FORGET_AT_ONCE);
            if ended.is_empty() {
                break;
            }
            forgotten += ended.len();
            let ids = ended.iter().map(|(_, live)| live.order.id).collect();
            self.inner.store.forget_sessions(ids, at, RETENTION_SECS).await?;
            let more = ended.len() == FORGET_AT_ONCE;
            for (ended_at, live) in ended {
                self.inner.live.remove(live.order.id);
                self.inner.index().forget(&live, ended_at, now.mono);
            }
            if more {
                tokio::time::sleep(FORGET_PAUSE).await;
            }
        }
        self.forget_leftovers(at).await?;
        Ok(forgotten)
    }

    /// A clean stop, once no more calls are counted: what was booked and not used goes back to the
    /// store, and the calls of the last rate window are kept there. The next run then knows exactly.
    pub async fn close_all_leases(&self, now: Now) -> Result<(), StoreError> {
        let _lanes = self.inner.every_lane().await?;
        let lives = self.inner.live.all();
        self.inner.save_closed(&[], &[], now.wall).await?;
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

    /// Has the store forget what ended so long ago that no node has it in memory.
    async fn forget_leftovers(&self, at: Timestamp) -> Result<(), StoreError> {
        if !self.inner.store.outlives_the_process() {
            return Ok(());
        }
        let limit = u32::saturating_from(FORGET_AT_ONCE);
        for _ in 0..FORGET_PER_RUN / FORGET_AT_ONCE {
            if self.inner.store.forget_ended(at, RETENTION_SECS, limit).await? == 0 {
                break;
            }
            tokio::time::sleep(FORGET_PAUSE).await;
        }
        Ok(())
    }
}

impl Inner {
    /// Books until `price` is covered or nothing more is to be had. The caller holds the session's
    /// lane.
    async fn lease(&self, live: &Arc<Live>, price: u64, clock: &Clock) -> Result<(), StoreError> {
        let window_us = rate::window_us(self.settings.rate_window_secs);
        let mut give_up_at = None;
        loop {
            let asked_at = clock.mono();
            let Some(booking) = live.booking(price, window_us, asked_at) else { return Ok(()) };
            let booked = self.store.book(booking).await?;
            let at = clock.now();
            self.receive(live, booked, asked_at, at).await?;
            let now = at.mono;
            if !fell_short(&booking, &booked) {
                return Ok(());
            }
            let give_up_at = *give_up_at.get_or_insert(Mono(now.0.saturating_add(REGAIN_US)));
            let believed_us = match booked.elsewhere {
                0 => SPENT_US,
                _ if now >= give_up_at => SPENT_NOW_US,
                _ => {
                    self.regain(live, now).await?;
                    continue;
                }
            };
            live.believe_spent(Mono(now.0.saturating_add(believed_us)));
            return Ok(());
        }
    }

    /// Waits a moment for what other nodes were asked to give back. Calls that this node holds and
    /// cannot use alone go back too: two nodes that wait for each other would both get none.
    async fn regain(&self, live: &Arc<Live>, now: Mono) -> Result<(), StoreError> {
        if let Some(settlement) = live.let_go(now) {
            self.store.settle(vec![settlement]).await?;
        }
        tokio::time::sleep(REGAIN_EVERY).await;
        Ok(())
    }

    async fn receive(
        &self,
        live: &Arc<Live>,
        booked: Booked,
        asked_at: Mono,
        now: Now,
    ) -> Result<(), StoreError> {
        let is_news = booked.closed && !live.is_closed();
        live.receive(booked, asked_at, now.mono);
        if booked.closed {
            self.end(live, now.mono);
        } else if booked.ended {
            live.end_by_ledger();
        } else if booked.granted > 0 || booked.rate.is_some_and(|rate| rate.granted > 0) {
            self.leased.note(live, now.mono);
        }
        if is_news && self.store.is_shared() {
            // A server that has been replaced since may have said so. The one in its place was told of all
            // closed sessions before this one was known, and may have it open.
            self.save_closed(slice::from_ref(live), &[], now.wall).await?;
        }
        Ok(())
    }

    /// Closes the session in memory: no call is counted after this.
    fn end(&self, live: &Arc<Live>, now: Mono) {
        live.with(|usage| usage.closed = true);
        self.note_closed(live);
        self.index().end(live, now);
    }

    fn note_closed(&self, live: &Live) {
        self.closed().insert(live.order.id, live.order.expires_at);
    }

    /// Forgets a session that the store does not have any more: nobody can say what is left of it.
    /// Should the store be restored, it is found there again.
    fn lose(&self, live: &Arc<Live>, now: Mono) {
        if live.is_closed() {
            return;
        }
        let mut index = self.index();
        index.end(live, now);
        index.forget(live, now.min(live.deadline), now);
        self.live.remove(live.order.id);
    }

    /// Has the store close these sessions, whose lanes the caller holds, those that another server of
    /// the store may have open again, and those it did not take before.
    async fn save_closed(
        &self,
        lives: &[Arc<Live>],
        again: &[SessionId],
        at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        let asked = {
            let mut unsaved = self.unsaved();
            for live in lives {
                unsaved.note(Closing { id: live.order.id, unused: live.give_back() });
            }
            for &id in again {
                unsaved.note(Closing { id, unused: 0 });
            }
            unsaved.ask()
        };
        if asked.closings.is_empty() {
            return Ok(Replicas::default());
        }
        let replicas = self.store.close_sessions(asked.closings.clone(), at).await?;
        self.unsaved().answered(&asked);
        Ok(replicas)
    }

    /// Takes in a session, unless it is here already; gives the one that is here.
    fn insert(&self, live: Live, index: &mut Index) -> Arc<Live> {
        // INVARIANT: a task that puts a session here holds the index, so none comes in between.
        if let Some(known) = self.live.get(live.order.id) {
            return known;
        }
        let live = Arc::new(live);
        index.insert(&live);
        self.live.insert(&live);
        live
    }

    fn lane(&self, id: SessionId) -> Result<&Queue, StoreError> {
        let lane = self.lane_number(id).and_then(|number| self.lanes.get(number));
        lane.ok_or(StoreError::Stopped)
    }

    /// Returns the lane of the session.
    fn lane_number(&self, id: SessionId) -> Option<usize> {
        let lanes = u64::try_from(self.lanes.len()).ok()?;
        usize::try_from(self.lane_of.hash_one(id).checked_rem(lanes)?).ok()
    }

    /// Waits until nothing is being booked, and keeps it so. Always in the same order, so that two
    /// who want every lane do not wait for each other.
    async fn every_lane(&self) -> Result<Vec<OwnedSemaphorePermit>, StoreError> {
        let mut permits = Vec::with_capacity(self.lanes.len());
        for lane in &self.lanes {
            permits.push(lane.enter_at_last().await?);
        }
        Ok(permits)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }

    fn unsaved(&self) -> MutexGuard<'_, Unsaved> {
        self.unsaved.lock()
    }

    fn closed(&self) -> MutexGuard<'_, HashMap<SessionId, Timestamp>> {
        self.closed.lock()
    }
}

/// A place under the agent's cap, held while its session is being stored.
struct PlaceUnderCap {
    inner: Arc<Inner>,
    agent: AgentId,
    held: bool,
}

impl PlaceUnderCap {
    /// Gives the place to the session: in one step, as it is one place and not two or none.
    fn fill(&mut self, live: Live) -> Arc<Live> {
        let mut index = self.inner.index();
        index.release(self.agent);
        self.held = false;
        self.inner.insert(live, &mut index)
    }
}

impl Drop for PlaceUnderCap {
    fn drop(&mut self) {
        if self.held {
            self.inner.index().release(self.agent);
        }
    }
}

/// Reports whether the budget had less than was needed.
fn fell_short(booking: &Booking, booked: &Booked) -> bool {
    booking.least > 0 && booked.granted == 0 && booked.rate.is_none() && !booked.closed
}
