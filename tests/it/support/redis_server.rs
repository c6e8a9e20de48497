//! A real Redis server for one test, on a port and in a folder of its own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::harness::PATIENCE;

/// Password of the server, required as on a reachable one.
pub(crate) const PASSWORD: &str = "hunter2hunter2";

/// The server's program; `tests/run valkey` names another that speaks the protocol.
pub(crate) fn program() -> std::ffi::OsString {
    std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

pub(crate) struct Redis {
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    child: Child,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Let go before the server takes it: another may be quicker, then the next one is tried.
        for _ in 0..10 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            if let Some(child) = spawn(folder.path(), address) {
                return Self { address, folder, child };
            }
        }
        panic!("redis-server does not start: is it installed?");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://:{PASSWORD}@{}", self.address)
    }

    /// Stops it as an operator would; what was written is on the disk.
    pub(crate) fn stop(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), self.address).expect("redis-server starts again");
    }
}

impl Redis {
    /// Copies what is on its disk: everything that it has answered.
    pub(crate) fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(self.folder.path(), copy.path());
        copy
    }

    /// Kills it, and starts it with what was on a disk before: as a replica that was behind is.
    pub(crate) fn crash_back_to(&mut self, before: &tempfile::TempDir) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
        }
        copy_folder(before.path(), self.folder.path());
        self.start_again();
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    pub(crate) fn ask(&self, question: &[&str]) -> String {
        ask(self.address.port(), question)
    }
}

fn ask(port: u16, question: &[&str]) -> String {
    let asked = Command::new("redis-cli")
        .args(["-p", &port.to_string(), "-a", PASSWORD, "--no-auth-warning"])
        .args(question)
        .output()
        .expect("redis-cli is installed");
    String::from_utf8_lossy(&asked.stdout).into_owned()
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
    assert!(sent.unwrap().success());
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Several Redis servers of one store.
pub(crate) struct Fleet {
    pub url: String,
    servers: Vec<(u16, Child)>,
    folder: tempfile::TempDir,
    /// Between the primary and its replica.
    line: Option<Line>,
}

impl Fleet {
    /// A primary, and a replica that follows it over a line.
    pub(crate) async fn with_replica() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = Self { url: String::new(), servers: Vec::new(), folder, line: None };
        let primary = fleet.add(&[]);
        fleet.url = format!("redis://:{PASSWORD}@127.0.0.1:{primary}");
        let line = Line::to(format!("127.0.0.1:{primary}").parse().unwrap()).await;
        let port = line.address.port();
        let replica = format!("replicaof 127.0.0.1 {port}");
        fleet.add(&[&replica, &format!("masterauth {PASSWORD}"), "repl-diskless-sync-delay 0"]);
        fleet.line = Some(line);
        fleet.replicated();
        fleet
    }

    /// Starts a primary and a replica, and a sentinel that watches both.
    pub(crate) async fn behind_sentinel() -> Self {
        let mut fleet = Self::with_replica().await;
        let primary = fleet.servers[0].0;
        let watch = format!(
            "sentinel monitor main 127.0.0.1 {primary} 1\nsentinel auth-pass main {PASSWORD}\n\
             sentinel down-after-milliseconds main 700\nsentinel failover-timeout main 5000"
        );
        let sentinel = fleet.add(&["--sentinel", &watch]);
        fleet.url = format!("redis-sentinel://:{PASSWORD}@127.0.0.1:{sentinel}?service=main");
        // The replica tells the primary of itself by its own port, and the sentinel asks every 10 seconds.
        fleet.wait(|fleet| fleet.ask(2, &["sentinel", "replicas", "main"]).contains("flags"));
        fleet
    }

    /// Three primaries that share the keys.
    pub(crate) fn cluster() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = Self { url: String::new(), servers: Vec::new(), folder, line: None };
        let ports: Vec<u16> = (0..3)
            .map(|_| fleet.add(&["cluster-enabled yes", "cluster-node-timeout 2000"]))
            .collect();
        let nodes: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let made = Command::new("redis-cli")
            .args(["-a", PASSWORD, "--no-auth-warning", "--cluster", "create"])
            .args(&nodes)
            .arg("--cluster-yes")
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        fleet.wait(|fleet| {
            (0..3).all(|at| fleet.ask(at, &["cluster", "info"]).contains("cluster_state:ok"))
        });
        fleet.url = format!(
            "redis-cluster://:{PASSWORD}@127.0.0.1:{}?node=127.0.0.1:{}&node=127.0.0.1:{}",
            ports[0], ports[1], ports[2]
        );
        fleet
    }

    /// Starts one more with these lines in its configuration; returns its port.
    fn add(&mut self, lines: &[&str]) -> u16 {
        for attempt in 0..10 {
            // Twice the port is another one's: a cluster's nodes speak on the port and on port + 10000.
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            if port > 55_000 {
                continue;
            }
            let folder = self.folder.path().join(format!("{}-{attempt}", self.servers.len()));
            std::fs::create_dir(&folder).unwrap();
            let is_sentinel = lines.first() == Some(&"--sentinel");
            let mut config = vec![
                format!("port {port}"),
                "bind 127.0.0.1".to_owned(),
                format!("dir {}", folder.display()),
                "logfile log".to_owned(),
            ];
            if !is_sentinel {
                config.extend(["save \"\"".to_owned(), format!("requirepass {PASSWORD}")]);
            }
            let more = lines.iter().filter(|line| **line != "--sentinel");
            config.extend(more.map(|&line| line.to_owned()));
            let file = folder.join("redis.conf");
            std::fs::write(&file, config.join("\n") + "\n").unwrap();
            let mut command = Command::new(program());
            command.arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
            if is_sentinel {
                command.arg("--sentinel");
            }
            let mut child = command.spawn().expect("redis-server is installed");
            let end = Instant::now() + PATIENCE;
            while child.try_wait().unwrap().is_none() && Instant::now() < end {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                if log.contains("Ready to accept connections") || log.contains("Sentinel ID is") {
                    self.servers.push((port, child));
                    return port;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _gone = child.kill();
            let _gone = child.wait();
        }
        panic!("redis-server does not start");
    }

    fn ask(&self, server: usize, question: &[&str]) -> String {
        ask(self.servers[server].0, question)
    }

    fn wait(&self, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + 3 * PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "the servers do not find each other");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the replica has everything.
    pub(crate) fn replicated(&self) {
        let offset = |server: usize, key: &str| {
            let told = self.ask(server, &["info", "replication"]);
            told.lines().find_map(|line| line.strip_prefix(key).map(|n| n.trim().to_owned()))
        };
        self.wait(|_| {
            let up = self.ask(1, &["info", "replication"]).contains("master_link_status:up");
            let behind = offset(1, "slave_repl_offset:");
            up && behind.is_some() && behind == offset(0, "master_repl_offset:")
        });
    }

    /// From now on nothing reaches the replica.
    pub(crate) fn lag(&self) {
        self.line.as_ref().expect("there is a replica").cut(true);
    }

    pub(crate) fn kill_primary(&self) {
        signal(&self.servers[0].1, "KILL");
    }

    pub(crate) fn primary_has_moved(&self) -> bool {
        let replica = self.servers[1].0.to_string();
        let role = self.ask(1, &["role"]);
        let now = self.ask(2, &["sentinel", "get-master-addr-by-name", "main"]);
        // For a moment the sentinel names a primary that it has not reached yet; clients do not take that one.
        let primary = self.ask(2, &["sentinel", "master", "main"]);
        let flags = primary.lines().skip_while(|line| *line != "flags").nth(1);
        now.contains(&replica) && role.contains("master") && flags == Some("master")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for (_, child) in &mut self.servers {
            // The test may have killed it already.
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The test may have stopped it already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Starts it and waits until it answers; none if the port is taken.
fn spawn(folder: &std::path::Path, address: SocketAddr) -> Option<Child> {
    let port = address.port().to_string();
    let mut child = Command::new(program())
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder)
        .args(["--appendonly", "yes", "--appendfsync", "always", "--requirepass", PASSWORD])
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(Some(_ended)) = child.try_wait() {
            return None;
        }
        if answers(address) {
            return Some(child);
        }
        assert!(Instant::now() < end, "redis-server does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn answers(address: SocketAddr) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut answer = [0; 12];
    // While it loads its data it answers something else.
    stream.write_all(format!("AUTH {PASSWORD}\r\nPING\r\n").as_bytes()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"+OK\r\n+PONG\r\n"
}

/// A way to Redis that can be made slow, or cut.
pub(crate) struct Line {
    pub address: SocketAddr,
    delay_ms: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
}

impl Line {
    pub(crate) async fn to(redis: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (delay_ms, cut) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (delay, cutting) = (Arc::clone(&delay_ms), Arc::clone(&cut));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(redis).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (delay, cut) = (Arc::clone(&delay), Arc::clone(&cutting));
                tokio::spawn(pass(from_client, to_server, Arc::clone(&delay), Arc::clone(&cut)));
                tokio::spawn(pass(from_server, to_client, delay, cut));
            }
        });
        Self { address, delay_ms, cut }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://:{PASSWORD}@{}", self.address)
    }

    /// Every answer and every question takes so much longer.
    pub(crate) fn delay(&self, ms: u64) {
        self.delay_ms.store(ms, Ordering::SeqCst);
    }

    /// Nothing gets through, and nobody is told.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay_ms: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let delay = delay_ms.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if cut.load(Ordering::SeqCst) {
            // What is swallowed is lost: the connection is of no use any more.
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
