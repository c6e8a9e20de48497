//! The only place that reads a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::firewall::time::{Mono, Now, Timestamp};

/// Source of `now`: the machine, or a test.
#[derive(Clone, Debug)]
pub enum Clock {
    System { started: Instant },
    Manual { wall_start: Timestamp, elapsed_us: Arc<AtomicU64> },
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the module that reads the clock")]
    pub fn system() -> Self {
        Self::System { started: Instant::now() }
    }

    /// A clock that stands still until [`Clock::advance_us`].
    pub fn manual(wall_start: Timestamp) -> Self {
        Self::Manual { wall_start, elapsed_us: Arc::default() }
    }

    /// Moves a manual clock; a system clock moves by itself.
    pub fn advance_us(&self, us: u64) {
        match self {
            Self::System { .. } => {}
            Self::Manual { elapsed_us, .. } => {
                elapsed_us.fetch_add(us, Ordering::SeqCst);
            }
        }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        Now { wall: self.wall(), mono: self.mono() }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the module that reads the clock")]
    fn wall(&self) -> Timestamp {
        match self {
            Self::System { .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
            }
            Self::Manual { wall_start, elapsed_us } => {
                let elapsed = i64::try_from(elapsed_us.load(Ordering::SeqCst)).unwrap_or(i64::MAX);
                Timestamp(wall_start.0.saturating_add(elapsed))
            }
        }
    }

    /// Reads the monotonic clock alone.
    pub fn mono(&self) -> Mono {
        match self {
            Self::System { started } => {
                Mono(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX))
            }
            Self::Manual { elapsed_us, .. } => Mono(elapsed_us.load(Ordering::SeqCst)),
        }
    }
}
