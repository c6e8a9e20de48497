//! A deadline for the whole request head.
//!
//! Pingora limits each read of a head but not their sum, so a client that drips bytes could hold a
//! connection for ever. This wraps the proxy: a connection whose head has not arrived in time, the
//! first one or the next on a kept connection, is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;

use super::Gateway;

/// How long a head may take, from the connection's acceptance or the end of the last answer.
const HEAD_DEADLINE: Duration = Duration::from_secs(65);

tokio::task_local! {
    static HEAD_ARRIVED: Arc<AtomicBool>;
}

/// Notes that the head of the request on this task has arrived.
pub(super) fn head_arrived() {
    // Outside a guard, as in a unit test, there is no deadline to lift.
    let _outside = HEAD_ARRIVED.try_with(|arrived| arrived.store(true, Ordering::Release));
}

/// The proxy behind the deadline.
pub struct HeadGuard {
    pub inner: Arc<HttpProxy<Gateway>>,
}

#[async_trait]
impl HttpServerApp for HeadGuard {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let arrived = Arc::new(AtomicBool::new(false));
        let request =
            HEAD_ARRIVED.scope(arrived.clone(), self.inner.process_new_http(session, shutdown));
        let mut request = Box::pin(request);
        tokio::select! {
            biased;
            reused = &mut request => return reused,
            () = tokio::time::sleep(HEAD_DEADLINE) => {}
        }
        if arrived.load(Ordering::Acquire) { request.await } else { None }
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.inner.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.inner.server_options()
    }

    async fn http_cleanup(&self) {
        self.inner.http_cleanup().await;
    }
}
