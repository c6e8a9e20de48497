//! Costs that one agent with a valid token may cause: refusals, places, memory, and bugs it can provoke.

use std::time::{Duration, Instant};

use axum::body::Body;
use serde_json::{Value, json};

use crate::support::harness::{Gateway, Setup, eventually, tool_call, with_headers};
use crate::support::raw::{Raw, request_with};

/// Records of an agent by their code: those of its own, and the counts of those that were folded.
fn counted(gateway: &Gateway, agent: &str, code: &str) -> (u64, u64) {
    let (mut own, mut folded) = (0, 0);
    for record in gateway.records() {
        if record["agent_id"] != agent || record["denial_code"] != code {
            continue;
        }
        match record["detail"]["count"].as_u64() {
            Some(count) => folded += count,
            None => own += 1,
        }
    }
    (own, folded)
}

#[tokio::test]
async fn refusals_of_one_agent_have_a_rate_and_every_one_is_counted() {
    let mut gateway =
        Gateway::start(Setup::default().with("proxy.max_refusals_per_agent_per_sec", 5)).await;
    let session = gateway.session(json!({})).await;
    let good = tool_call("read_file", json!({}));
    let secretive = tool_call("read_file", json!({"path": "not for the log"}));
    let (mut unknown, mut too_many) = (0, 0);
    let began = Instant::now();
    for _ in 0..60 {
        let answer = gateway.call("00000000-0000-4000-8000-000000000000", secretive.clone()).await;
        match answer.code().as_str() {
            "SessionUnknown" => unknown += 1,
            "TooManyRefusals" => {
                assert_eq!(answer.status, 429);
                assert_eq!(answer.json()["id"], Value::Null, "answered from the head alone");
                assert_eq!(answer.header("retry-after"), Some("1"));
                too_many += 1;
            }
            other => panic!("{other}"),
        }
    }
    // Four seconds' worth, and what came back meanwhile.
    let refilled = began.elapsed().as_millis() * 5 / 1_000;
    assert!((20..=21 + refilled).contains(&unknown), "{unknown} of 60");
    assert_eq!(gateway.call(&session, good.clone()).await.code(), "TooManyRefusals");

    // Nobody else is refused, and the agent itself is well again.
    let first = gateway.agent.clone();
    gateway.agent = gateway.register(json!({})).await;
    let other = gateway.session(json!({})).await;
    assert_eq!(gateway.call(&other, good.clone()).await.status, 200);
    gateway.agent = first.clone();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.call(&session, good.clone()).await.status, 200);

    let folded = eventually(|| async {
        (counted(&gateway, &first.id, "TooManyRefusals") == (0, too_many + 1)).then_some(())
    });
    assert!(folded.await.is_some(), "{:?}", counted(&gateway, &first.id, "TooManyRefusals"));
    assert_eq!(u128::from(counted(&gateway, &first.id, "SessionUnknown").0), unknown);
    let text = std::fs::read_to_string(gateway.audit_file()).unwrap();
    assert!(!text.contains("not for the log"), "no arguments before the session is known");
}

/// A token that has expired proves nothing about who sends it now.
#[tokio::test]
async fn a_revoked_token_uses_up_nothing_of_its_agent() {
    let gateway = Gateway::start(
        Setup::default()
            .with("proxy.max_refusals_per_agent_per_sec", 1)
            .with("audit.max_unauthenticated_records_per_sec", 10),
    )
    .await;
    let session = gateway.session(json!({})).await;
    let path = format!("/agents/{}/token", gateway.agent.id);
    let (_, minted) = gateway.admin("POST", &path, Some(json!({"expiry_seconds": 1}))).await;
    let old = minted["token"].as_str().unwrap().to_owned();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let good = tool_call("read_file", json!({}));
    for _ in 0..50 {
        let token = format!("Bearer {old}");
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(request_with(&gateway, &session, &[("Authorization", &token)], &good)).await;
        assert_eq!(raw.answer().await.unwrap().code(), "TokenExpired");
    }
    assert_eq!(gateway.call(&session, good).await.status, 200);
    let own = |record: &Value| record["denial_code"] == "TokenExpired" && record["event"].is_null();
    let own = gateway.records().iter().filter(|record| own(record)).count();
    assert!((10..50).contains(&own), "{own}");
}

/// Bodies whose end is withheld fill the agent's own part of the memory, and only for a while.
#[tokio::test]
async fn withheld_bodies_fill_the_part_of_their_agent() {
    const MEMORY: usize = 8 * 1024 * 1024;
    let setup = Setup::default()
        .with("proxy.max_request_body_bytes", MEMORY / 16)
        .with("proxy.max_in_flight_body_bytes", MEMORY)
        .with("proxy.min_body_rate_bytes", 1_000_000);
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let half = "x".repeat(MEMORY / 32);
    let length = (MEMORY / 16).to_string();
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..8 {
        let mut raw = Raw::connect(&gateway.proxy).await;
        let sent = request_with(&gateway, &session, &[("Content-Length", &length)], &half);
        raw.send(sent).await;
        held.push(raw);
        // Bodies that grow at once could all be cut off before four of them have their half.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // An eighth of the memory is four halves of the largest body.
    let long = tool_call("read_file", json!({"path": "x".repeat(70_000)}));
    let full = eventually(|| async {
        (gateway.call(&session, long.clone()).await.code() == "TooManyInFlight").then_some(())
    });
    full.await.unwrap();
    let first = gateway.agent.clone();
    gateway.agent = gateway.register(json!({})).await;
    let other = gateway.session(json!({})).await;
    assert_eq!(gateway.call(&other, long.clone()).await.status, 200);
    for raw in &mut held {
        let answer = raw.answer().await.unwrap();
        match answer.code().as_str() {
            "RequestTooSlow" => assert_eq!(answer.status, 408),
            "TooManyInFlight" => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(refused, 4);
    gateway.agent = first;
    assert_eq!(gateway.call(&session, long).await.status, 200);
}

/// A bug that a request runs into is answered, recorded, and touches no other call.
#[tokio::test]
async fn a_panic_stays_inside_its_request() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let large = "x".repeat(100_000);
    let mut connection = Raw::connect(&gateway.proxy).await;
    let tool = json!({"name": "read_file", "description": large});
    let list = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [tool]}}).to_string();
    gateway.upstream.answer_with(move |_| {
        with_headers(200, &[("content-type", "application/json")], Body::from(list.clone()))
    });
    let call = |path| tool_call("read_file", json!({"path": path}));
    let ask = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    for (place, body) in [
        ("judge", call("a")),
        ("bulk", call(&large)),
        ("answer", call("a")),
        ("event", call("a")),
        ("apart", ask),
    ] {
        let before = gateway.metric("arbiter_denials_total{code=\"InternalError\"}").await;
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(request_with(&gateway, &session, &[("x-arbiter-failpoint", place)], &body)).await;
        let answer = raw.answer().await.unwrap_or_else(|| panic!("{place}"));
        assert_eq!((answer.status, answer.code().as_str()), (500, "InternalError"), "{place}");
        assert_eq!(answer.json()["error"]["code"], -32603, "{place}");
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["denial_code"], "InternalError", "{place}: {record}");
        assert_eq!(record["failure_category"], "infrastructure", "{place}: {record}");
        let after = eventually(|| async {
            let now = gateway.metric("arbiter_denials_total{code=\"InternalError\"}").await;
            (now > before).then_some(now)
        });
        assert!((after.await.unwrap() - before - 1.0).abs() < 0.1, "{place}");
        // Another connection that was open all the time.
        let good = tool_call("read_file", json!({}));
        connection.send(request_with(&gateway, &session, &[], &good)).await;
        assert_eq!(connection.answer().await.unwrap().status, 200, "{place}");
    }
}

/// Beyond the agent's bytes a second, arguments are recorded by length and hash.
#[tokio::test]
async fn arguments_beyond_the_agents_rate_are_recorded_by_length_and_hash() {
    let setup = Setup::default().with("audit.max_bytes_per_agent_per_sec", 2_000);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let mut brief = 0;
    for _ in 0..8 {
        let body = tool_call("read_file", json!({"path": "y".repeat(1_000)}));
        let answer = gateway.call(&session, body).await;
        assert_eq!(answer.status, 200);
        let record = gateway.record_of(answer.request_id()).await;
        if record["arguments"]["truncated"] == true {
            assert_eq!(record["arguments"]["bytes"], 1_011, "{record}");
            assert_eq!(record["arguments"]["blake3"].as_str().unwrap().len(), 64);
            brief += 1;
        }
    }
    assert!((2..=6).contains(&brief), "{brief}");
}
