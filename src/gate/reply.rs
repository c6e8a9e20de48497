//! Answer to a refused request: its form, its id, its warnings.

use smol_str::SmolStr;
use uuid::Uuid;

use crate::firewall::call::CallKind;
use crate::firewall::denial::Denial;
use crate::firewall::session::RefusalStyle;
use crate::firewall::time::Now;
use crate::mcp::elicitation::Sending;
use crate::mcp::message::Message;
use crate::mcp::version::Era;
use crate::sessions::Live;

/// Form in which a refusal reaches the agent: `proxy.refusal_style` or the session's, and what its message allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The status of the refusal table, with a JSON-RPC error.
    Http,
    /// HTTP 200 with a tool result that says `isError`.
    ToolResult { modern: bool },
    /// HTTP 200 with a JSON-RPC error.
    RpcError,
    /// HTTP 202 without a body, for notifications.
    Accepted,
    /// HTTP 200 with what sends the client's person to the page of an approval.
    ToPage(Sending),
}

/// A refusal that is on record.
#[derive(Debug)]
pub struct Refused {
    pub denial: Denial,
    pub request_id: Uuid,
    /// The JSON-RPC id to echo, as it was written.
    pub id: Option<SmolStr>,
    pub form: Form,
    pub warnings: Vec<String>,
}

/// Facts of a request that determine its answer, as far as it was read.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) id: Option<SmolStr>,
    pub(super) form: Form,
    pub(super) warnings: Vec<String>,
}

impl Reply {
    /// The plain form, for what is refused before its message is read.
    pub(super) fn plain() -> Self {
        Self { id: None, form: Form::Http, warnings: Vec::new() }
    }
}

/// The id to echo: of the one request in the message.
pub(super) fn echoed_id(message: &Message<'_>) -> Option<SmolStr> {
    match message.calls.as_slice() {
        [call] if !message.batch && call.is_request() => call.id.map(|id| SmolStr::from(id.raw())),
        _ => None,
    }
}

/// Returns the form of this message's refusal.
pub(super) fn form(style: RefusalStyle, message: &Message<'_>, era: Era) -> Form {
    match (style, message.calls.as_slice()) {
        (RefusalStyle::Result, [call]) if !message.batch => {
            if call.is_notification() || call.is_response() {
                Form::Accepted
            } else if matches!(call.kind, CallKind::Tool { .. }) {
                Form::ToolResult { modern: era == Era::Modern }
            } else {
                Form::RpcError
            }
        }
        (RefusalStyle::Http | RefusalStyle::Result, _) => Form::Http,
    }
}

/// Returns the warnings about a budget or time that runs out.
pub(super) fn warnings(live: &Live, threshold_pct: f64, now: Now) -> Vec<String> {
    let order = &live.order;
    let mut warnings = Vec::new();
    let remaining = order.call_budget.saturating_sub(live.with(|usage| usage.calls_made));
    if is_low(remaining, order.call_budget, threshold_pct) {
        warnings.push(format!("budget_remaining={remaining}, budget_total={}", order.call_budget));
    }
    let limit_secs = u64::try_from(order.expires_at.0.saturating_sub(order.created_at.0))
        .unwrap_or(0)
        / 1_000_000;
    let remaining_secs = live.ends(now).since(now.mono) / 1_000_000;
    if is_low(remaining_secs, limit_secs, threshold_pct) {
        warnings
            .push(format!("time_remaining_secs={remaining_secs}, time_limit_secs={limit_secs}"));
    }
    warnings
}

/// True if `remaining` is at or below the given percentage of `total`.
#[expect(clippy::cast_precision_loss, reason = "a warning's threshold may be off by one in 2^53")]
fn is_low(remaining: u64, total: u64, threshold_pct: f64) -> bool {
    remaining as f64 * 100.0 <= total as f64 * threshold_pct
}
