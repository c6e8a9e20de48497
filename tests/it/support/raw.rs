//! HTTP byte by byte: what no client library would send, and what came back.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::harness::{Answer, Gateway, PATIENCE};

/// One connection.
pub(crate) struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A peer that has closed already shows it by its answer, or by none.
        let _closed = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Says that nothing more comes, as a client does that has sent everything.
    pub(crate) async fn finish(&mut self) {
        // As above.
        let _closed = self.stream.shutdown().await;
    }

    /// Waits for more; false at the end of the connection.
    async fn more(&mut self) -> bool {
        let mut some = vec![0; 16 * 1024];
        let got = tokio::time::timeout(PATIENCE, self.stream.read(some.as_mut_slice())).await;
        // A connection that is reset has ended too.
        let got = got.expect("the other side neither writes nor closes").unwrap_or(0);
        self.read.extend_from_slice(&some[..got]);
        got > 0
    }

    /// Reads until `mark` has come; gives all up to its end.
    pub(crate) async fn until(&mut self, mark: &str) -> Option<Vec<u8>> {
        loop {
            let at = self.read.windows(mark.len()).position(|w| w == mark.as_bytes());
            if let Some(at) = at {
                return Some(self.read.drain(..at + mark.len()).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(self.read.drain(..length).collect())
    }

    /// Reads up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.read)
    }

    /// The head of the next message: its first line and its headers.
    pub(crate) async fn head(&mut self) -> Option<(String, HeaderMap)> {
        let head = String::from_utf8(self.until("\r\n\r\n").await?).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let first = lines.next().unwrap().to_owned();
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value.trim()).unwrap());
        }
        Some((first, headers))
    }

    /// The next answer; none if the connection ends before it is complete.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let (first, headers) = self.head().await?;
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let body = self.body(&headers).await?;
        Some(Answer { status, headers, body: Bytes::from(body) })
    }

    /// The body that follows a head with these headers.
    pub(crate) async fn body(&mut self, headers: &HeaderMap) -> Option<Vec<u8>> {
        if let Some(length) = headers.get("content-length") {
            return self.exactly(length.to_str().unwrap().parse().unwrap()).await;
        }
        if !headers.contains_key("transfer-encoding") {
            return Some(Vec::new());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        Some(body)
    }

    /// The next chunk; an inner none at the last one, whose trailers are left out.
    pub(crate) async fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let size = String::from_utf8(self.until("\r\n").await?).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            while self.until("\r\n").await? != b"\r\n" {}
            return Some(None);
        }
        let mut chunk = self.exactly(size + 2).await?;
        chunk.truncate(size);
        Some(Some(chunk))
    }
}

/// The head and body of a request as a good client would write it.
pub(crate) fn request(gateway: &Gateway, session: &str, body: &str) -> String {
    request_with(gateway, session, &[], body)
}

/// Builds a request with more headers, or with others in place of those with an equal name; `-` as
/// the value leaves a header out.
pub(crate) fn request_with(
    gateway: &Gateway,
    session: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> String {
    let token = format!("Bearer {}", gateway.agent.token);
    let length = body.len().to_string();
    let usual = [
        ("Host", gateway.proxy.as_str()),
        ("Authorization", &token),
        ("x-agent-id", &gateway.agent.id),
        ("x-arbiter-session", session),
        ("Content-Type", "application/json"),
        ("Content-Length", &length),
    ];
    let replaced = |name: &str| headers.iter().any(|(other, _)| name.eq_ignore_ascii_case(other));
    let kept = usual.into_iter().filter(|(name, _)| !replaced(name));
    let given = headers.iter().copied().filter(|(_, value)| *value != "-");
    let lines: Vec<_> = kept.chain(given).map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    format!("POST / HTTP/1.1\r\n{}\r\n{body}", lines.concat())
}

/// An upstream that answers every request, whatever it is, with the same bytes and then closes.
pub(crate) async fn upstream_that_says(bytes: impl Into<Vec<u8>>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bytes: Vec<u8> = bytes.into();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut raw = Raw::over(stream);
                let Some((_, headers)) = raw.head().await else { return };
                raw.body(&headers).await;
                raw.send(&bytes).await;
                raw.finish().await;
                raw.rest().await;
            });
        }
    });
    address
}
