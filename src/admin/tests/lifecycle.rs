//! An operator's day: agents, delegations, tokens, sessions, and their records.

use super::delegation::delegate;
use super::*;

#[tokio::test]
async fn an_agent_is_registered_shown_and_listed() {
    let bench = Bench::new().await;
    let id = bench.agent(&["read"]).await;
    let told = bench.get(&format!("/agents/{id}")).await;
    assert_eq!(told.body["id"], id.as_str());
    assert_eq!(told.body["owner"], "user:alice");
    assert_eq!(told.body["trust_level"], "basic");
    assert_eq!(
        (&told.body["active"], &told.body["capabilities"]),
        (&json!(true), &json!(["read"]))
    );
    assert_eq!(told.body["created_at"], "2027-01-15T08:00:00.000000Z");
    assert!(told.body.get("expires_at").is_none());
}

#[tokio::test]
async fn lists_come_in_pages() {
    let bench = Bench::new().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(bench.agent(&[]).await);
        bench.admin.clock.advance_us(1);
    }
    let mut seen = Vec::new();
    let mut path = "/agents?limit=2".to_owned();
    loop {
        let told = bench.get(&path).await;
        let page = told.body["agents"].as_array().unwrap();
        assert!(page.len() <= 2);
        seen.extend(page.iter().map(|agent| agent["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = told.body["next_cursor"].as_str() else { break };
        path = format!("/agents?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, made);
}

#[tokio::test]
async fn deactivating_takes_delegates_and_sessions_along() {
    let bench = Bench::new().await;
    let (alice, bob) = (bench.agent(&["read"]).await, bench.agent(&["read"]).await);
    let carol = bench.agent(&["read"]).await;
    assert_eq!(delegate(&bench, &alice, &bob, &["read"]).await.status, 201);
    let session = bench.session(&bob).await.body["session_id"].as_str().unwrap().to_owned();
    let told = bench.call("DELETE", &format!("/agents/{alice}"), None).await;
    assert_eq!(told.status, 200);
    let mut gone: Vec<_> = told.body["deactivated"].as_array().unwrap().clone();
    gone.sort_by_key(ToString::to_string);
    let mut expected = [json!(alice), json!(bob)];
    expected.sort_by_key(ToString::to_string);
    assert_eq!(gone, expected);
    assert_eq!(told.body["sessions_closed"], 1);
    assert_eq!(bench.get(&format!("/sessions/{session}")).await.body["status"], "closed");
    assert_eq!(bench.get(&format!("/agents/{bob}")).await.body["active"], false);
    assert_eq!(bench.get(&format!("/agents/{carol}")).await.body["active"], true);
    bench.session(&bob).await.is(409, "AgentInactive");
    let token = bench.post(&format!("/agents/{bob}/token"), json!({})).await;
    token.is(409, "AgentInactive");
    let again = bench.call("DELETE", &format!("/agents/{alice}"), None).await;
    assert_eq!((again.status.as_u16(), &again.body["deactivated"]), (200, &json!([])));
}

#[tokio::test]
async fn trust_is_set_by_an_operator() {
    let bench = Bench::new().await;
    let id = bench.agent(&[]).await;
    let body = Some(json!({"trust_level": "trusted"}));
    let told = bench.call("PUT", &format!("/agents/{id}/trust"), body).await;
    assert_eq!((told.status.as_u16(), &told.body["trust_level"]), (200, &json!("trusted")));
    assert_eq!(told.body["id"], id.as_str());
}

#[tokio::test]
async fn tokens_are_issued_and_revoked() {
    let bench = Bench::new().await;
    let id = bench.agent(&[]).await;
    let path = format!("/agents/{id}/token");
    let told = bench.post(&path, json!({"expiry_seconds": 60})).await;
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(told.body["token"].as_str().unwrap().split('.').count(), 3);
    assert_eq!(told.body["expires_at"], "2027-01-15T08:01:00.000000Z");
    assert_eq!(bench.call("POST", &path, Some(json!({}))).await.status, 200);
    let jti = told.body["jti"].as_str().unwrap();
    assert!(!bench.admin.registry.is_revoked(jti));
    let told = bench.call("DELETE", &format!("/tokens/{jti}"), None).await;
    assert_eq!((told.status.as_u16(), &told.body["status"]), (200, &json!("revoked")));
    assert!(bench.admin.registry.is_revoked(jti));
    assert_eq!(bench.call("DELETE", &format!("/tokens/{jti}"), None).await.status, 200);
}

#[tokio::test]
async fn a_session_is_opened_looked_at_and_closed() {
    let bench = Bench::new().await;
    let agent = bench.agent(&[]).await;
    let told = bench
        .post(
            "/sessions",
            json!({
                "agent_id": agent, "declared_intent": "update the wiki",
                "authorized_tools": ["read_page", "update_page"], "time_limit_secs": 1_800,
                "call_budget": 100, "rate_limit_per_minute": 30, "data_sensitivity": "public",
            }),
        )
        .await;
    assert_eq!(told.status, 201, "{told:?}");
    assert_eq!(told.body["expires_at"], "2027-01-15T08:30:00.000000Z");
    let path = format!("/sessions/{}", told.body["session_id"].as_str().unwrap());
    let shown = bench.get(&path).await.body;
    for (field, value) in [
        ("agent_id", json!(agent)),
        ("declared_intent", json!("update the wiki")),
        ("intent_tier", json!("write")),
        ("authorized_tools", json!(["read_page", "update_page"])),
        ("calls_made", json!(0)),
        ("call_budget", json!(100)),
        ("remaining", json!(100)),
        ("rate_limit_per_minute", json!(30)),
        ("data_sensitivity", json!("public")),
        ("status", json!("active")),
        ("delegation_chain", json!([agent])),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    bench.admin.metrics.tool_call(None, "update_page");
    let metrics = bench.get("/metrics").await.text;
    assert!(metrics.contains(r#"arbiter_tool_calls_total{tool="update_page"} 1"#));
    let told = bench.call("DELETE", &path, None).await;
    assert_eq!((told.status.as_u16(), told.body), (200, json!({"status": "closed"})));
    assert_eq!(bench.get(&path).await.body["status"], "closed");
    assert_eq!(bench.call("DELETE", &path, None).await.status, 200);
}

#[tokio::test]
async fn sessions_are_listed_by_agent_and_status() {
    let bench = Bench::new().await;
    let (alice, bob) = (bench.agent(&[]).await, bench.agent(&[]).await);
    let first = bench.session(&alice).await.body["session_id"].as_str().unwrap().to_owned();
    bench.admin.clock.advance_us(1);
    bench.session(&alice).await;
    bench.session(&bob).await;
    bench.call("DELETE", &format!("/sessions/{first}"), None).await;
    let count = async |query: &str| {
        let told = bench.get(&format!("/sessions{query}")).await;
        told.body["sessions"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 3);
    assert_eq!(count(&format!("?agent_id={alice}")).await, 2);
    assert_eq!(count(&format!("?agent_id={alice}&status=active")).await, 1);
    assert_eq!(count("?status=closed").await, 1);
    assert_eq!(count(&format!("?cursor={first}")).await, 2);
    assert_eq!(count("?limit=2").await, 2);
    bench.admin.clock.advance_us(3_601_000_000);
    assert_eq!(count("?status=expired").await, 2);
}

#[tokio::test]
async fn the_cap_of_sessions_holds() {
    let bench = Bench::new().await;
    let agent = bench.agent(&[]).await;
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..25 {
        let (router, agent) = (bench.router.clone(), agent.clone());
        opening.spawn(async move {
            let body = json!({
                "agent_id": agent, "declared_intent": "read", "authorized_tools": ["a"],
            });
            let request = Request::post("/sessions")
                .header("x-api-key", KEY)
                .header(CONTENT_TYPE, "application/json")
                .body(Body::from(body.to_string()));
            router.oneshot(request.unwrap()).await.unwrap().status().as_u16()
        });
    }
    let mut statuses = opening.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![201; 10], vec![429; 15]].concat());
    bench.session(&agent).await.is(429, "TooManySessions");
}

#[tokio::test]
async fn a_session_does_not_outlive_its_agent() {
    let bench = Bench::new().await;
    let body = json!({"owner": "o", "model": "m", "expires_at": "2027-01-15T08:10:00Z"});
    let told = bench.post("/agents", body).await;
    assert_eq!(told.body["token_expires_at"], "2027-01-15T08:10:00.000000Z");
    let told = bench.session(told.body["agent_id"].as_str().unwrap()).await;
    assert_eq!(told.body["expires_at"], "2027-01-15T08:10:00.000000Z");
}

#[tokio::test]
async fn a_store_that_fails_is_told_and_nothing_seems_given() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["read"]).await;
    bench.store.refuse_writes(true).await;
    bench.session(&agent).await.is(503, "StoreUnavailable");
    let body = json!({"owner": "o", "model": "m"});
    bench.post("/agents", body).await.is(503, "StoreUnavailable");
    let raise = Some(json!({"trust_level": "trusted"}));
    let told = bench.call("PUT", &format!("/agents/{agent}/trust"), raise).await;
    told.is(503, "StoreUnavailable");
    bench.store.refuse_writes(false).await;
    assert_eq!(bench.get(&format!("/agents/{agent}")).await.body["trust_level"], "basic");
    assert_eq!(bench.session(&agent).await.status, 201);
}

#[tokio::test]
async fn what_is_taken_away_is_gone_whatever_the_store_says() {
    let bench = Bench::new().await;
    let (alice, bob) = (bench.agent(&["read"]).await, bench.agent(&["read"]).await);
    let carol = bench.agent(&[]).await;
    assert_eq!(delegate(&bench, &alice, &bob, &["read"]).await.status, 201);
    let session = bench.session(&bob).await.body["session_id"].as_str().unwrap().to_owned();
    let carols = bench.session(&carol).await.body["session_id"].as_str().unwrap().to_owned();
    let in_force = |told: Told| {
        told.is(503, "StoreUnavailable");
        assert!(told.body["message"].as_str().unwrap().starts_with("this is in force"), "{told:?}");
        assert_eq!(told.retry_after.as_deref(), Some("1"));
    };
    bench.store.refuse_writes(true).await;
    in_force(bench.call("DELETE", &format!("/agents/{alice}"), None).await);
    for agent in [&alice, &bob] {
        assert_eq!(bench.get(&format!("/agents/{agent}")).await.body["active"], false);
        bench.session(agent).await.is(409, "AgentInactive");
    }
    assert_eq!(bench.get(&format!("/sessions/{session}")).await.body["status"], "closed");
    let lower = Some(json!({"trust_level": "untrusted"}));
    in_force(bench.call("PUT", &format!("/agents/{carol}/trust"), lower).await);
    assert_eq!(bench.get(&format!("/agents/{carol}")).await.body["trust_level"], "untrusted");
    in_force(bench.call("DELETE", "/tokens/some-token", None).await);
    assert!(bench.admin.registry.is_revoked("some-token"));
    in_force(bench.call("DELETE", &format!("/sessions/{carols}"), None).await);
    assert_eq!(bench.get(&format!("/sessions/{carols}")).await.body["status"], "closed");
    bench.store.refuse_writes(false).await;
    let again = bench.call("DELETE", &format!("/agents/{alice}"), None).await;
    assert_eq!((again.status.as_u16(), &again.body["deactivated"]), (200, &json!([])));
    let stored = bench.store.agents().await.unwrap();
    assert_eq!(stored.iter().filter(|stored| stored.agent.active).count(), 1);

    let records = bench.records();
    let told: Vec<_> = records
        .iter()
        .filter(|record| record["denial_code"] == "StoreUnavailable")
        .map(|record| (record["event"].as_str().unwrap(), record["outcome"].as_str().unwrap()))
        .collect();
    let events = ["agent.deactivate", "agent.trust", "token.revoke", "session.close"];
    assert_eq!(told, events.map(|event| (event, "completed")));
}

#[tokio::test]
async fn every_change_is_on_record_and_nothing_else_is() {
    let bench = Bench::new().await;
    let (alice, bob) = (bench.agent(&["read"]).await, bench.agent(&["read"]).await);
    delegate(&bench, &alice, &bob, &["read"]).await;
    delegate(&bench, &bob, &alice, &["read"]).await.is(400, "DelegationCycle");
    let trust = Some(json!({"trust_level": "trusted"}));
    bench.call("PUT", &format!("/agents/{alice}/trust"), trust).await;
    let told = bench.post(&format!("/agents/{alice}/token"), json!({})).await;
    let jti = told.body["jti"].as_str().unwrap().to_owned();
    bench.call("DELETE", &format!("/tokens/{jti}"), None).await;
    let session = bench.session(&alice).await.body["session_id"].as_str().unwrap().to_owned();
    bench.call("DELETE", &format!("/sessions/{session}"), None).await;
    bench.call("POST", "/policy/reload", None).await;
    bench.call("DELETE", &format!("/agents/{alice}"), None).await;
    // None of these changes anything.
    bench.get("/agents").await;
    bench.post("/agents", json!({"owner": ""})).await.is(400, "InvalidField");
    bench.post("/policy/validate", json!({"toml": ""})).await;
    let records = bench.records();
    let told: Vec<_> = records
        .iter()
        .map(|record| (record["event"].as_str().unwrap(), record["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("agent.register", "completed"),
            ("agent.register", "completed"),
            ("agent.delegate", "completed"),
            ("agent.delegate", "refused"),
            ("agent.trust", "completed"),
            ("token.issue", "completed"),
            ("token.revoke", "completed"),
            ("session.open", "completed"),
            ("session.close", "completed"),
            ("policy.reload", "completed"),
            ("agent.deactivate", "completed"),
        ]
    );
    assert_eq!(records[0]["agent_id"], alice.as_str());
    assert_eq!(records[0]["principal"], "admin");
    assert_eq!(records[3]["denial_code"], "DelegationCycle");
    assert_eq!(records[3]["authorization_decision"], "deny");
    let detail = json!({"from": "basic", "to": "trusted", "role": "admin"});
    assert_eq!(records[4]["detail"], detail);
    assert_eq!(records[6]["detail"]["jti"], jti.as_str());
    assert_eq!(records[7]["task_session_id"], session.as_str());
}

#[tokio::test]
async fn a_log_that_was_moved_is_reopened_and_reported() {
    let bench = Bench::new().await;
    let missing = bench.get("/audit/checkpoint").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND, "{missing:?}");
    let log = bench.dir.path().join("audit.jsonl");
    bench.post("/audit/reopen", json!({})).await;
    std::fs::rename(&log, bench.dir.path().join("moved")).unwrap();
    let told = bench.call("POST", "/audit/reopen", None).await;
    assert_eq!(told.status, StatusCode::OK, "{told:?}");
    assert_eq!(told.body["healthy"], true);
    assert!(log.exists());
    bench.admin.audit.close();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("\"event\":\"audit.reopen\""), "{text}");
}
