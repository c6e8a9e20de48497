//! `<log>.tree`: the hash of every record, in the order of the chain, for the Merkle tree over them.
//!
//! The file outlives the records: files that were deleted for their age stay proven. Nothing waits for
//! the file, since the log holds the same: hashes that are missing at its end are read from the log. The
//! roots of whole blocks of leaves are kept in a file of their own ([`tree_blocks`](super::tree_blocks)).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::chain::{Link, Seal};
use super::files::{self, LogFile};
use super::tree::{self, Hash, Peaks};
use super::tree_blocks::{BLOCK, BlockRoots};
use crate::saturate::SaturatingFrom as _;

/// The file's first bytes; behind them the sequence of the first record, in eight bytes.
const MARK: &[u8; 24] = b"arbiter audit tree 1\n\0\0\0";
const HEAD_BYTES: u64 = 32;
const HEAD_LENGTH: usize = 32;
const LEAF_BYTES: u64 = 32;
/// Blocks whose root is kept in memory, so that a proof reads few of them: 32 bytes for 65,536 records.
const SPAN: u64 = if cfg!(test) { 4 } else { 256 };
/// Roots of whole blocks after which they are written, while leaves are read.
const MOST_FINISHED: usize = 4_096;

/// The tree's size and root, and its first leaf's place in the chain.
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
    /// The tree over the roots of whole blocks.
    whole: Peaks,
    /// The leaves behind the last whole block.
    begun: Peaks,
    blocks: BlockRoots,
    /// Roots of the last whole blocks, which are not in their file yet.
    finished: Vec<Hash>,
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
        let file = files::open_kept(&path_of(log))?;
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
        let blocks = open_blocks(log, &file, first, kept / BLOCK)?;
        let mut whole = Peaks::default();
        blocks.each(0, blocks.count(), |root| whole.push(root))?;
        let read_up_to = blocks.count() * BLOCK;
        let (begun, finished) = (Peaks::default(), Vec::new());
        let mut tree = Self { log: log.to_owned(), file, first, whole, begun, blocks, finished };
        tree.read_leaves(read_up_to, kept)?;
        tree.catch_up(link)?;
        Ok(tree)
    }

    /// Reads leaves of the file that are not in memory yet.
    fn read_leaves(&mut self, from: u64, to: u64) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let behind = to.min((at / BLOCK + 1) * BLOCK);
            leaves(&self.file, at, behind)?.into_iter().for_each(|leaf| self.push(leaf));
            if self.finished.len() >= MOST_FINISHED {
                self.write_finished()?;
            }
            at = behind;
        }
        self.write_finished()
    }

    fn size(&self) -> u64 {
        self.whole.size().saturating_mul(BLOCK).saturating_add(self.begun.size())
    }

    fn push(&mut self, leaf: Hash) {
        self.begun.push(leaf);
        if self.begun.size() == BLOCK {
            let root = std::mem::take(&mut self.begun).root();
            self.whole.push(root);
            self.finished.push(root);
        }
    }

    /// Writes the roots of whole blocks that are not in their file. After a failure they are computed
    /// from the leaves at the next one.
    fn write_finished(&mut self) -> io::Result<()> {
        let finished = std::mem::take(&mut self.finished);
        let computed = self.whole.size().saturating_sub(finished.len() as u64);
        for block in self.blocks.count()..computed {
            self.blocks.append(&[block_root(&self.file, block)?])?;
        }
        self.blocks.append(&finished)
    }

    /// Adds the hashes of records that follow what is there; otherwise they are read from the log
    /// when a root is wanted.
    pub(super) fn append(&mut self, from: u64, hashes: &[[u8; 32]]) -> io::Result<()> {
        if from != self.next() || hashes.is_empty() {
            return Ok(());
        }
        let at = HEAD_BYTES + self.size() * LEAF_BYTES;
        self.file.write_all_at(&hashes.concat(), at)?;
        for hash in hashes {
            self.push(tree::leaf(hash));
        }
        if self.finished.is_empty() { Ok(()) } else { self.write_finished() }
    }

    /// The sequence of the next record.
    fn next(&self) -> u64 {
        self.first.saturating_add(self.size())
    }

    /// The tree up to `link`.
    pub(super) fn head(&mut self, link: Link) -> io::Result<TreeHead> {
        self.catch_up(link)?;
        let root = tree::root_above(&[&self.whole, &self.begun]);
        Ok(TreeHead { size: self.size(), root })
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

/// Opens the file of block roots; its last root must be that of its leaves.
fn open_blocks(log: &Path, leaves: &File, first: u64, most: u64) -> io::Result<BlockRoots> {
    let mut blocks = BlockRoots::open(log, first, most)?;
    if let Some(last) = blocks.count().checked_sub(1) {
        let root = block_root(leaves, last)?;
        let mut is_same = false;
        blocks.each(last, last + 1, |kept| is_same = kept == root)?;
        if !is_same {
            blocks.keep(0)?;
        }
    }
    Ok(blocks)
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
    log: PathBuf,
    path: PathBuf,
    /// Roots of whole spans of blocks, as far as they were needed.
    spans: Mutex<Vec<Hash>>,
}

impl Proofs {
    pub fn of(log: &Path) -> Self {
        Self { log: log.to_owned(), path: path_of(log), spans: Mutex::default() }
    }

    /// The sequence of the first leaf, and how many leaves there are.
    pub fn extent(&self) -> io::Result<(u64, u64)> {
        let file = File::open(&self.path)?;
        head(&file)?.ok_or_else(|| io::Error::other("the tree's file is empty"))
    }

    /// The path from a leaf to the root of the first `size` leaves. Blocks on the files.
    pub fn inclusion(&self, index: u64, size: u64) -> io::Result<Vec<Hash>> {
        let (first, _) = self.extent()?;
        let blocks = BlockRoots::read_only(&self.log, first)?;
        let files = Files { leaves: File::open(&self.path)?, blocks };
        let mut spans = self.spans.lock();
        while (spans.len() as u64 + 1) * SPAN * BLOCK <= size {
            let from = spans.len() as u64 * SPAN;
            spans.push(files.over_blocks(from, from + SPAN)?.root());
        }
        tree::inclusion(index, size, &mut |from, to| files.range(&spans, from, to))
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
    pub fn count_other(&self, log_files: &[LogFile]) -> io::Result<u64> {
        let file = File::open(&self.path)?;
        let (first, there) = self.extent()?;
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let (mut at, mut other, mut hash) = (u64::MAX, 0, [0; 32]);
        for log_file in log_files {
            let mut lines = BufReader::with_capacity(1 << 20, log_file.open()?);
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

/// The files of a tree, open for one proof.
struct Files {
    leaves: File,
    blocks: Option<BlockRoots>,
}

impl Files {
    /// Returns the root over the leaves from `from` up to `to`: a whole subtree, or the right edge.
    fn range(&self, spans: &[Hash], from: u64, to: u64) -> io::Result<Hash> {
        let block = from.div_ceil(BLOCK)..to / BLOCK;
        let span = block.start.div_ceil(SPAN)..block.end / SPAN;
        if block.is_empty() {
            return Ok(tree::root(&leaves(&self.leaves, from, to)?));
        }
        // A subtree of whole blocks begins at one, and a subtree of whole spans at a span.
        let (mut above, mut first) = (Peaks::default(), block.start);
        if !span.is_empty() {
            let at = usize::saturating_from::<u64>;
            let whole = spans.get(at(span.start)..at(span.end)).unwrap_or_default();
            for root in whole {
                above.push(*root);
            }
            first = span.end * SPAN;
        }
        let middle = self.over_blocks(first, block.end)?;
        let mut edge = Peaks::default();
        leaves(&self.leaves, block.end * BLOCK, to)?.into_iter().for_each(|leaf| edge.push(leaf));
        Ok(tree::root_above(&[&above, &middle, &edge]))
    }

    /// Returns the tree over whole blocks. Roots that are not in their file are computed.
    fn over_blocks(&self, from: u64, to: u64) -> io::Result<Peaks> {
        let mut peaks = Peaks::default();
        if let Some(blocks) = &self.blocks {
            blocks.each(from, to, |root| peaks.push(root))?;
        }
        for block in from + peaks.size()..to {
            peaks.push(block_root(&self.leaves, block)?);
        }
        Ok(peaks)
    }
}

fn block_root(file: &File, block: u64) -> io::Result<Hash> {
    Ok(tree::root(&leaves(file, block * BLOCK, (block + 1) * BLOCK)?))
}

fn leaves(file: &File, from: u64, to: u64) -> io::Result<Vec<Hash>> {
    let bytes = usize::try_from((to - from) * LEAF_BYTES).map_err(io::Error::other)?;
    let mut read = vec![0; bytes];
    file.read_exact_at(&mut read, HEAD_BYTES + from * LEAF_BYTES)?;
    let (hashes, _) = read.as_chunks::<32>();
    Ok(hashes.iter().map(tree::leaf).collect())
}

#[cfg(test)]
mod tests;
