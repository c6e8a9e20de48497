//! Twelve ways in which a server gives away what it was sent.
//!
//! Written without a look at the scrubber, which must find them all: what the demo's server says and
//! what its check looks for come from here, what is taken out does not.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Each way by its name.
pub(super) fn echoes(secret: &str) -> [(&'static str, String); 12] {
    let lower = |before: &str| each_byte(secret, |b| format!("{before}{b:02x}"));
    let upper = |before: &str| each_byte(secret, |b| format!("{before}{b:02X}"));
    let basic = format!("agent:{secret}");
    [
        ("plain", secret.to_owned()),
        ("JSON", serde_json::Value::from(secret).to_string()),
        ("URL, lower", percent(secret, |b| format!("%{b:02x}"))),
        ("URL, upper", percent(secret, |b| format!("%{b:02X}"))),
        ("URL twice", percent(secret, |b| format!("%25{b:02X}"))),
        ("hex, lower", lower("")),
        ("hex, upper", upper("")),
        ("base64 in Basic", STANDARD.encode(basic)),
        ("base64url", URL_SAFE_NO_PAD.encode(secret)),
        ("Unicode escapes", lower("\\u00")),
        ("HTML entities", each_byte(secret, |b| format!("&#{b};"))),
        ("base32", base32(secret)),
    ]
}

/// Returns each spelling of the secret in a JSON answer, as far as the secret alone determines it.
pub(super) fn traces(secret: &str) -> Vec<(&'static str, String)> {
    let mut all = echoes(secret).to_vec();
    for (way, echo) in &mut all {
        // `agent:` fills two groups of base64; the last one holds the end of the text.
        match *way {
            "base64 in Basic" => *echo = STANDARD.encode(secret),
            "JSON" => *echo = echo.trim_matches('"').to_owned(),
            _ => {}
        }
        let kept = match *way {
            "base64 in Basic" | "base64url" => secret.len() * 8 / 6,
            "base32" => secret.len() * 8 / 5,
            _ => echo.len(),
        };
        echo.truncate(kept);
    }
    // As they stand inside of a JSON string.
    let quoted =
        |text: &str| serde_json::Value::from(text).to_string().trim_matches('"').to_owned();
    let inside: Vec<_> = all.iter().map(|(way, echo)| (*way, quoted(echo))).collect();
    all.extend(inside);
    all
}

fn each_byte(text: &str, write: impl Fn(u8) -> String) -> String {
    text.bytes().map(write).collect()
}

/// As in a URL, where letters and digits may stand.
fn percent(text: &str, write: impl Fn(u8) -> String) -> String {
    each_byte(text, |b| if b.is_ascii_alphanumeric() { char::from(b).into() } else { write(b) })
}

fn base32(text: &str) -> String {
    const BITS: usize = 5;
    let bits: Vec<u8> = text.bytes().flat_map(|b| (0..8).rev().map(move |n| b >> n & 1)).collect();
    bits.chunks(BITS)
        .map(|five| {
            let value = five.iter().fold(0, |value, bit| value << 1 | bit);
            let value: u8 = value << (BITS - five.len());
            char::from(if value < 26 { b'A' + value } else { b'2' + (value - 26) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "rk/6f+1?\"&=-0";

    #[test]
    fn each_way_is_one_of_its_own_and_leaves_its_trace() {
        let echoes = echoes(SECRET);
        let traces = traces(SECRET);
        for (n, (way, echo)) in echoes.iter().enumerate() {
            assert!(echoes.iter().skip(n + 1).all(|(_, other)| other != echo), "{way}");
            let answer = serde_json::json!({"text": format!("debug {way}: {echo}")}).to_string();
            let found = traces.iter().any(|(of, trace)| of == way && answer.contains(trace));
            assert!(found, "{way}: {answer}");
        }
        assert_eq!(base32("foobar"), "MZXW6YTBOI");
        let reversed: String = SECRET.chars().rev().collect();
        assert!(!traces.iter().any(|(_, trace)| reversed.contains(trace)));
    }
}
