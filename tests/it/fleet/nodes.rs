//! Several gateways on one Redis: what they spend together, and how soon each knows what another was
//! told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::harness::{
    Agent, Answer, Gateway, Setup, Upstream, eventually, json_response, tool_call,
};
use crate::support::redis_server::{Line, Redis};

/// Time limit of a change's propagation to other nodes.
pub(super) const SOON: Duration = Duration::from_secs(1);

pub(super) fn call() -> String {
    tool_call("read_file", json!({}))
}

pub(super) fn setup(url: &str) -> Setup {
    Setup::default()
        .with("storage.backend", "\"redis\"")
        .with("storage.redis_url", format!("\"{url}\""))
}

/// Nodes before one upstream, all with the first one's agent.
pub(super) async fn nodes(count: usize, setup: impl Fn() -> Setup) -> Vec<Gateway> {
    let upstream = Upstream::start().await;
    let mut nodes: Vec<Gateway> = Vec::new();
    for _ in 0..count {
        let mut node = Gateway::start_before(upstream.clone(), setup()).await;
        if let Some(first) = nodes.first() {
            node.agent = first.agent.clone();
        }
        nodes.push(node);
    }
    nodes
}

/// Calls from every node with some callers each until each was refused; how many were admitted, and
/// what the refusals said.
async fn call_until_refused(
    nodes: &[Gateway],
    session: &str,
    callers: usize,
) -> (usize, Vec<String>) {
    let admitted = AtomicUsize::new(0);
    let codes = Mutex::new(Vec::new());
    let one = async |node: &Gateway| {
        loop {
            let answer = node.call(session, call()).await;
            if answer.status != 200 {
                codes.lock().unwrap().push(answer.code());
                return;
            }
            admitted.fetch_add(1, Ordering::SeqCst);
        }
    };
    let all = nodes.iter().flat_map(|node| (0..callers).map(|_| one(node)));
    futures::future::join_all(all).await;
    (admitted.into_inner(), codes.into_inner().unwrap())
}

/// Returns the time until a call is answered with this code.
async fn until_code(node: &Gateway, session: &str, code: &str) -> Duration {
    let since = Instant::now();
    let refused = eventually(|| async {
        let answer = node.call(session, call()).await;
        (answer.code() == code).then_some(())
    });
    refused.await.unwrap_or_else(|| panic!("never {code}"));
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_nodes_spend_a_budget_exactly() {
    let redis = Redis::start();
    let nodes = nodes(4, || setup(&redis.url())).await;
    let session = nodes[0].session(json!({"call_budget": 10_000})).await;
    let (admitted, codes) = call_until_refused(&nodes, &session, 8).await;
    assert!(codes.iter().all(|code| code == "BudgetExhausted"), "{codes:?}");
    assert_eq!(admitted, 10_000);
    assert_eq!(nodes[0].upstream.calls(), 10_000);
    let path = format!("/sessions/{session}");
    for node in &nodes {
        let (_, shown) = node.admin("GET", &path, None).await;
        assert_eq!(shown["calls_made"], 10_000, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_call_is_reachable_from_any_node_at_once() {
    let redis = Redis::start();
    let nodes = nodes(3, || setup(&redis.url())).await;
    for last in &nodes {
        let session = nodes[0].session(json!({"call_budget": 1000})).await;
        // A session that was opened a moment ago elsewhere works, and leaves a lease on each node.
        for node in &nodes {
            assert_eq!(node.call(&session, call()).await.status, 200);
        }
        let (admitted, _) = call_until_refused(std::slice::from_ref(last), &session, 1).await;
        assert_eq!(admitted, 997);
        nodes[1].admin("DELETE", &format!("/sessions/{session}"), None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_holds_for_the_sum() {
    const WINDOW: Duration = Duration::from_secs(5);
    const LIMIT: usize = 40;
    let redis = Redis::start();
    let setup = || setup(&redis.url()).with("sessions.rate_limit_window_secs", 5);
    let nodes = nodes(4, setup).await;
    let seen: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let times = Arc::clone(&seen);
    nodes[0].upstream.answer_with(move |_seen| {
        times.lock().unwrap().push(Instant::now());
        json_response("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}")
    });
    let order = json!({"call_budget": 100_000, "rate_limit_per_minute": LIMIT});
    let session = nodes[0].session(order).await;
    let end = Instant::now() + 4 * WINDOW;
    let caller = async |node: &Gateway| {
        while Instant::now() < end {
            let answer = node.call(&session, call()).await;
            if answer.status != 200 {
                assert_eq!(answer.code(), "RateLimited");
                assert!(answer.header("retry-after").is_some());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    futures::future::join_all(nodes.iter().map(caller)).await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    for (first, &at) in seen.iter().enumerate() {
        let in_window = seen[first..].iter().take_while(|&&later| later < at + WINDOW).count();
        assert!(in_window <= LIMIT, "{in_window} in one window");
    }
    assert!(seen.len() >= 3 * LIMIT, "{} in four windows", seen.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_is_told_all_know_within_a_second() {
    let redis = Redis::start();
    let policies = "[[policies]]\nid = \"trusted\"\neffect = \"allow\"\nallowed_tools = [\"*\"]\n\
                    [policies.agent_match]\ntrust_level = \"basic\"\n";
    let nodes = nodes(2, || setup(&redis.url()).policies(policies)).await;
    let [here, there] = &nodes[..] else { panic!("two") };

    let session = here.session(json!({})).await;
    assert_eq!(there.call(&session, call()).await.status, 200);
    let (status, _) = here.admin("DELETE", &format!("/sessions/{session}"), None).await;
    assert_eq!(status, 200);
    assert_eq!(here.call(&session, call()).await.code(), "SessionClosed", "at once");
    let took = until_code(there, &session, "SessionClosed").await;
    assert!(took < SOON, "{took:?}");

    let session = here.session(json!({})).await;
    assert_eq!(there.call(&session, call()).await.status, 200);
    let trust = format!("/agents/{}/trust", here.agent.id);
    here.admin("PUT", &trust, Some(json!({"trust_level": "untrusted"}))).await;
    assert_eq!(here.call(&session, call()).await.code(), "PolicyDenied", "at once");
    let took = until_code(there, &session, "PolicyDenied").await;
    assert!(took < SOON, "{took:?}");
    there.admin("PUT", &trust, Some(json!({"trust_level": "basic"}))).await;
    assert_eq!(there.call(&session, call()).await.status, 200);

    let path = format!("/agents/{}/token", here.agent.id);
    let (_, issued) = here.admin("POST", &path, Some(json!({}))).await;
    let with_token = async |node: &Gateway| -> Answer {
        let token = issued["token"].as_str().unwrap();
        let request = node.client.post(format!("http://{}/", node.proxy));
        let request = request
            .bearer_auth(token)
            .header("x-agent-id", &node.agent.id)
            .header("x-arbiter-session", &session)
            .header("content-type", "application/json");
        node.send(request.body(call())).await
    };
    assert_eq!(with_token(there).await.status, 200);
    let jti = issued["jti"].as_str().unwrap();
    let since = Instant::now();
    here.admin("DELETE", &format!("/tokens/{jti}"), None).await;
    assert_eq!(with_token(here).await.code(), "TokenInvalid", "at once");
    let refused =
        eventually(|| async { (with_token(there).await.code() == "TokenInvalid").then_some(()) });
    refused.await.expect("revoked everywhere");
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());

    here.admin("DELETE", &format!("/agents/{}", here.agent.id), None).await;
    assert_eq!(here.call(&session, call()).await.code(), "AgentInactive", "at once");
    let took = until_code(there, &session, "AgentInactive").await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_delegations_of_one_node_are_those_of_all() {
    let redis = Redis::start();
    let nodes = nodes(2, || setup(&redis.url())).await;
    let [here, there] = &nodes[..] else { panic!("two") };
    for _ in 0..20 {
        // Used elsewhere before anything can have been pushed there.
        let agent = here.register(json!({})).await;
        let (status, session) = there.try_session(json!({"agent_id": agent.id})).await;
        assert_eq!(status, 201, "{session}");
        let answer = call_as(here, &agent, session["session_id"].as_str().unwrap()).await;
        assert_eq!(answer.status, 200, "{:?}", answer.json());
    }
    // Two nodes that each make one half of a circle: one of them is too late.
    for _ in 0..5 {
        let (one, two) = (here.register(json!({})).await, there.register(json!({})).await);
        let delegate = async |node: &Gateway, from: &Agent, to: &Agent| {
            let path = format!("/agents/{}/delegate", from.id);
            node.admin("POST", &path, Some(json!({"to": to.id, "scopes": ["read"]}))).await
        };
        let (first, second) = tokio::join!(delegate(here, &one, &two), delegate(there, &two, &one));
        let mut statuses = [first.0, second.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 400], "{first:?} {second:?}");
    }
}

pub(super) async fn call_as(node: &Gateway, agent: &Agent, session: &str) -> Answer {
    let request = node.client.post(format!("http://{}/", node.proxy));
    let request = request
        .bearer_auth(&agent.token)
        .header("x-agent-id", &agent.id)
        .header("x-arbiter-session", session)
        .header("content-type", "application/json");
    node.send(request.body(call())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_forty_sessions_opened_at_once_on_four_nodes_the_cap_gets_through() {
    let redis = Redis::start();
    let nodes = nodes(4, || setup(&redis.url())).await;
    let opened =
        futures::future::join_all((0..40).map(|n| nodes[n % nodes.len()].try_session(json!({}))))
            .await;
    let statuses: Vec<u16> = opened.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses.iter().filter(|&&status| status == 201).count(), 10, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 429].contains(status)), "{statuses:?}");
    // A place that is free on one node is free on all.
    let (_, first) = opened.iter().find(|(status, _)| *status == 201).unwrap();
    let path = format!("/sessions/{}", first["session_id"].as_str().unwrap());
    nodes[3].admin("DELETE", &path, None).await;
    assert_eq!(nodes[1].try_session(json!({})).await.0, 201);
    assert_eq!(nodes[2].try_session(json!({})).await.0, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_costs_its_lease_and_nothing_is_overspent() {
    const BUDGET: usize = 2_000;
    let redis = Redis::start();
    let mut nodes = nodes(3, || setup(&redis.url())).await;
    let session = nodes[0].session(json!({"call_budget": BUDGET})).await;
    let mut killed = nodes.pop().unwrap();
    let (mut kept, lost) = (0, AtomicUsize::new(0));
    let until_killed = async {
        while let Ok(response) = killed.request(&session, call()).send().await {
            assert_eq!(response.status().as_u16(), 200);
            if lost.fetch_add(1, Ordering::SeqCst) == 100 {
                break;
            }
        }
    };
    let ((), others) = tokio::join!(until_killed, async {
        let mut made = 0;
        for _ in 0..200 {
            made += usize::from(nodes[0].call(&session, call()).await.status == 200);
        }
        made
    });
    kept += others;
    killed.kill();
    let (rest, _) = call_until_refused(&nodes, &session, 4).await;
    kept += rest;
    let seen = nodes[0].upstream.calls();
    assert!(seen <= BUDGET, "{seen}");
    assert_eq!(seen, kept + lost.load(Ordering::SeqCst));
    // Two per cent of the budget, at most.
    assert!(seen >= BUDGET - BUDGET / 50, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_leases_are_used_up_then_calls_are_refused_until_it_is_back() {
    const BUDGET: usize = 1_000;
    let mut redis = Redis::start();
    let setup = || setup(&redis.url()).with("storage.max_stale_secs", 3);
    let nodes = nodes(2, setup).await;
    let session = nodes[0].session(json!({"call_budget": BUDGET})).await;
    assert_eq!(nodes[0].call(&session, call()).await.status, 200);
    redis.stop();
    let (more, codes) = call_until_refused(&nodes[..1], &session, 1).await;
    assert_eq!(more, 19, "the rest of the lease");
    assert_eq!(codes, ["StoreUnavailable"]);
    let refused = nodes[0].call(&session, call()).await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    // What needs no budget goes on for as long as what is known is fresh enough.
    let ping = || "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}";
    assert_eq!(nodes[0].call(&session, ping()).await.status, 200);
    let stale = eventually(|| async {
        (nodes[0].call(&session, ping()).await.code() == "StoreUnavailable").then_some(())
    });
    stale.await.expect("what is known grows old");
    let (status, _) = nodes[0].try_session(json!({})).await;
    assert_eq!(status, 503);

    redis.start_again();
    let back = eventually(|| async {
        let answers = [
            nodes[0].call(&session, call()).await.status,
            nodes[1].call(&session, call()).await.status,
        ];
        (answers == [200, 200]).then_some(())
    });
    back.await.expect("recovers by itself");
    call_until_refused(&nodes, &session, 2).await;
    let seen = nodes[0].upstream.calls() - pings(&nodes[0].upstream);
    assert!((BUDGET - BUDGET / 50..=BUDGET).contains(&seen), "{seen}");
}

fn pings(upstream: &Upstream) -> usize {
    let ping = |seen: &&crate::support::harness::Seen| {
        serde_json::from_slice::<Value>(&seen.body).is_ok_and(|body| body["method"] == "ping")
    };
    upstream.seen().iter().filter(ping).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_or_cut_line_to_redis_never_overspends() {
    const BUDGET: usize = 500;
    let redis = Redis::start();
    let line = Line::to(redis.address).await;
    let nodes = nodes(2, || setup(&line.url())).await;
    let session = nodes[0].session(json!({"call_budget": BUDGET})).await;
    line.delay(60);
    let mut admitted = 0;
    for _ in 0..100 {
        admitted += usize::from(nodes[0].call(&session, call()).await.status == 200);
    }
    assert_eq!(admitted, 100, "slow is not down");
    line.delay(0);
    // Bookings and their answers get lost: a lost answer may cost what it granted.
    for _ in 0..5 {
        line.cut(true);
        let (_, codes) = call_until_refused(&nodes, &session, 2).await;
        assert!(codes.iter().all(|code| code == "StoreUnavailable"), "{codes:?}");
        line.cut(false);
        let back = eventually(|| async {
            (nodes[0].call(&session, call()).await.status == 200).then_some(())
        });
        back.await.expect("recovers by itself");
    }
    let (_, codes) = call_until_refused(&nodes, &session, 2).await;
    assert!(codes.iter().all(|code| code == "BudgetExhausted"), "{codes:?}");
    let seen = nodes[0].upstream.calls();
    assert!(seen <= BUDGET, "{seen}");
    assert!(seen >= BUDGET / 2, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_counted_over_all_nodes() {
    let redis = Redis::start();
    let nodes = nodes(2, || setup(&redis.url())).await;
    let session = nodes[0].session(json!({"declared_intent": "read the files"})).await;
    let drifting = tool_call("write_file", json!({}));
    for n in 0..5 {
        let answer = nodes[n % 2].call(&session, drifting.clone()).await;
        assert_eq!(answer.status, 200, "flagged, not refused");
    }
    for node in &nodes {
        let demoted = eventually(|| async {
            let path = format!("/agents/{}", node.agent.id);
            let (_, agent) = node.admin("GET", &path, None).await;
            (agent["trust_level"] == "untrusted").then_some(())
        });
        demoted.await.expect("demoted on every node");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_shows_what_all_have_done() {
    let redis = Redis::start();
    let nodes = nodes(2, || setup(&redis.url())).await;
    let [here, there] = &nodes[..] else { panic!("two") };
    let session = here.session(json!({"call_budget": 100})).await;
    for _ in 0..7 {
        assert_eq!(here.call(&session, call()).await.status, 200);
    }
    let path = format!("/sessions/{session}");
    let shown = async || {
        let (_, one) = there.admin("GET", &path, None).await;
        let (_, list) = there.admin("GET", "/sessions", None).await;
        let (listed, one) = (&list["sessions"][0]["calls_made"], &one["calls_made"]);
        // Between the two an idle lease may have gone back.
        assert!(listed == one || (one == 8 && listed == 7), "{listed} {one}");
        one.as_u64().unwrap()
    };
    // At first with the lease, which is two calls of a hundred; without it when it is idle.
    assert!((7..=8).contains(&shown().await));
    let exact = eventually(async || (shown().await == 7).then_some(()));
    exact.await.expect("an idle lease goes back");
    assert_eq!(here.call(&session, call()).await.status, 200);
    here.admin("DELETE", &path, None).await;
    assert_eq!(shown().await, 8, "and a session that was closed elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_injected_no_other_lets_out() {
    const SECRET: &str = "hunter2-hunter2-hunter2";
    let redis = Redis::start();
    let setup = || {
        let mut setup = setup(&redis.url()).with("credentials.provider", "\"env\"");
        setup.env.push(("ARBITER_CRED_token", SECRET.to_owned()));
        setup
    };
    let nodes = nodes(2, setup).await;
    let [here, there] = &nodes[..] else { panic!("two") };
    let session = here.session(json!({"authorized_credentials": ["token"]})).await;
    let injecting = tool_call("read_file", json!({"key": "${CRED:token}"}));
    assert_eq!(here.call(&session, injecting).await.status, 200);
    let sent = here.upstream.seen().pop().unwrap().body;
    assert!(String::from_utf8_lossy(&sent).contains(SECRET), "it was injected");
    // The server remembers it and gives it away in an answer to a call by the other node.
    here.upstream.answer_with(|_seen| {
        json_response(&format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"a\":\"{SECRET}\"}}}}"
        ))
    });
    let answer = there.call(&session, call()).await;
    assert_eq!(answer.json()["result"]["a"], "[CREDENTIAL]", "{:?}", answer.json());
}
