//! Requests that are being served, and what each agent has of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::shares::{Limits, PlaceInFlight, Recorded, Share, Shares};
use crate::audit::{Entry as Record, Weight};
use crate::firewall::agent::AgentId;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::time::Mono;

/// Counts the requests that are being served, and what each agent has of them.
#[derive(Debug)]
pub struct InFlight {
    shares: Shares,
    count: AtomicUsize,
    none_left: Notify,
}

/// One request among those being served.
#[derive(Debug)]
pub struct RequestInFlight {
    among: Arc<InFlight>,
    /// The part of the agent that sent it, once that is known.
    share: Option<Arc<Share>>,
    /// Its place among those of its agent.
    place: Option<PlaceInFlight>,
}

impl InFlight {
    pub fn new(limits: Limits) -> Self {
        Self {
            shares: Shares::new(limits),
            count: AtomicUsize::default(),
            none_left: Notify::default(),
        }
    }

    pub fn enter(self: &Arc<Self>) -> RequestInFlight {
        self.count.fetch_add(1, Ordering::AcqRel);
        RequestInFlight { among: self.clone(), share: None, place: None }
    }

    /// Forgets agents that have nothing in use and nothing owed.
    pub fn sweep(&self, now: Mono) {
        self.shares.sweep(now);
    }

    /// Requests that are being served now.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Resolves when no request is being served.
    pub async fn idle(&self) {
        loop {
            let mut changed = std::pin::pin!(self.none_left.notified());
            changed.as_mut().enable();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl RequestInFlight {
    /// Charges the request to its agent; refused if that was refused too often, or has its part of
    /// the places in use.
    pub(super) fn charge(&mut self, agent: AgentId, now: Mono) -> Result<(), Denial> {
        let shares = &self.among.shares;
        let share = self.share.insert(shares.of(agent));
        shares.check_refusals(share, now)?;
        self.place = Some(shares.take_place(share)?);
        Ok(())
    }

    /// Counts a refusal and says how it is to be recorded; arguments that are too much for the
    /// log leave the record.
    pub(super) fn refused(&self, code: Code, entry: &mut Record, now: Mono) -> Weight {
        let Some(share) = &self.share else { return Weight::Stranger };
        let shares = &self.among.shares;
        let weight = weight(shares.refused(share, code, now));
        for given in [&mut entry.arguments, &mut entry.input_responses].into_iter().flatten() {
            if !shares.refused_bytes_fit(share, given.as_str().len(), now) {
                *given = given.brief();
            }
        }
        weight
    }

    /// Charges a record's arguments to the agent; those that are too much for the log leave it.
    pub(super) fn logged(&self, entry: &mut Record, now: Mono) {
        let Some(share) = &self.share else { return };
        for given in [&mut entry.arguments, &mut entry.input_responses].into_iter().flatten() {
            if !self.among.shares.log_bytes_fit(share, given.as_str().len(), now) {
                *given = given.brief();
            }
        }
    }

    pub(super) fn troubled(&self, now: Mono) -> Weight {
        let Some(share) = &self.share else { return Weight::Stranger };
        weight(self.among.shares.troubled(share, now))
    }
}

fn weight(recorded: Recorded) -> Weight {
    match recorded {
        Recorded::ByItself => Weight::Single,
        Recorded::Folded => Weight::Folded,
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        if self.among.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.among.none_left.notify_waiters();
        }
    }
}
