//! The compliance packs do what their comments say, above an allow policy for everything.

use super::*;

const PACKS: [(&str, &str); 4] = [
    ("soc2", include_str!("../../../../policies/compliance/soc2.toml")),
    ("hipaa", include_str!("../../../../policies/compliance/hipaa.toml")),
    ("pci-dss-4", include_str!("../../../../policies/compliance/pci-dss-4.toml")),
    ("eu-ai-act", include_str!("../../../../policies/compliance/eu-ai-act.toml")),
];

/// Returns the policy that decides on a call of a trusted agent of the group `clinicians`.
#[track_caller]
fn check(pack: &str, tool: &str, arguments: &str, expected: &str) {
    let (_, text) = PACKS.into_iter().find(|(name, _)| *name == pack).unwrap();
    let own = "[[policies]]\nid = 'own'\neffect = 'allow'\nallowed_tools = ['*']\n";
    let sources = [Source { name: pack, text }, Source { name: "own.toml", text: own }];
    let set = PolicySet::parse(&sources).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(set.warnings(), [], "{pack}");
    let agent = Agent { trust: TrustLevel::Trusted, ..agent() };
    let principal = Principal { groups: vec!["clinicians".into()], ..principal() };
    let intent = Some("Treat patient P-17 and refund order 4711");
    let facts = Facts { agent: &agent, principal: &principal, intent };
    let doc = json::Doc::parse(arguments.as_bytes()).unwrap();
    let asked = Asked::of(Target::Tool(tool)).with_arguments(Some(doc.root()));
    assert_eq!(said(set.evaluate(&facts, &asked)), expected, "{pack} {tool} {arguments}");
}

#[test]
fn soc2() {
    let check = |tool, arguments, expected| check("soc2", tool, arguments, expected);
    check("read_file", r#"{"path": "/a"}"#, "allow own");
    check("grant_role", "{}", "escalate soc2-cc6.3-access-changes");
    check("get_secret_value", "{}", "deny soc2-cc6.1-no-secrets");
    check("send_mail", r#"{"recipients": ["a@example.com"]}"#, "allow own");
    check(
        "send_mail",
        r#"{"recipients": ["a@example.com", "b@evil.net"]}"#,
        "escalate soc2-cc6.7-mail-outside",
    );
    check("send_mail", r#"{"recipients": "a@example.com"}"#, "escalate soc2-cc6.7-mail-outside");
    check("webhook", r#"{"url": "https://hooks.example.com/x"}"#, "allow own");
    check("webhook", r#"{"url": "https://evil.net/x"}"#, "deny soc2-cc6.7-upload-elsewhere");
    check(
        "webhook",
        r#"{"url": "http://hooks.example.com/x"}"#,
        "deny soc2-cc6.7-upload-elsewhere",
    );
    check("disable_alerts", "{}", "deny soc2-cc7.2-monitoring-stays-on");
    check("deploy", r#"{"environment": "staging"}"#, "allow own");
    check("deploy", r#"{"environment": "production"}"#, "escalate soc2-cc8.1-production-changes");
    check("deploy", r#"{"environment": "Production"}"#, "escalate soc2-cc8.1-production-changes");
}

#[test]
fn hipaa() {
    let check = |tool, arguments, expected| check("hipaa", tool, arguments, expected);
    check("get_patient_record", r#"{"patient_id": "P-17"}"#, "allow hipaa-164.312a-read-record");
    check("get_patient_record", r#"{"patient_id": ["P-18"]}"#, "no match");
    check("export_patients", "{}", "deny hipaa-164.502b-no-bulk");
    check("update_patient_record", "{}", "escalate hipaa-164.312c-record-changes");
    check("send_mail", r#"{"recipients": ["dr@icu.hospital.example"]}"#, "allow own");
    check("send_mail", r#"{"recipients": ["x@evil.net"]}"#, "deny hipaa-164.312e-mail-outside");
    check("http_post", r#"{"url": "https://fhir.hospital.example/r4"}"#, "allow own");
    check(
        "http_post",
        r#"{"url": "https://fhir.hospital.example@evil.net"}"#,
        "deny hipaa-164.312e-send-elsewhere",
    );
    check("delete_audit_log", "{}", "deny hipaa-164.312b-audit-stays");
}

#[test]
fn pci_dss() {
    let check = |tool, arguments, expected| check("pci-dss-4", tool, arguments, expected);
    check("get_card_number", "{}", "deny pci-3.4.1-no-full-pan");
    check("post_message", r#"{"content": "order 4711 shipped"}"#, "allow own");
    check(
        "post_message",
        r#"{"content": "card 4111 1111 1111 1111."}"#,
        "deny pci-3.3.1-no-pan-in-text",
    );
    check("webhook", r#"{"url": "https://api.processor.example/v1"}"#, "allow own");
    check(
        "webhook",
        r#"{"url": "http://api.processor.example/v1"}"#,
        "deny pci-4.2.1-send-elsewhere",
    );
    check("refund", r#"{"order_id": "4711", "amount": 20}"#, "allow pci-7.2.5-refund");
    check("refund", r#"{"order_id": 4711, "amount": "20"}"#, "no match");
    check("reset_password", "{}", "escalate pci-8.2.4-account-changes");
    check("write_file", r#"{"path": "/srv/a", "content": "x"}"#, "allow own");
    check("write_file", r#"{"path": "/var/log/a", "content": "x"}"#, "deny pci-10.3.2-logs-stay");
    check(
        "write_file",
        r#"{"path": "/srv/../var/log/a", "content": "x"}"#,
        "deny pci-10.3.2-logs-stay",
    );
    check("deploy", r#"{"environment": "test"}"#, "allow own");
    check("deploy", r#"{"environment": "live"}"#, "escalate pci-6.5.3-production");
}

#[test]
fn eu_ai_act() {
    let check = |tool, arguments, expected| check("eu-ai-act", tool, arguments, expected);
    check("infer_emotions", "{}", "deny aia-5-prohibited");
    check("reject_applicant", "{}", "escalate aia-14-decisions-about-people");
    check("set_autonomy", "{}", "deny aia-14.4e-controls-stay");
    check("delete_file", r#"{"path": "/tmp/a"}"#, "allow own");
    check("delete_file", r#"{"path": "/srv/audit/2026.log"}"#, "deny aia-12-logs-stay");
    check(
        "fine_tune",
        r#"{"datasets": [{"path": "/srv/datasets/reviewed/a"}]}"#,
        "allow aia-10-training-data",
    );
    check("fine_tune", r#"{"datasets": [{"path": ["/srv/datasets/raw"]}]}"#, "no match");
    check("publish", r#"{"ai_generated_label": true}"#, "allow own");
    check("publish", r#"{"ai_generated_label": false}"#, "deny aia-50.2-publish-unmarked");
    check("publish", "{}", "deny aia-50.2-publish-unmarked");
}

/// Each rule names its control: its id begins with the pack's short name, and a comment says more.
#[test]
fn every_rule_names_its_control() {
    for ((_, text), short) in PACKS.into_iter().zip(["soc2-", "hipaa-", "pci-", "aia-"]) {
        let ids = text.lines().filter_map(|line| line.strip_prefix("id = \""));
        assert!(ids.clone().count() >= 6);
        assert!({ ids }.all(|id| {
            id.strip_prefix(short).is_some_and(|rest| rest.contains(|c: char| c.is_ascii_digit()))
        }));
    }
}
