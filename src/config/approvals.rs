//! `[approvals]`: calls that a person decides.

use super::check::{Read, Section};

/// Terms of approvals.
#[derive(Clone, Debug)]
pub struct Approvals {
    /// Time within which a pending call is decided, and an approved one used.
    pub ttl_secs: u64,
    pub max_pending_per_agent: u32,
    /// Time for which the call itself waits for its decision; 0: not at all.
    pub hold_secs: u64,
}

pub(super) fn read(mut s: Section<'_>) -> Read<Approvals> {
    let approvals = Approvals {
        ttl_secs: s.number("ttl_secs", 900, 10..=86_400),
        max_pending_per_agent: s.number("max_pending_per_agent", 20, 1..=10_000),
        hold_secs: s.number("hold_secs", 0, 0..=600),
    };
    (approvals, s.finish())
}
