//! Secrets inside of a string: `KEY=value`, header lines, form bodies, URLs, `Bearer` tokens, and JSON
//! that was written into the string.
//!
//! A string is first looked at as it is in the message, escapes and all. Most leave no doubt there
//! and cost one search of their bytes. Otherwise the string's text is read once: where a `=` or `:`
//! stands, the word before it is compared as a key is, and the value of a secret one goes, up to where
//! it ends by the notation that it seems to be in.

use super::words::Words;
use super::{MARK, Marks, Redactor, Walk};
use crate::json::Doc;

/// Deepest nesting of JSON in strings that is read.
const MAX_NESTING: u8 = 4;
/// Longest word before a `=` or `:` that is compared.
const MAX_NAME_BYTES: usize = 128;
/// Most quotes, spaces and backslashes between such a word and the mark.
const MAX_GAP_BYTES: usize = 4;
/// Most of them in a message, where each may be an escape of two bytes.
const MAX_RAW_GAP_BYTES: usize = 2 * MAX_GAP_BYTES;

impl Redactor {
    /// Reports whether a string may hold a secret, from its bytes in the message.
    ///
    /// True for every string in whose text [`text`](Self::text) finds one. An escape may stand for any
    /// character that matters, so those that can are doubt by themselves.
    pub(super) fn leaves_doubt(&self, raw: &str, is_escaped: bool, words: &mut Words) -> bool {
        has_scheme(raw.as_bytes())
            || (is_escaped && has_ascii_escape(raw.as_bytes()))
            || begins_as_json(raw.strip_prefix('"').unwrap_or(raw))
            || memchr::memchr2_iter(b'=', b':', raw.as_bytes())
                .any(|at| self.mark_leaves_doubt(raw, at, words))
    }

    /// Reports whether a secret may follow the `=` or `:` at `at`.
    fn mark_leaves_doubt(&self, raw: &str, at: usize, words: &mut Words) -> bool {
        let (head, mark) = raw.split_at_checked(at).unwrap_or_default();
        if let Some(authority) = raw_authority(mark.as_bytes()) {
            let ends =
                |b: &&u8| matches!(b, b' ' | b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>');
            return authority.iter().take_while(|b| !ends(b)).any(|b| *b == b'@');
        }
        let (before, name) = name_before(head, MAX_RAW_GAP_BYTES);
        let is_line = mark.starts_with(':');
        if before.ends_with('\\') {
            // The letter of an escape is no part of the name, but this may be no escape.
            let mut letters = name.chars();
            let (letter, name) = (letters.next(), letters.as_str());
            let is_unread = letter == Some('u') || (letter == Some('t') && name.is_empty());
            if is_unread || self.names_secret(name, is_line, words) {
                return true;
            }
        }
        !before.ends_with("${") && self.names_secret(name, is_line, words)
    }

    /// Returns `text` without the secrets in it, if there are any.
    pub(super) fn text(&self, text: &str, walk: &mut Walk<'_>) -> Option<String> {
        if walk.nesting < MAX_NESTING
            && text.trim_start().starts_with(['{', '['])
            && let Ok(doc) = Doc::parse(text.trim().as_bytes())
        {
            let (written, redacted) = self.document(doc.root(), walk);
            return redacted.then_some(written);
        }
        let mut cuts = Cuts { text, out: String::new(), done: 0, marks: walk.marks };
        let bytes = text.as_bytes();
        for at in memchr::memchr3_iter(b'=', b':', b' ', bytes) {
            if at < cuts.done {
                continue;
            }
            if bytes.get(at) != Some(&b' ') {
                self.assignment(&mut cuts, at, &mut walk.words);
            } else if matches!(bytes.get(..at), Some([.., b'r' | b'R' | b'c' | b'C'])) {
                scheme(&mut cuts, at);
            }
        }
        cuts.finish()
    }

    /// Cuts the value behind the `=` or `:` at `at`, if the word before it names a secret.
    fn assignment(&self, cuts: &mut Cuts<'_>, at: usize, words: &mut Words) {
        let (head, mark) = cuts.text.split_at_checked(at).unwrap_or_default();
        if mark.starts_with("://") {
            return user_info(cuts, at + 3);
        }
        let (before, name) = name_before(head, MAX_GAP_BYTES);
        let is_line = mark.starts_with(':');
        // A reference to a credential is no secret: `${CRED:name}`.
        if !before.ends_with("${")
            && self.names_secret(name, is_line, words)
            && let Some((from, to)) = value_behind(cuts.text, at, is_line)
        {
            cuts.cut(from, to);
        }
    }

    fn names_secret(&self, name: &str, is_line: bool, words: &mut Words) -> bool {
        let name = percent_decoded(name);
        self.words.name(&name, words) || (is_line && is_cookie(&name))
    }
}

/// Reports whether `Bearer` or `Basic` precedes a space.
fn has_scheme(raw: &[u8]) -> bool {
    memchr::memchr_iter(b' ', raw).any(|at| {
        let ends_with = |word: &[u8]| {
            let from = at.checked_sub(word.len());
            from.and_then(|from| raw.get(from..at)).is_some_and(|w| w.eq_ignore_ascii_case(word))
        };
        match at.checked_sub(1).and_then(|last| raw.get(last)) {
            Some(b'r' | b'R') => ends_with(b"bearer"),
            Some(b'c' | b'C') => ends_with(b"basic"),
            _ => false,
        }
    })
}

/// Reports whether an escape may stand for an ASCII character: `\u0000` to `\u007f`.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "without branches many bytes are compared at once"
)]
fn has_ascii_escape(raw: &[u8]) -> bool {
    let found = raw.array_windows::<5>().fold(0, |found, [slash, u, a, b, c]| {
        let zeros = (*a == b'0') & (*b == b'0') & (*c < b'8');
        found | u8::from((*slash == b'\\') & (*u == b'u') & zeros)
    });
    found != 0
}

/// Reports whether a string's text may begin as an object or a list does, behind its space.
fn begins_as_json(body: &str) -> bool {
    let mut rest = body.trim_start();
    while let Some(behind) =
        rest.strip_prefix('\\').and_then(|r| r.strip_prefix(['n', 'r', 't', 'f']))
    {
        rest = behind.trim_start();
    }
    rest.starts_with(['{', '[']) || rest.starts_with("\\u")
}

/// Returns what follows a `://` that may be written with escaped slashes.
fn raw_authority(mark: &[u8]) -> Option<&[u8]> {
    let mut rest = mark.strip_prefix(b":")?;
    for _ in 0..2 {
        rest = rest.strip_prefix(b"\\").unwrap_or(rest).strip_prefix(b"/")?;
    }
    Some(rest)
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
    marks: Option<&'t Marks>,
}

impl Cuts<'_> {
    fn cut(&mut self, from: usize, to: usize) {
        let (Some(before), true) = (self.text.get(self.done..from), from < to) else { return };
        self.out.reserve(self.text.len());
        self.out.push_str(before);
        let secret = self.text.get(from..to).unwrap_or_default();
        match self.marks {
            Some(marks) => self.out.push_str(&marks.redacted(secret)),
            None => self.out.push_str(MARK),
        }
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

/// Splits off the word at the end of `head`, with a quote or some space behind it.
fn name_before(head: &str, max_gap: usize) -> (&str, &str) {
    let is_gap = |b: &&u8| matches!(b, b' ' | b'\t' | b'"' | b'\'' | b'\\');
    let is_part = |b: &&u8| {
        b.is_ascii_alphanumeric()
            || !b.is_ascii()
            || matches!(b, b'_' | b'-' | b'.' | b'[' | b']' | b'$' | b'%' | b'+')
    };
    let bytes = head.as_bytes();
    let gap = bytes.iter().rev().take(max_gap).take_while(is_gap).count();
    let backwards = bytes.iter().rev().skip(gap).take(MAX_NAME_BYTES);
    let end = bytes.len() - gap;
    let start = head.floor_char_boundary(end - backwards.take_while(is_part).count());
    let head = head.get(..end).unwrap_or_default();
    head.split_at_checked(start).unwrap_or_default()
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
        None => matches!(
            b,
            b' ' | b'\t'
                | b'\r'
                | b'\n'
                | b'&'
                | b';'
                | b','
                | b'"'
                | b'\''
                | b'`'
                | b'<'
                | b'>'
                | b'|'
                | b')'
                | b'}'
                | b']'
                | b'#'
        ),
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
    let end = rest.find(|c: char| {
        c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>' | '\\')
    });
    let authority = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    if let Some(at) = authority.rfind('@') {
        cuts.cut(from, from + at);
    }
}

/// Cuts the token behind `Bearer` or `Basic`, if such a word ends at the space at `at`.
fn scheme(cuts: &mut Cuts<'_>, at: usize) {
    let (head, rest) = cuts.text.split_at_checked(at).unwrap_or_default();
    let letters = head.bytes().rev().take(7).take_while(u8::is_ascii_alphanumeric).count();
    let word = head.get(head.len() - letters..).unwrap_or_default();
    let bearer = word.eq_ignore_ascii_case("bearer");
    if !bearer && !word.eq_ignore_ascii_case("basic") {
        return;
    }
    let from = at + rest.bytes().take_while(|b| *b == b' ').count();
    let is_part = |b: &u8| {
        b.is_ascii_alphanumeric()
            || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=' | b':' | b'%')
    };
    let token = cuts.text.get(from..).unwrap_or_default();
    let length = token.bytes().take_while(is_part).count();
    let token = token.get(..length).unwrap_or_default();
    // Prose has both words before others: `basic usage`, `the bearer of news`.
    let is_word = token.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'-'));
    let is_prose = is_word && length < 20 && (!bearer || word == "bearer");
    if length > 0 && !is_prose {
        cuts.cut(from, from + length);
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
