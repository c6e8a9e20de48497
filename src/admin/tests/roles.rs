//! Every endpoint asked with every role, and what a key that leaked can do.

use std::collections::BTreeMap;

use super::*;
use crate::admin::access::Access;
use crate::admin::endpoint::{self, Method};
use crate::admin::routes::ROUTES;
use crate::config::Role;

fn key_of(role: Role) -> String {
    format!("the key of the {}", role.as_str())
}

/// An entry for a key of this role, and what else it says.
fn entry(role: Role, more: &str) -> String {
    let (name, hash) = (role.as_str(), blake3::hash(key_of(role).as_bytes()));
    let name = if role == Role::Admin { "root" } else { name };
    let role = role.as_str();
    format!(
        "[[admin.keys]]\nname = \"{name}\"\nrole = \"{role}\"\nkey_hash = \"blake3:{hash}\"\n{more}\n"
    )
}

fn all_roles() -> String {
    let mut toml =
        "[admin]\nrate_limit_per_minute = 100000\n[metrics]\nrequire_auth = true\n".to_owned();
    for role in Role::ALL {
        let more = if role == Role::Sessions { "owners = [\"user:alice\"]" } else { "" };
        toml.push_str(&entry(role, more));
    }
    toml
}

async fn ask(bench: &Bench, role: Role, method: &str, path: &str, body: Option<Value>) -> Told {
    let mut request = Request::builder().method(method).uri(path).header("x-api-key", key_of(role));
    let body = match body {
        Some(body) => {
            request = request.header(CONTENT_TYPE, "application/json");
            Body::from(body.to_string())
        }
        None => Body::empty(),
    };
    bench.send(request.body(body).unwrap()).await
}

/// Roles that may use each endpoint, as an operator would write them down: `v` viewer, `m` metrics,
/// `s` sessions, `o` operator, `p` approver, `a` admin.
const TABLE: &str = "
    POST /agents                     s o a
    GET /agents                      v o p a
    GET /agents/{id}                 v o p a
    DELETE /agents/{id}              o a
    PUT /agents/{id}/trust           o a
    POST /agents/{id}/delegate       o a
    GET /agents/{id}/delegations     v o p a
    DELETE /delegations/{id}         o a
    POST /agents/{id}/token          s o a
    POST /agents/tokens              o a
    DELETE /tokens/{jti}             o a
    POST /sessions                   s a
    GET /sessions                    v s o p a
    GET /sessions/{id}               v s o p a
    DELETE /sessions/{id}            s o a
    POST /policy/explain             v o p a
    POST /policy/validate            v o p a
    POST /policy/reload              o a
    GET /policy/schema               v o p a
    GET /audit/head                  v o p a
    GET /audit/checkpoint            v o p a
    GET /audit/records               v o p a
    GET /audit/proof/{request_id}    v o p a
    POST /audit/reopen               o a
    GET /approvals                   v o p a
    GET /approvals/{id}              v o p a
    POST /approvals/{id}             p a
    POST /freeze                     o a
    GET /freeze                      v o p a
    DELETE /freeze/{id}              a
    POST /storage/backup             a
    GET /metrics                     v m o p a
";

fn letter(role: Role) -> &'static str {
    match role {
        Role::Viewer => "v",
        Role::Metrics => "m",
        Role::Sessions => "s",
        Role::Operator => "o",
        Role::Approver => "p",
        Role::Admin => "a",
    }
}

#[tokio::test]
async fn every_endpoint_is_open_to_exactly_the_roles_that_need_it() {
    let mut wanted = BTreeMap::new();
    for line in TABLE.trim().lines() {
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let roles: Vec<_> = words.collect();
        assert!(wanted.insert(format!("{method} {path}"), roles).is_none(), "{line}");
    }
    let bench = Bench::with(&all_roles()).await;
    for route in ROUTES {
        let name = format!("{} {}", endpoint::verb(route.method), route.path);
        if route.access == Access::Open {
            assert!(!wanted.contains_key(&name), "{name}");
            continue;
        }
        let roles = wanted.remove(&name).unwrap_or_else(|| panic!("{name} is not in the table"));
        let path = route.path.replace("{id}", "7f3c2a10-1111-4222-8333-444455556666");
        let path = path.replace("{request_id}", "7f3c2a10-1111-4222-8333-444455556666");
        let path = path.replace("{jti}", "x");
        for role in Role::ALL {
            // An empty body is no body that any handler takes: only the guard is asked.
            let told = ask(&bench, role, endpoint::verb(route.method), &path, None).await;
            let may = roles.contains(&letter(role));
            assert_eq!(told.status != 403, may, "{name} as {}: {told:?}", role.as_str());
            assert_ne!(told.status, 401, "{name}");
            if !may {
                told.is(403, "Forbidden");
                let message = told.body["message"].as_str().unwrap();
                for role in Role::ALL.iter().filter(|role| roles.contains(&letter(**role))) {
                    assert!(message.contains(&format!("`{}`", role.as_str())), "{message}");
                }
            }
        }
        let told = bench.send(
            Request::builder()
                .method(endpoint::verb(route.method))
                .uri(&path)
                .body(Body::empty())
                .unwrap(),
        );
        told.await.is(401, "Unauthorized");
    }
    assert!(wanted.is_empty(), "no such endpoint: {wanted:?}");
}

#[tokio::test]
async fn the_rights_of_a_method_are_those_of_its_endpoint() {
    let bench = Bench::with(&all_roles()).await;
    let agent = bench.agent(&[]).await;
    let path = format!("/agents/{agent}");
    assert_eq!(ask(&bench, Role::Viewer, "GET", &path, None).await.status, 200);
    assert_eq!(ask(&bench, Role::Viewer, "HEAD", &path, None).await.status, 200);
    assert_eq!(ask(&bench, Role::Sessions, "HEAD", &path, None).await.status, 403);
    ask(&bench, Role::Viewer, "DELETE", &path, None).await.is(403, "Forbidden");
    ask(&bench, Role::Viewer, "PATCH", &path, None).await.is(405, "MethodNotAllowed");
    ask(&bench, Role::Metrics, "GET", "/nothing", None).await.is(404, "NotFound");
    assert!(
        bench.admin.agent(crate::firewall::agent::AgentId::parse(&agent).unwrap()).unwrap().active
    );
}

#[tokio::test]
async fn the_document_says_which_roles_may() {
    let document = crate::admin::openapi();
    for route in ROUTES {
        let verb = endpoint::verb(route.method).to_lowercase();
        let roles = &document["paths"][route.path][verb.as_str()]["x-arbiter-roles"];
        assert_eq!(roles.is_array(), route.access != Access::Open, "{}", route.path);
    }
    assert_eq!(
        document["paths"]["/sessions"]["post"]["x-arbiter-roles"],
        json!(["sessions", "admin"])
    );
    assert_eq!(ROUTES.iter().filter(|route| route.method == Method::Put).count(), 1);
}

/// The drill: a key of role `sessions` is in the wrong hands.
#[tokio::test]
async fn a_leaked_sessions_key_reaches_no_further_than_its_owners() {
    let bench = Bench::with(&all_roles()).await;
    let role = Role::Sessions;
    let register = |owner: &str, trust: &str| {
        Some(json!({"owner": owner, "model": "m", "trust_level": trust, "capabilities": ["read"]}))
    };
    let told = ask(&bench, role, "POST", "/agents", register("user:alice", "basic")).await;
    assert_eq!(told.status, 201, "{told:?}");
    let own = told.body["agent_id"].as_str().unwrap().to_owned();
    ask(&bench, role, "POST", "/agents", register("user:alice", "verified"))
        .await
        .is(403, "Forbidden");
    ask(&bench, role, "POST", "/agents", register("user:bob", "basic")).await.is(403, "Forbidden");
    let told = bench.post("/agents", register("user:bob", "trusted").unwrap()).await;
    let others = told.body["agent_id"].as_str().unwrap().to_owned();

    let open = |agent: &str| {
        Some(json!({"agent_id": agent, "declared_intent": "read", "authorized_tools": ["t"]}))
    };
    let told = ask(&bench, role, "POST", "/sessions", open(&own)).await;
    assert_eq!(told.status, 201, "{told:?}");
    let own_session = told.body["session_id"].as_str().unwrap().to_owned();
    ask(&bench, role, "POST", "/sessions", open(&others)).await.is(403, "Forbidden");
    let told = bench.post("/sessions", open(&others).unwrap()).await;
    let others_session = told.body["session_id"].as_str().unwrap().to_owned();

    let seen = ask(&bench, role, "GET", "/sessions", None).await;
    let ids: Vec<_> =
        seen.body["sessions"].as_array().unwrap().iter().map(|s| &s["session_id"]).collect();
    assert_eq!(ids, [&json!(own_session)]);
    assert_eq!(
        ask(&bench, role, "GET", &format!("/sessions/{own_session}"), None).await.status,
        200
    );
    for (method, path, body) in [
        ("GET", format!("/sessions/{others_session}"), None),
        ("DELETE", format!("/sessions/{others_session}"), None),
        ("POST", format!("/agents/{others}/token"), Some(json!({}))),
        ("PUT", format!("/agents/{own}/trust"), Some(json!({"trust_level": "trusted"}))),
        ("DELETE", format!("/agents/{own}"), None),
        (
            "POST",
            format!("/agents/{own}/delegate"),
            Some(json!({"to": others, "scopes": ["read"]})),
        ),
        ("POST", "/policy/reload".to_owned(), None),
        ("GET", "/agents".to_owned(), None),
        ("GET", "/audit/head".to_owned(), None),
    ] {
        ask(&bench, role, method, &path, body).await.is(403, "Forbidden");
    }
    assert_eq!(
        ask(&bench, role, "POST", &format!("/agents/{own}/token"), Some(json!({}))).await.status,
        200
    );
    assert_eq!(
        ask(&bench, role, "DELETE", &format!("/sessions/{own_session}"), None).await.status,
        200
    );
    assert_eq!(bench.get(&format!("/agents/{own}")).await.body["trust_level"], "basic");
    assert_eq!(bench.get(&format!("/sessions/{others_session}")).await.body["status"], "active");

    let metrics = bench.admin.metrics.render();
    let counted = r#"arbiter_admin_requests_total{key="sessions",outcome="forbidden"} 12"#;
    assert!(metrics.contains(counted), "{metrics}");
    let records = bench.records();
    let by_it: Vec<_> = records.iter().filter(|record| record["principal"] == "sessions").collect();
    let told = |event: &str, decision: &str| {
        by_it
            .iter()
            .filter(|r| r["event"] == event && r["authorization_decision"] == decision)
            .count()
    };
    assert_eq!(told("admin.forbidden", "deny"), 12);
    assert_eq!((told("agent.register", "allow"), told("session.open", "allow")), (1, 1));
    assert_eq!((told("token.issue", "allow"), told("session.close", "allow")), (1, 1));
    assert_eq!(by_it.len(), 16, "{by_it:?}");
    assert!(by_it.iter().all(|record| record["detail"]["role"] == "sessions"));
    assert!(by_it.iter().all(|record| record["client_addr"] == "0.0.0.0"));
    assert!(by_it.iter().all(|record| record["http_method"].is_string()), "{by_it:?}");
    assert!(by_it.iter().any(|record| record["path"] == "/agents/{id}/trust"), "{by_it:?}");
}

#[tokio::test]
async fn a_key_may_serve_every_owner_and_register_higher_trust() {
    let more = "owners = [\"*\"]\nmax_trust = \"verified\"";
    let bench = Bench::with(&entry(Role::Sessions, more)).await;
    for (owner, trust, status) in
        [("a", "verified", 201), ("b", "basic", 201), ("a", "trusted", 403)]
    {
        let body = json!({"owner": owner, "model": "m", "trust_level": trust});
        let told = ask(&bench, Role::Sessions, "POST", "/agents", Some(body)).await;
        assert_eq!(told.status, status, "{owner} {trust}");
    }
}

#[tokio::test]
async fn a_busy_key_keeps_no_other_key_waiting() {
    let bench = Bench::with(&all_roles()).await;
    let agent = bench.agent(&[]).await;
    let session = bench.session(&agent).await.body["session_id"].as_str().unwrap().to_owned();
    for n in 0..10_000 {
        assert_eq!(ask(&bench, Role::Viewer, "GET", "/audit/head", None).await.status, 200, "{n}");
    }
    let clock = Clock::system();
    let began = clock.mono();
    let told = ask(&bench, Role::Operator, "DELETE", &format!("/sessions/{session}"), None).await;
    assert_eq!(told.status, 200);
    let took_us = clock.mono().since(began);
    assert!(took_us < 100_000, "{took_us} us");
}
