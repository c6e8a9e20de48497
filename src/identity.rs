//! Identity: from a bearer token to a verified principal.
//!
//! A token is looked at in this order: its size, its form (three strict base64url parts, strict JSON
//! in the first two, RFC 7515 and RFC 7519), the issuer it names, the one key of that issuer that it
//! means, and whether that key allows the algorithm (never the token's own choice, RFC 8725 section
//! 3.1), the signature, the claims. No URL from a token is ever fetched. A token that passed is
//! remembered by its hash until it ends, or the key that proved it is withdrawn, or its issuer must
//! be asked again; so a signature is checked once.

mod claims;
pub mod code;
mod discovery;
mod fetch;
mod introspect;
mod issuer;
mod jwks;
mod jwt;
mod keys;
pub mod mint;
mod own;
mod questions;
mod remembered;
mod report;

use std::sync::Arc;

use blake3::Hash;
use jsonwebtoken::Algorithm;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::config;
use crate::firewall::agent::Principal;
use crate::firewall::time::{Mono, Now};
use crate::json::Doc;
use crate::metrics::IssuerKeys;
use claims::{Terms, required};
use fetch::Fetcher;
pub use fetch::SetupError;
use issuer::{Issuer, Proof};
use jwt::{Compact, malformed};
pub use own::{OwnKeys, key_id};
use questions::Lane;
use remembered::Remembered;
pub use report::IssuerReport;

/// Tokens longer than this are refused unread. A token with a few hundred groups fits.
pub const MAX_TOKEN_BYTES: usize = 32 * 1024;

/// Pause between two questions about a token that is believed because its issuer does not answer.
const ASK_AGAIN_SECS: u64 = 5;

/// Tokens remembered, in each of two generations.
const REMEMBERED: usize = 65_536;

/// The issuer named in tokens that Arbiter mints.
pub const OWN_ISSUER: &str = "arbiter";

/// Reason why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than 32 KiB")]
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
    #[error("the token's key is not one that its issuer publishes")]
    Key,
    #[error("the token does not say which of its issuer's keys signed it")]
    WhichKey,
    #[error("the keys of the token's issuer are not known yet")]
    NoKeys,
    #[error("the token's issuer publishes no key that can be used")]
    NoUsableKey,
    #[error("the token's signature does not match")]
    Signature,
    #[error("the token's claim `{0}` is missing or of the wrong type")]
    Claim(Box<str>),
    #[error("the token is for another audience")]
    Audience,
    #[error("the token is bound to a proof that is not supported here")]
    Bound,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token has expired")]
    Expired,
    #[error("the token's issuer says that it is not active")]
    Inactive,
    #[error("the token's issuer does not answer")]
    Unanswered,
}

impl TokenError {
    /// Reports whether the same token may be good later: the fault is not the token's.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::NoKeys | Self::NoUsableKey | Self::Unanswered)
    }
}

/// A proof and who must keep it true.
#[derive(Clone)]
struct Known {
    proof: Proof,
    issuer: Option<Arc<Issuer>>,
}

/// Verifies tokens and remembers those that passed.
pub struct Identity {
    own_keys: OwnKeys,
    own_terms: Terms,
    issuers: Vec<Arc<Issuer>>,
    remembered: Remembered<Arc<Known>>,
    /// Ends with this value.
    upkeep: JoinSet<()>,
}

impl Identity {
    /// Knows Arbiter's own tokens only.
    pub fn new(own_keys: impl Into<OwnKeys>) -> Self {
        Self {
            own_keys: own_keys.into(),
            own_terms: Terms {
                issuer: OWN_ISSUER.to_owned(),
                audiences: None,
                agent_claim: "agent_id".to_owned(),
                groups_claim: "groups".to_owned(),
            },
            issuers: Vec::new(),
            remembered: Remembered::new(REMEMBERED),
            upkeep: JoinSet::new(),
        }
    }

    /// Knows the tokens of identity providers, too; fetches their keys on `runtime` and waits for
    /// none of them.
    pub fn with_issuers(
        own_keys: impl Into<OwnKeys>,
        settings: &config::Oauth,
        clock: &Clock,
        runtime: &Handle,
    ) -> Result<Self, SetupError> {
        let mut identity = Self::new(own_keys);
        for issuer in &settings.issuers {
            let fetcher = Fetcher::new(&issuer.name, issuer.ca_file.as_deref())?;
            let ttl_secs = settings.jwks_cache_ttl_secs;
            let issuer = Arc::new(Issuer::new(issuer, ttl_secs, &fetcher, clock, runtime));
            if let Some(keys) = issuer.keys() {
                identity.upkeep.spawn_on(Arc::clone(keys).keep_fresh(), runtime);
            }
            identity.issuers.push(issuer);
        }
        Ok(identity)
    }

    /// The keys of Arbiter's own tokens.
    pub fn own_keys(&self) -> &OwnKeys {
        &self.own_keys
    }

    /// The keys of every issuer that has any.
    pub fn issuer_keys(&self, now: Mono) -> Vec<IssuerKeys> {
        self.issuers.iter().filter_map(|issuer| Some(issuer.keys()?.snapshot(now))).collect()
    }

    /// The claim by which an issuer's tokens name their agent.
    pub fn agent_claim(&self, issuer: &str) -> &str {
        let named = self.issuers.iter().find(|one| one.is(issuer));
        named.map_or(&self.own_terms.agent_claim, |one| one.agent_claim())
    }

    /// Returns the cached result for a token: `None` if it must be verified.
    pub fn remembered(&self, token: &str, now: Now) -> Option<Result<Arc<Principal>, TokenError>> {
        if token.len() > MAX_TOKEN_BYTES {
            return Some(Err(TokenError::TooLong));
        }
        match self.recall(&blake3::hash(token.as_bytes()), now) {
            Recalled::Fresh(judged) => Some(judged),
            Recalled::Stale(_) | Recalled::Nothing => None,
        }
    }

    fn recall(&self, hash: &Hash, now: Now) -> Recalled {
        let Some(known) = self.remembered.get(hash) else { return Recalled::Nothing };
        if let Some(issuer) = &known.issuer {
            issuer.touch(now.mono);
        }
        let proof = &known.proof;
        if proof.key.as_ref().is_some_and(|key| key.is_withdrawn()) {
            self.remembered.forget(hash);
            return Recalled::Nothing;
        }
        if now.wall >= proof.principal.expires_at {
            return Recalled::Fresh(Err(TokenError::Expired));
        }
        if now.mono >= proof.holds_until {
            return Recalled::Stale(known);
        }
        Recalled::Fresh(Ok(Arc::clone(&proof.principal)))
    }

    /// Verifies `token` and returns its principal. Waits only for an issuer, and for none whose key is known.
    pub async fn verify(&self, token: &str, now: Now) -> Result<Arc<Principal>, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let hash = blake3::hash(token.as_bytes());
        let before = match self.recall(&hash, now) {
            Recalled::Fresh(judged) => return judged,
            Recalled::Stale(known) => Some(known),
            Recalled::Nothing => None,
        };
        let lane = if before.is_some() { Lane::Known } else { Lane::Stranger };
        let proved = match Compact::split(token) {
            Ok(compact) => self.prove(token, &hash, lane, &compact, now).await,
            // It may be a token that only its issuer can read.
            Err(TokenError::Malformed) => self.ask_all(token, &hash, lane, now).await,
            Err(error) => Err(error),
        };
        let known = match (proved, before) {
            (Ok(known), _) => known,
            (Err(error), Some(before)) if error.is_passing() => still_believed(&before, now)?,
            (Err(error), before) => {
                if before.is_some() && !error.is_passing() {
                    self.remembered.forget(&hash);
                }
                return Err(error);
            }
        };
        let principal = Arc::clone(&known.proof.principal);
        self.remembered.insert(hash, Arc::new(known));
        Ok(principal)
    }

    async fn prove(
        &self,
        token: &str,
        hash: &Hash,
        lane: Lane,
        compact: &Compact<'_>,
        now: Now,
    ) -> Result<Known, TokenError> {
        let payload = compact.payload()?;
        let doc = Doc::parse(&payload).map_err(malformed)?;
        let named = claims::issuer(doc.root())?;
        if named == OWN_ISSUER {
            let proof = self.prove_own(compact, &doc, now)?;
            return Ok(Known { proof, issuer: None });
        }
        let issuer = self.issuers.iter().find(|issuer| issuer.is(&named));
        let issuer = issuer.ok_or(TokenError::Issuer)?;
        let proof = issuer.verify((token, hash), lane, compact, doc.root(), now).await?;
        Ok(Known { proof, issuer: Some(Arc::clone(issuer)) })
    }

    fn prove_own(
        &self,
        compact: &Compact<'_>,
        doc: &Doc<'_>,
        now: Now,
    ) -> Result<Proof, TokenError> {
        if compact.algorithm != Algorithm::HS256 {
            return Err(TokenError::Algorithm);
        }
        let key = self.own_keys.prove(compact)?;
        let expires_at = required("exp", claims::expiry(doc.root())?)?;
        let principal =
            claims::principal(doc.root(), &self.own_terms, claims::SUBJECT, expires_at, now.wall)?;
        required(&self.own_terms.agent_claim, principal.agent)?;
        let (holds_until, believed_until) = (Mono(u64::MAX), Mono(u64::MAX));
        Ok(Proof { principal: Arc::new(principal), key: Some(key), holds_until, believed_until })
    }

    /// Asks every issuer that may know an opaque token; the first yes counts.
    async fn ask_all(
        &self,
        token: &str,
        hash: &Hash,
        lane: Lane,
        now: Now,
    ) -> Result<Known, TokenError> {
        let mut failed = TokenError::Malformed;
        for issuer in self.issuers.iter().filter(|issuer| issuer.knows_opaque_tokens()) {
            match issuer.introspect((token, hash), lane, now).await {
                Ok(proof) => return Ok(Known { proof, issuer: Some(Arc::clone(issuer)) }),
                // One that does not answer may be the one that knows.
                Err(error) if !failed.is_passing() => failed = error,
                Err(_) => {}
            }
        }
        Err(failed)
    }
}

/// Memory of a token.
enum Recalled {
    Fresh(Result<Arc<Principal>, TokenError>),
    /// The token was good, and its issuer must be asked again.
    Stale(Arc<Known>),
    Nothing,
}

/// A proof that counts a little longer, since its issuer does not answer.
fn still_believed(before: &Known, now: Now) -> Result<Known, TokenError> {
    let proof = &before.proof;
    if now.mono >= proof.believed_until {
        return Err(TokenError::Unanswered);
    }
    let holds_until = now.mono.plus_secs(ASK_AGAIN_SECS).min(proof.believed_until);
    let proof = Proof { holds_until, ..proof.clone() };
    Ok(Known { proof, issuer: before.issuer.clone() })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use futures::FutureExt as _;
    use jsonwebtoken::{EncodingKey, crypto};

    use super::*;
    use crate::firewall::agent::AgentId;
    use crate::firewall::time::Timestamp;

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

    fn at(secs: i64) -> Now {
        Now { wall: Timestamp::from_secs(secs), mono: Mono(0) }
    }

    /// Nothing here has an issuer to wait for.
    fn verify(identity: &Identity, token: &str, now: Now) -> Result<Arc<Principal>, TokenError> {
        identity.verify(token, now).now_or_never().expect("no waiting")
    }

    fn check(token: &str, expected: Result<(), TokenError>) {
        let identity = Identity::new(SECRET);
        assert_eq!(verify(&identity, token, at(NOW)).map(|_| ()), expected, "{token}");
        assert_eq!(verify(&identity, token, at(NOW)).map(|_| ()), expected, "again: {token}");
        let remembered = identity.remembered(token, at(NOW));
        let known = match expected {
            Ok(()) => true,
            Err(error) => error == TokenError::TooLong,
        };
        assert_eq!(remembered.is_some(), known, "only what passed is remembered: {token}");
    }

    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    #[test]
    fn a_good_token_proves_its_agent() {
        let good = token(HEADER, &claims(&format!(r#","exp":{}"#, NOW + 5)), SECRET);
        check(&good, Ok(()));
        let identity = Identity::new(SECRET);
        let who = verify(&identity, &good, at(NOW)).unwrap();
        assert_eq!(who.agent, AgentId::parse(AGENT));
        assert_eq!(&*who.subject, "u");
        let later = at(NOW + 5);
        assert_eq!(verify(&identity, &good, later), Err(TokenError::Expired), "though remembered");
        let fresh = Identity::new(SECRET);
        assert_eq!(verify(&fresh, &good, later), Err(TokenError::Expired), "and if not");
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
        let no_end = || Err(TokenError::Claim("exp".into()));
        check(&token(HEADER, &claims(""), SECRET), no_end());
        check(&token(HEADER, &claims(r#","exp":"1900000000""#), SECRET), no_end());
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
        let no_agent = Err(TokenError::Claim("agent_id".into()));
        check(&token(HEADER, &fresh.replace(AGENT, "nobody"), SECRET), no_agent);
        check("", Err(TokenError::Malformed));
        check("a.b", Err(TokenError::Malformed));
        check("....", Err(TokenError::Malformed));
        check(&format!("{signed}."), Err(TokenError::Malformed));
        check(&format!("{signed}="), Err(TokenError::Signature));
        check(&signed.replace('.', ". "), Err(TokenError::Malformed));
        check(&"a".repeat(MAX_TOKEN_BYTES + 1), Err(TokenError::TooLong));
    }
}
