//! Validates token introspection responses (RFC 7662).
//!
//! No answer is a no. A yes holds for [`YES_SECS`] at most, so a token that was revoked at its
//! issuer ends within that time; a no is kept briefly, so that repeating a bad token does not
//! burden the issuer. The memory is bounded.

use blake3::Hash;
use tokio::runtime::Handle;

use super::TokenError;
use super::claims::{self, Terms};
use super::fetch::{FetchError, Fetcher};
use super::jwt::malformed;
use super::questions::{Lane, Questions};
use super::remembered::Remembered;
use crate::config;
use crate::firewall::agent::Principal;
use crate::firewall::time::{Mono, Now};
use crate::json::{Doc, Kind, Value};

/// Time for which a positive answer is cached.
pub(crate) const YES_SECS: u64 = 60;

/// Time for which a negative answer is cached.
pub(crate) const NO_SECS: u64 = 5;

/// Refused tokens remembered, in each of two generations.
const REFUSED: usize = 8_192;

/// Asks one issuer and judges what it says.
pub(crate) struct Introspector {
    questions: Questions,
    refused: Remembered<Mono>,
}

impl Introspector {
    pub(crate) fn new(
        name: String,
        settings: &config::Introspection,
        fetcher: Fetcher,
        runtime: Handle,
    ) -> Self {
        Self {
            questions: Questions::new(name, settings, fetcher, runtime),
            refused: Remembered::new(REFUSED),
        }
    }

    /// Asks about a token that nobody has.
    pub(crate) async fn try_out(&self) -> Result<(), FetchError> {
        self.questions.try_out().await
    }

    /// Returns the principal of a token as its issuer reports it now.
    pub(crate) async fn ask(
        &self,
        (token, hash): (&str, &Hash),
        lane: Lane,
        terms: &Terms,
        now: Now,
    ) -> Result<Principal, TokenError> {
        if self.refused.get(hash).is_some_and(|until| now.mono < until) {
            return Err(TokenError::Inactive);
        }
        let answer = self.questions.ask(token, hash, lane, now.mono).await?;
        let judged = principal_of(&answer, terms, now);
        if judged.is_err() {
            self.refused.insert(*hash, now.mono.plus_secs(NO_SECS));
        }
        judged
    }
}

fn principal_of(answer: &[u8], terms: &Terms, now: Now) -> Result<Principal, TokenError> {
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
    claims::principal(answer, terms, claims::ISSUED_SUBJECT, expires_at, now.wall)
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
        principal_of(answer.as_bytes(), &terms, now).map(|who| who.expires_at)
    }

    #[test]
    fn only_a_whole_yes_is_a_yes() {
        assert_eq!(
            judged(r#"{"active":true,"sub":"u","aud":"us","token_type":"bearer"}"#),
            Ok(Timestamp::from_secs(NOW + 60)),
            "without an end it holds for a minute"
        );
        assert!(judged(r#"{"active":true,"client_id":"c","aud":"us"}"#).is_ok(), "a program's own");
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
            (r#"{"active":true,"aud":"us"}"#.to_owned(), claims::wrong("sub")),
            (
                r#"{"active":true,"sub":7,"client_id":"c","aud":"us"}"#.to_owned(),
                claims::wrong("sub"),
            ),
            (r#"{"active":true,"sub":"u","aud":"us","iss":"x"}"#.to_owned(), TokenError::Issuer),
            (r#"{"active":true,"sub":"u","aud":"us","exp":1}"#.to_owned(), TokenError::Expired),
        ] {
            assert_eq!(judged(&answer), Err(error), "{answer}");
        }
    }
}
