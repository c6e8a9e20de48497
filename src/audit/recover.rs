//! Recovery of a log after a crash, a power cut or a manual change.
//!
//! The log must end with a whole line before another is added. Bytes behind the last whole line are
//! set aside in a file of their own, never thrown away. A file that does not look like an audit log
//! at all is refused: it may be somebody's letter.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::de::IgnoredAny;
use uuid::Uuid;

use super::OpenError;
use super::chain::{Link, Seal};
use super::journal::OpenCall;
use super::log::Log;
use super::record::{self, Detail, Event};

/// Length of a damaged tail that may be set aside without a person's consent.
const MAX_TAIL_BYTES: u64 = 8 * 1_024 * 1_024;
/// Length of one read while the log is searched.
const READ_BYTES: usize = 1_024 * 1_024;

/// The last link of the log, and what was set aside to get there.
pub(super) struct Mended {
    pub(super) link: Option<Link>,
    /// True if the last line has no link, because it was written with `hash_chain = false`.
    unchained: bool,
    pub(super) event: Option<Event>,
}

/// Brings the log to the end of its last whole line.
pub(super) fn mend(log: &mut Log) -> Result<Mended, OpenError> {
    let failed = |log: &Log, source| OpenError::Io { path: log.path().to_owned(), source };
    let window = log.length.min(MAX_TAIL_BYTES);
    let from = log.length - window;
    let mut tail = vec![0; usize::try_from(window).unwrap_or_default()];
    log.read_at(&mut tail, from).map_err(|e| failed(log, e))?;
    let (whole, unchained, link) = whole_part(&tail);
    let (kept, torn) = tail.split_at_checked(whole).unwrap_or((&tail, &[]));
    if torn.is_empty() {
        return Ok(Mended { link, unchained, event: None });
    }
    let half_written = torn.starts_with(b"{\"timestamp\":\"") || torn.iter().all(|b| *b == 0);
    if kept.is_empty() && (from > 0 || !half_written) {
        return Err(OpenError::NotALog { path: log.path().to_owned() });
    }
    let aside = set_aside(log, torn).map_err(|e| failed(log, e))?;
    log.cut(log.length - torn.len() as u64).map_err(|e| failed(log, e))?;
    let event = Event {
        name: "torn_line_set_aside",
        detail: vec![
            ("file", Detail::Text(aside.to_string_lossy().into_owned())),
            ("bytes", Detail::Count(torn.len() as u64)),
            ("blake3", Detail::Text(blake3::hash(torn).to_hex().to_string())),
        ],
    };
    Ok(Mended { link, unchained, event: Some(event) })
}

/// Returns the length of the whole lines at the end of `tail`, the presence of a link in the last
/// one, and that link.
fn whole_part(tail: &[u8]) -> (usize, bool, Option<Link>) {
    let mut whole = memchr::memrchr(b'\n', tail).map_or(0, |at| at + 1);
    while let Some((line, start)) = last_line(tail, whole) {
        if let Some(seal) = Seal::read(line) {
            if seal.intact {
                return (whole, false, Some(seal.link));
            }
        } else if is_unchained(line) {
            return (whole, true, last_link(tail.get(..start).unwrap_or_default()));
        }
        whole = start;
    }
    (0, false, None)
}

/// The line that ends at `end`, without its newline, and where it starts.
fn last_line(tail: &[u8], end: usize) -> Option<(&[u8], usize)> {
    let line = tail.get(..end.checked_sub(1)?)?;
    let start = memchr::memrchr(b'\n', line).map_or(0, |at| at + 1);
    Some((line.get(start..)?, start))
}

/// A whole line that was written with `hash_chain = false`.
fn is_unchained(line: &[u8]) -> bool {
    record::request_id(line).is_some()
        && memchr::memmem::find(line, b",\"chain_record_hash\":\"").is_none()
        && serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

fn last_link(lines: &[u8]) -> Option<Link> {
    let mut end = lines.len();
    while let Some((line, start)) = last_line(lines, end) {
        if let Some(seal) = Seal::read(line).filter(|seal| seal.intact) {
            return Some(seal.link);
        }
        end = start;
    }
    None
}

/// Copies a torn piece to the first free `<file>.torn-<n>`.
fn set_aside(log: &Log, torn: &[u8]) -> io::Result<PathBuf> {
    for n in 1..10_000 {
        let mut name = log.path().to_owned().into_os_string();
        name.push(format!(".torn-{n}"));
        let path = PathBuf::from(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path);
        match file {
            Ok(mut file) => {
                file.write_all(torn)?;
                file.sync_all()?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many torn pieces lie beside the log"))
}

/// Decides where the chain goes on: where the log ends, or further if `known` says so, the furthest
/// of what the journal and the checkpoints remember. An empty log goes on where the newest closed
/// file ended.
pub(super) fn resume(
    mended: &Mended,
    closed: Option<Link>,
    known: Option<Link>,
) -> (Link, Option<Event>) {
    let log = mended.link.or(closed).unwrap_or(Link::GENESIS);
    let Some(known) = known else { return (log, None) };
    let altered =
        known.sequence > log.sequence || (known.sequence == log.sequence && known.hash != log.hash);
    if !altered {
        return (log, None);
    }
    if mended.unchained {
        return (known, None);
    }
    let event = Event {
        name: "log_tail_missing",
        detail: vec![
            ("reached_sequence", Detail::Count(known.sequence)),
            ("reached_hash", Detail::Text(known.hash.to_string())),
            ("found_sequence", Detail::Count(log.sequence)),
            ("found_hash", Detail::Text(log.hash.to_string())),
        ],
    };
    (known, Some(event))
}

/// Splits the journal's open calls into those with and those without a line in the log.
pub(super) fn sort_out(
    log: &Log,
    open: Vec<OpenCall>,
) -> io::Result<(Vec<OpenCall>, Vec<OpenCall>)> {
    let mut wanted: HashSet<Uuid> =
        open.iter().filter_map(|call| record::request_id(&call.line)).collect();
    let end = |call: &OpenCall| {
        if call.log_end.inode == log.identity() { call.log_end.length } else { 0 }
    };
    let from = open.iter().map(end).min().unwrap_or(log.length);
    let from = if from <= log.length { from } else { 0 };
    let mut missing = wanted.clone();
    each_line(log, from, |line| {
        if let Some(id) = record::request_id(line) {
            missing.remove(&id);
        }
    })?;
    wanted.retain(|id| !missing.contains(id));
    Ok(open.into_iter().partition(|call| {
        // A text that is no record cannot be put into the log.
        record::request_id(&call.line).is_none_or(|id| wanted.contains(&id))
    }))
}

fn each_line(log: &Log, from: u64, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    let mut held = Vec::new();
    let mut at = from;
    while at < log.length {
        let step = usize::try_from(log.length - at).unwrap_or(READ_BYTES).min(READ_BYTES);
        let kept = held.len();
        held.resize(kept + step, 0);
        log.read_at(held.get_mut(kept..).unwrap_or_default(), at)?;
        at += step as u64;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &held) {
            visit(held.get(start..end).unwrap_or_default());
            start = end + 1;
        }
        held.drain(..start);
    }
    Ok(())
}
