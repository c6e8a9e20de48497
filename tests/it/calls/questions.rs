//! Questions of servers on streams and in errors, as the 2025 revisions and subscriptions have them: asked of
//! clients that have declared to answer, and leading to allowed hosts only.

use std::sync::Mutex;

use axum::body::Body;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::tasks;
use crate::support::harness::{
    Answer, Gateway, Setup, Upstream, events, json_response, read_until, stream_response, tool_call,
};

const LEGACY: &str = "2025-11-25";
const GOOD: &str = "https://login.corp.com/x";
const BAD: &str = "https://login.corp.com.evil.example/";

fn setup() -> Setup {
    Setup::default()
        .with("proxy.allowed_elicitation_hosts", json!(["login.corp.com"]))
        .with("proxy.legacy_streams", true)
}

fn by_url(url: &str) -> Value {
    let params = json!({"mode": "url", "elicitationId": "e-1", "url": url, "message": "?"});
    json!({"jsonrpc": "2.0", "id": "ask-1", "method": "elicitation/create", "params": params})
}

fn request(method: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": "ask-1", "method": method, "params": {"message": "?"}})
}

/// The error by which a server demands that a page is opened first.
fn required(url: &str) -> Value {
    let page = json!({"mode": "url", "elicitationId": "e-1", "url": url, "message": "?"});
    let error = json!({"code": -32042, "message": "?", "data": {"elicitations": [page]}});
    json!({"jsonrpc": "2.0", "id": 1, "error": error})
}

fn done() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
}

fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}

/// Has the server answer with a stream of these messages.
fn streams(gateway: &Gateway, messages: &[Value]) {
    let body = messages.iter().map(event).collect::<String>();
    gateway.upstream.answer_with(move |_| stream_response(Body::from(body.clone())));
}

/// Has the server answer with JSON.
fn answers(gateway: &Gateway, message: &Value) {
    let body = message.to_string();
    gateway.upstream.answer_with(move |_| json_response(&body));
}

/// Opens a session in which a client begins with these abilities.
async fn begun(gateway: &Gateway, abilities: Value) -> String {
    let session = gateway.session(json!({"authorized_methods": ["subscriptions/listen"]})).await;
    answers(gateway, &done());
    let begin = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": LEGACY, "capabilities": abilities},
    });
    assert_eq!(gateway.call(&session, begin.to_string()).await.status, 200);
    session
}

async fn call(gateway: &Gateway, session: &str) -> Answer {
    let request = gateway.request(session, tool_call("read_file", json!({})));
    gateway.send(request.header("mcp-protocol-version", LEGACY)).await
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Checks that a stream brought none of a question, and ended with an error that names the cause.
fn is_cut_off(answer: &Answer, without: &str) {
    let text = text(answer);
    assert!(!text.contains(without) && !text.contains("\"content\""), "{text}");
    let last = text.trim_end().rsplit("data: ").next().unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!((&last["id"], &last["error"]["data"]["cause"]), (&json!(1), &json!("protocol")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_sends_people_to_allowed_hosts_only_whatever_the_form() {
    let gateway = Gateway::start(setup()).await;
    let session = begun(&gateway, json!({"elicitation": {"form": {}, "url": {}}})).await;
    for (url, host) in [(GOOD, "login.corp.com"), (BAD, "login.corp.com.evil.example")] {
        let passes = url == GOOD;
        for asked in [by_url(url), required(url)] {
            streams(&gateway, &[asked.clone(), done()]);
            let answer = call(&gateway, &session).await;
            if passes {
                assert_eq!(text(&answer), event(&asked) + &event(&done()));
            } else {
                is_cut_off(&answer, "evil");
            }
            let record = gateway.record_of(answer.request_id()).await;
            assert_eq!(record["elicited_hosts"], json!([host]));
            assert_eq!(record["upstream_cause"] == "protocol", !passes, "{record}");
        }
        for asked in [required(url), json!([required(url)]), json!([done(), by_url(url)])] {
            answers(&gateway, &asked);
            let answer = call(&gateway, &session).await;
            if passes {
                assert_eq!((answer.status, answer.json()), (200, asked));
            } else {
                assert_eq!((answer.status, answer.code().as_str()), (502, "UpstreamFailed"));
            }
        }
    }
    // Some clients read errors whatever their status is.
    let body = required(BAD).to_string();
    let json = [("content-type", "application/json")];
    gateway
        .upstream
        .answer_with(move |_| (http::StatusCode::BAD_REQUEST, json, body.clone()).into_response());
    assert_eq!(call(&gateway, &session).await.code(), "UpstreamFailed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_the_2025_revisions_needs_a_client_that_has_declared_to_answer_it() {
    let gateway = Gateway::start(setup()).await;
    let asked = [
        by_url(GOOD),
        request("elicitation/create"),
        request("sampling/createMessage"),
        request("roots/list"),
    ];
    for (abilities, answered) in [
        (json!({}), [false; 4]),
        (json!({"elicitation": {}}), [false, true, false, false]),
        (json!({"elicitation": {"url": {}}}), [true, false, false, false]),
        (json!({"sampling": {}, "roots": {}}), [false, false, true, true]),
    ] {
        let session = begun(&gateway, abilities.clone()).await;
        for (asked, answered) in asked.iter().zip(answered) {
            streams(&gateway, &[asked.clone(), done()]);
            let answer = call(&gateway, &session).await;
            if answered {
                assert_eq!(text(&answer), event(asked) + &event(&done()), "{abilities}");
            } else {
                is_cut_off(&answer, "ask-1");
            }
        }
        // What is no question passes.
        let ping = request("ping");
        streams(&gateway, &[ping.clone(), done()]);
        assert_eq!(text(&call(&gateway, &session).await), event(&ping) + &event(&done()));
    }
    // A second client of the session takes nothing back; of one that was not heard nothing is known.
    let session = begun(&gateway, json!({"elicitation": {"url": {}}})).await;
    answers(&gateway, &done());
    let second = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}});
    gateway.call(&session, second.to_string()).await;
    let unheard = gateway.session(json!({})).await;
    for session in [session, unheard] {
        answers(&gateway, &required(GOOD));
        assert_eq!(call(&gateway, &session).await.status, 200);
        answers(&gateway, &required(BAD));
        assert_eq!(call(&gateway, &session).await.status, 502);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_on_a_stream_that_lasts_is_left_out_and_the_stream_goes_on() {
    let gateway = Gateway::start(setup()).await;
    let session = begun(&gateway, json!({"elicitation": {"url": {}}})).await;
    let (sender, body) = events();
    let body = Mutex::new(Some(body));
    gateway
        .upstream
        .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
    let get = gateway.bare("GET", &session).header("accept", "text/event-stream");
    let mut response = get.header("mcp-protocol-version", LEGACY).send().await.unwrap();
    let request_id = response.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    for refused in [by_url(BAD), required(BAD), request("roots/list")] {
        sender.send(event(&refused)).unwrap();
        assert_eq!(read_until(&mut response, "\n\n").await, "event: message\n\n", "{refused}");
    }
    sender.send(event(&by_url(GOOD))).unwrap();
    assert_eq!(read_until(&mut response, "\n\n").await, event(&by_url(GOOD)));
    assert!(gateway.metric("arbiter_notifications_dropped_total").await >= 3.0);
    drop((sender, response));
    let record = gateway.record_of(&request_id).await;
    assert_eq!(record["elicited_hosts"], json!(["login.corp.com.evil.example", "login.corp.com"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_of_a_task_that_asks_is_judged_like_the_task() {
    const MODERN: &str = "2026-07-28";
    let upstream = Upstream::start().await;
    upstream.answer_with(tasks::tasks);
    let gateway = Gateway::start_before(upstream, setup()).await;
    let session = gateway.session(json!({"authorized_methods": ["subscriptions/listen"]})).await;
    let me =
        |method, params| tasks::ask(&gateway, &gateway.agent, &session, MODERN, method, params);
    me("tools/call", tasks::call(false)).await;
    let notice = |question: Value| {
        let params = json!({
            "taskId": "t-1", "status": "input_required", "inputRequests": {"who": question},
        });
        json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": params})
    };
    let listen = async |question: Value| {
        streams(&gateway, &[notice(question)]);
        let ids = json!({"notifications": {"taskIds": ["t-1"]}});
        text(&me("subscriptions/listen", ids).await)
    };
    let form = json!({"method": "elicitation/create", "params": {"message": "?"}});
    let page = |url| json!({"method": "elicitation/create", "params": {"mode": "url", "url": url}});
    assert_eq!(listen(form.clone()).await, event(&notice(form)));
    for refused in [page(GOOD), page(BAD), json!({"method": "sampling/createMessage"})] {
        // This client has declared forms and nothing else.
        assert_eq!(listen(refused).await, "event: message\n\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_asks_for_a_secret_is_refused_where_that_is_set() {
    let form = |field: &str| {
        let schema = json!({"type": "object", "properties": {field: {"type": "string"}}});
        let params = json!({"message": "?", "requestedSchema": schema});
        json!({"jsonrpc": "2.0", "id": "ask-1", "method": "elicitation/create", "params": params})
    };
    for set in [false, true] {
        let gateway = Gateway::start(setup().with("proxy.refuse_secret_forms", set)).await;
        let session = begun(&gateway, json!({"elicitation": {}})).await;
        for (field, is_secret) in [("city", false), ("api_key", true), ("userPassword", true)] {
            streams(&gateway, &[form(field), done()]);
            let answer = call(&gateway, &session).await;
            if is_secret && set {
                is_cut_off(&answer, "ask-1");
            } else {
                assert_eq!(text(&answer), event(&form(field)) + &event(&done()));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_asks_leaves_when_it_is_judged() {
    let gateway = Gateway::start(setup()).await;
    let session = begun(&gateway, json!({"elicitation": {"url": {}}})).await;
    // In two parts, the first of which is the beginning of an error.
    let padded = |url: &str, padding: usize| {
        let text = required(url).to_string();
        let text = text.replace("\"code\"", &format!("\"a\":\"{}\",\"code\"", "x".repeat(padding)));
        let (first, second) = text.split_at(text.find("\"data\"").unwrap());
        [first.to_owned(), second.to_owned()]
    };
    for (padding, is_clean) in [(20_000, true), (200_000, false)] {
        for url in [GOOD, BAD] {
            let parts = padded(url, padding);
            let whole = parts.concat();
            let (sender, body) = events();
            let body = Mutex::new(Some(body));
            gateway.upstream.answer_with(move |_| {
                let body = body.lock().unwrap().take().unwrap_or_default();
                ([("content-type", "application/json")], body).into_response()
            });
            for part in parts {
                sender.send(part).unwrap();
            }
            drop(sender);
            let request = gateway.request(&session, tool_call("read_file", json!({})));
            let response = request.header("mcp-protocol-version", LEGACY).send().await.unwrap();
            let status = response.status().as_u16();
            let body = response.text().await;
            match (url, is_clean) {
                (GOOD, _) => assert_eq!((status, body.unwrap()), (200, whole)),
                (_, true) => {
                    assert_eq!(status, 502);
                    assert!(body.unwrap().contains("UpstreamFailed"));
                }
                (_, false) => assert!(body.is_err(), "a longer one breaks off"),
            }
        }
    }
}
