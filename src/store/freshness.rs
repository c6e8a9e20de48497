//! Age of a node's knowledge of a shared store, and the difference of the store's clock from the node's.
//!
//! Revocations and closings of other nodes reach this one through the store. Without it a node goes on
//! with what it knows for a while and then refuses: what it knows may be wrong by then.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::{Position, Queue, Store, StoreError};
use crate::clock::Clock;
use crate::config::Skew;
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::saturate::SaturatingFrom as _;

/// Time limit of waiting for changes that are known to exist.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Callers that may ask at once where the changes end.
const ASKING: usize = 32;
/// A node that has heard nothing for so long is not ready: leases of busy sessions are used up by then.
const LATE_US: u64 = 3_000_000;

/// The progress of a node that follows a store which others write to.
#[derive(Debug)]
pub struct Freshness {
    heard_us: AtomicU64,
    /// None if no other node writes to the store.
    shared: Option<Followed>,
    taken_in: watch::Sender<Position>,
    asking: Queue,
    /// Distance of the ledger's clock from this node's: ahead, or behind if negative. Zero within what
    /// the configuration allows, and where there is no other clock.
    off_us: AtomicI64,
}

#[derive(Debug)]
struct Followed {
    store: Arc<Store>,
    max_stale_us: u64,
    skew: Skew,
}

impl Freshness {
    /// For a single node, whose memory is authoritative.
    pub fn alone() -> Self {
        Self::new(None, Mono(0))
    }

    pub fn of(store: &Arc<Store>, max_stale_secs: u64, skew: Skew, now: Mono) -> Self {
        let shared = store.is_shared().then(|| Followed {
            store: Arc::clone(store),
            max_stale_us: max_stale_secs.saturating_mul(1_000_000),
            skew,
        });
        Self::new(shared, now)
    }

    fn new(shared: Option<Followed>, now: Mono) -> Self {
        Self {
            heard_us: AtomicU64::new(now.0),
            shared,
            taken_in: watch::Sender::new(Position(0)),
            asking: Queue::new(ASKING),
            off_us: AtomicI64::new(0),
        }
    }

    /// All that was changed before `at` is known, and all up to this position taken in.
    pub fn heard(&self, at: Mono, position: Position) {
        self.heard_us.fetch_max(at.0, Ordering::Release);
        self.taken_in.send_replace(position);
    }

    /// Waits until all is taken in that the store holds now. For callers that miss something which
    /// another node may just have made, and look again.
    pub async fn catch_up(&self, clock: &Clock) -> Result<(), StoreError> {
        let Some(Followed { store, .. }) = &self.shared else { return Ok(()) };
        let Some(shared) = store.shared() else { return Ok(()) };
        let _turn = self.asking.enter(clock.mono(), store.patience(), clock).await?;
        let there = self.asking.noted(shared.position().await, clock)?;
        let mut taken_in = self.taken_in.subscribe();
        let caught_up = taken_in.wait_for(|&here| here >= there);
        match tokio::time::timeout(CATCH_UP, caught_up).await {
            Ok(Ok(_position)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(StoreError::Missed),
        }
    }

    /// Checks whether other nodes write to the store.
    pub fn has_others(&self) -> bool {
        self.shared.is_some()
    }

    /// Returns the time since the shared store was heard; zero for one that no other node writes to.
    pub fn staleness(&self, now: Mono) -> Duration {
        if self.shared.is_none() {
            return Duration::ZERO;
        }
        Duration::from_micros(self.age_us(now))
    }

    /// Checks whether what this node knows is too old to go on with.
    pub fn is_stale(&self, now: Mono) -> bool {
        self.shared.as_ref().is_some_and(|shared| self.age_us(now) > shared.max_stale_us)
    }

    /// Checks whether the store has been silent for longer than it may be between two answers.
    pub fn is_late(&self, now: Mono) -> bool {
        self.shared
            .as_ref()
            .is_some_and(|shared| self.age_us(now) > shared.max_stale_us.min(LATE_US))
    }

    fn age_us(&self, now: Mono) -> u64 {
        now.since(Mono(self.heard_us.load(Ordering::Acquire)))
    }

    /// Compares the clocks: the ledger's said `ledger` at some instant between the two readings of this
    /// node's own. Returns by how much they differ, if that is more than accepted.
    pub fn compare_clocks(&self, asked: Now, ledger: Timestamp, answered: Now) -> Option<i64> {
        let skew = self.shared.as_ref()?.skew;
        let off_us = off_us(asked, ledger, answered);
        let most_us = skew.most_secs.saturating_mul(1_000_000);
        let counts = if off_us.unsigned_abs() > most_us { off_us } else { 0 };
        self.off_us.store(counts, Ordering::Release);
        (counts != 0).then_some(counts)
    }

    /// Checks whether the clocks differ by so much that this node should serve nobody.
    pub fn is_out_of_time(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| {
            let most_us = shared.skew.unready_secs.saturating_mul(1_000_000);
            self.off_us.load(Ordering::Acquire).unsigned_abs() > most_us
        })
    }
}

/// Returns how far the ledger's clock was at least from the node's: the answer may have taken all of the
/// time between question and answer, or none of it.
pub(super) fn off_us(asked: Now, ledger: Timestamp, answered: Now) -> i64 {
    // From the question on by the monotonic clock: a wall clock that was set meanwhile means nothing.
    let took_us = i64::saturating_from(answered.mono.since(asked.mono));
    let most = ledger.0.saturating_sub(asked.wall.0);
    let least = most.saturating_sub(took_us);
    if least > 0 { least } else { most.min(0) }
}

#[cfg(test)]
mod tests {
    use super::super::Fleet;
    use super::*;
    use crate::firewall::agent::AgentId;

    const SKEW: Skew = Skew { most_secs: 2, unready_secs: 30 };

    fn fleet() -> Arc<Store> {
        Arc::new(Store::Fleet(Fleet::new("one", Clock::manual(Timestamp(0)))))
    }

    #[test]
    fn knowledge_is_good_until_it_is_too_old() {
        let freshness = Freshness::of(&fleet(), 30, SKEW, Mono(5_000_000));
        assert!(!freshness.is_stale(Mono(35_000_000)));
        assert!(freshness.is_stale(Mono(35_000_001)));
        freshness.heard(Mono(6_000_000), Position(1));
        freshness.heard(Mono(4_000_000), Position(1));
        assert!(!freshness.is_stale(Mono(36_000_000)));
        assert!(freshness.is_stale(Mono(36_000_001)));
        assert!(!Freshness::alone().is_stale(Mono(u64::MAX)));
    }

    #[test]
    fn a_slow_answer_is_no_difference_of_clocks() {
        let at = |wall: i64, mono: u64| Now { wall: Timestamp(wall), mono: Mono(mono) };
        let off = |wall: i64, ledger: i64, took: u64| {
            off_us(at(wall, 50), Timestamp(ledger), at(wall + 77, 50 + took))
        };
        assert_eq!((off(1_000, 1_000, 300), off(1_000, 1_300, 300)), (0, 0));
        assert_eq!((off(1_000, 1_301, 300), off(1_000, 999, 300)), (1, -1));
        let freshness = Freshness::of(&fleet(), 30, SKEW, Mono(0));
        let compare = |ledger_secs: i64| {
            let now = at(1_000_000_000, 0);
            let ledger = Timestamp(now.wall.0 + ledger_secs * 1_000_000);
            let off = freshness.compare_clocks(now, ledger, now);
            (off.map(|us| us / 1_000_000), freshness.is_out_of_time())
        };
        assert_eq!(compare(2), (None, false));
        assert_eq!((compare(3), compare(-3)), ((Some(3), false), (Some(-3), false)));
        assert_eq!((compare(30), compare(-31)), ((Some(30), false), (Some(-31), true)));
        assert_eq!(compare(0), (None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_catches_up_waits_for_what_the_store_holds() {
        let store = fleet();
        store.flag(AgentId::random(), 1, Timestamp(0)).await.unwrap();
        let clock = Clock::manual(Timestamp(0));
        let freshness = Freshness::of(&store, 30, SKEW, Mono(0));
        let early = freshness.catch_up(&clock).await;
        assert!(matches!(early, Err(StoreError::Missed)));
        freshness.heard(Mono(0), Position(1));
        freshness.catch_up(&clock).await.unwrap();
        Freshness::alone().catch_up(&clock).await.unwrap();
    }
}
