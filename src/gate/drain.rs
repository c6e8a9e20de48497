//! The way out of service, phase by phase.
//!
//! A gateway that is to stop first withdraws its readiness and still serves calls, so that balancers
//! can turn away; then it refuses new calls while those in flight end; then it ends what is left.
//! Every phase includes the ones before it, and none is ever undone.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use tokio::sync::watch;

/// Progress of a gateway on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Calls are served and the gateway is ready.
    #[default]
    Serving,
    /// Calls are still served, but readiness is withdrawn and connections close after their answer.
    Leaving,
    /// New calls are refused; those in flight go on.
    Refusing,
    /// Every call ends.
    EndingCalls,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Serving, Self::Leaving, Self::Refusing, Self::EndingCalls];
}

/// The kinds of responses that have to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    pub streams: bool,
    pub calls: bool,
}

/// The phase of one gateway, read by every request.
#[derive(Debug)]
pub struct Drain {
    phase: AtomicU8,
    /// Requests that arrived while the gateway was on its way out.
    late: AtomicU64,
    ending: watch::Sender<Ending>,
    /// True once connections should not be kept.
    leaving: watch::Sender<bool>,
    /// True once no connection should be accepted.
    closed: watch::Sender<bool>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            phase: AtomicU8::default(),
            late: AtomicU64::default(),
            ending: watch::Sender::default(),
            leaving: watch::Sender::new(false),
            closed: watch::Sender::new(false),
        }
    }
}

impl Drain {
    pub fn phase(&self) -> Phase {
        let at = usize::from(self.phase.load(Ordering::Acquire));
        Phase::ALL.get(at).copied().unwrap_or(Phase::EndingCalls)
    }

    /// True from the withdrawal of readiness on.
    pub fn is_leaving(&self) -> bool {
        self.phase() >= Phase::Leaving
    }

    /// Notes a request; true if the gateway is on its way out.
    pub fn note_request(&self) -> bool {
        let leaving = self.is_leaving();
        if leaving {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        leaving
    }

    /// Number of requests that arrived since the gateway began to leave.
    pub fn late_requests(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// Enters a phase; an earlier one than the present one changes nothing.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        if phase >= Phase::Leaving {
            self.leaving.send_if_modified(|leaving| !std::mem::replace(leaving, true));
        }
        if phase >= Phase::EndingCalls {
            self.ending.send_replace(Ending { streams: true, calls: true });
        }
    }

    /// Ends open event streams, whatever the phase.
    pub fn end_streams(&self) {
        self.ending.send_modify(|ending| ending.streams = true);
    }

    /// Stops accepting connections.
    pub fn close(&self) {
        self.closed.send_if_modified(|closed| !std::mem::replace(closed, true));
    }

    /// A receiver that becomes true once connections should not be kept.
    pub fn when_leaving(&self) -> watch::Receiver<bool> {
        self.leaving.subscribe()
    }

    /// A receiver that becomes true once no connection should be accepted.
    pub fn when_closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// A receiver of the kinds of responses that have to end.
    pub fn ending(&self) -> watch::Receiver<Ending> {
        self.ending.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_never_undone() {
        let drain = Drain::default();
        let (ending, leaving, closed) = (drain.ending(), drain.when_leaving(), drain.when_closed());
        assert_eq!((drain.phase(), *leaving.borrow()), (Phase::Serving, false));
        for phase in Phase::ALL {
            drain.enter(phase);
            assert_eq!(drain.phase(), phase);
            assert_eq!(*leaving.borrow(), phase >= Phase::Leaving);
            assert_eq!(ending.borrow().calls, phase == Phase::EndingCalls);
        }
        drain.enter(Phase::Leaving);
        assert_eq!(drain.phase(), Phase::EndingCalls);
        assert!(!*closed.borrow());
        drain.close();
        assert!(*closed.borrow());
    }

    #[test]
    fn streams_can_end_while_calls_go_on() {
        let drain = Drain::default();
        drain.end_streams();
        assert_eq!(drain.phase(), Phase::Serving);
        assert_eq!(*drain.ending().borrow(), Ending { streams: true, calls: false });
    }
}
