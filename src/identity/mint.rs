//! Arbiter's own tokens: HS256 under the signing secret, for one agent and a short time.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{OWN_ISSUER, key_id};
use crate::config::Secret;
use crate::firewall::agent::{Agent, AgentId};
use crate::firewall::time::Timestamp;

/// Claims of a token issued by Arbiter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnClaims {
    pub iss: String,
    /// The agent's owner.
    pub sub: String,
    pub agent_id: AgentId,
    /// Seconds since 1970.
    pub iat: i64,
    pub exp: i64,
    pub jti: String,
}

/// A signed token with its id and its end.
pub struct Minted {
    pub token: String,
    pub jti: Uuid,
    pub expires_at: Timestamp,
}

#[derive(Debug, thiserror::Error)]
#[error("the token could not be signed")]
pub struct MintError(#[from] jsonwebtoken::errors::Error);

/// Signs tokens.
pub struct Minter {
    signing: ArcSwap<Signing>,
}

/// The key that signs, and its name.
struct Signing {
    id: String,
    key: EncodingKey,
}

impl Signing {
    fn of(secret: &Secret) -> Self {
        let secret = secret.expose().as_bytes();
        Self { id: key_id(secret), key: EncodingKey::from_secret(secret) }
    }
}

impl std::fmt::Debug for Minter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Minter([secret])")
    }
}

impl Minter {
    pub fn new(signing_secret: &Secret) -> Self {
        Self { signing: ArcSwap::from_pointee(Signing::of(signing_secret)) }
    }

    /// Signs with another secret from now on.
    pub fn replace(&self, signing_secret: &Secret) {
        self.signing.store(Arc::new(Signing::of(signing_secret)));
    }

    /// Signs a token for an agent, which does not outlive the agent.
    pub fn mint(
        &self,
        agent: &Agent,
        expiry_secs: u64,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        let wanted = now.plus_secs(expiry_secs);
        let end = agent.expires_at.map_or(wanted, |end| end.min(wanted));
        let jti = Uuid::new_v4();
        let claims = OwnClaims {
            iss: OWN_ISSUER.to_owned(),
            sub: agent.owner.clone(),
            agent_id: agent.id,
            iat: now.as_secs(),
            exp: end.as_secs(),
            jti: jti.to_string(),
        };
        let signing = self.signing.load();
        let header = Header { kid: Some(signing.id.clone()), ..Header::new(Algorithm::HS256) };
        let token = encode(&header, &claims, &signing.key)?;
        Ok(Minted { token, jti, expires_at: Timestamp::from_secs(claims.exp) })
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;
    use crate::testkit;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn agent(expires_at: Option<Timestamp>) -> Agent {
        Agent { owner: "user:alice".to_owned(), expires_at, ..testkit::agent(AgentId::random()) }
    }

    fn claims(token: &str, secret: &str) -> Option<OwnClaims> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[OWN_ISSUER]);
        rules.validate_exp = false;
        decode(token, &DecodingKey::from_secret(secret.as_bytes()), &rules).ok().map(|t| t.claims)
    }

    #[test]
    fn a_token_says_who_and_until_when() {
        let agent = agent(None);
        let minter = Minter::new(&Secret::new(SECRET.to_owned()));
        let minted = minter.mint(&agent, 3_600, Timestamp::from_secs(1_000)).unwrap();
        let claims = claims(&minted.token, SECRET).unwrap();
        assert_eq!((claims.sub.as_str(), claims.agent_id), ("user:alice", agent.id));
        assert_eq!((claims.iat, claims.exp), (1_000, 4_600));
        assert_eq!(claims.jti, minted.jti.to_string());
        assert_eq!(minted.expires_at, Timestamp::from_secs(4_600));
    }

    #[test]
    fn another_secret_does_not_verify_it() {
        let token = testkit::token(SECRET, &agent(None), Timestamp::from_secs(0));
        assert!(claims(&token, "another secret of 32 bytes or so").is_none());
    }

    #[test]
    fn a_token_does_not_outlive_its_agent() {
        let minter = Minter::new(&Secret::new(SECRET.to_owned()));
        let agent = agent(Some(Timestamp::from_secs(1_010)));
        let minted = minter.mint(&agent, 3_600, Timestamp::from_secs(1_000)).unwrap();
        assert_eq!(claims(&minted.token, SECRET).unwrap().exp, 1_010);
    }
}
