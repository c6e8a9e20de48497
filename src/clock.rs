//! The only place that reads a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::firewall::time::{Mono, Now, Timestamp};
use crate::saturate::SaturatingFrom as _;

/// Source of `now`: the machine, or a test.
#[derive(Clone, Debug)]
pub enum Clock {
    System {
        started: Instant,
        /// Added to what the machine says: see [`Clock::go_by_ledger`].
        ledger_us: Arc<AtomicI64>,
    },
    Manual {
        wall_start: Timestamp,
        elapsed_us: Arc<AtomicU64>,
    },
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the module that reads the clock")]
    pub fn system() -> Self {
        Self::System { started: Instant::now(), ledger_us: Arc::default() }
    }

    /// A clock that does not advance until [`Clock::advance_us`].
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

    /// Goes by another clock from now on, which is so far ahead of the machine's (or behind it): by that
    /// of the ledger, where the two differ by more than they may. Nothing that a reading was used for
    /// before changes.
    pub fn go_by_ledger(&self, off_us: i64) {
        match self {
            Self::System { ledger_us, .. } => ledger_us.store(off_us, Ordering::Release),
            Self::Manual { .. } => {}
        }
    }

    /// Returns what is added to the machine's wall clock.
    pub fn by_ledger_us(&self) -> i64 {
        match self {
            Self::System { ledger_us, .. } => ledger_us.load(Ordering::Acquire),
            Self::Manual { .. } => 0,
        }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        Now { wall: self.wall(), mono: self.mono() }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the module that reads the clock")]
    fn wall(&self) -> Timestamp {
        match self {
            Self::System { ledger_us, .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let machine = i64::saturating_from(since.as_micros());
                Timestamp(machine.saturating_add(ledger_us.load(Ordering::Relaxed)))
            }
            Self::Manual { wall_start, elapsed_us } => {
                let elapsed = i64::saturating_from(elapsed_us.load(Ordering::SeqCst));
                Timestamp(wall_start.0.saturating_add(elapsed))
            }
        }
    }

    /// Reads the monotonic clock alone.
    pub fn mono(&self) -> Mono {
        match self {
            Self::System { started, .. } => {
                Mono(u64::saturating_from(started.elapsed().as_micros()))
            }
            Self::Manual { elapsed_us, .. } => Mono(elapsed_us.load(Ordering::SeqCst)),
        }
    }
}
