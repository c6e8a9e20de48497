//! Changes of what is in force, as an auditor finds them; records handed over; proofs.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::certificate::Certificate;
use crate::support::chain;
use crate::support::harness::{API_KEY, ASK_BEFORE_PAYING, Gateway, Setup, eventually, tool_call};

fn arbiter(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_arbiter")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Waits for a record of this event whose detail has this member.
async fn event(gateway: &Gateway, name: &str, member: &str, value: &str) -> Value {
    let found = eventually(|| async {
        let wanted = |record: &Value| record["event"] == name && record["detail"][member] == value;
        gateway.records().into_iter().rev().find(wanted)
    });
    found.await.unwrap_or_else(|| panic!("no {name} with {member} {value}"))
}

const POLICY: &str = "[[policies]]\nid = \"all\"\neffect = \"allow\"\nallowed_tools = [\"*\"]\nallowed_methods = [\"*\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_what_is_in_force_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = folder.path().join("credentials.toml");
    std::fs::write(&secrets, "[credentials]\ntoken = \"a secret value\"\n").unwrap();
    let setup = Setup::default()
        .policies(POLICY)
        .with("policy.watch", true)
        .with("policy.watch_debounce_ms", 50)
        .with("credentials.provider", "\"file\"")
        .with("credentials.file_path", json!(secrets));
    let mut gateway = Gateway::start(setup).await;
    let start = event(&gateway, "gateway.start", "store", "sqlite").await;
    assert_eq!(start["detail"]["version"], env!("CARGO_PKG_VERSION"));
    let first = event(&gateway, "policy.reload", "trigger", "start").await;

    let policies = gateway.folder.path().join("policies.toml");
    std::fs::write(&policies, POLICY.to_owned() + &POLICY.replace("\"all\"", "\"more\"")).unwrap();
    let watched = event(&gateway, "policy.reload", "trigger", "watch").await;
    assert_eq!(watched["detail"]["from"], first["detail"]["to"]);
    assert_eq!(
        (&watched["outcome"], &watched["detail"]["policies"]),
        (&json!("completed"), &json!(2))
    );

    std::fs::write(&policies, "[[policies]]\nid = 3\n").unwrap();
    let refused = event(&gateway, "policy.reload", "outcome", "refused").await;
    assert_eq!(
        (&refused["authorization_decision"], &refused["denial_code"]),
        (&json!("deny"), &json!("PolicyInvalid"))
    );
    assert_eq!(gateway.admin("POST", "/policy/reload", None).await.0, 422);
    let by_api = event(&gateway, "policy.reload", "trigger", "api").await;
    assert_eq!(
        (&by_api["principal"], &by_api["detail"]["role"]),
        (&json!("admin"), &json!("admin"))
    );
    assert_eq!(by_api["client_addr"], "127.0.0.1");

    std::fs::write(&policies, POLICY).unwrap();
    // An entry of another operator, which counts from now on.
    let config = gateway.folder.path().join("arbiter.toml");
    let hash = blake3::hash(b"the key of ci");
    let entry = format!(
        "\n[[admin.keys]]\nname = \"ci\"\nrole = \"viewer\"\nkey_hash = \"blake3:{hash}\"\n"
    );
    let configured = std::fs::read_to_string(&config).unwrap() + &entry;
    std::fs::write(&config, &configured).unwrap();
    gateway.signal("HUP");
    for name in ["policy.reload", "credentials.reload", "keys.reload"] {
        let record = event(&gateway, name, "trigger", "sighup").await;
        assert_eq!(record["outcome"], "completed", "{record}");
    }
    assert_eq!(
        event(&gateway, "keys.reload", "added", "ci").await["authorization_decision"],
        "allow"
    );
    let ask = async |key: &str| {
        let url = format!("http://{}/audit/head", gateway.admin);
        gateway.client.get(url).bearer_auth(key).send().await.unwrap().status().as_u16()
    };
    assert_eq!((ask("the key of ci").await, ask("another").await), (200, 401));
    std::fs::write(&config, configured.replace("viewer", "king")).unwrap();
    gateway.signal("HUP");
    let kept = event(&gateway, "keys.reload", "outcome", "refused").await;
    assert!(kept["detail"]["error"].as_str().unwrap().contains("role"), "{kept}");
    assert_eq!(ask("the key of ci").await, 200, "the old list stays");
    gateway.stop();

    chain::check(&gateway.audit_file());
    let log = gateway.audit_file().display().to_string();
    let exported = arbiter(&["audit", "export", "--format", "ocsf", &log]);
    assert!(exported.status.success(), "{}", text(&exported.stderr));
    let events: Vec<Value> =
        text(&exported.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), gateway.records().len());
    for name in [
        "gateway.start",
        "gateway.stop",
        "policy.reload",
        "credentials.reload",
        "keys.reload",
        "admin.unauthorized",
        "agent.register",
    ] {
        assert!(events.iter().any(|event| event["api"]["operation"] == name), "{name}");
    }
    let last = gateway.records().pop().unwrap();
    assert_eq!(last["event"], "gateway.stop");
    assert!(!text(&exported.stdout).contains("a secret value"));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_found_and_shown_with_their_neighbours() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let called = gateway.call(&session, tool_call("read_file", json!({"path": "a"}))).await;
    let called = gateway.record_of(called.request_id()).await;
    let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"x": "y"}});
    let noted = gateway.call(&session, note.to_string()).await;
    let record = gateway.record_of(noted.request_id()).await;
    let refused = gateway.call(&session, tool_call("rm", json!({}))).await;
    gateway.record_of(refused.request_id()).await;

    let find = async |query: &str| {
        let (status, found) = gateway.admin("GET", &format!("/audit/records?{query}"), None).await;
        assert_eq!(status, 200, "{found}");
        found
    };
    let found = find(&format!("request_id={}", noted.request_id())).await;
    assert_eq!(found["records"], json!([record]));
    let found = find(&format!("session_id={session}&tool=read_file&limit=1")).await;
    assert_eq!(found["records"], json!([called]));
    let found = find("code=ToolNotAuthorized").await;
    assert_eq!(found["records"][0]["request_id"], refused.request_id());
    let found = find(&format!("agent_id={}&until=2020-01-01T00:00:00Z", gateway.agent.id)).await;
    assert_eq!(found["records"], json!([]));
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = find(&format!("session_id={session}&limit=2{cursor}")).await;
        pages.extend(page["records"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let of_session = |record: &Value| record["task_session_id"] == session.as_str();
    let mut expected: Vec<_> = gateway.records().into_iter().filter(of_session).collect();
    expected.reverse();
    assert_eq!(pages, expected, "newest first, each once");
    for bad in ["request_id=7", "since=now", "cursor=x", "limit=0", "colour=red"] {
        let (status, said) = gateway.admin("GET", &format!("/audit/records?{bad}"), None).await;
        assert_eq!(status, 400, "{bad}: {said}");
    }

    let show = |id: &str, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_arbiter"))
            .args(["audit", "show", id, "--json"])
            .args(more)
            .env("ARBITER_ADMIN_API_KEY", API_KEY)
            .output()
            .unwrap();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default())
    };
    let url = format!("http://{}", gateway.admin);
    let log = gateway.audit_file().display().to_string();
    for from in [["--admin-url", url.as_str()].as_slice(), &[log.as_str()]] {
        let (code, shown) = show(noted.request_id(), from);
        assert_eq!(code, Some(0));
        assert_eq!(shown["record"], record);
        let neighbours = shown["neighbours"].as_array().unwrap();
        assert_eq!(neighbours.len(), 4, "opened, called, noted, refused");
        assert_eq!(neighbours[2], record);
        assert_eq!(show("7f3c2a10-1111-4222-8333-444455556666", from).0, Some(1));
    }
    let (_, shown) = show(refused.request_id(), &["--admin-url", &url]);
    assert_eq!(shown["explanation"]["code"], "ToolNotAuthorized", "{shown}");
    let (_, shown) = show(called["request_id"].as_str().unwrap(), &["--admin-url", &url]);
    assert_eq!(shown["explanation"]["decision"], "allow", "{shown}");
    assert_eq!(shown["explanation"]["matched_policy"], "all", "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_an_approval_is_shown_with_its_call() {
    let gateway = Gateway::start(Setup::default().policies(ASK_BEFORE_PAYING)).await;
    let order = json!({"declared_intent": "manage", "authorized_tools": ["pay"]});
    let session = gateway.session(order).await;
    let pay = || gateway.call(&session, tool_call("pay", json!({"amount": 1})));
    let asked = pay().await;
    let id = asked.json()["error"]["data"]["approval_id"].as_str().unwrap().to_owned();
    let other = gateway.call(&session, tool_call("pay", json!({"amount": 2}))).await;
    let decision = json!({"decision": "approve", "uses": 2, "reason": "known customer"});
    gateway.admin("POST", &format!("/approvals/{id}"), Some(decision)).await;
    let used = pay().await;
    assert_eq!((used.status, other.status), (200, 403));
    gateway.record_of(used.request_id()).await;

    let url = format!("http://{}", gateway.admin);
    let log = gateway.audit_file().display().to_string();
    for from in [["--admin-url", url.as_str()].as_slice(), &[log.as_str()]] {
        let output = Command::new(env!("CARGO_BIN_EXE_arbiter"))
            .args(["audit", "show", asked.request_id()])
            .args(from)
            .env("ARBITER_ADMIN_API_KEY", API_KEY)
            .output()
            .unwrap();
        let shown = text(&output.stdout);
        let story = shown.split_once(&format!("its approval, {id}:\n")).expect(shown).1;
        let story: Vec<&str> = story.lines().take_while(|line| !line.is_empty()).collect();
        let expected = [
            ("approval.requested", ""),
            ("pay", "EscalationRequired"),
            ("approval.approved", "by admin  uses 2  reason: known customer"),
            ("approval.used", "uses left 1"),
            ("pay", used.request_id()),
        ];
        assert_eq!(story.len(), expected.len(), "{story:#?}");
        for (event, more) in expected {
            let found = story.iter().find(|line| line.contains(event) && line.contains(more));
            assert!(found.is_some(), "{event} {more}: {story:#?}");
        }
    }
}

fn verified_by_python(proof: &Path, key: &str) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(chain::python(root))
        .arg(root.join("conf/audit/verify_proof.py"))
        .args([proof.display().to_string().as_str(), key])
        .output()
        .unwrap();
    (output.status.success(), text(&[output.stdout, output.stderr].concat()).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_checked_offline_by_two_programs() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("key");
    let made =
        arbiter(&["audit", "keygen", "--name", "node-1", "--out", key_file.to_str().unwrap()]);
    let key = text(&made.stdout).trim().to_owned();
    let setup = Setup::default()
        .with("audit.checkpoint_key_file", json!(key_file))
        .with("audit.checkpoint_records", 10)
        .with("audit.checkpoint_secs", 3600);
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let mut ids = Vec::new();
    for n in 0..30 {
        let answer = gateway.call(&session, tool_call("read_file", json!({"n": n}))).await;
        ids.push(answer.request_id().to_owned());
    }
    let ask = async |id: &str| gateway.admin("GET", &format!("/audit/proof/{id}"), None).await;
    gateway.record_of(&ids[29]).await;
    for id in &ids[..10] {
        let (status, proof) = ask(id).await;
        assert_eq!(status, 200, "{proof}");
        let file = folder.path().join("proof.json");
        std::fs::write(&file, proof.to_string()).unwrap();
        let proven = arbiter(&["audit", "prove", file.to_str().unwrap(), "--public-key", &key]);
        assert!(proven.status.success(), "{}", text(&proven.stdout));
        let (good, said) = verified_by_python(&file, &key);
        assert!(good, "{said}");
        let record = proof["record"].as_str().unwrap().replacen("read_file", "Read_file", 1);
        let forged = json!({"record": record, "leaf_index": proof["leaf_index"],
            "tree_size": proof["tree_size"], "inclusion_proof": proof["inclusion_proof"],
            "checkpoint": proof["checkpoint"]});
        std::fs::write(&file, forged.to_string()).unwrap();
        let proven = arbiter(&["audit", "prove", file.to_str().unwrap(), "--public-key", &key]);
        assert_eq!(proven.status.code(), Some(1));
        assert!(!verified_by_python(&file, &key).0);
    }
    assert_eq!(ask("7f3c2a10-1111-4222-8333-444455556666").await.0, 404);
    assert_eq!(ask("nothing").await.0, 400);
    let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
    gateway.record_of(answer.request_id()).await;
    assert_eq!(ask(answer.request_id()).await.1["error"], "NotYetCheckpointed");
    gateway.stop();

    let log = gateway.audit_file().display().to_string();
    let notes = format!("{log}.checkpoints");
    let verify = |more: &[&str]| {
        let all = [&["audit", "verify", &log, "--checkpoints", &notes, "--public-key", &key], more];
        arbiter(&all.concat())
    };
    let checked = verify(&["--consistency"]);
    assert!(checked.status.success(), "{}", text(&checked.stdout));
    assert!(text(&checked.stdout).contains("tree roots met"), "{}", text(&checked.stdout));
    // One leaf of the tree is another one: the root before it was signed with stands in the notes.
    let tree = format!("{log}.tree");
    let mut leaves = std::fs::read(&tree).unwrap();
    leaves[32 + 5 * 32] ^= 1;
    std::fs::write(&tree, leaves).unwrap();
    assert_eq!(verify(&["--consistency"]).status.code(), Some(1));
    // A log whose first lines lie elsewhere is incomplete, not damaged.
    let lines = std::fs::read_to_string(&log).unwrap();
    let rest = folder.path().join("rest.jsonl");
    std::fs::write(&rest, lines.split_inclusive('\n').skip(3).collect::<String>()).unwrap();
    let checked = arbiter(&["audit", "verify", rest.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(text(&checked.stdout).contains("INCOMPLETE"), "{}", text(&checked.stdout));
    assert!(text(&checked.stdout).contains("--after"), "{}", text(&checked.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guesser_locks_no_operator_out_even_after_a_restart() {
    let hash = blake3::hash(b"a right key that was never used");
    let mut setup = Setup::default().with("admin.wrong_keys_per_minute", 3);
    setup.more = format!(
        "\n[[admin.keys]]\nname = \"new\"\nrole = \"viewer\"\nkey_hash = \"blake3:{hash}\"\n"
    );
    let mut gateway = Gateway::start(setup).await;
    // The harness has asked with its key; what is kept of that is written beside the answer.
    gateway.register(json!({})).await;
    gateway.stop();
    gateway.start_again();
    let ask = async |key: &str| {
        let url = format!("http://{}/audit/head", gateway.admin);
        gateway.client.get(url).header("x-api-key", key).send().await.unwrap().status().as_u16()
    };
    for _ in 0..3 {
        assert_eq!(ask("a guess").await, 401);
    }
    for guess in ["a guess", "a right key that was never used"] {
        assert_eq!(ask(guess).await, 429);
    }
    assert_eq!(ask(API_KEY).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_speaks_tls_and_asks_for_certificates() {
    let certificate = Certificate::make();
    let (cert, key) = (certificate.certificate(), certificate.key());
    let both = certificate.folder.path().join("both.pem");
    let pem = |path: &Path| std::fs::read_to_string(path).unwrap();
    std::fs::write(&both, pem(&cert) + &pem(&key)).unwrap();
    let tls = format!(
        "{{ cert_file = {}, key_file = {}, client_ca_file = {} }}",
        json!(cert),
        json!(key),
        json!(cert)
    );
    // The harness asks in plain text when it starts one, so the gateway gets TLS at its second start.
    let mut gateway = Gateway::start(Setup::default()).await;
    gateway.stop();
    let config = gateway.folder.path().join("arbiter.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[admin]\n", &format!("[admin]\ntls = {tls}\n"))).unwrap();
    gateway.start_again();

    let ask = |scheme: &str, more: &[(&str, &Path)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arbiter"));
        command.args(["agent", "list", "--json", "--admin-url"]);
        command.arg(format!("{scheme}://{}", gateway.admin)).env("ARBITER_ADMIN_API_KEY", API_KEY);
        let output = command.envs(more.iter().copied()).output().unwrap();
        output.status.code()
    };
    let authority = ("ARBITER_ADMIN_CA_FILE", cert.as_path());
    let shown = ("ARBITER_ADMIN_CERT_FILE", both.as_path());
    assert_eq!(ask("https", &[authority, shown]), Some(0));
    assert_eq!(ask("https", &[authority]), Some(3), "a certificate is asked for");
    assert_eq!(ask("https", &[shown]), Some(3), "the system does not know the authority");
    assert_eq!(ask("http", &[]), Some(3), "nothing is served in plain text");

    // Another certificate in the same files is served once it is on record.
    let other = Certificate::make();
    std::fs::copy(other.key(), &key).unwrap();
    std::fs::copy(other.certificate(), &cert).unwrap();
    gateway.signal("HUP");
    let record = event(&gateway, "certificate.reload", "trigger", "sighup").await;
    assert_eq!(record["detail"]["for"], "admin.tls");
    assert_eq!(record["outcome"], "completed");
    assert_ne!(record["detail"]["from"], record["detail"]["to"]);
    let (new, old) = (other.certificate(), certificate.folder.path().join("old.pem"));
    std::fs::write(&old, pem(&both)).unwrap();
    assert_eq!(ask("https", &[("ARBITER_ADMIN_CA_FILE", &new), shown]), Some(0));
    assert_eq!(ask("https", &[("ARBITER_ADMIN_CA_FILE", &old), shown]), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_cannot_be_put_on_record_wait_until_they_can() {
    let setup = Setup::default()
        .policies(POLICY)
        .with("policy.watch", true)
        .with("policy.watch_debounce_ms", 50);
    let gateway = Gateway::start(setup).await;
    let before = event(&gateway, "policy.reload", "trigger", "start").await;
    let version = before["detail"]["to"].as_str().unwrap().to_owned();
    let in_force = format!("arbiter_policy_version_info{{version=\"{version}\"}}");
    let (log, aside) = (gateway.audit_file(), gateway.folder.path().join("aside"));
    std::fs::rename(&log, &aside).unwrap();
    std::fs::create_dir(&log).unwrap();
    let unhealthy = eventually(|| async {
        (gateway.metric("arbiter_audit_healthy").await == 0.0).then_some(())
    });
    unhealthy.await.expect("the log is gone");
    let policies = gateway.folder.path().join("policies.toml");
    std::fs::write(&policies, POLICY.to_owned() + &POLICY.replace("\"all\"", "\"more\"")).unwrap();
    let waits = eventually(|| async {
        let said = std::fs::read_to_string(gateway.folder.path().join("log.txt")).unwrap();
        said.contains("wait until they can be put on record").then_some(())
    });
    waits.await.expect("the change was read");
    assert!((gateway.metric(&in_force).await - 1.0).abs() < f64::EPSILON, "not in force unseen");
    std::fs::remove_dir(&log).unwrap();
    std::fs::rename(&aside, &log).unwrap();
    let record = event(&gateway, "policy.reload", "trigger", "watch").await;
    assert_eq!(record["detail"]["from"], version.as_str());
    let replaced = eventually(|| async { (gateway.metric(&in_force).await == 0.0).then_some(()) });
    replaced.await.expect("the new set is in force");
}
