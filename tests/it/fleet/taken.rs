//! Taken away is taken away, though the store loses its last writes, does not answer, or is lost and
//! restored.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::nodes::{call, call_as, nodes, setup};
use crate::support::harness::{Agent, Gateway, eventually};
use crate::support::redis_server::{Fleet, Redis, program};

/// Everything that an operator takes away, and how to see that it is gone.
struct Taken {
    gone: Agent,
    gone_session: String,
    lowered: Agent,
    lowered_session: String,
    closed: String,
    /// A token of the harness's own agent, and its id.
    revoked: String,
    session: String,
    delegation: String,
    delegate: String,
}

const POLICIES: &str = "[[policies]]\nid = \"basic\"\neffect = \"allow\"\nallowed_tools = [\"*\"]\n\
                        [policies.agent_match]\ntrust_level = \"basic\"\n";

impl Taken {
    async fn prepare(node: &Gateway) -> Self {
        let gone = node.register(json!({})).await;
        let lowered = node.register(json!({})).await;
        let delegate = node.register(json!({})).await;
        let of = async |agent: &Agent| node.session(json!({"agent_id": agent.id})).await;
        let (gone_session, lowered_session) = (of(&gone).await, of(&lowered).await);
        let path = format!("/agents/{}/token", node.agent.id);
        let (_, issued) = node.admin("POST", &path, Some(json!({}))).await;
        let path = format!("/agents/{}/delegate", node.agent.id);
        let body = json!({"to": delegate.id, "scopes": ["read"]});
        let (status, made) = node.admin("POST", &path, Some(body)).await;
        assert_eq!(status, 201, "{made}");
        let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
        Self {
            gone,
            gone_session,
            lowered,
            lowered_session,
            closed: node.session(json!({})).await,
            revoked: text(&issued, "token") + " " + &text(&issued, "jti"),
            session: node.session(json!({})).await,
            delegation: text(&made, "delegation_id"),
            delegate: delegate.id,
        }
    }

    /// Takes all of it away; each is answered 200. Gives the answers.
    async fn take(&self, node: &Gateway) -> Vec<(String, Value)> {
        let mut answers = Vec::new();
        let jti = self.revoked.split_once(' ').unwrap().1;
        for path in [
            format!("/agents/{}", self.gone.id),
            format!("/tokens/{jti}"),
            format!("/sessions/{}", self.closed),
            format!("/delegations/{}", self.delegation),
        ] {
            let (status, said) = node.admin("DELETE", &path, None).await;
            assert_eq!(status, 200, "{path}: {said}");
            answers.push((path, said));
        }
        let trust = format!("/agents/{}/trust", self.lowered.id);
        let lower = Some(json!({"trust_level": "untrusted"}));
        let (status, said) = node.admin("PUT", &trust, lower).await;
        assert_eq!(status, 200, "{said}");
        answers.push((trust, said));
        answers
    }

    /// Lists everything of it that a node still lets through.
    async fn back(&self, node: &Gateway) -> Vec<String> {
        let token = self.revoked.split_once(' ').unwrap().0.to_owned();
        let revoked = Agent { id: node.agent.id.clone(), token };
        let delegations = format!("/agents/{}/delegations", self.delegate);
        let (_, delegations) = node.admin("GET", &delegations, None).await;
        let answers = [
            ("agent", call_as(node, &self.gone, &self.gone_session).await.code(), "AgentInactive"),
            (
                "trust",
                call_as(node, &self.lowered, &self.lowered_session).await.code(),
                "PolicyDenied",
            ),
            ("session", node.call(&self.closed, call()).await.code(), "SessionClosed"),
            ("token", call_as(node, &revoked, &self.session).await.code(), "TokenInvalid"),
            ("delegation", delegations["incoming"].to_string(), "[]"),
        ];
        let back = answers.into_iter().filter(|(_, code, expected)| code != expected);
        back.map(|(what, code, _)| format!("{what}: {code}")).collect()
    }
}

/// A second after a node that knows is connected again, no node lets anything through.
async fn nothing_is_back(taken: &Taken, knows: &Gateway, later: &Gateway) {
    assert_eq!(taken.back(knows).await, [""; 0], "the node that knows");
    let connected = eventually(|| async {
        let ready = knows.client.get(format!("http://{}/ready", knows.admin)).send().await;
        (ready.unwrap().status() == 200).then_some(())
    });
    connected.await.expect("connected again");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(taken.back(knows).await, [""; 0], "the node that knows");
    assert_eq!(taken.back(later).await, [""; 0], "a node that was started later");
}

async fn started_later(knows: &Gateway, url: &str) -> Gateway {
    let setup = setup(url).policies(POLICIES);
    let mut later = Gateway::start_before(knows.upstream.clone(), setup).await;
    later.agent = knows.agent.clone();
    later
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_forgot_is_asserted_again() {
    let mut redis = Redis::start();
    let nodes = nodes(1, || setup(&redis.url()).policies(POLICIES)).await;
    let taken = Taken::prepare(&nodes[0]).await;
    let before = redis.copy();
    taken.take(&nodes[0]).await;
    redis.crash_back_to(&before);
    let later = started_later(&nodes[0], &redis.url()).await;
    nothing_is_back(&taken, &nodes[0], &later).await;
    // An operator's later word counts.
    let trust = format!("/agents/{}/trust", taken.lowered.id);
    let raise = Some(json!({"trust_level": "trusted"}));
    assert_eq!(later.admin("PUT", &trust, raise).await.0, 200);
    let raised = eventually(|| async {
        let answer = call_as(&nodes[0], &taken.lowered, &taken.lowered_session).await;
        (answer.status == 200).then_some(())
    });
    raised.await.expect("raised everywhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_lost_and_is_restored_needs_no_restart() {
    let mut redis = Redis::start();
    let nodes = nodes(1, || setup(&redis.url())).await;
    let session = nodes[0].session(json!({})).await;
    let until = async |code: &str| {
        let answered = eventually(|| async {
            let answer = nodes[0].call(&session, call()).await;
            let is = if answer.status == 200 { "200".to_owned() } else { answer.code() };
            (is == code).then_some(())
        });
        answered.await.unwrap_or_else(|| panic!("never {code}"));
    };
    until("200").await;
    let backup = redis.copy();
    let nothing = tempfile::tempdir().unwrap();
    redis.crash_back_to(&nothing);
    until("AgentInactive").await;
    redis.crash_back_to(&backup);
    until("200").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_store_has_lost_is_unknown_and_no_other_is() {
    let redis = Redis::start();
    let nodes = nodes(1, || setup(&redis.url())).await;
    let (lost, kept) = (nodes[0].session(json!({})).await, nodes[0].session(json!({})).await);
    for session in [&lost, &kept] {
        assert_eq!(nodes[0].call(session, call()).await.status, 200);
    }
    let key = redis.ask(&["keys", &format!("*s:{lost}")]);
    assert_eq!(redis.ask(&["del", key.trim()]).trim(), "1", "{key}");
    // What the node holds of it may be used up.
    let unknown = eventually(|| async {
        let answer = nodes[0].call(&lost, call()).await;
        (answer.code() == "SessionUnknown").then_some(answer.status)
    });
    assert_eq!(unknown.await, Some(403));
    let (status, _) = nodes[0].admin("GET", &format!("/sessions/{lost}"), None).await;
    assert_eq!(status, 404);
    assert_eq!(nodes[0].call(&kept, call()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_does_not_split_the_fleet() {
    let redis = Redis::start();
    let nodes = nodes(2, || setup(&redis.url())).await;
    let [here, there] = &nodes[..] else { panic!("two") };
    let helper = here.register(json!({})).await;
    let path = format!("/agents/{}/delegate", here.agent.id);
    let delegate = async |to: &Agent| {
        here.admin("POST", &path, Some(json!({"to": to.id, "scopes": ["read"]}))).await
    };
    redis.signal("STOP");
    let (status, said) = delegate(&helper).await;
    assert_eq!(status, 503, "{said}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    redis.signal("CONT");
    let delegations = format!("/agents/{}/delegations", helper.id);
    let agreed = eventually(|| async {
        let (_, one) = here.admin("GET", &delegations, None).await;
        let (_, two) = there.admin("GET", &delegations, None).await;
        (one == two && one["effective"]["capabilities"] == two["effective"]["capabilities"])
            .then_some(one)
    });
    let agreed = agreed.await.expect("both nodes say the same");
    let another = eventually(|| async {
        let helper = here.register(json!({})).await;
        (delegate(&helper).await.0 == 201).then_some(())
    });
    another.await.expect("delegations go on");
    // Asked again, the one that was made is put in its own place.
    let (status, said) = delegate(&helper).await;
    let made = agreed["incoming"].as_array().unwrap();
    assert_eq!(status, if made.is_empty() { 201 } else { 200 }, "{said}");
    let (_, now) = there.admin("GET", &delegations, None).await;
    assert_eq!(now["incoming"].as_array().unwrap().len(), 1, "{now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_hangs_nobody_waits_for_those_before() {
    let redis = Redis::start();
    let nodes = nodes(1, || setup(&redis.url())).await;
    let session =
        nodes[0].session(json!({"call_budget": 10_000, "rate_limit_per_minute": 9_000})).await;
    redis.signal("STOP");
    // Once the permits in hand are over.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let slowest = futures::future::join_all((0..40).map(|_| async {
        let since = std::time::Instant::now();
        let answer = nodes[0].call(&session, call()).await;
        assert_eq!(answer.code(), "StoreUnavailable");
        since.elapsed()
    }));
    let slowest = slowest.await.into_iter().max().unwrap();
    redis.signal("CONT");
    // One answer may take a second; all of them waited for it together.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_call_of_a_fleet_is_as_quick_as_its_store() {
    let redis = Redis::start();
    let nodes = nodes(1, || setup(&redis.url())).await;
    nodes[0].admin("GET", "/policy/schema", None).await;
    let since = std::time::Instant::now();
    for _ in 0..20 {
        nodes[0].admin("GET", "/policy/schema", None).await;
    }
    // Each waited 300 ms for the changes once.
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

/// The primary is killed with all that its replica has not got, and the sentinel makes that the primary.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_by_sentinel_nothing_is_back() {
    let fleet = Fleet::behind_sentinel().await;
    let nodes = nodes(1, || setup(&fleet.url).policies(POLICIES)).await;
    let taken = Taken::prepare(&nodes[0]).await;
    fleet.replicated();
    fleet.lag();
    taken.take(&nodes[0]).await;
    fleet.kill_primary();
    let later = async {
        loop {
            // Until the sentinel has made the replica the primary nothing starts.
            if fleet.primary_has_moved() {
                return started_later(&nodes[0], &fleet.url).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let later = tokio::time::timeout(Duration::from_secs(40), later).await.expect("a failover");
    nothing_is_back(&taken, &nodes[0], &later).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_too_few_replicas_have_is_said_in_the_answer_and_on_record() {
    let fleet = Fleet::with_replica().await;
    let waits = setup(&fleet.url).policies(POLICIES).with("storage.redis_wait_replicas", 1);
    let node = Gateway::start(waits.with("storage.redis_wait_ms", 300)).await;
    let short = || async {
        let records = node.records();
        let short = records.iter().filter(|record| record["denial_code"] == "ReplicasShort");
        short.map(|record| record["event"].to_string()).collect::<Vec<_>>()
    };
    for (path, said) in Taken::prepare(&node).await.take(&node).await {
        assert_eq!(said["replicas"], Value::Null, "{path}: the replica has it");
    }
    assert_eq!(short().await, [""; 0]);
    let taken = Taken::prepare(&node).await;
    fleet.lag();
    let answers = taken.take(&node).await;
    for (path, said) in &answers {
        assert_eq!(said["replicas"], json!({"wanted": 1, "reached": 0}), "{path}: {said}");
    }
    assert_eq!(taken.back(&node).await, [""; 0], "in force all the same");
    let said = eventually(|| async {
        let short = short().await;
        (short.len() >= answers.len()).then_some(short)
    });
    let said = said.await.expect("on record");
    assert_eq!(said.len(), answers.len(), "{said:?}");
}

/// All keys of a fleet are on one of three primaries, whichever the nodes ask first.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_nodes_is_one_store() {
    let fleet = Fleet::cluster();
    let nodes = nodes(2, || setup(&fleet.url).policies(POLICIES)).await;
    let taken = Taken::prepare(&nodes[0]).await;
    assert_eq!(nodes[1].call(&taken.session, call()).await.status, 200);
    taken.take(&nodes[0]).await;
    let gone = eventually(|| async { taken.back(&nodes[1]).await.is_empty().then_some(()) });
    gone.await.expect("all nodes know");
    let later = started_later(&nodes[0], &fleet.url).await;
    assert_eq!(taken.back(&later).await, [""; 0]);
}

#[test]
fn the_tools_of_these_tests_are_there() {
    for tool in ["redis-cli".into(), program()] {
        let found = Command::new(&tool).arg("--version").output();
        assert!(found.is_ok_and(|found| found.status.success()), "{} is missing", tool.display());
    }
}
