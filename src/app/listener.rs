//! The admin API as a service of Pingora, on a socket bound beforehand and a thread of its own.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use axum::Router;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use tokio::sync::watch;
use tracing::error;

pub(super) struct AdminService {
    parts: Mutex<Option<(Router, TcpListener)>>,
    closed: ShutdownWatch,
    ended: watch::Sender<bool>,
}

impl AdminService {
    /// `listener` must be non-blocking; it is closed when `closed` becomes true.
    pub(super) fn new(router: Router, listener: TcpListener, closed: ShutdownWatch) -> Self {
        let ended = watch::Sender::new(false);
        Self { parts: Mutex::new(Some((router, listener))), closed, ended }
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
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((router, listener)) = parts else { return };
        let mut closed = self.closed.clone();
        let served = async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, service)
                .with_graceful_shutdown(async move {
                    // A sender that is gone means the same.
                    let _closed = closed.wait_for(|closed| *closed).await;
                })
                .await
        };
        if let Err(error) = served.await {
            error!(%error, "the admin API ended");
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
