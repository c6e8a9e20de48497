//! Drills of conf/README.md: the keys of checkpoints and of the store are replaced.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::support::harness::{Gateway, Setup, refuses_to_start, tool_call};

const STORAGE_KEY: &str = "ARBITER_STORAGE_ENCRYPTION_KEY";

fn arbiter(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arbiter"));
    command.args(arguments).envs(env.iter().copied()).output().unwrap()
}

/// Makes a checkpoint key; gives its public part.
fn keygen(file: &Path) -> String {
    let made =
        arbiter(&["audit", "keygen", "--name", "edge", "--out", file.to_str().unwrap()], &[]);
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_key_is_replaced_and_both_keys_prove_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["old.key", "new.key"].map(|name| folder.path().join(name));
    let public = files.each_ref().map(|file| keygen(file));
    let setup = Setup::default()
        .with("audit.checkpoint_key_file", json!(files[0]))
        .with("audit.checkpoint_records", 2);
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let call = || tool_call("read_file", json!({}));
    assert_eq!(gateway.call(&session, call()).await.status, 200);
    gateway.stop();

    let config = gateway.folder.path().join("arbiter.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("old.key", "new.key")).unwrap();
    gateway.start_again();
    assert_eq!(gateway.call(&session, call()).await.status, 200);
    gateway.stop();

    let log = gateway.audit_file();
    let checkpoints = log.with_extension("jsonl.checkpoints");
    let signers = std::fs::read_to_string(&checkpoints).unwrap();
    let signed = |public: &str| {
        let hash = public.split('+').nth(1).unwrap();
        let key: Vec<u8> =
            (0..4).map(|at| u8::from_str_radix(&hash[2 * at..2 * at + 2], 16).unwrap()).collect();
        signers.lines().filter(|line| line.starts_with("— ") && is_of(line, &key)).count()
    };
    assert!(signed(&public[0]) > 0 && signed(&public[1]) > 0, "{signers}");

    let verify = |keys: &[&String]| {
        let mut arguments = vec!["audit", "verify", log.to_str().unwrap(), "--checkpoints"];
        arguments.push(checkpoints.to_str().unwrap());
        for key in keys {
            arguments.extend(["--public-key", key.as_str()]);
        }
        arbiter(&arguments, &[])
    };
    let both = verify(&[&public[0], &public[1]]);
    assert_eq!(both.status.code(), Some(0), "{both:?}");
    for key in &public {
        let one = verify(&[key]);
        assert_eq!(one.status.code(), Some(1), "one key proves its own part only: {one:?}");
    }
}

/// Reports whether a line of a signed note is by the key with this hash.
fn is_of(line: &str, hash: &[u8]) -> bool {
    use base64::Engine as _;

    let signature = line.rsplit(' ').next().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(signature).unwrap();
    bytes.starts_with(hash)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_key_is_replaced_and_the_old_one_opens_nothing() {
    let [old, new] = ["a", "b"].map(|digit| digit.repeat(64));
    let mut setup = Setup::default();
    setup.env.push((STORAGE_KEY, old.clone()));
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({ "call_budget": 3 })).await;
    let call = || tool_call("read_file", json!({}));
    assert_eq!(gateway.call(&session, call()).await.status, 200);
    let file = gateway.folder.path().join("arbiter.db");
    let rekey = |from: &str, to: &str| {
        let arguments = ["storage", "rekey", "--path", file.to_str().unwrap()];
        arbiter(&arguments, &[(STORAGE_KEY, from), ("ARBITER_STORAGE_ENCRYPTION_KEY_NEW", to)])
    };
    let running = rekey(&old, &new);
    assert_eq!(running.status.code(), Some(1), "a file in use is left alone: {running:?}");
    gateway.stop();
    let done = rekey(&old, &new);
    assert!(done.status.success(), "{done:?}");

    let path = json!(file).to_string();
    let mut with_old = Setup::default().with("storage.sqlite_path", path);
    with_old.env.push((STORAGE_KEY, old));
    let (code, said) = refuses_to_start(&with_old).await;
    assert_eq!(code, Some(2), "{said}");

    gateway.set_env(STORAGE_KEY, &new);
    gateway.start_again();
    for _ in 0..2 {
        assert_eq!(gateway.call(&session, call()).await.status, 200);
    }
    let spent = gateway.call(&session, call()).await;
    assert_eq!(spent.code(), "BudgetExhausted", "what was spent before counts");
}
