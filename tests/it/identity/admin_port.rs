//! The operators' port byte by byte: what cannot be read is answered as anything else, and no answer is
//! lost because its client still sends.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::harness::{Answer, Gateway, Setup};
use crate::support::raw::Raw;

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Bytes of a form that nobody means.
const HUGE: usize = 99 << 20;

fn guarded_well(answer: &Answer) {
    assert_eq!(answer.header("content-security-policy"), Some(POLICY), "{answer:?}");
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_the_headers_of_every_page() {
    let gateway = Gateway::start(Setup::default()).await;
    let host = &gateway.admin;
    let get = |path: &str, more: &str| {
        format!("GET /console{path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
    };
    let many: Vec<_> = (0..150).map(|n| format!("x{n}: y\r\n")).collect();
    let two = "Content-Length: 1\r\nContent-Length: 2\r\n";
    for (sent, status, code) in [
        ("\0garbage\r\n\r\n".to_owned(), 400, "MalformedRequest"),
        (get("", "b\0d: x\r\n"), 400, "MalformedRequest"),
        (get("", two), 400, "MalformedRequest"),
        (get("", "").replace("HTTP/1.1", "HTTP/9.1"), 400, "MalformedRequest"),
        (get("", "Transfer-Encoding: gzip\r\n"), 400, "MalformedRequest"),
        (get(&"/a".repeat(35_000), ""), 414, "UriTooLong"),
        (get("", &many.concat()), 431, "HeadTooLarge"),
        (get("", &format!("x: {}\r\n", "y".repeat(600_000))), 431, "HeadTooLarge"),
    ] {
        let mut raw = Raw::connect(host).await;
        raw.send(&sent).await;
        let answer = raw.answer().await.unwrap_or_else(|| panic!("no answer to {code}"));
        assert_eq!((answer.status, &answer.json()["error"]), (status, &code.into()), "{answer:?}");
        guarded_well(&answer);
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(raw.rest().await, b"", "the connection ends");
    }
    // After an answer of the service on the same connection, too.
    let mut raw = Raw::connect(host).await;
    raw.send(get("/files/console.css", "") + "\0\r\n\r\n").await;
    assert_eq!(raw.answer().await.expect("the file").status, 200);
    let answer = raw.answer().await.expect("the refusal");
    assert_eq!(answer.status, 400);
    guarded_well(&answer);
}

fn form(gateway: &Gateway, path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {length}\r\n\r\n",
        gateway.admin
    )
}

#[tokio::test]
async fn a_form_that_is_too_large_is_refused_before_it_comes() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut raw = Raw::connect(&gateway.admin).await;
    raw.send(form(&gateway, "/console/sign-in", HUGE) + "key=").await;
    let answer = raw.answer().await.expect("an answer without the rest");
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
    guarded_well(&answer);
    raw.finish().await;
    assert_eq!(raw.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_sends_all_before_it_reads_gets_its_answer() {
    let gateway = Gateway::start(Setup::default()).await;
    let body = vec![b'a'; 16 << 20];
    for (path, status) in [("/console/sign-in", 413), ("/console/agents", 303), ("/agents", 401)] {
        let mut stream = TcpStream::connect(&gateway.admin).await.unwrap();
        stream.write_all(form(&gateway, path, body.len()).as_bytes()).await.unwrap();
        stream.write_all(&body).await.expect("the connection is not reset");
        let answer = Raw::over(stream).answer().await.expect("an answer");
        assert_eq!(answer.status, status, "{path}");
    }
}
