//! The arithmetic of the ledger: what one session's account grants to whom. Pure. SQLite and the
//! memory, which serve one node, need little of it; the script that Redis runs is given the constants
//! below and is tested against the account of the tests, step by step.
//!
//! **Calls.** A booking is spent from the moment it is granted. A node gives back the calls that it
//! did not use; after a crash they stay spent. So the sum of all calls made never passes the
//! budget.
//!
//! **Rate.** A permit may be used until `good_for_us` after it was granted, so it is counted as if
//! it were used at that last instant until its node says when it was really used. A permit is granted
//! only if all that are still counted in the window leave room for it. Any two calls in one window
//! are therefore counted together when the later one's permit is granted, and no window holds more
//! than the limit, whatever the nodes' clocks say: only the ledger's own clock is read, and the node
//! counts `good_for_us` from before it asked.

#[cfg(test)]
pub(crate) mod account;

/// Leases shrink with the remaining budget: at most this part of it.
pub(super) const SHARES: u64 = 8;
/// Permits granted at once are at most this part of the limit.
pub(super) const RATE_BLOCKS: u64 = 20;
/// The time for which a permit is good, at most, and as a part of the window.
pub(super) const PERMIT_US: u64 = 1_000_000;
pub(super) const PERMITS_IN_A_WINDOW: u64 = 20;

/// Returns the calls that a node gets which needs `least` and would take `most`.
pub(super) fn share(least: u64, most: u64, remaining: u64) -> u64 {
    if least > remaining {
        return 0;
    }
    remaining.div_ceil(SHARES).min(most).max(least)
}
