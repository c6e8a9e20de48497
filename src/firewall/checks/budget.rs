//! The budget: how many tool calls a session may make in all, and the one place that counts them.

use super::Lack;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::session::{Usage, WorkOrder};
use crate::firewall::time::Mono;
use crate::saturate::SaturatingFrom as _;

/// The budget covers less than the price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{remaining} calls remain of the budget")]
pub struct Short {
    pub remaining: u64,
}

/// Less than the price is booked at the ledger: lease more, then ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the calls are not booked at the ledger")]
pub struct NotBooked;

/// The rest of the whole budget, booked or not.
pub fn remaining(usage: &Usage, budget: u64) -> u64 {
    budget.saturating_sub(usage.calls_made)
}

/// Compares `price` more calls with the whole budget. Counts nothing.
pub fn afford(usage: &Usage, budget: u64, price: u64) -> Result<(), Short> {
    let remaining = remaining(usage, budget);
    if price <= remaining { Ok(()) } else { Err(Short { remaining }) }
}

/// Looks for `price` more calls. A budget that seems to be used up may be leased all the same,
/// since other nodes may have given calls back.
pub fn look(usage: &Usage, budget: u64, price: u64, now: Mono) -> Result<(), Lack<Short>> {
    afford(usage, budget, price)
        .map_err(|short| if usage.may_regain(now) { Lack::NotLeased } else { Lack::Over(short) })
}

/// Refuses what the budget does not cover.
pub fn check(order: &WorkOrder, looked: Result<(), Lack<Short>>) -> Result<(), Denial> {
    let Err(Lack::Over(short)) = looked else { return Ok(()) };
    Err(Denial::new(
        Code::BudgetExhausted,
        "the session's call budget is used up: finish, or ask your operator for a new session",
    )
    .with("budget_remaining", short.remaining)
    .with("budget_total", order.call_budget))
}

/// Counts `price` calls made at `now`, if that many are booked; else changes nothing.
pub fn count(
    usage: &mut Usage,
    price: u64,
    rate_limited: bool,
    now: Mono,
) -> Result<(), NotBooked> {
    let made = usage.calls_made.checked_add(price).filter(|&made| made <= usage.booked);
    usage.calls_made = made.ok_or(NotBooked)?;
    if let Some(shared) = &mut usage.shared {
        shared.count(price, now);
    } else if rate_limited {
        // `rate::fits` lets through no more than a 32-bit limit.
        usage.recent.push(now, u32::saturating_from(price));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_covers_its_last_call_and_not_one_more() {
        let usage = Usage { calls_made: 7, ..Usage::default() };
        assert_eq!(afford(&usage, 10, 3), Ok(()));
        assert_eq!(afford(&usage, 10, 4), Err(Short { remaining: 3 }));
        assert_eq!(afford(&usage, 10, u64::MAX), Err(Short { remaining: 3 }));
        assert_eq!(afford(&usage, 5, 1), Err(Short { remaining: 0 }));
        assert_eq!(afford(&usage, 5, 0), Ok(()));
    }

    #[test]
    fn only_what_is_booked_is_counted() {
        let mut usage = Usage { booked: 3, ..Usage::default() };
        assert_eq!(count(&mut usage, 2, true, Mono(1)), Ok(()));
        assert_eq!(count(&mut usage, 2, true, Mono(2)), Err(NotBooked));
        assert_eq!((usage.calls_made, usage.recent.total()), (2, 2));
        assert_eq!(count(&mut usage, 1, false, Mono(3)), Ok(()));
        assert_eq!((usage.calls_made, usage.recent.total()), (3, 2));
        assert_eq!(count(&mut usage, u64::MAX, false, Mono(3)), Err(NotBooked));
    }
}
