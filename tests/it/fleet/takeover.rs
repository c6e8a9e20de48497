//! One process takes the place of another, under a steady load: no call fails.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::chain;
use crate::support::harness::{
    Gateway, Setup, events, json_response, read_until, stream_response, tool_call,
};

const CALLERS: u64 = 4;
const TAKE_OVERS: u64 = 3;

/// Time for which the load lasts: `$TAKEOVER_SECS`, else 10 s.
fn seconds() -> u64 {
    std::env::var("TAKEOVER_SECS").map_or(10, |secs| secs.parse().unwrap())
}

#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    wrong: Mutex<Vec<String>>,
    slowest_ms: AtomicU64,
}

/// Calls one after the other until the load has an end.
async fn call_steadily(request: reqwest::RequestBuilder, seen: Arc<Seen>, over: Arc<AtomicBool>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(25));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let since = Instant::now();
        let answered = request.try_clone().unwrap().send().await;
        let wrong = match answered {
            Err(error) => Some(format!("{error:?}")),
            Ok(answer) if answer.status() != 200 => Some(format!("{:?}", answer.text().await)),
            Ok(answer) => answer.text().await.err().map(|error| format!("{error:?}")),
        };
        seen.wrong.lock().unwrap().extend(wrong);
        let took = u64::try_from(since.elapsed().as_millis()).unwrap();
        seen.slowest_ms.fetch_max(took, Ordering::Relaxed);
        seen.calls.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_another_process_takes_over() {
    let mut gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({"call_budget": 1_000_000})).await;
    let streams = gateway.session(json!({"authorized_tools": ["write_file"]})).await;
    gateway.upstream.answer_with(|seen| {
        let asked: Value = serde_json::from_slice(&seen.body).unwrap();
        if asked["params"]["name"] == "read_file" {
            return json_response(r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#);
        }
        let (sender, body) = events();
        sender.send("data: {\"n\":1}\n\n".to_owned()).unwrap();
        // Never ends by itself.
        std::mem::forget(sender);
        stream_response(body)
    });
    let (seen, over) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let request = gateway.request(&session, tool_call("read_file", json!({})));
            tokio::spawn(call_steadily(request, seen.clone(), over.clone()))
        })
        .collect();
    let pause = Duration::from_millis(seconds() * 1_000 / (TAKE_OVERS + 1));
    for _ in 0..TAKE_OVERS {
        tokio::time::sleep(pause).await;
        let stream = gateway.request(&streams, tool_call("write_file", json!({}))).send();
        let mut stream = stream.await.unwrap();
        read_until(&mut stream, "\n\n").await;
        let code = tokio::task::block_in_place(|| gateway.take_over());
        assert_eq!(code, Some(0), "the old process ends properly");
        let end = read_until(&mut stream, "never").await;
        assert!(end.contains(r#""code":"Overloaded""#), "{end}");
    }
    tokio::time::sleep(pause).await;
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let wrong = std::mem::take(&mut *seen.wrong.lock().unwrap());
    let calls = seen.calls.load(Ordering::Relaxed);
    assert!(wrong.is_empty(), "{} of {calls} calls failed: {:?}", wrong.len(), wrong.first());
    let slowest_ms = seen.slowest_ms.load(Ordering::Relaxed);
    println!(
        "{calls} calls over {TAKE_OVERS} take-overs, none failed; the slowest took {slowest_ms} ms"
    );
    assert!(slowest_ms < 1_000, "{slowest_ms} ms");
    assert!(calls > CALLERS * seconds() * 10, "{calls}");
    assert_eq!(gateway.upstream.calls() as u64, calls + TAKE_OVERS);
    let (_, shown) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    assert_eq!(shown["calls_made"].as_u64(), Some(calls), "{shown}");
    gateway.stop();
    // Agent and sessions, and every call and stream.
    assert!(chain::check(&gateway.audit_file()) >= calls + TAKE_OVERS + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cannot_start_leaves_the_running_one_alone() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let policies = gateway.folder.path().join("policies.toml");
    let good = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, "[[policies]]\nid = 1\n").unwrap();
    let config = gateway.folder.path().join("arbiter.toml");
    let serve = |config: &std::path::Path| {
        std::process::Command::new(env!("CARGO_BIN_EXE_arbiter"))
            .args(["serve", "--takeover", "--config"])
            .arg(config)
            .env("ARBITER_ADMIN_API_KEY", crate::support::harness::API_KEY)
            .env("ARBITER_SIGNING_SECRET", crate::support::harness::SIGNING_SECRET)
            .output()
            .unwrap()
    };
    let output = tokio::task::block_in_place(|| serve(&config));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    std::fs::write(&policies, good).unwrap();
    let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
    assert_eq!(answer.status, 200);
}
