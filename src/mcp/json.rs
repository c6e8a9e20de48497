//! Strict JSON: one pass over the bytes, nothing copied, every doubt refused.
//!
//! A parsed document is the source text and a flat list of nodes in the order in which they stand.
//! Each node knows its bytes and where its subtree ends, so a reader walks or skips without
//! allocating, and what was judged is by construction what lies in the forwarded bytes.
//!
//! Refused beyond RFC 8259: a key that occurs twice in one object (compared after unescaping,
//! RFC 7493 section 2.3), a lone surrogate (RFC 7493 section 2.1), a byte order mark, and nesting
//! over [`MAX_DEPTH`].

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

/// Deepest nesting of arrays and objects that is accepted.
pub const MAX_DEPTH: usize = 64;

/// Up to this many keys an object is checked for duplicates pair by pair.
const PAIRWISE_KEYS: usize = 12;

/// What a node is.
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
}

/// Why a text is not strict JSON, and at which byte.
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
        if bytes.starts_with(b"\xEF\xBB\xBF") {
            return Err(JsonError { problem: Problem::ByteOrderMark, at: 0 });
        }
        if u32::try_from(bytes.len()).is_err() {
            return Err(JsonError { problem: Problem::TooLarge, at: 0 });
        }
        let src = std::str::from_utf8(bytes)
            .map_err(|e| JsonError { problem: Problem::Utf8, at: e.valid_up_to() })?;
        let mut parser = Parser { src: bytes, text: src, at: 0, nodes: Vec::with_capacity(32) };
        parser.document()?;
        Ok(Self { src, nodes: parser.nodes })
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

    /// The key as a value of its own, for its bytes.
    pub fn key_value(&self) -> Value<'d> {
        self.key
    }
}

#[expect(clippy::indexing_slicing, reason = "nodes and spans come from the parse of this text")]
#[expect(clippy::string_slice, reason = "spans start and end at ASCII characters")]
impl<'d> Value<'d> {
    fn node(&self) -> Node {
        self.nodes[self.at]
    }

    pub fn kind(&self) -> Kind {
        self.node().kind
    }

    /// Where the value stands in the document, quotes included.
    pub fn span(&self) -> Range<usize> {
        let node = self.node();
        node.start as usize..node.end as usize
    }

    /// The value's bytes as they stand in the document.
    pub fn raw(&self) -> &'d str {
        &self.src[self.span()]
    }

    fn unescaped(&self) -> Cow<'d, str> {
        let node = self.node();
        let inner = &self.src[node.start as usize + 1..node.end as usize - 1];
        if node.escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) }
    }

    /// The unescaped text of a string.
    pub fn as_str(&self) -> Option<Cow<'d, str>> {
        (self.kind() == Kind::String).then(|| self.unescaped())
    }

    /// Whether a string holds an escape sequence.
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
                if (0xD800..0xDC00).contains(&unit) {
                    // The parser has seen the `\u` and the low half that follow.
                    chars.next();
                    chars.next();
                    let low = hex4(&mut chars);
                    unit = 0x10000 + ((unit - 0xD800) << 10) + (low.saturating_sub(0xDC00));
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

struct Parser<'a> {
    src: &'a [u8],
    text: &'a str,
    at: usize,
    nodes: Vec<Node>,
}

/// An open array or object: its node, and whether it is an object.
#[derive(Clone, Copy)]
struct Open {
    node: usize,
    object: bool,
}

impl Parser<'_> {
    fn fail<T>(&self, problem: Problem) -> Result<T, JsonError> {
        Err(JsonError { problem, at: self.at })
    }

    fn peek(&self) -> Option<u8> {
        self.src.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the document's length fits in a u32")]
    fn push(&mut self, start: usize, kind: Kind, escaped: bool) {
        let next = self.nodes.len() as u32 + 1;
        self.nodes.push(Node { start: start as u32, end: self.at as u32, next, kind, escaped });
    }

    fn document(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        self.values()?;
        self.skip_space();
        if self.at == self.src.len() { Ok(()) } else { self.fail(Problem::Trailing) }
    }

    /// Parses one value and all that it holds, without recursion.
    #[expect(clippy::indexing_slicing, reason = "`depth` is checked against the stack's length")]
    fn values(&mut self) -> Result<(), JsonError> {
        let mut stack = [Open { node: 0, object: false }; MAX_DEPTH];
        let mut depth = 0;
        loop {
            // A value stands here.
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == MAX_DEPTH {
                        return self.fail(Problem::TooDeep);
                    }
                    let object = open == b'{';
                    stack[depth] = Open { node: self.nodes.len(), object };
                    depth += 1;
                    self.push(self.at, if object { Kind::Object } else { Kind::Array }, false);
                    self.at += 1;
                    self.skip_space();
                    let close = if object { b'}' } else { b']' };
                    if self.peek() != Some(close) {
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => self.string()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.word(b"true", Kind::True)?,
                Some(b'f') => self.word(b"false", Kind::False)?,
                Some(b'n') => self.word(b"null", Kind::Null)?,
                Some(_) => return self.fail(Problem::Unexpected),
                None => return self.fail(Problem::Truncated),
            }
            // A value has ended; close what closes with it.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let open = stack[depth - 1];
                self.skip_space();
                match (self.peek(), open.object) {
                    (Some(b','), object) => {
                        self.at += 1;
                        self.skip_space();
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        depth -= 1;
                        self.close(open)?;
                    }
                    (Some(_), _) => return self.fail(Problem::Unexpected),
                    (None, _) => return self.fail(Problem::Truncated),
                }
            }
        }
    }

    #[expect(clippy::indexing_slicing, reason = "`open.node` was pushed when it was opened")]
    #[expect(clippy::cast_possible_truncation, reason = "the document's length fits in a u32")]
    fn close(&mut self, open: Open) -> Result<(), JsonError> {
        let next = self.nodes.len() as u32;
        self.nodes[open.node].end = self.at as u32;
        self.nodes[open.node].next = next;
        if open.object { self.refuse_duplicates(open.node) } else { Ok(()) }
    }

    /// Compares the keys of a finished object with each other, unescaped.
    fn refuse_duplicates(&self, object: usize) -> Result<(), JsonError> {
        let keys = || {
            Value { src: self.text, nodes: &self.nodes, at: object }
                .entries()
                .map(|e| e.key_value())
        };
        let double = |key: Value<'_>| {
            Err(JsonError { problem: Problem::DuplicateKey, at: key.span().start })
        };
        if keys().nth(PAIRWISE_KEYS).is_none() {
            for (n, key) in keys().enumerate() {
                let twin = |other: Value<'_>| {
                    if other.is_escaped() || key.is_escaped() {
                        other.unescaped() == key.unescaped()
                    } else {
                        other.raw() == key.raw()
                    }
                };
                if keys().take(n).any(twin) {
                    return double(key);
                }
            }
            return Ok(());
        }
        let mut seen = HashSet::new();
        keys().find(|key| !seen.insert(key.unescaped())).map_or(Ok(()), double)
    }

    fn key(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => self.string()?,
            Some(_) => return self.fail(Problem::Unexpected),
            None => return self.fail(Problem::Truncated),
        }
        self.skip_space();
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(_) => return self.fail(Problem::Unexpected),
            None => return self.fail(Problem::Truncated),
        }
        self.skip_space();
        Ok(())
    }

    fn string(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain_run(self.src.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.push(start, Kind::String, escaped);
                    return Ok(());
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.fail(Problem::Control),
                None => return self.fail(Problem::Truncated),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        match self.src.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let unit = self.unit(self.at + 2)?;
                match unit {
                    0xD800..=0xDBFF => {
                        let follows = self.src.get(self.at + 6..self.at + 8) == Some(b"\\u");
                        if !follows {
                            return self.fail(Problem::Surrogate);
                        }
                        if !(0xDC00..=0xDFFF).contains(&self.unit(self.at + 8)?) {
                            return self.fail(Problem::Surrogate);
                        }
                        self.at += 12;
                    }
                    0xDC00..=0xDFFF => return self.fail(Problem::Surrogate),
                    _ => self.at += 6,
                }
                Ok(())
            }
            Some(_) => self.fail(Problem::Escape),
            None => self.fail(Problem::Truncated),
        }
    }

    fn unit(&self, at: usize) -> Result<u32, JsonError> {
        let Some(digits) = self.src.get(at..at + 4) else { return self.fail(Problem::Truncated) };
        let mut unit = 0;
        for &digit in digits {
            let Some(value) = char::from(digit).to_digit(16) else {
                return self.fail(Problem::Escape);
            };
            unit = unit * 16 + value;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return self.fail(Problem::Number),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        self.push(start, Kind::Number, false);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == from { self.fail(Problem::Number) } else { Ok(()) }
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<(), JsonError> {
        let start = self.at;
        if !self.src.get(start..).is_some_and(|rest| rest.starts_with(word)) {
            return self.fail(Problem::Unexpected);
        }
        self.at += word.len();
        self.push(start, kind, false);
        Ok(())
    }
}

/// Length of the run that holds no quote, backslash or control character, eight bytes at a time.
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_byte = |v: u64| v.wrapping_sub(ONES) & !v & HIGH;
    let mut run = 0;
    let (words, _) = bytes.as_chunks::<8>();
    for word in words {
        let v = u64::from_le_bytes(*word);
        let quote = zero_byte(v ^ (ONES * u64::from(b'"')));
        let slash = zero_byte(v ^ (ONES * u64::from(b'\\')));
        let control = v.wrapping_sub(ONES * 0x20) & !v & HIGH;
        if quote | slash | control != 0 {
            break;
        }
        run += 8;
    }
    let rest = bytes.get(run..).unwrap_or_default();
    run + rest.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\').unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str, problem: Problem) {
        assert_eq!(Doc::parse(text.as_bytes()).map(|_| ()).unwrap_err().problem, problem, "{text}");
    }

    #[test]
    fn refuses_what_is_not_strict() {
        refused("", Problem::Truncated);
        refused("{} {}", Problem::Trailing);
        refused("{}\0{}", Problem::Trailing);
        refused("[1,]", Problem::Unexpected);
        refused("{\"a\":1,}", Problem::Unexpected);
        refused("{\"a\" 1}", Problem::Unexpected);
        refused("// c\n{}", Problem::Unexpected);
        refused("NaN", Problem::Unexpected);
        refused("-Infinity", Problem::Number);
        refused("01", Problem::Trailing);
        refused("1.", Problem::Number);
        refused(".5", Problem::Unexpected);
        refused("1e", Problem::Number);
        refused("+1", Problem::Unexpected);
        refused("\"a\nb\"", Problem::Control);
        refused("\"\\x41\"", Problem::Escape);
        refused("\"\\ud800\"", Problem::Surrogate);
        refused("\"\\ud800\\u0041\"", Problem::Surrogate);
        refused("\"\\udc00\"", Problem::Surrogate);
        refused("\"abc", Problem::Truncated);
        refused("\u{feff}{}", Problem::ByteOrderMark);
        refused("{\"a\":1,\"a\":2}", Problem::DuplicateKey);
        refused("{\"a\":1,\"\\u0061\":2}", Problem::DuplicateKey);
        refused("[{\"x\":{\"k\":0,\"k\":0}}]", Problem::DuplicateKey);
        assert!(Doc::parse(b"\"\xc0\xaf\"").is_err());
    }

    #[test]
    fn refuses_a_duplicate_among_many_keys() {
        let mut text = String::from("{");
        for n in 0..500 {
            text = format!("{text}\"k{n}\":{n},");
        }
        refused(&format!("{text}\"k\\u0037\":1}}"), Problem::DuplicateKey);
        assert!(Doc::parse(format!("{text}\"last\":1}}").as_bytes()).is_ok());
    }

    #[test]
    fn nests_to_the_limit_and_no_further() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Doc::parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        refused(&nested(MAX_DEPTH + 1), Problem::TooDeep);
        refused(&"[".repeat(50_000), Problem::TooDeep);
    }

    #[test]
    fn reads_what_it_accepts() {
        let text = r#" {"a":[1,-2.50e+3,"x\u00e9\ud83d\ude00\n"],"b":{"c":null,"d":true},"e":""} "#;
        let doc = Doc::parse(text.as_bytes()).unwrap();
        let root = doc.root();
        let a: Vec<_> = root.get("a").unwrap().items().collect();
        assert_eq!(a[1].as_number(), Some("-2.50e+3"));
        assert_eq!(a[2].as_str().unwrap(), "xé😀\n");
        assert_eq!(root.get("b").unwrap().get("c").unwrap().kind(), Kind::Null);
        assert_eq!(root.get("b").unwrap().raw(), r#"{"c":null,"d":true}"#);
        assert_eq!(root.get("e").unwrap().as_str().unwrap(), "");
        assert!(root.get("f").is_none());
        let mut seen = 0;
        root.descend(|_| seen += 1);
        assert_eq!(seen, 9);
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_what_it_accepts(text in "[\\[\\]{}:,\"a0-9.eE+\\-tfn \\\\u]{0,24}") {
            if Doc::parse(text.as_bytes()).is_ok() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok() || text.contains(['e', 'E']));
            }
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            drop(Doc::parse(&bytes));
        }

        #[test]
        fn strings_come_back(s in "\\PC{0,40}") {
            let text = serde_json::to_string(&s).unwrap();
            let doc = Doc::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(doc.root().as_str().unwrap(), s);
        }
    }
}
