//! Damage at the log's end, found at start: on record, in the log of the process and in the metrics.

use std::io::Write;

use serde_json::json;

use crate::support::chain;
use crate::support::harness::{Gateway, Setup, tool_call};

/// Starts the gateway again after `harm` was done to its log; returns the events since then.
fn events_after(gateway: &mut Gateway, harm: impl FnOnce(&str) -> String) -> Vec<String> {
    gateway.stop();
    let log = gateway.audit_file();
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::File::create(&log).unwrap().write_all(harm(&text).as_bytes()).unwrap();
    gateway.start_again();
    let records = gateway.records();
    let last = records.iter().rposition(|record| record["event"] == "gateway.start").unwrap();
    let before = records[..last].iter().rev();
    let events = before.map(|record| record["event"].as_str().unwrap_or_default().to_owned());
    events.take(1).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_or_missing_tail_at_start_is_said_counted_and_recorded() {
    let mut gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    gateway.call(&session, tool_call("read_file", json!({}))).await;
    let said = |gateway: &Gateway| {
        let log = std::fs::read_to_string(gateway.folder.path().join("log.txt")).unwrap();
        log.matches("audit log was found damaged at its end").count()
    };
    let counted = async |gateway: &Gateway| gateway.metric("arbiter_audit_tail_damage").await;
    assert_eq!((said(&gateway), counted(&gateway).await.to_string()), (0, "0".to_owned()));

    let torn = |text: &str| text.to_owned() + "{\"timestamp\":\"2026-11-22T10:00";
    assert_eq!(events_after(&mut gateway, torn), ["torn_line_set_aside"]);
    assert_eq!((said(&gateway), counted(&gateway).await.to_string()), (1, "1".to_owned()));
    chain::check(&gateway.audit_file());

    let missing = |text: &str| {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines[..lines.len() - 2].concat()
    };
    assert_eq!(events_after(&mut gateway, missing), ["log_tail_missing"]);
    assert_eq!((said(&gateway), counted(&gateway).await.to_string()), (2, "1".to_owned()));

    assert_eq!(events_after(&mut gateway, str::to_owned), ["gateway.stop"]);
    assert_eq!(counted(&gateway).await.to_string(), "0", "a whole log is no damage");
}
