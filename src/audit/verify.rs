//! Checks a whole log: reads it in big pieces, hashes its lines on several threads.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::chain::{Damage, Finding, HexHash, Link, Walk};
use super::files;

/// How much is read and shared out at a time.
const BLOCK_BYTES: usize = 8 * 1_024 * 1_024;
/// A line longer than this is damage, not something to keep in memory.
const MAX_LINE_BYTES: usize = 64 * 1_024 * 1_024;

/// Where the log is expected to begin.
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

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    pub bytes: u64,
    pub lines: u64,
    pub records: u64,
    pub first_sequence: Option<u64>,
    /// The last record's place in the chain.
    pub head: Option<Link>,
    /// Every damage, up to a bound, and how many more there were.
    pub findings: Vec<Finding>,
    pub findings_left_out: u64,
    /// How many of the known links the log has.
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
pub fn verify_files(
    paths: &[impl AsRef<Path>],
    options: &Options<'_>,
) -> io::Result<Vec<FileReport>> {
    let mut start = options.start;
    let mut reports: Vec<FileReport> = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let report = read(files::open(path)?, &Options { start, ..*options })?;
        start = report.head.map_or(start, Start::After);
        reports.push(FileReport { path: path.to_owned(), report });
    }
    let reached = reports.iter().rev().find_map(|file| file.report.head);
    if let Some(last) = reports.last_mut() {
        check_end(&mut last.report, reached, options.known);
    }
    Ok(reports)
}

/// Reads a log to its end and checks every line and every link.
pub fn verify(log: impl Read, options: &Options<'_>) -> io::Result<Report> {
    let mut report = read(log, options)?;
    let reached = report.head;
    check_end(&mut report, reached, options.known);
    Ok(report)
}

/// Whether the log got as far as it is known to have got.
fn check_end(report: &mut Report, reached: Option<Link>, known: &[Link]) {
    let found = reached.map_or(0, |link| link.sequence);
    if let Some(last) = known.last().filter(|last| last.sequence > found) {
        let damage = Damage::MissingTail { expected: last.sequence, found };
        report.findings.push(Finding { line: report.lines, damage });
    }
}

fn read(mut log: impl Read, options: &Options<'_>) -> io::Result<Report> {
    let before = match options.start {
        Start::Genesis | Start::Anywhere => None,
        Start::After(link) => Some(link),
    };
    let mut walk = Walk::new(before, options.known);
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut bytes = 0;
    loop {
        let wanted = BLOCK_BYTES as u64;
        let read = (&mut log).take(wanted).read_to_end(&mut block)?;
        bytes += read as u64;
        if read == 0 {
            break;
        }
        let end = match memchr::memrchr(b'\n', &block) {
            Some(at) => at + 1,
            None if block.len() > MAX_LINE_BYTES => block.len(),
            None => continue,
        };
        let (lines, _) = block.split_at_checked(end).unwrap_or((&block, &[]));
        walk.absorb(check(lines, options));
        block.drain(..end);
    }
    if !block.is_empty() {
        walk.lines += 1;
        walk.note(walk.lines, Damage::TruncatedTail);
    }
    if let (Start::Genesis, Some(first)) = (options.start, walk.first())
        && (first.link.sequence != 1 || first.previous != HexHash::ZERO)
    {
        walk.note(1, Damage::MissingStart { found: first.link.sequence });
    }
    let head = walk.first().and_then(|_| walk.last());
    Ok(Report {
        bytes,
        lines: walk.lines,
        records: walk.records,
        first_sequence: walk.first().map(|seal| seal.link.sequence),
        head,
        findings: walk.findings,
        findings_left_out: walk.findings_left_out,
        known_met: walk.known_met,
    })
}

/// Shares whole lines out among the threads and joins what they find.
fn check<'k>(lines: &[u8], options: &Options<'k>) -> Walk<'k> {
    let known = options.known;
    let shares = share_out(lines, options.threads.max(1));
    let Some((mine, others)) = shares.split_first() else { return Walk::default() };
    std::thread::scope(|scope| {
        let others: Vec<_> =
            others.iter().map(|share| (*share, scope.spawn(|| walk(share, known)))).collect();
        let mut whole = walk(mine, known);
        for (share, other) in others {
            // A thread that failed found nothing; what it had is checked here.
            whole.absorb(other.join().unwrap_or_else(|_| walk(share, known)));
        }
        whole
    })
}

fn share_out(mut lines: &[u8], shares: usize) -> Vec<&[u8]> {
    let size = lines.len().div_ceil(shares).max(1);
    let mut out = Vec::with_capacity(shares);
    while !lines.is_empty() {
        let from = size.min(lines.len()) - 1;
        let end = lines.get(from..).and_then(|rest| memchr::memchr(b'\n', rest));
        let end = end.map_or(lines.len(), |at| from + at + 1);
        let (share, rest) = lines.split_at_checked(end).unwrap_or((lines, &[]));
        out.push(share);
        lines = rest;
    }
    out
}

fn walk<'k>(lines: &[u8], known: &'k [Link]) -> Walk<'k> {
    let mut walk = Walk::new(None, known);
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', lines) {
        walk.line(lines.get(start..end).unwrap_or_default());
        start = end + 1;
    }
    if let Some(rest) = lines.get(start..).filter(|rest| !rest.is_empty()) {
        walk.line(rest);
    }
    walk
}

#[cfg(test)]
mod tests;
