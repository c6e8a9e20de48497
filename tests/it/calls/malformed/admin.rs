//! Bodies that the admin API refuses, each with the field's name.

use serde_json::{Value, json};

use crate::support::harness::{API_KEY, Gateway, Setup};

/// A field of a request and the value that must not pass.
type Bad = (&'static str, Value);

fn long(bytes: usize) -> Value {
    json!("x".repeat(bytes))
}

fn agents() -> Vec<Bad> {
    vec![
        ("owner", json!("")),
        ("owner", json!("  ")),
        ("owner", json!(7)),
        ("owner", Value::Null),
        ("owner", long(257)),
        ("owner", json!("a\nb")),
        ("model", json!("")),
        ("model", json!([])),
        ("model", long(257)),
        ("capabilities", json!("read")),
        ("capabilities", json!([7])),
        ("capabilities", json!([""])),
        ("capabilities", json!(["a", "a"])),
        ("capabilities", json!(vec!["a"; 65])),
        ("trust_level", json!("root")),
        ("trust_level", json!(3)),
        ("trust_level", json!("Trusted")),
        ("expires_at", json!("tomorrow")),
        ("expires_at", json!("2001-01-01T00:00:00Z")),
        ("expires_at", json!(-1)),
        ("colour", json!("red")),
    ]
}

fn sessions() -> Vec<Bad> {
    vec![
        ("agent_id", json!("nonsense")),
        ("agent_id", json!(7)),
        ("agent_id", json!("7d9ce5a51f7c4f6b9b8a6d3c4f2f9f10")),
        ("declared_intent", json!("")),
        ("declared_intent", long(1_025)),
        ("declared_intent", json!("read\u{1b}[2J")),
        ("declared_intent", json!({})),
        ("authorized_tools", json!("read_file")),
        ("authorized_tools", json!([])),
        ("authorized_tools", json!([""])),
        ("authorized_tools", json!(["*"])),
        ("authorized_tools", json!(["read_*"])),
        ("authorized_tools", json!(["a", "a"])),
        ("authorized_tools", json!((0..1_025).map(|n| n.to_string()).collect::<Vec<_>>())),
        ("authorized_tools", json!([long(257)])),
        ("authorized_resources", json!([7])),
        ("authorized_prompts", json!({})),
        ("authorized_methods", json!([null])),
        ("authorized_credentials", json!(["a", "a"])),
        ("time_limit_secs", json!(0)),
        ("time_limit_secs", json!(-1)),
        ("time_limit_secs", json!(1.5)),
        ("time_limit_secs", json!(u64::MAX)),
        ("time_limit_secs", json!("60")),
        ("call_budget", json!(0)),
        ("call_budget", json!(-5)),
        ("call_budget", json!(u64::MAX)),
        ("call_budget", json!(1e30)),
        ("rate_limit_per_minute", json!(0)),
        ("rate_limit_per_minute", json!(-1)),
        ("rate_limit_per_minute", json!(4_294_967_296_u64)),
        ("data_sensitivity", json!("secret")),
        ("data_sensitivity", json!(1)),
        ("refusal_style", json!("silent")),
        ("allow_everything", json!(true)),
    ]
}

/// Sends a good request with one field changed, or without it where the value is null.
async fn changed(gateway: &Gateway, path: &str, good: &Value, bad: Vec<Bad>) {
    for (field, value) in bad {
        let mut body = good.clone();
        body[field] = value.clone();
        if value.is_null() {
            body.as_object_mut().unwrap().remove(field);
        }
        let (status, answer) = gateway.admin("POST", path, Some(body)).await;
        assert_eq!(status, 400, "{path} {field}={value}: {answer}");
        assert_eq!(answer["field"], field, "{path} {field}={value}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(field), "{path} {field}={value}: {answer}");
        assert!(answer["error"].is_string());
    }
}

#[tokio::test]
async fn a_field_that_will_not_do_is_named() {
    let gateway = Gateway::start(Setup::default()).await;
    let agent = &gateway.agent.id;
    let count = async || {
        gateway.metric("arbiter_registered_agents").await
            + gateway.metric("arbiter_active_sessions").await
    };
    let before = count().await;
    let good = json!({"owner": "user:a", "model": "m", "capabilities": [], "trust_level": "basic"});
    changed(&gateway, "/agents", &good, agents()).await;
    let good = json!({"agent_id": agent, "declared_intent": "read", "authorized_tools": ["a"]});
    changed(&gateway, "/sessions", &good, sessions()).await;
    let token = format!("/agents/{agent}/token");
    let bad = [json!(0), json!(-1), json!(86_401), json!("60"), json!(1.5)];
    let bad = bad.map(|value| ("expiry_seconds", value)).into();
    changed(&gateway, &token, &json!({}), bad).await;
    let delegate = format!("/agents/{agent}/delegate");
    let good = json!({"to": agent, "scopes": ["read"]});
    let bad = vec![
        ("to", json!("nonsense")),
        ("scopes", json!([])),
        ("scopes", json!(["a", "a"])),
        ("scopes", json!("read")),
        ("expires_at", json!("2001-01-01T00:00:00Z")),
    ];
    changed(&gateway, &delegate, &good, bad).await;
    assert!((count().await - before).abs() < 0.1, "something was made");
}

#[tokio::test]
async fn bodies_ids_and_queries_that_cannot_be_read_are_refused() {
    let gateway = Gateway::start(Setup::default()).await;
    let unknown = "7d9ce5a5-1f7c-4f6b-9b8a-6d3c4f2f9f10";
    let send = async |method: &str, path: &str, media: &str, body: &str| {
        let url = format!("http://{}{path}", gateway.admin);
        let request = gateway.client.request(method.parse().unwrap(), url);
        let request = request.header("x-api-key", API_KEY).header("content-type", media);
        gateway.send(request.body(body.to_owned())).await
    };
    for (body, part) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}{}", "not JSON"),
        (r#"{"owner":"a","owner":"b"}"#, "twice"),
        (r#"{"owner":"\ud800"}"#, "lone surrogate"),
        ("\u{feff}{}", "byte order mark"),
    ] {
        let answer = send("POST", "/agents", "application/json", body).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let json = answer.json();
        assert_eq!(json["error"], "MalformedRequest", "{body}");
        assert!(json["message"].as_str().unwrap().contains(part), "{body}: {json}");
    }
    let big = format!("{{\"owner\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(send("POST", "/agents", "application/json", &big).await.status, 413);
    assert_eq!(send("POST", "/agents", "text/plain", "{}").await.status, 415);
    for (method, path, status) in [
        ("GET", "/agents/nonsense", 400),
        ("GET", "/sessions/nonsense", 400),
        ("DELETE", "/sessions/nonsense", 400),
        ("GET", "/agents?limit=0", 400),
        ("GET", "/agents?limit=-1", 400),
        ("GET", "/agents?limit=many", 400),
        ("GET", "/agents?colour=red", 400),
        ("GET", "/agents?cursor=nonsense", 400),
        ("GET", "/sessions?status=open", 400),
        ("GET", "/sessions?agent_id=nonsense", 400),
        ("GET", &format!("/agents/{unknown}"), 404),
        ("GET", &format!("/sessions/{unknown}"), 404),
        ("DELETE", &format!("/agents/{unknown}"), 404),
        ("GET", "/nowhere", 404),
        ("PATCH", "/agents", 405),
    ] {
        let answer = send(method, path, "application/json", "").await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let json = answer.json();
        assert!(
            json["error"].is_string() && json["message"].is_string(),
            "{method} {path}: {json}"
        );
    }
}
