//! A log that is read as it grows, through rotation, compression and deletion of its closed files.
//!
//! The reader goes by the numbers of the closed files, which are given in order and once: the file that
//! has the log's name is read only while no file with a later number than the last one read is closed.
//! A closed file is asked for by both its names, since it may be compressed between two looks.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Cursor};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::audit::files;

/// Most of a growing log that is read at once; no record is as long.
const MAX_READ: u64 = 16 << 20;
const BUFFER_BYTES: usize = 1 << 20;

pub(super) struct Followed {
    log: PathBuf,
    /// Number of the last closed file that was read; zero before the first.
    done: u64,
    /// The file that had the log's name when it was opened.
    live: Option<Live>,
}

struct Live {
    file: File,
    /// Position up to which whole lines were read.
    at: u64,
}

impl Followed {
    /// Follows a log from the closed file after `done`.
    pub(super) fn after(log: &Path, done: u64) -> Self {
        Self { log: log.to_owned(), done, live: None }
    }

    /// Follows a log from the end of its last whole line.
    pub(super) fn at_end(log: &Path) -> io::Result<Self> {
        let mut followed = Self::after(log, 0);
        loop {
            followed.done = files::closed_files(log)?.last().map_or(0, |file| file.number);
            let file = File::open(log)?;
            if followed.next_closed()?.is_none() {
                let at = end_of_lines(&file)?;
                followed.live = Some(Live { file, at });
                return Ok(followed);
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.log
    }

    /// Returns the file that has the log's name, up to where it is followed from, and the number of the
    /// last closed file before it.
    pub(super) fn before(&self) -> Option<(&File, u64, u64)> {
        self.live.as_ref().map(|live| (&live.file, live.at, self.done))
    }

    /// Returns lines that were not returned before; none if there are none now.
    pub(super) fn added(&mut self) -> io::Result<Option<Box<dyn BufRead>>> {
        loop {
            let Some(live) = &mut self.live else {
                if let Some(closed) = self.read_closed()? {
                    return Ok(Some(closed));
                }
                if self.open_live()? {
                    continue;
                }
                return Ok(None);
            };
            // Asked before reading: a file that was replaced by then does not grow any more.
            let replaced = is_replaced(&live.file, &self.log)?;
            if let Some(lines) = live.read()? {
                return Ok(Some(Box::new(Cursor::new(lines))));
            }
            if !replaced {
                return Ok(None);
            }
            self.leave()?;
        }
    }

    /// Opens the next closed file. One that was deleted before it was read is passed over.
    fn read_closed(&mut self) -> io::Result<Option<Box<dyn BufRead>>> {
        while let Some((number, path)) = self.next_closed()? {
            self.done = number;
            if let Some(file) = present(files::open(&path))? {
                return Ok(Some(Box::new(BufReader::with_capacity(BUFFER_BYTES, file))));
            }
        }
        Ok(None)
    }

    /// Opens the file that has the log's name; returns false if there is none at this moment.
    fn open_live(&mut self) -> io::Result<bool> {
        let Some(file) = present(File::open(&self.log))? else { return Ok(false) };
        // A file that was closed meanwhile is read first, and this may be the one.
        if self.next_closed()?.is_none() {
            self.live = Some(Live { file, at: 0 });
        }
        Ok(true)
    }

    /// Goes on from a file that was replaced. The file has a number if the gateway closed it, and none if
    /// another program removed it.
    fn leave(&mut self) -> io::Result<()> {
        let Some(live) = self.live.take() else { return Ok(()) };
        if let Some((number, path)) = self.next_closed()?
            && let Some(closed) = present(files::open(&path))?
            && first_line(BufReader::new(closed))? == first_line(BufReader::new(At(&live.file, 0)))?
        {
            self.done = number;
        }
        Ok(())
    }

    /// Returns the first closed file that was not read.
    fn next_closed(&self) -> io::Result<Option<(u64, PathBuf)>> {
        // By its name: a list may be read while one name of a file goes and the other one comes.
        let next = self.done.saturating_add(1);
        if let Some(path) = files::closed_file(&self.log, next)? {
            return Ok(Some((next, path)));
        }
        let later =
            files::closed_files(&self.log)?.into_iter().find(|file| file.number > self.done);
        Ok(later.map(|file| (file.number, file.path)))
    }
}

impl Live {
    /// Reads the whole lines that were added.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = self.file.metadata()?.len();
        let room = length.saturating_sub(self.at).min(MAX_READ);
        let mut lines = vec![0; usize::try_from(room).unwrap_or_default()];
        self.file.read_exact_at(&mut lines, self.at)?;
        lines.truncate(memchr::memrchr(b'\n', &lines).map_or(0, |newline| newline + 1));
        self.at = self.at.saturating_add(lines.len() as u64);
        Ok((!lines.is_empty()).then_some(lines))
    }
}

/// Reads a file from an offset of its own, independent of other readers.
pub(super) struct At<'a>(pub(super) &'a File, pub(super) u64);

impl io::Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 = self.1.saturating_add(read as u64);
        Ok(read)
    }
}

/// Turns the error of what is not there into none.
fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Checks whether another file has the log's name. While none has it, another one is on its way.
fn is_replaced(file: &File, log: &Path) -> io::Result<bool> {
    let identity = |meta: &Metadata| (meta.dev(), meta.ino());
    let ours = identity(&file.metadata()?);
    Ok(present(std::fs::metadata(log))?.is_some_and(|there| identity(&there) != ours))
}

fn first_line(file: impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    file.take(MAX_READ).read_until(b'\n', &mut line)?;
    Ok(line)
}

/// Finds the end of a file's last whole line.
fn end_of_lines(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = vec![0; 64 << 10];
    while end > 0 {
        let from = end.saturating_sub(block.len() as u64);
        let piece = usize::try_from(end - from).unwrap_or_default();
        let piece = block.get_mut(..piece).unwrap_or_default();
        file.read_exact_at(piece, from)?;
        if let Some(newline) = memchr::memrchr(b'\n', piece) {
            return Ok(from + newline as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    /// A log with a writer that rotates and compresses it.
    struct Log {
        folder: tempfile::TempDir,
        written: u32,
        number: u64,
    }

    impl Log {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), written: 0, number: 1 }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("a.jsonl")
        }

        fn closed(&self, number: u64) -> PathBuf {
            self.folder.path().join(format!("a.jsonl.{number:06}"))
        }

        fn write(&mut self, lines: u32) {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(self.path());
            for _ in 0..lines {
                self.written += 1;
                writeln!(file.as_mut().unwrap(), "{}", self.written).unwrap();
            }
        }

        fn rotate(&mut self) {
            fs::rename(self.path(), self.closed(self.number)).unwrap();
            self.number += 1;
            self.write(0);
        }

        fn compress(&self, number: u64) {
            let plain = self.closed(number);
            let whole = zstd::encode_all(File::open(&plain).unwrap(), 3).unwrap();
            fs::write(plain.with_extension(format!("{number:06}.zst")), whole).unwrap();
            fs::remove_file(plain).unwrap();
        }
    }

    fn some(followed: &mut Followed) -> Option<Vec<u32>> {
        let lines = followed.added().unwrap()?.lines();
        Some(lines.map(|line| line.unwrap().parse().unwrap()).collect())
    }

    fn all(followed: &mut Followed) -> Vec<u32> {
        std::iter::from_fn(|| some(followed)).flatten().collect()
    }

    fn to(last: u32) -> Vec<u32> {
        (1..=last).collect()
    }

    #[test]
    fn files_that_come_and_go_between_two_looks_are_read_once() {
        let mut log = Log::new();
        let mut followed = Followed::after(&log.path(), 0);
        assert_eq!(some(&mut followed), None, "there is no log yet");
        log.write(2);
        let mut came = all(&mut followed);
        for (rotations, compressed) in [(1, 0), (1, 1), (3, 0), (3, 3), (2, 1), (0, 0)] {
            let first = log.number;
            for _ in 0..rotations {
                log.write(2);
                log.rotate();
            }
            for number in first..first + compressed {
                log.compress(number);
            }
            log.write(1);
            came.extend(all(&mut followed));
            assert_eq!(came, to(log.written), "{rotations} rotations, {compressed} compressed");
        }
    }

    #[test]
    fn a_file_that_is_compressed_before_its_turn_is_still_read() {
        let mut log = Log::new();
        for _ in 0..3 {
            log.write(2);
            log.rotate();
        }
        log.write(2);
        let mut followed = Followed::after(&log.path(), 0);
        let mut came = some(&mut followed).unwrap();
        log.compress(1);
        log.compress(2);
        log.compress(3);
        came.extend(some(&mut followed).unwrap());
        log.rotate();
        log.compress(4);
        log.write(2);
        came.extend(all(&mut followed));
        assert_eq!(came, to(10));
    }

    #[test]
    fn what_was_deleted_unread_is_passed_over() {
        let mut log = Log::new();
        log.write(1);
        let mut followed = Followed::after(&log.path(), 0);
        assert_eq!(all(&mut followed), [1]);
        for _ in 0..3 {
            log.write(1);
            log.rotate();
        }
        fs::remove_file(log.closed(1)).unwrap();
        fs::remove_file(log.closed(2)).unwrap();
        assert_eq!(all(&mut followed), [2, 4], "the file that was open is read to its end");
        fs::rename(log.path(), log.folder.path().join("elsewhere")).unwrap();
        assert!(all(&mut followed).is_empty());
        log.write(1);
        assert_eq!(all(&mut followed), [5]);
    }

    #[test]
    fn following_from_the_end_begins_behind_the_last_whole_line() {
        let mut log = Log::new();
        log.write(2);
        log.rotate();
        log.write(2);
        fs::OpenOptions::new().append(true).open(log.path()).unwrap().write_all(b"5").unwrap();
        let mut followed = Followed::at_end(&log.path()).unwrap();
        let (file, at, done) = followed.before().unwrap();
        assert_eq!(
            (io::read_to_string(io::Read::take(At(file, 0), at)).unwrap(), done),
            ("3\n4\n".to_owned(), 1)
        );
        assert!(all(&mut followed).is_empty());
        fs::OpenOptions::new().append(true).open(log.path()).unwrap().write_all(b"\n").unwrap();
        log.written = 5;
        log.rotate();
        log.rotate();
        log.write(1);
        assert_eq!(all(&mut followed), [5, 6]);
    }
}
