//! Continuations in a fleet: a task or a round that began at one node goes on at every other, for its
//! session alone.

use serde_json::json;

use super::nodes::{nodes, setup};
use crate::calls::rounds::{asks, round};
use crate::calls::tasks::{ask, call, id, tasks};
use crate::support::redis_server::Redis;

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_for_its_session_at_every_node() {
    let redis = Redis::start();
    let nodes = nodes(2, || setup(&redis.url())).await;
    let [first, second] = &nodes[..] else { panic!("two nodes") };
    first.upstream.answer_with(asks);
    let theirs = first.register(json!({})).await;
    let mine = first.session(json!({})).await;
    let foreign = first.session(json!({"agent_id": theirs.id})).await;
    let begun = round(first, &first.agent, &mine, json!({})).await;
    let state = json!({"requestState": begun.json()["result"]["requestState"]});
    let answer = round(second, &first.agent, &mine, state.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = second.record_of(answer.request_id()).await;
    assert_eq!(record["continues"], begun.request_id());
    for node in [first, second] {
        let answer = round(node, &theirs, &foreign, state.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "ContinuationUnknown"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_on_at_another_node_for_its_session_alone() {
    let redis = Redis::start();
    let nodes = nodes(2, || setup(&redis.url())).await;
    let [first, second] = &nodes[..] else { panic!("two nodes") };
    first.upstream.answer_with(tasks);
    let theirs = first.register(json!({})).await;
    let listens = json!(["subscriptions/listen"]);
    let ours = json!({"authorized_methods": listens, "authorized_resources": ["file:///ours/*"]});
    let mine = first.session(ours).await;
    let foreign = json!({"agent_id": theirs.id, "authorized_methods": listens});
    let foreign = first.session(foreign).await;
    for version in ["2026-07-28", "2025-11-25"] {
        ask(first, &first.agent, &mine, version, "tools/call", call(false)).await;
        for node in [first, second] {
            let answer = ask(node, &first.agent, &mine, version, "tasks/get", id()).await;
            assert!(answer.json()["result"].is_object(), "{version} {answer:?}");
            for method in ["tasks/get", "tasks/cancel", "tasks/update"] {
                let answer = ask(node, &theirs, &foreign, version, method, id()).await;
                let error = &answer.json()["error"];
                assert_eq!(error["code"], -32602, "{version} {answer:?}");
                let never = json!({"taskId": "never begun"});
                let never = ask(node, &theirs, &foreign, version, method, never).await;
                assert_eq!(error["message"], never.json()["error"]["message"], "{version}");
            }
        }
    }
    let before = first.upstream.calls() + second.upstream.calls();
    for node in [first, second] {
        let listen = async |notifications: serde_json::Value| {
            let params = json!({"notifications": notifications});
            ask(node, &theirs, &foreign, "2026-07-28", "subscriptions/listen", params).await
        };
        let answer = listen(json!({"taskIds": ["t-1"]})).await;
        assert_eq!(answer.json()["error"]["code"], -32602, "{answer:?}");
        let answer = listen(json!({"resourceSubscriptions": ["file:///ours/a"]})).await;
        assert_eq!(answer.code(), "ResourceNotAuthorized", "{answer:?}");
    }
    assert_eq!(first.upstream.calls() + second.upstream.calls(), before);
    let listed = ask(second, &first.agent, &mine, "2025-11-25", "tasks/list", json!({})).await;
    assert_eq!(listed.json()["result"]["tasks"].as_array().unwrap().len(), 1);
}
