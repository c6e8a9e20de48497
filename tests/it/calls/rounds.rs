//! Calls in several rounds: each is a call of its own, with the client's answers on record.

use axum::response::Response;
use serde_json::{Value, json};

use crate::support::harness::{Agent, Answer, Gateway, Seen, Setup, Upstream, json_response};

const VERSION: &str = "2026-07-28";

/// A server that asks `ask_rounds` times (once unless given), in the mode that the arguments name, and is
/// content with any answer.
pub(crate) fn asks(seen: &Seen) -> Response {
    let asked: Value = serde_json::from_slice(&seen.body).unwrap();
    let params = &asked["params"];
    let given = &params["arguments"];
    let round = params["requestState"].as_str().and_then(|state| state.split(' ').next_back());
    let round = round.map_or(0, |digits| digits.parse::<u64>().unwrap_or(u64::MAX));
    let result = if round >= given["ask_rounds"].as_u64().unwrap_or(1) {
        json!({"resultType": "complete", "content": [], "isError": false})
    } else {
        let method = given["method"].as_str().unwrap_or("elicitation/create");
        let mode = given["mode"].as_str().unwrap_or("form");
        let question = json!({"mode": mode, "message": "?", "url": given["url"]});
        json!({
            "resultType": "input_required", "requestState": format!("round \u{1F600} {}", round + 1),
            "inputRequests": {"who": {"method": method, "params": question}},
        })
    };
    json_response(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}).to_string())
}

/// Sends a round of a call, with these members next to its name.
pub(crate) async fn round(gateway: &Gateway, agent: &Agent, session: &str, more: Value) -> Answer {
    let request = as_client(gateway, agent, &more).header("x-arbiter-session", session);
    gateway.send(request.body(body(more))).await
}

fn body(more: Value) -> String {
    let elicitation = json!({"form": {}, "url": {}});
    let mut params = json!({
        "name": "read_file", "arguments": {},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": elicitation},
        },
    });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
}

fn as_client(gateway: &Gateway, agent: &Agent, more: &Value) -> reqwest::RequestBuilder {
    gateway
        .client
        .post(format!("http://{}/", gateway.proxy))
        .bearer_auth(&agent.token)
        .header("x-agent-id", &agent.id)
        .header("content-type", "application/json")
        .header("mcp-protocol-version", VERSION)
        .header("mcp-method", "tools/call")
        .header("mcp-name", more["name"].as_str().unwrap_or("read_file"))
}

async fn started(setup: Setup) -> Gateway {
    let upstream = Upstream::start().await;
    upstream.answer_with(asks);
    Gateway::start_before(upstream, setup).await
}

/// Answers of a client, and the state of an answer of the server.
fn answers(name: &str, to: &Answer) -> Value {
    let state = &to.json()["result"]["requestState"];
    assert!(state.is_string(), "{to:?}");
    let content = json!({"name": name, "password": "hunter2"});
    let who = json!({"action": "accept", "content": content});
    json!({"requestState": state, "inputResponses": {"who": who}})
}

fn with(mut round: Value, more: Value) -> Value {
    round.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    round
}

fn is_unknown(answer: &Answer) {
    assert_eq!((answer.status, answer.code().as_str()), (403, "ContinuationUnknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_round_is_a_call_and_names_the_one_before() {
    let gateway = started(Setup::default()).await;
    let session = gateway.session(json!({"call_budget": 2})).await;
    let me = |more| round(&gateway, &gateway.agent, &session, more);
    let first = me(json!({})).await;
    let second = me(answers("Zoë", &first)).await;
    assert_eq!(second.json()["result"]["resultType"], "complete", "{second:?}");
    let record = gateway.record_of(second.request_id()).await;
    assert_eq!(record["continues"], first.request_id());
    let content = &record["input_responses"]["who"]["content"];
    assert_eq!((&content["name"], &content["password"]), (&json!("Zoë"), &json!("[REDACTED]")));
    assert_eq!(record["arguments"], json!({}));
    assert_eq!(record["tool_called"], "read_file");
    let record = gateway.record_of(first.request_id()).await;
    assert_eq!(
        (&record["continues"], &record["tool_outcome"]),
        (&Value::Null, &json!("input_required"))
    );
    assert_eq!(me(answers("Zoë", &first)).await.code(), "BudgetExhausted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_for_its_session_and_its_call_alone() {
    let gateway = started(Setup::default()).await;
    let theirs = gateway.register(json!({})).await;
    let mine = gateway.session(json!({})).await;
    let other = gateway.session(json!({})).await;
    let foreign = gateway.session(json!({"agent_id": theirs.id})).await;
    let me = |more| round(&gateway, &gateway.agent, &mine, more);
    let first = me(json!({})).await;
    let next = answers("Zoë", &first);
    let before = gateway.upstream.calls();
    let unknown = me(json!({"requestState": "never handed out"})).await;
    is_unknown(&unknown);
    let words = |answer: &Answer| answer.json()["error"]["message"].clone();
    for (agent, session) in [(&gateway.agent, &other), (&theirs, &foreign)] {
        let answer = round(&gateway, agent, session, next.clone()).await;
        is_unknown(&answer);
        assert_eq!(words(&answer), words(&unknown), "nobody learns that there is such a state");
    }
    is_unknown(&me(with(next.clone(), json!({"name": "write_file"}))).await);
    assert_eq!(gateway.upstream.calls(), before, "nothing of it went upstream");
    let (_, shown) = gateway.admin("GET", &format!("/sessions/{mine}"), None).await;
    assert_eq!(shown["calls_made"], 1, "what is refused for its state costs no call");
    assert_eq!(me(next.clone()).await.status, 200);

    let odd = me(json!({"requestState": 7})).await;
    assert_eq!(odd.code(), "MalformedRequest");
    let odd = me(json!({"inputResponses": [1]})).await;
    assert_eq!(odd.code(), "MalformedRequest");
    let secret = json!({"inputResponses": {"who": {"content": {"name": "${CRED:db}"}}}});
    assert_eq!(me(secret).await.code(), "CredentialMisplaced");
    gateway.admin("DELETE", &format!("/sessions/{mine}"), None).await;
    assert_eq!(me(next).await.code(), "SessionClosed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_round_is_a_request_and_by_itself() {
    let gateway = started(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let first = round(&gateway, &gateway.agent, &session, json!({})).await;
    let before = gateway.upstream.calls();
    let next = answers("Zoë", &first);
    for more in [next.clone(), json!({"inputResponses": next["inputResponses"]})] {
        let params = with(json!({"name": "read_file", "arguments": {}}), more.clone());
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
        let batch = gateway.request(&session, json!([call, list]).to_string());
        let mut notification: Value = serde_json::from_str(&body(more.clone())).unwrap();
        notification.as_object_mut().unwrap().remove("id");
        let notification = as_client(&gateway, &gateway.agent, &more)
            .header("x-arbiter-session", &session)
            .body(notification.to_string());
        for request in [batch, notification] {
            let refused = gateway.send(request).await;
            assert_eq!((refused.status, refused.code().as_str()), (400, "MalformedRequest"));
            assert_eq!(refused.json()["error"]["code"], -32600);
        }
    }
    assert_eq!(gateway.upstream.calls(), before, "nothing of it went upstream");
    let (_, shown) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    assert_eq!(shown["calls_made"], 1);
    assert_eq!(round(&gateway, &gateway.agent, &session, next).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sessions_a_state_is_its_agents() {
    let gateway = started(Setup::default().with("proxy.require_session", false)).await;
    let theirs = gateway.register(json!({})).await;
    let send = async |agent: &Agent, more: Value| {
        gateway.send(as_client(&gateway, agent, &more).body(body(more))).await
    };
    let first = send(&gateway.agent, json!({})).await;
    let next = answers("Zoë", &first);
    is_unknown(&send(&theirs, next.clone()).await);
    let session = gateway.session(json!({})).await;
    is_unknown(&round(&gateway, &gateway.agent, &session, next.clone()).await);
    assert_eq!(send(&gateway.agent, next).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_needs_a_client_that_can_answer_it() {
    let gateway = started(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let ask = |arguments: Value| {
        round(&gateway, &gateway.agent, &session, json!({"arguments": arguments}))
    };
    assert_eq!(ask(json!({})).await.status, 200);
    for arguments in [
        json!({"mode": "voice"}),
        json!({"method": "sampling/createMessage"}),
        json!({"method": "tools/call"}),
    ] {
        is_refused(&ask(arguments).await);
    }
}

fn is_refused(answer: &Answer) {
    assert_eq!((answer.status, answer.code().as_str()), (502, "UpstreamFailed"), "{answer:?}");
    assert_eq!(answer.json()["error"]["data"]["cause"], "protocol");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_sent_to_allowed_hosts_only_and_the_record_names_them() {
    let by_url = |url: &str| json!({"arguments": {"mode": "url", "url": url}});
    let any = started(Setup::default()).await;
    let hosts = json!(["login.corp.com"]);
    let some = started(Setup::default().with("proxy.allowed_elicitation_hosts", hosts)).await;
    for (gateway, url, passes, host) in [
        (&any, "https://anywhere.example/x", true, json!(["anywhere.example"])),
        (&any, "javascript:alert(1)", false, json!([])),
        (&some, "https://LOGIN.corp.com/x", true, json!(["login.corp.com"])),
        (
            &some,
            "https://login.corp.com.evil.example/",
            false,
            json!(["login.corp.com.evil.example"]),
        ),
        (&some, "https://login.corp.com@evil.example/", false, json!([])),
    ] {
        let session = gateway.session(json!({})).await;
        let answer = round(gateway, &gateway.agent, &session, by_url(url)).await;
        if passes {
            assert_eq!(answer.status, 200, "{url} {answer:?}");
        } else {
            is_refused(&answer);
        }
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["elicited_hosts"], host, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_sees_what_the_client_answers() {
    let policies = r#"
[[policies]]
id = "only-zoe"
effect = "allow"
allowed_tools = ["read_file"]
[[policies.parameter_constraints]]
key = "@input.who.content.name"
allowed_values = ["Zoë"]
required = false
"#;
    let gateway = started(Setup::default().policies(policies)).await;
    let session = gateway.session(json!({})).await;
    let me = |more| round(&gateway, &gateway.agent, &session, more);
    let first = me(json!({})).await;
    assert_eq!(me(answers("Mallory", &first)).await.code(), "PolicyDenied");
    assert_eq!(me(answers("Zoë", &first)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rounds_of_an_approved_call_are_one_use() {
    let policies = r#"
[[policies]]
id = "ask"
effect = "escalate"
allowed_tools = ["read_file"]
"#;
    let gateway = started(Setup::default().policies(policies)).await;
    let session = gateway.session(json!({})).await;
    let me = |more| round(&gateway, &gateway.agent, &session, more);
    let call = json!({"arguments": {"path": "/a", "ask_rounds": 2}});
    let id = me(call.clone()).await.json()["error"]["data"]["approval_id"].clone();
    let id = id.as_str().unwrap();
    let approve = json!({"decision": "approve", "uses": 1});
    assert_eq!(gateway.admin("POST", &format!("/approvals/{id}"), Some(approve)).await.0, 200);
    let first = me(call.clone()).await;
    let next = with(answers("Zoë", &first), call.clone());
    let other = with(next.clone(), json!({"arguments": {"path": "/b", "ask_rounds": 2}}));
    assert_eq!(me(other).await.code(), "EscalationRequired", "another call is not covered");
    let second = me(next.clone()).await;
    assert_eq!(second.status, 200, "{second:?}");
    is_unknown(&me(next).await);
    let last = with(answers("Zoë", &second), call.clone());
    let third = me(last.clone()).await;
    assert_eq!(third.json()["result"]["resultType"], "complete", "{third:?}");
    is_unknown(&me(last).await);
    assert_eq!(me(call).await.code(), "EscalationRequired", "the one use is taken");
    let record = gateway.record_of(first.request_id()).await;
    assert_eq!(record["approval_id"], id);
    let record = gateway.record_of(third.request_id()).await;
    assert_eq!(record["continues"], second.request_id());
}
