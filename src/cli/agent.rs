//! `arbiter agent …`

use std::io::Write;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Target, put};
use super::list::{self, Paging};
use super::{Env, Exit, Failure, Remote};
use crate::firewall::agent::TrustLevel;

#[derive(Debug, Subcommand)]
pub enum Agent {
    /// Register an agent and print its first token.
    Register(Register),
    /// List agents.
    List(List),
    /// Show an agent and its delegations.
    Show(One),
    /// Deactivate an agent and every delegate below it.
    Revoke(One),
    /// Let another agent act for one.
    Delegate(Delegate),
    /// Set an agent's trust level.
    Trust(Trust),
    /// Issue a token for an agent.
    Token(Token),
}

#[derive(Args, Debug)]
pub struct Register {
    /// Owner: the person or service answerable for the agent, for example `user:alice`.
    #[arg(long)]
    owner: String,
    /// Model that the agent runs, for people who read lists and records.
    #[arg(long)]
    model: String,
    /// Capability that policies can require; may be given several times.
    #[arg(long = "capability")]
    capabilities: Vec<String>,
    /// untrusted, basic, verified or trusted.
    #[arg(long, default_value_t = TrustLevel::Untrusted)]
    trust_level: TrustLevel,
    /// End of the registration, for example `2026-12-31T00:00:00Z`.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct List {
    /// Only agents of this owner.
    #[arg(long)]
    owner: Option<String>,
    /// Only agents with this trust level.
    #[arg(long, value_name = "LEVEL")]
    trust_level: Option<TrustLevel>,
    /// Only agents with this capability.
    #[arg(long)]
    capability: Option<String>,
    /// Only agents that were not deactivated.
    #[arg(long)]
    active: bool,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct One {
    /// The agent's id.
    id: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct Delegate {
    /// The agent that delegates.
    id: String,
    /// The agent that may act for it.
    #[arg(long)]
    to: String,
    /// A capability that the first agent has; may be given several times.
    #[arg(long = "scope", required = true)]
    scopes: Vec<String>,
    /// End of the delegation, for example `2026-12-31T00:00:00Z`.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct Trust {
    /// The agent's id.
    id: String,
    /// untrusted, basic, verified or trusted.
    level: TrustLevel,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub struct Token {
    /// The agent's id.
    id: String,
    /// Seconds for which it is valid, at most 86400; the configured time unless given.
    #[arg(long)]
    expiry_seconds: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

impl Agent {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        let remote = match self {
            Self::Register(register) => &register.remote,
            Self::List(list) => &list.remote,
            Self::Show(one) | Self::Revoke(one) => &one.remote,
            Self::Delegate(delegate) => &delegate.remote,
            Self::Trust(trust) => &trust.remote,
            Self::Token(token) => &token.remote,
        };
        let (target, mut out) = remote.open(env, sink)?;
        let answer = match self {
            Self::Register(register) => {
                target
                    .ask(Method::POST, &["agents"], &[], Some(register.body().to_string()))
                    .await?
            }
            Self::List(list) => {
                let agents = list.read(&target).await?;
                let columns = ["id", "owner", "model", "trust_level", "active", "capabilities"];
                out.table(&agents, &columns)?;
                return Ok(Exit::Fine);
            }
            Self::Show(one) => show(&target, &one.id).await?,
            Self::Revoke(one) => {
                target.ask(Method::DELETE, &["agents", &one.id], &[], None).await?
            }
            Self::Delegate(delegate) => {
                let path = ["agents", &delegate.id, "delegate"];
                target.ask(Method::POST, &path, &[], Some(delegate.body().to_string())).await?
            }
            Self::Trust(trust) => {
                let path = ["agents", &trust.id, "trust"];
                let body = json!({ "trust_level": trust.level });
                target.ask(Method::PUT, &path, &[], Some(body.to_string())).await?
            }
            Self::Token(token) => {
                let body = match token.expiry_seconds {
                    Some(secs) => json!({ "expiry_seconds": secs }),
                    None => json!({}),
                };
                let path = ["agents", &token.id, "token"];
                target.ask(Method::POST, &path, &[], Some(body.to_string())).await?
            }
        };
        out.thing(&answer)?;
        Ok(Exit::Fine)
    }
}

/// The agent, with what was delegated to it and by it.
async fn show(target: &Target, id: &str) -> Result<Value, Failure> {
    let mut agent = target.ask(Method::GET, &["agents", id], &[], None).await?;
    let path = ["agents", id, "delegations"];
    let delegations = target.ask(Method::GET, &path, &[], None).await?;
    if let (Value::Object(agent), Value::Object(delegations)) = (&mut agent, delegations) {
        agent.extend(delegations);
    }
    Ok(agent)
}

impl List {
    async fn read(&self, target: &Target) -> Result<Vec<Value>, Failure> {
        let agents = list::List { path: "agents", entries: "agents", id: "id", query: &[] };
        let is = |agent: &Value, member: &str, wanted: Option<&str>| {
            wanted.is_none_or(|wanted| agent.get(member).is_some_and(|value| value == wanted))
        };
        let keep = |agent: &Value| {
            let capability = self.capability.as_deref();
            is(agent, "owner", self.owner.as_deref())
                && is(agent, "trust_level", self.trust_level.map(TrustLevel::as_str))
                && capability.is_none_or(|wanted| list::lists(agent, "capabilities", wanted))
                && (!self.active || agent.get("active").is_some_and(|active| active == true))
        };
        self.paging.read(target, &agents, keep).await
    }
}

impl Register {
    fn body(&self) -> Value {
        let mut body = json!({
            "owner": self.owner,
            "model": self.model,
            "capabilities": self.capabilities,
            "trust_level": self.trust_level,
        });
        put(&mut body, "expires_at", self.expires_at.as_deref());
        body
    }
}

impl Delegate {
    fn body(&self) -> Value {
        let mut body = Value::Object(Map::new());
        put(&mut body, "to", Some(self.to.as_str()));
        put(&mut body, "scopes", Some(self.scopes.clone()));
        put(&mut body, "expires_at", self.expires_at.as_deref());
        body
    }
}
