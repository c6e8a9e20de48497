//! Task that stores what is already in force on this node: it tries until the store takes it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::warn;

use super::StoreError;
use crate::telemetry::Causes;

/// Pause before the next attempt: from the first to the last, doubling.
const FIRST_WAIT: Duration = Duration::from_millis(50);
pub(crate) const LAST_WAIT: Duration = Duration::from_secs(5);

/// Changes that are in force before they are stored.
pub(crate) trait Unsaved: Send + Sync + 'static {
    /// Log message of an attempt that failed.
    const NOT_STORED: &'static str;

    /// Notified when something is left to be stored.
    fn unsaved(&self) -> &Notify;

    /// Stores all that is left.
    fn save(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The running task. Dropping this ends it.
#[derive(Debug)]
pub(crate) struct Retries {
    task: Mutex<Option<JoinHandle<()>>>,
    stop: Arc<Notify>,
}

impl Retries {
    pub(crate) fn start(changes: Arc<impl Unsaved>) -> Self {
        let stop = Arc::new(Notify::new());
        let task = tokio::spawn(run(changes, Arc::clone(&stop)));
        Self { task: Mutex::new(Some(task)), stop }
    }

    /// Ends the task between two writes, and waits for its end.
    pub(crate) async fn stop(&self) {
        let task = self.task.lock().take();
        self.stop.notify_one();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            warn!(error = %Causes(&error), "a task that stores changes ended badly");
        }
    }
}

impl Drop for Retries {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

async fn run<U: Unsaved>(changes: Arc<U>, stop: Arc<Notify>) {
    loop {
        tokio::select! {
            () = stop.notified() => return,
            () = changes.unsaved().notified() => {}
        }
        let mut wait = FIRST_WAIT;
        while let Err(error) = changes.save().await {
            warn!(error = %Causes(&error), "{}", U::NOT_STORED);
            tokio::select! {
                () = stop.notified() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(LAST_WAIT);
        }
    }
}
