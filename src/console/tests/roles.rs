//! Roles on the pages: acts that a role may not do are neither shown nor accepted, and every act is
//! on record like the API's.

use serde_json::json;

use super::*;

const VIEWER: &str = "the key of a viewer";
const OPERATOR: &str = "the key of an operator";
const APPROVER: &str = "the key of an approver";
const SESSIONS: &str = "the key of an orchestrator";
const METRICS: &str = "the key of a scraper";

fn entry(role: &str, key: &str, more: &str) -> String {
    let hash = blake3::hash(key.as_bytes());
    format!(
        "[[admin.keys]]\nname = \"{role}\"\nrole = \"{role}\"\nkey_hash = \"blake3:{hash}\"\n{more}\n"
    )
}

async fn visitor() -> Visitor {
    let keys = [
        entry("viewer", VIEWER, ""),
        entry("operator", OPERATOR, "rate_limit_per_minute = 3"),
        entry("approver", APPROVER, ""),
        entry("sessions", SESSIONS, "owners = [\"*\"]"),
        entry("metrics", METRICS, ""),
    ];
    let toml = format!("[admin]\nrate_limit_per_minute = 100000\n{}", keys.concat());
    Visitor::with(Bench::with(&toml).await, false)
}

impl Visitor {
    async fn as_role(&mut self, key: &str) {
        self.cookies.clear();
        assert_eq!(self.sign_in(&key.replace(' ', "+")).await.status, 303, "{key}");
    }
}

#[tokio::test]
async fn acts_are_shown_and_accepted_by_role() {
    let mut visitor = visitor().await;
    let agent = visitor.bench.agent(&["read"]).await;
    let session =
        visitor.bench.session(&agent).await.body["session_id"].as_str().unwrap().to_owned();
    let agent_page = format!("/console/agents/{agent}");
    let session_page = format!("/console/sessions/{session}");
    for (key, may) in [(VIEWER, false), (APPROVER, false), (OPERATOR, true)] {
        visitor.as_role(key).await;
        let page = visitor.get(&agent_page).await.text;
        assert_eq!(page.contains("/deactivate\""), may, "{key}");
        assert_eq!(page.contains("/trust\""), may, "{key}");
        let page = visitor.get(&session_page).await.text;
        assert_eq!(page.contains("/close\""), may, "{key}");
    }
    visitor.as_role(VIEWER).await;
    for (path, fields) in [
        (format!("{agent_page}/deactivate"), "sure=yes"),
        (format!("{agent_page}/trust"), "trust_level=trusted"),
        (format!("{session_page}/close"), ""),
        ("/console/policies/reload".to_owned(), ""),
        ("/console/freezes".to_owned(), "scope=all&reason=x"),
        (format!("/console/approvals/{}", uuid::Uuid::new_v4()), "decision=approve"),
    ] {
        let told = visitor.post(&path, fields).await;
        assert_eq!(told.status, 403, "{path}: {}", told.text);
    }
    visitor.as_role(OPERATOR).await;
    let told = visitor.post(&format!("{agent_page}/deactivate"), "").await;
    assert_eq!(told.status, 400, "without the tick");
    let told = visitor.post(&format!("{agent_page}/deactivate"), "sure=yes").await;
    assert_eq!(told.location(), format!("{agent_page}?done=deactivated"), "{}", told.text);
    assert!(visitor.get(&session_page).await.text.contains(">closed<"));
    let records = visitor.bench.records();
    let of = |event: &str, by: &str| {
        records.iter().filter(|r| r["event"] == event && r["principal"] == by).count()
    };
    assert_eq!((of("admin.forbidden", "viewer"), of("agent.deactivate", "operator")), (6, 1));
    assert!(of("console.sign_in", "viewer") > 0);
}

#[tokio::test]
async fn acts_count_as_calls_of_the_api() {
    let mut visitor = visitor().await;
    visitor.as_role(OPERATOR).await;
    for _ in 0..3 {
        assert_eq!(visitor.post("/console/policies/reload", "").await.status, 303);
    }
    assert_eq!(visitor.post("/console/policies/reload", "").await.status, 429);
    assert_eq!(visitor.get("/console/policies").await.status, 200, "pages do not");
}

#[tokio::test]
async fn a_role_sees_the_pages_that_it_may() {
    let mut visitor = visitor().await;
    visitor.as_role(SESSIONS).await;
    let page = visitor.get("/console").await;
    assert!(page.text.contains("<h1>Sessions</h1>"), "{}", page.text);
    assert!(!page.text.contains("href=\"/console/agents\""));
    for place in ["live", "agents", "approvals", "policies", "audit", "health"] {
        assert_eq!(visitor.get(&format!("/console/{place}")).await.status, 403, "{place}");
    }
    assert_eq!(visitor.get("/console/events?topic=live").await.status, 403);
    visitor.cookies.clear();
    let told = visitor.sign_in(&METRICS.replace(' ', "+")).await;
    assert_eq!(told.status, 403, "no page for this role");
}

#[tokio::test]
async fn a_browser_is_signed_out_when_its_key_goes() {
    let mut visitor = visitor().await;
    visitor.as_role(VIEWER).await;
    assert_eq!(visitor.get("/console").await.status, 200);
    let env = [
        ("ARBITER_ADMIN_API_KEY", KEY),
        ("ARBITER_SIGNING_SECRET", "0123456789abcdef0123456789abcdef"),
    ];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_toml(&entry("operator", VIEWER, ""), env).unwrap();
    let keys = &visitor.bench.admin.keys;
    keys.put(keys.read(&config.admin));
    assert_eq!(visitor.get("/console").await.status, 303, "the key has another role");
}

#[tokio::test]
async fn a_freeze_is_set_and_lifted_on_the_health_page() {
    let mut visitor = visitor().await;
    visitor.as_role(KEY).await;
    let told = visitor.post("/console/freezes", "scope=tool&value=rm&reason=incident").await;
    assert_eq!(told.location(), "/console/health?done=frozen#freezes", "{}", told.text);
    let page = visitor.get("/console/health").await.text;
    let (_, rest) = page.split_once("/console/freezes/").unwrap();
    let id = rest.split('/').next().unwrap().to_owned();
    assert!(page.contains("incident"));
    let told = visitor.post(&format!("/console/freezes/{id}/lift"), "").await;
    assert_eq!(told.location(), "/console/health?done=lifted#freezes", "{}", told.text);
    assert_eq!(json!(visitor.bench.admin.freezer.list(visitor.bench.admin.clock.now()).len()), 0);
}
