//! Who is calling: from a bearer token to a principal that is proved.
//!
//! A token is looked at in this order: its size, its form (three strict base64url parts, strict JSON
//! in the first two, RFC 7515 and RFC 7519), the issuer it names, the one algorithm that this
//! issuer's key allows (never the token's own choice, RFC 8725 section 3.1), the signature, the
//! claims. No URL from a token is ever fetched. A token that passed is remembered by its hash until
//! it expires, so that its signature is checked once.

pub mod jwt;
pub mod mint;
pub mod remembered;

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey};

use crate::firewall::agent::{AgentId, Principal};
use crate::firewall::time::Timestamp;
use jwt::{Claims, Compact};
use remembered::Remembered;

/// Tokens longer than this are refused unread.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How far clocks may be apart, for `iat` and `nbf`.
const LEEWAY_SECS: i64 = 60;

/// The issuer named in tokens that Arbiter mints.
pub const OWN_ISSUER: &str = "arbiter";

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than 16 KiB")]
    TooLong,
    #[error("the token is not a well-formed JWT")]
    Malformed,
    #[error("the token's algorithm is not the one its issuer uses")]
    Algorithm,
    #[error("the token demands an extension that is not understood")]
    Critical,
    #[error("the token is of another type than an access token")]
    Type,
    #[error("the token's issuer is not trusted here")]
    Issuer,
    #[error("the token's signature does not match")]
    Signature,
    #[error("a claim is missing or of the wrong type")]
    Claims,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token has expired")]
    Expired,
}

/// Verifies tokens and remembers those that passed.
pub struct Identity {
    own_key: DecodingKey,
    remembered: Remembered,
}

impl Identity {
    pub fn new(signing_secret: &[u8]) -> Self {
        Self { own_key: DecodingKey::from_secret(signing_secret), remembered: Remembered::new() }
    }

    /// Proves who stands behind `token`.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<Principal>, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let key = blake3::hash(token.as_bytes());
        if let Some(principal) = self.remembered.get(&key) {
            return if now < principal.expires_at {
                Ok(principal)
            } else {
                Err(TokenError::Expired)
            };
        }
        let principal = Arc::new(self.verify_anew(token, now)?);
        self.remembered.insert(key, principal.clone());
        Ok(principal)
    }

    fn verify_anew(&self, token: &str, now: Timestamp) -> Result<Principal, TokenError> {
        let compact = Compact::split(token)?;
        compact.check_header()?;
        let claims = compact.claims()?;
        if claims.issuer != OWN_ISSUER {
            return Err(TokenError::Issuer);
        }
        if compact.algorithm != Algorithm::HS256 {
            return Err(TokenError::Algorithm);
        }
        compact.verify(&self.own_key)?;
        principal(claims, now)
    }
}

/// Judges the claims of a token whose signature has been checked.
fn principal(claims: Claims, now: Timestamp) -> Result<Principal, TokenError> {
    let now_secs = now.as_secs();
    let ahead = now_secs.saturating_add(LEEWAY_SECS);
    if claims.not_before.is_some_and(|t| t > ahead) || claims.issued_at.is_some_and(|t| t > ahead) {
        return Err(TokenError::NotYet);
    }
    if claims.expires_at <= now_secs {
        return Err(TokenError::Expired);
    }
    let agent = match claims.agent {
        Some(text) => Some(AgentId::parse(&text).ok_or(TokenError::Claims)?),
        None => return Err(TokenError::Claims),
    };
    Ok(Principal {
        subject: claims.subject.into(),
        groups: Vec::new(),
        scopes: Vec::new(),
        issuer: claims.issuer,
        agent,
        token_id: claims.token_id,
        expires_at: Timestamp::from_secs(claims.expires_at),
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, crypto};

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW: i64 = 1_800_000_000;
    const AGENT: &str = "7f3c2a10-1111-4222-8333-444455556666";

    fn token(header: &str, claims: &str, secret: &[u8]) -> String {
        let body = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let key = EncodingKey::from_secret(secret);
        let signature = crypto::sign(body.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{body}.{signature}")
    }

    fn claims(tail: &str) -> String {
        format!(r#"{{"iss":"arbiter","sub":"u","agent_id":"{AGENT}","jti":"j"{tail}}}"#)
    }

    fn check(token: &str, expected: Result<(), TokenError>) {
        let identity = Identity::new(SECRET);
        let now = Timestamp::from_secs(NOW);
        assert_eq!(identity.verify(token, now).map(|_| ()), expected, "{token}");
        assert_eq!(identity.verify(token, now).map(|_| ()), expected, "second time: {token}");
    }

    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    #[test]
    fn a_good_token_proves_its_agent() {
        let good = token(HEADER, &claims(&format!(r#","exp":{}"#, NOW + 5)), SECRET);
        check(&good, Ok(()));
        let identity = Identity::new(SECRET);
        let who = identity.verify(&good, Timestamp::from_secs(NOW)).unwrap();
        assert_eq!(who.agent, AgentId::parse(AGENT));
        assert_eq!(&*who.subject, "u");
        let later = Timestamp::from_secs(NOW + 5);
        assert_eq!(identity.verify(&good, later), Err(TokenError::Expired), "remembered or not");
    }

    #[test]
    fn bad_tokens_prove_nothing() {
        let fresh = claims(&format!(r#","exp":{}"#, NOW + 600));
        let signed = token(HEADER, &fresh, SECRET);
        check(
            &token(HEADER, &fresh, b"another secret of thirty-two byte"),
            Err(TokenError::Signature),
        );
        check(
            &token(HEADER, &claims(&format!(r#","exp":{}"#, NOW - 1)), SECRET),
            Err(TokenError::Expired),
        );
        check(&token(HEADER, &claims(""), SECRET), Err(TokenError::Claims));
        check(&token(HEADER, &claims(r#","exp":"1900000000""#), SECRET), Err(TokenError::Claims));
        check(
            &token(HEADER, &claims(&format!(r#","exp":{0},"nbf":{0}"#, NOW + 600)), SECRET),
            Err(TokenError::NotYet),
        );
        check(
            &token(HEADER, &claims(&format!(r#","exp":1,"exp":{}"#, NOW + 600)), SECRET),
            Err(TokenError::Malformed),
        );
        check(&token(r#"{"alg":"none"}"#, &fresh, SECRET), Err(TokenError::Algorithm));
        check(&token(r#"{"alg":"HS512"}"#, &fresh, SECRET), Err(TokenError::Algorithm));
        check(&token(r#"{"alg":"hs256"}"#, &fresh, SECRET), Err(TokenError::Algorithm));
        check(
            &token(r#"{"alg":"HS256","alg":"HS256"}"#, &fresh, SECRET),
            Err(TokenError::Malformed),
        );
        check(
            &token(r#"{"alg":"HS256","crit":["b64"]}"#, &fresh, SECRET),
            Err(TokenError::Critical),
        );
        check(&token(r#"{"alg":"HS256","typ":"dpop+jwt"}"#, &fresh, SECRET), Err(TokenError::Type));
        check(
            &token(HEADER, &fresh.replace("arbiter", "https://evil.invalid"), SECRET),
            Err(TokenError::Issuer),
        );
        check(&token(HEADER, &fresh.replace(AGENT, "nobody"), SECRET), Err(TokenError::Claims));
        check("", Err(TokenError::Malformed));
        check("a.b", Err(TokenError::Malformed));
        check("....", Err(TokenError::Malformed));
        check(&format!("{signed}."), Err(TokenError::Malformed));
        check(&format!("{signed}="), Err(TokenError::Signature));
        check(&signed.replace('.', ". "), Err(TokenError::Malformed));
        check(&"a".repeat(MAX_TOKEN_BYTES + 1), Err(TokenError::TooLong));
    }
}
