//! The log's file: whole lines are added to its end, or nothing is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::OpenError;
use super::journal::{lock, sync_folder};

/// What became of the file since it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Untouched,
    /// Deleted, or another file stands in its place.
    Replaced,
    /// Somebody else made it longer or shorter.
    Resized,
}

pub(super) struct Log {
    path: PathBuf,
    file: File,
    pub(super) inode: u64,
    device: u64,
    /// How far the file holds whole lines of ours.
    pub(super) length: u64,
    /// A failed write left bytes behind `length` that are still to be cut off.
    ragged: bool,
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
        Ok(Self {
            path: path.to_owned(),
            file,
            inode: meta.ino(),
            device: meta.dev(),
            length: meta.len(),
            ragged: false,
            #[cfg(test)]
            fault: faults::Fault::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Asks the folder whether this is still the file that the path names.
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
        let written = self.write(lines).and_then(|()| if durable { self.sync() } else { Ok(()) });
        if let Err(error) = written {
            self.ragged = true;
            // A failure here is not lost: nothing is written before the next `trim` succeeds.
            drop(self.trim());
            return Err(error);
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Takes the file as long as somebody else has made it.
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
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(test)]
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let room = self.fault.room(lines.len());
        self.file.write_all(&lines[..room])?;
        if room < lines.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    #[cfg(test)]
    fn sync(&mut self) -> io::Result<()> {
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
