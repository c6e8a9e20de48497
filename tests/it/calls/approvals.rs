//! Calls that a person has to approve: bound to the exact call, used exactly as often as approved.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::harness::{Answer, Gateway, Setup, eventually, tool_call};

const POLICIES: &str = r#"
[[policies]]
id = "read"
effect = "allow"
allowed_tools = ["read_file", "delete_file", "pay"]

[[policies]]
id = "ask-before-deleting"
effect = "escalate"
allowed_tools = ["delete_*", "pay"]
priority = 900
"#;

async fn start(setup: Setup) -> (Gateway, String) {
    let gateway = Gateway::start(setup.policies(POLICIES)).await;
    let order = json!({
        "declared_intent": "manage reports", "authorized_tools": ["read_file", "delete_file", "pay"],
        "call_budget": 5,
    });
    let session = gateway.session(order).await;
    (gateway, session)
}

fn delete(path: &str) -> String {
    tool_call("delete_file", json!({"path": path}))
}

fn approval_id(answer: &Answer) -> String {
    answer.json()["error"]["data"]["approval_id"].as_str().unwrap().to_owned()
}

async fn decide(gateway: &Gateway, id: &str, body: Value) -> (u16, Value) {
    gateway.admin("POST", &format!("/approvals/{id}"), Some(body)).await
}

async fn show(gateway: &Gateway, id: &str) -> Value {
    gateway.admin("GET", &format!("/approvals/{id}"), None).await.1
}

#[tokio::test]
async fn an_approved_call_passes_once_and_no_other_does() {
    let (gateway, session) = start(Setup::default()).await;
    let asked = gateway.call(&session, delete("/a")).await;
    assert_eq!((asked.status, asked.code().as_str()), (403, "EscalationRequired"));
    let id = approval_id(&asked);
    assert!(asked.json()["error"]["data"]["expires_at"].is_string());
    // Spelt otherwise it is the same call, and another one is another.
    let again = r#"{"id":9,"params":{"_meta":{"progressToken":3},"arguments":{"p\u0061th":"/a"},"name":"delete_file"},"method":"tools/call","jsonrpc":"2.0"}"#;
    assert_eq!(approval_id(&gateway.call(&session, again).await), id);
    assert_ne!(approval_id(&gateway.call(&session, delete("/b")).await), id);

    let pending = show(&gateway, &id).await;
    assert_eq!(pending["status"], "pending");
    assert_eq!(
        (&pending["tool"], &pending["target"]),
        (&json!("delete_file"), &json!("delete_file"))
    );
    assert_eq!(pending["arguments"]["arguments"]["path"], "/a");
    assert_eq!(pending["policy"], "ask-before-deleting");
    assert_eq!(pending["declared_intent"], "manage reports");
    let (_, list) = gateway.admin("GET", "/approvals?status=pending&limit=1", None).await;
    assert_eq!(list["approvals"][0]["approval_id"], *id);
    assert!(list["next_cursor"].is_string());

    let (status, decided) = decide(&gateway, &id, json!({"decision": "approve"})).await;
    assert_eq!(
        (status, &decided["status"], &decided["uses_left"]),
        (200, &json!("approved"), &json!(1))
    );
    assert_eq!(decide(&gateway, &id, json!({"decision": "deny"})).await.0, 409);
    let passed = gateway.call(&session, again).await;
    assert_eq!(passed.status, 200);
    assert_eq!(gateway.upstream.calls(), 1);
    let record = gateway.record_of(passed.request_id()).await;
    assert_eq!((&record["approval_id"], &record["approved_by"]), (&json!(id), &json!("admin")));
    assert_eq!(show(&gateway, &id).await["status"], "used");
    assert_ne!(approval_id(&gateway.call(&session, delete("/a")).await), id);

    // Three asks counted, and the first of them paid for the use; the last ask counted too.
    let (_, session_now) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    assert_eq!(session_now["calls_made"], 4);
    let events: Vec<_> = gateway
        .records()
        .into_iter()
        .filter_map(|record| {
            Some((record["event"].as_str()?.to_owned(), record["detail"]["approval_id"].clone()))
        })
        .filter(|(event, of)| event.starts_with("approval.") && *of == *id)
        .map(|(event, _)| event)
        .collect();
    assert_eq!(events, ["approval.requested", "approval.approved", "approval.used"]);
}

#[tokio::test]
async fn the_last_call_of_a_budget_can_be_asked_about_and_made() {
    let (gateway, _) = start(Setup::default()).await;
    let order =
        json!({"declared_intent": "manage", "authorized_tools": ["delete_file"], "call_budget": 1});
    let session = gateway.session(order).await;
    let id = approval_id(&gateway.call(&session, delete("/a")).await);
    assert_eq!(gateway.call(&session, delete("/a")).await.code(), "BudgetExhausted");
    decide(&gateway, &id, json!({"decision": "approve", "uses": 2})).await;
    assert_eq!(gateway.call(&session, delete("/a")).await.status, 200);
    assert_eq!(gateway.call(&session, delete("/a")).await.code(), "BudgetExhausted");
}

#[tokio::test]
async fn a_denied_call_stays_denied() {
    let (gateway, session) = start(Setup::default()).await;
    let id = approval_id(&gateway.call(&session, delete("/a")).await);
    let reasoned = json!({"decision": "deny", "reason": "not today"});
    assert_eq!(decide(&gateway, &id, reasoned).await.0, 200);
    let refused = gateway.call(&session, delete("/a")).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "ApprovalDenied"));
    assert_eq!(approval_id(&refused), id);
    assert_eq!(show(&gateway, &id).await["reason"], "not today");
    let record = gateway.record_of(refused.request_id()).await;
    assert_eq!((&record["approval_id"], &record["approved_by"]), (&json!(id), &Value::Null));
    assert_eq!(gateway.upstream.calls(), 0);
}

#[tokio::test]
async fn fifty_retries_at_once_use_an_approval_once() {
    let (gateway, _) = start(Setup::default()).await;
    let order =
        json!({"declared_intent": "manage", "authorized_tools": ["pay"], "call_budget": 200});
    let session = gateway.session(order).await;
    let pay = tool_call("pay", json!({"amount": 100}));
    let id = approval_id(&gateway.call(&session, pay.clone()).await);
    decide(&gateway, &id, json!({"decision": "approve"})).await;
    let tries =
        futures::future::join_all((0..50).map(|_| gateway.call(&session, pay.clone()))).await;
    assert_eq!(tries.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(gateway.upstream.calls(), 1);
}

#[tokio::test]
async fn a_batch_passes_when_all_of_it_is_approved() {
    let (gateway, session) = start(Setup::default()).await;
    let batch = format!(
        "[{},{}]",
        delete("/a").replace("\"id\":1", "\"id\":2"),
        tool_call("read_file", json!({}))
    );
    let send = || {
        gateway.send(
            gateway.request(&session, batch.clone()).header("MCP-Protocol-Version", "2025-03-26"),
        )
    };
    let asked = send().await;
    assert_eq!(asked.code(), "EscalationRequired");
    let ids = asked.json()["error"]["data"]["approval_ids"].as_array().unwrap().clone();
    assert_eq!(ids.len(), 1);
    assert!(asked.json()["error"]["message"].as_str().unwrap().contains("approval_ids"));
    decide(&gateway, ids[0].as_str().unwrap(), json!({"decision": "approve"})).await;
    assert_eq!(send().await.status, 200);
    assert_eq!(send().await.code(), "EscalationRequired");
}

#[tokio::test]
async fn what_a_person_is_not_shown_is_marked_and_beyond_64_kib_needs_a_reason() {
    let (gateway, session) = start(Setup::default()).await;
    let ask = async |arguments: Value| {
        let asked = gateway.call(&session, tool_call("delete_file", arguments)).await;
        show(&gateway, &approval_id(&asked)).await
    };
    let first = ask(json!({"password": "hunter2", "path": "/a"})).await;
    let mark = first["arguments"]["arguments"]["password"].as_str().unwrap().to_owned();
    assert!(mark.starts_with("[REDACTED 7 bytes, "), "{mark}");
    assert_eq!(first["arguments_clipped"], false);
    let again = ask(json!({"path": "/b", "password": "hunter2"})).await;
    assert_eq!(again["arguments"]["arguments"]["password"], *mark);
    let long = ask(json!({"path": "/a", "text": "x".repeat(70_000)})).await;
    assert_eq!(long["arguments_clipped"], true);
    let text = long["arguments"]["arguments"]["text"].as_str().unwrap();
    assert!(text.starts_with(&"x".repeat(65_000)) && text.contains(" [CLIPPED 70002 bytes, "));
    let id = long["approval_id"].as_str().unwrap();
    let (status, refused) = decide(&gateway, id, json!({"decision": "approve"})).await;
    assert_eq!((status, &refused["field"]), (400, &json!("reason")));
    let reasoned = json!({"decision": "approve", "reason": "seen elsewhere"});
    assert_eq!(decide(&gateway, id, reasoned).await.0, 200);
}

#[tokio::test]
async fn nobody_is_asked_about_a_call_that_could_not_learn_of_the_answer() {
    let (gateway, session) = start(Setup::default()).await;
    let notification = delete("/a").replace("\"id\":1,", "");
    assert!(!notification.contains("\"id\""), "{notification}");
    let refused = gateway.call(&session, notification).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "EscalationRequired"));
    let error = refused.json()["error"].clone();
    assert!(error["data"].get("approval_id").is_none(), "{error}");
    assert!(error["message"].as_str().unwrap().contains("an id and a session"), "{error}");
    let (_, list) = gateway.admin("GET", "/approvals", None).await;
    assert_eq!(list["approvals"], json!([]));
}

#[tokio::test]
async fn too_many_asks_wait_and_a_closed_session_frees_them() {
    let (gateway, session) =
        start(Setup::default().with("approvals.max_pending_per_agent", 2)).await;
    for path in ["/a", "/b"] {
        assert_eq!(gateway.call(&session, delete(path)).await.code(), "EscalationRequired");
    }
    let refused = gateway.call(&session, delete("/c")).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "TooManyApprovals"));
    assert!(refused.header("retry-after").is_some());
    gateway.admin("DELETE", &format!("/sessions/{session}"), None).await;
    let (_, list) = gateway.admin("GET", "/approvals?status=void", None).await;
    assert_eq!(list["approvals"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_held_call_waits_for_its_decision() {
    let (gateway, session) = start(Setup::default().with("approvals.hold_secs", 30)).await;
    let held = gateway.call(&session, delete("/a"));
    let decided = async {
        let id = eventually(|| async {
            let (_, list) = gateway.admin("GET", "/approvals?status=pending", None).await;
            list["approvals"][0]["approval_id"].as_str().map(str::to_owned)
        });
        let id = id.await.unwrap();
        // A person thinks, which is not the gateway's share of the call.
        let thinks = Instant::now();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let decided = decide(&gateway, &id, json!({"decision": "approve"})).await;
        (thinks.elapsed(), decided)
    };
    let (answer, (thought, (status, _))) = tokio::join!(held, decided);
    assert_eq!((answer.status, status), (200, 200));
    let share = eventually(|| async {
        let calls = gateway.metric("arbiter_overhead_seconds_count").await;
        let sum = gateway.metric("arbiter_overhead_seconds_sum").await;
        (calls > 0.0).then_some(sum)
    });
    assert!(share.await.expect("counted") < thought.as_secs_f64());
    let (_, session_now) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    assert_eq!(session_now["calls_made"], 1);
}

#[tokio::test]
async fn a_held_call_is_judged_again_by_what_is_in_force() {
    let (gateway, session) = start(Setup::default().with("approvals.hold_secs", 30)).await;
    let pending = || {
        eventually(|| async {
            let (_, list) = gateway.admin("GET", "/approvals?status=pending", None).await;
            list["approvals"][0]["approval_id"].as_str().map(str::to_owned)
        })
    };
    let held = gateway.call(&session, delete("/a"));
    let deactivated = async {
        let id = pending().await.unwrap();
        let (status, _) =
            gateway.admin("DELETE", &format!("/agents/{}", gateway.agent.id), None).await;
        assert_eq!(status, 200);
        id
    };
    let (answer, id) = tokio::join!(held, deactivated);
    assert_eq!(answer.code(), "AgentInactive");
    assert_eq!(show(&gateway, &id).await["status"], "void");
}

#[tokio::test]
async fn a_client_that_leaves_withdraws_its_held_call() {
    let gateway = Arc::new(start(Setup::default().with("approvals.hold_secs", 30)).await);
    let (asking, call) = (Arc::clone(&gateway), delete("/a"));
    let held = tokio::spawn(async move { asking.0.call(&asking.1, call).await });
    let gateway = &gateway.0;
    let pending = eventually(|| async {
        let (_, list) = gateway.admin("GET", "/approvals?status=pending", None).await;
        list["approvals"][0]["approval_id"].as_str().map(str::to_owned)
    });
    let id = pending.await.expect("asked");
    held.abort();
    let withdrawn =
        eventually(|| async { (show(gateway, &id).await["status"] == "withdrawn").then_some(()) });
    withdrawn.await.expect("withdrawn long before its 30 s are over");
    assert_eq!(decide(gateway, &id, json!({"decision": "approve"})).await.0, 409);
    let left = eventually(|| async {
        gateway.records().into_iter().find(|record| {
            record["anomaly_flags"]
                .as_array()
                .is_some_and(|flags| flags.contains(&json!("broken_off")))
        })
    });
    assert_eq!(left.await.expect("on record")["tool_called"], "delete_file");
    assert_eq!(gateway.upstream.calls(), 0);
}

#[tokio::test]
async fn held_calls_take_the_places_of_their_agent_and_nobody_elses() {
    let setup = Setup::default()
        .with("approvals.hold_secs", 60)
        .with("proxy.max_calls_in_flight", 1_024)
        .with("proxy.max_share_per_agent_pct", 0.2);
    let (mut gateway, session) = start(setup).await;
    let read = || tool_call("read_file", json!({}));
    let leaves = tokio::spawn(gateway.request(&session, delete("/a")).send());
    let stays = tokio::spawn(gateway.request(&session, delete("/b")).send());
    let pending = async |gateway: &Gateway, status: &str| {
        let (_, list) = gateway.admin("GET", &format!("/approvals?status={status}"), None).await;
        list["approvals"].as_array().unwrap().clone()
    };
    let both = eventually(|| async {
        let asked = pending(&gateway, "pending").await;
        (asked.len() == 2).then_some(())
    });
    both.await.expect("both are held");
    assert!((gateway.metric("arbiter_calls_in_flight").await - 2.0).abs() < 0.1);
    let refused = gateway.call(&session, read()).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "TooManyInFlight"));
    assert!(refused.header("retry-after").is_some());
    let first = gateway.agent.clone();
    gateway.agent = gateway.register(json!({})).await;
    let other = gateway.session(json!({})).await;
    assert_eq!(gateway.call(&other, read()).await.status, 200, "another agent has its own");
    gateway.agent = first;

    leaves.abort();
    let withdrawn = eventually(|| async { pending(&gateway, "withdrawn").await.pop() });
    assert_eq!(withdrawn.await.expect("withdrawn")["arguments"]["arguments"]["path"], "/a");
    let place =
        eventually(|| async { (gateway.call(&session, read()).await.status == 200).then_some(()) });
    place.await.expect("the place of who left is free");
    let id = pending(&gateway, "pending").await[0]["approval_id"].as_str().unwrap().to_owned();
    assert_eq!(decide(&gateway, &id, json!({"decision": "approve"})).await.0, 200);
    assert_eq!(stays.await.unwrap().unwrap().status(), 200);
    assert_eq!(gateway.upstream.calls(), 3, "the other agent's, the free place's, the held one");
}
