//! Identity providers: good tokens of every kind, bad ones, rotation, outages, introspection.

mod introspection;

use std::sync::Arc;

use arbiter::clock::Clock;
use arbiter::config::{self, Oauth};
use arbiter::firewall::agent::{AgentId, Principal};
use arbiter::firewall::time::Timestamp;
use arbiter::identity::{Identity, TokenError};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::bad_tokens::{self, AUDIENCE, Keys};
use crate::support::issuer::{Issuer, SigningKey, b64};
use crate::testkit;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW_SECS: i64 = 1_800_000_000;
const AGENT: &str = "7f3c2a10-1111-4222-8333-444455556666";
const TTL_SECS: u64 = 300;

/// An issuer, a clock in the test's hand, and who trusts that issuer.
struct Bench {
    issuer: Issuer,
    clock: Clock,
    identity: Arc<Identity>,
}

fn settings(issuer: &Issuer) -> config::Issuer {
    config::Issuer {
        introspection_grace_secs: 0,
        name: "test".to_owned(),
        issuer_url: issuer.origin.clone(),
        jwks_uri: Some(issuer.jwks_uri()),
        audiences: vec!["https://first.example".to_owned(), AUDIENCE.to_owned()],
        allow_http: false,
        ca_file: None,
        agent_claim: "agent_id".to_owned(),
        groups_claim: "groups".to_owned(),
        introspection: None,
        auto_register: None,
    }
}

impl Bench {
    async fn start(adjust: impl FnOnce(&mut config::Issuer)) -> Self {
        Self::at(Issuer::start().await, adjust)
    }

    fn at(issuer: Issuer, adjust: impl FnOnce(&mut config::Issuer)) -> Self {
        let clock = Clock::manual(Timestamp::from_secs(NOW_SECS));
        let mut settings = settings(&issuer);
        adjust(&mut settings);
        let oauth =
            Oauth { jwks_cache_ttl_secs: TTL_SECS, resource: None, issuers: vec![settings] };
        let identity = Identity::with_issuers(SECRET, &oauth, &clock, &Handle::current()).unwrap();
        Self { issuer, clock, identity: Arc::new(identity) }
    }

    fn claims(&self) -> Value {
        let now_secs = self.clock.now().wall.as_secs();
        bad_tokens::claims(&self.issuer.origin, AGENT, now_secs)
    }

    /// A token that was not seen before.
    fn fresh(&self, key: &SigningKey) -> String {
        let mut claims = self.claims();
        claims["jti"] = json!(uuid::Uuid::new_v4().to_string());
        key.sign("RS256", &claims)
    }

    async fn verify(&self, token: &str) -> Result<Arc<Principal>, TokenError> {
        self.identity.verify(token, self.clock.now()).await
    }

    fn pass_secs(&self, secs: u64) {
        self.clock.advance_us(secs * 1_000_000);
    }

    /// Waits for the end of the fetch that is under way.
    async fn settled(&self, stranger: &SigningKey) {
        assert!(self.verify(&self.fresh(stranger)).await.is_err());
    }

    fn key_fetches(&self) -> usize {
        self.issuer.fetches("/jwks")
    }
}

#[tokio::test]
async fn tokens_of_every_kind_of_key_prove_their_principal() {
    let bench = Bench::start(|_| {}).await;
    let keys = Keys::generate();
    bench.issuer.publish_jwks(&keys.published());
    let mut claims = bench.claims();
    claims["aud"] = json!(["https://other.example", AUDIENCE]);
    for (key, algorithms) in [
        (&keys.rsa, &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
        (&keys.pinned, &["RS256"]),
        (&keys.p256, &["ES256"]),
        (&keys.p384, &["ES384"]),
        (&keys.ed, &["EdDSA", "Ed25519"]),
    ] {
        for algorithm in algorithms {
            let token = key.sign(algorithm, &claims);
            assert!(bench.identity.remembered(&token, bench.clock.now()).is_none());
            let who = bench.verify(&token).await.unwrap_or_else(|e| panic!("{algorithm}: {e}"));
            assert_eq!((&*who.subject, who.agent), ("user:alice", AgentId::parse(AGENT)));
            assert_eq!(
                (&who.groups[..], &who.scopes[..]),
                (&["ops".into()][..], &["read".into()][..])
            );
            assert_eq!(who.issuer, bench.issuer.origin);
            assert!(bench.identity.remembered(&token, bench.clock.now()).unwrap().is_ok());
        }
    }
    let header = r#"{"alg":"EdDSA"}"#;
    let token = keys.ed.sign_raw("EdDSA", header, &claims.to_string());
    assert!(bench.verify(&token).await.is_ok(), "no key id is needed where one key would do");
    assert_eq!(bench.key_fetches(), 1);
}

#[tokio::test]
async fn no_bad_token_proves_anything() {
    let bench = Bench::start(|_| {}).await;
    let keys = Keys::generate();
    bench.issuer.publish_jwks(&keys.published());
    let good = bench.claims();
    bench.verify(&keys.rsa.sign("RS256", &good)).await.expect("the control is good");
    let bad = bad_tokens::all(&keys, &good, SECRET);
    assert!(bad.len() >= 60, "{}", bad.len());
    for (what, token) in &bad {
        let error = bench.verify(token).await.expect_err(what);
        assert!(!error.is_passing(), "{what}: {error}");
        let again = bench.verify(token).await.expect_err(what);
        assert!(!again.is_passing(), "{what}: {again}");
    }
    assert!(bench.key_fetches() <= 2, "bad tokens cost the issuer one fetch in half a minute");
}

#[tokio::test]
async fn a_new_key_counts_from_the_first_call_and_an_old_one_ends_with_its_set() {
    let bench = Bench::start(|_| {}).await;
    let (old, new, stranger) =
        (SigningKey::rsa("old"), SigningKey::rsa("new"), SigningKey::rsa("x"));
    bench.issuer.publish(&[&old]);
    let used = bench.fresh(&old);
    bench.verify(&used).await.unwrap();
    bench.issuer.publish(&[&old, &new]);
    bench.verify(&bench.fresh(&new)).await.unwrap();
    assert_eq!(bench.key_fetches(), 2, "one fetch finds the new key");
    assert!(bench.verify(&used).await.is_ok(), "the old key is still in the set");

    bench.issuer.publish(&[&new]);
    bench.pass_secs(TTL_SECS);
    assert!(bench.identity.remembered(&used, bench.clock.now()).unwrap().is_ok(), "served stale");
    bench.settled(&stranger).await;
    assert_eq!(bench.key_fetches(), 4, "one for the remembered token, one for the unknown key");
    assert!(bench.identity.remembered(&used, bench.clock.now()).is_none(), "forgotten");
    assert_eq!(bench.verify(&used).await, Err(TokenError::Key));
    assert!(bench.verify(&bench.fresh(&new)).await.is_ok());

    bench.issuer.publish(&[&SigningKey::rsa("new")]);
    bench.pass_secs(TTL_SECS);
    let replaced = bench.fresh(&new);
    assert!(bench.verify(&replaced).await.is_ok(), "served stale");
    bench.settled(&stranger).await;
    assert_eq!(bench.verify(&replaced).await, Err(TokenError::Signature), "same id, other key");
}

#[tokio::test]
async fn a_key_without_an_id_can_be_replaced() {
    let bench = Bench::start(|_| {}).await;
    let anonymous = |key: &SigningKey| {
        let mut jwk = key.jwk();
        jwk.as_object_mut().unwrap().remove("kid");
        jwk
    };
    let sign =
        |key: &SigningKey| key.sign_raw("RS256", r#"{"alg":"RS256"}"#, &bench.claims().to_string());
    let (old, new) = (SigningKey::rsa(""), SigningKey::rsa(""));
    bench.issuer.publish_jwks(&[anonymous(&old)]);
    bench.verify(&sign(&old)).await.unwrap();
    bench.issuer.publish_jwks(&[anonymous(&new)]);
    bench.verify(&sign(&new)).await.unwrap();
    assert_eq!(bench.verify(&sign(&old)).await, Err(TokenError::Signature));
}

#[tokio::test]
async fn an_issuer_that_is_down_for_ten_minutes_changes_nothing_for_known_keys() {
    let bench = Bench::start(|_| {}).await;
    let (key, unknown) = (SigningKey::rsa("k"), SigningKey::rsa("x"));
    bench.issuer.publish(&[&key]);
    let used = bench.fresh(&key);
    bench.verify(&used).await.unwrap();
    bench.issuer.set_down(true);
    for _ in 0..20 {
        bench.pass_secs(30);
        assert!(bench.identity.remembered(&used, bench.clock.now()).unwrap().is_ok());
        assert!(bench.verify(&bench.fresh(&key)).await.is_ok(), "never seen, known key");
        let new = bench.verify(&bench.fresh(&unknown)).await;
        assert_eq!(new, Err(TokenError::Unanswered), "it may be good, and nobody can tell");
    }
    assert!(bench.key_fetches() > 2, "it was asked again and again");
    bench.issuer.set_down(false);
    bench.issuer.publish(&[&unknown]);
    bench.pass_secs(30);
    assert!(bench.verify(&bench.fresh(&unknown)).await.is_ok(), "back, with another key");
    assert_eq!(bench.verify(&used).await, Err(TokenError::Key));
}

#[tokio::test]
async fn an_issuer_says_for_how_long_its_keys_are_fresh() {
    for (said_secs, kept_secs) in [(120, 120), (5, 30), (86_400, TTL_SECS), (0, TTL_SECS)] {
        let issuer = Issuer::start().await;
        issuer.set_max_age(said_secs);
        let (key, next) = (SigningKey::ed25519("k"), SigningKey::ed25519("next"));
        issuer.publish(&[&key]);
        let bench = Bench::at(issuer, |_| {});
        let call = async |key: &SigningKey| bench.verify(&key.sign("EdDSA", &bench.claims())).await;
        call(&key).await.unwrap();
        bench.issuer.publish(&[&key, &next]);
        bench.pass_secs(kept_secs - 1);
        call(&key).await.unwrap();
        assert_eq!(bench.key_fetches(), 1, "{said_secs} s: still fresh");
        bench.pass_secs(1);
        // Known keys never wait: this one only starts the fetch, which the next one may wait for.
        bench.identity.remembered(&key.sign("EdDSA", &bench.claims()), bench.clock.now());
        call(&key).await.unwrap();
        call(&next).await.unwrap();
        assert_eq!(bench.key_fetches(), 2, "{said_secs} s: fetched because it has aged");
    }
}

#[tokio::test]
async fn an_issuer_that_was_never_reached_delays_nobody_else() {
    let issuer = Issuer::start().await;
    let key = SigningKey::rsa("k");
    issuer.set_down(true);
    let bench = Bench::at(issuer, |_| {});
    let token = bench.fresh(&key);
    let error = bench.verify(&token).await.unwrap_err();
    assert!(error.is_passing() && error == TokenError::NoKeys);
    let own = own_token();
    assert!(bench.verify(&own).await.is_ok());
    bench.issuer.publish(&[&key]);
    bench.issuer.set_down(false);
    bench.pass_secs(30);
    assert!(bench.verify(&token).await.is_ok());
}

fn own_token() -> String {
    let agent = testkit::agent(AgentId::parse(AGENT).unwrap());
    let secret = String::from_utf8(SECRET.to_vec()).unwrap();
    testkit::token(&secret, &agent, Timestamp::from_secs(NOW_SECS))
}

#[tokio::test]
async fn a_storm_of_unknown_keys_costs_one_fetch_in_half_a_minute() {
    let bench = Bench::start(|_| {}).await;
    let (key, unknown) = (SigningKey::rsa("k"), SigningKey::rsa("x"));
    bench.issuer.publish(&[&key]);
    bench.verify(&bench.fresh(&key)).await.unwrap();
    let tokens: Vec<String> = (0..50).map(|_| bench.fresh(&unknown)).collect();
    let storm_until = async |expected: TokenError| {
        let calls = tokens.iter().map(|token| bench.verify(token));
        for result in futures::future::join_all(calls).await {
            assert_eq!(result, Err(expected.clone()));
        }
    };
    let storm = async || storm_until(TokenError::Key).await;
    storm().await;
    storm().await;
    assert_eq!(bench.key_fetches(), 2);
    bench.pass_secs(29);
    storm().await;
    assert_eq!(bench.key_fetches(), 2);
    bench.pass_secs(1);
    storm().await;
    assert_eq!(bench.key_fetches(), 3);
    bench.issuer.set_down(true);
    bench.pass_secs(30);
    storm_until(TokenError::Unanswered).await;
    bench.pass_secs(29);
    storm_until(TokenError::Unanswered).await;
    assert_eq!(bench.key_fetches(), 4, "nor does an outage cost more");
}

#[tokio::test]
async fn one_fetch_serves_all_who_wait_and_outlives_who_asked() {
    let issuer = Issuer::start().await;
    let held = issuer.hold();
    let key = SigningKey::rsa("k");
    issuer.publish(&[&key]);
    let bench = Bench::at(issuer, |_| {});
    let gone = bench.fresh(&key);
    let mut first = Box::pin(bench.verify(&gone));
    assert!(futures::poll!(&mut first).is_pending(), "it waits for the issuer");
    drop(first);
    let tokens: Vec<String> = (0..50).map(|_| bench.fresh(&key)).collect();
    let calls = futures::future::join_all(tokens.iter().map(|token| bench.verify(token)));
    let (results, ()) = futures::join!(calls, async { held.add_permits(1) });
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(bench.key_fetches(), 1);
}

#[tokio::test]
async fn a_slow_issuer_makes_nobody_with_a_known_key_wait() {
    use futures::FutureExt as _;
    let bench = Bench::start(|_| {}).await;
    let key = SigningKey::rsa("k");
    bench.issuer.publish(&[&key]);
    bench.verify(&bench.fresh(&key)).await.unwrap();
    let _held = bench.issuer.hold();
    bench.pass_secs(TTL_SECS + 1);
    for _ in 0..3 {
        let token = bench.fresh(&key);
        assert!(bench.verify(&token).now_or_never().expect("no waiting").is_ok());
    }
}

#[tokio::test]
async fn a_document_that_is_no_key_set_changes_nothing() {
    let bench = Bench::start(|_| {}).await;
    let (key, stranger) = (SigningKey::rsa("k"), SigningKey::rsa("x"));
    bench.issuer.publish(&[&key]);
    bench.verify(&bench.fresh(&key)).await.unwrap();
    let elsewhere = Issuer::start().await;
    elsewhere.publish(&[&stranger]);
    for n in 0..4 {
        match n {
            0 => bench.issuer.serve_bytes_at("/jwks", 1024 * 1024 + 1),
            1 => bench.issuer.redirect("/jwks", &elsewhere.jwks_uri()),
            2 => bench.issuer.serve_at("/jwks", json!({"keys": vec![stranger.jwk(); 101]})),
            _ => bench.issuer.serve_at("/jwks", json!([stranger.jwk()])),
        }
        bench.pass_secs(TTL_SECS);
        let fetches = bench.key_fetches();
        bench.settled(&stranger).await;
        assert!(bench.key_fetches() > fetches);
        assert!(bench.verify(&bench.fresh(&key)).await.is_ok());
    }
    assert_eq!(elsewhere.fetches("/jwks"), 0, "a redirect to another origin is not followed");
    bench.issuer.redirect("/jwks", "/moved");
    bench.issuer.serve_at("/moved", json!({"keys": [stranger.jwk()]}));
    bench.pass_secs(TTL_SECS);
    assert!(bench.verify(&bench.fresh(&stranger)).await.is_ok(), "one within it is");
}

#[tokio::test]
async fn keys_are_found_through_the_issuers_metadata() {
    for (path, metadata) in [
        ("", "/.well-known/oauth-authorization-server"),
        ("", "/.well-known/openid-configuration"),
        ("/realms/a", "/.well-known/oauth-authorization-server/realms/a"),
        ("/realms/a", "/.well-known/openid-configuration/realms/a"),
        ("/realms/a", "/realms/a/.well-known/openid-configuration"),
    ] {
        let issuer = Issuer::start().await;
        let url = format!("{}{path}", issuer.origin);
        let key = SigningKey::rsa("k");
        issuer.publish(&[&key]);
        let document = json!({"issuer": url, "jwks_uri": issuer.jwks_uri()});
        issuer.serve_at(metadata, document);
        let bench = Bench::at(issuer, |settings| {
            settings.jwks_uri = None;
            settings.issuer_url.clone_from(&url);
        });
        let mut claims = bench.claims();
        claims["iss"] = json!(url);
        bench
            .verify(&key.sign("RS256", &claims))
            .await
            .unwrap_or_else(|e| panic!("{metadata}: {e}"));
    }
}

#[tokio::test]
async fn metadata_of_another_issuer_is_not_believed() {
    let issuer = Issuer::start().await;
    let key = SigningKey::rsa("k");
    issuer.publish(&[&key]);
    let document = json!({"issuer": "https://other.example", "jwks_uri": issuer.jwks_uri()});
    issuer.serve_at("/.well-known/openid-configuration", document);
    let bench = Bench::at(issuer, |settings| settings.jwks_uri = None);
    assert_eq!(bench.verify(&bench.fresh(&key)).await, Err(TokenError::NoKeys));
    assert_eq!(bench.key_fetches(), 0);
}

#[tokio::test]
async fn each_issuer_proves_its_own_tokens_only() {
    let (one, two) = (Issuer::start().await, Issuer::start().await);
    let (first, second) = (SigningKey::rsa("k"), SigningKey::rsa("k"));
    one.publish(&[&first]);
    two.publish(&[&second]);
    let clock = Clock::manual(Timestamp::from_secs(NOW_SECS));
    let issuers = vec![settings(&one), settings(&two)];
    let oauth = Oauth { jwks_cache_ttl_secs: TTL_SECS, resource: None, issuers };
    let identity = Identity::with_issuers(SECRET, &oauth, &clock, &Handle::current()).unwrap();
    let verify = async |issuer: &Issuer, key: &SigningKey| {
        let claims = bad_tokens::claims(&issuer.origin, AGENT, NOW_SECS);
        let verified = identity.verify(&key.sign("RS256", &claims), clock.now()).await;
        verified.map(|who| who.issuer.clone())
    };
    assert_eq!(verify(&one, &first).await, Ok(one.origin.clone()));
    assert_eq!(verify(&two, &second).await, Ok(two.origin.clone()));
    assert_eq!(verify(&one, &second).await, Err(TokenError::Signature));
    assert_eq!(verify(&two, &first).await, Err(TokenError::Signature));
}

#[tokio::test]
async fn keys_may_rotate_under_load_without_a_refused_call() {
    let bench = Bench::start(|_| {}).await;
    let mut keys = vec![SigningKey::rsa("0"), SigningKey::rsa("1")];
    bench.issuer.publish(&[&keys[0], &keys[1]]);
    for round in 2..5 {
        // A new key is published beside the old one; signing moves on; the oldest leaves.
        keys.push(SigningKey::ed25519(&round.to_string()));
        let published: Vec<_> = keys.iter().rev().take(2).collect();
        bench.issuer.publish(&published);
        bench.pass_secs(TTL_SECS);
        let calls = (0..40).map(|n| {
            let key = published[n % 2];
            let algorithm = if key.jwk()["kty"] == "RSA" { "RS256" } else { "EdDSA" };
            let mut claims = bench.claims();
            claims["jti"] = json!(format!("{round}-{n}"));
            key.sign(algorithm, &claims)
        });
        let tokens: Vec<_> = calls.collect();
        let results = futures::future::join_all(tokens.iter().map(|token| bench.verify(token)));
        for result in results.await {
            assert!(result.is_ok(), "round {round}: {result:?}");
        }
    }
}

#[test]
fn texts_are_encoded_as_tokens_have_them() {
    assert_eq!(b64([0xFB, 0xFF]), "-_8");
}

#[test]
fn known_tokens_count_even_when_nothing_can_be_fetched_any_more() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (bench, used) = runtime.block_on(async {
        let bench = Bench::start(|_| {}).await;
        let key = SigningKey::ed25519("k");
        bench.issuer.publish(&[&key]);
        let used = key.sign("EdDSA", &bench.claims());
        bench.verify(&used).await.unwrap();
        (bench, used)
    });
    // As while the program stops: control tasks have ended, calls are still being served.
    drop(runtime);
    bench.pass_secs(TTL_SECS);
    for _ in 0..2 {
        assert!(bench.identity.remembered(&used, bench.clock.now()).unwrap().is_ok());
    }
}
