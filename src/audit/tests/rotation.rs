//! Closed files: their names, their order, and one chain through all of them.

use super::*;
use crate::audit::files::{closed_files, files_of, snapshot};
use crate::audit::verify::{FileReport, verify_files};

const GENESIS: Options<'static> = Options { start: Start::Genesis, known: &[], threads: 2 };

fn rotating(bytes: u64) -> Bench {
    Bench::with(|s| s.rotation.bytes = bytes)
}

fn reports(bench: &Bench) -> Vec<FileReport> {
    verify_files(&snapshot(&bench.path()).unwrap(), &GENESIS).unwrap()
}

fn assert_one_chain(bench: &Bench, records: u64) {
    let reports = reports(bench);
    for file in &reports {
        assert!(file.report.is_intact(), "{file:?}");
    }
    assert_eq!(reports.iter().map(|file| file.report.records).sum::<u64>(), records);
}

fn names(bench: &Bench) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    files_of(&bench.path()).unwrap().iter().map(name).collect()
}

/// The files of `bench` as a kill would leave them now.
fn killed(bench: &Bench) -> Bench {
    let copy = Bench::with(|s| *s = Settings { path: s.path.clone(), ..bench.settings.clone() });
    let folder = copy.path().parent().unwrap().to_owned();
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(bench.path().parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_full_file_is_put_aside_and_the_chain_goes_on() {
    let bench = rotating(4_000);
    let audit = bench.open();
    for _ in 0..20 {
        refuse(&audit, "a").await.unwrap();
    }
    drop(audit);
    let names = names(&bench);
    assert!(names.len() > 3, "{names:?}");
    assert_eq!(names[..2], ["audit.jsonl.000001", "audit.jsonl.000002"]);
    assert_eq!(names.last().unwrap(), "audit.jsonl");
    for file in closed_files(&bench.path()).unwrap() {
        assert!(fs::metadata(file.path).unwrap().len() <= 4_000);
    }
    assert_one_chain(&bench, 20);
    // The next process goes on with both.
    let audit = bench.open();
    refuse(&audit, "b").await.unwrap();
    audit.close();
    assert_one_chain(&bench, 21);
}

#[tokio::test]
async fn an_old_file_is_put_aside_even_if_nothing_happens() {
    let bench = Bench::with(|s| s.rotation.secs = 3_600);
    let audit = bench.open();
    refuse(&audit, "a").await.unwrap();
    bench.clock.advance_us(3_599_000_000);
    audit.reopen().await.unwrap();
    assert_eq!(names(&bench), ["audit.jsonl"]);
    bench.clock.advance_us(1_000_000);
    // An empty file is never put aside.
    for _ in 0..3 {
        audit.reopen().await.unwrap();
        bench.clock.advance_us(7_200_000_000);
    }
    assert_eq!(names(&bench), ["audit.jsonl.000001", "audit.jsonl"]);
    drop(audit);
    // Nor does an empty one make the next process begin another chain.
    let audit = bench.open();
    refuse(&audit, "b").await.unwrap();
    audit.close();
    assert_one_chain(&bench, 2);
}

#[tokio::test]
async fn a_kill_between_the_two_renames_loses_nothing() {
    let bench = rotating(0);
    let audit = bench.open();
    for _ in 0..3 {
        refuse(&audit, "a").await.unwrap();
    }
    let under_way = audit.record_admitted(&call("under way")).await.unwrap();
    let after = killed(&bench);
    fs::rename(after.path(), beside(&after.path(), ".000001")).unwrap();
    fs::write(beside(&after.path(), ".next"), "").unwrap();
    let next = after.open();
    refuse(&next, "b").await.unwrap();
    next.close();
    assert_eq!(after.story(), ["under way unknown", "b refused"]);
    assert_one_chain(&after, 5);
    drop(under_way);
}

#[tokio::test]
async fn a_call_that_outlasts_a_rotation_has_one_record() {
    let bench = rotating(3_000);
    let audit = bench.open();
    let open = audit.record_admitted(&call("open")).await.unwrap();
    let done = audit.record_admitted(&call("done")).await.unwrap();
    for _ in 0..9 {
        refuse(&audit, "a").await.unwrap();
    }
    done.complete(DONE);
    refuse(&audit, "a").await.unwrap();
    assert!(names(&bench).len() > 2);
    let after = killed(&bench);
    drop(after.open());
    assert_one_chain(&after, 12);
    let mut tools = Vec::new();
    for path in files_of(&after.path()).unwrap() {
        let text = fs::read_to_string(path).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        tools.extend(records.map(|r| format!("{}-{}", r["tool_called"], r["outcome"])));
    }
    tools.retain(|tool| !tool.contains("refused"));
    tools.sort();
    assert_eq!(tools, ["\"done\"-\"completed\"", "\"open\"-\"unknown\""]);
    drop(open);
}

#[tokio::test]
async fn closed_files_are_compressed_and_verified_all_the_same() {
    let bench =
        Bench::with(|s| s.rotation = Rotation { bytes: 4_000, compress: true, ..s.rotation });
    let audit = bench.open();
    for _ in 0..20 {
        refuse(&audit, "a").await.unwrap();
    }
    audit.close();
    drop(audit);
    // What was left uncompressed is compressed by the next process.
    let mut compressor = compress::Compressor::default();
    compressor.start(&bench.path());
    compressor.finish();
    let names = names(&bench);
    let (live, closed) = names.split_last().unwrap();
    assert_eq!(live, "audit.jsonl");
    assert!(closed.len() > 2 && closed.iter().all(|name| name.contains(".zst")), "{names:?}");
    assert_one_chain(&bench, 20);
    // The chain goes on behind a compressed file, too.
    fs::remove_file(bench.path()).unwrap();
    fs::remove_file(beside(&bench.path(), ".journal")).unwrap();
    let reached = reports(&bench).last().unwrap().report.head.unwrap();
    let audit = bench.open();
    assert_eq!(audit.head().sequence, reached.sequence);
    refuse(&audit, "b").await.unwrap();
    audit.close();
    assert_one_chain(&bench, reached.sequence + 1);
}

#[tokio::test]
async fn a_rotation_that_fails_refuses_nothing() {
    let bench = rotating(2_000);
    let next = beside(&bench.path(), ".next");
    fs::create_dir_all(&next).unwrap();
    let audit = bench.open();
    for _ in 0..9 {
        refuse(&audit, "a").await.unwrap();
    }
    assert_eq!(names(&bench), ["audit.jsonl"]);
    fs::remove_dir(next).unwrap();
    bench.clock.advance_us(60_000_000);
    refuse(&audit, "a").await.unwrap();
    audit.close();
    assert_eq!(names(&bench), ["audit.jsonl.000001", "audit.jsonl"]);
    assert_one_chain(&bench, 10);
}

#[tokio::test]
async fn a_log_that_was_moved_away_is_opened_anew_on_request() {
    let bench = Bench::new();
    let audit = bench.open();
    refuse(&audit, "a").await.unwrap();
    let moved = beside(&bench.path(), ".1");
    fs::rename(bench.path(), &moved).unwrap();
    audit.reopen().await.unwrap();
    audit.reopen().await.unwrap();
    assert!(bench.path().exists());
    refuse(&audit, "b").await.unwrap();
    audit.close();
    assert_eq!(bench.story(), ["log_replaced", "b refused"]);
    let files = [moved.into(), bench.path().into()];
    let reports = verify_files(&files, &GENESIS).unwrap();
    assert!(reports.iter().all(|file| file.report.is_intact()), "{reports:?}");
}

#[tokio::test]
async fn files_in_the_wrong_order_or_missing_are_found() {
    let bench = rotating(3_000);
    let audit = bench.open();
    for _ in 0..16 {
        refuse(&audit, "a").await.unwrap();
    }
    audit.close();
    let whole = files_of(&bench.path()).unwrap();
    assert!(whole.len() > 3);
    let damaged = |files: &[PathBuf]| {
        let reports = verify_files(&given(files), &GENESIS).unwrap();
        reports.iter().any(|file| !file.report.is_intact())
    };
    assert!(!damaged(&whole));
    for n in 0..whole.len() {
        let mut files = whole.clone();
        files.remove(n);
        // The last one missing is a cut at a file's end: only what is known beside the log tells.
        assert_eq!(damaged(&files), n + 1 < whole.len(), "without file {n}");
        let mut files = whole.clone();
        files.swap(n, (n + 1) % whole.len());
        assert!(damaged(&files), "{n} swapped");
    }
    let head = reports(&bench).last().unwrap().report.head;
    let known = Options { known: head.as_slice(), ..GENESIS };
    let cut = verify_files(&given(&whole[..whole.len() - 1]), &known).unwrap();
    let found = cut.last().unwrap().report.findings[0].damage;
    assert!(matches!(found, chain::Damage::MissingTail { .. }), "{found:?}");
}
