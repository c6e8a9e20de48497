//! Encryption at rest of row values.
//!
//! With a key, every value that says anything is sealed (AES-256-GCM-SIV, RFC 8452) with its column
//! and the id of its row as associated data, so that it cannot be changed, nor moved to another place,
//! unseen. Ids and the times until which rows are kept stay in the clear, because queries need them.
//! GCM-SIV, as nonces are random and a busy ledger seals more values than plain GCM bears with one key.
//!
//! Sealing happens inside SQL, by functions of this connection: `seal(text, column, id)` and
//! `unseal(text, column, id)`. Without a key both give back what they are given. With two arguments
//! they are the first form (AES-256-GCM, the id alone as associated data), which still seals the proof
//! of the key, and what migrations read.

use std::sync::Arc;

use aws_lc_rs::aead::{
    AES_256_GCM, AES_256_GCM_SIV, Aad, Algorithm, NONCE_LEN, Nonce, RandomizedNonceKey,
};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::{Connection, Error};
use smallvec::SmallVec;

/// Prefix of a sealed text; JSON never begins with it.
const MARK_FIRST: &str = "sealed1:";
const MARK: &str = "sealed2:";

/// A key for the file; its `Debug` shows nothing.
#[derive(Clone)]
pub struct SealKey(Arc<Keys>);

struct Keys {
    /// As it was given: for the first form.
    first: RandomizedNonceKey,
    /// Derived from it, as no key should serve two algorithms.
    derived: RandomizedNonceKey,
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl SealKey {
    /// Reads 64 hexadecimal characters; `None` if they are something else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|[high, low]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok())
            .collect();
        let bytes = zeroize::Zeroizing::new(bytes?);
        let mut derived = zeroize::Zeroizing::new([0; 32]);
        let prk = Salt::new(HKDF_SHA256, b"arbiter storage").extract(&bytes);
        prk.expand(&[b"AES-256-GCM-SIV"], KeyLength).ok()?.fill(&mut *derived).ok()?;
        Some(Self(Arc::new(Keys {
            first: RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()?,
            derived: RandomizedNonceKey::new(&AES_256_GCM_SIV, &*derived).ok()?,
        })))
    }

    fn seal(&self, text: &str, place: &Place<'_>) -> Result<String, Broken> {
        let (key, mark) = self.form(place);
        let mut bytes = text.as_bytes().to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(&place.associated), &mut bytes);
        let nonce = nonce.map_err(|_unspecified| place.broken())?;
        bytes.extend_from_slice(nonce.as_ref());
        Ok(format!("{mark}{}", STANDARD_NO_PAD.encode(bytes)))
    }

    fn unseal(&self, text: &str, place: &Place<'_>) -> Result<String, Broken> {
        self.unsealed(text, place).ok_or_else(|| place.broken())
    }

    fn unsealed(&self, text: &str, place: &Place<'_>) -> Option<String> {
        let (key, mark) = self.form(place);
        let mut bytes = STANDARD_NO_PAD.decode(text.strip_prefix(mark)?).ok()?;
        let nonce = bytes.split_off(bytes.len().checked_sub(NONCE_LEN)?);
        let nonce = Nonce::try_assume_unique_for_key(&nonce).ok()?;
        let plain = key.open_in_place(nonce, Aad::from(&place.associated), &mut bytes).ok()?;
        Some(std::str::from_utf8(plain).ok()?.to_owned())
    }

    fn form(&self, place: &Place<'_>) -> (&RandomizedNonceKey, &'static str) {
        if place.column.is_some() { (&self.0.derived, MARK) } else { (&self.0.first, MARK_FIRST) }
    }
}

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        let algorithm: &Algorithm = &AES_256_GCM_SIV;
        algorithm.key_len()
    }
}

/// Place of a value.
struct Place<'p> {
    /// None in the first form.
    column: Option<&'p str>,
    id: &'p [u8],
    associated: SmallVec<[u8; 64]>,
}

impl<'p> Place<'p> {
    fn new(column: Option<&'p str>, id: &'p [u8]) -> Self {
        let mut associated = SmallVec::new();
        if let Some(column) = column {
            associated.extend_from_slice(column.as_bytes());
            // No column's name holds it, so no two places look alike.
            associated.push(0);
        }
        associated.extend_from_slice(id);
        Self { column, id, associated }
    }

    fn broken(&self) -> Broken {
        let column = self.column.unwrap_or("a sealed value").to_owned();
        // Nearly all ids are UUIDs, some are hashes; those of tokens may be any text.
        let row = match (uuid::Uuid::from_slice(self.id), <[u8; 32]>::try_from(self.id)) {
            (Ok(id), _) => id.to_string(),
            (_, Ok(hash)) => blake3::Hash::from(hash).to_hex().to_string(),
            _ => String::from_utf8_lossy(self.id).into_owned(),
        };
        Broken { column, row }
    }
}

/// A value that was changed, moved, or sealed with another key.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{column}` of the row `{row}` was changed, or sealed with another key")]
struct Broken {
    column: String,
    row: String,
}

/// Opens a value outside of SQL: what `unseal` does with three arguments.
pub(super) fn open_value(
    key: &SealKey,
    text: &str,
    column: &str,
    id: &[u8],
) -> rusqlite::Result<String> {
    let opened = key.unseal(text, &Place::new(Some(column), id));
    opened.map_err(|broken| Error::UserFunctionError(broken.into()))
}

/// Gives a connection the functions.
pub(super) fn install(db: &Connection, key: Option<&SealKey>) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
    for arguments in [2, 3] {
        let (sealing, unsealing) = (key.cloned(), key.cloned());
        db.create_scalar_function("seal", arguments, flags, move |call| {
            with(call, sealing.as_ref(), SealKey::seal)
        })?;
        db.create_scalar_function("unseal", arguments, flags, move |call| {
            with(call, unsealing.as_ref(), SealKey::unseal)
        })?;
    }
    Ok(())
}

fn with(
    call: &Context<'_>,
    key: Option<&SealKey>,
    step: impl Fn(&SealKey, &str, &Place<'_>) -> Result<String, Broken>,
) -> rusqlite::Result<Option<String>> {
    let Some(text) = call.get::<Option<String>>(0)? else { return Ok(None) };
    let Some(key) = key else { return Ok(Some(text)) };
    let wrong = |error: rusqlite::types::FromSqlError| Error::UserFunctionError(error.into());
    let column =
        if call.len() == 3 { Some(call.get_raw(1).as_str().map_err(wrong)?) } else { None };
    let id = call.get_raw(call.len() - 1).as_bytes().map_err(wrong)?;
    let done = step(key, &text, &Place::new(column, id));
    done.map(Some).map_err(|broken| Error::UserFunctionError(broken.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: char) -> SealKey {
        SealKey::from_hex(&digit.to_string().repeat(64)).unwrap()
    }

    fn place<'p>(column: &'p str, id: &'p [u8]) -> Place<'p> {
        Place::new((!column.is_empty()).then_some(column), id)
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_with_its_key_only() {
        for column in ["t.body", ""] {
            let here = place(column, b"row 1");
            let sealed = key('a').seal("secret intent", &here).unwrap();
            assert!(!sealed.contains("intent"));
            assert_ne!(sealed, key('a').seal("secret intent", &here).unwrap());
            assert_eq!(key('a').unseal(&sealed, &here).unwrap(), "secret intent");
            for elsewhere in [place(column, b"row 2"), place("t.state", b"row 1")] {
                assert!(key('a').unseal(&sealed, &elsewhere).is_err());
            }
            assert!(key('b').unseal(&sealed, &here).is_err());
            assert!(key('a').unseal("plain", &here).is_err());
            for at in 0..sealed.len() {
                let mut changed = sealed.clone().into_bytes();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(changed).unwrap();
                assert!(changed == sealed || key('a').unseal(&changed, &here).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn what_is_broken_is_named() {
        let broken = key('a').unseal("x", &place("agents.body", b"jti")).unwrap_err();
        let expected = "`agents.body` of the row `jti` was changed, or sealed with another key";
        assert_eq!(broken.to_string(), expected);
    }

    #[test]
    fn a_key_is_sixty_four_hexadecimal_characters() {
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
            assert!(SealKey::from_hex(text).is_none(), "{text}");
        }
    }
}
