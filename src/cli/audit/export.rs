//! `arbiter audit export`: records for others to keep, in their formats and over their transports.
//!
//! Records are handed over as they are in the log, redacted. A position is kept in a file after the
//! receiver has taken a batch, so that an export that is started again goes on where it was: nothing
//! is left out, and after a crash at most one batch is sent twice (each record has its
//! `chain_record_hash` to tell by).

#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value gives null for what it does not have, and panics never"
)]

mod format;
mod sink;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::followed::Followed;
use super::{Exit, Failure, chains, unreadable};
use sink::Sink;

/// Interval between looks at a log that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Records handed over together.
const BATCH: usize = 500;
/// Longest wait before a receiver that failed is tried again; the wait doubles each time up to this.
const MAX_WAIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The log's own lines.
    Jsonl,
    /// Open Cybersecurity Schema Framework 1.x, API Activity.
    Ocsf,
    /// Elastic Common Schema.
    Ecs,
    /// Common Event Format.
    Cef,
}

#[derive(Args, Debug)]
pub struct Export {
    /// A log (with its closed files), a folder of logs, or the files of one log in their order.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Format of the records.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Receiver: a file's path, tcp://host:port or tls://host:port (syslog, RFC 5425 framing), or
    /// http(s)://… (batches of lines by POST, with `ARBITER_EXPORT_TOKEN` as Bearer token if that is
    /// set). Standard output unless given.
    #[arg(long)]
    to: Option<String>,
    /// A PEM file of the authorities to trust with tls:// and https://, instead of the system's.
    #[arg(long, requires = "to")]
    ca_file: Option<PathBuf>,
    /// File that keeps the position up to which the receiver has acknowledged records.
    #[arg(long)]
    position: Option<PathBuf>,
    /// Go on as records are added. Takes one log.
    #[arg(long, short)]
    follow: bool,
}

impl Export {
    pub(super) async fn run(
        &self,
        token: Option<&str>,
        out: &mut dyn Write,
    ) -> Result<Exit, Failure> {
        let chains = chains(&self.files)?;
        let one = chains.len() == 1;
        if !one && (self.follow || self.position.is_some()) {
            return Err(Failure::usage("--follow and --position are for one log"));
        }
        let mut sink = Sink::open(self.to.as_deref(), self.ca_file.as_deref(), token, out)?;
        let mut state =
            Progress { format: self.format, after: self.read_position()?, sent: None, unread: 0 };
        if let Some([first, .., log] | [first @ log]) = chains.first().map(Vec::as_slice)
            && self.follow
        {
            let done = first.number.map_or(0, |number| number.saturating_sub(1));
            return self.follow(Followed::after(&log.path, done), &mut state, &mut sink).await;
        }
        for file in chains.iter().flatten() {
            let reader = file.open().map_err(|error| unreadable(&file.path, &error))?;
            self.lines(&mut BufReader::with_capacity(1 << 20, reader), &mut state, &mut sink)
                .await?;
        }
        Ok(Exit::Fine)
    }

    /// Hands over what there is and what comes, for ever.
    async fn follow(
        &self,
        mut log: Followed,
        state: &mut Progress,
        sink: &mut Sink<'_>,
    ) -> Result<Exit, Failure> {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            while let Some(mut added) =
                log.added().map_err(|error| unreadable(log.path(), &error))?
            {
                self.lines(&mut added, state, sink).await?;
            }
        }
    }

    /// Hands over what a reader has, in batches.
    async fn lines(
        &self,
        reader: &mut (impl BufRead + ?Sized),
        state: &mut Progress,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let (mut line, mut batch) = (Vec::new(), Vec::new());
        loop {
            line.clear();
            let read = reader
                .read_until(b'\n', &mut line)
                .map_err(|error| Failure::usage(format!("cannot read the log: {error}")))?;
            let whole = line.strip_suffix(b"\n");
            if let Some(text) = whole.and_then(|line| state.take(line)) {
                batch.push(text);
            }
            let ended = read == 0 || whole.is_none();
            if batch.len() >= BATCH || (ended && !batch.is_empty()) {
                self.hand_over(&batch, sink).await?;
                batch.clear();
                self.keep_position(state)?;
            }
            if ended {
                state.report_unread();
                return Ok(());
            }
        }
    }

    /// Waits until the receiver has a batch; one that cannot be reached is tried for ever only if the
    /// log is followed.
    async fn hand_over(&self, batch: &[Vec<u8>], sink: &mut Sink<'_>) -> Result<(), Failure> {
        let mut wait = Duration::from_millis(250);
        loop {
            match sink.send(batch, self.format).await {
                Ok(()) => return Ok(()),
                Err(failure) if self.follow && failure.exit == Exit::Unreachable => {
                    crate::cli::complain(&format!("{failure}; tried again"));
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(MAX_WAIT);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn read_position(&self) -> Result<Option<u64>, Failure> {
        let Some(path) = &self.position else { return Ok(None) };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let sequence = text.trim().parse().map_err(|_bad| {
                    let problem = format!("{} holds no position: remove it", path.display());
                    Failure::usage(problem)
                })?;
                Ok(Some(sequence))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(path, &error)),
        }
    }

    fn keep_position(&self, state: &mut Progress) -> Result<(), Failure> {
        let (Some(path), Some(sequence)) = (&self.position, state.sent) else { return Ok(()) };
        state.after = Some(sequence);
        write_whole(path, &format!("{sequence}\n"))
            .map_err(|error| Failure::usage(format!("cannot write {}: {error}", path.display())))
    }
}

/// Puts a text in a file's place as a whole.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut next = path.to_owned().into_os_string();
    next.push(".next");
    let mut file = File::create(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&next, path)
}

/// Progress of an export.
struct Progress {
    format: Format,
    /// The chain's sequence up to which the receiver has acknowledged everything.
    after: Option<u64>,
    sent: Option<u64>,
    /// Lines that are no records.
    unread: u64,
}

impl Progress {
    /// A line in its new form, unless it was handed over before.
    fn take(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let Ok(record) = serde_json::from_slice::<Value>(line) else {
            self.unread += 1;
            return None;
        };
        let sequence = record["chain_sequence"].as_u64();
        let done = self.sent.max(self.after);
        if let (Some(sequence), Some(done)) = (sequence, done) {
            if sequence <= done {
                return None;
            }
            report_missing(done, sequence);
        }
        self.sent = sequence.or(self.sent);
        Some(format::write(self.format, line, &record))
    }

    /// Reports lines that were left out, once for each reading.
    fn report_unread(&mut self) {
        let lines = std::mem::take(&mut self.unread);
        if lines > 0 {
            let problem = format!("left out {lines} lines that are no records: see `audit verify`");
            crate::cli::complain(&problem);
        }
    }
}

/// Reports that a file was deleted, or spoilt, before its records were handed over.
fn report_missing(done: u64, next: u64) {
    let (first, last) = (done.saturating_add(1), next.saturating_sub(1));
    if first <= last {
        let problem = format!("records {first} to {last} are not in the log: see `audit verify`");
        crate::cli::complain(&problem);
    }
}
