//! Connections that close when the gateway leaves, not only when the process ends.
//!
//! Pingora has one signal for all: listeners close, kept connections close, and the process ends. A
//! gateway that drains needs them apart: it goes on accepting, so that a call in between is answered
//! and not lost, while connections are given up one by one (HTTP/1.1 after the answer, HTTP/2 by
//! `GOAWAY`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;

/// Time for which connections without a request are kept after no new ones are accepted: a client
/// that sends one after the other ends on an answer that says so.
pub const LAST_REQUESTS: Duration = Duration::from_millis(250);

/// An application whose connections watch a signal of their own.
pub struct Leaving<A> {
    pub inner: Arc<A>,
    /// Becomes true once connections should not be kept.
    pub leaving: ShutdownWatch,
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for Leaving<A> {
    async fn process_new(
        self: &Arc<Self>,
        session: Stream,
        _process_ends: &ShutdownWatch,
    ) -> Option<Stream> {
        self.inner.process_new(session, &self.leaving).await
    }

    /// Closes the connections that are idle, once no new ones are accepted.
    async fn cleanup(&self) {
        tokio::time::sleep(LAST_REQUESTS).await;
        self.inner.cleanup().await;
    }
}
