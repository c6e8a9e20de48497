//! Readings of single characters, and what a glance sees of them.

use super::super::decoded::{CutShort, Reading, Text, Value};
use super::super::heads::Heads;
use super::super::lattice::Lattice;

/// Readings of the start of `text`, and whether the text cuts one short.
fn readings(text: Text<'_>) -> (Vec<Reading>, bool) {
    let heads = Heads::new(&[]);
    let mut cut = CutShort::default();
    let readings = Lattice::new(text, &heads).read(0, &mut cut).to_vec();
    (readings, cut.0)
}

fn reads(text: &str, value: Value) {
    let (readings, _) = readings(Text::whole(text.as_bytes()));
    let whole = Reading { value, length: text.len() };
    assert!(readings.contains(&whole), "{text:?}: {readings:?}");
}

#[test]
fn one_character_has_many_spellings() {
    for text in ["A", "%41", "%2541", "%252541", "\\u0041", "\\\\u0041", "\\x41", "&#65;"] {
        reads(text, Value::Byte(b'A'));
    }
    for text in ["&#x41;", "&#X0041", "&amp;#65;", "%26%2365%3B", "%5Cu0041", "\\u0026#65;"] {
        reads(text, Value::Byte(b'A'));
    }
    for text in ["\"", "\\\"", "\\\\\\\"", "&quot;", "%22", "%5C%22", "\\u0022", "&#34;"] {
        reads(text, Value::Byte(b'"'));
    }
    for text in ["\\", "\\\\", "\\\\\\\\", "\\\\\\\\\\\\\\\\"] {
        reads(text, Value::Byte(b'\\'));
    }
    for text in ["\\n", "\\\\n", "%0a", "%0A", "%250a", "&#10;"] {
        reads(text, Value::Byte(b'\n'));
    }
    for text in ["\\ud83d\\udd11", "\\\\uD83D\\\\uDD11", "&#x1F511;", "&#128273;"] {
        reads(text, Value::Char('🔑'));
    }
    reads("+", Value::Byte(b' '));
    reads("%2F", Value::Byte(b'/'));
    reads("\\/", Value::Byte(b'/'));
}

#[test]
fn a_glance_sees_no_less_than_a_reading() {
    for head in
        ["%41", "%zz", "%25", "%\\", "\\n", "\\q", "\\\\n", "\\\\\\\"", "\\u0041", "\\\\u0041"]
            .into_iter()
            .chain([
                "\\u4e2d",
                "\\u00e9",
                "\\ud83d\\udd11",
                "\\xe9",
                "\\u00",
                "+",
                "&#65;",
                "\\%41",
                "\\\\u0075",
                "\\\\u0074",
                "\\\\x6e",
            ])
            .map(str::to_owned)
            .chain((1..12).map(|n| "\\".repeat(n)))
    {
        for tail in
            ["                ", "nnnnnnnnnnnnnnnn", "4141414141414141", "%41%41%41%41%41%41"]
        {
            let bytes = format!("{head}{tail}");
            let text = Text::whole(bytes.as_bytes());
            let Some(glance) = text.glance(0) else { continue };
            for reading in readings(text).0 {
                let first = match reading.value {
                    Value::Byte(byte) => byte,
                    Value::Char(c) => c.to_string().as_bytes()[0],
                };
                assert!(glance.contains(&first), "{bytes}: {reading:?}, {glance:?}");
            }
        }
    }
}

#[test]
fn an_escape_that_is_cut_short_says_so() {
    for text in ["%", "%4", "\\", "\\u", "\\u004", "&", "&#6", "&am", "%25", "\\ud83d\\u"] {
        assert!(readings(Text::unfinished(text.as_bytes())).1, "{text}");
        assert!(!readings(Text::whole(text.as_bytes())).1, "{text}");
    }
}

#[test]
fn what_is_no_escape_is_itself_alone() {
    for text in ["a%", "%zz", "&;", "\\q", "&#;"] {
        let text = Text::whole(text.as_bytes());
        assert_eq!(readings(text).0.len(), 1, "{:?}", text.bytes);
    }
}
