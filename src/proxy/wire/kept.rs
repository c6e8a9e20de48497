//! Connections that wait for the next request to their upstream.
//!
//! The one that was used last goes first, so that few stay warm and the others grow old. One that its
//! upstream has closed, or on which something came unasked, is recognised when it is taken and by a look at
//! all every second.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use super::Line;

/// Interval between two looks at all.
const LOOK: Duration = Duration::from_secs(1);

/// The connections that wait.
#[derive(Debug)]
pub(crate) struct Kept {
    /// By the address that Pingora hashes, the last used at the end.
    by_peer: DashMap<u64, Vec<Waiting>>,
    count: AtomicUsize,
    most: usize,
}

#[derive(Debug)]
struct Waiting {
    line: Box<Line>,
    since: Instant,
}

impl Waiting {
    fn is_good(&mut self) -> bool {
        self.since.elapsed() < self.line.idle && self.line.is_silent()
    }
}

impl Kept {
    /// Makes room for at most `most` connections.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { by_peer: DashMap::new(), count: AtomicUsize::new(0), most })
    }

    /// Takes a connection for another request.
    pub(super) fn take(&self, key: u64) -> Option<Box<Line>> {
        let mut waiting = self.by_peer.get_mut(&key)?;
        while let Some(mut last) = waiting.pop() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            if last.is_good() {
                last.line.course.answered.store(false, Ordering::Relaxed);
                return Some(last.line);
            }
        }
        None
    }

    /// Keeps a connection that was let go, if there is room.
    pub(super) fn put(mut line: Box<Line>) {
        let Some(kept) = line.kept.upgrade() else { return };
        if kept.count.fetch_add(1, Ordering::Relaxed) >= kept.most {
            kept.count.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        line.free = false;
        line.begun = false;
        line.course.reused.store(true, Ordering::Relaxed);
        let key = line.key;
        let waiting = Waiting { line, since: Instant::now() };
        kept.by_peer.entry(key).or_default().push(waiting);
    }

    /// Connections that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Closes those that have waited too long or that the other end has closed, for ever.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut turn = tokio::time::interval(LOOK);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            self.look();
        }
    }

    pub(super) fn look(&self) {
        self.by_peer.retain(|_, waiting| {
            let before = waiting.len();
            waiting.retain_mut(Waiting::is_good);
            self.count.fetch_sub(before.saturating_sub(waiting.len()), Ordering::Relaxed);
            !waiting.is_empty()
        });
    }
}
