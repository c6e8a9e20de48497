//! The log's file: whole lines are added to its end, or nothing is.
//!
//! Rotation puts an empty file in its place, and the old one aside under the next number. The new
//! file is made and locked before the old one is moved, so that a failure to make it moves nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::journal::{lock, sync_folder};
use super::{OpenError, files, record};
use crate::firewall::time::Timestamp;

/// Change of the file since the last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Untouched,
    /// Deleted, or replaced by another file.
    Replaced,
    /// Made longer or shorter by another process.
    Resized,
}

pub(super) struct Log {
    path: PathBuf,
    file: File,
    pub(super) inode: u64,
    device: u64,
    /// Length of the file's whole lines.
    pub(super) length: u64,
    /// A failed write left bytes behind `length` that are still to be cut off.
    ragged: bool,
    /// The number that this file gets when it is closed.
    number: u64,
    /// Time at which the file's first line was written.
    started: Option<Timestamp>,
    /// The folder may not have the file's name on the disk yet.
    name_unsynced: bool,
    #[cfg(test)]
    pub(super) fault: faults::Fault,
}

impl Log {
    /// Opens or makes the log and keeps every other process out.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path)
            .map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(failed(io::Error::other("not a regular file")));
        }
        lock(&file, path)?;
        if meta.len() == 0 {
            sync_folder(path).map_err(failed)?;
        }
        let mut first = [0; 64];
        let read = file.read_at(&mut first, 0).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            inode: meta.ino(),
            device: meta.dev(),
            length: meta.len(),
            ragged: false,
            number: files::next_number(path).map_err(failed)?,
            started: first.get(..read).and_then(record::timestamp_of),
            name_unsynced: false,
            file,
            #[cfg(test)]
            fault: faults::Fault::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Number that the file gets when it is closed.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Checks whether the path still names this file.
    pub(super) fn fate(&self) -> Fate {
        match fs::metadata(&self.path) {
            Ok(meta) if meta.ino() != self.inode || meta.dev() != self.device => Fate::Replaced,
            Ok(meta) if meta.len() == self.length || self.ragged => Fate::Untouched,
            Ok(_) => Fate::Resized,
            Err(_) => Fate::Replaced,
        }
    }

    /// Adds whole lines; if that fails the file is as it was, or will be before the next try.
    pub(super) fn append(&mut self, lines: &[u8], durable: bool) -> io::Result<()> {
        self.trim()?;
        if durable && self.name_unsynced {
            sync_folder(&self.path)?;
            self.name_unsynced = false;
        }
        let written = self.write(lines).and_then(|()| if durable { self.sync() } else { Ok(()) });
        if let Err(error) = written {
            self.ragged = true;
            // A failure here is not lost: nothing is written before the next `trim` succeeds.
            drop(self.trim());
            return Err(error);
        }
        if self.length == 0 {
            self.started = record::timestamp_of(lines);
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Returns the time at which the file's first line was written, if it has one.
    pub(super) fn started(&self) -> Option<Timestamp> {
        self.started.filter(|_| self.length > 0)
    }

    /// Returns the file's identity: its inode and number, because inodes are reused.
    pub(super) fn identity(&self) -> u64 {
        self.inode ^ self.number.rotate_right(16)
    }

    /// Puts the file aside and begins an empty one; on an error all is as it was.
    pub(super) fn rotate(&mut self) -> io::Result<PathBuf> {
        self.trim()?;
        self.file.sync_data()?;
        // Never a number that was used before: files may be missing, or were not listed.
        let number = files::next_number(&self.path)?.max(self.number);
        let aside = files::closed_name(&self.path, number);
        let next = super::beside(&self.path, ".next");
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file =
            OpenOptions::new().read(true).append(true).create_new(true).mode(0o640).open(&next)?;
        lock(&file, &self.path).map_err(io::Error::other)?;
        let meta = file.metadata()?;
        fs::rename(&self.path, &aside)?;
        if let Err(error) = fs::rename(&next, &self.path) {
            fs::rename(&aside, &self.path)?;
            return Err(error);
        }
        self.file = file;
        (self.inode, self.device, self.length) = (meta.ino(), meta.dev(), 0);
        (self.number, self.started) = (number.saturating_add(1), None);
        // If this fails, nothing that must last is written before it has succeeded.
        self.name_unsynced = sync_folder(&self.path).is_err();
        Ok(aside)
    }

    /// Accepts the length that another process has given the file.
    pub(super) fn accept_length(&mut self) -> io::Result<()> {
        self.length = self.file.metadata()?.len();
        Ok(())
    }

    /// Cuts the file back to `length`.
    pub(super) fn cut(&mut self, length: u64) -> io::Result<()> {
        self.length = length;
        self.ragged = true;
        self.trim()
    }

    fn trim(&mut self) -> io::Result<()> {
        if self.ragged {
            self.file.set_len(self.length)?;
            self.ragged = false;
        }
        Ok(())
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    #[cfg(not(test))]
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all(lines)
    }

    #[cfg(not(test))]
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(test)]
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let room = self.fault.room(lines.len());
        self.file.write_all(&lines[..room])?;
        if room < lines.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    #[cfg(test)]
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.fault.sync()?;
        self.file.sync_data()
    }
}

/// Failures for tests, switched on and off while a writer runs.
#[cfg(test)]
pub(super) mod faults {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    const NONE: u64 = u64::MAX;
    const SYNC: u64 = u64::MAX - 1;

    #[derive(Clone)]
    pub(in crate::audit) struct Fault(Arc<AtomicU64>);

    impl Default for Fault {
        fn default() -> Self {
            Self(Arc::new(AtomicU64::new(NONE)))
        }
    }

    impl Fault {
        /// From now on a write gets this many bytes out and then fails.
        pub(in crate::audit) fn full_after(&self, bytes: u64) {
            self.0.store(bytes, Ordering::SeqCst);
        }

        pub(in crate::audit) fn fail_to_sync(&self) {
            self.0.store(SYNC, Ordering::SeqCst);
        }

        pub(in crate::audit) fn mend(&self) {
            self.0.store(NONE, Ordering::SeqCst);
        }

        pub(super) fn room(&self, wanted: usize) -> usize {
            match self.0.load(Ordering::SeqCst) {
                NONE | SYNC => wanted,
                room => wanted.min(usize::try_from(room).unwrap()),
            }
        }

        pub(super) fn sync(&self) -> io::Result<()> {
            if self.0.load(Ordering::SeqCst) == SYNC {
                return Err(io::Error::other("the disk does not answer"));
            }
            Ok(())
        }
    }
}
