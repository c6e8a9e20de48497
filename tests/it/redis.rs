//! The program on a Redis: what it needs to start, and what outlives it there.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::harness::{Gateway, Setup, eventually, refuses_to_start, tool_call};

/// A `redis-server` of a test's own, with a password; it ends with the test.
pub struct Redis {
    pub url: String,
    process: Child,
    _folder: tempfile::TempDir,
}

const PASSWORD: &str = "hunter2hunter2";

impl Redis {
    pub async fn start() -> Self {
        for _ in 0..10 {
            let folder = tempfile::tempdir().unwrap();
            // Between our letting go of a port and the server's taking it another can come first.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let text = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\nlogfile log\nsave \"\"\nappendonly yes\n\
                 appendfsync always\nrequirepass {PASSWORD}\n",
                folder.path().display()
            );
            std::fs::write(folder.path().join("redis.conf"), text).unwrap();
            let mut process = Command::new("redis-server")
                .arg(folder.path().join("redis.conf"))
                .stdout(Stdio::null())
                .spawn()
                .expect("these tests need `redis-server` (apt-get install redis-server)");
            let started = eventually(|| {
                let ended = process.try_wait().unwrap().is_some();
                let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                let ready = log.contains("Ready to accept connections");
                async move { (ended || ready).then_some(ready) }
            });
            if started.await == Some(true) {
                let url = format!("redis://:{PASSWORD}@127.0.0.1:{port}");
                return Self { url, process, _folder: folder };
            }
            process.kill().unwrap();
            process.wait().unwrap();
        }
        panic!("redis-server does not start");
    }

    pub fn setup(&self) -> Setup {
        let mut setup = Setup::default().with("storage.backend", "\"redis\"");
        setup.env.push(("ARBITER_STORAGE__REDIS_URL", self.url.clone()));
        setup
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[tokio::test]
async fn what_is_in_redis_outlives_the_process() {
    let redis = Redis::start().await;
    let mut gateway = Gateway::start(redis.setup()).await;
    let session = gateway.session(json!({"call_budget": 100})).await;
    for _ in 0..3 {
        assert_eq!(gateway.call(&session, tool_call("read_file", json!({}))).await.status, 200);
    }
    gateway.stop();
    gateway.start_again();
    assert_eq!(gateway.call(&session, tool_call("read_file", json!({}))).await.status, 200);
    gateway.kill();
    gateway.start_again();
    assert_eq!(gateway.call(&session, tool_call("read_file", json!({}))).await.status, 200);
    let (_, shown) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    // What the killed process held is spent: at most two of a hundred.
    let made = shown["calls_made"].as_u64().unwrap();
    assert!((5..=7).contains(&made), "{shown}");
    gateway.stop();
}

#[tokio::test]
async fn without_its_redis_the_program_does_not_start() {
    let redis = Redis::start().await;
    let refused = async |url: String| {
        let mut setup = redis.setup();
        setup.env = vec![("ARBITER_STORAGE__REDIS_URL", url)];
        let (code, said) = refuses_to_start(&setup).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(!said.contains("hunter"), "{said}");
        said
    };
    let said = refused(redis.url.replace(PASSWORD, "hunter3")).await;
    assert!(said.contains("refuses the user or the password"), "{said}");
    let said = refused("redis://:hunter3@127.0.0.1:1".to_owned()).await;
    assert!(said.contains("cannot be reached"), "{said}");
}
