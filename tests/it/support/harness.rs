//! A gateway, an upstream and an agent for one test: each its own, on ports of their own.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use serde_json::{Value, json};

pub(crate) use process::{Setup, check, refuses_to_start};
use process::{spawn, write_config};
pub(crate) use upstream::{
    Seen, Upstream, events, json_response, read_until, stream_response, with_headers,
};

mod process;
mod upstream;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const API_KEY: &str = "test-key-0123456789abcdef";
pub(crate) const SIGNING_SECRET: &str = "test-secret-0123456789abcdef0123456789";

/// A client for plain HTTP. `reqwest` is built without a TLS provider of its own and asks for one
/// even if it never speaks TLS.
fn client() -> reqwest::Client {
    // Another test of this process may have been first.
    let _installed_already = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A running gateway with an agent of its own.
pub(crate) struct Gateway {
    pub upstream: Upstream,
    pub proxy: String,
    pub admin: String,
    pub agent: Agent,
    pub folder: tempfile::TempDir,
    pub client: reqwest::Client,
    setup: Setup,
    child: Child,
}

#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub id: String,
    pub token: String,
}

impl Gateway {
    pub(crate) async fn start(setup: Setup) -> Self {
        let upstream = Upstream::start().await;
        Self::start_before(upstream, setup).await
    }

    pub(crate) async fn start_before(upstream: Upstream, setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_config(folder.path(), &upstream, &setup);
        let (child, proxy, admin) = spawn(folder.path(), &setup, &[]);
        let client = client();
        let nobody = Agent { id: String::new(), token: String::new() };
        let mut gateway =
            Self { upstream, proxy, admin, agent: nobody, folder, client, setup, child };
        gateway.agent = gateway.register(json!({})).await;
        gateway
    }

    /// Kills the process without a warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops the process as an operator would.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        assert_eq!(self.wait_for_end(), Some(0), "a clean stop exits with 0");
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits until the process has ended, and gives its exit code.
    pub(crate) fn wait_for_end(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Sets a variable for the next start.
    pub(crate) fn set_env(&mut self, name: &'static str, value: &str) {
        self.setup.env.retain(|(known, _)| *known != name);
        self.setup.env.push((name, value.to_owned()));
    }

    /// Starts the process again, on the same state and on other ports.
    pub(crate) fn start_again(&mut self) {
        let (child, proxy, admin) = spawn(self.folder.path(), &self.setup, &[]);
        (self.child, self.proxy, self.admin) = (child, proxy, admin);
    }

    /// Starts another process that takes this one's place; gives the exit code of the old one.
    pub(crate) fn take_over(&mut self) -> Option<i32> {
        let (child, proxy, admin) = spawn(self.folder.path(), &self.setup, &["--takeover"]);
        assert_eq!((&proxy, &admin), (&self.proxy, &self.admin), "the sockets are the same");
        std::mem::replace(&mut self.child, child).wait().unwrap().code()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn audit_file(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    /// The whole lines of the log so far, oldest first.
    pub(crate) fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.audit_file()).unwrap();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The record of one request, once it is written.
    pub(crate) async fn record_of(&self, request_id: &str) -> Value {
        let written = eventually(|| async {
            let mut found = self.records();
            found.retain(|record| record["request_id"] == request_id);
            assert!(found.len() <= 1, "more than one record of {request_id}");
            found.pop()
        });
        written.await.unwrap_or_else(|| panic!("no record of {request_id}"))
    }

    pub(crate) async fn register(&self, more: Value) -> Agent {
        let mut new = json!({
            "owner": "user:test", "model": "test", "capabilities": ["read", "write"],
            "trust_level": "basic",
        });
        merge(&mut new, more);
        let (status, body) = self.admin("POST", "/agents", Some(new)).await;
        assert_eq!(status, 201, "{body}");
        let text = |key: &str| body[key].as_str().unwrap().to_owned();
        Agent { id: text("agent_id"), token: text("token") }
    }

    /// Opens a session and gives its id.
    pub(crate) async fn session(&self, more: Value) -> String {
        let (status, body) = self.try_session(more).await;
        assert_eq!(status, 201, "{body}");
        body["session_id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn try_session(&self, more: Value) -> (u16, Value) {
        let mut order = json!({
            "agent_id": self.agent.id,
            "declared_intent": "manage everything",
            "authorized_tools": ["read_file", "write_file"],
        });
        merge(&mut order, more);
        self.admin("POST", "/sessions", Some(order)).await
    }

    pub(crate) async fn admin(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let url = format!("http://{}{path}", self.admin);
        let mut request =
            self.client.request(method.parse().unwrap(), url).header("x-api-key", API_KEY);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    /// Sends a message with the three headers an agent adds.
    pub(crate) async fn call(&self, session: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(self.request(session, body)).await
    }

    pub(crate) fn request(
        &self,
        session: &str,
        body: impl Into<Vec<u8>>,
    ) -> reqwest::RequestBuilder {
        self.request_to("/", session, body)
    }

    /// A request without a body, with the three headers an agent adds.
    pub(crate) fn bare(&self, method: &str, session: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method.parse().unwrap(), format!("http://{}/", self.proxy))
            .bearer_auth(&self.agent.token)
            .header("x-agent-id", &self.agent.id)
            .header("x-arbiter-session", session)
    }

    pub(crate) fn request_to(
        &self,
        path: &str,
        session: &str,
        body: impl Into<Vec<u8>>,
    ) -> reqwest::RequestBuilder {
        self.client
            .post(format!("http://{}{path}", self.proxy))
            .bearer_auth(&self.agent.token)
            .header("x-agent-id", &self.agent.id)
            .header("x-arbiter-session", session)
            .header("content-type", "application/json")
            .body(body.into())
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        Answer { status, headers, body: response.bytes().await.unwrap() }
    }

    /// Has the upstream open an MCP session, and gives the id by which the agent's client knows it.
    pub(crate) async fn mcp_session(&self, session: &str, id: &'static str) -> String {
        let before = self.upstream.answer_with(move |_| {
            let headers = [("content-type", "application/json"), ("mcp-session-id", id)];
            with_headers(200, &headers, Body::from(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#))
        });
        let answer = self.call(session, tool_call("read_file", json!({}))).await;
        self.upstream.set_handler(before);
        answer.header("mcp-session-id").unwrap().to_owned()
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.proxy);
        self.client.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// One sample of the metrics, by its name with its labels; 0 while there is none.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.metrics().await;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The process may have been stopped by the test already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["data"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn request_id(&self) -> &str {
        self.header("x-arbiter-request-id").expect("every response has a request id")
    }
}

/// Asks again and again until there is an answer or patience has an end.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    mut ask: impl FnMut() -> F,
) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        if answer.is_some() || Instant::now() > end {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Payments, each of which a person has to approve.
pub(crate) const ASK_BEFORE_PAYING: &str = r#"
[[policies]]
id = "pay"
effect = "allow"
allowed_tools = ["pay"]

[[policies]]
id = "ask-before-paying"
effect = "escalate"
allowed_tools = ["pay"]
priority = 900
"#;

pub(crate) fn tool_call(tool: &str, arguments: Value) -> String {
    let params = json!({"name": tool, "arguments": arguments});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
}

fn merge(into: &mut Value, more: Value) {
    let Value::Object(more) = more else { return };
    into.as_object_mut().unwrap().extend(more);
}
