//! Facts that a record states: those known at the decision, and those known at the end.

use core::net::IpAddr;
use std::sync::Arc;

use smol_str::SmolStr;
use uuid::Uuid;

use super::members::{MAX_TEXT_BYTES, ip_address, key, member, text_member};
use crate::audit::redact::Redacted;
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;
use crate::mcp::outcome::ToolOutcome;

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
    members: Vec<u8>,
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
        member(&mut out, key!("client_addr"));
        match client_addr {
            Some(address) => {
                out.push(b'"');
                ip_address(&mut out, *address);
                out.push(b'"');
            }
            None => out.extend_from_slice(b"null"),
        }
        text_member(&mut out, key!("user_agent"), *user_agent);
        text_member(&mut out, key!("http_method"), *http_method);
        text_member(&mut out, key!("path"), *path);
        text_member(&mut out, key!("trace_id"), *trace_id);
        Self { members: out, client_addr: *client_addr }
    }

    /// Names the trace of a request whose head named none.
    pub fn in_trace(&mut self, trace_id: &str) {
        let members: &[u8] = if self.members.is_empty() { NO_HEAD } else { &self.members };
        let Some(rest) = members.strip_suffix(NO_TRACE) else { return };
        let mut out = Vec::with_capacity(members.len().saturating_add(trace_id.len()));
        out.extend_from_slice(rest);
        text_member(&mut out, key!("trace_id"), Some(trace_id));
        self.members = out;
    }

    pub(crate) fn client_addr(&self) -> Option<IpAddr> {
        self.client_addr
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
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
    pub mcp_method: Option<SmolStr>,
    pub tool_called: Option<SmolStr>,
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
