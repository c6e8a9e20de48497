//! `arbiter demo`: the whole of it in one process, with nothing to set up.
//!
//! A real MCP server, the gateway before it with SQLite in a temporary folder, a registered agent
//! and its session; then a guided tour that really sends the calls, the allowed ones and the ten
//! attacks, and says of each what caught it. Afterwards it stays up for the reader's own calls.

mod echoes;
mod server;
mod tour;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{self, Started};
use crate::cli::print::Out;
use crate::config::Config;

/// Options of the demo.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Leave after the tour.
    pub once: bool,
    /// Ports of the proxy and of the admin API; 0 means any.
    pub proxy_port: u16,
    pub admin_port: u16,
}

/// An agent of the demo and its token.
struct Agent {
    id: String,
    token: String,
}

/// The running demo, as its visitors see it.
struct Scene {
    client: reqwest::Client,
    started: Started,
    api_key: String,
    secret: String,
    agent: Agent,
}

/// Runs the demo; `Ok(false)` if a stop of the tour came out otherwise than it should.
pub fn run(options: Options, sink: &mut dyn Write) -> Result<bool> {
    let folder = std::env::temp_dir().join(format!("arbiter-demo-{}", Uuid::new_v4()));
    std::fs::create_dir_all(&folder).context("creating a temporary folder")?;
    let outcome = run_in(options, &folder, &mut Out::new(false, sink));
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        tracing::warn!(%error, "the demo's temporary folder is left behind");
    }
    outcome
}

fn run_in(options: Options, folder: &Path, out: &mut Out<'_>) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("demo")
        .enable_all()
        .build()?;
    let upstream = runtime.block_on(server::start()).context("starting the MCP server")?;
    let api_key = random_text();
    // With what the encodings treat differently.
    let secret = format!("rk/{}+\"?&=\\-0", random_text());
    let config = config(options, folder, upstream.port(), &api_key, &secret)?;

    let (ready, started) = mpsc::sync_channel(1);
    let (stop, stopped) = app::stop_switch();
    let gateway = std::thread::Builder::new().name("gateway".to_owned()).spawn(move || {
        app::run(&config, app::Way::Start, stopped, move |now_running| {
            // The tour waits for this; if it has gone, nobody needs to know.
            let _gone = ready.send(now_running.clone());
            Ok(())
        })
    })?;
    let started = match started.recv() {
        Ok(started) => started,
        Err(_never_ready) => {
            return match gateway.join() {
                Ok(Err(error)) => Err(error),
                Ok(Ok(())) | Err(_) => anyhow::bail!("the gateway ended before it was ready"),
            };
        }
    };
    let fine = runtime.block_on(visit(options, started, api_key, secret, out))?;
    if options.once {
        stop.stop();
    }
    match gateway.join() {
        Ok(ended) => ended.map(|()| fine),
        Err(_panicked) => anyhow::bail!("the gateway's thread panicked"),
    }
}

async fn visit(
    options: Options,
    started: Started,
    api_key: String,
    secret: String,
    out: &mut Out<'_>,
) -> Result<bool> {
    pingora::tls::install_default_crypto_provider();
    // Plain http only, so no certificates are needed.
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
    let nobody = Agent { id: String::new(), token: String::new() };
    let mut scene = Scene { client, started, api_key, secret, agent: nobody };
    scene.agent = scene.register("demo-agent").await?;
    let stops = tour::walk(&scene).await?;
    print_table(&stops, out)?;
    let fine = stops.iter().all(|stop| stop.as_expected);
    if !fine {
        out.line("Something came out otherwise than it should: see the lines marked NO.")?;
    }
    if !options.once {
        print_invitation(&scene, out).await?;
    }
    Ok(fine)
}

fn print_table(stops: &[tour::Stop], out: &mut Out<'_>) -> Result<()> {
    out.line(&format!(
        "{:<32} {:<64} {:<26} {:<10} {}",
        "ATTEMPT", "REQUEST", "ANSWER", "STAGE", "AS IT SHOULD"
    ))?;
    for stop in stops {
        let request: String = stop.request.chars().take(62).collect();
        let verdict = if stop.as_expected { "yes" } else { "NO" };
        out.line(&format!(
            "{:<32} {:<64} {:<26} {:<10} {verdict}",
            stop.name, request, stop.answer, stop.stage
        ))?;
    }
    Ok(())
}

async fn print_invitation(scene: &Scene, out: &mut Out<'_>) -> Result<()> {
    let agent = scene.register("visitor").await?;
    let order = json!({
        "agent_id": agent.id,
        "declared_intent": "read files",
        "authorized_tools": ["read_file", "list_files"],
    });
    let (_, session) = scene.admin("/sessions", &order).await?;
    let Started { proxy, admin, .. } = &scene.started;
    out.line("")?;
    out.line("The gateway stays up. Try it (Ctrl-C ends it):")?;
    out.line("")?;
    out.line(&format!("export TOKEN={}", agent.token))?;
    out.line(&format!("export AGENT_ID={}", agent.id))?;
    out.line(&format!("export SESSION_ID={}", tour::text_at(&session, "/session_id")))?;
    out.line(&format!("export ARBITER_ADMIN_API_KEY={}", scene.api_key))?;
    out.line("")?;
    for (tool, arguments) in [("read_file", json!({"path": "a.txt"})), ("wipe_disk", json!({}))] {
        let params = json!({"name": tool, "arguments": arguments});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        out.line(&format!(
            "curl -s http://{proxy}/ -H \"Authorization: Bearer $TOKEN\" -H \"x-agent-id: $AGENT_ID\" \
             -H \"x-arbiter-session: $SESSION_ID\" -H 'Content-Type: application/json' \
             -H 'Accept: application/json, text/event-stream' -d '{body}'"
        ))?;
    }
    out.line(&format!(
        "curl -s http://{admin}/sessions/$SESSION_ID -H \"x-api-key: $ARBITER_ADMIN_API_KEY\""
    ))?;
    out.line(&format!("curl -s http://{proxy}/metrics"))?;
    out.line("")?;
    out.line("The operators' pages; sign in with the key above, which ends with this demo:")?;
    out.line(&format!("http://{admin}/console"))?;
    Ok(())
}

/// A random text that is fit for a key.
fn random_text() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

fn config(
    options: Options,
    folder: &Path,
    upstream: u16,
    api_key: &str,
    secret: &str,
) -> Result<Config> {
    let file = |name: &str| toml::Value::String(folder.join(name).display().to_string());
    std::fs::write(folder.join("policies.toml"), include_str!("demo/policies.toml"))?;
    let value = toml::Value::String(secret.to_owned());
    let credentials = format!("[credentials]\nreport_key = {value}\n");
    let mut for_us_alone = std::fs::OpenOptions::new();
    for_us_alone.write(true).create_new(true).mode(0o600);
    for_us_alone.open(folder.join("credentials.toml"))?.write_all(credentials.as_bytes())?;
    let text = format!(
        r#"
[proxy]
listen_addr = "127.0.0.1"
listen_port = {proxy_port}
upstream_url = "http://127.0.0.1:{upstream}/mcp"
drain_delay_secs = 0
[policy]
file = {policies}
[sessions]
escalate_anomalies = true
[audit]
file_path = {audit}
[credentials]
provider = "file"
file_path = {credentials}
[storage]
backend = "sqlite"
sqlite_path = {sqlite}
[admin]
listen_addr = "127.0.0.1"
listen_port = {admin_port}
rate_limit_per_minute = 600
"#,
        proxy_port = options.proxy_port,
        admin_port = options.admin_port,
        policies = file("policies.toml"),
        audit = file("audit.jsonl"),
        credentials = file("credentials.toml"),
        sqlite = file("arbiter.db"),
    );
    let secrets = [
        ("ARBITER_ADMIN_API_KEY".to_owned(), api_key.to_owned()),
        ("ARBITER_SIGNING_SECRET".to_owned(), random_text()),
    ];
    Ok(Config::from_toml(&text, secrets.into_iter())?)
}

impl Scene {
    /// Registers an agent with basic trust.
    async fn register(&self, name: &str) -> Result<Agent> {
        let new = json!({
            "owner": format!("user:{name}"), "model": "demo", "capabilities": ["read"], "trust_level": "basic",
        });
        let (status, body) = self.admin("/agents", &new).await?;
        anyhow::ensure!(status == 201, "{status}: {body}");
        let text = |pointer: &str| tour::text_at(&body, pointer).to_owned();
        Ok(Agent { id: text("/agent_id"), token: text("/token") })
    }

    async fn admin(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let response = self
            .client
            .post(format!("http://{}{path}", self.started.admin))
            .header("x-api-key", &self.api_key)
            .json(body)
            .send()
            .await?;
        let status = response.status().as_u16();
        Ok((status, response.json().await?))
    }

    async fn post(
        &self,
        agent: &Agent,
        session: Option<&tour::Session>,
        body: &str,
    ) -> Result<(u16, String)> {
        let mut request = self
            .client
            .post(format!("http://{}/", self.started.proxy))
            .bearer_auth(&agent.token)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("x-agent-id", &agent.id)
            .body(body.to_owned());
        if let Some(session) = session {
            request = request.header("x-arbiter-session", &session.id);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, response.text().await?))
    }

    /// The way in which `text` gives the credential's value away, if it does in any.
    fn leaks(&self, text: &str) -> Option<&'static str> {
        let traces = echoes::traces(&self.secret);
        traces.into_iter().find(|(_, trace)| text.contains(trace)).map(|(way, _)| way)
    }
}
