//! The admin API from outside: every endpoint through the router, without a socket.

mod bodies;
mod delegation;
mod guard;
mod lifecycle;
mod policies;
mod roles;
mod searches;
mod shape;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{Admin, Keyring, Searches, Settings, WrongKeys, router};
use crate::audit::{self, Audit};
use crate::clock::Clock;
use crate::config::Config;
use crate::continuations::Continuations;
use crate::firewall::terms::Terms;
use crate::firewall::time::Timestamp;
use crate::freezer::Freezer;
use crate::identity::mint::Minter;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::reload::Reloader;
use crate::rulebook::Rulebook;
use crate::sessions::{self, Sessions};
use crate::store::{Freshness, Store};

pub(crate) const KEY: &str = "0123456789abcdef";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// One Arbiter without its proxy.
pub(crate) struct Bench {
    pub(crate) admin: Arc<Admin>,
    pub(crate) router: Router,
    store: Arc<Store>,
    pub(crate) dir: tempfile::TempDir,
}

/// Answer to a request.
#[derive(Debug)]
pub(crate) struct Told {
    status: StatusCode,
    pub(crate) body: Value,
    allow: Option<String>,
    retry_after: Option<String>,
    text: String,
}

impl Told {
    fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }

    fn is(&self, status: u16, error: &str) {
        assert_eq!((self.status.as_u16(), self.error()), (status, error), "{self:?}");
        assert!(!self.body["message"].as_str().unwrap_or_default().is_empty(), "{self:?}");
    }
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with("[admin]\nrate_limit_per_minute = 100000").await
    }

    pub(crate) async fn with(toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = [("ARBITER_ADMIN_API_KEY", KEY), ("ARBITER_SIGNING_SECRET", SECRET)];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_toml(toml, env).unwrap();
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let audit = audit::Settings {
            enabled: config.audit.enabled,
            ..audit::Settings::at(dir.path().join("audit.jsonl"), "test")
        };
        let audit = Arc::new(Audit::open(audit, clock.clone()).unwrap());
        let store = Arc::new(Store::memory());
        let limits = sessions::Settings {
            max_per_agent: 10,
            rate_window_secs: config.sessions.rate_limit_window_secs,
        };
        let sessions = Sessions::load(Arc::clone(&store), limits, clock.now()).await.unwrap();
        let policies = dir.path().join("policies.toml");
        std::fs::write(&policies, "").unwrap();
        let rulebook = Arc::new(Rulebook::load(Some(&policies), Terms::default()).unwrap());
        let metrics = Arc::new(Metrics::new());
        let reloader = Reloader {
            rulebook: Arc::clone(&rulebook),
            audit: Arc::clone(&audit),
            metrics: Arc::clone(&metrics),
            clock: clock.clone(),
        };
        let admin = Arc::new(Admin {
            reloader,
            registry: Arc::new(Registry::load(Arc::clone(&store), clock.clone()).await.unwrap()),
            sessions: Arc::new(sessions),
            freezer: Arc::new(Freezer::load(Arc::clone(&store), clock.now()).await.unwrap()),
            freshness: Arc::new(Freshness::alone()),
            continuations: Arc::new(Continuations::new(Arc::clone(&store), [&b"secret"[..]])),
            store: Arc::clone(&store),
            drain: Arc::default(),
            approvals: Arc::new(crate::approvals::Approvals::new(
                crate::approvals::Settings::default(),
                b"secret",
                Arc::clone(&store),
                clock.now(),
            )),
            rulebook,
            audit,
            minter: Arc::new(Minter::new(config.admin.signing_secrets.signing())),
            metrics,
            keys: Arc::new(Keyring::new(&config.admin)),
            people: None,
            sources: WrongKeys::new(config.admin.wrong_keys_per_minute),
            searches: Searches::reading(1 << 16),
            settings: Settings::of(&config),
            clock,
        });
        Self { router: router(Arc::clone(&admin)), admin, store, dir }
    }

    async fn send(&self, request: Request<Body>) -> Told {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let header =
            |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (allow, retry_after) = (header(ALLOW), header(RETRY_AFTER));
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 24).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Told { status, body, allow, retry_after, text }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Told {
        let mut request = Request::builder().method(method).uri(path).header("x-api-key", KEY);
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    async fn get(&self, path: &str) -> Told {
        self.call("GET", path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Told {
        self.call("POST", path, Some(body)).await
    }

    /// Registers an agent with these capabilities; gives its id.
    pub(crate) async fn agent(&self, capabilities: &[&str]) -> String {
        let body = json!({
            "owner": "user:alice", "model": "m", "trust_level": "basic",
            "capabilities": capabilities,
        });
        let told = self.post("/agents", body).await;
        assert_eq!(told.status, 201, "{told:?}");
        told.body["agent_id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn session(&self, agent: &str) -> Told {
        let body = json!({
            "agent_id": agent, "declared_intent": "read files", "authorized_tools": ["read_file"],
        });
        self.post("/sessions", body).await
    }

    pub(crate) fn policies(&self) -> PathBuf {
        self.dir.path().join("policies.toml")
    }

    /// Puts a folder where the log was, and waits until that is noticed.
    pub(crate) async fn break_audit(&self) {
        let log = self.dir.path().join("audit.jsonl");
        std::fs::rename(&log, self.dir.path().join("aside")).unwrap();
        std::fs::create_dir(&log).unwrap();
        for _ in 0..1_000 {
            if !self.admin.audit.healthy() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the audit log did not notice");
    }

    /// Every record written so far.
    pub(crate) fn records(&self) -> Vec<Value> {
        self.admin.audit.close();
        let text = std::fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
