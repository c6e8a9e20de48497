//! Streams leave as they come, have limits of their own, and end so that a client can tell how.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::support::harness::{
    Gateway, PATIENCE, Setup, events, json_response, read_until, stream_response, tool_call,
    with_headers,
};

fn call() -> String {
    tool_call("read_file", json!({}))
}

/// Returns the data of each event of a stream, as a client reads it.
fn messages(stream: &str) -> Vec<Value> {
    let events = stream.split("\n\n").filter(|event| !event.is_empty());
    let read = events.filter(|event| {
        let kind = event.lines().rfind(|line| line.starts_with("event: "));
        kind.is_none_or(|kind| kind == "event: message")
    });
    read.filter_map(|event| {
        let data: Vec<_> = event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        (!data.is_empty()).then(|| serde_json::from_str(&data.concat()).expect(event))
    })
    .collect()
}

fn code_of(message: &Value) -> &str {
    assert_eq!(message["id"], 1);
    message["error"]["data"]["code"].as_str().unwrap()
}

#[tokio::test]
async fn every_event_leaves_when_it_arrives() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let (sender, body) = events();
    let body = Mutex::new(Some(body));
    gateway
        .upstream
        .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
    let mut response = gateway.request(&session, call()).send().await.unwrap();
    for n in 0..20 {
        let event = format!(": {n}\ndata: {{\"n\":{n}}}\n\n");
        sender.send(event.clone()).unwrap();
        assert_eq!(read_until(&mut response, "\n\n").await, event);
    }
    drop(sender);
    assert_eq!(read_until(&mut response, "never").await, "");
}

#[tokio::test]
async fn the_limit_on_responses_holds_for_each_event() {
    let gateway =
        Gateway::start(Setup::default().with("proxy.max_response_body_bytes", 10_000)).await;
    let session = gateway.session(json!({})).await;
    let event = |bytes: usize| format!("data: {{\"x\":\"{}\"}}\n\n", "x".repeat(bytes - 16));
    let fitting = event(9_000).repeat(5);
    let all = fitting.clone();
    gateway.upstream.answer_with(move |_| stream_response(Body::from(all.clone())));
    let answer = gateway.call(&session, call()).await;
    assert_eq!(answer.body, fitting.as_bytes());

    let (sender, body) = events();
    let body = Mutex::new(Some(body));
    gateway
        .upstream
        .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
    sender.send(event(9_000)).unwrap();
    let mut response = gateway.request(&session, call()).send().await.unwrap();
    let request_id = response.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    read_until(&mut response, "\n\n").await;
    sender.send(event(10_001)).unwrap();
    let rest = messages(&read_until(&mut response, "never").await);
    assert_eq!(rest.len(), 1);
    assert_eq!(code_of(&rest[0]), "UpstreamResponseTooLarge");
    let record = gateway.record_of(&request_id).await;
    assert_eq!(record["denial_code"], "UpstreamResponseTooLarge");
}

#[tokio::test]
async fn a_silent_stream_outlives_the_upstreams_timeout_but_not_its_own() {
    let setup = Setup::default()
        .with("proxy.upstream_timeout_secs", 1)
        .with("proxy.stream_idle_timeout_secs", 2);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let (sender, body) = events();
    let body = Mutex::new(Some(body));
    gateway
        .upstream
        .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
    let mut response = gateway.request(&session, call()).send().await.unwrap();
    let request_id = response.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    // Twice a silence between the two timeouts: time itself is what is tested here.
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        sender.send(": still here\n\n".to_owned()).unwrap();
        assert_eq!(read_until(&mut response, "\n\n").await, ": still here\n\n");
    }
    let silent_since = Instant::now();
    let rest = read_until(&mut response, "never").await;
    let silence = silent_since.elapsed();
    assert!((1_500..6_000).contains(&silence.as_millis()), "{silence:?}");
    assert_eq!(code_of(messages(&rest).last().unwrap()), "UpstreamTimeout");
    assert_eq!(gateway.record_of(&request_id).await["denial_code"], "UpstreamTimeout");
}

/// An upstream whose connection breaks after these bytes of a chunked stream.
async fn breaking_after(stream: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((mut socket, _)) = listener.accept().await else { return };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let bytes = format!("{head}{:x}\r\n{stream}\r\n", stream.len());
            let mut request = [0; 4096];
            let _some = tokio::io::AsyncReadExt::read(&mut socket, &mut request).await;
            let _gone = socket.write_all(bytes.as_bytes()).await;
            let _gone = socket.flush().await;
            // The bytes are to arrive before the end does.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    address
}

async fn read_broken(stream: &'static str, setup: Setup) -> Result<String, reqwest::Error> {
    let url = format!("\"http://{}/mcp\"", breaking_after(stream).await);
    let gateway = Gateway::start(setup.with("proxy.upstream_url", url)).await;
    let session = gateway.session(json!({})).await;
    let response = gateway.request(&session, call()).send().await.unwrap();
    let request_id = response.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    let text = response.text().await;
    assert_eq!(gateway.record_of(&request_id).await["denial_code"], "UpstreamFailed");
    text
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error_for_the_request() {
    for (stream, whole) in [
        ("data: {\"n\":1}\n\n", 1),
        ("data: {\"n\":1}\n\ndata: {\"n\":", 1),
        ("data: {\"n\":1}\n\nevent: message\ndata: {\"n\":2}\n", 1),
        ("event: mess", 0),
        (": \n", 0),
    ] {
        let text = read_broken(stream, Setup::default()).await.unwrap();
        let messages = messages(&text);
        assert_eq!(messages.len(), whole + 1, "{text}");
        assert_eq!(code_of(&messages[whole]), "UpstreamFailed");
    }
}

#[tokio::test]
async fn a_stream_that_can_be_resumed_is_left_to_the_client() {
    let stream = "id: 7\ndata: {\"n\":1}\n\n";
    let resumable = Setup::default().with("proxy.legacy_streams", true);
    assert!(read_broken(stream, resumable).await.is_err());
    let text = read_broken(stream, Setup::default()).await.unwrap();
    assert_eq!(messages(&text).len(), 2);
}

#[tokio::test]
async fn what_is_no_json_rpc_is_not_passed_on_as_an_answer() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    for (status, kind) in [(200, "text/html"), (200, ""), (202, "text/plain"), (204, "")] {
        gateway.upstream.answer_with(move |_| {
            let headers: &[_] = if kind.is_empty() { &[] } else { &[("content-type", kind)] };
            with_headers(
                status,
                headers,
                if status == 204 { Body::empty() } else { Body::from("x") },
            )
        });
        let answer = gateway.call(&session, call()).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (502, "UpstreamFailed"),
            "{status} {kind}"
        );
        assert_eq!(answer.json()["id"], 1);
    }
    gateway.upstream.answer_with(|_| with_headers(202, &[], Body::empty()));
    let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    assert_eq!(gateway.call(&session, note).await.status, 202);
    // What the server refuses, it may refuse in its own words.
    gateway.upstream.answer_with(|_| {
        with_headers(404, &[("content-type", "text/plain")], Body::from("no session"))
    });
    let answer = gateway.call(&session, call()).await;
    assert_eq!((answer.status, &answer.body[..]), (404, &b"no session"[..]));
}

#[tokio::test]
async fn a_client_that_leaves_is_gone_for_the_upstream_too() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let gone = Arc::new(Notify::new());
    let tell = gone.clone();
    gateway.upstream.answer_with(move |_| {
        let guard = OnDrop(tell.clone());
        let first = futures::stream::once(async { Ok::<_, std::io::Error>(": hello\n\n") });
        let for_ever = futures::stream::once(async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok("")
        });
        stream_response(Body::from_stream(futures::StreamExt::chain(first, for_ever)))
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        let mut response = gateway.request(&session, call()).send().await.unwrap();
        read_until(&mut response, "\n\n").await;
        let left = Instant::now();
        drop(response);
        tokio::time::timeout(PATIENCE, gone.notified()).await.unwrap();
        slowest = slowest.max(left.elapsed());
    }
    assert!(slowest < Duration::from_millis(100), "{slowest:?}");
}

struct OnDrop(Arc<Notify>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn five_mebibytes_down_and_nine_up_are_the_same_at_both_ends() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let noise = |bytes: usize, seed: u8| -> String {
        let mut noise = vec![0; bytes / 2];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
        noise.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    };
    let up = tool_call("read_file", json!({"path": noise(9 << 20, 1)}));
    let text = noise(5 << 20, 2);
    let result = json!({"content": [{"type": "text", "text": text}]});
    let down = json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string();
    let hash = |bytes: &[u8]| blake3::hash(bytes);
    for stream in [false, true] {
        let body = if stream { format!("data: {down}\n\n") } else { down.clone() };
        let expected = hash(body.as_bytes());
        gateway.upstream.answer_with(move |_| {
            if stream { stream_response(Body::from(body.clone())) } else { json_response(&body) }
        });
        let answer = gateway.call(&session, up.clone()).await;
        assert_eq!((answer.status, hash(&answer.body)), (200, expected));
        let seen = gateway.upstream.seen().pop().unwrap();
        assert_eq!(hash(&seen.body), hash(up.as_bytes()));
    }
}

#[tokio::test]
async fn an_upstream_that_comes_back_is_used_again() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    // It closes each connection after its answer, as a server that restarts does.
    gateway.upstream.answer_with(|_| {
        let mut response = json_response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        response.headers_mut().insert("connection", "close".parse().unwrap());
        response
    });
    for _ in 0..20 {
        assert_eq!(gateway.call(&session, call()).await.status, 200);
    }
}
