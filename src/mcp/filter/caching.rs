//! Hints by which clients and caches keep an answer (SEP-2549): what one session may see is for that
//! session alone, and not for long.

use std::ops::Range;

use crate::json::{Kind, Value};

/// The member that says for whom an answer may be kept.
pub(super) const SCOPE: &str = "cacheScope";
/// The member that says for how long.
pub(super) const TTL: &str = "ttlMs";

/// Bounds of what an answer may say about its being kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caching {
    pub max_ttl_ms: u64,
    /// True if the message's revision demands both members.
    pub demanded: bool,
}

/// Bytes to replace, perhaps none, and the text in their place, perhaps empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) span: Range<usize>,
    pub(super) put: String,
}

impl Edit {
    pub(super) fn cut(span: Range<usize>) -> Self {
        Self { span, put: String::new() }
    }
}

impl Caching {
    /// The edit after which a member of a result is within the bounds; none if it is already.
    pub(super) fn bound(self, key: &str, value: Value<'_>) -> Option<Edit> {
        let put = match key {
            SCOPE if value.as_str().as_deref() != Some("private") => "\"private\"".to_owned(),
            TTL => self.bound_ttl(value)?,
            _ => return None,
        };
        Some(Edit { span: value.span(), put })
    }

    /// A time that is no plain number of milliseconds is none.
    fn bound_ttl(self, value: Value<'_>) -> Option<String> {
        let plain = value.kind() == Kind::Number && value.raw().bytes().all(|b| b.is_ascii_digit());
        match value.raw().parse::<u64>() {
            Ok(ttl) if plain && ttl <= self.max_ttl_ms => None,
            // More digits than fit are more than the bound.
            _ if plain => Some(self.max_ttl_ms.to_string()),
            _ => Some("0".to_owned()),
        }
    }

    /// The edit that adds what a result with other members must say and does not.
    pub(super) fn complete(self, result: Value<'_>) -> Option<Edit> {
        if !self.demanded {
            return None;
        }
        let missing = |key: &str| result.get(key).is_none();
        let mut put = String::new();
        if missing(SCOPE) {
            put.push_str("\"cacheScope\":\"private\",");
        }
        if missing(TTL) {
            put.push_str("\"ttlMs\":0,");
        }
        let inside = result.span().start + 1;
        (!put.is_empty()).then_some(Edit { span: inside..inside, put })
    }
}
