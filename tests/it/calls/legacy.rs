//! GET and DELETE of the 2025 era: refused unless the operator wants them, and then judged.

use std::sync::Mutex;

use axum::body::Body;
use serde_json::json;

use crate::support::harness::{
    Agent, Gateway, Setup, events, read_until, stream_response, tool_call, with_headers,
};

const EVENTS: &str = "text/event-stream";

fn served() -> Setup {
    Setup::default().with("proxy.legacy_streams", true)
}

#[tokio::test]
async fn by_default_only_post_is_served() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    for method in ["GET", "DELETE", "PUT", "OPTIONS"] {
        let request = gateway.bare(method, &session).header("accept", EVENTS);
        let answer = gateway.send(request).await;
        assert_eq!((answer.status, answer.code().as_str()), (405, "MethodNotAllowed"), "{method}");
        assert_eq!(answer.header("allow"), Some("POST"));
    }
    assert_eq!(gateway.upstream.calls(), 0);
}

#[tokio::test]
async fn a_stream_is_opened_filtered_scrubbed_and_on_record() {
    let mut setup = served();
    setup.env = vec![
        ("ARBITER_CREDENTIALS__PROVIDER", "env".to_owned()),
        ("ARBITER_CRED_up", "the-upstreams-own-secret".to_owned()),
        ("ARBITER_PROXY__UPSTREAM_HEADERS", r#"{"x-key":"${CRED:up}"}"#.to_owned()),
    ];
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let mcp_session = gateway.mcp_session(&session, "s-1").await;
    let (sender, body) = events();
    let body = Mutex::new(Some(body));
    gateway
        .upstream
        .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
    let request = gateway
        .bare("GET", &session)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-session-id", mcp_session)
        .header("last-event-id", "e-1")
        .header("mcp-protocol-version", "2025-11-25");
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let request_id = response.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    // Each event is sent only after the one before has come through.
    let tell = |text: &str| sender.send(text.to_owned()).unwrap();
    tell("id: e-2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n");
    let first = read_until(&mut response, "\n\n").await;
    assert_eq!(first, "id: e-2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n");
    tell(
        "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"rm\"},{\"name\":\"read_file\"}]}}\n\n",
    );
    let list = read_until(&mut response, "\n\n").await;
    assert!(list.contains("read_file") && !list.contains("rm"), "{list}");
    tell("data: the-upstreams-own-secret\n\n");
    assert_eq!(read_until(&mut response, "\n\n").await, "data: [CREDENTIAL]\n\n");
    drop(sender);
    assert_eq!(read_until(&mut response, "never").await, "");
    let seen = &gateway.upstream.seen()[1];
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/mcp"));
    assert_eq!(seen.headers["mcp-session-id"], "s-1");
    assert_eq!(seen.headers["last-event-id"], "e-1");
    assert!(!seen.headers.contains_key("authorization"));
    assert!(!seen.headers.contains_key("content-length"));
    let record = gateway.record_of(&request_id).await;
    assert_eq!(record["mcp_method"], "GET");
    assert_eq!(record["authorization_decision"], "allow");
    assert_eq!(record["upstream_status"], 200);
    assert_eq!(record["credentials_scrubbed"], 1);
    assert_eq!(record["task_session_id"], session.as_str());
}

#[tokio::test]
async fn a_session_of_the_upstream_can_be_ended() {
    let gateway = Gateway::start(served()).await;
    let session = gateway.session(json!({})).await;
    let mcp_session = gateway.mcp_session(&session, "s-1").await;
    gateway.upstream.answer_with(|_| with_headers(204, &[], Body::empty()));
    let session = gateway.session(json!({})).await;
    let request = gateway.bare("DELETE", &session).header("mcp-session-id", mcp_session);
    let answer = gateway.send(request).await;
    assert_eq!(answer.status, 204);
    let seen = &gateway.upstream.seen()[1];
    assert_eq!(seen.headers["mcp-session-id"], "s-1");
    assert_eq!((seen.method.as_str(), seen.body.len()), ("DELETE", 0));
    assert_eq!(gateway.record_of(answer.request_id()).await["mcp_method"], "DELETE");
    // Nothing of it counts as a tool call.
    let (_, shown) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    assert_eq!(shown["calls_made"], 0);
}

#[tokio::test]
async fn both_pass_every_check_of_identity_session_and_policy() {
    let gateway = Gateway::start(served()).await;
    let session = gateway.session(json!({})).await;
    let closed = gateway.session(json!({})).await;
    gateway.admin("DELETE", &format!("/sessions/{closed}"), None).await;
    let other = gateway.register(json!({})).await;
    for method in ["GET", "DELETE"] {
        let ask = |session: &str| gateway.bare(method, session).header("accept", EVENTS);
        let as_agent = |Agent { id, token }: &Agent| {
            gateway
                .client
                .request(method.parse().unwrap(), format!("http://{}/", gateway.proxy))
                .header("accept", EVENTS)
                .header("x-arbiter-session", &session)
                .header("x-agent-id", id)
                .bearer_auth(token)
        };
        let url = format!("http://{}/", gateway.proxy);
        let nobody = gateway.client.request(method.parse().unwrap(), &url).header("accept", EVENTS);
        let only_token = nobody.try_clone().unwrap().bearer_auth(&gateway.agent.token);
        for (request, status, code) in [
            (nobody, 401, "TokenMissing"),
            (only_token, 403, "SessionRequired"),
            (ask("00000000-0000-4000-8000-000000000000"), 403, "SessionUnknown"),
            (ask(&closed), 408, "SessionClosed"),
            (as_agent(&other), 403, "AgentMismatch"),
            (ask(&session).header("mcp-protocol-version", "2026-07-28"), 405, "MethodNotAllowed"),
            (ask(&session).header("mcp-method", "tools/call"), 400, "HeaderMismatch"),
            (ask(&session).header("origin", "https://evil.example"), 403, "OriginDenied"),
            (ask(&session).body("x"), 400, "MalformedRequest"),
        ] {
            let answer = gateway.send(request).await;
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method}");
            assert_eq!(gateway.record_of(answer.request_id()).await["denial_code"], code);
        }
    }
    let plain = gateway.send(gateway.bare("GET", &session).header("accept", "*/*")).await;
    assert_eq!((plain.status, plain.header("allow")), (405, Some("GET, POST, DELETE")));
    assert_eq!(gateway.upstream.calls(), 0);
    // The connection is of use after all that.
    assert_eq!(gateway.call(&session, tool_call("read_file", json!({}))).await.status, 200);
}

#[tokio::test]
async fn without_a_policy_that_allows_anything_no_stream_is_opened() {
    let deny = "[[policies]]\nid = \"no\"\neffect = \"deny\"\nallowed_tools = [\"*\"]\n";
    let gateway = Gateway::start(served().policies(deny)).await;
    let session = gateway.session(json!({})).await;
    for method in ["GET", "DELETE"] {
        let answer = gateway.send(gateway.bare(method, &session).header("accept", EVENTS)).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "PolicyDenied"));
    }
    assert_eq!(gateway.upstream.calls(), 0);
}

#[tokio::test]
async fn an_answer_that_is_no_stream_does_not_pass_for_one() {
    let gateway = Gateway::start(served()).await;
    let session = gateway.session(json!({})).await;
    let ask = || gateway.send(gateway.bare("GET", &session).header("accept", EVENTS));
    assert_eq!(ask().await.code(), "UpstreamFailed");
    gateway.upstream.answer_with(|_| with_headers(405, &[("allow", "POST")], Body::empty()));
    let answer = ask().await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
}
