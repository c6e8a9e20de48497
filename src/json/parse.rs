//! The parser: one pass, no recursion, every doubt an error.

use std::collections::HashSet;

use smallvec::SmallVec;

use super::{JsonError, Kind, MAX_DEPTH, MAX_LENIENT_DEPTH, Node, Problem, Value};

/// Up to this many keys an object is checked for duplicates pair by pair.
const PAIRWISE_KEYS: usize = 12;

/// About how many bytes a node stands for, to set aside the right space at once.
const BYTES_PER_NODE: usize = 10;

/// Most nodes for which space is set aside before any has been seen.
const FIRST_NODES: usize = 4096;

/// Tolerance of a parser. Syntax is the same either way, so both agree on where values end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Strict,
    /// Repeated keys, lone surrogates and deeper nesting pass.
    Lenient,
}

/// Parses `text` as exactly one document, into nodes in source order.
pub(super) fn nodes(text: &str, mode: Mode) -> Result<Vec<Node>, JsonError> {
    read(text, mode, FIRST_NODES, usize::MAX)
}

/// Parses strictly, and refuses a text of more than `most` nodes. There are no more than `expected`, so
/// that space is set aside once and never grows.
pub(super) fn nodes_within(
    text: &str,
    expected: usize,
    most: usize,
) -> Result<Vec<Node>, JsonError> {
    read(text, Mode::Strict, expected, most)
}

fn read(text: &str, mode: Mode, expected: usize, most: usize) -> Result<Vec<Node>, JsonError> {
    let first = if text.len() > FIRST_NODES * BYTES_PER_NODE {
        // A key may come behind the last value that is allowed.
        expected.saturating_add(1)
    } else {
        (text.len() / BYTES_PER_NODE).clamp(16, FIRST_NODES)
    };
    let nodes = Vec::with_capacity(first);
    let mut parser = Parser { src: text.as_bytes(), text, at: 0, nodes, mode, most };
    parser.document()?;
    Ok(parser.nodes)
}

struct Parser<'a> {
    src: &'a [u8],
    text: &'a str,
    at: usize,
    nodes: Vec<Node>,
    mode: Mode,
    /// Most nodes that are made.
    most: usize,
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
        let (start, end, next) = (start as u32, self.at as u32, self.nodes.len() as u32 + 1);
        self.nodes.push(Node { start, end, next, kind, escaped, broken: false });
    }

    fn document(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        self.values()?;
        self.skip_space();
        if self.at == self.src.len() { Ok(()) } else { self.fail(Problem::Trailing) }
    }

    /// Parses one value and all that it holds, without recursion.
    fn values(&mut self) -> Result<(), JsonError> {
        let mut stack = SmallVec::<[Open; MAX_DEPTH]>::new();
        let max_depth = match self.mode {
            Mode::Strict => MAX_DEPTH,
            Mode::Lenient => MAX_LENIENT_DEPTH,
        };
        loop {
            // A value begins here.
            if self.nodes.len() >= self.most {
                return self.fail(Problem::TooDense);
            }
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if stack.len() == max_depth {
                        return self.fail(Problem::TooDeep);
                    }
                    let object = open == b'{';
                    stack.push(Open { node: self.nodes.len(), object });
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
                let Some(&open) = stack.last() else { return Ok(()) };
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
                        stack.pop();
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
        let judged = open.object && self.mode == Mode::Strict;
        if judged { self.refuse_duplicates(open.node) } else { Ok(()) }
    }

    /// Compares the keys of a finished object with each other, unescaped.
    fn refuse_duplicates(&self, object: usize) -> Result<(), JsonError> {
        let keys = || {
            Value { src: self.text, nodes: &self.nodes, at: object }
                .entries()
                .map(|e| e.key_value())
        };
        let mut seen = SmallVec::<[&[u8]; PAIRWISE_KEYS]>::new();
        for key in keys() {
            // Most objects are small and their keys plain: their bytes are compared as they are.
            if seen.len() == PAIRWISE_KEYS || key.is_escaped() {
                return refuse_unescaped_duplicates(keys);
            }
            let raw = self.src.get(key.span()).unwrap_or_default();
            if seen.contains(&raw) {
                return duplicate(key);
            }
            seen.push(raw);
        }
        Ok(())
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
        let (mut escaped, mut broken) = (false, false);
        self.at += 1;
        loop {
            self.at += plain_run(self.src.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.push(start, Kind::String, escaped);
                    if broken && let Some(string) = self.nodes.last_mut() {
                        string.broken = true;
                    }
                    return Ok(());
                }
                Some(b'\\') => {
                    escaped = true;
                    broken |= !self.escape()?;
                }
                Some(_) => return self.fail(Problem::Control),
                None => return self.fail(Problem::Truncated),
            }
        }
    }

    /// Passes one escape; false for a lone surrogate where those pass.
    fn escape(&mut self) -> Result<bool, JsonError> {
        match self.src.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(true)
            }
            Some(b'u') => {
                let unit = self.unit(self.at + 2)?;
                let whole = match unit {
                    0xD800..=0xDBFF => {
                        self.src.get(self.at + 6..self.at + 8) == Some(b"\\u")
                            && (0xDC00..=0xDFFF).contains(&self.unit(self.at + 8)?)
                    }
                    0xDC00..=0xDFFF => false,
                    _ => {
                        self.at += 6;
                        return Ok(true);
                    }
                };
                if !whole && self.mode == Mode::Strict {
                    return self.fail(Problem::Surrogate);
                }
                self.at += if whole { 12 } else { 6 };
                Ok(whole)
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

/// Compares keys of which some are escaped, or that are too many to compare pair by pair.
fn refuse_unescaped_duplicates<'d, I>(keys: impl Fn() -> I) -> Result<(), JsonError>
where
    I: Iterator<Item = Value<'d>>,
{
    if keys().nth(PAIRWISE_KEYS).is_none() {
        for (n, key) in keys().enumerate() {
            if keys().take(n).any(|other| other.unescaped() == key.unescaped()) {
                return duplicate(key);
            }
        }
        return Ok(());
    }
    let mut seen = HashSet::new();
    keys().find(|key| !seen.insert(key.unescaped())).map_or(Ok(()), duplicate)
}

fn duplicate(key: Value<'_>) -> Result<(), JsonError> {
    Err(JsonError { problem: Problem::DuplicateKey, at: key.span().start })
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
        let special = quote | slash | control;
        if special != 0 {
            // Bits above the lowest may be set without cause.
            return run + special.trailing_zeros() as usize / 8;
        }
        run += 8;
    }
    let rest = bytes.get(run..).unwrap_or_default();
    run + rest.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\').unwrap_or(rest.len())
}
