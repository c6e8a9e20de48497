//! Cost of the audit log: a line, its seal, a call through journal and log, and the check of it
//! all.
//!
//! `cargo bench --bench audit`. Logs go to memory (`/dev/shm`), those that are synced to the disk.
//! With `-- --sync-cost` a table of what a call costs that waits for the disk, and nothing else.

#![expect(clippy::expect_used, reason = "a benchmark that cannot start has nothing to say")]

use std::sync::Arc;

use arbiter::audit::chain::{Link, seal};
use arbiter::audit::verify::{Options, Start, verify};
use arbiter::audit::{Audit, Decision, Draft, Durability, Entry, Outcome, Redactor, Settings};
use arbiter::clock::Clock;
use arbiter::credentials::Patterns;
use arbiter::firewall::agent::AgentId;
use arbiter::firewall::session::SessionId;
use arbiter::firewall::time::Timestamp;
use arbiter::json::Doc;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use uuid::Uuid;

const CALLS: usize = 100_000;
const ARGUMENTS: &str = r#"{"path":"/srv/projects/alpha/report.md","options":{"limit":100,"apiKey":"x"},"lines":[1,2]}"#;

mod sync_cost;

fn main() {
    if std::env::args().any(|argument| argument == "--sync-cost") {
        return sync_cost::print(&entry());
    }
    divan::main();
}

fn entry() -> Entry {
    let doc = Doc::parse(ARGUMENTS.as_bytes()).expect("the arguments are JSON");
    let redactor = Redactor::new(&[], false).expect("the built-in patterns are good");
    Entry {
        agent_id: Some(AgentId::random()),
        principal: Some("alice@example.org".into()),
        delegation_chain: Arc::from([AgentId::random()]),
        task_session_id: Some(SessionId::random()),
        mcp_method: Some("tools/call".into()),
        tool_called: Some("read_file".into()),
        tools_called: vec!["read_file".to_owned()],
        arguments: Some(redactor.redact(doc.root(), 8_192, &Arc::new(Patterns::new([])))),
        policy_matched: Some("read-basic".into()),
        policy_version: Some("sha256:0123456789abcdef".into()),
        ..Entry::new(Timestamp(1_800_000_000_000_000), Uuid::new_v4(), Decision::Allow)
    }
}

fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a folder in memory")
}

fn open(folder: &tempfile::TempDir, durability: Durability) -> Audit {
    let settings =
        Settings { durability, ..Settings::at(folder.path().join("audit.jsonl"), "node-1") };
    Audit::open(settings, Clock::system()).expect("the log opens")
}

#[divan::bench]
fn redact(bencher: Bencher<'_, '_>) {
    let doc = Doc::parse(ARGUMENTS.as_bytes()).expect("the arguments are JSON");
    let redactor = Redactor::new(&[], false).expect("the built-in patterns are good");
    bencher.bench(|| redactor.redact(black_box(doc.root()), 8_192, &Arc::new(Patterns::new([]))));
}

#[divan::bench]
fn draft(bencher: Bencher<'_, '_>) {
    let entry = entry();
    bencher.bench(|| Draft::new(black_box(&entry), "node-1", 48));
}

/// The writer's own work on one record, without the write: its share of the time per record.
#[divan::bench]
fn finish_and_seal(bencher: Bencher<'_, '_>) {
    let draft = Draft::new(&entry(), "node-1", 48);
    let outcome = Outcome::completed(1_234, Some(200));
    let mut out = Vec::with_capacity(4_096);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        out.clear();
        draft.finish(&outcome, &mut out);
        seal(&mut out, 0, black_box(&Link::GENESIS))
    });
}

/// One caller; what the caller pays for the journal before the call may go upstream.
#[divan::bench]
fn admit_and_complete(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = memory();
    let audit = open(&folder, Durability::Write);
    let entry = entry();
    bencher.with_inputs(|| entry.clone()).bench_local_values(|entry| {
        // A writer that falls behind the only caller holds the slots: then it is waited for.
        if let Ok(receipt) = runtime.block_on(audit.record_admitted(&entry)) {
            receipt.complete(Outcome::completed(1_234, Some(200)));
        }
    });
}

/// Refusals of many callers: every one waits until its line is in the log.
#[divan::bench(sample_count = 5, args = [Mode::Write, Mode::Sync])]
fn records(bencher: Bencher<'_, '_>, mode: Mode) {
    let (durability, calls, folder) = match mode {
        Mode::Write => (Durability::Write, CALLS, memory()),
        // The disk's own answer, not the memory's.
        Mode::Sync => (Durability::Sync, 20_000, tempfile::tempdir().expect("a folder")),
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let audit = Arc::new(open(&folder, durability));
    let entry = entry();
    bencher.counter(ItemsCount::new(calls)).bench_local(|| {
        let tasks: Vec<_> = (0..500)
            .map(|_| {
                let (audit, entry) = (Arc::clone(&audit), entry.clone());
                runtime.spawn(async move {
                    for _ in 0..calls / 500 {
                        let outcome = Outcome::refused(17);
                        audit.record(entry.clone(), outcome).await.expect("the log is healthy");
                    }
                })
            })
            .collect();
        for task in tasks {
            runtime.block_on(task).expect("no task panics");
        }
    });
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Write,
    Sync,
}

#[divan::bench(sample_count = 10, args = [1, 2])]
fn verify_a_log(bencher: Bencher<'_, '_>, threads: usize) {
    let draft = Draft::new(&entry(), "node-1", 0);
    let mut log = Vec::new();
    let mut link = Link::GENESIS;
    for _ in 0..CALLS {
        let start = log.len();
        draft.finish(&Outcome::completed(1_234, Some(200)), &mut log);
        link = seal(&mut log, start, &link);
        log.push(b'\n');
    }
    let options = Options { start: Start::Genesis, known: &[link], threads };
    bencher.counter(BytesCount::new(log.len())).bench(|| {
        let report = verify(&log[..], &options).expect("memory is read");
        assert!(report.is_intact());
    });
}
