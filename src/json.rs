//! Strict JSON: one pass over the bytes, nothing copied, every doubt refused.
//!
//! A parsed document is the source text and a flat list of nodes in source order.
//! Each node knows its bytes and where its subtree ends, so a reader walks or skips without
//! allocating, and what was judged is by construction what lies in the forwarded bytes.
//!
//! Refused beyond RFC 8259: a key that occurs twice in one object (compared after unescaping,
//! RFC 7493 section 2.3), a lone surrogate (RFC 7493 section 2.1), a byte order mark, and nesting
//! over [`MAX_DEPTH`].

use std::borrow::Cow;
use std::ops::Range;

pub mod canonical;
pub mod keys;
pub mod number;
mod parse;
pub mod write;

use parse::Mode;

/// Deepest nesting of arrays and objects that is accepted.
pub const MAX_DEPTH: usize = 64;

/// Deepest nesting that a lenient reading accepts.
pub const MAX_LENIENT_DEPTH: usize = 512;

/// Number of values, keys counted, that a request may hold whatever its length.
pub const FREE_VALUES: usize = 262_144;

/// Times the length of a request's text that its values may take in memory in addition.
const MOST_TIMES: usize = 3;

/// Bytes that a request takes in memory at most, its text and its values, as a look at the text has it
/// that does not read it.
pub fn bytes_of(text: &[u8]) -> usize {
    text.len().saturating_add(values_of(text).saturating_mul(size_of::<Node>()))
}

fn most_values(length: usize) -> usize {
    (length.saturating_mul(MOST_TIMES) / size_of::<Node>()).max(FREE_VALUES)
}

/// Most values that a text may hold: each is at the beginning or follows one of four signs.
fn values_of(text: &[u8]) -> usize {
    // A short text costs less than a look at it.
    const SHORT: usize = 4096;
    if text.len() <= SHORT {
        return text.len() / 2 + 1;
    }
    let sign = |byte: &u8| u8::from(matches!(byte, b'[' | b'{' | b',' | b':'));
    // In bytes, of which a processor adds many at a time; so many that none overflows.
    let signs = |part: &[u8]| part.iter().map(sign).fold(0, u8::wrapping_add);
    let signs: usize = text.chunks(usize::from(u8::MAX)).map(|part| usize::from(signs(part))).sum();
    (signs + 1).min(most_values(text.len()))
}

/// Kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    String,
    Number,
    True,
    False,
    Null,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    start: u32,
    end: u32,
    /// Index of the first node behind this subtree.
    next: u32,
    kind: Kind,
    escaped: bool,
    /// Set for a string with a lone surrogate, which has no text.
    broken: bool,
}

/// Reason why a text is not strict JSON, and the byte at which it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub struct JsonError {
    pub problem: Problem,
    pub at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("invalid UTF-8")]
    Utf8,
    #[error("byte order mark")]
    ByteOrderMark,
    #[error("text ends too early")]
    Truncated,
    #[error("unexpected character")]
    Unexpected,
    #[error("control character in a string")]
    Control,
    #[error("invalid escape")]
    Escape,
    #[error("lone surrogate")]
    Surrogate,
    #[error("malformed number")]
    Number,
    #[error("key occurs twice in one object")]
    DuplicateKey,
    #[error("nested deeper than 64 levels")]
    TooDeep,
    #[error("data after the end of the document")]
    Trailing,
    #[error("document too large")]
    TooLarge,
    #[error("more values than a document of its length may hold")]
    TooDense,
}

/// A parsed document that borrows its text.
#[derive(Debug)]
pub struct Doc<'a> {
    src: &'a str,
    nodes: Vec<Node>,
}

impl<'a> Doc<'a> {
    /// Parses `bytes` as exactly one JSON document.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, JsonError> {
        Self::parse_in(bytes, Mode::Strict)
    }

    /// Parses a document of somebody else's in which repeated keys, lone surrogates and nesting up to
    /// [`MAX_LENIENT_DEPTH`] pass. Callers check for them where they matter.
    pub fn parse_leniently(bytes: &'a [u8]) -> Result<Self, JsonError> {
        Self::parse_in(bytes, Mode::Lenient)
    }

    /// Parses a request, which takes no more memory than [`bytes_of`] has it.
    pub fn parse_request(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let src = Self::legible(bytes)?;
        let most = most_values(bytes.len());
        Ok(Self { src, nodes: parse::nodes_within(src, values_of(bytes), most)? })
    }

    fn parse_in(bytes: &'a [u8], mode: Mode) -> Result<Self, JsonError> {
        let src = Self::legible(bytes)?;
        Ok(Self { src, nodes: parse::nodes(src, mode)? })
    }

    fn legible(bytes: &'a [u8]) -> Result<&'a str, JsonError> {
        if bytes.starts_with(b"\xEF\xBB\xBF") {
            return Err(JsonError { problem: Problem::ByteOrderMark, at: 0 });
        }
        if u32::try_from(bytes.len()).is_err() {
            return Err(JsonError { problem: Problem::TooLarge, at: 0 });
        }
        std::str::from_utf8(bytes)
            .map_err(|e| JsonError { problem: Problem::Utf8, at: e.valid_up_to() })
    }

    /// The outermost value.
    pub fn root(&self) -> Value<'_> {
        Value { src: self.src, nodes: &self.nodes, at: 0 }
    }

    /// The text that was parsed.
    pub fn text(&self) -> &'a str {
        self.src
    }
}

/// One value inside a [`Doc`].
#[derive(Clone, Copy)]
pub struct Value<'d> {
    src: &'d str,
    nodes: &'d [Node],
    at: usize,
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.raw())
    }
}

/// One `"key": value` of an object.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'d> {
    key: Value<'d>,
    pub value: Value<'d>,
}

impl<'d> Entry<'d> {
    /// The key, unescaped.
    pub fn key(&self) -> Cow<'d, str> {
        self.key.unescaped()
    }

    /// Compares the key with one that a check looks for.
    #[inline]
    pub fn likeness(&self, wanted: &str) -> Likeness {
        if !self.key.is_escaped() && keys::begin_apart(self.key.inner(), wanted) {
            return Likeness::Other;
        }
        let key = self.key();
        if *key == *wanted {
            Likeness::Same
        } else if keys::disguises(&key, wanted) {
            Likeness::Disguised
        } else {
            Likeness::Other
        }
    }

    /// The key as a value of its own, for its bytes.
    pub fn key_value(&self) -> Value<'d> {
        self.key
    }
}

/// Result of comparing a key with the wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    Same,
    /// Another key, which a reader that ignores case or Unicode form takes for the wanted one.
    Disguised,
    Other,
}

#[expect(clippy::indexing_slicing, reason = "nodes and spans come from the parse of this text")]
#[expect(clippy::string_slice, reason = "spans start and end at ASCII characters")]
impl<'d> Value<'d> {
    #[inline]
    fn node(&self) -> Node {
        self.nodes[self.at]
    }

    pub fn kind(&self) -> Kind {
        self.node().kind
    }

    /// Returns the value's range in the document, quotes included.
    pub fn span(&self) -> Range<usize> {
        let node = self.node();
        node.start as usize..node.end as usize
    }

    /// Returns the value's bytes as the document has them.
    pub fn raw(&self) -> &'d str {
        &self.src[self.span()]
    }

    /// A string or key between its quotes, as it is written.
    #[inline]
    fn inner(&self) -> &'d str {
        let node = self.node();
        &self.src[node.start as usize + 1..node.end as usize - 1]
    }

    #[inline]
    fn unescaped(&self) -> Cow<'d, str> {
        let inner = self.inner();
        if self.node().escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) }
    }

    /// The unescaped text of a string; nothing for one with a lone surrogate.
    pub fn as_str(&self) -> Option<Cow<'d, str>> {
        (self.kind() == Kind::String && !self.node().broken).then(|| self.unescaped())
    }

    /// Reports whether a string holds an escape sequence.
    pub fn is_escaped(&self) -> bool {
        self.node().escaped
    }

    /// The digits of a number as they were written.
    pub fn as_number(&self) -> Option<&'d str> {
        (self.kind() == Kind::Number).then(|| self.raw())
    }

    /// The members of an object, in order; nothing for other kinds.
    pub fn entries(&self) -> Entries<'d> {
        let node = self.node();
        let end = if node.kind == Kind::Object { node.next as usize } else { self.at + 1 };
        Entries { src: self.src, nodes: self.nodes, at: self.at + 1, end }
    }

    /// The items of an array, in order; nothing for other kinds.
    pub fn items(&self) -> Items<'d> {
        let node = self.node();
        let end = if node.kind == Kind::Array { node.next as usize } else { self.at + 1 };
        Items { src: self.src, nodes: self.nodes, at: self.at + 1, end }
    }

    /// The member called `key`.
    pub fn get(&self, key: &str) -> Option<Value<'d>> {
        self.entries().find(|e| e.key() == key).map(|e| e.value)
    }

    /// Every value in this subtree, itself first, keys left out.
    pub fn descend(&self, mut visit: impl FnMut(Value<'d>)) {
        self.descend_dyn(&mut visit);
    }

    fn descend_dyn(&self, visit: &mut dyn FnMut(Value<'d>)) {
        visit(*self);
        match self.kind() {
            Kind::Object => self.entries().for_each(|e| e.value.descend_dyn(visit)),
            Kind::Array => self.items().for_each(|v| v.descend_dyn(visit)),
            Kind::String | Kind::Number | Kind::True | Kind::False | Kind::Null => {}
        }
    }
}

pub struct Entries<'d> {
    src: &'d str,
    nodes: &'d [Node],
    at: usize,
    end: usize,
}

impl<'d> Iterator for Entries<'d> {
    type Item = Entry<'d>;

    #[expect(clippy::indexing_slicing, reason = "`end` bounds the object's own nodes")]
    fn next(&mut self) -> Option<Entry<'d>> {
        if self.at >= self.end {
            return None;
        }
        let key = Value { src: self.src, nodes: self.nodes, at: self.at };
        let value = Value { src: self.src, nodes: self.nodes, at: self.at + 1 };
        self.at = self.nodes[self.at + 1].next as usize;
        Some(Entry { key, value })
    }
}

pub struct Items<'d> {
    src: &'d str,
    nodes: &'d [Node],
    at: usize,
    end: usize,
}

impl<'d> Iterator for Items<'d> {
    type Item = Value<'d>;

    #[expect(clippy::indexing_slicing, reason = "`end` bounds the array's own nodes")]
    fn next(&mut self) -> Option<Value<'d>> {
        if self.at >= self.end {
            return None;
        }
        let value = Value { src: self.src, nodes: self.nodes, at: self.at };
        self.at = self.nodes[self.at].next as usize;
        Some(value)
    }
}

/// Undoes the escapes of a string body that the parser has already accepted.
fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let mut unit = hex4(&mut chars);
                let mut behind = chars.clone();
                // A high half without its low one, which only a lenient reading has, stays itself.
                if (0xD800..0xDC00).contains(&unit)
                    && (behind.next(), behind.next()) == (Some('\\'), Some('u'))
                    && let low @ 0xDC00..0xE000 = hex4(&mut behind)
                {
                    chars = behind;
                    unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                }
                out.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

fn hex4(chars: &mut std::str::Chars<'_>) -> u32 {
    (0..4).fold(0, |acc, _| acc * 16 + chars.next().and_then(|c| c.to_digit(16)).unwrap_or(0))
}

#[cfg(test)]
mod tests;
