//! Signs how far the log has got, every so many records or seconds, and keeps what it signed in
//! `<log>.checkpoints`.
//!
//! The file does not grow for ever: once it is full, every second note of its older half is removed.
//! So the newest stay close together and the oldest grow sparse, and up to the last one everything
//! stays proven. Operators who need every checkpoint keep the answers of `GET /audit/checkpoint`.
//!
//! A node never signs less than it has signed before: where the log ends short of the last
//! checkpoint in the file, the chain goes on from the checkpoint, and the log says what is missing.
//! A checkpoint that cannot be written stops no call, because the records are there all the same; it
//! is tried again within a second.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::chain::Link;
use super::checkpoint::{self, Checkpoint, SigningKey};
use super::journal::sync_folder;
use super::tree_file::{TreeFile, TreeHead};
use super::{CheckpointSettings, OpenError};
use crate::firewall::time::{Mono, Now};
use crate::telemetry::Causes;

/// Length of the file's tail that is read for the last checkpoint.
const TAIL_BYTES: u64 = 64 * 1_024;
/// More than this behind the last note is not a note that was cut off.
const MAX_TORN_BYTES: usize = 1_024;

/// A file of this size is thinned out: some 5,000 notes.
const MAX_BYTES: u64 = if cfg!(test) { 16 * 1_024 } else { 1_024 * 1_024 };

/// The last checkpoint as it was signed, for the admin API.
pub(super) type Latest = Arc<Mutex<Option<String>>>;

pub(super) struct Signer {
    path: PathBuf,
    key: SigningKey,
    every_records: u64,
    every_us: u64,
    durable: bool,
    last: Option<Link>,
    /// The Merkle tree over the records; none if its file cannot be used.
    tree: Option<TreeFile>,
    signed_at: Mono,
    latest: Latest,
    was_well: bool,
    /// The size at which the file is thinned out next.
    thin_at: u64,
}

impl Signer {
    /// Reads the key and what was signed before.
    pub(super) fn open(
        log: &Path,
        settings: &CheckpointSettings,
        node_id: &str,
        durable: bool,
        now: Mono,
        latest: Latest,
    ) -> Result<Self, OpenError> {
        let key_problem =
            |problem: String| OpenError::CheckpointKey { path: settings.key_file.clone(), problem };
        let key = SigningKey::load(&settings.key_file).map_err(|e| key_problem(e.to_string()))?;
        if key.name() != node_id {
            let name = key.name();
            return Err(key_problem(format!(
                "is the key of `{name}`, but this node is `{node_id}`: set `audit.node_id` to \
                 `{name}`, or make a key for this name"
            )));
        }
        let path = super::beside(log, ".checkpoints");
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let (last, text) = read_last(&path, &key).map_err(failed)?;
        *latest.lock() = text;
        Ok(Self {
            path,
            key,
            every_records: settings.every_records,
            every_us: settings.every_secs.saturating_mul(1_000_000),
            durable,
            last,
            tree: None,
            signed_at: now,
            latest,
            was_well: true,
            thin_at: MAX_BYTES,
        })
    }

    /// Opens the tree of a chain that has got to `link`.
    pub(super) fn open_tree(&mut self, log: &Path, link: Link) {
        match TreeFile::open(log, link) {
            Ok(tree) => self.tree = Some(tree),
            Err(error) => {
                let error = Causes(&error);
                tracing::error!(%error, "audit tree cannot be used; checkpoints are of the chain alone");
            }
        }
    }

    /// Adds records that were written to the tree.
    pub(super) fn written(&mut self, from: u64, hashes: &[[u8; 32]]) {
        let added = self.tree.as_mut().map_or(Ok(()), |tree| tree.append(from, hashes));
        if let Err(error) = added {
            // What is missing is read from the log when the tree's head is signed.
            tracing::warn!(error = %Causes(&error), "audit tree was not written");
        }
    }

    /// The tree up to `link`.
    fn tree_head(&mut self, link: Link) -> Option<TreeHead> {
        match self.tree.as_mut()?.head(link) {
            Ok(head) => Some(head),
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "audit tree is behind; not signed");
                None
            }
        }
    }

    /// Returns the last signed link.
    pub(super) fn last(&self) -> Option<Link> {
        self.last
    }

    /// Signs `link` if it is time, or if this is the end.
    pub(super) fn look(&mut self, link: Link, now: Now, at_the_end: bool) {
        let signed = self.last.map_or(0, |last| last.sequence);
        let records = link.sequence.saturating_sub(signed);
        let due = at_the_end
            || records >= self.every_records
            || now.mono.since(self.signed_at) >= self.every_us;
        if records == 0 || !due {
            return;
        }
        let tree = self.tree_head(link);
        let checkpoint =
            Checkpoint { origin: self.key.name().to_owned(), link, tree, at: now.wall };
        let note = self.key.sign(&checkpoint);
        match note.map_err(io::Error::other).and_then(|note| self.keep(&note).map(|()| note)) {
            Ok(note) => {
                self.last = Some(link);
                self.signed_at = now.mono;
                self.was_well = true;
                *self.latest.lock() = Some(note);
                if let Err(error) = self.thin_out_if_full() {
                    tracing::warn!(error = %Causes(&error), "audit checkpoints are not thinned out");
                }
            }
            Err(error) => {
                if self.was_well {
                    tracing::error!(error = %Causes(&error), "audit checkpoint cannot be written");
                }
                self.was_well = false;
            }
        }
    }

    /// Puts a thinner file in the place of one that is full; on an error that one stays.
    fn thin_out_if_full(&mut self) -> io::Result<()> {
        if fs::metadata(&self.path)?.len() < self.thin_at {
            return Ok(());
        }
        // Also if that fails: what other keys have signed stays, and may fill the file by itself.
        self.thin_at = self.thin_at.saturating_add(MAX_BYTES / 4);
        let thinner = checkpoint::thinned(&fs::read_to_string(&self.path)?, &self.key.verifier());
        let next = super::beside(&self.path, ".next");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&next)?;
        file.write_all(thinner.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        let length = u64::try_from(thinner.len()).map_err(io::Error::other)?;
        self.thin_at = length.saturating_add(MAX_BYTES / 4).max(MAX_BYTES);
        sync_folder(&self.path)
    }

    /// Adds a note to the file, or leaves the file as it was.
    fn keep(&self, note: &str) -> io::Result<()> {
        let mut file = open_file(&self.path)?;
        let before = file.metadata()?.len();
        let mut bytes = note.as_bytes().to_vec();
        bytes.push(b'\n');
        let written = file
            .write_all(&bytes)
            .and_then(|()| if self.durable { file.sync_data() } else { Ok(()) });
        written.inspect_err(|_| drop(file.set_len(before)))
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// The last checkpoint in the file that this key signed, and its note. Half a note at the end is cut off: it was
/// never signed, so it says nothing.
fn read_last(path: &Path, key: &SigningKey) -> io::Result<(Option<Link>, Option<String>)> {
    let mut file = open_file(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    // Behind the first newline, so that no character is cut; before it a note is cut at most.
    let skipped = if from == 0 { 0 } else { memchr::memchr(b'\n', &bytes).map_or(0, |at| at + 1) };
    let tail = bytes.get(skipped..).unwrap_or_default();
    let text = String::from_utf8_lossy(tail);
    let whole = checkpoint::whole_notes(&text);
    let torn = text.len() - whole.len();
    if torn > MAX_TORN_BYTES {
        return Err(io::Error::other("it does not end with checkpoints"));
    }
    if torn > 0 {
        // Counted from the front, where every byte was text: in the torn rest one may not be.
        let kept = skipped.saturating_add(whole.len());
        file.set_len(from.saturating_add(u64::try_from(kept).map_err(io::Error::other)?))?;
    }
    let read = checkpoint::read_notes(whole, &[key.verifier()]);
    let last = read.signed.into_iter().max_by_key(|signed| signed.checkpoint.link.sequence);
    Ok(last.map_or((None, None), |last| (Some(last.checkpoint.link), Some(last.note))))
}
