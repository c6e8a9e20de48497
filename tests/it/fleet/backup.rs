//! The drill of conf/README.md: a copy of the running gateway's state, a lost volume, a restore.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::harness::{API_KEY, Gateway, SIGNING_SECRET, Setup, tool_call};

fn arbiter(gateway: &Gateway, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_arbiter"))
        .args(arguments)
        .env("ARBITER_ADMIN_API_KEY", API_KEY)
        .env("ARBITER_SIGNING_SECRET", SIGNING_SECRET)
        .env("ARBITER_CONFIG", gateway.folder.path().join("arbiter.toml"))
        .env("ARBITER_ADMIN_URL", format!("http://{}", gateway.admin))
        .output()
        .unwrap()
}

fn back_up(gateway: &Gateway, to: &Path) -> Output {
    arbiter(gateway, &["storage", "backup", "--to", to.to_str().unwrap()])
}

fn restore(gateway: &Gateway, from: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut arguments = vec!["storage", "restore", "--json", "--from", from.to_str().unwrap()];
    arguments.extend(more);
    let output = arbiter(gateway, &arguments);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

fn lose(gateway: &Gateway) {
    for name in ["arbiter.db", "arbiter.db-wal", "arbiter.db-shm"] {
        // Some of them may not be there.
        let _gone = std::fs::remove_file(gateway.folder.path().join(name));
    }
}

async fn made(gateway: &Gateway, session: &str) -> u64 {
    let (_, shown) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    shown["calls_made"].as_u64().unwrap_or_else(|| panic!("{shown}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_volume_is_restored_and_what_was_spent_since_is_not_forgotten_unseen() {
    let mut gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({ "call_budget": 100 })).await;
    let call = || tool_call("read_file", json!({}));
    for _ in 0..3 {
        assert_eq!(gateway.call(&session, call()).await.status, 200);
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let backed_up = back_up(&gateway, &copy);
    assert!(backed_up.status.success(), "{backed_up:?}");
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&copy).unwrap();
    let again = back_up(&gateway, &copy);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    assert_eq!(std::fs::read(&copy).unwrap(), bytes, "never over a file");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    let (code, said) = restore(&gateway, &copy, &[]);
    assert!(code == Some(1) && said.contains("stop Arbiter first"), "{code:?} {said}");

    // Nothing was spent since: the copy is as good as what was lost.
    gateway.kill();
    lose(&gateway);
    let (code, said) = restore(&gateway, &copy, &[]);
    assert_eq!(code, Some(0), "{said}");
    gateway.start_again();
    assert!(made(&gateway, &session).await >= 3);
    for _ in 0..4 {
        assert_eq!(gateway.call(&session, call()).await.status, 200);
    }
    let (status, _) = gateway.admin("DELETE", &format!("/sessions/{session}"), None).await;
    assert_eq!(status, 200);

    gateway.kill();
    lose(&gateway);
    let (code, said) = restore(&gateway, &copy, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("4 calls") && said.contains("1 session.close"), "{said}");
    assert!(!gateway.folder.path().join("arbiter.db").exists(), "refused, so nothing was done");
    let (code, said) = restore(&gateway, &copy, &["--accept-rollback"]);
    assert_eq!(code, Some(0), "{said}");
    let told: Value = serde_json::from_str(&said).unwrap();
    assert!(told["rolled_back"].as_str().unwrap().contains("4 calls"), "{told}");
    gateway.start_again();
    assert!((3..7).contains(&made(&gateway, &session).await), "as it was in the copy");
    let records = gateway.records();
    let restores: Vec<_> = records.iter().filter(|r| r["event"] == "storage.restore").collect();
    assert_eq!(restores.len(), 2);
    assert_eq!(restores[1]["detail"]["approvals"], "void");
    assert_eq!(restores[1]["detail"]["accept_rollback"], "true");
    assert_eq!(records.iter().filter(|r| r["event"] == "storage.backup").count(), 1);
    gateway.stop();
    let log = gateway.audit_file();
    let verified = arbiter(&gateway, &["audit", "verify", log.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
    // Over a file that is there: that one is kept.
    let (code, said) = restore(&gateway, &copy, &["--accept-rollback"]);
    assert_eq!(code, Some(0), "{said}");
    let told: Value = serde_json::from_str(&said).unwrap();
    assert!(Path::new(told["kept"].as_str().unwrap()).exists(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_leaves_nothing_approved_or_asked() {
    let ask = "[[policies]]\nid = \"all\"\neffect = \"allow\"\nallowed_tools = [\"*\"]\n\
               [[policies]]\nid = \"ask\"\neffect = \"escalate\"\nallowed_tools = [\"read_file\"]\npriority = 900\n";
    let mut gateway = Gateway::start(Setup::default().policies(ask)).await;
    let session = gateway.session(json!({})).await;
    let call = |path: &str| tool_call("read_file", json!({ "path": path }));
    let asked = async |gateway: &Gateway, path: &str| {
        let refused = gateway.call(&session, call(path)).await;
        assert_eq!(refused.code(), "EscalationRequired", "{refused:?}");
        refused.json()["error"]["data"]["approval_id"].as_str().unwrap().to_owned()
    };
    let pending = asked(&gateway, "/pending").await;
    let approved = asked(&gateway, "/approved").await;
    let yes = json!({ "decision": "approve", "uses": 5 });
    let path = format!("/approvals/{approved}");
    assert_eq!(gateway.admin("POST", &path, Some(yes.clone())).await.0, 200);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    assert!(back_up(&gateway, &copy).status.success());
    // A use that the copy would not know of.
    assert_eq!(gateway.call(&session, call("/approved")).await.status, 200);

    gateway.kill();
    lose(&gateway);
    let (code, said) = restore(&gateway, &copy, &["--accept-rollback"]);
    assert_eq!(code, Some(0), "{said}");
    gateway.start_again();
    let (_, list) = gateway.admin("GET", "/approvals", None).await;
    assert_eq!(list["approvals"], json!([]), "neither the one nor the other");
    for id in [&pending, &approved] {
        assert_eq!(gateway.admin("GET", &format!("/approvals/{id}"), None).await.0, 404);
        let path = format!("/approvals/{id}");
        assert_eq!(gateway.admin("POST", &path, Some(yes.clone())).await.0, 404);
    }
    for (path, before) in [("/pending", &pending), ("/approved", &approved)] {
        assert_ne!(asked(&gateway, path).await, *before, "asked about again");
    }
    assert_eq!(gateway.upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_file_cannot_be_backed_up() {
    let gateway = Gateway::start(Setup::default().with("storage.backend", "\"memory\"")).await;
    let (status, body) = gateway.admin("POST", "/storage/backup", None).await;
    assert_eq!((status, &body["error"]), (409, &json!("NotSupported")));
    let folder = tempfile::tempdir().unwrap();
    let refused = back_up(&gateway, &folder.path().join("copy.db"));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
