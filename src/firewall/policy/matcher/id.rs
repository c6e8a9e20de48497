//! Identifiers (`id_in`): accounts, rooms, projects. Compared exactly; an integer is its digits.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::Reading;
use crate::json::keys::folded;
use crate::json::{Kind, Value};

/// Identifiers, and their form without differences of case, width, spaces and notation of numbers.
#[derive(Debug)]
pub(in super::super) struct Ids {
    exact: BTreeSet<Box<str>>,
    folded: BTreeSet<String>,
}

impl Ids {
    pub(in super::super) fn parse(entries: &[&str]) -> Result<Self, String> {
        if let Some(bad) =
            entries.iter().find(|id| id.trim() != **id || id.chars().any(char::is_control))
        {
            return Err(format!(
                "`{bad}` must not begin or end with a space or hold a control character"
            ));
        }
        Ok(Self {
            exact: entries.iter().map(|&id| id.into()).collect(),
            folded: entries.iter().map(|id| fold(id)).collect(),
        })
    }

    pub(super) fn read(&self, value: Value<'_>) -> Reading {
        let text = match value.kind() {
            Kind::String => value.as_str(),
            Kind::Number => value.as_number().filter(|n| is_integer(n)).map(Cow::Borrowed),
            Kind::Object | Kind::Array | Kind::True | Kind::False | Kind::Null => None,
        };
        let Some(text) = text else { return Reading::Unclear };
        if self.exact.contains(&*text) {
            return Reading::In;
        }
        if text.is_empty() || self.folded.contains(&fold(&text)) {
            return Reading::Unclear;
        }
        Reading::Out
    }
}

fn is_integer(number: &str) -> bool {
    number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') && number != "-0"
}

fn fold(id: &str) -> String {
    let kept = |c: &char| !c.is_whitespace() && !c.is_control();
    let id: String = if id.is_ascii() {
        id.chars().filter(kept).map(|c| c.to_ascii_lowercase()).collect()
    } else {
        folded(id).filter(kept).collect()
    };
    as_integer(&id).unwrap_or(id)
}

/// The digits of an integer in another notation, as servers read it from a text: `042`, `+42`, `42.0`,
/// `4.2e1`, `0x2a`. Integers of any length keep all digits.
fn as_integer(id: &str) -> Option<String> {
    let (sign, digits) = match id.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", id.strip_prefix('+').unwrap_or(id)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let whole = |digits: &str| {
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() { "0".to_owned() } else { format!("{sign}{digits}") }
    };
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(whole(digits));
    }
    let radix = [("0x", 16), ("0o", 8), ("0b", 2)];
    for (prefix, radix) in radix {
        if let Some(rest) = digits.strip_prefix(prefix) {
            return u128::from_str_radix(rest, radix).ok().map(|value| whole(&value.to_string()));
        }
    }
    // Every integer below 2^53 is exact as a double, and printed without exponent.
    let value: f64 = digits.parse().ok()?;
    (value.fract() == 0.0 && value < 9_007_199_254_740_992.0).then(|| whole(&value.to_string()))
}
