//! Tokens that only their issuer can read: asked about, remembered for a while, never guessed.

use arbiter::config::{Introspection, Secret};
use arbiter::firewall::agent::AgentId;
use arbiter::identity::TokenError;
use serde_json::{Value, json};

use super::{AGENT, Bench};
use crate::support::harness::eventually;
use crate::support::issuer::{Issuer, SigningKey};

fn introspection(issuer: &Issuer) -> Introspection {
    Introspection {
        url: format!("{}/introspect", issuer.origin),
        client_id: "arbiter".to_owned(),
        client_secret: Secret::new("s:cret".to_owned()),
    }
}

fn active(bench: &Bench) -> Value {
    let mut answer = bench.claims();
    answer["active"] = json!(true);
    answer
}

#[tokio::test]
async fn opaque_tokens_are_asked_about_and_answers_kept_briefly() {
    let issuer = Issuer::start().await;
    let asked = introspection(&issuer);
    let bench = Bench::at(issuer, |settings| {
        settings.jwks_uri = None;
        settings.introspection = Some(asked);
    });
    assert_eq!(bench.verify("opaque-1").await, Err(TokenError::Inactive));
    bench.issuer.set_active("opaque-1", Some(active(&bench)));
    bench.pass_secs(4);
    assert_eq!(bench.verify("opaque-1").await, Err(TokenError::Inactive), "a no is kept");
    assert_eq!(bench.issuer.questions(), 1);
    bench.pass_secs(1);
    let who = bench.verify("opaque-1").await.unwrap();
    assert_eq!((&*who.subject, who.agent), ("user:alice", AgentId::parse(AGENT)));
    let credentials =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "arbiter:s%3Acret");
    assert_eq!(bench.issuer.credentials()[0], format!("Basic {credentials}"));

    bench.issuer.set_active("opaque-1", None);
    bench.pass_secs(59);
    assert!(bench.verify("opaque-1").await.is_ok(), "a yes is kept");
    assert_eq!(bench.issuer.questions(), 2);
    bench.pass_secs(1);
    assert_eq!(bench.verify("opaque-1").await, Err(TokenError::Inactive), "revoked at the issuer");
    assert_eq!(bench.fetches_of_keys_or_metadata(), 0);
}

impl Bench {
    fn fetches_of_keys_or_metadata(&self) -> usize {
        let paths = ["oauth-authorization-server", "openid-configuration"];
        let metadata = paths.map(|name| self.issuer.fetches(&format!("/.well-known/{name}")));
        self.key_fetches() + metadata.iter().sum::<usize>()
    }
}

#[tokio::test]
async fn an_opaque_token_counts_only_while_its_issuer_answers() {
    let issuer = Issuer::start().await;
    let asked = introspection(&issuer);
    let bench = Bench::at(issuer, |settings| {
        settings.jwks_uri = None;
        settings.introspection = Some(asked);
    });
    bench.issuer.set_active("opaque-1", Some(active(&bench)));
    bench.verify("opaque-1").await.unwrap();
    bench.issuer.set_down(true);
    assert_eq!(bench.verify("opaque-2").await, Err(TokenError::Unanswered));
    assert!(bench.verify("opaque-1").await.is_ok(), "remembered");
    bench.pass_secs(60);
    assert_eq!(bench.verify("opaque-1").await, Err(TokenError::Unanswered));
    bench.issuer.set_down(false);
    assert!(bench.verify("opaque-1").await.is_ok(), "an outage is not kept as a no");
    let mut short = active(&bench);
    short["exp"] = json!(bench.clock.now().wall.as_secs() + 10);
    bench.issuer.set_active("opaque-3", Some(short));
    bench.verify("opaque-3").await.unwrap();
    bench.pass_secs(10);
    assert_eq!(bench.verify("opaque-3").await, Err(TokenError::Expired));
}

#[tokio::test]
async fn an_issuer_with_keys_and_introspection_must_say_yes_twice() {
    let issuer = Issuer::start().await;
    let asked = introspection(&issuer);
    let bench = Bench::at(issuer, |settings| settings.introspection = Some(asked));
    let key = SigningKey::rsa("k");
    bench.issuer.publish(&[&key]);
    let (good, revoked, other) = (bench.fresh(&key), bench.fresh(&key), bench.fresh(&key));
    let forged = bench.fresh(&SigningKey::rsa("k"));
    bench.issuer.set_active(&good, Some(active(&bench)));
    bench.issuer.set_active(&forged, Some(active(&bench)));
    let mut someone_else = active(&bench);
    someone_else["sub"] = json!("user:mallory");
    bench.issuer.set_active(&other, Some(someone_else));
    assert!(bench.verify(&good).await.is_ok());
    assert_eq!(bench.verify(&revoked).await, Err(TokenError::Inactive));
    assert_eq!(bench.verify(&other).await, Err(TokenError::Claim("sub".into())));
    assert_eq!(bench.verify(&forged).await, Err(TokenError::Signature));
    bench.issuer.set_active(&good, None);
    bench.pass_secs(60);
    assert_eq!(bench.verify(&good).await, Err(TokenError::Inactive));
}

/// An issuer that is asked about every token, and answers when it is let.
async fn held_back() -> (Bench, std::sync::Arc<tokio::sync::Semaphore>) {
    let issuer = Issuer::start().await;
    let held = issuer.hold();
    let asked = introspection(&issuer);
    let bench = Bench::at(issuer, |settings| {
        settings.jwks_uri = None;
        settings.introspection = Some(asked);
    });
    (bench, held)
}

#[tokio::test]
async fn calls_with_the_same_new_token_share_one_question() {
    let (bench, held) = held_back().await;
    bench.issuer.set_active("opaque-1", Some(active(&bench)));
    let mut first = Box::pin(bench.verify("opaque-1"));
    assert!(futures::poll!(&mut first).is_pending(), "it waits for the issuer");
    drop(first);
    let same = futures::future::join_all((0..50).map(|_| bench.verify("opaque-1")));
    let other = bench.verify("opaque-2");
    let (same, other, ()) = futures::join!(same, other, async { held.add_permits(100) });
    assert!(same.iter().all(Result::is_ok), "though the one who asked first has gone");
    assert_eq!(other, Err(TokenError::Inactive));
    assert_eq!(bench.issuer.questions(), 2, "one for each token");
    assert!(bench.verify("opaque-1").await.is_ok());
    assert_eq!(bench.issuer.questions(), 2);
}

#[tokio::test]
async fn a_question_that_fails_fails_all_who_wait_and_admits_nobody() {
    let (bench, held) = held_back().await;
    bench.issuer.set_active("opaque-1", Some(active(&bench)));
    bench.issuer.set_down(true);
    let same = futures::future::join_all((0..50).map(|_| bench.verify("opaque-1")));
    let (same, ()) = futures::join!(same, async { held.add_permits(100) });
    assert!(same.iter().all(|result| *result == Err(TokenError::Unanswered)));
    assert_eq!(bench.issuer.fetches("/introspect"), 1);
    bench.issuer.set_down(false);
    assert!(bench.verify("opaque-1").await.is_ok(), "the next one asks again");
}

#[tokio::test]
async fn a_yes_can_count_longer_while_the_issuer_does_not_answer() {
    let issuer = Issuer::start().await;
    let asked = introspection(&issuer);
    let bench = Bench::at(issuer, |settings| {
        settings.jwks_uri = None;
        settings.introspection = Some(asked);
        settings.introspection_grace_secs = 120;
    });
    bench.issuer.set_active("opaque-1", Some(active(&bench)));
    bench.issuer.set_active("opaque-2", Some(active(&bench)));
    bench.verify("opaque-1").await.unwrap();
    bench.verify("opaque-2").await.unwrap();
    bench.issuer.set_down(true);
    bench.pass_secs(60);
    assert!(bench.verify("opaque-1").await.is_ok(), "believed");
    let asked = bench.issuer.fetches("/introspect");
    assert!(bench.verify("opaque-1").await.is_ok());
    assert_eq!(bench.issuer.fetches("/introspect"), asked, "not asked about with every call");
    assert_eq!(bench.verify("opaque-3").await, Err(TokenError::Unanswered), "never had a yes");
    bench.pass_secs(119);
    assert!(bench.verify("opaque-1").await.is_ok(), "for as long as was set");
    bench.pass_secs(1);
    assert_eq!(bench.verify("opaque-1").await, Err(TokenError::Unanswered));
    bench.issuer.set_down(false);
    assert!(bench.verify("opaque-1").await.is_ok());
    bench.issuer.set_active("opaque-2", None);
    assert_eq!(bench.verify("opaque-2").await, Err(TokenError::Inactive), "a no ends it");
    bench.issuer.set_down(true);
    assert_eq!(bench.verify("opaque-2").await, Err(TokenError::Inactive));
}

#[tokio::test]
async fn strangers_tokens_do_not_delay_those_that_had_a_yes() {
    let (bench, held) = held_back().await;
    bench.issuer.set_active("opaque-1", Some(active(&bench)));
    let (first, ()) = futures::join!(bench.verify("opaque-1"), async { held.add_permits(1) });
    first.unwrap();
    bench.pass_secs(60);
    let tokens: Vec<String> = (0..256).map(|n| format!("stranger-{n}")).collect();
    let mut waiting: Vec<_> = tokens.iter().map(|token| Box::pin(bench.verify(token))).collect();
    for question in &mut waiting {
        assert!(futures::poll!(question).is_pending());
    }
    let mut known = Box::pin(bench.verify("opaque-1"));
    assert!(futures::poll!(&mut known).is_pending());
    // The strangers' eight, and the one that is asked about again.
    let arrived = || async { (bench.issuer.fetches("/introspect") == 1 + 8 + 1).then_some(()) };
    eventually(arrived).await.expect("asked beside the strangers, not behind them");
    held.add_permits(9);
    assert!(known.await.is_ok());
    held.add_permits(1_000);
}

#[tokio::test]
async fn open_questions_are_bounded() {
    use futures::FutureExt as _;
    let (bench, held) = held_back().await;
    bench.issuer.set_active("in-time", Some(active(&bench)));
    let tokens: Vec<String> = (0..255).map(|n| format!("opaque-{n}")).collect();
    let mut waiting: Vec<_> = tokens.iter().map(|token| Box::pin(bench.verify(token))).collect();
    for question in &mut waiting {
        assert!(futures::poll!(question).is_pending());
    }
    let mut last = Box::pin(bench.verify("in-time"));
    assert!(futures::poll!(&mut last).is_pending());
    let late = bench.verify("too-late").now_or_never();
    assert_eq!(late, Some(Err(TokenError::Unanswered)), "refused without waiting");
    let mut again = Box::pin(bench.verify("in-time"));
    assert!(futures::poll!(&mut again).is_pending(), "an open question can be joined");
    held.add_permits(10_000);
    assert!(last.await.is_ok() && again.await.is_ok());
    for question in waiting {
        assert_eq!(question.await, Err(TokenError::Inactive));
    }
    assert_eq!(bench.verify("too-late").await, Err(TokenError::Inactive), "there is room again");
}
