//! A request is judged when all of it is here: what changes while its body is on the way counts.

use std::time::Duration;

use serde_json::json;

use crate::support::harness::{Gateway, Setup, tool_call};
use crate::support::raw::Raw;

/// Sends the head of a call and keeps its body back.
async fn begun(gateway: &Gateway, session: &str, body: &str) -> Raw {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nx-agent-id: {}\r\n\
         x-arbiter-session: {session}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\n\r\n",
        gateway.agent.token,
        gateway.agent.id,
        body.len()
    );
    let mut raw = Raw::connect(&gateway.proxy).await;
    raw.send(head).await;
    // The gateway asks for the body only when it has looked at the head.
    raw.until("100 Continue\r\n\r\n").await.expect("the body is asked for");
    raw
}

async fn status_of(raw: &mut Raw, body: &str) -> String {
    raw.send(body).await;
    let line = raw.until("\r\n").await.expect("there is an answer");
    String::from_utf8(line).unwrap().split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn what_is_revoked_while_a_body_is_on_its_way_is_revoked() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let body = tool_call("read_file", json!({}));
    let mut control = begun(&gateway, &session, &body).await;
    assert_eq!(status_of(&mut control, &body).await, "200");

    let mut raw = begun(&gateway, &session, &body).await;
    let path = format!("/agents/{}", gateway.agent.id);
    assert_eq!(gateway.admin("DELETE", &path, None).await.0, 200);
    assert_eq!(status_of(&mut raw, &body).await, "403");
    assert_eq!(gateway.upstream.calls(), 1);
}

#[tokio::test]
async fn a_demotion_while_a_body_is_on_its_way_counts() {
    let policies = "[[policies]]\nid = \"v\"\neffect = \"allow\"\nallowed_tools = [\"read_file\"]\n\
        [policies.agent_match]\ntrust_level = \"basic\"\n";
    let gateway = Gateway::start(Setup::default().policies(policies)).await;
    let session = gateway.session(json!({})).await;
    let body = tool_call("read_file", json!({}));
    let mut raw = begun(&gateway, &session, &body).await;
    let path = format!("/agents/{}/trust", gateway.agent.id);
    let lower = json!({"trust_level": "untrusted"});
    assert_eq!(gateway.admin("PUT", &path, Some(lower)).await.0, 200);
    assert_eq!(status_of(&mut raw, &body).await, "403");
    assert_eq!(gateway.upstream.calls(), 0);
}

#[tokio::test]
async fn a_session_that_ends_while_a_body_is_on_its_way_has_ended() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({"time_limit_secs": 1})).await;
    let body = tool_call("read_file", json!({}));
    let mut raw = begun(&gateway, &session, &body).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(status_of(&mut raw, &body).await, "408");
    assert_eq!(gateway.upstream.calls(), 0);
}

/// A length is only a claim: thirty idle requests for ten megabytes each take nobody's room.
#[tokio::test]
async fn bodies_that_do_not_come_take_no_memory() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let large = "x".repeat(10 * 1024 * 1024);
    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.push(begun(&gateway, &session, &large).await);
    }
    let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
    assert_eq!(answer.status, 200, "{}", answer.code());
    drop(idle);
}
