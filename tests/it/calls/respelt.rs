//! Other spellings of names that policies take away: refused alike, over real sockets.

use serde_json::{Value, json};

use crate::support::harness::{Gateway, Setup, refuses_to_start, tool_call};

#[tokio::test]
async fn a_denied_resource_is_denied_in_every_spelling() {
    let policies = r#"
[[policies]]
id = "all"
effect = "allow"
allowed_tools = []
allowed_resources = ["*"]

[[policies]]
id = "not-etc"
effect = "deny"
allowed_resources = ["file:///etc/*"]
"#;
    let gateway = Gateway::start(Setup::default().policies(policies)).await;
    let session =
        gateway.session(json!({"authorized_resources": ["file:///*", "https://etc/*"]})).await;
    let read = async |uri: &str| {
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri},
        });
        gateway.call(&session, body.to_string()).await
    };
    for uri in [
        "file:///etc/passwd",
        "file:///%65tc/passwd",
        "file:///./etc/passwd",
        "file:///etc%2Fpasswd",
        "file:///etc%5cpasswd",
        "file:///tmp/../etc/passwd",
        "file:///tmp/%2e%2e/etc/passwd",
        "file:///%2e/etc/passwd",
        "file://localhost/etc/passwd",
        "FILE:///etc/passwd",
        "file:///etc//passwd",
        "file:///../etc/passwd",
        "file:///%2565tc/passwd",
        "file:///etc\\passwd",
        "file:///etc/%00passwd",
    ] {
        let answered = read(uri).await;
        assert_eq!(answered.status, 403, "{uri}");
        // What is doubtful is on no session's list.
        let clear = uri.ends_with("etc/passwd") && !uri.contains("///../");
        let code = if clear { "PolicyDenied" } else { "ResourceNotAuthorized" };
        assert!([code, "PolicyDenied"].contains(&&*answered.code()), "{uri}: {}", answered.code());
    }
    assert_eq!(gateway.upstream.calls(), 0);
    for uri in ["file:///home/passwd", "file:///etcetera", "https://etc/passwd"] {
        assert_eq!(read(uri).await.status, 200, "{uri}");
    }
    let seen = gateway.upstream.seen();
    let first: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(first["params"]["uri"], "file:///home/passwd", "forwarded as it was sent");
}

#[tokio::test]
async fn an_allow_that_cannot_be_judged_blocks_the_laxer_ones() {
    let policies = r#"
[[policies]]
id = "hr"
effect = "allow"
allowed_tools = ["query"]
data_sensitivity = "restricted"
priority = 500
[[policies.parameter_constraints]]
key = "table"
regex = "hr_.*"

[[policies]]
id = "any"
effect = "allow"
allowed_tools = ["query"]
data_sensitivity = "public"
"#;
    let gateway = Gateway::start(Setup::default().policies(policies)).await;
    let session =
        gateway.session(json!({"authorized_tools": ["query"], "data_sensitivity": "public"})).await;
    for arguments in [
        json!({"table": "hr_pay"}),
        json!({"table": ["hr_pay"]}),
        json!({"table": null}),
        json!({"Table": "hr_pay"}),
        json!({"table": {"name": "hr_pay"}}),
    ] {
        let answered = gateway.call(&session, tool_call("query", arguments.clone())).await;
        assert_eq!(answered.status, 403, "{arguments}");
        assert_ne!(answered.code(), "ToolNotAuthorized", "{arguments}");
    }
    assert_eq!(gateway.upstream.calls(), 0);
    for arguments in [json!({"table": "lunch"}), json!({"column": "a"})] {
        let answered = gateway.call(&session, tool_call("query", arguments.clone())).await;
        assert_eq!(answered.status, 200, "{arguments}: {}", answered.json());
    }
}

#[tokio::test]
async fn a_refusal_for_an_upstream_that_does_not_exist_is_no_rule_and_an_error() {
    let rule = |effect: &str| {
        format!(
            "[[policies]]\nid = \"a\"\neffect = \"{effect}\"\nallowed_tools = [\"gihub:delete_*\"]\n"
        )
    };
    let at = ["127.0.0.1:9".parse().unwrap()];
    let setup =
        |effect: &str| Setup::default().upstreams(&[("github", &at)]).policies(&rule(effect));
    for effect in ["deny", "escalate"] {
        let (code, said) = refuses_to_start(&setup(effect)).await;
        assert_eq!(code, Some(2), "{effect}: {said}");
        assert!(said.contains("no upstream is called `gihub`"), "{effect}: {said}");
    }
    let gateway = Gateway::start(setup("allow")).await;
    let log = std::fs::read_to_string(gateway.folder.path().join("log.txt")).unwrap();
    assert!(log.contains("no upstream is called `gihub`"), "{log}");
    let order = json!({"authorized_tools": ["gihub:delete_all"]});
    let (status, problem) = gateway.try_session(order).await;
    assert_eq!(status, 400, "{problem}");
}
