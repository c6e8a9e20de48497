//! Signing secrets that are replaced while agents call.

use serde_json::{Value, json};

use crate::support::harness::{Gateway, Setup, eventually, tool_call};

const OLD: &str = "the old secret, which is long enough to sign";
const NEW: &str = "the new secret, which is long enough to sign";

/// Waits until a reload with this many signing keys is on record; gives their names.
async fn reloaded(gateway: &Gateway, keys: usize) -> Vec<String> {
    let found = eventually(|| async {
        let records = gateway.records();
        let last = records.iter().rev().find(|record| record["event"] == "keys.reload")?;
        let names = last["detail"]["signing_keys"].as_str()?;
        let names: Vec<_> = names.split(' ').map(str::to_owned).collect();
        (names.len() == keys).then_some(names)
    });
    found.await.unwrap_or_else(|| panic!("no reload with {keys} signing keys"))
}

/// The name of the key that signed a token.
fn key_of(token: &str) -> String {
    use base64::Engine as _;

    let header = token.split('.').next().unwrap();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_secret_is_replaced_without_an_outage() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("signing-secret");
    std::fs::write(&file, format!("{OLD}\n")).unwrap();
    let env = vec![
        ("ARBITER_SIGNING_SECRET", "-".to_owned()),
        ("ARBITER_SIGNING_SECRET_FILE", file.display().to_string()),
    ];
    let mut gateway = Gateway::start(Setup { env, ..Setup::default() }).await;
    let config = gateway.folder.path().join("arbiter.toml");
    let without = std::fs::read_to_string(&config).unwrap();
    let session = gateway.session(json!({})).await;
    let call = || tool_call("read_file", json!({}));
    let old = gateway.agent.token.clone();
    assert_eq!(gateway.call(&session, call()).await.status, 200);
    let known_as = gateway.mcp_session(&session, "of-the-server").await;

    let listed = without.replace("[admin]\n", &format!("[admin]\nsigning_secrets = [{OLD:?}]\n"));
    std::fs::write(&config, listed).unwrap();
    std::fs::write(&file, NEW).unwrap();
    gateway.signal("HUP");
    let names = reloaded(&gateway, 2).await;
    assert_eq!(key_of(&old), names[1]);
    assert_eq!(gateway.call(&session, call()).await.status, 200, "the old token, from memory");
    let request = gateway.request(&session, call()).header("mcp-session-id", &known_as);
    assert_eq!(gateway.send(request).await.status, 200, "an id that the old key has sealed");
    let path = format!("/agents/{}/token", gateway.agent.id);
    let (_, issued) = gateway.admin("POST", &path, Some(json!({}))).await;
    let new = issued["token"].as_str().unwrap().to_owned();
    assert_eq!(key_of(&new), names[0]);
    gateway.agent.token.clone_from(&new);
    assert_eq!(gateway.call(&session, call()).await.status, 200);

    std::fs::write(&config, &without).unwrap();
    gateway.signal("HUP");
    assert_eq!(reloaded(&gateway, 1).await, names[..1]);
    assert_eq!(gateway.call(&session, call()).await.status, 200);
    gateway.agent.token = old;
    let refused = gateway.call(&session, call()).await;
    assert_eq!((refused.status, refused.code().as_str()), (401, "TokenInvalid"));

    // A list with a mistake keeps what is in force.
    std::fs::write(&file, "short").unwrap();
    gateway.signal("HUP");
    let refused = eventually(|| async {
        let records = gateway.records();
        records.iter().rev().find(|record| record["event"] == "keys.reload").and_then(|record| {
            (record["detail"]["outcome"] == "refused").then(|| record["detail"]["error"].clone())
        })
    });
    let error = refused.await.expect("on record");
    assert!(error.as_str().unwrap().contains("ARBITER_SIGNING_SECRET_FILE"), "{error}");
    gateway.agent.token = new;
    assert_eq!(gateway.call(&session, call()).await.status, 200);
}
