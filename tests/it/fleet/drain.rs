//! Stopping, by real signals and with real calls and streams under way.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::channel::oneshot;
use serde_json::{Value, json};

use crate::support::chain;
use crate::support::harness::{
    API_KEY, Gateway, Setup, events, eventually, json_response, read_until, stream_response,
    tool_call,
};

fn call() -> String {
    tool_call("read_file", json!({}))
}

async fn status_of(gateway: &Gateway, url: String) -> (u16, String) {
    let response = gateway.client.get(url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn until_not_ready(gateway: &Gateway) {
    let gone = eventually(|| async {
        let (status, _) = status_of(gateway, format!("http://{}/ready", gateway.admin)).await;
        (status == 503).then_some(())
    });
    gone.await.expect("readiness falls");
}

/// Waits until calls are refused: the delay has passed.
async fn until_refused(gateway: &Gateway, session: &str) -> usize {
    let served = std::cell::Cell::new(0);
    let refused = eventually(|| async {
        let answer = gateway.call(session, call()).await;
        // A call may arrive before the signal does.
        served.set(served.get() + usize::from(answer.status == 200));
        (answer.status == 503).then_some(answer)
    });
    let answer = refused.await.expect("new calls are refused");
    assert_eq!(answer.code(), "Overloaded");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.header("retry-after").is_some());
    served.get()
}

/// Lets the upstream answer when the test says so.
fn answers_when_told(gateway: &Gateway) -> oneshot::Sender<()> {
    let (tell, told) = oneshot::channel::<()>();
    let told = Mutex::new(Some(told));
    gateway.upstream.answer_with(move |seen| {
        let whole = json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}).to_string();
        let Some(told) = told.lock().unwrap().take() else {
            return json_response(&whole);
        };
        assert_eq!(seen.method, "POST");
        let late = futures::stream::once(async move {
            told.await.ok();
            Ok::<_, std::io::Error>(whole)
        });
        let headers = [("content-type", "application/json")];
        crate::support::harness::with_headers(200, &headers, Body::from_stream(late))
    });
    tell
}

#[tokio::test]
async fn readiness_falls_at_once_and_calls_are_served_for_a_while() {
    let setup = Setup::default().with("proxy.drain_delay_secs", 2);
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let ready = format!("http://{}/health?ready", gateway.proxy);
    assert_eq!(status_of(&gateway, ready.clone()).await, (200, r#"{"status":"ready"}"#.to_owned()));
    gateway.signal("TERM");
    let since = Instant::now();
    until_not_ready(&gateway).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let draining = r#"{"status":"draining"}"#.to_owned();
    assert_eq!(status_of(&gateway, ready).await, (503, draining));
    let health = std::process::Command::new(env!("CARGO_BIN_EXE_arbiter"))
        .args(["health", "--admin-url", &format!("http://{}", gateway.admin)])
        .output()
        .unwrap();
    assert_eq!(health.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&health.stderr).contains("draining"), "{health:?}");

    // A call is served all the same, and its connection given up.
    let answer = gateway.call(&session, call()).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    // Nothing new is accepted; what is there can be closed.
    let (status, body) = gateway.try_session(json!({})).await;
    assert_eq!((status, &body["error"]), (503, &json!("Draining")), "{body}");
    let agent =
        json!({"owner": "user:x", "model": "m", "capabilities": [], "trust_level": "basic"});
    let (status, body) = gateway.admin("POST", "/agents", Some(agent)).await;
    assert_eq!((status, &body["error"]), (503, &json!("Draining")), "{body}");
    let closed = gateway.admin("DELETE", &format!("/sessions/{session}"), None).await;
    assert_eq!(closed.0, 200, "{}", closed.1);
    assert_eq!(gateway.wait_for_end(), Some(0));
    let took = since.elapsed().as_millis();
    assert!((1_900..6_000).contains(&took), "{took} ms");
}

#[tokio::test]
async fn the_delay_ends_early_without_requests() {
    let mut gateway = Gateway::start(Setup::default().with("proxy.drain_delay_secs", 600)).await;
    gateway.signal("TERM");
    let since = Instant::now();
    until_not_ready(&gateway).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // A late request: four seconds more from here on.
    assert_eq!(status_of(&gateway, format!("http://{}/health", gateway.proxy)).await.0, 200);
    assert_eq!(gateway.wait_for_end(), Some(0));
    let took = since.elapsed().as_millis();
    assert!((6_000..12_000).contains(&took), "{took} ms");
}

#[tokio::test]
async fn a_call_in_flight_ends_by_itself_and_no_new_one_begins() {
    for signal in ["TERM", "QUIT"] {
        let mut gateway = Gateway::start(Setup::default()).await;
        let session = gateway.session(json!({})).await;
        let tell = answers_when_told(&gateway);
        let running = gateway.request(&session, call()).send();
        let running = tokio::spawn(running);
        gateway.upstream.wait_for_calls(1).await;
        gateway.signal(signal);
        let served = until_refused(&gateway, &session).await;
        tell.send(()).unwrap();
        let answer = running.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.text().await.unwrap().contains("result"));
        assert_eq!(gateway.wait_for_end(), Some(0), "after {signal}");
        assert_eq!(gateway.upstream.calls(), 1 + served);
        chain::check(&gateway.audit_file());
    }
}

/// The JSON-RPC error that a stream ends with.
fn last_error(stream: &str) -> Value {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: ")).next_back();
    serde_json::from_str(data.expect("the stream ends with an event")).unwrap()
}

#[tokio::test]
async fn what_does_not_end_in_time_ends_with_an_error() {
    let mut gateway = Gateway::start(Setup::default().with("proxy.drain_timeout_secs", 1)).await;
    let session = gateway.session(json!({})).await;
    let (sender, body) = events();
    let body = Mutex::new(Some(body));
    gateway
        .upstream
        .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
    let mut stream = gateway.request(&session, call()).send().await.unwrap();
    let request_id = stream.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    sender.send("data: {\"n\":1}\n\n".to_owned()).unwrap();
    read_until(&mut stream, "\n\n").await;
    assert!(gateway.metrics().await.contains("\narbiter_open_streams 1\n"));
    // Half an event must not swallow the last one.
    sender.send("data: {\"n\":".to_owned()).unwrap();
    read_until(&mut stream, "\"n\":").await;

    let since = Instant::now();
    gateway.signal("TERM");
    let rest = read_until(&mut stream, "never").await;
    let took = since.elapsed().as_millis();
    assert!((900..4_000).contains(&took), "{took} ms");
    let error = last_error(&rest);
    assert_eq!(error["id"], 1, "{rest}");
    assert_eq!(error["error"]["data"]["code"], "Overloaded", "{rest}");
    assert_eq!(gateway.wait_for_end(), Some(0));
    let record = gateway.record_of(&request_id).await;
    assert_eq!(record["denial_code"], "Overloaded");
    chain::check(&gateway.audit_file());
}

#[tokio::test]
async fn a_call_without_an_answer_in_time_gets_one_from_the_gateway() {
    // Connections wait in its queue for ever.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("\"http://{}/mcp\"", silent.local_addr().unwrap());
    let setup =
        Setup::default().with("proxy.upstream_url", url).with("proxy.drain_timeout_secs", 1);
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let running = tokio::spawn(gateway.request(&session, call()).send());
    let begun = eventually(|| async {
        gateway.metrics().await.contains("\narbiter_calls_in_flight 1\n").then_some(())
    });
    begun.await.expect("the call is under way");
    gateway.signal("TERM");
    let answer = running.await.unwrap().unwrap();
    assert_eq!(answer.status(), 503);
    let body: Value = answer.json().await.unwrap();
    assert_eq!((&body["id"], &body["error"]["data"]["code"]), (&json!(1), &json!("Overloaded")));
    assert_eq!(gateway.wait_for_end(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_every_wait() {
    let setup =
        Setup::default().with("proxy.drain_delay_secs", 600).with("proxy.drain_timeout_secs", 600);
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({"call_budget": 7})).await;
    let (_sender, body) = events();
    let body = Mutex::new(Some(body));
    gateway
        .upstream
        .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
    let mut stream = gateway.request(&session, call()).send().await.unwrap();
    gateway.signal("TERM");
    until_not_ready(&gateway).await;
    let since = Instant::now();
    gateway.signal("TERM");
    let error = last_error(&read_until(&mut stream, "never").await);
    assert_eq!(error["error"]["data"]["code"], "Overloaded");
    assert_eq!(gateway.wait_for_end(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    // The lease has gone back: what was spent is exact.
    gateway.start_again();
    let (_, shown) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    assert_eq!(shown["calls_made"], 1, "{shown}");
}

#[tokio::test]
async fn sigusr1_reopens_a_log_that_was_moved_away() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    gateway.call(&session, call()).await;
    let moved = gateway.folder.path().join("audit.jsonl.1");
    std::fs::rename(gateway.audit_file(), &moved).unwrap();
    gateway.signal("USR1");
    let there = eventually(|| async { gateway.audit_file().exists().then_some(()) });
    there.await.expect("the log is reopened");
    let answer = gateway.call(&session, call()).await;
    let id = answer.request_id().to_owned();
    assert_eq!(gateway.record_of(&id).await["authorization_decision"], "allow");
    let ready = gateway.client.get(format!("http://{}/ready", gateway.admin));
    assert_eq!(ready.header("x-api-key", API_KEY).send().await.unwrap().status(), 200);
}
