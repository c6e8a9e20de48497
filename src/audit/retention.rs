//! Deletes the oldest closed files beyond a number, and puts that on record first.
//!
//! The rest of the chain then begins somewhere in its middle. The record names the link that the
//! last deleted record had, and the first record that is left names the same link as the one before
//! it: so the rest verifies as a whole, and a checkpoint behind the record proves that it was the
//! node that let the files go. Files go oldest first; what a crash leaves is chosen again, with a
//! record of its own, at the next start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::chain::FILES_DELETED;
use super::files::{self, ClosedFile};
use super::journal::sync_folder;
use super::record::{Detail, Event};
use crate::saturate::SaturatingFrom as _;

use crate::telemetry::Causes;

pub(super) struct Retention {
    /// Number of closed files kept; 0: all.
    keep: u64,
    /// Files may have been closed since it was last looked.
    due: bool,
    /// Files to delete once the record is written, oldest first.
    chosen: Vec<PathBuf>,
}

impl Retention {
    pub(super) fn new(keep: u64) -> Self {
        Self { keep, due: keep > 0, chosen: Vec::new() }
    }

    /// A file was closed.
    pub(super) fn look_again(&mut self) {
        self.due = self.keep > 0;
    }

    /// Chooses what is to go, if it is time, and gives the record that must be written first.
    pub(super) fn choose(&mut self, log: &Path, hash_chain: bool) -> Option<Event> {
        if !self.due || !self.chosen.is_empty() {
            return None;
        }
        self.due = false;
        let chosen = self.too_many(log, hash_chain);
        chosen.unwrap_or_else(|error| {
            tracing::warn!(error = %Causes(&error), "old audit files are not deleted; tried again later");
            None
        })
    }

    fn too_many(&mut self, log: &Path, hash_chain: bool) -> io::Result<Option<Event>> {
        let closed = files::closed_files(log)?;
        let keep = usize::saturating_from(self.keep);
        let Some((old, kept)) = closed.split_at_checked(closed.len().saturating_sub(keep)) else {
            return Ok(None);
        };
        let (Some(last), Some(next)) = (old.last(), kept.first()) else { return Ok(None) };
        let mut detail = vec![
            ("files", Detail::Count(u64::saturating_from(old.len()))),
            ("last_file", Detail::Count(last.number)),
        ];
        match files::link_before(&next.path)? {
            Some(link) => detail.extend([
                ("last_sequence", Detail::Count(link.sequence)),
                ("last_hash", Detail::Text(link.hash.to_string())),
            ]),
            None if hash_chain => {
                return Err(io::Error::other(
                    "the oldest file to keep does not say what it follows",
                ));
            }
            None => {}
        }
        self.chosen = old.iter().flat_map(on_disk).collect();
        Ok(Some(Event { name: FILES_DELETED, detail }))
    }

    pub(super) fn has_chosen(&self) -> bool {
        !self.chosen.is_empty()
    }

    /// Deletes what was chosen; what cannot be deleted is chosen again after the next rotation.
    pub(super) fn delete(&mut self, log: &Path) {
        for path in self.chosen.drain(..) {
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!(file = %path.display(), "old audit file was deleted"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let file = path.display();
                    tracing::warn!(error = %Causes(&error), %file, "old audit file was not deleted");
                    break;
                }
            }
        }
        if let Err(error) = sync_folder(log) {
            tracing::warn!(error = %Causes(&error), "deleted audit files may come back after a power cut");
        }
    }
}

/// Returns the possible paths of a closed file: it may exist twice while it is being compressed.
fn on_disk(file: &ClosedFile) -> Vec<PathBuf> {
    let mut paths = vec![file.path.clone()];
    if !file.compressed {
        paths.push(super::beside(&file.path, ".zst"));
    }
    paths
}
