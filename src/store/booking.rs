//! Bookings: a node's questions to the ledger, and the answers.

use std::sync::Arc;

use crate::firewall::session::SessionId;

/// The name of one run of one gateway: after a restart it is another.
pub type NodeName = Arc<str>;

/// A node's question to the ledger on behalf of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Booking {
    pub id: SessionId,
    /// With fewer calls than this nothing is gained; none at all if only permits are asked for.
    pub least: u64,
    /// The store decides how many it grants up to this: fewer, the less remains.
    pub most: u64,
    /// Calls of earlier bookings that the node still holds.
    pub unused: u64,
    /// A question for permits, if the session has a rate limit and several nodes share it.
    pub rate: Option<RateBooking>,
}

/// A node's question for permits of a rate limit that it shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateBooking {
    pub limit: u32,
    pub window_us: u64,
    pub least: u64,
    /// The use of the permits that it was given before, if it was.
    pub before: Option<RateUse>,
}

/// Usage of a permit lease: number used and age of the last use. Unused permits are returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateUse {
    pub lease: u64,
    pub used: u64,
    pub ago_us: u64,
}

/// The answer to a booking: all that was asked for at least, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Booked {
    /// Calls that the node which asked may count.
    pub granted: u64,
    /// All calls of this session that are booked now, by anyone.
    pub total: u64,
    /// Permits held by other running nodes, if the budget fell short. The other nodes were asked to
    /// return them.
    pub elsewhere: u64,
    /// The session is closed, wherever that was done.
    pub closed: bool,
    /// By the ledger's time the session has expired.
    pub ended: bool,
    pub rate: Option<RateBooked>,
}

impl Booked {
    /// The answer of a ledger that only one node asks.
    pub(super) fn alone(granted: u64, total: u64) -> Self {
        Self { granted, total, elsewhere: 0, closed: false, ended: false, rate: None }
    }
}

/// Permits of a shared rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateBooked {
    /// The number of this lease among those of the session.
    pub lease: u64,
    pub granted: u64,
    /// Time for which they may be used, from before the ledger was asked.
    pub good_for_us: u64,
    /// With none granted: when to ask again.
    pub wait_us: u64,
}
