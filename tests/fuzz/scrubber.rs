//! The scrubber: a secret in any coding, between pieces of others, is not there behind it; wherever the
//! body is cut nothing changes; and no text costs much more than another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arbiter::credentials::{Content, Patterns, Scrubber};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::driver::{Input, chunks, cuts, fuzz, soup};

const SECRETS: [&str; 3] =
    ["tok_live_4f9aC2e7B1d8", "S3cr3t-P@ss/w+rd=Zq9&x y", "pa\"ss\\wo'rd{}[]:,<>&"];
const PIECES: &[&str] = &[
    "&",
    "&amp;",
    "&#38;",
    "&#x26;",
    "&a",
    "%",
    "%25",
    "%2",
    "%2525",
    "%5c",
    "%%374",
    "+",
    "\\",
    "\\\\",
    "\\u005c",
    "\\u0026",
    "\\n",
    "\\\"",
    "\\x5c",
    "\\ud83d",
    "-----",
    "QUJD\r\n",
    "61:",
    "2d2d",
    "tok_live",
    "S3cr3t",
    "pa\"ss",
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "12345678",
    "The quick brown fox. ",
    "\r\n",
    "\u{e9}",
];

#[derive(Clone, Copy, Debug)]
enum Coding {
    Plain,
    Percent,
    PercentLower,
    Json,
    JsonUnicode,
    Html,
    Hex,
    Base64,
    Base64Url,
}

const CODINGS: [Coding; 9] = [
    Coding::Plain,
    Coding::Percent,
    Coding::PercentLower,
    Coding::Json,
    Coding::JsonUnicode,
    Coding::Html,
    Coding::Hex,
    Coding::Base64,
    Coding::Base64Url,
];

impl Coding {
    fn of(self, text: &str) -> String {
        let each = |spell: &dyn Fn(char) -> String| text.chars().map(spell).collect();
        match self {
            Self::Plain => text.to_owned(),
            Self::Percent => each(&|c| format!("%{:02X}", u32::from(c))),
            Self::PercentLower => each(&|c| format!("%{:02x}", u32::from(c))),
            Self::Json => serde_json::to_string(text).unwrap().trim_matches('"').to_owned(),
            Self::JsonUnicode => each(&|c| format!("\\u{:04x}", u32::from(c))),
            Self::Html => each(&|c| format!("&#{};", u32::from(c))),
            Self::Hex => each(&|c| format!("{:02x}", u32::from(c))),
            Self::Base64 => STANDARD.encode(text),
            Self::Base64Url => URL_SAFE_NO_PAD.encode(text),
        }
    }
}

fn scrub(patterns: &Arc<Patterns>, chunks: &[&[u8]]) -> Vec<u8> {
    let mut scrubber = Scrubber::new(Arc::clone(patterns), Content::Json);
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&scrubber.finish());
    out
}

/// The least of three times.
fn took(patterns: &Arc<Patterns>, body: &[u8]) -> Duration {
    let once = || {
        let start = Instant::now();
        std::hint::black_box(scrub(patterns, &[body]));
        start.elapsed()
    };
    (0..3).map(|_| once()).min().unwrap()
}

/// Time for each byte of a body, beyond which it is measured again and refused.
const MOST_PER_BYTE: Duration = Duration::from_micros(40);

fn check((parts, which, coding, outer, cuts): Made) -> Result<(), TestCaseError> {
    let patterns = Arc::new(Patterns::new(SECRETS.iter().map(|secret| secret.as_bytes())));
    let inner = coding.of(SECRETS[which]);
    // Escapes may be escaped once more; the other forms are texts without any.
    let spelled = outer.map_or(inner.clone(), |outer| outer.of(&inner));
    let at = parts.len() / 2;
    let mut body: Vec<u8> = parts[..at].iter().flat_map(|part| part.0.clone()).collect();
    // A plain letter on both sides would belong to a text in hexadecimal digits or base64.
    body.push(b' ');
    body.extend_from_slice(spelled.as_bytes());
    body.push(b' ');
    body.extend(parts[at..].iter().flat_map(|part| part.0.clone()));
    let out = scrub(&patterns, &chunks(&body, &cuts));
    let passed = out.windows(spelled.len()).any(|window| window == spelled.as_bytes());
    prop_assert!(!passed, "{spelled} passed: {}", out.escape_ascii());
    let start = Instant::now();
    let whole = scrub(&patterns, &[&body]);
    let bound = Duration::from_millis(2) + MOST_PER_BYTE * u32::try_from(body.len()).unwrap();
    let slow = start.elapsed() > bound && took(&patterns, &body) > bound;
    prop_assert!(!slow, "{} bytes cost more than {bound:?}", body.len());
    prop_assert_eq!(out, whole, "cut otherwise, scrubbed otherwise");
    Ok(())
}

type Made = (Vec<Input>, usize, Coding, Option<Coding>, Vec<Index>);

#[test]
fn scrubber() {
    let outer = prop_oneof![
        2 => Just(None),
        1 => select(&[Coding::Percent, Coding::Json, Coding::JsonUnicode, Coding::Html][..]).prop_map(Some),
    ];
    let inputs =
        (vec(soup(PIECES, 12), 0..4), 0..SECRETS.len(), select(&CODINGS[..]), outer, cuts());
    fuzz("scrubber", &inputs, check);
}
