//! The encodings that are scrubbed, written a second time and in the plainest way, to test the first.

#![expect(
    clippy::format_collect,
    clippy::format_push_string,
    clippy::string_slice,
    reason = "plain beats fast in what the tests trust"
)]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
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

pub(super) const ENCODINGS: &[Encoding] = &[
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

pub(super) fn json_inner(text: &str) -> String {
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
    pub(super) fn of(self, secret: &[u8]) -> Option<String> {
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
    pub(super) fn core_of(self, secret: &[u8]) -> Option<String> {
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

/// Reports whether `secret` is still in `output` under `encoding`.
pub(super) fn leaks(secret: &[u8], encoding: Encoding, output: &[u8]) -> bool {
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
