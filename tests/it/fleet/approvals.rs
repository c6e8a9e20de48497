//! Approvals of several gateways on one Redis, and over a kill: used exactly as often as a person said.

use std::time::{Duration, Instant};

use serde_json::json;

use super::nodes::{nodes, setup};
use crate::support::harness::{ASK_BEFORE_PAYING, Gateway, Setup, eventually, tool_call};
use crate::support::redis_server::Redis;

fn pay(amount: usize) -> String {
    tool_call("pay", json!({"amount": amount}))
}

async fn session(node: &Gateway) -> String {
    let order =
        json!({"declared_intent": "manage", "authorized_tools": ["pay"], "call_budget": 900});
    node.session(order).await
}

async fn ask(node: &Gateway, session: &str, amount: usize) -> String {
    let asked = node.call(session, pay(amount)).await;
    asked.json()["error"]["data"]["approval_id"].as_str().unwrap().to_owned()
}

async fn decide(node: &Gateway, id: &str, decision: &str) {
    let body = json!({"decision": decision});
    let (status, said) = node.admin("POST", &format!("/approvals/{id}"), Some(body)).await;
    assert_eq!(status, 200, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn four_nodes_use_an_approval_once() {
    let redis = Redis::start();
    let nodes = nodes(4, || setup(&redis.url()).policies(ASK_BEFORE_PAYING)).await;
    let session = session(&nodes[0]).await;
    let id = ask(&nodes[0], &session, 100).await;
    // Asked elsewhere, and decided at a third node, before either can have heard of it.
    assert_eq!(ask(&nodes[1], &session, 100).await, id);
    decide(&nodes[2], &id, "approve").await;
    let since = Instant::now();
    let known = eventually(|| async {
        let (_, shown) = nodes[3].admin("GET", &format!("/approvals/{id}"), None).await;
        (shown["status"] == "approved").then_some(())
    });
    known.await.expect("known everywhere");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let tries = nodes.iter().flat_map(|node| {
        let session = &session;
        (0..50).map(move |_| node.call(session, pay(100)))
    });
    let answers = futures::future::join_all(tries).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(nodes[0].upstream.calls(), 1);

    let denied = ask(&nodes[0], &session, 200).await;
    decide(&nodes[0], &denied, "deny").await;
    let refused = eventually(|| async {
        (nodes[1].call(&session, pay(200)).await.code() == "ApprovalDenied").then_some(())
    });
    refused.await.expect("denied everywhere");
    // Closing frees what waits, wherever it was asked.
    ask(&nodes[1], &session, 300).await;
    nodes[0].admin("DELETE", &format!("/sessions/{session}"), None).await;
    let freed = eventually(|| async {
        let (_, list) = nodes[2].admin("GET", "/approvals?status=pending", None).await;
        list["approvals"].as_array().unwrap().is_empty().then_some(())
    });
    freed.await.expect("freed everywhere");
}

#[tokio::test]
async fn a_kill_never_gives_a_use_back() {
    let mut gateway = Gateway::start(Setup::default().policies(ASK_BEFORE_PAYING)).await;
    let session = session(&gateway).await;
    let (used, denied) = (ask(&gateway, &session, 1).await, ask(&gateway, &session, 2).await);
    let waits = ask(&gateway, &session, 3).await;
    decide(&gateway, &used, "approve").await;
    decide(&gateway, &denied, "deny").await;
    assert_eq!(gateway.call(&session, pay(1)).await.status, 200);
    gateway.kill();
    gateway.start_again();
    assert_ne!(ask(&gateway, &session, 1).await, used);
    assert_eq!(gateway.call(&session, pay(2)).await.code(), "ApprovalDenied");
    assert_eq!(ask(&gateway, &session, 3).await, waits);
    decide(&gateway, &waits, "approve").await;
    gateway.kill();
    gateway.start_again();
    assert_eq!(gateway.call(&session, pay(3)).await.status, 200);
    assert_eq!(gateway.upstream.calls(), 2);
}
