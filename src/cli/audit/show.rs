//! `arbiter audit show`: one record, its place in the chain, the explanation of its decision, the history
//! of its approval, and its neighbours in the session.

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
    /// File or folder of policies: the version that decided explains the record. Without this option
    /// the running Arbiter is asked.
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
        let of_session = match session {
            Some(session) => {
                let wanted = Wanted { session_id: Some(session), ..Wanted::default() };
                self.find(env, &wanted, MAX_OF_SESSION).await?
            }
            None => Vec::new(),
        };
        let approval = story(&of_session, approval_of(&record));
        let neighbours = around(of_session, &record["request_id"]);
        let explanation = match (&self.policies, &self.log) {
            (Some(policies), _) => by_files(policies, &record)?,
            (None, None) => self.by_gateway(env, &record).await?,
            (None, Some(_)) => None,
        };
        if out.json {
            let whole = json!({
                "record": record, "explanation": explanation, "approval": approval,
                "neighbours": neighbours,
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
        let mark =
            |other: &Value| if other["request_id"] == record["request_id"] { '>' } else { ' ' };
        if let Some(id) = approval_of(&record).filter(|_| !approval.is_empty()) {
            out.line("")?;
            out.line(&format!("its approval, {id}:"))?;
            for step in &approval {
                out.line(&format!("{} {}{}", mark(step), one_line(step), particulars(step)))?;
            }
        }
        if !neighbours.is_empty() {
            out.line("")?;
            out.line("in the same session:")?;
            for other in &neighbours {
                out.line(&format!("{} {}", mark(other), one_line(other)))?;
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

    /// Asks the running Arbiter how it would decide the call now, if its policies are those that
    /// decided. A session that is gone is left out of the question.
    async fn by_gateway(&self, env: &Env, record: &Value) -> Result<Option<Value>, Failure> {
        let Some(mut asked) = question(record) else { return Ok(None) };
        let members = ["agent_id", "upstream"].map(|name| (name, name));
        for (name, member) in members.into_iter().chain([("session_id", "task_session_id")]) {
            if record[member].is_string() {
                asked[name] = record[member].clone();
            }
        }
        let target = self.remote.target(env)?;
        let ask = async |asked: &Value| {
            let path = ["policy", "explain"];
            target.ask(Method::POST, &path, &[], Some(asked.to_string())).await
        };
        let mut answer = ask(&asked).await;
        if answer.is_err() && asked.as_object_mut().and_then(|a| a.remove("session_id")).is_some() {
            answer = ask(&asked).await;
        }
        let mut explained = match answer {
            Ok(explained) => explained,
            Err(failure) if failure.exit == Exit::No => {
                return Ok(Some(json!({ "note": failure.to_string() })));
            }
            Err(failure) => return Err(failure),
        };
        let now = explained["policy_version"].as_str().unwrap_or("-").to_owned();
        if record["policy_version"].is_string() && record["policy_version"] != now.as_str() {
            let note = format!("policies {now} are in force, not those that decided");
            return Ok(Some(json!({ "note": note })));
        }
        explained["note"] = AS_OF_NOW.into();
        Ok(Some(explained))
    }
}

/// Caution about an explanation that is made later than the decision.
const AS_OF_NOW: &str = "asked now, with the redacted arguments and what the session has used since: \
                         the record has what was decided";

/// The call of a record as a question to the policies; none for a record of something else.
fn question(record: &Value) -> Option<Value> {
    if let Some(tool) = record["tool_called"].as_str() {
        let mut asked = json!({ "tool": tool });
        if record["arguments"].is_object() {
            asked["arguments"] = record["arguments"].clone();
        }
        return Some(asked);
    }
    let method = record["mcp_method"].as_str()?;
    let mut asked = json!({ "method": method });
    let target = ["uri", "name"].into_iter().find_map(|name| record["arguments"][name].as_str());
    if let Some(target) = target {
        asked["target"] = target.into();
    }
    Some(asked)
}

/// Returns the opinion of policy files on a call like this one, if they are the version that decided.
fn by_files(path: &Path, record: &Value) -> Result<Option<Value>, Failure> {
    let Some(mut asked) = question(record) else { return Ok(None) };
    let set = policies_at(path, None).map_err(|error| Failure::usage(error.to_string()))?;
    let then = record["policy_version"].as_str();
    if then != Some(set.version()) {
        let note = format!(
            "the policies at {} are version {}, not the one that decided",
            path.display(),
            set.version()
        );
        return Ok(Some(json!({ "note": note })));
    }
    asked["agent"] = json!({});
    let explained = explain_offline(&set, asked.to_string().as_bytes());
    Ok(explained.ok().map(|mut explained| {
        let note = "asked for an untrusted agent with the redacted arguments: what the record \
                        has is what was decided";
        explained["note"] = note.into();
        explained
    }))
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

/// Returns the id of the approval that a record is about.
fn approval_of(record: &Value) -> Option<&str> {
    record["approval_id"].as_str().or(record["detail"]["approval_id"].as_str())
}

/// Collects the records of one approval, oldest first: what was asked, decided and used, and the calls.
fn story(newest_first: &[Value], approval: Option<&str>) -> Vec<Value> {
    let Some(approval) = approval else { return Vec::new() };
    let steps = newest_first.iter().rev();
    steps.filter(|record| approval_of(record) == Some(approval)).cloned().collect()
}

/// A record in a line.
fn one_line(record: &Value) -> String {
    let text = |name: &str| record[name].as_str().unwrap_or("-");
    format!(
        "{}  {:8}  {}  {}  {}",
        text("timestamp"),
        text("authorization_decision"),
        record["tool_called"].as_str().or(record["event"].as_str()).unwrap_or("-"),
        text("denial_code"),
        text("request_id")
    )
}

/// The person behind a step of an approval, the uses, and the reason.
fn particulars(step: &Value) -> String {
    let detail = &step["detail"];
    // The agent asks and uses; a decision has a person's name.
    let decided = matches!(step["event"].as_str(), Some("approval.approved" | "approval.denied"));
    let by = step["principal"].as_str().filter(|_| decided).map(|name| format!("  by {name}"));
    let uses = detail["uses"].as_u64().map(|count| format!("  uses {count}"));
    let left = detail["uses_left"].as_u64().map(|count| format!("  uses left {count}"));
    let reason = detail["reason"].as_str().map(|reason| format!("  reason: {reason}"));
    [by, uses, left, reason].into_iter().flatten().collect()
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
