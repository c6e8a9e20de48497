//! The strings of an event's data, each with the place at which it stands.
//!
//! A client joins what arrives at the same place of successive events (`params.data`,
//! `choices[0].delta.content`); so a place is known by the keys and numbers that lead to it.

use std::ops::Range;

use crate::json::{Doc, Kind, Value};

/// The place of data that is no JSON.
const TEXT: u64 = 0;
const ROOT: u64 = 0xCBF2_9CE4_8422_2325;

#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Place and content (without quotes) of every string, in order.
    pub strings: Vec<(u64, Range<usize>)>,
    /// Every number, if asked for.
    pub numbers: Vec<Range<usize>>,
}

impl Contents {
    /// Returns the contents of the strings, in order.
    pub(super) fn spans(&self) -> impl Iterator<Item = Range<usize>> {
        self.strings.iter().map(|(_, span)| span.clone())
    }
}

/// Returns the searchable contents of `data`: the strings of JSON, or all of it as one text.
pub(super) fn contents(data: &[u8], with_numbers: bool) -> Contents {
    let mut contents = Contents::default();
    match Doc::parse(data) {
        Ok(doc) => visit(doc.root(), ROOT, with_numbers, &mut contents),
        Err(_) => contents.strings.push((TEXT, 0..data.len())),
    }
    contents
}

/// As deep as the parser lets a document be.
fn visit(value: Value<'_>, place: u64, with_numbers: bool, contents: &mut Contents) {
    match value.kind() {
        Kind::String => {
            let span = value.span();
            contents.strings.push((place, span.start + 1..span.end - 1));
        }
        Kind::Number if with_numbers => contents.numbers.push(value.span()),
        Kind::Object => {
            for entry in value.entries() {
                let below = step(place, entry.key_value().raw().as_bytes());
                visit(entry.value, below, with_numbers, contents);
            }
        }
        Kind::Array => {
            for (n, item) in (0u64..).zip(value.items()) {
                match item.kind() {
                    // No place is needed for what stays one number.
                    Kind::Number if with_numbers => contents.numbers.push(item.span()),
                    Kind::Number | Kind::True | Kind::False | Kind::Null => {}
                    Kind::String | Kind::Object | Kind::Array => {
                        visit(item, step(place, &n.to_le_bytes()), with_numbers, contents);
                    }
                }
            }
        }
        Kind::Number | Kind::True | Kind::False | Kind::Null => {}
    }
}

/// FNV-1a. A collision of two places costs a needless comparison, never a leak.
fn step(place: u64, name: &[u8]) -> u64 {
    const PRIME: u64 = 0x0100_0000_01B3;
    let folded = name.iter().fold(place, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(PRIME));
    (folded ^ 0xFF).wrapping_mul(PRIME)
}
