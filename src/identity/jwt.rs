//! The form of a JWT in compact serialisation, read strictly (RFC 7515 section 3.1).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};

use super::TokenError;
use crate::mcp::json::{Doc, Value};

/// A token in its parts, header already decoded.
pub struct Compact<'t> {
    /// What the signature covers: header and claims with the dot between.
    signed: &'t str,
    claims: &'t str,
    signature: &'t str,
    header: Vec<u8>,
    pub algorithm: Algorithm,
}

/// The claims that identity looks at, typed.
pub struct Claims {
    pub issuer: String,
    pub subject: String,
    pub agent: Option<String>,
    pub token_id: Option<String>,
    pub expires_at: i64,
    pub not_before: Option<i64>,
    pub issued_at: Option<i64>,
}

impl<'t> Compact<'t> {
    /// Takes a token apart; the algorithm it names is read but not yet believed.
    pub fn split(token: &'t str) -> Result<Self, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if claims.contains('.') || signature.is_empty() {
            return Err(TokenError::Malformed);
        }
        let header = decode(header)?;
        let algorithm = {
            let doc = Doc::parse(&header).map_err(malformed)?;
            let name =
                doc.root().get("alg").and_then(|v| v.as_str()).ok_or(TokenError::Algorithm)?;
            name.parse().map_err(|_unknown| TokenError::Algorithm)?
        };
        Ok(Self { signed, claims, signature, header, algorithm })
    }

    /// Refuses what RFC 7515 section 4.1.11 and RFC 8725 section 3.11 say to refuse.
    pub fn check_header(&self) -> Result<(), TokenError> {
        let doc = Doc::parse(&self.header).map_err(malformed)?;
        if doc.root().get("crit").is_some() {
            return Err(TokenError::Critical);
        }
        let Some(kind) = doc.root().get("typ") else { return Ok(()) };
        let kind = kind.as_str().ok_or(TokenError::Type)?.to_ascii_lowercase();
        match kind.strip_prefix("application/").unwrap_or(&kind) {
            "jwt" | "at+jwt" => Ok(()),
            _ => Err(TokenError::Type),
        }
    }

    /// Checks the signature with `key` and the algorithm that was agreed beforehand.
    pub fn verify(&self, key: &DecodingKey) -> Result<(), TokenError> {
        match crypto::verify(self.signature, self.signed.as_bytes(), key, self.algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }

    /// Reads the claims.
    pub fn claims(&self) -> Result<Claims, TokenError> {
        let bytes = decode(self.claims)?;
        let doc = Doc::parse(&bytes).map_err(malformed)?;
        let root = doc.root();
        Ok(Claims {
            issuer: required(text(root, "iss")?)?,
            subject: required(text(root, "sub")?)?,
            agent: text(root, "agent_id")?,
            token_id: text(root, "jti")?,
            expires_at: required(seconds(root, "exp")?)?,
            not_before: seconds(root, "nbf")?,
            issued_at: seconds(root, "iat")?,
        })
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_not_base64url| TokenError::Malformed)
}

fn malformed(_error: crate::mcp::json::JsonError) -> TokenError {
    TokenError::Malformed
}

fn required<T>(claim: Option<T>) -> Result<T, TokenError> {
    claim.ok_or(TokenError::Claims)
}

fn text(claims: Value<'_>, name: &str) -> Result<Option<String>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let text = value.as_str().ok_or(TokenError::Claims)?;
    if text.is_empty() { Err(TokenError::Claims) } else { Ok(Some(text.into_owned())) }
}

/// A `NumericDate` (RFC 7519 section 2): seconds, fractions cut off.
fn seconds(claims: Value<'_>, name: &str) -> Result<Option<i64>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let digits = value.as_number().ok_or(TokenError::Claims)?;
    let whole = digits.split_once('.').map_or(digits, |(whole, _)| whole);
    whole.parse().map(Some).map_err(|_not_seconds| TokenError::Claims)
}
