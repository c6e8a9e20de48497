//! The task that brings demotions to the store, and tries until the store takes them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Inner;

/// How long to wait before the store is tried again: from the first to the last, doubling.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// The running task. Dropping this ends it.
#[derive(Debug)]
pub(super) struct Demotions {
    task: Mutex<Option<JoinHandle<()>>>,
    stop: Arc<Notify>,
}

impl Demotions {
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
            warn!(%error, "the task that stores demotions ended badly");
        }
    }
}

impl Drop for Demotions {
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
            () = inner.demoted.notified() => {}
        }
        let mut wait = FIRST_WAIT;
        while let Err(error) = inner.store_demotions().await {
            warn!(%error, "demotions are in force but not stored; trying again");
            tokio::select! {
                () = stop.notified() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(LAST_WAIT);
        }
    }
}
