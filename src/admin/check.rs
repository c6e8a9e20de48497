//! Limits of what a request may hold, each refusal with the field's name.

use super::error::ApiError;
use crate::firewall::time::Timestamp;

/// Bytes in a name of any kind: owner, model, tool, scope.
pub(crate) const MAX_NAME_BYTES: usize = 256;
/// Bytes in a declared intent.
pub(crate) const MAX_INTENT_BYTES: usize = 1_024;
/// Tools, resources, prompts or methods that a session can name, each.
pub(crate) const MAX_NAMES: usize = 1_024;
/// Capabilities of an agent, scopes of a delegation, credentials of a session.
pub(crate) const MAX_CAPABILITIES: usize = 64;

type Checked<T> = Result<T, ApiError>;

/// One line of text that is not empty.
pub(crate) fn name(field: &str, text: &str) -> Checked<()> {
    bounded(field, text, MAX_NAME_BYTES)?;
    if text.chars().any(char::is_control) {
        return Err(ApiError::field(field, "holds a control character"));
    }
    Ok(())
}

/// Text for people: it may contain line breaks and tabs.
pub(crate) fn intent(field: &str, text: &str) -> Checked<()> {
    bounded(field, text, MAX_INTENT_BYTES)?;
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(ApiError::field(field, "holds a control character"));
    }
    Ok(())
}

fn bounded(field: &str, text: &str, max_bytes: usize) -> Checked<()> {
    if text.trim().is_empty() {
        return Err(ApiError::field(field, "is empty"));
    }
    if text.len() > max_bytes {
        return Err(ApiError::field(field, format!("is over {max_bytes} bytes")));
    }
    Ok(())
}

/// A list of names, none of them twice.
pub(crate) fn names(field: &str, list: &[String], max: usize) -> Checked<()> {
    if list.len() > max {
        return Err(ApiError::field(field, format!("holds more than {max} entries")));
    }
    let mut seen = std::collections::HashSet::with_capacity(list.len());
    for entry in list {
        name(field, entry)?;
        if !seen.insert(entry) {
            return Err(ApiError::field(field, "holds an entry twice"));
        }
    }
    Ok(())
}

/// A whole number within bounds.
pub(crate) fn within(field: &str, number: u64, low: u64, high: u64) -> Checked<()> {
    if (low..=high).contains(&number) {
        Ok(())
    } else {
        Err(ApiError::field(field, format!("must be from {low} to {high}")))
    }
}

/// An end that has not come yet.
pub(crate) fn future(field: &str, at: Option<Timestamp>, now: Timestamp) -> Checked<()> {
    match at {
        Some(at) if at <= now => Err(ApiError::field(field, "must lie in the future")),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_single_lines() {
        assert!(name("f", "user:alice").is_ok());
        assert!(name("f", &"a".repeat(MAX_NAME_BYTES)).is_ok());
        for bad in ["", "  ", "a\nb", "a\0", &"a".repeat(MAX_NAME_BYTES + 1), &"é".repeat(129)] {
            assert_eq!(name("f", bad).expect_err(bad).field.as_deref(), Some("f"));
        }
    }

    #[test]
    fn an_intent_may_have_lines() {
        assert!(intent("f", "read\n\tthe logs").is_ok());
        assert!(intent("f", "read\u{1b}[2J").is_err());
        assert!(intent("f", &"a".repeat(MAX_INTENT_BYTES + 1)).is_err());
    }

    #[test]
    fn lists_are_bounded_and_name_each_thing_once() {
        let list = |n: usize| (0..n).map(|n| n.to_string()).collect::<Vec<_>>();
        assert!(names("f", &list(MAX_NAMES), MAX_NAMES).is_ok());
        assert!(names("f", &list(MAX_NAMES + 1), MAX_NAMES).is_err());
        assert!(names("f", &["a".to_owned(), "a".to_owned()], 2).is_err());
        assert!(names("f", &[String::new()], 2).is_err());
    }
}
