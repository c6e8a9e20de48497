//! `arbiter approval …`

use std::collections::HashSet;
use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::Target;
use super::client::put;
use super::list::{self, Paging};
use super::print::Out;
use super::{Env, Exit, Failure, Remote};

/// Interval between two looks of `watch`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub enum Approval {
    /// List calls that a person has to decide.
    List(List),
    /// Show one call with its arguments.
    Show(One),
    /// Let a call pass when it is repeated.
    Approve(Approve),
    /// Refuse a call until its approval expires.
    Deny(Deny),
    /// Print calls as they come, until interrupted.
    Watch(Watch),
}

#[derive(Args, Debug)]
pub struct List {
    /// Only approvals of this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Only approvals with this status.
    #[arg(long, value_parser = STATUSES)]
    status: Option<String>,
    /// Only approvals of calls of this tool.
    #[arg(long)]
    tool: Option<String>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct One {
    /// Id of the approval.
    id: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct Approve {
    /// Id of the approval.
    id: String,
    /// Number of calls that it covers until it expires, 1 to 100.
    #[arg(long)]
    uses: Option<u32>,
    /// Reason, for the record.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct Deny {
    /// Id of the approval.
    id: String,
    /// Reason, for the record.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct Watch {
    /// Stop after this many calls.
    #[arg(long, short = 'n')]
    count: Option<usize>,
    #[command(flatten)]
    remote: Remote,
}

const STATUSES: [&str; 7] =
    ["pending", "approved", "denied", "expired", "used", "void", "withdrawn"];
const COLUMNS: [&str; 6] = ["approval_id", "status", "agent_id", "target", "policy", "expires_at"];

impl Approval {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let remote = match self {
            Self::List(list) => &list.remote,
            Self::Show(one) => &one.remote,
            Self::Approve(approve) => &approve.remote,
            Self::Deny(deny) => &deny.remote,
            Self::Watch(watch) => &watch.remote,
        };
        let (target, mut out) = remote.open(env, sink)?;
        let answer = match self {
            Self::List(list) => {
                let query =
                    [("agent_id", list.agent.as_deref()), ("status", list.status.as_deref())];
                let keep = |approval: &Value| {
                    let tool = approval.get("tool").and_then(Value::as_str);
                    list.tool.is_none() || tool == list.tool.as_deref()
                };
                let approvals = list.paging.read(&target, &of(&query), keep).await?;
                out.table(&approvals, &COLUMNS)?;
                return Ok(Exit::Fine);
            }
            Self::Watch(watch) => return watch.run(&target, &mut out).await,
            Self::Show(one) => target.ask(Method::GET, &["approvals", &one.id], &[], None).await?,
            Self::Approve(approve) => {
                let mut body = json!({"decision": "approve"});
                put(&mut body, "uses", approve.uses);
                put(&mut body, "reason", approve.reason.as_deref());
                decide(&target, &approve.id, &body).await?
            }
            Self::Deny(deny) => {
                let mut body = json!({"decision": "deny"});
                put(&mut body, "reason", deny.reason.as_deref());
                decide(&target, &deny.id, &body).await?
            }
        };
        out.thing(&answer)?;
        Ok(Exit::Fine)
    }
}

/// The list of approvals.
fn of<'a>(query: &'a [(&'a str, Option<&'a str>)]) -> list::List<'a> {
    list::List { path: "approvals", entries: "approvals", id: "approval_id", query }
}

async fn decide(target: &Target, id: &str, body: &Value) -> Result<Value, Failure> {
    target.ask(Method::POST, &["approvals", id], &[], Some(body.to_string())).await
}

impl Watch {
    async fn run(&self, target: &Target, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let (mut seen, mut printed) = (HashSet::new(), 0);
        loop {
            for approval in of(&[("status", Some("pending"))]).all(target).await? {
                let id = approval.get("approval_id").and_then(Value::as_str).unwrap_or_default();
                if !seen.insert(id.to_owned()) {
                    continue;
                }
                out.thing(&approval)?;
                printed += 1;
                if self.count.is_some_and(|count| printed >= count) {
                    return Ok(Exit::Fine);
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
