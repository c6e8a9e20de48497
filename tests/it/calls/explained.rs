//! Answers of `POST /policy/explain` beside the acts of the gateway: the same calls, asked and made.

use arbiter::firewall::checks::Step;
use serde_json::{Value, json};

use crate::support::harness::{Gateway, Setup, tool_call};

const POLICIES: &str = r#"
[[policies]]
id = "files"
effect = "allow"
allowed_tools = ["read_file", "delete_file", "list_dir", "pay_bill"]

[[policies]]
id = "secrets"
effect = "allow"
priority = 500
allowed_tools = ["read_secret"]
data_sensitivity = "restricted"

[[policies]]
id = "not-the-root"
effect = "deny"
priority = 900
allowed_tools = ["read_file"]
[[policies.parameter_constraints]]
key = "path"
regex = "/root/.*"

[[policies]]
id = "a-person"
effect = "escalate"
priority = 900
allowed_tools = ["get_payroll"]
"#;

#[tokio::test]
async fn an_explanation_is_what_happens() {
    let setup = Setup::default().policies(POLICIES).with("sessions.escalate_anomalies", true);
    let gateway = Gateway::start(setup).await;
    let terms = json!({
        "declared_intent": "read reports",
        "authorized_tools": ["read_file", "delete_file", "read_secret", "get_payroll", "get_x"],
    });
    let session = gateway.session(terms.clone()).await;
    for (tool, arguments, step, code) in [
        ("read_file", json!({"path": "/srv/a"}), None, None),
        ("read_file", json!({"path": "/root/a"}), Some("policy"), Some("PolicyDenied")),
        ("read_file", json!({}), Some("policy"), Some("PolicyDenied")),
        ("get_x", json!({}), Some("policy"), Some("PolicyDenied")),
        ("delete_file", json!({}), Some("drift"), Some("DriftDetected")),
        ("list_dir", json!({}), Some("whitelist"), Some("ToolNotAuthorized")),
        ("read_secret", json!({}), Some("sensitivity"), Some("SensitivityExceeded")),
        ("get_payroll", json!({}), Some("escalation"), Some("EscalationRequired")),
        ("get_payroll", json!({"a": "${CRED"}), Some("escalation"), Some("EscalationRequired")),
        ("read_file", json!({"path": "${CRED:a b}"}), Some("credentials"), None),
    ] {
        let made = gateway.call(&session, tool_call(tool, arguments.clone())).await;
        let made_code = (made.status != 200).then(|| made.code());
        if let Some(code) = code {
            assert_eq!(made_code.as_deref(), Some(code), "{tool} {arguments}");
        }
        let record = gateway.record_of(made.request_id()).await;
        // By the session itself, and by terms that nobody has opened.
        let described = json!({"agent_id": gateway.agent.id, "session": terms});
        for mut question in [json!({"session_id": session}), described] {
            question["tool"] = tool.into();
            question["arguments"] = arguments.clone();
            let (status, told) =
                gateway.admin("POST", "/policy/explain", Some(question.clone())).await;
            assert_eq!(status, 200, "{question}: {told}");
            assert_eq!(told["code"].as_str(), made_code.as_deref(), "{question}: {told}");
            assert_eq!(told["decision"], record["authorization_decision"], "{question}: {told}");
            let matched = told["matched_policy"].as_str();
            assert_eq!(matched, record["policy_matched"].as_str(), "{question}: {told}");
            let refused = |step: &&Value| step["outcome"] == "refused";
            let refusing = told["steps"].as_array().unwrap().iter().find(refused);
            let refusing = refusing.and_then(|step| step["step"].as_str());
            assert_eq!(refusing, made_code.as_ref().and(step), "{question}: {told}");
        }
    }
    let question = json!({"session_id": session, "tool": "read_file", "arguments": {}});
    let (_, told) = gateway.admin("POST", "/policy/explain", Some(question)).await;
    assert_eq!(
        told["trace"][0]["reason"],
        "`path` is missing: a deny policy whose constraint cannot be judged matches",
        "{told}"
    );
}

#[tokio::test]
async fn credentials_are_judged_before_a_person_is_asked() {
    let gateway = Gateway::start(Setup::default().policies(POLICIES)).await;
    let session = gateway.session(json!({"authorized_tools": ["get_payroll"]})).await;
    let call = tool_call("get_payroll", json!({"token": "${CRED:nothing}"}));
    let made = gateway.call(&session, call).await;
    assert_eq!((made.status, made.code().as_str()), (403, "CredentialUnknown"));
}

#[test]
fn the_guide_has_a_row_for_every_step_in_their_order() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/README.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let rows = guide.lines().skip_while(|line| !line.starts_with("| step ")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let named: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    let steps: Vec<_> = std::iter::once("agent").chain(Step::ALL.map(Step::as_str)).collect();
    assert_eq!(named, steps, "the table of steps in policies/README.md");
}
