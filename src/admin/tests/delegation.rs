//! Delegation by the admin API: what it refuses, what it tells, and what a delegate's sessions are.

use super::*;

pub(super) async fn delegate(bench: &Bench, from: &str, to: &str, scopes: &[&str]) -> Told {
    bench.post(&format!("/agents/{from}/delegate"), json!({"to": to, "scopes": scopes})).await
}

async fn until(bench: &Bench, from: &str, to: &str, end: &str) -> Told {
    let body = json!({"to": to, "scopes": ["read"], "expires_at": end});
    bench.post(&format!("/agents/{from}/delegate"), body).await
}

/// The clock of these tests begins at 2027-01-15T08:00:00Z.
const AT_NINE: &str = "2027-01-15T09:00:00Z";
const AT_TEN: &str = "2027-01-15T10:00:00Z";
const HOUR_US: u64 = 3_600_000_000;

#[tokio::test]
async fn each_mistake_has_its_answer() {
    let bench = Bench::new().await;
    let mut chain = Vec::new();
    for _ in 0..10 {
        chain.push(bench.agent(&["read"]).await);
    }
    for pair in chain[..9].windows(2) {
        assert_eq!(delegate(&bench, &pair[0], &pair[1], &["read"]).await.status, 201);
    }
    let (alice, bob) = (bench.agent(&["read", "write"]).await, bench.agent(&["read"]).await);
    let ends = json!({"owner": "o", "model": "m", "capabilities": ["read"], "expires_at": AT_NINE});
    let ends = bench.post("/agents", ends).await.body["agent_id"].as_str().unwrap().to_owned();
    let under = bench.agent(&["read", "write"]).await;
    assert_eq!(until(&bench, &alice, &under, AT_NINE).await.status, 201);
    let gone = bench.agent(&["read"]).await;
    bench.call("DELETE", &format!("/agents/{gone}"), None).await;
    let unknown = "11111111-2222-4333-8444-555555555555".to_owned();

    let body = |to: &str, scopes: Value| json!({"to": to, "scopes": scopes});
    let ending = |to: &str, end: &str| json!({"to": to, "scopes": ["read"], "expires_at": end});
    let table: &[(&str, &String, Value, u16, &str, &str)] = &[
        ("self", &alice, body(&alice, json!(["read"])), 400, "DelegationCycle", "to"),
        ("cycle of two", &chain[1], body(&chain[0], json!(["read"])), 400, "DelegationCycle", "to"),
        ("long cycle", &chain[8], body(&chain[0], json!(["read"])), 400, "DelegationCycle", "to"),
        (
            "more than it has",
            &bob,
            body(&alice, json!(["read", "write"])),
            400,
            "ScopeNarrowingViolation",
            "scopes",
        ),
        (
            "more than was delegated to it",
            &under,
            body(&bob, json!(["write"])),
            400,
            "ScopeNarrowingViolation",
            "scopes",
        ),
        ("past", &alice, ending(&bob, "2027-01-15T07:59:59Z"), 400, "InvalidField", "expires_at"),
        ("now", &alice, ending(&bob, "2027-01-15T08:00:00Z"), 400, "InvalidField", "expires_at"),
        ("longer than the agent", &ends, ending(&bob, AT_TEN), 400, "InvalidField", "expires_at"),
        (
            "for ever, of an agent that ends",
            &ends,
            body(&bob, json!(["read"])),
            400,
            "InvalidField",
            "expires_at",
        ),
        ("longer than above", &under, ending(&bob, AT_TEN), 400, "InvalidField", "expires_at"),
        (
            "for ever, under one that ends",
            &under,
            body(&bob, json!(["read"])),
            400,
            "InvalidField",
            "expires_at",
        ),
        ("unknown to", &alice, body(&unknown, json!(["read"])), 404, "NotFound", "to"),
        ("unknown from", &unknown, body(&alice, json!(["read"])), 404, "NotFound", ""),
        ("malformed to", &alice, body("bob", json!(["read"])), 400, "InvalidField", "to"),
        ("deactivated from", &gone, body(&alice, json!(["read"])), 409, "AgentInactive", ""),
        ("deactivated to", &alice, body(&gone, json!(["read"])), 409, "AgentInactive", ""),
        ("nothing", &alice, body(&bob, json!([])), 400, "InvalidField", "scopes"),
        ("twice", &alice, body(&bob, json!(["read", "read"])), 400, "InvalidField", "scopes"),
        ("nine deep", &chain[8], body(&chain[9], json!(["read"])), 400, "InvalidField", "to"),
        ("nine deep, on top", &alice, body(&chain[0], json!(["read"])), 400, "InvalidField", "to"),
        ("no scopes", &alice, json!({"to": bob}), 400, "InvalidField", "scopes"),
        (
            "trust is no part of it",
            &alice,
            json!({"to": bob, "scopes": ["read"], "trust_level": "trusted"}),
            400,
            "InvalidField",
            "trust_level",
        ),
    ];
    for (what, from, body, status, error, field) in table {
        let told = bench.post(&format!("/agents/{from}/delegate"), body.clone()).await;
        assert_eq!((told.status.as_u16(), told.error()), (*status, *error), "{what}: {told:?}");
        assert_eq!(told.body["field"].as_str().unwrap_or_default(), *field, "{what}: {told:?}");
        assert!(!told.body["message"].as_str().unwrap().is_empty(), "{what}");
    }
    let told = bench.get(&format!("/agents/{alice}/delegations")).await;
    assert_eq!(told.body["outgoing"].as_array().unwrap().len(), 1, "none of them was made");
    assert_eq!(delegate(&bench, &alice, &bob, &["read"]).await.status, 201);
}

#[tokio::test]
async fn who_stands_behind_an_agent_is_told_with_what_is_left_to_it() {
    let bench = Bench::new().await;
    let (alice, bob) =
        (bench.agent(&["read", "write"]).await, bench.agent(&["read", "admin"]).await);
    let path = format!("/agents/{bob}/delegations");
    let told = bench.get(&path).await.body;
    assert_eq!(told["delegation_chain"], json!([bob]));
    assert_eq!(
        told["effective"],
        json!({"capabilities": ["read", "admin"], "trust_level": "basic"})
    );

    let made = until(&bench, &alice, &bob, AT_NINE).await;
    assert_eq!(made.status, 201, "{made:?}");
    let lower = Some(json!({"trust_level": "untrusted"}));
    bench.call("PUT", &format!("/agents/{alice}/trust"), lower).await;
    let told = bench.get(&path).await.body;
    let incoming = &told["incoming"][0];
    assert_eq!(incoming["from"], alice.as_str());
    assert_eq!(incoming["delegation_id"], made.body["delegation_id"]);
    assert_eq!(told["outgoing"], json!([]));
    assert_eq!(told["delegation_chain"], json!([alice, bob]));
    let ends = "2027-01-15T09:00:00.000000Z";
    assert_eq!(
        told["effective"],
        json!({"capabilities": ["read"], "trust_level": "untrusted", "expires_at": ends})
    );
    assert!(told.get("inactive").is_none());
    // What it is registered as stays as it is.
    let shown = bench.get(&format!("/agents/{bob}")).await.body;
    assert_eq!((&shown["trust_level"], &shown["active"]), (&json!("basic"), &json!(true)));

    // Its sessions and tokens do not outlive what they rest on, and nothing begins after that.
    let session = bench.session(&bob).await.body;
    let token = bench.post(&format!("/agents/{bob}/token"), json!({"expiry_seconds": 7_200})).await;
    assert_eq!((&session["expires_at"], &token.body["expires_at"]), (&json!(ends), &json!(ends)));
    let shown = bench.get(&format!("/sessions/{}", session["session_id"].as_str().unwrap())).await;
    assert_eq!(shown.body["delegation_chain"], json!([alice, bob]));
    bench.admin.clock.advance_us(HOUR_US);
    let told = bench.get(&path).await.body;
    // From then on it is what it is by itself.
    assert_eq!(told["delegation_chain"], json!([bob]));
    assert_eq!(told["effective"]["capabilities"], json!(["read", "admin"]));
    assert_eq!(bench.get(&format!("/agents/{bob}")).await.body["acts"], "by_itself");
    assert_eq!(bench.session(&bob).await.status, 201);
}

#[tokio::test]
async fn a_delegation_that_is_ended_takes_what_was_opened_under_it_along() {
    let bench = Bench::new().await;
    let (alice, bob) = (bench.agent(&["read"]).await, bench.agent(&["read", "write"]).await);
    let id = |body: &Value| body["session_id"].as_str().unwrap().to_owned();
    let alone = id(&bench.session(&bob).await.body);
    let made = delegate(&bench, &alice, &bob, &["read"]).await;
    assert_eq!(made.status, 201);
    let under = id(&bench.session(&bob).await.body);
    let acts = async || bench.get(&format!("/agents/{bob}")).await.body["acts"].clone();
    assert_eq!(acts().await, "as_delegate");

    // The same once more is the same one, with another end.
    let again = until(&bench, &alice, &bob, AT_NINE).await;
    assert_eq!((again.status.as_u16(), &again.body), (200, &made.body));
    let told = bench.get(&format!("/agents/{bob}/delegations")).await.body;
    assert_eq!(told["incoming"].as_array().unwrap().len(), 1);
    assert_eq!(told["incoming"][0]["expires_at"], "2027-01-15T09:00:00.000000Z");

    let path = format!("/delegations/{}", made.body["delegation_id"].as_str().unwrap());
    let ended = bench.call("DELETE", &path, None).await;
    assert_eq!((ended.status.as_u16(), &ended.body["sessions_closed"]), (200, &json!(1)));
    bench.call("DELETE", &path, None).await.is(404, "NotFound");
    bench.call("DELETE", "/delegations/none", None).await.is(400, "InvalidField");
    let status = async |session: &str| {
        bench.get(&format!("/sessions/{session}")).await.body["status"].clone()
    };
    assert_eq!((status(&under).await, status(&alone).await), (json!("closed"), json!("active")));
    assert_eq!(acts().await, "by_itself");
    bench.call("DELETE", &format!("/agents/{bob}"), None).await;
    let shown = bench.get(&format!("/agents/{bob}")).await.body;
    assert_eq!(shown["acts"], "not");
    assert!(shown["inactive"].as_str().unwrap().contains("deactivated"), "{shown}");
}

#[tokio::test]
async fn an_explanation_sees_what_the_call_would_see() {
    let bench = Bench::new().await;
    let policies = r#"
        [[policies]]
        id = "writers"
        effect = "allow"
        allowed_tools = ["write_file"]
        agent_match = { capabilities = ["write"] }
        [[policies]]
        id = "basic"
        effect = "allow"
        allowed_tools = ["read_file"]
        agent_match = { trust_level = "basic" }
    "#;
    std::fs::write(bench.policies(), policies).unwrap();
    assert_eq!(bench.call("POST", "/policy/reload", None).await.status, 200);
    let (alice, bob) = (bench.agent(&["read"]).await, bench.agent(&["read", "write"]).await);
    let explain = async |tool: &str| {
        bench.post("/policy/explain", json!({"agent_id": bob, "tool": tool})).await.body
    };
    assert_eq!(explain("write_file").await["decision"], "allow");
    assert_eq!(until(&bench, &alice, &bob, AT_NINE).await.status, 201);
    let told = explain("write_file").await;
    assert_eq!((&told["decision"], &told["matched_policy"]), (&json!("deny"), &Value::Null));
    assert_eq!(told["trace"][0]["reason"], "the agent lacks the capability `write`");
    assert_eq!(explain("read_file").await["decision"], "allow");
    let lower = Some(json!({"trust_level": "untrusted"}));
    bench.call("PUT", &format!("/agents/{alice}/trust"), lower).await;
    let told = explain("read_file").await;
    assert_eq!(told["decision"], "deny");
    assert_eq!(told["trace"][0]["reason"], "the agent's trust level is untrusted, below basic");
    assert!(told.get("agent_inactive").is_none());
    bench.admin.clock.advance_us(HOUR_US);
    assert_eq!(explain("read_file").await["decision"], "allow", "on its own account again");
    bench.call("DELETE", &format!("/agents/{bob}"), None).await;
    let told = explain("read_file").await;
    assert_eq!((&told["decision"], &told["trace"]), (&json!("deny"), &json!([])));
    assert!(told["agent_inactive"].as_str().unwrap().contains("deactivated"), "{told}");
}

/// Two orders of the same events: no session is left open that would outlive the agent.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_that_is_opened_during_a_deactivation_does_not_survive() {
    let bench = Bench::new().await;
    for _ in 0..40 {
        let (alice, bob) = (bench.agent(&["read"]).await, bench.agent(&["read"]).await);
        assert_eq!(delegate(&bench, &alice, &bob, &["read"]).await.status, 201);
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (router, agent) = (bench.router.clone(), bob.clone());
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
        assert_eq!(bench.call("DELETE", &format!("/agents/{alice}"), None).await.status, 200);
        for status in opening.join_all().await {
            assert!(status == 201 || status == 409, "{status}");
        }
        let told = bench.get(&format!("/sessions?agent_id={bob}&status=active")).await;
        assert_eq!(told.body["sessions"], json!([]));
    }
}
