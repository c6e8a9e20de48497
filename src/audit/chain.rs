//! The chain: how a line is tied to the one before it, and how each kind of damage shows.
//!
//! A sealed line ends with `,"chain_sequence":N,"chain_prev_hash":"…","chain_record_hash":"…"}`.
//! The record hash is BLAKE3 over the line's bytes up to `,"chain_record_hash"`, and so covers the
//! previous line's hash. Sequences start at 1, after a genesis link of sequence 0 and 64 zeros.

use std::fmt;

use crate::json::write::number;

mod lanes;

const SEQUENCE: &[u8] = b",\"chain_sequence\":";
const PREVIOUS: &[u8] = b",\"chain_prev_hash\":\"";
const RECORD: &[u8] = b",\"chain_record_hash\":\"";
const HEX: usize = 64;
/// More findings than these are counted, not kept.
const MAX_FINDINGS: usize = 100;
/// Records of deleted files kept when there are more: the last ones, since the others concern
/// earlier files.
const MAX_DELETED: usize = 16;

/// A lower-case hexadecimal BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HexHash([u8; HEX]);

impl HexHash {
    /// Predecessor named by the first line.
    pub const ZERO: Self = Self([b'0'; HEX]);

    pub fn of(bytes: &[u8]) -> Self {
        Self::from_bytes(*blake3::hash(bytes).as_bytes())
    }

    /// Reads 64 lower-case hexadecimal digits.
    pub fn read(text: &[u8]) -> Option<Self> {
        let hex = <[u8; HEX]>::try_from(text).ok()?;
        // Without an early end, so that all digits are looked at in a few wide steps.
        let digit = |b: &u8| u8::from(matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (hex.iter().fold(1, |good, b| good & digit(b)) == 1).then_some(Self(hex))
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let digit = |half: u8| if half < 10 { b'0' + half } else { b'a' - 10 + half };
        let mut hex = [b'0'; HEX];
        let (pairs, _) = hex.as_chunks_mut();
        for (pair, byte) in pairs.iter_mut().zip(bytes) {
            *pair = [digit(byte >> 4), digit(byte & 15)];
        }
        Self(hex)
    }

    /// The hash itself.
    pub fn to_bytes(&self) -> [u8; 32] {
        let hash = blake3::Hash::from_hex(self.0);
        // INVARIANT: each maker of a `HexHash` puts 64 hexadecimal digits into it.
        hash.map_or([0; 32], |hash| *hash.as_bytes())
    }

    pub fn as_bytes(&self) -> &[u8; HEX] {
        &self.0
    }
}

impl fmt::Display for HexHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for HexHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One line's place in the chain: its sequence and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub sequence: u64,
    pub hash: HexHash,
}

impl Link {
    /// Before the first line.
    pub const GENESIS: Self = Self { sequence: 0, hash: HexHash::ZERO };
}

/// Hashes of lines as far as they do not depend on the lines before them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Begun(Option<[u8; 32]>);

/// Begins to hash lines that are not closed yet, several at a time.
pub fn begin(lines: &[&[u8]]) -> Vec<Begun> {
    lanes::first_chunks(lines).into_iter().map(Begun).collect()
}

/// Closes the line that begins at `start` and ties it to `before`; writes no newline.
pub fn seal(out: &mut Vec<u8>, start: usize, before: &Link) -> Link {
    seal_begun(out, start, before, Begun::default())
}

/// Closes a line whose hash may have been begun.
pub fn seal_begun(out: &mut Vec<u8>, start: usize, before: &Link, begun: Begun) -> Link {
    let sequence = before.sequence.saturating_add(1);
    out.extend_from_slice(SEQUENCE);
    number(out, sequence);
    out.extend_from_slice(PREVIOUS);
    out.extend_from_slice(before.hash.as_bytes());
    out.push(b'"');
    let line = out.get(start..).unwrap_or_default();
    let hash = match begun.0 {
        Some(first) => HexHash::from_bytes(lanes::hash_behind(first, line)),
        None => HexHash::of(line),
    };
    out.extend_from_slice(RECORD);
    out.extend_from_slice(hash.as_bytes());
    out.extend_from_slice(b"\"}");
    Link { sequence, hash }
}

/// Position of a line in the chain, and the result of comparing the line's bytes with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    pub previous: HexHash,
    pub link: Link,
    pub intact: bool,
}

impl Seal {
    /// Reads the seal of a line without its newline; `None` if it has none.
    pub fn read(line: &[u8]) -> Option<Self> {
        if memchr::memchr(b'\n', line).is_some() {
            return None;
        }
        let (mut seal, hashed) = Self::claimed(line)?;
        seal.intact = HexHash::of(hashed) == seal.link.hash;
        Some(seal)
    }

    /// Reads the seal that a line claims, not yet as intact, and the bytes whose hash it must have.
    fn claimed(line: &[u8]) -> Option<(Self, &[u8])> {
        if !line.starts_with(b"{") {
            return None;
        }
        let rest = line.strip_suffix(b"\"}")?;
        let (rest, hash) = rest.split_last_chunk::<HEX>()?;
        let hashed = rest.strip_suffix(RECORD)?;
        let rest = hashed.strip_suffix(b"\"")?;
        let (rest, previous) = rest.split_last_chunk::<HEX>()?;
        let rest = rest.strip_suffix(PREVIOUS)?;
        let (rest, digits) = digits_at_end(rest);
        if !rest.ends_with(SEQUENCE) || (digits.len() > 1 && digits.starts_with(b"0")) {
            return None;
        }
        let sequence = str::from_utf8(digits).ok()?.parse().ok()?;
        let hash = HexHash::read(hash)?;
        let previous = HexHash::read(previous)?;
        Some((Self { previous, link: Link { sequence, hash }, intact: false }, hashed))
    }
}

impl Seal {
    /// The link that this record goes on from.
    pub fn before(&self) -> Option<Link> {
        let sequence = self.link.sequence.checked_sub(1)?;
        Some(Link { sequence, hash: self.previous })
    }
}

/// The event of a record that says which closed files the node has deleted. Its members are in this
/// order, the last of them at the last deleted record's place in the chain.
pub const FILES_DELETED: &str = "closed_files_deleted";

/// Returns the end of the deleted records, if a sealed line's hashed bytes are such a record. Reads
/// from the line's end, which holds nothing chosen by an agent.
fn deleted_through(hashed: &[u8]) -> Option<Link> {
    let (rest, _previous) = hashed.strip_suffix(b"\"")?.split_last_chunk::<HEX>()?;
    let (rest, _sequence) = digits_at_end(rest.strip_suffix(PREVIOUS)?);
    let rest = rest.strip_suffix(SEQUENCE)?.strip_suffix(b"\"}")?;
    let (rest, hash) = rest.split_last_chunk::<HEX>()?;
    let (rest, sequence) = digits_at_end(rest.strip_suffix(b",\"last_hash\":\"")?);
    let (rest, _number) = digits_at_end(rest.strip_suffix(b",\"last_sequence\":")?);
    let (rest, _count) = digits_at_end(rest.strip_suffix(b",\"last_file\":")?);
    let rest = rest.strip_suffix(b"\",\"detail\":{\"files\":")?;
    rest.strip_suffix(FILES_DELETED.as_bytes())?.strip_suffix(b",\"event\":\"")?;
    let sequence = str::from_utf8(sequence).ok()?.parse().ok()?;
    Some(Link { sequence, hash: HexHash::read(hash)? })
}

fn digits_at_end(text: &[u8]) -> (&[u8], &[u8]) {
    let digits = text.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    text.split_at_checked(text.len() - digits).unwrap_or((text, &[]))
}

/// Damage found in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("not a sealed record")]
    Malformed,
    #[error("content does not match its hash")]
    HashMismatch,
    #[error("does not name the line before it")]
    BrokenLink,
    #[error("sequence {found} where {expected} should stand: lines are missing")]
    SequenceGap { expected: u64, found: u64 },
    #[error("sequence {found} again, or out of order: {expected} should stand here")]
    Duplicate { expected: u64, found: u64 },
    #[error("the log does not start at its first record but at {found}")]
    MissingStart { found: u64 },
    #[error("the last line is cut off")]
    TruncatedTail,
    #[error("the log ends at {found}, but {expected} had been reached")]
    MissingTail { expected: u64, found: u64 },
    #[error("the log was written anew: the hash at {expected} is not the one that was known")]
    OtherHead { expected: u64 },
}

/// One damage and the number of its line, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    pub line: u64,
    pub damage: Damage,
}

/// A run of lines that was checked, and how it can be joined to the run before it.
#[derive(Clone, Debug, Default)]
pub struct Walk<'k> {
    /// Links that the chain is known to have had, sorted by their sequence.
    known: &'k [Link],
    /// The first of them that lies at or behind the last line.
    next_known: usize,
    /// Number of known links that were found.
    pub known_met: u64,
    pub lines: u64,
    pub records: u64,
    /// The first seal, not yet tied to anything, and the lines up to it.
    first: Option<(u64, Seal)>,
    last: Option<Link>,
    /// Lines without a readable seal since `last`.
    skipped: u64,
    /// Ends of deleted record ranges reported by the node; only the last ones if there are many.
    pub deleted: Vec<Link>,
    pub findings: Vec<Finding>,
    pub findings_left_out: u64,
}

impl<'k> Walk<'k> {
    /// A walk that goes on after `before`, if that is given, and must meet what is `known`.
    pub fn new(before: Option<Link>, known: &'k [Link]) -> Self {
        Self { last: before, known, ..Self::default() }
    }

    /// The last link that was read, if any.
    pub fn last(&self) -> Option<Link> {
        self.last
    }

    /// The first record's seal.
    pub fn first(&self) -> Option<Seal> {
        self.first.map(|(_, seal)| seal)
    }

    /// Checks lines that follow each other, each given without its newline and holding none.
    pub fn check(&mut self, lines: &[&[u8]]) {
        let claimed: Vec<_> = lines.iter().map(|line| Seal::claimed(line)).collect();
        let hashed: Vec<&[u8]> = claimed.iter().flatten().map(|(_, hashed)| *hashed).collect();
        let mut hashes = lanes::hash_each(&hashed).into_iter();
        for claimed in claimed {
            let Some((mut seal, hashed)) = claimed else {
                self.step(None);
                continue;
            };
            let hash = hashes.next().map(HexHash::from_bytes);
            seal.intact = hash == Some(seal.link.hash);
            if let Some(through) = deleted_through(hashed).filter(|_| seal.intact) {
                self.remember_deleted([through]);
            }
            self.step(Some(seal));
        }
    }

    /// Goes one line further, whose seal is given if it has one.
    fn step(&mut self, seal: Option<Seal>) {
        self.lines += 1;
        let Some(seal) = seal else {
            self.skipped += 1;
            self.note(self.lines, Damage::Malformed);
            return;
        };
        if !seal.intact {
            self.note(self.lines, Damage::HashMismatch);
        }
        self.tie(self.lines, self.skipped, &seal);
        self.compare(&seal.link);
        self.first.get_or_insert((self.lines, seal));
        self.records += 1;
        self.last = Some(seal.link);
        self.skipped = 0;
    }

    /// Joins the run that directly follows this one.
    pub fn absorb(&mut self, next: Self) {
        if let Some((line, seal)) = next.first {
            self.tie(self.lines + line, self.skipped + line - 1, &seal);
            self.first = self.first.or(Some((self.lines + line, seal)));
            self.skipped = next.skipped;
        } else {
            self.skipped += next.skipped;
        }
        for finding in next.findings {
            self.note(self.lines + finding.line, finding.damage);
        }
        self.findings_left_out += next.findings_left_out;
        self.remember_deleted(next.deleted);
        self.lines += next.lines;
        self.records += next.records;
        self.known_met += next.known_met;
        self.last = next.last.or(self.last);
    }

    fn remember_deleted(&mut self, links: impl IntoIterator<Item = Link>) {
        self.deleted.extend(links);
        self.deleted.drain(..self.deleted.len().saturating_sub(MAX_DELETED));
    }

    /// Writes down a damage; what is past the bound is only counted.
    pub fn note(&mut self, line: u64, damage: Damage) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { line, damage });
        } else {
            self.findings_left_out += 1;
        }
    }

    /// Compares a link with the one that is known for that record.
    fn compare(&mut self, found: &Link) {
        let at_or_behind =
            |at: usize| self.known.get(at).is_none_or(|k| k.sequence >= found.sequence);
        let before = |at: usize| at == 0 || !at_or_behind(at - 1);
        if !(at_or_behind(self.next_known) && before(self.next_known)) {
            self.next_known = self.known.partition_point(|k| k.sequence < found.sequence);
        }
        let rest = self.known.get(self.next_known..).unwrap_or_default();
        let (mut met, mut other) = (0, false);
        for known in rest.iter().take_while(|known| known.sequence == found.sequence) {
            met += u64::from(known.hash == found.hash);
            other |= known.hash != found.hash;
        }
        self.known_met += met;
        if other {
            self.note(self.lines, Damage::OtherHead { expected: found.sequence });
        }
    }

    /// Compares a seal with the link before it. Lines without a seal in between have been
    /// reported already, so only the count must be right across them.
    fn tie(&mut self, line: u64, skipped: u64, seal: &Seal) {
        let Some(last) = self.last else { return };
        let expected = last.sequence.saturating_add(1).saturating_add(skipped);
        let found = seal.link.sequence;
        if found < expected {
            self.note(line, Damage::Duplicate { expected, found });
        } else if found > expected {
            self.note(line, Damage::SequenceGap { expected, found });
        } else if skipped == 0 && seal.previous != last.hash {
            self.note(line, Damage::BrokenLink);
        }
    }
}

#[cfg(test)]
mod tests;
