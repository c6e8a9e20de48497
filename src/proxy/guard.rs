//! Connections of agents, from their first byte to their last answer.
//!
//! Pingora serves requests; when a connection may wait, for how long, and what becomes of a head that
//! is no request is decided here. An HTTP/1.1 head is read whole and judged as it was sent before
//! Pingora sees it ([`super::head`]), so that a refused one is answered, counted and recorded like
//! every other request. The library has read the heads of HTTP/2; a stream that it resets by itself is
//! counted.

use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{self as h2, H2Accept, HttpSession};
use pingora::protocols::{ALPN, Digest, Stream};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::head::{Arrival, Scan};
use super::head_rules::HeadSize;
use super::recorded;
use super::reply;
use super::seats::Seat;
use super::wire::Proxy;
use crate::config;
use crate::firewall::denial::{Code, Denial};
use crate::gate::{Carried, Gate, HeadParts, Refused};
use crate::metrics::Closed;
use crate::saturate::SaturatingFrom as _;

/// Time that a head may take from its first byte, or an HTTP/2 connection from its first frame.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Time for which an idle connection is kept longer than announced: a request that the client sent in time,
/// or by a clock that is a little slow, is answered.
const GRACE: Duration = Duration::from_secs(2);

/// Time that a client of HTTP/2 has to take note of a `GOAWAY`, and of one whose place is wanted.
const FAREWELL: Duration = Duration::from_secs(2);
const SHORT_FAREWELL: Duration = Duration::from_millis(100);

/// Bytes read for a head at a time: few are longer.
const FIRST_READ: usize = 4 * 1024;

/// Streams of one HTTP/2 connection that the library may refuse before the connection ends.
const MAX_REJECTED_STREAMS: usize = 32;

/// Bounds of reading after a refused head, so that the refusal can be received.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

tokio::task_local! {
    /// The place of the connection that this task serves.
    pub(super) static SEAT: Arc<Seat>;
}

/// The proxy behind its guard.
pub struct Guard {
    inner: Arc<Proxy>,
    gate: Arc<Gate>,
    size: HeadSize,
    first_byte: Duration,
    idle: Duration,
    max_requests: u32,
    /// Becomes true when idle connections have to end.
    closing: watch::Sender<bool>,
}

/// Outcome of waiting for a head.
enum Head {
    Whole,
    /// The connection ends without an answer.
    Gone(Option<Closed>),
    Refused(Box<Denial>),
}

impl Guard {
    pub fn new(inner: Proxy, gate: Arc<Gate>, settings: &config::Proxy) -> Self {
        Self {
            inner: Arc::new(inner),
            gate,
            size: HeadSize::of(settings),
            first_byte: Duration::from_secs(settings.first_byte_timeout_secs),
            idle: Duration::from_secs(settings.idle_connection_secs),
            max_requests: settings.max_requests_per_connection,
            closing: watch::Sender::new(false),
        }
    }

    async fn http1(&self, mut stream: Stream, shutdown: &ShutdownWatch, seat: &Seat) {
        let mut settings: Option<HttpPersistentSettings> = None;
        let mut closing = self.closing.subscribe();
        let mut wait = self.first_byte;
        // One timer for all heads: to put off one that is set costs next to nothing.
        let mut late = pin!(sleep(wait));
        let mut idle_until = None;
        let mut since = Instant::now();
        loop {
            if let Some(by) = since.checked_add(wait) {
                late.as_mut().reset(by);
            }
            let mut read = BytesMut::with_capacity(FIRST_READ);
            let silent = if settings.is_none() { Closed::Silent } else { Closed::Idle };
            match self.head(&mut stream, &mut read, late.as_mut(), silent, seat, &mut closing).await
            {
                Head::Whole => seat.busy(),
                Head::Gone(why) => {
                    if let Some(why) = why {
                        self.gate.metrics().connection_closed(why);
                    }
                    return;
                }
                Head::Refused(denial) => return self.refuse_head(stream, &read, *denial).await,
            }
            // Later than announced: whatever comes next may meet the end of the connection.
            let is_last = idle_until.is_some_and(|until| Instant::now() >= until);
            let session = self.session(stream, (settings.take(), is_last), read, shutdown);
            let Some(reused) = self.inner.process_new_http(session, shutdown).await else { return };
            (stream, settings) = reused.consume();
            seat.idle(self.gate.mono());
            wait = self.idle.saturating_add(GRACE);
            since = Instant::now();
            idle_until = since.checked_add(self.idle);
        }
    }

    /// Makes the session of one request. Apart, so that its kilobytes are written where they go.
    #[inline(never)]
    fn session(
        &self,
        stream: Stream,
        (settings, is_last): (Option<HttpPersistentSettings>, bool),
        read: BytesMut,
        shutdown: &ShutdownWatch,
    ) -> ServerSession {
        let mut session = ServerSession::new_http1(stream);
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        } else {
            let left = self.max_requests.saturating_sub(1);
            session.set_keepalive_reuses_remaining(Some(left));
        }
        if is_last {
            session.set_keepalive_reuses_remaining(Some(0));
        }
        session.set_keepalive((!*shutdown.borrow()).then_some(self.idle.as_secs()));
        session.set_pipelined_prefix(read);
        session
    }

    /// Reads up to the end of a request's head; `late` ends the wait for its first byte.
    async fn head(
        &self,
        stream: &mut Stream,
        read: &mut BytesMut,
        mut late: Pin<&mut Sleep>,
        silent: Closed,
        seat: &Seat,
        closing: &mut watch::Receiver<bool>,
    ) -> Head {
        let mut scan = Scan::default();
        loop {
            let begun = !read.is_empty();
            let more = tokio::select! {
                biased;
                more = stream.read_buf(read) => more,
                () = late.as_mut() => {
                    return if begun { Head::Refused(Box::new(too_slow())) } else { Head::Gone(Some(silent)) };
                }
                // Counted where it was asked to leave.
                () = seat.wanted() => return Head::Gone(None),
                _closing = closing.wait_for(|closing| *closing), if !begun => return Head::Gone(None),
            };
            // A connection that is reset has ended too.
            if more.unwrap_or(0) == 0 {
                return Head::Gone(None);
            }
            match scan.look(read, self.size) {
                Arrival::Whole => return Head::Whole,
                Arrival::Refused(denial) => return Head::Refused(denial),
                Arrival::Partial => {}
            }
            if !begun && let Some(by) = Instant::now().checked_add(HEAD_DEADLINE) {
                late.as_mut().reset(by);
            }
            if read.capacity() == read.len() {
                read.reserve(read.len());
            }
        }
    }

    /// Puts the refusal of a head on record and writes it as the connection's last answer.
    async fn refuse_head(&self, mut stream: Stream, head: &[u8], denial: Denial) {
        let from = recorded::connection(stream.get_socket_digest().as_deref());
        let refused = self.refused(&from, denial).await;
        let answer = reply::last_answer(&refused, head.trim_ascii_start().starts_with(b"HEAD "));
        let written = timeout(LINGER, async {
            stream.write_all(&answer).await?;
            stream.flush().await?;
            stream.shutdown().await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            return;
        }
        // What is left unread would reset the connection, and the answer with it.
        let rest = async {
            let mut scrap = [0; FIRST_READ];
            let mut left = LINGER_BYTES;
            while left > 0 {
                match stream.read(&mut scrap).await {
                    Ok(0) | Err(_) => return,
                    Ok(more) => left = left.saturating_sub(more),
                }
            }
        };
        // However it ends, the connection does.
        let _late = timeout(LINGER, rest).await;
    }

    async fn refused(&self, from: &HeadParts<'_>, denial: Denial) -> Refused {
        match self.gate.receive(self.gate.head(from), &Carried::default()).await {
            Ok(arrived) => self.gate.refuse(arrived.denied(denial)).await,
            Err(refused) => refused,
        }
    }

    async fn http2(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch, seat: &Arc<Seat>) {
        let digest = Arc::new(Digest {
            ssl_digest: stream.get_ssl_digest(),
            timing_digest: stream.get_timing_digest(),
            proxy_digest: stream.get_proxy_digest(),
            socket_digest: stream.get_socket_digest(),
        });
        let mut options = h2::default_h2_options();
        // Beyond this the library answers by itself; up to it a head is refused like any other.
        let most = self.size.bytes.saturating_mul(2);
        options.max_header_list_size(u32::saturating_from(most));
        let greeted = timeout(self.first_byte, h2::handshake(stream, Some(options))).await;
        let Ok(Ok(mut connection)) = greeted else {
            let why = if greeted.is_err() { Closed::Silent } else { Closed::Broken };
            return self.gate.metrics().connection_closed(why);
        };
        let (mut shutdown, mut closing) = (shutdown.clone(), self.closing.subscribe());
        let streams = Arc::new(Streams::default());
        let (mut leaving, mut said_farewell) = (false, false);
        let mut rejected = 0;
        let mut left = self.max_requests;
        let mut idle_since = Instant::now();
        let mut patience = HEAD_DEADLINE;
        loop {
            let is_idle = streams.open.load(Ordering::Acquire) == 0;
            let next = tokio::select! {
                biased;
                _shutdown = shutdown.wait_for(|ends| *ends), if !leaving => {
                    connection.graceful_shutdown();
                    leaving = true;
                    continue;
                }
                next = HttpSession::from_h2_conn(&mut connection, digest.clone()) => next,
                () = streams.closed.notified() => {
                    if streams.open.load(Ordering::Acquire) == 0 {
                        idle_since = Instant::now();
                        seat.idle(self.gate.mono());
                    }
                    continue;
                }
                // A client that has not taken note of the farewell is left behind.
                () = after(idle_since, patience), if is_idle && said_farewell => return,
                () = after(idle_since, patience), if is_idle => {
                    self.gate.metrics().connection_closed(Closed::Idle);
                    connection.graceful_shutdown();
                    (leaving, said_farewell) = (true, true);
                    (idle_since, patience) = (Instant::now(), FAREWELL);
                    continue;
                }
                () = seat.wanted(), if is_idle => {
                    connection.graceful_shutdown();
                    (leaving, said_farewell) = (true, true);
                    (idle_since, patience) = (Instant::now(), SHORT_FAREWELL);
                    continue;
                }
                _closing = closing.wait_for(|closing| *closing), if is_idle => return,
            };
            match next {
                Ok(Some(H2Accept::Session(session))) => {
                    patience = if said_farewell { FAREWELL } else { self.idle };
                    seat.busy();
                    left = left.saturating_sub(1);
                    if left == 0 && !leaving {
                        connection.graceful_shutdown();
                        leaving = true;
                    }
                    let stream = streams.enter();
                    let (guard, shutdown) = (self.clone(), shutdown.clone());
                    // Joined by nobody: it ends with its stream, and so with this connection.
                    tokio::spawn(async move {
                        guard.stream(session, &shutdown).await;
                        drop(stream);
                    });
                }
                Ok(Some(H2Accept::Rejected)) => {
                    rejected += 1;
                    self.gate.metrics().connection_closed(Closed::StreamReset);
                    // The library has answered; the request is on record all the same.
                    let from = recorded::connection(digest.socket_digest.as_deref());
                    let _on_record = self.refused(&from, not_valid()).await;
                    if rejected >= MAX_REJECTED_STREAMS {
                        return;
                    }
                }
                Ok(None) => return,
                Err(_broken) => return self.gate.metrics().connection_closed(Closed::Broken),
            }
        }
    }

    /// Serves one request of HTTP/2.
    async fn stream(&self, session: HttpSession, shutdown: &ShutdownWatch) {
        let mut session = ServerSession::new_http2(session);
        if session.req_header().method != http::Method::CONNECT {
            // What is reused here is the connection, and that is not this stream's.
            let _no_other_request = self.inner.process_new_http(session, shutdown).await;
            return;
        }
        let denial = Denial::new(Code::MethodNotAllowed, "tunnels are not served here");
        let from = HeadParts {
            http_method: Some(http::Method::CONNECT.as_str()),
            ..recorded::connection(session.digest().and_then(|d| d.socket_digest.as_deref()))
        };
        let refused = self.refused(&from, denial).await;
        // A client that is gone needs no answer.
        let _gone = reply::on_stream(&mut session, &refused).await;
    }
}

#[async_trait]
impl ServerApp for Guard {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let seat = SEAT.with(Arc::clone);
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            self.http2(stream, shutdown, &seat).await;
        } else {
            self.http1(stream, shutdown, &seat).await;
        }
        None
    }

    /// Ends the connections that wait for a request.
    async fn cleanup(&self) {
        self.closing.send_replace(true);
        self.inner.http_cleanup().await;
    }
}

/// Resolves some time after an instant.
async fn after(since: Instant, patience: Duration) {
    match since.checked_add(patience) {
        Some(by) => sleep_until(by).await,
        None => pending().await,
    }
}

fn not_valid() -> Denial {
    let message = "the stream's authority, path or length is not valid (RFC 9113 section 8.1.1)";
    Denial::new(Code::MalformedRequest, message)
}

fn too_slow() -> Denial {
    let secs = HEAD_DEADLINE.as_secs();
    Denial::new(Code::RequestTooSlow, format!("the request's head did not arrive within {secs} s"))
}

/// The open streams of one HTTP/2 connection.
#[derive(Default)]
struct Streams {
    open: AtomicUsize,
    closed: Notify,
}

struct OpenStream(Arc<Streams>);

impl Streams {
    fn enter(self: &Arc<Self>) -> OpenStream {
        self.open.fetch_add(1, Ordering::AcqRel);
        OpenStream(self.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.closed.notify_one();
        }
    }
}
