//! Values that the declared intent must name (`from_intent`).

use memchr::memmem;

/// Finds a value in an intent as a word or words of its own: `bob@corp.com` in "mail bob@corp.com.", but
/// `corp.com` not in it, and `5` not in `50` or `1.5`.
pub(super) fn stands_in(value: &str, intent: &str) -> bool {
    if value.len() > intent.len() || !value.chars().any(char::is_alphanumeric) {
        return false;
    }
    memmem::find_iter(intent.as_bytes(), value).any(|at| {
        let before = intent.get(..at).unwrap_or_default();
        let after = intent.get(at.saturating_add(value.len())..).unwrap_or("x");
        begins_here(before) && ends_here(after)
    })
}

fn begins_here(before: &str) -> bool {
    before.chars().next_back().is_none_or(|c| c.is_whitespace() || "\"'`([{<«„“‘,;$€£¥".contains(c))
}

fn ends_here(after: &str) -> bool {
    let rest = after.trim_start_matches(|c: char| "\"'`)]}>»”’“‘.,;:!?".contains(c));
    let closed = after.len() > rest.len();
    rest.chars().next().is_none_or(|c| c.is_whitespace() || (closed && false_end(after)))
}

/// True if what closes a word is a bracket or quote, behind which the next word may follow at once.
fn false_end(after: &str) -> bool {
    after.starts_with(|c: char| "\"'`)]}>»”’".contains(c))
}
