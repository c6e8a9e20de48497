//! The audit log: no call without a record, no record that can be changed unseen.
//!
//! # How a record comes about
//!
//! One line a request, in a file that only grows. An admitted call needs its decision on record
//! before anything goes upstream, and its outcome is known only much later; still both must be
//! in one line. So there are two files and two steps:
//!
//! 1. [`Audit::record_admitted`] writes the line, with the outcome `unknown`, to the **journal**: a small
//!    preallocated file `<log>.journal` of fixed slots ([`journal`]). With `durability = "write"`
//!    that is one positioned write from the call's own task; with `"sync"` the call also waits
//!    until the writer has brought the journal to the disk, once for all who wait.
//! 2. [`Receipt::complete`] hands the outcome to **one writer thread** ([`writer`]), which gives
//!    each line its place in the chain, adds a batch of lines to the log with one write, and only
//!    then notes in the journal that these calls' slots are free. Completing never waits and never
//!    fails: the slots bound how many calls are under way, and with it the writer's queue. A
//!    receipt that is dropped (a panic, a cancelled task) completes with the outcome `unknown`.
//!
//! Refusals and admin actions have no first step: [`Audit::record`] resolves when the line is in
//! the log.
//!
//! # What a crash leaves
//!
//! At the next start, calls that hold slots and have no line in the log get the line that the
//! journal has: an admitted call whose outcome was never learned. A call whose line was written
//! but not yet noted is found in the log by its request id. A line that was only half written is
//! set aside in `<log>.torn-<n>`, and a line says so; the journal also knows how far the chain had
//! got, so lines missing from the log's end are noticed ([`recover`]). The chain goes on.
//!
//! # What a failure does
//!
//! If the log or the journal cannot be written or synced, [`Audit::healthy`] is false and nothing
//! more is admitted. The half-written batch is cut off again, so that the chain has no gap;
//! completed calls are kept; the writer tries again every 250 ms and traffic resumes by itself. A
//! log that was deleted, replaced or resized from outside is noticed within a second, within 100 ms
//! of traffic, and before every record that somebody waits for; it is opened again, the chain goes
//! on, and a line says so. Requests that could not be recorded are counted, and the first line after is
//! an `audit_gap` with their number. With `require_healthy = false` such requests go through and are
//! counted the same way.
//!
//! An advisory lock on both files keeps a second process out.
//!
//! # Other files in the log's folder
//!
//! A log that is full or old is put aside as `<log>.000001`, `<log>.000002` and so on, each compressed if
//! that is asked for, and the chain goes on in an empty file ([`files`]). The oldest closed files are
//! deleted beyond a number, if one is set, and a record says so ([`retention`]). With a key, the node signs
//! every so often how far the chain has got, into `<log>.checkpoints`: who keeps what was signed can prove
//! a rewrite, a cut or a splice ([`checkpoint`]). Refusals of requests that nobody has proven to be his are
//! recorded one by one up to a rate and counted beyond it ([`flood`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::holder::Holder;
use crate::saturate::SaturatingFrom as _;

mod announce;
pub mod chain;
pub mod checkpoint;
mod compress;
pub mod files;
mod flood;
mod inbox;
pub mod index;
mod journal;
mod log;
pub mod orphans;
pub mod proof;
pub mod record;
mod recorder;
mod recover;
pub mod redact;
mod retention;
pub mod search;
mod settings;
mod signer;
mod start;
pub mod tree;
mod tree_blocks;
pub mod tree_file;
pub mod verify;
mod writer;

pub use announce::{By, Change, PendingChange};
use chain::Link;
pub use flood::Weight;
use inbox::Job;
use index::Index;
pub use record::{
    Approval, Completion, Decision, Detail, Draft, Entry, Event, HeadParts, Outcome, RequestHead,
};
use recorder::Line;
pub use recorder::Receipt;
use recorder::Recorder;
pub use redact::{Redacted, Redactor};
pub use settings::{CheckpointSettings, Durability, Rotation, Settings};
use tree_file::Proofs;
use writer::Writer;

/// The event of an admin request without the right key.
pub const ADMIN_UNAUTHORIZED: &str = "admin.unauthorized";

/// Reason why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("audit log `{}` is in use by {holder}", path.display())]
    InUse { path: PathBuf, holder: Holder },
    #[error("`{}` is not an audit log, or its end is damaged beyond repair", path.display())]
    NotALog { path: PathBuf },
    #[error("`{}` is not a journal of this version", path.display())]
    Journal { path: PathBuf },
    #[error("cannot open `{}` for the audit log", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("`audit.checkpoint_key_file` `{}` {problem}", path.display())]
    CheckpointKey { path: PathBuf, problem: String },
    #[error("cannot start the audit writer")]
    Thread(#[source] io::Error),
}

/// The log cannot take a record now; the request must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditUnavailable {
    #[error("the audit log cannot be written")]
    Unhealthy,
    #[error("too many requests wait for the audit log")]
    NoRoom,
}

/// Head of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last record's sequence; 0 before the first.
    pub sequence: u64,
    pub hash: String,
    pub healthy: bool,
}

/// The log of this node. Dropping it writes what was handed over and stops the writer.
pub struct Audit {
    /// `None` when auditing is switched off.
    shared: Option<Arc<Recorder>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Opens the log, puts in order what a crash has left, and starts the writer.
    pub fn open(settings: Settings, clock: Clock) -> Result<Self, OpenError> {
        if !settings.enabled {
            return Ok(Self { shared: None, writer: Mutex::default() });
        }
        let adopted = orphans::adopt(&settings, &clock);
        Self::open_alone(settings, clock, adopted)
    }

    /// Opens one log, whatever else lies in its folder.
    fn open_alone(settings: Settings, clock: Clock, events: Vec<Event>) -> Result<Self, OpenError> {
        let slots = settings.max_calls_in_flight;
        Self::start(start::prepare(settings, clock, slots, events)?)
    }

    fn start((shared, mut writer): (Arc<Recorder>, Writer)) -> Result<Self, OpenError> {
        // Once here, so that what a crash has left is in the log before the first call is.
        writer.work();
        let thread = std::thread::Builder::new().name("audit-writer".to_owned());
        let thread = thread.spawn(move || writer.run()).map_err(OpenError::Thread)?;
        Ok(Self { shared: Some(shared), writer: Mutex::new(Some(thread)) })
    }

    /// Reports whether records can be written now.
    pub fn healthy(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.healthy.load(Ordering::SeqCst))
    }

    pub fn head(&self) -> Head {
        let link = self.shared.as_ref().map_or(Link::GENESIS, |shared| *shared.link.lock());
        Head { sequence: link.sequence, hash: link.hash.to_string(), healthy: self.healthy() }
    }

    /// The file that is written; none when auditing is switched off.
    pub fn path(&self) -> Option<&Path> {
        self.shared.as_ref().map(|shared| shared.path.as_path())
    }

    /// Proofs that records are in the log.
    pub fn proofs(&self) -> Option<&Proofs> {
        self.shared.as_ref().map(|shared| &shared.proofs)
    }

    /// Places of the last records in the files.
    pub fn index(&self) -> Option<&Index> {
        self.shared.as_ref().map(|shared| &shared.index)
    }

    /// Damages found at the log's end when it was opened: a torn line, lines that were missing.
    pub fn tail_damage(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.tail_damage)
    }

    /// Lines written since the log was opened.
    pub fn records_written(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.written.load(Ordering::Relaxed))
    }

    /// Returns the number of disk syncs of journal or log; each serves all calls that wait by then.
    pub fn syncs(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.syncs.load(Ordering::Relaxed))
    }

    /// Bytes of the file that is being written.
    pub fn log_bytes(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.log_length.load(Ordering::Relaxed))
    }

    /// Slots of the journal, and how many of them no call holds.
    pub fn journal_slots(&self) -> (u64, u64) {
        let count = u64::saturating_from::<usize>;
        self.shared.as_ref().map_or((0, 0), |shared| {
            (u64::from(shared.journal.slots()), count(shared.journal.free_slots()))
        })
    }

    /// Puts the decision to let a call through on record. Nothing may go upstream before this.
    ///
    /// If it fails the call is refused, and its refusal goes to [`Audit::record`] like any other.
    pub async fn record_admitted(&self, entry: &Entry) -> Result<Receipt, AuditUnavailable> {
        let Some(shared) = &self.shared else { return Ok(Receipt { held: None }) };
        match shared.record_admitted(entry).await {
            Ok(held) => Ok(Receipt { held: Some(held) }),
            Err(AuditUnavailable::Unhealthy) if !shared.require_healthy => {
                shared.unrecorded.fetch_add(1, Ordering::SeqCst);
                Ok(Receipt { held: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the record of a request that has already ended; resolves when it is in the log.
    ///
    /// A request that cannot be recorded is counted, and the count is recorded later.
    pub async fn record(&self, entry: Entry, outcome: Outcome) -> Result<(), AuditUnavailable> {
        let weight = Weight::of(&entry);
        self.record_as(entry, outcome, weight).await
    }

    /// Writes the record of a refused request, or counts it, as `weight` says.
    pub async fn record_as(
        &self,
        entry: Entry,
        outcome: Outcome,
        weight: Weight,
    ) -> Result<(), AuditUnavailable> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let recorded = match shared.line(&entry, weight) {
            Line::Counted(agent) => shared.count(&entry, agent).await,
            Line::Own => shared.record(&entry, outcome).await,
        };
        let Err(error) = recorded else { return Ok(()) };
        shared.unrecorded.fetch_add(1, Ordering::SeqCst);
        if shared.require_healthy { Err(error) } else { Ok(()) }
    }

    /// Hands over the record of a request that ended undecided, where nobody can wait: it broke off,
    /// or a bug ended it. A record that cannot be taken is counted like any other.
    pub fn note(&self, entry: &Entry, outcome: Outcome, weight: Weight) {
        let Some(shared) = &self.shared else { return };
        let (written, _nobody_waits) = oneshot::channel();
        let taken = if let Line::Counted(agent) = shared.line(entry, weight) {
            shared.fold(entry, agent).is_ok()
        } else {
            let draft = Draft::new(entry, &shared.node_id, 0);
            self.healthy() && shared.inbox.push(Job::Record { draft, outcome, written })
        };
        if !taken {
            shared.unrecorded.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The last checkpoint, as it was signed; none without a key or before the first.
    pub fn checkpoint(&self) -> Option<String> {
        let shared = self.shared.as_ref()?;
        shared.latest_checkpoint.lock().clone()
    }

    /// Has the writer look at once which file has the log's name, and open it if it is not
    /// the one it writes to: for a log that an operator has moved away.
    pub async fn reopen(&self) -> Result<(), AuditUnavailable> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let (looked, wait) = oneshot::channel();
        if !shared.inbox.push(Job::Reopen { looked }) {
            return Err(AuditUnavailable::Unhealthy);
        }
        wait.await.map_err(|_gone| AuditUnavailable::Unhealthy)
    }

    /// Writes what was handed over and stops. Receipts completed later are found in the journal
    /// at the next start, with the outcome `unknown`.
    pub fn close(&self) {
        let writer = self.writer.lock().take();
        let (Some(shared), Some(writer)) = (&self.shared, writer) else { return };
        shared.inbox.close();
        if writer.join().is_err() {
            tracing::error!("audit writer has panicked");
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
