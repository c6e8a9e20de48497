//! Stopping: by signal or by a switch, with grace for the calls in flight.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::gate::Gate;

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

/// Waits for a reason to stop, then for the calls in flight.
pub(super) struct Draining {
    pub(super) stopped: Stopped,
    pub(super) gate: Arc<Gate>,
    pub(super) grace: Duration,
}

#[async_trait]
impl ShutdownSignalWatch for Draining {
    /// Resolves when nothing is in flight any more, so that Pingora can end at once. New calls are
    /// refused meanwhile and readiness is withdrawn, so the wait ends.
    async fn recv(&self) -> ShutdownSignal {
        self.reason().await;
        self.gate.drain();
        let idle = self.gate.idle();
        if tokio::time::timeout(self.grace, idle).await.is_err() {
            warn!(grace_secs = self.grace.as_secs(), "calls in flight are cut off");
        }
        ShutdownSignal::GracefulTerminate
    }
}

impl Draining {
    async fn reason(&self) {
        let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            warn!("signals cannot be watched: only the switch stops the gateway");
            self.switched().await;
            return;
        };
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping"),
            _ = interrupt.recv() => info!("SIGINT: stopping"),
            () = self.switched() => info!("stopping"),
        }
    }

    async fn switched(&self) {
        let mut receiver = self.stopped.0.clone();
        if receiver.wait_for(|stop| *stop).await.is_err() {
            // The switch is gone: only a signal can stop the gateway now.
            std::future::pending::<()>().await;
        }
    }
}
