//! Requests whose beginning or end two readers could see in different places. Whatever was sent
//! behind them on the same connection is never served.

use serde_json::json;

use super::still_serves;
use crate::support::harness::{Gateway, Setup};
use crate::support::raw::{Raw, request_with};

const BODY: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":{}}}"#;

/// One change of a good request.
const CHANGES: &[(&str, &str, &str)] = &[
    ("every line with a bare LF", "\r\n", "\n"),
    ("bare CR", "application/json\r\n", "application/json\r"),
    ("folded header", "Content-Type:", "X-A: 1\r\n\tb\r\nContent-Type:"),
    ("folded content type", "application/json", "application/json;\r\n charset=utf-8"),
    ("space before the colon", "Content-Type:", "Content-Type :"),
    ("space before the first header", "\r\nHost", "\r\n Host"),
    ("header without a name", "Content-Type:", ": a\r\nContent-Type:"),
    ("header without a colon", "Content-Type:", "nocolon\r\nContent-Type:"),
    ("header name with parentheses", "Content-Type:", "X(A): a\r\nContent-Type:"),
    ("header name beyond ASCII", "Content-Type:", "Xé: a\r\nContent-Type:"),
    ("NUL in a header", "Content-Type:", "X-A: a\0b\r\nContent-Type:"),
    ("CONNECT", "POST / ", "CONNECT localhost:80 "),
    ("no method", "POST ", ""),
    ("no target", "POST / ", "POST  "),
    ("tabs in the request line", "POST / ", "POST\t/\t"),
    ("HTTP/1.2", "HTTP/1.1", "HTTP/1.2"),
    ("HTTP/2.0", "HTTP/1.1", "HTTP/2.0"),
    ("HTTP/3", "HTTP/1.1", "HTTP/3"),
    ("HTTP/11", "HTTP/1.1", "HTTP/11"),
    ("http/1.1", "HTTP/1.1", "http/1.1"),
    ("two targets", "POST / ", "POST /a HTTP/1.1 "),
    ("a target on another host", "POST / ", "POST http://localhost/ "),
    ("two hosts", "Host:", "Host: a\r\nHost:"),
    ("user in the host", "Host: ", "Host: a@"),
    ("two lengths that differ", "Content-Length:", "Content-Length: 5\r\nContent-Length:"),
    ("length with a plus", "Content-Length: ", "Content-Length: +"),
    ("negative length", "Content-Length: ", "Content-Length: -"),
    ("hexadecimal length", "Content-Length: ", "Content-Length: 0x"),
    ("length beyond 64 bits", "Content-Length: ", "Content-Length: 99999999999999999999"),
    ("no length at all", "Content-Length: ", "Content-Length:\r\nX-A: "),
    ("length and coding", "Content-Length:", "Transfer-Encoding: chunked\r\nContent-Length:"),
    ("coding gzip", "Content-Length:", "Transfer-Encoding: gzip\r\nX-Length:"),
    ("coding gzip, chunked", "Content-Length:", "Transfer-Encoding: gzip, chunked\r\nX-Length:"),
    (
        "coding chunked, identity",
        "Content-Length:",
        "Transfer-Encoding: chunked, identity\r\nX-Length:",
    ),
    ("coding xchunked", "Content-Length:", "Transfer-Encoding: xchunked\r\nX-Length:"),
    (
        "coding behind a vertical tab",
        "Content-Length:",
        "Transfer-Encoding: \x0bchunked\r\nX-Length:",
    ),
    ("coding behind a space", "Content-Length:", "Transfer-Encoding : chunked\r\nX-Length:"),
    (
        "coding twice",
        "Content-Length:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\nX-Length:",
    ),
];

/// Bodies that claim to be chunked.
fn chunks() -> Vec<(&'static str, String)> {
    let size = format!("{:x}", BODY.len());
    vec![
        ("size that is no number", format!("zz\r\n{BODY}\r\n0\r\n\r\n")),
        ("negative size", format!("-1\r\n{BODY}\r\n0\r\n\r\n")),
        ("size with a prefix", format!("0x{size}\r\n{BODY}\r\n0\r\n\r\n")),
        ("size beyond 64 bits", format!("ffffffffffffffffff\r\n{BODY}\r\n0\r\n\r\n")),
        ("size too small", format!("5\r\n{BODY}\r\n0\r\n\r\n")),
        ("bare LF", format!("{size}\n{BODY}\n0\n\n")),
        ("long extension", format!("{size};{}\r\n{BODY}\r\n0\r\n\r\n", "a".repeat(100_000))),
        (
            "extension that ends where a request begins",
            format!("{size};{}\r\n\r\n", "a".repeat(65_000)),
        ),
    ]
}

/// Whole heads of another kind.
fn others() -> Vec<(&'static str, String)> {
    let long = |n: usize| "a".repeat(n);
    vec![
        ("HTTP/0.9", "GET /\r\n\r\n".to_owned()),
        ("HTTP/0.9 POST", "POST /\r\n\r\n".to_owned()),
        ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned()),
        ("garbage", "hello there\r\n\r\n".to_owned()),
        ("long target", format!("POST /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(100_000))),
        ("long header", format!("POST / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", long(2_000_000))),
        (
            "many headers",
            format!("POST / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-A: a\r\n".repeat(2_000)),
        ),
    ]
}

#[tokio::test]
async fn what_is_framed_wrongly_ends_its_connection() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let good = request_with(&gateway, &session, &[], BODY);
    let chunked = [("Content-Length", "-"), ("Transfer-Encoding", "chunked")];
    let chunked = request_with(&gateway, &session, &chunked, "");
    let mut cases: Vec<(&str, String)> = Vec::new();
    for (name, from, to) in CHANGES {
        let many = if *from == "\r\n" { usize::MAX } else { 1 };
        let changed = good.replacen(from, to, many);
        assert_ne!(changed, good, "{name}");
        cases.push((name, changed));
    }
    cases.extend(chunks().into_iter().map(|(name, body)| (name, chunked.clone() + &body)));
    cases.extend(others());
    // A body in chunks beside a length, each as good as the other.
    let both = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    let headers = [("Content-Length", "5"), ("Transfer-Encoding", "chunked")];
    cases.push(("chunks and a length", request_with(&gateway, &session, &headers, "") + &both));
    for (name, bytes) in cases {
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(bytes + &good).await;
        // Until the end: a server that leaves the connection open waits for more.
        let answer = String::from_utf8(raw.rest().await).unwrap();
        let first = answer.lines().next().unwrap_or("closed");
        let refusals = ["400", "405", "414", "431", "505"];
        let refused =
            refusals.iter().any(|status| first.starts_with(&format!("HTTP/1.1 {status} ")));
        assert!(refused || first == "closed", "{name}: {answer}");
        let answers = ["HTTP/1.1 2", "HTTP/1.1 4", "HTTP/1.1 5"];
        let count: usize = answers.iter().map(|start| answer.matches(start).count()).sum();
        assert_eq!(count, usize::from(first != "closed"), "{name}: {answer}");
        assert_eq!(gateway.upstream.calls(), 0, "{name}: {answer}");
    }
    still_serves(&gateway, &session).await;
}

/// A request inside the body of one that is refused before its body is read.
#[tokio::test]
async fn the_body_of_a_refused_request_is_no_request() {
    let gateway =
        Gateway::start(Setup::default().with("proxy.max_request_body_bytes", 5_000)).await;
    let session = gateway.session(json!({})).await;
    let good = request_with(&gateway, &session, &[], BODY);
    for (headers, status) in [
        (&[("Content-Type", "text/plain")][..], 415),
        (&[("Authorization", "-")], 401),
        (&[("Origin", "null")], 403),
        (&[("Upgrade", "x")], 405),
        (&[("Host", "-")], 400),
        (&[("Content-Length", "6000")], 413),
        (&[("Content-Length", "60000000")], 413),
        (&[("Expect", "100-continue"), ("Content-Type", "text/plain")], 415),
    ] {
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(request_with(&gateway, &session, headers, &good)).await;
        raw.finish().await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, status, "{headers:?}");
        assert_eq!(raw.rest().await, b"", "{headers:?}");
    }
    still_serves(&gateway, &session).await;
}
