//! The form of a JWT in compact serialisation, read strictly (RFC 7515 section 3.1).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};

use super::TokenError;
use crate::json::{Doc, Value};

/// A token in its parts, header already judged.
///
/// Only the header's algorithm and key id are kept: other members (`jku`, `x5u`, `jwk`, `x5c`) name
/// a key of the sender's choice and are never looked at.
pub(crate) struct Compact<'t> {
    /// Text covered by the signature: header and claims with the dot between.
    signed: &'t str,
    claims: &'t str,
    signature: &'t str,
    /// Algorithm named by the token; the key decides.
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
}

impl<'t> Compact<'t> {
    /// Takes a token apart and refuses what RFC 7515 section 4.1.11 and RFC 8725 section 3.11 say
    /// to refuse.
    pub(crate) fn split(token: &'t str) -> Result<Self, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if claims.contains('.') || signature.is_empty() {
            return Err(TokenError::Malformed);
        }
        let header = decode(header)?;
        let doc = Doc::parse(&header).map_err(malformed)?;
        let header = doc.root();
        let algorithm = algorithm(header)?;
        refuse_extensions(header)?;
        refuse_other_types(header)?;
        Ok(Self { signed, claims, signature, algorithm, key_id: key_id(header)? })
    }

    /// Checks the signature with a key that allows the token's algorithm.
    pub(crate) fn verify(&self, key: &DecodingKey) -> Result<(), TokenError> {
        match crypto::verify(self.signature, self.signed.as_bytes(), key, self.algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }

    /// The bytes of the claims; nothing in them is proved before [`Compact::verify`].
    pub(crate) fn payload(&self) -> Result<Vec<u8>, TokenError> {
        decode(self.claims)
    }
}

fn algorithm(header: Value<'_>) -> Result<Algorithm, TokenError> {
    let name = header.get("alg").and_then(|name| name.as_str()).ok_or(TokenError::Algorithm)?;
    algorithm_named(&name).ok_or(TokenError::Algorithm)
}

/// An algorithm by its registered name; RFC 9864 gave Ed25519 a second one.
pub(super) fn algorithm_named(name: &str) -> Option<Algorithm> {
    if name == "Ed25519" { Some(Algorithm::EdDSA) } else { name.parse().ok() }
}

fn refuse_extensions(header: Value<'_>) -> Result<(), TokenError> {
    if header.get("crit").is_some() { Err(TokenError::Critical) } else { Ok(()) }
}

fn refuse_other_types(header: Value<'_>) -> Result<(), TokenError> {
    let Some(kind) = header.get("typ") else { return Ok(()) };
    let kind = kind.as_str().ok_or(TokenError::Type)?.to_ascii_lowercase();
    match kind.strip_prefix("application/").unwrap_or(&kind) {
        "jwt" | "at+jwt" => Ok(()),
        _ => Err(TokenError::Type),
    }
}

fn key_id(header: Value<'_>) -> Result<Option<String>, TokenError> {
    let Some(id) = header.get("kid") else { return Ok(None) };
    Ok(Some(id.as_str().ok_or(TokenError::Malformed)?.into_owned()))
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_not_base64url| TokenError::Malformed)
}

pub(super) fn malformed(_error: crate::json::JsonError) -> TokenError {
    TokenError::Malformed
}
