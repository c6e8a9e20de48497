//! What of a call's arguments may stand in the log.
//!
//! The value of a key that names a secret is replaced, whatever its type and depth. Keys are
//! compared as words, so `userPassword`, `Access-Tokens` and `x_api_key` are found and `author` and
//! `keyboard` are not. Everything else is written as it came, without the space between tokens;
//! only characters that could break a line or a terminal are escaped, which is the same JSON.
//!
//! The values of known credentials are taken out wherever they stand, in any encoding, before
//! anything is cut: an agent that pastes one must not bring it into the log.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::credentials::{Content, Patterns, Scrubber, scrub_header_value};
use crate::json::write::{breaks_lines, escaped};
use crate::json::{Kind, Value};

/// The patterns that are always looked for, unless the configuration replaces them.
pub const PATTERNS: [&str; 24] = [
    "password",
    "passwd",
    "pwd",
    "token",
    "access_token",
    "refresh_token",
    "secret",
    "client_secret",
    "key",
    "api_key",
    "apikey",
    "api-key",
    "authorization",
    "auth",
    "credential",
    "cred",
    "private",
    "private_key",
    "ssn",
    "social_security",
    "credit_card",
    "card_number",
    "cvv",
    "cvc",
];

const REPLACEMENT: &str = "\"[REDACTED]\"";
/// How much of arguments that are too long is shown, at most.
const MAX_HEAD_BYTES: usize = 1_024;
/// Arguments past their limit are hashed in pieces of this size.
const PIECE_BYTES: usize = 16 * 1_024;

/// Compact JSON text that a [`Redactor`] made: one line, and nothing secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redacted(String);

impl Redacted {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands for a body whose content is not written: its length and its hash.
    pub fn digest(body: &[u8]) -> Self {
        let (length, hash) = (body.len(), blake3::hash(body).to_hex());
        Self(format!("\"...[{length} bytes, blake3 {hash:.16}]\""))
    }

    /// Makes the form without content: length and hash of what would have been written.
    #[must_use]
    pub fn brief(&self) -> Self {
        let mut output = Output::new(0);
        output.push(&self.0);
        Self(output.finish())
    }
}

/// A configured pattern that could never match, or would match everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("redaction pattern `{0}` has no letter or digit")]
pub struct EmptyPattern(String);

/// The patterns in force.
#[derive(Clone, Debug)]
pub struct Redactor {
    /// Each pattern's words, written together.
    patterns: HashSet<String>,
    longest: usize,
}

impl Redactor {
    /// Adds `extra` to the patterns, or puts them in their place if `replace`.
    pub fn new(extra: &[String], replace: bool) -> Result<Self, EmptyPattern> {
        let built_in = if replace { &[][..] } else { &PATTERNS[..] };
        let mut patterns = HashSet::new();
        let mut words = Words::default();
        for pattern in built_in.iter().copied().chain(extra.iter().map(String::as_str)) {
            words.split(pattern, Acronym::EndsBeforeItsLastLetter);
            if words.text.is_empty() {
                return Err(EmptyPattern(pattern.to_owned()));
            }
            patterns.insert(words.text.clone());
        }
        let longest = patterns.iter().map(String::len).max().unwrap_or_default();
        Ok(Self { patterns, longest })
    }

    /// Writes one call's arguments, without the values of `known` credentials.
    pub fn redact(
        &self,
        arguments: Value<'_>,
        max_bytes: usize,
        known: &Arc<Patterns>,
    ) -> Redacted {
        write(max_bytes, known, |out| self.value(arguments, out, &mut Words::default()))
    }

    /// Writes the arguments of a batch's calls as one list.
    pub fn redact_batch(
        &self,
        calls: &[Option<Value<'_>>],
        max_bytes: usize,
        known: &Arc<Patterns>,
    ) -> Redacted {
        let mut words = Words::default();
        write(max_bytes, known, |out| {
            let mut separator = "[";
            for arguments in calls {
                out.push(separator);
                separator = ",";
                match arguments {
                    Some(arguments) => self.value(*arguments, out, &mut words),
                    None => out.push("null"),
                }
            }
            out.push(if separator == "[" { "[]" } else { "]" });
        })
    }

    /// Whether a key names something that must not be written down.
    pub fn names_a_secret(&self, key: &str) -> bool {
        self.is_secret(key, &mut Words::default())
    }

    fn is_secret(&self, key: &str, words: &mut Words) -> bool {
        // Where an acronym ends cannot be known: `APIKey` is API Key, `DBpassword` is DB password.
        words.split(key, Acronym::EndsBeforeItsLastLetter);
        if self.matches(words) {
            return true;
        }
        words.ambiguous && {
            words.split(key, Acronym::EndsWithItsLastLetter);
            self.matches(words)
        }
    }

    /// Whether some words in a row, written together, are a pattern.
    fn matches(&self, words: &Words) -> bool {
        words.ends.iter().enumerate().any(|(n, _)| {
            let start = n.checked_sub(1).and_then(|p| words.ends.get(p)).copied().unwrap_or(0);
            words
                .ends
                .iter()
                .skip(n)
                .take_while(|end| **end - start <= self.longest)
                .any(|end| words.text.get(start..*end).is_some_and(|w| self.patterns.contains(w)))
        })
    }

    /// Writes a value; the parser has bounded how deep it can nest.
    fn value(&self, value: Value<'_>, out: &mut Output, words: &mut Words) {
        match value.kind() {
            Kind::Object => {
                out.push("{");
                let mut first = true;
                for entry in value.entries() {
                    if !std::mem::take(&mut first) {
                        out.push(",");
                    }
                    out.push_string(entry.key_value().raw());
                    out.push(":");
                    if self.is_secret(&entry.key(), words) {
                        out.push(REPLACEMENT);
                    } else {
                        self.value(entry.value, out, words);
                    }
                }
                out.push("}");
            }
            Kind::Array => {
                out.push("[");
                let mut first = true;
                for item in value.items() {
                    if !std::mem::take(&mut first) {
                        out.push(",");
                    }
                    self.value(item, out, words);
                }
                out.push("]");
            }
            Kind::String => out.push_string(value.raw()),
            Kind::Number | Kind::True | Kind::False | Kind::Null => out.push(value.raw()),
        }
    }
}

/// Has arguments written, and takes out what is known to be secret before anything is cut.
fn write(max_bytes: usize, known: &Arc<Patterns>, write: impl FnOnce(&mut Output)) -> Redacted {
    if known.is_empty() {
        let mut out = Output::new(max_bytes);
        write(&mut out);
        return Redacted(out.finish());
    }
    // All of it first: a value must be found also where the text is cut, and the hash of what
    // is cut off must not be a hash of secrets.
    let mut whole = Output::new(usize::MAX);
    write(&mut whole);
    let mut scrubber = Scrubber::new(Arc::clone(known), Content::Json);
    let mut text = scrubber.push(Bytes::from(whole.finish())).to_vec();
    text.extend_from_slice(&scrubber.finish());
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if scrubber.replaced() > 0 && serde_json::from_str::<IgnoredAny>(&text).is_err() {
        // A secret with quotes in it took a part of the notation with it.
        let mut quoted = b"\"".to_vec();
        escaped(&mut quoted, &text);
        quoted.push(b'"');
        text = String::from_utf8_lossy(&quoted).into_owned();
    }
    let mut out = Output::new(max_bytes);
    out.push(&text);
    Redacted(out.finish())
}

/// A short text that an agent chose, without the values of `known` credentials.
pub fn scrubbed<'t>(text: &'t str, known: &Arc<Patterns>) -> Cow<'t, str> {
    if known.is_empty() {
        return Cow::Borrowed(text);
    }
    match scrub_header_value(known, text.as_bytes()) {
        Some((scrubbed, _)) => Cow::Owned(String::from_utf8_lossy(&scrubbed).into_owned()),
        None => Cow::Borrowed(text),
    }
}

/// Where the word ends that a run of capitals and a small letter begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acronym {
    EndsBeforeItsLastLetter,
    EndsWithItsLastLetter,
}

/// A key's words, in small letters and without a plural s, written together.
#[derive(Default)]
struct Words {
    text: String,
    ends: Vec<usize>,
    /// Whether the key has a run of capitals before a small letter.
    ambiguous: bool,
}

impl Words {
    fn split(&mut self, key: &str, acronym: Acronym) {
        self.text.clear();
        self.ends.clear();
        self.ambiguous = false;
        let mut before: Option<char> = None;
        let mut run = 0;
        let mut chars = key.chars().peekable();
        while let Some(c) = chars.next() {
            if !c.is_alphanumeric() {
                self.end_word();
                before = None;
                run = 0;
                continue;
            }
            let next_is_small = chars.peek().is_some_and(|n| n.is_lowercase());
            let new_word = before.is_some_and(|before| {
                if before.is_numeric() != c.is_numeric() {
                    return true;
                }
                match (before.is_uppercase(), c.is_uppercase()) {
                    (false, true) => true,
                    (true, true) if next_is_small => {
                        self.ambiguous = true;
                        acronym == Acronym::EndsBeforeItsLastLetter
                    }
                    (true, false) => run > 1 && acronym == Acronym::EndsWithItsLastLetter,
                    (true, true) | (false, false) => false,
                }
            });
            if new_word {
                self.end_word();
            }
            run = if c.is_uppercase() { run + 1 } else { 0 };
            self.text.extend(c.to_lowercase());
            before = Some(c);
        }
        self.end_word();
    }

    fn end_word(&mut self) {
        let start = self.ends.last().copied().unwrap_or(0);
        let word = self.text.get(start..).unwrap_or_default();
        if word.is_empty() {
            return;
        }
        if word.len() > 1 && word.ends_with('s') && !word.ends_with("ss") {
            self.text.pop();
        }
        self.ends.push(self.text.len());
    }
}

/// Text up to a limit; past it only the head is kept, and the length and hash of it all.
struct Output {
    text: String,
    max_bytes: usize,
    over: Option<Over>,
}

struct Over {
    head: String,
    bytes: usize,
    hasher: Box<blake3::Hasher>,
}

impl Output {
    fn new(max_bytes: usize) -> Self {
        Self { text: String::new(), max_bytes, over: None }
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        let limit = if self.over.is_some() { PIECE_BYTES } else { self.max_bytes };
        if self.text.len() > limit {
            self.spill();
        }
    }

    /// Writes a JSON string as it stood, quotes included.
    fn push_string(&mut self, raw: &str) {
        if raw.bytes().all(|b| b < 0x7f) || !raw.contains(breaks_lines) {
            self.push(raw);
            return;
        }
        for piece in raw.split_inclusive(breaks_lines) {
            let end = piece.char_indices().next_back().filter(|(_, c)| breaks_lines(*c));
            let (plain, odd) = piece.split_at(end.map_or(piece.len(), |(at, _)| at));
            self.push(plain);
            let mut escape = Vec::new();
            escaped(&mut escape, odd);
            self.push(str::from_utf8(&escape).unwrap_or_default());
        }
    }

    fn spill(&mut self) {
        let over = self.over.get_or_insert_with(|| {
            let end = MAX_HEAD_BYTES.min(self.max_bytes / 4);
            let (head, _) = self.text.split_at(self.text.floor_char_boundary(end));
            Over { head: head.to_owned(), bytes: 0, hasher: Box::default() }
        });
        over.hasher.update(self.text.as_bytes());
        over.bytes += self.text.len();
        self.text.clear();
    }

    fn finish(mut self) -> String {
        if self.over.is_some() {
            self.spill();
        }
        let Some(over) = self.over else { return self.text };
        let mut head = Vec::new();
        escaped(&mut head, &over.head);
        format!(
            "{{\"truncated\":true,\"bytes\":{},\"blake3\":\"{}\",\"head\":\"{}\"}}",
            over.bytes,
            over.hasher.finalize().to_hex(),
            String::from_utf8_lossy(&head),
        )
    }
}

#[cfg(test)]
mod tests;
