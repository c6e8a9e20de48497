//! Explaining, validating and reloading policies.

use super::*;
use crate::firewall::checks::Step;

const POLICIES: &str = r#"
[[policies]]
id = "reads"
effect = "allow"
allowed_tools = ["read_file"]
[policies.agent_match]
trust_level = "basic"

[[policies]]
id = "transfers"
effect = "allow"
allowed_tools = ["transfer"]
[[policies.parameter_constraints]]
key = "amount"
max_value = 9007199254740993

[[policies]]
id = "no-secrets"
effect = "deny"
allowed_resources = ["file:///secret/*"]

[[policies]]
id = "files"
effect = "allow"
allowed_resources = ["file:///*"]
[policies.principal_match]
groups = ["ops"]
"#;

async fn loaded() -> Bench {
    let bench = Bench::new().await;
    std::fs::write(bench.policies(), POLICIES).unwrap();
    let told = bench.call("POST", "/policy/reload", None).await;
    assert_eq!((told.status.as_u16(), &told.body["policies_count"]), (200, &json!(4)), "{told:?}");
    bench
}

#[tokio::test]
async fn a_call_is_explained() {
    let bench = loaded().await;
    let check = async |body: Value, decision: &str, matched: Value| {
        let told = bench.post("/policy/explain", body.clone()).await;
        assert_eq!(told.status, 200, "{body}: {told:?}");
        assert_eq!(told.body["decision"], decision, "{body}: {told:?}");
        assert_eq!(told.body["matched_policy"], matched, "{body}: {told:?}");
        told
    };
    let basic = json!({"trust_level": "basic"});
    let told = check(json!({"agent": basic, "tool": "read_file"}), "allow", json!("reads")).await;
    assert_eq!(told.body["trace"].as_array().unwrap().len(), 4);
    assert_eq!(told.body["trace"][0]["policy_id"], "reads");
    assert_eq!(told.body["trace"][0]["matched"], true);
    assert_eq!(told.body["trace"][0]["score"], 50);
    check(json!({"agent": {}, "tool": "read_file"}), "deny", json!(null)).await;
    check(json!({"agent": basic, "tool": "rm"}), "deny", json!(null)).await;
    let ops = json!({"sub": "user:bob", "groups": ["ops"]});
    let read = |uri: &str| {
        json!({
            "agent": basic, "principal": ops, "method": "resources/read", "target": uri,
        })
    };
    check(read("file:///a"), "allow", json!("files")).await;
    check(read("file:///secret/a"), "allow", json!("files")).await;
    check(json!({"agent": basic, "method": "tools/list"}), "allow", json!("reads")).await;
    check(json!({"agent": {}, "method": "initialize"}), "allow", json!("transfers")).await;
    let agent = bench.agent(&[]).await;
    check(json!({"agent_id": agent, "tool": "read_file"}), "allow", json!("reads")).await;
}

#[tokio::test]
async fn a_question_without_a_session_says_what_was_not_judged() {
    let bench = loaded().await;
    let told = bench.post("/policy/explain", json!({"agent": {}, "tool": "transfer"})).await.body;
    let outcome = |told: &Value, name: &str| {
        let steps = told["steps"].as_array().unwrap().clone();
        steps.into_iter().find(|step| step["step"] == name).unwrap()["outcome"].clone()
    };
    // The agent comes first; the decision itself is given it.
    assert_eq!(told["steps"].as_array().unwrap().len(), 1 + Step::ALL.len(), "{told}");
    assert_eq!((&told["code"], &told["stage"]), (&json!("PolicyDenied"), &json!("policy")));
    for (step, expected) in [
        ("agent", "passed"),
        ("session", "not_judged"),
        ("whitelist", "not_judged"),
        ("policy", "refused"),
        ("drift", "not_reached"),
    ] {
        assert_eq!(outcome(&told, step), expected, "{step}: {told}");
    }
    let body = json!({"agent": {}, "tool": "transfer", "arguments": {"amount": 1}});
    let told = bench.post("/policy/explain", body.clone()).await.body;
    assert_eq!(
        (&told["decision"], outcome(&told, "drift")),
        (&json!("allow"), "not_judged".into())
    );
    let mut of_an_intent = body.clone();
    of_an_intent["declared_intent"] = json!("update the ledger");
    let told = bench.post("/policy/explain", of_an_intent).await.body;
    assert_eq!(
        (outcome(&told, "drift"), outcome(&told, "budget")),
        ("passed".into(), "not_judged".into())
    );
    let mut spent = body;
    spent["session"] = json!({
        "declared_intent": "update the ledger", "authorized_tools": ["transfer"],
        "call_budget": 3, "calls_made": 3,
    });
    let told = bench.post("/policy/explain", spent).await.body;
    assert_eq!(
        (&told["code"], outcome(&told, "budget")),
        (&json!("BudgetExhausted"), "refused".into())
    );
}

#[tokio::test]
async fn a_question_names_one_session_at_most() {
    let bench = loaded().await;
    let agent = bench.agent(&[]).await;
    let session = bench.session(&agent).await.body["session_id"].clone();
    let terms = json!({"declared_intent": "read"});
    for (more, status) in [
        (json!({"session_id": session, "session": terms}), 400),
        (json!({"session_id": session, "declared_intent": "read"}), 400),
        (json!({"agent": {}, "session": terms, "declared_intent": "read"}), 400),
        (json!({"session_id": "x"}), 400),
        (json!({"session_id": "11111111-2222-4333-8444-555555555555"}), 404),
        (json!({"agent": {}, "session": {"declared_intent": ""}}), 400),
        (json!({"session_id": session}), 200),
    ] {
        let mut body = more;
        body["tool"] = json!("read_file");
        let told = bench.post("/policy/explain", body.clone()).await;
        assert_eq!(told.status, status, "{body}: {told:?}");
    }
}

#[tokio::test]
async fn a_call_to_one_upstream_is_explained() {
    let upstreams: Vec<_> = ["git", "files"]
        .map(|name| {
            format!(
                "[[upstreams]]\nname = \"{name}\"\npath = \"/{name}\"\nurls = [\"http://127.0.0.1:1\"]"
            )
        })
        .into();
    let bench = Bench::with(&upstreams.join("\n")).await;
    let policies =
        "[[policies]]\nid = \"one\"\neffect = \"allow\"\nallowed_tools = [\"git:commit\"]\n";
    std::fs::write(bench.policies(), policies).unwrap();
    assert_eq!(bench.call("POST", "/policy/reload", None).await.status, 200);
    let ask = async |upstream: Value| {
        let body = json!({"agent": {}, "tool": "commit", "upstream": upstream});
        bench.post("/policy/explain", body).await
    };
    for (upstream, decision) in [(json!("git"), "allow"), (json!("files"), "deny")] {
        let told = ask(upstream).await;
        assert_eq!((told.status.as_u16(), &told.body["decision"]), (200, &json!(decision)));
    }
    assert_eq!(ask(Value::Null).await.body["decision"], "deny");
    for unknown in [json!("svn"), json!("")] {
        let told = ask(unknown).await;
        assert_eq!(told.status, 400);
        assert!(told.body["message"].as_str().unwrap().contains("upstream"), "{told:?}");
    }
}

#[tokio::test]
async fn arguments_keep_every_digit() {
    let bench = loaded().await;
    for (amount, decision) in [("9007199254740993", "allow"), ("9007199254740994", "deny")] {
        let body =
            format!(r#"{{"agent":{{}},"tool":"transfer","arguments":{{"amount":{amount}}}}}"#);
        let request = Request::post("/policy/explain")
            .header("x-api-key", KEY)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body));
        let told = bench.send(request.unwrap()).await;
        assert_eq!(told.body["decision"], decision, "{amount}: {told:?}");
    }
}

#[tokio::test]
async fn a_text_is_validated_without_being_used() {
    let bench = Bench::new().await;
    let told = bench.post("/policy/validate", json!({"toml": POLICIES})).await;
    assert_eq!(
        told.body,
        json!({"valid": true, "policies_count": 4, "errors": [], "warnings": []})
    );
    let bad = "[[policies]]\nid = \"a\"\neffect = \"permit\"\n";
    let told = bench.post("/policy/validate", json!({"toml": bad})).await;
    assert_eq!((&told.body["valid"], told.status.as_u16()), (&json!(false), 200));
    assert_eq!(told.body["errors"][0]["line"], 3, "{told:?}");
    assert!(bench.admin.rulebook.rules().policies.is_empty());
    // Regexes that are small to write and large to build: the rest of them is refused unbuilt.
    let regex = |n| format!("[[policies.parameter_constraints]]\nkey='a'\nregex='\\w{{1,{n}}}x'\n");
    let many: String = (100..400).map(regex).collect();
    let text = format!("[[policies]]\nid='a'\neffect='deny'\n{many}");
    let told = bench.post("/policy/validate", json!({"toml": text})).await;
    let errors = told.body["errors"].as_array().unwrap();
    let late = |e: &&Value| e["message"].as_str().unwrap().contains("comes too late");
    assert!(errors.iter().filter(late).count() > 100, "{told:?}");
    for (effect, list) in [("deny", "errors"), ("allow", "warnings")] {
        let text = format!("[[policies]]\nid='a'\neffect='{effect}'\nallowed_tools=['gihub:x']\n");
        let told = bench.post("/policy/validate", json!({"toml": text})).await;
        assert_eq!(told.body[list][0]["line"], 4, "{told:?}");
    }
}

#[tokio::test]
async fn a_reload_with_a_mistake_keeps_the_old_set() {
    let bench = loaded().await;
    std::fs::write(bench.policies(), "[[policies]]\nid = 3\neffect = \"deny\"\n").unwrap();
    let told = bench.call("POST", "/policy/reload", None).await;
    told.is(422, "PolicyInvalid");
    assert_eq!(told.body["errors"][0]["line"], 2, "{told:?}");
    assert_eq!(bench.admin.rulebook.rules().policies.len(), 4);
    let version = bench.admin.rulebook.rules().policies.version().to_owned();
    let metrics = bench.get("/metrics").await.text;
    assert!(metrics.contains(&format!("arbiter_policy_version_info{{version=\"{version}\"}} 1")));
}

#[tokio::test]
async fn the_schema_is_one() {
    let bench = Bench::new().await;
    let told = bench.get("/policy/schema").await;
    assert!(told.body["properties"]["policies"].is_object(), "{told:?}");
}
