//! Secrets inside of a string: `KEY=value`, header lines, form bodies, URLs, `Bearer` tokens, and JSON
//! that was written into the string.
//!
//! A string is read once. Where a `=` or `:` stands, the word before it is compared as a key is; the
//! value of a secret one goes, up to where it ends by the notation that it seems to be in.

use super::words::Words;
use super::{MARK, Redactor};
use crate::json::Doc;

/// Deepest nesting of JSON in strings that is read.
const MAX_NESTING: u8 = 4;
/// Longest word before a `=` or `:` that is compared.
const MAX_NAME_BYTES: usize = 128;

/// Reports whether a string may hold any of this; most hold none, and that is seen at memory speed.
pub(super) fn may_hold_secrets(raw: &str) -> bool {
    let raw = raw.as_bytes();
    memchr::memchr2(b'=', b':', raw).is_some() || schemes(raw)
}

fn schemes(raw: &[u8]) -> bool {
    const ENDS: [&[u8]; 4] = [b"earer", b"asic", b"EARER", b"ASIC"];
    memchr::memchr_iter(b' ', raw).any(|at| {
        let before = raw.get(..at).unwrap_or_default();
        ENDS.iter().any(|end| before.ends_with(end))
    })
}

impl Redactor {
    /// `text` without the secrets in it, if there are any.
    pub(super) fn text(&self, text: &str, nesting: u8, words: &mut Words) -> Option<String> {
        if nesting < MAX_NESTING
            && text.trim_start().starts_with(['{', '['])
            && let Ok(doc) = Doc::parse(text.trim().as_bytes())
        {
            let (written, redacted) = self.document(doc.root(), nesting + 1, words);
            return redacted.then_some(written);
        }
        let mut cuts = Cuts { text, out: String::new(), done: 0 };
        let mut at = 0;
        while let Some(found) = next_mark(text.as_bytes(), at) {
            at = (found + 1).max(cuts.done);
            if found < cuts.done {
                continue;
            }
            match text.as_bytes().get(found) {
                Some(b'=' | b':') => self.assignment(&mut cuts, found, words),
                _ => scheme(&mut cuts, found),
            }
        }
        cuts.finish()
    }

    /// A `=` or `:` at `at`: what stands before it, and what it says.
    fn assignment(&self, cuts: &mut Cuts<'_>, at: usize, words: &mut Words) {
        let text = cuts.text;
        if text.get(at..).is_some_and(|rest| rest.starts_with("://")) {
            return user_info(cuts, at + 3);
        }
        let name = name_before(text, at);
        let before = at.saturating_sub(name.len());
        // A reference to a credential is no secret: `${CRED:name}`.
        if name.is_empty() || text.get(..before).is_some_and(|text| text.ends_with("${")) {
            return;
        }
        let is_line = text.as_bytes().get(at) == Some(&b':');
        let decoded = percent_decoded(name);
        let secret = self.words.name(&decoded, words) || (is_line && is_cookie(&decoded));
        if secret && let Some((from, to)) = value_behind(text, at, is_line) {
            cuts.cut(from, to);
        }
    }
}

/// Reports whether a header holds session keys though no pattern names it.
pub(super) fn is_cookie(name: &str) -> bool {
    name.eq_ignore_ascii_case("cookie") || name.eq_ignore_ascii_case("set-cookie")
}

/// The parts of a text that stay, with a mark for each that does not.
struct Cuts<'t> {
    text: &'t str,
    out: String,
    done: usize,
}

impl Cuts<'_> {
    fn cut(&mut self, from: usize, to: usize) {
        let (Some(before), true) = (self.text.get(self.done..from), from < to) else { return };
        self.out.push_str(before);
        self.out.push_str(MARK);
        self.done = to;
    }

    fn finish(mut self) -> Option<String> {
        if self.done == 0 {
            return None;
        }
        self.out.push_str(self.text.get(self.done..).unwrap_or_default());
        Some(self.out)
    }
}

/// The next byte at which something may have to go: a `=`, a `:`, or the space behind a scheme.
fn next_mark(text: &[u8], from: usize) -> Option<usize> {
    let rest = text.get(from..)?;
    memchr::memchr3(b'=', b':', b' ', rest).map(|n| from + n)
}

/// The word that ends at `end`, with a quote or some space between.
fn name_before(text: &str, end: usize) -> &str {
    let bytes = text.as_bytes();
    let head = bytes.get(..end).unwrap_or_default();
    let skipped = head.iter().rev().take(4).take_while(|b| b" \t\"'\\".contains(b)).count();
    let end = end - skipped;
    let is_part = |b: u8| b.is_ascii_alphanumeric() || !b.is_ascii() || b"_-.[]$%+".contains(&b);
    let head = bytes.get(..end).unwrap_or_default();
    let length = head.iter().rev().take(MAX_NAME_BYTES).take_while(|b| is_part(**b)).count();
    text.get(text.floor_char_boundary(end - length)..end).unwrap_or_default()
}

/// Range of the value behind a `=` or `:`.
fn value_behind(text: &str, at: usize, is_line: bool) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let is_space = |b: &&u8| matches!(b, b' ' | b'\t' | b'=' | b':' | b'>');
    let from = at + bytes.get(at..)?.iter().take_while(is_space).count();
    // Quotes may be escaped, where this is a part of JSON in JSON.
    let slashes = bytes.get(from..)?.iter().take_while(|b| **b == b'\\').count();
    let quote = bytes.get(from + slashes).copied().filter(|b| matches!(b, b'"' | b'\''));
    let from = if quote.is_some() { from + slashes + 1 } else { from };
    let rest = bytes.get(from..)?;
    let ends = |b: &u8| match quote {
        Some(quote) => *b == quote || (slashes > 0 && *b == b'\\'),
        None if is_line => matches!(b, b'\r' | b'\n' | b'"' | b'\''),
        None => b" \t\r\n&;,\"'`<>|)}]#".contains(b),
    };
    let mut length = 0;
    while let Some(byte) = rest.get(length) {
        // Inside of quotes an escaped quote is text.
        if slashes == 0 && quote.is_some() && *byte == b'\\' {
            length += 2;
            continue;
        }
        if ends(byte) {
            break;
        }
        length += 1;
    }
    let to = text.floor_char_boundary((from + length).min(text.len()));
    (to > from).then_some((from, to))
}

/// The user-info of a URL whose authority starts at `from`.
fn user_info(cuts: &mut Cuts<'_>, from: usize) {
    let rest = cuts.text.get(from..).unwrap_or_default();
    let end = rest.find(|c: char| c.is_whitespace() || "/?#\"'<>\\".contains(c));
    let authority = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    if let Some(at) = authority.rfind('@') {
        cuts.cut(from, from + at);
    }
}

/// The token behind `Bearer` or `Basic`, if such a word ends at the space at `at`.
fn scheme(cuts: &mut Cuts<'_>, at: usize) {
    let bytes = cuts.text.as_bytes();
    let head = bytes.get(..at).unwrap_or_default();
    let length = head.iter().rev().take(7).take_while(|b| b.is_ascii_alphanumeric()).count();
    let word = cuts.text.get(at - length..at).unwrap_or_default();
    let bearer = word.eq_ignore_ascii_case("bearer");
    if !bearer && !word.eq_ignore_ascii_case("basic") {
        return;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let from = at + rest.iter().take_while(|b| **b == b' ').count();
    let is_part = |b: &&u8| b.is_ascii_alphanumeric() || b"-._~+/=:%".contains(b);
    let token = bytes.get(from..).unwrap_or_default();
    let token: Vec<u8> = token.iter().take_while(is_part).copied().collect();
    // Prose has both words before others: `basic usage`, `the bearer of news`.
    let is_word = token.iter().all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'-'));
    let is_prose = is_word && token.len() < 20 && (!bearer || word == "bearer");
    if !token.is_empty() && !is_prose {
        cuts.cut(from, from + token.len());
    }
}

/// A name as a form writes it, decoded as far as it is text.
fn percent_decoded(name: &str) -> std::borrow::Cow<'_, str> {
    if !name.contains('%') {
        return name.into();
    }
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.first_chunk::<2>().and_then(|two| str::from_utf8(two).ok());
        let code = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        match code {
            Some(code) if byte == b'%' => {
                out.push(code);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned().into()
}
