//! What rows say, encrypted at rest.
//!
//! With a key, every value that says anything is sealed (AES-256-GCM, RFC 5116) with the id of its
//! row as associated data, so that it cannot be changed, nor moved to another row, unseen. Ids,
//! counts and times stay in the clear, because queries need them. Sealing happens inside SQL, by two
//! functions of this connection: `seal(text, id)` and `unseal(text, id)`. Without a key both give
//! back what they are given.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::{Connection, Error};

/// What a sealed text begins with; JSON never does.
const MARK: &str = "sealed1:";

/// A key for the file; its `Debug` shows nothing.
#[derive(Clone)]
pub struct SealKey(Arc<RandomizedNonceKey>);

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
        Some(Self(Arc::new(RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()?)))
    }

    fn seal(&self, text: &str, id: &[u8]) -> Result<String, Broken> {
        let mut bytes = text.as_bytes().to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(id), &mut bytes);
        let nonce = nonce.map_err(|_unspecified| Broken)?;
        bytes.extend_from_slice(nonce.as_ref());
        Ok(format!("{MARK}{}", STANDARD_NO_PAD.encode(bytes)))
    }

    fn unseal(&self, text: &str, id: &[u8]) -> Result<String, Broken> {
        let sealed = text.strip_prefix(MARK).ok_or(Broken)?;
        let mut bytes = STANDARD_NO_PAD.decode(sealed).map_err(|_not_base64| Broken)?;
        let end = bytes.len().checked_sub(NONCE_LEN).ok_or(Broken)?;
        let nonce = bytes.split_off(end);
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_length| Broken)?;
        let plain = self.0.open_in_place(nonce, Aad::from(id), &mut bytes);
        let plain = plain.map_err(|_unspecified| Broken)?;
        std::str::from_utf8(plain).map(str::to_owned).map_err(|_not_utf8| Broken)
    }
}

/// A value that was changed, moved, or sealed with another key.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a sealed value was changed, or sealed with another key")]
struct Broken;

/// Gives a connection the two functions.
pub(super) fn install(db: &Connection, key: Option<SealKey>) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
    let unsealing = key.clone();
    db.create_scalar_function("seal", 2, flags, move |call| {
        with(call, key.as_ref(), SealKey::seal)
    })?;
    db.create_scalar_function("unseal", 2, flags, move |call| {
        with(call, unsealing.as_ref(), SealKey::unseal)
    })
}

fn with(
    call: &Context<'_>,
    key: Option<&SealKey>,
    step: impl Fn(&SealKey, &str, &[u8]) -> Result<String, Broken>,
) -> rusqlite::Result<Option<String>> {
    let Some(text) = call.get::<Option<String>>(0)? else { return Ok(None) };
    let Some(key) = key else { return Ok(Some(text)) };
    let id: Vec<u8> = call.get(1)?;
    step(key, &text, &id).map(Some).map_err(|broken| Error::UserFunctionError(broken.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: char) -> SealKey {
        SealKey::from_hex(&digit.to_string().repeat(64)).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_in_its_row_with_its_key_only() {
        let sealed = key('a').seal("secret intent", b"row 1").unwrap();
        assert!(!sealed.contains("intent"));
        assert_ne!(sealed, key('a').seal("secret intent", b"row 1").unwrap());
        assert_eq!(key('a').unseal(&sealed, b"row 1").unwrap(), "secret intent");
        assert!(key('a').unseal(&sealed, b"row 2").is_err());
        assert!(key('b').unseal(&sealed, b"row 1").is_err());
        assert!(key('a').unseal("plain", b"row 1").is_err());
        for at in MARK.len()..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(changed == sealed || key('a').unseal(&changed, b"row 1").is_err(), "{at}");
        }
    }

    #[test]
    fn a_key_is_sixty_four_hexadecimal_characters() {
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
            assert!(SealKey::from_hex(text).is_none(), "{text}");
        }
    }
}
