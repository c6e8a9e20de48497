//! Files of a log, in their order.
//!
//! The file that is written is `<log>`. A closed one is `<log>.000001`, `<log>.000002` and so on:
//! the number says the order, never the date, because clocks go back. Compressed it is called
//! `<log>.000001.zst`; it is put there whole before the plain one goes, so where both are found the
//! plain one is as good.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::chain::{Link, Seal};

/// End of a compressed file's name.
const COMPRESSED: &str = ".zst";
/// Length of a plain file's tail that is searched for its last line.
const TAIL_BYTES: u64 = 8 * 1_024 * 1_024;

/// A file that is not written any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedFile {
    pub number: u64,
    pub path: PathBuf,
    pub compressed: bool,
}

/// Listings of a folder after which it is given up that two of them agree.
const MOST_LISTINGS: usize = 100;

/// One of a log's files. The one that was being written is held open, because it gets another name when
/// the log is rotated.
#[derive(Debug)]
pub struct LogFile {
    pub path: PathBuf,
    /// Number among the closed files that the file has or will have, and that a path given by hand lacks.
    pub number: Option<u64>,
    held: Option<File>,
}

impl From<PathBuf> for LogFile {
    fn from(path: PathBuf) -> Self {
        Self { number: number_of(&path), path, held: None }
    }
}

impl LogFile {
    /// Opens the file for reading from its start, compressed or not, whatever its name is by now.
    pub fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        match &self.held {
            Some(held) => Ok(Box::new(FromStart { held, at: 0 })),
            None => open(&self.path),
        }
    }

    /// Opens the file for reading at any place; none if it is compressed.
    pub(super) fn plain(&self) -> io::Result<Option<File>> {
        match &self.held {
            Some(held) => held.try_clone().map(Some),
            None if is_compressed(&self.path) => Ok(None),
            None => match File::open(&self.path) {
                // Compressed since the path was found.
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(None),
                opened => opened.map(Some),
            },
        }
    }
}

/// Reads a file that others read, too, from its start.
struct FromStart<'f> {
    held: &'f File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.held.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Returns the files that a log has at one instant, oldest first, the one being written last and open:
/// what was written before the call is in them, each record once, however the log is rotated meanwhile.
pub fn snapshot(log: &Path) -> io::Result<Vec<LogFile>> {
    snapshot_by(log, closed_files)
}

fn snapshot_by(
    log: &Path,
    mut list: impl FnMut(&Path) -> io::Result<Vec<ClosedFile>>,
) -> io::Result<Vec<LogFile>> {
    for _ in 0..MOST_LISTINGS {
        let live = there(File::open(log))?;
        let closed = list(log)?;
        let is_same = match (&live, there(fs::metadata(log))?) {
            (Some(live), Some(named)) => {
                let live = live.metadata()?;
                (live.ino(), live.dev()) == (named.ino(), named.dev())
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_same {
            continue;
        }
        let number = closed.last().map_or(1, |file| file.number.saturating_add(1));
        let mut files: Vec<LogFile> =
            closed.into_iter().map(|file| LogFile::from(file.path)).collect();
        if live.is_some() || files.is_empty() {
            files.push(LogFile { path: log.to_owned(), number: Some(number), held: live });
        }
        return Ok(files);
    }
    Err(io::Error::other("the log is rotated faster than its folder can be listed"))
}

/// Turns the absence of a file into none.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zst")
}

/// Opens a file that goes on where the last process left it, or begins it; readable for the group.
pub(super) fn open_kept(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

/// The name of a closed file.
pub(super) fn closed_name(log: &Path, number: u64) -> PathBuf {
    super::beside(log, &format!(".{number:06}"))
}

/// The closed files of a log, oldest first.
///
/// A folder is not listed at one instant: a file that is compressed meanwhile may be missed under both
/// of its names. So the folder is listed until two listings in a row have the same files.
pub fn closed_files(log: &Path) -> io::Result<Vec<ClosedFile>> {
    let numbers = |files: &[ClosedFile]| files.iter().map(|file| file.number).collect::<Vec<_>>();
    let mut known = listed(log)?;
    for _ in 0..MOST_LISTINGS {
        let again = listed(log)?;
        let same = numbers(&again) == numbers(&known);
        known = again;
        if same {
            return Ok(known);
        }
    }
    Err(io::Error::other("the files of the log change faster than their folder can be listed"))
}

fn listed(log: &Path) -> io::Result<Vec<ClosedFile>> {
    let Some(name) = log.file_name() else { return Ok(Vec::new()) };
    let mut found = BTreeMap::new();
    for entry in entries(folder_of(log))? {
        let Some(there) = entry.file_name() else { continue };
        let Some((base, number, compressed)) = there.to_str().and_then(parts) else { continue };
        if name.to_str() != Some(base) {
            continue;
        }
        let file = ClosedFile { number, path: entry.clone(), compressed };
        // Where both are found the plain one is taken.
        found
            .entry(number)
            .and_modify(|known: &mut ClosedFile| {
                if !compressed {
                    known.clone_from(&file);
                }
            })
            .or_insert(file);
    }
    Ok(found.into_values().collect())
}

/// Returns the path of a closed file by its number, if there is one.
pub fn closed_file(log: &Path, number: u64) -> io::Result<Option<PathBuf>> {
    let plain = closed_name(log, number);
    let compressed = super::beside(&plain, COMPRESSED);
    // In this order: the compressed file is there before the plain one goes.
    for path in [plain, compressed] {
        if path.try_exists()? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Returns the number of a closed file by its path.
fn number_of(path: &Path) -> Option<u64> {
    let (_, number, _) = parts(path.file_name()?.to_str()?)?;
    Some(number)
}

/// The number that the next closed file gets.
pub(super) fn next_number(log: &Path) -> io::Result<u64> {
    Ok(closed_files(log)?.last().map_or(1, |file| file.number.saturating_add(1)))
}

/// A log's files that are there, oldest first, the one being written last.
pub fn files_of(log: &Path) -> io::Result<Vec<PathBuf>> {
    let closed = closed_files(log)?;
    let mut files: Vec<PathBuf> = closed.into_iter().map(|file| file.path).collect();
    if log.try_exists()? || files.is_empty() {
        files.push(log.to_owned());
    }
    Ok(files)
}

/// The logs in a folder: whatever ends in `.jsonl` or has closed files.
pub fn logs_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for entry in entries(folder)? {
        let Some(name) = entry.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some((base, ..)) = parts(name) {
            logs.push(folder.join(base));
        } else if entry.extension().is_some_and(|extension| extension == "jsonl") {
            logs.push(entry);
        }
    }
    logs.sort();
    logs.dedup();
    Ok(logs)
}

/// Opens a log's file for reading from its start, compressed or not. One that was compressed since its
/// path was found is opened by its new name.
pub fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let decoder = zstd::stream::read::Decoder::new;
    match File::open(path) {
        Ok(file) if is_compressed(path) => Ok(Box::new(decoder(file)?)),
        Ok(file) => Ok(Box::new(file)),
        Err(gone) if gone.kind() == io::ErrorKind::NotFound && !is_compressed(path) => {
            match File::open(super::beside(path, COMPRESSED)) {
                Ok(file) => Ok(Box::new(decoder(file)?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(gone),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// Returns the last link of the newest closed file.
pub(super) fn last_link(log: &Path) -> io::Result<Option<Link>> {
    let Some(newest) = closed_files(log)?.pop() else { return Ok(None) };
    let reader: Box<dyn Read + Send> = if newest.compressed {
        open(&newest.path)?
    } else {
        let mut file = File::open(&newest.path)?;
        let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        Box::new(file)
    };
    let mut reader = BufReader::with_capacity(1 << 20, reader);
    let mut line = Vec::new();
    let mut last = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        std::mem::swap(&mut line, &mut last);
        line.clear();
    }
    let whole = last.strip_suffix(b"\n").and_then(Seal::read).filter(|seal| seal.intact);
    Ok(whole.map(|seal| seal.link))
}

/// Returns the link before a file's first record.
pub(super) fn link_before(path: &Path) -> io::Result<Option<Link>> {
    let mut first = Vec::new();
    BufReader::new(open(path)?).take(TAIL_BYTES).read_until(b'\n', &mut first)?;
    let seal = first.strip_suffix(b"\n").and_then(Seal::read).filter(|seal| seal.intact);
    Ok(seal.and_then(|seal| seal.before()))
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Takes a closed file's name apart: the log's name, the number, and whether it is compressed.
fn parts(name: &str) -> Option<(&str, u64, bool)> {
    let (plain, compressed) = match name.strip_suffix(COMPRESSED) {
        Some(plain) => (plain, true),
        None => (name, false),
    };
    let (base, digits) = plain.rsplit_once('.')?;
    let number = digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit());
    if !number || base.is_empty() {
        return None;
    }
    Some((base, digits.parse().ok()?, compressed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.jsonl");
        for name in [
            "a.jsonl",
            "a.jsonl.000010",
            "a.jsonl.000002.zst",
            "a.jsonl.000002",
            "a.jsonl.1000000",
            "a.jsonl.journal",
            "a.jsonl.000003.zst.partial",
            "a.jsonl.torn-1",
            "a.jsonl.7",
            "b.jsonl.000001.zst",
            "letter.txt",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names: Vec<_> = files_of(&log)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a.jsonl.000002", "a.jsonl.000010", "a.jsonl.1000000", "a.jsonl"]);
        assert_eq!(next_number(&log).unwrap(), 1_000_001);
        let logs = logs_in(folder.path()).unwrap();
        assert_eq!(logs, ["a.jsonl", "b.jsonl"].map(|name| folder.path().join(name)));
    }

    /// Puts the live file aside as a rotation does, and begins the next one.
    fn rotate(log: &Path, next: &str) {
        fs::rename(log, closed_name(log, next_number(log).unwrap())).unwrap();
        fs::write(log, next).unwrap();
    }

    fn contents(files: &[LogFile]) -> Vec<(Option<u64>, String)> {
        let read = |file: &LogFile| {
            let mut text = String::new();
            file.open().unwrap().read_to_string(&mut text).unwrap();
            (file.number, text)
        };
        files.iter().map(read).collect()
    }

    #[test]
    fn a_rotation_at_any_moment_hides_no_record_and_shows_none_twice() {
        let folder = tempfile::tempdir().unwrap();
        for (moment, expected) in [
            ("before", ["one", "two", "three"].as_slice()),
            ("behind", &["one", "two", "three"]),
            ("later", &["one", "two"]),
        ] {
            let log = folder.path().join(moment).join("a.jsonl");
            fs::create_dir(log.parent().unwrap()).unwrap();
            fs::write(&log, "one").unwrap();
            rotate(&log, "two");
            let mut looks = 0;
            let list = |log: &Path| {
                looks += 1;
                if (moment, looks) == ("before", 1) {
                    rotate(log, "three");
                }
                let listed = closed_files(log);
                if (moment, looks) == ("behind", 1) {
                    rotate(log, "three");
                }
                listed
            };
            let files = snapshot_by(&log, list).unwrap();
            if moment == "later" {
                rotate(&log, "three");
            }
            let expected: Vec<_> =
                (1..).map(Some).zip(expected.iter().map(|text| (*text).to_owned())).collect();
            assert_eq!(contents(&files), expected, "{moment}");
            assert_eq!(contents(&files), expected, "{moment}: from the start again");
        }
    }

    #[test]
    fn a_log_without_a_live_file_has_its_closed_ones() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.jsonl");
        fs::write(&log, "one").unwrap();
        fs::rename(&log, closed_name(&log, 1)).unwrap();
        assert_eq!(contents(&snapshot(&log).unwrap()), [(Some(1), "one".to_owned())]);
        let mut looks = 0;
        let list = |log: &Path| {
            looks += 1;
            if looks == 1 {
                fs::write(log, "two").unwrap();
            }
            closed_files(log)
        };
        let files = snapshot_by(&log, list).unwrap();
        assert_eq!(contents(&files)[1], (Some(2), "two".to_owned()));
    }
}
