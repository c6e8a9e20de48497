//! The journal: the decisions of calls under way, where a crash cannot take them.
//!
//! A preallocated file of fixed slots in the log's folder. An admitted call's line, as it is while
//! its outcome is unknown, is written to its slots with a positioned write from the call's own
//! task, before anything goes upstream; a line that does not fit in one slot takes several. Each
//! slot carries the number of the admission, its part and a checksum, so one that was only half
//! written is recognised. Once a call's line is in the log, its admission number is noted in the
//! table at the file's start: a slot is open if it carries a higher number than the table.
//!
//! The journal also remembers the chain's last link, so that lines cut off the log's end are
//! missed, and each slot remembers how long the log was at admission: what lies before cannot be
//! this call's line, so after a crash only what lies behind is searched for it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use super::OpenError;
use super::chain::Link;
use super::files::open_kept;
use crate::holder::Holder;

mod layout;

pub(super) use layout::{LogEnd, PART_BYTES as ONE_SLOT_BYTES, SLOT_HEAD_BYTES as RESERVED};
use layout::{SLOT_BYTES, SlotHead};

/// Slots that one admission holds until its line is in the log.
#[derive(Debug)]
pub(super) struct HeldSlots {
    numbers: SmallVec<[u32; 4]>,
    admission: u64,
    /// Few slots were left, so these should come back soon.
    pub(super) scarce: bool,
}

/// Content found in an existing journal.
pub(super) struct Found {
    /// Last link of the chain, if the journal knows it.
    pub(super) link: Option<Link>,
    /// Calls whose line may not be in the log, in the order of their admission.
    pub(super) open: Vec<OpenCall>,
}

/// A call that was admitted and whose slots were not given back.
pub(super) struct OpenCall {
    pub(super) slots: HeldSlots,
    pub(super) line: Vec<u8>,
    pub(super) log_end: LogEnd,
}

pub(super) struct Journal {
    path: PathBuf,
    /// Written under the read lock: positioned writes do not disturb each other. The write lock
    /// is for putting another file in its place.
    file: RwLock<File>,
    free: Mutex<Vec<u32>>,
    admissions: AtomicU64,
    slots: u32,
    /// With fewer free slots than this, completed calls are not left lying.
    few: usize,
}

impl Journal {
    /// Opens or makes the journal, and keeps every other process out. One that has another number
    /// of slots than is wanted gets that number at the first start that finds no open call in it.
    pub(super) fn open(path: &Path, wanted: u32) -> Result<(Self, Closed, Found), OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        let mut file = open_kept(path).map_err(failed)?;
        lock(&file, path)?;
        if file.metadata().map_err(failed)?.len() == 0 {
            layout::create(&file, wanted).map_err(failed)?;
            sync_folder(path).map_err(failed)?;
        }
        let Some(mut slots) = layout::slots(&file, wanted).map_err(failed)? else {
            return Err(OpenError::Journal { path: path.to_owned() });
        };
        let mut closed = Closed::read(&file, slots).map_err(failed)?;
        let link = layout::read_link(&file).map_err(failed)?;
        let (open, highest) = open_calls(&file, &closed).map_err(failed)?;
        if slots != wanted && open.is_empty() {
            file = put_in_place(path, |new| {
                new.set_len(0)?;
                layout::create(new, wanted)?;
                link.as_ref().map_or(Ok(()), |link| layout::write_link(new, link))
            })
            .map_err(failed)?;
            slots = wanted;
            closed = Closed::read(&file, slots).map_err(failed)?;
        }
        let mut free: Vec<u32> = (0..slots).rev().collect();
        free.retain(|slot| !open.iter().any(|call| call.slots.numbers.contains(slot)));
        let journal = Self {
            path: path.to_owned(),
            file: RwLock::new(file),
            free: Mutex::new(free),
            admissions: AtomicU64::new(highest),
            slots,
            few: closed.admissions.len() / 4,
        };
        Ok((journal, closed, Found { link, open }))
    }

    /// Takes the slots that a line of this length needs; `None` if they are not to be had.
    pub(super) fn take(&self, line_bytes: usize) -> Option<HeldSlots> {
        let needed = line_bytes.div_ceil(layout::PART_BYTES).max(1);
        let mut free = self.free.lock();
        let from = free.len().checked_sub(needed)?;
        let numbers = free.drain(from..).rev().collect();
        drop(free);
        let scarce = from < self.few;
        let admission = self.admissions.fetch_add(1, Ordering::Relaxed) + 1;
        Some(HeldSlots { numbers, admission, scarce })
    }

    /// Frees slots whose line is noted as closed.
    fn put_back(&self, held: &[HeldSlots]) {
        let mut free = self.free.lock();
        for slots in held {
            free.extend(slots.numbers.iter().rev());
        }
    }

    /// Writes a line into its slots; its first [`RESERVED`] bytes are the journal's own.
    pub(super) fn write(
        &self,
        slots: &HeldSlots,
        line: &mut [u8],
        log_end: LogEnd,
    ) -> io::Result<()> {
        let file = self.file.read();
        let parts = u32::try_from(slots.numbers.len()).map_err(io::Error::other)?;
        if let [slot] = slots.numbers[..] {
            layout::frame(line, SlotHead { admission: slots.admission, part: 0, parts, log_end })?;
            return file.write_all_at(line, layout::slot_offset(self.slots, slot));
        }
        let body = line.get(RESERVED..).unwrap_or_default();
        let pieces = body.chunks(layout::PART_BYTES);
        for ((part, slot), piece) in (0_u32..).zip(&slots.numbers).zip(pieces) {
            let mut framed = Vec::with_capacity(SLOT_BYTES);
            framed.resize(RESERVED, 0);
            framed.extend_from_slice(piece);
            layout::frame(
                &mut framed,
                SlotHead { admission: slots.admission, part, parts, log_end },
            )?;
            file.write_all_at(&framed, layout::slot_offset(self.slots, *slot))?;
        }
        Ok(())
    }

    /// Brings everything written so far to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.read().sync_data()
    }

    /// Notes that the lines of the slots `held` are in the log, up to `link`, and frees their slots.
    /// Nothing is freed if it cannot be noted.
    pub(super) fn close(
        &self,
        closed: &mut Closed,
        held: &mut Vec<HeldSlots>,
        link: &Link,
    ) -> io::Result<()> {
        for slots in held.iter() {
            for slot in &slots.numbers {
                closed.note(*slot, slots.admission);
            }
        }
        let file = self.file.read();
        closed.write(&file, link)?;
        drop(file);
        self.put_back(held);
        held.clear();
        Ok(())
    }

    /// Puts a copy in place of a journal that was deleted or replaced under our feet.
    pub(super) fn restore_if_lost(&self) -> io::Result<bool> {
        let file = self.file.read();
        let ours = file.metadata()?;
        let there = fs::metadata(&self.path);
        if there.is_ok_and(|m| m.ino() == ours.ino() && m.dev() == ours.dev()) {
            return Ok(false);
        }
        drop(file);
        let mut file = self.file.write();
        *file = put_in_place(&self.path, |copy| layout::copy(&file, copy))?;
        Ok(true)
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// Slots that no call holds.
    pub(super) fn free_slots(&self) -> usize {
        self.free.lock().len()
    }
}

/// A journal as somebody finds it who does not own it.
pub(super) struct Peeked {
    /// True while a process has it open.
    pub(super) held: bool,
    /// Lines of the calls that the journal holds open.
    pub(super) lines: Vec<Vec<u8>>,
}

/// Reads a journal and changes nothing; `None` if there is none.
pub(super) fn peek(path: &Path) -> io::Result<Option<Peeked>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let held = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    // One that is still being made has no slots, and no calls.
    let slots = layout::slots(&file, 0).ok().flatten();
    let open = match slots {
        Some(slots) => open_calls(&file, &Closed::read(&file, slots)?)?.0,
        None => Vec::new(),
    };
    Ok(Some(Peeked { held, lines: open.into_iter().map(|call| call.line).collect() }))
}

/// The table of admissions whose line is in the log; it is the writer's.
pub(super) struct Closed {
    admissions: Vec<u64>,
    page: layout::LinkPage,
    /// The first and the last entry that the file does not have yet.
    unwritten: Option<(usize, usize)>,
}

impl Closed {
    fn read(file: &File, slots: u32) -> io::Result<Self> {
        let admissions = layout::read_table(file, slots)?;
        let page = layout::LinkPage::of(&admissions);
        Ok(Self { admissions, page, unwritten: None })
    }

    fn note(&mut self, slot: u32, admission: u64) {
        let Ok(at) = usize::try_from(slot) else { return };
        if let Some(entry) = self.admissions.get_mut(at) {
            *entry = admission;
            self.page.set(at, admission);
            let (first, last) = self.unwritten.unwrap_or((at, at));
            self.unwritten = Some((first.min(at), last.max(at)));
        }
    }

    /// Brings what was noted, and the chain's last link, to the file.
    fn write(&mut self, file: &File, link: &Link) -> io::Result<()> {
        let Some((first, last)) = self.unwritten else { return layout::write_link(file, link) };
        if last < layout::ENTRIES_WITH_LINK {
            self.page.write(file, link, last)?;
        } else {
            layout::write_table(
                file,
                first,
                self.admissions.get(first..=last).unwrap_or_default(),
            )?;
            layout::write_link(file, link)?;
        }
        self.unwritten = None;
        Ok(())
    }
}

/// Reads every slot and puts the open calls together; also the highest admission ever given.
fn open_calls(file: &File, closed: &Closed) -> io::Result<(Vec<OpenCall>, u64)> {
    let mut highest = closed.admissions.iter().copied().max().unwrap_or_default();
    let mut parts = Vec::new();
    let mut buffer = vec![0; SLOT_BYTES];
    let slots = u32::try_from(closed.admissions.len()).map_err(io::Error::other)?;
    for (slot, done) in (0..slots).zip(&closed.admissions) {
        file.read_exact_at(&mut buffer, layout::slot_offset(slots, slot))?;
        let Some((head, piece)) = layout::unframe(&buffer) else { continue };
        highest = highest.max(head.admission);
        if head.admission > *done {
            parts.push((head, slot, piece.to_vec()));
        }
    }
    parts.sort_by_key(|(head, ..)| (head.admission, head.part));
    let same_call =
        |a: &(SlotHead, u32, Vec<u8>), b: &(SlotHead, u32, Vec<u8>)| a.0.admission == b.0.admission;
    let mut open = Vec::new();
    for call in parts.chunk_by(same_call) {
        let Some((head, ..)) = call.first() else { continue };
        // Without all its parts the call had not been let through yet.
        if (0..head.parts).ne(call.iter().map(|(head, ..)| head.part)) {
            continue;
        }
        open.push(OpenCall {
            slots: HeldSlots {
                numbers: call.iter().map(|(_, slot, _)| *slot).collect(),
                admission: head.admission,
                scarce: false,
            },
            line: call.iter().flat_map(|(.., piece)| piece.iter().copied()).collect(),
            log_end: head.log_end,
        });
    }
    Ok((open, highest))
}

/// Writes another file and puts it in the journal's place, locked and on the disk.
fn put_in_place(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<File> {
    let mut spare = path.to_owned().into_os_string();
    spare.push(".new");
    let file = open_kept(Path::new(&spare))?;
    lock(&file, path).map_err(io::Error::other)?;
    write(&file)?;
    file.sync_data()?;
    fs::rename(&spare, path)?;
    sync_folder(path)?;
    Ok(file)
}

/// Takes the advisory lock that says whose log this is.
pub(super) fn lock(file: &File, path: &Path) -> Result<(), OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let holder = Holder::of_file(file);
            Err(OpenError::InUse { path: path.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path: path.to_owned(), source }),
    }
}

/// Makes a new name in a folder last.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        Some(_) | None => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests;
