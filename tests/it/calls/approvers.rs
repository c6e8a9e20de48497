//! People who decide: not about their own calls, notified of what waits for them, and sent to its page.

use std::sync::Arc;

use aws_lc_rs::hmac;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::support::harness::{
    API_KEY, ASK_BEFORE_PAYING, Answer, Gateway, Seen, Setup, Upstream, eventually, json_response,
    read_until, stream_response, tool_call,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn pay(amount: usize) -> String {
    tool_call("pay", json!({"amount": amount, "password": "hunter2"}))
}

async fn session(gateway: &Gateway) -> String {
    let order = json!({"declared_intent": "manage secrets", "authorized_tools": ["pay"]});
    gateway.session(order).await
}

async fn ask(gateway: &Gateway, session: &str, amount: usize) -> String {
    let asked = gateway.call(session, pay(amount)).await;
    assert_eq!(asked.code(), "EscalationRequired");
    asked.json()["error"]["data"]["approval_id"].as_str().unwrap().to_owned()
}

async fn decide(gateway: &Gateway, key: Option<&str>, id: &str) -> (u16, Value) {
    let url = format!("http://{}/approvals/{id}", gateway.admin);
    let key = key.unwrap_or(API_KEY);
    let request = gateway.client.post(url).header("x-api-key", key);
    let answer = request.json(&json!({"decision": "approve"})).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn nobody_decides_about_a_session_or_an_agent_of_his_own() {
    let (owner_key, other_key) = ("the key of the opener", "the key of another");
    let mut setup = Setup::default().policies(ASK_BEFORE_PAYING).with("approvals.four_eyes", true);
    for (name, key) in [("opener", owner_key), ("other", other_key)] {
        let hash = blake3::hash(key.as_bytes());
        let entry = format!("name = \"{name}\"\nrole = \"admin\"\nkey_hash = \"blake3:{hash}\"\n");
        setup.more = [&setup.more, "\n[[admin.keys]]\n", &entry].concat();
    }
    let mut gateway = Gateway::start(setup).await;
    // Registered by `admin`, and the session opened by `opener`.
    let order = json!({
        "agent_id": gateway.agent.id, "declared_intent": "manage", "authorized_tools": ["pay"],
    });
    let opened = gateway
        .client
        .post(format!("http://{}/sessions", gateway.admin))
        .header("x-api-key", owner_key)
        .json(&order);
    let opened: Value = opened.send().await.unwrap().json().await.unwrap();
    let session = opened["session_id"].as_str().unwrap().to_owned();
    let id = ask(&gateway, &session, 1).await;
    for own in [None, Some(owner_key)] {
        let (status, refused) = decide(&gateway, own, &id).await;
        assert_eq!((status, refused["error"].as_str()), (403, Some("Forbidden")), "{refused}");
    }
    // Known as well after a restart, from the store.
    gateway.kill();
    gateway.start_again();
    let later = ask(&gateway, &session, 2).await;
    for id in [&id, &later] {
        assert_eq!(decide(&gateway, None, id).await.0, 403);
        assert_eq!(decide(&gateway, Some(owner_key), id).await.0, 403);
    }
    let (_, shown) = gateway.admin("GET", &format!("/approvals/{later}"), None).await;
    assert_eq!((&shown["opened_by"], &shown["registered_by"]), (&json!("opener"), &json!("admin")));
    assert_eq!(decide(&gateway, Some(other_key), &later).await.0, 200);
    assert_eq!(gateway.call(&session, pay(2)).await.status, 200);
}

fn notifying(receiver: &Upstream) -> Setup {
    Setup::default()
        .policies(ASK_BEFORE_PAYING)
        .with("approvals.notify_url", format!("\"http://{}/T0/secret-path\"", receiver.address))
        .with("approvals.notify_secret", format!("\"{SECRET}\""))
        .with("approvals.user_url", "\"https://arbiter.example/console/approvals\"")
}

#[tokio::test]
async fn chat_systems_hear_of_asks_and_decisions_and_of_no_secret() {
    let receiver = Upstream::start().await;
    // Busy at first: the notice is sent once more.
    let tries = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    receiver.answer_with(move |_| {
        let busy = tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        if busy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }.into_response()
    });
    let gateway = Gateway::start(notifying(&receiver)).await;
    let session = session(&gateway).await;
    let id = ask(&gateway, &session, 1).await;
    assert_eq!(decide(&gateway, None, &id).await.0, 200);
    assert_eq!(gateway.call(&session, pay(1)).await.status, 200);
    let open = ask(&gateway, &session, 2).await;
    gateway.admin("DELETE", &format!("/sessions/{session}"), None).await;
    receiver.wait_for_calls(5).await;

    let seen = receiver.seen();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    for notice in &seen {
        let header = |name: &str| notice.headers[name].to_str().unwrap().to_owned();
        assert_eq!((notice.method.as_str(), notice.path.as_str()), ("POST", "/T0/secret-path"));
        let signed = [header("x-arbiter-timestamp").as_bytes(), b".", &notice.body].concat();
        let signature = header("x-arbiter-signature");
        let hex = signature.strip_prefix("v1=").unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        hmac::verify(&key, &signed, &bytes).expect("signed with the secret");
        let text = std::str::from_utf8(&notice.body).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("manage secrets"), "{text}");
    }
    let notices: Vec<Value> =
        seen.iter().map(|one| serde_json::from_slice(&one.body).unwrap()).collect();
    let of = |n: usize| (notices[n]["event"].clone(), notices[n]["approval_id"].clone());
    let expected = [
        ("approval.requested", &id),
        ("approval.requested", &id),
        ("approval.approved", &id),
        ("approval.requested", &open),
        ("approval.void", &open),
    ];
    for (n, (event, id)) in expected.into_iter().enumerate() {
        assert_eq!(of(n), (json!(event), json!(id)), "{n}");
    }
    assert_eq!(notices[0]["delivery_id"], notices[1]["delivery_id"], "one notice, sent twice");
    assert_eq!(notices[2]["decided_by"], "admin");
    assert_eq!(notices[2]["url"], format!("https://arbiter.example/console/approvals/{id}"));
    let sent = eventually(|| async {
        let series = "arbiter_approval_notices_total{outcome=\"sent\"}";
        (gateway.metric(series).await > 3.5).then_some(())
    });
    sent.await.expect("counted");
}

#[tokio::test]
async fn a_receiver_that_refuses_holds_nothing_up() {
    let receiver = Upstream::start().await;
    receiver.answer_with(|_| StatusCode::FORBIDDEN.into_response());
    let gateway = Gateway::start(notifying(&receiver)).await;
    let session = session(&gateway).await;
    ask(&gateway, &session, 1).await;
    let failed = eventually(|| async {
        let series = "arbiter_approval_notices_total{outcome=\"failed\"}";
        (gateway.metric(series).await > 0.5).then_some(())
    });
    failed.await.expect("counted, after one attempt");
    assert_eq!(receiver.calls(), 1);
}

const PAGE: &str = "https://arbiter.example/console/approvals";

fn sending() -> Setup {
    Setup::default().policies(ASK_BEFORE_PAYING).with("approvals.user_url", format!("\"{PAGE}/\""))
}

fn initialize(version: &str, elicitation: Value) -> String {
    json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": version, "capabilities": {"elicitation": elicitation},
            "clientInfo": {"name": "c", "version": "1"},
        },
    })
    .to_string()
}

#[tokio::test]
async fn a_client_of_2025_that_opens_pages_is_sent_to_that_of_the_approval() {
    let gateway = Gateway::start(sending()).await;
    let session = session(&gateway).await;
    let call = |version: &'static str| {
        gateway.send(gateway.request(&session, pay(1)).header("MCP-Protocol-Version", version))
    };
    // Nothing is known of what this client can do, and then that it cannot.
    assert_eq!(call("2025-11-25").await.status, 403);
    gateway.call(&session, initialize("2025-11-25", json!({"form": {}}))).await;
    assert_eq!(call("2025-11-25").await.status, 403);
    gateway.call(&session, initialize("2025-11-25", json!({"form": {}, "url": {}}))).await;
    assert_eq!(call("2025-06-18").await.status, 403, "has no such error");
    let sent = call("2025-11-25").await;
    assert_eq!(sent.status, 200);
    let error = &sent.json()["error"];
    assert_eq!(
        (&error["code"], &error["data"]["code"]),
        (&json!(-32042), &json!("EscalationRequired"))
    );
    let id = error["data"]["approval_id"].as_str().unwrap();
    let elicitation = &error["data"]["elicitations"][0];
    assert_eq!((&elicitation["mode"], &elicitation["elicitationId"]), (&json!("url"), &json!(id)));
    assert_eq!(elicitation["url"], format!("{PAGE}/{id}"));
    let record = gateway.record_of(sent.request_id()).await;
    assert_eq!(record["denial_code"], "EscalationRequired");
    assert_eq!(decide(&gateway, None, id).await.0, 200);
    assert_eq!(call("2025-11-25").await.json()["result"]["content"], json!([]));
    assert_eq!(gateway.upstream.calls(), 3);
}

/// A call of 2026-07-28 by a client that opens pages, with more members of `params`.
async fn call_of_2026(gateway: &Gateway, session: &str, more: Value) -> Answer {
    let mut params = json!({
        "name": "pay", "arguments": {"amount": 1},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"url": {}}},
        },
    });
    for (name, value) in more.as_object().unwrap() {
        params[name] = value.clone();
    }
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    let request = gateway
        .request(session, body.to_string())
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "pay");
    gateway.send(request).await
}

fn answered(state: &Value, action: &str) -> Value {
    json!({"requestState": state, "inputResponses": {"arbiter/approval": {"action": action}}})
}

#[tokio::test]
async fn a_client_of_2026_answers_a_question_and_its_answer_does_not_go_on() {
    let gateway = Gateway::start(sending()).await;
    let (session, other) = (session(&gateway).await, session(&gateway).await);
    let asked = call_of_2026(&gateway, &session, json!({})).await;
    assert_eq!(asked.status, 200);
    let result = asked.json()["result"].clone();
    assert_eq!(result["resultType"], "input_required");
    let id = result["_meta"]["arbiter/refusal"]["approval_id"].as_str().unwrap().to_owned();
    let question = &result["inputRequests"]["arbiter/approval"];
    assert_eq!(question["method"], "elicitation/create");
    assert_eq!(question["params"]["url"], format!("{PAGE}/{id}"));
    let state = &result["requestState"];

    // Too early, and not at all: the plain refusal, so that no client goes on by itself for ever.
    for action in ["accept", "decline"] {
        let refused = call_of_2026(&gateway, &session, answered(state, action)).await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "EscalationRequired"));
        assert_eq!(refused.json()["error"]["data"]["approval_id"], *id);
    }
    // Another session's state is none of the gateway's: it is another call.
    let foreign = call_of_2026(&gateway, &other, answered(state, "accept")).await;
    assert_ne!(foreign.json()["error"]["data"]["approval_id"], *id);
    assert_eq!(gateway.upstream.calls(), 0);

    assert_eq!(decide(&gateway, None, &id).await.0, 200);
    let passed = call_of_2026(&gateway, &session, answered(state, "accept")).await;
    assert_eq!(passed.status, 200, "{:?}", passed.json());
    let seen = gateway.upstream.seen();
    let forwarded: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(forwarded["params"]["arguments"], json!({"amount": 1}));
    assert!(forwarded["params"].get("requestState").is_none(), "{forwarded}");
    assert!(forwarded["params"].get("inputResponses").is_none(), "{forwarded}");
    let record = gateway.record_of(passed.request_id()).await;
    assert_eq!((&record["approval_id"], &record["approved_by"]), (&json!(id), &json!("admin")));
}

#[tokio::test]
async fn a_client_that_comes_back_early_waits_where_calls_are_held() {
    let gateway = Gateway::start(sending().with("approvals.hold_secs", 30)).await;
    let session = session(&gateway).await;
    let asked = call_of_2026(&gateway, &session, json!({})).await.json();
    assert_eq!(asked["result"]["resultType"], "input_required", "sent there at once");
    let id = asked["result"]["_meta"]["arbiter/refusal"]["approval_id"].as_str().unwrap();
    let more = answered(&asked["result"]["requestState"], "accept");
    let (held, decided) =
        tokio::join!(call_of_2026(&gateway, &session, more), decide(&gateway, None, id));
    assert_eq!((held.status, decided.0), (200, 200));
    assert_eq!(held.json()["result"]["content"], json!([]));
}

/// A call whose client follows its progress, and takes a stream for an answer.
fn watched(gateway: &Gateway, session: &str, amount: usize) -> reqwest::RequestBuilder {
    let body = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {"name": "pay", "arguments": {"amount": amount}, "_meta": {"progressToken": "t-\u{e9}"}},
    });
    let request = gateway.request(session, body.to_string());
    request.header("accept", "application/json, text/event-stream")
}

/// Reads the messages of an event stream to its end.
async fn messages(mut response: reqwest::Response, begun: String) -> Vec<Value> {
    let text = begun + &read_until(&mut response, "the end").await;
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test]
async fn a_client_that_follows_its_call_sees_it_wait_and_gets_the_answer() {
    let setup = Setup::default().policies(ASK_BEFORE_PAYING).with("approvals.hold_secs", 30);
    let gateway = Gateway::start(setup).await;
    let session = session(&gateway).await;
    let pending = || async {
        let (_, list) = gateway.admin("GET", "/approvals?status=pending", None).await;
        list["approvals"][0]["approval_id"].as_str().map(str::to_owned)
    };
    let answers: [fn(&Seen) -> axum::response::Response; 3] = [
        |_| {
            json_response("{\n \"jsonrpc\":\"2.0\",\r\n \"id\":7,\n \"result\":{\"content\":[]}\n}")
        },
        |_| {
            let events = "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"content\":[]}}\n\n";
            stream_response(axum::body::Body::from(events))
        },
        |_| StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    ];
    for (amount, answer) in answers.into_iter().enumerate() {
        gateway.upstream.answer_with(answer);
        let mut response = watched(&gateway, &session, amount).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(response.headers().contains_key("x-arbiter-request-id"));
        let begun = read_until(&mut response, "\n\n").await;
        let id = eventually(pending).await.expect("asked");
        assert_eq!(decide(&gateway, None, &id).await.0, 200);
        let messages = messages(response, begun).await;
        let progress = &messages[0];
        assert_eq!(progress["method"], "notifications/progress");
        assert_eq!(progress["params"]["progressToken"], "t-\u{e9}");
        assert_eq!(messages.len(), 2, "{amount} {messages:?}");
        assert_eq!(messages[1]["id"], 7);
        match amount {
            2 => assert_eq!(messages[1]["error"]["data"]["code"], "UpstreamFailed"),
            _ => assert_eq!(messages[1]["result"], json!({"content": []})),
        }
    }
    // Denied: the refusal is the last event.
    let mut response = watched(&gateway, &session, 9).send().await.unwrap();
    let begun = read_until(&mut response, "\n\n").await;
    let id = eventually(pending).await.expect("asked");
    let denied = json!({"decision": "deny"});
    gateway.admin("POST", &format!("/approvals/{id}"), Some(denied)).await;
    let messages = messages(response, begun).await;
    assert_eq!(messages[1]["error"]["data"]["code"], "ApprovalDenied");
    assert_eq!(messages[1]["id"], 7);
}

#[tokio::test]
async fn a_client_that_follows_its_call_and_leaves_withdraws_it() {
    let setup = Setup::default().policies(ASK_BEFORE_PAYING).with("approvals.hold_secs", 30);
    let gateway = Gateway::start(setup).await;
    let session = session(&gateway).await;
    let mut response = watched(&gateway, &session, 1).send().await.unwrap();
    read_until(&mut response, "\n\n").await;
    drop(response);
    let withdrawn = eventually(|| async {
        let (_, list) = gateway.admin("GET", "/approvals?status=withdrawn", None).await;
        list["approvals"][0]["approval_id"].as_str().map(str::to_owned)
    });
    withdrawn.await.expect("withdrawn long before its 30 s are over");
    assert_eq!(gateway.upstream.calls(), 0);
}

#[tokio::test]
async fn a_gateway_that_leaves_asks_nobody_any_more() {
    let setup = Setup::default().policies(ASK_BEFORE_PAYING).with("proxy.drain_delay_secs", 20);
    let gateway = Gateway::start(setup).await;
    let session = session(&gateway).await;
    let known = ask(&gateway, &session, 1).await;
    gateway.signal("TERM");
    let leaving =
        eventually(|| async { (gateway.metric("arbiter_draining").await > 0.5).then_some(()) });
    leaving.await.expect("leaving");
    let refused = gateway.call(&session, pay(2)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "Overloaded"));
    assert!(refused.header("retry-after").is_some());
    // What was asked about can still be decided and used.
    assert_eq!(decide(&gateway, None, &known).await.0, 200);
    assert_eq!(gateway.call(&session, pay(1)).await.status, 200);
}
