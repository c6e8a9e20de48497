//! Series about the gateway's own operation: what it is waiting for, what it has reloaded, and which
//! servers it reaches. Every label is a name from the configuration or a word from this file.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::register::{counter, counters, gauge, gauges, histogram, register};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::time::Timestamp;
use crate::saturate::SaturatingFrom as _;

/// Causes of upstream failures, the last for those that name none.
const CAUSES: [&str; 8] =
    ["dns", "refused", "tls", "timeout", "too_large", "credentials", "protocol", "reset"];

/// Buckets from a Redis on this machine to one that hardly answers.
const STORE_BUCKETS: &[f64] =
    &[1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Things that can be reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    Policies,
    Credentials,
    Certificate,
    Secrets,
    Keys,
}

impl Reload {
    const ALL: [Self; 5] =
        [Self::Policies, Self::Credentials, Self::Certificate, Self::Secrets, Self::Keys];

    fn name(self) -> &'static str {
        match self {
            Self::Policies => "policies",
            Self::Credentials => "credentials",
            Self::Certificate => "certificate",
            Self::Secrets => "secrets",
            Self::Keys => "keys",
        }
    }
}

/// End of a span, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanEnd {
    Exported,
    /// The queue to the collector was full.
    Dropped,
    /// The collector did not take it.
    Failed,
    /// Not made: more traces in this second than `tracing.max_traces_per_sec`.
    OverLimit,
}

impl SpanEnd {
    const ALL: [Self; 4] = [Self::Exported, Self::Dropped, Self::Failed, Self::OverLimit];

    fn name(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
            Self::OverLimit => "over_limit",
        }
    }
}

/// Values that are read when metrics are asked for.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub ready: bool,
    pub unix_seconds: f64,
    pub log_bytes: u64,
    pub journal_slots: u64,
    pub journal_slots_free: u64,
    pub store_staleness: Duration,
    /// End of the certificate that agents see, as Unix time.
    pub certificate_expires: Option<i64>,
    pub issuers: Vec<IssuerKeys>,
    pub upstreams: Vec<ServerStatus>,
}

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub struct IssuerKeys {
    pub issuer: String,
    /// Age since the keys were fetched, or since the start if none ever were.
    pub age: Duration,
    pub errors: u64,
}

/// One server of an upstream.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    pub upstream: Arc<str>,
    pub server: Arc<str>,
    pub up: bool,
}

/// Result of a notice of an approval.
#[derive(Clone, Copy, Debug)]
pub enum NoticeOutcome {
    Sent,
    /// Refused by its receiver, or not taken in time.
    Failed,
    /// Too many were waiting.
    Dropped,
}

impl NoticeOutcome {
    const ALL: [Self; 3] = [Self::Sent, Self::Failed, Self::Dropped];

    fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// The series.
pub struct Operation {
    /// Calls that wait for a person.
    pub approvals_pending: IntGauge,
    /// Freezes in force.
    pub freezes: IntGauge,
    spans: IntCounterVec,
    reloads: IntCounterVec,
    reloaded_at: GaugeVec,
    upstream_up: IntGaugeVec,
    upstream_failures: IntCounterVec,
    store_request: Histogram,
    store_errors: IntCounter,
    store_staleness: Gauge,
    leases: IntCounterVec,
    notices: IntCounterVec,
    issuer_age: GaugeVec,
    issuer_errors: IntGaugeVec,
    certificate_expiry: GaugeVec,
    ready: IntGauge,
    clock: Gauge,
    log_bytes: IntGauge,
    journal_slots: IntGauge,
    journal_used: IntGauge,
}

fn spans(r: &Registry) -> IntCounterVec {
    let help = "Spans of sampled requests, by whether the collector got them";
    let spans = counters(r, "arbiter_trace_spans_total", help, "outcome");
    for end in SpanEnd::ALL {
        spans.with_label_values(&[end.name()]);
    }
    spans
}

fn leases(r: &Registry) -> IntCounterVec {
    let help = "Blocks of calls asked of the store for a session's budget";
    let leases = counters(r, "arbiter_leases_total", help, "outcome");
    for outcome in ["granted", "failed"] {
        leases.with_label_values(&[outcome]);
    }
    leases
}

fn notices(r: &Registry) -> IntCounterVec {
    let name = "arbiter_approval_notices_total";
    let help = "Notices of approvals to `approvals.notify_url`";
    let notices = counters(r, name, help, "outcome");
    for outcome in NoticeOutcome::ALL {
        notices.with_label_values(&[outcome.name()]);
    }
    notices
}

impl Operation {
    pub(super) fn new(r: &Registry) -> Self {
        let two = |name: &str, help: &str, labels: [&str; 2]| {
            register(r, IntCounterVec::new(Opts::new(name, help), &labels))
        };
        let decimals = |name: &str, help: &str, labels: &[&str]| {
            register(r, GaugeVec::new(Opts::new(name, help), labels))
        };
        let decimal = |name: &str, help: &str| register(r, Gauge::new(name, help));
        let reloads = two(
            "arbiter_reloads_total",
            "Reloads while serving, by what was read and how that went",
            ["what", "outcome"],
        );
        for what in Reload::ALL {
            for outcome in ["done", "failed"] {
                reloads.with_label_values(&[what.name(), outcome]);
            }
        }
        Self {
            spans: spans(r),
            notices: notices(r),
            approvals_pending: gauge(
                r,
                "arbiter_approvals_pending",
                "Calls that wait for a person",
            ),
            freezes: gauge(r, "arbiter_freezes", "Freezes that operators have in force"),
            reloads,
            reloaded_at: decimals(
                "arbiter_reload_success_timestamp_seconds",
                "Last time that it was read well, Unix time",
                &["what"],
            ),
            upstream_up: register(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "arbiter_upstream_up",
                        "1 unless the server could not be reached last",
                    ),
                    &["upstream", "server"],
                ),
            ),
            upstream_failures: two(
                "arbiter_upstream_failures_total",
                "Calls that failed at an upstream, by cause",
                ["upstream", "cause"],
            ),
            store_request: histogram(
                r,
                "arbiter_store_request_seconds",
                "Time that calls waited for the store",
                STORE_BUCKETS,
            ),
            store_errors: counter(
                r,
                "arbiter_store_errors_total",
                "Requests that the store did not answer",
            ),
            store_staleness: decimal(
                "arbiter_store_staleness_seconds",
                "Time since a shared store was last heard; 0 for one of this node alone",
            ),
            leases: leases(r),
            issuer_age: decimals(
                "arbiter_issuer_keys_age_seconds",
                "Time since an issuer's keys were fetched, or since the start before the first",
                &["issuer"],
            ),
            issuer_errors: gauges(
                r,
                "arbiter_issuer_fetch_failures",
                "Fetches of an issuer's keys that failed since the last good one",
                "issuer",
            ),
            certificate_expiry: decimals(
                "arbiter_certificate_expiry_timestamp_seconds",
                "End of the validity of the certificate that agents see, Unix time",
                &["file"],
            ),
            ready: gauge(r, "arbiter_ready", "1 while calls can be served"),
            clock: decimal("arbiter_clock_seconds", "The gateway's own clock, Unix time"),
            log_bytes: gauge(r, "arbiter_audit_log_bytes", "Size of the audit log's open file"),
            journal_slots: gauge(
                r,
                "arbiter_audit_journal_slots",
                "Slots of the audit journal, one or more for a call under way",
            ),
            journal_used: gauge(
                r,
                "arbiter_audit_journal_slots_used",
                "Slots of the audit journal that calls hold",
            ),
        }
    }

    /// Counts spans.
    pub fn spans(&self, end: SpanEnd, count: u64) {
        self.spans.with_label_values(&[end.name()]).inc_by(count);
    }

    /// Counts a reload.
    pub fn reloaded(&self, what: Reload, good: bool, at: Timestamp) {
        let outcome = if good { "done" } else { "failed" };
        self.reloads.with_label_values(&[what.name(), outcome]).inc();
        if good {
            self.reloaded_at.with_label_values(&[what.name()]).set(at.unix_seconds());
        }
    }

    /// Counts a call that failed at an upstream.
    pub fn upstream_failed(&self, upstream: &str, denial: &Denial) {
        let given = denial.details.get("cause").and_then(serde_json::Value::as_str);
        let cause = match denial.code {
            Code::UpstreamTimeout => "timeout",
            Code::UpstreamResponseTooLarge => "too_large",
            Code::UpstreamFailed => {
                CAUSES.into_iter().find(|cause| Some(*cause) == given).unwrap_or("reset")
            }
            _ => return,
        };
        self.upstream_failures.with_label_values(&[upstream, cause]).inc();
    }

    /// Counts a request that the store did not answer.
    pub fn store_failed(&self) {
        self.store_errors.inc();
    }

    /// Returns the numbers of leases that were granted and that failed.
    pub fn leases(&self) -> (u64, u64) {
        let of = |outcome| self.leases.with_label_values(&[outcome]).get();
        (of("granted"), of("failed"))
    }

    /// Counts a lease and the time that a call waited for it.
    pub fn leased(&self, took: Duration, well: bool) {
        self.store_request.observe(took.as_secs_f64());
        if !well {
            self.store_failed();
        }
        let outcome = if well { "granted" } else { "failed" };
        self.leases.with_label_values(&[outcome]).inc();
    }

    /// Counts a notice of an approval.
    pub fn noticed(&self, outcome: NoticeOutcome) {
        self.notices.with_label_values(&[outcome.name()]).inc();
    }

    pub(super) fn show(&self, snapshot: &Snapshot) {
        let whole = i64::saturating_from::<u64>;
        self.ready.set(i64::from(snapshot.ready));
        self.clock.set(snapshot.unix_seconds);
        self.log_bytes.set(whole(snapshot.log_bytes));
        self.journal_slots.set(whole(snapshot.journal_slots));
        let used = snapshot.journal_slots.saturating_sub(snapshot.journal_slots_free);
        self.journal_used.set(whole(used));
        self.store_staleness.set(snapshot.store_staleness.as_secs_f64());
        if let Some(expires) = snapshot.certificate_expires {
            #[expect(clippy::cast_precision_loss, reason = "seconds until far beyond any year")]
            self.certificate_expiry.with_label_values(&["proxy.tls"]).set(expires as f64);
        }
        for IssuerKeys { issuer, age, errors } in &snapshot.issuers {
            self.issuer_age.with_label_values(&[issuer]).set(age.as_secs_f64());
            self.issuer_errors.with_label_values(&[issuer]).set(whole(*errors));
        }
        for ServerStatus { upstream, server, up } in &snapshot.upstreams {
            self.upstream_up.with_label_values(&[upstream, server]).set(i64::from(*up));
            for cause in CAUSES {
                // The series is there before the first failure.
                self.upstream_failures.with_label_values(&[upstream, cause]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
    }

    #[test]
    fn failures_have_a_cause_from_the_list() {
        let metrics = Metrics::new();
        let failed = |code, cause: Option<&str>| {
            let denial = Denial::new(code, "");
            let denial = match cause {
                Some(cause) => denial.with("cause", cause),
                None => denial,
            };
            metrics.operation.upstream_failed("git", &denial);
        };
        failed(Code::UpstreamTimeout, None);
        failed(Code::UpstreamFailed, Some("dns"));
        failed(Code::UpstreamFailed, Some("anything that somebody sent"));
        failed(Code::PolicyDenied, None);
        has(&metrics, r#"arbiter_upstream_failures_total{cause="timeout",upstream="git"} 1"#);
        has(&metrics, r#"arbiter_upstream_failures_total{cause="dns",upstream="git"} 1"#);
        has(&metrics, r#"arbiter_upstream_failures_total{cause="reset",upstream="git"} 1"#);
        assert!(!metrics.render().contains("anything"));
    }

    #[test]
    fn what_is_read_is_shown() {
        let metrics = Metrics::new();
        has(&metrics, "arbiter_ready 0");
        has(&metrics, r#"arbiter_reloads_total{outcome="failed",what="policies"} 0"#);
        metrics.operation.reloaded(Reload::Policies, false, Timestamp(5_000_000));
        metrics.operation.reloaded(Reload::Policies, true, Timestamp(6_500_000));
        metrics.read_snapshot_with(|| Snapshot {
            ready: true,
            unix_seconds: 12.5,
            journal_slots: 10,
            journal_slots_free: 7,
            certificate_expires: Some(99),
            issuers: vec![IssuerKeys {
                issuer: "idp".to_owned(),
                age: Duration::from_millis(1_500),
                errors: 2,
            }],
            upstreams: vec![ServerStatus {
                upstream: "git".into(),
                server: "h:1".into(),
                up: false,
            }],
            ..Snapshot::default()
        });
        for line in [
            "arbiter_ready 1",
            "arbiter_clock_seconds 12.5",
            "arbiter_audit_journal_slots_used 3",
            r#"arbiter_reloads_total{outcome="failed",what="policies"} 1"#,
            r#"arbiter_reload_success_timestamp_seconds{what="policies"} 6.5"#,
            r#"arbiter_certificate_expiry_timestamp_seconds{file="proxy.tls"} 99"#,
            r#"arbiter_issuer_keys_age_seconds{issuer="idp"} 1.5"#,
            r#"arbiter_issuer_fetch_failures{issuer="idp"} 2"#,
            r#"arbiter_upstream_up{server="h:1",upstream="git"} 0"#,
            r#"arbiter_upstream_failures_total{cause="tls",upstream="git"} 0"#,
        ] {
            has(&metrics, line);
        }
    }
}
