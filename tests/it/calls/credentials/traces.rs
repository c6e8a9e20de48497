//! Nothing that the process writes holds a secret, in whatever spelling.

use std::path::{Path, PathBuf};

use axum::body::Body;
use serde_json::{Value, json};

use super::spellings::{leaks, spellings};
use super::{
    HEADER, JSON, Keys, SECRETS, TOKEN, answered, call, inject, reads, result_of, text, trusted,
};
use crate::support::harness::{
    API_KEY, Gateway, SIGNING_SECRET, eventually, tool_call, with_headers,
};

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Returns a file's content without the zeros preallocated for later writes.
fn content(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    bytes.truncate(used);
    bytes
}

/// Calls of every kind: allowed, refused, failing, echoing.
async fn a_mixed_run(gateway: &Gateway) -> Vec<String> {
    let session = trusted(gateway).await;
    let mut said = Vec::new();
    for name in ["token", "other", "breaker", "nested"] {
        inject(gateway, &session, name).await;
    }
    let write =
        tool_call("write_file", json!({"path": "${CRED:tooled}", "password": "${CRED:token}"}));
    said.push(text(&gateway.call(&session, write).await));
    for body in [
        reads("${CRED:nope}${CRED:token}"),
        reads("${CRED:tiny}"),
        reads("${CRED:elsewhere}"),
        tool_call("read_file", json!({"${CRED:token}": 1})),
        tool_call("rm", json!({"x": "${CRED:token}"})),
        "{\"not\": \"mcp ${CRED:token}\"}".to_owned(),
        "{broken ${CRED:token}".to_owned(),
    ] {
        said.push(text(&gateway.call(&session, body).await));
    }
    // Breaker and nested values would mangle in headers; these two cannot.
    for secret in [TOKEN, HEADER] {
        let forms: Vec<_> = spellings(secret).into_iter().map(|(_, form)| form).collect();
        let body = result_of(&forms).to_string();
        let headers = [("content-type", "application/json"), ("x-key", secret)];
        said.push(text(&answered(gateway, &session, 500, &headers, body).await));
        let stream = format!("data: {}\n\n", result_of(&[secret.to_owned()]));
        let headers = [("content-type", "text/event-stream")];
        said.push(text(&answered(gateway, &session, 200, &headers, stream).await));
        let headers = [("content-encoding", secret)];
        said.push(text(&answered(gateway, &session, 200, &headers, secret).await));
        let list =
            format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"tools\":\"{secret}\"}}}}");
        gateway.upstream.answer_with(move |_| with_headers(200, JSON, Body::from(list.clone())));
        let asked = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
        said.push(text(&call(gateway, &session, asked).await));
    }
    said
}

#[tokio::test]
async fn no_secret_is_in_anything_that_is_written() {
    let keys = Keys::usual();
    let headers = "{ Authorization = \"Bearer ${CRED:header}\" }";
    let mut setup = keys.setup().with("proxy.upstream_headers", headers);
    // With the libraries that are else held at `warn`.
    let everything = "trace,h2=trace,hyper=trace,hyper_util=trace,reqwest=trace,rustls=trace";
    setup.env.push(("RUST_LOG", everything.to_owned()));
    let mut gateway = Gateway::start(setup).await;
    let said = a_mixed_run(&gateway).await;
    let metrics = gateway.metrics().await;
    let (_, sessions) = gateway.admin("GET", "/sessions", None).await;
    keys.write("[credentials]\nbroken");
    let pid = gateway.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    let log = gateway.folder.path().join("log.txt");
    let reloaded = || async {
        std::fs::read_to_string(&log).unwrap().contains("credentials not reloaded").then_some(())
    };
    eventually(reloaded).await.expect("the failing reload is not logged");
    gateway.stop();

    let records = gateway.records();
    assert!(records.iter().any(|r| r["credentials_injected"] == json!(["token"])));
    assert!(records.iter().any(|r| r["arguments"]["path"] == "${CRED:token}"), "{records:?}");
    assert!(records.iter().filter_map(|r| r["credentials_scrubbed"].as_u64()).sum::<u64>() > 20);

    let written: Vec<_> = files(gateway.folder.path())
        .into_iter()
        .map(|path| (path.display().to_string(), content(&path)))
        .collect();
    for file in ["audit.jsonl", "arbiter.db", "ready.json", "log.txt"] {
        assert!(written.iter().any(|(path, _)| path.ends_with(file)), "{file} is not looked at");
    }
    let mut all = written;
    all.extend(said.into_iter().map(|answer| ("an answer".to_owned(), answer.into_bytes())));
    all.push(("the metrics".to_owned(), metrics.into_bytes()));
    all.push(("the admin API".to_owned(), Value::to_string(&sessions).into_bytes()));
    for (place, bytes) in &all {
        for secret in SECRETS.iter().chain(&[API_KEY, SIGNING_SECRET]) {
            let found = leaks(secret, bytes);
            assert_eq!(found, None, "{secret:?} stands in {place}");
        }
    }
}
