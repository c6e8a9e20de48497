use serde_json::Value;

use super::super::tests::run;
use super::*;
use crate::firewall::time::Timestamp;
use crate::store::Store;

const OLD: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
const NEW: &str = "11111111111111111111111111111111111111111111111111111111111111bb";

#[tokio::test]
async fn a_file_is_encrypted_rekeyed_checked_and_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::sqlite(&path).await.unwrap();
    store.revoke_token("jti", Timestamp(9), Timestamp(0)).await.unwrap();
    store.close().await.unwrap();
    let told = async |command: &str, env: &[(&str, &str)]| {
        let line = format!("storage {command} --path {} --json", path.display());
        let ran = run(&line, env).await;
        assert_eq!(ran.exit, Exit::Fine, "{command}: {ran:?}");
        let told: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((&told["revoked_tokens"], &told["agents"]), (&1.into(), &0.into()));
        (told["state"].as_str().unwrap().to_owned(), told["changed"].as_bool().unwrap())
    };
    let (old, new) = ([(KEY, OLD)], [(KEY, NEW)]);
    let both = [(KEY, OLD), (NEW_KEY, NEW)];
    for changed in [true, false] {
        assert_eq!(told("encrypt", &old).await, ("encrypted".to_owned(), changed));
    }
    for changed in [true, false] {
        let expected = ("encrypted with the new key".to_owned(), changed);
        assert_eq!(told("rekey", &both).await, expected);
    }
    assert_eq!(told("check", &new).await, ("sound".to_owned(), false));
    for changed in [true, false] {
        assert_eq!(told("decrypt", &new).await, ("not encrypted".to_owned(), changed));
    }
    assert_eq!(told("check", &[]).await, ("sound".to_owned(), false));
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let key = SealKey::from_hex(OLD);
    Store::sealed_sqlite(&path, key).await.unwrap().close().await.unwrap();
    let says = async |command: &str, env: &[(&str, &str)], exit: Exit, words: &str| {
        let ran = run(&format!("storage {command}"), env).await;
        assert_eq!(ran.exit, exit, "{command}: {ran:?}");
        assert!(ran.complaint.contains(words), "{command}: {ran:?}");
        assert!(!ran.complaint.contains(OLD) && !ran.complaint.contains(NEW), "{ran:?}");
    };
    let at = format!("--path {}", path.display());
    let no = Exit::Usage;
    says(&format!("encrypt {at}"), &[], no, "ARBITER_STORAGE_ENCRYPTION_KEY is not set").await;
    says(&format!("encrypt {at}"), &[(KEY, "abc")], no, "64 hexadecimal").await;
    says(&format!("check {at}"), &[], no, "it is encrypted: set").await;
    says(&format!("check {at}"), &[(KEY, NEW)], no, "is not the key").await;
    says(&format!("rekey {at}"), &[(KEY, OLD)], no, "_KEY_NEW is not set").await;
    says(&format!("rekey {at}"), &[(KEY, OLD), (NEW_KEY, OLD)], no, "the same").await;
    says(&format!("rekey {at}"), &[(KEY, NEW), (NEW_KEY, &"2".repeat(64))], no, "is not the").await;
    says(&format!("check {at}.gone"), &[], no, "No such file").await;
    says("check --config missing.toml", &[], no, "missing.toml").await;
    std::fs::write(&path, "Dear reader, ".repeat(400)).unwrap();
    says(&format!("check {at}"), &[(KEY, OLD)], Exit::No, "is not a database").await;
}
