//! Secrets whose characters are spelled each in its own way, under one coding over another.

use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem::find;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::{Content, Patterns, Scrubber};

pub(super) const SECRETS: &[&str] = &[
    "tok_live_4f9aC2e7",
    "S3cr3t-P@ss/w+rd=Zq9&x y",
    "pa\"ss\\wo'rd{}[]:,<>&é",
    "7391",
    "12345678",
    "aaaaaaaa",
    "pässwörd-密🔑",
    "-----BEGIN KEY-----\nMIIB\n",
    "a\r\nb\n\nc",
    "%41%42%43%44",
    "\\u0041\\n\\\\x",
    "&amp;&#65;&lt;",
    "nineteen%",
    " ;0 ",
    "41sec&+",
    "+ ;0",
    "\\\\\\\\",
    "%%25+",
];

/// Stretches in which escapes of several codings meet, whole and broken off.
pub(super) const JOINTS: &[&str] = &[
    "%", "%2", "%25", "%5c", "%26", "&", "&a", "&amp;", "&amp", "&#", "&#x", "&#3", "&#38;",
    "&#x26", ";", "+", "\\", "\\\\", "\\\"", "\\u", "\\u00", "\\u0026", "\\u005c", "\\x", "\\x5",
    "\\x25", "\\ud83d", "\\udd11", "25", "5c", "0", "4", "a", "-", ":", " ", "\n", "\r\n",
    "\\r\\n", "\"", "1", "7", "é",
];

/// One character under one coding.
fn coded(byte: u8, coding: u8) -> String {
    match coding {
        0 => format!("%{byte:02x}"),
        1 => format!("%{byte:02X}"),
        2 => format!("\\u{byte:04x}"),
        3 => format!("\\x{byte:02x}"),
        4 => format!("&#{byte};"),
        5 => format!("&#x{byte:x};"),
        6 => format!("&#0{byte};"),
        7 if byte == b'&' => "&amp;".to_owned(),
        7 if byte == b'"' => "&quot;".to_owned(),
        8 if byte == b' ' => "+".to_owned(),
        9 if byte.is_ascii_punctuation() => format!("\\{}", char::from(byte)),
        9 if byte == b'\n' => "\\n".to_owned(),
        _ if byte.is_ascii() => char::from(byte).to_string(),
        _ => format!("%{byte:02x}"),
    }
}

/// `bytes` under codings over each other, each character as the next of `choices` wants it.
pub(super) fn spelled(bytes: &[u8], choices: &[u8], levels: u8) -> Vec<u8> {
    let mut choices = choices.iter().copied().cycle();
    let mut text = bytes.to_vec();
    for _ in 0..levels {
        let mut next = Vec::new();
        for byte in text {
            match choices.next().unwrap_or_default() {
                coding @ 0..=9 => next.extend(coded(byte, coding).bytes()),
                _ => next.push(byte),
            }
        }
        text = next;
    }
    text
}

fn scrubbed(secret: &str, body: &[u8], size: usize) -> Vec<u8> {
    let patterns = Arc::new(Patterns::new([secret.as_bytes()]));
    let mut scrubber = Scrubber::new(patterns, Content::Other);
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&scrubber.finish());
    out
}

#[test]
fn an_escape_whose_own_characters_are_escaped_is_hidden() {
    for (secret, text) in [
        ("tok_live_4f9aC2e7", "%%374ok_live_4f9aC2e7"),
        ("tok_live_4f9aC2e7", "%7%34ok_live_4f9aC2e7"),
        ("tok_live_4f9aC2e7", "\\%750074ok_live_4f9aC2e7"),
        ("tok_live_4f9aC2e7", "&%23116;ok_live_4f9aC2e7"),
        ("tok_live_4f9aC2e7", "\\x%374ok_live_4f9aC2e7"),
        ("tok_live_4f9aC2e7", "\\\\u00750\\u00307\\u0034ok_live_4f9aC2e7"),
        ("\"quoted\"12", "\\&quot;quoted&%71uot;12"),
    ] {
        for size in [1, 3, text.len()] {
            assert_eq!(scrubbed(secret, text.as_bytes(), size), b"[CREDENTIAL]", "{text}");
        }
    }
}

fn cases() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    // `PROPTEST_CASES` sets the number for a long run.
    if config.cases == 256 {
        config.cases = 600;
    }
    config.failure_persistence = None;
    config
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_secret_under_two_levels_of_codings_is_hidden(
        secret in select(SECRETS),
        before in proptest::collection::vec(select(JOINTS), 0..3),
        choices in proptest::collection::vec(0u8..24, 1..12),
        levels in 0u8..3,
        size in prop_oneof![Just(1usize), 1usize..9, 1usize..400],
    ) {
        let text = spelled(secret.as_bytes(), &choices, levels);
        let body = [before.concat().as_bytes(), &text, b"."].concat();
        let out = scrubbed(secret, &body, size);
        prop_assert!(
            find(&out, &text).is_none(),
            "{:?} of {:?}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&body)
        );
    }
}
