//! Requests of a node to the ledger, and their answers.

use std::sync::Arc;

use crate::firewall::session::SessionId;

/// One running gateway, as the ledger tells it from others: a restart is another one.
pub type NodeName = Arc<str>;

/// Request of a node to the ledger, for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Booking {
    pub id: SessionId,
    /// With fewer calls than this nothing is gained; none at all if only permits are asked for.
    pub least: u64,
    /// The store decides how many it grants up to this: fewer, the less remains.
    pub most: u64,
    /// Permits of earlier bookings that the node still holds.
    pub unused: u64,
    /// Rate booking, if the session has a rate limit that several nodes share.
    pub rate: Option<RateBooking>,
}

/// Request for permits of a shared rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateBooking {
    pub limit: u32,
    pub window_us: u64,
    pub least: u64,
    /// Usage of the permits granted before, if any.
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
    /// Number of calls granted to the node.
    pub granted: u64,
    /// All calls of this session that are booked now, by anyone.
    pub total: u64,
    /// Permits held by other running nodes, if the budget fell short. Those nodes were asked to
    /// return them.
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
    /// Number of this lease among those of the session.
    pub lease: u64,
    pub granted: u64,
    /// For how long they may be used, from before the ledger was asked.
    pub good_for_us: u64,
    /// With none granted: when to ask again.
    pub wait_us: u64,
}
