//! Changes in force on this node that the store has not accepted yet, and the task that retries
//! them.
//!
//! Taking something away waits for nobody. A demotion, a deactivation and a revoked token count in
//! memory first; a store that is away delays only that they outlive a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Inner;
use crate::firewall::agent::AgentId;
use crate::firewall::time::Timestamp;
use crate::store::StoreError;
use crate::telemetry::Causes;

/// Pause before the next attempt to write: from the first to the last, doubling.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Writes for the store. Bounded by the registered agents and the revoked tokens.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Their trust of the time it is stored.
    pub(super) demoted: BTreeSet<AgentId>,
    pub(super) deactivated: BTreeSet<AgentId>,
    pub(super) revoked: BTreeMap<String, Revoked>,
    /// Drift flags that other nodes have not been told of.
    pub(super) flags: BTreeMap<AgentId, u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Revoked {
    pub(super) until: Timestamp,
    pub(super) at: Timestamp,
}

impl Inner {
    /// Stores what is pending. What the store does not take stays to be done.
    pub(super) async fn store_pending(&self) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        // Taken out before they are looked at: what comes in meanwhile is put in again.
        let Pending { demoted, deactivated, revoked, flags } = mem::take(&mut *self.pending());
        let mut failed = Ok(());
        if !deactivated.is_empty() {
            let stored = self.store.deactivate(deactivated.iter().copied().collect()).await;
            if stored.is_err() {
                self.pending().deactivated.extend(deactivated);
                failed = failed.and(stored);
            }
        }
        let mut revoked = revoked.into_iter();
        while let Some((token_id, token)) = revoked.next() {
            let stored = self.store.revoke_token(&token_id, token.until, token.at).await;
            if stored.is_err() {
                // There may be many: one that fails tells enough.
                self.pending().revoked.extend(revoked.chain([(token_id, token)]));
                failed = failed.and(stored);
                break;
            }
        }
        // Before the trust that they led to: it forgets them.
        for (agent, count) in flags {
            let told = match failed {
                Ok(()) => self.store.tell_flags(agent, count).await,
                // One that fails tells enough.
                Err(_) => Err(StoreError::Stopped),
            };
            if told.is_err() {
                let mut pending = self.pending();
                let left = pending.flags.entry(agent).or_default();
                *left = left.saturating_add(count);
                failed = failed.and(told);
            }
        }
        if !demoted.is_empty() {
            let levels = demoted.iter().filter_map(|&id| Some((id, self.agent(id)?.trust)));
            let stored = self.store.set_trust(levels.collect()).await;
            if stored.is_err() {
                self.pending().demoted.extend(demoted);
                failed = failed.and(stored);
            }
        }
        if failed.is_err() {
            self.unsaved.notify_one();
        }
        failed
    }
}

/// The running task. Dropping this ends it.
#[derive(Debug)]
pub(super) struct Retries {
    task: Mutex<Option<JoinHandle<()>>>,
    stop: Arc<Notify>,
}

impl Retries {
    pub(super) fn start(inner: Arc<Inner>) -> Self {
        let stop = Arc::new(Notify::new());
        let task = tokio::spawn(run(inner, Arc::clone(&stop)));
        Self { task: Mutex::new(Some(task)), stop }
    }

    /// Ends the task between two writes, and waits for its end.
    pub(super) async fn stop(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.stop.notify_one();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            warn!(error = %Causes(&error), "the task that stores revocations ended badly");
        }
    }
}

impl Drop for Retries {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

async fn run(inner: Arc<Inner>, stop: Arc<Notify>) {
    loop {
        tokio::select! {
            () = stop.notified() => return,
            () = inner.unsaved.notified() => {}
        }
        let mut wait = FIRST_WAIT;
        while let Err(error) = inner.store_pending().await {
            warn!(error = %Causes(&error), "demotions or revocations are in force but not stored; trying again");
            tokio::select! {
                () = stop.notified() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(LAST_WAIT);
        }
    }
}
