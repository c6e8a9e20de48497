//! Ends of tools: on record and counted, whatever carries the answer.

use axum::body::Body;
use serde_json::{Value, json};

use crate::support::harness::{
    Gateway, Setup, events, eventually, json_response, read_until, stream_response, tool_call,
    with_headers,
};

const OK: &str =
    r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"isError"}]}}"#;
const BAD: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}"#;

fn call() -> String {
    tool_call("read_file", json!({}))
}

async fn recorded(gateway: &Gateway, session: &str, body: String) -> Value {
    let answered = gateway.call(session, body).await;
    gateway.record_of(answered.request_id()).await
}

#[tokio::test]
async fn every_end_of_a_call_is_on_record_and_counted() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({"authorized_tools": ["read_file"]})).await;
    for (status, kind, answer, expected) in [
        (200, "application/json", OK, "ok"),
        (200, "application/json; charset=utf-8", BAD, "tool_error"),
        (
            400,
            "application/json",
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}"#,
            "rpc_error",
        ),
        (
            200,
            "application/json",
            r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","requestState":"s"}}"#,
            "input_required",
        ),
        (
            200,
            "application/json",
            r#"{"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"t"}}}"#,
            "task",
        ),
        (200, "application/json", r#"{"jsonrpc":"2.0","id":2,"result":{}}"#, "unknown"),
        (404, "text/html", OK, "unknown"),
        (202, "text/plain", "", "unknown"),
    ] {
        let answer = answer.to_owned();
        gateway.upstream.answer_with(move |_| {
            with_headers(status, &[("content-type", kind)], Body::from(answer.clone()))
        });
        let before = series(&gateway, expected).await;
        let record = recorded(&gateway, &session, call()).await;
        assert_eq!(record["tool_outcome"], expected, "{record}");
        assert_eq!(series(&gateway, expected).await, before + 1, "{expected}");
    }
    // What calls no tool, and what never reached one, ends in no way.
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    gateway
        .upstream
        .answer_with(|_| json_response(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#));
    for body in [list, tool_call("delete_all", json!({}))] {
        let record = recorded(&gateway, &session, body).await;
        assert_eq!(record["tool_outcome"], Value::Null, "{record}");
    }
}

/// The count of calls of the session's tool that ended so; 0 before the first.
async fn series(gateway: &Gateway, outcome: &str) -> u64 {
    let wanted = format!(r#"arbiter_tool_outcomes_total{{outcome="{outcome}",tool="read_file"}} "#);
    let text = gateway.metrics().await;
    let line = text.lines().find_map(|line| line.strip_prefix(wanted.as_str()));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_stream_is_read_as_it_passes() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let (sender, body) = events();
    let body = std::sync::Mutex::new(Some(body));
    gateway.upstream.answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap()));
    let mut response = gateway.request(&session, call()).send().await.unwrap();
    let request_id = response.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    let progress = r#"data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"id":1}}"#;
    sender.send(format!("{progress}\n\n")).unwrap();
    // Nothing waits for the end.
    read_until(&mut response, "progress").await;
    let (first, last) = BAD.split_at(50);
    sender.send(format!("event: message\r\ndata: {first}")).unwrap();
    read_until(&mut response, first).await;
    sender.send(format!("{last}\r\n\r\n")).unwrap();
    drop(sender);
    read_until(&mut response, "never comes").await;
    assert_eq!(gateway.record_of(&request_id).await["tool_outcome"], "tool_error");
}

#[tokio::test]
async fn what_is_decoded_and_scrubbed_is_read_too() {
    let mut setup = Setup::default()
        .with("credentials.provider", "\"env\"")
        .with("credentials.env_prefix", "\"OUTCOME_\"");
    setup.env.push(("OUTCOME_TOKEN", "a-long-enough-secret-value".to_owned()));
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({"authorized_credentials": ["token"]})).await;
    let answer = BAD.replace("[]", r#"[{"text":"a-long-enough-secret-value"}]"#);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packer, answer.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    gateway.upstream.answer_with(move |_| {
        let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
        with_headers(200, &headers, Body::from(packed.clone()))
    });
    let body = tool_call("read_file", json!({"key": "${CRED:token}"}));
    let record = recorded(&gateway, &session, body).await;
    assert_eq!(
        (&record["tool_outcome"], &record["credentials_scrubbed"]),
        (&json!("tool_error"), &json!(1)),
        "{record}"
    );
}

#[tokio::test]
async fn of_a_batch_the_worst_is_on_record_and_each_is_counted() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({"authorized_tools": ["read_file"]})).await;
    let second = call().replace(r#""id":1"#, r#""id":"b""#);
    let ok = OK.replace(r#""id":1"#, r#""id":"b""#);
    gateway.upstream.answer_with(move |_| json_response(&format!("[{ok},{BAD}]")));
    let record = recorded(&gateway, &session, format!("[{},{second}]", call())).await;
    assert_eq!(record["tool_outcome"], "tool_error", "{record}");
    assert_eq!((series(&gateway, "ok").await, series(&gateway, "tool_error").await), (1, 1));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_unknown() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let (sender, body) = events();
    let body = std::sync::Mutex::new(Some(body));
    gateway.upstream.answer_with(move |_| {
        let kind = [("content-type", "application/json")];
        with_headers(200, &kind, body.lock().unwrap().take().unwrap())
    });
    sender.send(BAD[..40].to_owned()).unwrap();
    let mut response = gateway.request(&session, call()).send().await.unwrap();
    let request_id = response.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    read_until(&mut response, "result").await;
    drop(response);
    drop(sender);
    let record = eventually(|| async {
        gateway.records().into_iter().find(|record| record["request_id"] == request_id)
    });
    assert_eq!(record.await.unwrap()["tool_outcome"], "unknown");
}
