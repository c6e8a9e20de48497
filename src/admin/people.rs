//! People who sign in at an identity provider, and the roles that its claims give them.
//!
//! Their tokens are for another audience than agents' tokens, and one that names an agent is
//! refused: an agent often holds a token of the person it works for, and must not become that
//! person here.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::error::{ApiError, Code};
use crate::clock::Clock;
use crate::config::{self, Role, Roles};
use crate::firewall::time::{Now, Timestamp};
use crate::identity::{Identity, SetupError};

/// Verifies operators' tokens.
pub struct People {
    identity: Identity,
    issuer_name: String,
    issuer_url: String,
    roles: Vec<(String, Role)>,
}

/// Somebody whose token was verified.
pub(super) struct Person {
    pub(super) name: Arc<str>,
    pub(super) roles: Roles,
    pub(super) token_id: Option<String>,
    /// End of the token.
    pub(super) until: Timestamp,
}

impl Person {
    /// Substitute for the person among the keys that succeeded from a source.
    pub(super) fn identity(&self) -> [u8; 32] {
        blake3::derive_key("arbiter admin person 1", self.name.as_bytes())
    }
}

impl People {
    /// Fetches the issuer's keys on `runtime` and waits for none; `None` without `[admin.oidc]`.
    pub fn new(
        config: &config::Config,
        clock: &Clock,
        runtime: &Handle,
    ) -> Result<Option<Self>, SetupError> {
        let Some(oidc) = &config.admin.oidc else { return Ok(None) };
        let issuers = config.oauth.issuers.iter().filter(|issuer| issuer.name == oidc.issuer);
        let issuers: Vec<_> = issuers
            .map(|issuer| config::Issuer {
                audiences: oidc.audiences.clone(),
                groups_claim: oidc.claim.clone(),
                auto_register: None,
                ..issuer.clone()
            })
            .collect();
        let issuer_url = issuers.iter().map(|issuer| issuer.issuer_url.clone()).collect();
        let settings = config::Oauth { issuers, ..config.oauth.clone() };
        let secret = config.admin.signing_secret.expose().as_bytes();
        Ok(Some(Self {
            identity: Identity::with_issuers(secret, &settings, clock, runtime)?,
            issuer_name: oidc.issuer.clone(),
            issuer_url,
            roles: oidc.roles.clone(),
        }))
    }

    /// The person behind a token; `None` if it proves nobody who has a role here. Without
    /// `may_ask`, only a token that was verified before is looked at.
    pub(super) async fn recognise(
        &self,
        token: &[u8],
        may_ask: bool,
        now: Now,
    ) -> Result<Option<Person>, ApiError> {
        let Ok(token) = str::from_utf8(token) else { return Ok(None) };
        let verified = match self.identity.remembered(token, now) {
            Some(known) => known,
            None if may_ask => self.identity.verify(token, now).await,
            None => return Ok(None),
        };
        let principal = match verified {
            Ok(principal) => principal,
            Err(error) if error.is_passing() => {
                let message = format!("{error}: try again later, or use a key");
                return Err(ApiError::new(Code::IdentityUnavailable, message).retry_after(1));
            }
            Err(_wrong) => return Ok(None),
        };
        // Arbiter's own tokens are agents', whatever else they say.
        if principal.issuer != self.issuer_url || principal.agent.is_some() {
            return Ok(None);
        }
        let mut roles = Roles::NONE;
        for (value, role) in &self.roles {
            if principal.groups.contains(value) {
                roles = roles.and(*role);
            }
        }
        if roles.is_empty() {
            return Ok(None);
        }
        let name = format!("{}:{}", self.issuer_name, principal.subject);
        let (token_id, until) = (principal.token_id.clone(), principal.expires_at);
        Ok(Some(Person { name: name.into(), roles, token_id, until }))
    }
}
