//! Human, agent, sub-agent, sub-sub-agent: what the lowest may do on a call, and how soon it may not.

use std::time::{Duration, SystemTime};

use arbiter::firewall::time::Timestamp;
use serde_json::{Value, json};

use crate::support::harness::{Agent, Answer, Gateway, Setup, json_response, tool_call};

const POLICIES: &str = r#"
[[policies]]
id = "read"
effect = "allow"
allowed_tools = ["read_file"]
agent_match = { capabilities = ["read"] }
[[policies]]
id = "write"
effect = "allow"
allowed_tools = ["write_file"]
agent_match = { capabilities = ["write"] }
[[policies]]
id = "verified"
effect = "allow"
allowed_tools = ["read_report"]
agent_match = { trust_level = "verified" }
"#;

/// A chain of three, a session for the lowest of them.
struct Chain {
    gateway: Gateway,
    agents: Vec<Agent>,
    session: String,
}

impl Chain {
    async fn start(setup: Setup) -> Self {
        let mut gateway = Gateway::start(setup.policies(POLICIES)).await;
        let mut agents = Vec::new();
        for (owner, capabilities) in [
            ("user:alice", json!(["read", "write", "admin"])),
            ("team:research", json!(["read", "report"])),
            ("team:research", json!(["read", "write"])),
        ] {
            let more = json!({
                "owner": owner, "capabilities": capabilities, "trust_level": "verified",
            });
            agents.push(gateway.register(more).await);
        }
        gateway.agent = agents[2].clone();
        let mut chain = Self { gateway, agents, session: String::new() };
        chain.delegate(0, 1, json!({})).await;
        chain.delegate(1, 2, json!({})).await;
        chain.session = chain.open().await;
        chain
    }

    async fn delegate(&self, from: usize, to: usize, more: Value) {
        let mut body = json!({"to": self.agents[to].id, "scopes": ["read"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = format!("/agents/{}/delegate", self.agents[from].id);
        let (status, told) = self.gateway.admin("POST", &path, Some(body)).await;
        assert_eq!(status, 201, "{told}");
    }

    async fn open(&self) -> String {
        let tools = json!(["read_file", "write_file", "read_report"]);
        self.gateway.session(json!({"authorized_tools": tools})).await
    }

    fn ids(&self) -> Vec<&str> {
        self.agents.iter().map(|agent| agent.id.as_str()).collect()
    }

    async fn call(&self, tool: &str) -> Answer {
        self.gateway.call(&self.session, tool_call(tool, json!({}))).await
    }

    /// Calls, and finds the chain in the record whatever the answer was.
    async fn calls(&self, tool: &str, status: u16, code: &str) {
        let before = self.gateway.upstream.calls();
        let answer = self.call(tool).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{tool}");
        let sent = self.gateway.upstream.calls() - before;
        assert_eq!(sent, usize::from(status == 200));
        let record = self.gateway.record_of(answer.request_id()).await;
        assert_eq!(record["delegation_chain"], json!(self.ids()), "{record}");
        assert_eq!(record["agent_id"], self.agents[2].id);
        assert_eq!(record["principal"], "team:research");
    }

    async fn set_trust(&self, agent: usize, level: &str) {
        let path = format!("/agents/{}/trust", self.agents[agent].id);
        let body = json!({"trust_level": level});
        assert_eq!(self.gateway.admin("PUT", &path, Some(body)).await.0, 200);
    }

    async fn tools(&self) -> Vec<String> {
        let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
        let answer = self.gateway.call(&self.session, list).await;
        assert_eq!(answer.status, 200, "{}", answer.code());
        let told = answer.json();
        let tools = told["result"]["tools"].as_array().unwrap();
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_delegate_may_do_what_all_above_it_may_and_no_more() {
    let chain = Chain::start(Setup::default()).await;
    chain.calls("read_file", 200, "").await;
    chain.calls("write_file", 403, "PolicyDenied").await;
    chain.calls("read_report", 200, "").await;

    // What the list shows is what the calls may do.
    chain.gateway.upstream.answer_with(|_| {
        let tools = ["read_file", "write_file", "read_report"]
            .map(|name| json!({"name": name, "inputSchema": {"type": "object"}}));
        let result = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}});
        json_response(&result.to_string())
    });
    assert_eq!(chain.tools().await, ["read_file", "read_report"]);

    // Trust that the top loses is lost below on the very next call.
    chain.set_trust(0, "basic").await;
    chain.calls("read_report", 403, "PolicyDenied").await;
    assert_eq!(chain.tools().await, ["read_file"]);
    chain.calls("read_file", 200, "").await;
    chain.set_trust(0, "trusted").await;
    chain.calls("read_report", 200, "").await;
    chain.set_trust(1, "untrusted").await;
    chain.calls("read_report", 403, "PolicyDenied").await;
}

/// Without a session it is the chain of now that counts and is on record.
#[tokio::test]
async fn where_no_session_is_asked_for_a_delegate_is_one_all_the_same() {
    let chain = Chain::start(Setup::default().with("proxy.require_session", false)).await;
    for (tool, status, code) in [("read_file", 200, ""), ("write_file", 403, "PolicyDenied")] {
        let request = chain
            .gateway
            .client
            .post(format!("http://{}/", chain.gateway.proxy))
            .bearer_auth(&chain.agents[2].token)
            .header("content-type", "application/json")
            .body(tool_call(tool, json!({})));
        let answer = chain.gateway.send(request).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{tool}");
        let record = chain.gateway.record_of(answer.request_id()).await;
        assert_eq!(record["delegation_chain"], json!(chain.ids()));
    }
    // Refused before any session is looked for, the chain is known all the same.
    let answer = chain.gateway.call(&chain.session, "{").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "MalformedRequest"));
    let record = chain.gateway.record_of(answer.request_id()).await;
    assert_eq!(record["delegation_chain"], json!(chain.ids()));
}

#[tokio::test]
async fn a_middle_link_that_is_deactivated_ends_it_on_the_next_request() {
    let mut chain = Chain::start(Setup::default()).await;
    chain.calls("read_file", 200, "").await;
    let path = format!("/agents/{}", chain.agents[1].id);
    let (status, told) = chain.gateway.admin("DELETE", &path, None).await;
    assert_eq!((status, &told["sessions_closed"]), (200, &json!(1)), "{told}");
    assert_eq!(told["deactivated"], json!([chain.agents[1].id, chain.agents[2].id]));
    chain.calls("read_file", 403, "AgentInactive").await;
    // So it stays, over a restart too.
    chain.gateway.stop();
    chain.gateway.start_again();
    chain.calls("read_file", 403, "AgentInactive").await;
    // The one above was not touched.
    chain.gateway.agent = chain.agents[0].clone();
    let session = chain.open().await;
    let answer = chain.gateway.call(&session, tool_call("read_file", json!({}))).await;
    assert_eq!(answer.status, 200, "{}", answer.code());
}

#[tokio::test]
async fn a_link_that_expires_ends_it() {
    let mut chain = Chain::start(Setup::default()).await;
    // All delegations in force count, so the one that ends is to an agent of its own.
    let more = json!({"owner": "team:research", "capabilities": ["read"]});
    chain.agents[2] = chain.gateway.register(more).await;
    chain.gateway.agent = chain.agents[2].clone();
    let (ends_at, end) = soon();
    chain.delegate(1, 2, json!({"expires_at": ends_at})).await;
    chain.session = chain.open().await;
    chain.calls("read_file", 200, "").await;
    until(end).await;
    // What was agreed under it is over; the agent, registered on its own account, is what it was before.
    chain.calls("read_file", 408, "SessionExpired").await;
    let path = format!("/agents/{}/delegations", chain.agents[2].id);
    let shown = chain.gateway.admin("GET", &path, None).await.1;
    assert_eq!(shown["delegation_chain"], json!([chain.agents[2].id]), "{shown}");
    chain.session = chain.open().await;
    assert_eq!(chain.call("read_file").await.status, 200);

    // Under a new delegation it acts for another again, with no more than both of them have.
    let body = json!({"to": chain.agents[2].id, "scopes": ["read"]});
    let path = format!("/agents/{}/delegate", chain.agents[1].id);
    let (status, again) = chain.gateway.admin("POST", &path, Some(body)).await;
    assert_eq!(status, 200, "the same delegation without its end: {again}");
    chain.session = chain.open().await;
    chain.calls("read_file", 200, "").await;
}

#[tokio::test]
async fn a_session_is_for_those_it_was_opened_for() {
    let mut chain = Chain::start(Setup::default()).await;
    let more = json!({"owner": "team:research", "capabilities": ["read"]});
    let (top, second) = (chain.agents[0].clone(), chain.agents[1].clone());
    let first = chain.gateway.register(more.clone()).await;
    let low = chain.gateway.register(more).await;
    chain.agents = vec![first, low.clone()];
    chain.gateway.agent = low;
    let (ends_at, end) = soon();
    chain.delegate(0, 1, json!({"expires_at": ends_at})).await;
    chain.session = chain.open().await;
    assert_eq!(chain.call("read_file").await.status, 200);

    // Another one delegates as well, and outlasts the first.
    let body = json!({"to": chain.agents[1].id, "scopes": ["read"]});
    let path = format!("/agents/{}/delegate", second.id);
    assert_eq!(chain.gateway.admin("POST", &path, Some(body)).await.0, 201);
    assert_eq!(chain.call("read_file").await.status, 200);
    until(end).await;
    // The session ends no later than the delegation that it was opened under.
    let refused = chain.call("read_file").await;
    assert_eq!(refused.code(), "SessionExpired");
    let record = chain.gateway.record_of(refused.request_id()).await;
    assert_eq!(record["delegation_chain"], json!(chain.ids()));
    let session = chain.open().await;
    let answer = chain.gateway.call(&session, tool_call("read_file", json!({}))).await;
    assert_eq!(answer.status, 200, "{}", answer.code());
    let record = chain.gateway.record_of(answer.request_id()).await;
    assert_eq!(record["delegation_chain"], json!([top.id, second.id, chain.agents[1].id]));
}

/// Late enough for what is to happen before on a busy machine.
fn soon() -> (Timestamp, SystemTime) {
    let end = SystemTime::now() + Duration::from_secs(4);
    let since = end.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    (Timestamp(since.as_micros().try_into().unwrap()), end)
}

async fn until(end: SystemTime) {
    while let Ok(left) = end.duration_since(SystemTime::now()) {
        tokio::time::sleep(left + Duration::from_millis(1)).await;
    }
}
