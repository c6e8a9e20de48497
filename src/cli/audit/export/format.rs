//! A record in the forms that others read: OCSF, ECS and CEF.

use serde_json::{Map, Value, json};

use super::Format;
use crate::firewall::time::Timestamp;

/// OCSF's version whose API Activity class this is.
const OCSF_VERSION: &str = "1.3.0";
const VENDOR: &str = "Arbiter";

/// Writes a record without a newline.
pub(super) fn write(format: Format, line: &[u8], record: &Value) -> Vec<u8> {
    match format {
        Format::Jsonl => line.to_vec(),
        Format::Ocsf => ocsf(record).to_string().into_bytes(),
        Format::Ecs => ecs(record).to_string().into_bytes(),
        Format::Cef => cef(record).into_bytes(),
    }
}

/// Returns the subject of a record: a tool, a method or an event.
fn operation(record: &Value) -> &str {
    ["event", "tool_called", "mcp_method"]
        .iter()
        .find_map(|name| record[*name].as_str())
        .unwrap_or("unknown")
}

fn millis(record: &Value) -> Option<i64> {
    let at = record["timestamp"].as_str().and_then(Timestamp::parse)?;
    Some(at.0.div_euclid(1_000))
}

/// Returns a time span of the record in units of which `per_milli` are a millisecond.
fn latency(record: &Value, per_milli: f64) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float's cast stops at the type's bounds"
    )]
    record["latency_ms"].as_f64().map(|ms| (ms * per_milli).round() as i64)
}

/// Splits the server of the upstream into host and port.
fn server(record: &Value) -> (Option<&str>, Option<u16>) {
    let Some(server) = record["upstream_server"].as_str() else { return (None, None) };
    match server.rsplit_once(':').map(|(host, port)| (host, port.parse().ok())) {
        Some((host, Some(port))) => (Some(host.trim_matches(['[', ']'])), Some(port)),
        Some((_, None)) | None => (Some(server), None),
    }
}

fn is_allowed(record: &Value) -> bool {
    record["authorization_decision"] == "allow"
}

/// Result of what was asked for: a refusal is a failure, and so is a call whose tool failed.
fn result(record: &Value) -> &'static str {
    match (is_allowed(record), record["tool_outcome"].as_str()) {
        (false, _) | (true, Some("tool_error" | "rpc_error")) => "failure",
        (true, Some("unknown")) => "unknown",
        (true, Some(_) | None) => "success",
    }
}

/// Drops members that hold nothing, at any depth.
fn pruned(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().map(|(name, value)| (name, pruned(value)));
            Value::Object(kept.filter(|(_, value)| !is_nothing(value)).collect::<Map<_, _>>())
        }
        other => other,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// API Activity (class 6003); the activity is other, named by the operation.
fn ocsf(record: &Value) -> Value {
    let allowed = is_allowed(record);
    let (status_id, status) = match result(record) {
        "success" => (1, "Success"),
        "failure" => (2, "Failure"),
        _ => (0, "Unknown"),
    };
    let (action_id, action) = if allowed { (1, "Allowed") } else { (2, "Denied") };
    let (severity_id, severity) = if allowed { (1, "Informational") } else { (3, "Medium") };
    let (host, port) = server(record);
    // What the gateway does of its own accord comes from the gateway.
    let source = match &record["client_addr"] {
        Value::Null => json!({ "name": record["node_id"] }),
        address => json!({ "ip": address }),
    };
    pruned(json!({
        "class_uid": 6003, "class_name": "API Activity",
        "category_uid": 6, "category_name": "Application Activity",
        "activity_id": 99, "activity_name": operation(record), "type_uid": 600_399,
        "time": millis(record), "severity_id": severity_id, "severity": severity,
        "status_id": status_id, "status": status, "status_code": record["denial_code"],
        "status_detail": record["tool_outcome"],
        "action_id": action_id, "action": action,
        "metadata": {
            "version": OCSF_VERSION,
            "profiles": ["security_control"],
            "product": { "name": "Arbiter", "vendor_name": VENDOR },
            "uid": record["request_id"],
            "sequence": record["chain_sequence"],
            "log_name": record["node_id"],
            "correlation_uid": record["trace_id"],
        },
        "actor": {
            "user": { "name": record["principal"] },
            "session": { "uid": record["task_session_id"] },
            "app_name": if record["agent_id"].is_null() { Some("arbiter") } else { None },
            "app_uid": record["agent_id"],
        },
        "api": {
            "operation": operation(record),
            "service": { "name": record["upstream"] },
            "request": { "uid": record["request_id"], "data": record["arguments"] },
            "response": { "code": record["upstream_status"], "error": record["denial_code"] },
        },
        "src_endpoint": source,
        "dst_endpoint": { "hostname": host, "port": port },
        "http_request": {
            "http_method": record["http_method"],
            "user_agent": record["user_agent"],
            "url": { "path": record["path"] },
            "length": record["bytes_in"],
        },
        "duration": latency(record, 1.0),
        "unmapped": {
            "arbiter": record,
            "chain_record_hash": record["chain_record_hash"],
            "chain_prev_hash": record["chain_prev_hash"],
        },
    }))
}

fn ecs(record: &Value) -> Value {
    let allowed = is_allowed(record);
    let (category, kind) = match (record["event"].is_string(), allowed) {
        (true, _) => ("configuration", "change"),
        (false, true) => ("api", "allowed"),
        (false, false) => ("api", "denied"),
    };
    let (host, port) = server(record);
    let mut whole = record.clone();
    if !whole["arguments"].is_null() {
        // As text: each name that an agent chose would be a field of the index else.
        whole["arguments"] = record["arguments"].to_string().into();
    }
    pruned(json!({
        "@timestamp": record["timestamp"],
        "ecs": { "version": "8.11.0" },
        "event": {
            "kind": "event", "category": [category], "type": [kind],
            "action": operation(record),
            "outcome": result(record),
            "reason": record["denial_code"],
            "id": record["request_id"],
            "sequence": record["chain_sequence"],
            "hash": record["chain_record_hash"],
            "duration": latency(record, 1e6),
            "module": "arbiter", "dataset": "arbiter.audit",
        },
        "observer": { "vendor": VENDOR, "product": "Arbiter", "name": record["node_id"] },
        "rule": { "id": record["policy_matched"], "version": record["policy_version"] },
        "user": { "name": record["principal"] },
        "client": { "ip": record["client_addr"], "bytes": record["bytes_in"] },
        "server": { "address": host, "port": port, "bytes": record["bytes_out"] },
        "user_agent": { "original": record["user_agent"] },
        "http": {
            "request": { "method": record["http_method"] },
            "response": { "status_code": record["upstream_status"] },
        },
        "url": { "path": record["path"] },
        "trace": { "id": record["trace_id"] },
        "arbiter": whole,
    }))
}

fn cef(record: &Value) -> String {
    let severity = if is_allowed(record) { 3 } else { 6 };
    let id = record["denial_code"].as_str().unwrap_or_else(|| operation(record));
    let mut text = format!(
        "CEF:0|{VENDOR}|Arbiter|{}|{}|{}|{severity}|",
        env!("CARGO_PKG_VERSION"),
        header(id),
        header(operation(record))
    );
    let (host, port) = server(record);
    let number = |name: &str| record[name].as_u64().map(|n| n.to_string());
    let words = |name: &str| record[name].as_str().map(str::to_owned);
    let pairs = [
        ("rt", millis(record).map(|ms| ms.to_string())),
        ("externalId", words("request_id")),
        ("act", words("authorization_decision")),
        ("outcome", words("outcome")),
        ("reason", words("denial_code")),
        ("suser", words("principal")),
        ("src", words("client_addr")),
        ("requestMethod", words("http_method")),
        ("request", words("path")),
        ("requestClientApplication", words("user_agent")),
        ("dhost", host.map(str::to_owned)),
        ("dpt", port.map(|port| port.to_string())),
        ("dvchost", words("node_id")),
        ("in", number("bytes_in")),
        ("out", number("bytes_out")),
        ("cs1Label", Some("agent".to_owned())),
        ("cs1", words("agent_id")),
        ("cs2Label", Some("session".to_owned())),
        ("cs2", words("task_session_id")),
        ("cs3Label", Some("policy".to_owned())),
        ("cs3", words("policy_matched")),
        ("cs4Label", Some("chainRecordHash".to_owned())),
        ("cs4", words("chain_record_hash")),
        ("cs5Label", words("tool_outcome").map(|_said| "toolOutcome".to_owned())),
        ("cs5", words("tool_outcome")),
        ("cn1Label", Some("chainSequence".to_owned())),
        ("cn1", number("chain_sequence")),
    ];
    let held = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let written: Vec<_> =
        held.map(|(name, value)| format!("{name}={}", extension(&value))).collect();
    text.push_str(&written.join(" "));
    text
}

/// A field of CEF's header: no line breaks, bars and backslashes escaped.
fn header(text: &str) -> String {
    let plain = text.replace(['\r', '\n'], " ");
    plain.replace('\\', "\\\\").replace('|', "\\|")
}

/// A value of CEF's extension: equals signs, backslashes and line breaks escaped.
fn extension(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('=', "\\=");
    text.replace('\r', "\\r").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Value {
        json!({
            "timestamp": "2026-11-22T10:00:00.000007Z", "request_id": "r-1", "principal": "al|i=ce\n",
            "tool_called": "rm|x", "authorization_decision": "deny", "denial_code": "PolicyDenied",
            "client_addr": "192.0.2.7", "latency_ms": 1.5, "upstream_status": null,
            "chain_sequence": 7, "chain_record_hash": "ab", "chain_prev_hash": "cd",
            "agent_id": "a-1", "upstream_server": "[::1]:81", "arguments": {"x": 1},
        })
    }

    #[test]
    fn ocsf_has_the_classs_required_members_and_the_chains_hash() {
        let event = ocsf(&record());
        for (member, value) in [
            ("class_uid", json!(6003)),
            ("category_uid", json!(6)),
            ("activity_id", json!(99)),
            ("type_uid", json!(600_399)),
            ("time", json!(1_795_341_600_000_i64)),
            ("severity_id", json!(3)),
            ("action_id", json!(2)),
            ("status_code", json!("PolicyDenied")),
        ] {
            assert_eq!(event[member], value, "{member}");
        }
        assert_eq!(event["metadata"]["version"], OCSF_VERSION);
        assert_eq!(event["api"]["operation"], "rm|x");
        assert_eq!(event["actor"]["user"]["name"], "al|i=ce\n");
        assert_eq!(event["src_endpoint"]["ip"], "192.0.2.7");
        assert_eq!(event["unmapped"]["chain_record_hash"], "ab");
        assert_eq!(event["duration"], 2);
        assert_eq!(event["dst_endpoint"], json!({"hostname": "::1", "port": 81}));
        assert!(event["actor"]["session"].is_null(), "empty parts are left out");
        let own = ocsf(&json!({"event": "gateway.start", "node_id": "n"}));
        assert_eq!(own["src_endpoint"], json!({"name": "n"}));
        assert_eq!(own["actor"], json!({"app_name": "arbiter"}));
    }

    #[test]
    fn ecs_names_what_was_decided() {
        let event = ecs(&record());
        assert_eq!(event["event"]["outcome"], "failure");
        assert_eq!(event["event"]["hash"], "ab");
        assert_eq!(event["client"]["ip"], "192.0.2.7");
        assert_eq!(event["arbiter"]["chain_sequence"], 7);
        assert_eq!(event["arbiter"]["arguments"], "{\"x\":1}", "no field is named by an agent");
        assert_eq!(event["event"]["duration"], 1_500_000);
        assert_eq!(event["event"]["type"], json!(["denied"]));
    }

    #[test]
    fn how_the_tool_ended_is_exported() {
        for (outcome, status, ended) in [
            ("ok", 1, "success"),
            ("task", 1, "success"),
            ("tool_error", 2, "failure"),
            ("rpc_error", 2, "failure"),
            ("unknown", 0, "unknown"),
        ] {
            let mut record = record();
            record["authorization_decision"] = "allow".into();
            record["tool_outcome"] = outcome.into();
            let event = ocsf(&record);
            assert_eq!((&event["status_id"], &event["action_id"]), (&json!(status), &json!(1)));
            assert_eq!(event["status_detail"], outcome);
            let event = ecs(&record);
            assert_eq!(
                (&event["event"]["outcome"], &event["event"]["type"]),
                (&json!(ended), &json!(["allowed"]))
            );
            assert!(cef(&record).contains(&format!("cs5Label=toolOutcome cs5={outcome} ")));
        }
        assert!(!cef(&record()).contains("cs5"), "nothing was called");
    }

    #[test]
    fn cef_escapes_what_would_break_it() {
        let line = cef(&record());
        assert!(line.starts_with("CEF:0|Arbiter|Arbiter|"), "{line}");
        assert!(line.contains("|PolicyDenied|rm\\|x|6|"), "{line}");
        assert!(line.contains("suser=al|i\\=ce\\n src=192.0.2.7"), "{line}");
        assert!(line.contains("cs4=ab") && !line.contains('\n'), "{line}");
    }
}
