//! The program of one test: its settings, its files, its start.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::upstream::Upstream;
use super::{API_KEY, PATIENCE, SIGNING_SECRET, eventually};

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

pub(super) fn write_config(folder: &Path, upstream: &Upstream, setup: &Setup) {
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
pub(super) fn spawn(folder: &Path, setup: &Setup, options: &[&str]) -> (Child, String, String) {
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
