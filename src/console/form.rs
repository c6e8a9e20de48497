//! Forms that browsers send: bounded in size and time, each field at most once.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use url::form_urlencoded;

use crate::admin::{ApiError, Code};

/// Largest form: the text of a candidate policy set, escaped.
const MAX_BYTES: usize = 256 * 1024;
/// Time within which a form must arrive.
const DEADLINE: Duration = Duration::from_secs(10);

/// The fields of one form.
#[derive(Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) async fn read(head: &Parts, body: Body) -> Result<Self, ApiError> {
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        if !kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(ApiError::new(Code::UnsupportedMediaType, "this is not a form"));
        }
        let too_large = || {
            let message = format!("the form broke off or is over {MAX_BYTES} bytes");
            ApiError::new(Code::BodyTooLarge, message)
        };
        let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        if length.and_then(|length| length.parse().ok()).is_some_and(|n: u64| n > MAX_BYTES as u64)
        {
            return Err(too_large());
        }
        let bytes = axum::body::to_bytes(body, MAX_BYTES);
        match tokio::time::timeout(DEADLINE, bytes).await {
            Ok(Ok(bytes)) => Self::parse(&bytes),
            Ok(Err(_)) => Err(too_large()),
            Err(_) => Err(ApiError::new(Code::RequestTimeout, "the form took too long")),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(bytes).into_owned().take(32) {
            if fields.iter().any(|(known, _)| *known == name) {
                let name: String = name.chars().take(64).collect();
                return Err(ApiError::field(name, "is given twice"));
            }
            fields.push((name, value));
        }
        Ok(Self(fields))
    }

    /// Returns a field's value; empty if it is not there.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// Returns a field's value unless it is empty.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        Some(self.get(name).trim()).filter(|value| !value.is_empty())
    }
}

/// Reads a query string.
pub(super) fn query(text: Option<&str>) -> Form {
    let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
    Form(pairs.into_owned().take(32).collect())
}

/// Writes a query string of the parameters that have a value.
pub(super) fn write_query(pairs: &[(&str, &str)]) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        out.append_pair(name, value);
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_counts_once() {
        let form = Form::parse(b"a=1&b=x+y%26").unwrap();
        assert_eq!((form.get("a"), form.get("b"), form.get("c")), ("1", "x y&", ""));
        assert!(Form::parse(b"a=1&a=2").is_err());
    }

    #[test]
    fn a_query_is_written_as_it_is_read() {
        let text = write_query(&[("a", "x&y=z"), ("b", ""), ("c", "ä")]);
        let read = query(Some(&text));
        assert_eq!((read.get("a"), read.get("b"), read.get("c")), ("x&y=z", "", "ä"));
    }
}
