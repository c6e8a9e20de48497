//! Refusals that a request brings upon itself.

use arbiter::firewall::denial::Code;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::Table;
use crate::support::harness::{Agent, Gateway, SIGNING_SECRET, Setup, eventually, tool_call};
use crate::support::raw::{Raw, request, request_with};

const POLICIES: &str = r#"
[[policies]]
id = "plain"
effect = "allow"
allowed_tools = ["read_file", "write_file", "delete_file"]
allowed_resources = ["*"]
allowed_prompts = ["*"]
allowed_methods = ["*"]

[[policies]]
id = "top-secret"
effect = "allow"
allowed_tools = ["read_secret"]
data_sensitivity = "restricted"

[[policies]]
id = "ask-a-person"
effect = "escalate"
allowed_tools = ["read_payroll"]

[[policies]]
id = "with-scope"
effect = "allow"
allowed_tools = ["read_scoped"]
[policies.principal_match]
scopes = ["mcp:scoped"]
"#;

fn setup() -> Setup {
    Setup::default()
        .policies(POLICIES)
        .with("proxy.blocked_paths", r#"["/blocked"]"#)
        .with("proxy.allowed_hosts", r#"["127.0.0.1"]"#)
        .with("proxy.max_request_body_bytes", 20_000)
        .with("sessions.escalate_anomalies", true)
        .with("sessions.max_concurrent_sessions_per_agent", 100)
}

fn call(id: &str, tool: &str) -> String {
    message(id, "tools/call", json!({"name": tool, "arguments": {}}))
}

fn message(id: &str, method: &str, params: Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

#[tokio::test]
async fn heads_and_bodies() {
    let gateway = Gateway::start(setup()).await;
    let session = gateway.session(json!({})).await;
    let mut table = Table::of(&gateway);
    let base = format!("http://{}", gateway.proxy);
    let post = |body: &str| gateway.request(&session, body);
    let good = call("h", "read_file");

    let get = gateway.client.get(&base).bearer_auth(&gateway.agent.token);
    table.add(Code::MethodNotAllowed, Value::Null, gateway.send(get)).await;

    let old = request(&gateway, &session, &good).replacen("HTTP/1.1", "HTTP/1.0", 1);
    let answer = async {
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(old).await;
        raw.answer().await.unwrap()
    };
    table.add(Code::HttpVersionNotSupported, Value::Null, answer).await;

    let blocked =
        gateway.client.post(format!("{base}/blocked/x")).bearer_auth(&gateway.agent.token);
    table.add(Code::PathBlocked, Value::Null, gateway.send(blocked)).await;

    let rebound = post(&good).header("host", "evil.example");
    table.add(Code::HostDenied, Value::Null, gateway.send(rebound)).await;
    let foreign = post(&good).header("origin", "https://evil.example");
    table.add(Code::OriginDenied, Value::Null, gateway.send(foreign)).await;

    table.add(Code::NotMcp, Value::Null, gateway.send(post(r#"{"hello":"world"}"#))).await;

    let text = gateway
        .client
        .post(&base)
        .bearer_auth(&gateway.agent.token)
        .header("content-type", "text/plain")
        .body(good.clone());
    table.add(Code::UnsupportedMediaType, Value::Null, gateway.send(text)).await;

    let big = tool_call("read_file", json!({"path": "x".repeat(20_000)}));
    table.add(Code::BodyTooLarge, Value::Null, gateway.send(post(&big))).await;
    table.add(Code::NotJson, Value::Null, gateway.send(post(r#"{"jsonrpc":"#))).await;

    let odd = r#"{"jsonrpc":"1.0","id":"m-1","method":"tools/list"}"#;
    table.add(Code::MalformedRequest, json!("m-1"), gateway.send(post(odd))).await;

    let other = post(&call("m-2", "read_file")).header("mcp-name", "write_file");
    table.add(Code::HeaderMismatch, json!("m-2"), gateway.send(other)).await;

    let modern = |method: &str, version: &str, meta: Value| {
        let body = message("m-3", method, json!({"_meta": meta}));
        let request = post(&body).header("mcp-method", method);
        gateway.send(request.header("mcp-protocol-version", version))
    };
    let bare = modern("tools/list", "2026-07-28", json!({}));
    table.add(Code::MetaMissing, json!("m-3"), bare).await;
    let unheard = modern("tools/list", "1999-01-01", json!({}));
    table.add(Code::VersionUnsupported, json!("m-3"), unheard).await;
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let body = message("m-3", "tasks/get", json!({"taskId": "t-1", "_meta": meta}));
    let undeclared = post(&body).header("mcp-method", "tasks/get").header("mcp-name", "t-1");
    let undeclared = gateway.send(undeclared.header("mcp-protocol-version", "2026-07-28"));
    table.add(Code::CapabilityMissing, json!("m-3"), undeclared).await;
    let removed = modern("resources/subscribe", "2026-07-28", meta);
    table.add(Code::MethodNotFound, json!("m-3"), removed).await;
    assert_eq!(gateway.upstream.calls(), 0);
    table.compare();
}

#[tokio::test]
async fn what_one_agent_may_cost() {
    let gateway = Gateway::start(setup().with("proxy.max_refusals_per_agent_per_sec", 1)).await;
    let session = gateway.session(json!({})).await;
    let mut table = Table::of(&gateway);
    let good = call("e", "read_file");
    let ask = |headers: &[(&str, &str)]| {
        let sent = request_with(&gateway, &session, headers, &good);
        async {
            let mut raw = Raw::connect(&gateway.proxy).await;
            raw.send(sent).await;
            raw.answer().await.unwrap()
        }
    };
    let long = format!("/{}", "a".repeat(9_000));
    let target =
        request(&gateway, &session, &good).replacen("POST / ", &format!("POST {long} "), 1);
    let answer = async {
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(target).await;
        raw.answer().await.unwrap()
    };
    table.add(Code::UriTooLong, Value::Null, answer).await;
    let large = ask(&[("x-large", &"1".repeat(66_000))]);
    table.add(Code::HeadTooLarge, Value::Null, large).await;
    table.add(Code::InternalError, Value::Null, ask(&[("x-arbiter-failpoint", "judge")])).await;
    // Its rest is withheld.
    table.add(Code::RequestTooSlow, Value::Null, ask(&[("Content-Length", "1000")])).await;

    // One token went to the slow request, and less than one has come back.
    for _ in 0..4 {
        gateway.call("no-session", good.clone()).await;
    }
    table.add(Code::TooManyRefusals, Value::Null, gateway.call(&session, good.clone())).await;
    assert_eq!(gateway.upstream.calls(), 0);
    table.compare();
}

/// A token of Arbiter's own for any agent and any time.
fn token(agent: &str, expires_in_secs: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    let claims = json!({
        "iss": "arbiter", "sub": "user:test", "agent_id": agent,
        "iat": now - 1_000, "exp": now + expires_in_secs, "jti": "a-test",
    });
    let key = EncodingKey::from_secret(SIGNING_SECRET.as_bytes());
    encode(&Header::default(), &claims, &key).unwrap()
}

#[tokio::test]
async fn identities() {
    // Nothing listens there, so its keys are never known.
    let away = json!([{
        "name": "away", "issuer_url": "https://idp.example", "audiences": ["us"],
        "jwks_uri": "http://127.0.0.1:9/keys",
    }]);
    let mut setup = setup();
    setup.env.push(("ARBITER_OAUTH__ISSUERS", away.to_string()));
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({"authorized_tools": ["read_scoped"]})).await;
    let mut table = Table::of(&gateway);
    let with = |agent: &Agent, token: &str| {
        let request = gateway
            .client
            .post(format!("http://{}/", gateway.proxy))
            .header("x-agent-id", &agent.id)
            .header("x-arbiter-session", &session)
            .header("content-type", "application/json")
            .body(call("i", "read_scoped"));
        if token.is_empty() { request } else { request.bearer_auth(token) }
    };
    let agent = &gateway.agent;

    table.add(Code::TokenMissing, Value::Null, gateway.send(with(agent, ""))).await;
    let forged = format!("{}x", agent.token);
    table.add(Code::TokenInvalid, Value::Null, gateway.send(with(agent, &forged))).await;
    let old = token(&agent.id, -500);
    table.add(Code::TokenExpired, Value::Null, gateway.send(with(agent, &old))).await;
    let issued =
        json!({"iss": "https://idp.example", "sub": "u", "aud": "us", "exp": 4_000_000_000_i64});
    let key = EncodingKey::from_secret(b"whatever");
    let issued = encode(&Header::default(), &issued, &key).unwrap();
    table.add(Code::IdentityUnavailable, Value::Null, gateway.send(with(agent, &issued))).await;
    let stranger = token("7d9ce5a5-1f7c-4f6b-9b8a-6d3c4f2f9f10", 500);
    table.add(Code::AgentUnknown, Value::Null, gateway.send(with(agent, &stranger))).await;

    let gone = gateway.register(json!({})).await;
    let (status, _) = gateway.admin("DELETE", &format!("/agents/{}", gone.id), None).await;
    assert_eq!(status, 200);
    table.add(Code::AgentInactive, Value::Null, gateway.send(with(&gone, &gone.token))).await;

    // The control of all above: with the right token the call gets as far as the policies.
    let scoped = gateway.send(with(agent, &agent.token));
    table.add(Code::InsufficientScope, json!("i"), scoped).await;
    assert_eq!(gateway.upstream.calls(), 0);
    table.compare();
}

#[tokio::test]
async fn sessions() {
    let gateway = Gateway::start(setup()).await;
    let session = gateway.session(json!({"authorized_tools": ["read_file", "read_secret"]})).await;
    let mut table = Table::of(&gateway);
    let ask = |session: &str, agent: &str, body: String| {
        let mut request = gateway
            .client
            .post(format!("http://{}/", gateway.proxy))
            .bearer_auth(&gateway.agent.token)
            .header("content-type", "application/json")
            .body(body);
        for (name, value) in [("x-arbiter-session", session), ("x-agent-id", agent)] {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        gateway.send(request)
    };
    let me = gateway.agent.id.as_str();
    let s = json!("s");

    let read = || call("s", "read_file");
    table.add(Code::SessionRequired, s.clone(), ask("", me, read())).await;
    let unknown = "0b0e1f57-5d3f-4b0c-8a0f-0d1f8a6d2b11";
    table.add(Code::SessionUnknown, s.clone(), ask(unknown, me, read())).await;
    table.add(Code::AgentIdRequired, s.clone(), ask(&session, "", read())).await;
    let other = gateway.register(json!({})).await;
    table.add(Code::AgentMismatch, s.clone(), ask(&session, &other.id, read())).await;

    table.add(Code::ToolNotAuthorized, s.clone(), ask(&session, me, call("s", "write_file"))).await;
    let resource = message("s", "resources/read", json!({"uri": "file:///etc/passwd"}));
    table.add(Code::ResourceNotAuthorized, s.clone(), ask(&session, me, resource)).await;
    let prompt = message("s", "prompts/get", json!({"name": "greeting"}));
    table.add(Code::PromptNotAuthorized, s.clone(), ask(&session, me, prompt)).await;
    let other = message("s", "completions/list", json!({}));
    table.add(Code::MethodNotAuthorized, s.clone(), ask(&session, me, other)).await;
    let task = message("s", "tasks/get", json!({"taskId": "another-sessions"}));
    table.add(Code::TaskUnknown, s.clone(), ask(&session, me, task)).await;
    let round = json!({"name": "read_file", "arguments": {}, "requestState": "another-sessions"});
    let round = message("s", "tools/call", round);
    table.add(Code::ContinuationUnknown, s.clone(), ask(&session, me, round)).await;
    let secret = call("s", "read_secret");
    table.add(Code::SensitivityExceeded, s.clone(), ask(&session, me, secret)).await;

    let elsewhere = gateway.request(&session, read()).header("mcp-session-id", "another-agents");
    table.add(Code::McpSessionUnknown, Value::Null, gateway.send(elsewhere)).await;

    let listens = gateway.session(json!({"authorized_methods": ["subscriptions/listen"]})).await;
    let theirs = json!({"notifications": {"taskIds": ["t-1"]}});
    let listen = message("s", "subscriptions/listen", theirs);
    table.add(Code::TaskUnknown, s.clone(), ask(&listens, me, listen)).await;

    let short = gateway.session(json!({"time_limit_secs": 1})).await;
    let expired = eventually(|| async {
        let (_, shown) = gateway.admin("GET", &format!("/sessions/{short}"), None).await;
        (shown["status"] == "expired").then_some(())
    });
    expired.await.unwrap();
    table.add(Code::SessionExpired, s.clone(), ask(&short, me, read())).await;
    let closed = gateway.session(json!({})).await;
    gateway.admin("DELETE", &format!("/sessions/{closed}"), None).await;
    table.add(Code::SessionClosed, s.clone(), ask(&closed, me, read())).await;

    let spent = gateway.session(json!({"call_budget": 1})).await;
    assert_eq!(ask(&spent, me, read()).await.status, 200);
    table.add(Code::BudgetExhausted, s.clone(), ask(&spent, me, read())).await;
    let hasty = gateway.session(json!({"rate_limit_per_minute": 1})).await;
    assert_eq!(ask(&hasty, me, read()).await.status, 200);
    table.add(Code::RateLimited, s.clone(), ask(&hasty, me, read())).await;
    assert_eq!(gateway.upstream.calls(), 2);
    table.compare();
}

#[tokio::test]
async fn policies_and_drift() {
    let gateway = Gateway::start(setup()).await;
    let tools = ["read_file", "write_file", "read_unheard_of", "read_payroll"];
    let session = gateway
        .session(json!({"declared_intent": "read reports", "authorized_tools": tools}))
        .await;
    let mut table = Table::of(&gateway);
    let ask = |tool: &str| gateway.call(&session, call("p", tool));
    let p = json!("p");
    table.add(Code::PolicyDenied, p.clone(), ask("read_unheard_of")).await;
    table.add(Code::EscalationRequired, p.clone(), ask("read_payroll")).await;
    let (_, asked) = gateway.admin("GET", "/approvals", None).await;
    let id = asked["approvals"][0]["approval_id"].as_str().unwrap();
    gateway.admin("POST", &format!("/approvals/{id}"), Some(json!({"decision": "deny"}))).await;
    table.add(Code::ApprovalDenied, p.clone(), ask("read_payroll")).await;
    table.add(Code::DriftDetected, p.clone(), ask("write_file")).await;
    let freeze = json!({"scope": "tool", "value": "read_file", "reason": "an incident"});
    let (_, frozen) = gateway.admin("POST", "/freeze", Some(freeze)).await;
    table.add(Code::Frozen, p, ask("read_file")).await;
    assert_eq!(gateway.upstream.calls(), 0);
    let id = frozen["freeze_id"].as_str().unwrap();
    assert_eq!(gateway.admin("DELETE", &format!("/freeze/{id}"), None).await.0, 200);
    assert_eq!(ask("read_file").await.status, 200);
    table.compare();
}

#[tokio::test]
async fn too_many_approvals() {
    let gateway = Gateway::start(setup().with("approvals.max_pending_per_agent", 1)).await;
    let tools = json!({"declared_intent": "read reports", "authorized_tools": ["read_payroll"]});
    let session = gateway.session(tools).await;
    let mut table = Table::of(&gateway);
    let ask = |month: u8| {
        let arguments = json!({"name": "read_payroll", "arguments": {"month": month}});
        gateway.call(&session, message("m", "tools/call", arguments))
    };
    assert_eq!(ask(1).await.code(), "EscalationRequired");
    table.add(Code::TooManyApprovals, json!("m"), ask(2)).await;
    table.compare();
}

#[tokio::test]
async fn credentials() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials.toml");
    let values = "[credentials]\nmine = \"a-long-enough-value\"\ntheirs = \"another-long-value\"\npin = \"12\"\n";
    std::fs::write(&file, values).unwrap();
    let gateway = Gateway::start(
        setup()
            .with("credentials.provider", "\"file\"")
            .with("credentials.file_path", json!(file.display().to_string())),
    )
    .await;
    let session = gateway.session(json!({"authorized_credentials": ["mine", "pin", "none"]})).await;
    let mut table = Table::of(&gateway);
    let c = json!("c");
    let with = |text: &str| {
        let arguments = json!({"name": "read_file", "arguments": {"header": text}});
        gateway.call(&session, message("c", "tools/call", arguments))
    };
    table.add(Code::CredentialUnknown, c.clone(), with("${CRED:none}")).await;
    table.add(Code::CredentialNotAuthorized, c.clone(), with("${CRED:theirs}")).await;
    let in_key = json!({"name": "read_file", "arguments": {"${CRED:mine}": 1}});
    let in_key = gateway.call(&session, message("c", "tools/call", in_key));
    table.add(Code::CredentialMisplaced, c.clone(), in_key).await;
    table.add(Code::CredentialTooShort, c, with("${CRED:pin}")).await;
    assert_eq!(gateway.upstream.calls(), 0);
    assert_eq!(with("Bearer ${CRED:mine}").await.status, 200);
    let sent: Value = serde_json::from_slice(&gateway.upstream.seen()[0].body).unwrap();
    assert_eq!(sent["params"]["arguments"]["header"], "Bearer a-long-enough-value");
    table.compare();
}
