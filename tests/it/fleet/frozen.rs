//! Freezes in a fleet: what one node is told to stop, all refuse within a second, under load and after a kill.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;

use super::nodes::{SOON, call, call_as, nodes, setup};
use crate::support::harness::{Gateway, eventually};
use crate::support::redis_server::Redis;

#[tokio::test]
async fn a_freeze_at_one_node_stops_calls_at_all() {
    let redis = Redis::start();
    let nodes = nodes(2, || setup(&redis.url())).await;
    let session = nodes[0].session(json!({})).await;
    let agent = nodes[0].agent.clone();
    assert_eq!(call_as(&nodes[1], &agent, &session).await.status, 200);
    let body = json!({"scope": "agent", "value": agent.id, "reason": "an incident"});
    let (status, frozen) = nodes[0].admin("POST", "/freeze", Some(body)).await;
    assert_eq!(status, 201, "{frozen}");
    let since = Instant::now();
    let refused = eventually(async || {
        let answer = call_as(&nodes[1], &agent, &session).await;
        (answer.status == 403).then(|| answer.code())
    });
    assert_eq!(refused.await.as_deref(), Some("Frozen"));
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    let path = format!("/freeze/{}", frozen["freeze_id"].as_str().unwrap());
    assert_eq!(nodes[1].admin("DELETE", &path, None).await.0, 200);
    let served = eventually(async || {
        (call_as(&nodes[0], &agent, &session).await.status == 200).then_some(())
    });
    assert_eq!(served.await, Some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_under_load_is_in_force_at_four_nodes_and_outlives_a_kill() {
    let redis = Redis::start();
    let mut nodes = nodes(4, || setup(&redis.url())).await;
    let session = nodes[0].session(json!({"call_budget": 100_000})).await;
    let served = AtomicUsize::new(0);
    // Each caller goes on until it is refused, and gives the time and the code.
    let until_refused = async |node: &Gateway| {
        loop {
            let answer = node.call(&session, call()).await;
            if answer.status != 200 {
                return (Instant::now(), answer.code());
            }
            served.fetch_add(1, Ordering::SeqCst);
        }
    };
    let freeze = async {
        let loaded = eventually(async || (served.load(Ordering::SeqCst) > 200).then_some(()));
        assert_eq!(loaded.await, Some(()));
        let body = json!({"scope": "tool", "value": "read_file", "reason": "an incident"});
        assert_eq!(nodes[0].admin("POST", "/freeze", Some(body)).await.0, 201);
        Instant::now()
    };
    let callers = nodes.iter().flat_map(|node| [node; 4]).map(&until_refused);
    let (since, refusals) = tokio::join!(freeze, futures::future::join_all(callers));
    for (at, code) in refusals {
        assert_eq!(code, "Frozen");
        assert!(at.saturating_duration_since(since) < SOON, "{:?}", at - since);
    }
    let reached = nodes[0].upstream.calls();
    assert_eq!(reached, served.load(Ordering::SeqCst));
    nodes[3].kill();
    nodes[3].start_again();
    for node in &nodes {
        assert_eq!(node.call(&session, call()).await.code(), "Frozen");
    }
    assert_eq!(nodes[0].upstream.calls(), reached);
}
