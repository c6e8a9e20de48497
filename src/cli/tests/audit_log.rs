use super::*;

#[tokio::test]
async fn a_log_is_verified_and_its_end_is_shown() {
    let arbiter = Running::start().await;
    arbiter.json("agent register --owner o --model m").await;
    arbiter.json("agent register --owner p --model m").await;
    let head = arbiter.bench.admin.audit.head();
    arbiter.bench.admin.audit.close();
    let closed = arbiter.bench.admin.audit.head();
    let log = arbiter.bench.dir.path().join("audit.jsonl");
    let shown = log.display();
    let ran = run(&format!("audit verify {shown}"), &[]).await;
    assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
    assert!(ran.out.starts_with("intact: 2 records"), "{ran:?}");
    let ran = run(&format!("audit verify {shown} --json"), &[]).await;
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(told["head"]["hash"], closed.hash.as_str(), "{head:?}");
    let ran = run(&format!("audit verify {shown} --head 2:{}", closed.hash), &[]).await;
    assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
    let ran = run(&format!("audit verify {shown} --head 3:{}", closed.hash), &[]).await;
    assert_eq!(ran.exit, Exit::No, "{ran:?}");
    let ran = run(&format!("audit tail {shown} -n 1"), &[]).await;
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
    assert!(ran.out.contains("agent.register"), "{ran:?}");
    let ran = run(&format!("audit tail {shown} --json"), &[]).await;
    assert_eq!(ran.out, fs::read_to_string(&log).unwrap());
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replace("\"owner\":\"o\"", "\"owner\":\"q\"")).unwrap();
    let ran = run(&format!("audit verify {shown}"), &[]).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("line 1: ") && ran.out.contains("DAMAGED"), "{ran:?}");
    assert_eq!(run("audit verify /nonexistent", &[]).await.exit, Exit::Usage);
    assert_eq!(run("audit tail /nonexistent", &[]).await.exit, Exit::Usage);
}

#[tokio::test]
async fn a_key_is_made_once_and_what_it_signed_is_verified() {
    use crate::audit::{Audit, CheckpointSettings, Decision, Entry, Outcome, Settings};
    use crate::clock::Clock;

    let dir = tempfile::tempdir().unwrap();
    let (key, log) = (dir.path().join("key"), dir.path().join("audit.jsonl"));
    let made = run(&format!("audit keygen --name gw --out {}", key.display()), &[]).await;
    assert_eq!(made.exit, Exit::Fine, "{made:?}");
    let public = made.out.trim().to_owned();
    assert!(public.starts_with("gw+"), "{public}");
    let again = run(&format!("audit keygen --name gw --out {}", key.display()), &[]).await;
    assert_eq!(again.exit, Exit::Usage, "{again:?}");

    let mut settings = Settings::at(&log, "gw");
    settings.rotation.bytes = 3_000;
    settings.rotation.compress = true;
    settings.checkpoints =
        Some(CheckpointSettings { key_file: key, every_records: 2, every_secs: 60 });
    let clock = Clock::system();
    let audit = Audit::open(settings, clock.clone()).unwrap();
    for n in 0..12 {
        let mut entry = Entry::new(clock.now().wall, uuid::Uuid::new_v4(), Decision::Deny);
        entry.tool_called = Some(format!("tool-{}", n % 3).into());
        entry.denial_code = Some("PolicyDenied");
        audit.record(entry, Outcome::refused(5)).await.unwrap();
    }
    drop(audit);
    let (shown, folder) = (log.display(), dir.path().display());
    let checkpoints = format!("--checkpoints {shown}.checkpoints --public-key {public}");
    for path in [shown.to_string(), folder.to_string()] {
        let ran = run(&format!("audit verify {path} {checkpoints}"), &[]).await;
        assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
        assert!(ran.out.starts_with("intact: 12 records") && ran.out.contains(" files"), "{ran:?}");
        assert!(ran.out.contains("known links met: 6 of 6"), "{ran:?}");
        assert!(ran.out.contains("signed up to record 12 at "), "{ran:?}");
    }
    let told = run(&format!("audit verify {folder} {checkpoints} --json"), &[]).await.out;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["intact"], &told["known_met"]), (&true.into(), &6.into()));

    let stats = run(&format!("audit stats {folder} --json --top 2"), &[]).await.out;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["requests"], 12);
    assert_eq!(stats["decisions"], serde_json::json!({ "deny": 12 }));
    assert_eq!(stats["codes"], serde_json::json!({ "PolicyDenied": 12 }));
    assert_eq!(stats["tools"], serde_json::json!({ "tool-0": 4, "tool-1": 4 }));
    let none = run(&format!("audit stats {shown} --until 2026-01-01T00:00:00Z"), &[]).await.out;
    assert!(none.starts_with("0 records, 0 requests\n"), "{none}");
    let ran = run(&format!("audit tail {shown} -n 3 --tool tool-1 --json"), &[]).await.out;
    assert_eq!(ran.lines().count(), 3, "the closed files are read too: {ran}");
    assert!(ran.lines().all(|line| line.contains("\"tool_called\":\"tool-1\"")));
    let ran = run(&format!("audit tail {shown} --decision allow"), &[]).await;
    assert_eq!(ran.out, "");

    // The chain rewritten by somebody who has no key.
    let other = run(&format!("audit keygen --name gw --out {shown}.other"), &[]).await.out;
    let with_other = checkpoints.replace(&public, other.trim());
    let ran = run(&format!("audit verify {shown} {with_other}"), &[]).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("signed by none of the given keys"), "{ran:?}");
    fs::remove_file(&log).unwrap();
    let ran = run(&format!("audit verify {folder} {checkpoints}"), &[]).await;
    assert_eq!(ran.exit, Exit::No, "{ran:?}");
    assert!(ran.out.contains("12 had been reached"), "{ran:?}");
}

#[tokio::test]
async fn what_the_node_has_deleted_is_told_and_no_damage() {
    use crate::audit::{Audit, Decision, Entry, Outcome, Settings};
    use crate::clock::Clock;

    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.jsonl");
    let mut settings = Settings::at(&log, "gw");
    settings.rotation.bytes = 3_000;
    settings.rotation.keep_files = 1;
    let clock = Clock::system();
    let audit = Audit::open(settings, clock.clone()).unwrap();
    for _ in 0..12 {
        let entry = Entry::new(clock.now().wall, uuid::Uuid::new_v4(), Decision::Deny);
        audit.record(entry, Outcome::refused(5)).await.unwrap();
    }
    audit.reopen().await.unwrap();
    drop(audit);
    let folder = dir.path().display();
    let ran = run(&format!("audit verify {folder}"), &[]).await;
    assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
    assert!(ran.out.contains(" were deleted by the node, as it recorded"), "{ran:?}");
    let ran = run(&format!("audit verify {folder} --json"), &[]).await.out;
    let told: Value = serde_json::from_str(&ran).unwrap();
    let first = told["first_sequence"].as_u64().unwrap();
    assert_eq!(told["deleted_through"].as_u64(), Some(first - 1));
    assert!(first > 1);
}
