//! Streams on which the server notifies by itself: opened only for what could be read, and held to that
//! while they are open.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::response::IntoResponse;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::support::harness::{
    Answer, Gateway, PATIENCE, Setup, events, eventually, read_until, stream_response, tool_call,
};

const MODERN: &str = "2026-07-28";
const LISTEN: &str = "subscriptions/listen";

/// Time within which what was taken away has ended.
const SOON: Duration = Duration::from_secs(1);

fn policies(resources: &str) -> String {
    format!(
        r#"
[[policies]]
id = "some"
effect = "allow"
allowed_tools = ["*"]
allowed_resources = [{resources}]
allowed_prompts = ["*"]
allowed_methods = ["*"]

[[policies]]
id = "never"
effect = "deny"
allowed_resources = ["file:///pub/denied"]
priority = 900

[[policies]]
id = "secret"
effect = "allow"
allowed_resources = ["file:///pub/secret"]
data_sensitivity = "restricted"
priority = 900

[[policies]]
id = "asked"
effect = "escalate"
allowed_resources = ["file:///pub/asked"]
priority = 900
"#
    )
}

fn served() -> Setup {
    Setup::default()
        .policies(&policies(r#""file:///pub/*", "file:///other""#))
        .with("proxy.legacy_streams", true)
        .with("sessions.max_concurrent_sessions_per_agent", 100)
}

async fn session(gateway: &Gateway) -> String {
    let order = json!({
        "authorized_resources": ["file:///pub/*"],
        "authorized_methods": [LISTEN],
    });
    gateway.session(order).await
}

fn modern(method: &str, mut params: Value) -> String {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({"jsonrpc": "2.0", "id": "l-1", "method": method, "params": params}).to_string()
}

fn asking(
    gateway: &Gateway,
    session: &str,
    method: &str,
    params: Value,
) -> reqwest::RequestBuilder {
    let request = gateway
        .request(session, modern(method, params.clone()))
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", method);
    match params["uri"].as_str() {
        Some(uri) => request.header("mcp-name", uri),
        None => request,
    }
}

async fn listen_to(gateway: &Gateway, session: &str, notifications: Value) -> Answer {
    let params = json!({"notifications": notifications});
    gateway.send(asking(gateway, session, LISTEN, params)).await
}

#[tokio::test]
async fn each_resource_of_a_subscription_needs_what_reading_it_needs() {
    let gateway = Gateway::start(served()).await;
    let session = session(&gateway).await;
    let mut passed = 0;
    for (uri, code) in [
        ("file:///pub/a", ""),
        ("FILE://localhost/%70ub/./a", ""),
        ("file:///other", "ResourceNotAuthorized"),
        ("file:///pub/../etc/passwd", "ResourceNotAuthorized"),
        ("file:///pub/..%2fetc/passwd", "ResourceNotAuthorized"),
        ("file:///pub/denied", "PolicyDenied"),
        ("file:///pub/secret", "SensitivityExceeded"),
        ("file:///pub/asked", "EscalationRequired"),
        ("", "MalformedRequest"),
    ] {
        let read = gateway.send(asking(&gateway, &session, "resources/read", json!({"uri": uri})));
        let alone = json!({"resourceSubscriptions": [uri], "toolsListChanged": true});
        let among = json!({"resourceSubscriptions": ["file:///pub/a", uri, "file:///pub/b"]});
        let answers = [
            read.await,
            listen_to(&gateway, &session, alone).await,
            listen_to(&gateway, &session, among).await,
        ];
        for answer in answers {
            assert_eq!(answer.code(), code, "{uri}");
            passed += usize::from(code.is_empty());
        }
    }
    assert_eq!(gateway.upstream.calls(), passed, "one that fails refuses the whole");
    let many: Vec<String> = (0..1001).map(|n| format!("file:///pub/{n}")).collect();
    for wrong in [
        json!({"resourceSubscriptions": "file:///pub/a"}),
        json!({"resourceSubscriptions": [7]}),
        json!({"ResourceSubscriptions": ["file:///other"]}),
        json!({"resourceSubscriptions": many}),
        json!([]),
    ] {
        let refused = listen_to(&gateway, &session, wrong.clone()).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "MalformedRequest"), "{wrong}");
    }
    let unknown = listen_to(&gateway, &session, json!({"taskIds": ["t-1"]})).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (200, &json!(-32602)));
    // An approval is for the subscription as it was asked for.
    let asked = json!({"resourceSubscriptions": ["file:///pub/asked", "file:///pub/a"]});
    let waits = listen_to(&gateway, &session, asked.clone()).await;
    let id = waits.json()["error"]["data"]["approval_id"].as_str().unwrap().to_owned();
    let yes = json!({"decision": "approve"});
    let (status, said) = gateway.admin("POST", &format!("/approvals/{id}"), Some(yes)).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(listen_to(&gateway, &session, asked).await.code(), "");
    assert_eq!(gateway.upstream.calls(), passed + 1);
}

/// A stream that the test writes, as its client sees it.
struct Stream {
    sender: Option<UnboundedSender<String>>,
    response: reqwest::Response,
    request_id: String,
}

impl Stream {
    async fn open(gateway: &Gateway, request: reqwest::RequestBuilder) -> Self {
        let (sender, body) = events();
        let body = Mutex::new(Some(body));
        gateway
            .upstream
            .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let request_id = response.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
        Self { sender: Some(sender), response, request_id }
    }

    async fn subscription(gateway: &Gateway, session: &str, notifications: Value) -> Self {
        let params = json!({"notifications": notifications});
        let mut stream = Self::open(gateway, asking(gateway, session, LISTEN, params)).await;
        let ack = notified(
            "notifications/subscriptions/acknowledged",
            &json!({"notifications": notifications}),
        );
        assert_eq!(stream.brings(&ack).await, ack);
        stream
    }

    async fn get(gateway: &Gateway, session: &str) -> Self {
        let request = gateway.bare("GET", session).header("accept", "text/event-stream");
        Self::open(gateway, request).await
    }

    fn send(&self, text: &str) {
        self.sender.as_ref().unwrap().send(text.to_owned()).unwrap();
    }

    /// Sends an event and gives what has come until it is whole, or another was.
    async fn brings(&mut self, event: &str) -> String {
        self.send(event);
        self.next().await
    }

    async fn next(&mut self) -> String {
        read_until(&mut self.response, "\n\n").await
    }

    /// Waits for the stream's end, whole or broken off; gives what still came.
    async fn rest(&mut self) -> String {
        let mut text = String::new();
        let ends = async {
            while let Ok(Some(chunk)) = self.response.chunk().await {
                text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, ends).await.unwrap();
        text
    }
}

fn notified(method: &str, params: &Value) -> String {
    let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
    format!("event: message\ndata: {message}\n\n")
}

fn updated(uri: &str) -> String {
    notified("notifications/resources/updated", &json!({"uri": uri}))
}

fn changed(list: &str, of: &str) -> String {
    let params = if of.is_empty() {
        String::new()
    } else {
        format!(r#","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{of}}}}}"#)
    };
    format!(
        "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/{list}/list_changed\"{params}}}\n\n"
    )
}

async fn reload(gateway: &Gateway, text: &str) {
    std::fs::write(gateway.folder.path().join("policies.toml"), text).unwrap();
    let (status, said) = gateway.admin("POST", "/policy/reload", None).await;
    assert_eq!(status, 200, "{said}");
}

const DROPPED: &str = "arbiter_notifications_dropped_total";

#[tokio::test]
async fn a_notification_passes_only_while_its_resource_may_be_read() {
    let gateway = Gateway::start(served()).await;
    let session = session(&gateway).await;
    let wanted = json!({"resourceSubscriptions": ["file:///pub/a", "file:///pub/b"]});
    let (a, b) = (updated("file:///pub/a"), updated("file:///pub/b"));
    let mut subscription = Stream::subscription(&gateway, &session, wanted).await;
    let mut get = Stream::get(&gateway, &session).await;
    let call = gateway.request(&session, tool_call("read_file", json!({})));
    let mut answer = Stream::open(&gateway, call).await;
    for stream in [&mut subscription, &mut get, &mut answer] {
        assert_eq!(stream.brings(&a).await, a);
        assert_eq!(stream.brings(&updated("file:///other")).await, "event: message\n\n");
    }
    assert!(gateway.metric(DROPPED).await >= 3.0);
    reload(&gateway, &policies(r#""file:///pub/b""#)).await;
    for stream in [&mut subscription, &mut get, &mut answer] {
        stream.send(&a);
        stream.send(&b);
        let came = read_until(&mut stream.response, "pub/b").await;
        assert!(!came.contains("pub/a"), "{came}");
    }
    assert!(gateway.metric(DROPPED).await >= 6.0);
    // A session that may read nothing subscribes to nothing, and its answers are not looked into.
    let none = gateway.session(json!({})).await;
    let call = gateway.request(&none, tool_call("read_file", json!({})));
    let mut plain = Stream::open(&gateway, call).await;
    plain.send("event: message\ndata: {\"half\":");
    assert_eq!(read_until(&mut plain.response, "half").await, "event: message\ndata: {\"half\":");
}

#[tokio::test]
async fn a_stream_ends_soon_after_its_right_has() {
    let gateway = Gateway::start(served()).await;
    let own = gateway.agent.id.clone();
    for (what, code) in [
        ("session", "SessionClosed"),
        ("freeze", "Frozen"),
        ("policy", "PolicyDenied"),
        ("agent", "AgentInactive"),
    ] {
        let session = session(&gateway).await;
        let mut subscription =
            Stream::subscription(&gateway, &session, json!({"toolsListChanged": true})).await;
        let mut get = Stream::get(&gateway, &session).await;
        let since = Instant::now();
        match what {
            "session" => _ = gateway.admin("DELETE", &format!("/sessions/{session}"), None).await,
            "freeze" => {
                let all = json!({"scope": "all", "reason": "r"});
                let (_, freeze) = gateway.admin("POST", "/freeze", Some(all)).await;
                let id = freeze["freeze_id"].as_str().unwrap();
                tokio::time::sleep(SOON).await;
                gateway.admin("DELETE", &format!("/freeze/{id}"), None).await;
            }
            "policy" => reload(&gateway, "").await,
            _ => _ = gateway.admin("DELETE", &format!("/agents/{own}"), None).await,
        }
        let last = subscription.rest().await;
        // Without an id there is nobody to answer: such a stream just ends.
        assert_eq!(get.rest().await, "", "{what}");
        assert!(since.elapsed() < SOON * 3, "{what}: {:?}", since.elapsed());
        let data = last.strip_prefix("event: message\ndata: ").unwrap_or_else(|| panic!("{last}"));
        let message: Value = serde_json::from_str(data).unwrap();
        assert_eq!(message["id"], "l-1");
        assert_eq!(message["error"]["data"]["code"], code, "{message}");
        let record = gateway.record_of(&subscription.request_id).await;
        assert_eq!(
            (&record["denial_code"], &record["authorization_decision"]),
            (&json!(code), &json!("allow"))
        );
        if what == "policy" {
            reload(&gateway, &served().policies).await;
        }
    }
}

#[tokio::test]
async fn clients_that_listen_learn_that_their_lists_have_changed() {
    let gateway = Gateway::start(served()).await;
    let session = session(&gateway).await;
    let every = json!({
        "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true,
    });
    let mut subscription = Stream::subscription(&gateway, &session, every).await;
    let updates = json!({"resourceSubscriptions": ["file:///pub/a"]});
    let mut silent = Stream::subscription(&gateway, &session, updates).await;
    let mut get = Stream::get(&gateway, &session).await;
    let both = |of: &str| changed("tools", of) + &changed("resources", of);
    let lower = json!({"trust_level": "untrusted"});
    let trust = format!("/agents/{}/trust", gateway.agent.id);
    for change in ["policy", "trust"] {
        // Within an event nothing is announced, behind it at once.
        let (first, second) = ("data: {\"x\":1}", "\n\n");
        get.send(&format!("id: 9\n{first}"));
        assert_eq!(read_until(&mut get.response, "id: 9\n").await, "id: 9\n");
        match change {
            "policy" => reload(&gateway, &policies(r#""file:///pub/*""#)).await,
            _ => _ = gateway.admin("PUT", &trust, Some(lower.clone())).await,
        }
        // No prompt is authorized, so that list cannot change.
        let came = read_until(&mut subscription.response, "resources/list_changed").await;
        assert_eq!(came, both("\"l-1\""), "{change}");
        get.send(second);
        let came = read_until(&mut get.response, "resources/list_changed").await;
        assert_eq!(came, format!("{first}{second}{}", both("")), "{change}");
    }
    // Nobody asked there.
    let mark = updated("file:///pub/a");
    assert_eq!(silent.brings(&mark).await, mark);
}

#[tokio::test]
async fn nothing_is_announced_before_the_acknowledgement_nor_beyond_it() {
    let gateway = Gateway::start(served()).await;
    let session = session(&gateway).await;
    let every = json!({"notifications": {"toolsListChanged": true, "resourcesListChanged": true}});
    let mut stream = Stream::open(&gateway, asking(&gateway, &session, LISTEN, every)).await;
    stream.send(": hello\n\n");
    assert_eq!(stream.next().await, ": hello\n\n");
    reload(&gateway, &policies(r#""file:///pub/*""#)).await;
    tokio::time::sleep(SOON).await;
    let ack = notified(
        "notifications/subscriptions/acknowledged",
        &json!({"notifications": {"resourcesListChanged": true}}),
    );
    stream.send(&ack);
    let came = read_until(&mut stream.response, "list_changed").await;
    assert_eq!(came, ack + &changed("resources", "\"l-1\""));
}

#[tokio::test]
async fn an_answer_that_is_no_stream_is_passed_as_it_is() {
    let gateway = Gateway::start(served()).await;
    let session = session(&gateway).await;
    let text = r#"{"jsonrpc":"2.0","id":"l-1","error":{"code":-32601,"message":"no such method"}}"#;
    gateway.upstream.answer_with(move |_| {
        ([("content-type", "application/json")], text.to_owned()).into_response()
    });
    let answer = listen_to(&gateway, &session, json!({"toolsListChanged": true})).await;
    assert_eq!((answer.status, &answer.body[..]), (200, text.as_bytes()));
    // The agent's next call is served on the same connection.
    let next = eventually(|| async {
        let call = gateway.call(&session, tool_call("read_file", json!({}))).await;
        (call.status == 200).then_some(())
    });
    tokio::time::timeout(PATIENCE, next).await.unwrap().unwrap();
}
