//! A gateway, an upstream and an agent for one test: each its own, on ports of their own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const API_KEY: &str = "test-key-0123456789abcdef";
pub(crate) const SIGNING_SECRET: &str = "test-secret-0123456789abcdef0123456789";

/// One request as the upstream saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub(crate) type Handler = Arc<dyn Fn(&Seen) -> Response + Send + Sync>;

/// A recording upstream that answers what a test tells it to.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    count: watch::Sender<usize>,
    handler: Arc<Mutex<Handler>>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            count: watch::Sender::default(),
            handler: Arc::new(Mutex::new(Arc::new(echo_result))),
        };
        let router = axum::Router::new().fallback(serve).with_state(upstream.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        upstream
    }

    /// Gives what answered until now.
    pub(crate) fn answer_with(
        &self,
        handler: impl Fn(&Seen) -> Response + Send + Sync + 'static,
    ) -> Handler {
        self.set_handler(Arc::new(handler))
    }

    pub(crate) fn set_handler(&self, handler: Handler) -> Handler {
        std::mem::replace(&mut *self.handler.lock().unwrap(), handler)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until this many requests have come.
    pub(crate) async fn wait_for_calls(&self, calls: usize) {
        let mut count = self.count.subscribe();
        let enough = count.wait_for(|count| *count >= calls);
        tokio::time::timeout(PATIENCE, enough).await.unwrap().unwrap();
    }
}

async fn serve(State(upstream): State<Upstream>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let method = head.method.to_string();
    let seen = Seen { method, path: head.uri.to_string(), headers: head.headers, body };
    let handler = upstream.handler.lock().unwrap().clone();
    upstream.seen.lock().unwrap().push(seen.clone());
    upstream.count.send_modify(|count| *count += 1);
    handler(&seen)
}

/// A stream whose events a test sends one by one; the stream ends when the sender goes.
pub(crate) fn events() -> (tokio::sync::mpsc::UnboundedSender<String>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<String>();
    let chunks = futures::stream::unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(chunk), receiver))
    });
    (sender, Body::from_stream(chunks))
}

/// Reads a response until `mark` has come; gives all that came, or what there was at its end.
pub(crate) async fn read_until(response: &mut reqwest::Response, mark: &str) -> String {
    let mut text = String::new();
    while !text.contains(mark) {
        let chunk = tokio::time::timeout(PATIENCE, response.chunk()).await.unwrap();
        match chunk.unwrap() {
            Some(chunk) => text.push_str(std::str::from_utf8(&chunk).unwrap()),
            None => break,
        }
    }
    text
}

fn echo_result(seen: &Seen) -> Response {
    let id = serde_json::from_slice::<Value>(&seen.body)
        .ok()
        .and_then(|body| body.get("id").cloned())
        .unwrap_or(Value::Null);
    json_response(&json!({"jsonrpc": "2.0", "id": id, "result": {"content": []}}).to_string())
}

pub(crate) fn json_response(body: &str) -> Response {
    ([("content-type", "application/json")], body.to_owned()).into_response()
}

pub(crate) fn stream_response(body: Body) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}

/// Settings of a test's gateway.
pub(crate) struct Setup {
    pub keys: BTreeMap<&'static str, String>,
    pub policies: String,
    /// Last part of the configuration file.
    pub more: String,
    /// Variables of the process; `-` takes one away.
    pub env: Vec<(&'static str, String)>,
    /// Command through which the program is started.
    pub wrapper: Vec<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        let keys = [
            ("admin.rate_limit_per_minute", "100000"),
            ("storage.backend", "\"sqlite\""),
            ("proxy.drain_delay_secs", "0"),
        ];
        Self {
            keys: keys.into_iter().map(|(k, v)| (k, v.to_owned())).collect(),
            policies: "[[policies]]\nid = \"all\"\neffect = \"allow\"\nallowed_tools = [\"*\"]\nallowed_resources = [\"*\"]\nallowed_prompts = [\"*\"]\nallowed_methods = [\"*\"]\n".to_owned(),
            more: String::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
        }
    }
}

impl Setup {
    /// Sets a key, given as `section.key`, to a TOML value.
    pub(crate) fn with(mut self, key: &'static str, value: impl std::fmt::Display) -> Self {
        self.keys.insert(key, value.to_string());
        self
    }

    /// Lets the gateway have these upstreams, and no other.
    pub(crate) fn upstreams(mut self, upstreams: &[(&str, &[SocketAddr])]) -> Self {
        self.keys.insert("proxy.upstream_url", "-".to_owned());
        for (name, servers) in upstreams {
            let urls: Vec<_> = servers.iter().map(|at| format!("\"http://{at}/mcp\"")).collect();
            let urls = urls.join(", ");
            let table =
                format!("[[upstreams]]\nname = \"{name}\"\npath = \"/{name}\"\nurls = [{urls}]\n");
            self.more.push_str(&table);
        }
        self
    }

    pub(crate) fn policies(mut self, policies: &str) -> Self {
        policies.clone_into(&mut self.policies);
        self
    }
}

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

    /// Starts the process anew, on the same state and on other ports.
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

pub(crate) fn with_headers(status: u16, headers: &[(&str, &str)], body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        response.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
    }
    response
}

fn merge(into: &mut Value, more: Value) {
    let Value::Object(more) = more else { return };
    into.as_object_mut().unwrap().extend(more);
}

fn write_config(folder: &Path, upstream: &Upstream, setup: &Setup) {
    let file = |name: &str| json!(folder.join(name).display().to_string()).to_string();
    let mut keys: BTreeMap<&str, String> = [
        ("proxy.listen_addr", "\"127.0.0.1\"".to_owned()),
        ("proxy.listen_port", "0".to_owned()),
        ("proxy.upstream_url", format!("\"http://{}/mcp\"", upstream.address)),
        ("proxy.threads", "2".to_owned()),
        ("admin.listen_addr", "\"127.0.0.1\"".to_owned()),
        ("admin.listen_port", "0".to_owned()),
        ("audit.file_path", file("audit.jsonl")),
        ("storage.sqlite_path", file("arbiter.db")),
        ("policy.file", file("policies.toml")),
    ]
    .into();
    keys.extend(setup.keys.iter().map(|(key, value)| (*key, value.clone())));
    keys.retain(|_, value| value != "-");
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    for (key, value) in &keys {
        let (section, key) = key.split_once('.').unwrap();
        let text = sections.entry(section).or_default();
        text.push_str(key);
        text.push_str(" = ");
        text.push_str(value);
        text.push('\n');
    }
    let text: Vec<_> = sections.iter().map(|(name, keys)| format!("[{name}]\n{keys}")).collect();
    std::fs::write(folder.join("arbiter.toml"), text.concat() + &setup.more).unwrap();
    std::fs::write(folder.join("policies.toml"), &setup.policies).unwrap();
}

/// Starts the program with what it must refuse; gives its exit code and all that it said.
pub(crate) async fn refuses_to_start(setup: &Setup) -> (Option<i32>, String) {
    ends(setup, "serve").await
}

/// Has the doctor look at what would be served; gives its exit code and all that it said.
pub(crate) async fn check(setup: &Setup) -> (Option<i32>, String) {
    ends(setup, "check").await
}

/// Runs a command that takes the configuration, to its end.
async fn ends(setup: &Setup, verb: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), &Upstream::start().await, setup);
    let mut child = command(folder.path(), setup, verb).spawn().unwrap();
    let code = eventually(|| {
        let ended = child.try_wait().unwrap();
        async move { ended }
    });
    let code = code.await;
    // Nothing to end if it has ended, as it should.
    let _gone = child.kill();
    let said = std::fs::read_to_string(folder.path().join("log.txt")).unwrap();
    (code.expect("it did not start, nor end").code(), said)
}

fn command(folder: &Path, setup: &Setup, verb: &str) -> Command {
    let log = folder.join("log.txt");
    let mut line: Vec<OsString> = setup.wrapper.iter().map(OsString::from).collect();
    line.push(env!("CARGO_BIN_EXE_arbiter").into());
    let mut command = Command::new(&line[0]);
    command
        .args(&line[1..])
        .args([verb, "--config"])
        .arg(folder.join("arbiter.toml"))
        .env("ARBITER_ADMIN_API_KEY", API_KEY)
        .env("ARBITER_SIGNING_SECRET", SIGNING_SECRET)
        .env("RUST_LOG", "info")
        .stderr(File::options().create(true).append(true).open(&log).unwrap())
        .stdout(File::options().create(true).append(true).open(&log).unwrap());
    for (name, value) in &setup.env {
        match value.as_str() {
            "-" => command.env_remove(name),
            value => command.env(name, value),
        };
    }
    command
}

/// Starts the program and waits until it has said where it listens.
fn spawn(folder: &Path, setup: &Setup, options: &[&str]) -> (Child, String, String) {
    let ready = folder.join("ready.json");
    // One of an earlier run would name ports that nobody serves.
    let _none_yet = std::fs::remove_file(&ready);
    let log = folder.join("log.txt");
    let mut command = command(folder, setup, "serve");
    let mut child = command.arg("--ready-file").arg(&ready).args(options).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    let ready = loop {
        if let Ok(ready) = std::fs::read(&ready) {
            break ready;
        }
        if child.try_wait().unwrap().is_some() || Instant::now() > end {
            // Nothing to end if it has ended already.
            let _gone = child.kill();
            panic!("the gateway did not start:\n{}", std::fs::read_to_string(log).unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let ready: Value = serde_json::from_slice(&ready).unwrap();
    let address = |key: &str| ready[key].as_str().unwrap().to_owned();
    (child, address("proxy"), address("admin"))
}
