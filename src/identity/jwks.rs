//! An issuer's published keys (RFC 7517): which of them count, and for which algorithms.
//!
//! A key says what it may be used for; a token only says which key it means. Keys that could let
//! somebody in by mistake (shared secrets, short RSA keys, keys for encryption, private keys that
//! were published) are left out one by one, so that they do not take the good ones with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use smallvec::SmallVec;

use super::jwt::algorithm_named;
use crate::json::{Doc, Kind, Value};

/// The most keys that a set may hold.
const MAX_KEYS: usize = 100;

/// The most keys that are tried for one token.
pub(crate) const MAX_TRIED: usize = 4;

/// RSA keys outside this range are left out: weaker, or made to cost time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// One key that tokens can be verified with.
#[derive(Debug)]
pub(crate) struct Key {
    id: Option<String>,
    /// One if the key names it, else those of its type.
    algorithms: Vec<Algorithm>,
    verifying: DecodingKey,
    /// Over the key alone: entries that differ in what they say of one key verify the same tokens.
    material: blake3::Hash,
    /// Over everything above: two documents that say the same mean the same key.
    print: blake3::Hash,
    withdrawn: AtomicBool,
}

impl Key {
    /// A secret that Arbiter shares with nobody, for its own tokens.
    pub(super) fn of_secret(id: String, secret: &[u8]) -> Self {
        let material =
            blake3::derive_key("arbiter 2026-11 signing secret, compared", secret).into();
        Self {
            id: Some(id),
            algorithms: vec![Algorithm::HS256],
            verifying: DecodingKey::from_secret(secret),
            material,
            print: material,
            withdrawn: AtomicBool::new(false),
        }
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Reports whether two entries are one key.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.print == other.print
    }

    /// Ends the tokens that the key has proved.
    pub(super) fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Release);
    }

    pub(crate) fn verifying(&self) -> &DecodingKey {
        &self.verifying
    }

    /// Reports whether the issuer has taken the key out of its set.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }
}

/// The keys of one issuer at one time.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    keys: Vec<Arc<Key>>,
    listed: bool,
}

/// Result of looking up a token's header in a set.
#[derive(Debug)]
pub(crate) enum Found {
    /// Different keys, each of which may be the one.
    Keys(SmallVec<[Arc<Key>; 1]>),
    /// There is such a key, for another algorithm.
    OtherAlgorithm,
    /// The token names no key and several would do, or more share its name than are tried.
    Ambiguous,
    Nothing,
}

/// Reason why a document is no key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    #[error("its key set is not a strict JSON object with `keys`")]
    Malformed,
    #[error("its key set holds more than {MAX_KEYS} keys")]
    TooMany,
}

impl KeySet {
    /// Reads a document; keys that `before` holds too stay the same objects.
    pub(crate) fn read(document: &[u8], before: &Self) -> Result<Self, JwksError> {
        let doc = Doc::parse(document).map_err(|_json| JwksError::Malformed)?;
        let listed = doc.root().get("keys").filter(|keys| keys.kind() == Kind::Array);
        let listed = listed.ok_or(JwksError::Malformed)?;
        if listed.items().count() > MAX_KEYS {
            return Err(JwksError::TooMany);
        }
        let kept = |key: Key| {
            let twin = before.keys.iter().find(|known| known.print == key.print);
            twin.map_or_else(|| Arc::new(key), Arc::clone)
        };
        let keys = listed.items().filter_map(read_key).map(kept).collect();
        Ok(Self { keys, listed: listed.items().next().is_some() })
    }

    /// Reports whether the issuer lists keys, usable or not.
    pub(crate) fn lists_any(&self) -> bool {
        self.listed
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Marks the keys that `after` no longer holds; tokens that they proved prove nothing more.
    pub(crate) fn withdraw_all_but(&self, after: &Self) -> usize {
        let gone = self.keys.iter().filter(|key| !after.keys.iter().any(|k| Arc::ptr_eq(k, key)));
        gone.map(|key| key.withdraw()).count()
    }

    /// The keys for a token: those of its key id, or without one the only key that would do. Two
    /// entries for one key count as one.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Found {
        let named = |key: &&Arc<Key>| id.is_none() || key.id.as_deref() == id;
        let fitting =
            self.keys.iter().filter(named).filter(|key| key.algorithms.contains(&algorithm));
        let mut found = SmallVec::<[Arc<Key>; 1]>::new();
        for key in fitting {
            if !found.iter().any(|known| known.material == key.material) {
                found.push(Arc::clone(key));
            }
        }
        let most = if id.is_some() { MAX_TRIED } else { 1 };
        match found.len() {
            0 if self.keys.iter().any(|key| named(&key)) => Found::OtherAlgorithm,
            0 => Found::Nothing,
            count if count > most => Found::Ambiguous,
            _ => Found::Keys(found),
        }
    }
}

fn read_key(jwk: Value<'_>) -> Option<Key> {
    // Some issuers pad their numbers, which says nothing (RFC 7515 section 2).
    let text = |name: &str| {
        let text = jwk.get(name).and_then(|value| value.as_str())?;
        Some(text.trim_end_matches('=').to_owned())
    };
    if jwk.kind() != Kind::Object || !is_for_verifying(jwk) || jwk.get("d").is_some() {
        return None;
    }
    let id = match jwk.get("kid") {
        Some(id) => Some(id.as_str()?.into_owned()),
        None => None,
    };
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.as_bytes()).ok();
    let (possible, verifying, material) = match (text("kty")?.as_str(), text("crv").as_deref()) {
        ("RSA", None) => {
            let (n, e) = (stripped(bytes("n")?), stripped(bytes("e")?));
            if !is_strong_rsa(&n, &e) {
                return None;
            }
            (RSA, DecodingKey::from_rsa_raw_components(&n, &e), [n, e].concat())
        }
        ("EC", Some(curve)) => {
            let (possible, length): (&[_], _) = match curve {
                "P-256" => (&[Algorithm::ES256], 32),
                "P-384" => (&[Algorithm::ES384], 48),
                _ => return None,
            };
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != length || y.len() != length {
                return None;
            }
            let key = DecodingKey::from_ec_components(&text("x")?, &text("y")?).ok()?;
            (possible, key, [x, y].concat())
        }
        ("OKP", Some("Ed25519")) => {
            let x = bytes("x")?;
            if x.len() != 32 {
                return None;
            }
            (&[Algorithm::EdDSA][..], DecodingKey::from_ed_components(&text("x")?).ok()?, x)
        }
        _ => return None,
    };
    let algorithms = match jwk.get("alg") {
        Some(name) => vec![algorithm_named(&name.as_str()?).filter(|a| possible.contains(a))?],
        None => possible.to_vec(),
    };
    let print = print(id.as_deref(), &algorithms, &material);
    let material = blake3::hash(&material);
    Some(Key { id, algorithms, verifying, material, print, withdrawn: AtomicBool::new(false) })
}

/// `use` and `key_ops`, where given, must allow signatures to be checked (RFC 7517 section 4).
fn is_for_verifying(jwk: Value<'_>) -> bool {
    let used = jwk.get("use").is_none_or(|used| used.as_str().as_deref() == Some("sig"));
    let may_verify = |operations: Value<'_>| {
        operations.items().any(|operation| operation.as_str().as_deref() == Some("verify"))
    };
    used && jwk.get("key_ops").is_none_or(may_verify)
}

fn stripped(number: Vec<u8>) -> Vec<u8> {
    number.into_iter().skip_while(|byte| *byte == 0).collect()
}

/// An exponent of 1 would make every text its own signature.
fn is_strong_rsa(n: &[u8], e: &[u8]) -> bool {
    let leading = n.first().map_or(0, |byte| byte.leading_zeros());
    let bits = n.len().saturating_mul(8).saturating_sub(usize::try_from(leading).unwrap_or(8));
    let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    RSA_BITS.contains(&bits) && odd(n) && odd(e) && e != [1] && e.len() <= 8
}

fn print(id: Option<&str>, algorithms: &[Algorithm], material: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in [format!("{id:?} {algorithms:?} ").as_bytes(), material] {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn b64(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn rsa(bits: usize) -> Json {
        json!({"kty": "RSA", "kid": "r", "n": b64(&vec![0xFF; bits / 8]), "e": "AQAB"})
    }

    fn with(mut jwk: Json, name: &str, value: impl Into<Json>) -> Json {
        jwk[name] = value.into();
        jwk
    }

    fn ec(curve: &str, length: usize) -> Json {
        json!({"kty": "EC", "crv": curve, "x": b64(&vec![1; length]), "y": b64(&vec![2; length])})
    }

    fn ed() -> Json {
        json!({"kty": "OKP", "crv": "Ed25519", "x": b64(&[3; 32])})
    }

    fn set(keys: &[Json]) -> KeySet {
        let document = json!({"keys": keys}).to_string();
        KeySet::read(document.as_bytes(), &KeySet::default()).unwrap()
    }

    fn algorithms(jwk: Json) -> Vec<Algorithm> {
        set(&[jwk]).keys.first().map_or_else(Vec::new, |key| key.algorithms.clone())
    }

    #[test]
    fn a_key_fixes_its_algorithms() {
        assert_eq!(algorithms(rsa(2048)), RSA);
        assert_eq!(algorithms(with(rsa(4096), "alg", "PS384")), [Algorithm::PS384]);
        assert_eq!(algorithms(ec("P-256", 32)), [Algorithm::ES256]);
        assert_eq!(algorithms(ec("P-384", 48)), [Algorithm::ES384]);
        assert_eq!(algorithms(ed()), [Algorithm::EdDSA]);
        assert_eq!(algorithms(with(ed(), "alg", "Ed25519")), [Algorithm::EdDSA]);
        assert_eq!(
            algorithms(with(with(rsa(2048), "use", "sig"), "key_ops", json!(["verify"]))),
            RSA
        );
    }

    #[test]
    fn keys_that_could_let_somebody_in_are_left_out() {
        for jwk in [
            json!({"kty": "oct", "k": b64(&[7; 32])}),
            json!({"kty": "oct", "alg": "HS256", "kid": "r", "k": b64(&[7; 32])}),
            rsa(1024),
            rsa(2040),
            rsa(16_384),
            with(rsa(2048), "n", b64(&[&[0; 128][..], &[0xFF; 128][..]].concat())),
            with(rsa(2048), "e", "AQ"),
            with(rsa(2048), "e", "Ag"),
            with(rsa(2048), "e", ""),
            with(rsa(2048), "alg", "HS256"),
            with(rsa(2048), "alg", "ES256"),
            with(rsa(2048), "alg", "none"),
            with(rsa(2048), "alg", "RSA-OAEP"),
            with(rsa(2048), "alg", 7),
            with(rsa(2048), "use", "enc"),
            with(rsa(2048), "use", 7),
            with(rsa(2048), "key_ops", json!(["encrypt"])),
            with(rsa(2048), "key_ops", "verify"),
            with(rsa(2048), "d", "AQAB"),
            with(rsa(2048), "kid", 7),
            with(rsa(2048), "crv", "P-256"),
            with(rsa(2048), "kty", "rsa"),
            ec("P-521", 66),
            ec("secp256k1", 32),
            ec("P-256", 48),
            ec("P-384", 32),
            with(ec("P-256", 32), "alg", "ES384"),
            with(ed(), "crv", "X25519"),
            with(ed(), "x", b64(&[3; 31])),
            json!("RSA"),
            json!({}),
        ] {
            assert_eq!(algorithms(jwk.clone()), [], "{jwk}");
        }
        let both = set(&[json!({"kty": "oct", "k": "AA"}), rsa(2048)]);
        assert_eq!(both.len(), 1, "a bad key does not take the good one with it");
    }

    #[test]
    fn a_token_finds_the_one_key_it_means() {
        let keys = set(&[rsa(2048), with(ec("P-256", 32), "kid", "e"), ed()]);
        let found = |id, algorithm| match keys.find(id, algorithm) {
            Found::Keys(keys) => format!("{:?}", keys[0].algorithms),
            other => format!("{other:?}"),
        };
        assert_eq!(found(Some("e"), Algorithm::ES256), "[ES256]");
        assert_eq!(found(Some("e"), Algorithm::RS256), "OtherAlgorithm");
        assert_eq!(found(Some("e"), Algorithm::HS256), "OtherAlgorithm");
        assert_eq!(found(Some("x"), Algorithm::ES256), "Nothing");
        assert_eq!(found(None, Algorithm::EdDSA), "[EdDSA]");
        let two = set(&[rsa(2048), with(rsa(4096), "kid", "s")]);
        assert!(matches!(two.find(None, Algorithm::RS256), Found::Ambiguous));
        assert!(matches!(set(&[]).find(None, Algorithm::RS256), Found::Nothing));
    }

    #[test]
    fn several_keys_of_one_name_are_tried_and_twins_count_once() {
        let count = |keys: &[Json], id| match set(keys).find(id, Algorithm::RS256) {
            Found::Keys(keys) => keys.len(),
            Found::Ambiguous => 99,
            Found::OtherAlgorithm | Found::Nothing => 0,
        };
        let twins = [rsa(2048), with(rsa(2048), "use", "sig"), with(rsa(2048), "alg", "RS256")];
        assert_eq!((count(&twins, Some("r")), count(&twins, None)), (1, 1));
        let other = |n: u8| with(rsa(2048), "n", b64(&[&[0xF0 + n; 255][..], &[0xFF]].concat()));
        let four: Vec<_> = (0..4).map(other).collect();
        assert_eq!((count(&four, Some("r")), count(&four, None)), (4, 99));
        let five: Vec<_> = (0..5).map(other).collect();
        assert_eq!(count(&five, Some("r")), 99, "more than are tried");
    }

    #[test]
    fn padded_numbers_are_read() {
        let padded = with(rsa(2048), "n", format!("{}==", b64(&[0xFF; 256])));
        assert_eq!(algorithms(with(padded, "e", "AQAB=")), RSA);
        assert_eq!(algorithms(with(ed(), "x", format!("{}=", b64(&[3; 32])))), [Algorithm::EdDSA]);
    }

    #[test]
    fn a_key_that_left_is_withdrawn_and_one_that_stayed_is_not() {
        let before = set(&[rsa(2048), ed()]);
        let document = json!({"keys": [ed(), rsa(4096)]}).to_string();
        let after = KeySet::read(document.as_bytes(), &before).unwrap();
        assert_eq!(before.withdraw_all_but(&after), 1);
        let withdrawn: Vec<_> = before.keys.iter().map(|key| key.is_withdrawn()).collect();
        assert_eq!(withdrawn, [true, false]);
        assert!(after.keys.iter().all(|key| !key.is_withdrawn()));
    }

    #[test]
    fn a_document_that_is_no_key_set_changes_nothing() {
        let read =
            |text: &str| KeySet::read(text.as_bytes(), &KeySet::default()).map(|set| set.len());
        for text in
            ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, r#"{"keys":[]} x"#]
        {
            assert_eq!(read(text), Err(JwksError::Malformed), "{text}");
        }
        assert_eq!(read(r#"{"keys":[]}"#), Ok(0));
        let many = |n| json!({"keys": vec![json!({}); n]}).to_string();
        assert_eq!((read(&many(100)), read(&many(101))), (Ok(0), Err(JwksError::TooMany)));
    }
}
