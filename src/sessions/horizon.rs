//! The time by which something may be deleted for good, by a clock that may be wrong.
//!
//! A store without a clock of its own has only the clocks of the machines that opened it. A run whose
//! clock is far ahead sees every session as long over; refusing them lasts until the clock is right
//! again, deleting them would not. So a run deletes by the newest time that the ledger has seen before,
//! and what has passed since this run began, until it has run for long enough to be believed.

use crate::firewall::time::{Now, Timestamp};
use crate::saturate::SaturatingFrom as _;

/// A run that has lasted so long is believed.
const BELIEVED_AFTER_US: u64 = 3_600_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Horizon {
    /// The newest time of earlier runs; the smallest there is if there were none.
    newest: Timestamp,
    opened: Now,
}

impl Horizon {
    pub(super) fn new(newest: Timestamp, opened: Now) -> Self {
        Self { newest, opened }
    }

    /// Returns the time by which something may be deleted, at this instant.
    pub(super) fn at(&self, now: Now) -> Timestamp {
        let up_us = now.mono.since(self.opened.mono);
        if self.newest == Timestamp(i64::MIN) || up_us >= BELIEVED_AFTER_US {
            return now.wall;
        }
        let up_us = i64::saturating_from(up_us);
        now.wall.min(Timestamp(self.newest.0.saturating_add(up_us)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::time::Mono;

    #[test]
    fn a_clock_that_is_ahead_is_believed_after_an_hour() {
        let at = |wall: i64, mono: u64| Now { wall: Timestamp(wall), mono: Mono(mono) };
        let day = 86_400_000_000;
        let horizon = Horizon::new(Timestamp(1_000), at(day, 5));
        assert_eq!(horizon.at(at(day, 5)), Timestamp(1_000));
        assert_eq!(horizon.at(at(day + 7, 12)), Timestamp(1_007));
        assert_eq!(horizon.at(at(900, 12)), Timestamp(900), "one that is behind counts at once");
        let hour = BELIEVED_AFTER_US + 5;
        assert_eq!(horizon.at(at(day, hour - 1)), Timestamp(1_000 + 3_599_999_999));
        assert_eq!(horizon.at(at(day, hour)), Timestamp(day));
        assert_eq!(Horizon::new(Timestamp(i64::MIN), at(0, 0)).at(at(day, 1)), Timestamp(day));
    }
}
