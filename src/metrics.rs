//! Counters for Prometheus: one registry, owned, and no label value that an agent chooses freely.
//!
//! Children are resolved once, so that counting a request is a few atomic additions. The only open
//! label is `tool`; it takes names that a policy or a session names, up to a bound, else `other`.

mod connections;
mod operation;
mod process;
mod register;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use crate::firewall::denial::Code;
use crate::mcp::outcome::ToolOutcome;
use crate::saturate::SaturatingFrom as _;
pub use connections::Closed;
use connections::Connections;
use operation::Operation;
pub use operation::{IssuerKeys, NoticeOutcome, Reload, ServerStatus, Snapshot, SpanEnd};
use process::Process;
use register::{counter, counters, families, gauge, gauges, histogram};

/// Number of tools with a series of their own.
pub const MAX_TOOL_LABELS: usize = 1_024;

/// Longest tool name that gets a series of its own, in bytes.
const MAX_TOOL_BYTES: usize = 256;

const OTHER: &str = "other";

/// From a microsecond's work to a second's, for what Arbiter itself costs.
const OVERHEAD_BUCKETS: &[f64] =
    &[5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0];

/// For whole requests, which wait for tools.
const DURATION_BUCKETS: &[f64] = &[
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];

/// Decision about a request, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Allow,
    Deny,
    Escalate,
}

/// Gauges that are kept elsewhere and read on demand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Levels {
    pub calls_in_flight: u64,
    pub draining: bool,
    pub active_sessions: u64,
    pub approvals_pending: u64,
    pub freezes: u64,
    pub registered_agents: u64,
    pub audit_records: u64,
    pub audit_syncs: u64,
    pub audit_tail_damage: u64,
    pub audit_healthy: bool,
}

/// Counts of requests since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    pub allowed: u64,
    pub denied: u64,
    pub escalated: u64,
    /// In the order of [`Code::ALL`].
    pub denials: Vec<u64>,
    /// Upper bounds in seconds, and the decisions that took at most that long.
    pub overhead: Vec<(f64, u64)>,
}

type ReadLevels = Box<dyn Fn() -> Levels + Send + Sync>;
type ReadSnapshot = Box<dyn Fn() -> Snapshot + Send + Sync>;

/// All metrics of one Arbiter.
pub struct Metrics {
    registry: Registry,
    allowed: IntCounter,
    denied: IntCounter,
    escalated: IntCounter,
    /// In the order of [`Code::ALL`].
    denials: Vec<(Code, IntCounter)>,
    tool_calls: IntCounterVec,
    other_tool_calls: IntCounter,
    named_tools: ArcSwap<HashMap<Arc<str>, IntCounter>>,
    tool_outcomes: IntCounterVec,
    /// The label of tools without a series of their own.
    other: Arc<str>,
    naming: Mutex<()>,
    anomalies: IntCounter,
    request_duration: Histogram,
    upstream_duration: Histogram,
    overhead: Histogram,
    active_sessions: IntGauge,
    registered_agents: IntGauge,
    audit_records: IntCounter,
    audit_syncs: IntCounter,
    audit_tail_damage: IntGauge,
    audit_healthy: IntGauge,
    credentials_injected: IntCounter,
    credentials_scrubbed: IntCounter,
    /// Entries of lists: hidden, and passed unread.
    odd_entries: (IntCounter, IntCounter),
    notifications_dropped: IntCounter,
    policy_version: IntGaugeVec,
    admin_requests: IntCounterVec,
    levels: OnceLock<ReadLevels>,
    snapshot: OnceLock<ReadSnapshot>,
    process: Process,
    pub operation: Operation,
    calls_in_flight: IntGauge,
    draining: IntGauge,
    /// Event streams to agents that are open.
    pub open_streams: IntGauge,
    connections: Connections,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn admin_requests(registry: &Registry) -> IntCounterVec {
    let help = "Requests on the admin port, by the key's name and what came of them";
    let requests = families(registry, "arbiter_admin_requests_total", help, &["key", "outcome"]);
    // There from the start, so that a query of a new gateway finds the series.
    requests.with_label_values(&["(none)", "refused"]);
    requests
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "one list of all metrics")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let requests = counters(
            r,
            "arbiter_requests_total",
            "Requests on the proxy port, by decision",
            "decision",
        );
        let denial_codes =
            counters(r, "arbiter_denials_total", "Refused requests, by code", "code");
        let tool_calls = counters(
            r,
            "arbiter_tool_calls_total",
            "Tool calls judged, by tool; `other` are tools that no policy or session names",
            "tool",
        );
        let tool_outcomes = families(
            r,
            "arbiter_tool_outcomes_total",
            "Tool calls that went upstream, by tool and by how the tool ended",
            &["tool", "outcome"],
        );
        // There from the start, so that a query of a new gateway finds the family.
        tool_outcomes.with_label_values(&[OTHER, ToolOutcome::Ok.as_str()]);
        let build = gauges(r, "arbiter_build_info", "The running version", "version");
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let policy_version =
            gauges(r, "arbiter_policy_version_info", "The policy set in force", "version");
        let duration = DURATION_BUCKETS;
        Self {
            odd_entries: odd_entries(r),
            notifications_dropped: counter(
                r,
                "arbiter_notifications_dropped_total",
                "Notifications and questions of servers that did not pass",
            ),
            allowed: requests.with_label_values(&["allow"]),
            denied: requests.with_label_values(&["deny"]),
            escalated: requests.with_label_values(&["escalate"]),
            denials: Code::ALL
                .iter()
                .map(|code| (*code, denial_codes.with_label_values(&[code.name()])))
                .collect(),
            other_tool_calls: tool_calls.with_label_values(&[OTHER]),
            tool_calls,
            named_tools: ArcSwap::default(),
            tool_outcomes,
            other: OTHER.into(),
            naming: Mutex::new(()),
            anomalies: counter(
                r,
                "arbiter_anomalies_total",
                "Calls that drift from the declared intent",
            ),
            request_duration: histogram(
                r,
                "arbiter_request_duration_seconds",
                "From a request's headers to the end of its response",
                duration,
            ),
            upstream_duration: histogram(
                r,
                "arbiter_upstream_duration_seconds",
                "What the upstream took of it",
                duration,
            ),
            overhead: histogram(
                r,
                "arbiter_overhead_seconds",
                "What Arbiter itself took of it",
                OVERHEAD_BUCKETS,
            ),
            active_sessions: gauge(r, "arbiter_active_sessions", "Sessions that are active now"),
            registered_agents: gauge(r, "arbiter_registered_agents", "Agents that are active now"),
            audit_records: counter(r, "arbiter_audit_records_total", "Audit records written"),
            audit_syncs: counter(
                r,
                "arbiter_audit_syncs_total",
                "Times the audit log or its journal was brought to the disk",
            ),
            audit_tail_damage: gauge(
                r,
                "arbiter_audit_tail_damage",
                "Damages found at the audit log's end at start: a torn line, missing lines",
            ),
            audit_healthy: gauge(
                r,
                "arbiter_audit_healthy",
                "1 while audit records can be written",
            ),
            credentials_injected: counter(
                r,
                "arbiter_credentials_injected_total",
                "Credential references replaced in requests",
            ),
            credentials_scrubbed: counter(
                r,
                "arbiter_credentials_scrubbed_total",
                "Credential values removed from responses",
            ),
            policy_version,
            admin_requests: admin_requests(r),
            calls_in_flight: gauge(
                r,
                "arbiter_calls_in_flight",
                "Requests under way, open streams included",
            ),
            draining: gauge(r, "arbiter_draining", "1 once the gateway goes out of service"),
            open_streams: gauge(r, "arbiter_open_streams", "Event streams to agents that are open"),
            levels: OnceLock::new(),
            connections: Connections::new(r),
            snapshot: OnceLock::new(),
            process: Process::new(r),
            operation: Operation::new(r),
            registry,
        }
    }

    pub fn request(&self, outcome: Outcome) {
        match outcome {
            Outcome::Allow => self.allowed.inc(),
            Outcome::Deny => self.denied.inc(),
            Outcome::Escalate => self.escalated.inc(),
        }
    }

    pub fn denial(&self, code: Code) {
        if let Some((_, counter)) = self.denials.iter().find(|(other, _)| *other == code) {
            counter.inc();
        }
    }

    /// Counts a judged call of a tool at an upstream, if that has a name, under the first of
    /// `upstream:tool` and `tool` that is named; returns that label. The tool's name may be anything
    /// that an agent sent.
    pub fn tool_call(&self, upstream: Option<&str>, tool: &str) -> Arc<str> {
        let named = self.named_tools.load();
        let short = tool.len() <= MAX_TOOL_BYTES;
        let at = upstream.filter(|_| short).map(|upstream| format!("{upstream}:{tool}"));
        let qualified = at.and_then(|at| named.get_key_value(at.as_str()));
        let found = qualified.or_else(|| named.get_key_value(tool));
        let (label, calls) = found.unwrap_or((&self.other, &self.other_tool_calls));
        calls.inc();
        label.clone()
    }

    /// Reports whether a label that [`Self::tool_call`] gave names a tool that operators named.
    pub fn is_named(&self, label: &str) -> bool {
        label != &*self.other
    }

    /// Counts how a call of a tool ended, under the label that [`Self::tool_call`] gave.
    pub fn tool_ended(&self, label: &str, outcome: ToolOutcome) {
        self.tool_outcomes.with_label_values(&[label, outcome.as_str()]).inc();
    }

    /// Gives series of their own to tools that a policy or a session names.
    pub fn name_tools<S: AsRef<str>>(&self, tools: impl IntoIterator<Item = S>) {
        let _turn = self.naming.lock();
        let named = self.named_tools.load();
        let mut grown: Option<HashMap<Arc<str>, IntCounter>> = None;
        for tool in tools {
            // An entry `*:tool` names a tool of any upstream.
            let tool = tool.as_ref();
            let tool = tool.strip_prefix("*:").unwrap_or(tool);
            let map = grown.as_ref().unwrap_or(&named);
            // A pattern names no tool.
            if tool.len() > MAX_TOOL_BYTES || tool.ends_with('*') || map.contains_key(tool) {
                continue;
            }
            if map.len() >= MAX_TOOL_LABELS {
                break;
            }
            let child = self.tool_calls.with_label_values(&[tool]);
            grown.get_or_insert_with(|| HashMap::clone(&named)).insert(tool.into(), child);
        }
        if let Some(grown) = grown {
            self.named_tools.store(Arc::new(grown));
        }
    }

    pub fn connections(&self, open: usize) {
        self.connections.open.set(i64::saturating_from(open));
    }

    pub fn connection_closed(&self, why: Closed) {
        if let Some((_, counter)) = self.connections.closed.iter().find(|(other, _)| *other == why)
        {
            counter.inc();
        }
    }

    pub fn anomaly(&self) {
        self.anomalies.inc();
    }

    pub fn request_took(&self, time: Duration) {
        self.request_duration.observe(time.as_secs_f64());
    }

    pub fn upstream_took(&self, time: Duration) {
        self.upstream_duration.observe(time.as_secs_f64());
    }

    pub fn arbiter_took(&self, time: Duration) {
        self.overhead.observe(time.as_secs_f64());
    }

    /// Counts entries of lists that were hidden, or passed unread, for their form alone.
    pub fn odd_list_entries(&self, hidden: u64, unread: u64) {
        self.odd_entries.0.inc_by(hidden);
        self.odd_entries.1.inc_by(unread);
    }

    /// Counts a notification that its client may not see.
    pub fn notification_dropped(&self) {
        self.notifications_dropped.inc();
    }

    pub fn credentials_injected(&self, count: u64) {
        self.credentials_injected.inc_by(count);
    }

    pub fn credentials_scrubbed(&self, count: u64) {
        self.credentials_scrubbed.inc_by(count);
    }

    /// Counts an answer of the admin port. The label is a configured name, `(oidc)` or `(none)`.
    pub fn admin_request(&self, key: &str, status: http::StatusCode) {
        let outcome = match status.as_u16() {
            401 => "unauthorized",
            403 => "forbidden",
            429 => "limited",
            400..=499 => "refused",
            500.. => "failed",
            _ => "done",
        };
        self.admin_requests.with_label_values(&[key, outcome]).inc();
    }

    /// Tells which policy set is in force; the one before it is forgotten.
    pub fn policy_version(&self, version: &str) {
        self.policy_version.reset();
        self.policy_version.with_label_values(&[version]).set(1);
    }

    /// Reads what is counted of requests, for a history.
    pub fn totals(&self) -> Totals {
        use prometheus::core::Metric as _;
        let overhead = self.overhead.metric();
        let buckets = overhead.get_histogram().get_bucket().iter();
        Totals {
            allowed: self.allowed.get(),
            denied: self.denied.get(),
            escalated: self.escalated.get(),
            denials: self.denials.iter().map(|(_, counter)| counter.get()).collect(),
            overhead: buckets.map(|b| (b.upper_bound(), b.cumulative_count())).collect(),
        }
    }

    /// Reads the gauges that are kept elsewhere.
    pub fn levels(&self) -> Levels {
        self.levels.get().map(|read| read()).unwrap_or_default()
    }

    /// Reads the state of the gateway's own operation.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.get().map(|read| read()).unwrap_or_default()
    }

    /// Says how to read what is not counted here. The first call holds.
    pub fn read_levels_with(&self, read: impl Fn() -> Levels + Send + Sync + 'static) {
        self.levels.get_or_init(|| Box::new(read));
    }

    /// Sets how the gateway's own operation is read. The first call holds.
    pub fn read_snapshot_with(&self, read: impl Fn() -> Snapshot + Send + Sync + 'static) {
        self.snapshot.get_or_init(|| Box::new(read));
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self) -> String {
        if let Some(read) = self.levels.get() {
            let levels = read();
            let level = i64::saturating_from::<u64>;
            self.active_sessions.set(level(levels.active_sessions));
            self.operation.approvals_pending.set(level(levels.approvals_pending));
            self.operation.freezes.set(level(levels.freezes));
            self.registered_agents.set(level(levels.registered_agents));
            self.calls_in_flight.set(level(levels.calls_in_flight));
            self.draining.set(i64::from(levels.draining));
            self.audit_healthy.set(i64::from(levels.audit_healthy));
            self.audit_tail_damage.set(level(levels.audit_tail_damage));
            self.audit_records
                .inc_by(levels.audit_records.saturating_sub(self.audit_records.get()));
            self.audit_syncs.inc_by(levels.audit_syncs.saturating_sub(self.audit_syncs.get()));
        }
        if let Some(read) = self.snapshot.get() {
            self.operation.show(&read());
        }
        self.process.read();
        let mut text = String::new();
        // Writing to a string fails only for a family without metrics, which `gather` leaves out.
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be rendered");
        }
        text
    }
}

/// Entries of lists that were hidden, and those that passed unread.
fn odd_entries(registry: &Registry) -> (IntCounter, IntCounter) {
    let odd = counters(
        registry,
        "arbiter_odd_list_entries_total",
        "Entries of upstreams' lists that were hidden, or passed unread, for their form",
        "what",
    );
    (odd.with_label_values(&["hidden"]), odd.with_label_values(&["unread"]))
}

#[cfg(test)]
mod tests;
