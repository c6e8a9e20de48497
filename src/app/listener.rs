//! The admin API as one of Pingora's services: on a socket bound beforehand, on a thread of its own.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use axum::Router;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use tracing::error;

pub(super) struct AdminService {
    parts: Mutex<Option<(Router, TcpListener)>>,
}

impl AdminService {
    /// `listener` must be non-blocking.
    pub(super) fn new(router: Router, listener: TcpListener) -> Self {
        Self { parts: Mutex::new(Some((router, listener))) }
    }
}

#[async_trait]
impl Service for AdminService {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        mut shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((router, listener)) = parts else { return };
        let served = async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener, service)
                .with_graceful_shutdown(async move {
                    // A sender that is gone means the same.
                    let _stopping = shutdown.changed().await;
                })
                .await
        };
        if let Err(error) = served.await {
            error!(%error, "the admin API ended");
        }
    }

    fn name(&self) -> &'static str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}
