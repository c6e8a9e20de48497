//! Addresses that climb: `file:///projects/../etc/passwd` begins like one thing and is another.

/// How often a URI is percent-decoded before it is given up: servers decode once, some twice.
const ROUNDS: usize = 4;

/// Whether a server could take a URI to another place than the one it begins with: a `..` however it
/// is written, an empty segment, which some path libraries take for the root, or an encoding that
/// does not settle.
pub fn climbs(uri: &str) -> bool {
    let mut text = uri.as_bytes().to_vec();
    for round in 0.. {
        let decoded = decoded_once(&text);
        if decoded == text {
            break;
        }
        if round == ROUNDS {
            return true;
        }
        text = decoded;
    }
    let Ok(text) = String::from_utf8(text) else { return true };
    if text.chars().any(char::is_control) {
        return true;
    }
    // Behind the scheme's own `//`, or `///` without an authority.
    let rest = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    let mut segments = rest.split(['/', '\\', '?', '#', '=', '&']).peekable();
    let mut in_path = true;
    let mut at = 0_usize;
    while let Some(segment) = segments.next() {
        at = at.saturating_add(segment.len());
        let name = segment.split(';').next().unwrap_or_default().trim_matches(' ');
        if name == ".." {
            return true;
        }
        let follows = rest.as_bytes().get(at).copied();
        let ends = segments.peek().is_none() || !matches!(follows, Some(b'/' | b'\\'));
        if in_path && segment.is_empty() && !ends {
            return true;
        }
        in_path &= matches!(follows, Some(b'/' | b'\\'));
        at = at.saturating_add(1);
    }
    false
}

/// Undoes percent-encoding; what is no valid escape stays.
fn decoded_once(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, left)) = first(rest) {
        out.push(byte);
        rest = left;
    }
    out
}

/// The first character's byte, percent-decoded, and what follows it.
fn first(text: &[u8]) -> Option<(u8, &[u8])> {
    if let [b'%', high, low, rest @ ..] = text {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let code = digit(*high).zip(digit(*low)).map(|(high, low)| high * 16 + low);
        if let Some(byte) = code.and_then(|code| u8::try_from(code).ok()) {
            return Some((byte, rest));
        }
    }
    text.split_first().map(|(byte, rest)| (*byte, rest))
}

#[cfg(test)]
mod tests {
    use super::climbs;

    #[test]
    fn a_climb_is_found_however_it_is_written() {
        for uri in [
            "file:///projects/../etc/passwd",
            "file:///projects/..",
            "file:///a/%2e%2e/b",
            "file:///a/.%2E/b",
            "file:///a%2f..%2Fb",
            "file:///a\\..\\b",
            "file:///a/..?x",
            "https://host/get?path=../x",
            "../x",
            "file:///projects/%252e%252e/etc/passwd",
            "file:///projects//etc/passwd",
            "file:///projects/..;/etc/passwd",
            "file:///projects/..%20/etc/passwd",
            "file:///projects/%c0%ae%c0%ae/etc/passwd",
            "file:///projects/%25252525252e/x",
            "..",
        ] {
            assert!(climbs(uri), "{uri}");
        }
        for uri in [
            "",
            "file:///a/b",
            "file:///a/b/",
            "file:///a/b?x=//y",
            "https://host/a/b#c",
            "test://static/resource/1",
            "file:///a/...",
            "file:///a/..b/c",
            "a..b",
            "/./",
            "/a./",
            "%2",
            "x%zz..",
        ] {
            assert!(!climbs(uri), "{uri}");
        }
    }
}
