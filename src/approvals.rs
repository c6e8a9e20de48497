//! Approvals of this gateway: the book, the key of its digests, and the calls that wait for a person.
//!
//! [`firewall::approvals`](crate::firewall::approvals) says what becomes of an approval; this room
//! keeps the book, makes each change in one step, and wakes the calls that are held. A use is taken
//! before its call goes on, so a crash loses it and never doubles it.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use crate::firewall::agent::AgentId;
use crate::firewall::approvals::{
    Approval, Book, Digest, Limits, Ruling, Standing, Status, Subject, TooMany, Undecided, digest,
};
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;

/// Approvals that one clean-up ends at most, so that it holds the lock only briefly.
const EXPIRE_AT_ONCE: usize = 1_000;

/// Part of the configuration that concerns approvals.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub limits: Limits,
    /// Time for which a call waits for its decision; zero: not at all.
    pub hold: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let limits = Limits { ttl_secs: 900, max_pending_per_agent: 20 };
        Self { limits, hold: Duration::ZERO }
    }
}

/// The book, its key, and the bell of those who wait.
#[derive(Debug)]
pub struct Approvals {
    settings: Settings,
    key: [u8; 32],
    book: Mutex<Book>,
    decided: Notify,
    /// Number of open approvals, for a look without the lock.
    open: AtomicUsize,
    /// Number of times that the book was changed, for those who show it.
    revision: AtomicU64,
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

/// One call that needs a person's approval.
#[derive(Clone, Debug)]
pub struct Plea {
    pub digest: Digest,
    /// Hash of the text of the policy that asks.
    pub policy_text: Digest,
}

/// Answer to the calls of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All are approved, and one use of each is taken.
    Used(Vec<Approval>),
    /// A person has to decide about these.
    Pending(Vec<Approval>),
    /// A person has said no.
    Denied(Box<Approval>),
    TooMany,
}

/// Changes made on the way to an answer, for the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub requested: Vec<Approval>,
    pub voided: Vec<Approval>,
}

impl Approvals {
    /// Makes an empty book; `secret` keys the digests.
    pub fn new(settings: Settings, secret: &[u8]) -> Self {
        Self {
            settings,
            key: blake3::derive_key("arbiter 2026 approvals: digests of calls", secret),
            book: Mutex::default(),
            decided: Notify::new(),
            open: AtomicUsize::new(0),
            revision: AtomicU64::new(0),
        }
    }

    fn book(&self) -> Guard<'_> {
        // INVARIANT: every change of the book is complete before anything can panic.
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        Guard { book, changed: false, of: self }
    }

    /// Returns a number that grows with each change.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    pub fn settings(&self) -> Settings {
        self.settings
    }

    pub fn digest(&self, subject: &Subject<'_>) -> Digest {
        digest(&self.key, subject)
    }

    /// Reports whether a session has open approvals.
    pub fn concern(&self, session: SessionId) -> bool {
        self.open.load(Ordering::Relaxed) > 0 && self.book().concerns(session)
    }

    /// Counts the calls whose next use was paid for by the call that asked.
    pub fn paid(&self, digests: &[Digest], now: Timestamp) -> u64 {
        let book = self.book();
        let paid = digests.iter().filter(|digest| book.is_paid(digest, now)).count();
        u64::try_from(paid).unwrap_or(u64::MAX)
    }

    /// Takes one use of each call's approval, all or none; asks for those that nobody was asked about.
    pub fn settle(
        &self,
        pleas: &[Plea],
        now: Timestamp,
        mut draft: impl FnMut(usize) -> Approval,
    ) -> (Answer, Effects) {
        let mut book = self.book();
        let mut effects = Effects::default();
        for ended in book.due(now, EXPIRE_AT_ONCE) {
            book.put(ended);
        }
        let (mut ready, mut waiting) = (Vec::new(), Vec::new());
        for (at, plea) in pleas.iter().enumerate() {
            let standing = match book.look(&plea.digest, &plea.policy_text, now) {
                Standing::Outdated(id) => {
                    if let Some(ended) = book.end(id, Status::Void) {
                        book.put(ended.clone());
                        effects.voided.push(ended);
                    }
                    Standing::Unknown
                }
                other => other,
            };
            match standing {
                Standing::Denied(id) => {
                    return match book.get(id) {
                        Some(denied) => (Answer::Denied(Box::new(denied.clone())), effects),
                        None => (Answer::TooMany, effects),
                    };
                }
                Standing::Approved { id, .. } => ready.push(id),
                Standing::Pending(id) => waiting.extend(book.get(id).cloned()),
                Standing::Unknown | Standing::Outdated(_) => {
                    let asked = draft(at);
                    if book.has_room(asked.agent, &asked.owner, self.settings.limits)
                        == Err(TooMany)
                    {
                        return (Answer::TooMany, effects);
                    }
                    book.put(asked.clone());
                    waiting.push(asked.clone());
                    effects.requested.push(asked);
                }
            }
        }
        if !waiting.is_empty() {
            return (Answer::Pending(waiting), effects);
        }
        // Two equal calls in one batch share an approval: each takes a use of its own, or none does.
        let before: Vec<_> = ready.iter().filter_map(|id| book.get(*id).cloned()).collect();
        let mut used = Vec::new();
        for id in ready {
            let Some(next) = book.take(id, now) else {
                for approval in before {
                    book.restore(approval);
                }
                let pending = used.into_iter().collect();
                return (Answer::Pending(pending), effects);
            };
            book.put(next.clone());
            used.push(next);
        }
        (Answer::Used(used), effects)
    }

    /// Waits until a decision was made, at most for `patience`.
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

    /// Reports whether any of the approvals still waits for a person.
    pub fn any_pending(&self, ids: &[Uuid], now: Timestamp) -> bool {
        let book = self.book();
        ids.iter().filter_map(|id| book.get(*id)).any(|one| one.status_at(now) == Status::Pending)
    }

    /// Makes a person's decision; `announce` puts it on record first.
    pub fn decide(&self, id: Uuid, ruling: &Ruling, now: Timestamp) -> Result<Approval, Undecided> {
        let mut book = self.book();
        let decided = book.decide(id, ruling, now)?;
        book.put(decided.clone());
        drop(book);
        self.decided.notify_waiters();
        Ok(decided)
    }

    /// Checks a decision without making it.
    pub fn check(&self, id: Uuid, ruling: &Ruling, now: Timestamp) -> Result<Approval, Undecided> {
        self.book().decide(id, ruling, now)
    }

    fn end_where(&self, status: Status, of: impl Fn(&Approval) -> bool) -> Vec<Approval> {
        let mut book = self.book();
        let ids = book.open_ids(of);
        let ended: Vec<_> = ids.into_iter().filter_map(|id| book.end(id, status)).collect();
        for one in &ended {
            book.put(one.clone());
        }
        drop(book);
        self.decided.notify_waiters();
        ended
    }

    /// Voids the approvals of a session that was closed.
    pub fn end_session(&self, session: SessionId) -> Vec<Approval> {
        self.end_where(Status::Void, |one| one.session == session)
    }

    /// Voids the approvals of agents that were deactivated.
    pub fn end_agents(&self, agents: &[AgentId]) -> Vec<Approval> {
        self.end_where(Status::Void, |one| agents.contains(&one.agent))
    }

    /// Withdraws pending approvals whose client has left.
    pub fn withdraw(&self, ids: &[Uuid]) -> Vec<Approval> {
        self.end_where(Status::Withdrawn, |one| {
            one.status == Status::Pending && ids.contains(&one.id)
        })
    }

    /// Ends approvals whose time has passed; returns them for the record.
    pub fn expire(&self, now: Timestamp) -> Vec<Approval> {
        let mut book = self.book();
        let ended = book.due(now, EXPIRE_AT_ONCE);
        for one in &ended {
            book.put(one.clone());
        }
        ended
    }

    pub fn get(&self, id: Uuid) -> Option<Approval> {
        self.book().get(id).cloned()
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

#[cfg(test)]
mod tests;
