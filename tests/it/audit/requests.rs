//! Members of a record that say from where its request came and how much went each way.

use serde_json::{Value, json};

use crate::support::harness::{Gateway, Setup, json_response, tool_call};
use crate::support::raw::{Raw, request_with};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// The members that come from a request's head.
fn head(record: &Value) -> Value {
    let names = ["client_addr", "user_agent", "http_method", "path", "trace_id"];
    names.iter().map(|name| ((*name).to_owned(), record[name].clone())).collect()
}

#[tokio::test]
async fn a_call_is_on_record_with_its_head_and_its_length_both_ways() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
    gateway.upstream.answer_with(move |_| json_response(answer));
    let body = tool_call("read_file", json!({"path": "/a"}));
    let request = gateway
        .request_to("/mcp/files?token=secret", &session, body.clone())
        .header("user-agent", "probe/1.0")
        .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
    let answered = gateway.send(request).await;
    assert_eq!(answered.status, 200);
    let record = gateway.record_of(answered.request_id()).await;
    let expected = json!({
        "client_addr": "127.0.0.1", "user_agent": "probe/1.0", "http_method": "POST",
        "path": "/mcp/files", "trace_id": TRACE,
    });
    assert_eq!(head(&record), expected);
    assert_eq!(record["bytes_in"], body.len());
    assert_eq!(record["bytes_out"], answer.len());
}

#[tokio::test]
async fn refusals_are_on_record_with_their_head_also_before_any_token() {
    let gateway = Gateway::start(Setup::default()).await;
    let long = "a".repeat(1_000);
    let request = gateway
        .client
        .post(format!("http://{}/{long}", gateway.proxy))
        .header("content-type", "application/json")
        .header("user-agent", &long)
        .header("traceparent", "not-a-trace")
        .body("{}");
    let refused = gateway.send(request).await;
    assert_eq!(refused.code(), "TokenMissing");
    let record = gateway.record_of(refused.request_id()).await;
    assert_eq!(record["client_addr"], "127.0.0.1");
    assert_eq!(record["http_method"], "POST");
    assert_eq!(record["trace_id"], Value::Null);
    assert_eq!(record["bytes_in"], Value::Null, "its body was not read");
    for name in ["user_agent", "path"] {
        let text = record[name].as_str().unwrap();
        assert!(text.len() < 400 && text.contains("bytes, blake3 "), "{name}: {text}");
    }

    let mut raw = Raw::connect(&gateway.proxy).await;
    raw.send("NOT A REQUEST\r\n\r\n").await;
    let refused = raw.answer().await.unwrap();
    let record = gateway.record_of(refused.request_id()).await;
    assert_eq!(record["client_addr"], "127.0.0.1", "{record}");
    assert_eq!(record["path"], Value::Null, "a head that is none has no path");
}

#[tokio::test]
async fn the_client_is_the_last_hop_that_no_trusted_proxy_added() {
    let chain = ("X-Forwarded-For", "6.6.6.6, 192.0.2.1, 127.0.0.9");
    for (trusted, expected) in [("[]", "127.0.0.1"), (r#"["127.0.0.0/8"]"#, "192.0.2.1")] {
        let setup = Setup::default().with("proxy.trusted_proxies", trusted);
        let gateway = Gateway::start(setup).await;
        let session = gateway.session(json!({})).await;
        let mut raw = Raw::connect(&gateway.proxy).await;
        let call = tool_call("read_file", json!({}));
        raw.send(request_with(&gateway, &session, &[chain], &call)).await;
        let answer = raw.answer().await.unwrap();
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["client_addr"], expected, "trusted: {trusted}");
    }
}

#[tokio::test]
async fn a_credential_in_a_head_is_not_on_record() {
    const SECRET: &str = "a-long-enough-secret-value";
    let mut setup = Setup::default()
        .with("credentials.provider", "\"env\"")
        .with("credentials.env_prefix", "\"IN_HEAD_\"");
    setup.env.push(("IN_HEAD_TOKEN", SECRET.to_owned()));
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let call = tool_call("read_file", json!({}));
    let request = gateway.request_to(&format!("/mcp/{SECRET}"), &session, call);
    let answer = gateway.send(request.header("user-agent", SECRET)).await;
    let record = gateway.record_of(answer.request_id()).await;
    assert!(!record.to_string().contains(SECRET), "{record}");
    assert_eq!(record["user_agent"], "[CREDENTIAL]");
    assert_eq!(record["path"], "/mcp/[CREDENTIAL]");
}

#[tokio::test]
async fn what_a_client_answers_or_notifies_leaves_method_length_and_hash() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"p": 1}});
    let response = json!({"jsonrpc": "2.0", "id": 7, "result": {"text": "x".repeat(100_000)}});
    for (message, method) in [(note, json!("notifications/progress")), (response, Value::Null)] {
        let body = message.to_string();
        let answer = gateway.call(&session, body.clone()).await;
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["authorization_decision"], "allow", "{record}");
        assert_eq!(record["mcp_method"], method);
        assert_eq!(record["bytes_in"], body.len());
        let hash = blake3::hash(body.as_bytes()).to_hex();
        let expected = format!("...[{} bytes, blake3 {hash}]", body.len());
        assert_eq!(record["arguments"], expected);
    }
}
