//! Asking an issuer about a token (RFC 7662).
//!
//! No answer is a no. A yes holds for [`YES_SECS`] at most, so a token that was revoked at its
//! issuer ends within that time; a no is kept briefly, so that repeating a bad token does not
//! burden the issuer. How many questions may be open at once is bounded, and so is the memory.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blake3::Hash;
use http::HeaderValue;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::warn;

use super::TokenError;
use super::claims::{self, Terms};
use super::fetch::Fetcher;
use super::jwt::malformed;
use super::remembered::Remembered;
use crate::config;
use crate::firewall::agent::Principal;
use crate::firewall::time::{Mono, Now};
use crate::mcp::json::{Doc, Kind, Value};

/// How long a yes holds.
pub const YES_SECS: u64 = 60;

/// How long a no holds.
pub const NO_SECS: u64 = 5;

/// Refused tokens remembered, in each of two generations.
const REFUSED: usize = 8_192;

/// Questions to one issuer at a time.
const OPEN_QUESTIONS: usize = 32;

/// How long a call waits, its turn included.
const DEADLINE: Duration = Duration::from_secs(6);

/// Pause between two log lines about the same trouble.
const WARN_PAUSE_SECS: u64 = 30;

/// Asks one issuer.
pub struct Introspector {
    name: String,
    url: String,
    authorization: HeaderValue,
    fetcher: Fetcher,
    runtime: Handle,
    refused: Remembered<Mono>,
    turns: Arc<Semaphore>,
    warned: std::sync::Mutex<Option<Mono>>,
}

impl Introspector {
    pub fn new(
        name: String,
        settings: &config::Introspection,
        fetcher: Fetcher,
        runtime: Handle,
    ) -> Self {
        Self {
            name,
            url: settings.url.clone(),
            authorization: basic(&settings.client_id, settings.client_secret.expose()),
            fetcher,
            runtime,
            refused: Remembered::new(REFUSED),
            turns: Arc::new(Semaphore::new(OPEN_QUESTIONS)),
            warned: std::sync::Mutex::default(),
        }
    }

    /// Who a token speaks for, as its issuer says now.
    pub async fn ask(
        &self,
        token: &str,
        hash: &Hash,
        terms: &Terms,
        now: Now,
    ) -> Result<Principal, TokenError> {
        if self.refused.get(hash).is_some_and(|until| now.mono < until) {
            return Err(TokenError::Inactive);
        }
        let answer = self.answer(token, now).await?;
        let judged = judge(&answer, terms, now);
        if judged.is_err() {
            self.refused.insert(*hash, now.mono.plus_secs(NO_SECS));
        }
        judged
    }

    async fn answer(&self, token: &str, now: Now) -> Result<Vec<u8>, TokenError> {
        let form = format!("token={}&token_type_hint=access_token", encoded(token));
        let (turns, fetcher) = (Arc::clone(&self.turns), self.fetcher.clone());
        let (url, authorization) = (self.url.clone(), self.authorization.clone());
        // On the control runtime: connections must not depend on the thread that serves this call.
        let asked = self.runtime.spawn(async move {
            let whole = tokio::time::timeout(DEADLINE, async {
                let _turn = turns.acquire().await;
                fetcher.post_form(&url, authorization, form).await
            });
            match whole.await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_late) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
            }
        });
        let answered = asked.await.unwrap_or_else(|stopped| Err(stopped.to_string()));
        answered.map_err(|reason| {
            if self.may_warn(now.mono) {
                warn!(issuer = self.name, reason, "introspection failed; its tokens are refused");
            }
            TokenError::Unanswered
        })
    }

    /// Anybody can send tokens that cause questions, so trouble is logged now and then only.
    fn may_warn(&self, now: Mono) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = warned.is_none_or(|at| now.since(at) >= WARN_PAUSE_SECS * 1_000_000);
        if due {
            *warned = Some(now);
        }
        due
    }
}

fn judge(answer: &[u8], terms: &Terms, now: Now) -> Result<Principal, TokenError> {
    let doc = Doc::parse(answer).map_err(malformed)?;
    let answer = doc.root();
    let is_active = |value: Value<'_>| value.kind() == Kind::True;
    if !answer.get("active").is_some_and(is_active) {
        return Err(TokenError::Inactive);
    }
    if claims::text(answer, "iss")?.is_some_and(|issuer| issuer != terms.issuer) {
        return Err(TokenError::Issuer);
    }
    let kind = claims::text(answer, "token_type")?;
    if kind.is_some_and(|kind| {
        !kind.eq_ignore_ascii_case("bearer") && !kind.eq_ignore_ascii_case("access_token")
    }) {
        return Err(TokenError::Type);
    }
    let expires_at = match claims::expiry(answer)? {
        Some(secs) => secs,
        None => now.wall.plus_secs(YES_SECS).as_secs(),
    };
    claims::principal(answer, terms, expires_at, now.wall)
}

/// Client credentials as RFC 6749 section 2.3.1 writes them: each part encoded, then joined.
fn basic(client_id: &str, client_secret: &str) -> HeaderValue {
    let pair = format!("{}:{}", encoded(client_id), encoded(client_secret));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)))
        .unwrap_or_else(|_never| HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

/// Percent-encoded for a form; a space becomes `%20`, which every reader takes.
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _written = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::time::Timestamp;

    const NOW: i64 = 1_800_000_000;

    fn judged(answer: &str) -> Result<Timestamp, TokenError> {
        let terms = Terms {
            issuer: "https://i.example".to_owned(),
            audiences: Some(vec!["us".to_owned()]),
            agent_claim: "agent_id".to_owned(),
            groups_claim: "groups".to_owned(),
        };
        let now = Now { wall: Timestamp::from_secs(NOW), mono: Mono(0) };
        judge(answer.as_bytes(), &terms, now).map(|who| who.expires_at)
    }

    #[test]
    fn only_a_whole_yes_is_a_yes() {
        assert_eq!(
            judged(r#"{"active":true,"sub":"u","aud":"us","token_type":"bearer"}"#),
            Ok(Timestamp::from_secs(NOW + 60)),
            "without an end it holds for a minute"
        );
        let exp = NOW + 5;
        let good = format!(r#""sub":"u","aud":["us"],"iss":"https://i.example","exp":{exp}"#);
        assert_eq!(judged(&format!("{{\"active\":true,{good}}}")), Ok(Timestamp::from_secs(exp)));
        for (answer, error) in [
            (String::new(), TokenError::Malformed),
            ("true".to_owned(), TokenError::Inactive),
            (format!("{{{good}}}"), TokenError::Inactive),
            (format!("{{\"active\":false,{good}}}"), TokenError::Inactive),
            (format!("{{\"active\":\"true\",{good}}}"), TokenError::Inactive),
            (format!("{{\"active\":1,{good}}}"), TokenError::Inactive),
            (format!("{{\"active\":false,\"active\":true,{good}}}"), TokenError::Malformed),
            (format!("{{\"active\":true,\"token_type\":\"DPoP\",{good}}}"), TokenError::Type),
            (format!("{{\"active\":true,\"cnf\":{{}},{good}}}"), TokenError::Bound),
            (format!("{{\"active\":true,\"nbf\":{},{good}}}", NOW + 61), TokenError::NotYet),
            (r#"{"active":true,"sub":"u"}"#.to_owned(), TokenError::Audience),
            (r#"{"active":true,"aud":"us"}"#.to_owned(), TokenError::Claims),
            (r#"{"active":true,"sub":"u","aud":"us","iss":"x"}"#.to_owned(), TokenError::Issuer),
            (r#"{"active":true,"sub":"u","aud":"us","exp":1}"#.to_owned(), TokenError::Expired),
        ] {
            assert_eq!(judged(&answer), Err(error), "{answer}");
        }
    }

    #[test]
    fn credentials_with_odd_characters_reach_the_issuer_whole() {
        let value = basic("my client", "a:b&c+d");
        assert!(value.is_sensitive());
        let expected = format!("Basic {}", STANDARD.encode("my%20client:a%3Ab%26c%2Bd"));
        assert_eq!(value.to_str().unwrap(), expected);
    }
}
