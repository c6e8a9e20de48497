//! Whether a server is worth trying: learned from calls that could not connect, and by looking.
//!
//! A server that refuses a connection is left out for a while that doubles with each failure; one
//! success ends that. Servers that have others beside them are looked at every two seconds, so that
//! a dead one is known before a call meets it and a live one is used again soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::upstreams::Upstreams;
use crate::clock::Clock;
use crate::firewall::time::Mono;

const FIRST_PAUSE_US: u64 = 500_000;
const LONGEST_PAUSE_US: u64 = 30_000_000;
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known of one server.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: AtomicU32,
    out_until_us: AtomicU64,
}

impl Health {
    pub(super) fn is_in(&self, now: Mono) -> bool {
        now.0 >= self.out_until_us.load(Ordering::Relaxed)
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

/// Looks at every server that has others beside it, for ever.
pub async fn watch(upstreams: Arc<Upstreams>, clock: Clock) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let servers = upstreams.pools().iter().filter(|pool| pool.servers().len() > 1);
        let looks = servers.flat_map(|pool| pool.servers()).map(|server| async {
            let now = clock.mono();
            let connected = tokio::time::timeout(LOOK_TIMEOUT, server.look(now)).await;
            if connected.is_ok_and(|connected| connected) {
                server.health.answered();
            } else {
                server.health.failed(clock.mono());
            }
        });
        futures::future::join_all(looks).await;
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
