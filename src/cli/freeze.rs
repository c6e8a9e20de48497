//! `arbiter freeze …` and `arbiter unfreeze`

use std::io::Write;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::put;
use super::list::{self, Paging};
use super::{Env, Exit, Failure, Remote};
use crate::firewall::time::Timestamp;

#[derive(Debug, Subcommand)]
pub enum Freeze {
    /// Stop all calls.
    All(Everything),
    /// Stop an agent, and the agents that act for it.
    Agent(One),
    /// Stop the agents of an owner.
    Owner(One),
    /// Stop a tool: its name, `upstream:tool`, or the start of names and `*`.
    Tool(One),
    /// Stop everything that goes to an upstream.
    Upstream(One),
    /// List what is frozen now.
    List(List),
}

#[derive(Args, Debug)]
pub(crate) struct Terms {
    /// Reason that refused agents are given, and that goes on record.
    #[arg(long)]
    reason: String,
    /// End of the freeze, for example 2026-12-24T18:00:00Z; without it, it lasts until `unfreeze`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct Everything {
    #[command(flatten)]
    terms: Terms,
}

#[derive(Args, Debug)]
pub struct One {
    /// The agent's id, the owner, the tool or the upstream's name.
    value: String,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Args, Debug)]
pub struct List {
    /// Only freezes of this scope.
    #[arg(long, value_parser = ["all", "agent", "owner", "tool", "upstream"])]
    scope: Option<String>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct Unfreeze {
    /// Id of the freeze, as `arbiter freeze list` shows it.
    id: String,
    #[command(flatten)]
    remote: Remote,
}

fn time(text: &str) -> Result<String, &'static str> {
    let known = Timestamp::parse(text).is_some();
    known.then(|| text.to_owned()).ok_or("not an RFC 3339 time such as 2026-12-24T18:00:00Z")
}

impl Freeze {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let (scope, value, terms) = match self {
            Self::All(all) => ("all", None, &all.terms),
            Self::Agent(one) => ("agent", Some(&one.value), &one.terms),
            Self::Owner(one) => ("owner", Some(&one.value), &one.terms),
            Self::Tool(one) => ("tool", Some(&one.value), &one.terms),
            Self::Upstream(one) => ("upstream", Some(&one.value), &one.terms),
            Self::List(list) => return list.run(env, sink).await,
        };
        let mut body = json!({"scope": scope, "reason": terms.reason});
        put(&mut body, "value", value.map(String::as_str));
        put(&mut body, "until", terms.until.as_deref());
        let (target, mut out) = terms.remote.open(env, sink)?;
        let answer = target.ask(Method::POST, &["freeze"], &[], Some(body.to_string())).await?;
        out.thing(&answer)?;
        Ok(Exit::Fine)
    }
}

impl List {
    async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let (target, mut out) = self.remote.open(env, sink)?;
        let freezes =
            list::List { path: "freeze", entries: "freezes", id: "freeze_id", query: &[] };
        let keep = |freeze: &Value| {
            let scope = freeze.get("scope").and_then(Value::as_str);
            self.scope.is_none() || scope == self.scope.as_deref()
        };
        let freezes = self.paging.read(&target, &freezes, keep).await?;
        let columns = ["freeze_id", "scope", "value", "until", "frozen_by", "reason"];
        out.table(&freezes, &columns)?;
        Ok(Exit::Fine)
    }
}

impl Unfreeze {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let (target, mut out) = self.remote.open(env, sink)?;
        let answer = target.ask(Method::DELETE, &["freeze", &self.id], &[], None).await?;
        out.thing(&answer)?;
        Ok(Exit::Fine)
    }
}
