//! The audit log over a mixed load: one record a request, a chain that anyone can check, nothing in
//! it that must not be there.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::chain;
use crate::support::harness::{Answer, Gateway, Setup, eventually, tool_call};

/// One of several kinds of request, and the decision that must be on record for it.
async fn send(gateway: &Gateway, session: &str, n: usize) -> (Answer, &'static str) {
    let read = |id: usize| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "read_file", "arguments": {"n": n}}});
    match n % 7 {
        0 | 1 => (gateway.call(session, read(n).to_string()).await, "allow"),
        2 => (gateway.call(session, tool_call("unlisted", json!({"n": n}))).await, "deny"),
        3 => (gateway.call(session, "{\"jsonrpc\":").await, "deny"),
        4 => (gateway.call(session, json!([read(1), read(2), read(3)]).to_string()).await, "allow"),
        5 => {
            let request = gateway.client.post(format!("http://{}/", gateway.proxy));
            let request = request.header("content-type", "application/json").body("{}");
            (gateway.send(request).await, "deny")
        }
        _ => {
            let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
            (gateway.call(session, note.to_string()).await, "allow")
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_mixed_requests_leave_one_record_each_in_one_chain() {
    const WORKERS: usize = 10;
    const EACH: usize = 30;
    let gateway = Arc::new(Gateway::start(Setup::default()).await);
    let session = gateway.session(json!({})).await;
    let mut tasks = Vec::new();
    for worker in 0..WORKERS {
        let (gateway, session) = (gateway.clone(), session.clone());
        tasks.push(tokio::spawn(async move {
            let mut sent = Vec::new();
            for n in 0..EACH {
                let (answer, decision) = send(&gateway, &session, worker * EACH + n).await;
                sent.push((answer.request_id().to_owned(), decision));
            }
            sent
        }));
    }
    let mut sent = BTreeMap::new();
    for task in tasks {
        sent.extend(task.await.unwrap());
    }
    assert_eq!(sent.len(), WORKERS * EACH);
    let mut gateway = Arc::into_inner(gateway).unwrap();
    let requests = |records: Vec<Value>| -> Vec<Value> {
        records.into_iter().filter(|record| record["event"].is_null()).collect()
    };
    let complete =
        eventually(|| async { (requests(gateway.records()).len() >= sent.len()).then_some(()) });
    complete.await.unwrap();
    let while_it_runs = chain::check(&gateway.audit_file());
    gateway.stop();
    assert!(chain::check(&gateway.audit_file()) >= while_it_runs);

    let mut found = BTreeMap::new();
    for record in requests(gateway.records()) {
        let text = |key: &str| record[key].as_str().unwrap().to_owned();
        let twice = found.insert(text("request_id"), text("authorization_decision"));
        assert_eq!(twice, None, "{record}");
        if record["authorization_decision"] == "allow" {
            assert_eq!(
                (&record["outcome"], &record["upstream_status"]),
                (&json!("completed"), &json!(200))
            );
        }
        let batch = record["tools_called"].as_array().unwrap().len();
        assert!([0, 3].contains(&batch), "{record}");
    }
    let found: BTreeMap<&str, &str> =
        found.iter().map(|(id, d)| (id.as_str(), d.as_str())).collect();
    let sent: BTreeMap<&str, &str> = sent.iter().map(|(id, d)| (id.as_str(), *d)).collect();
    assert_eq!(found, sent);
}

#[tokio::test]
async fn both_checkers_see_what_was_changed() {
    let mut gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    for _ in 0..5 {
        gateway.call(&session, tool_call("read_file", json!({}))).await;
    }
    gateway.stop();
    let log = std::fs::read_to_string(gateway.audit_file()).unwrap();
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let changed = gateway.folder.path().join("changed.jsonl");
    for (what, text) in [
        ("a word", log.replacen("read_file", "read_fild", 1)),
        ("a line less", [&lines[..2], &lines[3..]].concat().concat()),
        ("two lines swapped", [lines[0], lines[2], lines[1]].concat()),
        ("a line twice", [lines[0], lines[0]].concat()),
        ("the beginning gone", lines[1..].concat()),
        ("the end cut", log[..log.len() - 10].to_owned()),
    ] {
        assert_ne!(text, log);
        std::fs::write(&changed, text).unwrap();
        assert!(!chain::ask_python(&changed).0, "{what}");
        let ours = std::panic::catch_unwind(|| chain::check(&changed));
        assert!(ours.is_err(), "{what}");
    }
}

#[tokio::test]
async fn what_is_secret_by_its_key_is_not_on_record() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let arguments = r#"{
        "password":"hunter2","userPassword":"hunter2","DB_PASSWORD":"hunter2","my_pass\u0077ord":"hunter2",
        "\u0070\u0061\u0073\u0073\u0077\u0064":"hunter2","Access-Tokens":["hunter2",{"a":"hunter2"}],
        "x_api_key":{"deep":{"er":"hunter2"}},"clientSecret":4242424242,"cvv":4242424242,
        "list":[{"authorization":"hunter2"},[[{"private key":"hunter2"}]]],
        "credit.card":"hunter2","SSN":"hunter2",
        "author":"kept-1","keyboard":"kept-2","passage":"kept-3","path":"kept-4"}"#;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"read_file","arguments":{arguments}}}}}"#
    );
    let allowed = gateway.call(&session, body.clone()).await;
    assert_eq!(allowed.status, 200);
    let refused = gateway.call(&session, body.replace("read_file", "unlisted")).await;
    assert_eq!(refused.status, 403);
    for answer in [&allowed, &refused] {
        let record = gateway.record_of(answer.request_id()).await.to_string();
        for kept in ["kept-1", "kept-2", "kept-3", "kept-4"] {
            assert!(record.contains(kept), "{kept}: {record}");
        }
    }
    for file in ["audit.jsonl", "audit.jsonl.journal", "log.txt"] {
        let bytes = std::fs::read(gateway.folder.path().join(file)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for secret in ["hunter2", "4242424242", &gateway.agent.token] {
            assert!(!text.contains(secret), "{secret} in {file}");
        }
    }
}

#[tokio::test]
async fn nobody_writes_lines_of_their_own() {
    let mut gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({"declared_intent": "manage\n{\"forged\":1}"})).await;
    let forged = "x\n{\"timestamp\":\"2000-01-01T00:00:00Z\",\"forged\":1}\r\n\u{2028}\u{85}\0";
    let arguments = json!({"a": forged, forged: [forged]});
    let answer = gateway.call(&session, tool_call("read_file", arguments)).await;
    assert_eq!(answer.status, 200);
    let tool = gateway.call(&session, tool_call("a\u{2028}b", json!({}))).await;
    assert_eq!(tool.code(), "ToolNotAuthorized");
    let id = json!({"jsonrpc": "2.0", "id": forged, "method": "no\u{2028}such"});
    gateway.call(&session, id.to_string()).await;
    gateway.stop();
    let log = std::fs::read_to_string(gateway.audit_file()).unwrap();
    for line in log.lines() {
        assert!(line.starts_with("{\"timestamp\":\""), "{line}");
        let record: Value = serde_json::from_str(line).unwrap();
        assert!(record.get("forged").is_none(), "{line}");
    }
    let records = chain::check(&gateway.audit_file());
    assert_eq!(records, u64::try_from(log.lines().count()).unwrap());
    assert!(log.chars().all(|c| c == '\n' || !c.is_control()), "{log:?}");
}
