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
pub const PASSWORD: &str = "hunter2hunter2";

pub struct Redis {
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    child: Child,
}

impl Redis {
    pub fn start() -> Self {
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

    pub fn url(&self) -> String {
        format!("redis://:{PASSWORD}@{}", self.address)
    }

    /// Stops it as an operator would; what was written is on the disk.
    pub fn stop(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), self.address).expect("redis-server starts again");
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
    let mut child = Command::new("redis-server")
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
pub struct Line {
    pub address: SocketAddr,
    delay_ms: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
}

impl Line {
    pub async fn to(redis: SocketAddr) -> Self {
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

    pub fn url(&self) -> String {
        format!("redis://:{PASSWORD}@{}", self.address)
    }

    /// Every answer and every question takes so much longer.
    pub fn delay(&self, ms: u64) {
        self.delay_ms.store(ms, Ordering::SeqCst);
    }

    /// Nothing gets through, and nobody is told.
    pub fn cut(&self, cut: bool) {
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
