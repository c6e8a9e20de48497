//! One connection of the admin port: an answer to what the HTTP library could not read, and an end at
//! which no answer is lost.
//!
//! The library answers such a request by itself, before any code of a service runs: without a word of
//! explanation, and without the headers that every answer under `/console` has. The library writes nothing
//! else in the same turn, so its answer is recognised here and another one is written in its place.
//!
//! A connection that closes while its client still sends is reset, and the client may never see the
//! answer. So what still comes is read for a while, and dropped.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::StatusCode;
use axum::serve::{IncomingStream, Listener};
use bytes::{Buf as _, Bytes};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::admin::{ApiError, Code, Peer};
use crate::console;

/// Time for which a client has to stop sending once it is answered.
const LINGER: Duration = Duration::from_secs(2);

/// Connections that a listener accepts, as [`Connection`]s.
pub(super) struct Connections<L> {
    inner: L,
    closed: ShutdownWatch,
}

impl<L> Connections<L> {
    /// No connection lingers once `closed` is true.
    pub(super) fn new(inner: L, closed: ShutdownWatch) -> Self {
        Self { inner, closed }
    }
}

impl<L: Listener<Addr = SocketAddr, Io: Unpin>> Listener for Connections<L> {
    type Io = Connection<L::Io>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (io, peer) = self.inner.accept().await;
        let closed = self.closed.clone();
        (Connection { io, owed: Bytes::new(), closed, lingering: None }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

impl<L> axum::extract::connect_info::Connected<IncomingStream<'_, Connections<L>>> for Peer
where
    L: Listener<Addr = SocketAddr, Io: Unpin>,
{
    fn connect_info(stream: IncomingStream<'_, Connections<L>>) -> Self {
        Self(*stream.remote_addr())
    }
}

pub(super) struct Connection<Io> {
    io: Io,
    /// Rest of an answer that takes the place of the library's.
    owed: Bytes,
    closed: ShutdownWatch,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Connection<Io> {
    fn poll_owed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.owed.has_remaining() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.owed))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.owed.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and drops what comes until the client has ended too, or its time is up.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        // First, so that a client that never pauses is not read for ever.
        if *self.closed.borrow() || until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut room = [0; 8 * 1024];
        loop {
            let mut came = ReadBuf::new(&mut room);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut came));
            if read.is_err() || came.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Connection<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

/// Vectored writes are not offered: the library then writes a whole answer of its own at once.
impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_owed(cx))?;
        match Unread::of(bytes) {
            Some(unread) => {
                self.owed = unread.answer();
                Poll::Ready(Ok(bytes.len()))
            }
            None => Pin::new(&mut self.io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_owed(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(self.poll_owed(cx))?;
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        self.poll_rest(cx).map(Ok)
    }
}

/// Answer of the library to a request that it could not read.
#[derive(Debug, PartialEq, Eq)]
struct Unread<'b> {
    status: StatusCode,
    /// Its line with the date.
    date: &'b str,
}

impl<'b> Unread<'b> {
    /// Recognises such an answer: an error without a body, and no header but the library's three.
    fn of(bytes: &'b [u8]) -> Option<Self> {
        let lines = bytes.strip_prefix(b"HTTP/1.1 4")?.strip_suffix(b"\r\n\r\n")?;
        let mut lines = str::from_utf8(lines).ok()?.split("\r\n");
        let status = match lines.next()?.get(..2)? {
            "00" => StatusCode::BAD_REQUEST,
            "14" => StatusCode::URI_TOO_LONG,
            "31" => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => return None,
        };
        let mut date = "";
        let (mut ends, mut is_empty) = (false, false);
        for line in lines {
            match line {
                "connection: close" => ends = true,
                "content-length: 0" => is_empty = true,
                line if line.starts_with("date: ") => date = line,
                _ => return None,
            }
        }
        (ends && is_empty).then_some(Self { status, date })
    }

    fn answer(&self) -> Bytes {
        let error = match self.status {
            StatusCode::URI_TOO_LONG => {
                ApiError::new(Code::UriTooLong, "the path and query are over 65534 bytes")
            }
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                let message = "the head has over 100 headers or is too large to be read";
                ApiError::new(Code::HeadTooLarge, message)
            }
            _ => ApiError::new(Code::MalformedRequest, "this is not a request of HTTP/1.1"),
        };
        let mut text = format!("HTTP/1.1 {}\r\n", self.status);
        for line in [self.date, "connection: close", "content-type: application/json"] {
            if !line.is_empty() {
                text.extend([line, "\r\n"]);
            }
        }
        for (name, value) in console::HEADERS {
            text.extend([name.as_str(), ": ", value, "\r\n"]);
        }
        let body = error.text();
        let length = body.len().to_string();
        text.extend(["content-length: ", &length, "\r\n\r\n", &body]);
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_of_the_library_are_recognised() {
        let own = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
                   content-length: 0\r\ndate: Sun, 29 Nov 2026 13:20:01 GMT\r\n\r\n";
        let unread = Unread::of(own.as_bytes()).unwrap();
        assert_eq!(unread.status, 431);
        assert_eq!(unread.date, "date: Sun, 29 Nov 2026 13:20:01 GMT");
        let undated = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        assert_eq!(Unread::of(undated.as_bytes()).unwrap().date, "");
        for other in [
            own.replace(" 431 ", " 413 "),
            own.replace("/1.1", "/1.0"),
            own.replace("content-length: 0", "content-length: 1"),
            own.replace("connection: close\r\n", ""),
            own.replace("connection", "content-type: text/html\r\nconnection"),
            format!("{own}x"),
            format!("x{own}"),
            own.trim_end().to_owned(),
        ] {
            assert_eq!(Unread::of(other.as_bytes()), None, "{other}");
        }
    }
}
