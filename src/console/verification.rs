//! Verification of the audit log's current file, in the background: one at a time, with its progress.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::audit::verify::{Options, Start, verify};
use crate::firewall::time::Timestamp;
use crate::saturate::SaturatingFrom as _;

/// Damages that a page shows.
const MAX_SHOWN: usize = 20;

/// The last verification.
#[derive(Debug, Default)]
pub(super) struct Verification {
    state: Mutex<LastRun>,
    read: AtomicU64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum LastRun {
    #[default]
    Never,
    Running {
        bytes: u64,
    },
    Done {
        at: Timestamp,
        outcome: Outcome,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Intact { bytes: u64, records: u64 },
    Damaged { findings: Vec<String>, more: u64 },
    Failed(String),
}

impl Verification {
    fn set(&self, state: LastRun) {
        *self.state.lock() = state;
    }

    /// Returns the state, and the number of bytes read so far.
    pub(super) fn state(&self) -> (LastRun, u64) {
        let state = self.state.lock().clone();
        (state, self.read.load(Ordering::Relaxed))
    }

    /// Returns a number that changes as a verification begins, goes on and ends.
    pub(super) fn progress(&self) -> u64 {
        match self.state() {
            (LastRun::Running { .. }, read) => read.saturating_add(1),
            (LastRun::Never | LastRun::Done { .. }, _) => 0,
        }
    }

    /// Starts to verify the first `bytes` of a log, unless that goes on already.
    pub(super) fn start(self: &Arc<Self>, log: PathBuf, bytes: u64, at: Timestamp) {
        let mut state = self.state.lock();
        if matches!(*state, LastRun::Running { .. }) {
            return;
        }
        *state = LastRun::Running { bytes };
        drop(state);
        self.read.store(0, Ordering::Relaxed);
        let work = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let outcome =
                work.verified(&log, bytes).unwrap_or_else(|e| Outcome::Failed(e.to_string()));
            work.set(LastRun::Done { at, outcome });
        });
    }

    fn verified(&self, log: &std::path::Path, bytes: u64) -> io::Result<Outcome> {
        let counted = Counted { inner: File::open(log)?.take(bytes), read: &self.read };
        // One thread: calls go first.
        let options = Options { start: Start::Anywhere, known: &[], threads: 1 };
        let report = verify(counted, &options)?;
        if report.is_intact() {
            return Ok(Outcome::Intact { bytes: report.bytes, records: report.records });
        }
        let shown = report.findings.iter().take(MAX_SHOWN);
        let findings = shown.map(|one| format!("line {}: {}", one.line, one.damage)).collect();
        let more = u64::saturating_from(report.findings.len().saturating_sub(MAX_SHOWN));
        Ok(Outcome::Damaged { findings, more: more.saturating_add(report.findings_left_out) })
    }
}

/// A reader that counts.
struct Counted<'c, R> {
    inner: R,
    read: &'c AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.fetch_add(u64::try_from(count).unwrap_or_default(), Ordering::Relaxed);
        Ok(count)
    }
}
