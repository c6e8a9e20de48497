//! The doctor on identity providers and certificates.

use std::fs;

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use serde_json::json;

use super::super::tests::{Ran, run};
use super::*;

const SECRETS: [(&str, &str); 2] = [
    ("ARBITER_ADMIN_API_KEY", "not-a-real-key-0123456789"),
    ("ARBITER_SIGNING_SECRET", "0123456789abcdef0123456789abcdef"),
];

/// A provider that knows one client: `us` with the secret `hunter2`.
async fn provider() -> String {
    let key = json!({
        "kty": "EC", "crv": "P-256", "kid": "1",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    });
    let keys = json!({"keys": [key]});
    let answer = async |headers: HeaderMap| match headers.get("authorization") {
        Some(given) if given == "Basic dXM6aHVudGVyMg==" => Ok(Json(json!({"active": false}))),
        _ => Err(StatusCode::UNAUTHORIZED),
    };
    let router = axum::Router::new()
        .route("/keys", get(async move || Json(keys)))
        .route("/none", get(async || Json(json!({"keys": []}))))
        .route("/introspect", post(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    origin
}

async fn check(more: &str) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let (toml, audit) = (dir.path().join("arbiter.toml"), dir.path().join("audit.jsonl"));
    let audit = audit.display();
    let base = format!(
        "[proxy]\nlisten_port = 0\nlisten_addr = \"127.0.0.1\"\n[admin]\nlisten_port = 0\n\
         [audit]\nfile_path = \"{audit}\"\n"
    );
    fs::write(&toml, base + more).unwrap();
    run(&format!("check --config {}", toml.display()), &SECRETS).await
}

/// Lines of one subject.
fn lines<'a>(ran: &'a Ran, what: &str) -> Vec<&'a str> {
    ran.out.lines().filter(|line| line.split_whitespace().nth(1) == Some(what)).collect()
}

#[tokio::test]
async fn the_doctor_asks_each_issuer_as_a_gateway_would() {
    let origin = provider().await;
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let introspected = |secret: &str| {
        format!(
            "introspection_url = \"{origin}/introspect\"\nclient_id = \"us\"\nclient_secret = \"{secret}\""
        )
    };
    let keys = |uri: &str| format!("jwks_uri = \"{uri}\"");
    let cases = [
        (
            "both",
            format!("{}\n{}", keys(&format!("{origin}/keys")), introspected("hunter2")),
            "ok",
            "publishes 1 keys; answers questions about tokens",
        ),
        ("opaque", introspected("hunter2"), "ok", "answers questions about tokens"),
        ("stranger", introspected("hunter3"), "warn", "its introspection failed: HTTP status 401"),
        ("bare", keys(&format!("{origin}/none")), "warn", "publishes no key that can be used"),
        ("gone", keys(&format!("http://{nobody}/keys")), "warn", "keys could not be fetched"),
        ("silent", String::new(), "warn", "metadata could not be fetched"),
        ("untrusted", "ca_file = \"/nonexistent.pem\"".to_owned(), "fail", "/nonexistent.pem"),
    ];
    let issuers = cases.iter().map(|(name, how, ..)| {
        format!(
            "[[oauth.issuers]]\nname = \"{name}\"\nissuer_url = \"{origin}/{name}\"\naudiences = [\"a\"]\n{how}\n"
        )
    });
    let ran = check(&issuers.collect::<String>()).await;
    let said = lines(&ran, "issuer");
    assert_eq!(said.len(), cases.len(), "{ran:?}");
    for ((name, _, health, text), line) in cases.iter().zip(said) {
        assert!(line.starts_with(health) && line.contains(name) && line.contains(text), "{line}");
    }
    assert!(!ran.out.contains("hunter"), "{ran:?}");
    assert_eq!(
        ran.exit,
        Exit::No,
        "an authority that cannot be read keeps a gateway from starting"
    );
}

#[tokio::test]
async fn the_doctor_opens_the_certificates_of_both_ports() {
    let missing = "cert_file = \"c.pem\"\nkey_file = \"k.pem\"\n";
    let ran = check(&format!("[proxy.tls]\n{missing}[admin.tls]\n{missing}")).await;
    let said = lines(&ran, "certificate");
    assert_eq!((ran.exit, said.len()), (Exit::No, 2), "{ran:?}");
    for (line, section) in said.iter().zip(["proxy.tls", "admin.tls"]) {
        assert!(
            line.starts_with("fail") && line.contains(section) && line.contains("c.pem"),
            "{line}"
        );
    }
}
