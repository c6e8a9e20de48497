//! Commands as they are typed, against an admin API on a socket of its own.

use std::fs;

use clap::CommandFactory as _;
use serde_json::Value;

use super::*;
use crate::admin::tests::{Bench, KEY};
use crate::store::RedisServer;

mod agents;
mod audit_log;
mod doctor;
mod policies;

const POLICIES: &str = "[[policies]]\nid = \"big\"\neffect = \"allow\"\n\
    allowed_tools = [\"pay\"]\n[[policies.parameter_constraints]]\nkey = \"n\"\n\
    max_value = 9007199254740993\n";

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
        "session open --agent a --intent i --refusal-style silent",
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
