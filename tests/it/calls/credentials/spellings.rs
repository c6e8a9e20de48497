//! The forms in which a secret may come back, written down a second time and in the plainest way.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Every spelling of a secret, with its name.
pub(super) fn spellings(secret: &str) -> Vec<(&'static str, String)> {
    let each = |form: &dyn Fn(u8) -> String| secret.bytes().map(form).collect::<String>();
    let each_unit = |form: &dyn Fn(u16) -> String| secret.encode_utf16().map(form).collect();
    let each_char = |form: &dyn Fn(char) -> String| secret.chars().map(form).collect();
    let percent = |upper: bool| {
        each(&|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(b).to_string()
            }
            _ if upper => format!("%{b:02X}"),
            _ => format!("%{b:02x}"),
        })
    };
    let json = serde_json::to_string(secret).unwrap();
    let json = json[1..json.len() - 1].to_owned();
    let json_twice = serde_json::to_string(&json).unwrap();
    let mut all = vec![
        ("plain", secret.to_owned()),
        ("JSON", json.clone()),
        ("JSON in JSON", json_twice[1..json_twice.len() - 1].to_owned()),
        ("JSON with \\/", json.replace('/', "\\/")),
        ("URL, upper", percent(true)),
        ("URL, lower", percent(false)),
        ("URL, every byte", each(&|b| format!("%{b:02X}"))),
        ("form", percent(true).replace("%20", "+")),
        ("URL twice", percent(true).replace('%', "%25")),
        ("hex, lower", each(&|b| format!("{b:02x}"))),
        ("hex, upper", each(&|b| format!("{b:02X}"))),
        ("\\u, lower", each_unit(&|u| format!("\\u{u:04x}"))),
        ("\\u, upper", each_unit(&|u| format!("\\u{u:04X}"))),
        ("HTML, decimal", each_char(&|c| format!("&#{};", u32::from(c)))),
        ("HTML, hex", each_char(&|c| format!("&#x{:x};", u32::from(c)))),
        ("\\x", each(&|b| format!("\\x{b:02x}"))),
    ];
    for (lead, name) in ["base64", "base64 after 1", "base64 after 2"].into_iter().enumerate() {
        let mut bytes = vec![b'u'; lead];
        bytes.extend_from_slice(secret.as_bytes());
        // Those characters that the secret alone determines.
        let cut = |coded: String| coded[(lead * 8).div_ceil(6)..bytes.len() * 8 / 6].to_owned();
        all.push((name, cut(STANDARD.encode(&bytes))));
        all.push((name, cut(URL_SAFE.encode(&bytes))));
    }
    let coded = base32(secret.as_bytes());
    all.push(("base32", coded[..secret.len() * 8 / 5].to_owned()));
    all
}

/// The spelling in which `secret` stands in `text`.
pub(super) fn leaks(secret: &str, text: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(text);
    spellings(secret).into_iter().find(|(_, form)| text.contains(form)).map(|(name, _)| name)
}

fn base32(bytes: &[u8]) -> String {
    let bits: Vec<String> = bytes.iter().map(|b| format!("{b:08b}")).collect();
    let bits = bits.concat();
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    bits.as_bytes()
        .chunks(5)
        .map(|five| {
            let five = format!("{:0<5}", std::str::from_utf8(five).unwrap());
            char::from(digits[usize::from_str_radix(&five, 2).unwrap()])
        })
        .collect()
}

#[test]
fn the_spellings_are_what_they_say() {
    let of = |name: &str| spellings("f/ô").into_iter().find(|(n, _)| *n == name).unwrap().1;
    assert_eq!(of("URL, upper"), "f%2F%C3%B4");
    assert_eq!(of("URL twice"), "f%252F%25C3%25B4");
    assert_eq!(of("\\u, lower"), "\\u0066\\u002f\\u00f4");
    assert_eq!(of("HTML, decimal"), "&#102;&#47;&#244;");
    assert_eq!(of("base32"), "MYX4HN");
    assert_eq!(of("base64"), "Zi/Dt");
    assert_eq!(leaks("secret", b"x c2VjcmV0 y"), Some("base64"));
    assert_eq!(leaks("secret", b"x secre y"), None);
}
