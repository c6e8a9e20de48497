//! Connections to upstreams of plain HTTP/1.1 that send a request's head and body with one write.
//!
//! Pingora flushes the head before it writes the body. Here the body is always in memory by then, so the
//! head waits in the connection for it: one system call and one segment less for each request, here and
//! in the upstream. A head never waits for long: the second flush sends it, as does the second look for
//! an answer.
//!
//! Kept connections wait here, too ([`kept`]): Pingora's pool starts a task for each that waits, wakes it
//! for each request, and asks the system each time who is at the other end.
//!
//! Pingora takes a stream of one's own only from a connector for custom protocols, and makes a proxy with
//! such a connector only as part of a service.

mod kept;

use std::io::{self, IoSlice};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use pingora::connectors::http::custom::{Connection, Connector};
use pingora::http::ResponseHeader;
use pingora::protocols::l4::stream::Stream as TcpConnection;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::CustomALPN;
use pingora::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest,
    Ssl, TimingDigest, UniqueID, UniqueIDType,
};
use pingora::proxy::{HttpProxy, ProxyServiceBuilder};
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::Peer;
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::Gateway;
use crate::saturate::SaturatingFrom as _;
use kept::Kept;

/// Time for a connection to be made where the peer sets none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects to upstreams; see the module.
pub struct Wire(Arc<Kept>);

/// The proxy port's service behind Pingora's proxy.
pub type Proxy = HttpProxy<Gateway, Wire>;

/// Puts a gateway behind Pingora's proxy. At most `most` connections are kept, watched on `runtime`.
#[expect(unsafe_code, reason = "Pingora gives such a proxy away only inside a service")]
pub fn proxy(
    conf: &Arc<ServerConf>,
    gateway: Gateway,
    most: usize,
    runtime: &Handle,
) -> Option<Proxy> {
    let kept = Kept::new(most);
    runtime.spawn(kept.clone().watch());
    let nobody = Arc::new(|_proxy, _stream, _shutdown: &_| async { None }.boxed());
    let service = ProxyServiceBuilder::new(conf, gateway).custom(Wire(kept), nobody).build();
    let mut service = ManuallyDrop::new(service);
    let proxy = ptr::from_mut(service.app_logic_mut()?);
    // SAFETY: the reference is to a valid value, and the service, which is neither used nor dropped after
    // this, does not drop that value a second time.
    Some(unsafe { proxy.read() })
}

/// Name of the protocol that brings a peer here; it is never sent.
pub(super) fn protocol() -> ALPN {
    static NAME: LazyLock<ALPN> =
        LazyLock::new(|| ALPN::Custom(CustomALPN::new(b"one-write".to_vec())));
    NAME.clone()
}

#[async_trait]
impl Connector for Wire {
    type Session = ();

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Connection<()>, bool)> {
        let Some(address) = peer.address().as_inet() else {
            return Error::e_explain(ErrorType::ConnectError, "not an internet address");
        };
        let key = peer.reuse_hash();
        if let Some(line) = self.0.take(key) {
            return Ok((Connection::Stream(Box::new(OneWrite { line: Some(line) })), false));
        }
        let patience = peer.connection_timeout().unwrap_or(CONNECT_TIMEOUT);
        let connected = match timeout(patience, TcpStream::connect(address)).await {
            Ok(connected) => connected.and_then(|c| c.set_nodelay(true).map(|()| c)),
            Err(late) => {
                return Error::e_because(
                    ErrorType::ConnectTimedout,
                    "connecting to the server",
                    late,
                );
            }
        };
        let connection = connected
            .map_err(|e| Error::because(kind(&e), "connecting to the server", e).into_up())?;
        let mut connection = TcpConnection::from(connection);
        let digest = SocketDigest::from_raw_fd(connection.as_raw_fd());
        // The digest is new, so nobody has set its address.
        let _set = digest.peer_addr.set(Some(peer.address().clone()));
        connection.set_socket_digest(digest);
        let idle = peer.idle_timeout().unwrap_or(CONNECT_TIMEOUT);
        let line = Box::new(Line::new(connection, key, idle, Arc::downgrade(&self.0))?);
        Ok((Connection::Stream(Box::new(OneWrite { line: Some(line) })), false))
    }

    /// Finds nothing: there are no sessions of another protocol.
    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, _peer: &P) -> Option<()> {
        None
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        _session: (),
        _peer: &P,
        _idle_timeout: Option<Duration>,
    ) {
    }
}

fn kind(error: &io::Error) -> ErrorType {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            ErrorType::ConnectNoRoute
        }
        _ => ErrorType::ConnectError,
    }
}

/// Course of a connection and of the request on it.
#[derive(Debug, Default)]
struct Course {
    /// Bytes that have left through the connection.
    sent: AtomicU64,
    /// True once the whole answer has come.
    answered: AtomicBool,
    /// True if a request before this one was answered on it.
    reused: AtomicBool,
}

/// Knowledge of one attempt: its connection, and how much had left through it before.
#[derive(Debug)]
pub(super) struct Attempt {
    course: Arc<Course>,
    before: u64,
}

impl Attempt {
    /// Begins to watch the connection that an attempt is made on; none if it cannot be watched.
    pub(super) fn on(digest: Option<&Digest>) -> Option<Self> {
        let digest = digest?.proxy_digest.as_ref()?;
        let course = digest.user_data.as_ref()?.downcast_ref::<Arc<Course>>()?.clone();
        let before = course.sent.load(Ordering::Relaxed);
        Some(Self { course, before })
    }

    /// Reports whether nothing at all has left for the upstream.
    pub(super) fn nothing_sent(&self) -> bool {
        self.course.sent.load(Ordering::Relaxed) == self.before
    }

    /// Reports whether the connection had been kept from an earlier request.
    pub(super) fn on_kept(&self) -> bool {
        self.course.reused.load(Ordering::Relaxed)
    }

    /// Notes that the whole answer has come.
    pub(super) fn answered(&self) {
        self.course.answered.store(true, Ordering::Relaxed);
    }
}

/// A connection whose requests leave with one write; kept for the next when Pingora has no more use for it.
#[derive(Debug)]
struct OneWrite {
    /// Taken when this is dropped.
    line: Option<Box<Line>>,
}

/// One connection.
#[derive(Debug)]
struct Line {
    connection: TcpConnection,
    /// A head that waits, or what is left of it.
    held: Vec<u8>,
    /// Number of its bytes that have left.
    gone: usize,
    waits: Waits,
    /// True from a request's head to the first byte of its answer.
    begun: bool,
    /// Set when Pingora has found that another request may follow.
    free: bool,
    course: Arc<Course>,
    digest: Arc<ProxyDigest>,
    key: u64,
    idle: Duration,
    kept: Weak<Kept>,
}

/// Events for which a head still waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Waits {
    /// For the first flush.
    flush: bool,
    /// For the first look for an answer.
    look: bool,
}

impl Line {
    fn new(connection: TcpConnection, key: u64, idle: Duration, kept: Weak<Kept>) -> Result<Self> {
        let course = Arc::<Course>::default();
        // The one digest of a connection that takes data of another's.
        let answer = Box::new(ResponseHeader::build(200, Some(0))?);
        let digest = ProxyDigest::new(answer, Some(Box::new(course.clone())));
        Ok(Self {
            connection,
            held: Vec::new(),
            gone: 0,
            waits: Waits::default(),
            begun: false,
            free: false,
            course,
            digest: Arc::new(digest),
            key,
            idle,
            kept,
        })
    }

    /// Reports whether nothing has come on it since its last answer: neither an end nor a byte.
    fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.connection).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        read.is_pending()
    }

    /// Writes what is held and then `data`; returns how much of `data` was written.
    fn poll_both(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.waits = Waits::default();
        loop {
            let held = self.held.get(self.gone..).unwrap_or_default();
            let written = if held.is_empty() {
                if data.is_empty() {
                    return Poll::Ready(Ok(0));
                }
                Pin::new(&mut self.connection).poll_write(cx, data)
            } else {
                let both = [IoSlice::new(held), IoSlice::new(data)];
                Pin::new(&mut self.connection).poll_write_vectored(cx, &both)
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.course.sent.fetch_add(u64::saturating_from(written), Ordering::Relaxed);
            let of_data = written.saturating_sub(held.len());
            if written < held.len() {
                self.gone = self.gone.saturating_add(written);
                continue;
            }
            self.held.clear();
            self.gone = 0;
            if of_data > 0 || data.is_empty() {
                return Poll::Ready(Ok(of_data));
            }
        }
    }
}

impl OneWrite {
    #[expect(clippy::expect_used, reason = "`line` is taken only by drop")]
    fn line(&self) -> &Line {
        self.line.as_deref().expect("the line is here until drop")
    }

    #[expect(clippy::expect_used, reason = "`line` is taken only by drop")]
    fn line_mut(&mut self) -> &mut Line {
        self.line.as_deref_mut().expect("the line is here until drop")
    }
}

impl Drop for OneWrite {
    fn drop(&mut self) {
        if let Some(line) = self.line.take_if(|line| line.free) {
            Kept::put(line);
        }
    }
}

impl AsyncRead for OneWrite {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = self.line_mut();
        if line.waits.look {
            line.waits.look = false;
        } else if !line.held.is_empty() {
            // Reading goes on meanwhile.
            if let Poll::Ready(Err(error)) = line.poll_both(cx, &[]) {
                return Poll::Ready(Err(error));
            }
        }
        let before = buf.filled().len();
        // After the whole answer Pingora asks for one byte more, to see if the connection can be kept.
        let last_look = line.course.answered.load(Ordering::Relaxed) && buf.remaining() == 1;
        let read = Pin::new(&mut line.connection).poll_read(cx, buf);
        if last_look && read.is_pending() && line.held.is_empty() {
            // It can, and it is kept here: Pingora takes this for its end and lets go of it.
            line.free = true;
            return Poll::Ready(Ok(()));
        }
        ready!(read)?;
        if buf.filled().len() > before {
            line.begun = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for OneWrite {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let line = self.line_mut();
        if line.begun || !line.held.is_empty() {
            return line.poll_both(cx, data);
        }
        line.begun = true;
        line.waits = Waits { flush: true, look: true };
        line.held.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = self.line_mut();
        if line.waits.flush {
            line.waits.flush = false;
            return Poll::Ready(Ok(()));
        }
        ready!(line.poll_both(cx, &[]))?;
        Pin::new(&mut line.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line_mut().connection).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for OneWrite {
    async fn shutdown(&mut self) {
        // A connection that is gone is shut down already.
        let _gone = AsyncWriteExt::shutdown(&mut self.line_mut().connection).await;
    }
}

impl UniqueID for OneWrite {
    fn id(&self) -> UniqueIDType {
        self.line().connection.id()
    }
}

impl Ssl for OneWrite {}

impl GetTimingDigest for OneWrite {
    /// Returns nothing: nobody asks, and each request would make a list of it.
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for OneWrite {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.line().digest.clone())
    }
}

impl GetSocketDigest for OneWrite {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.line().connection.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.line_mut().connection.set_socket_digest(digest);
    }
}

#[async_trait]
impl Peek for OneWrite {}

#[cfg(test)]
mod tests;
