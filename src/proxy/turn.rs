//! Turns of the calls that share a thread: a large body passes in pieces, and between them others do.
//!
//! A task that always finds its socket ready would be polled for megabytes at a time.

use tokio::task::yield_now;

/// Number of bytes beyond which work takes turns with that of small calls, or is done apart from it.
pub(super) const BULK_BYTES: usize = 64 * 1024;

/// Number of turns that others have before a long body has its next one.
const ROUNDS: usize = 4;

/// A call's turn.
#[derive(Debug, Default)]
pub(super) struct Turn {
    passed: usize,
}

impl Turn {
    /// Counts bytes that have passed; once they are many, lets others go first.
    pub(super) async fn took(&mut self, bytes: usize) {
        self.passed = self.passed.saturating_add(bytes);
        if self.passed > BULK_BYTES {
            self.passed = 0;
            for _ in 0..ROUNDS {
                yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn small_bodies_do_not_wait_and_large_ones_do() {
        let mut turn = Turn::default();
        for _ in 0..4 {
            assert!(turn.took(BULK_BYTES / 4).now_or_never().is_some());
        }
        assert!(pin!(turn.took(1)).now_or_never().is_none());
        assert!(turn.took(BULK_BYTES).now_or_never().is_some());
    }
}
