//! Leases of sessions without calls: given back after a second, so that a crash loses less, and other
//! nodes need not ask for them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::{Inner, Live, SETTLE_AT_ONCE, Sessions};
use crate::clock::Clock;
use crate::firewall::session::SessionId;
use crate::firewall::time::Mono;
use crate::store::{Queue, StoreError};
use crate::telemetry::Causes;

/// A session without calls for this long is idle.
const IDLE_US: u64 = 1_000_000;

/// The sessions of which something is in hand.
#[derive(Debug, Default)]
pub(super) struct Leased {
    sessions: Mutex<HashMap<SessionId, Seen>>,
}

/// State of a session at the last look.
#[derive(Debug)]
struct Seen {
    live: Arc<Live>,
    calls_made: u64,
    since: Mono,
}

impl Leased {
    pub(super) fn note(&self, live: &Arc<Live>, now: Mono) {
        let calls_made = live.with(|usage| usage.calls_made);
        let seen = Seen { live: Arc::clone(live), calls_made, since: now };
        self.sessions.lock().insert(live.order.id, seen);
    }

    /// Takes out those that have been idle. No session's lock is waited for while the list is held:
    /// those who lease for other sessions need it.
    fn idle(&self, now: Mono) -> Vec<Arc<Live>> {
        let leased: Vec<Arc<Live>> =
            self.sessions.lock().values().map(|seen| Arc::clone(&seen.live)).collect();
        let calls_made = leased.iter().map(|live| live.with(|usage| usage.calls_made));
        let calls_made: Vec<u64> = calls_made.collect();
        let mut idle = Vec::new();
        let mut list = self.sessions.lock();
        for (live, calls_made) in leased.into_iter().zip(calls_made) {
            let Some(seen) = list.get_mut(&live.order.id) else { continue };
            if calls_made != seen.calls_made {
                (seen.calls_made, seen.since) = (calls_made, now);
            }
            if now.since(seen.since) >= IDLE_US {
                list.remove(&live.order.id);
                idle.push(live);
            }
        }
        idle
    }
}

impl Sessions {
    /// Gives back what idle sessions hold. Calls that the store does not take back count as made.
    pub async fn return_idle(&self, clock: &Clock) -> Result<usize, StoreError> {
        let now = clock.mono();
        let idle = self.inner.leased.idle(now);
        let mut returned = 0;
        for some in idle.chunks(SETTLE_AT_ONCE) {
            let mut lanes = HashMap::new();
            let mut settlements = Vec::new();
            for live in some {
                if self.inner.hold_if_free(live.order.id, &mut lanes) {
                    settlements.extend(live.let_go(now));
                } else {
                    // Something is booked just now: perhaps for this session.
                    self.inner.leased.note(live, now);
                }
            }
            returned += settlements.len();
            if !settlements.is_empty() {
                self.inner.store.settle(settlements).await?;
            }
        }
        Ok(returned)
    }

    /// Gives back what this node holds of a session, because another one needs it.
    pub(super) async fn give_back(&self, id: SessionId, clock: &Clock) {
        let Some(live) = self.get(id) else { return };
        let Ok(lane) = self.inner.lane(id) else { return };
        let Ok(_lane) = lane.enter_at_last().await else { return };
        let Some(settlement) = live.let_go(clock.mono()) else { return };
        if let Err(error) = self.inner.store.settle(vec![settlement]).await {
            warn!(session = %id, error = %Causes(&error), "a lease was not given back; its calls count as made");
        }
    }
}

impl Inner {
    /// Adds the session's lane to those that are held, unless someone else has it.
    fn hold_if_free(&self, id: SessionId, held: &mut HashMap<usize, OwnedSemaphorePermit>) -> bool {
        let Some(number) = self.lane_number(id) else { return false };
        if held.contains_key(&number) {
            return true;
        }
        let Some(lane) = self.lanes.get(number).and_then(Queue::try_enter) else { return false };
        held.insert(number, lane);
        true
    }
}
