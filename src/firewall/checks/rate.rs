//! The rate: never more than `limit` calls in ANY window, not only in windows that start on the minute.
//!
//! A window holds its first instant and not its last: of a call at `t` and one exactly a window
//! later, at most one lies in any window, so both may pass at a limit of one.

use super::Lack;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::node_share::RateShort;
use crate::firewall::session::{Usage, WorkOrder};
use crate::firewall::terms::Terms;
use crate::firewall::time::Mono;

/// The last window holds too many calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rate limit reached; it fits in {retry_after_secs} s")]
pub struct Limited {
    /// After so many seconds the same price fits, if nothing else is called: exact, rounded up.
    pub retry_after_secs: u64,
    /// The price alone is over the limit; waiting does not help.
    pub never_fits: bool,
}

/// The time that a counted call may take to reach the MCP server. Calls are counted here and felt
/// there: without this allowance a slow call and a quick one could lie closer together there than
/// they were counted.
const ON_THE_WAY_US: u64 = 100_000;

/// The time for which a call counts against a rate limit of so many seconds.
pub fn window_us(window_secs: u64) -> u64 {
    window_secs.saturating_mul(1_000_000).saturating_add(ON_THE_WAY_US)
}

/// Looks for room for `price` more calls in the window, or in the permits in hand.
pub fn look(
    usage: &mut Usage,
    limit: Option<u32>,
    window_secs: u64,
    price: u64,
    now: Mono,
) -> Result<(), Lack<Limited>> {
    let Some(limit) = limit else { return Ok(()) };
    match &usage.shared {
        Some(shared) if price <= u64::from(limit) => {
            shared.permit(price, now).map_err(|short| match short {
                RateShort::NotLeased => Lack::NotLeased,
                RateShort::Limited { retry_after_secs } => {
                    Lack::Over(Limited { retry_after_secs, never_fits: false })
                }
            })
        }
        Some(_) | None => {
            fits(usage, limit, window_us(window_secs), price, now).map_err(Lack::Over)
        }
    }
}

/// Refuses what comes too fast.
pub fn check(
    terms: &Terms,
    order: &WorkOrder,
    looked: Result<(), Lack<Limited>>,
) -> Result<(), Denial> {
    let Err(Lack::Over(limited)) = looked else { return Ok(()) };
    let message = if limited.never_fits {
        "this batch holds more tool calls than the session's rate limit allows in one window: send \
         fewer at once"
    } else {
        "too many tool calls in this window: wait as long as Retry-After says"
    };
    // The allowance for the way is no part of the answer: after a whole window there is room.
    let window_secs = terms.rate_window_secs;
    let retry_after_secs = limited.retry_after_secs.min(window_secs);
    Err(Denial::new(Code::RateLimited, message)
        .retry_after(retry_after_secs)
        .with("retry_after_secs", retry_after_secs)
        .with("rate_limit", order.rate_limit)
        .with("rate_limit_window_secs", window_secs))
}

/// Holds `price` more calls at `now` against every window's `limit`. Counts nothing, but forgets the
/// calls that have left the window.
pub fn fits(
    usage: &mut Usage,
    limit: u32,
    window_us: u64,
    price: u64,
    now: Mono,
) -> Result<(), Limited> {
    // The clock is read before the session's lock is taken, so `now` may lie a little before the
    // newest call; the call would be remembered at that one's time and is judged by it.
    let now = usage.recent.newest().map_or(now, |newest| newest.max(now));
    usage.recent.forget_while(|at| now.since(at) >= window_us);

    let limit = u64::from(limit);
    if price > limit {
        return Err(Limited { retry_after_secs: window_us.div_ceil(1_000_000), never_fits: true });
    }
    let mut over = usage.recent.total().saturating_add(price).saturating_sub(limit);
    if over == 0 {
        return Ok(());
    }
    for (at, count) in usage.recent.iter() {
        over = over.saturating_sub(u64::from(count));
        if over == 0 {
            let wait_us = at.0.saturating_add(window_us).saturating_sub(now.0);
            return Err(Limited {
                retry_after_secs: wait_us.div_ceil(1_000_000),
                never_fits: false,
            });
        }
    }
    // Only if `total` disagreed with the entries; then the answer is no.
    Err(Limited { retry_after_secs: window_us.div_ceil(1_000_000), never_fits: false })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::firewall::checks::budget;

    fn call(usage: &mut Usage, limit: u32, price: u64, at_us: u64) -> Result<(), Limited> {
        fits(usage, limit, 60_000_000, price, Mono(at_us))?;
        budget::count(usage, price, true, Mono(at_us)).unwrap();
        Ok(())
    }

    fn endless() -> Usage {
        Usage { booked: u64::MAX, ..Usage::default() }
    }

    #[test]
    fn a_place_is_free_again_exactly_one_window_later() {
        let mut usage = endless();
        call(&mut usage, 1, 1, 7).unwrap();
        let early = call(&mut usage, 1, 1, 60_000_006).unwrap_err();
        assert_eq!(early, Limited { retry_after_secs: 1, never_fits: false });
        call(&mut usage, 1, 1, 60_000_007).unwrap();
    }

    #[test]
    fn the_wait_is_for_as_many_places_as_the_price_needs() {
        let mut usage = endless();
        for second in 0..10 {
            call(&mut usage, 10, 1, second * 1_000_000).unwrap();
        }
        let wait = |usage: &mut Usage, price| {
            call(usage, 10, price, 10_000_000).unwrap_err().retry_after_secs
        };
        assert_eq!(wait(&mut usage, 1), 50);
        assert_eq!(wait(&mut usage, 4), 53);
        assert_eq!(wait(&mut usage, 10), 59);
        let never = call(&mut usage, 10, 11, 10_000_000).unwrap_err();
        assert_eq!(never, Limited { retry_after_secs: 60, never_fits: true });
        call(&mut usage, 10, 0, 10_000_000).unwrap();
    }

    #[test]
    fn a_late_comer_with_an_older_clock_reading_is_judged_by_the_newest() {
        let mut usage = endless();
        call(&mut usage, 2, 1, 60_000_000).unwrap();
        call(&mut usage, 2, 1, 59_999_990).unwrap();
        assert!(call(&mut usage, 2, 1, 119_999_995).is_err());
        call(&mut usage, 2, 1, 120_000_000).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_window_holds_more_than_the_limit_and_what_fits_is_admitted(
            limit in 1_u32..6,
            asked in prop::collection::vec((0_u64..40_000_000, 1_u64..4), 1..80),
        ) {
            const WINDOW_US: u64 = 60_000_000;
            let mut usage = endless();
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (gap, price) in asked {
                // A third of the gaps are whole windows, to hit the edges.
                now += if gap % 3 == 0 { gap % 7 * (WINDOW_US / 6) } else { gap };
                let sum_at = |admitted: &[(u64, u64)], at: u64| -> u64 {
                    admitted.iter().filter(|(t, _)| t + WINDOW_US > at).map(|(_, n)| n).sum()
                };
                let fits = sum_at(&admitted, now) + price <= u64::from(limit);
                match call(&mut usage, limit, price, now) {
                    Ok(()) => {
                        prop_assert!(fits);
                        admitted.push((now, price));
                    }
                    Err(refused) => {
                        prop_assert!(!fits);
                        prop_assert_eq!(refused.never_fits, price > u64::from(limit));
                        if !refused.never_fits {
                            let at = now + refused.retry_after_secs * 1_000_000;
                            prop_assert!(sum_at(&admitted, at) + price <= u64::from(limit));
                            prop_assert!(
                                sum_at(&admitted, at - 1_000_000) + price > u64::from(limit)
                            );
                        }
                    }
                }
            }
            for &(start, _) in &admitted {
                let inside: u64 = admitted
                    .iter()
                    .filter(|(t, _)| (start..start + WINDOW_US).contains(t))
                    .map(|(_, n)| n)
                    .sum();
                prop_assert!(inside <= u64::from(limit));
            }
        }
    }
}
