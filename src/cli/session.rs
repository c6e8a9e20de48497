//! `arbiter session …`

use std::io::Write;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::Target;
use super::client::put;
use super::list::{self, Paging};
use super::{Env, Exit, Failure, Remote};
use crate::admin::SessionTerms;
use crate::firewall::time::Timestamp;

#[derive(Debug, Subcommand)]
pub enum Session {
    /// Open a task session and print its id.
    Open(Box<OpenArgs>),
    /// List sessions.
    List(List),
    /// Show a session and what it has used.
    Show(One),
    /// Close a session.
    Close(One),
}

#[derive(Args, Debug)]
pub struct OpenArgs {
    /// The agent's id.
    #[arg(long)]
    agent: String,
    /// Declared intent, in words.
    #[arg(long)]
    intent: String,
    /// A tool the agent may call; may be given several times, like the lists below.
    #[arg(long = "tool")]
    tools: Vec<String>,
    #[command(flatten)]
    terms: SessionTerms,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct List {
    /// Only sessions of this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Only sessions with this status.
    #[arg(long, value_parser = ["active", "expired", "closed"])]
    status: Option<String>,
    /// Only sessions that may call this tool.
    #[arg(long)]
    tool: Option<String>,
    /// Only sessions opened at this time or later, for example 2026-11-22T10:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    #[command(flatten)]
    paging: Paging,
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
        let (target, mut out) = remote.open(env, sink)?;
        let answer = match self {
            Self::Open(open) => {
                target.ask(Method::POST, &["sessions"], &[], Some(open.body().to_string())).await?
            }
            Self::List(list) => {
                let sessions = list.read(&target).await?;
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

impl List {
    async fn read(&self, target: &Target) -> Result<Vec<Value>, Failure> {
        let sessions = list::List {
            path: "sessions",
            entries: "sessions",
            id: "session_id",
            query: &[("agent_id", self.agent.as_deref()), ("status", self.status.as_deref())],
        };
        let opened = |session: &Value| {
            session.get("created_at").and_then(Value::as_str).and_then(Timestamp::parse)
        };
        let keep = |session: &Value| {
            let tool = self.tool.as_deref();
            tool.is_none_or(|tool| list::lists(session, "authorized_tools", tool))
                && self.since.is_none_or(|since| opened(session).is_some_and(|at| at >= since))
        };
        self.paging.read(target, &sessions, keep).await
    }
}

/// Reads a time.
pub(super) fn time(text: &str) -> Result<Timestamp, &'static str> {
    Timestamp::parse(text).ok_or("not an RFC 3339 time such as 2026-12-24T18:00:00Z")
}

impl OpenArgs {
    fn body(&self) -> Value {
        let mut body = json!(self.terms);
        put(&mut body, "agent_id", Some(self.agent.as_str()));
        put(&mut body, "declared_intent", Some(self.intent.as_str()));
        put(&mut body, "authorized_tools", Some(self.tools.clone()));
        body
    }
}
