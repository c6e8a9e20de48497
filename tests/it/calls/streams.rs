//! Answers on their way: events leave when they come, and what breaks is not passed off as whole.

use std::io::Write;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::channel::{mpsc, oneshot};
use futures::{SinkExt, StreamExt};
use serde_json::json;

use crate::support::harness::{
    Gateway, PATIENCE, Setup, Upstream, eventually, tool_call, with_headers,
};
use crate::support::raw::{Raw, request, request_with, upstream_that_says};

type Sender = mpsc::Sender<Result<Bytes, std::io::Error>>;

/// Has the upstream answer with a body that the test writes.
fn written_by_test(
    gateway: &Gateway,
    headers: &'static [(&'static str, &'static str)],
) -> mpsc::UnboundedReceiver<Sender> {
    let (senders, asked) = mpsc::unbounded();
    gateway.upstream.answer_with(move |_| -> Response {
        let (sender, receiver) = mpsc::channel(0);
        senders.unbounded_send(sender).unwrap();
        with_headers(200, headers, Body::from_stream(receiver))
    });
    asked
}

const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream")];

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it does not come")
}

#[tokio::test]
async fn an_event_leaves_before_the_next_one_comes() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let mut asked = written_by_test(&gateway, SSE);
    // A call, and a list, whose stream is looked into.
    for body in [
        tool_call("read_file", json!({})),
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string(),
    ] {
        let call = gateway.request(&session, body).send();
        let write = async {
            let mut sender = asked.next().await.unwrap();
            sender.send(Ok(Bytes::from("event: message\ndata: 0\n\n"))).await.unwrap();
            sender
        };
        let (answer, mut sender) = soon(async { tokio::join!(call, write) }).await;
        let mut answer = answer.unwrap();
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), "event: message\ndata: 0\n\n");
        for n in 1..5 {
            let event = format!("id: {n}\ndata: {{\"n\":{n}}}\n\n");
            sender.send(Ok(Bytes::from(event.clone()))).await.unwrap();
            assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), event);
        }
        drop(sender);
        assert_eq!(soon(answer.chunk()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn compressed_events_leave_before_the_next_one_comes() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let mut asked = written_by_test(
        &gateway,
        &[("content-type", "text/event-stream"), ("content-encoding", "gzip")],
    );
    let call = gateway.request(&session, tool_call("read_file", json!({}))).send();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut event = |n: usize| {
        packer.write_all(format!("data: {n}\n\n").as_bytes()).unwrap();
        packer.flush().unwrap();
        Bytes::from(std::mem::take(packer.get_mut()))
    };
    let write = async {
        let mut sender = asked.next().await.unwrap();
        sender.send(Ok(event(0))).await.unwrap();
        sender
    };
    let (answer, mut sender) = soon(async { tokio::join!(call, write) }).await;
    let mut answer = answer.unwrap();
    assert!(!answer.headers().contains_key("content-encoding"));
    assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), "data: 0\n\n");
    sender.send(Ok(event(1))).await.unwrap();
    assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), "data: 1\n\n");
}

#[tokio::test]
async fn compressed_answers_arrive_plain() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let plain =
        json!({"jsonrpc": "2.0", "id": 1, "result": {"text": "x".repeat(50_000)}}).to_string();
    let gzip = {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(plain.as_bytes()).unwrap();
        packer.finish().unwrap()
    };
    let deflate = {
        let mut packer =
            flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(plain.as_bytes()).unwrap();
        packer.finish().unwrap()
    };
    let br = {
        let mut packer = brotli::CompressorWriter::new(Vec::new(), 4_096, 5, 20);
        packer.write_all(plain.as_bytes()).unwrap();
        packer.into_inner()
    };
    let zstd = zstd::encode_all(plain.as_bytes(), 3).unwrap();
    for (coding, packed) in [("gzip", gzip), ("deflate", deflate), ("br", br), ("zstd", zstd)] {
        let whole = packed.clone();
        gateway.upstream.answer_with(move |_| {
            let headers = [("content-type", "application/json"), ("content-encoding", coding)];
            with_headers(200, &headers, Body::from(whole.clone()))
        });
        let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
        assert_eq!(answer.status, 200, "{coding}: {answer:?}");
        assert_eq!(answer.header("content-encoding"), None);
        assert!(answer.body == plain.as_bytes(), "{coding}");
        // Cut off: never passed off as a whole answer.
        let half = packed[..packed.len() / 2].to_vec();
        gateway.upstream.answer_with(move |_| {
            let headers = [("content-type", "application/json"), ("content-encoding", coding)];
            with_headers(200, &headers, Body::from(half.clone()))
        });
        let sent =
            gateway.request(&session, tool_call("read_file", json!({}))).send().await.unwrap();
        let refused = sent.status() == 502;
        assert!(refused || sent.bytes().await.is_err(), "{coding}: half an answer counts as whole");
    }
}

/// Tells when it goes.
struct Goes(Option<oneshot::Sender<()>>);

impl Drop for Goes {
    fn drop(&mut self) {
        // The test may have ended.
        let _nobody_waits = self.0.take().unwrap().send(());
    }
}

#[tokio::test]
async fn when_the_client_goes_the_upstream_is_let_go() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let (gone, wait) = oneshot::channel();
    let guard = std::sync::Mutex::new(Some(Goes(Some(gone))));
    gateway.upstream.answer_with(move |_| {
        let guard = guard.lock().unwrap().take().unwrap();
        let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from("data: 0\n\n"))]);
        let silence = futures::stream::pending().map(move |n| {
            let _held = &guard;
            n
        });
        with_headers(200, SSE, Body::from_stream(first.chain(silence)))
    });
    let mut answer =
        gateway.request(&session, tool_call("read_file", json!({}))).send().await.unwrap();
    let request_id = answer.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), "data: 0\n\n");
    drop(answer);
    let left = Instant::now();
    soon(wait).await.unwrap();
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
    let record = gateway.record_of(&request_id).await;
    assert_eq!(
        (&record["outcome"], &record["upstream_status"]),
        (&json!("client_gone"), &json!(200))
    );
}

async fn before_an_upstream_that_says(bytes: &str) -> (Gateway, String) {
    let mut upstream = Upstream::start().await;
    upstream.address = upstream_that_says(bytes).await;
    let gateway = Gateway::start_before(upstream, Setup::default()).await;
    let session = gateway.session(json!({})).await;
    (gateway, session)
}

#[tokio::test]
async fn trailers_stay_behind() {
    let (gateway, session) = before_an_upstream_that_says(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n2\r\n{}\r\n0\r\nX-Late: secret\r\n\r\n",
    )
    .await;
    let mut raw = Raw::connect(&gateway.proxy).await;
    let body = tool_call("read_file", json!({}));
    raw.send(request_with(
        &gateway,
        &session,
        &[("Connection", "close"), ("TE", "trailers")],
        &body,
    ))
    .await;
    let answer = String::from_utf8(raw.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("{}"), "{answer}");
    assert!(!answer.contains("secret"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_whole_answer() {
    for head in
        ["Transfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n", "Content-Length: 50\r\n\r\n{\"a\":"]
    {
        let says = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{head}");
        let (gateway, session) = before_an_upstream_that_says(&says).await;
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(request(&gateway, &session, &tool_call("read_file", json!({})))).await;
        // The head may go with the body that never came whole; if neither has gone, a refusal does.
        if let Some((first, headers)) = raw.head().await {
            let is_refused = first.starts_with("HTTP/1.1 502 ");
            assert_eq!(raw.body(&headers).await.is_some(), is_refused, "{head}: {first}");
        }
        let recorded = eventually(|| async {
            let mut records = gateway.records().into_iter();
            records.rfind(|record| record["tool_called"] == "read_file")
        });
        let record = recorded.await.unwrap();
        assert_eq!(record["denial_code"], "UpstreamFailed", "{record}");
        assert_eq!(record["outcome"], "upstream_failed");
    }
}

#[tokio::test]
async fn calls_share_a_connection_a_refused_one_included() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let mut raw = Raw::connect(&gateway.proxy).await;
    for (tool, status) in
        [("read_file", 200), ("unlisted", 403), ("write_file", 200), ("unlisted", 403)]
    {
        raw.send(request(&gateway, &session, &tool_call(tool, json!({"x": "y".repeat(70_000)}))))
            .await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
    }
    raw.send(request(&gateway, &session, "{")).await;
    assert_eq!(raw.answer().await.unwrap().status, 400);
    raw.send(request(&gateway, &session, &tool_call("read_file", json!({})))).await;
    assert_eq!(raw.answer().await.unwrap().status, 200);
    assert_eq!(gateway.upstream.calls(), 3);
}

#[tokio::test]
async fn an_answer_for_a_failed_upstream_says_that_it_is_the_connections_last() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    gateway.upstream.answer_with(|_| {
        let headers = [("content-type", "application/json"), ("content-encoding", "rot13")];
        with_headers(200, &headers, Body::from("{}"))
    });
    for length in [10, 70_000] {
        let mut raw = Raw::connect(&gateway.proxy).await;
        let call = tool_call("read_file", json!({"x": "y".repeat(length)}));
        raw.send(request(&gateway, &session, &call)).await;
        let answer = raw.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (502, Some("close")));
        assert_eq!(raw.rest().await, b"");
    }
}

#[tokio::test]
async fn a_client_that_expects_to_be_asked_is_asked() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let body = tool_call("read_file", json!({}));
    let mut raw = Raw::connect(&gateway.proxy).await;
    for _ in 0..2 {
        let whole = request_with(&gateway, &session, &[("Expect", "100-continue")], &body);
        let head = whole.strip_suffix(&body).unwrap();
        raw.send(head).await;
        let (interim, _) = raw.head().await.unwrap();
        assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
        raw.send(&body).await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
    }
    let seen = &gateway.upstream.seen()[0];
    assert_eq!(seen.body, body.as_bytes());
    assert!(!seen.headers.contains_key("expect"));
}
