//! The store in one SQLite file, owned by one thread.
//!
//! Requests queue for the thread, which commits all that wait in one transaction (group commit) and
//! answers each after the commit. Each request has a savepoint of its own, so one that fails takes
//! back only what it did itself.
//!
//! WAL with `synchronous = NORMAL`: a commit has reached the operating system before it is answered,
//! so it survives whatever happens to the process, `kill -9` included. A power cut or a crash of the
//! kernel can take the last commits with it; the file stays sound. The file is locked for as long as
//! it is open: a second process on it would count the same rate limits a second time.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{Booked, Booking, Closing, Opened, Settlement, StoreError, StoredSession};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

pub mod at_rest;
mod file;
mod load;
mod rows;
mod seal;

pub use seal::SealKey;

/// Requests that may wait for the thread; whoever comes later waits to be let in.
const QUEUE: usize = 1024;
/// Requests in one transaction at most, so that the first need not wait long for the last.
const BATCH: usize = 256;

#[derive(Debug)]
pub struct Sqlite {
    requests: mpsc::Sender<Request>,
    /// Also known to the thread's connection; kept for those who read beside it.
    key: Option<SealKey>,
    /// Number of requests.
    #[cfg(test)]
    asked: std::sync::atomic::AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One step on the database, run inside a savepoint.
type Step = Box<dyn FnOnce(Result<&Connection, Arc<rusqlite::Error>>) -> Outcome + Send>;

enum Request {
    Step(Step),
    Close(oneshot::Sender<Result<(), StoreError>>),
    /// Outside of a transaction, as a step could not undo it.
    #[cfg(test)]
    RefuseWrites(bool, oneshot::Sender<()>),
}

type Answer = dyn FnOnce(Option<&Arc<rusqlite::Error>>);

/// Result of a step, held back until its transaction is committed.
struct Outcome {
    keep: bool,
    /// Takes the error of the commit, if it failed.
    answer: Box<Answer>,
}

impl Sqlite {
    pub(super) async fn open(path: PathBuf, key: Option<SealKey>) -> Result<Self, StoreError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let (opened, wait) = oneshot::channel();
        let thread_key = key.clone();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || match file::open(&path, thread_key.as_ref()) {
                Ok(db) => {
                    if opened.send(Ok(())).is_ok() {
                        serve(db, queue);
                    }
                }
                Err(error) => {
                    // Nobody waits any more: nothing to tell.
                    opened.send(Err(error)).ok();
                }
            })
            .map_err(StoreError::Thread)?;
        wait.await.unwrap_or(Err(StoreError::Stopped))?;
        Ok(Self {
            requests,
            key,
            #[cfg(test)]
            asked: std::sync::atomic::AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(super) async fn close(&self) -> Result<(), StoreError> {
        let (closed, wait) = oneshot::channel();
        if self.requests.send(Request::Close(closed)).await.is_err() {
            return Ok(());
        }
        let outcome = wait.await.unwrap_or(Err(StoreError::Stopped));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The thread has answered and is past its last step; joining it does not wait.
        match thread.map(JoinHandle::join) {
            Some(Err(_panic)) => Err(StoreError::Stopped),
            Some(Ok(())) | None => outcome,
        }
    }

    pub(super) async fn admin_pairs(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        self.run(rows::admin_pairs).await
    }

    pub(super) async fn keep_admin_pair(
        &self,
        pair: [u8; 32],
        at: Timestamp,
        most: u32,
    ) -> Result<(), StoreError> {
        self.run(move |db| rows::keep_admin_pair(db, &pair, at, most)).await
    }

    pub(super) async fn agents(&self) -> Result<Vec<Arc<Agent>>, StoreError> {
        self.run(rows::agents).await
    }

    pub(super) async fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        let agent = Arc::clone(agent);
        self.run(move |db| rows::insert_agent(db, &agent)).await
    }

    pub(super) async fn set_trust(
        &self,
        levels: Vec<(AgentId, TrustLevel)>,
    ) -> Result<(), StoreError> {
        self.run(move |db| rows::set_trust(db, &levels)).await
    }

    pub(super) async fn deactivate(&self, agents: Vec<AgentId>) -> Result<(), StoreError> {
        self.run(move |db| rows::deactivate(db, &agents)).await
    }

    pub(super) async fn delegations(&self) -> Result<Vec<Delegation>, StoreError> {
        self.run(rows::delegations).await
    }

    pub(super) async fn insert_delegation(&self, delegation: Delegation) -> Result<(), StoreError> {
        self.run(move |db| rows::insert_delegation(db, &delegation)).await
    }

    pub(super) async fn sessions(
        &self,
        cutoff: Timestamp,
    ) -> Result<Vec<StoredSession>, StoreError> {
        let all = Arc::new(Mutex::new(Vec::new()));
        let taking = Arc::clone(&all);
        let take = move |batch| {
            taking.lock().unwrap_or_else(PoisonError::into_inner).extend(batch);
        };
        self.sessions_in_batches(cutoff, take).await?;
        Ok(std::mem::take(&mut *all.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(super) async fn sessions_in_batches(
        &self,
        cutoff: Timestamp,
        take: impl Fn(Vec<StoredSession>) + Send + Sync + 'static,
    ) -> Result<(), StoreError> {
        let key = self.key.clone();
        self.run(move |db| load::sessions(db, key.as_ref(), cutoff, &take)).await
    }

    pub(super) async fn insert_session(
        &self,
        order: &Arc<WorkOrder>,
    ) -> Result<Opened, StoreError> {
        let order = Arc::clone(order);
        self.run(move |db| rows::insert_session(db, &order)).await?;
        Ok(Opened::Yes)
    }

    pub(super) async fn book(&self, booking: Booking) -> Result<Booked, StoreError> {
        self.run(move |db| rows::book(db, booking)).await
    }

    pub(super) async fn close_sessions(
        &self,
        closings: Vec<Closing>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.run(move |db| rows::close_sessions(db, &closings, at)).await
    }

    pub(super) async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        self.run(move |db| rows::settle(db, &settlements)).await
    }

    pub(super) async fn forget_sessions(&self, ids: Vec<SessionId>) -> Result<(), StoreError> {
        self.run(move |db| rows::forget_sessions(db, &ids)).await
    }

    pub(super) async fn forget_ended(
        &self,
        cutoff: Timestamp,
        limit: u32,
    ) -> Result<usize, StoreError> {
        self.run(move |db| rows::forget_ended(db, cutoff, limit)).await
    }

    pub(super) async fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        self.run(rows::revoked_tokens).await
    }

    pub(super) async fn revoke_token(
        &self,
        token_id: String,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.run(move |db| rows::revoke_token(db, &token_id, until, now)).await
    }

    #[cfg(test)]
    pub(super) async fn refuse_writes(&self, refuse: bool) {
        let (done, wait) = oneshot::channel();
        self.requests.send(Request::RefuseWrites(refuse, done)).await.unwrap();
        wait.await.unwrap();
    }

    #[cfg(test)]
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Has the thread do one step and waits until it is committed.
    async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        #[cfg(test)]
        self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (done, wait) = oneshot::channel();
        let step: Step = Box::new(move |db| {
            let result = match db {
                Ok(db) => step(db),
                Err(failed) => Err(StoreError::Commit(failed)),
            };
            Outcome {
                keep: result.is_ok(),
                answer: Box::new(move |failed| {
                    let result = match failed {
                        Some(failed) if result.is_ok() => {
                            Err(StoreError::Commit(Arc::clone(failed)))
                        }
                        Some(_) | None => result,
                    };
                    // Whoever asked may have gone; the step is done all the same.
                    done.send(result).ok();
                }),
            }
        });
        self.requests.send(Request::Step(step)).await.map_err(|_gone| StoreError::Stopped)?;
        wait.await.map_err(|_gone| StoreError::Stopped)?
    }
}

/// The thread: takes what waits, does it in one transaction, answers; until told to close, or until
/// nobody is left who could ask.
fn serve(db: Connection, mut queue: mpsc::Receiver<Request>) {
    while let Some(first) = queue.blocking_recv() {
        let mut steps = Vec::new();
        let mut close = None;
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Step(step) => steps.push(step),
                Request::Close(closed) => close = Some(closed),
                #[cfg(test)]
                Request::RefuseWrites(refuse, done) => {
                    commit(&db, std::mem::take(&mut steps));
                    db.pragma_update(None, "query_only", refuse).unwrap();
                    done.send(()).unwrap();
                }
            }
            next =
                (close.is_none() && steps.len() < BATCH).then(|| queue.try_recv().ok()).flatten();
        }
        commit(&db, steps);
        if let Some(closed) = close {
            queue.close();
            let outcome = db.close().map_err(|(_, error)| StoreError::Sql(error));
            closed.send(outcome).ok();
            return;
        }
    }
}

/// Runs the steps in one transaction, then answers them.
fn commit(db: &Connection, steps: Vec<Step>) {
    if steps.is_empty() {
        return;
    }
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
    for outcome in outcomes {
        (outcome.answer)(failed.as_ref());
    }
}

fn execute(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute(()).map(drop)
}
