//! `<log>.tree.blocks`: the root of every 256 leaves of the tree, so that neither a start nor a proof
//! hashes all leaves again.
//!
//! Everything in it follows from the leaves. A file that is missing, too short or of another tree is
//! written again at the next start, and until then the roots it lacks are computed from the leaves.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files;
use super::tree::Hash;

/// Leaves of a block.
pub(super) const BLOCK: u64 = 256;
/// The file's first bytes; behind them the sequence of the tree's first record, in eight bytes.
const MARK: &[u8; 24] = b"arbiter audit blocks 1\n\0";
const HEAD_BYTES: u64 = 32;
const ROOT_BYTES: u64 = 32;
/// Most roots that are read at once.
const MOST_READ: u64 = 4_096;

pub(super) fn path_of(log: &Path) -> PathBuf {
    super::beside(log, ".tree.blocks")
}

/// The roots of the whole blocks that are in the file, from the first on.
#[derive(Debug)]
pub(super) struct BlockRoots {
    file: File,
    count: u64,
}

impl BlockRoots {
    /// Opens the file for writing and keeps at most `most` roots of a tree that begins at `first`.
    pub(super) fn open(log: &Path, first: u64, most: u64) -> io::Result<Self> {
        let file = files::open_kept(&path_of(log))?;
        let known = count(&file, first)?;
        if known.is_none() {
            file.set_len(0)?;
            file.write_all_at(MARK, 0)?;
            file.write_all_at(&first.to_le_bytes(), MARK.len() as u64)?;
        }
        let mut roots = Self { file, count: known.unwrap_or_default() };
        roots.keep(most)?;
        Ok(roots)
    }

    /// Opens the file for reading, if there is one of a tree that begins at `first`.
    pub(super) fn read_only(log: &Path, first: u64) -> io::Result<Option<Self>> {
        let file = match File::open(path_of(log)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(count(&file, first)?.map(|count| Self { file, count }))
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Keeps the first roots only.
    pub(super) fn keep(&mut self, most: u64) -> io::Result<()> {
        self.count = self.count.min(most);
        self.file.set_len(HEAD_BYTES + self.count * ROOT_BYTES)
    }

    pub(super) fn append(&mut self, roots: &[Hash]) -> io::Result<()> {
        self.file.write_all_at(&roots.concat(), HEAD_BYTES + self.count * ROOT_BYTES)?;
        self.count += roots.len() as u64;
        Ok(())
    }

    /// Passes the roots of the blocks from one number up to another, as far as they are there.
    pub(super) fn each(&self, from: u64, to: u64, mut pass: impl FnMut(Hash)) -> io::Result<()> {
        let (mut at, to) = (from, to.min(self.count));
        while at < to {
            let behind = to.min(at + MOST_READ);
            let length = usize::try_from((behind - at) * ROOT_BYTES).map_err(io::Error::other)?;
            let mut read = vec![0; length];
            self.file.read_exact_at(&mut read, HEAD_BYTES + at * ROOT_BYTES)?;
            read.as_chunks::<32>().0.iter().copied().for_each(&mut pass);
            at = behind;
        }
        Ok(())
    }
}

/// Number of roots in the file; none if it is not one of a tree that begins at `first`.
fn count(file: &File, first: u64) -> io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    if length < HEAD_BYTES {
        return Ok(None);
    }
    let (mut mark, mut of) = ([0; MARK.len()], [0; 8]);
    file.read_exact_at(&mut mark, 0)?;
    file.read_exact_at(&mut of, MARK.len() as u64)?;
    let is_same = mark == *MARK && u64::from_le_bytes(of) == first;
    Ok(is_same.then_some((length - HEAD_BYTES) / ROOT_BYTES))
}
