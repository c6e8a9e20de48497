//! Addresses that climb: `file:///projects/../etc/passwd` begins like one thing and is another.

/// Whether a `..` stands between slashes of a URI, however either is written.
pub fn climbs(uri: &str) -> bool {
    let mut rest = uri.as_bytes();
    let mut dots = Some(0_usize);
    while let Some((byte, left)) = first(rest) {
        rest = left;
        dots = match (byte, dots) {
            // The query and the fragment are looked at too: a server may not tell them apart.
            (b'/' | b'\\' | b'?' | b'#', Some(2)) => return true,
            (b'/' | b'\\' | b'?' | b'#' | b'=', _) => Some(0),
            (b'.', Some(dots)) => Some(dots + 1),
            (_, _) => None,
        };
    }
    dots == Some(2)
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
            "..",
        ] {
            assert!(climbs(uri), "{uri}");
        }
        for uri in [
            "",
            "file:///a/b",
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
