//! The counter: budget, rate and counter in one step, under the session's lock.

use super::session::{Found, Seen, active};
use super::{Lack, budget, rate};
use crate::firewall::denial::Denial;
use crate::firewall::session::Usage;
use crate::firewall::terms::Terms;
use crate::firewall::time::Now;

/// Counts `price` calls of a session at `now`, or changes nothing. Looks again at everything that other calls may
/// have changed since the first look.
pub fn spend(
    terms: &Terms,
    found: Option<&Found<'_>>,
    usage: Option<&mut Usage>,
    price: u64,
    now: Now,
) -> Result<(), Lack<Denial>> {
    let Some(found) = found.filter(|_| price > 0) else { return Ok(()) };
    // Without its usage a session's calls cannot be counted.
    let usage = usage.ok_or(Lack::NotLeased)?;
    let order = found.order;
    let seen = Seen::of(terms, order, usage, price, now);
    active(seen.closed, found.deadline, now).map_err(Lack::Over)?;
    budget::check(order, seen.budget).map_err(Lack::Over)?;
    rate::check(terms, order, seen.rate).map_err(Lack::Over)?;
    if seen.budget.is_err() || seen.rate.is_err() {
        return Err(Lack::NotLeased);
    }
    budget::count(usage, price, order.rate_limit.is_some(), now.mono)
        .map_err(|budget::NotBooked| Lack::NotLeased)
}
