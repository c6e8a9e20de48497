//! Part of a session that one node may count when several nodes serve the session.
//!
//! Calls are leased as everywhere. A rate limit is leased too, as permits that are good for a moment:
//! the ledger counts them as used until it hears otherwise. And a ledger's no is believed for a
//! while, so that an agent that does not stop asking does not make this node ask as often.

use super::time::Mono;

/// A node's share of what it does not count alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeShare {
    pub permits: Option<Permits>,
    /// The budget had no more for this node; until then it is not asked again.
    pub calls_refused_until: Mono,
    /// The rate limit had no more; until then it is not asked again.
    pub rate_refused_until: Mono,
    /// Time at which the rate limit has room again, by the ledger's last answer.
    pub rate_free_at: Mono,
}

/// Permits of a rate limit: so many more calls until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permits {
    pub lease: u64,
    pub left: u64,
    pub used: u64,
    pub last_used: Mono,
    pub good_until: Mono,
}

/// Reason why a call does not fit the rate limit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateShort {
    /// The ledger said no; it has room again after so many seconds.
    Limited { retry_after_secs: u64 },
    /// No permits are in hand: ask the ledger first.
    NotLeased,
}

impl NodeShare {
    /// Reports whether the permits in hand cover `price` calls at `now`. Counts nothing.
    pub fn permit(&self, price: u64, now: Mono) -> Result<(), RateShort> {
        if self.permits.is_some_and(|permits| permits.left >= price && now < permits.good_until) {
            return Ok(());
        }
        if now < self.rate_refused_until {
            let wait_us = self.rate_free_at.since(now);
            return Err(RateShort::Limited {
                retry_after_secs: wait_us.div_ceil(1_000_000).max(1),
            });
        }
        Err(RateShort::NotLeased)
    }

    /// Takes note that `price` calls were made on the permits in hand.
    pub fn count(&mut self, price: u64, now: Mono) {
        if let Some(permits) = &mut self.permits {
            permits.left = permits.left.saturating_sub(price);
            permits.used = permits.used.saturating_add(price);
            permits.last_used = permits.last_used.max(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_good_for_their_time_and_number() {
        let permits =
            Permits { lease: 1, left: 2, used: 0, last_used: Mono(0), good_until: Mono(100) };
        let mut shared = NodeShare { permits: Some(permits), ..NodeShare::default() };
        assert_eq!(shared.permit(2, Mono(99)), Ok(()));
        assert_eq!(shared.permit(3, Mono(99)), Err(RateShort::NotLeased));
        assert_eq!(shared.permit(1, Mono(100)), Err(RateShort::NotLeased));
        shared.count(2, Mono(50));
        assert_eq!(shared.permit(1, Mono(99)), Err(RateShort::NotLeased));
        assert_eq!(shared.permits.unwrap().used, 2);
        assert_eq!(shared.permits.unwrap().last_used, Mono(50));
    }

    #[test]
    fn a_no_is_believed_for_a_while() {
        let shared = NodeShare {
            rate_refused_until: Mono(1_000_000),
            rate_free_at: Mono(4_200_000),
            ..NodeShare::default()
        };
        let limited = |retry_after_secs| Err(RateShort::Limited { retry_after_secs });
        assert_eq!(shared.permit(1, Mono(0)), limited(5));
        assert_eq!(shared.permit(1, Mono(999_999)), limited(4));
        assert_eq!(shared.permit(1, Mono(1_000_000)), Err(RateShort::NotLeased));
    }
}
