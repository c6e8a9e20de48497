//! A request's body: bounded, strictly parsed, and typed with the name of the field that is wrong.
//!
//! The strict parser goes first, so that what serde sees has no key twice and no deep nesting.
//! serde alone does not say which field it stumbled over; [`Fields`] remembers it.

use std::cell::RefCell;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess};
use serde_json::{Map, Value};

use super::error::{ApiError, Code};
use crate::json::{Doc, Kind};

/// The largest body that the admin API reads.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Time within which a caller must send the body.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Reads a JSON body whole, or says why not.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    media_type(headers)?;
    let too_large = || {
        let message = format!("the body is over {MAX_BODY_BYTES} bytes");
        ApiError::new(Code::BodyTooLarge, message)
    };
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if declared.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let bytes = axum::body::to_bytes(body, MAX_BODY_BYTES);
    match tokio::time::timeout(BODY_DEADLINE, bytes).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_long(&error) => Err(too_large()),
        Ok(Err(_broken)) => Err(ApiError::new(Code::MalformedRequest, "the body broke off")),
        Err(_elapsed) => Err(ApiError::new(Code::RequestTimeout, "the body took too long")),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit") {
            return true;
        }
        cause = error.source();
    }
    false
}

fn media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let refused = |message: &str| Err(ApiError::new(Code::UnsupportedMediaType, message));
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next().map(is_json), types.next()) {
        (Some(true), None) => {}
        _ => return refused("send the body as `Content-Type: application/json`"),
    }
    let plain = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        Ok(())
    } else {
        refused("send the body uncompressed, without `Content-Encoding`")
    }
}

fn is_json(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|t| t.eq_ignore_ascii_case("application/json"));
    is_json
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            _ => true,
        })
}

/// Parses and types a body.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    typed(members(bytes)?)
}

/// Parses and types a body that has a part flattened into it. serde does not say which member of such a
/// part is wrong, so the part is read by itself first.
pub(crate) fn parse_with<T: DeserializeOwned, Part: DeserializeOwned>(
    bytes: &[u8],
) -> Result<T, ApiError> {
    let members = members(bytes)?;
    typed::<Part>(members.clone())?;
    typed(members)
}

fn members(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let doc = Doc::parse(bytes).map_err(|e| malformed(format!("the body is not JSON: {e}")))?;
    if doc.root().kind() != Kind::Object {
        return Err(malformed("the body is not a JSON object".to_owned()));
    }
    serde_json::from_str(doc.text()).map_err(|e| malformed(format!("the body is not JSON: {e}")))
}

fn typed<T: DeserializeOwned>(members: Map<String, Value>) -> Result<T, ApiError> {
    let current = RefCell::new(None);
    let fields = Fields { members: members.into_iter(), value: None, current: &current };
    T::deserialize(MapAccessDeserializer::new(fields)).map_err(|error| {
        let text = error.to_string();
        let field = current.into_inner().or_else(|| named_field(&text));
        match field {
            Some(field) => ApiError::field(clip(&field), format!("will not do: {}", clip(&text))),
            None => malformed(clip(&text)),
        }
    })
}

fn malformed(text: String) -> ApiError {
    ApiError::new(Code::MalformedRequest, text)
}

/// The name in serde's "missing field `x`", or "unknown field `x`" where a part is flattened.
fn named_field(text: &str) -> Option<String> {
    let rest = text.strip_prefix("missing").or_else(|| text.strip_prefix("unknown"))?;
    let rest = rest.strip_prefix(" field `")?;
    rest.split_once('`').map(|(name, _)| name.to_owned())
}

/// Short enough to be quoted, and one line.
fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The members of a body, one by one; `current` holds the name of the one being read.
struct Fields<'a> {
    members: serde_json::map::IntoIter,
    value: Option<Value>,
    current: &'a RefCell<Option<String>>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        let Some((key, value)) = self.members.next() else {
            self.current.replace(None);
            return Ok(None);
        };
        self.current.replace(Some(key.clone()));
        self.value = Some(value);
        let key: StringDeserializer<Self::Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Self::Error> {
        // serde asks for a value only after its key; without one it gets `null`.
        seed.deserialize(self.value.take().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        count: Option<u64>,
    }

    fn wrong(body: &str, field: Option<&str>, code: Code) {
        let error = parse::<Sample>(body.as_bytes()).expect_err(body);
        assert_eq!((error.field.as_deref(), error.code), (field, code), "{body}: {error:?}");
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        wrong(r#"{"name":1}"#, Some("name"), Code::InvalidField);
        wrong(r#"{"name":"a","count":-1}"#, Some("count"), Code::InvalidField);
        wrong(r#"{"name":"a","count":1.5}"#, Some("count"), Code::InvalidField);
        wrong(r#"{"name":"a","count":18446744073709551616}"#, Some("count"), Code::InvalidField);
        wrong(r#"{"count":1}"#, Some("name"), Code::InvalidField);
        wrong(r#"{"name":"a","colour":"b"}"#, Some("colour"), Code::InvalidField);
        let sample: Sample = parse(br#"{"name":"a","count":null}"#).unwrap();
        assert_eq!((sample.name.as_str(), sample.count), ("a", None));
    }

    #[test]
    fn what_is_not_one_strict_object_is_malformed() {
        wrong("", None, Code::MalformedRequest);
        wrong("[]", None, Code::MalformedRequest);
        wrong("null", None, Code::MalformedRequest);
        wrong(r#"{"name":"a","name":"b"}"#, None, Code::MalformedRequest);
        wrong(r#"{"name":"a"}{}"#, None, Code::MalformedRequest);
        wrong(&"[".repeat(50_000), None, Code::MalformedRequest);
        wrong(r#"{"name":"\ud800"}"#, None, Code::MalformedRequest);
    }

    #[test]
    fn only_plain_json_is_read() {
        let check = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            media_type(&headers).is_ok()
        };
        assert!(check(&[("content-type", "application/json")]));
        assert!(check(&[("content-type", "Application/JSON; charset=\"UTF-8\"")]));
        assert!(check(&[("content-type", "application/json"), ("content-encoding", "identity")]));
        assert!(!check(&[]));
        assert!(!check(&[("content-type", "text/json")]));
        assert!(!check(&[("content-type", "application/json; charset=utf-16")]));
        assert!(!check(&[("content-type", "application/json"), ("content-encoding", "gzip")]));
        assert!(!check(&[("content-type", "application/json"), ("content-type", "text/plain")]));
    }
}
