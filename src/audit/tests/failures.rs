//! Behavior while the log cannot be written, and recovery without help.

use super::*;

#[tokio::test]
async fn a_full_disk_refuses_and_then_resumes_without_a_gap() {
    for room in [0, 1, 700] {
        let bench = Bench::new();
        let (audit, fault) = bench.try_open().unwrap();
        refuse(&audit, "before").await.unwrap();
        let under_way = audit.record_admitted(&call("under way")).await.unwrap();
        fault.full_after(room);
        assert_eq!(refuse(&audit, "lost").await, Err(AuditUnavailable::Unhealthy));
        assert!(!audit.healthy() && !audit.head().healthy);
        assert_eq!(
            audit.record_admitted(&call("no")).await.err(),
            Some(AuditUnavailable::Unhealthy)
        );
        assert_eq!(refuse(&audit, "lost").await, Err(AuditUnavailable::Unhealthy));
        under_way.complete(DONE);
        assert_eq!(bench.story(), ["before refused"]);
        fault.mend();
        recovered(&audit).await;
        refuse(&audit, "after").await.unwrap();
        audit.close();
        let mut story = bench.story();
        assert_eq!(story.pop().unwrap(), "after refused");
        story.sort();
        assert_eq!(story, ["audit_gap", "before refused", "under way completed"]);
        let gap = bench.records().into_iter().find(|r| r["event"] == "audit_gap").unwrap();
        assert_eq!(gap["detail"]["count"], 2);
        bench.assert_intact();
    }
}

#[tokio::test]
async fn a_failing_sync_is_a_failing_write() {
    let bench = Bench::with(|s| s.durability = Durability::Sync);
    let (audit, fault) = bench.try_open().unwrap();
    refuse(&audit, "before").await.unwrap();
    fault.fail_to_sync();
    assert!(refuse(&audit, "lost").await.is_err());
    assert!(audit.record_admitted(&call("no")).await.is_err());
    assert_eq!(bench.story(), ["before refused"]);
    fault.mend();
    recovered(&audit).await;
    audit.record_admitted(&call("after")).await.unwrap().complete(DONE);
    audit.close();
    assert_eq!(bench.story(), ["before refused", "audit_gap", "after completed"]);
    bench.assert_intact();
}

#[tokio::test]
async fn without_require_healthy_requests_pass_and_are_counted() {
    let bench = Bench::with(|s| s.require_healthy = false);
    let (audit, fault) = bench.try_open().unwrap();
    fault.full_after(0);
    refuse(&audit, "first").await.unwrap();
    assert!(!audit.healthy());
    refuse(&audit, "second").await.unwrap();
    audit.record_admitted(&call("third")).await.unwrap().complete(DONE);
    fault.mend();
    recovered(&audit).await;
    refuse(&audit, "after").await.unwrap();
    audit.close();
    assert_eq!(bench.story(), ["audit_gap", "after refused"]);
    assert_eq!(bench.records()[0]["detail"]["count"], 3);
    bench.assert_intact();
}

#[tokio::test]
async fn what_was_completed_in_vain_is_unknown_at_the_next_start() {
    let bench = Bench::new();
    let (audit, fault) = bench.try_open().unwrap();
    let receipt = audit.record_admitted(&call("a")).await.unwrap();
    fault.full_after(10);
    receipt.complete(DONE);
    audit.close();
    drop(audit);
    assert_eq!(bench.story(), Vec::<String>::new());
    drop(bench.open());
    assert_eq!(bench.story(), ["a unknown"]);
}

#[tokio::test]
async fn a_deleted_log_is_made_again_and_the_chain_goes_on() {
    let bench = Bench::new();
    let audit = bench.open();
    refuse(&audit, "a").await.unwrap();
    let before = audit.head();
    fs::remove_file(bench.path()).unwrap();
    refuse(&audit, "b").await.unwrap();
    assert_eq!(bench.story(), ["log_replaced", "b refused"]);
    assert_eq!(bench.records()[0]["chain_prev_hash"], before.hash);
    assert_eq!(bench.records()[0]["chain_sequence"], before.sequence + 1);
    // An idle writer notices too.
    fs::rename(bench.path(), bench.folder.path().join("rotated")).unwrap();
    let there = async {
        while fs::metadata(bench.path()).map_or(0, |m| m.len()) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), there).await.unwrap();
    drop(audit);
    assert_eq!(bench.story(), ["log_replaced"]);
}

#[tokio::test]
async fn a_folder_in_the_logs_place_refuses_until_it_is_gone() {
    let bench = Bench::new();
    let audit = bench.open();
    let under_way = audit.record_admitted(&call("under way")).await.unwrap();
    fs::remove_file(bench.path()).unwrap();
    fs::create_dir(bench.path()).unwrap();
    assert!(refuse(&audit, "lost").await.is_err());
    assert!(audit.record_admitted(&call("no")).await.is_err());
    under_way.complete(DONE);
    fs::remove_dir(bench.path()).unwrap();
    recovered(&audit).await;
    audit.close();
    let mut story = bench.story();
    story.sort();
    assert_eq!(story, ["audit_gap", "log_replaced", "under way completed"]);
}

#[tokio::test]
async fn somebody_elses_file_in_the_logs_place_is_not_written_to() {
    let bench = Bench::new();
    let audit = bench.open();
    refuse(&audit, "a").await.unwrap();
    let spare = bench.folder.path().join("letter");
    fs::write(&spare, "dear diary").unwrap();
    fs::rename(&spare, bench.path()).unwrap();
    assert!(refuse(&audit, "lost").await.is_err());
    assert!(refuse(&audit, "lost").await.is_err());
    assert_eq!(fs::read(bench.path()).unwrap(), b"dear diary");
    fs::remove_file(bench.path()).unwrap();
    recovered(&audit).await;
    refuse(&audit, "b").await.unwrap();
    assert_eq!(bench.story(), ["audit_gap", "log_replaced", "b refused"]);
}

#[tokio::test]
async fn lines_of_somebody_else_are_set_aside() {
    let bench = Bench::new();
    let audit = bench.open();
    refuse(&audit, "a").await.unwrap();
    let mut text = fs::read(bench.path()).unwrap();
    text.extend_from_slice(b"{\"forged\":1}\n");
    fs::write(bench.path(), &text).unwrap();
    refuse(&audit, "b").await.unwrap();
    drop(audit);
    assert_eq!(bench.story(), ["a refused", "torn_line_set_aside", "log_resized", "b refused"]);
    bench.assert_intact();
}

#[tokio::test]
async fn an_emptied_log_goes_on_and_says_so() {
    let bench = Bench::new();
    let audit = bench.open();
    refuse(&audit, "a").await.unwrap();
    fs::write(bench.path(), "").unwrap();
    refuse(&audit, "b").await.unwrap();
    assert_eq!(bench.story(), ["log_resized", "b refused"]);
    assert_eq!(bench.records()[0]["chain_sequence"], 2);
}

#[tokio::test]
async fn a_lost_journal_refuses_nothing() {
    let bench = Bench::new();
    let audit = bench.open();
    let receipt = audit.record_admitted(&call("a")).await.unwrap();
    let journal = beside(&bench.path(), ".journal");
    fs::remove_file(&journal).unwrap();
    refuse(&audit, "b").await.unwrap();
    assert!(journal.exists());
    receipt.complete(DONE);
    audit.record_admitted(&call("c")).await.unwrap().complete(DONE);
    audit.close();
    assert_eq!(bench.story(), ["b refused", "a completed", "c completed"]);
    bench.assert_intact();
}

#[tokio::test]
async fn a_journal_that_cannot_be_put_back_refuses_until_it_can() {
    let bench = Bench::new();
    let audit = bench.open();
    let under_way = audit.record_admitted(&call("under way")).await.unwrap();
    let journal = beside(&bench.path(), ".journal");
    fs::remove_file(&journal).unwrap();
    fs::create_dir(&journal).unwrap();
    assert!(refuse(&audit, "lost").await.is_err());
    assert!(audit.record_admitted(&call("no")).await.is_err());
    fs::remove_dir(&journal).unwrap();
    recovered(&audit).await;
    under_way.complete(DONE);
    audit.close();
    assert_eq!(bench.story(), ["audit_gap", "under way completed"]);
    bench.assert_intact();
}
