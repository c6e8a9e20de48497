//! Several upstreams, several servers of one: who gets what, and what a dead one does to the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::harness::{Answer, Gateway, Setup, Upstream, json_response, tool_call};

/// An upstream that can die with all its connections.
struct Mortal {
    upstream: Upstream,
    life: Option<Runtime>,
}

impl Mortal {
    async fn start() -> Self {
        let life = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let upstream = life.spawn(Upstream::start()).await.unwrap();
        Self { upstream, life: Some(life) }
    }

    fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    fn die(&mut self) {
        if let Some(life) = self.life.take() {
            life.shutdown_background();
        }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.die();
    }
}

/// Returns an address without a listener.
fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn call() -> String {
    tool_call("read_file", json!({}))
}

async fn send(gateway: &Gateway, path: &str, session: &str, body: &str) -> Answer {
    gateway.send(gateway.request_to(path, session, body)).await
}

#[tokio::test]
async fn the_path_chooses_the_upstream_and_what_is_behind_it_is_the_servers() {
    let (git, files) = (Upstream::start().await, Upstream::start().await);
    let setup = Setup::default().upstreams(&[("git", &[git.address]), ("files", &[files.address])]);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    for (path, upstream, arrives_at) in [
        ("/git", &git, "/mcp"),
        ("/git/", &git, "/mcp"),
        ("/git?a=b", &git, "/mcp?a=b"),
        ("/git/other/path?x=%20", &git, "/other/path?x=%20"),
        ("/files/mcp", &files, "/mcp"),
    ] {
        assert_eq!(send(&gateway, path, &session, &call()).await.status, 200, "{path}");
        assert_eq!(upstream.seen().last().unwrap().path, arrives_at, "{path}");
    }
    let calls = git.calls() + files.calls();
    assert_eq!(calls, 5);
    for record in gateway.records().iter().filter(|record| record["tool_called"] == "read_file") {
        let server = if record["upstream"] == "git" { git.address } else { files.address };
        assert_eq!(record["upstream_server"], server.to_string(), "{record}");
    }
    for path in ["/", "/gitx", "/Git", "/files/..%2fgit", "/git//files", "/%67it", "/git;x"] {
        let refused = send(&gateway, path, &session, &call()).await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "PathBlocked"), "{path}");
        let record = gateway.record_of(refused.request_id()).await;
        assert_eq!((&record["upstream"], &record["upstream_server"]), (&Value::Null, &Value::Null));
    }
    let unlisted = tool_call("unlisted", json!({}));
    let refused = send(&gateway, "/git", &session, &unlisted).await;
    let record = gateway.record_of(refused.request_id()).await;
    assert_eq!((&record["upstream"], &record["upstream_server"]), (&json!("git"), &Value::Null));
    assert_eq!(git.calls() + files.calls(), calls);
    assert_eq!(gateway.upstream.calls(), 0);
}

#[tokio::test]
async fn a_name_before_a_tool_means_one_upstream() {
    let (git, files) = (Upstream::start().await, Upstream::start().await);
    let list = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read"},{"name":"write"},{"name":"list"},{"name":"git:write"}]}}"#;
    let policies = "[[policies]]\nid = \"p\"\neffect = \"allow\"\nallowed_tools = [\"read\", \"git:w*\", \"list\"]\n\
        [[policies]]\nid = \"d\"\neffect = \"deny\"\nallowed_tools = [\"files:list\"]\n";
    let setup = Setup::default()
        .upstreams(&[("git", &[git.address]), ("files", &[files.address])])
        .policies(policies);
    let gateway = Gateway::start(setup).await;
    let tools = json!({"authorized_tools": ["files:read", "write", "list"]});
    let session = gateway.session(tools).await;
    for (path, tool, expected) in [
        ("/files", "read", ""),
        ("/git", "read", "ToolNotAuthorized"),
        ("/git", "write", ""),
        ("/files", "write", "PolicyDenied"),
        ("/git", "list", ""),
        ("/files", "list", "PolicyDenied"),
        // The whole entry is no tool's name.
        ("/files", "files:read", "ToolNotAuthorized"),
        ("/files", "git:write", "ToolNotAuthorized"),
    ] {
        let answer = send(&gateway, path, &session, &tool_call(tool, json!({}))).await;
        assert_eq!(answer.code(), expected, "{path} {tool}");
    }
    git.answer_with(move |_| json_response(list));
    files.answer_with(move |_| json_response(list));
    for (path, expected) in [("/git", json!(["write", "list"])), ("/files", json!(["read"]))] {
        let ask = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let answer = send(&gateway, path, &session, ask).await.json();
        let names: Vec<Value> = answer["result"]["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| tool["name"].clone())
            .collect();
        assert_eq!(json!(names), expected, "{path}");
    }
}

/// Answers `initialize` with a new session, and everything else with the session that it is for.
fn with_sessions(upstream: &Upstream) {
    let (address, count) = (upstream.address, AtomicUsize::new(0));
    upstream.answer_with(move |seen| {
        let new = || {
            let n = count.fetch_add(1, Ordering::Relaxed);
            format!("{}.{n}", address.port()).parse().unwrap()
        };
        let id = seen.headers.get("mcp-session-id").cloned().unwrap_or_else(new);
        let mut response = json_response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        response.headers_mut().insert("mcp-session-id", id);
        response
    });
}

#[tokio::test]
async fn a_session_stays_with_the_server_that_issued_it_at_every_gateway() {
    let servers = [Upstream::start().await, Upstream::start().await, Upstream::start().await];
    servers.iter().for_each(with_sessions);
    let [a, b, c] = [0, 1, 2].map(|n: usize| servers[n].address);
    let mut gateway = Gateway::start(Setup::default().upstreams(&[("pool", &[a, b, c])])).await;
    let session = gateway.session(json!({})).await;
    let mut opened = Vec::new();
    for _ in 0..6 {
        let before: Vec<_> = servers.iter().map(Upstream::calls).collect();
        let answer = send(&gateway, "/pool", &session, &call()).await;
        let issuer = (0..3).find(|n| servers[*n].calls() > before[*n]).unwrap();
        let id = answer.header("mcp-session-id").unwrap().to_owned();
        let own = servers[issuer].seen().last().unwrap().clone();
        assert!(!own.headers.contains_key("mcp-session-id"));
        assert!(id.starts_with(&servers[issuer].address.port().to_string()), "{id}");
        opened.push((issuer, id));
    }
    let go_on = async |gateway: &Gateway| {
        for (issuer, id) in &opened {
            let calls = servers[*issuer].calls();
            for _ in 0..3 {
                let request = gateway.request_to("/pool", &session, call());
                let answer = gateway.send(request.header("mcp-session-id", id)).await;
                assert_eq!(answer.header("mcp-session-id"), Some(id.as_str()));
                let seen =
                    servers[*issuer].seen().last().unwrap().headers["mcp-session-id"].clone();
                assert!(id.starts_with(&format!("{}.", seen.to_str().unwrap())), "{id} {seen:?}");
            }
            assert_eq!(servers[*issuer].calls(), calls + 3);
        }
    };
    go_on(&gateway).await;
    let mut issuers: Vec<_> = opened.iter().map(|(issuer, _)| *issuer).collect();
    issuers.sort_unstable();
    assert_eq!(issuers, [0, 0, 1, 1, 2, 2], "new sessions go to each server in turn");
    // Another process that has the same servers, in another order, and the same agents.
    gateway.stop();
    let file = gateway.folder.path().join("arbiter.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let urls = |order: [SocketAddr; 3]| order.map(|at| format!("\"http://{at}/mcp\"")).join(", ");
    let other = config.replace(&urls([a, b, c]), &urls([c, a, b]));
    assert_ne!(config, other);
    std::fs::write(file, other).unwrap();
    gateway.start_again();
    go_on(&gateway).await;
}

#[tokio::test]
async fn a_session_of_an_mcp_server_is_its_agents_alone() {
    let mut gateway = Gateway::start(Setup::default().with("proxy.legacy_streams", true)).await;
    with_sessions(&gateway.upstream);
    let session = gateway.session(json!({})).await;
    let opened = gateway.call(&session, call()).await;
    let id = opened.header("mcp-session-id").unwrap().to_owned();
    let issued = id.rsplit_once('.').unwrap().0.to_owned();
    // The agent may go on in it, also in another work order of its own.
    let later = gateway.session(json!({})).await;
    for session in [&session, &later] {
        let answer = gateway.send(gateway.request(session, call()).header("mcp-session-id", &id));
        assert_eq!(answer.await.status, 200);
    }
    let seen = gateway.upstream.seen();
    assert!(seen[1..].iter().all(|seen| seen.headers["mcp-session-id"] == issued));
    // Nobody else may, and what no gateway sealed is no session of anyone's.
    let refuse = async |gateway: &Gateway, session: &str, id: &str| {
        for method in ["POST", "GET", "DELETE"] {
            let request = match method {
                "POST" => gateway.request(session, call()),
                other => gateway.bare(other, session).header("accept", "text/event-stream"),
            };
            let answer = gateway.send(request.header("mcp-session-id", id)).await;
            let refused = (answer.status, answer.code());
            assert_eq!(refused, (404, "McpSessionUnknown".to_owned()), "{method} {id}");
        }
    };
    for unknown in [issued.as_str(), "made-up", "made.up", "."] {
        refuse(&gateway, &session, unknown).await;
    }
    gateway.agent = gateway.register(json!({})).await;
    let theirs = gateway.session(json!({})).await;
    refuse(&gateway, &theirs, &id).await;
    assert_eq!(gateway.upstream.calls(), seen.len());
}

#[tokio::test]
async fn calls_go_round_a_dead_server_but_not_those_of_its_sessions() {
    let (mut first, second) = (Mortal::start().await, Upstream::start().await);
    with_sessions(&first.upstream);
    with_sessions(&second);
    let setup =
        Setup::default().upstreams(&[("pool", &[first.address(), second.address, nowhere()])]);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let mut of_first = None;
    for _ in 0..6 {
        let answer = send(&gateway, "/pool", &session, &call()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let id = answer.header("mcp-session-id").unwrap().to_owned();
        if id.starts_with(&first.address().port().to_string()) {
            of_first = Some(id);
        }
    }
    let of_first = of_first.expect("it had its turn");
    first.die();
    let mut lost = 0;
    for _ in 0..20 {
        lost += usize::from(send(&gateway, "/pool", &session, &call()).await.status != 200);
    }
    // Only what was sent over a connection that was about to close.
    assert!(lost <= 1, "{lost} calls were lost");
    let asked = Instant::now();
    let request = gateway.request_to("/pool", &session, call()).header("mcp-session-id", of_first);
    let answer = gateway.send(request).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "UpstreamFailed"));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
}

/// Calls until told to stop; the statuses that came.
fn press(
    gateway: &Arc<Gateway>,
    path: &'static str,
    session: &str,
    stop: &Arc<AtomicBool>,
) -> Vec<tokio::task::JoinHandle<Vec<u16>>> {
    let caller = |_| {
        let (gateway, session, stop) = (gateway.clone(), session.to_owned(), stop.clone());
        tokio::spawn(async move {
            let mut statuses = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                statuses.push(send(&gateway, path, &session, &call()).await.status);
            }
            statuses
        })
    };
    (0..CALLERS).map(caller).collect()
}

const CALLERS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_under_load_harms_only_the_calls_it_had() {
    let (mut first, second) = (Mortal::start().await, Upstream::start().await);
    let other = Upstream::start().await;
    let setup = Setup::default()
        .upstreams(&[("pool", &[first.address(), second.address]), ("other", &[other.address])]);
    let gateway = Arc::new(Gateway::start(setup).await);
    let session = gateway.session(json!({"call_budget": 1_000_000})).await;
    let stop = Arc::default();
    let pool = press(&gateway, "/pool", &session, &stop);
    let beside = press(&gateway, "/other", &session, &stop);
    first.upstream.wait_for_calls(50).await;
    first.die();
    second.wait_for_calls(second.calls() + 100).await;
    other.wait_for_calls(other.calls() + 100).await;
    stop.store(true, Ordering::SeqCst);
    let statuses = async |tasks: Vec<tokio::task::JoinHandle<Vec<u16>>>| {
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    };
    let beside = statuses(beside).await;
    let lost = beside.iter().filter(|status| **status != 200).count();
    assert_eq!(lost, 0, "of {} calls to the other upstream", beside.len());
    assert_eq!(beside.len(), other.calls());
    let pool = statuses(pool).await;
    let failed = pool.iter().filter(|status| **status != 200).count();
    // What had been sent to the dead server cannot be sent again; nothing else is lost.
    assert!(failed <= CALLERS, "{failed} of {} failed", pool.len());
    assert!(pool.iter().all(|status| matches!(status, 200 | 502)));
    let reached = first.upstream.calls() + second.calls();
    assert!(reached <= pool.len(), "{reached} calls arrived of {}: some twice", pool.len());
}

#[tokio::test]
async fn a_redirect_to_the_upstream_is_one_to_the_gateway() {
    let git = Upstream::start().await;
    let setup = Setup::default().upstreams(&[("git", &[git.address])]);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let address = git.address;
    git.answer_with(move |seen| {
        let location = match seen.path.as_str() {
            "/mcp" => format!("http://{address}/mcp/"),
            "/a" => "/b".to_owned(),
            _ => "https://elsewhere.example/x".to_owned(),
        };
        crate::support::harness::with_headers(
            307,
            &[("location", &location)],
            axum::body::Body::empty(),
        )
    });
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    for (path, location) in
        [("/git", "/git/mcp/"), ("/git/a", "/git/b"), ("/git/x", "https://elsewhere.example/x")]
    {
        let request = gateway.request_to(path, &session, call()).build().unwrap();
        let answer = client.execute(request).await.unwrap();
        assert_eq!(answer.status(), 307);
        assert_eq!(answer.headers()["location"], location, "{path}");
    }
}
