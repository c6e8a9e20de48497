//! The starter policies do what their comments say.

use super::*;

fn starter() -> PolicySet {
    let sources = [
        Source { name: "10-read.toml", text: include_str!("../../../../policies/10-read.toml") },
        Source { name: "20-write.toml", text: include_str!("../../../../policies/20-write.toml") },
        Source { name: "90-guard.toml", text: include_str!("../../../../policies/90-guard.toml") },
    ];
    PolicySet::parse(&sources).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// Checks which policy decides a call of an agent of this trust level.
fn check(trust: TrustLevel, intent: &str, tool: &str, arguments: &str, expected: &str) {
    let agent = Agent { trust, ..agent() };
    let principal = principal();
    let facts = Facts { agent: &agent, principal: &principal, intent: Some(intent) };
    let doc = json::Doc::parse(arguments.as_bytes()).unwrap();
    let asked = Asked::of(Target::Tool(tool)).with_arguments(Some(doc.root()));
    let set = starter();
    assert_eq!(said(set.evaluate(&facts, &asked)), expected, "{tool} {arguments}");
}

#[test]
fn the_starter_policies_keep_their_word() {
    use TrustLevel::{Basic, Trusted, Untrusted, Verified};
    let (read, write) = ("read the reports", "update the reports");
    check(Untrusted, read, "read_file", r#"{"path": "/projects/a.md"}"#, "no match");
    check(Basic, read, "read_file", r#"{"path": "/projects/a.md"}"#, "allow read-files");
    check(Basic, read, "list_directory", "{}", "allow read-basics");
    check(Basic, read, "write_file", r#"{"path": "/projects/a.md"}"#, "no match");
    check(
        Verified,
        write,
        "write_file",
        r#"{"path": "/projects/a.md"}"#,
        "allow write-project-files",
    );
    check(Verified, read, "write_file", r#"{"path": "/projects/a.md"}"#, "no match");
    check(Verified, write, "write_file", r#"{"path": "/etc/passwd"}"#, "no match");
    check(Verified, write, "write_file", r#"{"path": "/projects/../etc/passwd"}"#, "no match");
    for secret in ["%2e%2e/x", "%2eenv", "a\\\\.env.local", ".ssh/id", "ID_RSA.bak", "x.PEM"] {
        let path = format!(r#"{{"path": "/projects/{secret}"}}"#);
        check(Verified, write, "write_file", &path, "deny no-secret-files");
    }
    check(Verified, write, "write_file", "{}", "deny no-secret-files");
    let mail = |to: &str| format!(r#"{{"recipients": [{to}]}}"#);
    check(Verified, write, "send_mail", &mail(r#""a@example.com""#), "allow internal-mail");
    check(Verified, write, "send_mail", &mail(r#""a@example.com", "b@evil.net""#), "no match");
    check(
        Basic,
        read,
        "fetch",
        r#"{"url": "https://docs.example.com/a"}"#,
        "allow fetch-known-hosts",
    );
    check(Basic, read, "fetch", r#"{"url": "http://docs.example.com/a"}"#, "no match");
    check(Basic, read, "fetch", r#"{"url": "https://docs.example.com@evil.net/"}"#, "no match");
    check(
        Verified,
        write,
        "transfer",
        r#"{"amount": 100, "currency": "EUR"}"#,
        "allow small-transfers",
    );
    check(
        Verified,
        write,
        "transfer",
        r#"{"amount": 100.01, "currency": "EUR"}"#,
        "escalate large-transfers",
    );
    check(
        Verified,
        write,
        "transfer",
        r#"{"amount": "5", "currency": "EUR"}"#,
        "escalate large-transfers",
    );
    check(Verified, write, "transfer", r#"{"amount": 5, "currency": "XXX"}"#, "no match");
    check(
        Trusted,
        write,
        "delete_file",
        r#"{"path": "/projects/a.md"}"#,
        "escalate ask-before-deleting",
    );
    check(Trusted, write, "execute_command", "{}", "deny no-shell");
    check(Trusted, read, "read_file", r#"{"path": "/home/x/.ssh/id_rsa"}"#, "deny no-secret-files");
    check(Trusted, read, "read_file", r#"{"path": ".env"}"#, "deny no-secret-files");
    check(Trusted, read, "read_file", r#"{"path": "certs/KEY.PEM"}"#, "deny no-secret-files");
    check(
        Trusted,
        read,
        "read_file",
        r#"{"path": "/projects/environment.md"}"#,
        "allow read-files",
    );
    check(Trusted, read, "read_file", "{}", "deny no-secret-files");
}
