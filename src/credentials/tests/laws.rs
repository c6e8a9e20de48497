//! Laws for every secret, encoding, place and chunking.

mod encoders;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use self::encoders::{ENCODINGS, json_inner, leaks};
use super::super::{Content, Patterns, REPLACEMENT, Scrubber, SseScrubber};
use crate::decode::Bounds;
use crate::decode::tests::{CODINGS, compress, decoder};

/// Secrets that have broken others.
const AWKWARD: &[&str] = &[
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

fn scrub(secrets: &[&[u8]], content: Content, chunks: &[&[u8]]) -> (Vec<u8>, u64) {
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
    check("quoted\\", &["[\"quoted\\\\\\\"\"]"], "[\"[CREDENTIAL]\"]");
    check("quoted\\", &["[\"quoted\\\\\\", "\"\"]"], "[\"[CREDENTIAL]\"]");
    check(":\"a0bc", &["{\"k\":\"a0bcd\"}"], "{\"k\":\"[CREDENTIAL]d\"}");
    check("pa\"ss{word", &["{\"k\":\"pa\"ss{word\"}"], "{\"k\":\"[CREDENTIAL]\"}");
    check("\"quoted\"", &["[\"quoted\"]"], "[\"[CREDENTIAL]\"]");
    check("quoted\"", &["[\"a quoted\\\\\"]"], "[\"a [CREDENTIAL]\"]");
    check("7391", &["{\"n\":127391.5,\"m\":1}"], "{\"n\":\"[CREDENTIAL]\",\"m\":1}");
    check("7391", &["{\"n\":73917391,\"m\":1}"], "{\"n\":\"[CREDENTIAL]\",\"m\":1}");
    check("7391", &["{\"n\":12", "7", "391", "5}"], "{\"n\":\"[CREDENTIAL]\"}");
    check("7391", &["{\"n\":\"12", "7", "391", "5\"}"], "{\"n\":\"12[CREDENTIAL]5\"}");
    check("7391", &["{\"n\":\"a\\\"\",\"m\":7391}"], "{\"n\":\"a\\\"\",\"m\":\"[CREDENTIAL]\"}");
}

fn cases(usual: u32) -> ProptestConfig {
    let mut config = ProptestConfig::default();
    // `PROPTEST_CASES` sets the number for a long run.
    if config.cases == 256 {
        config.cases = usual;
    }
    config.failure_persistence = None;
    config
}

fn any_secret() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        select(AWKWARD).prop_map(|s| s.as_bytes().to_vec()),
        "[ -~]{4,32}".prop_map(String::into_bytes),
        "[%\\\\&#x0-9a-fu;+ ]{4,16}".prop_map(String::into_bytes),
        "\\PC{4,12}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 4..40),
    ]
}

/// Text that likes to run into a secret's beginning or end.
fn around() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[%\\\\&#x0-9a-f;+= ]{0,12}",
        "[A-Za-z0-9+/_=-]{0,12}",
        "[ -~\\n]{0,24}",
        "\\PC{0,8}",
    ]
}

/// Cuts `body` at `cuts`.
fn chunks<'b>(body: &'b [u8], cuts: &[Index]) -> Vec<&'b [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    at.extend([0, body.len()]);
    at.sort_unstable();
    at.windows(2).map(|w| &body[w[0]..w[1]]).collect()
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
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
        // The first bytes of a secret may leave; the replacement must not complete it by chance.
        if encoded.contains('[') {
            return Ok(());
        }
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
