//! A token bucket in one atomic number, for limits that every request looks at.
//!
//! The number is the instant at which the bucket is full again (the generic cell rate algorithm):
//! looking costs one load, drawing one compare-and-swap, and nothing has to refill it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::firewall::time::Mono;

const SECOND_NS: u64 = 1_000_000_000;

/// Rate at which a bucket refills, and its size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Nanoseconds in which one token comes back.
    interval_ns: u64,
    depth_ns: u64,
}

impl Rate {
    /// `per_sec` tokens a second, at most `seconds` of them saved up.
    pub(super) fn per_sec(per_sec: u64, seconds: u64) -> Self {
        let interval_ns = SECOND_NS.checked_div(per_sec).unwrap_or(SECOND_NS).max(1);
        let depth = per_sec.saturating_mul(seconds).max(1);
        Self { interval_ns, depth_ns: interval_ns.saturating_mul(depth) }
    }
}

/// The tokens of one agent.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    full_at_ns: AtomicU64,
}

impl Bucket {
    /// Returns the time until a whole token is there; zero if there is one now.
    pub(super) fn empty_for_ns(&self, rate: Rate, now: Mono) -> u64 {
        let missing = self.full_at_ns.load(Ordering::Acquire).saturating_sub(nanos(now));
        missing.saturating_add(rate.interval_ns).saturating_sub(rate.depth_ns)
    }

    /// Takes `tokens`, also more than there are: later calls then wait for the debt to be refilled.
    ///
    /// Requests that were admitted together are all charged before the first of them empties the
    /// bucket, so without a debt the average would exceed the rate.
    pub(super) fn draw(&self, rate: Rate, tokens: u64, now: Mono) {
        let cost = rate.interval_ns.saturating_mul(tokens);
        let drawn = |full_at: u64| Some(full_at.max(nanos(now)).saturating_add(cost));
        // The closure always gives a value, so the update cannot fail.
        let _before = self.full_at_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, drawn);
    }

    /// Takes one token if there is one.
    pub(super) fn take(&self, rate: Rate, now: Mono) -> bool {
        let drawn = |full_at: u64| {
            let after = full_at.max(nanos(now)).saturating_add(rate.interval_ns);
            (after.saturating_sub(nanos(now)) <= rate.depth_ns).then_some(after)
        };
        self.full_at_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, drawn).is_ok()
    }

    pub(super) fn is_full(&self, now: Mono) -> bool {
        self.full_at_ns.load(Ordering::Acquire) <= nanos(now)
    }
}

fn nanos(now: Mono) -> u64 {
    now.0.saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 50;

    fn at(ms: u64) -> Mono {
        Mono(1_000_000 + ms * 1_000)
    }

    #[test]
    fn a_full_bucket_holds_four_seconds_of_its_rate() {
        let (bucket, rate) = (Bucket::default(), Rate::per_sec(RATE, 4));
        for taken in 0..200 {
            assert_eq!(bucket.empty_for_ns(rate, at(0)), 0, "after {taken}");
            bucket.draw(rate, 1, at(0));
        }
        assert_eq!(bucket.empty_for_ns(rate, at(0)), 20_000_000);
        assert_eq!(bucket.empty_for_ns(rate, at(20)), 0);
        assert!(!bucket.is_full(at(3_999)));
        assert!(bucket.is_full(at(4_000)));
    }

    #[test]
    fn what_is_drawn_beyond_the_last_token_is_waited_for() {
        let (bucket, rate) = (Bucket::default(), Rate::per_sec(RATE, 4));
        bucket.draw(rate, 300, at(0));
        assert_eq!(bucket.empty_for_ns(rate, at(0)), 101 * 20_000_000);
        assert!(!bucket.take(rate, at(0)));
        assert_eq!(bucket.empty_for_ns(rate, at(2_020)), 0);
    }

    #[test]
    fn in_the_long_run_no_more_is_taken_than_the_rate() {
        let (bucket, rate) = (Bucket::default(), Rate::per_sec(RATE, 4));
        let taken = (0..10_000).filter(|ms| bucket.take(rate, at(*ms))).count();
        assert!((699..=701).contains(&taken), "{taken}");
    }
}
