//! Canonical form of a JSON value: equal values have equal bytes, different values have different ones.
//!
//! Members are sorted by their unescaped keys, strings are unescaped (without Unicode normalization),
//! numbers are sign, digits without zeros at either end, and exponent, which is never expanded. Every
//! part has a tag or a length, so no two values share their bytes.

use std::borrow::Cow;

use super::{Kind, Value};
use crate::saturate::SaturatingFrom as _;

/// Writes the canonical form of `value` to `sink`; leaves out members whose path `skip` names.
pub fn write(value: Value<'_>, skip: &dyn Fn(&[&str]) -> bool, sink: &mut dyn FnMut(&[u8])) {
    let mut path = Vec::new();
    node(value, &mut path, skip, sink);
}

fn node<'d>(
    value: Value<'d>,
    path: &mut Vec<Cow<'d, str>>,
    skip: &dyn Fn(&[&str]) -> bool,
    sink: &mut dyn FnMut(&[u8]),
) {
    match value.kind() {
        Kind::Null => sink(b"z"),
        Kind::True => sink(b"t"),
        Kind::False => sink(b"f"),
        Kind::String => text(&value.as_str().unwrap_or_default(), sink),
        Kind::Number => number(value.raw(), sink),
        Kind::Array => {
            sink(b"[");
            value.items().for_each(|item| node(item, path, skip, sink));
            sink(b"]");
        }
        Kind::Object => {
            let mut members: Vec<_> =
                value.entries().map(|entry| (entry.key(), entry.value)).collect();
            members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            sink(b"{");
            for (key, value) in members {
                path.push(key);
                let names: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
                if !skip(&names) {
                    text(names.last().copied().unwrap_or_default(), sink);
                    node(value, path, skip, sink);
                }
                path.pop();
            }
            sink(b"}");
        }
    }
}

/// Writes a text with its length.
fn text(text: &str, sink: &mut dyn FnMut(&[u8])) {
    sink(b"s");
    sink(&u64::saturating_from(text.len()).to_le_bytes());
    sink(text.as_bytes());
}

/// Writes a number that the parser has accepted.
fn number(raw: &str, sink: &mut dyn FnMut(&[u8])) {
    let (negative, rest) = raw.strip_prefix('-').map_or((false, raw), |rest| (true, rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let (mut whole, mut fraction) = (whole, fraction);
    let mut shift = 0_i128;
    if fraction.is_empty() {
        let trimmed = whole.trim_end_matches('0');
        shift += length(whole) - length(trimmed);
        whole = trimmed;
    } else {
        shift -= length(fraction);
        if whole.is_empty() {
            fraction = fraction.trim_start_matches('0');
        }
    }
    if whole.is_empty() && fraction.is_empty() {
        return sink(b"n0;");
    }
    sink(if negative { b"n-" } else { b"n+" });
    sink(whole.as_bytes());
    sink(fraction.as_bytes());
    sink(b"e");
    let whole = exponent.parse::<i128>().ok().and_then(|exponent| exponent.checked_add(shift));
    if let Some(exponent) = whole {
        sink(exponent.to_string().as_bytes());
    } else {
        // An exponent beyond all reason is written as its own text, with the shift.
        sink(exponent.trim_start_matches('+').as_bytes());
        sink(b",");
        sink(shift.to_string().as_bytes());
    }
    sink(b";");
}

fn length(digits: &str) -> i128 {
    i128::saturating_from(digits.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Doc;
    use super::*;

    fn canonical(text: &str) -> Vec<u8> {
        let (doc, mut out) = (Doc::parse(text.as_bytes()).unwrap(), Vec::new());
        let skip = |path: &[&str]| path == ["_meta", "progressToken"];
        write(doc.root(), &skip, &mut |bytes| out.extend_from_slice(bytes));
        out
    }

    #[test]
    fn spellings_of_one_value_are_equal() {
        for (one, other) in [
            (r#"{"a":1,"b":2}"#, r#"{ "b" : 2.0, "a" : 1e0 }"#),
            (r#"["\u0061/"]"#, r#"["a\/"]"#),
            ("100", "1E+2"),
            ("1200", "0.0012e6"),
            ("-10.50", "-1.05e1"),
            ("0", "-0.0e99"),
            ("0.001", "1e-3"),
            (r#"{"_meta":{"progressToken":1},"a":1}"#, r#"{"_meta":{},"a":1}"#),
        ] {
            assert_eq!(canonical(one), canonical(other), "{one} {other}");
        }
    }

    #[test]
    fn different_values_differ() {
        let values = [
            "1",
            "-1",
            "10",
            "0.1",
            "1e400",
            "1e401",
            "true",
            "false",
            "null",
            r#""1""#,
            r#""""#,
            "[]",
            "{}",
            "[[]]",
            "[1]",
            "[1,1]",
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"b":1}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":1,"b":1}"#,
            r#"["a","b"]"#,
            r#"["ab"]"#,
            "9007199254740993",
            "9007199254740992",
            "\"\u{e9}\"",
            "\"e\u{301}\"",
            r#"{"progressToken":1}"#,
            "1e99999999999999999999999999999999999999999",
            "1e99999999999999999999999999999999999999998",
        ];
        for (at, one) in values.iter().enumerate() {
            for other in values.iter().skip(at + 1) {
                assert_ne!(canonical(one), canonical(other), "{one} {other}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_number_is_equal_in_every_spelling(m in any::<i64>(), e in -8..8_i32, zeros in 0..6_usize) {
            let plain = format!("{m}e{e}");
            let sign = if m < 0 { "-" } else { "" };
            let padded = format!("{sign}{}.{}e{e}", m.unsigned_abs(), "0".repeat(zeros + 1));
            let scaled = format!("{m}{}e{}", "0".repeat(zeros), e - i32::try_from(zeros).unwrap());
            prop_assert_eq!(canonical(&plain), canonical(&padded));
            if m != 0 {
                prop_assert_eq!(canonical(&plain), canonical(&scaled));
            }
        }

        #[test]
        fn different_numbers_differ(a in any::<i64>(), b in any::<i64>(), e in -8..8_i32) {
            prop_assume!(a != b);
            prop_assert_ne!(canonical(&format!("{a}e{e}")), canonical(&format!("{b}e{e}")));
        }
    }
}
