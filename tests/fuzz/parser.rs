//! The strict parser against `serde_json`: what passes is JSON and says the same, and what does not
//! pass is no JSON, or breaks one of the rules that are stricter.

use std::collections::HashSet;
use std::fmt;

use arbiter::json::{Doc, Kind, MAX_DEPTH, Problem, Value};
use arbiter::mcp::message;
use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::driver::{Input, changed, changes, fuzz, soup};

/// A document as `serde_json` reads it, with every member of an object.
#[derive(Debug, PartialEq)]
enum Tree {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Tree;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }
            fn visit_bool<E>(self, it: bool) -> Result<Tree, E> {
                Ok(Tree::Bool(it))
            }
            #[expect(clippy::cast_precision_loss, reason = "compared as floats")]
            fn visit_u64<E>(self, it: u64) -> Result<Tree, E> {
                Ok(Tree::Number(it as f64))
            }
            #[expect(clippy::cast_precision_loss, reason = "compared as floats")]
            fn visit_i64<E>(self, it: i64) -> Result<Tree, E> {
                Ok(Tree::Number(it as f64))
            }
            fn visit_f64<E>(self, it: f64) -> Result<Tree, E> {
                Ok(Tree::Number(it))
            }
            fn visit_str<E>(self, it: &str) -> Result<Tree, E> {
                Ok(Tree::Text(it.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Tree::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Tree::Object(members))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Tree {
    fn depth(&self) -> usize {
        match self {
            Self::List(list) => 1 + list.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => 1 + members.iter().map(|(_, m)| m.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn repeats_a_key(&self) -> bool {
        match self {
            Self::List(list) => list.iter().any(Self::repeats_a_key),
            Self::Object(members) => {
                let mut keys = HashSet::new();
                members.iter().any(|(key, member)| !keys.insert(key) || member.repeats_a_key())
            }
            _ => false,
        }
    }

    /// Compares with a value of the strict parser; the last bit of a float may differ.
    fn is(&self, value: Value<'_>) -> bool {
        match (self, value.kind()) {
            (Self::Null, Kind::Null)
            | (Self::Bool(true), Kind::True)
            | (Self::Bool(false), Kind::False) => true,
            (Self::Number(number), Kind::Number) => {
                let digits: f64 = value.as_number().unwrap().parse().unwrap();
                (number - digits).abs() <= digits.abs() * 1e-12
            }
            (Self::Text(text), Kind::String) => value.as_str().is_some_and(|it| it == *text),
            (Self::List(list), Kind::Array) => {
                let items: Vec<_> = value.items().collect();
                items.len() == list.len() && list.iter().zip(items).all(|(t, item)| t.is(item))
            }
            (Self::Object(members), Kind::Object) => {
                let entries: Vec<_> = value.entries().collect();
                let same = |(member, entry): (&(String, Self), arbiter::json::Entry<'_>)| {
                    entry.key() == member.0 && member.1.is(entry.value)
                };
                entries.len() == members.len() && members.iter().zip(entries).all(same)
            }
            _ => false,
        }
    }
}

const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\"a\"",
    "\"a\":",
    "\"\\u0061\":1",
    "\"b\":",
    "{\"a\":1}",
    "[1,2]",
    "\\u0000",
    "\"\\ud83d\\ude00\"",
    "\"\\ud83d\"",
    "\\ude00",
    "\\u",
    "\\\"",
    "\\\\",
    "\\n",
    "\\x",
    "\u{e9}",
    "\u{2028}",
    "\u{feff}",
    "true",
    "false",
    "null",
    "nul",
    "NaN",
    "Infinity",
    "0",
    "-0",
    "01",
    "1",
    "12",
    "1.5",
    "1.",
    ".5",
    "1e5",
    "1E+2",
    "1e999",
    "-1e-999",
    "-",
    "123456789012345678901234567890",
    " ",
    "\t",
    "\r\n",
    "\u{b}",
    "\u{0}",
    "/**/",
    "'a'",
    "[[[[[[[[",
    "]]]]]]]]",
    "{\"a\":{\"a\":{\"a\":",
    "}}}",
    "\"jsonrpc\":\"2.0\"",
    "\"method\":\"tools/call\"",
    "\"id\":1",
];

const CALL: &str = r#"{"jsonrpc":"2.0","id":"x-1","method":"tools/call","params":{"name":"read_file","arguments":
    {"path":"/tmp/\u00e9","n":[1,-2.5e3,0,true,null],"deep":{"a":{"b":[[],{}]}}},"_meta":{"k":"v"}}}"#;

fn compare(text: &[u8]) -> Result<(), TestCaseError> {
    let strict = Doc::parse(text);
    match (&strict, serde_json::from_slice::<Tree>(text)) {
        (Ok(doc), Ok(tree)) => {
            prop_assert!(tree.is(doc.root()), "other contents: {tree:?}");
            prop_assert!(!tree.repeats_a_key(), "a key twice");
            prop_assert!(tree.depth() <= MAX_DEPTH, "deeper than {MAX_DEPTH}");
        }
        // A number that no float holds.
        (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("out of range"), "{error}"),
        (Err(error), Ok(tree)) => match error.problem {
            Problem::DuplicateKey => prop_assert!(tree.repeats_a_key(), "no key twice: {error}"),
            Problem::TooDeep => prop_assert!(tree.depth() > MAX_DEPTH, "not so deep: {error}"),
            _ => prop_assert!(false, "refused without a reason: {error}"),
        },
        (Err(error), Err(_)) => prop_assert!(error.at <= text.len()),
    }
    if let Ok(doc) = &strict {
        let lenient = Doc::parse_leniently(text);
        let same = lenient.is_ok_and(|it| it.root().raw() == doc.root().raw());
        prop_assert!(same, "a lenient reading differs");
        prop_assert!(Doc::parse_request(text).is_ok(), "refused as a request");
        if let Ok(message) = message::read(doc) {
            prop_assert!(!message.calls.is_empty());
        }
    }
    Ok(())
}

#[test]
fn strict_parser() {
    let inputs = prop_oneof![
        soup(PIECES, 40),
        changes(PIECES).prop_map(|changes| Input(changed(CALL.as_bytes(), &changes))),
    ];
    fuzz("strict parser", &inputs, |Input(text)| compare(&text));
}
