use super::*;
use crate::registry::NewAgent;
use crate::testkit;

#[test]
fn a_session_is_opened_with_every_term_that_the_api_takes() {
    let document = crate::admin::openapi();
    let terms = document["components"]["schemas"]["OpenSession"]["properties"].as_object().unwrap();
    assert!(terms.len() > 8, "{terms:?}");
    let command = Cli::command();
    let open = command.find_subcommand("session").and_then(|one| one.find_subcommand("open"));
    let options: Vec<&str> =
        open.unwrap().get_arguments().map(|one| one.get_id().as_str()).collect();
    assert!(open.unwrap().get_arguments().all(|one| one.get_long().is_some()), "{options:?}");
    for term in terms.keys() {
        let option = match term.as_str() {
            "agent_id" => "agent",
            "declared_intent" => "intent",
            "authorized_tools" => "tools",
            term => term,
        };
        assert!(options.contains(&option), "`session open` has no option for {term}: {options:?}");
    }
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
    let new = |n: u32| NewAgent { owner: format!("o{n}"), ..testkit::new_agent(&[]) };
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
