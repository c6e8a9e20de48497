//! The process that holds a lock on a file, for messages about files that are in use.

use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Holder of a file, as far as the kernel shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(Option<u32>);

impl Holder {
    /// Finds the other process that holds a lock on a file. None is known where the holder belongs to
    /// another container, or the file system has its locks elsewhere.
    pub fn of(path: &Path) -> Self {
        Self(std::fs::metadata(path).ok().and_then(|file| found(&file)))
    }

    /// Finds the holder of a file that is open.
    pub fn of_file(file: &File) -> Self {
        Self(file.metadata().ok().and_then(|file| found(&file)))
    }

    pub fn pid(self) -> Option<u32> {
        self.0
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

fn found(file: &Metadata) -> Option<u32> {
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder(line, file.dev(), file.ino()))
}

/// The holder in a line of `/proc/locks` that is about a file: `1: POSIX ADVISORY WRITE 42 fd:00:7 0 EOF`.
fn holder(line: &str, device: u64, inode: u64) -> Option<u32> {
    // An arrow marks a process that waits for the lock.
    if line.contains("->") {
        return None;
    }
    let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "ADVISORY");
    let (pid, file) = (words.nth(2)?, words.next()?);
    let mut parts = file.split(':');
    let number = |text: Option<&str>| u64::from_str_radix(text?, 16).ok();
    let (major, minor) = (number(parts.next())?, number(parts.next())?);
    let is_same = (major, minor) == (major_of(device), minor_of(device))
        && parts.next().and_then(|text| text.parse().ok()) == Some(inode);
    let pid = pid.parse().ok().filter(|pid| *pid != 0 && *pid != std::process::id());
    pid.filter(|_| is_same)
}

fn major_of(device: u64) -> u64 {
    (device >> 8 & 0xfff) | (device >> 32 & !0xfff)
}

fn minor_of(device: u64) -> u64 {
    (device & 0xff) | (device >> 12 & !0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_holder_of_its_file_alone() {
        let device = 0xfd << 8 | 3;
        for (line, expected) in [
            ("1: POSIX  ADVISORY  WRITE 4711 fd:03:77 1073741824 1073742335", Some(4711)),
            ("2: FLOCK  ADVISORY  WRITE 12 fd:03:77 0 EOF", Some(12)),
            ("2: -> FLOCK  ADVISORY  WRITE 13 fd:03:77 0 EOF", None),
            ("3: POSIX  ADVISORY  READ 4711 fd:03:78 0 EOF", None),
            ("3: POSIX  ADVISORY  READ 4711 fd:04:77 0 EOF", None),
            ("4: OFDLCK ADVISORY  WRITE -1 fd:03:77 0 EOF", None),
            ("5: POSIX  ADVISORY  WRITE 0 fd:03:77 0 EOF", None),
            ("", None),
        ] {
            assert_eq!(holder(line, device, 77), expected, "{line}");
        }
        let own = format!("1: POSIX ADVISORY WRITE {} fd:03:77 0 EOF", std::process::id());
        assert_eq!(holder(&own, device, 77), None);
    }

    #[test]
    fn a_file_that_nobody_holds_has_no_holder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let holder = Holder::of(file.path());
        assert_eq!((holder.pid(), holder.to_string()), (None, "another process".to_owned()));
    }
}
