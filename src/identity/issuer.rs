//! One identity provider: its terms, its keys, and whether it wants to be asked.

use std::sync::Arc;

use blake3::Hash;
use tokio::runtime::Handle;

use super::TokenError;
use super::claims::{self, Terms, required};
use super::fetch::Fetcher;
use super::introspect::{Introspector, YES_SECS};
use super::jwks::{Found, Key};
use super::jwt::Compact;
use super::keys::{Keys, Source};
use super::questions::Lane;
use crate::clock::Clock;
use crate::config;
use crate::firewall::agent::Principal;
use crate::firewall::time::{Mono, Now};
use crate::json::Value;

/// Number of fetches for one token: a fetch in progress may have started too early.
const FETCHES: usize = 2;

/// One identity provider.
pub(crate) struct Issuer {
    terms: Terms,
    /// `None`: its tokens are opaque, and it is asked about each.
    keys: Option<Arc<Keys>>,
    introspector: Option<Introspector>,
    /// Time for which a yes counts longer while the issuer does not answer.
    grace_secs: u64,
}

/// Basis of a token's validity: the token is valid only as long as all of it is.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub principal: Arc<Principal>,
    pub key: Option<Arc<Key>>,
    /// Time at which the issuer must be asked again.
    pub holds_until: Mono,
    /// Until when it counts even though the issuer does not answer; never before `holds_until`.
    pub believed_until: Mono,
}

impl Issuer {
    pub(crate) fn new(
        settings: &config::Issuer,
        jwks_cache_ttl_secs: u64,
        fetcher: &Fetcher,
        clock: &Clock,
        runtime: &Handle,
    ) -> Self {
        let source = match (&settings.jwks_uri, &settings.introspection) {
            (Some(uri), _) => Some(Source::Uri(uri.clone())),
            (None, Some(_)) => None,
            (None, None) => Some(Source::Discovered {
                issuer_url: settings.issuer_url.clone(),
                allow_http: settings.allow_http,
            }),
        };
        let keys = |source| {
            Arc::new(Keys::new(
                settings.name.clone(),
                source,
                jwks_cache_ttl_secs,
                fetcher.clone(),
                clock.clone(),
                runtime.clone(),
            ))
        };
        let introspector = |asked| {
            Introspector::new(settings.name.clone(), asked, fetcher.clone(), runtime.clone())
        };
        Self {
            terms: Terms {
                issuer: settings.issuer_url.clone(),
                audiences: Some(settings.audiences.clone()),
                agent_claim: settings.agent_claim.clone(),
                groups_claim: settings.groups_claim.clone(),
            },
            keys: source.map(keys),
            introspector: settings.introspection.as_ref().map(introspector),
            grace_secs: settings.introspection_grace_secs,
        }
    }

    /// Reports whether a token that names `issuer` is this one's.
    pub(crate) fn is(&self, issuer: &str) -> bool {
        self.terms.issuer == issuer
    }

    /// The claim that names the agent.
    pub(crate) fn agent_claim(&self) -> &str {
        &self.terms.agent_claim
    }

    /// Reports whether tokens that say nothing by themselves may be this one's.
    pub(crate) fn knows_opaque_tokens(&self) -> bool {
        self.introspector.is_some()
    }

    pub(crate) fn introspector(&self) -> Option<&Introspector> {
        self.introspector.as_ref()
    }

    pub(crate) fn keys(&self) -> Option<&Arc<Keys>> {
        self.keys.as_ref()
    }

    /// Lets keys that have aged be fetched; never waits.
    pub(crate) fn touch(&self, now: Mono) {
        if let Some(keys) = &self.keys {
            keys.touch(now);
        }
    }

    /// Proves a JWT whose claims name this issuer.
    pub(crate) async fn verify(
        &self,
        token: (&str, &Hash),
        lane: Lane,
        compact: &Compact<'_>,
        unproved: Value<'_>,
        now: Now,
    ) -> Result<Proof, TokenError> {
        let Some(keys) = &self.keys else { return self.introspect(token, lane, now).await };
        let key = proving_key(keys, compact, now.mono).await?;
        let proved = unproved;
        let expires_at = required("exp", claims::expiry(proved)?)?;
        let principal =
            claims::principal(proved, &self.terms, claims::ISSUED_SUBJECT, expires_at, now.wall)?;
        let key = Some(key);
        if self.introspector.is_none() {
            let principal = Arc::new(principal);
            let (holds_until, believed_until) = (Mono(u64::MAX), Mono(u64::MAX));
            return Ok(Proof { principal, key, holds_until, believed_until });
        }
        // Its signature is the issuer's, so no stranger made it up.
        let asked = self.introspect(token, Lane::Known, now).await?;
        if asked.principal.subject != principal.subject {
            return Err(claims::wrong("sub"));
        }
        Ok(Proof { principal: Arc::new(principal), key, ..asked })
    }

    /// Proves a token by asking the issuer about it.
    pub(crate) async fn introspect(
        &self,
        token: (&str, &Hash),
        lane: Lane,
        now: Now,
    ) -> Result<Proof, TokenError> {
        let introspector = self.introspector.as_ref().ok_or(TokenError::Malformed)?;
        let principal = Arc::new(introspector.ask(token, lane, &self.terms, now).await?);
        let holds_until = now.mono.plus_secs(YES_SECS);
        let believed_until = holds_until.plus_secs(self.grace_secs);
        Ok(Proof { principal, key: None, holds_until, believed_until })
    }
}

/// The key that proves the signature. The issuer is asked again for one that is not known, or that
/// may have been replaced without a name of its own.
async fn proving_key(
    keys: &Arc<Keys>,
    compact: &Compact<'_>,
    now: Mono,
) -> Result<Arc<Key>, TokenError> {
    keys.touch(now);
    let mut fetches = 0;
    loop {
        let seen = keys.fetches_ended();
        let failed = match keys.find(compact.key_id.as_deref(), compact.algorithm) {
            Found::Keys(candidates) => {
                let proves = |key: &Arc<Key>| compact.verify(key.verifying()).is_ok();
                if let Some(key) = candidates.into_iter().find(proves) {
                    return Ok(key);
                }
                if compact.key_id.is_some() {
                    return Err(TokenError::Signature);
                }
                TokenError::Signature
            }
            Found::OtherAlgorithm => return Err(TokenError::Algorithm),
            Found::Ambiguous => return Err(TokenError::WhichKey),
            Found::Nothing if keys.has_none_usable() => TokenError::NoUsableKey,
            Found::Nothing if keys.is_empty() => TokenError::NoKeys,
            Found::Nothing => TokenError::Key,
        };
        if fetches == FETCHES || !keys.refreshed(seen, now).await {
            // It may be a new key, and its issuer cannot be asked.
            let unanswered = failed == TokenError::Key && keys.is_failing();
            return Err(if unanswered { TokenError::Unanswered } else { failed });
        }
        fetches += 1;
    }
}
