//! Identity providers through the whole gateway: the way in, the way back to a token, the record.

use serde_json::{Value, json};

use super::bad_tokens::{self, AUDIENCE, Keys};
use crate::support::harness::{Answer, Gateway, SIGNING_SECRET, Setup, eventually, tool_call};
use crate::support::issuer::Issuer;
use crate::support::redis_server::Redis;

async fn gateway(issuer: &Issuer, policies: Option<&str>) -> Gateway {
    let issuers = json!([{
        "name": "test", "issuer_url": issuer.origin, "jwks_uri": issuer.jwks_uri(),
    }]);
    gateway_with(&issuers, policies).await
}

/// A gateway's settings that trust these issuers.
pub(crate) fn trusting(issuers: &Value) -> Setup {
    // More bad tokens than that come within a second here, and each one's own record is looked for.
    let mut setup = Setup::default()
        .with("oauth.resource", format!("\"{AUDIENCE}\""))
        .with("audit.max_unauthenticated_records_per_sec", "1000".to_owned());
    setup.env.push(("ARBITER_OAUTH__ISSUERS", issuers.to_string()));
    setup
}

async fn gateway_with(issuers: &Value, policies: Option<&str>) -> Gateway {
    let mut setup = trusting(issuers);
    if let Some(policies) = policies {
        setup = setup.policies(policies);
    }
    Gateway::start(setup).await
}

pub(crate) fn now_secs() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Calls a tool as the gateway's agent, with a token of the test's own.
pub(crate) async fn call(gateway: &Gateway, session: &str, token: &str) -> Answer {
    let request = gateway
        .client
        .post(format!("http://{}/", gateway.proxy))
        .header("authorization", format!("Bearer {token}"))
        .header("x-agent-id", &gateway.agent.id)
        .header("x-arbiter-session", session)
        .header("content-type", "application/json")
        .body(tool_call("read_file", json!({})));
    gateway.send(request).await
}

pub(crate) fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").expect("a challenge")
}

pub(crate) const METADATA_URL: &str =
    "https://mcp.example/.well-known/oauth-protected-resource/mcp";

#[tokio::test]
async fn a_provider_token_calls_a_tool_and_a_bad_one_is_refused_and_recorded() {
    let issuer = Issuer::start().await;
    let keys = Keys::generate();
    issuer.publish_jwks(&keys.published());
    let gateway = gateway(&issuer, None).await;
    let session = gateway.session(json!({})).await;
    let good = bad_tokens::claims(&issuer.origin, &gateway.agent.id, now_secs());
    for (key, algorithm) in [(&keys.rsa, "RS256"), (&keys.p256, "ES256"), (&keys.ed, "EdDSA")] {
        let answer = call(&gateway, &session, &key.sign(algorithm, &good)).await;
        assert_eq!(answer.status, 200, "{algorithm}: {:?}", answer.json());
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["principal"], "user:alice");
    }
    for seen in gateway.upstream.seen() {
        assert!(seen.headers.get("authorization").is_none(), "a token is never passed on");
    }
    let calls = gateway.upstream.calls();
    let mut asked = Vec::new();
    for (what, token) in bad_tokens::all(&keys, &good, SIGNING_SECRET.as_bytes()) {
        let answer = call(&gateway, &session, &token).await;
        assert_eq!(answer.status, 401, "{what}");
        let expected =
            format!("Bearer resource_metadata=\"{METADATA_URL}\", error=\"invalid_token\"");
        assert_eq!(challenge(&answer), expected, "{what}");
        assert!(matches!(&*answer.code(), "TokenInvalid" | "TokenExpired"), "{what}");
        asked.push(answer.request_id().to_owned());
    }
    assert!(asked.len() >= 60, "{}", asked.len());
    assert_eq!(gateway.upstream.calls(), calls, "none reached the upstream");
    for id in &asked {
        let record = gateway.record_of(id).await;
        assert_eq!(
            (&record["authorization_decision"], &record["failure_category"]),
            (&json!("deny"), &json!("governance"))
        );
    }
}

#[tokio::test]
async fn a_client_finds_the_issuer_and_the_scope_from_the_refusal_alone() {
    let issuer = Issuer::start().await;
    let keys = Keys::generate();
    issuer.publish_jwks(&keys.published());
    let policies = "[[policies]]\nid = \"all\"\neffect = \"allow\"\nallowed_tools = [\"*\"]\n\
                    [policies.principal_match]\nscopes = [\"files:write\"]\n";
    let gateway = gateway(&issuer, Some(policies)).await;
    let session = gateway.session(json!({})).await;

    let request = gateway.client.post(format!("http://{}/", gateway.proxy));
    let request = request.header("content-type", "application/json").body("{}");
    let answer = gateway.send(request).await;
    let wanted = format!("Bearer resource_metadata=\"{METADATA_URL}\", scope=\"files:write\"");
    assert_eq!((answer.status, challenge(&answer)), (401, &*wanted));

    let path = METADATA_URL.strip_prefix("https://mcp.example").unwrap();
    let metadata = gateway.client.get(format!("http://{}{path}", gateway.proxy));
    let metadata: Value = gateway.send(metadata).await.json();
    let expected = json!({
        "resource": AUDIENCE, "resource_name": "Arbiter",
        "authorization_servers": [issuer.origin], "bearer_methods_supported": ["header"],
        "scopes_supported": ["files:write"],
    });
    assert_eq!(metadata, expected);

    let mut claims = bad_tokens::claims(&issuer.origin, &gateway.agent.id, now_secs());
    let answer = call(&gateway, &session, &keys.rsa.sign("RS256", &claims)).await;
    let wanted = format!("{wanted}, error=\"insufficient_scope\"");
    assert_eq!((answer.status, &*answer.code()), (403, "InsufficientScope"));
    assert_eq!(challenge(&answer), wanted);
    claims["scope"] = json!("read files:write");
    let answer = call(&gateway, &session, &keys.rsa.sign("RS256", &claims)).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_unknown_agent_is_registered_only_where_the_issuer_may_and_up_to_its_cap() {
    let (open, closed) = (Issuer::start().await, Issuer::start().await);
    let keys = Keys::generate();
    open.publish(&[&keys.rsa]);
    closed.publish(&[&keys.rsa]);
    let gateway = gateway_with(
        &json!([
            {"name": "open", "issuer_url": open.origin, "jwks_uri": open.jwks_uri(),
             "auto_register": true, "auto_register_max": 2},
            {"name": "closed", "issuer_url": closed.origin, "jwks_uri": closed.jwks_uri()},
        ]),
        None,
    )
    .await;
    let session = gateway.session(json!({})).await;
    let code = async |issuer: &Issuer, agent: &str| {
        let token = keys.rsa.sign("RS256", &bad_tokens::claims(&issuer.origin, agent, now_secs()));
        let answer = call(&gateway, &session, &token).await;
        let flags = gateway.record_of(answer.request_id()).await["anomaly_flags"].clone();
        (answer.code(), flags.to_string().contains("auto_registered"))
    };
    let agents: Vec<_> = (0..3).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    let known = async |agent: &str| gateway.admin("GET", &format!("/agents/{agent}"), None).await;

    assert_eq!(code(&closed, &agents[0]).await, ("AgentUnknown".to_owned(), false));
    assert_eq!(known(&agents[0]).await.0, 404);
    let mut nameless = bad_tokens::claims(&open.origin, &agents[0], now_secs());
    nameless.as_object_mut().unwrap().remove("agent_id");
    let answer = call(&gateway, &session, &keys.rsa.sign("RS256", &nameless)).await;
    let message = answer.json()["error"]["message"].to_string();
    assert!(answer.code() == "AgentUnknown" && message.contains("`agent_id`"), "{message}");
    let record = gateway.record_of(answer.request_id()).await;
    assert_eq!(record["detail"]["claim"], "agent_id", "{record}");
    // The session is another agent's: registered, but no step further.
    for agent in &agents[..2] {
        assert_eq!(code(&open, agent).await, ("AgentMismatch".to_owned(), true));
        assert_eq!(code(&open, agent).await, ("AgentMismatch".to_owned(), false));
        let (status, body) = known(agent).await;
        assert_eq!((status, &body["trust_level"]), (200, &json!("untrusted")));
        assert_eq!((&body["owner"], &body["capabilities"]), (&json!("user:alice"), &json!([])));
    }
    assert_eq!(code(&open, &agents[2]).await, ("AgentUnknown".to_owned(), false), "over the cap");

    assert_eq!(gateway.admin("DELETE", &format!("/agents/{}", agents[0]), None).await.0, 200);
    assert_eq!(code(&open, &agents[0]).await, ("AgentInactive".to_owned(), false));
}

#[tokio::test]
async fn an_agent_that_was_deactivated_and_forgotten_is_not_registered_again() {
    const DAY_SECS: i64 = 86_400;
    let issuer = Issuer::start().await;
    let keys = Keys::generate();
    issuer.publish(&[&keys.rsa]);
    let issuers = json!([{
        "name": "open", "issuer_url": issuer.origin, "jwks_uri": issuer.jwks_uri(), "auto_register": true,
    }]);
    let redis = Redis::start();
    let setup = trusting(&issuers)
        .with("agents.retention_secs", DAY_SECS)
        .with("storage.backend", "\"redis\"")
        .with("storage.redis_url", format!("\"{}\"", redis.url()));
    let mut gateway = Gateway::start(setup).await;
    let code = async |gateway: &Gateway, agent: &str| {
        let claims = bad_tokens::claims(&issuer.origin, agent, now_secs());
        let session = uuid::Uuid::new_v4().to_string();
        call(gateway, &session, &keys.rsa.sign("RS256", &claims)).await.code()
    };
    let status = async |gateway: &Gateway, agent: &str| {
        gateway.admin("GET", &format!("/agents/{agent}"), None).await.0
    };
    let [ended, other] = [(); 2].map(|()| uuid::Uuid::new_v4().to_string());
    // There is no such session, but the agent is registered on the way.
    code(&gateway, &ended).await;
    assert_eq!(status(&gateway, &ended).await, 200);
    assert_eq!(gateway.admin("DELETE", &format!("/agents/{ended}"), None).await.0, 200);
    assert_eq!(code(&gateway, &ended).await, "AgentInactive");
    gateway.stop();

    // That was two days ago.
    let before_us = (now_secs() - 2 * DAY_SECS) * 1_000_000;
    let set = redis.ask(&["HSET", "{arbiter}:ended", &ended, &before_us.to_string()]);
    assert_eq!(set.trim(), "0", "the time was there before");
    gateway.start_again();
    let forgotten = eventually(|| async { (status(&gateway, &ended).await == 404).then_some(()) });
    forgotten.await.expect("an agent that ended two days ago is forgotten");
    assert_eq!(code(&gateway, &ended).await, "AgentInactive", "its id stays");
    assert_eq!(status(&gateway, &ended).await, 404);
    code(&gateway, &other).await;
    assert_eq!(status(&gateway, &other).await, 200, "others are registered as before");
}

#[tokio::test]
async fn a_revoked_provider_token_ends_with_the_next_call() {
    let issuer = Issuer::start().await;
    let keys = Keys::generate();
    issuer.publish(&[&keys.p256]);
    let gateway = gateway(&issuer, None).await;
    let session = gateway.session(json!({})).await;
    let jti = uuid::Uuid::new_v4().to_string();
    let mut claims = bad_tokens::claims(&issuer.origin, &gateway.agent.id, now_secs());
    claims["jti"] = json!(jti);
    let token = keys.p256.sign("ES256", &claims);
    assert_eq!(call(&gateway, &session, &token).await.status, 200);
    assert_eq!(gateway.admin("DELETE", &format!("/tokens/{jti}"), None).await.0, 200);
    let answer = call(&gateway, &session, &token).await;
    assert_eq!((answer.status, &*answer.code()), (401, "TokenInvalid"));
    claims["jti"] = json!(uuid::Uuid::new_v4().to_string());
    assert_eq!(call(&gateway, &session, &keys.p256.sign("ES256", &claims)).await.status, 200);
}

#[tokio::test]
async fn no_url_that_a_token_names_is_ever_fetched() {
    let (issuer, attacker) = (Issuer::start().await, Issuer::start().await);
    let keys = Keys::generate();
    issuer.publish_jwks(&keys.published());
    attacker.publish(&[&keys.attacker]);
    let metadata = json!({"issuer": attacker.origin, "jwks_uri": attacker.jwks_uri()});
    let places = [
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/jwks",
        "/certificate",
    ];
    for place in &places[..2] {
        attacker.serve_at(place, metadata.clone());
    }
    let gateway = gateway(&issuer, None).await;
    let session = gateway.session(json!({})).await;
    let good = bad_tokens::claims(&issuer.origin, &gateway.agent.id, now_secs());
    let mut foreign = good.clone();
    foreign["iss"] = json!(attacker.origin);
    let certificate = format!("{}/certificate", attacker.origin);
    for (header, claims) in [
        (json!({"alg": "RS256", "kid": "a", "jku": attacker.jwks_uri()}), &good),
        (json!({"alg": "RS256", "kid": "r", "jku": attacker.jwks_uri()}), &good),
        (json!({"alg": "RS256", "kid": "a", "x5u": certificate}), &good),
        (json!({"alg": "RS256", "kid": "a"}), &foreign),
        (json!({"alg": "RS256", "kid": attacker.jwks_uri()}), &good),
    ] {
        let token = keys.attacker.sign_raw("RS256", &header.to_string(), &claims.to_string());
        let answer = call(&gateway, &session, &token).await;
        assert_eq!((answer.status, &*answer.code()), (401, "TokenInvalid"), "{header}");
    }
    for place in places {
        assert_eq!(attacker.fetches(place), 0, "{place}");
    }
    let token = keys.rsa.sign("RS256", &good);
    assert_eq!(call(&gateway, &session, &token).await.status, 200, "the control is good");
}

#[tokio::test]
async fn a_token_can_be_revoked_whatever_its_id_looks_like() {
    let issuer = Issuer::start().await;
    let keys = Keys::generate();
    issuer.publish(&[&keys.ed]);
    let gateway = gateway(&issuer, None).await;
    let session = gateway.session(json!({})).await;
    for (jti, in_path) in [
        ("trrtcc:0b7e", "trrtcc:0b7e"),
        ("https://idp.example/t/1?a=b#c", "https%3A%2F%2Fidp.example%2Ft%2F1%3Fa%3Db%23c"),
        ("a+b %41 \u{e9}", "a+b%20%2541%20%C3%A9"),
    ] {
        let mut claims = bad_tokens::claims(&issuer.origin, &gateway.agent.id, now_secs());
        claims["jti"] = json!(jti);
        let token = keys.ed.sign("EdDSA", &claims);
        assert_eq!(call(&gateway, &session, &token).await.status, 200, "{jti}");
        let (status, body) = gateway.admin("DELETE", &format!("/tokens/{in_path}"), None).await;
        assert_eq!((status, &body["jti"]), (200, &json!(jti)), "{body}");
        let answer = call(&gateway, &session, &token).await;
        assert_eq!((answer.status, &*answer.code()), (401, "TokenInvalid"), "{jti}");
    }
}

#[tokio::test]
async fn metadata_lies_at_the_root_and_under_the_path_of_the_resource() {
    let issuer = Issuer::start().await;
    let trusted = json!([{
        "name": "test", "issuer_url": issuer.origin, "jwks_uri": issuer.jwks_uri(),
        "audiences": [AUDIENCE],
    }]);
    let root = "/.well-known/oauth-protected-resource";
    for (named, at_root, under_git) in [
        (true, AUDIENCE, "https://mcp.example/git/mcp"),
        (false, "http://HOST/", "http://HOST/git/mcp"),
    ] {
        let mut setup = trusting(&trusted);
        if !named {
            setup = setup.with("oauth.resource", "-");
        }
        let gateway = Gateway::start(setup).await;
        let get = async |path: &str| {
            let url = format!("http://{}{path}", gateway.proxy);
            gateway.send(gateway.client.get(url)).await
        };
        for (path, resource) in [("", at_root), ("/", at_root), ("/git/mcp", under_git)] {
            let metadata = get(&format!("{root}{path}")).await;
            assert_eq!(metadata.header("content-type"), Some("application/json"));
            let metadata = metadata.json();
            let resource = resource.replace("HOST", &gateway.proxy);
            assert_eq!(metadata["resource"], json!(resource), "{path}");
            assert_eq!(metadata["authorization_servers"], json!([issuer.origin]), "{path}");
        }
        assert_eq!(
            get(&format!("{root}-of-others")).await.status,
            405,
            "not a name that begins so"
        );
        let bare = gateway.client.post(format!("http://{}/git/mcp", gateway.proxy));
        let answer = gateway.send(bare.header("content-type", "application/json").body("{}")).await;
        let origin = if named {
            "https://mcp.example".to_owned()
        } else {
            format!("http://{}", gateway.proxy)
        };
        let place = format!("{origin}{root}/git/mcp");
        assert_eq!(challenge(&answer), format!("Bearer resource_metadata=\"{place}\""));
        assert_eq!(gateway.upstream.calls(), 0);
    }
}
