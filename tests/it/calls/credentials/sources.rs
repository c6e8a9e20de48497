//! Sources of credentials: faults that stop the start, and changes by a reload.

use std::process::Command;

use serde_json::json;

use super::{HEADER, JSON, Keys, SECRETS, TOKEN, answered, reads, trusted};
use crate::support::harness::{Gateway, Setup, eventually, refuses_to_start};

fn log(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.folder.path().join("log.txt")).unwrap()
}

/// Has the gateway read its files again, and waits until it says so.
async fn hang_up(gateway: &Gateway, says: &str) {
    let before = log(gateway).matches(says).count();
    let pid = gateway.pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    let said = eventually(|| async { (log(gateway).matches(says).count() > before).then_some(()) });
    said.await.unwrap_or_else(|| panic!("{says:?} is not said:\n{}", log(gateway)));
}

async fn arrives(gateway: &Gateway, session: &str, name: &str) -> Result<String, String> {
    let answer = gateway.call(session, reads(&format!("${{CRED:{name}}}"))).await;
    if answer.status != 200 {
        return Err(answer.code());
    }
    let seen = gateway.upstream.seen().pop().unwrap().body;
    let seen: serde_json::Value = serde_json::from_slice(&seen).unwrap();
    Ok(seen["params"]["arguments"]["path"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_file_is_read_again_at_hangup_and_one_that_is_malformed_changes_nothing() {
    let keys = Keys::new(&format!("[credentials]\na = \"{TOKEN}\"\nheader = \"{HEADER}\"\n"));
    let headers = "{ Authorization = \"Bearer ${CRED:header}\" }";
    let gateway = Gateway::start(keys.setup().with("proxy.upstream_headers", headers)).await;
    let names = json!({"authorized_credentials": ["a", "b"]});
    let session = gateway.session(names.clone()).await;
    assert_eq!(arrives(&gateway, &session, "a").await.as_deref(), Ok(TOKEN));
    assert_eq!(arrives(&gateway, &session, "b").await.unwrap_err(), "CredentialUnknown");

    keys.write("[credentials]\na = \"rotated-value-1\"\nb = \"new-value-1\"\nheader = \"rotated-header\"\n");
    hang_up(&gateway, "credentials reloaded").await;
    assert_eq!(arrives(&gateway, &session, "a").await.as_deref(), Ok("rotated-value-1"));
    assert_eq!(arrives(&gateway, &session, "b").await.as_deref(), Ok("new-value-1"));
    // The upstream's headers too, without a restart.
    let sent = gateway.upstream.seen().pop().unwrap();
    assert_eq!(sent.headers["authorization"], "Bearer rotated-header");
    // Old and new values are scrubbed.
    let said = format!("{TOKEN} rotated-value-1 {HEADER} rotated-header");
    let answer = answered(&gateway, &session, 200, JSON, said).await;
    assert_eq!(answer.body, ["[CREDENTIAL]"; 4].join(" "));

    for broken in [
        "[credentials]\na = ".to_owned(),
        format!("[credentials]\nheader = \"h-value-1\"\na = \"{TOKEN}\"\na = \"{TOKEN}\"\n"),
        // Well-formed, but without what a header needs.
        "[credentials]\na = \"third-value-1\"\n".to_owned(),
    ] {
        keys.write(&broken);
        hang_up(&gateway, "credentials not reloaded; the old ones stay in force").await;
        assert_eq!(arrives(&gateway, &session, "a").await.as_deref(), Ok("rotated-value-1"));
    }
    std::fs::remove_file(&keys.path).unwrap();
    hang_up(&gateway, "credentials not reloaded; the old ones stay in force").await;
    assert_eq!(arrives(&gateway, &session, "b").await.as_deref(), Ok("new-value-1"));
    for secret in [TOKEN, HEADER, "rotated-value-1", "new-value-1", "third-value-1", "h-value-1"] {
        assert!(!log(&gateway).contains(secret));
    }
    assert!(log(&gateway).contains("proxy.upstream_headers.authorization"), "{}", log(&gateway));
    assert!(log(&gateway).contains("line 4"), "{}", log(&gateway));
}

#[tokio::test]
async fn the_environment_provides_by_prefix() {
    let mut setup = Setup::default()
        .with("credentials.provider", "\"env\"")
        .with("credentials.env_prefix", "\"MY_CRED_\"");
    setup.env.push(("MY_CRED_API_TOKEN", TOKEN.to_owned()));
    setup.env.push(("OTHER_API_KEY", "not-a-credential".to_owned()));
    let gateway = Gateway::start(setup).await;
    let names = json!({"authorized_credentials": ["api_token", "API_TOKEN", "api_key"]});
    let session = gateway.session(names).await;
    assert_eq!(arrives(&gateway, &session, "api_token").await.as_deref(), Ok(TOKEN));
    assert_eq!(arrives(&gateway, &session, "API_TOKEN").await.as_deref(), Ok(TOKEN));
    assert_eq!(arrives(&gateway, &session, "api_key").await.unwrap_err(), "CredentialUnknown");
}

#[tokio::test]
async fn a_command_provides_and_is_asked_again_when_its_answer_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let vault = folder.path().join("vault.json");
    std::fs::write(&vault, json!({"credentials": {"a": TOKEN}}).to_string()).unwrap();
    let setup = Setup::default()
        .with("credentials.provider", "\"command\"")
        .with("credentials.command", json!(["/bin/cat", vault.display().to_string()]))
        .with("credentials.ttl_secs", 1);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({"authorized_credentials": ["a"]})).await;
    assert_eq!(arrives(&gateway, &session, "a").await.as_deref(), Ok(TOKEN));
    std::fs::write(&vault, json!({"a": {"value": "from-the-vault"}}).to_string()).unwrap();
    let (gateway, session) = (&gateway, &session);
    let renewed = || async {
        let value = arrives(gateway, session, "a").await.unwrap();
        (value == "from-the-vault").then_some(())
    };
    eventually(renewed).await.expect("the command is not asked again");
    std::fs::write(&vault, format!("{{\"a\":\"{TOKEN}\"")).unwrap();
    let failed = || async { log(gateway).contains("credentials not reloaded").then_some(()) };
    eventually(failed).await.expect("the command's failure is not said");
    assert_eq!(arrives(gateway, session, "a").await.as_deref(), Ok("from-the-vault"));
    assert!(!log(gateway).contains(TOKEN));
}

#[tokio::test]
async fn a_hangup_while_it_starts_ends_nothing_and_has_all_read_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    // The command is asked at the start, and its first act is to signal who asks.
    let script =
        "test -e \"$1\" || kill -s HUP $PPID; echo >> \"$1\"; echo '{\"a\": \"long-enough\"}'";
    let setup = Setup::default()
        .with("credentials.provider", "\"command\"")
        .with("credentials.command", json!(["/bin/sh", "-c", script, "sh", asked]));
    let gateway = Gateway::start(setup).await;
    let again = || async { log(&gateway).contains("credentials reloaded").then_some(()) };
    eventually(again).await.expect("the hangup was lost");
    assert_eq!(std::fs::read(&asked).unwrap(), b"\n\n");
}

#[tokio::test]
async fn a_source_that_is_malformed_stops_the_start_and_is_not_quoted() {
    let secret = TOKEN;
    for (text, named) in [
        (format!("[credentials]\nok = \"x\"\nbad = \"{secret}\n"), "line 3"),
        (format!("[credentials]\na = \"{secret}\"\na = \"{secret}\"\n"), "line 3"),
        (format!("{secret}\n"), "line 1"),
        (format!("[credentials]\na = {{ value = \"{secret}\", tool = 1 }}\n"), "credentials.a"),
        (format!("[credentials]\n\"a b\" = \"{secret}\"\n"), "a b"),
        (format!("[secrets]\na = \"{secret}\"\n"), "secrets"),
        ("[credentials]\na = \"\"\n".to_owned(), "`a` is empty"),
    ] {
        let keys = Keys::new(&text);
        let (code, said) = refuses_to_start(&keys.setup()).await;
        assert_eq!(code, Some(2), "{text}: {said}");
        assert!(said.contains(named), "{text}: {said}");
        assert!(said.contains("credentials.toml") && !said.contains(secret), "{text}: {said}");
    }
    let keys = Keys::new("[credentials]\n");
    std::fs::remove_file(&keys.path).unwrap();
    let (code, said) = refuses_to_start(&keys.setup()).await;
    assert!(code == Some(2) && said.contains("cannot be read"), "{code:?} {said}");
    let headers = "{ Authorization = \"Bearer ${CRED:nope}\" }";
    let keys = Keys::usual();
    let (code, said) =
        refuses_to_start(&keys.setup().with("proxy.upstream_headers", headers)).await;
    assert!(code == Some(2) && said.contains("`nope` does not exist"), "{code:?} {said}");
    let command = json!(["/bin/sh", "-c", format!("echo '{secret}'; exit 3")]);
    let setup = Setup::default()
        .with("credentials.provider", "\"command\"")
        .with("credentials.command", command);
    let (code, said) = refuses_to_start(&setup).await;
    assert!(
        code == Some(2) && said.contains("failed") && !said.contains(secret),
        "{code:?} {said}"
    );
}

#[tokio::test]
async fn a_file_that_others_can_read_is_warned_of_or_refused() {
    let keys = Keys::usual();
    keys.mode(0o640);
    let (code, said) =
        refuses_to_start(&keys.setup().with("credentials.strict_file_mode", true)).await;
    assert!(code == Some(2) && said.contains("chmod 600"), "{code:?} {said}");
    let gateway = Gateway::start(keys.setup()).await;
    let said = log(&gateway);
    assert!(said.contains("can be read by others (mode 640)"), "{said}");
    assert!(said.contains("shorter than 8 bytes") && said.contains("tiny, tiny_ok"), "{said}");
    assert!(SECRETS.iter().all(|secret| !said.contains(secret)));
    let session = trusted(&gateway).await;
    assert_eq!(arrives(&gateway, &session, "tiny").await.unwrap_err(), "CredentialTooShort");
    assert_eq!(arrives(&gateway, &session, "tiny_ok").await.as_deref(), Ok("q7z"));
}
