//! The start of a log: its files are opened, what a crash has left is put in order, and the writer is made.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;

use super::flood::Flood;
use super::inbox::{Inbox, Job};
use super::index::Index;
use super::journal::Journal;
use super::log::Log;
use super::record::Event;
use super::recorder::Recorder;
use super::signer::{Latest, Signer};
use super::tree_file::Proofs;
use super::writer::{self, Begin, Writer};
use super::{Durability, OpenError, Settings, beside, files, recover};
use crate::clock::Clock;
use crate::saturate::SaturatingFrom as _;

/// Refusals that may wait to be written.
const MAX_WAITING_RECORDS: usize = 8_192;

/// Opens both files and brings them together.
pub(super) fn prepare(
    settings: Settings,
    clock: Clock,
    slots: u32,
    events: Vec<Event>,
) -> Result<(Arc<Recorder>, Writer), OpenError> {
    let path = settings.path;
    let failed = |source| OpenError::Io { path: path.clone(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let (journal, closed, found) = Journal::open(&beside(&path, ".journal"), slots)?;
    let mut log = Log::open(&path)?;
    let mended = recover::mend(&mut log)?;
    let closed_link = match mended.link {
        Some(_) => None,
        None => files::last_link(&path).map_err(failed)?,
    };
    let latest = Latest::default();
    let durable = settings.durability == Durability::Sync;
    let now = clock.mono();
    let signer = settings.checkpoints.as_ref().map(|checkpoints| {
        let latest = Arc::clone(&latest);
        Signer::open(&path, checkpoints, &settings.node_id, durable, now, latest)
    });
    let mut signer = signer.transpose()?;
    let signed = signer.as_ref().and_then(Signer::last);
    let known = [found.link, signed].into_iter().flatten().max_by_key(|link| link.sequence);
    let (link, missing) = recover::resume(&mended, closed_link, known);
    if let Some(signer) = &mut signer {
        signer.open_tree(&path, link);
    }
    let damages: Vec<Event> = mended.event.into_iter().chain(missing).collect();
    for event in &damages {
        tracing::warn!(
            event = event.name,
            "audit log was found damaged at its end; see its record"
        );
    }
    let (settled, unfinished) = recover::sort_out(&log, found.open).map_err(failed)?;

    let shared = Arc::new(Recorder {
        proofs: Proofs::of(&path),
        index: Index::default(),
        path: path.clone(),
        tail_damage: u64::saturating_from(damages.len()),
        clock,
        node_id: settings.node_id,
        require_healthy: settings.require_healthy,
        hash_chain: settings.hash_chain,
        durable,
        healthy: AtomicBool::new(true),
        journal_failed: AtomicBool::new(false),
        unrecorded: AtomicU64::new(0),
        written: AtomicU64::new(0),
        syncs: AtomicU64::new(0),
        log_identity: AtomicU64::new(0),
        log_length: AtomicU64::new(0),
        link: Mutex::new(link),
        journal,
        inbox: Inbox::new(MAX_WAITING_RECORDS),
        flood: Flood::new(settings.max_unauthenticated_records_per_sec),
        latest_checkpoint: latest,
    });
    let events = damages.into_iter().chain(events);
    let mut pending: Vec<Job> = events.map(|event| writer::event_line(&shared, event)).collect();
    pending.extend(
        unfinished.into_iter().map(|call| Job::Line { line: call.line, slots: Some(call.slots) }),
    );
    let settled = settled.into_iter().map(|call| call.slots).collect();
    let writer = Writer::new(Begin {
        shared: Arc::clone(&shared),
        log,
        closed,
        link,
        pending,
        settled,
        rotation: settings.rotation,
        signer,
    });
    Ok((shared, writer))
}
