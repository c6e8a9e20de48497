//! Secrets the agent never sees: put in on the way to the upstream, taken out of all that comes back
//! and kept out of all that is written.

mod apart;
mod injection;
mod pace;
mod scrubbing;
mod sources;
mod spellings;
mod traces;
mod watching;
mod wire;

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use axum::body::Body;
use serde_json::{Value, json};

use crate::support::harness::{Answer, Gateway, Setup, tool_call, with_headers};
use spellings::leaks;

const TOKEN: &str = "tok_live_4f9aC2e7B1d8Kq3Z";
const OTHER: &str = "other?secret&value=77/x";
const BREAKER: &str = "pa\"ss\\w\nö\u{1}</end>";
const NESTED: &str = "lit-${CRED:token}-lit";
const HEADER: &str = "hdr.secret+0123456789";

/// Every value that no agent, log or record may show.
const SECRETS: &[&str] = &[TOKEN, OTHER, BREAKER, NESTED, HEADER, SCOPED, ELSEWHERE];
const SCOPED: &str = "scoped-to-a-tool-55";
const ELSEWHERE: &str = "scoped-to-another-upstream-66";

/// A file of credentials, for its owner alone.
struct Keys {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Keys {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.toml");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
        let keys = Self { _folder: folder, path };
        keys.write(text);
        keys
    }

    /// The credentials that most tests use.
    fn usual() -> Self {
        let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
        Self::new(&format!(
            "[credentials]\ntoken = {}\nother = {}\nbreaker = {}\nnested = {}\nheader = {}\n\
             tiny = \"x9\"\ntiny_ok = {{ value = \"q7z\", allow_short = true }}\n\
             tooled = {{ value = {}, tools = [\"write_*\"] }}\n\
             elsewhere = {{ value = {}, upstreams = [\"elsewhere.example\"] }}\n",
            text(TOKEN),
            text(OTHER),
            text(BREAKER),
            text(NESTED),
            text(HEADER),
            text(SCOPED),
            text(ELSEWHERE),
        ))
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }

    fn mode(&self, mode: u32) {
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn setup(&self) -> Setup {
        Setup::default()
            .with("credentials.provider", "\"file\"")
            .with("credentials.file_path", json!(self.path.display().to_string()))
    }
}

/// A session that may use every credential.
async fn trusted(gateway: &Gateway) -> String {
    let every = ["token", "other", "breaker", "nested", "tiny", "tiny_ok", "tooled", "elsewhere"];
    gateway.session(json!({"authorized_credentials": every})).await
}

fn reads(path: &str) -> String {
    tool_call("read_file", json!({"path": path}))
}

/// Has the session send a credential upstream, and the upstream keep it to itself.
async fn inject(gateway: &Gateway, session: &str, name: &str) {
    gateway.upstream.answer_with(|_| with_headers(200, JSON, Body::from("{}")));
    let answer = gateway.call(session, reads(&format!("${{CRED:{name}}}"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// Returns the session's answer when the upstream sends this.
async fn answered(
    gateway: &Gateway,
    session: &str,
    status: u16,
    headers: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> Answer {
    let body: Vec<u8> = body.into();
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    gateway.upstream.answer_with(move |_| {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        with_headers(status, &headers, Body::from(body.clone()))
    });
    call(gateway, session, reads("a.txt")).await
}

/// A call on a connection of its own: after an upstream's failure the gateway closes it.
async fn call(gateway: &Gateway, session: &str, body: String) -> Answer {
    gateway.send(gateway.request(session, body).header("connection", "close")).await
}

fn text(answer: &Answer) -> String {
    let headers: Vec<String> =
        answer.headers.iter().map(|(name, value)| format!("{name}: {value:?}\n")).collect();
    format!("{}\n{}", headers.concat(), String::from_utf8_lossy(&answer.body))
}

/// Fails if the answer shows the secret in any spelling.
fn hides(answer: &Answer, secret: &str, what: &str) {
    let shown = text(answer);
    if let Some(spelling) = leaks(secret, shown.as_bytes()) {
        panic!("{what}: {secret:?} leaks as {spelling}:\n{shown}");
    }
}

fn result_of(texts: &[String]) -> Value {
    let content: Vec<_> = texts.iter().map(|t| json!({"type": "text", "text": t})).collect();
    json!({"jsonrpc": "2.0", "id": 1, "result": {"content": content}})
}
