//! Recovery after a kill. A crash is a copy of the files while calls are in flight.

use super::*;

/// The files of `bench` as a kill would leave them now, in a folder of their own.
fn killed(bench: &Bench) -> Bench {
    let copy = Bench::with(|s| *s = Settings { path: s.path.clone(), ..bench.settings.clone() });
    fs::create_dir_all(copy.path().parent().unwrap()).unwrap();
    copy_log(bench, &copy);
    copy_journal(bench, &copy);
    copy
}

fn copy_log(from: &Bench, to: &Bench) {
    fs::copy(from.path(), to.path()).unwrap();
}

fn copy_journal(from: &Bench, to: &Bench) {
    fs::copy(beside(&from.path(), ".journal"), beside(&to.path(), ".journal")).unwrap();
}

fn append(bench: &Bench, bytes: &[u8]) {
    let mut content = fs::read(bench.path()).unwrap();
    content.extend_from_slice(bytes);
    fs::write(bench.path(), content).unwrap();
}

#[tokio::test]
async fn a_call_under_way_is_on_record_after_a_crash() {
    let bench = Bench::new();
    let audit = bench.open();
    refuse(&audit, "before").await.unwrap();
    let _first = audit.record_admitted(&call("first")).await.unwrap();
    let mut long = call("long");
    long.tools_called = (0..200).map(|n| format!("tool-{n}-{}", "x".repeat(40))).collect();
    let long_id = long.request_id;
    let _long = audit.record_admitted(&long).await.unwrap();
    audit.record_admitted(&call("done")).await.unwrap().complete(DONE);
    refuse(&audit, "after").await.unwrap();

    let after = killed(&bench);
    drop(after.open());
    assert_eq!(
        after.story(),
        ["before refused", "done completed", "after refused", "first unknown", "long unknown"]
    );
    let long = &after.records()[4];
    assert_eq!(long["request_id"], long_id.to_string());
    assert_eq!(long["tools_called"].as_array().unwrap().len(), 200);
    assert_eq!(long["authorization_decision"], "allow");
    after.assert_intact();
    // Nothing is told twice.
    drop(after.open());
    assert_eq!(after.story().len(), 5);
    assert_eq!(after.records()[0], bench.records()[0]);
}

#[tokio::test]
async fn a_line_that_was_written_but_not_noted_is_not_doubled() {
    let bench = Bench::new();
    let audit = bench.open();
    refuse(&audit, "before").await.unwrap();
    let open = audit.record_admitted(&call("open")).await.unwrap();
    let written = audit.record_admitted(&call("written")).await.unwrap();
    let after = killed(&bench);
    written.complete(DONE);
    refuse(&audit, "last").await.unwrap();
    // The log is newer than the journal.
    copy_log(&bench, &after);
    drop(after.open());
    let story = ["before refused", "written completed", "last refused", "open unknown"];
    assert_eq!(after.story(), story);
    after.assert_intact();
    drop(open);
}

#[tokio::test]
async fn slots_of_a_crash_are_free_again() {
    let bench = Bench::new();
    let audit = bench.open();
    let mut receipts = Vec::new();
    for _ in 0..SLOTS {
        receipts.push(audit.record_admitted(&call("a")).await.unwrap());
    }
    let after = killed(&bench);
    let audit = after.open();
    assert_eq!(after.story().len(), 16);
    for _ in 0..SLOTS {
        receipts.push(audit.record_admitted(&call("b")).await.unwrap());
    }
    receipts.truncate(16);
    audit.close();
    assert_eq!(after.story().len(), 32);
    after.assert_intact();
}

#[tokio::test]
async fn a_torn_last_line_is_set_aside_and_told() {
    let bench = Bench::new();
    refuse(&bench.open(), "a").await.unwrap();
    let whole = fs::read(bench.path()).unwrap();
    let torn = [
        whole[..whole.len() - 1].to_vec(),
        whole[..40].to_vec(),
        b"x".to_vec(),
        vec![0; 5_000],
        [&[0; 100], &b"{}\n"[..]].concat(),
        b"{\"timestamp\":\"2026\n".to_vec(),
    ];
    for (n, torn) in torn.iter().enumerate() {
        append(&bench, torn);
        let audit = bench.open();
        refuse(&audit, "b").await.unwrap();
        drop(audit);
        let records = bench.records();
        let told = &records[records.len() - 2];
        assert_eq!(told["event"], "torn_line_set_aside");
        assert_eq!(told["detail"]["bytes"], torn.len());
        assert_eq!(told["detail"]["blake3"], blake3::hash(torn).to_hex().to_string());
        let aside = beside(&bench.path(), &format!(".torn-{}", n + 1));
        assert_eq!(&fs::read(aside).unwrap(), torn);
        bench.assert_intact();
    }
}

#[tokio::test]
async fn a_first_line_can_be_torn_too() {
    let bench = Bench::new();
    refuse(&bench.open(), "a").await.unwrap();
    let whole = fs::read(bench.path()).unwrap();
    for path in [bench.path(), beside(&bench.path(), ".journal")] {
        fs::remove_file(path).unwrap();
    }
    fs::write(bench.path(), &whole[..100]).unwrap();
    refuse(&bench.open(), "b").await.unwrap();
    assert_eq!(bench.story(), ["torn_line_set_aside", "b refused"]);
    bench.assert_intact();
}

#[tokio::test]
async fn lines_missing_from_the_end_are_noticed() {
    let bench = Bench::new();
    let audit = bench.open();
    for tool in ["a", "b", "c"] {
        refuse(&audit, tool).await.unwrap();
    }
    drop(audit);
    let text = fs::read_to_string(bench.path()).unwrap();
    let kept: String = text.split_inclusive('\n').take(1).collect();
    fs::write(bench.path(), &kept).unwrap();
    drop(bench.open());
    assert_eq!(bench.story(), ["a refused", "log_tail_missing"]);
    let detail = &bench.records()[1]["detail"];
    assert_eq!((&detail["reached_sequence"], &detail["found_sequence"]), (&3.into(), &1.into()));
    let findings = bench.report().findings;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].damage, chain::Damage::SequenceGap { expected: 2, found: 4 });
    // It is told once.
    drop(bench.open());
    assert_eq!(bench.records().len(), 2);

    fs::remove_file(bench.path()).unwrap();
    drop(bench.open());
    assert_eq!(bench.story(), ["log_tail_missing"]);
    assert_eq!(bench.records()[0]["chain_sequence"], 5);
}

#[tokio::test]
async fn a_changed_last_line_is_not_built_upon() {
    let bench = Bench::new();
    let audit = bench.open();
    refuse(&audit, "a").await.unwrap();
    refuse(&audit, "b").await.unwrap();
    drop(audit);
    let text = fs::read_to_string(bench.path()).unwrap();
    fs::write(bench.path(), text.replace("\"tool_called\":\"b\"", "\"tool_called\":\"x\""))
        .unwrap();
    drop(bench.open());
    assert_eq!(bench.story(), ["a refused", "torn_line_set_aside", "log_tail_missing"]);
}

#[test]
fn somebody_elses_file_is_refused_and_left_alone() {
    for content in [&b"root:x:0:0:root:/root:/bin/bash\n"[..], b"no newline", b"{\"a\":1}\n"] {
        let bench = Bench::new();
        fs::create_dir_all(bench.path().parent().unwrap()).unwrap();
        fs::write(bench.path(), content).unwrap();
        assert!(matches!(bench.try_open().err(), Some(OpenError::NotALog { .. })));
        assert_eq!(fs::read(bench.path()).unwrap(), content);
    }
    let bench = Bench::new();
    fs::create_dir_all(bench.path()).unwrap();
    assert!(matches!(bench.try_open().err(), Some(OpenError::Io { .. })));
}
