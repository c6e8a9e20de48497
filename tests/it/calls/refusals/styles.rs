//! The other form of a refusal, `refusal_style = "result"`: what is read by models that never see an
//! HTTP error.

use serde_json::{Value, json};

use crate::support::harness::{Answer, Gateway, Setup};

const MODERN: &str = "2026-07-28";

fn message(id: Option<Value>, method: &str, params: Value) -> Value {
    let mut message = json!({"jsonrpc": "2.0", "method": method, "params": params});
    if let Some(id) = id {
        message["id"] = id;
    }
    message
}

fn unlisted(id: Option<Value>) -> Value {
    message(id, "tools/call", json!({"name": "unlisted", "arguments": {}}))
}

async fn send(gateway: &Gateway, session: &str, message: &Value) -> Answer {
    gateway.call(session, message.to_string()).await
}

async fn recorded(gateway: &Gateway, answer: &Answer) {
    let record = gateway.record_of(answer.request_id()).await;
    assert_eq!(record["authorization_decision"], "deny");
    assert_eq!(record["denial_code"], "ToolNotAuthorized");
    assert_eq!(record["failure_category"], "governance");
}

async fn check_results(gateway: &Gateway, session: &str) {
    let answer = send(gateway, session, &unlisted(Some(json!("x-1")))).await;
    let body = answer.json();
    assert_eq!((answer.status, &body["id"]), (200, &json!("x-1")), "{body}");
    let result = &body["result"];
    assert_eq!(result["isError"], true);
    assert!(result["content"][0]["text"].as_str().unwrap().contains("authorized_tools"));
    let refusal = &result["_meta"]["arbiter/refusal"];
    assert_eq!(refusal["code"], "ToolNotAuthorized");
    assert_eq!(refusal["request_id"], answer.request_id());
    assert!(result.get("resultType").is_none());
    recorded(gateway, &answer).await;

    let mut modern = unlisted(Some(json!(7)));
    modern["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let request = gateway
        .request(session, modern.to_string())
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", "tools/call")
        .header("mcp-name", "unlisted");
    let answer = gateway.send(request).await;
    let result = &answer.json()["result"];
    assert_eq!((answer.status, &result["resultType"]), (200, &json!("complete")), "{answer:?}");

    let read = message(Some(json!(8)), "resources/read", json!({"uri": "file:///x"}));
    let answer = send(gateway, session, &read).await;
    let body = answer.json();
    assert_eq!((answer.status, &body["id"]), (200, &json!(8)), "{body}");
    assert_eq!(body["error"]["data"]["code"], "ResourceNotAuthorized");

    let answer = send(gateway, session, &unlisted(None)).await;
    assert_eq!((answer.status, answer.body.len()), (202, 0));
    recorded(gateway, &answer).await;

    // Without an id that could be echoed it is the HTTP form: a batch, and whatever was not read.
    let batch = json!([unlisted(Some(json!(1))), unlisted(Some(json!(2)))]);
    let answer = send(gateway, session, &batch).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "ToolNotAuthorized"));
    assert_eq!(answer.json()["id"], Value::Null);
    let answer = gateway.call(session, "{").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "MalformedRequest"));
    let unknown = "0b0e1f57-5d3f-4b0c-8a0f-0d1f8a6d2b11";
    let answer = send(gateway, unknown, &unlisted(Some(json!(1)))).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "SessionUnknown"));
    assert_eq!(gateway.upstream.calls(), 0);
}

async fn check_statuses(gateway: &Gateway, session: &str) {
    let answer = send(gateway, session, &unlisted(Some(json!(1)))).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "ToolNotAuthorized"));
    recorded(gateway, &answer).await;
    let answer = send(gateway, session, &unlisted(None)).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "ToolNotAuthorized"));
    assert_eq!(answer.json()["id"], Value::Null);
}

#[tokio::test]
async fn results_by_session_in_a_gateway_of_statuses() {
    let gateway = Gateway::start(Setup::default()).await;
    check_results(&gateway, &gateway.session(json!({"refusal_style": "result"})).await).await;
    check_statuses(&gateway, &gateway.session(json!({})).await).await;
}

#[tokio::test]
async fn statuses_by_session_in_a_gateway_of_results() {
    let setup = Setup::default().with("proxy.refusal_style", "\"result\"");
    let gateway = Gateway::start(setup).await;
    check_results(&gateway, &gateway.session(json!({})).await).await;
    check_statuses(&gateway, &gateway.session(json!({"refusal_style": "http"})).await).await;
}
