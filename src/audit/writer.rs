//! The one thread that writes the log.
//!
//! The writer takes what has come in, gives each line its place in the chain, and writes them all at once.
//! The chain moves on only when the write has succeeded; when it has not, what was half written is
//! cut off again, completed calls are kept for later (the journal bounds them), and whoever waits
//! for a record gets an error. Then it tries again by itself, until writing works.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::chain::{self, Link};
use super::compress::Compressor;
use super::inbox::Job;
use super::index::Placed;
use super::journal::{Closed, HeldSlots};
use super::log::{Fate, Log};
use super::record::{Completion, Decision, Detail, Draft, Entry, Event, Ids, Outcome};
use super::recorder::Recorder;
use super::retention::Retention;
use super::search::{self, LogPosition};
use super::signer::Signer;
use super::{Rotation, recover};
use crate::firewall::time::Mono;
use crate::saturate::SaturatingFrom as _;
use crate::telemetry::Causes;

/// At most this much goes out with one write.
const BATCH_BYTES: usize = 1_024 * 1_024;
/// Longest time in microseconds for which completed calls are written without a look at the files. A record
/// that somebody waits for is written after a look.
const LOOK_US: u64 = 100_000;
/// Pause after a failed rotation.
const ROTATE_AGAIN_SECS: u64 = 60;

pub(super) struct Writer {
    shared: Arc<Recorder>,
    log: Log,
    closed: Closed,
    link: Link,
    /// Pending writes, in order; failed writes stay.
    pending: Vec<Job>,
    /// Slots whose lines are in the log, but not yet noted as such in the journal.
    settled: Vec<HeldSlots>,
    /// Lines that are not closed yet.
    open: Vec<u8>,
    buffer: Vec<u8>,
    /// Ids of the lines in the buffer, and where each begins there.
    buffered: Vec<(Ids, usize)>,
    was_healthy: bool,
    /// Time of the last look at the files.
    looked: Option<Mono>,
    rotation: Rotation,
    rotate_not_before: Mono,
    compressor: Compressor,
    retention: Retention,
    signer: Option<Signer>,
    /// Nothing more will come.
    ending: bool,
}

/// Initial state of a writer.
pub(super) struct Begin {
    pub(super) shared: Arc<Recorder>,
    pub(super) log: Log,
    pub(super) closed: Closed,
    pub(super) link: Link,
    pub(super) pending: Vec<Job>,
    pub(super) settled: Vec<HeldSlots>,
    pub(super) rotation: Rotation,
    pub(super) signer: Option<Signer>,
}

impl Writer {
    pub(super) fn new(begin: Begin) -> Self {
        let Begin { shared, log, closed, link, pending, settled, rotation, signer } = begin;
        let mut writer = Self {
            shared,
            log,
            closed,
            link,
            pending,
            settled,
            open: Vec::new(),
            buffer: Vec::with_capacity(BATCH_BYTES),
            buffered: Vec::new(),
            was_healthy: true,
            looked: None,
            rotation,
            rotate_not_before: Mono(0),
            compressor: Compressor::default(),
            retention: Retention::new(rotation.keep_files),
            signer,
            ending: false,
        };
        if writer.rotation.compress {
            writer.compressor.start(writer.log.path());
        }
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
        self.ending = true;
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
                    tracing::error!(error = %Causes(&error), "audit log cannot be written");
                }
                self.was_healthy = false;
                // A task that waits for a record sees by the dropped sender that there is none.
                self.pending.retain(|job| match job {
                    Job::Line { .. } | Job::Ended { .. } | Job::Withdrawn { .. } => true,
                    Job::Record { .. } | Job::Sync { .. } | Job::Reopen { .. } => false,
                });
            }
        }
    }

    /// Reports whether it is time to look at which files have the names.
    fn looks(&self) -> bool {
        let waited_for =
            |job: &Job| matches!(job, Job::Line { .. } | Job::Record { .. } | Job::Reopen { .. });
        self.pending.is_empty()
            || self.looked.is_none_or(|looked| self.shared.clock.mono().since(looked) >= LOOK_US)
            || self.pending.iter().any(waited_for)
    }

    fn step(&mut self) -> io::Result<()> {
        let looks = self.looks();
        if looks && self.shared.journal.restore_if_lost()? {
            tracing::warn!("audit journal was gone and has been put back");
        }
        if self.shared.journal_failed.load(Ordering::SeqCst) {
            self.settle()?;
            self.shared.journal.sync()?;
            self.shared.journal_failed.store(false, Ordering::SeqCst);
        }
        self.sync_admissions()?;
        // Before the file is looked at: lines in one that is gone could not be found again.
        if !self.settled.is_empty() {
            self.settle()?;
        }
        if looks {
            self.looked = None;
            self.look_after_the_file()?;
            self.looked = Some(self.shared.clock.mono());
        }
        let asked = |job: &mut Job| matches!(job, Job::Reopen { .. });
        let waiting: Vec<Job> = self.pending.extract_if(.., asked).collect();
        self.rotate_if_due(0);
        let now = self.shared.clock.mono();
        let folded = self.shared.flood.ripe(now, self.ending, &self.shared.node_id);
        let folded = folded.into_iter().map(|(line, slots)| Job::Line { line, slots: Some(slots) });
        self.pending.extend(folded);
        self.choose_files_to_delete();
        while !self.pending.is_empty() || self.shared.unrecorded.load(Ordering::SeqCst) > 0 {
            self.batch()?;
        }
        if self.retention.has_chosen() {
            // The record of what goes outlasts what goes.
            self.log.sync()?;
            self.retention.delete(self.log.path());
        }
        self.sign_if_due(self.ending);
        for job in waiting {
            if let Job::Reopen { looked } = job {
                // A task that has gone meanwhile does not need the answer.
                looked.send(()).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Puts on record which closed files are too many; they go when the record is in the log.
    fn choose_files_to_delete(&mut self) {
        // A file that is being compressed would come back.
        if self.compressor.is_idle()
            && let Some(event) = self.retention.choose(self.log.path(), self.shared.hash_chain)
        {
            self.pending.push(event_line(&self.shared, event));
        }
    }

    fn sign_if_due(&mut self, at_the_end: bool) {
        if let Some(signer) = &mut self.signer {
            signer.look(self.link, self.shared.clock.now(), at_the_end);
        }
    }

    /// Puts the file aside if it is full or old. A rotation that fails refuses no call: the lines
    /// go on into the same file, and it is tried again later.
    fn rotate_if_due(&mut self, more_bytes: usize) {
        let Some(started) = self.log.started() else { return };
        let Rotation { bytes, secs, compress, keep_files: _ } = self.rotation;
        let full = bytes > 0 && self.log.length.saturating_add(more_bytes as u64) > bytes;
        if !full && secs == 0 {
            return;
        }
        let now = self.shared.clock.now();
        let old = secs > 0 && now.wall >= started.plus_secs(secs);
        if !(full || old) || now.mono < self.rotate_not_before {
            return;
        }
        // What the journal notes is on the disk first, so that after a power cut no line has to be
        // looked for in a file that is closed.
        match self.shared.journal.sync().and_then(|()| self.log.rotate()) {
            Ok(aside) => {
                tracing::info!(file = %aside.display(), "audit log was rotated");
                self.publish();
                self.retention.look_again();
                if compress {
                    self.compressor.start(self.log.path());
                }
            }
            Err(error) => {
                tracing::error!(error = %Causes(&error), "audit log was not rotated; it goes on in the same file");
                self.rotate_not_before = now.mono.plus_secs(ROTATE_AGAIN_SECS);
            }
        }
    }

    /// Brings the journal to the disk once for all who wait for it.
    fn sync_admissions(&mut self) -> io::Result<()> {
        if !self.pending.iter().any(|job| matches!(job, Job::Sync { .. })) {
            return Ok(());
        }
        self.shared.journal.sync()?;
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        for job in self.pending.extract_if(.., |job| matches!(job, Job::Sync { .. })) {
            if let Job::Sync { synced } = job {
                // A task that has gone meanwhile gives the slots back on dropping the receipt.
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
                // The file that is there now becomes the log only when its end is in order.
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
        self.shared.index.clear();
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
        self.buffered.clear();
        self.open.clear();
        let mut ends = Vec::new();
        let gap = shared.unrecorded.load(Ordering::SeqCst);
        if gap > 0 {
            let detail = vec![("count", Detail::Count(gap))];
            let line = event_line(&shared, Event { name: "audit_gap", detail });
            put_open(&line, &mut self.open);
            ends.push((None, self.open.len()));
        }
        let mut taken = 0;
        let pending = std::mem::take(&mut self.pending);
        for job in &pending {
            if put_open(job, &mut self.open) {
                ends.push((ids_of(job), self.open.len()));
            }
            taken += 1;
            if self.open.len() >= BATCH_BYTES {
                break;
            }
        }
        let lines = u64::saturating_from(ends.len());
        let mut hashes = Vec::new();
        let link = self.seal_all(&ends, &mut hashes);
        self.pending = pending;
        if lines > 0 {
            self.rotate_if_due(self.buffer.len());
            let (file, begin) = (self.log.number(), self.log.length);
            self.log.append(&self.buffer, shared.durable)?;
            shared.index.add(self.placed(file, begin));
            shared.syncs.fetch_add(u64::from(shared.durable), Ordering::Relaxed);
            if let Some(signer) = &mut self.signer {
                signer.written(self.link.sequence.saturating_add(1), &hashes);
            }
        }
        self.link = link;
        shared.unrecorded.fetch_sub(gap, Ordering::SeqCst);
        shared.written.fetch_add(lines, Ordering::Relaxed);
        self.publish();
        for job in self.pending.drain(..taken) {
            match job {
                Job::Line { slots, .. } => self.settled.extend(slots),
                Job::Ended { slots, .. } | Job::Withdrawn { slots } => self.settled.push(slots),
                // A task that has gone meanwhile does not need the answer.
                Job::Record { written, .. } => written.send(()).unwrap_or_default(),
                Job::Sync { .. } | Job::Reopen { .. } => {}
            }
        }
        self.settle()?;
        self.sign_if_due(false);
        Ok(())
    }

    /// Places of the lines in the buffer, which was written to a file from `begin` on.
    fn placed(&self, file: u64, begin: u64) -> impl Iterator<Item = Placed> {
        let ends = self.buffered.iter().skip(1).map(|(_, start)| *start);
        let ends = ends.chain([self.buffer.len()]);
        self.buffered.iter().zip(ends).map(move |((ids, start), end)| Placed {
            ids: *ids,
            position: LogPosition::new(file, begin.saturating_add(*start as u64)),
            length: u32::saturating_from(end - start - 1),
        })
    }

    /// Gives each open line its place in the chain, and puts all of them into the buffer.
    fn seal_all(&mut self, ends: &[(Option<Ids>, usize)], hashes: &mut Vec<[u8; 32]>) -> Link {
        let mut link = self.link;
        let starts = [0].into_iter().chain(ends.iter().map(|(_, end)| *end));
        let lines: Vec<&[u8]> = starts
            .zip(ends)
            .map(|(start, (_, end))| self.open.get(start..*end).unwrap_or_default())
            .collect();
        let hash_chain = self.shared.hash_chain;
        // A line alone has nobody to share the lanes with.
        let begun = if hash_chain && lines.len() > 1 { chain::begin(&lines) } else { Vec::new() };
        for (n, (line, (ids, _))) in lines.iter().zip(ends).enumerate() {
            let start = self.buffer.len();
            self.buffer.extend_from_slice(line);
            if hash_chain {
                let begun = begun.get(n).copied().unwrap_or_default();
                link = chain::seal_begun(&mut self.buffer, start, &link, begun);
            } else {
                self.buffer.push(b'}');
            }
            self.buffer.push(b'\n');
            let sealed = self.buffer.get(start..).unwrap_or_default();
            self.buffered.push((ids.unwrap_or_else(|| search::ids_of(sealed)), start));
            if self.signer.is_some() {
                hashes.push(link.hash.to_bytes());
            }
        }
        link
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
        shared.log_identity.store(self.log.identity(), Ordering::Release);
        *shared.link.lock() = self.link;
    }
}

/// Adds a job's line, not closed yet; false if it has none.
fn put_open(job: &Job, out: &mut Vec<u8>) -> bool {
    match job {
        Job::Line { line, .. } => out.extend_from_slice(line),
        Job::Ended { draft, outcome, .. } | Job::Record { draft, outcome, .. } => {
            draft.finish(outcome, out);
        }
        Job::Withdrawn { .. } | Job::Sync { .. } | Job::Reopen { .. } => return false,
    }
    true
}

/// Returns the ids of a job's line where they are known without reading it.
fn ids_of(job: &Job) -> Option<Ids> {
    match job {
        Job::Ended { draft, .. } | Job::Record { draft, .. } => Some(draft.ids()),
        Job::Line { .. } | Job::Withdrawn { .. } | Job::Sync { .. } | Job::Reopen { .. } => None,
    }
}

/// A line about the log itself.
pub(super) fn event_line(shared: &Recorder, event: Event) -> Job {
    let mut entry = Entry::new(shared.clock.now().wall, Uuid::new_v4(), Decision::Allow);
    entry.event = Some(Box::new(event));
    let draft = Draft::new(&entry, &shared.node_id, 0);
    let mut line = Vec::new();
    let outcome = Outcome { completion: Completion::Completed, ..Outcome::default() };
    draft.finish(&outcome, &mut line);
    Job::Line { line, slots: None }
}

/// Ends of the writer of any kind: nobody waits for it in vain.
struct Leaving(Arc<Recorder>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.healthy.store(false, Ordering::SeqCst);
        drop(self.0.inbox.shut());
    }
}
