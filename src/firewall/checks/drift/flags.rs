//! Recent drift flags of an agent, and the demotion they cause.

use std::collections::VecDeque;

use crate::firewall::time::{Mono, Now, Timestamp};
use crate::saturate::SaturatingFrom as _;

/// Weight of a fresh flag. Whole numbers, so that five fresh ones are exactly five.
const FLAG_WEIGHT: u64 = 1 << FORGOTTEN_AFTER_HOURS;

/// At this age a flag's weight would be half of the smallest number that is counted with.
const FORGOTTEN_AFTER_HOURS: u64 = 16;

const FLAGS_TO_DEMOTE: u64 = 5;

const HOUR_US: u64 = 3_600_000_000;

/// The counted flags of one agent. Each halves its weight per full hour of age.
#[derive(Clone, Debug, Default)]
pub struct FlagHistory {
    /// The instants of all flags, oldest first: microseconds since this run began, or before.
    // INVARIANT: never more than five per hour of memory, since the fifth in an hour demotes.
    given: VecDeque<i64>,
}

impl FlagHistory {
    /// Remembers flags of an earlier run, oldest first; none if nothing of them weighs anything.
    pub fn recall(flags: impl Iterator<Item = (Timestamp, u32)>, now: Now) -> Option<Self> {
        let mut given = VecDeque::new();
        for (at, count) in flags {
            let age_us = now.wall.0.saturating_sub(at.0).max(0);
            let at = instant(now.mono).saturating_sub(age_us);
            if age_hours(at, now.mono) <= FORGOTTEN_AFTER_HOURS {
                // As many as demote at once say all that there is to say.
                let count = u64::from(count).min(FLAGS_TO_DEMOTE);
                given.extend((0..count).map(|_| at));
            }
        }
        (!given.is_empty()).then_some(Self { given })
    }

    /// Adds flags given at `now`. True if the agent is to be demoted; the count then starts again.
    #[must_use]
    pub fn add(&mut self, flags: u32, now: Mono) -> bool {
        self.given.retain(|given| age_hours(*given, now) <= FORGOTTEN_AFTER_HOURS);
        let old: u64 = self.given.iter().map(|given| FLAG_WEIGHT >> age_hours(*given, now)).sum();
        let fresh = u64::from(flags).saturating_mul(FLAG_WEIGHT);
        if flags > 0 && old.saturating_add(fresh) >= FLAGS_TO_DEMOTE * FLAG_WEIGHT {
            self.given.clear();
            return true;
        }
        self.given.extend((0..flags).map(|_| instant(now)));
        false
    }
}

fn instant(at: Mono) -> i64 {
    i64::saturating_from(at.0)
}

fn age_hours(given: i64, now: Mono) -> u64 {
    u64::try_from(instant(now).saturating_sub(given)).unwrap_or(0) / HOUR_US
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fifth_flag_demotes_and_the_count_starts_anew() {
        let mut history = FlagHistory::default();
        for _ in 0..2 {
            for second in 0..4 {
                assert!(!history.add(1, Mono(second * 1_000_000)));
            }
            assert!(history.add(1, Mono(HOUR_US - 1)));
        }
    }

    #[test]
    fn flags_weigh_half_after_each_full_hour() {
        let mut history = FlagHistory::default();
        assert!(!history.add(4, Mono(0)));
        // 2 + 2, then one more.
        assert!(!history.add(2, Mono(HOUR_US)));
        assert!(history.add(1, Mono(HOUR_US)));

        let mut history = FlagHistory::default();
        assert!(!history.add(4, Mono(0)));
        // 1 + 3 at two hours.
        assert!(!history.add(3, Mono(2 * HOUR_US)));
        assert!(history.add(1, Mono(3 * HOUR_US - 1)));
    }

    #[test]
    fn flags_of_an_earlier_run_weigh_what_they_weighed() {
        let hour = i64::try_from(HOUR_US).unwrap();
        let now = Now { wall: Timestamp(20 * hour), mono: Mono(7) };
        let recalled = |flags: &[(i64, u32)]| {
            FlagHistory::recall(flags.iter().map(|&(at, n)| (Timestamp(at), n)), now)
        };
        // Two of three and a half hours ago, one of this hour, one of the day before.
        let flags = [(-4 * hour, 4), (33 * hour / 2, 2), (20 * hour - 1, 1)];
        let mut history = recalled(&flags).unwrap();
        assert!(!history.clone().add(3, now.mono), "1 + 2/8 + 3 are not five");
        assert!(history.add(4, now.mono));
        assert!(recalled(&flags[..1]).is_none());
        assert!(recalled(&[(30 * hour, 4)]).unwrap().add(1, now.mono), "none is younger than now");
    }

    #[test]
    fn many_flags_at_once_demote_once() {
        let mut history = FlagHistory::default();
        assert!(history.add(u32::MAX, Mono(0)));
        assert!(history.given.is_empty());
        assert!(!history.add(0, Mono(0)));
        assert!(!history.add(4, Mono(0)));
    }

    proptest! {
        #[test]
        fn the_history_stays_small(steps in prop::collection::vec((0..6_u32, 0..3 * HOUR_US), 0..300)) {
            let mut history = FlagHistory::default();
            let mut now = 0;
            for (flags, later) in steps {
                now += later;
                if history.add(flags, Mono(now)) {
                    prop_assert!(flags > 0);
                }
                prop_assert!(history.given.len() <= 5 * 17);
            }
        }
    }
}
