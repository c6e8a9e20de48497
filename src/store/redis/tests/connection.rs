//! Faults between a node and its Redis: access, loss, silence.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::timeout;
use uuid::Uuid;

use super::proxy::Proxy;
use super::server::{Options, Server, config, login};
use super::*;
use crate::config::RedisShape;
use crate::store::RateBooking;
use crate::store::tests::contract::calls;
use crate::testkit::{full_agent as agent, full_order as order};

const PATIENCE: Duration = Duration::from_secs(20);

async fn open(config: &config::Redis) -> Result<Redis, StoreError> {
    timeout(PATIENCE, Redis::open(config, "node".into(), &Handle::current())).await.unwrap()
}

async fn refused(config: &config::Redis) -> String {
    let error = open(config).await.map(drop).unwrap_err();
    let told = format!("{error} {error:?} {config:?}");
    assert!(!told.contains("hunter2"), "{told}");
    error.to_string()
}

/// A session of an agent of its own, that lasts for another hour.
async fn opened(redis: &Redis, budget: u64) -> Arc<WorkOrder> {
    let agent = agent(TrustLevel::Basic);
    redis.insert_agent(&agent).await.unwrap();
    let now = Clock::system().now().wall;
    let order =
        WorkOrder { created_at: now, expires_at: now.plus_secs(3_600), ..order(agent.id, budget) };
    let order = Arc::new(order);
    assert_eq!(redis.insert_session(&order, 10).await.unwrap(), Opened::Yes);
    order
}

/// Every command that there is, once.
async fn use_all(redis: &Redis) {
    let position = redis.position().await.unwrap();
    let order = opened(redis, 100).await;
    redis.set_trust(order.agent, TrustLevel::Trusted, 0).await.unwrap();
    let delegation = Delegation {
        id: Uuid::new_v4(),
        from: order.agent,
        to: AgentId::random(),
        scopes: Vec::new(),
        created_at: Timestamp(0),
        expires_at: None,
    };
    let known = redis.delegations().await.unwrap().version;
    redis.put_delegation(&delegation, known).await.unwrap();
    redis.end_delegations(vec![delegation.id]).await.unwrap();
    let rate = RateBooking { limit: 100, window_us: 60_000_000, least: 1, before: None };
    let booked = redis.book(Booking { rate: Some(rate), ..calls(order.id, 4) }).await.unwrap();
    assert_eq!(booked.granted, 4);
    let lease = booked.rate.unwrap().lease;
    let used = RateUse { lease, used: 1, ago_us: 0 };
    let settlement = Settlement { id: order.id, unused: 3, recent: None, rate: Some(used) };
    redis.settle(vec![settlement]).await.unwrap();
    assert_eq!(redis.session(order.id).await.unwrap().unwrap().booked, 1);
    let now = Clock::system().now().wall;
    redis.close_sessions(vec![Closing { id: order.id, unused: 0 }], now).await.unwrap();
    let loaded = redis.sessions(Timestamp(0)).await.unwrap();
    assert!(loaded.iter().any(|session| session.closed_at == Some(now)));
    redis.flag(order.agent, 1, now).await.unwrap();
    let taken = TakenAway { id: order.agent, inactive: true, lowered: None };
    redis.take_away(vec![taken], now).await.unwrap();
    let agents = redis.agents().await.unwrap();
    assert!(agents.iter().any(|s| s.agent.id == order.agent && !s.agent.active));
    redis.revoke_token("t", Timestamp(i64::MAX), now).await.unwrap();
    assert_eq!(redis.revoked_tokens().await.unwrap().len(), 1);
    assert_eq!(redis.forget_ended(now, 0, 10).await.unwrap(), 1);
    redis.forget_sessions(vec![order.id], now, 0).await.unwrap();
    let purge = Purge { ids: vec![order.agent], retention_secs: 0, tombstones: true };
    assert_eq!(redis.purge(purge, now).await.unwrap(), [order.agent]);
    assert_eq!(redis.tombstones().await.unwrap(), [order.agent]);
    assert!(redis.time().await.unwrap() >= now);
    let told = redis.changes(&position.into()).await.unwrap();
    // All but the flag.
    assert_eq!((told.changes.len(), told.bookmark.position), (9, Position(position.0 + 10)));
}

#[tokio::test]
async fn a_password_is_needed_where_one_is_set() {
    // As the README advises.
    let user = "user arbiter on >hunter2 ~{test}:* -@all +@read +@write +@connection +@scripting \
                -@dangerous +info +time +config|get";
    let options = Options { lines: &["user default off", user], ..Options::default() };
    let server = Server::with(&options).await;
    let with = |user: Option<&str>, password: &str| {
        let mut config = server.config();
        config.servers.login = login(user, password);
        config
    };
    let wrong = "refuses the user or the password";
    assert!(refused(&server.config()).await.contains(wrong));
    assert!(refused(&with(Some("arbiter"), "hunter22")).await.contains(wrong));
    assert!(refused(&with(None, "hunter2")).await.contains(wrong));
    let right = with(Some("arbiter"), "hunter2");
    use_all(&open(&right).await.unwrap()).await;
    let told = refused(&config::Redis { prefix: "other".to_owned(), ..right.clone() }).await;
    assert!(told.contains("may not do what Arbiter needs"), "{told}");
    let report = RedisReport::of(&right).await.unwrap();
    let expected = RedisReport {
        durable: Some(false),
        fsync: Some("everysec".into()),
        evicts_nothing: true,
        off_us: 0,
    };
    assert_eq!(report, expected);
}

#[tokio::test]
async fn what_the_server_does_not_say_is_not_known() {
    let user = "user default on nopass ~* +@all -info -config";
    let server = Server::with(&Options { lines: &[user], ..Options::default() }).await;
    let report = RedisReport::of(&server.config()).await.unwrap();
    let silent = RedisReport { durable: None, fsync: None, evicts_nothing: false, off_us: 0 };
    assert_eq!(report, silent);
    use_all(&open(&server.config()).await.unwrap()).await;
}

#[tokio::test]
async fn a_server_that_may_forget_what_was_spent_is_refused() {
    let lines: &[&str] = &["maxmemory 100mb", "maxmemory-policy volatile-ttl"];
    let server = Server::with(&Options { lines, ..Options::default() }).await;
    let told = refused(&server.config()).await;
    assert!(told.contains("`volatile-ttl`") && told.contains("`noeviction`"), "{told}");
}

#[tokio::test]
async fn keys_of_another_version_are_left_alone() {
    let server = Server::start().await;
    let redis = open(&server.config()).await.unwrap();
    let mut set = cmd("SET");
    redis.link.command::<()>(set.arg("{test}:format").arg("3")).await.unwrap();
    assert!(refused(&server.config()).await.contains("another version (3)"));
}

/// A certificate for this machine, and its key.
struct Certificate(TempDir);

impl Certificate {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .current_dir(folder.path())
            .output()
            .expect("openssl is needed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[tokio::test]
async fn tls_trusts_the_given_certificates_and_no_others() {
    let (ours, other) = (Certificate::make(), Certificate::make());
    let (certificate, key) = (ours.file("cert.pem"), ours.file("key.pem"));
    let options = Options { tls: Some((&certificate, &key)), ..Options::default() };
    let server = Server::with(&options).await;
    let with = |ca_file: Option<&Path>| {
        let mut config = server.config();
        config.servers.tls = true;
        config.ca_file = ca_file.map(Path::to_owned);
        config
    };
    use_all(&open(&with(Some(&certificate))).await.unwrap()).await;
    let untrusted = |told: String| {
        assert!(told.contains("cannot be reached") && told.contains("certificate"), "{told}");
    };
    untrusted(refused(&with(Some(&other.file("cert.pem")))).await);
    untrusted(refused(&with(None)).await);
    let told = refused(&with(Some(&key))).await;
    assert!(told.contains("redis_ca_file") && told.contains("no PEM certificate"), "{told}");
    let told = refused(&with(Some(&ours.file("none.pem")))).await;
    assert!(told.contains("redis_ca_file"), "{told}");
    assert!(refused(&server.config()).await.contains("cannot be reached"));
}

#[tokio::test]
async fn sentinels_lead_to_the_primary() {
    let server = Server::start().await;
    let monitor = format!("sentinel monitor main 127.0.0.1 {} 1", server.port);
    let options = Options { lines: &[&monitor], sentinel: true, ..Options::default() };
    let sentinel = Server::with(&options).await;
    let behind = |service: &str| {
        let mut config = sentinel.config();
        let login = config::RedisLogin::default();
        config.servers.shape = RedisShape::Sentinel { service: service.to_owned(), login };
        config
    };
    use_all(&open(&behind("main")).await.unwrap()).await;
    assert!(refused(&behind("other")).await.contains("no sentinel knows"));
}

#[tokio::test]
async fn a_cluster_has_all_keys_on_one_of_its_nodes() {
    let server =
        Server::with(&Options { lines: &["cluster-enabled yes"], ..Options::default() }).await;
    let direct = Redis::new(&server.config(), "direct".into(), &Handle::current());
    let mut slots = cmd("CLUSTER");
    slots.arg("ADDSLOTSRANGE").arg(0).arg(16_383);
    direct.link.command::<()>(&slots).await.unwrap();
    let mut info = cmd("CLUSTER");
    info.arg("INFO");
    let up = async {
        loop {
            let state: String = direct.link.command(&info).await.unwrap();
            if state.contains("cluster_state:ok") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, up).await.unwrap();
    let mut config = server.config();
    config.servers.shape = RedisShape::Cluster;
    use_all(&open(&config).await.unwrap()).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let told = refused(&config(port)).await;
    assert!(told.contains("cannot be reached") && told.contains("refused"), "{told}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_waited_for_no_longer_than_agreed() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(silent.local_addr().unwrap().port());
    config.timeout = Duration::from_millis(100);
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let redis = Redis::new(&config, "node".into(), &Handle::current());
    let asks = async {
        assert!(redis.examine(false).await.is_err());
        assert!(redis.book(calls(SessionId::random(), 1)).await.is_err());
        assert!(redis.changes(&Position(0).into()).await.is_err());
    };
    timeout(Duration::from_secs(5), asks).await.expect("ended by itself");
    holding.abort();
}

#[tokio::test]
async fn what_comes_late_by_a_connection_that_was_given_up_is_not_done() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let mut config = config(proxy.port);
    config.timeout = Duration::from_millis(300);
    let redis = open(&config).await.unwrap();
    let order = opened(&redis, 100).await;
    redis.book(calls(order.id, 5)).await.unwrap();
    let settlement = Settlement { id: order.id, unused: 5, recent: None, rate: None };
    // The server has to know the script, or it would not run late either.
    redis.settle(vec![Settlement { id: SessionId::random(), ..settlement.clone() }]).await.unwrap();

    // The node gives back, hears nothing, and has to take the calls for gone.
    let held = proxy.hold();
    let slow = redis.settle(vec![settlement.clone()]).await.unwrap_err();
    assert!(matches!(slow, StoreError::Redis(RedisFault::NoAnswer { .. })), "{slow}");
    // By the next connection it books more. What it gave back must not be taken from that.
    assert_eq!(redis.book(calls(order.id, 3)).await.unwrap().total, 8);
    held.release().await;
    assert_eq!(redis.session(order.id).await.unwrap().unwrap().booked, 8);
    redis.settle(vec![settlement]).await.unwrap();
    assert_eq!(redis.session(order.id).await.unwrap().unwrap().booked, 5);
}

#[tokio::test]
async fn a_connection_that_is_cut_is_made_anew() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let redis = open(&config(proxy.port)).await.unwrap();
    let order = opened(&redis, 1_000).await;
    let position = redis.position().await.unwrap();
    let mut granted = 0;
    for _ in 0..5 {
        proxy.cut();
        let again = async {
            while redis.changes(&position.into()).await.is_err() {}
            loop {
                if let Ok(booked) = redis.book(calls(order.id, 10)).await {
                    return booked;
                }
            }
        };
        granted += timeout(PATIENCE, again).await.unwrap().granted;
    }
    let booked = redis.session(order.id).await.unwrap().unwrap().booked;
    assert!(granted == 50 && booked >= granted, "{granted} of {booked}");
}

#[tokio::test]
async fn a_restart_that_keeps_everything_is_hardly_noticed() {
    let options =
        Options { lines: &["appendonly yes", "appendfsync always"], ..Options::default() };
    let mut server = Server::with(&options).await;
    let redis = open(&server.config()).await.unwrap();
    let other = Redis::open(&server.config(), "other".into(), &Handle::current()).await.unwrap();
    let position = other.position().await.unwrap();
    let order = opened(&redis, 100).await;
    redis.book(calls(order.id, 30)).await.unwrap();
    let before = other.changes(&position.into()).await.unwrap();
    assert_eq!(before.changes.len(), 2);

    server.stop();
    assert!(redis.book(calls(order.id, 30)).await.is_err());
    assert!(other.changes(&before.bookmark).await.is_err());
    server.restart(&options).await;
    // The scripts are loaded again by themselves.
    let booked = async {
        loop {
            // The first to ask may find that the connection is gone.
            if let Ok(booked) = redis.book(calls(order.id, 10)).await {
                return booked;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, booked).await.unwrap().total, 40);
    redis.flag(order.agent, 1, Timestamp(0)).await.unwrap();
    let told = async {
        loop {
            match other.changes(&before.bookmark).await {
                Ok(told) => return told,
                Err(StoreError::Redis(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    };
    let told = timeout(PATIENCE, told).await.unwrap();
    assert_eq!(told.changes, [Change::Flagged { agent: order.agent, flags: 1 }]);
}

#[tokio::test]
async fn a_server_that_forgot_makes_nodes_load_everything_anew() {
    let mut server = Server::start().await;
    let redis = open(&server.config()).await.unwrap();
    let order = opened(&redis, 100).await;
    let bookmark = redis.follow_from_here().await.unwrap();
    server.restart(&Options::default()).await;
    // As many changes as there were before: only their marks tell that they are others.
    let other = open(&server.config()).await.unwrap();
    opened(&other, 100).await;
    // An operator's look at the end of the changes takes nothing from the guard.
    let looked = async { while redis.position().await.is_err() {} };
    timeout(PATIENCE, looked).await.unwrap();
    let missed = async || {
        loop {
            match redis.changes(&bookmark).await {
                Err(StoreError::Redis(_)) => {}
                told => return told,
            }
        }
    };
    // A load that fails after it has asked from where to follow is to be done again.
    for _ in 0..2 {
        let missed = timeout(PATIENCE, missed()).await.unwrap();
        assert!(matches!(missed, Err(StoreError::Missed)), "{missed:?}");
        redis.follow_from_here().await.unwrap();
    }
    let gone = async {
        loop {
            match redis.book(calls(order.id, 1)).await {
                Err(StoreError::Redis(_)) => {}
                told => return told,
            }
        }
    };
    let gone = timeout(PATIENCE, gone).await.unwrap();
    assert!(matches!(gone, Err(StoreError::Missing(_))), "{gone:?}");
    let bookmark = redis.follow_from_here().await.unwrap();
    assert_eq!(redis.changes(&bookmark).await.unwrap().changes, []);
}

#[tokio::test]
async fn a_gap_in_the_changes_is_noticed() {
    let server = Server::start().await;
    let redis = open(&server.config()).await.unwrap();
    let other = Redis::open(&server.config(), "other".into(), &Handle::current()).await.unwrap();
    let start = other.position().await.unwrap();
    for flags in 1..=4 {
        redis.flag(AgentId::random(), flags, Timestamp(0)).await.unwrap();
    }
    let missed = async |after: u64| other.changes(&Position(start.0 + after).into()).await.is_err();
    assert!(!missed(0).await && !missed(2).await);
    let mut take = cmd("XDEL");
    take.arg("{test}:changes").arg(format!("{}-0", start.0 + 3));
    redis.link.command::<()>(&take).await.unwrap();
    assert!(missed(0).await && missed(2).await && missed(3).await);
    assert!(!missed(4).await);
    let mut trim = cmd("XTRIM");
    redis.link.command::<()>(trim.arg("{test}:changes").arg("MAXLEN").arg(1)).await.unwrap();
    assert!(missed(1).await && !missed(4).await);
    // A newer node's word is not understood, but not passed over either.
    let mut script = redis.write(&scripts::REVOKE_TOKEN).unwrap();
    redis.run::<()>(script.arg("t").arg(1).arg("{\"unheard\":1}")).await.unwrap();
    assert!(missed(4).await);
}

#[tokio::test]
async fn waiting_for_changes_delays_nothing_else() {
    let server = Server::start().await;
    let redis = open(&server.config()).await.unwrap();
    let order = opened(&redis, 100).await;
    let bookmark = redis.position().await.unwrap().into();
    tokio::select! {
        biased;
        _ = redis.changes(&bookmark) => panic!("there are none to be told at once"),
        () = async {
            for _ in 0..5 {
                redis.book(calls(order.id, 1)).await.unwrap();
                redis.position().await.unwrap();
            }
        } => {}
    }
}

#[tokio::test]
async fn who_asks_in_vain_again_and_again_does_not_fill_the_changes() {
    let server = Server::start().await;
    let redis = open(&server.config()).await.unwrap();
    let other = Redis::open(&server.config(), "other".into(), &Handle::current()).await.unwrap();
    let order = opened(&redis, 10).await;
    other.book(calls(order.id, 10)).await.unwrap();
    let start = redis.position().await.unwrap();
    for _ in 0..500 {
        // Shows that the other one runs, however long this takes.
        other.position().await.unwrap();
        assert_eq!(redis.book(calls(order.id, 1)).await.unwrap().elsewhere, 10);
    }
    let told = redis.position().await.unwrap().0 - start.0;
    assert!((1..100).contains(&told), "{told}");
}

#[tokio::test]
async fn what_a_session_left_goes_with_it() {
    let server = Server::start().await;
    let redis = open(&server.config()).await.unwrap();
    let order = opened(&redis, 100).await;
    let rate = RateBooking { limit: 100, window_us: 60_000_000, least: 1, before: None };
    redis.book(Booking { rate: Some(rate), ..calls(order.id, 4) }).await.unwrap();
    for key in ["s", "h", "p"] {
        let mut ask = cmd("PTTL");
        ask.arg(format!("{{test}}:{key}:{}", order.id));
        let left_ms: i64 = redis.link.command(&ask).await.unwrap();
        assert!((7_100_000..=7_200_000).contains(&left_ms), "{key}: {left_ms}");
    }
    // By the server's clock it has not ended.
    redis.forget_sessions(vec![order.id], Timestamp(i64::MAX), 0).await.unwrap();
    assert!(redis.session(order.id).await.unwrap().is_some());
    redis.close_sessions(vec![Closing { id: order.id, unused: 0 }], Timestamp(0)).await.unwrap();
    redis.forget_sessions(vec![order.id], Timestamp(0), 0).await.unwrap();
    let mut keys: Vec<String> = redis.link.command(cmd("KEYS").arg("*")).await.unwrap();
    keys.sort_unstable();
    let left = ["agents", "changes", "connection:node", "format", "sequence", "trust"];
    assert_eq!(keys, left.map(|name| format!("{{test}}:{name}")));
}

#[tokio::test]
async fn what_a_script_cannot_count_is_refused() {
    let server = Server::start().await;
    let redis = open(&server.config()).await.unwrap();
    let agent = agent(TrustLevel::Basic);
    redis.insert_agent(&agent).await.unwrap();
    let ask = async |budget: u64, expires_at: i64| {
        let order = WorkOrder { expires_at: Timestamp(expires_at), ..order(agent.id, budget) };
        redis.insert_session(&Arc::new(order), 10).await
    };
    let large = 1 << 53;
    assert!(matches!(ask(large + 1, 5).await, Err(StoreError::TooLarge { .. })));
    assert!(matches!(ask(5, i64::MAX).await, Err(StoreError::TooLarge { .. })));
    assert_eq!(ask(large, 5).await.unwrap(), Opened::Yes);
}

#[tokio::test]
async fn many_sessions_are_loaded_page_by_page() {
    let server = Server::start().await;
    let redis = open(&server.config()).await.unwrap();
    let agent = agent(TrustLevel::Basic);
    redis.insert_agent(&agent).await.unwrap();
    let now = Clock::system().now().wall;
    let count = 3 * PAGE + 7;
    let orders: Vec<_> = (0..count)
        .map(|_| {
            let order = order(agent.id, 5);
            Arc::new(WorkOrder { expires_at: now.plus_secs(60), ..order })
        })
        .collect();
    for orders in orders.chunks(100) {
        let openings = orders.iter().map(|order| redis.insert_session(order, count));
        futures::future::try_join_all(openings).await.unwrap();
    }
    assert_eq!(redis.sessions(now).await.unwrap().len(), count);
    assert_eq!(redis.sessions(now.plus_secs(60)).await.unwrap(), []);
    assert_eq!(redis.forget_ended(now.plus_secs(600), 0, u32::MAX).await.unwrap(), 0);
    let redis = redis.timed_by(Clock::manual(now.plus_secs(60)));
    assert_eq!(redis.forget_ended(now, 0, u32::MAX).await.unwrap(), count);
    assert_eq!(redis.sessions(now).await.unwrap(), []);
}
