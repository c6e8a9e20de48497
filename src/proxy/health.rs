//! State of a server, as far as is known: worth trying or not.
//!
//! A server that refuses a connection is left out for a while that doubles with each failure; one
//! success ends that.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::firewall::time::Mono;

const FIRST_PAUSE_US: u64 = 500_000;
const LONGEST_PAUSE_US: u64 = 30_000_000;

/// Health record of one server.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: AtomicU32,
    out_until_us: AtomicU64,
}

impl Health {
    pub(super) fn is_in(&self, now: Mono) -> bool {
        now.0 >= self.out_until_us.load(Ordering::Relaxed)
    }

    /// True unless the last try failed.
    pub(super) fn is_up(&self) -> bool {
        self.failures.load(Ordering::Relaxed) == 0
    }

    pub(super) fn failed(&self, now: Mono) {
        let before = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = FIRST_PAUSE_US.saturating_mul(1 << before).min(LONGEST_PAUSE_US);
        self.out_until_us.fetch_max(now.0.saturating_add(pause), Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.out_until_us.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_is_left_out_longer_each_time_and_returns_when_it_answers() {
        let health = Health::default();
        assert!(health.is_in(Mono(0)));
        health.failed(Mono(0));
        assert!(!health.is_in(Mono(499_999)) && health.is_in(Mono(500_000)));
        health.failed(Mono(500_000));
        assert!(!health.is_in(Mono(1_499_999)) && health.is_in(Mono(1_500_000)));
        for _ in 0..100 {
            health.failed(Mono(2_000_000));
        }
        assert!(!health.is_in(Mono(31_999_999)) && health.is_in(Mono(32_000_000)));
        health.answered();
        assert!(health.is_in(Mono(2_000_000)));
        health.failed(Mono(3_000_000));
        assert!(health.is_in(Mono(3_500_000)));
    }
}
