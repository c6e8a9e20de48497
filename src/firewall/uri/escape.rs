//! Percent-encoding (RFC 3986 section 2).

use super::Doubt;

/// A byte, true if it was escaped, and the rest.
type First<'t> = (u8, bool, &'t [u8]);

/// Decodes the first character of `text`: its byte, whether it was escaped, and what follows.
pub(super) fn first(text: &[u8]) -> Result<Option<First<'_>>, Doubt> {
    match text {
        [] => Ok(None),
        [b'%', high, low, rest @ ..] => {
            let (high, low) = digit(*high).zip(digit(*low)).ok_or(Doubt::Syntax)?;
            Ok(Some((high << 4 | low, true, rest)))
        }
        [b'%', ..] => Err(Doubt::Syntax),
        [byte, rest @ ..] => Ok(Some((*byte, false, rest))),
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Characters that never need an escape.
pub(super) fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Characters of a path segment, apart from `*`, which is a wildcard in patterns.
pub(super) fn in_segment(byte: u8) -> bool {
    unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

/// Characters of a query or fragment.
pub(super) fn in_query(byte: u8) -> bool {
    in_segment(byte) || matches!(byte, b'/' | b'?')
}

/// Appends `byte` as it is or escaped.
pub(super) fn push(out: &mut String, byte: u8, plain: bool) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if plain {
        out.push(char::from(byte));
        return;
    }
    let digit = |n: u8| DIGITS.get(usize::from(n)).copied().map_or('0', char::from);
    out.push('%');
    out.push(digit(byte >> 4));
    out.push(digit(byte & 15));
}

/// Appends `text` with unreserved escapes decoded, other escapes in upper case, and what `keep` does
/// not allow escaped.
pub(super) fn normalise(text: &str, keep: fn(u8) -> bool, out: &mut String) -> Result<(), Doubt> {
    let mut rest = text.as_bytes();
    while let Some((byte, escaped, left)) = first(rest)? {
        push(out, byte, if escaped { unreserved(byte) } else { keep(byte) });
        rest = left;
    }
    Ok(())
}

/// Decodes a part of a path or authority; refuses what would change the part's borders.
pub(super) fn decode(text: &str) -> Result<String, Doubt> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, escaped, left)) = first(rest)? {
        match byte {
            b'\\' if !escaped => return Err(Doubt::Backslash),
            b'/' | b'\\' | b'%' | 0 if escaped => return Err(Doubt::Encoded),
            _ => bytes.push(byte),
        }
        rest = left;
    }
    let text = String::from_utf8(bytes).ok().ok_or(Doubt::NotText)?;
    if text.chars().any(char::is_control) { Err(Doubt::Encoded) } else { Ok(text) }
}

/// Appends decoded text, escaping what `keep` does not allow.
pub(super) fn encode(text: &str, keep: fn(u8) -> bool, out: &mut String) {
    for byte in text.bytes() {
        push(out, byte, keep(byte));
    }
}
