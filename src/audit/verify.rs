//! Checks a whole log: reads it in big pieces, hashes its lines on several threads.

use std::io::{self, Read};

use super::chain::{Damage, Finding, HexHash, Link, Walk};

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
pub struct Options {
    pub start: Start,
    /// A link that is known to have been reached: a later end or another hash is damage.
    pub expected_head: Option<Link>,
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
}

impl Report {
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Reads a log to its end and checks every line and every link.
pub fn verify(mut log: impl Read, options: &Options) -> io::Result<Report> {
    let mut walk = match options.start {
        Start::Genesis | Start::Anywhere => Walk::default(),
        Start::After(link) => Walk::after(link),
    };
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut bytes = 0;
    let mut expected_hash_met = false;
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
        if let Some(expected) = options.expected_head {
            expected_hash_met |= memchr::memmem::find(lines, &seal_of(&expected)).is_some();
        }
        walk.absorb(check(lines, options.threads));
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
    if let Some(expected) = options.expected_head {
        let found = walk.last().map_or(0, |link| link.sequence);
        if found < expected.sequence {
            walk.note(walk.lines, Damage::MissingTail { expected: expected.sequence, found });
        } else if !expected_hash_met {
            walk.note(walk.lines, Damage::OtherHead { expected: expected.sequence });
        }
    }
    Ok(Report {
        bytes,
        lines: walk.lines,
        records: walk.records,
        first_sequence: walk.first().map(|seal| seal.link.sequence),
        head: walk.last(),
        findings: walk.findings,
        findings_left_out: walk.findings_left_out,
    })
}

/// How a line with this link ends.
fn seal_of(link: &Link) -> Vec<u8> {
    format!(",\"chain_record_hash\":\"{}\"}}\n", link.hash).into_bytes()
}

/// Shares whole lines out among the threads and joins what they find.
fn check(lines: &[u8], threads: usize) -> Walk {
    let shares = share_out(lines, threads.max(1));
    let Some((mine, others)) = shares.split_first() else { return Walk::default() };
    std::thread::scope(|scope| {
        let others: Vec<_> =
            others.iter().map(|share| (*share, scope.spawn(|| walk(share)))).collect();
        let mut whole = walk(mine);
        for (share, other) in others {
            // A thread that failed found nothing; what it had is checked here.
            whole.absorb(other.join().unwrap_or_else(|_| walk(share)));
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

fn walk(lines: &[u8]) -> Walk {
    let mut walk = Walk::default();
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
