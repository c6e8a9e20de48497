//! Someone who kept two checkpoints finds every rewrite of what lies before them, even one by the
//! holder of the signing key who rewrites log, tree and checkpoints.

use std::path::{Path, PathBuf};
use std::process::Command;

use arbiter::audit::{Audit, CheckpointSettings, Settings};
use arbiter::clock::Clock;
use serde_json::json;

use crate::support::harness::{API_KEY, Gateway, Setup, tool_call};

/// A stopped gateway's log, its signing key, and two checkpoints that a witness fetched meanwhile.
struct Kept {
    folder: tempfile::TempDir,
    lines: Vec<String>,
    public_key: String,
    /// Sequences of the two checkpoints.
    signed: [usize; 2],
}

impl Kept {
    fn key_file(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    fn notes(&self) -> PathBuf {
        self.folder.path().join("witness.checkpoints")
    }

    /// The exit code of a check of a log against checkpoints, with its tree.
    fn verify(&self, log: &Path, notes: &Path, more: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_arbiter"))
            .args(["audit", "verify", "--consistency", "--public-key", &self.public_key])
            .arg("--checkpoints")
            .arg(notes)
            .args(more)
            .arg(log)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    /// Puts lines in a log's place and has them signed with the key, as its holder can.
    fn publish(&self, name: &str, lines: &[String], tree: Option<&[u8]>) -> PathBuf {
        let log = self.folder.path().join(name).join("audit.jsonl");
        std::fs::create_dir(log.parent().unwrap()).unwrap();
        std::fs::write(&log, lines.concat()).unwrap();
        if let Some(tree) = tree {
            std::fs::write(log.with_extension("jsonl.tree"), tree).unwrap();
        }
        let (every_records, every_secs) = (1, 3_600);
        let checkpoints =
            CheckpointSettings { key_file: self.key_file(), every_records, every_secs };
        let settings =
            Settings { checkpoints: Some(checkpoints), ..Settings::at(log.clone(), "node-1") };
        Audit::open(settings, Clock::system()).unwrap().close();
        log
    }
}

/// Gives every line a new place in the chain.
fn sealed_again(lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut previous = "0".repeat(64);
    let seal = |(sequence, line): (usize, String)| {
        let (body, _) = line.rsplit_once(",\"chain_sequence\"").unwrap();
        let hashed =
            format!("{body},\"chain_sequence\":{sequence},\"chain_prev_hash\":\"{previous}\"");
        previous = blake3::hash(hashed.as_bytes()).to_string();
        format!("{hashed},\"chain_record_hash\":\"{previous}\"}}\n")
    };
    (1..).zip(lines).map(seal).collect()
}

async fn kept() -> Kept {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("key");
    let made = Command::new(env!("CARGO_BIN_EXE_arbiter"))
        .args(["audit", "keygen", "--name", "node-1", "--out"])
        .arg(&key_file)
        .output()
        .unwrap();
    let public_key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let setup = Setup::default()
        .with("audit.checkpoint_key_file", json!(key_file))
        .with("audit.checkpoint_records", 10);
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let (mut notes, mut signed) = (String::new(), [0; 2]);
    for sequence in &mut signed {
        for n in 0..20 {
            let called = gateway.call(&session, tool_call("read_file", json!({"n": n}))).await;
            gateway.record_of(called.request_id()).await;
        }
        let url = format!("http://{}/audit/checkpoint", gateway.admin);
        let note = gateway.client.get(url).header("x-api-key", API_KEY).send().await.unwrap();
        let note = note.text().await.unwrap();
        let chain = note.lines().find_map(|line| line.strip_prefix("chain ")).unwrap();
        *sequence = chain.split_once(' ').unwrap().0.parse().unwrap();
        notes += &(note + "\n");
    }
    gateway.stop();
    std::fs::write(folder.path().join("witness.checkpoints"), notes).unwrap();
    let log = std::fs::read_to_string(gateway.audit_file()).unwrap();
    let lines: Vec<String> = log.split_inclusive('\n').map(str::to_owned).collect();
    assert!(0 < signed[0] && signed[0] < signed[1] && signed[1] <= lines.len(), "{signed:?}");
    Kept { folder, lines, public_key, signed }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_with_two_checkpoints_finds_every_rewrite() {
    let kept = kept().await;
    let [first, second] = kept.signed;
    let forge = |at: usize| {
        let mut lines = kept.lines.clone();
        lines[at] = lines[at].replacen("\"outcome\":\"", "\"outcome\":\"un", 1);
        assert_ne!(lines[at], kept.lines[at]);
        sealed_again(lines)
    };
    let mut without = kept.lines.clone();
    without.remove(first + 1);
    let more = [kept.lines.clone(), kept.lines[1..3].to_vec()].concat();
    let cut = kept.lines[..second - 1].to_vec();
    let (own, nothing) = (sealed_again(kept.lines.clone()), sealed_again(more));
    assert_eq!(own, kept.lines, "sealed as Arbiter does");
    for (name, lines, rewritten) in [
        ("as it was", own, false),
        ("longer", nothing, false),
        ("before the first", forge(2), true),
        ("just before the first", forge(first - 1), true),
        ("between the two", forge(second - 1), true),
        ("a record left out", sealed_again(without), true),
        ("the end cut off", cut, true),
    ] {
        let log = kept.publish(name, &lines, None);
        let own = kept.verify(&log, &log.with_extension("jsonl.checkpoints"), &[]);
        assert_eq!(own.0, Some(0), "{name}: by itself it is in order: {}", own.1);
        let (code, said) = kept.verify(&log, &kept.notes(), &[]);
        assert_eq!(code, Some(i32::from(rewritten)), "{name}: {said}");
    }
}

/// The rewritten records themselves are gone, as retention would have it; the tree alone has them.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_of_records_that_are_deleted_is_found_by_the_tree() {
    let kept = kept().await;
    let log = kept.publish("whole", &kept.lines, None);
    let tree = std::fs::read(log.with_extension("jsonl.tree")).unwrap();
    for (name, leaf) in [("deleted", None), ("deleted and rewritten", Some(3))] {
        let mut tree = tree.clone();
        if let Some(leaf) = leaf {
            tree[32 + leaf * 32] ^= 1;
        }
        let log = kept.publish(name, &kept.lines[10..], Some(&tree));
        let partial = ["--partial"];
        let own = kept.verify(&log, &log.with_extension("jsonl.checkpoints"), &partial);
        assert_eq!(own.0, Some(0), "{name}: by itself it is in order: {}", own.1);
        let (code, said) = kept.verify(&log, &kept.notes(), &partial);
        assert_eq!(code, Some(i32::from(leaf.is_some())), "{name}: {said}");
    }
}
