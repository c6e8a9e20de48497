//! The way out of service, phase by phase.
//!
//! A gateway that is to stop first withdraws its readiness and still serves calls, so that balancers
//! can turn away; then it refuses new calls while those in flight end; then it ends what is left.
//! Every phase includes the ones before it, and none is ever undone.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::watch;

/// How far a gateway is on its way out.
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
    /// Open event streams end.
    EndingStreams,
    /// Every call ends.
    EndingCalls,
}

impl Phase {
    const ALL: [Self; 5] =
        [Self::Serving, Self::Leaving, Self::Refusing, Self::EndingStreams, Self::EndingCalls];
}

/// The phase of one gateway, read by every request.
#[derive(Debug)]
pub struct Drain {
    /// Mirror of what `changes` holds, for readers that do not wait.
    phase: AtomicU8,
    changes: watch::Sender<Phase>,
    /// True once connections should not be kept.
    leaving: watch::Sender<bool>,
    /// True once no connection should be accepted.
    closed: watch::Sender<bool>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            phase: AtomicU8::default(),
            changes: watch::Sender::new(Phase::Serving),
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

    /// Enters a phase; an earlier one than the present one changes nothing.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.changes.send_if_modified(|present| {
            let later = phase > *present;
            *present = (*present).max(phase);
            later
        });
        if phase >= Phase::Leaving {
            self.leaving.send_if_modified(|leaving| !std::mem::replace(leaving, true));
        }
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

    /// A receiver of every change of the phase.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_never_undone() {
        let drain = Drain::default();
        let (phases, leaving, closed) = (drain.phases(), drain.when_leaving(), drain.when_closed());
        assert_eq!((drain.phase(), *leaving.borrow()), (Phase::Serving, false));
        for phase in Phase::ALL {
            drain.enter(phase);
            assert_eq!((drain.phase(), *phases.borrow()), (phase, phase));
        }
        drain.enter(Phase::Leaving);
        assert_eq!((drain.phase(), *phases.borrow()), (Phase::EndingCalls, Phase::EndingCalls));
        assert!(*leaving.borrow() && !*closed.borrow());
        drain.close();
        assert!(*closed.borrow());
    }
}
