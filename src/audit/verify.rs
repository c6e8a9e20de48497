//! Checks a whole log: threads take turns to read a piece, and check it while others read.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::thread;

use parking_lot::Mutex;

use super::chain::{Damage, Finding, Link, Walk};
use super::files::LogFile;

/// Length of one read, small enough to stay in the processor's cache until it is checked.
const PIECE_BYTES: usize = 512 * 1_024;
/// Number of lines that are hashed together.
const LINES_AT_ONCE: usize = 512;
/// A line longer than this is damage, not something to keep in memory.
const MAX_LINE_BYTES: usize = 64 * 1_024 * 1_024;

/// Expected beginning of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first record there ever was.
    Genesis,
    /// Anywhere: earlier files are not at hand.
    Anywhere,
    /// Right behind this link, the last of an earlier file.
    After(Link),
}

#[derive(Clone, Copy, Debug)]
pub struct Options<'k> {
    pub start: Start,
    /// Links that are known to have been reached, sorted by their sequence: an earlier end or
    /// another hash is damage.
    pub known: &'k [Link],
    pub threads: usize,
}

/// Result of a verification.
#[derive(Clone, Debug)]
pub struct Report {
    pub bytes: u64,
    pub lines: u64,
    pub records: u64,
    pub first_sequence: Option<u64>,
    /// Predecessor named by the first record.
    before: Option<Link>,
    /// Set if earlier records are missing because the node has deleted their files: the last of them.
    pub deleted_through: Option<Link>,
    /// Ends of record ranges that the node reports as deleted.
    deleted: Vec<Link>,
    /// The last record's place in the chain.
    pub head: Option<Link>,
    /// Every damage, up to a bound, and how many more there were.
    pub findings: Vec<Finding>,
    pub findings_left_out: u64,
    /// Number of known links found in the log.
    pub known_met: u64,
}

impl Report {
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty()
    }
}

/// One of a log's files and what was found in it.
#[derive(Clone, Debug)]
pub struct FileReport {
    pub path: PathBuf,
    pub report: Report,
}

/// Reads a log's files in their order, as one chain.
pub fn verify_files(files: &[LogFile], options: &Options<'_>) -> io::Result<Vec<FileReport>> {
    let mut start = options.start;
    let mut reports: Vec<FileReport> = Vec::new();
    for file in files {
        let report = read(file.open()?, &Options { start, ..*options })?;
        start = report.head.map_or(start, Start::After);
        reports.push(FileReport { path: file.path.clone(), report });
    }
    let deleted: Vec<Link> =
        reports.iter().flat_map(|file| file.report.deleted.iter().copied()).collect();
    if let Some(first) = reports.iter_mut().find(|file| file.report.head.is_some()) {
        check_start(&mut first.report, &deleted, options);
    }
    let reached = reports.iter().rev().find_map(|file| file.report.head);
    if let Some(last) = reports.last_mut() {
        check_end(&mut last.report, reached, options.known);
    }
    Ok(reports)
}

/// Reads a log to its end and checks every line and every link.
pub fn verify(log: impl Read + Send, options: &Options<'_>) -> io::Result<Report> {
    let mut report = read(log, options)?;
    let deleted = std::mem::take(&mut report.deleted);
    check_start(&mut report, &deleted, options);
    let reached = report.head;
    check_end(&mut report, reached, options.known);
    Ok(report)
}

/// Checks that the log starts with the first record ever, or where the node deleted earlier ones.
fn check_start(report: &mut Report, deleted: &[Link], options: &Options<'_>) {
    let Some(found) = report.first_sequence.filter(|_| options.start == Start::Genesis) else {
        return;
    };
    if report.before == Some(Link::GENESIS) {
        return;
    }
    report.deleted_through = report.before.filter(|before| deleted.contains(before));
    if report.deleted_through.is_none() {
        report.findings.push(Finding { line: 1, damage: Damage::MissingStart { found } });
        report.findings.sort_by_key(|finding| finding.line);
    }
}

/// Checks that the log reaches the point that it is known to have reached.
fn check_end(report: &mut Report, reached: Option<Link>, known: &[Link]) {
    let found = reached.map_or(0, |link| link.sequence);
    if let Some(last) = known.last().filter(|last| last.sequence > found) {
        let damage = Damage::MissingTail { expected: last.sequence, found };
        report.findings.push(Finding { line: report.lines, damage });
    }
}

fn read(log: impl Read + Send, options: &Options<'_>) -> io::Result<Report> {
    let before = match options.start {
        Start::Genesis | Start::Anywhere => None,
        Start::After(link) => Some(link),
    };
    let pieces = Mutex::new(Pieces::of(log));
    let joined = Mutex::new(Joined::after(before, options.known));
    let work = || check_pieces(&pieces, &joined, options.known);
    thread::scope(|scope| {
        let more = 1..options.threads;
        // With fewer threads than asked for it takes longer, that is all.
        let others: Vec<_> =
            more.filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let mine = work();
        let failed = |_| Err(io::Error::other("a thread that checked the log has panicked"));
        let others = others.into_iter().map(|other| other.join().unwrap_or_else(failed));
        others.fold(mine, Result::and)
    })?;
    let pieces = pieces.into_inner();
    let mut walk = joined.into_inner().walk;
    if !pieces.rest.is_empty() {
        walk.lines += 1;
        walk.note(walk.lines, Damage::TruncatedTail);
    }
    // Where pieces are joined, the first line with a seal is looked at before lines without one.
    walk.findings.sort_by_key(|finding| finding.line);
    let head = walk.first().and_then(|_| walk.last());
    Ok(Report {
        bytes: pieces.bytes,
        lines: walk.lines,
        records: walk.records,
        first_sequence: walk.first().map(|seal| seal.link.sequence),
        before: walk.first().and_then(|seal| seal.before()),
        deleted_through: None,
        deleted: walk.deleted,
        head,
        findings: walk.findings,
        findings_left_out: walk.findings_left_out,
        known_met: walk.known_met,
    })
}

/// Cuts a log into pieces of whole lines, and counts them.
struct Pieces<R> {
    log: R,
    /// The start of a line whose end has not been read.
    rest: Vec<u8>,
    bytes: u64,
    handed_out: u64,
    ended: bool,
}

impl<R: Read> Pieces<R> {
    fn of(log: R) -> Self {
        Self { log, rest: Vec::new(), bytes: 0, handed_out: 0, ended: false }
    }

    /// Fills `piece` with the next lines and says which piece that is; none at the end.
    fn next(&mut self, piece: &mut Vec<u8>) -> io::Result<Option<u64>> {
        piece.clear();
        piece.append(&mut self.rest);
        while !self.ended {
            let searched = piece.len();
            piece.reserve(PIECE_BYTES);
            let read = (&mut self.log).take(PIECE_BYTES as u64).read_to_end(piece);
            // After an error nobody reads on.
            self.ended = !matches!(read, Ok(1..));
            self.bytes += read? as u64;
            let new = piece.get(searched..).unwrap_or_default();
            let end = match memchr::memrchr(b'\n', new) {
                Some(at) => searched + at + 1,
                None if piece.len() > MAX_LINE_BYTES => piece.len(),
                None => continue,
            };
            self.rest.extend_from_slice(piece.get(end..).unwrap_or_default());
            piece.truncate(end);
            self.handed_out += 1;
            return Ok(Some(self.handed_out - 1));
        }
        self.rest.append(piece);
        Ok(None)
    }
}

/// Results of the pieces, joined in order.
struct Joined<'k> {
    walk: Walk<'k>,
    /// Number of joined pieces.
    pieces: u64,
    /// Pieces that were done before the one in front of them.
    early: BTreeMap<u64, Walk<'k>>,
}

impl<'k> Joined<'k> {
    fn after(before: Option<Link>, known: &'k [Link]) -> Self {
        Self { walk: Walk::new(before, known), pieces: 0, early: BTreeMap::new() }
    }

    fn put(&mut self, number: u64, walk: Walk<'k>) {
        self.early.insert(number, walk);
        while let Some(next) = self.early.remove(&self.pieces) {
            self.walk.absorb(next);
            self.pieces += 1;
        }
    }
}

/// One thread's work: takes the next piece, checks it, until there is none.
fn check_pieces<'k>(
    pieces: &Mutex<Pieces<impl Read>>,
    joined: &Mutex<Joined<'k>>,
    known: &'k [Link],
) -> io::Result<()> {
    let mut piece = Vec::new();
    loop {
        let next = pieces.lock().next(&mut piece)?;
        let Some(number) = next else { return Ok(()) };
        let walk = walk(&piece, known);
        joined.lock().put(number, walk);
    }
}

fn walk<'k>(piece: &[u8], known: &'k [Link]) -> Walk<'k> {
    let mut walk = Walk::new(None, known);
    let mut lines = Vec::with_capacity(LINES_AT_ONCE);
    let mut start = 0;
    let unended = !piece.ends_with(b"\n");
    for end in memchr::memchr_iter(b'\n', piece).chain(unended.then_some(piece.len())) {
        lines.push(piece.get(start..end).unwrap_or_default());
        start = end + 1;
        if lines.len() == LINES_AT_ONCE {
            walk.check(&lines);
            lines.clear();
        }
    }
    walk.check(&lines);
    walk
}

#[cfg(test)]
mod tests;
