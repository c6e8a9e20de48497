//! How much an agent has drifted lately: a count in which old flags weigh less.

use std::collections::VecDeque;

use crate::firewall::time::Mono;

const HOUR_US: u64 = 3_600_000_000;
/// So many fresh flags are too many.
const LIMIT: u64 = 5;
/// A flag's weight is halved for each full hour of its age; after so many it is forgotten.
const HOURS: u64 = 32;
/// The weight of a fresh flag: weights are whole numbers, so sums are exact.
const FRESH: u64 = 1 << HOURS;

/// The flags that still weigh something. Bounded: five within an hour are too many and are forgotten,
/// so at most four are kept for each of the hours.
#[derive(Debug, Default)]
pub(super) struct FlagHistory {
    /// Oldest first.
    flags: VecDeque<(Mono, u64)>,
}

impl FlagHistory {
    /// Adds flags. True if they are too many now; then all are forgotten.
    pub(super) fn add(&mut self, flags: u32, now: Mono) -> bool {
        let now = self.flags.back().map_or(now, |&(newest, _)| newest.max(now));
        while self.flags.front().is_some_and(|&(at, _)| now.since(at) / HOUR_US >= HOURS) {
            self.flags.pop_front();
        }
        self.flags.push_back((now, u64::from(flags).min(LIMIT)));
        let weigh = |&(at, count): &(Mono, u64)| count * (FRESH >> (now.since(at) / HOUR_US));
        let too_many = self.flags.iter().map(weigh).sum::<u64>() >= LIMIT * FRESH;
        if too_many {
            self.flags.clear();
        }
        too_many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_fresh_flags_are_too_many_and_are_then_forgotten() {
        let mut history = FlagHistory::default();
        assert!(!history.add(2, Mono(0)));
        assert!(!history.add(2, Mono(HOUR_US - 1)));
        assert!(history.add(1, Mono(HOUR_US - 1)));
        assert!(!history.add(4, Mono(HOUR_US)));
        assert!(history.add(u32::MAX, Mono(HOUR_US)));
    }

    #[test]
    fn a_flag_weighs_half_after_each_full_hour() {
        let mut history = FlagHistory::default();
        assert!(!history.add(4, Mono(0)));
        assert!(!history.add(2, Mono(HOUR_US)), "2 + 4/2 = 4");
        assert!(!history.add(2, Mono(2 * HOUR_US)), "2 + 2/2 + 4/4 = 4");
        assert!(history.add(1, Mono(2 * HOUR_US)), "2 + 1 + 2/2 + 4/4 = 5");
    }

    #[test]
    fn the_history_is_bounded() {
        let mut history = FlagHistory::default();
        for step in 0..10_000 {
            history.add(1, Mono(step * HOUR_US / 2));
            assert!(history.flags.len() <= 4 * 32);
        }
        assert!(!history.flags.is_empty());
    }
}
