//! Records handed over: every format, every transport, and a position that survives restarts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpListener;

use crate::support::certificate::Certificate;
use crate::support::harness::{Gateway, Setup, eventually, tool_call};

/// Messages that a receiver has got, one by one.
type Taken = Arc<Mutex<Vec<String>>>;

/// A gateway that has served some calls and has stopped.
async fn stopped() -> Gateway {
    let mut gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    for n in 0..5 {
        gateway
            .call(&session, tool_call("read_file", json!({"n": n, "password": "hunter2"})))
            .await;
    }
    gateway.stop();
    gateway
}

fn export(log: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arbiter"));
    command.args(["audit", "export"]).args(more).arg(log).stdout(Stdio::piped());
    command
}

/// Runs an export to its end, away from the receivers of this test.
async fn exported(log: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = export(log, more);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The chain's sequences of lines in the log's own form.
fn sequences<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> Vec<u64> {
    let sequence = |line: L| {
        let line = line.as_ref();
        let record: Value = serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap();
        record["chain_sequence"].as_u64().unwrap()
    };
    lines.into_iter().map(sequence).collect()
}

/// Reads messages framed by their length (RFC 5425 section 4.3) until the sender ends.
async fn frames(mut stream: impl AsyncRead + Unpin, taken: Taken) {
    let mut bytes = Vec::new();
    // A sender that ends without a goodbye has ended, too.
    let _ended = stream.read_to_end(&mut bytes).await;
    let mut rest = bytes.as_slice();
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let length: usize = std::str::from_utf8(&rest[..space]).unwrap().parse().unwrap();
        let (message, after) = rest[space + 1..].split_at(length);
        taken.lock().unwrap().push(String::from_utf8(message.to_vec()).unwrap());
        rest = after;
    }
    assert!(rest.is_empty(), "half a frame");
}

/// A syslog receiver; with a certificate it speaks TLS.
async fn syslog(certificate: Option<&Certificate>) -> (String, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Taken::default();
    let (acceptor, to) = (certificate.map(Certificate::acceptor), taken.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            match &acceptor {
                None => frames(stream, to.clone()).await,
                Some(acceptor) => frames(acceptor.accept(stream).await.unwrap(), to.clone()).await,
            }
        }
    });
    let scheme = if certificate.is_some() { "tls" } else { "tcp" };
    (format!("{scheme}://127.0.0.1:{}", address.port()), taken)
}

/// A receiver over HTTP that refuses the first batches.
async fn http(refusals: usize) -> (String, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Taken::default();
    let take = async |State((taken, left)): State<(Taken, Arc<Mutex<usize>>)>, body: String| {
        let mut left = left.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        taken.lock().unwrap().extend(body.lines().map(str::to_owned));
        StatusCode::NO_CONTENT
    };
    let state = (taken.clone(), Arc::new(Mutex::new(refusals)));
    let router = axum::Router::new().route("/in", post(take)).with_state(state);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}/in"), taken)
}

fn position(gateway: &Gateway, name: &str) -> PathBuf {
    gateway.folder.path().join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_has_every_record_with_its_hash_and_no_secret() {
    let gateway = stopped().await;
    let records = gateway.records();
    for format in ["jsonl", "ocsf", "ecs", "cef"] {
        let (code, text, said) = exported(&gateway.audit_file(), &["--format", format]).await;
        assert_eq!(code, Some(0), "{said}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), records.len(), "{format}");
        for (line, record) in lines.iter().zip(&records) {
            let hash = record["chain_record_hash"].as_str().unwrap();
            assert!(line.contains(hash), "{format}: {line}");
            assert!(!line.contains("hunter2"), "{format}: {line}");
            if format == "cef" {
                assert!(line.starts_with("CEF:0|Arbiter|"), "{line}");
            } else {
                assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_gets_each_record_once_over_a_restart_of_both() {
    let certificate = Certificate::make();
    let ca_file = certificate.certificate().display().to_string();
    for secured in [None, Some(&certificate)] {
        let mut gateway = stopped().await;
        let log = gateway.audit_file();
        let at = position(&gateway, "at").display().to_string();
        let (to, taken) = syslog(secured).await;
        let mut options = vec!["--to", to.as_str(), "--position", at.as_str()];
        options.extend(secured.map(|_| ["--ca-file", ca_file.as_str()]).into_iter().flatten());
        let (code, _, said) = exported(&log, &options).await;
        assert_eq!(code, Some(0), "{said}");
        let first = gateway.records().len();
        let all_of = async |count: usize| {
            let there =
                eventually(|| async { (taken.lock().unwrap().len() >= count).then_some(()) });
            there.await.expect("all records came");
        };
        all_of(first).await;
        gateway.start_again();
        gateway.stop();
        assert_eq!(exported(&log, &options).await.0, Some(0));
        let count = gateway.records().len();
        assert!(count > first);
        all_of(count).await;
        let taken = taken.lock().unwrap().clone();
        let expected: Vec<u64> = (1..).take(count).collect();
        assert_eq!(sequences(&taken), expected, "none twice and none left out");
        assert!(taken[0].starts_with("<109>1 20"), "{}", taken[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_receiver_has_acknowledged_moves_the_position() {
    let gateway = stopped().await;
    let log = gateway.audit_file();
    let at = position(&gateway, "at");
    let shown = at.display().to_string();
    let (to, taken) = http(1).await;
    let options = ["--to", to.as_str(), "--position", shown.as_str()];
    let (code, _, said) = exported(&log, &options).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(!at.exists() && taken.lock().unwrap().is_empty(), "nothing was acknowledged");
    assert_eq!(exported(&log, &options).await.0, Some(0));
    let count = gateway.records().len();
    assert_eq!(sequences(taken.lock().unwrap().iter()).len(), count);
    assert_eq!(std::fs::read_to_string(&at).unwrap().trim(), count.to_string());
    assert_eq!(exported(&log, &options).await.0, Some(0));
    assert_eq!(taken.lock().unwrap().len(), count, "there is nothing new");
    std::fs::write(&at, "somewhere\n").unwrap();
    assert_eq!(exported(&log, &options).await.0, Some(2), "a position that is none");
}

/// A child that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_through_rotation_and_a_receiver_that_fails() {
    let setup =
        Setup::default().with("audit.rotate_bytes", 1 << 20).with("audit.compress_rotated", true);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let (to, taken) = http(2).await;
    let at = position(&gateway, "at").display().to_string();
    let options = ["--follow", "--to", &to, "--position", &at];
    let follow = || Running(export(&gateway.audit_file(), &options).spawn().unwrap());
    let following = follow();
    let mut ids = BTreeSet::new();
    let call = async || {
        let arguments = json!({"text": "x".repeat(4_000)});
        let answer = gateway.call(&session, tool_call("read_file", arguments)).await;
        answer.request_id().to_owned()
    };
    for _ in 0..400 {
        ids.insert(call().await);
    }
    drop(following);
    for _ in 0..200 {
        ids.insert(call().await);
    }
    let following = follow();
    let missing = || {
        let taken = taken.lock().unwrap();
        let id = |line: &String| {
            let record: Value = serde_json::from_str(line).unwrap();
            record["request_id"].as_str().unwrap().to_owned()
        };
        let came: BTreeSet<String> = taken.iter().map(id).collect();
        ids.difference(&came).count()
    };
    let all = eventually(|| async { (missing() == 0).then_some(()) }).await;
    assert!(all.is_some(), "{} of {} records are missing", missing(), ids.len());
    drop(following);
    let rotated = gateway.folder.path().read_dir().unwrap().flatten();
    let rotated = rotated.filter(|file| file.file_name().to_string_lossy().contains(".jsonl.0"));
    assert!(rotated.count() > 0, "the log was rotated while it was followed");
    let mut came = sequences(taken.lock().unwrap().iter());
    let all = came.len();
    came.dedup();
    came.sort_unstable();
    came.dedup();
    assert!(all - came.len() <= 500, "at most one batch comes twice after a crash");
    let expected: Vec<u64> = (1..).take(came.len()).collect();
    assert_eq!(came, expected, "none is left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_appended_to_and_bad_targets_are_refused() {
    let gateway = stopped().await;
    let log = gateway.audit_file();
    let copy = position(&gateway, "copy.jsonl");
    let (to, at) = (copy.display().to_string(), position(&gateway, "at").display().to_string());
    for _ in 0..2 {
        let (code, _, said) = exported(&log, &["--to", &to, "--position", &at]).await;
        assert_eq!(code, Some(0), "{said}");
    }
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&log).unwrap(), "byte for byte");
    for bad in ["ftp://x", "tcp://nowhere", "tls://127.0.0.1:6514"] {
        assert_eq!(exported(&log, &["--to", bad]).await.0, Some(2), "{bad}");
    }
    assert_eq!(exported(&log, &["--to", "tcp://127.0.0.1:1"]).await.0, Some(3));
}
