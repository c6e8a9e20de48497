//! Journals whose owner is gone: their calls are completed by whichever process starts next in their
//! folder.
//!
//! A killed process never comes back to its own journal if the log's path changes with the process (a
//! pod's name). So a start looks through its folder: a journal that nobody holds is opened with its
//! log as its owner would, which completes its calls in that log, under that chain; the journal is
//! then no longer needed and goes. The event in the log of this process names the other log's head,
//! so a tail cut off later is missed all the same.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use super::journal::{self, Peeked};
use super::record::{self, Detail, Event};
use super::{Audit, Head, OpenError, Rotation, Settings, beside, files};
use crate::clock::Clock;
use crate::saturate::SaturatingFrom as _;
use crate::telemetry::Causes;

const JOURNAL: &str = ".journal";

/// Calls that were admitted and have no line in the log yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// True while a process holds the journal: the calls may be under way.
    pub under_way: bool,
    pub calls: Vec<Uuid>,
}

/// Finds the calls in a log's journal that have no line in its files.
pub fn unfinished(log: &Path) -> io::Result<Unfinished> {
    let Some(Peeked { held, lines }) = journal::peek(&beside(log, JOURNAL))? else {
        return Ok(Unfinished::default());
    };
    let calls: Vec<Uuid> = lines.iter().filter_map(|line| record::request_id(line)).collect();
    let mut missing: HashSet<Uuid> = calls.iter().copied().collect();
    // The newest file first: that is where they are, if anywhere.
    for file in files::files_of(log)?.iter().rev() {
        if missing.is_empty() {
            break;
        }
        if !file.exists() {
            continue;
        }
        let mut reader = BufReader::with_capacity(1 << 20, files::open(file)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.ends_with(b"\n")
                && let Some(id) = record::request_id(&line)
            {
                missing.remove(&id);
            }
            line.clear();
        }
    }
    let calls = calls.into_iter().filter(|id| missing.contains(id)).collect();
    Ok(Unfinished { under_way: held, calls })
}

/// Completes the calls of every journal in the log's folder that nobody holds, and deletes the oldest
/// finished logs beyond the number of files to keep. The events are for the log of this process.
pub(super) fn adopt(settings: &Settings, clock: &Clock) -> Vec<Event> {
    let own = beside(&settings.path, JOURNAL);
    let folder = files::folder_of(&settings.path);
    let mut events = Vec::new();
    let entries = files::entries(folder).unwrap_or_default();
    let journals = entries.into_iter().filter(|path| *path != own && log_of(path).is_some());
    for path in journals {
        let Some(log) = log_of(&path) else { continue };
        match adopt_one(&path, &log, settings, clock) {
            Ok(event) => events.extend(event),
            // Another process is quicker, or has come back.
            Err(OpenError::InUse { .. }) => {}
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, error = %Causes(&error), "journal of another process could not be adopted");
            }
        }
    }
    events.extend(expire(settings));
    events
}

/// The log that a journal belongs to.
fn log_of(journal: &Path) -> Option<PathBuf> {
    let name = journal.file_name()?.to_str()?.strip_suffix(JOURNAL)?;
    (!name.is_empty()).then(|| journal.with_file_name(name))
}

fn adopt_one(
    journal: &Path,
    log: &Path,
    settings: &Settings,
    clock: &Clock,
) -> Result<Option<Event>, OpenError> {
    let failed = |source| OpenError::Io { path: journal.to_owned(), source };
    let Some(Peeked { held: false, lines }) = journal::peek(journal).map_err(failed)? else {
        return Ok(None);
    };
    if lines.is_empty() {
        // Its owner may come back to it; what keeps it is worth little after a while.
        if settings.rotation.keep_files > 0 && age_secs(journal) > ABANDONED_SECS {
            fs::remove_file(journal).map_err(failed)?;
        }
        return Ok(None);
    }
    let theirs = Settings {
        path: log.to_owned(),
        rotation: Rotation::default(),
        checkpoints: None,
        ..settings.clone()
    };
    let audit = Audit::open_alone(theirs, clock.clone(), Vec::new())?;
    let Head { sequence, hash, .. } = audit.head();
    audit.close();
    drop(audit);
    fs::remove_file(journal).map_err(failed)?;
    tracing::info!(log = %log.display(), calls = lines.len(), "calls of a process that is gone are completed");
    Ok(Some(Event {
        name: "journal_adopted",
        detail: vec![
            ("log", Detail::Text(log.display().to_string())),
            ("calls", Detail::Count(u64::saturating_from(lines.len()))),
            ("head_sequence", Detail::Count(sequence)),
            ("head_hash", Detail::Text(hash)),
        ],
    }))
}

/// A journal without calls is its owner's for this long.
const ABANDONED_SECS: u64 = 86_400;

fn age_secs(path: &Path) -> u64 {
    let modified = fs::metadata(path).and_then(|file| file.modified());
    modified.ok().and_then(|at| at.elapsed().ok()).map_or(0, |age| age.as_secs())
}

/// Deletes the oldest files of logs that nobody writes any more, so that with the log's own closed
/// files no more than `keep_files` stay.
fn expire(settings: &Settings) -> Vec<Event> {
    if settings.rotation.keep_files == 0 {
        return Vec::new();
    }
    finished_files(&settings.path)
        .and_then(|files| {
            let keep = usize::saturating_from(settings.rotation.keep_files);
            let many = files.len().saturating_sub(keep);
            files.into_iter().take(many).map(|(_, file)| expire_one(&file)).collect()
        })
        .unwrap_or_else(|error| {
            tracing::warn!(error = %Causes(&error), "finished audit logs are not deleted; tried again at the next start");
            Vec::new()
        })
}

/// The files of all logs in the folder that have no journal, oldest first.
fn finished_files(own: &Path) -> io::Result<Vec<(SystemTime, PathBuf)>> {
    let mut finished = Vec::new();
    for log in files::logs_in(files::folder_of(own))? {
        if log == own || beside(&log, JOURNAL).exists() {
            continue;
        }
        for file in files::files_of(&log)? {
            if let Ok(metadata) = fs::metadata(&file) {
                finished.push((metadata.modified()?, file));
            }
        }
    }
    finished.sort();
    Ok(finished)
}

fn expire_one(file: &Path) -> io::Result<Event> {
    let bytes = fs::metadata(file)?.len();
    fs::remove_file(file)?;
    tracing::info!(file = %file.display(), "finished audit log was deleted");
    Ok(Event {
        name: "finished_log_deleted",
        detail: vec![
            ("file", Detail::Text(file.display().to_string())),
            ("bytes", Detail::Count(bytes)),
        ],
    })
}
