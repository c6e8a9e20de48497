//! The log as its users see it: what is in the file after calls, crashes and failures.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::files::LogFile;
use super::log::faults::Fault;
use super::start::prepare;
use super::verify::{Options, Report, Start, verify};
use super::*;
use crate::firewall::time::Timestamp;

mod checkpoints;
mod crashes;
mod damage;
mod failures;
mod floods;
mod index;
mod orphans;
mod retention;
mod rotation;

const SLOTS: u32 = 16;

/// Files of a log, by their paths in order.
fn given(paths: &[PathBuf]) -> Vec<LogFile> {
    paths.iter().cloned().map(LogFile::from).collect()
}

/// A log in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
    settings: Settings,
    slots: u32,
    clock: Clock,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            max_unauthenticated_records_per_sec: u32::MAX,
            ..Settings::at(folder.path().join("logs/audit.jsonl"), "node-1")
        };
        change(&mut settings);
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        Self { folder, settings, slots: SLOTS, clock }
    }

    fn path(&self) -> PathBuf {
        self.settings.path.clone()
    }

    fn try_open(&self) -> Result<(Audit, Fault), OpenError> {
        let (shared, writer) =
            prepare(self.settings.clone(), self.clock.clone(), self.slots, Vec::new())?;
        let fault = writer.fault();
        Ok((Audit::start((shared, writer))?, fault))
    }

    fn open(&self) -> Audit {
        self.try_open().unwrap().0
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "half a line: {text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Every record's tool and outcome, or its event.
    fn story(&self) -> Vec<String> {
        let word = |v: &Value| v.as_str().unwrap_or("-").to_owned();
        self.records()
            .iter()
            .map(|record| match &record["event"] {
                Value::String(event) => event.clone(),
                _ => format!("{} {}", word(&record["tool_called"]), word(&record["outcome"])),
            })
            .collect()
    }

    fn report(&self) -> Report {
        let options = Options { start: Start::Genesis, known: &[], threads: 1 };
        verify(fs::File::open(self.path()).unwrap(), &options).unwrap()
    }

    fn assert_intact(&self) {
        let report = self.report();
        assert!(report.is_intact(), "{:?}", report.findings);
        let mut ids: Vec<_> =
            self.records().iter().map(|r| r["request_id"].as_str().unwrap().to_owned()).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "a request has two records");
    }
}

fn call(tool: &str) -> Entry {
    let mut entry =
        Entry::new(Timestamp::from_secs(1_800_000_000), Uuid::new_v4(), Decision::Allow);
    entry.tool_called = Some(tool.into());
    entry
}

fn refusal(tool: &str) -> Entry {
    Entry { decision: Decision::Deny, denial_code: Some("PolicyDenied"), ..call(tool) }
}

const DONE: Outcome = Outcome {
    latency_us: 1_500,
    upstream_status: Some(200),
    upstream_server: None,
    upstream_cause: None,
    credentials_scrubbed: 0,
    tool_outcome: None,
    bytes_out: None,
    task_status: None,
    elicited_hosts: Vec::new(),
    decision: None,
    denial_code: None,
    failure_category: None,
    stage: None,
    completion: Completion::Completed,
};

async fn refuse(audit: &Audit, tool: &str) -> Result<(), AuditUnavailable> {
    audit.record(refusal(tool), Outcome::refused(9)).await
}

/// Waits until the log works again, a few seconds at most.
async fn recovered(audit: &Audit) {
    let healthy = async {
        while !audit.healthy() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), healthy).await.unwrap();
}

#[tokio::test]
async fn one_line_carries_decision_and_outcome() {
    let bench = Bench::new();
    let audit = bench.open();
    assert_eq!(audit.head().sequence, 0);
    let receipt = audit.record_admitted(&call("a")).await.unwrap();
    refuse(&audit, "b").await.unwrap();
    assert_eq!(bench.story(), ["b refused"]);
    receipt.complete(DONE);
    audit.close();
    assert_eq!(bench.story(), ["b refused", "a completed"]);
    let records = bench.records();
    assert_eq!(records[1]["authorization_decision"], "allow");
    assert_eq!(records[1]["upstream_status"], 200);
    assert_eq!(records[1]["latency_ms"], 1.5);
    assert_eq!(records[1]["node_id"], "node-1");
    assert_eq!(records[0]["denial_code"], "PolicyDenied");
    assert_eq!(audit.records_written(), 2);
    assert_eq!(audit.head().sequence, 2);
    assert_eq!(audit.head().hash, records[1]["chain_record_hash"]);
    bench.assert_intact();
}

#[tokio::test]
async fn the_chain_goes_on_over_restarts() {
    let bench = Bench::new();
    for n in 1..=3 {
        let audit = bench.open();
        audit.record_admitted(&call("a")).await.unwrap().complete(DONE);
        refuse(&audit, "b").await.unwrap();
        assert_eq!(audit.head().sequence, n * 2);
    }
    assert_eq!(bench.story().len(), 6);
    bench.assert_intact();
}

#[tokio::test]
async fn a_dropped_receipt_says_that_the_outcome_is_unknown() {
    let bench = Bench::new();
    let audit = bench.open();
    drop(audit.record_admitted(&call("a")).await.unwrap());
    audit.close();
    assert_eq!(bench.story(), ["a unknown"]);
}

#[tokio::test]
async fn calls_under_way_are_bounded_by_the_slots() {
    let bench = Bench::new();
    let audit = bench.open();
    let mut receipts = Vec::new();
    for _ in 0..SLOTS {
        receipts.push(audit.record_admitted(&call("a")).await.unwrap());
    }
    let refused = audit.record_admitted(&call("over")).await.err();
    assert_eq!(refused, Some(AuditUnavailable::NoRoom));
    assert!(audit.healthy());
    receipts.pop().unwrap().complete(DONE);
    // The slot is free once this later record is in the log.
    refuse(&audit, "over").await.unwrap();
    let free = async {
        while audit.record_admitted(&call("b")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), free).await.unwrap();
    drop(receipts);
    audit.close();
    assert_eq!(bench.story().len(), 18);
    bench.assert_intact();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_leave_one_record_each() {
    for durability in [Durability::Write, Durability::Sync] {
        let mut bench = Bench::with(|s| s.durability = durability);
        bench.slots = 1_024;
        let audit = Arc::new(bench.open());
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let audit = Arc::clone(&audit);
                tokio::spawn(async move {
                    for _ in 0..50 {
                        let receipt = audit.record_admitted(&call(&format!("t{n}"))).await.unwrap();
                        refuse(&audit, "r").await.unwrap();
                        receipt.complete(DONE);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        audit.close();
        assert_eq!(bench.records().len(), 800);
        assert_eq!(audit.records_written(), 800);
        bench.assert_intact();
    }
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let bench = Bench::new();
    let audit = bench.open();
    assert!(matches!(bench.try_open().err(), Some(OpenError::InUse { .. })));
    drop(audit);
    bench.open();
}

#[tokio::test]
async fn switched_off_everything_succeeds_and_nothing_is_written() {
    let bench = Bench::with(|s| s.enabled = false);
    let clock = Clock::manual(Timestamp::from_secs(0));
    let audit = Audit::open(bench.settings.clone(), clock).unwrap();
    audit.record_admitted(&call("a")).await.unwrap().complete(DONE);
    refuse(&audit, "b").await.unwrap();
    assert!(audit.healthy() && audit.head().healthy);
    assert_eq!((audit.records_written(), audit.head().sequence), (0, 0));
    audit.close();
    assert!(!bench.path().exists());
}

#[tokio::test]
async fn without_a_chain_lines_have_no_chain_members_and_it_can_be_switched_on_again() {
    let mut bench = Bench::new();
    refuse(&bench.open(), "a").await.unwrap();
    bench.settings.hash_chain = false;
    let audit = bench.open();
    refuse(&audit, "b").await.unwrap();
    assert_eq!(audit.head().sequence, 1);
    drop(audit);
    refuse(&bench.open(), "c").await.unwrap();
    bench.settings.hash_chain = true;
    refuse(&bench.open(), "d").await.unwrap();
    assert_eq!(bench.story(), ["a refused", "b refused", "c refused", "d refused"]);
    let records = bench.records();
    assert!(records[1].get("chain_sequence").is_none());
    assert_eq!(records[3]["chain_sequence"], 2);
    assert_eq!(records[3]["chain_prev_hash"], records[0]["chain_record_hash"]);
}

#[tokio::test]
async fn after_close_nothing_is_admitted() {
    let bench = Bench::new();
    let audit = bench.open();
    let late = audit.record_admitted(&call("late")).await.unwrap();
    audit.close();
    audit.close();
    assert!(!audit.healthy());
    assert!(audit.record_admitted(&call("a")).await.is_err());
    assert!(refuse(&audit, "b").await.is_err());
    late.complete(DONE);
    drop(audit);
    // The journal has kept the late one, though not how it ended.
    bench.open();
    assert_eq!(bench.story(), ["late unknown"]);
}

#[test]
fn receipts_can_go_anywhere() {
    fn anywhere<T: Send + Sync + 'static>() {}
    anywhere::<Receipt>();
    anywhere::<Audit>();
}
