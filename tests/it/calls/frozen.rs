//! Freezes: everything that an operator has stopped is refused, and nothing else.

use serde_json::{Value, json};

use crate::support::harness::{Gateway, Setup, tool_call};

async fn freeze(gateway: &Gateway, body: Value) -> String {
    let (status, frozen) = gateway.admin("POST", "/freeze", Some(body)).await;
    assert_eq!(status, 201, "{frozen}");
    frozen["freeze_id"].as_str().unwrap().to_owned()
}

async fn lift(gateway: &Gateway, id: &str) -> u16 {
    gateway.admin("DELETE", &format!("/freeze/{id}"), None).await.0
}

#[tokio::test]
async fn each_scope_stops_its_calls_until_it_is_lifted() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let agent = gateway.agent.id.clone();
    let (_, shown) = gateway.admin("GET", &format!("/agents/{agent}"), None).await;
    let call = || gateway.call(&session, tool_call("read_file", json!({})));
    assert_eq!(call().await.status, 200);
    for (scope, value) in [
        ("all", Value::Null),
        ("agent", json!(agent)),
        ("owner", shown["owner"].clone()),
        ("tool", json!("read_file")),
        ("tool", json!("read_*")),
    ] {
        let mut body = json!({"scope": scope, "reason": "an incident"});
        if !value.is_null() {
            body["value"] = value;
        }
        let id = freeze(&gateway, body.clone()).await;
        assert_eq!(freeze(&gateway, body).await, id, "asked twice it is one freeze");
        let refused = call().await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "Frozen"), "{scope}");
        let data = &refused.json()["error"]["data"];
        assert_eq!((&data["scope"], &data["reason"]), (&json!(scope), &json!("an incident")));
        let record = gateway.records().pop().unwrap();
        assert_eq!(record["denial_code"], "Frozen", "{record}");
        assert_eq!(lift(&gateway, &id).await, 200);
        assert_eq!(lift(&gateway, &id).await, 404);
        assert_eq!(call().await.status, 200, "{scope}");
    }
    let (_, listed) = gateway.admin("GET", "/freeze", None).await;
    assert_eq!(listed["freezes"], json!([]));
    for body in [
        json!({"scope": "all"}),
        json!({"scope": "all", "value": "x", "reason": "r"}),
        json!({"scope": "agent", "value": "nobody", "reason": "r"}),
        json!({"scope": "tool", "value": "nowhere:read_file", "reason": "r"}),
        json!({"scope": "upstream", "value": "nowhere", "reason": "r"}),
        json!({"scope": "all", "reason": "r", "until": "2020-01-01T00:00:00Z"}),
    ] {
        let (status, error) = gateway.admin("POST", "/freeze", Some(body.clone())).await;
        assert_eq!(status, 400, "{body}: {error}");
    }
}

#[tokio::test]
async fn a_freeze_is_there_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let setup = Setup::default()
        .with("storage.backend", "\"sqlite\"")
        .with("storage.sqlite_path", format!("\"{}\"", path.display()));
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    freeze(&gateway, json!({"scope": "tool", "value": "read_file", "reason": "r"})).await;
    gateway.signal("KILL");
    gateway.wait_for_end();
    gateway.start_again();
    let refused = gateway.call(&session, tool_call("read_file", json!({}))).await;
    assert_eq!(refused.code(), "Frozen");
}
