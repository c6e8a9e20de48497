//! The one thread that writes the log.
//!
//! It takes what has come in, gives each line its place in the chain, and writes them all at once.
//! The chain moves on only when the write has succeeded; when it has not, what was half written is
//! cut off again, completed calls are kept for later (the journal bounds them), and whoever waits
//! for a record is told no. Then it tries again by itself, until writing works.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use uuid::Uuid;

use super::chain::{self, Link};
use super::inbox::Job;
use super::journal::{Closed, Lease};
use super::log::{Fate, Log};
use super::record::{Completion, Decision, Detail, Draft, Entry, Event, Outcome};
use super::{Shared, recover};

/// At most this much goes out with one write.
const BATCH_BYTES: usize = 1_024 * 1_024;

pub(super) struct Writer {
    shared: Arc<Shared>,
    log: Log,
    closed: Closed,
    link: Link,
    /// What is to be written, in this order; what could not be written stays.
    pending: Vec<Job>,
    /// Leases whose lines are in the log, but not yet noted as such in the journal.
    settled: Vec<Lease>,
    buffer: Vec<u8>,
    was_healthy: bool,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        log: Log,
        closed: Closed,
        link: Link,
        pending: Vec<Job>,
        settled: Vec<Lease>,
    ) -> Self {
        let buffer = Vec::with_capacity(BATCH_BYTES);
        let writer =
            Self { shared, log, closed, link, pending, settled, buffer, was_healthy: true };
        writer.publish();
        writer
    }

    #[cfg(test)]
    pub(super) fn fault(&self) -> super::log::faults::Fault {
        self.log.fault.clone()
    }

    /// Writes until it is asked to stop.
    pub(super) fn run(mut self) {
        let _leaving = Leaving(Arc::clone(&self.shared));
        let shared = Arc::clone(&self.shared);
        while shared.inbox.collect(&mut self.pending, shared.healthy.load(Ordering::SeqCst)) {
            self.work();
        }
        self.pending.append(&mut shared.inbox.shut());
        self.work();
    }

    /// Writes what is pending, and notes whether it could.
    pub(super) fn work(&mut self) {
        match self.step() {
            Ok(()) => {
                if !self.was_healthy {
                    tracing::info!("audit log is written again");
                }
                self.was_healthy = true;
                self.shared.healthy.store(true, Ordering::SeqCst);
                // A call may have met a failing journal since it was looked at.
                if self.shared.journal_failed.load(Ordering::SeqCst) {
                    self.shared.healthy.store(false, Ordering::SeqCst);
                }
            }
            Err(error) => {
                self.shared.healthy.store(false, Ordering::SeqCst);
                if self.was_healthy {
                    tracing::error!(%error, "audit log cannot be written");
                }
                self.was_healthy = false;
                // Whoever waits for a record learns by the dropped sender that there is none.
                self.pending.retain(|job| match job {
                    Job::Line { .. } | Job::Ended { .. } | Job::Withdrawn { .. } => true,
                    Job::Record { .. } | Job::Sync { .. } => false,
                });
            }
        }
    }

    fn step(&mut self) -> io::Result<()> {
        if self.shared.journal.restore_if_lost()? {
            tracing::warn!("audit journal was gone and has been put back");
        }
        if self.shared.journal_failed.load(Ordering::SeqCst) {
            self.settle()?;
            self.shared.journal.sync()?;
            self.shared.journal_failed.store(false, Ordering::SeqCst);
        }
        self.sync_admissions()?;
        self.look_after_the_file()?;
        if !self.settled.is_empty() {
            self.settle()?;
        }
        while !self.pending.is_empty() || self.shared.unrecorded.load(Ordering::SeqCst) > 0 {
            self.batch()?;
        }
        Ok(())
    }

    /// Brings the journal to the disk once for all who wait for it.
    fn sync_admissions(&mut self) -> io::Result<()> {
        if !self.pending.iter().any(|job| matches!(job, Job::Sync { .. })) {
            return Ok(());
        }
        self.shared.journal.sync()?;
        for job in self.pending.extract_if(.., |job| matches!(job, Job::Sync { .. })) {
            if let Job::Sync { synced } = job {
                // Whoever has gone meanwhile gives the slots back on dropping the receipt.
                synced.send(()).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Opens the log again if it was taken away, and records that it was.
    fn look_after_the_file(&mut self) -> io::Result<()> {
        let (name, mended) = match self.log.fate() {
            Fate::Untouched => return Ok(()),
            Fate::Replaced => {
                // What stands there now becomes our log only when its end is in order.
                let mut log = Log::open(self.log.path()).map_err(io::Error::other)?;
                #[cfg(test)]
                log.fault.clone_from(&self.log.fault);
                let mended = recover::mend(&mut log).map_err(io::Error::other)?;
                self.log = log;
                ("log_replaced", mended)
            }
            Fate::Resized => {
                let before = self.log.length;
                self.log.accept_length()?;
                let mended = recover::mend(&mut self.log)
                    .inspect_err(|_| self.log.length = before)
                    .map_err(io::Error::other)?;
                ("log_resized", mended)
            }
        };
        tracing::warn!(event = name, "audit log was changed from outside");
        let event = Event {
            name,
            detail: vec![
                ("reached_sequence", Detail::Count(self.link.sequence)),
                ("found_sequence", Detail::Count(mended.link.map_or(0, |link| link.sequence))),
            ],
        };
        let events = mended.event.into_iter().chain([event]);
        let jobs: Vec<Job> = events.map(|event| event_line(&self.shared, event)).collect();
        self.pending.splice(..0, jobs);
        self.publish();
        Ok(())
    }

    /// Writes as many pending lines as fit in one write.
    fn batch(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.buffer.clear();
        let mut link = self.link;
        let mut lines = 0;
        let gap = shared.unrecorded.load(Ordering::SeqCst);
        if gap > 0 {
            let detail = vec![("count", Detail::Count(gap))];
            let line = event_line(&shared, Event { name: "audit_gap", detail });
            lines += put(&line, shared.hash_chain, &mut self.buffer, &mut link);
        }
        let mut taken = 0;
        for job in &self.pending {
            lines += put(job, shared.hash_chain, &mut self.buffer, &mut link);
            taken += 1;
            if self.buffer.len() >= BATCH_BYTES {
                break;
            }
        }
        if lines > 0 {
            self.log.append(&self.buffer, shared.durable)?;
        }
        self.link = link;
        shared.unrecorded.fetch_sub(gap, Ordering::SeqCst);
        shared.written.fetch_add(lines, Ordering::Relaxed);
        self.publish();
        for job in self.pending.drain(..taken) {
            match job {
                Job::Line { lease, .. } => self.settled.extend(lease),
                Job::Ended { lease, .. } | Job::Withdrawn { lease } => self.settled.push(lease),
                // Whoever has gone meanwhile does not need to know.
                Job::Record { written, .. } => written.send(()).unwrap_or_default(),
                Job::Sync { .. } => {}
            }
        }
        self.settle()
    }

    /// Notes in the journal what the log now has, and gives the slots back.
    fn settle(&mut self) -> io::Result<()> {
        self.shared.journal.close(&mut self.closed, &mut self.settled, &self.link)
    }

    /// Lets others see how far the log is.
    fn publish(&self) {
        let shared = &self.shared;
        // INVARIANT: the length goes first, so nobody pairs a new file with an old file's length.
        shared.log_length.store(self.log.length, Ordering::Release);
        shared.log_inode.store(self.log.inode, Ordering::Release);
        *shared.link.lock().unwrap_or_else(PoisonError::into_inner) = self.link;
    }
}

/// Adds a job's line to the batch; says how many lines that were.
fn put(job: &Job, hash_chain: bool, out: &mut Vec<u8>, link: &mut Link) -> u64 {
    let start = out.len();
    match job {
        Job::Line { line, .. } => out.extend_from_slice(line),
        Job::Ended { draft, outcome, .. } | Job::Record { draft, outcome, .. } => {
            draft.finish(outcome, out);
        }
        Job::Withdrawn { .. } | Job::Sync { .. } => return 0,
    }
    if hash_chain {
        *link = chain::seal(out, start, link);
    } else {
        out.push(b'}');
    }
    out.push(b'\n');
    1
}

/// A line about the log itself.
pub(super) fn event_line(shared: &Shared, event: Event) -> Job {
    let mut entry = Entry::new(shared.clock.now().wall, Uuid::new_v4(), Decision::Allow);
    entry.event = Some(event);
    let draft = Draft::new(&entry, &shared.node_id, 0);
    let mut line = Vec::new();
    let outcome = Outcome { completion: Completion::Completed, ..Outcome::default() };
    draft.finish(&outcome, &mut line);
    Job::Line { line, lease: None }
}

/// However the writer leaves, nobody waits for it in vain.
struct Leaving(Arc<Shared>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.healthy.store(false, Ordering::SeqCst);
        drop(self.0.inbox.shut());
    }
}
