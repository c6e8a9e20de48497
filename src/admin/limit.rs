//! Rates of admin requests: sliding windows, exact in every span of a minute.
//!
//! Each key has two windows. All its requests count in the first; when that is full, requests that
//! take something away (close, revoke, deactivate, lower trust) count in the second, the reserve.
//! So no other traffic, not even that of the same key, keeps an operator from revoking.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::firewall::time::Mono;
use crate::saturate::SaturatingFrom as _;

const WINDOW_US: u64 = 60_000_000;

/// Requests that take something away and may come on top of the limit, in any minute.
const MIN_RESERVE: u32 = 60;

/// The times of what was counted within the last minute.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<Mono>);

impl Window {
    /// Counts one, or says in how many seconds there is room again. One that is refused is not
    /// counted, or the window would never empty under a flood.
    pub(super) fn count(&mut self, limit: u32, now: Mono) -> Result<(), u64> {
        self.is_full(limit, now)?;
        self.0.push_back(now);
        Ok(())
    }

    /// Says in how many seconds there is room again, if there is none.
    pub(super) fn is_full(&mut self, limit: u32, now: Mono) -> Result<(), u64> {
        while self.0.front().is_some_and(|first| now.since(*first) >= WINDOW_US) {
            self.0.pop_front();
        }
        let limit = usize::saturating_from(limit);
        // The one whose end makes room: with a limit that was lowered, not the first.
        let over = self.0.len().checked_sub(limit).and_then(|over| self.0.get(over));
        match over {
            Some(first) => {
                let wait_us = WINDOW_US.saturating_sub(now.since(*first));
                Err(wait_us.div_ceil(1_000_000).max(1))
            }
            None => Ok(()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Window that a request was counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Regular,
    /// Only changes that take something away may go on; others may be sent again after these seconds.
    Reserve {
        retry_after_secs: u64,
    },
}

/// The windows of one key.
#[derive(Debug)]
pub(super) struct Limits {
    windows: Mutex<Windows>,
}

#[derive(Debug)]
struct Windows {
    limit: u32,
    regular: Window,
    reserve: Window,
}

impl Limits {
    pub(super) fn new(limit: u32) -> Self {
        let windows = Windows { limit, regular: Window::default(), reserve: Window::default() };
        Self { windows: Mutex::new(windows) }
    }

    /// Changes the limit; what was counted stays counted.
    pub(super) fn set(&self, limit: u32) {
        self.windows.lock().limit = limit;
    }

    /// Counts a request, or says in how many seconds to come again.
    pub(super) fn count(&self, may_take_away: bool, now: Mono) -> Result<Counted, u64> {
        let mut windows = self.windows.lock();
        let limit = windows.limit;
        match windows.regular.count(limit, now) {
            Ok(()) => Ok(Counted::Regular),
            Err(retry_after_secs) if may_take_away => {
                windows.reserve.count(limit.max(MIN_RESERVE), now)?;
                Ok(Counted::Reserve { retry_after_secs })
            }
            Err(secs) => Err(secs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Mono {
        Mono(secs * 1_000_000)
    }

    #[test]
    fn no_span_of_a_minute_holds_more_than_the_limit() {
        let mut window = Window::default();
        assert_eq!(window.count(2, at(0)), Ok(()));
        assert_eq!(window.count(2, at(50)), Ok(()));
        assert_eq!(window.count(2, at(55)), Err(5));
        assert_eq!(window.count(2, Mono(59_999_999)), Err(1));
        assert_eq!(window.count(2, at(60)), Ok(()));
        assert_eq!(window.count(2, at(61)), Err(49));
        assert_eq!(window.count(2, at(110)), Ok(()));
    }

    #[test]
    fn refused_requests_do_not_hold_the_window_shut() {
        let mut window = Window::default();
        assert_eq!(window.count(1, at(0)), Ok(()));
        for second in 1..60 {
            assert!(window.count(1, at(second)).is_err());
        }
        assert_eq!(window.count(1, at(60)), Ok(()));
    }

    #[test]
    fn a_lowered_limit_counts_what_was_counted_before() {
        let limits = Limits::new(3);
        for second in [0, 10, 20] {
            assert_eq!(limits.count(false, at(second)), Ok(Counted::Regular));
        }
        limits.set(1);
        assert_eq!(limits.count(false, at(61)), Err(19), "until the last of the three is old");
        assert_eq!(limits.count(false, at(80)), Ok(Counted::Regular));
    }

    #[test]
    fn taking_away_has_a_reserve_of_its_own() {
        let limits = Limits::new(2);
        for _ in 0..2 {
            assert_eq!(limits.count(true, at(0)), Ok(Counted::Regular));
        }
        assert_eq!(limits.count(false, at(1)), Err(59));
        for _ in 0..MIN_RESERVE {
            assert_eq!(limits.count(true, at(2)), Ok(Counted::Reserve { retry_after_secs: 58 }));
        }
        assert_eq!(limits.count(true, at(3)), Err(59));
    }
}
