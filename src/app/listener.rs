//! The admin API as a service of Pingora, on a socket bound beforehand and a thread of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::serve::Listener;
use parking_lot::Mutex;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, error};

use super::connection::Connections;
use crate::admin::Peer;
use crate::telemetry::Causes;

/// Handshakes that go on at once; more wait for their turn.
const MAX_HANDSHAKES: usize = 64;
/// Time that a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

pub(super) struct AdminService {
    parts: Mutex<Option<(Router, TcpListener)>>,
    tls: Option<Arc<ServerConfig>>,
    closed: ShutdownWatch,
    ended: watch::Sender<bool>,
}

impl AdminService {
    /// `listener` must be non-blocking; it is closed when `closed` becomes true.
    pub(super) fn new(
        router: Router,
        listener: TcpListener,
        tls: Option<Arc<ServerConfig>>,
        closed: ShutdownWatch,
    ) -> Self {
        let ended = watch::Sender::new(false);
        Self { parts: Mutex::new(Some((router, listener))), tls, closed, ended }
    }

    /// A receiver that becomes true once the last request is answered.
    pub(super) fn when_ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }
}

#[async_trait]
impl Service for AdminService {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _process_ends: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        let parts = self.parts.lock().take();
        let Some((router, listener)) = parts else { return };
        let mut closed = self.closed.clone();
        let stop = async move {
            // A sender that is gone means the same.
            let _closed = closed.wait_for(|closed| *closed).await;
        };
        let served = async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let service = router.into_make_service_with_connect_info::<Peer>();
            let closed = self.closed.clone();
            if let Some(tls) = self.tls.clone() {
                let listener = Connections::new(TlsListener::start(listener, tls), closed);
                axum::serve(listener, service).with_graceful_shutdown(stop).await
            } else {
                let listener = Connections::new(listener, closed);
                axum::serve(listener, service).with_graceful_shutdown(stop).await
            }
        };
        if let Err(error) = served.await {
            error!(error = %Causes(&error), "the admin API ended");
        }
        self.ended.send_replace(true);
    }

    fn name(&self) -> &'static str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// Connections whose handshake is done. Handshakes run concurrently, so that a slow one keeps
/// nobody waiting.
struct TlsListener {
    ready: mpsc::Receiver<Accepted>,
    address: io::Result<SocketAddr>,
}

impl TlsListener {
    fn start(listener: tokio::net::TcpListener, tls: Arc<ServerConfig>) -> Self {
        let address = listener.local_addr();
        let (sender, ready) = mpsc::channel(MAX_HANDSHAKES);
        tokio::spawn(shake_hands(listener, TlsAcceptor::from(tls), sender));
        Self { ready, address }
    }
}

async fn shake_hands(
    mut listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<Accepted>,
) {
    let turns = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        // Closed never; and without a turn no connection is taken.
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let (stream, peer) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = ready.closed() => return,
        };
        tokio::spawn(shake_hand(acceptor.clone(), stream, peer, ready.clone(), turn));
    }
}

async fn shake_hand(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    ready: mpsc::Sender<Accepted>,
    _turn: OwnedSemaphorePermit,
) {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            // Nobody takes it only when the service has ended.
            let _ended = ready.send((stream, peer)).await;
        }
        Ok(Err(error)) => debug!(%peer, error = %Causes(&error), "TLS handshake failed"),
        Err(_elapsed) => debug!(%peer, "TLS handshake took too long"),
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The task that accepts has ended, so no connection will come.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}
