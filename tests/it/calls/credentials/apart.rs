//! Answers whose work is long, which is done apart: nothing else about them is different.

use std::io::Write as _;

use axum::body::Body;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::{JSON, Keys, TOKEN, answered, hides, inject, reads, result_of, trusted};
use crate::support::harness::{
    Gateway, events, eventually, read_until, stream_response, with_headers,
};

/// Returns the processor time that a process's threads of a name have taken, in ticks of the kernel.
fn ticks(gateway: &Gateway, name: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let read = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).ok();
    tasks
        .filter_map(|task| read(task.ok()?))
        .filter(|stat| stat.contains(&format!("({name})")))
        .filter_map(|stat| stat.rsplit(')').next()?.split(' ').nth(12)?.parse::<u64>().ok())
        .sum()
}

fn event(text: &str) -> String {
    format!("data: {}\n\n", result_of(&[text.to_owned()]))
}

/// A text of `length` bytes that is not the same everywhere.
fn filler(length: usize) -> String {
    let words = (0..).map(|n| format!("w{n}, "));
    words
        .scan(0, |so_far, word| {
            *so_far += word.len();
            (*so_far < length).then_some(word)
        })
        .collect()
}

#[tokio::test]
async fn a_long_event_leaves_before_the_next_one_comes_and_tells_no_secret() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    let (sender, body) = events();
    let body = std::sync::Mutex::new(Some(body));
    gateway
        .upstream
        .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
    sender.send(event("first")).unwrap();
    let request = gateway.request(&session, reads("a"));
    let mut answer = tokio::spawn(request.send()).await.unwrap().unwrap();
    let request_id = answer.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    assert_eq!(read_until(&mut answer, "\n\n").await, event("first"));
    let mut length = event("first").len();
    for n in 0..3 {
        let (before, after) = (filler(150_000), filler(70_000 * n));
        // In pieces, the last of which brings the next event, too.
        let whole = event(&format!("{before}{TOKEN}{after}")) + &event("short");
        for piece in whole.as_bytes().chunks(100_000) {
            sender.send(String::from_utf8_lossy(piece).into_owned()).unwrap();
        }
        let got = read_until(&mut answer, &event("short")).await;
        let due = event(&format!("{before}[CREDENTIAL]{after}")) + &event("short");
        assert!(got == due, "{n}: {} bytes, {} due", got.len(), due.len());
        length += due.len();
    }
    drop(sender);
    assert_eq!(answer.chunk().await.unwrap(), None);
    assert!(ticks(&gateway, "answers") > 0, "it kept other calls waiting");
    let record = gateway.record_of(&request_id).await;
    assert_eq!(record["credentials_scrubbed"], 3, "{record}");
    assert_eq!(record["bytes_out"], length, "{record}");
    assert_eq!(record["outcome"], "completed", "{record}");
}

#[tokio::test]
async fn a_long_event_at_the_end_of_an_answer_is_read_to_its_end() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    let sse = &[("content-type", "text/event-stream")];
    for end in ["", "\n", "\n\n"] {
        let whole = event(&format!("{}{TOKEN}", filler(500_000)));
        let whole = whole.trim_end().to_owned() + end;
        let answer = answered(&gateway, &session, 200, sse, whole.clone()).await;
        hides(&answer, TOKEN, end);
        assert!(answer.body == whole.replace(TOKEN, "[CREDENTIAL]").as_bytes(), "{end:?}");
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["credentials_scrubbed"], 1, "{record}");
    }
}

/// The tools of a list of some 200 KB.
fn tools() -> Vec<Value> {
    let about = filler(2_000);
    let name = |n| if n % 2 == 0 { format!("read_{n}") } else { format!("hidden_{n}") };
    (0..100).map(|n| json!({"name": name(n), "description": about})).collect()
}

#[tokio::test]
async fn a_long_list_is_filtered_whole_or_refused_with_its_own_head() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let readable: Vec<_> = (0..50).map(|n| format!("read_{}", 2 * n)).collect();
    let session = gateway.session(json!({"authorized_tools": readable})).await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools()}}).to_string();
    let ask = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let events = format!("data: {list}\n\n");
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(list.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    for (kind, coding, served) in [
        ("application/json", "identity", list.clone().into_bytes()),
        ("text/event-stream", "identity", events.into_bytes()),
        ("application/json", "gzip", packed),
    ] {
        gateway.upstream.answer_with(move |_| {
            let headers = [("content-type", kind), ("content-encoding", coding)];
            with_headers(200, &headers, Body::from(served.clone()))
        });
        let answer = gateway.call(&session, ask.clone()).await;
        assert_eq!(answer.status, 200, "{kind}");
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let text = text.trim_start_matches("data: ").trim_end();
        let shown: Value = serde_json::from_str(text).unwrap();
        let shown = shown["result"]["tools"].as_array().unwrap();
        assert_eq!(shown.len(), 50, "{kind}");
        assert!(
            shown.iter().all(|tool| tool["name"].as_str().unwrap().starts_with("read_")),
            "{kind}"
        );
    }
    // What is no JSON is no list: nothing of it has left.
    answered_to_list(&gateway, list[..list.len() - 1].to_owned());
    let answer = gateway.call(&session, ask.clone()).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "UpstreamFailed"), "{answer:?}");
    let record = gateway.record_of(answer.request_id()).await;
    assert_eq!(record["denial_code"], "UpstreamFailed", "{record}");
    // The gateway goes on.
    answered_to_list(&gateway, list);
    assert_eq!(gateway.call(&session, ask).await.status, 200);
}

fn answered_to_list(gateway: &Gateway, text: String) {
    gateway.upstream.answer_with(move |_| with_headers(200, JSON, Body::from(text.clone())));
}

/// The record tells what was found in an answer although its client has left meanwhile.
#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_on_record() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    let (sender, body) = events();
    let body = std::sync::Mutex::new(Some(body));
    gateway
        .upstream
        .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
    sender.send(event("first")).unwrap();
    let mut answer = gateway.request(&session, reads("a")).send().await.unwrap();
    let request_id = answer.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    read_until(&mut answer, "\n\n").await;
    sender.send(event(&format!("{}{TOKEN}{}", filler(60_000), filler(900_000)))).unwrap();
    drop(answer);
    let record = eventually(|| async {
        let mut records = gateway.records().into_iter();
        records.find(|r| r["request_id"] == request_id.as_str() && r["outcome"].is_string())
    });
    assert!(record.await.is_some());
    assert_eq!(gateway.call(&session, reads("a")).await.status, 200);
}
