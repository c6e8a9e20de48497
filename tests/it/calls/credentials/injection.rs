//! References on their way out: replaced where they may stand, refused by name everywhere else.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{BREAKER, Keys, NESTED, OTHER, SECRETS, TOKEN, hides, reads, trusted};
use crate::support::harness::{Gateway, tool_call};

#[tokio::test]
async fn a_reference_arrives_as_its_value_and_nothing_else_changes() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    let body = "{ \"jsonrpc\" : \"2.0\",\t\"id\":12345678901234567890,\"method\":\"tools\\/call\",\n\
        \"params\":{\"name\":\"read\\u005ffile\",\"arguments\":{\"n\":1.10e+2,\
        \"a\":\"Bearer ${CRED:token}\",\"b\":[\"\\u0024{CRED:oth\\u0065r}-${CRED:token}\",{\"é\":\"${CRED:tiny_ok}\"}],\
        \"s\":\"\\u00e9\\ud83d\\ude00é ${cred:token} $CRED:token\"}}}";
    let answer = gateway.call(&session, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let expected = body
        .replace("${CRED:token}", TOKEN)
        .replace("\\u0024{CRED:oth\\u0065r}", OTHER)
        .replace("${CRED:tiny_ok}", "q7z");
    let seen = &gateway.upstream.seen()[0];
    assert_eq!(std::str::from_utf8(&seen.body).unwrap(), expected);
    assert_eq!(seen.headers["content-length"], expected.len().to_string().as_str());
    let record = gateway.record_of(answer.request_id()).await;
    assert_eq!(record["credentials_injected"], json!(["token", "other", "tiny_ok"]));
    assert!(gateway.metric("arbiter_credentials_injected_total").await >= 3.0);
}

#[tokio::test]
async fn what_breaks_json_or_looks_like_a_reference_arrives_exactly() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    for (name, value) in [("breaker", BREAKER), ("nested", NESTED)] {
        let answer = gateway.call(&session, reads(&format!("<${{CRED:{name}}}>"))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen: Value =
            serde_json::from_slice(&gateway.upstream.seen().pop().unwrap().body).unwrap();
        assert_eq!(seen["params"]["arguments"]["path"], format!("<{value}>"));
    }
}

#[tokio::test]
async fn what_may_not_be_used_is_refused_by_name_and_nothing_is_forwarded() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let all = trusted(&gateway).await;
    let none = gateway.session(json!({})).await;
    let one = gateway.session(json!({"authorized_credentials": ["token"]})).await;
    let long = format!("${{CRED:{}}}", "n".repeat(65));
    let misplaced = |body: Value| body.to_string();
    let meta = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "read_file", "arguments": {}, "_meta": {"x": "${CRED:token}"}}});
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"cursor": "${CRED:token}"}});
    let id = json!({"jsonrpc": "2.0", "id": "${CRED:token}", "method": "tools/call", "params": {
        "name": "read_file", "arguments": {"path": "x"}}});
    let member = |id: u32, path: &str| {
        let mut call: Value = serde_json::from_str(&reads(path)).unwrap();
        call["id"] = json!(id);
        call
    };
    let batch = json!([member(1, "${CRED:token}"), member(2, "${CRED:nope}")]);
    let cases = [
        (&all, reads("${CRED:token} ${CRED:nope}"), "CredentialUnknown", "nope"),
        (&all, batch.to_string(), "CredentialUnknown", "nope"),
        (&none, reads("${CRED:token}"), "CredentialNotAuthorized", "token"),
        (&one, reads("${CRED:token}${CRED:other}"), "CredentialNotAuthorized", "other"),
        (&all, reads("${CRED:header}"), "CredentialNotAuthorized", "header"),
        (&all, reads("${CRED:tooled}"), "CredentialNotAuthorized", "tooled"),
        (&all, reads("${CRED:elsewhere}"), "CredentialNotAuthorized", "elsewhere"),
        (&all, reads("${CRED:tiny}"), "CredentialTooShort", "tiny"),
        (&all, reads("${CRED:${CRED:token}}"), "CredentialMisplaced", ""),
        (&all, reads("${CRED:to ken}"), "CredentialMisplaced", ""),
        (&all, reads("${CRED:token"), "CredentialMisplaced", ""),
        (&all, reads(&long), "CredentialMisplaced", ""),
        (&all, tool_call("read_file", json!({"${CRED:token}": 1})), "CredentialMisplaced", ""),
        (&all, misplaced(meta), "CredentialMisplaced", ""),
        (&all, misplaced(list), "CredentialMisplaced", ""),
        (&all, misplaced(id), "CredentialMisplaced", ""),
    ];
    for (session, body, code, name) in cases {
        let answer = gateway.call(session, body.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, code), "{body}");
        assert_eq!(answer.json()["error"]["data"]["stage"], "credentials");
        if !name.is_empty() {
            assert_eq!(answer.json()["error"]["data"]["credential"], name, "{body}");
            assert!(answer.json()["error"]["message"].as_str().unwrap().contains(name));
        }
        for secret in SECRETS {
            hides(&answer, secret, &body);
        }
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["denial_code"], code);
        assert_eq!(record["failure_category"], "governance");
    }
    assert_eq!(gateway.upstream.calls(), 0);
    // With the tool it is meant for.
    let write = tool_call("write_file", json!({"path": "${CRED:tooled}"}));
    assert_eq!(gateway.call(&all, write).await.status, 200);
}

#[tokio::test]
async fn a_refusal_of_another_check_comes_before_any_credential() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    let refused = gateway.call(&session, tool_call("rm", json!({"x": "${CRED:nope}"}))).await;
    assert_eq!(refused.code(), "ToolNotAuthorized");
}

/// A call of `references` references in some 10 KiB of text each.
fn long_call(references: usize) -> (String, String) {
    let filler = "x".repeat(10 * 1024);
    let values: Vec<String> = (0..references)
        .map(|n| format!("{filler}${{CRED:{}}}", if n % 2 == 0 { "token" } else { "other" }))
        .collect();
    let body = tool_call("read_file", json!({"paths": values}));
    let expected = body.replace("${CRED:token}", TOKEN).replace("${CRED:other}", OTHER);
    (body, expected)
}

#[tokio::test]
async fn a_thousand_references_in_ten_mebibytes_arrive_in_linear_time() {
    let keys = Keys::usual();
    let gateway =
        Gateway::start(keys.setup().with("proxy.max_request_body_bytes", 12 * 1024 * 1024)).await;
    let session = trusted(&gateway).await;
    let mut took = Vec::new();
    for references in [250, 500, 1_000] {
        let (body, expected) = long_call(references);
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            let answer = gateway.call(&session, body.clone()).await;
            best = best.min(start.elapsed());
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(gateway.upstream.seen().pop().unwrap().body == expected.as_bytes());
        }
        took.push(best);
    }
    println!("250, 500 and 1,000 references in 2.5, 5 and 10 MiB: {took:?}");
    // Four times as much takes four times as long; were it quadratic, sixteen times.
    assert!(took[2] < took[0] * 9, "{took:?}");
}
