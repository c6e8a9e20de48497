//! Journals of processes that are gone, in a folder that several processes use one after the other.

use super::super::orphans::{Unfinished, unfinished};
use super::*;

/// Settings of another process in the folder of `bench`.
fn another(bench: &Bench, name: &str) -> Settings {
    Settings {
        path: bench.path().with_file_name(name),
        node_id: "node-2".to_owned(),
        max_calls_in_flight: SLOTS,
        ..bench.settings.clone()
    }
}

/// A log with a call under way, as a kill leaves it; and the call's id.
async fn killed() -> (Bench, Uuid) {
    let alive = Bench::new();
    let audit = alive.open();
    refuse(&audit, "before").await.unwrap();
    let entry = call("cut");
    let id = entry.request_id;
    let _open = audit.record_admitted(&entry).await.unwrap();
    let dead = Bench::new();
    fs::create_dir_all(dead.path().parent().unwrap()).unwrap();
    for suffix in ["", ".journal"] {
        fs::copy(beside(&alive.path(), suffix), beside(&dead.path(), suffix)).unwrap();
    }
    (dead, id)
}

#[tokio::test]
async fn the_next_process_in_the_folder_completes_the_calls() {
    let (bench, id) = killed().await;
    let expected = Unfinished { under_way: false, calls: vec![id] };
    assert_eq!(unfinished(&bench.path()).unwrap(), expected);
    let settings = another(&bench, "other.jsonl");
    let other = settings.path.clone();
    Audit::open(settings, bench.clock.clone()).unwrap().close();

    assert_eq!(bench.story(), ["before refused", "cut unknown"]);
    assert_eq!(bench.records()[1]["node_id"], "node-1");
    bench.assert_intact();
    assert_eq!(unfinished(&bench.path()).unwrap(), Unfinished::default());
    assert!(!beside(&bench.path(), ".journal").exists(), "it is not needed any more");
    let adopted: Value =
        serde_json::from_str(fs::read_to_string(other).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(adopted["event"], "journal_adopted", "{adopted}");
    assert_eq!(adopted["detail"]["calls"], 1);
    let head = bench.report().head.unwrap();
    assert_eq!(adopted["detail"]["head_sequence"], head.sequence);
    assert_eq!(adopted["detail"]["head_hash"], head.hash.to_string());
}

#[tokio::test]
async fn a_journal_that_a_process_holds_is_left_alone() {
    let bench = Bench::new();
    let audit = bench.open();
    let entry = call("running");
    let running = audit.record_admitted(&entry).await.unwrap();
    let settings = another(&bench, "other.jsonl");
    Audit::open(settings, bench.clock.clone()).unwrap().close();
    let found = unfinished(&bench.path()).unwrap();
    assert_eq!(found, Unfinished { under_way: true, calls: vec![entry.request_id] });
    running.complete(DONE);
    drop(audit);
    assert_eq!(bench.story(), ["running completed"]);
    assert_eq!(unfinished(&bench.path()).unwrap(), Unfinished::default());
}

#[tokio::test]
async fn finished_logs_count_among_the_files_to_keep() {
    let bench = Bench::new();
    let folder = bench.path().parent().unwrap().to_owned();
    fs::create_dir_all(&folder).unwrap();
    for (n, name) in ["old.jsonl", "new.jsonl"].iter().enumerate() {
        let file = fs::File::create(folder.join(name)).unwrap();
        let at = std::time::UNIX_EPOCH + Duration::from_secs(1_000 + n as u64);
        file.set_modified(at).unwrap();
    }
    let mut settings = another(&bench, "own.jsonl");
    settings.rotation.keep_files = 1;
    let own = settings.path.clone();
    Audit::open(settings, bench.clock).unwrap().close();
    assert!(!folder.join("old.jsonl").exists() && folder.join("new.jsonl").exists());
    let text = fs::read_to_string(own).unwrap();
    assert!(text.contains(r#""event":"finished_log_deleted""#) && text.contains("old.jsonl"));
}
