use super::*;
use crate::audit::chain::{Link, seal};
use crate::audit::redact::Redactor;
use crate::credentials::Patterns;
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;
use crate::json::Doc;
use crate::json::write::breaks_lines;

fn none() -> Arc<Patterns> {
    Arc::new(Patterns::new([]))
}

fn id(text: &str) -> Uuid {
    Uuid::parse_str(text).unwrap()
}

fn bare() -> Entry {
    let at = Timestamp::parse("2026-11-22T10:00:00.000007Z").unwrap();
    Entry::new(at, id("7f9c24e8-3b12-4fef-91e0-5a3e2b8b1c01"), Decision::Deny)
}

fn full() -> Entry {
    let doc = Doc::parse(br#"{ "path" : "a\nb", "password" : [1] , "n": 1.50e3 }"#).unwrap();
    let agent = AgentId(id("11111111-1111-4111-8111-111111111111"));
    Entry {
        agent_id: Some(agent),
        principal: Some("alice".into()),
        delegation_chain: Arc::from([agent, AgentId(id("22222222-2222-4222-8222-222222222222"))]),
        task_session_id: Some(SessionId(id("33333333-3333-4333-8333-333333333333"))),
        mcp_method: Some("tools/call".into()),
        tool_called: Some("read_file".into()),
        tools_called: vec!["read_file".to_owned()],
        arguments: Some(Redactor::new(&[], false).unwrap().redact(doc.root(), 8_192, &none())),
        decision: Decision::Allow,
        upstream: Some("files".into()),
        policy_matched: Some("read-basic".into()),
        policy_version: Some("v1".into()),
        anomaly_flags: vec!["delete_under_admin"],
        credentials_injected: vec!["db".to_owned()],
        head: RequestHead::of(&HeadParts {
            client_addr: Some("192.0.2.7".parse().unwrap()),
            user_agent: Some("client/1 \"x\""),
            http_method: Some("POST"),
            path: Some("/mcp"),
            trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
        }),
        bytes_in: Some(120),
        approval: Some(Box::new(Approval {
            id: id("44444444-4444-4444-8444-444444444444"),
            by: Some("ops".into()),
        })),
        ..bare()
    }
}

fn line(entry: &Entry, outcome: &Outcome) -> String {
    let mut out = Vec::new();
    Draft::new(entry, "node-1", 0).finish(outcome, &mut out);
    String::from_utf8(out).unwrap()
}

fn value(entry: &Entry, outcome: &Outcome) -> serde_json::Value {
    serde_json::from_str(&(line(entry, outcome) + "}")).unwrap()
}

#[test]
fn the_bytes_of_a_record_and_its_hash_are_fixed() {
    let outcome = Outcome {
        credentials_scrubbed: 2,
        upstream_server: Some("10.0.0.2:8081".into()),
        tool_outcome: Some(ToolOutcome::ToolError),
        bytes_out: Some(77),
        ..Outcome::completed(1_234_005, Some(200))
    };
    let mut out = Vec::new();
    Draft::new(&full(), "node-1", 0).finish(&outcome, &mut out);
    let first = seal(&mut out, 0, &Link::GENESIS);
    out.push(b'\n');
    let start = out.len();
    let refusal = Entry {
        denial_code: Some("TokenMissing"),
        failure_category: Some("governance"),
        stage: Some("identity"),
        ..bare()
    };
    Draft::new(&refusal, "node-1", 0).finish(&Outcome::refused(17), &mut out);
    seal(&mut out, start, &first);
    out.push(b'\n');
    assert_eq!(String::from_utf8(out).unwrap(), include_str!("golden.jsonl"));
}

#[test]
fn an_unknown_outcome_reads_as_the_journal_has_it() {
    for entry in [full(), bare()] {
        let mut draft = Draft::new(&entry, "node-1", 48);
        let mut finished = Vec::new();
        draft.finish(&Outcome::default(), &mut finished);
        assert_eq!(draft.reserved_and_line()[48..], finished);
    }
    let unknown = value(&full(), &Outcome::default());
    assert_eq!(unknown["outcome"], "unknown");
    assert!(unknown["latency_ms"].is_null() && unknown["upstream_status"].is_null());
}

#[test]
fn every_member_is_always_there_and_in_order() {
    let members = |text: &str| -> Vec<String> {
        let doc = Doc::parse(text.as_bytes()).unwrap();
        doc.root().entries().map(|e| e.key().into_owned()).collect()
    };
    let expected = "timestamp request_id node_id agent_id principal delegation_chain \
        task_session_id mcp_method tool_called tools_called arguments input_responses authorization_decision \
        denial_code policy_matched policy_version anomaly_flags failure_category latency_ms \
        upstream_status credentials_injected credentials_scrubbed outcome tool_outcome stage upstream \
        upstream_server upstream_cause bytes_out task_status elicited_hosts client_addr user_agent http_method \
        path trace_id bytes_in approval_id approved_by continues event detail";
    let expected: Vec<&str> = expected.split_whitespace().collect();
    for entry in [full(), bare()] {
        for outcome in [Outcome::default(), Outcome::refused(0), Outcome::completed(1, None)] {
            assert_eq!(members(&(line(&entry, &outcome) + "}")), expected);
        }
    }
}

#[test]
fn latency_keeps_its_microseconds() {
    for (latency_us, written) in [
        (0, "0.000"),
        (7, "0.007"),
        (42, "0.042"),
        (999, "0.999"),
        (1_000, "1.000"),
        (61_000_010, "61000.010"),
        (u64::MAX, "18446744073709551.615"),
    ] {
        let text = line(&bare(), &Outcome::refused(latency_us));
        assert!(text.contains(&format!(",\"latency_ms\":{written},")), "{written}: {text}");
    }
}

#[test]
fn an_outcome_can_name_the_cause() {
    let outcome = Outcome {
        denial_code: Some("UpstreamTimeout"),
        failure_category: Some("infrastructure"),
        stage: Some("upstream"),
        completion: Completion::UpstreamFailed,
        ..Outcome::default()
    };
    let record = value(&full(), &outcome);
    assert_eq!(record["authorization_decision"], "allow");
    assert_eq!(record["denial_code"], "UpstreamTimeout");
    assert_eq!(record["failure_category"], "infrastructure");
    assert_eq!(record["stage"], "upstream");
    assert_eq!(record["outcome"], "upstream_failed");
}

#[test]
fn no_text_can_break_a_line_or_grow_it_without_bound() {
    let wild = "\u{0}\n\r\t\"\\\u{1b}[31m\u{7f}\u{85}\u{9b}\u{2028}\u{2029}é😀".to_owned();
    let entry = Entry {
        mcp_method: Some("x".repeat(1_000_000).into()),
        tool_called: Some(wild.as_str().into()),
        tools_called: vec!["\u{1}".repeat(300); 100_000],
        principal: Some("é".repeat(200).into()),
        ..full()
    };
    let text = line(&entry, &Outcome::default());
    assert!(!text.contains(breaks_lines), "{text}");
    assert!(text.len() < 64 * 1_024, "{}", text.len());
    let record = value(&entry, &Outcome::default());
    assert_eq!(record["tool_called"], wild);
    let method = record["mcp_method"].as_str().unwrap();
    let hash = blake3::hash("x".repeat(1_000_000).as_bytes()).to_hex();
    assert_eq!(method, format!("{}...[1000000 bytes, blake3 {hash:.16}]", "x".repeat(256)));
    assert!(record["principal"].as_str().unwrap().starts_with(&"é".repeat(128)));
    let tools = record["tools_called"].as_array().unwrap();
    let more = tools.last().unwrap().as_str().unwrap();
    assert_eq!(more, format!("+{} more", 100_000 - (tools.len() - 1)));
}

#[test]
fn lists_end_with_the_count_of_what_was_left_out() {
    let entry = Entry {
        tools_called: (0..300).map(|n| format!("t{n}")).collect(),
        delegation_chain: (0..257).map(|_| AgentId(Uuid::nil())).collect(),
        ..bare()
    };
    let record = value(&entry, &Outcome::default());
    let tools = record["tools_called"].as_array().unwrap();
    assert_eq!((tools.len(), &tools[255], &tools[256]), (257, &"t255".into(), &"+44 more".into()));
    assert_eq!(record["delegation_chain"].as_array().unwrap().last().unwrap(), "+1 more");
}

#[test]
fn events_carry_their_details() {
    let detail =
        vec![("agent", Detail::Text("a\"b".to_owned())), ("count", Detail::Count(u64::MAX))];
    let entry = Entry { event: Some(Box::new(Event { name: "agent_revoked", detail })), ..bare() };
    let record = value(&entry, &Outcome::completed(5, None));
    assert_eq!(record["event"], "agent_revoked");
    assert_eq!(record["detail"], serde_json::json!({"agent": "a\"b", "count": u64::MAX}));
}

#[test]
fn a_lines_request_id_is_read_back() {
    let text = line(&bare(), &Outcome::default());
    assert_eq!(request_id(text.as_bytes()), Some(bare().request_id));
    let bytes = text.as_bytes();
    assert_eq!(request_id(&bytes[..93]), Some(bare().request_id));
    for other in [b"", &b"{}"[..], b"{\"timestamp\":\"", &bytes[..92], &bytes[1..]] {
        assert_eq!(request_id(other), None, "{other:?}");
    }
}

#[test]
fn a_call_of_a_tool_says_how_the_tool_ended() {
    let ended =
        |outcome| Outcome { tool_outcome: Some(outcome), ..Outcome::completed(1, Some(200)) };
    let refused = Outcome { decision: Some(Decision::Deny), ..Outcome::refused(1) };
    let list = Entry { tool_called: None, ..full() };
    for (entry, outcome, expected) in [
        (full(), ended(ToolOutcome::Task), "task".into()),
        (full(), Outcome::default(), "unknown".into()),
        (full(), Outcome::completed(1, Some(200)), "unknown".into()),
        (full(), refused, serde_json::Value::Null),
        (
            Entry { decision: Decision::Deny, ..full() },
            Outcome::refused(1),
            serde_json::Value::Null,
        ),
        (list, Outcome::completed(1, Some(200)), serde_json::Value::Null),
    ] {
        assert_eq!(value(&entry, &outcome)["tool_outcome"], expected, "{outcome:?}");
    }
}

#[test]
fn what_was_refused_after_all_is_no_permission() {
    let outcome = Outcome {
        decision: Some(Decision::Deny),
        denial_code: Some("TooManySessions"),
        ..Outcome::refused(1)
    };
    let record = value(&full(), &outcome);
    assert_eq!(record["authorization_decision"], "deny");
    assert_eq!(record["denial_code"], "TooManySessions");
}

#[test]
fn the_name_that_ends_a_line_stands_in_it_once() {
    let text = br#"{"a":1,"chain_record_hash":"x","b":{"chain_record_hash":[{"chain_record_hash":"chain_record_hash"}]}}"#;
    let doc = Doc::parse(text).unwrap();
    let arguments = Redactor::new(&[], false).unwrap().redact(doc.root(), 8_192, &none());
    let entry = Entry { arguments: Some(arguments), ..bare() };
    let mut out = Vec::new();
    Draft::new(&entry, "node-1", 0).finish(&Outcome::refused(1), &mut out);
    seal(&mut out, 0, &Link::GENESIS);
    let marks = memchr::memmem::find_iter(&out, b",\"chain_record_hash\"").count();
    assert_eq!(marks, 1, "{}", String::from_utf8_lossy(&out));
    let record: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let sent: serde_json::Value = serde_json::from_slice(text).unwrap();
    assert_eq!(record["arguments"], sent, "it reads as it was sent");
}
