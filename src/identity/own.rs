//! Keys of Arbiter's own tokens (HS256): the first signs, all verify.
//!
//! A token names its key (`kid`), so that the right one is tried at once. One that names none, or one
//! that is not known, may be an older gateway's: each key is tried, and there are few.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::TokenError;
use super::jwks::Key;
use super::jwt::Compact;
use crate::config::SigningSecrets;

/// Keys in force, replaced whole.
pub struct OwnKeys(ArcSwap<Vec<Arc<Key>>>);

impl OwnKeys {
    /// Knows no key: every token of Arbiter's own is refused.
    pub fn none() -> Self {
        Self::of(Vec::new())
    }

    fn of(keys: Vec<Arc<Key>>) -> Self {
        Self(ArcSwap::from_pointee(keys))
    }

    /// Returns the key that a token was signed with.
    pub(super) fn prove(&self, token: &Compact<'_>) -> Result<Arc<Key>, TokenError> {
        let keys = self.0.load();
        let named = token.key_id.as_deref();
        let named = named.and_then(|id| keys.iter().find(|key| key.id() == Some(id)));
        let tried = named.map_or(keys.as_slice(), std::slice::from_ref);
        let fits = |key: &&Arc<Key>| token.verify(key.verifying()).is_ok();
        tried.iter().find(fits).cloned().ok_or(TokenError::Signature)
    }

    /// Puts other secrets in force. Tokens of secrets that are gone are refused from now on.
    pub fn replace(&self, secrets: &SigningSecrets) {
        let before = self.0.load_full();
        let kept = |key: Key| {
            let twin = before.iter().find(|known| known.is(&key));
            twin.map_or_else(|| Arc::new(key), Arc::clone)
        };
        let keys: Vec<_> = keys(secrets).map(kept).collect();
        self.0.store(Arc::new(keys.clone()));
        // INVARIANT: after the store, so that a key is never found again once it is withdrawn.
        for gone in before.iter().filter(|key| !keys.iter().any(|known| known.is(key))) {
            gone.withdraw();
        }
    }
}

impl From<&SigningSecrets> for OwnKeys {
    fn from(secrets: &SigningSecrets) -> Self {
        Self::of(keys(secrets).map(Arc::new).collect())
    }
}

impl From<&[u8]> for OwnKeys {
    fn from(secret: &[u8]) -> Self {
        Self::of(vec![Arc::new(Key::of_secret(key_id(secret), secret))])
    }
}

fn keys(secrets: &SigningSecrets) -> impl Iterator<Item = Key> {
    let bytes = secrets.all().map(|secret| secret.expose().as_bytes());
    bytes.map(|secret| Key::of_secret(key_id(secret), secret))
}

/// Names a secret without showing anything of it.
pub fn key_id(secret: &[u8]) -> String {
    let hash = blake3::Hash::from(blake3::derive_key("arbiter 2026-11 signing key id", secret));
    let mut id = hash.to_hex().to_string();
    id.truncate(16);
    id
}
