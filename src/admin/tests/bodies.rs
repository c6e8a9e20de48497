//! Invalid bodies: each is refused with 400 and the name of the field.

use super::*;

/// Changes a good body in one place.
fn but(good: &Value, field: &str, value: Value) -> Value {
    let mut body = good.clone();
    body[field] = value;
    body
}

fn without(good: &Value, field: &str) -> Value {
    let mut body = good.clone();
    body.as_object_mut().unwrap().remove(field);
    body
}

async fn refused(bench: &Bench, method: &str, path: &str, body: Value, field: &str) {
    let shown = body.to_string();
    let told = bench.call(method, path, Some(body)).await;
    let shown = shown.get(..200).unwrap_or(&shown);
    assert_eq!(told.status, 400, "{path} {shown}: {told:?}");
    assert_eq!(told.error(), "InvalidField", "{path} {shown}: {told:?}");
    assert_eq!(told.body["field"], field, "{path} {shown}: {told:?}");
    let message = told.body["message"].as_str().unwrap();
    assert!(message.contains(field), "{path} {shown}: {message}");
}

fn long(bytes: usize) -> Value {
    Value::from("a".repeat(bytes))
}

fn many(count: usize) -> Value {
    (0..count).map(|n| format!("n{n}")).collect()
}

#[tokio::test]
async fn registering_an_agent() {
    let bench = Bench::new().await;
    let good = json!({
        "owner": "user:alice", "model": "m", "capabilities": ["read"], "trust_level": "basic",
        "expires_at": "2030-01-01T00:00:00Z",
    });
    assert_eq!(bench.post("/agents", good.clone()).await.status, 201);
    assert_eq!(bench.post("/agents", json!({"owner": "o", "model": "m"})).await.status, 201);
    let bad = [
        (without(&good, "owner"), "owner"),
        (but(&good, "owner", json!("")), "owner"),
        (but(&good, "owner", json!("  ")), "owner"),
        (but(&good, "owner", json!("a\nb")), "owner"),
        (but(&good, "owner", json!(7)), "owner"),
        (but(&good, "owner", json!(null)), "owner"),
        (but(&good, "owner", json!(["a"])), "owner"),
        (but(&good, "owner", long(257)), "owner"),
        (without(&good, "model"), "model"),
        (but(&good, "model", json!("")), "model"),
        (but(&good, "model", long(257)), "model"),
        (but(&good, "capabilities", json!("read")), "capabilities"),
        (but(&good, "capabilities", json!([1])), "capabilities"),
        (but(&good, "capabilities", json!([""])), "capabilities"),
        (but(&good, "capabilities", json!(["a", "a"])), "capabilities"),
        (but(&good, "capabilities", many(65)), "capabilities"),
        (but(&good, "capabilities", json!([long(257)])), "capabilities"),
        (but(&good, "trust_level", json!("root")), "trust_level"),
        (but(&good, "trust_level", json!("Basic")), "trust_level"),
        (but(&good, "trust_level", json!(3)), "trust_level"),
        (but(&good, "expires_at", json!("tomorrow")), "expires_at"),
        (but(&good, "expires_at", json!("2020-01-01T00:00:00Z")), "expires_at"),
        (but(&good, "expires_at", json!(1_900_000_000)), "expires_at"),
        (but(&good, "agent_id", json!("11111111-2222-4333-8444-555555555555")), "agent_id"),
        (but(&good, "id", json!("11111111-2222-4333-8444-555555555555")), "id"),
        (but(&good, "active", json!(true)), "active"),
        (but(&good, "is_admin", json!(true)), "is_admin"),
        (but(&good, "created_at", json!("2020-01-01T00:00:00Z")), "created_at"),
    ];
    for (body, field) in bad {
        refused(&bench, "POST", "/agents", body, field).await;
    }
    assert_eq!(bench.get("/agents").await.body["agents"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn opening_a_session() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["read"]).await;
    let good = json!({
        "agent_id": agent, "declared_intent": "read files", "authorized_tools": ["read_file"],
        "time_limit_secs": 60, "call_budget": 9_007_199_254_740_992_u64,
        "rate_limit_per_minute": 1_000_000, "data_sensitivity": "restricted",
        "authorized_resources": ["file:///a"], "authorized_prompts": ["p"],
        "authorized_methods": ["tasks/get"], "authorized_credentials": ["db"],
        "refusal_style": "result",
    });
    let told = bench.post("/sessions", good.clone()).await;
    assert_eq!(told.status, 201, "{told:?}");
    let bad = [
        (without(&good, "agent_id"), "agent_id"),
        (but(&good, "agent_id", json!("alice")), "agent_id"),
        (but(&good, "agent_id", json!(agent.replace('-', ""))), "agent_id"),
        (but(&good, "agent_id", json!(1)), "agent_id"),
        (without(&good, "declared_intent"), "declared_intent"),
        (but(&good, "declared_intent", json!("")), "declared_intent"),
        (but(&good, "declared_intent", json!("\u{7}")), "declared_intent"),
        (but(&good, "declared_intent", long(1_025)), "declared_intent"),
        (without(&good, "authorized_tools"), "authorized_tools"),
        (but(&good, "authorized_tools", json!("read_file")), "authorized_tools"),
        (but(&good, "authorized_tools", json!([null])), "authorized_tools"),
        (but(&good, "authorized_tools", json!(["*"])), "authorized_tools"),
        (but(&good, "authorized_tools", json!(["read_*"])), "authorized_tools"),
        (but(&good, "authorized_tools", json!(["a", "*"])), "authorized_tools"),
        (but(&good, "authorized_tools", many(1_025)), "authorized_tools"),
        (but(&good, "authorized_tools", json!(["gihub:x"])), "authorized_tools"),
        (but(&good, "authorized_tools", json!(["*:a*"])), "authorized_tools"),
        (but(&good, "authorized_tools", json!(["*:"])), "authorized_tools"),
        (but(&good, "authorized_resources", json!([""])), "authorized_resources"),
        (but(&good, "authorized_resources", json!(["file:///a%2fb"])), "authorized_resources"),
        (but(&good, "authorized_resources", json!(["file:///../a/*"])), "authorized_resources"),
        (but(&good, "authorized_resources", json!(["file:///a/*/b"])), "authorized_resources"),
        (but(&good, "authorized_prompts", json!(["p", "p"])), "authorized_prompts"),
        (but(&good, "authorized_methods", json!({})), "authorized_methods"),
        (but(&good, "authorized_credentials", many(65)), "authorized_credentials"),
        (but(&good, "time_limit_secs", json!(0)), "time_limit_secs"),
        (but(&good, "time_limit_secs", json!(-1)), "time_limit_secs"),
        (but(&good, "time_limit_secs", json!(31_536_001)), "time_limit_secs"),
        (but(&good, "time_limit_secs", json!(i64::MAX)), "time_limit_secs"),
        (but(&good, "time_limit_secs", json!("60")), "time_limit_secs"),
        (but(&good, "call_budget", json!(0)), "call_budget"),
        (but(&good, "call_budget", json!(-5)), "call_budget"),
        (but(&good, "call_budget", json!(1.5)), "call_budget"),
        (but(&good, "call_budget", json!(9_007_199_254_740_993_u64)), "call_budget"),
        (but(&good, "call_budget", json!(1e30)), "call_budget"),
        (but(&good, "rate_limit_per_minute", json!(0)), "rate_limit_per_minute"),
        (but(&good, "rate_limit_per_minute", json!(1_000_001)), "rate_limit_per_minute"),
        (but(&good, "rate_limit_per_minute", json!(4_294_967_296_u64)), "rate_limit_per_minute"),
        (but(&good, "data_sensitivity", json!("secret")), "data_sensitivity"),
        (but(&good, "refusal_style", json!("silent")), "refusal_style"),
        (but(&good, "authorised_tools", json!(["read_file"])), "authorised_tools"),
        (but(&good, "session_id", json!("x")), "session_id"),
        (but(&good, "calls_made", json!(0)), "calls_made"),
        (but(&good, "intent_tier", json!("admin")), "intent_tier"),
        (
            json!({"agent_id": agent, "declared_intent": "read", "authorized_tools": []}),
            "authorized_tools",
        ),
    ];
    for (body, field) in bad {
        refused(&bench, "POST", "/sessions", body, field).await;
    }
    assert_eq!(bench.get("/sessions").await.body["sessions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_star_needs_leave() {
    let bench = Bench::with("[sessions]\nallow_wildcard_tools = true").await;
    let agent = bench.agent(&[]).await;
    let good = json!({"agent_id": agent, "declared_intent": "read", "authorized_tools": ["*"]});
    assert_eq!(bench.post("/sessions", good.clone()).await.status, 201);
    let mixed = but(&good, "authorized_tools", json!(["*", "a"]));
    refused(&bench, "POST", "/sessions", mixed, "authorized_tools").await;
}

#[tokio::test]
async fn trust_delegation_and_tokens() {
    let bench = Bench::new().await;
    let alice = bench.agent(&["read", "write"]).await;
    let bob = bench.agent(&["read"]).await;
    let trust = format!("/agents/{alice}/trust");
    for (body, field) in [
        (json!({}), "trust_level"),
        (json!({"trust_level": "god"}), "trust_level"),
        (json!({"trust_level": "basic", "active": true}), "active"),
    ] {
        refused(&bench, "PUT", &trust, body, field).await;
    }
    let good = json!({"to": bob, "scopes": ["read"], "expires_at": "2030-01-01T00:00:00Z"});
    let delegate = format!("/agents/{alice}/delegate");
    for (body, field) in [
        (without(&good, "to"), "to"),
        (but(&good, "to", json!("bob")), "to"),
        (without(&good, "scopes"), "scopes"),
        (but(&good, "scopes", json!([])), "scopes"),
        (but(&good, "scopes", json!("read")), "scopes"),
        (but(&good, "scopes", json!(["read", "read"])), "scopes"),
        (but(&good, "scopes", many(65)), "scopes"),
        (but(&good, "expires_at", json!("2020-01-01T00:00:00Z")), "expires_at"),
        (but(&good, "from", json!(bob)), "from"),
    ] {
        refused(&bench, "POST", &delegate, body, field).await;
    }
    let token = format!("/agents/{alice}/token");
    for (body, field) in [
        (json!({"expiry_seconds": -5}), "expiry_seconds"),
        (json!({"expiry_seconds": 0}), "expiry_seconds"),
        (json!({"expiry_seconds": 86_401}), "expiry_seconds"),
        (json!({"expiry_seconds": u64::MAX}), "expiry_seconds"),
        (json!({"expiry_seconds": "900"}), "expiry_seconds"),
        (json!({"expiry_secs": 900}), "expiry_secs"),
    ] {
        refused(&bench, "POST", &token, body, field).await;
    }
}

#[tokio::test]
async fn explaining_and_validating() {
    let bench = Bench::new().await;
    let good = json!({"agent": {"trust_level": "basic"}, "tool": "read_file"});
    assert_eq!(bench.post("/policy/explain", good.clone()).await.status, 200);
    let id = "11111111-2222-4333-8444-555555555555";
    let session = json!({
        "declared_intent": "read", "authorized_tools": ["read_file"], "call_budget": 5,
        "calls_made": 2, "refusal_style": "result",
    });
    let described = |field: &str, value: Value| but(&good, "session", but(&session, field, value));
    let whole = but(&good, "session", session.clone());
    assert_eq!(bench.post("/policy/explain", whole).await.status, 200);
    for (body, field) in [
        (without(&good, "agent"), "agent_id"),
        (but(&good, "agent_id", json!(id)), "agent"),
        (but(&good, "agent", json!({"trust": "basic"})), "agent"),
        (but(&good, "agent", json!({"capabilities": [""]})), "agent.capabilities"),
        (but(&good, "principal", json!({"sub": ""})), "principal.sub"),
        (but(&good, "principal", json!({"groups": []})), "principal"),
        (but(&good, "declared_intent", json!("")), "declared_intent"),
        (but(&good, "tool", json!("")), "tool"),
        (without(&good, "tool"), "tool"),
        (but(&good, "method", json!("tools/call")), "tool"),
        (but(&good, "arguments", json!([1])), "arguments"),
        (but(&good, "args", json!({})), "args"),
        (json!({"agent": {}, "method": "resources/read"}), "target"),
        (described("declared_intent", json!("")), "session.declared_intent"),
        (described("authorized_prompts", json!([""])), "session.authorized_prompts"),
        (
            described("authorized_resources", json!(["file:///../a"])),
            "session.authorized_resources",
        ),
        (described("time_limit_secs", json!(0)), "session.time_limit_secs"),
        (described("calls_made", json!(u64::MAX)), "session.calls_made"),
        (described("call_budget", json!("5")), "session"),
        (described("agent_id", json!(id)), "session"),
    ] {
        refused(&bench, "POST", "/policy/explain", body, field).await;
    }
    for (body, field) in [(json!({}), "toml"), (json!({"toml": 1}), "toml")] {
        refused(&bench, "POST", "/policy/validate", body, field).await;
    }
}

#[tokio::test]
async fn ids_and_parameters() {
    let bench = Bench::new().await;
    let unknown = "11111111-2222-4333-8444-555555555555";
    for (method, path) in [
        ("GET", "/agents/ID"),
        ("DELETE", "/agents/ID"),
        ("GET", "/agents/ID/delegations"),
        ("POST", "/agents/ID/token"),
        ("GET", "/sessions/ID"),
        ("DELETE", "/sessions/ID"),
    ] {
        let body = (method == "POST").then(|| json!({}));
        bench.call(method, &path.replace("ID", unknown), body.clone()).await.is(404, "NotFound");
        for bad in ["x", "11111111222243338444555555555555", "%00", "%ff"] {
            let told = bench.call(method, &path.replace("ID", bad), body.clone()).await;
            told.is(400, "InvalidField");
            assert_eq!(told.body["field"], "id");
        }
    }
    let missing = json!({
        "agent_id": unknown, "declared_intent": "read", "authorized_tools": ["a"],
    });
    let told = bench.post("/sessions", missing).await;
    told.is(404, "NotFound");
    assert_eq!(told.body["field"], "agent_id");
    for (path, field) in [
        ("/agents?limit=0", "limit"),
        ("/agents?limit=1001", "limit"),
        ("/agents?cursor=x", "cursor"),
        ("/agents?colour=red", "colour"),
        ("/agents?status=active", "status"),
        ("/sessions?status=open", "status"),
        ("/sessions?agent_id=alice", "agent_id"),
        ("/sessions?limit=1&limit=2", "limit"),
        ("/sessions?cursor=11111111-2222-4333-8444-555555555555", "cursor"),
        ("/health?x=1", "x"),
    ] {
        let told = bench.get(path).await;
        told.is(400, "InvalidField");
        assert_eq!(told.body["field"], field, "{path}");
    }
}
