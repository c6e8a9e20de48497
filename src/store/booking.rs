//! What a node asks the ledger for, and what it is answered.

use std::sync::Arc;

use crate::firewall::session::SessionId;

/// One running gateway, as the ledger tells it from others: a restart is another one.
pub type NodeName = Arc<str>;

/// What a node asks the ledger for, on behalf of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Booking {
    pub id: SessionId,
    /// With fewer calls than this nothing is gained; none at all if only permits are asked for.
    pub least: u64,
    /// The store decides how many it grants up to this: fewer, the less remains.
    pub most: u64,
    /// What the node still holds of earlier bookings.
    pub unused: u64,
    /// Where the session has a rate limit and several nodes share it.
    pub rate: Option<RateBooking>,
}

/// What a node asks for of a rate limit that it shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateBooking {
    pub limit: u32,
    pub window_us: u64,
    pub least: u64,
    /// What became of the permits it was given before, if it was.
    pub before: Option<RateUse>,
}

/// So many permits of one lease were used, the last of them so long ago. The rest is not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateUse {
    pub lease: u64,
    pub used: u64,
    pub ago_us: u64,
}

/// The answer to a booking: all that was asked for at least, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Booked {
    /// So many calls may be counted by whoever asked.
    pub granted: u64,
    /// All calls of this session that are booked now, by anyone.
    pub total: u64,
    /// Where the budget fell short: what other running nodes hold of it. They have been asked to give
    /// it back.
    pub elsewhere: u64,
    /// The session is closed, wherever that was done.
    pub closed: bool,
    pub rate: Option<RateBooked>,
}

impl Booked {
    /// The answer of a ledger that only one node asks.
    pub(super) fn alone(granted: u64, total: u64) -> Self {
        Self { granted, total, elsewhere: 0, closed: false, rate: None }
    }
}

/// Permits of a shared rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateBooked {
    /// Which lease this is, among those of the session.
    pub lease: u64,
    pub granted: u64,
    /// For how long they may be used, from before the ledger was asked.
    pub good_for_us: u64,
    /// With none granted: when to ask again.
    pub wait_us: u64,
}
