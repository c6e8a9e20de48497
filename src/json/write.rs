//! Writers of JSON text: the inside of a string, and numbers.

/// Writes the inside of a JSON string, with every control character and line separator escaped.
pub fn escaped(out: &mut Vec<u8>, text: &str) {
    // All of it, without stopping at the first: so many bytes are looked at together.
    let odd =
        |b: u8| u8::from(!(0x20..0x7f).contains(&b)) | u8::from(b == b'"') | u8::from(b == b'\\');
    if text.bytes().fold(0, |found, b| found | odd(b)) == 0 {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if breaks_lines(c) => {
                out.extend_from_slice(b"\\u");
                for shift in [12, 8, 4, 0] {
                    let digit = char::from_digit((u32::from(c) >> shift) & 0xf, 16);
                    out.extend(digit.and_then(|digit| u8::try_from(digit).ok()));
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Reports control characters and the characters that some readers take for the end of a line.
pub fn breaks_lines(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Writes a number in decimal digits.
pub fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
        used += 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}
