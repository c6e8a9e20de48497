//! State that calls and the writer share: how a call's line comes into the journal, and a refusal's to the writer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::AuditUnavailable;
use super::chain::Link;
use super::flood::{self, Flood, Fold, Weight};
use super::inbox::{Inbox, Job};
use super::index::Index;
use super::journal::{self, HeldSlots, Journal, LogEnd};
use super::record::{Draft, Entry, Outcome};
use super::signer::Latest;
use super::tree_file::Proofs;
use crate::clock::Clock;
use crate::firewall::agent::AgentId;
use crate::telemetry::Causes;

/// State shared by calls and the writer.
pub(super) struct Recorder {
    pub(super) path: PathBuf,
    /// Proofs from the tree that checkpoints are signed of.
    pub(super) proofs: Proofs,
    /// Places of the last records in the files.
    pub(super) index: Index,
    /// Damage that was found at the log's end at start.
    pub(super) tail_damage: u64,
    pub(super) clock: Clock,
    pub(super) node_id: String,
    pub(super) require_healthy: bool,
    pub(super) hash_chain: bool,
    pub(super) durable: bool,
    pub(super) healthy: AtomicBool,
    /// A call could not write its slots; the writer finds out whether that has passed.
    pub(super) journal_failed: AtomicBool,
    /// Requests without a record since the last `audit_gap`.
    pub(super) unrecorded: AtomicU64,
    pub(super) written: AtomicU64,
    /// Number of times the writer waited for the disk.
    pub(super) syncs: AtomicU64,
    pub(super) log_identity: AtomicU64,
    pub(super) log_length: AtomicU64,
    pub(super) link: Mutex<Link>,
    pub(super) journal: Journal,
    pub(super) inbox: Inbox,
    pub(super) flood: Flood,
    pub(super) latest_checkpoint: Latest,
}

impl Recorder {
    pub(super) async fn record_admitted(
        self: &Arc<Self>,
        entry: &Entry,
    ) -> Result<Held, AuditUnavailable> {
        if !self.healthy.load(Ordering::SeqCst) {
            return Err(AuditUnavailable::Unhealthy);
        }
        let mut draft = Draft::new(entry, &self.node_id, journal::RESERVED);
        let line = draft.reserved_and_line();
        let slots = self.journal.take(line.len().saturating_sub(journal::RESERVED));
        let slots = slots.ok_or(AuditUnavailable::NoRoom)?;
        if !self.write_to_journal(&slots, line) {
            self.inbox.push(Job::Withdrawn { slots });
            return Err(AuditUnavailable::Unhealthy);
        }
        // From here on a call whose client goes away gives its slots back through the receipt.
        let held = Held { shared: Arc::clone(self), call: Some((draft, slots)) };
        if self.durable {
            let (synced, wait) = oneshot::channel();
            if !self.inbox.push(Job::Sync { synced }) || wait.await.is_err() {
                held.withdraw();
                return Err(AuditUnavailable::Unhealthy);
            }
        }
        Ok(held)
    }

    /// Writes a line into its slots; if that fails nothing more is admitted.
    fn write_to_journal(&self, slots: &HeldSlots, line: &mut [u8]) -> bool {
        // INVARIANT: which file it is is read first; see `Writer::publish`.
        let inode = self.log_identity.load(Ordering::Acquire);
        let log_end = LogEnd { inode, length: self.log_length.load(Ordering::Acquire) };
        let Err(error) = self.journal.write(slots, line, log_end) else { return true };
        if !self.journal_failed.swap(true, Ordering::SeqCst) {
            tracing::error!(error = %Causes(&error), "audit journal cannot be written");
        }
        self.healthy.store(false, Ordering::SeqCst);
        false
    }

    /// Decides if a refusal is recorded by itself or counted, and under which agent.
    pub(super) fn line(&self, entry: &Entry, weight: Weight) -> Line {
        match weight {
            Weight::Stranger if !self.flood.has_room(self.clock.mono()) => Line::Counted(None),
            Weight::Stranger | Weight::Single => Line::Own,
            Weight::Folded => Line::Counted(entry.agent_id),
        }
    }

    /// Counts a refusal instead of recording it by itself.
    pub(super) async fn count(
        &self,
        entry: &Entry,
        agent: Option<AgentId>,
    ) -> Result<(), AuditUnavailable> {
        self.fold(entry, agent)?;
        if self.durable {
            let (synced, wait) = oneshot::channel();
            if !self.inbox.push(Job::Sync { synced }) || wait.await.is_err() {
                return Err(AuditUnavailable::Unhealthy);
            }
        }
        Ok(())
    }

    /// Adds a refusal to the record that counts its cause, and writes that to the journal.
    pub(super) fn fold(
        &self,
        entry: &Entry,
        agent: Option<AgentId>,
    ) -> Result<(), AuditUnavailable> {
        if !self.healthy.load(Ordering::SeqCst) {
            return Err(AuditUnavailable::Unhealthy);
        }
        let mut state = self.flood.lock();
        let key = state.key(agent, flood::cause(entry));
        let mut fold = if let Some(fold) = state.folds.remove(&key) {
            fold
        } else {
            let slots = self.journal.take(journal::ONE_SLOT_BYTES);
            Fold::new(entry, key.0, self.clock.mono(), slots.ok_or(AuditUnavailable::NoRoom)?)
        };
        let mut line = fold.line_with_one_more(entry, &self.node_id);
        let fits = line.len() <= journal::RESERVED + journal::ONE_SLOT_BYTES;
        let written = fits && self.write_to_journal(&fold.slots, &mut line);
        if written {
            fold.add(entry);
        }
        if fold.is_empty() {
            self.inbox.push(Job::Withdrawn { slots: fold.slots });
        } else {
            state.folds.insert(key, fold);
        }
        if written { Ok(()) } else { Err(AuditUnavailable::Unhealthy) }
    }

    pub(super) async fn record(
        &self,
        entry: &Entry,
        outcome: Outcome,
    ) -> Result<(), AuditUnavailable> {
        if !self.healthy.load(Ordering::SeqCst) {
            return Err(AuditUnavailable::Unhealthy);
        }
        let draft = Draft::new(entry, &self.node_id, 0);
        let (written, wait) = oneshot::channel();
        if !self.inbox.push(Job::Record { draft, outcome, written }) {
            return Err(AuditUnavailable::NoRoom);
        }
        wait.await.map_err(|_gone| AuditUnavailable::Unhealthy)
    }
}

/// Line that records a refusal: one of its own, or one that counts those of an agent, or of
/// all unauthenticated requests.
pub(super) enum Line {
    Own,
    Counted(Option<AgentId>),
}

/// Proof that a call's decision is on record, and the place where its outcome goes.
#[must_use = "a receipt that is dropped says that the outcome is unknown"]
pub struct Receipt {
    pub(super) held: Option<Held>,
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Receipt")
    }
}

impl Receipt {
    /// Says how the call ended. Neither waits nor fails.
    pub fn complete(self, outcome: Outcome) {
        if let Some(held) = self.held {
            held.end(outcome);
        }
    }
}

/// An admitted call's line and its slots.
pub(super) struct Held {
    shared: Arc<Recorder>,
    call: Option<(Draft, HeldSlots)>,
}

impl Held {
    fn end(mut self, outcome: Outcome) {
        self.hand_over(outcome);
    }

    fn hand_over(&mut self, outcome: Outcome) {
        if let Some((draft, slots)) = self.call.take() {
            // Without a writer the journal keeps the call for the next start.
            self.shared.inbox.push(Job::Ended { draft, outcome, slots });
        }
    }

    /// Gives the slots back without a line: the call's refusal is recorded instead.
    fn withdraw(mut self) {
        if let Some((_, slots)) = self.call.take() {
            self.shared.inbox.push(Job::Withdrawn { slots });
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hand_over(Outcome::default());
    }
}
