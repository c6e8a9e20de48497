//! Stopping: by signal or by a switch, phase by phase, with time for the calls in flight.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::notify;
use crate::gate::drain::{Drain, Phase};
use crate::gate::in_flight::InFlight;
use crate::proxy::leave::LAST_REQUESTS;

/// Time for which streams and calls that are cut off have for their last event or answer.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Time for which admin requests under way have for their answer.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Time without a request after which no balancer needs longer to turn away.
const QUIET: Duration = Duration::from_secs(4);

/// Interval between two looks at the number of requests.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Asks a running gateway to stop.
pub struct Switch(watch::Sender<bool>);

/// The running gateway's end of the switch.
pub struct Stopped(watch::Receiver<bool>);

/// A switch and what it is wired to.
pub fn stop_switch() -> (Switch, Stopped) {
    let (sender, receiver) = watch::channel(false);
    (Switch(sender), Stopped(receiver))
}

impl Switch {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// The signals that stop a gateway, watched from its start on.
pub(super) struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to watch; within a runtime that lives as long as the process.
    pub(super) fn watch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            Some(()) = self.terminate.recv() => "SIGTERM",
            Some(()) = self.quit.recv() => "SIGQUIT",
            Some(()) = self.interrupt.recv() => "SIGINT",
            else => pending().await,
        }
    }
}

/// Waits for a reason to stop, then leads the gateway out of service.
pub(super) struct Draining {
    pub(super) stopped: Stopped,
    /// Taken when the wait begins.
    pub(super) signals: Mutex<Option<Signals>>,
    pub(super) drain: Arc<Drain>,
    pub(super) in_flight: Arc<InFlight>,
    /// Time for which calls are still served once readiness is withdrawn.
    pub(super) delay: Duration,
    /// Time for which calls in flight may go on after that.
    pub(super) patience: Duration,
    /// Becomes true once another process takes over.
    pub(super) taken: watch::Receiver<bool>,
    /// Time for which calls in flight may go on then.
    pub(super) takeover_patience: Duration,
    /// Becomes true once the admin port has answered its last request.
    pub(super) admin_ended: watch::Receiver<bool>,
}

/// The cause of a stop.
enum Reason {
    Signal(&'static str),
    Switch,
    TakenOver,
}

#[async_trait]
impl ShutdownSignalWatch for Draining {
    /// Resolves when nothing is in flight any more, so that Pingora can end at once.
    async fn recv(&self) -> ShutdownSignal {
        let signals = self.signals.lock().take();
        let mut signals = match signals {
            Some(signals) => signals,
            // Pingora waits once.
            None => pending().await,
        };
        let reason = tokio::select! {
            name = signals.next() => Reason::Signal(name),
            () = turned(&self.stopped.0) => Reason::Switch,
            () = turned(&self.taken) => Reason::TakenOver,
        };
        notify::report(notify::STOPPING);
        tokio::select! {
            () = self.leave(&reason) => {}
            again = signals.next() => warn!(signal = again, "second signal: stopping now"),
        }
        self.drain.enter(Phase::EndingCalls);
        if timeout(LAST_WORDS, self.in_flight.idle()).await.is_err() {
            warn!("calls in flight are cut off without a last word");
        }
        self.drain.close();
        if timeout(LAST_ANSWERS, turned(&self.admin_ended)).await.is_err() {
            warn!("an admin request is cut off");
        }
        ShutdownSignal::GracefulTerminate
    }
}

impl Draining {
    /// Serves for a while, then refuses until no call is left or patience ends.
    async fn refuse_after(&self, delay: Duration) {
        self.drain.enter(Phase::Leaving);
        self.serve_late(delay).await;
        self.drain.enter(Phase::Refusing);
        if timeout(self.patience, self.in_flight.idle()).await.is_err() {
            let count = self.in_flight.count();
            warn!(count, "calls in flight are cut off: `proxy.drain_timeout_secs` has passed");
        }
    }

    /// Serves until the delay has passed, or until nothing was asked for a while and nothing is in flight.
    async fn serve_late(&self, delay: Duration) {
        let end = Instant::now() + delay;
        let mut last = (self.drain.late_requests(), Instant::now());
        while Instant::now() < end {
            sleep(LOOK_AGAIN.min(end - Instant::now())).await;
            let seen = self.drain.late_requests();
            if seen != last.0 || self.in_flight.count() > 0 {
                last = (seen, Instant::now());
            } else if last.1.elapsed() >= QUIET {
                return;
            }
        }
    }

    async fn leave(&self, reason: &Reason) {
        match reason {
            Reason::Signal(name @ ("SIGTERM" | "SIGQUIT")) => {
                info!(signal = name, "draining: not ready any more");
                self.refuse_after(self.delay).await;
            }
            // At a terminal or in a test no balancer has to turn away first.
            Reason::Signal(name) => {
                info!(signal = name, "stopping");
                self.refuse_after(Duration::ZERO).await;
            }
            Reason::Switch => {
                info!("stopping");
                self.refuse_after(Duration::ZERO).await;
            }
            Reason::TakenOver => self.hand_over().await,
        }
    }

    /// Ends streams at once and calls soon. Nothing is refused: no new connection is accepted, and a
    /// request on a connection that is still open is served.
    async fn hand_over(&self) {
        self.drain.enter(Phase::Leaving);
        self.drain.close();
        sleep(LAST_REQUESTS).await;
        self.drain.end_streams();
        if timeout(self.takeover_patience, self.in_flight.idle()).await.is_err() {
            let count = self.in_flight.count();
            warn!(count, "calls in flight are cut off: `proxy.takeover_wait_secs` has passed");
        }
    }
}

/// Resolves once the value is true, and never if its sender is gone.
async fn turned(receiver: &watch::Receiver<bool>) {
    if receiver.clone().wait_for(|turned| *turned).await.is_err() {
        pending::<()>().await;
    }
}
