//! Approvals of this gateway: the book, the key of its digests, and the calls that wait for a person.
//!
//! [`firewall::approvals`](crate::firewall::approvals) says what becomes of an approval; this room
//! keeps the book of what the store has, and brings each step to the store. A step that gives (an
//! ask, a decision, a use) counts once the store has it, so a crash loses a use and never doubles it.
//! An end counts here at once, and is sent to the store until the store accepts it.

use std::collections::{BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use uuid::Uuid;

use crate::audit::redact::Marks;
use crate::clock::Clock;
use crate::credentials::Patterns;
use crate::firewall::agent::AgentId;
use crate::firewall::approvals::{
    Approval, ApprovalState, ApprovalStep, Book, Digest, Limits, Plan, Plea, Ruling, Status,
    Subject, Undecided, digest, digest_of_rounds, plan,
};
use crate::firewall::session::SessionId;
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::saturate::SaturatingFrom as _;
use crate::store::{Put, Queue, Replicas, Room, Store, StoreError, to_the_end};
use notices::Notices;
use page::Page;

mod follow;
pub mod notices;
pub mod page;

/// Approvals that one look ends or forgets at most.
const AT_ONCE: usize = 100;
/// Attempts at steps that other nodes come before.
const ATTEMPTS: usize = 8;
/// Longest lead of the ledger's noted time over the clock that is believed.
const MAX_LEAD_US: i64 = 86_400_000_000;

/// Part of the configuration that concerns approvals.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub limits: Limits,
    /// Time for which a call waits for its decision; zero: not at all.
    pub hold: Duration,
    /// True if nobody decides about the calls of sessions that they opened or agents that they
    /// registered.
    pub four_eyes: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let limits = Limits { ttl_secs: 900, max_pending_per_agent: 20 };
        Self { limits, hold: Duration::ZERO, four_eyes: false }
    }
}

/// The book, its key, and the bell of those who wait.
#[derive(Debug)]
pub struct Approvals {
    settings: Settings,
    key: [u8; 32],
    /// Key of the marks in what people are shown.
    marks_key: [u8; 32],
    store: Arc<Store>,
    notices: Option<Notices>,
    page: Option<Page>,
    book: Mutex<Book>,
    decided: Notify,
    /// Number of open approvals, for a look without the lock.
    open: AtomicUsize,
    /// Number of times that the book was changed, for those who show it.
    revision: AtomicU64,
    /// One message at a time asks or takes uses, so that limits are exact and a store that hangs is
    /// asked once.
    turns: Queue,
    /// Approvals that changed elsewhere and whose call is not known here yet.
    unread: Mutex<BTreeSet<Uuid>>,
    /// Approvals that ended here and whose end the store did not take yet.
    unsaved: Mutex<BTreeSet<Uuid>>,
    /// Held calls by the approval that each waits for.
    held: Mutex<HashMap<Uuid, usize>>,
    /// The ledger's time at an instant of this run.
    since: Mutex<(Timestamp, Mono)>,
}

/// The book, locked; published as a number when it is released.
struct Guard<'b> {
    book: MutexGuard<'b, Book>,
    changed: bool,
    of: &'b Approvals,
}

impl Deref for Guard<'_> {
    type Target = Book;

    fn deref(&self) -> &Book {
        &self.book
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Book {
        self.changed = true;
        &mut self.book
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.changed {
            self.of.open.store(self.book.open_count(), Ordering::Relaxed);
            self.of.revision.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Outcome of bringing steps to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    Done(Replicas),
    /// Nothing was changed, and the book has the reason.
    Overtaken,
    /// Nothing was changed: with those of other nodes, too many are pending.
    TooMany,
}

impl Approvals {
    /// Makes an empty book on this store; `secret` keys the digests.
    pub fn new(settings: Settings, secret: &[u8], store: Arc<Store>, now: Now) -> Self {
        Self {
            settings,
            key: blake3::derive_key("arbiter 2026 approvals: digests of calls", secret),
            marks_key: blake3::derive_key("arbiter 2026 approvals: marks of places", secret),
            store,
            notices: None,
            page: None,
            book: Mutex::default(),
            decided: Notify::new(),
            open: AtomicUsize::new(0),
            revision: AtomicU64::new(0),
            turns: Queue::new(1),
            unread: Mutex::default(),
            unsaved: Mutex::default(),
            held: Mutex::default(),
            since: Mutex::new((now.wall, now.mono)),
        }
    }

    /// Has the steps of this node announced.
    #[must_use]
    pub fn with_notices(self, notices: Option<Notices>) -> Self {
        Self { notices, ..self }
    }

    /// Has clients and notices name the page on which a person decides.
    #[must_use]
    pub fn with_page(self, page: Option<Page>) -> Self {
        Self { page, ..self }
    }

    pub fn page(&self) -> Option<&Page> {
        self.page.as_ref()
    }

    fn note(&self, steps: &[ApprovalStep]) {
        if let Some(notices) = &self.notices {
            let page = self.page.as_ref();
            for step in steps {
                notices.note(step, page);
            }
        }
    }

    /// Loads what the store keeps. If a clock was set back since, approvals that it would keep open
    /// too long have ended.
    pub async fn load(&self, now: Now) -> Result<(), StoreError> {
        let newest = self.store.newest(now.wall).await?;
        if newest.0.saturating_sub(now.wall.0) <= MAX_LEAD_US {
            self.at_least(newest, now.mono);
        }
        let alone = !self.store.is_shared();
        let all = self.store.approvals().await?;
        let mut book = self.book();
        for one in all {
            let over = one.expires_at <= newest || alone && one.requested_at > self.time(now);
            let end = over.then(|| one.end(Status::Expired)).flatten();
            if end.is_some() {
                self.unsaved.lock().insert(one.id);
            }
            book.replace(end.map_or(one, |step| step.to));
        }
        Ok(())
    }

    fn book(&self) -> Guard<'_> {
        // INVARIANT: every change of the book is complete before anything can panic.
        Guard { book: self.book.lock(), changed: false, of: self }
    }

    /// Returns a number that grows with each change.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Returns the time by which approvals end: the ledger's, which no clock that is set back delays.
    pub fn time(&self, now: Now) -> Timestamp {
        let (wall, mono) = *self.since.lock();
        let passed = i64::saturating_from(now.mono.since(mono));
        now.wall.max(Timestamp(wall.0.saturating_add(passed)))
    }

    /// Notes that the ledger's time is not before `at`.
    fn at_least(&self, at: Timestamp, mono: Mono) {
        let mut since = self.since.lock();
        let passed = i64::saturating_from(mono.since(since.1));
        if at.0 > since.0.0.saturating_add(passed) {
            *since = (at, mono);
        }
    }

    pub fn digest(&self, subject: &Subject<'_>) -> Digest {
        digest(&self.key, subject)
    }

    /// Returns what all rounds of a call have in common that was approved under this text of a policy.
    pub fn digest_of_rounds(&self, subject: &Subject<'_>, policy_text: &Digest) -> Digest {
        digest_of_rounds(&self.key, subject, policy_text)
    }

    /// Returns the marks for what people are shown of a session's calls, without `known` credentials.
    pub fn marks(&self, session: SessionId, known: Arc<Patterns>) -> Marks {
        Marks::new(&self.marks_key, session.0.as_bytes(), known)
    }

    /// Reports whether a session has open approvals.
    pub fn concern(&self, session: SessionId) -> bool {
        self.open.load(Ordering::Relaxed) > 0 && self.book().concerns(session)
    }

    /// Counts the calls whose next use was paid for by the call that asked.
    pub fn paid(&self, digests: &[Digest], now: Now) -> u64 {
        let now = self.time(now);
        let book = self.book();
        let paid = digests.iter().filter(|digest| book.is_paid(digest, now)).count();
        u64::saturating_from(paid)
    }

    /// Plans to take one use of each call's approval, or to ask for those that nobody was asked about.
    pub fn plan(
        &self,
        pleas: &[Plea],
        now: Now,
        draft: impl FnMut(usize) -> Option<Approval>,
    ) -> Option<Plan> {
        plan(&self.book(), pleas, self.settings.limits, self.time(now), draft)
    }

    /// Waits for the turn to ask or to take uses.
    pub async fn turn(&self, clock: &Clock) -> Result<OwnedSemaphorePermit, StoreError> {
        self.turns.enter(clock.mono(), self.store.patience(), clock).await
    }

    /// Brings steps to the store, all or none; they count here when it has them. Goes on to its end
    /// even if nobody waits for it any more.
    pub async fn commit(
        self: &Arc<Self>,
        steps: Vec<ApprovalStep>,
        clock: &Clock,
    ) -> Result<Committed, StoreError> {
        let (this, clock) = (Arc::clone(self), clock.clone());
        to_the_end(async move {
            let room = Room::under(this.settings.limits);
            let put = this.store.put_approvals(steps.clone(), room).await;
            match this.turns.noted(put, &clock)? {
                Put::Done(replicas) => {
                    this.note(&steps);
                    let mut book = this.book();
                    for step in steps {
                        book.put(step.to);
                    }
                    drop(book);
                    this.decided.notify_waiters();
                    Ok(Committed::Done(replicas))
                }
                Put::Overtaken(id) => {
                    this.read(vec![id]).await?;
                    Ok(Committed::Overtaken)
                }
                Put::Over(id) => {
                    let over = steps.iter().find(|step| step.to.id == id);
                    if let Some(step) = over {
                        this.at_least(step.to.expires_at, clock.mono());
                    }
                    Ok(Committed::Overtaken)
                }
                Put::TooMany => Ok(Committed::TooMany),
            }
        })
        .await
    }

    /// Waits until `open` is no more, at most for `patience`.
    pub async fn wait(&self, patience: Duration, open: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let mut decided = std::pin::pin!(self.decided.notified());
            decided.as_mut().enable();
            if !open() || tokio::time::timeout_at(deadline, decided).await.is_err() {
                return;
            }
        }
    }

    /// Reports whether a call that needs all of these has to wait for a person: some are pending, and
    /// none is refused.
    pub fn any_pending(&self, ids: &[Uuid], now: Now) -> bool {
        let now = self.time(now);
        let book = self.book();
        let mut pending = false;
        for id in ids {
            match book.get(*id).map(|one| one.status_at(now)) {
                Some(Status::Pending) => pending = true,
                Some(Status::Approved) => {}
                Some(_) | None => return false,
            }
        }
        pending
    }

    /// Notes a held call by the approvals that it waits for.
    pub fn hold(&self, ids: &[Uuid]) {
        let mut held = self.held.lock();
        for id in ids {
            let calls = held.entry(*id).or_default();
            *calls = calls.saturating_add(1);
        }
    }

    /// Notes that a held call waits no more; returns the approvals for which no other call waits.
    pub fn let_go(&self, ids: &[Uuid]) -> Vec<Uuid> {
        let mut held = self.held.lock();
        let mut left = Vec::new();
        for id in ids {
            let calls = held.get(id).copied().unwrap_or_default();
            if calls > 1 {
                held.insert(*id, calls - 1);
            } else {
                held.remove(id);
                left.push(*id);
            }
        }
        left
    }

    /// Checks a decision, and returns the step in which it is made.
    pub fn check(&self, id: Uuid, ruling: &Ruling, now: Now) -> Result<ApprovalStep, Undecided> {
        let book = self.book();
        if self.settings.four_eyes {
            book.get(id).ok_or(Undecided::Unknown)?.check_four_eyes(&ruling.by)?;
        }
        book.decide(id, ruling, self.time(now))
    }

    /// Ends approvals: here at once, and in the store. Returns those that were ended by this node.
    async fn end_where(
        self: &Arc<Self>,
        status: Status,
        of: impl Fn(&Approval) -> bool,
    ) -> Vec<ApprovalStep> {
        let steps = {
            let mut book = self.book();
            let steps = book.ends(status, of);
            for step in &steps {
                book.put(step.to.clone());
            }
            steps
        };
        self.finish(steps).await
    }

    /// Brings steps that count here to the store; returns those that no other node came before.
    async fn finish(self: &Arc<Self>, steps: Vec<ApprovalStep>) -> Vec<ApprovalStep> {
        if steps.is_empty() {
            return steps;
        }
        self.decided.notify_waiters();
        let mut ended = Vec::with_capacity(steps.len());
        for steps in steps.chunks(AT_ONCE) {
            let (this, mut left) = (Arc::clone(self), steps.to_vec());
            let stored = to_the_end(async move {
                let mut stored = Vec::new();
                while !left.is_empty() {
                    match this.store.put_approvals(left.clone(), Room::UNLIMITED).await? {
                        Put::Done(_) | Put::TooMany => break,
                        Put::Overtaken(id) | Put::Over(id) => {
                            left.retain(|step| step.to.id != id);
                            stored.extend(this.settle_with_store(vec![id]).await?);
                        }
                    }
                }
                stored.append(&mut left);
                Ok::<_, StoreError>(stored)
            });
            match stored.await {
                Ok(stored) => ended.extend(stored),
                Err(error) => {
                    let error = crate::telemetry::Causes(&error);
                    tracing::warn!(%error, "approvals ended here but not in the store; trying again");
                    self.unsaved.lock().extend(steps.iter().map(|step| step.to.id));
                    ended.extend_from_slice(steps);
                }
            }
        }
        self.note(&ended);
        ended
    }

    /// Voids the approvals of a session that was closed.
    pub async fn end_session(self: &Arc<Self>, session: SessionId) -> Vec<ApprovalStep> {
        if !self.concern(session) {
            return Vec::new();
        }
        self.end_where(Status::Void, |one| one.session == session).await
    }

    /// Voids the approvals of agents that were deactivated.
    pub async fn end_agents(self: &Arc<Self>, agents: &[AgentId]) -> Vec<ApprovalStep> {
        if self.open.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        self.end_where(Status::Void, |one| agents.contains(&one.agent)).await
    }

    /// Withdraws pending approvals whose client has left.
    pub async fn withdraw(self: &Arc<Self>, ids: &[Uuid]) -> Vec<ApprovalStep> {
        let left = |one: &Approval| one.status == Status::Pending && ids.contains(&one.id);
        self.end_where(Status::Withdrawn, left).await
    }

    /// Ends approvals whose time has passed; returns those ended by this node, for the record.
    pub async fn expire(self: &Arc<Self>, now: Now) -> Vec<ApprovalStep> {
        if self.open.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let due = self.book().due(self.time(now), AT_ONCE);
        {
            let mut book = self.book();
            for step in &due {
                book.put(step.to.clone());
            }
        }
        self.finish(due).await
    }

    /// Brings to the store what it did not take, and forgets what ended long ago.
    pub async fn sweep(&self, now: Now) -> Result<(), StoreError> {
        let unsaved: Vec<Uuid> = self.unsaved.lock().iter().take(AT_ONCE).copied().collect();
        if !unsaved.is_empty() {
            self.settle_with_store(unsaved.clone()).await?;
            self.unsaved.lock().retain(|id| !unsaved.contains(id));
        }
        let now = self.time(now);
        let over = self.book().sweep(now, AT_ONCE);
        if !over.is_empty() {
            self.store.forget_approvals(over, now).await?;
        }
        Ok(())
    }

    pub fn get(&self, id: Uuid) -> Option<Approval> {
        self.book().get(id).cloned()
    }

    /// Returns an approval that another node may have asked about a moment ago.
    pub async fn find(&self, id: Uuid) -> Result<Option<Approval>, StoreError> {
        if self.get(id).is_none() && self.store.is_shared() {
            self.read(vec![id]).await?;
        }
        Ok(self.get(id))
    }

    /// Returns up to `count` approvals after `after`, in the order in which they were requested.
    pub fn list(
        &self,
        of: impl Fn(&Approval) -> bool,
        after: Option<Uuid>,
        count: usize,
    ) -> Vec<Approval> {
        let book = self.book();
        let place = |one: &Approval| (one.requested_at, one.id);
        let after = after.and_then(|id| book.get(id)).map(place);
        let mut found: Vec<_> =
            book.all().filter(|one| Some(place(one)) > after && of(one)).cloned().collect();
        drop(book);
        found.sort_unstable_by_key(place);
        found.truncate(count);
        found
    }

    pub fn pending(&self) -> usize {
        self.book().pending()
    }
}

/// No step under these locks can fail half-way, so one that a panic left is as good as any.
#[cfg(test)]
mod tests;
