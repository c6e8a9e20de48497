//! Queues before the store, in which one failure answers everyone who waited for it.
//!
//! A store that hangs lets each question wait for as long as an answer may take. Without this, the
//! waits of callers in a queue would add up. The time of a caller counts from its arrival, waiting
//! included.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::StoreError;
use crate::clock::Clock;
use crate::firewall::time::Mono;

/// Places, and the callers that wait for one.
#[derive(Debug)]
pub struct Queue {
    places: Arc<Semaphore>,
    /// The last time the store failed a caller that had a place; zero if it never did.
    failed_us: AtomicU64,
}

impl Queue {
    pub fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), failed_us: AtomicU64::new(0) }
    }

    /// Waits for a place: no longer than `patience` from the caller's arrival, and not on a store that
    /// has failed another caller since.
    pub async fn enter(
        &self,
        arrived: Mono,
        patience: Option<Duration>,
        clock: &Clock,
    ) -> Result<OwnedSemaphorePermit, StoreError> {
        let place = Arc::clone(&self.places).acquire_owned();
        let place = match patience {
            None => place.await,
            Some(patience) => tokio::time::timeout(left(arrived, patience, clock), place)
                .await
                .map_err(|_elapsed| StoreError::Late)?,
        };
        let place = place.map_err(|_closed| StoreError::Stopped)?;
        if self.failed_us.load(Ordering::Acquire) > arrived.0 {
            return Err(StoreError::Queued);
        }
        Ok(place)
    }

    /// Waits for a place without a limit: for work that must be done.
    pub async fn enter_at_last(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        Arc::clone(&self.places).acquire_owned().await.map_err(|_closed| StoreError::Stopped)
    }

    /// Takes a place that is free.
    pub fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Notes the outcome of a question that was asked from a place, and returns it.
    pub fn noted<T>(&self, outcome: Result<T, StoreError>, clock: &Clock) -> Result<T, StoreError> {
        if outcome.as_ref().is_err_and(StoreError::is_unavailable) {
            self.failed_us.fetch_max(clock.mono().0, Ordering::AcqRel);
        }
        outcome
    }
}

/// Returns what is left of a caller's patience.
pub(crate) fn left(arrived: Mono, patience: Duration, clock: &Clock) -> Duration {
    patience.saturating_sub(Duration::from_micros(clock.mono().since(arrived)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::time::Timestamp;

    const PATIENCE: Option<Duration> = Some(Duration::from_secs(1));

    #[tokio::test(start_paused = true)]
    async fn a_failure_answers_everyone_who_queued_before_it_and_nobody_after() {
        let clock = Clock::manual(Timestamp(0));
        let queue = Arc::new(Queue::new(1));
        let first = queue.enter(clock.mono(), PATIENCE, &clock).await.unwrap();
        let waiting: Vec<_> = (0..40)
            .map(|_| {
                let (queue, clock) = (Arc::clone(&queue), clock.clone());
                tokio::spawn(async move { queue.enter(Mono(0), PATIENCE, &clock).await.map(drop) })
            })
            .collect();
        tokio::task::yield_now().await;
        clock.advance_us(900_000);
        queue.noted::<()>(Err(StoreError::Late), &clock).unwrap_err();
        drop(first);
        for waiting in waiting {
            let answer = waiting.await.unwrap();
            assert!(matches!(answer, Err(StoreError::Queued)), "{answer:?}");
        }
        drop(queue.enter(clock.mono(), PATIENCE, &clock).await.unwrap());
        // What says nothing of the store fails nobody else.
        clock.advance_us(1);
        queue.noted::<()>(Err(StoreError::Overtaken), &clock).unwrap_err();
        drop(queue.enter(Mono(900_000), PATIENCE, &clock).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_from_its_arrival() {
        let clock = Clock::manual(Timestamp(0));
        let queue = Queue::new(1);
        let held = queue.try_enter().unwrap();
        assert!(queue.try_enter().is_none());
        clock.advance_us(600_000);
        let since = tokio::time::Instant::now();
        let late = queue.enter(Mono(0), PATIENCE, &clock).await;
        assert!(matches!(late, Err(StoreError::Late)), "{late:?}");
        assert_eq!(since.elapsed().as_millis(), 400);
        drop(held);
        drop(queue.enter(Mono(0), PATIENCE, &clock).await.unwrap());
    }
}
