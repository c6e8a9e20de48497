//! Arguments of calls as the log shows them.
//!
//! The value of a key that names a secret is replaced, whatever its type and depth. Keys are
//! compared as words, so `userPassword`, `Access-Tokens` and `x_api_key` are found and `author` and
//! `keyboard` are not. Strings are read as tools write them: JSON, forms, URLs, header lines and
//! `KEY=value` ([`text`]); a member that gives a name (`{"name": "Authorization", "value": ...}`)
//! counts as a key. Everything else is written as it came, without the space between tokens; only
//! characters that could break a line or a terminal are escaped, which is the same JSON.
//!
//! The values of known credentials are taken out in any encoding, before anything is cut. Arguments
//! are looked at as far as their limit reaches and no further, so that their length is no matter.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::IgnoredAny;
use words::{SecretWords, Words};

use crate::credentials::{Content, Patterns, Scrubber, scrub_header_value};
use crate::json::write::{breaks_lines, escaped};
use crate::json::{Doc, Kind, Value};

mod shown;
mod text;
mod words;

pub use shown::Marks;

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
/// Mark in a string for the part that was redacted.
const MARK: &str = "[REDACTED]";
/// Most bytes shown of arguments that are too long.
const MAX_HEAD_BYTES: usize = 1_024;
/// Members that give a name to another member of their object.
const NAMES: [&str; 9] =
    ["name", "key", "header", "field", "parameter", "param", "variable", "option", "k"];
/// Members that hold what another one names.
const VALUES: [&str; 7] = ["value", "values", "val", "v", "content", "data", "default"];
/// A key of the log itself; written otherwise, so that a reader who searches for it finds one.
const CHAIN_KEY: &str = "\"chain_record_hash\"";
/// Key as JSON in other bytes.
const CHAIN_KEY_ESCAPED: &str = "\"chain_record_\\u0068ash\"";

/// Compact JSON text that a [`Redactor`] made: one line, and nothing secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redacted(String);

impl Redacted {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns length and hash of a body whose content is not written.
    pub fn digest(body: &[u8]) -> Self {
        let hash = blake3::hash(body).to_hex();
        Self(format!("\"...[{} bytes, blake3 {hash}]\"", body.len()))
    }

    /// Makes the form without content: length and hash of what would have been written.
    #[must_use]
    pub fn brief(&self) -> Self {
        let text = format!(
            "{{\"truncated\":true,\"bytes\":{},\"blake3\":\"{}\",\"head\":\"\"}}",
            self.0.len(),
            blake3::hash(self.0.as_bytes()).to_hex(),
        );
        Self(text)
    }
}

/// A configured pattern that could never match, or would match everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("redaction pattern `{0}` has no letter or digit")]
pub struct EmptyPattern(String);

/// The patterns in force.
#[derive(Clone, Debug)]
pub struct Redactor {
    words: SecretWords,
}

impl Redactor {
    /// Adds `extra` to the patterns, or puts them in their place if `replace`.
    pub fn new(extra: &[String], replace: bool) -> Result<Self, EmptyPattern> {
        let built_in = if replace { &[][..] } else { &PATTERNS[..] };
        let extra = extra.iter().map(String::as_str);
        let all: Vec<&str> = built_in.iter().copied().chain(extra).collect();
        Ok(Self { words: SecretWords::new(&all)? })
    }

    /// Writes one call's arguments, without the values of `known` credentials.
    pub fn redact(
        &self,
        arguments: Value<'_>,
        max_bytes: usize,
        known: &Arc<Patterns>,
    ) -> Redacted {
        let sent_bytes = arguments.raw().len();
        write(max_bytes, sent_bytes, known, |out| self.value(arguments, out, &mut Walk::new(None)))
    }

    /// Writes the arguments of a batch's calls as one list.
    pub fn redact_batch(
        &self,
        calls: &[Option<Value<'_>>],
        max_bytes: usize,
        known: &Arc<Patterns>,
    ) -> Redacted {
        let mut walk = Walk::new(None);
        let sent_bytes = calls.iter().flatten().map(|given| given.raw().len()).sum();
        write(max_bytes, sent_bytes, known, |out| {
            let mut separator = "[";
            for arguments in calls {
                out.push(separator);
                separator = ",";
                match arguments {
                    Some(arguments) => self.value(*arguments, out, &mut walk),
                    None => out.push("null"),
                }
            }
            out.push(if separator == "[" { "[]" } else { "]" });
        })
    }

    /// Reports whether a key names something that must not be written down.
    pub fn names_a_secret(&self, key: &str) -> bool {
        self.words.name(key, &mut Words::default())
    }

    /// A document that was written into a string, redacted; and whether anything had to go.
    fn document(&self, root: Value<'_>, around: &mut Walk<'_>) -> (String, bool) {
        let words = std::mem::take(&mut around.words);
        let nesting = around.nesting.saturating_add(1);
        let mut walk = Walk { words, nesting, redacted: false, marks: around.marks };
        let mut out = Output::new(usize::MAX);
        self.value(root, &mut out, &mut walk);
        around.words = walk.words;
        (out.text, walk.redacted)
    }

    /// Writes a value, as far as there is room; the parser has bounded how deep it can nest.
    fn value(&self, value: Value<'_>, out: &mut Output, walk: &mut Walk<'_>) {
        if out.is_full() {
            return walk.clip(value, out);
        }
        match value.kind() {
            Kind::Object => self.object(value, out, walk),
            Kind::Array => self.array(value, out, walk),
            Kind::String => self.string(value, out, walk),
            Kind::Number | Kind::True | Kind::False | Kind::Null => out.push(value.raw()),
        }
    }

    fn object(&self, object: Value<'_>, out: &mut Output, walk: &mut Walk<'_>) {
        let named = self.names_another(object, walk);
        out.push("{");
        let mut first = true;
        for entry in object.entries() {
            if out.is_full() {
                return walk.clip_members(object, entry.key_value(), out);
            }
            if !std::mem::take(&mut first) {
                out.push(",");
            }
            walk.push_key(entry.key_value(), out);
            out.push(":");
            let key = entry.key();
            let secret = match named {
                Some(secret) if is_one_of(&key, &VALUES) => {
                    secret || self.words.name(&key, &mut walk.words)
                }
                // The name of a member is none of its secrets.
                Some(_) if is_one_of(&key, &NAMES) => false,
                Some(_) | None => self.hides(&key, entry.value, walk),
            };
            if secret {
                walk.replace(entry.value, out);
            } else {
                self.value(entry.value, out, walk);
            }
        }
        out.push("}");
    }

    fn hides(&self, key: &str, value: Value<'_>, walk: &mut Walk<'_>) -> bool {
        let cookies = || text::is_cookie(key) && value.raw().contains('=');
        self.words.name(key, &mut walk.words) || cookies()
    }

    /// Reports whether an object is a name and a value, and then whether the name is that of a
    /// secret.
    fn names_another(&self, object: Value<'_>, walk: &mut Walk<'_>) -> Option<bool> {
        /// A pair has few other members.
        const MOST_MEMBERS: usize = 8;
        let (mut name, mut has_value) = (None, false);
        for entry in object.entries().take(MOST_MEMBERS) {
            let key = entry.key();
            if is_one_of(&key, &NAMES) {
                name = name.or_else(|| entry.value.as_str());
            }
            has_value |= is_one_of(&key, &VALUES);
        }
        let name = name.filter(|_| has_value)?;
        Some(text::is_cookie(&name) || self.words.name(&name, &mut walk.words))
    }

    fn array(&self, array: Value<'_>, out: &mut Output, walk: &mut Walk<'_>) {
        out.push("[");
        let mut first = true;
        for item in array.items() {
            if out.is_full() {
                return walk.clip_items(array, item, out);
            }
            if !std::mem::take(&mut first) {
                out.push(",");
            }
            match self.pair(item, walk) {
                Some((name, secret)) => {
                    out.push("[");
                    walk.push_key(name, out);
                    out.push(",");
                    walk.replace(secret, out);
                    out.push("]");
                }
                None => self.value(item, out, walk),
            }
        }
        out.push("]");
    }

    /// The two of a list whose first names the second as a secret, as one of a list of such.
    fn pair<'d>(&self, item: Value<'d>, walk: &mut Walk<'_>) -> Option<(Value<'d>, Value<'d>)> {
        if item.kind() != Kind::Array {
            return None;
        }
        let mut items = item.items();
        let (name, value, None) = (items.next()?, items.next()?, items.next()) else {
            return None;
        };
        let text = name.as_str()?;
        let secret = text::is_cookie(&text) || self.words.name(&text, &mut walk.words);
        secret.then_some((name, value))
    }

    fn string(&self, string: Value<'_>, out: &mut Output, walk: &mut Walk<'_>) {
        let raw = out.clip(string.raw());
        if !self.leaves_doubt(raw, string.is_escaped(), &mut walk.words) {
            return walk.push_part(string, raw, out);
        }
        let redacted = match string_text(string, raw) {
            Some(text) => self.text(&text, walk),
            // A string that has no text cannot be read.
            None => Some(MARK.to_owned()),
        };
        let Some(redacted) = redacted else { return walk.push_part(string, raw, out) };
        if walk.marks.is_some() {
            return walk.push_redacted(string, raw, &redacted, out);
        }
        out.clipped = raw.len() < string.raw().len();
        walk.redacted = true;
        let mut written = vec![b'"'];
        escaped(&mut written, &redacted);
        written.push(b'"');
        out.push(str::from_utf8(&written).unwrap_or(REPLACEMENT));
    }
}

/// State of a walk over arguments.
struct Walk<'m> {
    words: Words,
    /// Number of strings of JSON around.
    nesting: u8,
    redacted: bool,
    /// Set where each place that is not shown is marked on its own.
    marks: Option<&'m Marks>,
}

impl<'m> Walk<'m> {
    fn new(marks: Option<&'m Marks>) -> Self {
        Self { words: Words::default(), nesting: 0, redacted: false, marks }
    }
}

fn is_one_of(key: &str, names: &[&str]) -> bool {
    names.iter().any(|name| key.eq_ignore_ascii_case(name))
}

/// The text of a string of which `raw` is all or the beginning.
fn string_text<'d>(string: Value<'d>, raw: &str) -> Option<Cow<'d, str>> {
    if raw.len() == string.raw().len() {
        return string.as_str();
    }
    let closed = format!("{raw}\"");
    let doc = Doc::parse(closed.as_bytes()).ok()?;
    Some(Cow::Owned(doc.root().as_str()?.into_owned()))
}

/// Has arguments written, and takes out what is known to be secret before anything is cut.
fn write(
    max_bytes: usize,
    sent_bytes: usize,
    known: &Arc<Patterns>,
    write: impl FnOnce(&mut Output),
) -> Redacted {
    let mut out = Output::new(max_bytes);
    out.text.reserve(sent_bytes.min(max_bytes));
    write(&mut out);
    let cut = out.is_full();
    if known.is_empty() {
        return Redacted(out.finish(sent_bytes));
    }
    if cut {
        // What is kept back of a text that is cut could be the beginning of a secret.
        return Redacted(truncated(&begun(&out.text, known), max_bytes, sent_bytes));
    }
    let text = without_known(out.text, known);
    let mut out = Output::new(max_bytes);
    out.push(&text);
    Redacted(out.finish(sent_bytes))
}

/// The beginning of a text without the values of `known` credentials, as far as no other can begin there.
fn begun(text: &str, known: &Arc<Patterns>) -> String {
    let mut scrubber = Scrubber::new(Arc::clone(known), Content::Json);
    let settled = scrubber.push(Bytes::copy_from_slice(text.as_bytes()));
    String::from_utf8_lossy(&settled).into_owned()
}

/// JSON without the values of `known` credentials, which is still JSON.
fn without_known(text: String, known: &Arc<Patterns>) -> String {
    if known.is_empty() {
        return text;
    }
    let mut scrubber = Scrubber::new(Arc::clone(known), Content::Json);
    let mut bytes = scrubber.push(Bytes::from(text)).to_vec();
    bytes.extend_from_slice(&scrubber.finish());
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if scrubber.replaced() == 0 || serde_json::from_str::<IgnoredAny>(&text).is_ok() {
        return text;
    }
    // A secret with quotes in it took a part of the notation with it.
    let mut quoted = b"\"".to_vec();
    escaped(&mut quoted, &text);
    quoted.push(b'"');
    String::from_utf8_lossy(&quoted).into_owned()
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

/// Text up to a limit.
struct Output {
    text: String,
    max_bytes: usize,
    /// True if a string was read only in part, however little of it was written.
    clipped: bool,
}

impl Output {
    fn new(max_bytes: usize) -> Self {
        Self { text: String::new(), max_bytes, clipped: false }
    }

    fn is_full(&self) -> bool {
        self.clipped || self.text.len() > self.max_bytes
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// As much of a string as there is room for, and not half an escape.
    fn clip<'r>(&self, raw: &'r str) -> &'r str {
        /// The longest escape: two halves of a surrogate pair.
        const ESCAPE_BYTES: usize = 12;
        let room = self.max_bytes.saturating_sub(self.text.len()).saturating_add(ESCAPE_BYTES * 2);
        if raw.len() <= room {
            return raw;
        }
        let end = raw.floor_char_boundary(room);
        let tail = raw.get(..end).unwrap_or_default();
        let near = tail.floor_char_boundary(end.saturating_sub(ESCAPE_BYTES));
        // The first escape that begins in the last bytes may be cut, and so may what it is half of.
        let cut = tail.get(near..).and_then(|near| near.find('\\')).map_or(end, |n| near + n);
        let run = tail.get(..cut).unwrap_or_default().bytes().rev().take_while(|b| *b == b'\\');
        raw.get(..cut - run.count() % 2).unwrap_or_default()
    }

    /// Writes a JSON string, or the beginning of one, as it was, quotes included.
    fn push_clipped(&mut self, raw: &str) {
        if raw == CHAIN_KEY {
            return self.push(CHAIN_KEY_ESCAPED);
        }
        // All of it, without stopping at the first: so many bytes at once.
        let plain = raw.bytes().fold(0, u8::max) < 0x7f;
        if plain || !raw.contains(breaks_lines) {
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

    fn finish(self, sent_bytes: usize) -> String {
        if self.is_full() { truncated(&self.text, self.max_bytes, sent_bytes) } else { self.text }
    }
}

/// Arguments that are too long: the length at which they were sent, the hash of what was looked at,
/// and its head.
fn truncated(text: &str, max_bytes: usize, sent_bytes: usize) -> String {
    let looked_at = text.get(..text.floor_char_boundary(max_bytes)).unwrap_or_default();
    let end = text.floor_char_boundary(MAX_HEAD_BYTES.min(max_bytes / 4));
    let mut head = Vec::new();
    escaped(&mut head, text.get(..end).unwrap_or_default());
    format!(
        "{{\"truncated\":true,\"bytes\":{sent_bytes},\"blake3\":\"{}\",\"head\":\"{}\"}}",
        blake3::hash(looked_at.as_bytes()).to_hex(),
        String::from_utf8_lossy(&head),
    )
}

#[cfg(test)]
mod tests;
