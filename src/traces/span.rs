//! Names and attributes of spans, made from an entry and its outcome: nothing here does anything.
//!
//! Names follow the semantic conventions for MCP and, where those have none, begin with `arbiter.`.
//! A name of a span is one of a bounded number: it contains the tool if operators named that or the
//! call was admitted, a method if the protocol has it.

use std::borrow::Cow;
use std::sync::Arc;

use uuid::Uuid;

use crate::audit::record::{Completion, Decision, Entry, Outcome};
use crate::firewall::agent::AgentId;
use crate::firewall::time::{Mono, Now};
use crate::mcp::class::Class;
use crate::mcp::outcome::ToolOutcome;
use crate::mcp::trace::TraceContext;
use crate::mcp::version::Version;
use crate::saturate::SaturatingFrom as _;

/// Longest text of an attribute or a name.
pub(super) const MAX_TEXT_BYTES: usize = 128;
/// Hexadecimal digits of a session's hash.
const HASH_DIGITS: usize = 32;

/// Times of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Decided {
    pub arrived: Now,
    pub from: Mono,
    pub at: Mono,
}

/// Ids of a request's spans.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    pub(super) trace: [u8; 16],
    pub(super) server: [u8; 8],
    pub(super) upstream: [u8; 8],
    pub(super) parent: Option<TraceContext>,
}

/// Facts about a message that its record does not have.
#[derive(Debug)]
pub(super) struct Said<'d> {
    /// The JSON-RPC id as it was written.
    pub(super) id: Option<&'d str>,
    /// The MCP session, hashed.
    pub(super) session: Option<Box<str>>,
    pub(super) version: Option<Version>,
    pub(super) named: bool,
}

/// Facts about a request at its decision.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ids: Ids,
    decided: Decided,
    record: Uuid,
    agent: Option<AgentId>,
    method: Option<Box<str>>,
    tool: Option<Box<str>>,
    id: Option<Box<str>>,
    session: Option<Box<str>>,
    version: Option<Version>,
    batch: bool,
    named: bool,
    upstream: Option<Arc<str>>,
    decision: Decision,
    code: Option<&'static str>,
    stage: Option<&'static str>,
    policy: Option<Box<str>>,
    policy_version: Option<Arc<str>>,
}

/// A request and its end.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) request: Request,
    pub(super) outcome: Outcome,
    pub(super) ended: Mono,
}

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
}

/// Part that a span plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Decision,
    Upstream,
}

/// One span, in no library's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) role: Role,
    pub(super) name: Cow<'static, str>,
    /// Unix time in microseconds.
    pub(super) start_us: i64,
    pub(super) end_us: i64,
    pub(super) attributes: Vec<(&'static str, Value)>,
    /// Short name of what went wrong.
    pub(super) error: Option<Cow<'static, str>>,
}

/// Number of spans of a request: an admitted one has one more, for the upstream.
pub(super) fn count(entry: &Entry) -> u64 {
    spans_of(entry.decision)
}

fn spans_of(decision: Decision) -> u64 {
    match decision {
        Decision::Allow => 3,
        Decision::Deny | Decision::Escalate => 2,
    }
}

/// Hashes an id of a session, which alone could be used in its place.
pub(super) fn hashed(id: &str) -> Box<str> {
    let hash = blake3::hash(id.as_bytes()).to_hex();
    hash.get(..HASH_DIGITS).unwrap_or_default().into()
}

fn clipped(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT_BYTES)).unwrap_or_default()
}

/// Returns an id of JSON-RPC as text: a string without its quotes, unless it needs them.
fn unquoted(id: &str) -> &str {
    let inner = id.strip_prefix('"').and_then(|id| id.strip_suffix('"'));
    inner.filter(|inner| !inner.contains('\\')).unwrap_or(id)
}

impl Request {
    pub(super) fn of(entry: &Entry, ids: Ids, decided: Decided, said: Said<'_>) -> Self {
        let text = |text: &str| Box::from(clipped(text));
        // Without a session of MCP's own the calls of a work order belong together.
        let session = said.session.or_else(|| {
            let order = entry.task_session_id.as_ref()?;
            Some(hashed(&order.to_string()))
        });
        Self {
            ids,
            decided,
            record: entry.request_id,
            agent: entry.agent_id,
            method: entry.mcp_method.as_deref().map(text),
            tool: entry.tool_called.as_deref().map(text),
            id: said.id.map(|id| text(unquoted(id))),
            session,
            version: said.version,
            batch: !entry.tools_called.is_empty(),
            named: said.named,
            upstream: entry.upstream.clone(),
            decision: entry.decision,
            code: entry.denial_code,
            stage: entry.stage,
            policy: entry.policy_matched.as_deref().map(text),
            policy_version: entry.policy_version.clone(),
        }
    }

    fn name(&self) -> Cow<'static, str> {
        let Some(method) = self.method.as_deref() else { return "request".into() };
        if self.batch || method.contains(',') {
            return "batch".into();
        }
        match (Class::of(method), self.tool.as_deref()) {
            (Class::Tool, Some(tool)) if self.named || self.decision == Decision::Allow => {
                clipped(&format!("{method} {tool}")).to_owned().into()
            }
            (Class::Other, _) => "other".into(),
            (Class::Protocol, _) if method.starts_with("notifications/") => "notification".into(),
            (
                Class::Tool
                | Class::Resource
                | Class::Prompt
                | Class::Completion
                | Class::Task
                | Class::Protocol,
                _,
            ) => method.to_owned().into(),
        }
    }

    /// Wall-clock time of a moment of this request, in microseconds.
    fn wall_us(&self, at: Mono) -> i64 {
        let since = i64::saturating_from(at.since(self.decided.arrived.mono));
        self.decided.arrived.wall.0.saturating_add(since)
    }
}

/// Attributes under way.
#[derive(Default)]
struct Attributes(Vec<(&'static str, Value)>);

impl Attributes {
    fn text<T: ToString + ?Sized>(&mut self, key: &'static str, value: Option<&T>) {
        if let Some(value) = value {
            self.0.push((key, Value::Text(value.to_string())));
        }
    }

    fn number(&mut self, key: &'static str, value: Option<i64>) {
        if let Some(value) = value {
            self.0.push((key, Value::Number(value)));
        }
    }
}

impl Finished {
    pub(super) fn count(&self) -> u64 {
        spans_of(self.request.decision)
    }

    /// Returns the spans, the outermost first.
    pub(super) fn spans(&self) -> Vec<Span> {
        let mut spans = vec![self.server(), self.decision()];
        if self.went_upstream() {
            spans.push(self.upstream());
        }
        spans
    }

    /// Reports whether the request was cleared: a record that failed stopped it before.
    fn went_upstream(&self) -> bool {
        self.request.decision == Decision::Allow && self.outcome.decision.is_none()
    }

    /// Refusal of the gateway, before or behind the decision.
    fn code(&self) -> Option<&'static str> {
        self.outcome.denial_code.or(self.request.code)
    }

    /// Short name of what went wrong with the whole request.
    fn error(&self) -> Option<&'static str> {
        self.code().or(match (self.outcome.tool_outcome, self.outcome.completion) {
            (_, Completion::ClientGone) => Some("client_gone"),
            (Some(end @ (ToolOutcome::ToolError | ToolOutcome::RpcError)), _) => Some(end.as_str()),
            _ => None,
        })
    }

    fn server(&self) -> Span {
        let Self { request, outcome, ended } = self;
        let mut found = Attributes::default();
        found.text("mcp.method.name", request.method.as_deref());
        if request.tool.is_some() {
            found.text("gen_ai.operation.name", Some("execute_tool"));
        }
        found.text("gen_ai.tool.name", request.tool.as_deref());
        found.text("mcp.session.id", request.session.as_deref());
        found.text("mcp.protocol.version", request.version.as_ref());
        found.text("jsonrpc.request.id", request.id.as_deref());
        found.text("error.type", self.error());
        found.text("arbiter.request_id", Some(&request.record));
        found.text("arbiter.agent_id", request.agent.as_ref());
        found.text("arbiter.upstream", request.upstream.as_deref());
        found.text("arbiter.decision", Some(self.decided_as().as_str()));
        found.text("arbiter.denial_code", self.code());
        found.text("arbiter.tool_outcome", outcome.tool_outcome.map(ToolOutcome::as_str));
        Span {
            role: Role::Server,
            name: request.name(),
            start_us: request.decided.arrived.wall.0,
            end_us: request.wall_us(*ended),
            attributes: found.0,
            error: self.error().map(Cow::Borrowed),
        }
    }

    fn decided_as(&self) -> Decision {
        self.outcome.decision.unwrap_or(self.request.decision)
    }

    fn decision(&self) -> Span {
        let Self { request, outcome, .. } = self;
        // A failure of the upstream is no refusal.
        let refused = !self.went_upstream();
        let code = self.code().filter(|_| refused);
        let mut found = Attributes::default();
        found.text("arbiter.decision", Some(self.decided_as().as_str()));
        found.text("arbiter.policy", request.policy.as_deref());
        found.text("arbiter.policy_version", request.policy_version.as_deref());
        found.text("arbiter.denial_code", code);
        found.text("arbiter.stage", outcome.stage.or(request.stage).filter(|_| refused));
        found.text("error.type", code);
        Span {
            role: Role::Decision,
            name: "decision".into(),
            start_us: request.wall_us(request.decided.from),
            end_us: request.wall_us(request.decided.at),
            attributes: found.0,
            error: code.map(Cow::Borrowed),
        }
    }

    fn upstream(&self) -> Span {
        let Self { request, outcome, ended } = self;
        let status = outcome.upstream_status;
        let failed = outcome.upstream_cause.or(outcome.denial_code).map(Cow::Borrowed);
        let error = failed.or_else(|| {
            status.filter(|status| *status >= 400).map(|status| status.to_string().into())
        });
        let (address, port) = outcome
            .upstream_server
            .as_deref()
            .and_then(|server| server.rsplit_once(':'))
            .map_or((None, None), |(host, port)| (Some(host), port.parse().ok()));
        let mut found = Attributes::default();
        found.text("mcp.method.name", request.method.as_deref());
        found.text("server.address", address);
        found.number("server.port", port);
        found.number("http.response.status_code", status.map(i64::from));
        found.text("error.type", error.as_deref());
        Span {
            role: Role::Upstream,
            name: "upstream".into(),
            start_us: request.wall_us(request.decided.at),
            end_us: request.wall_us(*ended),
            attributes: found.0,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::session::SessionId;
    use crate::firewall::time::Timestamp;

    const START: i64 = 1_000_000;

    fn finished(entry: &Entry, said: Said<'_>, outcome: Outcome) -> Finished {
        let ids = Ids { trace: [1; 16], server: [2; 8], upstream: [3; 8], parent: None };
        let arrived = Now { wall: Timestamp(START), mono: Mono(50) };
        let decided = Decided { arrived, from: Mono(60), at: Mono(70) };
        Finished { request: Request::of(entry, ids, decided, said), outcome, ended: Mono(150) }
    }

    fn nothing<'d>() -> Said<'d> {
        Said { id: None, session: None, version: None, named: false }
    }

    fn entry(decision: Decision) -> Entry {
        let mut entry = Entry::new(Timestamp(START), Uuid::from_u128(7), decision);
        entry.mcp_method = Some("tools/call".into());
        entry.tool_called = Some("read_file".into());
        entry
    }

    fn value<'s>(span: &'s Span, key: &str) -> Option<&'s str> {
        span.attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| match value {
            Value::Text(text) => text.as_str(),
            Value::Number(_) => "a number",
        })
    }

    #[test]
    fn an_admitted_call_has_three_spans_and_the_attributes_of_mcp() {
        let mut entry = entry(Decision::Allow);
        let order = SessionId::parse("1b4e28ba-2fa1-41d2-883f-0016d3cca427").unwrap();
        entry.task_session_id = Some(order);
        entry.policy_matched = Some("readers".into());
        let outcome = Outcome {
            upstream_server: Some("[::1]:8081".into()),
            tool_outcome: Some(ToolOutcome::ToolError),
            ..Outcome::completed(100, Some(200))
        };
        let version = Version::parse("2025-06-18");
        let said = Said { id: Some("\"a-1\""), version, ..nothing() };
        let spans = finished(&entry, said, outcome).spans();
        let [server, decision, upstream] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!(server.name, "tools/call read_file");
        assert_eq!((server.start_us, server.end_us), (START, START + 100));
        let expected = [
            ("mcp.method.name", "tools/call"),
            ("gen_ai.operation.name", "execute_tool"),
            ("gen_ai.tool.name", "read_file"),
            ("mcp.session.id", &hashed("1b4e28ba-2fa1-41d2-883f-0016d3cca427")),
            ("mcp.protocol.version", "2025-06-18"),
            ("jsonrpc.request.id", "a-1"),
            ("error.type", "tool_error"),
            ("arbiter.request_id", "00000000-0000-0000-0000-000000000007"),
            ("arbiter.decision", "allow"),
            ("arbiter.tool_outcome", "tool_error"),
        ];
        assert_eq!(server.attributes.len(), expected.len(), "{server:?}");
        for (key, text) in expected {
            assert_eq!(value(server, key), Some(text), "{key}");
        }
        assert_eq!((decision.start_us, decision.end_us), (START + 10, START + 20));
        assert_eq!(value(decision, "arbiter.policy"), Some("readers"));
        assert_eq!(decision.error, None);
        assert_eq!((upstream.start_us, upstream.end_us), (START + 20, START + 100));
        assert_eq!(value(upstream, "server.address"), Some("[::1]"));
        let status = ("http.response.status_code", Value::Number(200));
        assert!(upstream.attributes.contains(&status), "{upstream:?}");
        assert!(upstream.attributes.contains(&("server.port", Value::Number(8_081))));
    }

    #[test]
    fn a_refused_call_has_no_upstream_span_and_says_which_code() {
        let mut entry = entry(Decision::Deny);
        (entry.denial_code, entry.stage) = (Some("PolicyDenied"), Some("policy"));
        let spans = finished(&entry, nothing(), Outcome::refused(5)).spans();
        assert_eq!(spans.len(), 2);
        assert_eq!(value(&spans[0], "error.type"), Some("PolicyDenied"));
        assert_eq!(value(&spans[1], "arbiter.stage"), Some("policy"));
        assert_eq!(spans[1].error.as_deref(), Some("PolicyDenied"));
    }

    #[test]
    fn a_decision_that_could_not_be_recorded_is_a_refusal() {
        let outcome = Outcome {
            decision: Some(Decision::Deny),
            denial_code: Some("AuditUnavailable"),
            ..Outcome::refused(5)
        };
        let spans = finished(&entry(Decision::Allow), nothing(), outcome).spans();
        assert_eq!(spans.len(), 2, "nothing went upstream");
        assert_eq!(value(&spans[0], "arbiter.decision"), Some("deny"));
        assert_eq!(value(&spans[1], "arbiter.denial_code"), Some("AuditUnavailable"));
    }

    #[test]
    fn a_failure_of_the_upstream_is_its_spans_error_and_no_refusal() {
        let outcome = Outcome {
            denial_code: Some("UpstreamFailed"),
            upstream_cause: Some("refused"),
            completion: Completion::UpstreamFailed,
            ..Outcome::default()
        };
        let spans = finished(&entry(Decision::Allow), nothing(), outcome).spans();
        assert_eq!(value(&spans[0], "error.type"), Some("UpstreamFailed"));
        assert_eq!((value(&spans[1], "arbiter.denial_code"), &spans[1].error), (None, &None));
        assert_eq!(value(&spans[2], "error.type"), Some("refused"));
    }

    #[test]
    fn an_agent_cannot_make_up_names_of_spans() {
        let name = |entry: &Entry, named: bool| {
            let said = Said { named, ..nothing() };
            finished(entry, said, Outcome::default()).spans()[0].name.clone().into_owned()
        };
        assert_eq!(name(&entry(Decision::Deny), false), "tools/call");
        assert_eq!(name(&entry(Decision::Deny), true), "tools/call read_file");
        for (method, expected) in [
            ("x/made-up", "other"),
            ("notifications/made-up", "notification"),
            ("tools/list", "tools/list"),
            ("resources/read", "resources/read"),
            ("ping,tools/list", "batch"),
        ] {
            let mut entry = entry(Decision::Allow);
            (entry.mcp_method, entry.tool_called) = (Some(method.into()), None);
            assert_eq!(name(&entry, false), expected);
        }
        let mut nameless = entry(Decision::Deny);
        (nameless.mcp_method, nameless.tool_called) = (None, None);
        assert_eq!(name(&nameless, false), "request");
    }

    #[test]
    fn texts_of_an_agent_are_clipped() {
        let mut entry = entry(Decision::Allow);
        entry.tool_called = Some("ä".repeat(500).into());
        entry.mcp_method = Some("m".repeat(256).into());
        let id = format!("\"{}\"", "7".repeat(1_000));
        let spans = finished(&entry, Said { id: Some(&id), ..nothing() }, Outcome::default());
        for span in spans.spans() {
            assert!(span.name.len() <= MAX_TEXT_BYTES);
            for (key, value) in &span.attributes {
                let Value::Text(text) = value else { continue };
                assert!(text.len() <= MAX_TEXT_BYTES, "{key}: {}", text.len());
            }
        }
    }

    #[test]
    fn an_id_is_text_without_its_quotes_unless_it_needs_them() {
        for (id, expected) in [("7", "7"), ("\"a\"", "a"), (r#""a\u0062""#, r#""a\u0062""#)] {
            assert_eq!(unquoted(id), expected);
        }
    }
}
