//! Compresses closed files, on a thread of its own: the log does not wait for it.
//!
//! The compressed file is read back and compared before the plain one is removed. A file that a
//! crash left half compressed is compressed again at the next rotation or start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::files;
use super::journal::sync_folder;

use crate::telemetry::Causes;

const LEVEL: i32 = 3;
const PIECE_BYTES: usize = 1_024 * 1_024;

/// The thread that compresses, if one runs. Dropping it stops it.
#[derive(Default)]
pub(super) struct Compressor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compressor {
    /// Compresses what closed files there are, unless that is going on already.
    pub(super) fn start(&mut self, log: &Path) {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.join();
        let (log, stop) = (log.to_owned(), Arc::clone(&self.stop));
        let work = move || {
            if let Err(error) = compress_closed(&log, &stop) {
                tracing::warn!(error = %Causes(&error), "closed audit file was not compressed; tried again later");
            }
        };
        let thread = std::thread::Builder::new().name("audit-compress".to_owned()).spawn(work);
        match thread {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "closed audit files are not compressed");
            }
        }
    }

    /// Reports whether nothing is being compressed.
    pub(super) fn is_idle(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn join(&mut self) {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("compressing closed audit files has panicked");
        }
    }

    /// Waits until everything is compressed.
    #[cfg(test)]
    pub(super) fn finish(&mut self) {
        self.join();
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.join();
    }
}

fn compress_closed(log: &Path, stop: &AtomicBool) -> io::Result<()> {
    for file in files::closed_files(log)? {
        if !file.compressed {
            compress(&file.path, stop)?;
        }
        if stop.load(Ordering::SeqCst) {
            break;
        }
    }
    Ok(())
}

fn compress(plain: &Path, stop: &AtomicBool) -> io::Result<()> {
    let with = |suffix| super::beside(plain, suffix);
    let (partial, whole): (PathBuf, PathBuf) = (with(".zst.partial"), with(".zst"));
    let sink =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&partial)?;
    let mut encoder = zstd::stream::write::Encoder::new(sink, LEVEL)?;
    encoder.include_checksum(true)?;
    let Some(hash) = pass(File::open(plain)?, &mut encoder, stop)? else {
        return fs::remove_file(&partial);
    };
    let sink = encoder.finish()?;
    sink.sync_all()?;
    let back = zstd::stream::read::Decoder::new(File::open(&partial)?)?;
    let Some(read_back) = pass(back, &mut io::sink(), stop)? else {
        return fs::remove_file(&partial);
    };
    if read_back != hash {
        return Err(io::Error::other("the compressed file does not hold what it should"));
    }
    fs::rename(&partial, &whole)?;
    sync_folder(&whole)?;
    fs::remove_file(plain)
}

/// Copies to the end and gives the hash of it all; nothing if it was stopped.
fn pass(
    mut from: impl Read,
    to: &mut impl Write,
    stop: &AtomicBool,
) -> io::Result<Option<blake3::Hash>> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        if stop.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let read = from.read(&mut piece)?;
        let Some(piece) = piece.get(..read).filter(|piece| !piece.is_empty()) else {
            return Ok(Some(hasher.finalize()));
        };
        hasher.update(piece);
        to.write_all(piece)?;
    }
}
