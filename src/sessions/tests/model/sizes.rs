//! Sizes of the explored worlds, and their faults.

/// Size of an explored world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) nodes: usize,
    pub(super) budget: u64,
    /// Calls of the budget made before.
    pub(super) spent: u64,
    /// Possible prices of calls.
    pub(super) prices: &'static [u64],
    pub(super) limit: Option<u32>,
    /// Number of nodes' requests for calls and permits, if it is bounded.
    pub(super) asks: u8,
    /// The instants at which something may happen.
    pub(super) instants_us: &'static [u64],
    /// End of the session by the ledger's clock, if it is the question.
    pub(super) ends_us: Option<u64>,
    /// Distances of the machines' wall clocks from the ledger's, within what is accepted.
    pub(super) walls_us: [i64; 3],
    /// Wall clocks that are set wrong, and machines that are suspended.
    pub(super) upsets: u8,
    pub(super) crashes: u8,
    /// Failovers to a replica that may lack the last writes, and the nodes' answer to them.
    pub(super) failovers: u8,
    pub(super) asserts: Asserts,
    pub(super) requests: Requests,
    /// Messages that are lost or late.
    pub(super) losses: u8,
    /// Requests that arrive twice: at once, or even after later ones.
    pub(super) repeats: u8,
    pub(super) late_repeats: bool,
    /// True if nodes look at the account, and whether they close the session.
    pub(super) looks: bool,
    pub(super) closes: bool,
}

/// Arrival of requests; their answers take any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requests {
    TakeTime,
    /// As soon as they are sent.
    ArriveAtOnce,
}

/// Closes that nodes tell another server again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asserts {
    /// Closes known on following it, and closes learned later from answers of the one before.
    All,
    /// Closes known on following it alone, which the model must notice.
    Known,
    /// No close at all, which the model must notice.
    Nothing,
}

/// The least there is to explore.
pub(super) const SMALL: Sizes = Sizes {
    nodes: 2,
    budget: 3,
    spent: 0,
    prices: &[1, 2],
    limit: None,
    asks: 0,
    instants_us: &[0],
    ends_us: None,
    walls_us: [0; 3],
    upsets: 0,
    crashes: 0,
    failovers: 0,
    asserts: Asserts::All,
    requests: Requests::TakeTime,
    losses: 0,
    repeats: 0,
    late_repeats: false,
    looks: false,
    closes: false,
};

/// With a rate limit, and a budget that is not the question.
pub(super) const RATED: Sizes = Sizes {
    budget: 1000,
    limit: Some(2),
    asks: 3,
    instants_us: &[0, 1, 3, WINDOW_US, WINDOW_US + 2],
    ..SMALL
};

/// With an end, and clocks that differ by as much as they may.
pub(super) const ENDING: Sizes = Sizes {
    prices: &[1],
    ends_us: Some(ENDS_US),
    instants_us: &[0, ENDS_US - SKEW_US - 1, ENDS_US, ENDS_US + SKEW_US],
    walls_us: [-2_000_000, 2_000_000, 0],
    ..SMALL
};

const ENDS_US: u64 = 10_000_000;
/// Difference of clocks that is accepted: `storage.max_clock_skew_secs`.
pub(super) const SKEW_US: u64 = 2_000_000;
/// Distances to which a wall clock is set wrong: a day.
pub(super) const WRONG_US: [i64; 2] = [-86_400_000_000, 86_400_000_000];

/// The window of a rate limit; permits are good for a twentieth of it.
pub(super) const WINDOW_US: u64 = 40;
pub(super) const GOOD_US: u64 = 2;
