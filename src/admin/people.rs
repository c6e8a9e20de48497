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
use crate::firewall::agent::Principal;
use crate::firewall::time::{Now, Timestamp};
use crate::identity::code::{Bond, CodeError, CodeFlow};
use crate::identity::{Identity, OwnKeys, SetupError};

/// Verifies operators' tokens.
pub struct People {
    identity: Identity,
    issuer_name: String,
    issuer_url: String,
    roles: Vec<(String, Role)>,
    sign_in: Option<SignIn>,
}

/// Sign-in of the console's people at the issuer.
struct SignIn {
    flow: CodeFlow,
    /// Verifies tokens that are for the console.
    identity: Identity,
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
        let sign_in = match (&oidc.client, issuers.first()) {
            (Some(client), Some(issuer)) => {
                Some(SignIn::new(client, issuer, &config.oauth, clock, runtime)?)
            }
            (Some(_) | None, _) => None,
        };
        let issuer_url = issuers.iter().map(|issuer| issuer.issuer_url.clone()).collect();
        let settings = config::Oauth { issuers, ..config.oauth.clone() };
        Ok(Some(Self {
            identity: Identity::with_issuers(OwnKeys::none(), &settings, clock, runtime)?,
            issuer_name: oidc.issuer.clone(),
            issuer_url,
            roles: oidc.roles.clone(),
            sign_in,
        }))
    }

    /// Returns the name of the issuer at which the console's people sign in.
    pub fn signs_in_at(&self) -> Option<&str> {
        self.sign_in.is_some().then_some(&*self.issuer_name)
    }

    /// Returns the address at the issuer to which a person is sent.
    pub(super) async fn begin(
        &self,
        bond: &Bond,
        redirect_uri: &str,
        now: Now,
    ) -> Result<String, ApiError> {
        let sign_in = self.sign_in.as_ref().ok_or_else(|| ApiError::not_found("page"))?;
        sign_in
            .flow
            .address(bond, redirect_uri, now.mono)
            .await
            .map_err(|error| unavailable(&error))
    }

    /// Returns the person for whom the issuer gave a code; `None` if it proves nobody who has a role.
    pub(super) async fn end(
        &self,
        (code, issuer): (&str, Option<&str>),
        bond: &Bond,
        redirect_uri: &str,
        now: Now,
    ) -> Result<Option<Person>, ApiError> {
        let sign_in = self.sign_in.as_ref().ok_or_else(|| ApiError::not_found("page"))?;
        // An answer of another issuer is none to this question (RFC 9207).
        if issuer.is_some_and(|issuer| issuer != self.issuer_url) {
            return Ok(None);
        }
        let token = match sign_in.flow.exchange(code, bond, redirect_uri, now.mono).await {
            Ok(token) => token,
            Err(error @ CodeError::Unavailable(_)) => return Err(unavailable(&error)),
            Err(CodeError::Refused | CodeError::NoToken) => return Ok(None),
        };
        match sign_in.identity.verify(&token, now).await {
            Ok(principal) if sign_in.flow.is_of(&token, bond) => Ok(self.person(&principal)),
            Err(error) if error.is_passing() => {
                Err(unavailable(&CodeError::Unavailable(error.to_string())))
            }
            Ok(_) | Err(_) => Ok(None),
        }
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
        Ok(self.person(&principal))
    }

    fn person(&self, principal: &Principal) -> Option<Person> {
        // Arbiter's own tokens are agents', whatever else they say.
        if principal.issuer != self.issuer_url || principal.agent.is_some() {
            return None;
        }
        let mut roles = Roles::NONE;
        for (value, role) in &self.roles {
            if principal.groups.contains(value) {
                roles = roles.and(*role);
            }
        }
        if roles.is_empty() {
            return None;
        }
        let name = format!("{}:{}", self.issuer_name, principal.subject);
        let (token_id, until) = (principal.token_id.clone(), principal.expires_at);
        Some(Person { name: name.into(), roles, token_id, until })
    }
}

impl SignIn {
    fn new(
        client: &config::OidcClient,
        issuer: &config::Issuer,
        oauth: &config::Oauth,
        clock: &Clock,
        runtime: &Handle,
    ) -> Result<Self, SetupError> {
        let flow = CodeFlow::new(issuer, client)?;
        let issuer = config::Issuer {
            audiences: vec![client.id.clone()],
            introspection: None,
            ..issuer.clone()
        };
        let settings = config::Oauth { issuers: vec![issuer], ..oauth.clone() };
        let identity = Identity::with_issuers(OwnKeys::none(), &settings, clock, runtime)?;
        Ok(Self { flow, identity })
    }
}

fn unavailable(error: &CodeError) -> ApiError {
    let message =
        format!("the identity provider cannot be asked: {error}; try again, or use a key");
    ApiError::new(Code::IdentityUnavailable, message).retry_after(1)
}
