//! Layout of the journal's file.
//!
//! `magic, slot size, slot count` at 0; the chain's last link at 512; the table of closed
//! admissions at 4096, eight bytes a slot; then the slots, each within one page of memory, so that
//! a killed process leaves a slot written or not written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::audit::chain::{HexHash, Link};

/// Bytes of a slot with its head.
pub(super) const SLOT_BYTES: usize = 2_048;
/// Bytes of a slot's head: checksum, admission, log length, log inode, part, parts, length.
pub(in crate::audit) const SLOT_HEAD_BYTES: usize = 8 * 4 + 4 * 4;
/// Bytes of a line that one slot holds.
pub(in crate::audit) const PART_BYTES: usize = SLOT_BYTES - SLOT_HEAD_BYTES;

const MAGIC: &[u8; 8] = b"ARBJRNL1";
const LINK_OFFSET: u64 = 512;
const TABLE_OFFSET: u64 = 4_096;
const PAGE_BYTES: u64 = 4_096;
const LINK_BYTES: usize = 8 + 8 + 64;
/// Bytes from the link to the table; those behind the link are zero.
const LINK_TO_TABLE: usize = 4_096 - 512;
/// Entries at the table's start that are written together with the link. Slots are taken from there on,
/// so while fewer calls than this are under way, one write notes them.
pub(super) const ENTRIES_WITH_LINK: usize = 512;

/// Log file and its length at the time of an admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::audit) struct LogEnd {
    pub(in crate::audit) inode: u64,
    pub(in crate::audit) length: u64,
}

/// Meaning of the piece in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotHead {
    pub(super) admission: u64,
    pub(super) part: u32,
    pub(super) parts: u32,
    pub(super) log_end: LogEnd,
}

fn slots_offset(slots: u32) -> u64 {
    TABLE_OFFSET + (u64::from(slots) * 8).next_multiple_of(PAGE_BYTES)
}

pub(super) fn slot_offset(slots: u32, slot: u32) -> u64 {
    slots_offset(slots) + u64::from(slot) * SLOT_BYTES as u64
}

/// Writes the whole file, so that its room on the disk is had from the start.
pub(super) fn create(file: &File, slots: u32) -> io::Result<()> {
    let zeros = vec![0; 64 * 1_024];
    let bytes = slot_offset(slots, slots);
    let mut at = 0;
    while at < bytes {
        let step = (bytes - at).min(zeros.len() as u64);
        let piece = usize::try_from(step).ok().and_then(|step| zeros.get(..step));
        file.write_all_at(piece.unwrap_or_default(), at)?;
        at += step;
    }
    file.sync_all()?;
    file.write_all_at(&head(slots), 0)?;
    file.sync_all()
}

fn head(slots: u32) -> [u8; 16] {
    let mut head = [0; 16];
    let (magic, sizes) = head.split_at_mut(8);
    magic.copy_from_slice(MAGIC);
    let (size, count) = sizes.split_at_mut(4);
    size.copy_from_slice(&u32::try_from(SLOT_BYTES).unwrap_or(0).to_le_bytes());
    count.copy_from_slice(&slots.to_le_bytes());
    head
}

/// Returns the number of slots of a journal; `None` if the file is no journal. A journal whose
/// creation was interrupted by a crash or a full disk is created again with `wanted` slots: it
/// holds nothing.
pub(super) fn slots(file: &File, wanted: u32) -> io::Result<Option<u32>> {
    let mut found = [0; 16];
    let read = file.read_at(&mut found, 0)?;
    if read < found.len() || found == [0; 16] {
        create(file, wanted)?;
        return Ok(Some(wanted));
    }
    let [.., a, b, c, d] = found;
    let slots = u32::from_le_bytes([a, b, c, d]);
    let whole = found == head(slots) && file.metadata()?.len() >= slot_offset(slots, slots);
    Ok(whole.then_some(slots))
}

pub(super) fn copy(from: &File, to: &File) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1_024];
    let mut at = 0;
    loop {
        let read = from.read_at(&mut buffer, at)?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            return to.set_len(at);
        };
        to.write_all_at(piece, at)?;
        at += piece.len() as u64;
    }
}

pub(super) fn read_table(file: &File, slots: u32) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; usize::try_from(slots).map_err(io::Error::other)? * 8];
    file.read_exact_at(&mut bytes, TABLE_OFFSET)?;
    let (entries, _) = bytes.as_chunks::<8>();
    Ok(entries.iter().map(|entry| u64::from_le_bytes(*entry)).collect())
}

pub(super) fn write_table(file: &File, first: usize, entries: &[u64]) -> io::Result<()> {
    let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    file.write_all_at(&bytes, TABLE_OFFSET + first as u64 * 8)
}

/// The chain's last link, if it was written and is whole.
pub(super) fn read_link(file: &File) -> io::Result<Option<Link>> {
    let mut bytes = [0; LINK_BYTES];
    file.read_exact_at(&mut bytes, LINK_OFFSET)?;
    let mut fields = Fields(&bytes);
    let check = fields.u64();
    let body = fields.0;
    let sequence = fields.u64();
    let whole = check.is_some_and(|check| check != 0 && check == checksum(body));
    let hash = HexHash::read(fields.0).filter(|_| whole);
    Ok(sequence.zip(hash).map(|(sequence, hash)| Link { sequence, hash }))
}

pub(super) fn write_link(file: &File, link: &Link) -> io::Result<()> {
    file.write_all_at(&framed_link(link, LINK_BYTES), LINK_OFFSET)
}

/// The page of the link and the table's first entries, which are written at once. The link comes first: it may
/// run ahead of the table, whose calls are then found in the log.
pub(super) struct LinkPage(Vec<u8>);

impl LinkPage {
    /// Makes the page of a table that begins so.
    pub(super) fn of(entries: &[u64]) -> Self {
        let mut bytes = vec![0; LINK_TO_TABLE];
        let first = entries.iter().take(ENTRIES_WITH_LINK);
        bytes.extend(first.flat_map(|entry| entry.to_le_bytes()));
        Self(bytes)
    }

    /// Changes an entry, if it is one of the first.
    pub(super) fn set(&mut self, at: usize, entry: u64) {
        let from = LINK_TO_TABLE.saturating_add(at.saturating_mul(8));
        let place = self.0.get_mut(from..).and_then(<[u8]>::first_chunk_mut);
        if let Some(place) = place {
            *place = entry.to_le_bytes();
        }
    }

    /// Writes the link and the entries up to this one.
    pub(super) fn write(&mut self, file: &File, link: &Link, last: usize) -> io::Result<()> {
        let link = framed_link(link, LINK_BYTES);
        self.0.iter_mut().zip(link).for_each(|(to, from)| *to = from);
        let end = LINK_TO_TABLE.saturating_add(last.saturating_add(1).saturating_mul(8));
        let bytes = self.0.get(..end).unwrap_or(&self.0);
        file.write_all_at(bytes, LINK_OFFSET)
    }
}

fn framed_link(link: &Link, room: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(room);
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&link.sequence.to_le_bytes());
    bytes.extend_from_slice(link.hash.as_bytes());
    let check = checksum(bytes.get(8..).unwrap_or_default()).to_le_bytes();
    bytes.iter_mut().zip(check).for_each(|(to, from)| *to = from);
    bytes
}

/// Fills in the head in front of a piece.
pub(super) fn frame(framed: &mut [u8], head: SlotHead) -> io::Result<()> {
    let too_short = || io::Error::other("a slot has no room for its head");
    let length = framed.len().checked_sub(SLOT_HEAD_BYTES).ok_or_else(too_short)?;
    let length = u32::try_from(length).map_err(io::Error::other)?;
    let SlotHead { admission, part, parts, log_end } = head;
    let (check, rest) = framed.split_first_chunk_mut::<8>().ok_or_else(too_short)?;
    let words = [admission, log_end.length, log_end.inode].map(u64::to_le_bytes);
    let halves = [part, parts, length].map(u32::to_le_bytes);
    let fields = words.iter().flatten().chain(halves.iter().flatten());
    rest.iter_mut().zip(fields).for_each(|(to, from)| *to = *from);
    *check = checksum(rest).to_le_bytes();
    Ok(())
}

/// Reads a slot; `None` if it is empty or was not written whole.
pub(super) fn unframe(slot: &[u8]) -> Option<(SlotHead, &[u8])> {
    let mut fields = Fields(slot);
    let check = fields.u64()?;
    let body = fields.0;
    let admission = fields.u64()?;
    let log_end = LogEnd { length: fields.u64()?, inode: fields.u64()? };
    let (part, parts, length) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let _padding = fields.u32()?;
    let length = usize::try_from(length).ok()?;
    let checked = body.get(..length + SLOT_HEAD_BYTES - 8)?;
    let whole = admission != 0 && check == checksum(checked);
    whole.then_some((SlotHead { admission, part, parts, log_end }, fields.0.get(..length)?))
}

/// Reads numbers off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u64(&mut self) -> Option<u64> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*field))
    }

    fn u32(&mut self) -> Option<u32> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*field))
    }
}

/// Tells a whole slot from a torn one. Nobody gains by forging it: who can write here can write
/// the log as well.
fn checksum(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, word: u64| {
        let mixed = (hash ^ word).wrapping_mul(PRIME);
        mixed ^ (mixed >> 29)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let start = mix(PRIME, bytes.len() as u64);
    let hash = words.iter().fold(start, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    mix(hash, u64::from_le_bytes(last))
}
