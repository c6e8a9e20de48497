//! Identifiers (`id_in`): accounts, rooms, projects. Compared exactly; an integer is its digits.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::Reading;
use crate::json::keys::folded;
use crate::json::{Kind, Value};

/// Identifiers, and their form without differences of case, width and spaces.
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
    if id.is_ascii() {
        let kept = id.chars().filter(|c| !c.is_ascii_whitespace() && !c.is_control());
        return kept.map(|c| c.to_ascii_lowercase()).collect();
    }
    folded(id).filter(|c| !c.is_whitespace() && !c.is_control()).collect()
}
