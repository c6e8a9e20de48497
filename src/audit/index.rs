//! Places of the last records in the log's files, so that a search for one of a known request, session
//! or agent reads its line and not the file.
//!
//! The index is a hint, bounded in number and empty at start: each line that it leads to is checked,
//! and if a line is not the expected one, the files are read as if there were no index.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::Mutex;
use uuid::Uuid;

use super::files;
use super::record::{self, Ids};
use super::search::{self, Found, LogPosition, Wanted};
use crate::saturate::SaturatingFrom as _;

/// Records whose place is kept: some 2.5 MB.
const MAX_PLACES: usize = 32_768;
/// Most bytes of lines that one look reads.
const MAX_READ_BYTES: usize = 16 << 20;

/// A record's ids and the position of its line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) ids: Ids,
    pub(super) position: LogPosition,
    /// Length of the line without its newline.
    pub(super) length: u32,
}

/// Places of the last records, oldest first.
#[derive(Debug, Default)]
pub struct Index {
    // INVARIANT: every change is one push or pop, so nothing is half done after a panic.
    places: Mutex<VecDeque<Placed>>,
}

/// Result of a look at the index.
enum Look {
    /// Found all that may be given, or all there can be.
    Whole(Found),
    /// Found these; what lies before the position is to be looked for in the files.
    Before(Found, LogPosition),
    /// The index cannot help.
    Unknown,
}

/// A line that the index leads to.
enum Line {
    Read(Vec<u8>),
    /// In a file that can be read from its start only.
    Compressed,
    /// Another line is there.
    Other,
}

impl Index {
    /// Adds records that were written behind all others.
    pub(super) fn add(&self, written: impl Iterator<Item = Placed>) {
        let mut places = self.places.lock();
        for placed in written {
            if places.len() >= MAX_PLACES {
                places.pop_front();
            }
            places.push_back(placed);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.lock().len()
    }

    /// Forgets every position, because the log's file was replaced.
    pub(super) fn clear(&self) {
        self.places.lock().clear();
    }

    /// Looks for records before `before`, or from the log's end, as [`search::newest_first`] does.
    /// Blocks on files.
    pub fn newest_first(
        &self,
        log: &Path,
        wanted: &Wanted,
        before: Option<LogPosition>,
        limit: usize,
        max_bytes: u64,
    ) -> io::Result<Found> {
        let (mut found, position) = match self.look(log, wanted, before, limit)? {
            Look::Whole(found) => return Ok(found),
            Look::Unknown => return search::newest_first(log, wanted, before, limit, max_bytes),
            Look::Before(found, position) => (found, position),
        };
        let limit = limit.saturating_sub(found.lines.len());
        let beyond = search::newest_first(log, wanted, Some(position), limit, max_bytes)?;
        found.lines.extend(beyond.lines);
        found.next = beyond.next;
        Ok(found)
    }

    /// Returns the record of a request if its place is known. Blocks on files.
    pub fn line_of(&self, log: &Path, request: Uuid) -> io::Result<Option<Vec<u8>>> {
        let placed =
            self.places.lock().iter().rev().find(|placed| placed.ids.request == request).copied();
        let Some(placed) = placed else { return Ok(None) };
        match (Reader { log, open: None }).line(&placed)? {
            Line::Read(line) => Ok(Some(line)),
            Line::Compressed | Line::Other => Ok(None),
        }
    }

    fn look(
        &self,
        log: &Path,
        wanted: &Wanted,
        before: Option<LogPosition>,
        limit: usize,
    ) -> io::Result<Look> {
        let Some(is_candidate) = candidates(wanted) else { return Ok(Look::Unknown) };
        let (oldest, candidates) = {
            let places = self.places.lock();
            let Some(oldest) = places.front().copied() else { return Ok(Look::Unknown) };
            let newest = places.iter().rev();
            let newest = newest.skip_while(|placed| before.is_some_and(|b| placed.position >= b));
            let found: Vec<Placed> =
                newest.filter(|placed| is_candidate(&placed.ids)).copied().collect();
            (oldest, found)
        };
        if before.is_some_and(|before| before <= oldest.position) {
            return Ok(Look::Unknown);
        }
        let mut reader = Reader { log, open: None };
        let (mut found, mut read) = (Found::default(), 0_usize);
        for placed in &candidates {
            let line = match reader.line(placed)? {
                Line::Read(line) => line,
                Line::Compressed => return Ok(Look::Before(found, placed.end())),
                Line::Other => return Ok(Look::Unknown),
            };
            read = read.saturating_add(line.len());
            if wanted.matches(&line) {
                found.lines.push(line);
            }
            found.next = Some(placed.position);
            if wanted.request_id.is_some() && !found.lines.is_empty() {
                found.next = None;
                return Ok(Look::Whole(found));
            }
            if found.lines.len() >= limit || read >= MAX_READ_BYTES {
                return Ok(Look::Whole(found));
            }
        }
        match reader.line(&oldest)? {
            Line::Read(_) | Line::Compressed => Ok(Look::Before(found, oldest.position)),
            Line::Other => Ok(Look::Unknown),
        }
    }
}

/// Returns the test for records that may be wanted; none if no id is given.
fn candidates(wanted: &Wanted) -> Option<impl Fn(&Ids) -> bool> {
    let id = |text: &Option<String>| text.as_ref().map(|text| Uuid::try_parse(text).ok());
    let (request, agent, session) =
        (id(&wanted.request_id), id(&wanted.agent_id), id(&wanted.session_id));
    let given = request.is_some() || agent.is_some() || session.is_some();
    let is = |wanted: Option<Option<Uuid>>, found| wanted.is_none_or(|id| id == Some(found));
    given.then_some(move |ids: &Ids| {
        is(request, ids.request) && is(agent, ids.agent) && is(session, ids.session)
    })
}

impl Placed {
    fn end(&self) -> LogPosition {
        self.position.plus(u64::from(self.length) + 1)
    }
}

/// Reads lines of a log's files, and keeps the last file open.
struct Reader<'l> {
    log: &'l Path,
    open: Option<(u64, Option<File>)>,
}

impl Reader<'_> {
    fn line(&mut self, placed: &Placed) -> io::Result<Line> {
        let Placed { ids, position, length } = placed;
        let number = position.file();
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = Some((number, self.plain_file(number)?));
        }
        let Some((_, Some(file))) = &self.open else { return Ok(Line::Compressed) };
        let length = usize::saturating_from(*length);
        let mut line = vec![0; length.saturating_add(1)];
        match file.read_exact_at(&mut line, position.offset()) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Line::Other),
            read => read?,
        }
        let whole = line.pop() == Some(b'\n') && record::request_id(&line) == Some(ids.request);
        Ok(if whole { Line::Read(line) } else { Line::Other })
    }

    /// Opens the file of a number if it is not compressed.
    fn plain_file(&self, number: u64) -> io::Result<Option<File>> {
        let path = match files::closed_file(self.log, number)? {
            Some(path) if path.extension().is_some_and(|extension| extension == "zst") => {
                return Ok(None);
            }
            Some(path) => path,
            None => self.log.to_owned(),
        };
        match File::open(path) {
            Ok(file) => Ok(Some(file)),
            // Compressed, deleted or moved since the look.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
