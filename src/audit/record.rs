//! Contents of an audit line, byte for byte.
//!
//! A line has members that are known when a call is admitted and members that are known when it
//! ends, in one fixed order. [`Draft`] writes the first kind once, with the second kind filled in
//! as `unknown`: that text goes to the journal, and after a crash it is the record as it stands.
//! When the call ends, [`Draft::finish`] copies it with the holes filled in.
//!
//! Every text that an agent chooses is clipped, every list is bounded, and no control character
//! stands in a line unescaped, so a line is always one line, whatever reads it.

use core::net::IpAddr;
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use super::redact::Redacted;
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;
use crate::json::write::{escaped, number};
use crate::mcp::outcome::ToolOutcome;

/// Longest text that is written in full; a longer one is clipped, with its length and hash.
pub const MAX_TEXT_BYTES: usize = 256;
/// Most items of a list that are written; the last item then says how many more there were.
pub const MAX_ITEMS: usize = 256;
/// Most bytes of a list's texts that are written.
pub const MAX_LIST_BYTES: usize = 32 * 1024;

/// The name of a line's last member: where an agent chose it, a letter of it is escaped, so that who
/// searches a line for it finds it once.
const CHAIN_KEY: &str = "chain_record_hash";

/// Decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
    Escalate,
}

impl Decision {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Escalate => "escalate",
        }
    }
}

/// Outcome of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    Completed,
    Refused,
    ClientGone,
    UpstreamFailed,
    /// Admitted, and how it ended was never learned.
    #[default]
    Unknown,
}

impl Completion {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::ClientGone => "client_gone",
            Self::UpstreamFailed => "upstream_failed",
            Self::Unknown => "unknown",
        }
    }
}

/// Event that is not an MCP request: an admin action, or a change of the log itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub name: &'static str,
    pub detail: Vec<(&'static str, Detail)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    Text(String),
    Count(u64),
}

/// A person's word on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    pub id: Uuid,
    /// Name of the approver; none while the approval is pending.
    pub by: Option<Arc<str>>,
}

/// From where a request came and what its head said, as members of its record: written once from
/// what is borrowed, so that nothing of it is kept a second time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    members: Box<[u8]>,
    client_addr: Option<IpAddr>,
}

/// Parts of a request's head that go on record. Texts are clipped like all others.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadParts<'h> {
    pub client_addr: Option<IpAddr>,
    pub user_agent: Option<&'h str>,
    pub http_method: Option<&'h str>,
    /// Without its query, which may hold anything.
    pub path: Option<&'h str>,
    /// 32 hexadecimal digits of the trace that the request belongs to.
    pub trace_id: Option<&'h str>,
}

/// A head about which nothing is known.
const NO_HEAD: &[u8] =
    br#","client_addr":null,"user_agent":null,"http_method":null,"path":null,"trace_id":null"#;

/// End of a head that names no trace.
const NO_TRACE: &[u8] = br#","trace_id":null"#;

impl RequestHead {
    pub fn of(parts: &HeadParts<'_>) -> Self {
        let HeadParts { client_addr, user_agent, http_method, path, trace_id } = parts;
        let texts = [user_agent, http_method, path, trace_id];
        let length: usize = texts.iter().filter_map(|text| text.map(str::len)).sum();
        let mut out = Vec::with_capacity(NO_HEAD.len() + 48 + length.min(4 * MAX_TEXT_BYTES));
        member(&mut out, "client_addr");
        match client_addr {
            Some(address) => formatted(&mut out, format_args!("\"{address}\"")),
            None => out.extend_from_slice(b"null"),
        }
        text_member(&mut out, "user_agent", *user_agent);
        text_member(&mut out, "http_method", *http_method);
        text_member(&mut out, "path", *path);
        text_member(&mut out, "trace_id", *trace_id);
        Self { members: out.into_boxed_slice(), client_addr: *client_addr }
    }

    /// Names the trace of a request whose head named none.
    pub fn in_trace(&mut self, trace_id: &str) {
        let members: &[u8] = if self.members.is_empty() { NO_HEAD } else { &self.members };
        let Some(rest) = members.strip_suffix(NO_TRACE) else { return };
        let mut out = Vec::with_capacity(members.len().saturating_add(trace_id.len()));
        out.extend_from_slice(rest);
        text_member(&mut out, "trace_id", Some(trace_id));
        self.members = out.into_boxed_slice();
    }

    pub(super) fn client_addr(&self) -> Option<IpAddr> {
        self.client_addr
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.members.is_empty() { NO_HEAD } else { &self.members });
    }
}

/// Facts about a request at the time of its decision.
#[derive(Clone, Debug)]
pub struct Entry {
    pub timestamp: Timestamp,
    pub request_id: Uuid,
    pub agent_id: Option<AgentId>,
    pub principal: Option<Arc<str>>,
    pub delegation_chain: Arc<[AgentId]>,
    pub task_session_id: Option<SessionId>,
    pub mcp_method: Option<String>,
    pub tool_called: Option<String>,
    pub tools_called: Vec<String>,
    pub arguments: Option<Redacted>,
    /// Answers of the client to what the server asked in the round before.
    pub input_responses: Option<Redacted>,
    pub decision: Decision,
    pub denial_code: Option<&'static str>,
    pub failure_category: Option<&'static str>,
    pub stage: Option<&'static str>,
    /// The configured name of the upstream that the request was for.
    pub upstream: Option<Arc<str>>,
    pub policy_matched: Option<Arc<str>>,
    pub policy_version: Option<Arc<str>>,
    pub anomaly_flags: Vec<&'static str>,
    pub credentials_injected: Vec<String>,
    /// The configured name of the claim for which a token was refused.
    pub claim: Option<Box<str>>,
    /// From where the request came, and what its head said.
    pub head: RequestHead,
    /// Time for which the body was, if it was read.
    pub bytes_in: Option<u64>,
    /// The approval that the request used, or that it waits for.
    pub approval: Option<Box<Approval>>,
    /// The request whose call this one goes on with.
    pub continues: Option<Uuid>,
    pub event: Option<Box<Event>>,
}

impl Entry {
    /// An entry about which nothing more is known yet.
    pub fn new(timestamp: Timestamp, request_id: Uuid, decision: Decision) -> Self {
        Self {
            timestamp,
            request_id,
            agent_id: None,
            principal: None,
            delegation_chain: Arc::default(),
            task_session_id: None,
            mcp_method: None,
            tool_called: None,
            tools_called: Vec::new(),
            arguments: None,
            input_responses: None,
            decision,
            denial_code: None,
            failure_category: None,
            stage: None,
            upstream: None,
            policy_matched: None,
            policy_version: None,
            anomaly_flags: Vec::new(),
            credentials_injected: Vec::new(),
            claim: None,
            head: RequestHead::default(),
            bytes_in: None,
            approval: None,
            continues: None,
            event: None,
        }
    }
}

/// Facts about a request at its end. A cause given here replaces the entry's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Written as `null` when how the request ended is unknown.
    pub latency_us: u64,
    pub upstream_status: Option<u16>,
    /// Host and port of the server that the call was sent to, or was to be.
    pub upstream_server: Option<Arc<str>>,
    /// Reason why the upstream failed, if it did.
    pub upstream_cause: Option<&'static str>,
    pub credentials_scrubbed: u64,
    /// End of the called tools; none if nothing was learned of it.
    pub tool_outcome: Option<ToolOutcome>,
    /// Length of the answer that went to the client, if one was counted.
    pub bytes_out: Option<u64>,
    /// The state of the task that the answer described, if it described one.
    pub task_status: Option<&'static str>,
    /// Hosts to which questions in the answer send people.
    pub elicited_hosts: Vec<Box<str>>,
    /// Replaces the entry's decision: what was to be done was refused after all.
    pub decision: Option<Decision>,
    pub denial_code: Option<&'static str>,
    pub failure_category: Option<&'static str>,
    pub stage: Option<&'static str>,
    pub completion: Completion,
}

impl Outcome {
    /// Returns the outcome of a request refused after `latency_us`.
    pub fn refused(latency_us: u64) -> Self {
        Self { latency_us, completion: Completion::Refused, ..Self::default() }
    }

    /// Returns the outcome of a call or an admin action that was carried out.
    pub fn completed(latency_us: u64, upstream_status: Option<u16>) -> Self {
        Self { latency_us, upstream_status, completion: Completion::Completed, ..Self::default() }
    }
}

/// Ids of a record; nil where it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    pub request: Uuid,
    pub agent: Uuid,
    pub session: Uuid,
}

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
        let mut out = Vec::with_capacity(reserved + 1_024 + arguments);
        out.resize(reserved, 0);
        let unknown = Outcome::default();

        let known = out.len();
        decided(&mut out, entry, node_id);
        let first = known..out.len();
        decision(&mut out, entry.decision, entry.denial_code);

        let known = out.len();
        text_member(&mut out, "policy_matched", entry.policy_matched.as_deref());
        text_member(&mut out, "policy_version", entry.policy_version.as_deref());
        list_member(&mut out, "anomaly_flags", &entry.anomaly_flags);
        let second = known..out.len();
        failure(&mut out, entry.failure_category, &unknown);

        let known = out.len();
        list_member(&mut out, "credentials_injected", &entry.credentials_injected);
        let third = known..out.len();
        let calls_tool = entry.decision == Decision::Allow && entry.tool_called.is_some();
        ending(&mut out, entry.stage, entry.upstream.as_deref(), calls_tool, &unknown);

        let known = out.len();
        entry.head.write(&mut out);
        count_member(&mut out, "bytes_in", entry.bytes_in);
        let approval = entry.approval.as_deref();
        id_member(&mut out, "approval_id", approval.map(|approval| approval.id));
        let by = approval.and_then(|approval| approval.by.as_deref());
        text_member(&mut out, "approved_by", by);
        id_member(&mut out, "continues", entry.continues);
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
    text_member(out, "node_id", Some(node_id));
    id_member(out, "agent_id", entry.agent_id.map(|id| id.0));
    text_member(out, "principal", entry.principal.as_deref());
    out.extend_from_slice(b",\"delegation_chain\":[");
    for (n, id) in entry.delegation_chain.iter().take(MAX_ITEMS).enumerate() {
        out.extend_from_slice(if n == 0 { b"\"" } else { b",\"" });
        uuid(out, id.0);
        out.push(b'"');
    }
    more(out, entry.delegation_chain.len().saturating_sub(MAX_ITEMS));
    out.push(b']');
    id_member(out, "task_session_id", entry.task_session_id.map(|id| id.0));
    text_member(out, "mcp_method", entry.mcp_method.as_deref());
    text_member(out, "tool_called", entry.tool_called.as_deref());
    list_member(out, "tools_called", &entry.tools_called);
    out.extend_from_slice(b",\"arguments\":");
    let arguments = entry.arguments.as_ref().map_or("null", Redacted::as_str);
    without_mark(out, arguments.as_bytes());
    out.extend_from_slice(b",\"input_responses\":");
    let inputs = entry.input_responses.as_ref().map_or("null", Redacted::as_str);
    without_mark(out, inputs.as_bytes());
}

/// Finds a mark that begins with a quotation mark.
fn mark_in(text: &[u8], mark: &[u8]) -> Option<usize> {
    let begins = |at: &usize| text.get(*at..).is_some_and(|rest| rest.starts_with(mark));
    memchr::memchr_iter(b'"', text).find(begins)
}

/// Writes arguments so that no member of theirs is spelt like the one that ends a line: a reader
/// that looks for the first such name finds the right one, too.
fn without_mark(out: &mut Vec<u8>, mut arguments: &[u8]) {
    const MARK: &[u8] = b"\"chain_record_hash\"";
    const SPELT_OTHERWISE: &[u8] = b"\"chain\\u005frecord_hash\"";
    while let Some(at) = mark_in(arguments, MARK) {
        let (before, rest) = arguments.split_at_checked(at).unwrap_or((arguments, &[]));
        out.extend_from_slice(before);
        out.extend_from_slice(SPELT_OTHERWISE);
        arguments = rest.get(MARK.len()..).unwrap_or_default();
    }
    out.extend_from_slice(arguments);
}

fn decision(out: &mut Vec<u8>, decision: Decision, code: Option<&str>) {
    text_member(out, "authorization_decision", Some(decision.as_str()));
    text_member(out, "denial_code", code);
}

fn failure(out: &mut Vec<u8>, category: Option<&str>, outcome: &Outcome) {
    text_member(out, "failure_category", category);
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
    text_member(out, "outcome", Some(outcome.completion.as_str()));
    let tool_outcome = outcome.tool_outcome.unwrap_or(ToolOutcome::Unknown);
    text_member(out, "tool_outcome", calls_tool.then_some(tool_outcome.as_str()));
    text_member(out, "stage", stage);
    text_member(out, "upstream", upstream);
    text_member(out, "upstream_server", outcome.upstream_server.as_deref());
    text_member(out, "upstream_cause", outcome.upstream_cause);
    count_member(out, "bytes_out", outcome.bytes_out);
    text_member(out, "task_status", outcome.task_status);
    list_member(out, "elicited_hosts", &outcome.elicited_hosts);
}

fn event(out: &mut Vec<u8>, event: Option<&Event>, claim: Option<&str>) {
    text_member(out, "event", event.map(|e| e.name));
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

fn member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn text_member(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    member(out, name);
    match value {
        Some(value) => clipped(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn id_member(out: &mut Vec<u8>, name: &str, value: Option<Uuid>) {
    member(out, name);
    match value {
        Some(value) => {
            out.push(b'"');
            uuid(out, value);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

fn count_member(out: &mut Vec<u8>, name: &str, value: Option<u64>) {
    member(out, name);
    match value {
        Some(value) => number(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn list_member<S: AsRef<str>>(out: &mut Vec<u8>, name: &str, items: &[S]) {
    member(out, name);
    out.push(b'[');
    let from = out.len();
    let mut written = 0;
    for item in items.iter().take(MAX_ITEMS) {
        if out.len() - from > MAX_LIST_BYTES {
            break;
        }
        if written > 0 {
            out.push(b',');
        }
        clipped(out, item.as_ref());
        written += 1;
    }
    more(out, items.len() - written);
    out.push(b']');
}

/// The last item of a list that was cut: how many more there were.
fn more(out: &mut Vec<u8>, count: usize) {
    if count > 0 {
        formatted(out, format_args!(",\"+{count} more\""));
    }
}

/// Writes a JSON string of at most [`MAX_TEXT_BYTES`] and a note on what was cut off.
fn clipped(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if text == CHAIN_KEY {
        out.extend_from_slice(b"chain_record_\\u0068ash");
    } else if text.len() <= MAX_TEXT_BYTES {
        escaped(out, text);
    } else {
        let (head, _) = text.split_at(text.floor_char_boundary(MAX_TEXT_BYTES));
        escaped(out, head);
        let hash = blake3::hash(text.as_bytes()).to_hex();
        formatted(out, format_args!("...[{} bytes, blake3 {hash:.16}]", text.len()));
    }
    out.push(b'"');
}

fn uuid(out: &mut Vec<u8>, id: Uuid) {
    out.extend_from_slice(id.as_hyphenated().encode_lower(&mut [0; 36]).as_bytes());
}

fn timestamp(out: &mut Vec<u8>, at: Timestamp) {
    formatted(out, format_args!("{at}"));
}

#[expect(clippy::expect_used, reason = "a vector takes whatever is written to it")]
fn formatted(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to memory cannot fail");
}

#[cfg(test)]
mod tests;
