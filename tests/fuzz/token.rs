//! Tokens: whatever their header and claims are, one that passes says what a second reader accepts;
//! and not a bit of a good one may change.

use arbiter::firewall::time::{Mono, Now, Timestamp};
use arbiter::identity::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

use crate::driver::{Change, changed, changes, fuzz};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: i64 = 1_800_000_000;
const HEADER: &[&str] = &[
    r#""alg":"HS256""#,
    r#""alg":"none""#,
    r#""alg":"RS256""#,
    r#""alg":"hs256""#,
    r#""typ":"JWT""#,
    r#""typ":"at+jwt""#,
    r#""typ":"other""#,
    r#""typ":3"#,
    r#""kid":"x""#,
    r#""kid":7"#,
    r#""crit":["x"]"#,
    r#""jku":"http://a""#,
];
const CLAIMS: &[&str] = &[
    r#""iss":"arbiter""#,
    r#""iss":"other""#,
    r#""sub":"user:ann""#,
    r#""sub":"""#,
    r#""sub":3"#,
    r#""sub":null"#,
    r#""agent_id":"7f3c2a10-1111-4222-8333-444455556666""#,
    r#""agent_id":"7""#,
    r#""agent_id":null"#,
    r#""exp":1800000001"#,
    r#""exp":1800000000"#,
    r#""exp":1799999999"#,
    r#""exp":"1800000001""#,
    r#""exp":1e12"#,
    r#""exp":18000000000.5"#,
    r#""exp":99999999999999999999"#,
    r#""iat":1800000060"#,
    r#""iat":1800000061"#,
    r#""nbf":1800000000"#,
    r#""nbf":1900000000"#,
    r#""nbf":null"#,
    r#""jti":"j""#,
    r#""jti":4"#,
    r#""groups":["a"]"#,
    r#""groups":7"#,
    r#""scope":"a b""#,
    r#""scope":[1]"#,
    r#""cnf":{}"#,
    r#""\u0069ss":"arbiter""#,
];
/// Claims of a good token, so that most of those made are near to one.
const GOOD: &str = r#""iss":"arbiter","sub":"user:ann","agent_id":"7f3c2a10-1111-4222-8333-444455556666","exp":1800000001"#;
const PIECES: &[&str] = &[".", "=", "A", "-", "_", "+", "/", "eyJ", " ", "\n", "\u{0}"];

fn passes(token: &str) -> bool {
    let now = Now { wall: Timestamp::from_secs(NOW), mono: Mono(0) };
    Identity::new(SECRET).verify(token, now).now_or_never().expect("waits for nobody").is_ok()
}

fn signed(header: &str, claims: &str) -> String {
    let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = EncodingKey::from_secret(SECRET);
    let signature = crypto::sign(text.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{text}.{signature}")
}

/// Judges as RFC 7515, RFC 7519 and the configuration's reference have it.
fn is_good(header: &Value, claims: &Value) -> bool {
    let whole = |name: &str| match &claims[name] {
        Value::Null => Ok(None),
        Value::Number(number) => number.as_f64().map(Some).ok_or(()),
        _ => Err(()),
    };
    let (Ok(Some(exp)), Ok(iat), Ok(nbf)) = (whole("exp"), whole("iat"), whole("nbf")) else {
        return false;
    };
    #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
    let now = NOW as f64;
    let kind = header["typ"].as_str().unwrap_or("JWT").to_ascii_lowercase();
    header["alg"] == "HS256"
        && header.get("crit").is_none()
        && (kind == "jwt" || kind == "at+jwt")
        && claims["iss"] == "arbiter"
        && claims["sub"].as_str().is_some_and(|sub| !sub.is_empty())
        && claims["agent_id"].as_str().is_some_and(|id| id.len() == 36)
        && exp > now
        && iat.is_none_or(|at| at <= now + 60.0)
        && nbf.is_none_or(|at| at <= now + 60.0)
}

fn object(members: &[&str], good: &str) -> String {
    let mut members = members.to_vec();
    if !good.is_empty() {
        members.insert(members.len() / 2, good);
    }
    format!("{{{}}}", members.join(","))
}

type Made = (Vec<&'static str>, Vec<&'static str>, bool, Vec<Change>);

fn check((header, claims, near, changes): Made) -> Result<(), TestCaseError> {
    let header = object(&header, if near { r#""alg":"HS256""# } else { "" });
    let claims = object(&claims, if near { GOOD } else { "" });
    let token = signed(&header, &claims);
    let passed = passes(&token);
    if passed {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        prop_assert!(is_good(&read(&header), &read(&claims)), "passed: {header} {claims}");
    } else if changes.is_empty()
        && header == r#"{"alg":"HS256"}"#
        && claims == format!("{{{GOOD}}}")
    {
        return Err(TestCaseError::fail("the plainest good token is refused"));
    }
    let altered = changed(token.as_bytes(), &changes);
    if altered != token.as_bytes() {
        let accepted = std::str::from_utf8(&altered).is_ok_and(passes);
        prop_assert!(!accepted, "accepted: {}", altered.escape_ascii());
    }
    Ok(())
}

#[test]
fn token() {
    let inputs =
        (vec(select(HEADER), 0..3), vec(select(CLAIMS), 0..4), any::<bool>(), changes(PIECES));
    fuzz("token", &inputs, check);
}
