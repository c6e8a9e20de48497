//! What must hold for any secret, encoding, place and chunking.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{Content, Patterns, REPLACEMENT, Scrubber, SseScrubber};
use crate::decode::Bounds;
use crate::decode::tests::{CODINGS, compress, decoder};

/// Secrets that have broken others.
pub(super) const AWKWARD: &[&str] = &[
    "tok_live_4f9aC2e7B1d8Kq3Z",
    "S3cr3t-P@ss/w+rd=Zq9&x y",
    "pa\"ss\\wo'rd{}[]:,<>&é",
    "7391",
    "alphaSECRET77",
    "alphaSECRET77beta-omega",
    "pässwörd-密码-🔑",
    "-----BEGIN KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX\nQmx5c3==\n-----END KEY-----",
    "lit-${CRED:api_token}-lit",
    "aaaaaaaa",
    "%41%42%43%44",
    "\\u0041\\n\\\\x",
    "nineteen%",
    "&amp;&#65;&lt;",
];

pub(super) fn scrub(secrets: &[&[u8]], content: Content, chunks: &[&[u8]]) -> (Vec<u8>, u64) {
    let patterns = Arc::new(Patterns::new(secrets.iter().copied()));
    let mut scrubber = Scrubber::new(patterns, content);
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&scrubber.finish());
    (out, scrubber.replaced())
}

fn text(secrets: &[&str], chunks: &[&str]) -> String {
    let secrets: Vec<&[u8]> = secrets.iter().map(|s| s.as_bytes()).collect();
    let chunks: Vec<&[u8]> = chunks.iter().map(|s| s.as_bytes()).collect();
    String::from_utf8(scrub(&secrets, Content::Json, &chunks).0).unwrap()
}

#[test]
fn a_secret_is_replaced_and_all_else_passes() {
    let check = |secrets: &[&str], chunks: &[&str], expected: &str| {
        assert_eq!(text(secrets, chunks), expected);
    };
    check(&["hunter2hunter2"], &["{\"v\":\"hunter2hunter2;end\"}"], "{\"v\":\"[CREDENTIAL];end\"}");
    check(&["hunter2hunter2"], &["a hunt", "er2hun", "ter2 b"], "a [CREDENTIAL] b");
    check(&["hunter2hunter2"], &["a hunt", "er2hun", "ter3 b"], "a hunter2hunter3 b");
    check(&["hunter2hunter2"], &["a hunt", "er2hun"], "a hunter2hun");
    check(&["alpha77", "alpha77beta"], &["alpha77beta alpha77"], "[CREDENTIAL] [CREDENTIAL]");
    check(&["alpha77", "alpha77beta"], &["alpha77b", "et"], "[CREDENTIAL]bet");
    check(&["password1234", "1234-5678"], &["password1234-", "5678!"], "[CREDENTIAL]!");
    check(&["aaaa"], &["xaaaaaaaay"], "x[CREDENTIAL]y");
}

#[test]
fn json_stays_valid() {
    let check = |secret: &str, chunks: &[&str], expected: &str| {
        assert_eq!(text(&[secret], chunks), expected);
        let _: serde_json::Value = serde_json::from_str(expected).unwrap();
    };
    check("npassword", &["\"x\\npassword\""], "\"x[CREDENTIAL]\"");
    check("npassword", &["\"x\\", "npass", "word\""], "\"x[CREDENTIAL]\"");
    check("npassword", &["\"x\\\\npassword\""], "\"x\\\\[CREDENTIAL]\"");
    check("41password", &["\"\\u00", "41password\""], "\"[CREDENTIAL]\"");
    check("\"quoted\"", &["[\"quoted\"]"], "[\"[CREDENTIAL]\"]");
    check("quoted\"", &["[\"a quoted\\\\\"]"], "[\"a [CREDENTIAL]\"]");
    check("7391", &["{\"n\":127391.5,\"m\":1}"], "{\"n\":\"[CREDENTIAL]\",\"m\":1}");
    check("7391", &["{\"n\":12", "7", "391", "5}"], "{\"n\":\"[CREDENTIAL]\"}");
    check("7391", &["{\"n\":\"12", "7", "391", "5\"}"], "{\"n\":\"12[CREDENTIAL]5\"}");
    check("7391", &["{\"n\":\"a\\\"\",\"m\":7391}"], "{\"n\":\"a\\\"\",\"m\":\"[CREDENTIAL]\"}");
}

/// The encodings of the contract, written down a second time and in the plainest way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Json,
    JsonSolidus,
    JsonAscii { upper: bool },
    JsonInJson,
    EveryUnicode { upper: bool },
    Url { upper: bool },
    UrlForm,
    UrlEvery,
    UrlTwice { upper: bool },
    UrlMixed,
    Hex { upper: bool },
    Base64 { lead: usize, url: bool, padded: bool },
    Base64InUrl { lead: usize },
    Base64Lines { lead: usize },
    Base32 { lead: usize },
    HtmlDecimal,
    HtmlHex,
    HtmlNamed,
    BackslashX,
}

pub(crate) const ENCODINGS: &[Encoding] = &[
    Encoding::Plain,
    Encoding::Json,
    Encoding::JsonSolidus,
    Encoding::JsonAscii { upper: false },
    Encoding::JsonAscii { upper: true },
    Encoding::JsonInJson,
    Encoding::EveryUnicode { upper: false },
    Encoding::EveryUnicode { upper: true },
    Encoding::Url { upper: false },
    Encoding::Url { upper: true },
    Encoding::UrlForm,
    Encoding::UrlEvery,
    Encoding::UrlTwice { upper: false },
    Encoding::UrlTwice { upper: true },
    Encoding::UrlMixed,
    Encoding::Hex { upper: false },
    Encoding::Hex { upper: true },
    Encoding::Base64 { lead: 0, url: false, padded: true },
    Encoding::Base64 { lead: 1, url: false, padded: false },
    Encoding::Base64 { lead: 2, url: false, padded: true },
    Encoding::Base64 { lead: 0, url: true, padded: true },
    Encoding::Base64 { lead: 1, url: true, padded: false },
    Encoding::Base64 { lead: 2, url: true, padded: false },
    Encoding::Base64InUrl { lead: 0 },
    Encoding::Base64InUrl { lead: 2 },
    Encoding::Base64Lines { lead: 0 },
    Encoding::Base64Lines { lead: 1 },
    Encoding::Base32 { lead: 0 },
    Encoding::Base32 { lead: 1 },
    Encoding::Base32 { lead: 2 },
    Encoding::Base32 { lead: 3 },
    Encoding::Base32 { lead: 4 },
    Encoding::HtmlDecimal,
    Encoding::HtmlHex,
    Encoding::HtmlNamed,
    Encoding::BackslashX,
];

fn json_inner(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap();
    quoted[1..quoted.len() - 1].to_owned()
}

fn percent(bytes: &[u8], every: bool, upper: impl Fn(usize) -> bool) -> String {
    let mut out = String::new();
    for (n, &b) in bytes.iter().enumerate() {
        if !every && (b.is_ascii_alphanumeric() || b"-_.~".contains(&b)) {
            out.push(char::from(b));
        } else if upper(n) {
            out += &format!("%{b:02X}");
        } else {
            out += &format!("%{b:02x}");
        }
    }
    out
}

fn units(text: &str, upper: bool, kept: impl Fn(char) -> bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if kept(c) {
            out += &json_inner(&c.to_string());
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out += &if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
        }
    }
    out
}

fn base32(bytes: &[u8]) -> String {
    let bits: String = bytes.iter().map(|b| format!("{b:08b}")).collect();
    let letter = |five: &[u8]| {
        let five = format!("{:0<5}", std::str::from_utf8(five).unwrap());
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::from_str_radix(&five, 2).unwrap()])
    };
    bits.as_bytes().chunks(5).map(letter).collect()
}

impl Encoding {
    /// `secret` in this encoding; `None` where it has none (text encodings of what is no text).
    pub(crate) fn of(self, secret: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(secret);
        let led = |lead: usize| [&b"u:xyz"[..lead], secret, b"!"].concat();
        Some(match self {
            Self::Plain => text.ok()?.to_owned(),
            Self::Json => json_inner(text.ok()?),
            Self::JsonSolidus => json_inner(text.ok()?).replace('/', "\\/"),
            Self::JsonAscii { upper } => units(text.ok()?, upper, |c| c.is_ascii()),
            Self::JsonInJson => json_inner(&json_inner(text.ok()?)),
            Self::EveryUnicode { upper } => units(text.ok()?, upper, |_| false),
            Self::Url { upper } => percent(secret, false, |_| upper),
            Self::UrlForm => percent(secret, false, |_| true).replace("%20", "+"),
            Self::UrlEvery => percent(secret, true, |_| true),
            Self::UrlTwice { upper } => {
                percent(percent(secret, false, |_| upper).as_bytes(), false, |_| upper)
            }
            Self::UrlMixed => percent(secret, false, |n| n % 2 == 0),
            Self::Hex { upper: false } => secret.iter().map(|b| format!("{b:02x}")).collect(),
            Self::Hex { upper: true } => secret.iter().map(|b| format!("{b:02X}")).collect(),
            Self::Base64 { lead, url, padded } => match (url, padded) {
                (false, true) => STANDARD.encode(led(lead)),
                (false, false) => STANDARD_NO_PAD.encode(led(lead)),
                (true, true) => URL_SAFE.encode(led(lead)),
                (true, false) => URL_SAFE_NO_PAD.encode(led(lead)),
            },
            Self::Base64InUrl { lead } => {
                percent(STANDARD.encode(led(lead)).as_bytes(), false, |_| true)
            }
            Self::Base64Lines { lead } => {
                let text = STANDARD.encode(led(lead));
                let lines: Vec<_> =
                    text.as_bytes().chunks(7).map(String::from_utf8_lossy).collect();
                lines.join("\\r\\n")
            }
            Self::Base32 { lead } => base32(&led(lead)),
            Self::HtmlDecimal => match text {
                Ok(text) => text.chars().map(|c| format!("&#{};", u32::from(c))).collect(),
                Err(_) => secret.iter().map(|b| format!("&#{b};")).collect(),
            },
            Self::HtmlHex => secret.iter().map(|b| format!("&#x{b:X};")).collect(),
            Self::HtmlNamed => text
                .ok()?
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
                .replace('"', "&quot;")
                .replace('\'', "&#39;"),
            Self::BackslashX => secret.iter().map(|b| format!("\\x{b:02x}")).collect(),
        })
    }

    /// The part of the encoding that depends on the secret alone.
    pub(crate) fn core_of(self, secret: &[u8]) -> Option<String> {
        let whole = self.of(secret)?;
        let (lead, bits) = match self {
            Self::Base64 { lead, .. } => (lead, 6),
            Self::Base32 { lead } => (lead, 5),
            // Their cores are checked after undoing the outer encoding.
            Self::Base64InUrl { .. } | Self::Base64Lines { .. } => return None,
            _ => return Some(whole),
        };
        let from = (lead * 8).div_ceil(bits);
        let to = (lead + secret.len()) * 8 / bits;
        Some(whole.get(from..to)?.to_owned())
    }
}

/// Whether `secret` is still in `output` under `encoding`.
pub(crate) fn leaks(secret: &[u8], encoding: Encoding, output: &[u8]) -> bool {
    let contains = |text: &[u8], core: &[u8]| memchr::memmem::find(text, core).is_some();
    match encoding {
        Encoding::Base64InUrl { lead } | Encoding::Base64Lines { lead } => {
            let inner = Encoding::Base64 { lead, url: false, padded: true };
            let text = String::from_utf8_lossy(output).replace("\\r\\n", "");
            let text = text.replace("%2B", "+").replace("%2F", "/");
            contains(text.as_bytes(), inner.core_of(secret).unwrap().as_bytes())
        }
        _ => contains(output, encoding.core_of(secret).unwrap().as_bytes()),
    }
}

pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let mut config = ProptestConfig::default();
    // `PROPTEST_CASES` sets the number for a long run.
    if config.cases == 256 {
        config.cases = usual;
    }
    config.failure_persistence = None;
    config
}

pub(crate) fn any_secret() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        select(AWKWARD).prop_map(|s| s.as_bytes().to_vec()),
        "[ -~]{4,32}".prop_map(String::into_bytes),
        "[%\\\\&#x0-9a-fu;+ ]{4,16}".prop_map(String::into_bytes),
        "\\PC{4,12}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 4..40),
    ]
}

/// Text that likes to run into a secret's beginning or end.
pub(crate) fn around() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[%\\\\&#x0-9a-f;+= ]{0,12}",
        "[A-Za-z0-9+/_=-]{0,12}",
        "[ -~\\n]{0,24}",
        "\\PC{0,8}",
    ]
}

/// Cuts `body` at `cuts`.
pub(crate) fn chunks<'b>(body: &'b [u8], cuts: &[Index]) -> Vec<&'b [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    at.extend([0, body.len()]);
    at.sort_unstable();
    at.windows(2).map(|w| &body[w[0]..w[1]]).collect()
}

pub(crate) fn cuts() -> impl Strategy<Value = Vec<Index>> {
    proptest::collection::vec(any::<Index>(), 0..12)
}

/// `body` through the decoder and the scrubber, compressed by `coding` and cut at `cuts`.
fn through(
    patterns: &Arc<Patterns>,
    json: bool,
    coding: &str,
    body: &[u8],
    cuts: &[Index],
) -> Vec<u8> {
    let content = if json { Content::Json } else { Content::Other };
    let mut scrubber = Scrubber::new(Arc::clone(patterns), content);
    let packed = if coding.is_empty() { body.to_vec() } else { compress(coding, body) };
    let mut decoder = (!coding.is_empty()).then(|| decoder(coding, Bounds::body(1 << 20)));
    let mut out = Vec::new();
    for chunk in chunks(&packed, cuts) {
        let mut plain = BytesMut::new();
        match &mut decoder {
            Some(decoder) => decoder.push(chunk, &mut plain).unwrap(),
            None => plain.extend_from_slice(chunk),
        }
        out.extend_from_slice(&scrubber.push(plain.freeze()));
    }
    if let Some(decoder) = decoder {
        decoder.finish().unwrap();
    }
    out.extend_from_slice(&scrubber.finish());
    out
}

/// No compression most of the time, since it takes most of the time.
fn codings() -> impl Strategy<Value = &'static str> {
    prop_oneof![15 => Just(""), 1 => select(CODINGS)]
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn no_secret_passes_in_any_encoding_place_chunking_and_compression(
        secret in any_secret(),
        other in any_secret(),
        encoding in select(ENCODINGS),
        before in around(),
        after in around(),
        json in any::<bool>(),
        coding in codings(),
        cuts in cuts(),
    ) {
        let Some(encoded) = encoding.of(&secret) else { return Ok(()) };
        let body = format!("{before}{encoded}{after}").into_bytes();
        let patterns = Arc::new(Patterns::new([secret.as_slice(), other.as_slice()]));
        let out = through(&patterns, json, coding, &body, &cuts);
        prop_assert!(!leaks(&secret, encoding, &out), "{:?}", String::from_utf8_lossy(&out));
        prop_assert!(memchr::memmem::find(&out, REPLACEMENT).is_some());
        let whole = through(&patterns, json, "", &body, &[]);
        prop_assert_eq!(out, whole, "chunking changes the output");
    }

    #[test]
    fn no_secret_passes_in_an_event_stream(
        secret in any_secret(),
        encoding in select(ENCODINGS),
        before in around(),
        after in around(),
        split in proptest::option::of(any::<Index>()),
        cuts in cuts(),
    ) {
        let Some(encoded) = encoding.of(&secret) else { return Ok(()) };
        // Inside a JSON string, so what JSON would not let stand there is escaped.
        let inner = |text: &str| json_inner(text);
        let (first, second) = match split {
            Some(split) => {
                let at = split.index(encoded.len() + 1);
                let at = (at..=encoded.len()).find(|&n| encoded.is_char_boundary(n)).unwrap();
                encoded.split_at(at)
            }
            None => (encoded.as_str(), ""),
        };
        let event = |text: String| format!("data: {{\"delta\":\"{text}\"}}\n\n");
        let stream = event(inner(&before) + &inner(first)) + &event(inner(second) + &inner(&after));
        let patterns = Arc::new(Patterns::new([secret.as_slice()]));
        let mut scrubber = SseScrubber::new(patterns, 1 << 20);
        let mut out = Vec::new();
        for chunk in chunks(stream.as_bytes(), &cuts) {
            out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(chunk)).unwrap());
        }
        out.extend_from_slice(&scrubber.finish().unwrap());
        // What a client sees that joins the deltas.
        let out = String::from_utf8(out).unwrap();
        let mut joined = String::new();
        for data in out.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let value: serde_json::Value = serde_json::from_str(data).unwrap();
            joined += value["delta"].as_str().unwrap();
        }
        prop_assert!(!leaks(&secret, encoding, joined.as_bytes()), "{}", joined);
        prop_assert!(!leaks(&secret, encoding, out.as_bytes()), "{}", out);
    }

    #[test]
    fn a_body_without_a_secret_passes_byte_for_byte(
        secrets in proptest::collection::vec("[!-~]{12,40}", 0..4),
        body in proptest::collection::vec(any::<u8>(), 0..400),
        text in around(),
        cuts in cuts(),
    ) {
        let secrets: Vec<&[u8]> = secrets.iter().map(String::as_bytes).collect();
        for body in [&body, text.as_bytes()] {
            let (out, count) = scrub(&secrets, Content::Json, &chunks(body, &cuts));
            prop_assert_eq!(&out, body);
            prop_assert_eq!(count, 0);
        }
    }

    #[test]
    fn the_start_of_a_secret_passes_byte_for_byte(
        secret in "[!-~]{12,40}",
        encoding in select(ENCODINGS),
        keep in any::<Index>(),
        cuts in cuts(),
    ) {
        let whole = encoding.of(secret.as_bytes()).unwrap();
        let core = encoding.core_of(secret.as_bytes()).unwrap_or_else(|| whole.clone());
        // Less than all of the core, and without its last byte even if escapes stand for none.
        let body = &whole.as_bytes()[..keep.index(core.len().saturating_sub(8).max(1))];
        let (out, count) = scrub(&[secret.as_bytes()], Content::Other, &chunks(body, &cuts));
        prop_assert_eq!(out, body);
        prop_assert_eq!(count, 0);
    }
}
