//! Calls that go on as tasks: whose they are, who may go on with them, and what the log says.

use axum::body::Body;
use axum::response::Response;
use serde_json::{Value, json};

use crate::support::harness::{
    Agent, Answer, Gateway, Seen, Setup, Upstream, json_response, stream_response,
};

const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";

/// A server with tasks of both revisions, which answers about any id. Tool calls begin task `t-1`.
pub(crate) fn tasks(seen: &Seen) -> Response {
    let asked: Value = serde_json::from_slice(&seen.body).unwrap();
    let modern = seen.headers.get("mcp-protocol-version").is_some_and(|v| v == MODERN);
    let task = |status: &str| {
        json!({
            "taskId": "t-1", "status": status, "createdAt": "2026-11-25T10:30:00Z",
            "lastUpdatedAt": "2026-11-25T10:30:00Z", "ttlMs": 60_000, "ttl": 60_000,
        })
    };
    let result = match asked["method"].as_str().unwrap() {
        "tools/call" if modern => with(task("working"), &json!({"resultType": "task"})),
        "tools/call" => json!({"task": task("working")}),
        "tasks/get" if modern => with(
            task("completed"),
            &json!({"resultType": "complete", "result": {"content": [], "isError": false}}),
        ),
        "tasks/get" => task("completed"),
        "tasks/list" => json!({"tasks": [task("working"), {"taskId": "t-2"}]}),
        _ => json!({"resultType": "complete"}),
    };
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}).to_string();
    if asked["params"]["arguments"]["stream"] == true {
        return stream_response(Body::from(format!("event: message\ndata: {answer}\n\n")));
    }
    json_response(&answer)
}

fn with(mut object: Value, more: &Value) -> Value {
    let members = more.as_object().unwrap().clone();
    object.as_object_mut().unwrap().extend(members);
    object
}

/// Sends a request as a client of this version that knows tasks.
pub(crate) async fn ask(
    gateway: &Gateway,
    agent: &Agent,
    session: &str,
    version: &str,
    method: &str,
    params: Value,
) -> Answer {
    let name = params.get("name").or(params.get("taskId")).and_then(Value::as_str);
    let mut request = gateway
        .client
        .post(format!("http://{}/", gateway.proxy))
        .bearer_auth(&agent.token)
        .header("x-agent-id", &agent.id)
        .header("x-arbiter-session", session)
        .header("content-type", "application/json")
        .header("mcp-protocol-version", version);
    let mut params = params.clone();
    if version == MODERN {
        request = request.header("mcp-method", method);
        if let Some(name) = name {
            request = request.header("mcp-name", name);
        }
        let meta = json!({"_meta": {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities":
                {"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}},
        }});
        params = with(params, &meta);
    }
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    gateway.send(request.body(body.to_string())).await
}

pub(crate) fn call(stream: bool) -> Value {
    json!({"name": "read_file", "arguments": {"stream": stream}, "task": {"ttl": 60_000}})
}

pub(crate) fn id() -> Value {
    json!({"taskId": "t-1"})
}

async fn started(setup: Setup) -> Gateway {
    let upstream = Upstream::start().await;
    upstream.answer_with(tasks);
    Gateway::start_before(upstream, setup).await
}

fn is_unknown(answer: &Answer) {
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (200, &json!(-32602)), "{error}");
    assert_eq!(error["data"]["code"], "TaskUnknown");
    assert!(error["message"].as_str().unwrap().starts_with("task not found"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_for_the_session_whose_call_began_it_in_both_revisions() {
    let gateway = started(Setup::default()).await;
    let (ours, theirs) = (gateway.agent.clone(), gateway.register(json!({})).await);
    for version in [MODERN, LEGACY] {
        for stream in [false, true] {
            let mine = gateway.session(json!({"call_budget": 1})).await;
            let other = gateway.session(json!({})).await;
            let foreign = gateway.session(json!({"agent_id": theirs.id})).await;
            let me = |method, params| ask(&gateway, &ours, &mine, version, method, params);
            is_unknown(&me("tasks/get", id()).await);
            let begun = me("tools/call", call(stream)).await;
            assert!(String::from_utf8_lossy(&begun.body).contains("\"t-1\""), "{begun:?}");
            for method in ["tasks/get", "tasks/cancel"] {
                let answer = me(method, id()).await;
                assert!(answer.json()["result"].is_object(), "{version} {method} {answer:?}");
                is_unknown(&ask(&gateway, &ours, &other, version, method, id()).await);
                is_unknown(&ask(&gateway, &theirs, &foreign, version, method, id()).await);
            }
            is_unknown(&me("tasks/get", json!({"taskId": "t-2"})).await);
            let before = gateway.upstream.calls();
            is_unknown(&ask(&gateway, &ours, &other, version, "tasks/get", id()).await);
            assert_eq!(gateway.upstream.calls(), before, "nothing of it went upstream");

            let ended = me("tasks/get", id()).await;
            let record = gateway.record_of(ended.request_id()).await;
            assert_eq!(record["continues"], begun.request_id());
            assert_eq!(
                (&record["task_status"], &record["tool_called"]),
                (&json!("completed"), &json!("read_file"))
            );
            let record = gateway.record_of(begun.request_id()).await;
            assert_eq!(
                (&record["task_status"], &record["continues"]),
                (&json!("working"), &Value::Null)
            );
            let (_, shown) = gateway.admin("GET", &format!("/sessions/{mine}"), None).await;
            assert_eq!(shown["calls_made"], 1, "tasks cost no call");
            gateway.admin("DELETE", &format!("/sessions/{mine}"), None).await;
            assert_eq!(me("tasks/get", id()).await.code(), "SessionClosed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_task_is_scrubbed_and_on_record() {
    const SECRET: &str = "a-long-enough-secret-value";
    let mut setup = Setup::default()
        .with("credentials.provider", "\"env\"")
        .with("credentials.env_prefix", "\"TASKS_\"");
    setup.env.push(("TASKS_TOKEN", SECRET.to_owned()));
    let gateway = started(setup).await;
    for version in [MODERN, LEGACY] {
        gateway.upstream.answer_with(tasks);
        let session = gateway.session(json!({"authorized_credentials": ["token"]})).await;
        let me = |method, params| ask(&gateway, &gateway.agent, &session, version, method, params);
        let with_secret = with(call(false), &json!({"arguments": {"key": "${CRED:token}"}}));
        let begun = me("tools/call", with_secret).await;
        gateway.upstream.answer_with(|seen| {
            let asked: Value = serde_json::from_slice(&seen.body).unwrap();
            let content = json!([{"type": "text", "text": format!("key={SECRET}")}]);
            let result = json!({
                "taskId": "t-1", "status": "completed", "result": {"content": content},
            });
            let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": result});
            json_response(&answer.to_string())
        });
        let ended = me("tasks/get", id()).await;
        let shown = &ended.json()["result"]["result"]["content"][0]["text"];
        assert_eq!(shown, "key=[CREDENTIAL]", "{version}");
        let record = gateway.record_of(ended.request_id()).await;
        assert_eq!(
            (&record["credentials_scrubbed"], &record["continues"], &record["task_status"]),
            (&json!(1), &json!(begun.request_id()), &json!("completed")),
            "{version}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_brings_the_sessions_own_tasks() {
    let gateway = started(Setup::default()).await;
    let listen = |session: String, ids: Value| {
        let params = json!({"notifications": {"taskIds": ids}});
        let gateway = &gateway;
        async move {
            ask(gateway, &gateway.agent, &session, MODERN, "subscriptions/listen", params).await
        }
    };
    let order = json!({"authorized_methods": ["subscriptions/listen"]});
    let mine = gateway.session(order.clone()).await;
    let other = gateway.session(order).await;
    ask(&gateway, &gateway.agent, &mine, MODERN, "tools/call", call(false)).await;
    let before = gateway.upstream.calls();
    is_unknown(&listen(other.clone(), json!(["t-1"])).await);
    is_unknown(&listen(mine.clone(), json!(["t-1", "t-2"])).await);
    assert_eq!(gateway.upstream.calls(), before, "one that fails refuses the whole");

    let notice = |id: &str| {
        let params = json!({"taskId": id, "status": "working"});
        let notice = json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": params});
        format!("event: message\ndata: {notice}\n\n")
    };
    let sent = ["t-2", "t-1", "t-1\u{0}"].map(notice).concat();
    gateway.upstream.answer_with(move |_| stream_response(Body::from(sent.clone())));
    let brought = listen(mine.clone(), json!(["t-1"])).await;
    assert_eq!(brought.status, 200, "{brought:?}");
    let text = String::from_utf8_lossy(&brought.body).into_owned();
    assert_eq!(text.matches("data:").count(), 1, "{text}");
    assert!(text.contains(&notice("t-1")), "{text}");
    let none = String::from_utf8_lossy(&listen(other, json!([])).await.body).into_owned();
    assert!(!none.contains("data:"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_a_task_notifies_of_the_sessions_own_tasks() {
    let gateway = started(Setup::default()).await;
    let mine = gateway.session(json!({})).await;
    ask(&gateway, &gateway.agent, &mine, LEGACY, "tools/call", call(false)).await;
    let notice = |id: &str| {
        let params = json!({"taskId": id, "status": "working"});
        json!({"jsonrpc": "2.0", "method": "notifications/tasks/status", "params": params})
    };
    let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}});
    let event = |message: &Value| format!("event: message\ndata: {message}\n\n");
    let sent = [notice("t-2"), notice("t-1"), answer.clone()].iter().map(event).collect::<String>();
    gateway.upstream.answer_with(move |_| stream_response(Body::from(sent.clone())));
    for (method, params) in [("tasks/result", id()), ("tools/call", call(false))] {
        let brought = ask(&gateway, &gateway.agent, &mine, LEGACY, method, params).await;
        let text = String::from_utf8_lossy(&brought.body).into_owned();
        assert!(text.contains(&event(&notice("t-1"))) && text.contains(&event(&answer)), "{text}");
        assert!(!text.contains("t-2"), "{method} {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_tasks_shows_the_sessions_own() {
    let gateway = started(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let me =
        |version, method, params| ask(&gateway, &gateway.agent, &session, version, method, params);
    let listed = |answer: Answer| answer.json()["result"]["tasks"].as_array().unwrap().len();
    assert_eq!(listed(me(LEGACY, "tasks/list", json!({})).await), 0);
    me(LEGACY, "tools/call", call(false)).await;
    assert_eq!(listed(me(LEGACY, "tasks/list", json!({})).await), 1);
    let other = gateway.session(json!({})).await;
    let answer = ask(&gateway, &gateway.agent, &other, LEGACY, "tasks/list", json!({})).await;
    assert_eq!(listed(answer), 0);
    for (method, params) in [("tasks/list", json!({})), ("tasks/result", id())] {
        let gone = me(MODERN, method, params).await;
        assert_eq!((gone.status, gone.json()["error"]["code"].as_i64()), (404, Some(-32601)));
    }
    let nameless = json!({"jsonrpc": "2.0", "id": 1, "method": "tasks/result", "params": with(id(), &json!({
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    }))});
    let nameless = gateway.request(&session, nameless.to_string());
    let nameless = nameless.header("mcp-method", "tasks/result");
    let gone = gateway.send(nameless.header("mcp-protocol-version", MODERN)).await;
    assert_eq!((gone.status, gone.json()["error"]["code"].as_i64()), (404, Some(-32601)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_needs_its_tool_and_a_client_that_knows_tasks() {
    let mut gateway = started(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let agent = gateway.agent.clone();
    ask(&gateway, &agent, &session, MODERN, "tools/call", call(false)).await;

    let undeclared = |method: &'static str, name: &'static str, params: Value| {
        let meta = json!({"_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }});
        let params = with(params, &meta);
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let request = gateway.request(&session, body.to_string());
        let request = request.header("mcp-method", method).header("mcp-name", name);
        gateway.send(request.header("mcp-protocol-version", MODERN))
    };
    let refused = undeclared("tools/call", "read_file", call(false)).await;
    assert_eq!((refused.status, refused.code()), (502, "UpstreamFailed".to_owned()));
    assert_eq!(refused.json()["error"]["data"]["cause"], "protocol");
    let missing = undeclared("tasks/get", "t-1", id()).await;
    assert_eq!((missing.status, missing.json()["error"]["code"].as_i64()), (400, Some(-32021)));
    let needed = &missing.json()["error"]["data"]["requiredCapabilities"];
    assert_eq!(needed["extensions"], json!({"io.modelcontextprotocol/tasks": {}}));

    let get = json!({"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": with(id(), &json!({
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities":
                {"extensions": {"io.modelcontextprotocol/tasks": {}}},
        },
    }))});
    let nameless = gateway.request(&session, get.to_string()).header("mcp-method", "tasks/get");
    let nameless = gateway.send(nameless.header("mcp-protocol-version", MODERN)).await;
    assert_eq!(nameless.json()["error"]["code"], -32020);

    gateway.kill();
    gateway.start_again();
    let me = || ask(&gateway, &agent, &session, MODERN, "tasks/get", id());
    assert!(me().await.json()["result"].is_object(), "it outlives a kill");
    let policies = gateway.folder.path().join("policies.toml");
    std::fs::write(policies, "[[policies]]\nid = \"w\"\neffect = \"allow\"\nallowed_tools = [\"write_file\"]\nallowed_methods = [\"*\"]\n").unwrap();
    let (status, answer) = gateway.admin("POST", "/policy/reload", None).await;
    assert_eq!(status, 200, "{answer}");
    is_unknown(&me().await);
}
