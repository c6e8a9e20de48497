//! Pingora services on listeners that are already bound.
//!
//! Binding first means that a taken port is an error at start, that port 0 works, and that the
//! addresses are known before anything serves. The descriptors go through Pingora's table, which
//! hands them to the next process at an upgrade.

use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::listeners::ListenerConfig;
use pingora::listeners::tls::TlsSettings;
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening;

/// Bytes read ahead on each connection over TLS, whose records come in small reads; larger ones, as
/// those of bodies, go past this buffer. Pingora's default of 64 KiB would be most of what an idle
/// stream holds. Plain connections read ahead nothing: heads and bodies have buffers of their own.
const TLS_READ_BUFFER: usize = 8 * 1024;

/// A listening service whose socket was bound beforehand, under a key of its own.
pub struct PreBound<A> {
    inner: listening::Service<A>,
    key: String,
    listener: Mutex<Option<TcpListener>>,
    closed: ShutdownWatch,
}

impl<A: ServerApp + Send + Sync + 'static> PreBound<A> {
    /// `listener` must be non-blocking; it is closed when `closed` becomes true.
    pub fn new(
        name: &str,
        app: A,
        listener: TcpListener,
        tls: Option<TlsSettings>,
        closed: ShutdownWatch,
    ) -> Self {
        let mut inner = listening::Service::new(name.to_owned(), app);
        let reading =
            |bytes| ListenerConfig::tcp(name).l4_buffer(L4BufferSettings::default().read(bytes));
        inner.add_listener(match tls {
            None => reading(0),
            Some(tls) => reading(TLS_READ_BUFFER).tls(tls),
        });
        Self { inner, key: name.to_owned(), listener: Mutex::new(Some(listener)), closed }
    }

    /// Sets how many threads serve it.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.inner.threads = Some(threads);
        self
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Service for PreBound<A> {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        _process_ends: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(table), Some(listener)) = (&fds, listener) {
            let mut table = table.lock();
            if table.get(&self.key).is_none() {
                table.add(self.key.clone(), listener.into_raw_fd());
            }
        }
        let closed = self.closed.clone();
        Service::start_service(&mut self.inner, fds, closed, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        &self.key
    }

    fn threads(&self) -> Option<usize> {
        self.inner.threads
    }
}
