//! Header values that mirror body text: plain ASCII, or Base64 between two markers.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const PREFIX: &str = "=?base64?";
const SUFFIX: &str = "?=";

/// The text a header value stands for; `None` when it is badly encoded.
///
/// Base64 must be the standard alphabet, padded, in its one canonical form, and hold UTF-8. A value
/// that has only one of the two markers is plain text.
pub fn decode(value: &str) -> Option<Cow<'_, str>> {
    if !value.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~')) {
        return None;
    }
    let Some(rest) = value.strip_prefix(PREFIX).filter(|_| value.ends_with(SUFFIX)) else {
        return Some(Cow::Borrowed(value));
    };
    // In `=?base64?=` the markers share a character: neither plain nor encoded.
    let encoded = rest.strip_suffix(SUFFIX)?;
    let bytes = STANDARD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_encoded_values_are_read() {
        for (value, text) in [
            ("us-west1", "us-west1"),
            ("a b\tc", "a b\tc"),
            ("", ""),
            ("=?base64?SGVsbG8sIOS4lueVjA==?=", "Hello, 世界"),
            ("=?base64?IHBhZGRlZCA=?=", " padded "),
            ("=?base64?bGluZTEKbGluZTI=?=", "line1\nline2"),
            ("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=", "=?base64?literal?="),
            ("=?base64??=", ""),
            ("=?base64?abc", "=?base64?abc"),
            ("abc?=", "abc?="),
            ("=?BASE64?YQ==?=", "=?BASE64?YQ==?="),
        ] {
            assert_eq!(decode(value).as_deref(), Some(text), "{value}");
        }
    }

    #[test]
    fn broken_values_are_not() {
        for value in [
            "=?base64?YQ?=",
            "=?base64?YQ=?=",
            "=?base64?YR==?=",
            "=?base64?YQ==\n?=",
            "=?base64? YQ==?=",
            "=?base64?-_8=?=",
            "=?base64?/w==?=",
            "=?base64?wK8=?=",
            "=?base64?=",
            "caf\u{e9}",
            "a\u{0}b",
            "a\u{7f}",
            "a\r\nb",
        ] {
            assert_eq!(decode(value), None, "{value:?}");
        }
    }
}
