//! Freshness of a node's view of the shared store.
//!
//! What other nodes revoke and close reaches this one through the store. Without it a node goes on
//! with what it knows for a while and then refuses: what it knows may be wrong by then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::{Position, Store, StoreError};
use crate::firewall::time::Mono;

/// Time limit of waiting for changes that are known to exist.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Number of concurrent requests for the store's position.
const ASKING: usize = 32;

/// View of a store to which other nodes write.
#[derive(Debug)]
pub struct Followed {
    heard_us: AtomicU64,
    /// None if no other node writes to the store.
    shared: Option<Shared>,
    taken_in: watch::Sender<Position>,
    asking: Semaphore,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    max_stale_us: u64,
}

impl Followed {
    /// For a node that is alone: what it knows is what is.
    pub fn alone() -> Self {
        Self::new(None, Mono(0))
    }

    pub fn of(store: &Arc<Store>, max_stale_secs: u64, now: Mono) -> Self {
        let shared = store.is_shared().then(|| Shared {
            store: Arc::clone(store),
            max_stale_us: max_stale_secs.saturating_mul(1_000_000),
        });
        Self::new(shared, now)
    }

    fn new(shared: Option<Shared>, now: Mono) -> Self {
        Self {
            heard_us: AtomicU64::new(now.0),
            shared,
            taken_in: watch::Sender::new(Position(0)),
            asking: Semaphore::new(ASKING),
        }
    }

    /// All that was changed before `at` is known, and all up to this position taken in.
    pub fn heard(&self, at: Mono, position: Position) {
        self.heard_us.fetch_max(at.0, Ordering::Release);
        self.taken_in.send_replace(position);
    }

    /// Waits until all is taken in that the store holds now. Whoever misses something that another
    /// node may just have made asks for this and looks again.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        let Some(Shared { store, .. }) = &self.shared else { return Ok(()) };
        let _turn = self.asking.acquire().await.map_err(|_closed| StoreError::Stopped)?;
        let there = store.position().await?;
        let mut taken_in = self.taken_in.subscribe();
        let caught_up = taken_in.wait_for(|&here| here >= there);
        match tokio::time::timeout(CATCH_UP, caught_up).await {
            Ok(Ok(_position)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(StoreError::Missed),
        }
    }

    /// Reports whether other nodes write to the store.
    pub fn has_others(&self) -> bool {
        self.shared.is_some()
    }

    /// Time since the shared store was heard; zero for one that no other node writes to.
    pub fn staleness(&self, now: Mono) -> Duration {
        if self.shared.is_none() {
            return Duration::ZERO;
        }
        Duration::from_micros(now.since(Mono(self.heard_us.load(Ordering::Acquire))))
    }

    /// Reports whether what this node knows is too old to go on with.
    pub fn is_stale(&self, now: Mono) -> bool {
        self.shared.as_ref().is_some_and(|shared| {
            let heard = Mono(self.heard_us.load(Ordering::Acquire));
            now.since(heard) > shared.max_stale_us
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fleet;
    use super::*;
    use crate::clock::Clock;
    use crate::firewall::agent::AgentId;
    use crate::firewall::time::Timestamp;

    fn fleet() -> Arc<Store> {
        Arc::new(Store::Fleet(Fleet::new("one", Clock::manual(Timestamp(0)))))
    }

    #[test]
    fn knowledge_is_good_until_it_is_too_old() {
        let followed = Followed::of(&fleet(), 30, Mono(5_000_000));
        assert!(!followed.is_stale(Mono(35_000_000)));
        assert!(followed.is_stale(Mono(35_000_001)));
        followed.heard(Mono(6_000_000), Position(1));
        followed.heard(Mono(4_000_000), Position(1));
        assert!(!followed.is_stale(Mono(36_000_000)));
        assert!(followed.is_stale(Mono(36_000_001)));
        assert!(!Followed::alone().is_stale(Mono(u64::MAX)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_catches_up_waits_for_what_the_store_holds() {
        let store = fleet();
        store.tell_flags(AgentId::random(), 1).await.unwrap();
        let followed = Followed::of(&store, 30, Mono(0));
        let early = followed.catch_up().await;
        assert!(matches!(early, Err(StoreError::Missed)));
        followed.heard(Mono(0), Position(1));
        followed.catch_up().await.unwrap();
        Followed::alone().catch_up().await.unwrap();
    }
}
