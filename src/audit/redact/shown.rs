//! Parameters as a person is shown them who decides about a call.
//!
//! The text is JSON, whatever is left out of it: each place that is redacted or too long is marked on
//! its own, with its length and a keyed hash. So a person sees where something is missing, and whether it
//! is the same as in another call of the session, and nobody without the key can find out by trial.

use std::sync::Arc;

use super::{MARK, Output, REPLACEMENT, Redacted, Redactor, Walk, begun, without_known};
use crate::credentials::Patterns;
use crate::json::Value;
use crate::json::write::escaped;

/// Digits of a hash that are shown.
const SHOWN_DIGITS: usize = 16;

/// Maker of marks, and the credentials that are known here.
#[derive(Clone, Debug)]
pub struct Marks {
    hasher: blake3::Hasher,
    known: Arc<Patterns>,
}

impl Marks {
    /// Makes marks whose hashes count for `about` alone.
    pub fn new(key: &[u8; 32], about: &[u8], known: Arc<Patterns>) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(about);
        Self { hasher, known }
    }

    /// Returns the mark of a text that is secret.
    pub(super) fn redacted(&self, text: &str) -> String {
        self.of("REDACTED", text)
    }

    fn of(&self, what: &str, text: &str) -> String {
        let hash = self.hasher.clone().update(text.as_bytes()).finalize().to_hex();
        let shown = hash.get(..SHOWN_DIGITS).unwrap_or_default();
        format!("[{what} {} bytes, {shown}]", text.len())
    }
}

impl Redactor {
    /// Writes a call's parameters for a person, up to about `max_bytes`; true if some did not fit.
    pub fn show(&self, parameters: Value<'_>, max_bytes: usize, marks: &Marks) -> (Redacted, bool) {
        let mut out = Output::new(max_bytes);
        self.value(parameters, &mut out, &mut Walk::new(Some(marks)));
        (Redacted(without_known(out.text, &marks.known)), out.clipped)
    }
}

impl Walk<'_> {
    /// Writes the mark of a value that is secret.
    pub(super) fn replace(&mut self, secret: Value<'_>, out: &mut Output) {
        self.redacted = true;
        let Some(marks) = self.marks else { return out.push(REPLACEMENT) };
        let text = secret.as_str();
        let mark = marks.redacted(text.as_deref().unwrap_or(secret.raw()));
        out.push(&format!("\"{mark}\""));
    }

    /// Writes the name of a member.
    pub(super) fn push_key(&self, key: Value<'_>, out: &mut Output) {
        self.push_part(key, out.clip(key.raw()), out);
    }

    /// Writes a string of which `raw` is all or the beginning.
    pub(super) fn push_part(&self, string: Value<'_>, raw: &str, out: &mut Output) {
        match self.marks {
            Some(marks) if raw.len() < string.raw().len() => {
                out.push_clipped(&begun(raw, &marks.known));
                end(string, marks, out);
            }
            Some(_) | None => out.push_clipped(raw),
        }
    }

    /// Writes what is left of a string of which `raw`, all or the beginning, was read.
    pub(super) fn push_redacted(
        &mut self,
        string: Value<'_>,
        raw: &str,
        redacted: &str,
        out: &mut Output,
    ) {
        let Some(marks) = self.marks else { return };
        self.redacted = true;
        let room = out.max_bytes.saturating_sub(out.text.len()).max(MARK.len());
        let kept = redacted.get(..redacted.floor_char_boundary(room)).unwrap_or_default();
        let whole = raw.len() == string.raw().len() && kept.len() == redacted.len();
        let kept = if whole { kept.to_owned() } else { begun(kept, &marks.known) };
        let mut written = vec![b'"'];
        escaped(&mut written, &kept);
        out.push(&String::from_utf8_lossy(&written));
        if whole { out.push("\"") } else { end(string, marks, out) }
    }

    /// Writes the mark of a value for which there is no room.
    pub(super) fn clip(&self, value: Value<'_>, out: &mut Output) {
        let Some(marks) = self.marks else { return };
        let mark = clipped(value.raw(), marks, out);
        out.push(&format!("\"{mark}\""));
    }

    /// Ends an object whose members from the one called `key` on have no room.
    pub(super) fn clip_members(&self, object: Value<'_>, key: Value<'_>, out: &mut Output) {
        let Some(marks) = self.marks else { return };
        let mark = clipped(rest_of(object, key), marks, out);
        out.push(if out.text.ends_with('{') { "" } else { "," });
        out.push(&format!("\"[CLIPPED]\":\"{mark}\"}}"));
    }

    /// Ends a list whose items from `item` on have no room.
    pub(super) fn clip_items(&self, array: Value<'_>, item: Value<'_>, out: &mut Output) {
        let Some(marks) = self.marks else { return };
        let mark = clipped(rest_of(array, item), marks, out);
        out.push(if out.text.ends_with('[') { "" } else { "," });
        out.push(&format!("\"{mark}\"]"));
    }
}

/// Returns the text of `whole` from a part of it on, up to its end.
fn rest_of<'d>(whole: Value<'d>, part: Value<'d>) -> &'d str {
    let from = part.span().start.saturating_sub(whole.span().start);
    whole.raw().get(from..).unwrap_or_default()
}

/// Returns the mark of a text that is left out.
fn clipped(text: &str, marks: &Marks, out: &mut Output) -> String {
    out.clipped = true;
    marks.of("CLIPPED", text)
}

/// Ends a string of which a part was written.
fn end(string: Value<'_>, marks: &Marks, out: &mut Output) {
    let mark = clipped(string.raw(), marks, out);
    out.push(&format!(" {mark}\""));
}

#[cfg(test)]
mod tests;
