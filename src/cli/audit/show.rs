//! `arbiter audit show`: one record, its place in the chain, why it was decided so, and what happened
//! around it in its session.

#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value gives null for what it does not have, and panics never"
)]

use std::path::{Path, PathBuf};

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Env, Exit, Failure, Out, Remote, unreadable};
use crate::admin::explain_offline;
use crate::audit::chain::Seal;
use crate::audit::search::{Wanted, newest_first};
use crate::rulebook::policies_at;

/// Records of the session that are looked at for neighbours.
const MAX_OF_SESSION: usize = 1_000;
/// Neighbours shown before and after.
const NEIGHBOURS: usize = 3;

#[derive(Args, Debug)]
pub struct Show {
    /// The id that every answer and every refusal has: `x-arbiter-request-id`.
    request_id: String,
    /// A log to look in, with its closed files; else a running Arbiter is asked.
    log: Option<PathBuf>,
    /// Policies of then, a file or a folder: if they are the version that decided, they explain it.
    #[arg(long)]
    policies: Option<PathBuf>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

impl Show {
    pub(super) async fn run(&self, env: &Env, out: &mut Out<'_>) -> Result<Exit, Failure> {
        if uuid::Uuid::try_parse(&self.request_id).is_err() {
            return Err(Failure::usage(format!("`{}` is no request id", self.request_id)));
        }
        let id = self.request_id.to_ascii_lowercase();
        let wanted = Wanted { request_id: Some(id), ..Wanted::default() };
        let Some(record) = self.find(env, &wanted, 1).await?.pop() else {
            return Err(Failure::new(Exit::No, format!("no record of {}", self.request_id)));
        };
        let session = record["task_session_id"].as_str().map(str::to_owned);
        let neighbours = match session {
            Some(session) => {
                let wanted = Wanted { session_id: Some(session), ..Wanted::default() };
                let found = self.find(env, &wanted, MAX_OF_SESSION).await?;
                around(found, &record["request_id"])
            }
            None => Vec::new(),
        };
        let explanation = self.explanation(&record)?;
        if out.json {
            let whole = json!({
                "record": record, "explanation": explanation, "neighbours": neighbours,
            });
            out.thing(&whole)?;
            return Ok(Exit::Fine);
        }
        out.thing(&record)?;
        let text = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
        out.line("")?;
        out.line(&format!(
            "record {} of the chain, behind {}",
            record["chain_sequence"],
            text("chain_prev_hash")
        ))?;
        out.line(&why(&record))?;
        if let Some(explanation) = explanation {
            out.line("")?;
            out.thing(&explanation)?;
        }
        if !neighbours.is_empty() {
            out.line("")?;
            out.line("in the same session:")?;
            for other in neighbours {
                let mark = if other["request_id"] == record["request_id"] { ">" } else { " " };
                let text = |name: &str| other[name].as_str().unwrap_or("-").to_owned();
                out.line(&format!(
                    "{mark} {}  {:8}  {}  {}  {}",
                    text("timestamp"),
                    text("authorization_decision"),
                    other["tool_called"].as_str().or(other["event"].as_str()).unwrap_or("-"),
                    text("denial_code"),
                    text("request_id")
                ))?;
            }
        }
        Ok(Exit::Fine)
    }

    async fn find(&self, env: &Env, wanted: &Wanted, limit: usize) -> Result<Vec<Value>, Failure> {
        if let Some(log) = &self.log {
            return find_in(log, wanted, limit);
        }
        let target = self.remote.target(env)?;
        let limit_text = limit.to_string();
        let mut query = vec![("limit", limit_text.as_str())];
        query.extend(wanted.request_id.as_deref().map(|id| ("request_id", id)));
        query.extend(wanted.session_id.as_deref().map(|id| ("session_id", id)));
        let mut cursor: Option<String> = None;
        loop {
            let mut query = query.clone();
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let answer = target.ask(Method::GET, &["audit", "records"], &query, None).await?;
            let records = answer["records"].as_array().cloned().unwrap_or_default();
            let next = answer["next_cursor"].as_str().map(str::to_owned);
            if !records.is_empty() || next.is_none() {
                return Ok(records);
            }
            cursor = next;
        }
    }

    /// What the policies of then say of a call like this one, if they are at hand.
    fn explanation(&self, record: &Value) -> Result<Option<Value>, Failure> {
        let (Some(path), Some(tool)) = (&self.policies, record["tool_called"].as_str()) else {
            return Ok(None);
        };
        let set = policies_at(path).map_err(|error| Failure::usage(error.to_string()))?;
        let then = record["policy_version"].as_str();
        if then != Some(set.version()) {
            let note = format!(
                "the policies at {} are version {}, not the one that decided",
                path.display(),
                set.version()
            );
            return Ok(Some(json!({ "note": note })));
        }
        let mut asked = json!({ "tool": tool, "agent": {} });
        if record["arguments"].is_object() {
            asked["arguments"] = record["arguments"].clone();
        }
        let explained = explain_offline(&set, asked.to_string().as_bytes());
        Ok(explained.ok().map(|mut explained| {
            let note = "asked for an untrusted agent with the redacted arguments: what the record \
                        has is what was decided";
            explained["note"] = note.into();
            explained
        }))
    }
}

fn find_in(log: &Path, wanted: &Wanted, limit: usize) -> Result<Vec<Value>, Failure> {
    let found = newest_first(log, wanted, None, limit, u64::MAX);
    let found = found.map_err(|error| unreadable(log, &error))?;
    let read = |line: &Vec<u8>| {
        let mut record: Value = serde_json::from_slice(line).unwrap_or_default();
        if Seal::read(line).is_some_and(|seal| !seal.intact) {
            record["damaged"] = "the record does not match its hash".into();
        }
        record
    };
    Ok(found.lines.iter().map(read).collect())
}

/// The record's neighbours and itself, oldest first.
fn around(mut newest_first: Vec<Value>, id: &Value) -> Vec<Value> {
    newest_first.reverse();
    let Some(at) = newest_first.iter().position(|record| record["request_id"] == *id) else {
        return Vec::new();
    };
    let from = at.saturating_sub(NEIGHBOURS);
    newest_first.into_iter().skip(from).take(at - from + NEIGHBOURS + 1).collect()
}

/// The decision in a sentence.
fn why(record: &Value) -> String {
    let text = |name: &str| record[name].as_str();
    let decision = text("authorization_decision").unwrap_or("-");
    let by = match (text("policy_matched"), text("denial_code"), text("stage")) {
        (Some(policy), None, _) => format!(" by policy `{policy}`"),
        (Some(policy), Some(code), _) => format!(" with {code}; policy `{policy}` had matched"),
        (None, Some(code), Some(stage)) => format!(" with {code} at the stage {stage}"),
        (None, Some(code), None) => format!(" with {code}"),
        (None, None, _) => String::new(),
    };
    let version = text("policy_version").map(|v| format!(", policies {v}")).unwrap_or_default();
    format!("decided: {decision}{by}{version}")
}
