//! State that outlives the process, ended properly or not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::chain;
use crate::support::harness::{Agent, Gateway, Setup, refuses_to_start, tool_call};

/// State before the end, to be found again after it.
struct Before {
    session: String,
    closed: String,
    gone: Agent,
    revoked: String,
    calls: u64,
}

async fn prepare(gateway: &mut Gateway) -> Before {
    let session = gateway.session(json!({"call_budget": 100})).await;
    let closed = gateway.session(json!({})).await;
    gateway.admin("DELETE", &format!("/sessions/{closed}"), None).await;
    let gone = gateway.register(json!({})).await;
    gateway.admin("DELETE", &format!("/agents/{}", gone.id), None).await;
    let path = format!("/agents/{}/token", gateway.agent.id);
    let (_, issued) = gateway.admin("POST", &path, Some(json!({}))).await;
    let text = |key: &str| issued[key].as_str().unwrap().to_owned();
    gateway.admin("DELETE", &format!("/tokens/{}", text("jti")), None).await;
    for _ in 0..3 {
        assert_eq!(gateway.call(&session, tool_call("read_file", json!({}))).await.status, 200);
    }
    Before { session, closed, gone, revoked: text("token"), calls: 3 }
}

async fn calls_made(gateway: &Gateway, session: &str) -> u64 {
    let (status, shown) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    assert_eq!(status, 200, "{shown}");
    shown["calls_made"].as_u64().unwrap()
}

async fn look(gateway: &Gateway, before: &Before) {
    let call = tool_call("read_file", json!({}));
    assert_eq!(gateway.call(&before.session, call.clone()).await.status, 200);
    assert_eq!(gateway.call(&before.closed, call.clone()).await.code(), "SessionClosed");
    let as_agent = |agent: &str, token: &str| {
        let request = gateway
            .client
            .post(format!("http://{}/", gateway.proxy))
            .bearer_auth(token)
            .header("x-agent-id", agent)
            .header("x-arbiter-session", &before.session)
            .header("content-type", "application/json")
            .body(call.clone());
        gateway.send(request)
    };
    assert_eq!(as_agent(&before.gone.id, &before.gone.token).await.code(), "AgentInactive");
    assert_eq!(as_agent(&gateway.agent.id, &before.revoked).await.code(), "TokenInvalid");
    let (status, agent) =
        gateway.admin("GET", &format!("/agents/{}", gateway.agent.id), None).await;
    assert_eq!((status, &agent["owner"]), (200, &json!("user:test")));
}

#[tokio::test]
async fn a_clean_stop_forgets_nothing_and_counts_exactly() {
    let mut gateway = Gateway::start(Setup::default()).await;
    let before = prepare(&mut gateway).await;
    gateway.stop();
    let records = chain::check(&gateway.audit_file());
    gateway.start_again();
    assert_eq!(calls_made(&gateway, &before.session).await, before.calls);
    look(&gateway, &before).await;
    gateway.stop();
    assert!(chain::check(&gateway.audit_file()) > records);
}

#[tokio::test]
async fn a_kill_forgets_nothing_and_never_counts_too_little() {
    let mut gateway = Gateway::start(Setup::default()).await;
    let before = prepare(&mut gateway).await;
    gateway.kill();
    gateway.start_again();
    let counted = calls_made(&gateway, &before.session).await;
    // At most one lease is lost, a fiftieth of the budget.
    assert!((before.calls..=before.calls + 2).contains(&counted), "{counted}");
    look(&gateway, &before).await;
    gateway.stop();
    chain::check(&gateway.audit_file());
}

/// Calls until told to stop or refused for good.
async fn press(
    client: reqwest::Client,
    url: String,
    agent: Agent,
    session: String,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::SeqCst) {
        let sent = client
            .post(&url)
            .bearer_auth(&agent.token)
            .header("x-agent-id", &agent.id)
            .header("x-arbiter-session", &session)
            .header("content-type", "application/json")
            .body(tool_call("read_file", json!({})))
            .send()
            .await;
        match sent {
            Ok(answer) if answer.status() == 200 => {}
            Ok(answer) => {
                assert_eq!(answer.status(), 429);
                return;
            }
            // The process is gone.
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_it_spends_no_more_than_the_budget_and_records_every_call() {
    const BUDGET: usize = 500;
    const CALLERS: usize = 20;
    let mut gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({"call_budget": BUDGET})).await;
    for round in 0..4 {
        let stop = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let url = format!("http://{}/", gateway.proxy);
                let (client, agent) = (gateway.client.clone(), gateway.agent.clone());
                tokio::spawn(press(client, url, agent, session.clone(), stop.clone()))
            })
            .collect();
        // Three times in the middle of it, then until the budget is spent.
        if round < 3 {
            let so_far = gateway.upstream.calls();
            gateway.upstream.wait_for_calls(so_far + 60).await;
            gateway.kill();
            stop.store(true, Ordering::SeqCst);
        }
        for caller in callers {
            caller.await.unwrap();
        }
        if round < 3 {
            gateway.start_again();
            let made = calls_made(&gateway, &session).await;
            assert!(made >= gateway.upstream.calls() as u64, "{made} {}", gateway.upstream.calls());
        }
    }
    let calls = gateway.upstream.calls();
    assert!(calls > 180 && calls <= BUDGET, "{calls}");
    let refused = gateway.call(&session, tool_call("read_file", json!({}))).await;
    assert_eq!(refused.code(), "BudgetExhausted");
    gateway.stop();
    chain::check(&gateway.audit_file());

    let mut records: BTreeMap<String, usize> = BTreeMap::new();
    for record in gateway.records().iter().filter(|r| r["authorization_decision"] == "allow") {
        *records.entry(record["request_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    for seen in gateway.upstream.seen() {
        let id = seen.headers["x-arbiter-request-id"].to_str().unwrap();
        assert_eq!(records.get(id), Some(&1), "{id}");
    }
}

#[tokio::test]
async fn a_second_process_is_told_at_once_who_has_the_store_and_the_log() {
    let gateway = Gateway::start(Setup::default().with("storage.backend", "\"sqlite\"")).await;
    let file = |name: &str| json!(gateway.folder.path().join(name).display().to_string());
    let holder = format!("in use by process {}", gateway.pid());
    let setup = Setup::default()
        .with("storage.backend", "\"sqlite\"")
        .with("storage.sqlite_path", file("arbiter.db"));
    let began = Instant::now();
    let (code, said) = refuses_to_start(&setup).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("arbiter.db") && said.contains(&holder), "{said}");
    let (code, said) =
        refuses_to_start(&Setup::default().with("audit.file_path", file("audit.jsonl"))).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("audit.jsonl") && said.contains(&holder), "{said}");
    // Two starts of a debug build on a busy machine; each once waited 5 s for the file alone.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_start_without_policies_says_so_in_the_log() {
    let gateway = Gateway::start(Setup::default().with("policy.file", "-")).await;
    let log = std::fs::read_to_string(gateway.folder.path().join("log.txt")).unwrap();
    assert!(
        log.contains("`policy.file`: there is no policy, so every request is refused"),
        "{log}"
    );
}
