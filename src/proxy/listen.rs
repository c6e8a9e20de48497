//! The proxy's listener: accepts connections on a socket that is already bound.
//!
//! Binding first means that a taken port is an error at start, that port 0 works, and that the
//! addresses are known before anything serves. Accepting here, and not in Pingora, means that a
//! connection has a place before its TLS handshake begins, that the handshake has a deadline and its
//! failures are counted, and that a lack of descriptors is logged.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::apps::ServerApp;
use pingora::listeners::tls::{Acceptor, TlsSettings};
use pingora::protocols::l4::stream::Stream as TcpConnection;
use pingora::protocols::{GetSocketDigest, SocketDigest, Stream};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use super::buffered::Buffered;
use super::guard::SEAT;
use super::seats::{Seats, Taken};
use crate::clock::Clock;
use crate::metrics::{Closed, Metrics};

/// Time that a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time for which accepting rests after it has failed, as it does without descriptors.
const REST: Duration = Duration::from_millis(100);

/// A listening service whose socket was bound beforehand.
pub struct PreBound<A> {
    app: Arc<A>,
    name: String,
    listener: Mutex<Option<TcpListener>>,
    tls: Option<TlsSettings>,
    door: Door,
    threads: Option<usize>,
    closed: ShutdownWatch,
}

/// Checks that new connections pass.
#[derive(Clone)]
pub struct Door {
    pub seats: Arc<Seats>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
}

impl<A: ServerApp + Send + Sync + 'static> PreBound<A> {
    /// `listener` must be non-blocking; it is closed when `closed` becomes true.
    pub fn new(
        name: &str,
        app: A,
        listener: TcpListener,
        tls: Option<TlsSettings>,
        door: Door,
        closed: ShutdownWatch,
    ) -> Self {
        Self {
            app: Arc::new(app),
            name: name.to_owned(),
            listener: Mutex::new(Some(listener)),
            tls,
            door,
            threads: None,
            closed,
        }
    }

    /// Sets how many threads serve it.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Accepts until the listener is to be closed.
    async fn accept(
        &self,
        listener: &tokio::net::TcpListener,
        tls: Option<Arc<Acceptor>>,
        mut closed: ShutdownWatch,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // A sender that is gone means that the process ends.
                _closed = closed.wait_for(|closed| *closed) => return,
            };
            let (connection, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.door.metrics.connection_closed(Closed::NotAccepted);
                    warn!(%error, "a connection could not be accepted");
                    sleep(REST).await;
                    continue;
                }
            };
            let Some(taken) = self.door.seats.take(peer.ip(), self.door.clock.mono()) else {
                continue;
            };
            // Heads and events are small writes, which must not wait for one another.
            if connection.set_nodelay(true).is_err() {
                continue;
            }
            let mut stream = TcpConnection::from(connection);
            let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
            // The digest is new, so nobody has set its address.
            let _set = digest.peer_addr.set(Some(peer.into()));
            stream.set_socket_digest(digest);
            let served = Self::serve(
                self.app.clone(),
                stream,
                tls.clone(),
                self.door.clone(),
                taken,
                closed.clone(),
            );
            // Joined by nobody: it ends with its connection.
            tokio::spawn(served);
        }
    }

    async fn serve(
        app: Arc<A>,
        connection: TcpConnection,
        tls: Option<Arc<Acceptor>>,
        door: Door,
        taken: Taken,
        shutdown: ShutdownWatch,
    ) {
        let connection = Buffered::new(connection);
        let stream: Stream = match tls {
            None => Box::new(connection),
            Some(tls) => {
                let handshake = timeout(HANDSHAKE, tls.tls_handshake(connection));
                let encrypted = tokio::select! {
                    encrypted = handshake => encrypted,
                    () = taken.seat().wanted() => return,
                };
                let Ok(Ok(encrypted)) = encrypted else {
                    door.metrics.connection_closed(Closed::Handshake);
                    return;
                };
                Box::new(encrypted)
            }
        };
        let seat = taken.seat().clone();
        let mut next = Some(stream);
        while let Some(stream) = next {
            next = SEAT.scope(seat.clone(), app.process_new(stream, &shutdown)).await;
        }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Service for PreBound<A> {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _process_ends: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        let listener = self.listener.lock().take();
        let Some(listener) = listener else { return };
        let tls = self.tls.take().map(|settings| Arc::new(settings.build()));
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                self.accept(&listener, tls, self.closed.clone()).await;
                // Closed before idle connections are, so that none comes in between.
                drop(listener);
                self.app.cleanup().await;
            }
            Err(error) => error!(%error, name = self.name, "cannot listen"),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        self.threads
    }
}
