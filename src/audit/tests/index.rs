//! Searches by the index find what a search of the files finds, and read less.

use std::path::Path;

use super::*;
use crate::audit::index::Placed;
use crate::audit::record::Ids;
use crate::audit::search::{Found, LogPosition, Wanted, newest_first};
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;

const SESSIONS: u128 = 5;

fn session(n: u128) -> SessionId {
    SessionId(Uuid::from_u128(0x7000 + n % SESSIONS))
}

/// Writes refusals of five sessions in turn, each by an agent of its own.
async fn write(audit: &Audit, numbers: std::ops::Range<u128>) {
    for n in numbers {
        let entry = Entry {
            agent_id: Some(AgentId(Uuid::from_u128(0x9000 + n % SESSIONS))),
            principal: Some("alice".into()),
            task_session_id: Some(session(n)),
            request_id: Uuid::from_u128(n + 1),
            ..refusal(["read", "write"][usize::try_from(n % 2).unwrap()])
        };
        audit.record(entry, Outcome::refused(9)).await.unwrap();
    }
}

fn searches() -> Vec<Wanted> {
    let id = |n: u128| Some(Uuid::from_u128(n).to_string());
    let mut all: Vec<Wanted> = (0..=SESSIONS)
        .map(|n| Wanted { session_id: id(0x7000 + n), ..Wanted::default() })
        .collect();
    all.push(Wanted { agent_id: id(0x9001), tool: Some("read".to_owned()), ..Wanted::default() });
    all.push(Wanted { agent_id: id(0x9001), session_id: id(0x7002), ..Wanted::default() });
    all.push(Wanted { session_id: Some("no id".to_owned()), ..Wanted::default() });
    all.push(Wanted { tool: Some("write".to_owned()), ..Wanted::default() });
    all.extend([1, 7, 60, 61, 999].map(|n| Wanted { request_id: id(n), ..Wanted::default() }));
    all
}

fn pages(mut search: impl FnMut(Option<LogPosition>) -> io::Result<Found>) -> Vec<Vec<u8>> {
    let (mut lines, mut before) = (Vec::new(), None);
    loop {
        let found = search(before).unwrap();
        lines.extend(found.lines);
        let Some(next) = found.next else { return lines };
        assert!(before.is_none_or(|before| next < before), "{next} does not lead on");
        before = Some(next);
    }
}

fn assert_as_by_files(bench: &Bench, audit: &Audit) {
    let (log, index) = (bench.path(), audit.index().unwrap());
    for wanted in searches() {
        let by_files = pages(|before| newest_first(&log, &wanted, before, 1_000, u64::MAX));
        for (limit, bytes) in [(1_000, u64::MAX), (3, u64::MAX), (1, 1), (3, 700)] {
            let found = pages(|before| index.newest_first(&log, &wanted, before, limit, bytes));
            assert_eq!(found, by_files, "{wanted:?} {limit} {bytes}");
        }
    }
}

#[tokio::test]
async fn the_index_and_the_files_give_the_same_records() {
    for compress in [false, true] {
        let bench = Bench::with(|s| {
            s.rotation.bytes = 12_000;
            s.rotation.compress = compress;
        });
        let audit = bench.open();
        write(&audit, 0..20).await;
        assert_as_by_files(&bench, &audit);
        drop(audit);
        // The next process knows the places of its own records only.
        let audit = bench.open();
        assert_as_by_files(&bench, &audit);
        write(&audit, 20..60).await;
        assert_as_by_files(&bench, &audit);
        bench.clock.advance_us(1_000_000);
        audit.reopen().await.unwrap();
        assert_as_by_files(&bench, &audit);
        audit.close();
        assert_as_by_files(&bench, &audit);
    }
}

#[tokio::test]
async fn a_recent_record_is_read_and_not_the_log() {
    let bench = Bench::new();
    let audit = bench.open();
    write(&audit, 0..200).await;
    let (log, index) = (bench.path(), audit.index().unwrap());
    let line = index.line_of(&log, Uuid::from_u128(1)).unwrap().unwrap();
    assert!(line.starts_with(b"{\"timestamp\""), "the first of all");
    let first = Wanted { request_id: Some(Uuid::from_u128(1).to_string()), ..Wanted::default() };
    // One byte of the files may be read, which is one line.
    let found = index.newest_first(&log, &first, None, 10, 1).unwrap();
    assert_eq!((found.lines, found.next), (vec![line], None));
    let by_files = newest_first(&log, &first, None, 10, 1).unwrap();
    assert!(by_files.lines.is_empty(), "only the newest line was read");
}

#[tokio::test]
async fn a_log_that_others_changed_is_read_as_it_is() {
    let bench = Bench::new();
    let audit = bench.open();
    write(&audit, 0..20).await;
    let id = Uuid::from_u128(3);
    let wanted = Wanted { request_id: Some(id.to_string()), ..Wanted::default() };
    let index = audit.index().unwrap();
    let find =
        |log: &Path| index.newest_first(log, &wanted, None, 10, u64::MAX).unwrap().lines.len();
    assert_eq!(find(&bench.path()), 1);
    // Moved, and not yet noticed: other lines stand where the index points to.
    let text = fs::read_to_string(bench.path()).unwrap();
    let moved = bench.folder.path().join("moved.jsonl");
    fs::write(&moved, text.lines().rev().map(|line| line.to_owned() + "\n").collect::<String>())
        .unwrap();
    assert_eq!(find(&moved), 1);
    assert_eq!(index.line_of(&moved, id).unwrap(), None);
    fs::rename(bench.path(), bench.folder.path().join("aside")).unwrap();
    audit.reopen().await.unwrap();
    assert_eq!(find(&bench.path()), 0);
    write(&audit, 20..22).await;
    assert!(index.line_of(&bench.path(), Uuid::from_u128(22)).unwrap().is_some());
}

#[tokio::test]
async fn the_index_is_bounded() {
    let bench = Bench::new();
    let audit = bench.open();
    let index = audit.index().unwrap();
    let ids = |n| Ids { request: Uuid::from_u128(n), ..Ids::default() };
    let placed = |n| Placed { ids: ids(n), position: LogPosition::new(1, 0), length: 1 };
    index.add((0..100_000).map(placed));
    assert_eq!(index.len(), 32_768);
}
