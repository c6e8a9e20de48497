//! The store in one SQLite file, owned by one thread.
//!
//! Requests queue for the thread, which commits all that wait in one transaction (group commit) and
//! answers each after the commit. Each request has a savepoint of its own, so one that fails takes
//! back only what it did itself.
//!
//! WAL with `synchronous = NORMAL`: a commit has reached the operating system before it is answered,
//! so it survives whatever happens to the process, `kill -9` included. A power cut or a crash of the
//! kernel can take the last commits with it, except for approvals, whose commits wait for the disk; the
//! file stays sound. The file is locked for as long as
//! it is open: a second process on it would count the same rate limits a second time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::backend::Backend;
use super::{
    Booked, Booking, Closing, Opened, Purge, Put, Replicas, Room, Settlement, StoreError,
    StoredAgent, StoredDelegations, StoredSession, TakenAway, before,
};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::approvals::{Approval, ApprovalStep, Digest};
use crate::firewall::continuation::Continuation;
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

mod approvals;
pub mod at_rest;
pub mod backup;
mod continuations;
mod file;
mod load;
mod rows;
mod seal;

pub use seal::SealKey;

/// Requests that may wait for the thread; later ones wait to be let in.
const QUEUE: usize = 1024;
/// Requests in one transaction at most, so that the first need not wait long for the last.
const BATCH: usize = 256;

#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    requests: mpsc::Sender<Request>,
    /// The last transaction failed, and none has written anything since.
    failing: Arc<AtomicBool>,
    /// Also known to the thread's connection; kept for readers on other threads.
    key: Option<SealKey>,
    /// Number of requests.
    #[cfg(test)]
    asked: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Work on the database of one request, run inside a savepoint.
type Work = Box<dyn FnOnce(Result<&Connection, Arc<rusqlite::Error>>) -> Outcome + Send>;

enum Request {
    Work(Work),
    /// A step that a power cut must not undo once it is answered.
    Lasting(Work),
    Close(oneshot::Sender<Result<(), StoreError>>),
    /// A copy of the file, some pages at a time.
    Copy(backup::Order),
    /// Outside of a transaction, as a step could not undo it.
    #[cfg(test)]
    RefuseWrites(bool, oneshot::Sender<()>),
}

type Answer = dyn FnOnce(Option<&Arc<rusqlite::Error>>);

/// Result of a step, held back until its transaction is committed.
struct Outcome {
    keep: bool,
    /// The file could not be written to.
    unavailable: bool,
    /// Takes the error of the commit, if it failed.
    answer: Box<Answer>,
}

impl Sqlite {
    pub(super) async fn open(path: PathBuf, key: Option<SealKey>) -> Result<Self, StoreError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let (opened, wait) = oneshot::channel();
        let (thread_key, thread_path) = (key.clone(), path.clone());
        let failing = Arc::new(AtomicBool::new(false));
        let thread_failing = Arc::clone(&failing);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || match file::open(&thread_path, thread_key.as_ref()) {
                Ok(db) => {
                    if opened.send(Ok(())).is_ok() {
                        serve(db, queue, &thread_failing);
                    }
                }
                Err(error) => {
                    // Nobody waits for the answer any more.
                    opened.send(Err(error)).ok();
                }
            })
            .map_err(StoreError::Thread)?;
        wait.await.unwrap_or(Err(StoreError::Stopped))?;
        Ok(Self {
            path,
            requests,
            failing,
            key,
            #[cfg(test)]
            asked: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(super) async fn sessions_in_batches(
        &self,
        cutoff: Timestamp,
        take: impl Fn(Vec<StoredSession>) + Send + Sync + 'static,
    ) -> Result<(), StoreError> {
        let key = self.key.clone();
        self.run(move |db| load::sessions(db, key.as_ref(), cutoff, &take)).await
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the file to a new one at `target`.
    pub(super) async fn back_up(
        &self,
        target: PathBuf,
        mark: backup::Mark,
    ) -> Result<(), StoreError> {
        let (done, wait) = oneshot::channel();
        let order = backup::Order { target, mark, done };
        self.requests.send(Request::Copy(order)).await.map_err(|_gone| StoreError::Stopped)?;
        wait.await.map_err(|_gone| StoreError::Stopped)?
    }

    /// Checks whether the file could not be written to when that was last tried.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    #[cfg(test)]
    pub(super) async fn refuse_writes(&self, refuse: bool) {
        let (done, wait) = oneshot::channel();
        self.requests.send(Request::RefuseWrites(refuse, done)).await.unwrap();
        wait.await.unwrap();
    }

    #[cfg(test)]
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Has the thread do one step and waits until it is committed.
    async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask(step, Request::Work).await
    }

    /// Has the thread do one step and waits until it is on the disk.
    async fn run_lastingly<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask(step, Request::Lasting).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        request: fn(Work) -> Request,
    ) -> Result<T, StoreError> {
        #[cfg(test)]
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (done, wait) = oneshot::channel();
        let step: Work = Box::new(move |db| {
            let result = match db {
                Ok(db) => step(db),
                Err(failed) => Err(StoreError::Commit(failed)),
            };
            Outcome {
                keep: result.is_ok(),
                unavailable: result.as_ref().is_err_and(is_unavailable),
                answer: Box::new(move |failed| {
                    let result = match failed {
                        Some(failed) if result.is_ok() => {
                            Err(StoreError::Commit(Arc::clone(failed)))
                        }
                        Some(_) | None => result,
                    };
                    // The caller may have gone; the step is done all the same.
                    done.send(result).ok();
                }),
            }
        });
        self.requests.send(request(step)).await.map_err(|_gone| StoreError::Stopped)?;
        wait.await.map_err(|_gone| StoreError::Stopped)?
    }
}

impl Backend for Sqlite {
    async fn close(&self) -> Result<(), StoreError> {
        let (closed, wait) = oneshot::channel();
        if self.requests.send(Request::Close(closed)).await.is_err() {
            return Ok(());
        }
        let outcome = wait.await.unwrap_or(Err(StoreError::Stopped));
        let thread = self.thread.lock().take();
        // The thread has answered and is past its last step; joining it does not wait.
        match thread.map(JoinHandle::join) {
            Some(Err(_panic)) => Err(StoreError::Stopped),
            Some(Ok(())) | None => outcome,
        }
    }

    async fn newest(&self, at: Timestamp) -> Result<Timestamp, StoreError> {
        self.run(move |db| rows::newest(db, at)).await
    }

    async fn agents(&self) -> Result<Vec<StoredAgent>, StoreError> {
        self.run(rows::agents).await
    }

    async fn tombstones(&self) -> Result<Vec<AgentId>, StoreError> {
        self.run(rows::tombstones).await
    }

    async fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        let agent = Arc::clone(agent);
        self.run(move |db| rows::insert_agent(db, &agent)).await
    }

    async fn set_trust(
        &self,
        id: AgentId,
        level: TrustLevel,
        above: u64,
    ) -> Result<Option<(u64, Replicas)>, StoreError> {
        let number = self.run(move |db| rows::set_trust(db, id, level, above)).await?;
        Ok(number.map(|number| (number, Replicas::default())))
    }

    async fn take_away(
        &self,
        taken: Vec<TakenAway>,
        at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        self.run(move |db| rows::take_away(db, &taken, at)).await?;
        Ok(Replicas::default())
    }

    async fn flag(&self, id: AgentId, count: u32, at: Timestamp) -> Result<(), StoreError> {
        self.run(move |db| rows::flag(db, id, count, at)).await
    }

    async fn purge(&self, purge: Purge, now: Timestamp) -> Result<Vec<AgentId>, StoreError> {
        self.run(move |db| rows::purge(db, &purge, now)).await
    }

    /// With one node, nobody comes in between a look and a change: the version says nothing.
    async fn delegations(&self) -> Result<StoredDelegations, StoreError> {
        Ok(StoredDelegations { all: self.run(rows::delegations).await?, version: 0 })
    }

    async fn put_delegation(
        &self,
        delegation: &Delegation,
        _version: u64,
    ) -> Result<u64, StoreError> {
        let delegation = delegation.clone();
        self.run(move |db| rows::put_delegation(db, &delegation)).await?;
        Ok(0)
    }

    async fn end_delegations(&self, ids: Vec<Uuid>) -> Result<(u64, Replicas), StoreError> {
        self.run(move |db| rows::end_delegations(db, &ids)).await?;
        Ok((0, Replicas::default()))
    }

    async fn sessions(&self, cutoff: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
        let all = Arc::new(Mutex::new(Vec::new()));
        let taking = Arc::clone(&all);
        let take = move |batch| {
            taking.lock().extend(batch);
        };
        self.sessions_in_batches(cutoff, take).await?;
        Ok(std::mem::take(&mut *all.lock()))
    }

    async fn insert_session(
        &self,
        order: &Arc<WorkOrder>,
        _cap: usize,
    ) -> Result<Opened, StoreError> {
        let order = Arc::clone(order);
        self.run(move |db| rows::insert_session(db, &order)).await?;
        Ok(Opened::Yes)
    }

    async fn book(&self, booking: Booking) -> Result<Booked, StoreError> {
        self.run(move |db| rows::book(db, booking)).await
    }

    async fn close_sessions(
        &self,
        closings: Vec<Closing>,
        at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        self.run(move |db| rows::close_sessions(db, &closings, at)).await?;
        Ok(Replicas::default())
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        self.run(move |db| rows::settle(db, &settlements)).await
    }

    async fn forget_sessions(
        &self,
        ids: Vec<SessionId>,
        now: Timestamp,
        retention_secs: u64,
    ) -> Result<(), StoreError> {
        let cutoff = before(now, retention_secs);
        self.run(move |db| rows::forget_sessions(db, &ids, cutoff)).await
    }

    async fn forget_ended(
        &self,
        now: Timestamp,
        retention_secs: u64,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let cutoff = before(now, retention_secs);
        self.run(move |db| rows::forget_ended(db, cutoff, limit)).await
    }

    async fn freezes(&self) -> Result<Vec<Arc<Freeze>>, StoreError> {
        self.run(rows::freezes).await
    }

    async fn freeze(&self, freeze: &Arc<Freeze>) -> Result<(), StoreError> {
        let freeze = Arc::clone(freeze);
        self.run(move |db| rows::freeze(db, &freeze)).await
    }

    async fn unfreeze(&self, id: Uuid) -> Result<bool, StoreError> {
        self.run(move |db| rows::unfreeze(db, id)).await
    }

    async fn approvals(&self) -> Result<Vec<Approval>, StoreError> {
        self.run(approvals::all).await
    }

    async fn find_approvals(&self, ids: Vec<Uuid>) -> Result<Vec<Approval>, StoreError> {
        self.run(move |db| approvals::find(db, &ids)).await
    }

    async fn put_approvals(
        &self,
        steps: Vec<ApprovalStep>,
        _room: Room,
    ) -> Result<Put, StoreError> {
        self.run_lastingly(move |db| approvals::put(db, &steps)).await
    }

    async fn forget_approvals(&self, ids: Vec<Uuid>, now: Timestamp) -> Result<(), StoreError> {
        self.run(move |db| approvals::forget(db, &ids, now)).await
    }

    async fn keep_continuation(
        &self,
        one: &Continuation,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let one = one.clone();
        self.run(move |db| continuations::keep(db, &one, now)).await
    }

    async fn take_continuation(&self, mark: Digest) -> Result<(bool, Replicas), StoreError> {
        let taken = self.run_lastingly(move |db| continuations::take(db, mark)).await?;
        Ok((taken, Replicas::default()))
    }

    async fn continuation(
        &self,
        mark: Digest,
        now: Timestamp,
    ) -> Result<Option<Continuation>, StoreError> {
        self.run(move |db| continuations::find(db, mark, now)).await
    }

    async fn continuations_of(
        &self,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Vec<Continuation>, StoreError> {
        self.run(move |db| continuations::of_session(db, session, now)).await
    }

    async fn admin_pairs(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        self.run(rows::admin_pairs).await
    }

    async fn keep_admin_pair(
        &self,
        pair: [u8; 32],
        at: Timestamp,
        most: u32,
    ) -> Result<(), StoreError> {
        self.run(move |db| rows::keep_admin_pair(db, &pair, at, most)).await
    }

    async fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        self.run(rows::revoked_tokens).await
    }

    async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Replicas, StoreError> {
        let token_id = token_id.to_owned();
        self.run(move |db| rows::revoke_token(db, &token_id, until, now)).await?;
        Ok(Replicas::default())
    }
}

/// The thread: takes what waits, does it in one transaction, answers; until closed, or until
/// nobody is left who could ask.
fn serve(db: Connection, mut queue: mpsc::Receiver<Request>, failing: &AtomicBool) {
    while let Some(first) = queue.blocking_recv() {
        let mut steps = Vec::new();
        let (mut lasting, mut close, mut copy) = (false, None, None);
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Work(step) => steps.push(step),
                Request::Lasting(step) => {
                    lasting = true;
                    steps.push(step);
                }
                Request::Close(closed) => close = Some(closed),
                Request::Copy(order) => copy = Some(order),
                #[cfg(test)]
                Request::RefuseWrites(refuse, done) => {
                    commit(&db, std::mem::take(&mut steps), failing);
                    db.pragma_update(None, "query_only", refuse).unwrap();
                    done.send(()).unwrap();
                }
            }
            let room = close.is_none() && copy.is_none() && steps.len() < BATCH;
            next = room.then(|| queue.try_recv().ok()).flatten();
        }
        commit_lastingly(&db, steps, failing, lasting);
        if let Some(order) = copy {
            close = backup::copy(&db, order, &mut queue, failing);
        }
        if let Some(closed) = close {
            queue.close();
            let outcome = db.close().map_err(|(_, error)| StoreError::Sql(error));
            closed.send(outcome).ok();
            return;
        }
    }
}

/// Runs the steps in one transaction, brought to the disk before it is answered if it is to last.
fn commit_lastingly(db: &Connection, steps: Vec<Work>, failing: &AtomicBool, lasting: bool) {
    if !lasting {
        return commit(db, steps, failing);
    }
    match db.pragma_update(None, "synchronous", "FULL") {
        Ok(()) => commit(db, steps, failing),
        Err(error) => refuse(steps, &Arc::new(error)),
    }
    // What stays at FULL is only slower.
    db.pragma_update(None, "synchronous", "NORMAL").ok();
}

/// Answers steps that are not done.
fn refuse(steps: Vec<Work>, error: &Arc<rusqlite::Error>) {
    for step in steps {
        (step(Err(Arc::clone(error))).answer)(Some(error));
    }
}

/// Runs the steps in one transaction, then answers them.
fn commit(db: &Connection, steps: Vec<Work>, failing: &AtomicBool) {
    if steps.is_empty() {
        return;
    }
    let changes = db.total_changes();
    let mut outcomes = Vec::with_capacity(steps.len());
    let mut failed = execute(db, "BEGIN IMMEDIATE").err().map(Arc::new);
    for step in steps {
        let ready = match &failed {
            Some(error) => Err(Arc::clone(error)),
            None => execute(db, "SAVEPOINT step").map_err(Arc::new),
        };
        match ready {
            Ok(()) => {
                let outcome = step(Ok(db));
                let end = if outcome.keep {
                    execute(db, "RELEASE step")
                } else {
                    execute(db, "ROLLBACK TO step").and_then(|()| execute(db, "RELEASE step"))
                };
                failed = end.err().map(Arc::new);
                outcomes.push(outcome);
            }
            Err(error) => {
                outcomes.push(step(Err(Arc::clone(&error))));
                failed = Some(error);
            }
        }
    }
    if failed.is_none() {
        failed = execute(db, "COMMIT").err().map(Arc::new);
    }
    if failed.is_some() && !db.is_autocommit() {
        // If even this fails, the next BEGIN does too, and nothing is ever answered with success.
        execute(db, "ROLLBACK").ok();
    }
    // A transaction that wrote nothing says nothing of whether the next one can.
    if failed.is_some() || outcomes.iter().any(|outcome| outcome.unavailable) {
        failing.store(true, Ordering::Release);
    } else if db.total_changes() != changes {
        failing.store(false, Ordering::Release);
    }
    for outcome in outcomes {
        (outcome.answer)(failed.as_ref());
    }
}

/// Checks whether an error is the file's and not the question's.
fn is_unavailable(error: &StoreError) -> bool {
    let StoreError::Sql(error) = error else { return false };
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseCorrupt
        )
    )
}

fn execute(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute(()).map(drop)
}
