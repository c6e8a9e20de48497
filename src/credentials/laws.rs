//! What must hold for any secret, encoding, place and chunking.

use std::sync::Arc;

use bytes::Bytes;

use super::{Content, Patterns, Scrubber};

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
    check("7391", &["{\"n\":127391.5,\"m\":1}"], "{\"n\":\"[CREDENTIAL]\",\"m\":1}");
    check("7391", &["{\"n\":12", "7", "391", "5}"], "{\"n\":\"[CREDENTIAL]\"}");
    check("7391", &["{\"n\":\"12", "7", "391", "5\"}"], "{\"n\":\"12[CREDENTIAL]5\"}");
    check("7391", &["{\"n\":\"a\\\"\",\"m\":7391}"], "{\"n\":\"a\\\"\",\"m\":\"[CREDENTIAL]\"}");
}
