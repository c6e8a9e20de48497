//! `<log>.tree`: the hash of every record, in the order of the chain, for the Merkle tree over them.
//!
//! It outlives the records: files that were deleted for their age stay proven. It says nothing that
//! the log does not, so it is never waited for: what is missing at its end is read from the log.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::chain::{Link, Seal};
use super::files;
use super::tree::{self, Hash, Peaks};

/// The file's first bytes; behind them the sequence of the first record, in eight bytes.
const MARK: &[u8; 24] = b"arbiter audit tree 1\n\0\0\0";
const HEAD_BYTES: u64 = 32;
const HEAD_LENGTH: usize = 32;
const LEAF_BYTES: u64 = 32;
/// Leaves whose root is kept in memory, so that a proof reads few of them.
const BLOCK: u64 = 256;

/// The tree's size and root, and where its first leaf stands in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    pub size: u64,
    pub root: Hash,
}

/// The file as its one writer has it.
pub(super) struct TreeFile {
    log: PathBuf,
    file: File,
    /// Sequence of the first record.
    first: u64,
    peaks: Peaks,
}

pub(super) fn path_of(log: &Path) -> PathBuf {
    super::beside(log, ".tree")
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// The sequence of the first leaf, and how many leaves there are.
fn head(file: &File) -> io::Result<Option<(u64, u64)>> {
    let length = file.metadata()?.len();
    let mut head = [0; HEAD_LENGTH];
    if length < HEAD_BYTES {
        return Ok(None);
    }
    file.read_exact_at(&mut head, 0)?;
    let (mark, first) = head.split_at(MARK.len());
    if mark != MARK {
        return Err(io::Error::other("it is not an audit tree of this version"));
    }
    Ok(Some((number(first), (length - HEAD_BYTES) / LEAF_BYTES)))
}

impl TreeFile {
    /// Opens the file and brings it to where the chain is, which was reached at `link`.
    pub(super) fn open(log: &Path, link: Link) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(path_of(log))?;
        let (first, leaves) = if let Some(known) = head(&file)? {
            known
        } else {
            let first = oldest(log)?.unwrap_or_else(|| link.sequence.saturating_add(1));
            file.set_len(0)?;
            file.write_all_at(MARK, 0)?;
            file.write_all_at(&first.to_le_bytes(), MARK.len() as u64)?;
            (first, 0)
        };
        // What a power cut took from the log only is no record.
        let reached = link.sequence.saturating_add(1).saturating_sub(first);
        let kept = leaves.min(reached);
        file.set_len(HEAD_BYTES + kept * LEAF_BYTES)?;
        let mut peaks = Peaks::default();
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let mut skipped = [0; HEAD_LENGTH];
        io::Seek::seek(&mut reader, io::SeekFrom::Start(0))?;
        reader.read_exact(&mut skipped)?;
        let mut leaf = [0; 32];
        for _ in 0..kept {
            reader.read_exact(&mut leaf)?;
            peaks.push(tree::leaf(&leaf));
        }
        let mut tree = Self { log: log.to_owned(), file, first, peaks };
        tree.catch_up(link)?;
        Ok(tree)
    }

    /// Adds the hashes of records that follow what is there; otherwise they are read from the log
    /// when a root is wanted.
    pub(super) fn append(&mut self, from: u64, hashes: &[[u8; 32]]) -> io::Result<()> {
        if from != self.next() || hashes.is_empty() {
            return Ok(());
        }
        let at = HEAD_BYTES + self.peaks.size() * LEAF_BYTES;
        self.file.write_all_at(&hashes.concat(), at)?;
        for hash in hashes {
            self.peaks.push(tree::leaf(hash));
        }
        Ok(())
    }

    /// The sequence of the next record.
    fn next(&self) -> u64 {
        self.first.saturating_add(self.peaks.size())
    }

    /// The tree up to `link`.
    pub(super) fn head(&mut self, link: Link) -> io::Result<TreeHead> {
        self.catch_up(link)?;
        Ok(TreeHead { size: self.peaks.size(), root: self.peaks.root() })
    }

    /// Reads from the log what is missing up to `link`. A record that is gone has a leaf of zeros.
    fn catch_up(&mut self, link: Link) -> io::Result<()> {
        if self.next() > link.sequence {
            return Ok(());
        }
        let mut from =
            files::closed_files(&self.log)?.into_iter().map(|file| file.path).collect::<Vec<_>>();
        from.push(self.log.clone());
        let mut begin = from.len().saturating_sub(1);
        while begin > 0 {
            let before =
                from.get(begin).map(|path| files::link_before(path)).transpose()?.flatten();
            if before.is_some_and(|before| before.sequence < self.next()) {
                break;
            }
            begin -= 1;
        }
        let mut hashes: Vec<[u8; 32]> = Vec::new();
        for path in from.iter().skip(begin) {
            let mut reader = BufReader::with_capacity(1 << 20, files::open(path)?);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                let seal = line.strip_suffix(b"\n").and_then(Seal::read);
                if let Some(found) = seal.map(|seal| seal.link) {
                    let wanted = self.next().saturating_add(hashes.len() as u64);
                    if (wanted..=link.sequence).contains(&found.sequence) {
                        hashes.extend((wanted..found.sequence).map(|_gone| [0; 32]));
                        hashes.push(found.hash.to_bytes());
                    }
                }
                line.clear();
                if hashes.len() >= 1 << 16 {
                    self.append(self.next(), &std::mem::take(&mut hashes))?;
                }
            }
        }
        let wanted = self.next().saturating_add(hashes.len() as u64);
        if wanted <= link.sequence {
            hashes.extend((wanted..link.sequence).map(|_gone| [0; 32]));
            hashes.push(link.hash.to_bytes());
        }
        self.append(self.next(), &hashes)
    }
}

/// The sequence of the oldest record that is there.
fn oldest(log: &Path) -> io::Result<Option<u64>> {
    for path in files::files_of(log)? {
        match files::link_before(&path) {
            Ok(Some(before)) => return Ok(Some(before.sequence.saturating_add(1))),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The file as those who prove read it.
#[derive(Debug)]
pub struct Proofs {
    path: PathBuf,
    /// Roots of whole blocks, as far as they were needed.
    blocks: Mutex<Vec<Hash>>,
}

impl Proofs {
    pub fn of(log: &Path) -> Self {
        Self { path: path_of(log), blocks: Mutex::default() }
    }

    /// The sequence of the first leaf, and how many leaves there are.
    pub fn extent(&self) -> io::Result<(u64, u64)> {
        let file = File::open(&self.path)?;
        head(&file)?.ok_or_else(|| io::Error::other("the tree's file is empty"))
    }

    /// The path from a leaf to the root of the first `size` leaves. Blocks on the file.
    pub fn inclusion(&self, index: u64, size: u64) -> io::Result<Vec<Hash>> {
        let file = File::open(&self.path)?;
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        while (blocks.len() as u64 + 1) * BLOCK <= size {
            let start = blocks.len() as u64 * BLOCK;
            blocks.push(tree::root(&leaves(&file, start, start + BLOCK)?));
        }
        tree::inclusion(index, size, &mut |from, to| range(&file, &blocks, from, to))
    }

    /// The root of the first leaves for each of `sizes`, which are in order. Blocks on the file.
    pub fn roots(&self, sizes: &[u64]) -> io::Result<Vec<Option<Hash>>> {
        let file = File::open(&self.path)?;
        let (_, there) = self.extent()?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        reader.read_exact(&mut [0; HEAD_LENGTH])?;
        let (mut peaks, mut roots, mut leaf) = (Peaks::default(), Vec::new(), [0; 32]);
        for size in sizes {
            while peaks.size() < (*size).min(there) {
                reader.read_exact(&mut leaf)?;
                peaks.push(tree::leaf(&leaf));
            }
            roots.push((peaks.size() == *size).then(|| peaks.root()));
        }
        Ok(roots)
    }

    /// Records in a log's files whose hash the tree does not have in their place. Records behind the
    /// tree's end are not counted. Blocks on the files.
    pub fn count_other(&self, paths: &[PathBuf]) -> io::Result<u64> {
        let file = File::open(&self.path)?;
        let (first, there) = self.extent()?;
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let (mut at, mut other, mut hash) = (u64::MAX, 0, [0; 32]);
        for path in paths {
            let mut lines = BufReader::with_capacity(1 << 20, files::open(path)?);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line)? > 0 {
                let seal = line.strip_suffix(b"\n").and_then(Seal::read);
                let index = seal.and_then(|seal| seal.link.sequence.checked_sub(first));
                if let (Some(seal), Some(index)) = (seal, index.filter(|index| *index < there)) {
                    if at != index {
                        let place = HEAD_BYTES + index * LEAF_BYTES;
                        io::Seek::seek(&mut reader, io::SeekFrom::Start(place))?;
                    }
                    reader.read_exact(&mut hash)?;
                    at = index + 1;
                    other += u64::from(hash != seal.link.hash.to_bytes());
                }
                line.clear();
            }
        }
        Ok(other)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The root over the leaves from `from` up to `to`: a whole subtree, or the tree's right edge.
fn range(file: &File, blocks: &[Hash], from: u64, to: u64) -> io::Result<Hash> {
    if !from.is_multiple_of(BLOCK) || to - from < BLOCK {
        return Ok(tree::root(&leaves(file, from, to)?));
    }
    // Roots of equal whole subtrees are leaves of the tree above them.
    let (first, whole) = (from / BLOCK, to / BLOCK);
    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let mut above = blocks.get(at(first)..at(whole)).unwrap_or_default().to_vec();
    if !to.is_multiple_of(BLOCK) {
        above.push(tree::root(&leaves(file, whole * BLOCK, to)?));
    }
    Ok(tree::root(&above))
}

fn leaves(file: &File, from: u64, to: u64) -> io::Result<Vec<Hash>> {
    let bytes = usize::try_from((to - from) * LEAF_BYTES).map_err(io::Error::other)?;
    let mut read = vec![0; bytes];
    file.read_exact_at(&mut read, HEAD_BYTES + from * LEAF_BYTES)?;
    let (hashes, _) = read.as_chunks::<32>();
    Ok(hashes.iter().map(tree::leaf).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::seal;

    /// A log of `n` records in files of `each`, and where its chain got to.
    fn log(folder: &Path, n: usize, each: usize) -> (PathBuf, Vec<Link>) {
        let log = folder.join("a.jsonl");
        let (mut link, mut links, mut text) = (Link::GENESIS, Vec::new(), Vec::new());
        for n in 0..n {
            if n > 0 && n % each == 0 {
                let closed = files::closed_name(&log, (n / each) as u64);
                std::fs::write(closed, std::mem::take(&mut text)).unwrap();
            }
            let start = text.len();
            text.extend_from_slice(format!("{{\"random\":\"{}\"", uuid::Uuid::new_v4()).as_bytes());
            link = seal(&mut text, start, &link);
            text.push(b'\n');
            links.push(link);
        }
        std::fs::write(&log, text).unwrap();
        (log, links)
    }

    fn prove_all(n: usize, each: usize) {
        let folder = tempfile::tempdir().unwrap();
        let (log, links) = log(folder.path(), n, each);
        let head = TreeFile::open(&log, links[n - 1]).unwrap().head(links[n - 1]).unwrap();
        assert_eq!(head.size, n as u64);
        let proofs = Proofs::of(&log);
        for (index, link) in links.iter().enumerate() {
            let leaf = tree::leaf(&link.hash.to_bytes());
            let (index, size) = (index as u64, head.size);
            let path = proofs.inclusion(index, size).unwrap();
            assert_eq!(tree::root_of(index, size, leaf, &path), Some(head.root), "{index} of {n}");
            let mut other = leaf;
            other[usize::try_from(index % 32).unwrap()] ^= 1 << (index % 8);
            assert_ne!(tree::root_of(index, size, other, &path), Some(head.root));
        }
        assert_eq!(proofs.count_other(&files::files_of(&log).unwrap()).unwrap(), 0);
    }

    #[test]
    fn every_record_of_several_files_is_proven() {
        for (n, each) in [(1, 10), (255, 100), (256, 100), (257, 1_000), (1_100, 300)] {
            prove_all(n, each);
        }
    }

    #[test]
    fn every_random_record_of_a_long_log_is_proven() {
        let wanted = crate::config::environment().find(|(name, _)| name == "PROVEN_RECORDS");
        prove_all(wanted.map_or(2_000, |(_, records)| records.parse().unwrap()), 30_000);
    }

    #[test]
    fn what_is_missing_is_read_from_the_log_and_what_is_too_much_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (log, links) = log(folder.path(), 50, 20);
        let whole = TreeFile::open(&log, links[49]).unwrap().head(links[49]).unwrap();
        let file = OpenOptions::new().write(true).open(path_of(&log)).unwrap();
        file.set_len(HEAD_BYTES + 7 * LEAF_BYTES + 5).unwrap();
        assert_eq!(TreeFile::open(&log, links[49]).unwrap().head(links[49]).unwrap(), whole);
        // A power cut took the log's last lines, not the tree's leaves.
        let shorter = TreeFile::open(&log, links[44]).unwrap().head(links[44]).unwrap();
        assert_eq!(shorter.size, 45);
        let mut grown = TreeFile::open(&log, links[44]).unwrap();
        let hashes: Vec<_> = links[45..].iter().map(|link| link.hash.to_bytes()).collect();
        grown.append(46, &hashes).unwrap();
        assert_eq!(grown.head(links[49]).unwrap(), whole);
        let sizes = [1, 45, 50, 51];
        let roots = Proofs::of(&log).roots(&sizes).unwrap();
        assert_eq!((roots[1], roots[2], roots[3]), (Some(shorter.root), Some(whole.root), None));
    }
}
