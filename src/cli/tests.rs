//! Commands as they are typed, against an admin API on a socket of its own.

use std::fs;

use clap::CommandFactory as _;
use serde_json::Value;

use super::*;
use crate::admin::tests::{Bench, KEY};
use crate::store::RedisServer;

/// A running admin API; it ends with the test's runtime.
struct Running {
    bench: Bench,
    url: String,
}

impl Running {
    async fn start() -> Self {
        let bench = Bench::new().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = bench.router.clone();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { bench, url }
    }

    /// Runs a command with the right key.
    async fn run(&self, line: &str) -> Ran {
        run(&format!("{line} --admin-url {}", self.url), &[("ARBITER_ADMIN_API_KEY", KEY)]).await
    }

    async fn json(&self, line: &str) -> Value {
        let ran = self.run(&format!("{line} --json")).await;
        assert_eq!(ran.exit, Exit::Fine, "{line}: {ran:?}");
        serde_json::from_str(&ran.out).unwrap()
    }
}

#[derive(Debug)]
pub(super) struct Ran {
    pub(super) exit: Exit,
    pub(super) out: String,
    pub(super) complaint: String,
}

pub(super) async fn run(line: &str, env: &[(&str, &str)]) -> Ran {
    let words = std::iter::once("arbiter").chain(line.split_whitespace());
    run_words(words.map(str::to_owned).collect(), env).await
}

pub(super) async fn run_words(words: Vec<String>, env: &[(&str, &str)]) -> Ran {
    let cli = Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let Command::Tool(tool) = cli.command else { panic!("{words:?} is no tool") };
    let env = Env(env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect());
    let mut out = Vec::new();
    let (exit, complaint) = match run_with(&tool, &env, &mut out).await {
        Ok(exit) => (exit, String::new()),
        Err(failure) => (failure.exit, failure.message),
    };
    Ran { exit, out: String::from_utf8(out).unwrap(), complaint }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
    for good in [
        "serve --config a.toml --ready-file r.json --log-level debug --log-format json",
        "serve",
        "demo --once --port 8080",
        "check --config a.toml",
        "audit tail log.jsonl -n 5 --follow --agent a --session s --tool t --decision deny",
        "audit verify a.jsonl.000001.zst a.jsonl --checkpoints c --public-key \
         PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "audit stats logs --since 2026-11-22T10:00:00Z --until 2026-11-23T10:00:00Z --top 3",
        "storage encrypt --config a.toml --json",
        "storage rekey --path arbiter.db",
        "agent list --output json --limit 5 --cursor x --owner o --active",
        "token reissue --all --out tokens",
    ] {
        let words = std::iter::once("arbiter").chain(good.split_whitespace());
        assert!(Cli::try_parse_from(words).is_ok(), "{good}");
    }
    for bad in [
        "",
        "agent list --json --output table",
        "agent list --limit 0",
        "session list --status open",
        "token reissue --out tokens",
        "completions ksh",
        "agent",
        "agent show",
        "policy explain",
        "agent trust x god",
        "--api-key x",
        "audit verify",
        "audit verify a --checkpoints c",
        "audit verify a --checkpoints c --public-key nonsense",
        "audit tail a --decision maybe",
        "audit stats a --since yesterday",
        "storage",
        "storage encrypt --key x",
    ] {
        let words = std::iter::once("arbiter").chain(bad.split_whitespace());
        let error = Cli::try_parse_from(words).map(|_| ()).expect_err(bad);
        assert_eq!(error.exit_code(), 2, "{bad}");
    }
}

#[test]
fn every_command_and_every_option_is_described() {
    fn look(command: &clap::Command, path: &str, found: &mut usize) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path}");
        for option in command.get_arguments() {
            let help = option.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.trim().is_empty(), "{path} {}", option.get_id());
            *found += 1;
        }
        // Commands that print JSON have both spellings of it.
        let has = |id: &str| command.get_arguments().any(|option| option.get_id() == id);
        assert_eq!(has("json"), has("output"), "{path}");
        command.get_subcommands().for_each(|below| look(below, &path, found));
    }
    let mut found = 0;
    look(&Cli::command(), "", &mut found);
    assert!(found > 150, "{found}");
}

#[tokio::test]
async fn shells_and_manuals_know_every_command() {
    let names = ["serve", "init", "session", "completions"];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&format!("completions {shell}"), &[]).await;
        assert_eq!(ran.exit, Exit::Fine);
        for name in names {
            assert!(ran.out.contains(name), "{shell} {name}");
        }
    }
    let page = run("man", &[]).await.out;
    assert!(page.contains(".TH arbiter 1") && page.contains("Exit codes"), "{page}");
    let page = run("man session open", &[]).await.out;
    assert!(page.contains("arbiter\\-session\\-open") && page.contains("call\\-budget"), "{page}");
    let ran = run("man session ope", &[]).await;
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.complaint.contains("no command `ope`; there are: open, list"), "{ran:?}");
    let folder = tempfile::tempdir().unwrap();
    let ran = run(&format!("man --out {}", folder.path().display()), &[]).await;
    assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
    for page in ["arbiter.1", "arbiter-session-open.1", "arbiter-audit-verify.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
    assert!(!folder.path().join("arbiter-help.1").exists());
}

#[tokio::test]
async fn agents_from_register_to_revoke() {
    let arbiter = Running::start().await;
    let made = arbiter
        .json("agent register --owner user:alice --model m --capability read --trust-level basic")
        .await;
    let alice = made["agent_id"].as_str().unwrap();
    assert_eq!(made["token"].as_str().unwrap().split('.').count(), 3);
    let made = arbiter.json("agent register --owner o --model m --capability read").await;
    let bob = made["agent_id"].as_str().unwrap();
    assert_eq!(arbiter.json("agent list").await.as_array().unwrap().len(), 2);
    let listed = arbiter.run("agent list").await.out;
    assert!(listed.starts_with("ID ") && listed.contains("user:alice"), "{listed}");
    arbiter.json(&format!("agent delegate {alice} --to {bob} --scope read")).await;
    let shown = arbiter.json(&format!("agent show {bob}")).await;
    assert_eq!(shown["incoming"][0]["from"], alice);
    let trusted = arbiter.json(&format!("agent trust {alice} trusted")).await;
    assert_eq!(trusted["trust_level"], "trusted");
    arbiter.json(&format!("agent token {alice} --expiry-seconds 60")).await;
    let gone = arbiter.json(&format!("agent revoke {alice}")).await;
    assert_eq!(gone["deactivated"].as_array().unwrap().len(), 2);
    let ran = arbiter.run(&format!("agent token {alice}")).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.complaint.starts_with("AgentInactive: "), "{ran:?}");
}

#[tokio::test]
async fn an_id_cannot_become_another_path() {
    let arbiter = Running::start().await;
    for id in ["../sessions", "x/token", "%2e%2e", "?limit=1", "#"] {
        let ran = arbiter.run(&format!("agent show {id}")).await;
        assert_eq!(ran.exit, Exit::No, "{id}: {ran:?}");
        let refused = ran.complaint.contains("UUID") || ran.complaint.contains("NotFound");
        assert!(refused, "{id}: {ran:?}");
    }
}

#[tokio::test]
async fn sessions_from_open_to_close() {
    let arbiter = Running::start().await;
    let agent = arbiter.json("agent register --owner o --model m").await;
    let agent = agent["agent_id"].as_str().unwrap();
    let opened = arbiter
        .json(&format!(
            "session open --agent {agent} --intent read --tool a --tool b --call-budget 5 \
             --rate-limit-per-minute 3 --data-sensitivity public --time-limit-secs 60"
        ))
        .await;
    let id = opened["session_id"].as_str().unwrap();
    let shown = arbiter.json(&format!("session show {id}")).await;
    assert_eq!((&shown["call_budget"], &shown["remaining"]), (&5.into(), &5.into()));
    assert_eq!(shown["authorized_tools"], serde_json::json!(["a", "b"]));
    let text = arbiter.run(&format!("session show {id}")).await.out;
    assert!(text.contains("authorized_tools        a, b\n"), "{text}");
    arbiter.json(&format!("session close {id}")).await;
    let closed = arbiter.json(&format!("session list --agent {agent} --status closed")).await;
    assert_eq!(closed.as_array().unwrap().len(), 1);
    let ran = arbiter.run(&format!("session open --agent {agent} --intent read")).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.complaint.contains("authorized_tools"), "{ran:?}");
}

#[tokio::test]
async fn lists_are_followed_over_their_pages() {
    let arbiter = Running::start().await;
    let new = |n: u32| crate::registry::NewAgent {
        owner: format!("o{n}"),
        model: "m".to_owned(),
        capabilities: Vec::new(),
        trust: crate::firewall::agent::TrustLevel::Basic,
        expires_at: None,
        registered_by: None,
    };
    let now = arbiter.bench.admin.clock.now().wall;
    for n in 0..1_001 {
        arbiter.bench.admin.registry.register(new(n), now).await.unwrap();
    }
    let all = arbiter.json("agent list").await.as_array().unwrap().clone();
    assert_eq!(all.len(), 1_001);
    assert_eq!(arbiter.json("agent list --limit 3").await.as_array().unwrap(), &all[..3]);
    let third = all[2]["id"].as_str().unwrap();
    let next = arbiter.json(&format!("agent list --limit 2 --cursor {third}")).await;
    assert_eq!(next.as_array().unwrap(), &all[3..5]);
    let one = arbiter.json("agent list --owner o1000 --limit 5").await;
    assert_eq!((&one[0]["owner"], one.as_array().unwrap().len()), (&"o1000".into(), 1));
    for (filter, count) in [("--trust-level trusted", 0), ("--capability x", 0), ("--active", 1)] {
        let found = arbiter.json(&format!("agent list --owner o7 {filter}")).await;
        assert_eq!(found.as_array().unwrap().len(), count, "{filter}");
    }
    assert_eq!(
        arbiter.run(&format!("agent list --cursor {}", uuid::Uuid::nil())).await.exit,
        Exit::No
    );
}

#[tokio::test]
async fn every_agent_that_may_act_gets_a_new_token_on_record() {
    use std::os::unix::fs::PermissionsExt as _;

    let arbiter = Running::start().await;
    let mut agents = Vec::new();
    for n in 0..3 {
        let made = arbiter.json(&format!("agent register --owner o{n} --model m")).await;
        agents.push(made["agent_id"].as_str().unwrap().to_owned());
    }
    arbiter.json(&format!("agent revoke {}", agents[1])).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/tokens");
    for round in 0..2 {
        let line = format!("token reissue --all --out {} --expiry-seconds 600", out.display());
        assert_eq!(arbiter.json(&line).await["tokens"], 2, "round {round}");
    }
    assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let mut names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut wanted = vec![agents[0].clone(), agents[2].clone()];
    wanted.sort();
    assert_eq!(names, wanted);
    for name in names {
        let file = out.join(&name);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(file).unwrap().split('.').count(), 3);
    }
    arbiter.bench.admin.audit.close();
    let log = fs::read_to_string(arbiter.bench.dir.path().join("audit.jsonl")).unwrap();
    let issued = log.lines().filter(|line| line.contains("\"token.issue\"")).count();
    assert_eq!(issued, 4, "{log}");
}

#[tokio::test]
async fn lists_are_filtered_and_cut() {
    let arbiter = Running::start().await;
    let agent = arbiter.json("agent register --owner o --model m").await;
    let agent = agent["agent_id"].as_str().unwrap();
    for tool in ["a", "b", "b"] {
        arbiter.json(&format!("session open --agent {agent} --intent read --tool {tool}")).await;
    }
    let count = async |line: &str| arbiter.json(line).await.as_array().unwrap().len();
    assert_eq!(count("session list --tool b").await, 2);
    assert_eq!(count("session list --tool b --limit 1").await, 1);
    assert_eq!(count("session list --since 2001-01-01T00:00:00Z --status active").await, 3);
    assert_eq!(count("session list --since 2999-01-01T00:00:00Z").await, 0);
    arbiter.json("freeze tool a --reason test").await;
    arbiter.json("freeze owner o --reason test").await;
    assert_eq!(count("freeze list").await, 2);
    assert_eq!(count("freeze list --scope owner").await, 1);
    assert_eq!(count("approval list --tool a --status pending").await, 0);
    let ran = arbiter.run("session list --output json --limit 2").await;
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_admin_key_may_stand_in_a_file() {
    let arbiter = Running::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    fs::write(&path, format!("{KEY}\n")).unwrap();
    let line = format!("agent list --admin-url {}", arbiter.url);
    let file = ("ARBITER_ADMIN_API_KEY_FILE", path.to_str().unwrap());
    assert_eq!(run(&line, &[file]).await.exit, Exit::Fine);
    let both = run(&line, &[file, ("ARBITER_ADMIN_API_KEY", KEY)]).await;
    assert_eq!(both.exit, Exit::Usage);
    assert!(both.complaint.contains("both set"), "{both:?}");
    let gone = run(&line, &[("ARBITER_ADMIN_API_KEY_FILE", "/nonexistent")]).await;
    assert!(gone.complaint.contains("ARBITER_ADMIN_API_KEY_FILE names /nonexistent"), "{gone:?}");
}

#[tokio::test]
async fn exit_codes_say_what_is_wrong() {
    let arbiter = Running::start().await;
    let keyless = run(&format!("agent list --admin-url {}", arbiter.url), &[]).await;
    assert_eq!(keyless.exit, Exit::Usage);
    assert!(keyless.complaint.contains("ARBITER_ADMIN_API_KEY"), "{keyless:?}");
    let line = format!("agent list --admin-url {}", arbiter.url);
    let wrong = run(&line, &[("ARBITER_ADMIN_API_KEY", "not-the-right-key")]).await;
    assert_eq!(wrong.exit, Exit::Usage);
    assert!(wrong.complaint.starts_with("Unauthorized"), "{wrong:?}");
    assert!(wrong.complaint.contains("ARBITER_ADMIN_API_KEY is not a key of"), "{wrong:?}");
    assert!(!wrong.complaint.contains("not-the-right-key"));
    let unknown = "11111111-2222-4333-8444-555555555555";
    let ran = arbiter.run(&format!("agent show {unknown}")).await;
    assert_eq!(ran.exit, Exit::No, "{ran:?}");
    let key = [("ARBITER_ADMIN_API_KEY", KEY)];
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = run(&format!("agent list --admin-url http://{free}"), &key).await;
    assert_eq!(ran.exit, Exit::Unreachable, "{ran:?}");
    assert!(ran.complaint.contains("nothing listens there"), "{ran:?}");
    let ran = run("agent list --admin-url localhost:3000", &key).await;
    assert!(ran.complaint.contains("did you mean http://localhost:3000"), "{ran:?}");
    for bad in ["ftp://h", "nonsense", "http://user@h"] {
        let ran = run(&format!("agent list --admin-url {bad}"), &key).await;
        assert_eq!(ran.exit, Exit::Usage, "{bad}: {ran:?}");
    }
    assert_eq!([Exit::Fine, Exit::No, Exit::Usage, Exit::Unreachable].map(code), [0, 1, 2, 3]);
}

fn code(exit: Exit) -> u8 {
    let wanted = ExitCode::from(exit);
    (0..4).find(|n| format!("{:?}", ExitCode::from(*n)) == format!("{wanted:?}")).unwrap()
}

#[tokio::test]
async fn health_needs_no_key_and_says_no_when_it_is_not() {
    let arbiter = Running::start().await;
    let line = format!("health --admin-url {}", arbiter.url);
    let ran = run(&line, &[]).await;
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Fine, "status  ready\n"));
    arbiter.bench.break_audit().await;
    let ran = run(&line, &[]).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.complaint.starts_with("AuditUnavailable"), "{ran:?}");
}

const POLICIES: &str = "[[policies]]\nid = \"big\"\neffect = \"allow\"\n\
    allowed_tools = [\"pay\"]\n[[policies.parameter_constraints]]\nkey = \"n\"\n\
    max_value = 9007199254740993\n";

#[tokio::test]
async fn policies_are_validated_offline() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    let shown = file.display();
    fs::write(&file, POLICIES).unwrap();
    for path in [file.as_path(), dir.path()] {
        let ran = run(&format!("policy validate {}", path.display()), &[]).await;
        assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
        assert!(ran.out.starts_with("1 policies"), "{ran:?}");
    }
    fs::write(&file, "[[policies]]\nid = \"a\"\neffect = \"permit\"\n").unwrap();
    let ran = run(&format!("policy validate {shown}"), &[]).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("p.toml:3:"), "{ran:?}");
    let ran = run(&format!("policy validate {shown} --json"), &[]).await;
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&told["valid"], &told["errors"][0]["line"]), (&false.into(), &3.into()));
    let ran = run("policy validate /nonexistent.toml", &[]).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("nonexistent"), "{ran:?}");
}

#[tokio::test]
async fn a_call_is_explained_offline_and_by_a_running_arbiter() {
    let arbiter = Running::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    fs::write(&file, POLICIES).unwrap();
    fs::write(arbiter.bench.policies(), POLICIES).unwrap();
    arbiter.bench.admin.rulebook.reload().unwrap();
    let offline = format!("--file {}", file.display());
    for (amount, exit, told) in [
        ("9007199254740993", Exit::Fine, "allow by policy `big`"),
        ("9007199254740994", Exit::No, "deny: PolicyDenied, no policy allows"),
    ] {
        let line = format!("policy explain --tool pay --arguments {{\"n\":{amount}}}");
        let ran = run(&format!("{line} {offline}"), &[]).await;
        assert_eq!(ran.exit, exit, "{amount}: {ran:?}");
        assert!(ran.out.starts_with(told) && ran.out.contains("POLICY_ID"), "{ran:?}");
    }
    // serde's numbers pass through a running Arbiter's client as they are up to 2^64.
    let line = "policy explain --tool pay --arguments {\"n\":9007199254740994}";
    assert_eq!(arbiter.run(line).await.exit, Exit::No);
    assert_eq!(
        arbiter.run("policy explain --tool pay --arguments {\"n\":1}").await.exit,
        Exit::Fine
    );
    let ran = run(&format!("policy explain --tool pay --arguments [ {offline}"), &[]).await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    let id = "11111111-2222-4333-8444-555555555555";
    let ran = run(&format!("policy explain --tool pay --agent {id} {offline}"), &[]).await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    let sub = "policy explain --tool pay --sub u --group g --scope s --intent read";
    let ran = run(&format!("{sub} --capability c --trust-level basic {offline}"), &[]).await;
    assert_eq!(ran.exit, Exit::No, "the argument is required: {ran:?}");
}

#[tokio::test]
async fn a_log_is_verified_and_its_end_is_shown() {
    let arbiter = Running::start().await;
    arbiter.json("agent register --owner o --model m").await;
    arbiter.json("agent register --owner p --model m").await;
    let head = arbiter.bench.admin.audit.head();
    arbiter.bench.admin.audit.close();
    let closed = arbiter.bench.admin.audit.head();
    let log = arbiter.bench.dir.path().join("audit.jsonl");
    let shown = log.display();
    let ran = run(&format!("audit verify {shown}"), &[]).await;
    assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
    assert!(ran.out.starts_with("intact: 2 records"), "{ran:?}");
    let ran = run(&format!("audit verify {shown} --json"), &[]).await;
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(told["head"]["hash"], closed.hash.as_str(), "{head:?}");
    let ran = run(&format!("audit verify {shown} --head 2:{}", closed.hash), &[]).await;
    assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
    let ran = run(&format!("audit verify {shown} --head 3:{}", closed.hash), &[]).await;
    assert_eq!(ran.exit, Exit::No, "{ran:?}");
    let ran = run(&format!("audit tail {shown} -n 1"), &[]).await;
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
    assert!(ran.out.contains("agent.register"), "{ran:?}");
    let ran = run(&format!("audit tail {shown} --json"), &[]).await;
    assert_eq!(ran.out, fs::read_to_string(&log).unwrap());
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replace("\"owner\":\"o\"", "\"owner\":\"q\"")).unwrap();
    let ran = run(&format!("audit verify {shown}"), &[]).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("line 1: ") && ran.out.contains("DAMAGED"), "{ran:?}");
    assert_eq!(run("audit verify /nonexistent", &[]).await.exit, Exit::Usage);
    assert_eq!(run("audit tail /nonexistent", &[]).await.exit, Exit::Usage);
}

const SECRETS: [(&str, &str); 2] = [
    ("ARBITER_ADMIN_API_KEY", KEY),
    ("ARBITER_SIGNING_SECRET", "0123456789abcdef0123456789abcdef"),
];

#[tokio::test]
async fn the_doctor_finds_what_is_well_and_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    fs::write(at("p.toml"), POLICIES).unwrap();
    fs::write(at("c.toml"), "[credentials]\ndb = \"hunter2hunter2\"\n").unwrap();
    fs::write(at("not.db"), "this is text, and long enough to be read as a header of a page")
        .unwrap();
    let check = async |toml: String| {
        fs::write(at("arbiter.toml"), toml).unwrap();
        run(&format!("check --config {}", at("arbiter.toml").display()), &SECRETS).await
    };
    let base = |policy: &str, more: &str| {
        let dir = dir.path().display();
        format!(
            "[proxy]\nlisten_port = 0\nlisten_addr = \"127.0.0.1\"\n\
             upstream_url = \"http://127.0.0.1:{port}\"\n[policy]\nfile = \"{dir}/{policy}\"\n\
             [audit]\nfile_path = \"{dir}/new/audit.jsonl\"\n[credentials]\nprovider = \"file\"\n\
             file_path = \"{dir}/c.toml\"\n{more}"
        )
    };
    let db = at("arbiter.db");
    let sqlite = |path: &str| {
        format!(
            "[storage]\nbackend = \"sqlite\"\nsqlite_path = \"{path}\"\n[admin]\nlisten_port = 0"
        )
    };
    let traces = format!("\n[tracing]\notlp_endpoint = \"http://127.0.0.1:{port}\"");
    let ran = check(base("p.toml", &(sqlite(&db.display().to_string()) + &traces))).await;
    assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
    for line in [
        "ok    policies     1 in",
        "ok    audit log",
        "ok    storage",
        "ok    upstream",
        "ok    collector",
    ] {
        assert!(ran.out.contains(line), "{line}: {ran:?}");
    }
    assert!(!ran.out.contains("hunter2") && !ran.out.contains(KEY), "{ran:?}");
    // Looking leaves nothing behind.
    assert!(!db.exists() && !at("new").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);

    let ran = check(base("none.toml", "[admin]\nlisten_port = 0")).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("fail  policies"), "{ran:?}");
    assert!(ran.out.contains("warn  storage"), "{ran:?}");
    let ran = check(base("p.toml", &format!("[admin]\nlisten_port = {port}"))).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("fail  admin port"), "{ran:?}");
    let ran = check(base("p.toml", &sqlite(&at("not.db").display().to_string()))).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("fail  storage"), "{ran:?}");
    let header = "[admin]\nlisten_port = 0\n[proxy.upstream_headers]\nx = \"${CRED:none}\"";
    let ran = check(base("p.toml", header)).await;
    assert_eq!(ran.exit, Exit::No);
    let place =
        |line: usize, key: &str| format!("{}:{line}: `{key}`", at("arbiter.toml").display());
    let lines =
        |text: &str, key: &str| 1 + text.lines().position(|line| line.starts_with(key)).unwrap();
    let given = base("p.toml", header);
    let line = place(lines(&given, "x ="), "proxy.upstream_headers.x");
    assert!(ran.out.contains(&format!("fail  credentials  {line}: credential `none`")), "{ran:?}");
    let missing = base("none.toml", "[proxy.tls]\ncert_file = \"c.pem\"\nkey_file = \"k.pem\"");
    let ran = check(missing.clone()).await;
    let line = place(lines(&missing, "[proxy.tls]"), "proxy.tls");
    assert!(
        ran.out.contains(&format!("{line}: `proxy.tls.cert_file` c.pem: No such file")),
        "{ran:?}"
    );
    let line = place(lines(&missing, "file ="), "policy.file");
    assert!(
        ran.out.contains(&format!("fail  policies     {line}: cannot read policies")),
        "{ran:?}"
    );
    let ran = check("[proxy]\nlisten_prot = 1\n[nope]\n".to_owned()).await;
    assert_eq!((ran.exit, ran.out.lines().count()), (Exit::Usage, 2), "{ran:?}");
    let json = format!("check --json --config {}", at("arbiter.toml").display());
    let ran = run(&json, &SECRETS).await;
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(told[0]["result"], "fail", "{ran:?}");
}

#[tokio::test]
async fn the_doctor_says_what_is_wrong_with_redis() {
    let dir = tempfile::tempdir().unwrap();
    let toml = dir.path().join("arbiter.toml");
    let check = async |url: &str| {
        let audit = dir.path().join("audit.jsonl");
        let text = format!(
            "[proxy]\nlisten_port = 0\n[admin]\nlisten_port = 0\n[audit]\nfile_path = \"{}\"\n\
             [storage]\nbackend = \"redis\"\nredis_url = \"{url}\"",
            audit.display()
        );
        fs::write(&toml, text).unwrap();
        let ran = run(&format!("check --config {}", toml.display()), &SECRETS).await;
        assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
        ran.out.lines().find(|line| line.contains("  storage  ")).unwrap().to_owned()
    };
    let forgetful = RedisServer::start().await;
    let address = format!("127.0.0.1:{}", forgetful.port);
    let said = check(&format!("redis://{address}")).await;
    assert!(said.starts_with("warn") && said.contains("`appendonly yes`"), "{said}");
    let said = check(&format!("redis://:hunter2@{address}")).await;
    assert!(said.starts_with("fail") && said.contains("user or the password"), "{said}");
    let said = check(&format!("rediss://{address}")).await;
    assert!(said.starts_with("fail") && said.contains("speak TLS"), "{said}");
    drop(forgetful);
    let said = check(&format!("redis://{address}")).await;
    assert!(said.starts_with("fail") && said.contains("cannot be reached"), "{said}");
    let durable = RedisServer::keeping_everything().await;
    let said = check(&format!("redis://127.0.0.1:{}", durable.port)).await;
    assert!(said.starts_with("ok") && said.contains("`appendfsync always`"), "{said}");
}

#[tokio::test]
async fn a_key_is_made_once_and_what_it_signed_is_verified() {
    use crate::audit::{Audit, CheckpointSettings, Decision, Entry, Outcome, Settings};
    use crate::clock::Clock;

    let dir = tempfile::tempdir().unwrap();
    let (key, log) = (dir.path().join("key"), dir.path().join("audit.jsonl"));
    let made = run(&format!("audit keygen --name gw --out {}", key.display()), &[]).await;
    assert_eq!(made.exit, Exit::Fine, "{made:?}");
    let public = made.out.trim().to_owned();
    assert!(public.starts_with("gw+"), "{public}");
    let again = run(&format!("audit keygen --name gw --out {}", key.display()), &[]).await;
    assert_eq!(again.exit, Exit::Usage, "{again:?}");

    let mut settings = Settings::at(&log, "gw");
    settings.rotation.bytes = 3_000;
    settings.rotation.compress = true;
    settings.checkpoints =
        Some(CheckpointSettings { key_file: key, every_records: 2, every_secs: 60 });
    let clock = Clock::system();
    let audit = Audit::open(settings, clock.clone()).unwrap();
    for n in 0..12 {
        let mut entry = Entry::new(clock.now().wall, uuid::Uuid::new_v4(), Decision::Deny);
        entry.tool_called = Some(format!("tool-{}", n % 3));
        entry.denial_code = Some("PolicyDenied");
        audit.record(entry, Outcome::refused(5)).await.unwrap();
    }
    drop(audit);
    let (shown, folder) = (log.display(), dir.path().display());
    let checkpoints = format!("--checkpoints {shown}.checkpoints --public-key {public}");
    for path in [shown.to_string(), folder.to_string()] {
        let ran = run(&format!("audit verify {path} {checkpoints}"), &[]).await;
        assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
        assert!(ran.out.starts_with("intact: 12 records") && ran.out.contains(" files"), "{ran:?}");
        assert!(ran.out.contains("known links met: 6 of 6"), "{ran:?}");
        assert!(ran.out.contains("signed up to record 12 at "), "{ran:?}");
    }
    let told = run(&format!("audit verify {folder} {checkpoints} --json"), &[]).await.out;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["intact"], &told["known_met"]), (&true.into(), &6.into()));

    let stats = run(&format!("audit stats {folder} --json --top 2"), &[]).await.out;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["requests"], 12);
    assert_eq!(stats["decisions"], serde_json::json!({ "deny": 12 }));
    assert_eq!(stats["codes"], serde_json::json!({ "PolicyDenied": 12 }));
    assert_eq!(stats["tools"], serde_json::json!({ "tool-0": 4, "tool-1": 4 }));
    let none = run(&format!("audit stats {shown} --until 2026-01-01T00:00:00Z"), &[]).await.out;
    assert!(none.starts_with("0 records, 0 requests\n"), "{none}");
    let ran = run(&format!("audit tail {shown} -n 3 --tool tool-1 --json"), &[]).await.out;
    assert_eq!(ran.lines().count(), 3, "the closed files are read too: {ran}");
    assert!(ran.lines().all(|line| line.contains("\"tool_called\":\"tool-1\"")));
    let ran = run(&format!("audit tail {shown} --decision allow"), &[]).await;
    assert_eq!(ran.out, "");

    // The chain written anew by somebody who has no key.
    let other = run(&format!("audit keygen --name gw --out {shown}.other"), &[]).await.out;
    let with_other = checkpoints.replace(&public, other.trim());
    let ran = run(&format!("audit verify {shown} {with_other}"), &[]).await;
    assert_eq!(ran.exit, Exit::No);
    assert!(ran.out.contains("signed by none of the given keys"), "{ran:?}");
    fs::remove_file(&log).unwrap();
    let ran = run(&format!("audit verify {folder} {checkpoints}"), &[]).await;
    assert_eq!(ran.exit, Exit::No, "{ran:?}");
    assert!(ran.out.contains("12 had been reached"), "{ran:?}");
}

#[tokio::test]
async fn what_the_node_has_deleted_is_told_and_no_damage() {
    use crate::audit::{Audit, Decision, Entry, Outcome, Settings};
    use crate::clock::Clock;

    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.jsonl");
    let mut settings = Settings::at(&log, "gw");
    settings.rotation.bytes = 3_000;
    settings.rotation.keep_files = 1;
    let clock = Clock::system();
    let audit = Audit::open(settings, clock.clone()).unwrap();
    for _ in 0..12 {
        let entry = Entry::new(clock.now().wall, uuid::Uuid::new_v4(), Decision::Deny);
        audit.record(entry, Outcome::refused(5)).await.unwrap();
    }
    audit.reopen().await.unwrap();
    drop(audit);
    let folder = dir.path().display();
    let ran = run(&format!("audit verify {folder}"), &[]).await;
    assert_eq!(ran.exit, Exit::Fine, "{ran:?}");
    assert!(ran.out.contains(" were deleted by the node, as it recorded"), "{ran:?}");
    let ran = run(&format!("audit verify {folder} --json"), &[]).await.out;
    let told: Value = serde_json::from_str(&ran).unwrap();
    let first = told["first_sequence"].as_u64().unwrap();
    assert_eq!(told["deleted_through"].as_u64(), Some(first - 1));
    assert!(first > 1);
}
