//! The admin port's rate: a sliding window over all callers, exact in every span of a minute.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::firewall::time::Mono;

const WINDOW_US: u64 = 60_000_000;

/// Counts requests of the last minute. One that is refused is not counted, or the window would
/// never empty under a flood.
#[derive(Debug)]
pub struct Limiter {
    limit: usize,
    recent: Mutex<VecDeque<Mono>>,
}

impl Limiter {
    pub fn new(per_minute: u32) -> Self {
        let limit = usize::try_from(per_minute).unwrap_or(usize::MAX);
        Self { limit, recent: Mutex::default() }
    }

    /// Counts one request, or says in how many seconds to come again.
    pub fn admit(&self, now: Mono) -> Result<(), u64> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        while recent.front().is_some_and(|first| now.since(*first) >= WINDOW_US) {
            recent.pop_front();
        }
        match recent.front() {
            Some(first) if recent.len() >= self.limit => {
                let wait_us = WINDOW_US.saturating_sub(now.since(*first));
                Err(wait_us.div_ceil(1_000_000).max(1))
            }
            _ => {
                recent.push_back(now);
                Ok(())
            }
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
        let limiter = Limiter::new(2);
        assert_eq!(limiter.admit(at(0)), Ok(()));
        assert_eq!(limiter.admit(at(50)), Ok(()));
        assert_eq!(limiter.admit(at(55)), Err(5));
        assert_eq!(limiter.admit(Mono(59_999_999)), Err(1));
        assert_eq!(limiter.admit(at(60)), Ok(()));
        assert_eq!(limiter.admit(at(61)), Err(49));
        assert_eq!(limiter.admit(at(110)), Ok(()));
    }

    #[test]
    fn refused_requests_do_not_hold_the_window_shut() {
        let limiter = Limiter::new(1);
        assert_eq!(limiter.admit(at(0)), Ok(()));
        for second in 1..60 {
            assert!(limiter.admit(at(second)).is_err());
        }
        assert_eq!(limiter.admit(at(60)), Ok(()));
    }
}
