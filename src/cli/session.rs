//! `arbiter session …`

use std::io::Write;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::agent::{pages, put};
use super::print::Out;
use super::{Env, Exit, Failure, Remote};
use crate::firewall::session::Sensitivity;

#[derive(Debug, Subcommand)]
pub enum Session {
    /// Open a task session and print its id.
    Open(Box<Open>),
    /// List sessions.
    List(List),
    /// Show a session and what it has used.
    Show(One),
    /// Close a session.
    Close(One),
}

#[derive(Args, Debug)]
pub struct Open {
    /// The agent's id.
    #[arg(long)]
    agent: String,
    /// Declared intent, in words.
    #[arg(long)]
    intent: String,
    /// A tool the agent may call; may be given several times, like the lists below.
    #[arg(long = "tool")]
    tools: Vec<String>,
    #[arg(long = "resource")]
    resources: Vec<String>,
    #[arg(long = "prompt")]
    prompts: Vec<String>,
    #[arg(long = "method")]
    methods: Vec<String>,
    #[arg(long = "credential")]
    credentials: Vec<String>,
    #[arg(long)]
    time_limit_secs: Option<u64>,
    #[arg(long)]
    call_budget: Option<u64>,
    #[arg(long)]
    rate_limit_per_minute: Option<u32>,
    /// public, internal, confidential or restricted.
    #[arg(long)]
    data_sensitivity: Option<Sensitivity>,
    /// http or result.
    #[arg(long)]
    refusal_style: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct List {
    /// Only sessions of this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Only active, expired or closed ones.
    #[arg(long)]
    status: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct One {
    /// The session's id.
    id: String,
    #[command(flatten)]
    remote: Remote,
}

impl Session {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let remote = match self {
            Self::Open(open) => &open.remote,
            Self::List(list) => &list.remote,
            Self::Show(one) | Self::Close(one) => &one.remote,
        };
        let target = remote.target(env)?;
        let mut out = Out::new(remote.json, sink);
        let answer = match self {
            Self::Open(open) => {
                target.ask(Method::POST, &["sessions"], &[], Some(open.body().to_string())).await?
            }
            Self::List(list) => {
                let filter = [("agent_id", &list.agent), ("status", &list.status)];
                let filter: Vec<_> = filter
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value.as_deref()?)))
                    .collect();
                let sessions = pages(&target, "sessions", &filter).await?;
                let columns = [
                    "session_id",
                    "agent_id",
                    "status",
                    "calls_made",
                    "call_budget",
                    "declared_intent",
                ];
                out.table(&sessions, &columns)?;
                return Ok(Exit::Fine);
            }
            Self::Show(one) => target.ask(Method::GET, &["sessions", &one.id], &[], None).await?,
            Self::Close(one) => {
                target.ask(Method::DELETE, &["sessions", &one.id], &[], None).await?
            }
        };
        out.thing(&answer)?;
        Ok(Exit::Fine)
    }
}

impl Open {
    fn body(&self) -> Value {
        let mut body = json!({
            "agent_id": self.agent,
            "declared_intent": self.intent,
            "authorized_tools": self.tools,
            "authorized_resources": self.resources,
            "authorized_prompts": self.prompts,
            "authorized_methods": self.methods,
            "authorized_credentials": self.credentials,
        });
        put(&mut body, "time_limit_secs", self.time_limit_secs);
        put(&mut body, "call_budget", self.call_budget);
        put(&mut body, "rate_limit_per_minute", self.rate_limit_per_minute);
        put(&mut body, "data_sensitivity", self.data_sensitivity.map(Sensitivity::as_str));
        put(&mut body, "refusal_style", self.refusal_style.as_deref());
        body
    }
}
