//! The permits of a shared rate limit, as the ledger hands them out and takes them back.

use crate::firewall::node_share::{NodeShare, Permits};
use crate::firewall::time::Mono;
use crate::store::{RateBooked, RateBooking, RateUse};

/// Longest time for which a ledger's refusal is cached: others may give permits back before the wait
/// that it named is over.
const BELIEVED_US: u64 = 200_000;

impl NodeShare {
    /// Returns the request for rate permits that cover `price`; none if they are in hand, or if the
    /// ledger has just refused. Permits that were in hand are not used any more.
    pub(super) fn rate_booking(
        &mut self,
        limit: u32,
        window_us: u64,
        price: u64,
        now: Mono,
    ) -> Option<RateBooking> {
        if self.permit(price, now).is_ok() || now < self.rate_refused_until {
            return None;
        }
        Some(RateBooking { limit, window_us, least: price, before: self.report(now) })
    }

    /// Lets go of the permits in hand, and says what became of them.
    pub(super) fn report(&mut self, now: Mono) -> Option<RateUse> {
        let permits = self.permits.take()?;
        let ago_us = now.since(permits.last_used);
        Some(RateUse { lease: permits.lease, used: permits.used, ago_us })
    }

    pub(super) fn receive(&mut self, rate: RateBooked, asked_at: Mono, now: Mono) {
        if rate.granted > 0 {
            self.permits = Some(Permits {
                lease: rate.lease,
                left: rate.granted,
                used: 0,
                last_used: asked_at,
                good_until: Mono(asked_at.0.saturating_add(rate.good_for_us)),
            });
        } else {
            self.rate_free_at = Mono(now.0.saturating_add(rate.wait_us));
            let believed = rate.wait_us.min(BELIEVED_US);
            self.rate_refused_until = Mono(now.0.saturating_add(believed));
        }
    }
}
