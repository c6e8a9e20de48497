use super::*;

fn has(metrics: &Metrics, line: &str) {
    let text = metrics.render();
    assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
}

#[test]
fn every_name_of_the_contract_is_there_from_the_start() {
    let metrics = Metrics::new();
    metrics.policy_version("v1");
    let text = metrics.render();
    for name in [
        "arbiter_requests_total",
        "arbiter_denials_total",
        "arbiter_tool_calls_total",
        "arbiter_tool_outcomes_total",
        "arbiter_anomalies_total",
        "arbiter_request_duration_seconds",
        "arbiter_upstream_duration_seconds",
        "arbiter_overhead_seconds",
        "arbiter_active_sessions",
        "arbiter_approvals_pending",
        "arbiter_freezes",
        "arbiter_registered_agents",
        "arbiter_audit_records_total",
        "arbiter_audit_syncs_total",
        "arbiter_audit_healthy",
        "arbiter_credentials_injected_total",
        "arbiter_credentials_scrubbed_total",
        "arbiter_policy_version_info",
        "arbiter_build_info",
        "arbiter_connections",
        "arbiter_connections_closed_total",
        "arbiter_calls_in_flight",
        "arbiter_open_streams",
        "arbiter_draining",
        "arbiter_reloads_total",
        "arbiter_store_request_seconds",
        "arbiter_store_errors_total",
        "arbiter_store_staleness_seconds",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
    has(&metrics, r#"arbiter_denials_total{code="PolicyDenied"} 0"#);
    has(&metrics, r#"arbiter_overhead_seconds_bucket{le="0.000005"} 0"#);
}

#[test]
fn requests_and_denials_are_counted_by_name() {
    let metrics = Metrics::new();
    metrics.request(Outcome::Allow);
    metrics.request(Outcome::Escalate);
    metrics.denial(Code::NotJson);
    metrics.denial(Code::MalformedRequest);
    metrics.credentials_scrubbed(3);
    has(&metrics, r#"arbiter_requests_total{decision="allow"} 1"#);
    has(&metrics, r#"arbiter_requests_total{decision="escalate"} 1"#);
    has(&metrics, r#"arbiter_requests_total{decision="deny"} 0"#);
    has(&metrics, r#"arbiter_denials_total{code="MalformedRequest"} 2"#);
    has(&metrics, "arbiter_credentials_scrubbed_total 3");
}

#[test]
fn a_tool_that_nobody_named_is_other() {
    let metrics = Metrics::new();
    metrics.name_tools(["read_file", "list_*", "*"]);
    for tool in ["read_file", "evil\"}\n", "list_*", "list_dir"] {
        metrics.tool_call(None, tool);
    }
    has(&metrics, r#"arbiter_tool_calls_total{tool="read_file"} 1"#);
    has(&metrics, r#"arbiter_tool_calls_total{tool="other"} 3"#);
    assert!(!metrics.render().contains("evil"));
}

#[test]
fn a_tool_named_for_one_upstream_counts_there() {
    let metrics = Metrics::new();
    metrics.name_tools(["git:commit", "read"]);
    for (upstream, tool) in
        [("git", "commit"), ("files", "commit"), ("git", "read"), ("files", "read")]
    {
        metrics.tool_call(Some(upstream), tool);
    }
    metrics.tool_call(None, "commit");
    let label = metrics.tool_call(Some("git"), "commit");
    metrics.tool_ended(&label, ToolOutcome::ToolError);
    let label = metrics.tool_call(None, "any text of an agent");
    metrics.tool_ended(&label, ToolOutcome::Ok);
    has(&metrics, r#"arbiter_tool_outcomes_total{outcome="tool_error",tool="git:commit"} 1"#);
    has(&metrics, r#"arbiter_tool_outcomes_total{outcome="ok",tool="other"} 1"#);
    has(&metrics, r#"arbiter_tool_calls_total{tool="git:commit"} 2"#);
    has(&metrics, r#"arbiter_tool_calls_total{tool="read"} 2"#);
    has(&metrics, r#"arbiter_tool_calls_total{tool="other"} 3"#);
}

#[test]
fn the_number_of_tool_series_is_bounded() {
    let metrics = Metrics::new();
    let names: Vec<String> = (0..2 * MAX_TOOL_LABELS).map(|n| format!("tool_{n}")).collect();
    for chunk in names.chunks(100) {
        metrics.name_tools(chunk);
    }
    for name in &names {
        metrics.tool_call(None, name);
    }
    let series =
        metrics.render().lines().filter(|l| l.starts_with("arbiter_tool_calls_total{")).count();
    assert_eq!(series, MAX_TOOL_LABELS + 1);
    has(&metrics, r#"arbiter_tool_calls_total{tool="other"} 1024"#);
}

#[test]
fn one_policy_version_is_in_force() {
    let metrics = Metrics::new();
    metrics.policy_version("v1");
    metrics.policy_version("v2");
    has(&metrics, r#"arbiter_policy_version_info{version="v2"} 1"#);
    assert!(!metrics.render().contains("v1\""));
}

#[test]
fn levels_are_read_when_asked_for() {
    let metrics = Metrics::new();
    has(&metrics, "arbiter_audit_healthy 0");
    metrics.read_levels_with(|| Levels {
        calls_in_flight: 6,
        draining: true,
        audit_records: 3,
        audit_syncs: 5,
        audit_tail_damage: 1,
        active_sessions: 7,
        approvals_pending: 2,
        freezes: 3,
        registered_agents: 2,
        audit_healthy: true,
    });
    has(&metrics, "arbiter_active_sessions 7");
    has(&metrics, "arbiter_freezes 3");
    has(&metrics, "arbiter_registered_agents 2");
    has(&metrics, "arbiter_audit_healthy 1");
    has(&metrics, "arbiter_audit_records_total 3");
    has(&metrics, "arbiter_audit_syncs_total 5");
}

#[test]
fn durations_fall_into_their_buckets() {
    let metrics = Metrics::new();
    metrics.arbiter_took(Duration::from_micros(7));
    metrics.request_took(Duration::from_millis(20));
    metrics.upstream_took(Duration::from_secs(2));
    has(&metrics, r#"arbiter_overhead_seconds_bucket{le="0.000005"} 0"#);
    has(&metrics, r#"arbiter_overhead_seconds_bucket{le="0.00001"} 1"#);
    has(&metrics, r#"arbiter_request_duration_seconds_bucket{le="0.025"} 1"#);
    has(&metrics, r#"arbiter_upstream_duration_seconds_bucket{le="1"} 0"#);
}
