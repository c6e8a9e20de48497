//! Clocks that are wrong: nothing that outlives them is decided by one machine's.
//!
//! The program runs under libfaketime, its monotonic clock left alone: as after a wrong date was set, or at a
//! boot with a dead battery.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::nodes::{call, setup};
use crate::support::harness::{Gateway, Setup, check, eventually, refuses_to_start};
use crate::support::redis_server::Redis;

/// Debian's package `faketime` puts it into the folder of the machine's kind.
fn libfaketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|p| p.exists());
    found.expect("libfaketime, which these tests need, is missing (apt-get install faketime)")
}

/// Lets the file say how far the program's clock is off, from one reading to the next.
fn off_by(setup: Setup, file: &Path) -> Setup {
    let mut setup = setup;
    setup.env.extend([
        ("LD_PRELOAD", libfaketime().display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]);
    setup
}

#[tokio::test]
async fn a_machine_with_another_clock_than_the_ledgers_does_not_start() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("off");
    for (off, side) in [("+1d", " s ahead of"), ("-600", "behind")] {
        std::fs::write(&file, off).unwrap();
        let (code, said) = refuses_to_start(&off_by(setup(&redis.url()), &file)).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(side) && said.contains("max_clock_skew_secs"), "{said}");
        let (code, said) = check(&off_by(setup(&redis.url()), &file)).await;
        let found = said.lines().find(|line| line.starts_with("fail  clock"));
        assert!(code == Some(1) && found.is_some_and(|line| line.contains(side)), "{said}");
    }
}

#[tokio::test]
async fn one_boot_with_a_wrong_clock_costs_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("off");
    std::fs::write(&file, "+0").unwrap();
    let setup = Setup::default().with("sessions.cleanup_interval_secs", 1);
    let mut gateway = Gateway::start(off_by(setup, &file)).await;
    let session = gateway.session(json!({})).await;
    assert_eq!(gateway.call(&session, call()).await.status, 200);
    gateway.stop();

    std::fs::write(&file, "+1d").unwrap();
    gateway.start_again();
    let shown = async || {
        let (_, shown) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
        shown["status"].clone()
    };
    assert_eq!(shown().await, "expired");
    // At least one clean-up.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    gateway.stop();

    std::fs::write(&file, "+0").unwrap();
    gateway.start_again();
    assert_eq!(gateway.call(&session, call()).await.status, 200);
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_steps_goes_by_the_ledgers_time_and_harms_nobody() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("off");
    std::fs::write(&file, "+0").unwrap();
    let here = Gateway::start(setup(&redis.url())).await;
    let wrong = off_by(setup(&redis.url()).with("sessions.cleanup_interval_secs", 1), &file);
    let mut there = Gateway::start(wrong).await;
    there.agent = here.agent.clone();
    let short = here.session(json!({"time_limit_secs": 5})).await;
    let long = here.session(json!({})).await;
    for session in [&short, &long] {
        assert_eq!(there.call(session, call()).await.status, 200);
    }
    // A day ahead, and an hour behind: never is anything of the others' deleted, or served after its end.
    for off in ["+1d", "-3600"] {
        std::fs::write(&file, off).unwrap();
        let agreed = eventually(|| async {
            let ready = there.client.get(format!("http://{}/ready", there.admin)).send().await;
            (ready.unwrap().status() == 503).then_some(())
        });
        agreed.await.expect("not ready with a clock that far off");
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        for node in [&here, &there] {
            assert_eq!(node.call(&long, call()).await.status, 200, "{off}");
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    for node in [&here, &there] {
        assert_eq!(node.call(&short, call()).await.code(), "SessionExpired");
    }
    std::fs::write(&file, "+0").unwrap();
    let back = eventually(|| async {
        let ready = there.client.get(format!("http://{}/ready", there.admin)).send().await;
        (ready.unwrap().status() == 200).then_some(())
    });
    back.await.expect("ready again");
}
