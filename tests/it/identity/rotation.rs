//! Keys that rotate while agents call: no valid call is refused, and none outlives its key.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::bad_tokens;
use super::providers::{call, now_secs, trusting};
use crate::support::harness::{Gateway, eventually};
use crate::support::issuer::{Issuer, SigningKey};

const CALLERS: usize = 4;
const CALLS_BETWEEN_STEPS: usize = 60;

/// Load: the caller, its current keys, and its results.
struct Load {
    gateway: Gateway,
    issuer: Issuer,
    signing: Mutex<Vec<Arc<SigningKey>>>,
    done: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    /// A token that was not seen before, or that was, by a key that is valid while `signing` has it.
    fn token(&self, n: usize, used: &mut Vec<(String, String)>) -> (String, String) {
        let signing = self.signing.lock().unwrap().clone();
        used.retain(|(id, _)| signing.iter().any(|key| key.id == *id));
        if n.is_multiple_of(3)
            && let Some(again) = used.get(n % used.len().max(1))
        {
            return again.clone();
        }
        let key = &signing[n % signing.len()];
        let mut claims =
            bad_tokens::claims(&self.issuer.origin, &self.gateway.agent.id, now_secs());
        claims["jti"] = json!(uuid::Uuid::new_v4().to_string());
        let fresh = (key.id.clone(), key.sign(algorithm(key), &claims));
        used.push(fresh.clone());
        fresh
    }

    async fn call_on(&self, session: &str, mut n: usize) {
        let mut used = Vec::new();
        while !self.stop.load(Ordering::SeqCst) {
            let (key, token) = self.token(n, &mut used);
            let answer = call(&self.gateway, session, &token).await;
            assert_eq!(answer.status, 200, "key {key}: {:?}", answer.json());
            self.done.fetch_add(1, Ordering::SeqCst);
            n += 1;
        }
    }

    /// Waits until so many more calls have been answered, and with them those under way now.
    async fn more_calls(&self) {
        let enough = self.done.load(Ordering::SeqCst) + CALLS_BETWEEN_STEPS;
        let reached =
            eventually(async || (self.done.load(Ordering::SeqCst) >= enough).then_some(()));
        reached.await.expect("calls go on");
    }

    /// Waits until a fetch that began after now has been put in force: the one after it has begun.
    async fn fetched_again(&self) {
        let enough = self.issuer.fetches("/jwks") + 2;
        let reached = eventually(async || (self.issuer.fetches("/jwks") >= enough).then_some(()));
        reached.await.expect("keys are fetched again and again");
    }
}

fn algorithm(key: &SigningKey) -> &'static str {
    match key.jwk()["kty"].as_str() {
        Some("RSA") => "RS256",
        Some("EC") => "ES256",
        _ => "EdDSA",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_load_without_a_refused_valid_call() {
    let keys: Vec<_> = [
        SigningKey::rsa("0"),
        SigningKey::p256("1"),
        SigningKey::ed25519("2"),
        SigningKey::rsa("3"),
    ]
    .map(Arc::new)
    .into();
    let issuer = Issuer::start().await;
    issuer.publish(&[&keys[0]]);
    let trusted =
        json!([{"name": "test", "issuer_url": issuer.origin, "jwks_uri": issuer.jwks_uri()}]);
    let setup = trusting(&trusted).with("oauth.jwks_cache_ttl_secs", 1);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({"call_budget": 1_000_000})).await;
    let first = Mutex::new(vec![Arc::clone(&keys[0])]);
    let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let load = Arc::new(Load { gateway, issuer, signing: first, done, stop });

    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            let (load, session) = (Arc::clone(&load), session.clone());
            tokio::spawn(async move { load.call_on(&session, n).await })
        })
        .collect();
    load.more_calls().await;
    for (round, (old, new)) in keys.iter().zip(&keys[1..]).enumerate() {
        load.issuer.publish(&[old, new]);
        // The first time the new key is used at once, and must be asked for; later it is known by
        // then, as half a minute has not passed.
        if round > 0 {
            load.fetched_again().await;
        }
        *load.signing.lock().unwrap() = vec![Arc::clone(old), Arc::clone(new)];
        load.more_calls().await;
        *load.signing.lock().unwrap() = vec![Arc::clone(new)];
        load.more_calls().await;
        load.issuer.publish(&[new]);
        load.fetched_again().await;
        let mut used = Vec::new();
        let claims = bad_tokens::claims(&load.issuer.origin, &load.gateway.agent.id, now_secs());
        let answer = call(&load.gateway, &session, &old.sign(algorithm(old), &claims)).await;
        assert_eq!((answer.status, &*answer.code()), (401, "TokenInvalid"), "its key is gone");
        assert_eq!(call(&load.gateway, &session, &load.token(1, &mut used).1).await.status, 200);
    }
    load.more_calls().await;
    load.stop.store(true, Ordering::SeqCst);
    for caller in callers {
        tokio::time::timeout(Duration::from_secs(20), caller).await.unwrap().unwrap();
    }
    let calls = load.done.load(Ordering::SeqCst);
    assert!(calls >= 10 * CALLS_BETWEEN_STEPS, "{calls}");
}

#[tokio::test]
async fn a_remembered_token_ends_with_its_key_and_with_its_time() {
    let (kept, leaving) = (SigningKey::p256("kept"), SigningKey::p256("leaving"));
    let issuer = Issuer::start().await;
    issuer.publish(&[&kept, &leaving]);
    let trusted =
        json!([{"name": "test", "issuer_url": issuer.origin, "jwks_uri": issuer.jwks_uri()}]);
    let gateway = Gateway::start(trusting(&trusted).with("oauth.jwks_cache_ttl_secs", 1)).await;
    let session = gateway.session(json!({})).await;
    let mut claims = bad_tokens::claims(&issuer.origin, &gateway.agent.id, now_secs());
    let ended = async |token: &str| {
        eventually(async || {
            let answer = call(&gateway, &session, token).await;
            (answer.status != 200).then(|| (answer.status, answer.code()))
        })
        .await
    };
    let lasting = kept.sign("ES256", &claims);
    let orphan = leaving.sign("ES256", &claims);
    for token in [&lasting, &orphan] {
        assert_eq!(call(&gateway, &session, token).await.status, 200);
    }
    issuer.publish(&[&kept]);
    assert_eq!(ended(&orphan).await, Some((401, "TokenInvalid".to_owned())));

    claims["exp"] = json!(now_secs() + 6);
    let short = kept.sign("ES256", &claims);
    assert_eq!(call(&gateway, &session, &short).await.status, 200);
    assert_eq!(ended(&short).await, Some((401, "TokenExpired".to_owned())));
    assert_eq!(call(&gateway, &session, &lasting).await.status, 200);
}
