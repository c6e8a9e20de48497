//! The official Rust client, walking through a plan of steps and printing what it got as JSON.
//!
//! It knows nothing of Arbiter: headers are all that is added. stdout holds the transcript, equal
//! with and without a gateway in between. `run.py` builds and runs it as it runs `py_client.py`,
//! which says what the options mean.

#![expect(deprecated, reason = "servers of the 2025 era sample and log")]
#![expect(clippy::disallowed_methods, reason = "a client of its own watches a clock of its own")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use http::{HeaderName, HeaderValue};
use rmcp::model::{
    ClientConfig, ClientRequest, CreateMessageRequestParams, CreateMessageResult,
    ProgressNotificationParam, ProtocolVersion,
};
use rmcp::service::{
    ClientLifecycleMode, ClientServiceExt, NotificationContext, Peer, RequestContext,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ErrorData, RoleClient};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Notify;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    url: String,
    #[arg(long)]
    plan: PathBuf,
    #[arg(long, default_value = "legacy")]
    mode: String,
    #[arg(long)]
    header: Vec<String>,
}

/// What the client answers by itself, and the progress it was told of.
#[derive(Clone, Default)]
struct Handler {
    progress: Arc<Mutex<Vec<(Instant, Value)>>>,
    told: Arc<Notify>,
}

impl Handler {
    fn progress(&self) -> MutexGuard<'_, Vec<(Instant, Value)>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each notification has a task of its own, which a result that comes right after may overtake.
    async fn was_told(&self, expected: usize) {
        while self.progress().len() < expected {
            self.told.notified().await;
        }
    }
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let mut info = ClientConfig::default();
        info.capabilities.sampling = Some(of(json!({})).unwrap_or_default());
        info
    }

    async fn create_message(
        &self,
        asked: CreateMessageRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let broken = |error: anyhow::Error| ErrorData::internal_error(error.to_string(), None);
        let asked = plain(&asked).map_err(broken)?;
        let text = asked.pointer("/messages/0/content/text").and_then(Value::as_str);
        let text = format!("sampled: {}", text.unwrap_or_default());
        let content = json!({"type": "text", "text": text});
        let answer = json!({"role": "assistant", "model": "test-model", "content": content});
        of(answer).map_err(broken)
    }

    async fn on_progress(
        &self,
        told: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        let seen = json!({"progress": told.progress, "total": told.total});
        self.progress().push((Instant::now(), seen));
        self.told.notify_one();
    }
}

fn of<T: DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

fn plain<T: Serialize>(value: &T) -> Result<Value> {
    Ok(serde_json::to_value(value)?)
}

/// Of a step, the members that are the request's parameters.
fn params<T: DeserializeOwned>(step: &Value, members: &[&str]) -> Result<T> {
    let given = members.iter().filter_map(|name| Some((*name, step.get(*name)?.clone())));
    of(given.map(|(name, value)| (name.to_owned(), value)).collect())
}

type Client = Peer<RoleClient>;

async fn call_tool(client: &Client, step: &Value) -> Result<Value> {
    plain(&client.call_tool(params(step, &["name", "arguments"])?).await?)
}

/// Progress is worth something only while the tool still runs: it must be spread over the run.
async fn call_tool_with_progress(
    client: &Client,
    handler: &Handler,
    step: &Value,
    expected: usize,
) -> Result<Value> {
    handler.progress().clear();
    let started = Instant::now();
    let mut result = call_tool(client, step).await?;
    let total = started.elapsed();
    // Too few are told of below.
    let _late = tokio::time::timeout(Duration::from_secs(1), handler.was_told(expected)).await;
    let seen = std::mem::take(&mut *handler.progress());
    let (arrivals, seen): (Vec<_>, Vec<_>) =
        seen.into_iter().map(|(at, seen)| (at.saturating_duration_since(started), seen)).unzip();
    report(&arrivals, total);
    let first = arrivals.first().copied().unwrap_or(total);
    let spread = arrivals.last().copied().unwrap_or_default().saturating_sub(first);
    ensure!(
        arrivals.len() == expected && first * 10 < total * 6 && spread * 10 > total * 4,
        "expected {expected} notifications during the run of {total:?}, got {arrivals:?}"
    );
    let members = result.as_object_mut().context("a result is an object")?;
    members.insert("test/progress".to_owned(), seen.into());
    Ok(result)
}

#[expect(clippy::print_stderr, reason = "the last line is what `run.py` shows beside the case")]
fn report(arrivals: &[Duration], total: Duration) {
    let shown: Vec<_> = arrivals.iter().map(|at| at.as_millis().to_string()).collect();
    eprintln!("progress at {} of {} ms", shown.join(" "), total.as_millis());
}

async fn step(client: &Client, handler: &Handler, step: &Value) -> Result<Value> {
    let op = step.get("op").and_then(Value::as_str).context("a step without `op`")?;
    match op {
        "ping" => plain(
            &client
                .send_request(ClientRequest::PingRequest(of(json!({"method": "ping"}))?))
                .await?,
        ),
        "set_log_level" => {
            client.set_level(params(step, &["level"])?).await?;
            Ok(json!({}))
        }
        "list_tools" => plain(&client.list_tools(None).await?),
        "list_resources" => plain(&client.list_resources(None).await?),
        "list_resource_templates" => plain(&client.list_resource_templates(None).await?),
        "list_prompts" => plain(&client.list_prompts(None).await?),
        "read_resource" => plain(&client.read_resource(params(step, &["uri"])?).await?),
        "get_prompt" => plain(&client.get_prompt(params(step, &["name", "arguments"])?).await?),
        "complete" => plain(&client.complete(params(step, &["ref", "argument"])?).await?),
        "call_tool" => {
            let progress = step.get("progress").and_then(Value::as_u64).unwrap_or_default();
            match usize::try_from(progress)? {
                0 => call_tool(client, step).await,
                expected => call_tool_with_progress(client, handler, step, expected).await,
            }
        }
        "call_tools_at_once" => {
            let calls = step.get("calls").and_then(Value::as_array).context("no calls")?;
            let calls = calls.iter().map(|call| call_tool(client, call));
            Ok(futures::future::try_join_all(calls).await?.into())
        }
        other => bail!("no such step: {other}"),
    }
}

fn lifecycle(mode: &str) -> ClientLifecycleMode {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    match mode {
        "legacy" => ClientLifecycleMode::Initialize,
        "auto" => ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
        _ => ClientLifecycleMode::Discover { preferred_versions },
    }
}

fn transport(options: &Options) -> Result<StreamableHttpClientTransport<reqwest::Client>> {
    // reqwest asks for one even if it never speaks TLS.
    let installed = rustls::crypto::ring::default_provider().install_default();
    ensure!(installed.is_ok(), "another provider was first");
    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut headers = HashMap::new();
    for header in &options.header {
        let (name, value) = header.split_once('=').context("a header is name=value")?;
        headers.insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
    }
    let config =
        StreamableHttpClientTransportConfig::with_uri(options.url.as_str()).custom_headers(headers);
    Ok(StreamableHttpClientTransport::with_client(http, config))
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let plan: Vec<Value> = serde_json::from_slice(&std::fs::read(&options.plan)?)?;
    let handler = Handler::default();
    let client = handler
        .clone()
        .serve_with_lifecycle(transport(&options)?, lifecycle(&options.mode))
        .await?;
    let hello = plain(&client.peer_info().context("the server did not say who it is")?)?;
    let mut steps = Vec::new();
    for planned in &plan {
        let result = step(client.peer(), &handler, planned)
            .await
            .with_context(|| format!("at {planned:.200}"))?;
        steps.push(json!({"op": planned.get("op"), "result": result}));
    }
    let member = |name: &str| hello.get(name).cloned().unwrap_or_default();
    let transcript = json!({
        "protocol": member("protocolVersion"),
        "server": member("serverInfo"),
        "capabilities": member("capabilities"),
        "instructions": member("instructions"),
        "steps": steps,
    });
    client.cancel().await?;
    show(&transcript);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the transcript is what this program is for")]
fn show(transcript: &Value) {
    println!("{transcript}");
}
