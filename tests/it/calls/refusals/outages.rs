//! Refusals because something that the gateway needs is away or full.

use std::process::Command;
use std::time::Duration;

use arbiter::firewall::denial::Code;
use axum::body::Body;
use serde_json::{Value, json};

use super::Table;
use crate::support::harness::{Gateway, Setup, Upstream, eventually, tool_call, with_headers};
use crate::support::raw::{Raw, request_with, upstream_that_says};

#[tokio::test]
async fn upstreams() {
    let setup = Setup::default()
        .with("proxy.upstream_timeout_secs", 1)
        .with("proxy.max_response_body_bytes", 5_000);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let mut table = Table::of(&gateway);
    let call = || gateway.call(&session, tool_call("read_file", json!({})));

    gateway.upstream.answer_with(|_| {
        with_headers(200, &[("content-type", "application/json")], Body::from("x".repeat(5_001)))
    });
    table.add_after(Code::UpstreamResponseTooLarge, json!(1), 1, call()).await;
    gateway.upstream.answer_with(|_| {
        // Longer than the gateway waits, and gone with the test's runtime.
        std::thread::sleep(Duration::from_millis(1_500));
        with_headers(200, &[], Body::empty())
    });
    table.add_after(Code::UpstreamTimeout, json!(1), 1, call()).await;
    table.compare();
}

#[tokio::test]
async fn an_upstream_that_is_not_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut upstream = Upstream::start().await;
    upstream.address = listener.local_addr().unwrap();
    drop(listener);
    let gateway = Gateway::start_before(upstream, Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let mut table = Table::of(&gateway);
    let call = gateway.call(&session, tool_call("read_file", json!({})));
    table.add(Code::UpstreamFailed, json!(1), call).await;
    table.compare();
}

#[tokio::test]
async fn upstreams_that_talk_nonsense() {
    for says in [
        "",
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: rot13\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ] {
        let mut upstream = Upstream::start().await;
        upstream.address = upstream_that_says(says).await;
        let gateway = Gateway::start_before(upstream, Setup::default()).await;
        let session = gateway.session(json!({})).await;
        let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "UpstreamFailed"), "{says:?}");
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["denial_code"], "UpstreamFailed", "{says:?}");
    }
}

/// A folder where the log was: nothing can be written there, not even by root.
#[tokio::test]
async fn an_audit_log_that_cannot_be_written() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let moved = gateway.folder.path().join("moved.jsonl");
    std::fs::rename(gateway.audit_file(), &moved).unwrap();
    std::fs::create_dir(gateway.audit_file()).unwrap();
    let healthy = |wanted: bool| {
        let gateway = &gateway;
        eventually(move || async move {
            let (_, head) = gateway.admin("GET", "/audit/head", None).await;
            (head["healthy"] == wanted).then_some(())
        })
    };
    healthy(false).await.unwrap();
    let mut table = Table::of(&gateway);
    let call = || gateway.call(&session, tool_call("read_file", json!({})));
    table.add(Code::AuditUnavailable, Value::Null, call()).await;
    assert_eq!(gateway.upstream.calls(), 0);
    let (ready, _) = gateway.admin("GET", "/ready", None).await;
    assert_eq!(ready, 503);

    std::fs::remove_dir(gateway.audit_file()).unwrap();
    healthy(true).await.unwrap();
    let answer = call().await;
    assert_eq!(answer.status, 200);
    gateway.record_of(answer.request_id()).await;
    let gap = gateway.records().into_iter().find(|r| r["event"] == "audit_gap");
    let gap = gap.unwrap_or_else(|| panic!("{:?}", gateway.records()));
    assert!(gap["detail"].as_object().unwrap().values().any(|count| *count == 1), "{gap}");
    table.compare();
}

/// The store's file may grow no further: writing there fails as on a full disk, while the log,
/// which is shorter, goes on.
#[tokio::test]
async fn a_store_that_cannot_be_written() {
    let setup = Setup {
        // Else the signal that comes with the limit would end the process.
        wrapper: vec!["env", "--ignore-signal=XFSZ"],
        ..Setup::default()
    };
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({"call_budget": 10})).await;
    let length =
        |name: &str| std::fs::metadata(gateway.folder.path().join(name)).map_or(0, |m| m.len());
    // The limit counts for the log as well, and for the first places of its journal.
    let limit = 512 * 1024;
    while length("arbiter.db-wal") < limit + 64 * 1024 {
        gateway.register(json!({})).await;
    }
    assert!(length("audit.jsonl") < limit - 64 * 1024, "{}", length("audit.jsonl"));
    let limit_files = |soft: &str| {
        let pid = gateway.pid().to_string();
        let limit = format!("--fsize={soft}:unlimited");
        let set = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
        assert!(set.success());
    };
    limit_files(&limit.to_string());
    let mut table = Table::of(&gateway);
    let call = || gateway.call(&session, tool_call("read_file", json!({})));
    table.add(Code::StoreUnavailable, json!(1), call()).await;
    assert_eq!(gateway.upstream.calls(), 0);
    let (status, body) = gateway.try_session(json!({})).await;
    assert_eq!((status, &body["error"]), (503, &json!("StoreUnavailable")), "{body}");
    // The node leaves the balancer, and the operator reads why.
    let (status, body) = gateway.admin("GET", "/ready", None).await;
    assert_eq!((status, &body["error"]), (503, &json!("StoreUnavailable")), "{body}");
    let log = std::fs::read_to_string(gateway.folder.path().join("log.txt")).unwrap();
    let cause = ["disk I/O error", "database or disk is full"];
    assert!(cause.iter().any(|cause| log.contains(cause)), "the log hides the cause: {log}");

    limit_files("unlimited");
    assert_eq!(call().await.status, 200);
    let ready = eventually(|| async {
        let (status, _) = gateway.admin("GET", "/ready", None).await;
        (status == 200).then_some(())
    });
    ready.await.expect("a store that can be written to again is ready");
    table.compare();
}

#[tokio::test]
async fn memory_for_bodies_that_is_taken() {
    const MEMORY: usize = 64 * 1024;
    let setup = Setup::default()
        .with("proxy.max_request_body_bytes", MEMORY)
        .with("proxy.max_in_flight_body_bytes", MEMORY);
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let mut slow = Raw::connect(&gateway.proxy).await;
    let length = MEMORY.to_string();
    let headers = [("Content-Length", length.as_str()), ("Expect", "100-continue")];
    slow.send(request_with(&gateway, &session, &headers, "")).await;
    let (interim, _) = slow.head().await.unwrap();
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    let long = || tool_call("read_file", json!({"path": "x".repeat(5_000)}));
    // The agent itself has used up its own part, which here is all there is.
    let mut table = Table::of(&gateway);
    table.add(Code::TooManyInFlight, Value::Null, gateway.call(&session, long())).await;
    table.compare();
    gateway.agent = gateway.register(json!({})).await;
    let session = gateway.session(json!({})).await;
    let call = || gateway.call(&session, long());
    let mut table = Table::of(&gateway);
    table.add(Code::Overloaded, Value::Null, call()).await;
    drop(slow);
    let free = eventually(|| async { (call().await.status == 200).then_some(()) });
    free.await.unwrap();
    table.compare();
}
