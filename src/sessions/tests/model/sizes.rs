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
    /// Number of permit requests by nodes.
    pub(super) asks: u8,
    /// The instants at which something may happen.
    pub(super) instants_us: &'static [u64],
    pub(super) crashes: u8,
    /// Messages that are lost or late.
    pub(super) losses: u8,
    /// Requests that arrive twice: at once, or even after later ones.
    pub(super) repeats: u8,
    pub(super) late_repeats: bool,
    /// True if nodes look at the account, and whether they close the session.
    pub(super) looks: bool,
    pub(super) closes: bool,
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
    crashes: 0,
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

/// The window of a rate limit; permits are good for a twentieth of it.
pub(super) const WINDOW_US: u64 = 40;
pub(super) const GOOD_US: u64 = 2;
