//! A `redis-server` of a test's own: on a port that was free, in a folder that goes with it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::super::{Redis, SharedBackend};
use crate::clock::Clock;
use crate::config::{self, RedisLogin, RedisServers, RedisShape, Secret};
use crate::store::Store;

/// Lines for its configuration, besides what every one gets.
#[derive(Default)]
pub(crate) struct Options<'a> {
    pub lines: &'a [&'a str],
    /// Started as a sentinel.
    pub sentinel: bool,
    /// Speaks TLS only, with these files.
    pub tls: Option<(&'a Path, &'a Path)>,
}

pub(crate) struct Server {
    pub port: u16,
    process: Child,
    folder: TempDir,
}

impl Server {
    /// Starts one that keeps nothing on disk.
    pub(crate) async fn start() -> Self {
        Self::with(&Options::default()).await
    }

    /// Starts one that has written everything to its disk before it answers.
    pub(crate) async fn keeping_everything() -> Self {
        let lines = &["appendonly yes", "appendfsync always"];
        Self::with(&Options { lines, ..Options::default() }).await
    }

    pub(crate) async fn with(options: &Options<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Between our letting go of a port and the server's taking it another can come first.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut process = launch(folder.path(), port, options);
            if ready(folder.path(), &mut process).await {
                return Self { port, process, folder };
            }
            process.kill().unwrap();
            process.wait().unwrap();
        }
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        panic!("redis-server does not start: {log}");
    }

    /// Ends the process and starts another on the same port and folder.
    pub(crate) async fn restart(&mut self, options: &Options<'_>) {
        self.stop();
        self.process = launch(self.folder.path(), self.port, options);
        let ready = ready(self.folder.path(), &mut self.process).await;
        assert!(ready, "redis-server does not start again");
    }

    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn config(&self) -> config::Redis {
        config(self.port)
    }

    /// A node with time in the test's hand. The others see it running for the next seconds.
    pub(crate) async fn node(&self, name: &str, clock: Clock) -> Store {
        self.node_of("test", name, clock).await
    }

    /// A node of one of several fleets.
    pub(crate) async fn node_of(&self, prefix: &str, name: &str, clock: Clock) -> Store {
        let home = tokio::runtime::Handle::current();
        let config = config::Redis { prefix: prefix.to_owned(), ..self.config() };
        let redis = Redis::open(&config, name.into(), &home).await.unwrap().timed_by(clock);
        redis.follow_from_here().await.unwrap();
        Store::Redis(Box::new(redis))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the configuration for a server on this port.
pub(crate) fn config(port: u16) -> config::Redis {
    config::Redis {
        servers: RedisServers {
            shape: RedisShape::One,
            nodes: vec![("127.0.0.1".to_owned(), port)],
            tls: false,
            login: RedisLogin::default(),
            database: 0,
        },
        prefix: "test".to_owned(),
        ca_file: None,
        timeout: Duration::from_secs(5),
        wait_replicas: None,
        wait: Duration::from_millis(100),
    }
}

pub(crate) fn login(user: Option<&str>, password: &str) -> RedisLogin {
    RedisLogin { user: user.map(str::to_owned), password: Some(Secret::new(password.to_owned())) }
}

fn launch(folder: &Path, port: u16, options: &Options<'_>) -> Child {
    let mut lines = vec![
        "bind 127.0.0.1".to_owned(),
        "daemonize no".to_owned(),
        format!("dir {}", folder.display()),
        "logfile log".to_owned(),
    ];
    if !options.sentinel {
        lines.extend(["save \"\"", "databases 2"].map(str::to_owned));
    }
    match options.tls {
        None => lines.push(format!("port {port}")),
        Some((certificate, key)) => lines.extend([
            "port 0".to_owned(),
            format!("tls-port {port}"),
            format!("tls-cert-file {}", certificate.display()),
            format!("tls-key-file {}", key.display()),
            "tls-auth-clients no".to_owned(),
        ]),
    }
    lines.extend(options.lines.iter().map(|&line| line.to_owned()));
    let path = folder.join("redis.conf");
    std::fs::remove_file(folder.join("log")).ok();
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    // `tests/run valkey` names another that speaks the protocol.
    let program = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    let mut command = Command::new(program);
    command.arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
    if options.sentinel {
        command.arg("--sentinel");
    }
    command.spawn().unwrap_or_else(|error| {
        panic!("cannot run `redis-server`, which these tests need (apt-get install redis-server): {error}")
    })
}

/// Waits until it says so in its log; its early end (another has its port) is a no.
async fn ready(folder: &Path, process: &mut Child) -> bool {
    for _ in 0..1_000 {
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        if log.contains("Ready to accept connections") || log.contains("Sentinel ID is") {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}
