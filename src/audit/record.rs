//! Contents of an audit line, byte for byte.
//!
//! A line has members that are known when a call is admitted and members that are known when it
//! ends, in one fixed order. [`Draft`] writes the first kind once, with the second kind filled in
//! as `unknown`: that text goes to the journal, and after a crash it is the record.
//! [`Draft::finish`] copies the line at the call's end with the holes filled in.
//!
//! Every text that an agent chooses is clipped, every list is bounded, and no control character
//! stands in a line unescaped, so a line is always one line, whatever reads it.

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use super::redact::Redacted;
use crate::firewall::time::Timestamp;
use crate::json::write::number;
use crate::mcp::outcome::ToolOutcome;

mod facts;
mod members;

pub use facts::{
    Approval, Completion, Decision, Detail, Entry, Event, HeadParts, Ids, Outcome, RequestHead,
};
use members::{
    MAX_ITEMS, clipped, count_member, id_member, key, list_member, more, text_member, timestamp,
    uuid,
};

/// A line whose holes say `unknown`, and where those holes are.
#[derive(Clone, Debug)]
pub struct Draft {
    bytes: Vec<u8>,
    /// The text between the holes.
    parts: [Range<usize>; 4],
    decision: Decision,
    denial_code: Option<&'static str>,
    failure_category: Option<&'static str>,
    stage: Option<&'static str>,
    upstream: Option<Arc<str>>,
    /// True if a tool was called, and not refused.
    calls_tool: bool,
    ids: Ids,
}

impl Draft {
    /// Writes what is known now, behind `reserved` bytes that are the caller's.
    pub fn new(entry: &Entry, node_id: &str, reserved: usize) -> Self {
        let arguments = entry.arguments.as_ref().map_or(0, |a| a.as_str().len());
        let mut out = Vec::with_capacity(reserved + 1_536 + arguments);
        out.resize(reserved, 0);
        let unknown = Outcome::default();

        let known = out.len();
        decided(&mut out, entry, node_id);
        let first = known..out.len();
        decision(&mut out, entry.decision, entry.denial_code);

        let known = out.len();
        text_member(&mut out, key!("policy_matched"), entry.policy_matched.as_deref());
        text_member(&mut out, key!("policy_version"), entry.policy_version.as_deref());
        list_member(&mut out, key!("anomaly_flags"), &entry.anomaly_flags);
        let second = known..out.len();
        failure(&mut out, entry.failure_category, &unknown);

        let known = out.len();
        list_member(&mut out, key!("credentials_injected"), &entry.credentials_injected);
        let third = known..out.len();
        let calls_tool = entry.decision == Decision::Allow && entry.tool_called.is_some();
        ending(&mut out, entry.stage, entry.upstream.as_deref(), calls_tool, &unknown);

        let known = out.len();
        entry.head.write(&mut out);
        count_member(&mut out, key!("bytes_in"), entry.bytes_in);
        let approval = entry.approval.as_deref();
        id_member(&mut out, key!("approval_id"), approval.map(|approval| approval.id));
        let by = approval.and_then(|approval| approval.by.as_deref());
        text_member(&mut out, key!("approved_by"), by);
        id_member(&mut out, key!("continues"), entry.continues);
        event(&mut out, entry.event.as_deref(), entry.claim.as_deref());
        let fourth = known..out.len();
        Self {
            bytes: out,
            parts: [first, second, third, fourth],
            decision: entry.decision,
            denial_code: entry.denial_code,
            failure_category: entry.failure_category,
            stage: entry.stage,
            upstream: entry.upstream.clone(),
            calls_tool,
            ids: Ids {
                request: entry.request_id,
                agent: entry.agent_id.map_or(Uuid::nil(), |id| id.0),
                session: entry.task_session_id.map_or(Uuid::nil(), |id| id.0),
            },
        }
    }

    /// Ids by which the record's place is kept.
    pub fn ids(&self) -> Ids {
        self.ids
    }

    /// The reserved bytes and the line as it stands while nothing is known of the outcome.
    pub fn reserved_and_line(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Appends the line with its outcome, without chain members and closing brace.
    #[expect(clippy::indexing_slicing, reason = "the ranges were taken from this very text")]
    pub fn finish(&self, outcome: &Outcome, out: &mut Vec<u8>) {
        let [first, second, third, fourth] = &self.parts;
        out.extend_from_slice(&self.bytes[first.clone()]);
        let decided = outcome.decision.unwrap_or(self.decision);
        decision(out, decided, outcome.denial_code.or(self.denial_code));
        out.extend_from_slice(&self.bytes[second.clone()]);
        failure(out, outcome.failure_category.or(self.failure_category), outcome);
        out.extend_from_slice(&self.bytes[third.clone()]);
        let stage = outcome.stage.or(self.stage);
        let calls_tool = self.calls_tool && decided == Decision::Allow;
        ending(out, stage, self.upstream.as_deref(), calls_tool, outcome);
        out.extend_from_slice(&self.bytes[fourth.clone()]);
    }
}

/// Returns the time of a line, without parsing the line.
pub fn timestamp_of(line: &[u8]) -> Option<Timestamp> {
    let text = line.strip_prefix(b"{\"timestamp\":\"")?.get(..27)?;
    str::from_utf8(text).ok().and_then(Timestamp::parse)
}

/// The request id of a line, without parsing it.
pub fn request_id(line: &[u8]) -> Option<Uuid> {
    const MARK: &[u8] = b"\",\"request_id\":\"";
    let rest = line.strip_prefix(b"{\"timestamp\":\"")?;
    let at = rest.get(..64)?.windows(MARK.len()).position(|w| w == MARK)? + MARK.len();
    Uuid::try_parse_ascii(rest.get(at..at + 36)?).ok()
}

fn decided(out: &mut Vec<u8>, entry: &Entry, node_id: &str) {
    out.extend_from_slice(b"{\"timestamp\":\"");
    timestamp(out, entry.timestamp);
    out.extend_from_slice(b"\",\"request_id\":\"");
    uuid(out, entry.request_id);
    out.push(b'"');
    text_member(out, key!("node_id"), Some(node_id));
    id_member(out, key!("agent_id"), entry.agent_id.map(|id| id.0));
    text_member(out, key!("principal"), entry.principal.as_deref());
    out.extend_from_slice(b",\"delegation_chain\":[");
    for (n, id) in entry.delegation_chain.iter().take(MAX_ITEMS).enumerate() {
        out.extend_from_slice(if n == 0 { b"\"" } else { b",\"" });
        uuid(out, id.0);
        out.push(b'"');
    }
    more(out, entry.delegation_chain.len().saturating_sub(MAX_ITEMS));
    out.push(b']');
    id_member(out, key!("task_session_id"), entry.task_session_id.map(|id| id.0));
    text_member(out, key!("mcp_method"), entry.mcp_method.as_deref());
    text_member(out, key!("tool_called"), entry.tool_called.as_deref());
    list_member(out, key!("tools_called"), &entry.tools_called);
    out.extend_from_slice(b",\"arguments\":");
    let arguments = entry.arguments.as_ref().map_or("null", Redacted::as_str);
    out.extend_from_slice(arguments.as_bytes());
    out.extend_from_slice(b",\"input_responses\":");
    let inputs = entry.input_responses.as_ref().map_or("null", Redacted::as_str);
    out.extend_from_slice(inputs.as_bytes());
}

fn decision(out: &mut Vec<u8>, decision: Decision, code: Option<&str>) {
    text_member(out, key!("authorization_decision"), Some(decision.as_str()));
    text_member(out, key!("denial_code"), code);
}

fn failure(out: &mut Vec<u8>, category: Option<&str>, outcome: &Outcome) {
    text_member(out, key!("failure_category"), category);
    out.extend_from_slice(b",\"latency_ms\":");
    if outcome.completion == Completion::Unknown {
        out.extend_from_slice(b"null");
    } else {
        number(out, outcome.latency_us / 1_000);
        let micros = outcome.latency_us % 1_000;
        out.extend_from_slice(if micros < 10 {
            b".00"
        } else if micros < 100 {
            b".0"
        } else {
            b"."
        });
        number(out, micros);
    }
    out.extend_from_slice(b",\"upstream_status\":");
    match outcome.upstream_status {
        Some(status) => number(out, u64::from(status)),
        None => out.extend_from_slice(b"null"),
    }
}

fn ending(
    out: &mut Vec<u8>,
    stage: Option<&str>,
    upstream: Option<&str>,
    calls_tool: bool,
    outcome: &Outcome,
) {
    out.extend_from_slice(b",\"credentials_scrubbed\":");
    number(out, outcome.credentials_scrubbed);
    text_member(out, key!("outcome"), Some(outcome.completion.as_str()));
    let tool_outcome = outcome.tool_outcome.unwrap_or(ToolOutcome::Unknown);
    text_member(out, key!("tool_outcome"), calls_tool.then_some(tool_outcome.as_str()));
    text_member(out, key!("stage"), stage);
    text_member(out, key!("upstream"), upstream);
    text_member(out, key!("upstream_server"), outcome.upstream_server.as_deref());
    text_member(out, key!("upstream_cause"), outcome.upstream_cause);
    count_member(out, key!("bytes_out"), outcome.bytes_out);
    text_member(out, key!("task_status"), outcome.task_status);
    list_member(out, key!("elicited_hosts"), &outcome.elicited_hosts);
}

fn event(out: &mut Vec<u8>, event: Option<&Event>, claim: Option<&str>) {
    text_member(out, key!("event"), event.map(|e| e.name));
    out.extend_from_slice(b",\"detail\":");
    let Some(event) = event else {
        match claim {
            None => out.extend_from_slice(b"null"),
            Some(claim) => {
                out.extend_from_slice(b"{\"claim\":");
                clipped(out, claim);
                out.push(b'}');
            }
        }
        return;
    };
    out.push(b'{');
    for (n, (name, detail)) in event.detail.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        clipped(out, name);
        out.push(b':');
        match detail {
            Detail::Text(text) => clipped(out, text),
            Detail::Count(count) => number(out, *count),
        }
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests;
