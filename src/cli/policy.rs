//! `arbiter policy …`

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{put, written};
use super::print::{Format, Out, Tone};
use super::{Env, Exit, Failure, Remote};
use crate::admin::explain_offline;
use crate::firewall::agent::TrustLevel;
use crate::firewall::policy::PolicyError;
use crate::json::Doc;
use crate::rulebook::policies_at;

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Check a policy file, or a folder of them, without a running Arbiter.
    Validate(Validate),
    /// Say how a call would be decided, and why.
    Explain(Box<Explain>),
}

#[derive(Args, Debug)]
pub struct Validate {
    /// A file, or a folder whose *.toml files form one set.
    path: PathBuf,
    /// The name of an upstream, once for each: tools of any other are mistakes. Without any, names of
    /// upstreams are not checked.
    #[arg(long = "upstream", value_name = "NAME")]
    upstreams: Vec<String>,
    #[command(flatten)]
    output: Format,
}

#[derive(Args, Debug)]
pub struct Explain {
    /// Ask these policies rather than a running Arbiter.
    #[arg(long)]
    file: Option<PathBuf>,
    /// A registered agent; or describe one by the next two. With --session its agent, unless given.
    #[arg(long, conflicts_with_all = ["trust_level", "capabilities"])]
    agent: Option<String>,
    /// A session that was opened; or give its terms as JSON.
    #[arg(long, conflicts_with_all = ["session_terms", "intent"])]
    session: Option<String>,
    /// The terms of a session that might be opened, a JSON object as `POST /sessions` takes it,
    /// without the agent; `calls_made` may be given too.
    #[arg(long, conflicts_with = "intent")]
    session_terms: Option<String>,
    /// Trust level of the described agent: untrusted, basic, verified or trusted.
    #[arg(long, value_name = "LEVEL")]
    trust_level: Option<TrustLevel>,
    /// Capability of the described agent; may be given several times.
    #[arg(long = "capability")]
    capabilities: Vec<String>,
    /// Principal for whom the agent acts; the agent's owner by default.
    #[arg(long)]
    sub: Option<String>,
    /// Group of the principal; may be given several times.
    #[arg(long = "group", requires = "sub")]
    groups: Vec<String>,
    /// Scope of the principal's token; may be given several times.
    #[arg(long = "scope", requires = "sub")]
    scopes: Vec<String>,
    /// A declared intent alone: only policies and drift are asked.
    #[arg(long)]
    intent: Option<String>,
    /// The configured name of the upstream that the call is for.
    #[arg(long)]
    upstream: Option<String>,
    /// The tool that is called.
    #[arg(long, required_unless_present = "method", conflicts_with = "method")]
    tool: Option<String>,
    /// Another method, for example `resources/read` with `--target`.
    #[arg(long)]
    method: Option<String>,
    /// URI or name that the method is about.
    #[arg(long)]
    target: Option<String>,
    /// The tool's arguments, a JSON object.
    #[arg(long)]
    arguments: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

impl Policy {
    pub(super) async fn run(&self, env: &Env, sink: &mut dyn Write) -> Result<Exit, Failure> {
        match self {
            Self::Validate(validate) => validate.run(&mut Out::new(validate.output, sink)),
            Self::Explain(explain) => {
                explain.run(env, &mut Out::new(explain.remote.output, sink)).await
            }
        }
    }
}

impl Validate {
    fn run(&self, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let upstreams: Vec<Box<str>> =
            self.upstreams.iter().map(|name| name.as_str().into()).collect();
        let known = (!upstreams.is_empty()).then_some(upstreams.as_slice());
        let mistakes = match policies_at(&self.path, known) {
            Ok(policies) => {
                let (count, version) = (policies.len(), policies.version());
                let warnings: Vec<Value> = policies.warnings().iter().map(as_json).collect();
                if count == 0 {
                    let path = self.path.display();
                    super::complain(&format!(
                        "{path} holds no policy, so everything would be refused; policies are TOML, \
                         in files whose names end in .toml"
                    ));
                }
                if out.json {
                    let answer = json!({
                        "valid": true, "policies_count": count, "policy_version": version,
                        "errors": [], "warnings": warnings,
                    });
                    out.thing(&answer)?;
                } else {
                    for found in &warnings {
                        out.line(&format!("warning: {}", written(found)))?;
                    }
                    out.line(&format!("{count} policies, version {version}"))?;
                }
                return Ok(Exit::Fine);
            }
            Err(error) => error.mistakes(),
        };
        let mistakes: Vec<Value> = mistakes.iter().map(as_json).collect();
        if out.json {
            out.thing(&json!({ "valid": false, "policies_count": 0, "errors": mistakes }))?;
        } else {
            for found in &mistakes {
                out.line(&written(found))?;
            }
        }
        Ok(Exit::No)
    }
}

fn as_json(found: &PolicyError) -> Value {
    let PolicyError { source, line, column, message } = found;
    json!({ "source": source, "line": line, "column": column, "message": message })
}

impl Explain {
    async fn run(&self, env: &Env, out: &mut Out<'_>) -> Result<Exit, Failure> {
        let answer = if let Some(path) = &self.file {
            let policies =
                policies_at(path, None).map_err(|error| Failure::usage(error.to_string()))?;
            explain_offline(&policies, self.text()?.as_bytes())
                .map_err(|error| Failure::usage(error.message))?
        } else {
            let target = self.remote.target(env)?;
            target.ask(Method::POST, &["policy", "explain"], &[], Some(self.text()?)).await?
        };
        let decision = answer.get("decision").and_then(Value::as_str).unwrap_or_default();
        let exit = if decision == "allow" { Exit::Fine } else { Exit::No };
        if out.json {
            out.thing(&answer)?;
            return Ok(exit);
        }
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        let by = text("matched_policy").map(|policy| format!(" by policy `{policy}`"));
        let by = by.unwrap_or_default();
        let rest = match (text("code"), text("message")) {
            (Some(code), Some(message)) => format!("{by}: {code}, {message}"),
            _ => by,
        };
        let tone = match decision {
            "allow" => Tone::Good,
            "escalate" => Tone::Doubtful,
            _ => Tone::Bad,
        };
        out.toned(tone, decision, 0, &rest)?;
        let steps = answer.get("steps").and_then(Value::as_array);
        let columns = ["step", "outcome", "code", "message"];
        out.table(steps.map_or(&[], Vec::as_slice), &columns)?;
        let trace = answer.get("trace").and_then(Value::as_array);
        let columns = ["policy_id", "effect", "matched", "score", "reason"];
        out.table(trace.map_or(&[], Vec::as_slice), &columns)?;
        Ok(exit)
    }

    /// The request's body. Arguments are in it as they were typed, with every digit.
    fn text(&self) -> Result<String, Failure> {
        let mut body = json!({});
        if let Some(id) = &self.agent {
            put(&mut body, "agent_id", Some(id.as_str()));
        } else if self.session.is_none()
            || self.trust_level.is_some()
            || !self.capabilities.is_empty()
        {
            let mut agent = json!({ "capabilities": self.capabilities });
            put(&mut agent, "trust_level", self.trust_level.map(TrustLevel::as_str));
            put(&mut body, "agent", Some(agent));
        }
        if let Some(sub) = &self.sub {
            let principal = json!({ "sub": sub, "groups": self.groups, "scopes": self.scopes });
            put(&mut body, "principal", Some(principal));
        }
        put(&mut body, "session_id", self.session.as_deref());
        if let Some(terms) = &self.session_terms {
            let terms: Value = serde_json::from_str(terms)
                .map_err(|error| Failure::usage(format!("--session-terms is not JSON: {error}")))?;
            put(&mut body, "session", Some(terms));
        }
        put(&mut body, "declared_intent", self.intent.as_deref());
        put(&mut body, "upstream", self.upstream.as_deref());
        put(&mut body, "tool", self.tool.as_deref());
        put(&mut body, "method", self.method.as_deref());
        put(&mut body, "target", self.target.as_deref());
        let text = body.to_string();
        let Some(arguments) = &self.arguments else { return Ok(text) };
        Doc::parse(arguments.as_bytes())
            .map_err(|error| Failure::usage(format!("--arguments is not JSON: {error}")))?;
        let open = text.strip_suffix('}').unwrap_or(&text);
        Ok(format!("{open},\"arguments\":{arguments}}}"))
    }
}
