//! Keeps JSON valid where a secret stands outside of a string.
//!
//! A PIN can come back as a number, and `{"n":[CREDENTIAL]}` is not JSON. Only a secret that has a
//! form made of digits can do that, so only then are the quotes of the body counted; the whole
//! number is then replaced by a string.

use std::ops::Range;

use bytes::BytesMut;

/// Text that replaces a secret.
pub const REPLACEMENT: &[u8] = b"[CREDENTIAL]";
/// Text that replaces a number with a secret in it.
pub(super) const QUOTED_REPLACEMENT: &[u8] = b"\"[CREDENTIAL]\"";
/// A number longer than this is not kept together.
const LONGEST_NUMBER_BYTES: usize = 64;

/// Position of the scrubber in a JSON text.
#[derive(Debug)]
pub(super) struct Bare {
    watching: bool,
    in_string: bool,
}

/// Reports whether `byte` can be part of a JSON number.
pub(super) fn is_number_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
}

impl Bare {
    pub(super) fn watching() -> Self {
        Self { watching: true, in_string: false }
    }

    pub(super) fn ignoring() -> Self {
        Self { watching: false, in_string: false }
    }

    /// Moves over bytes that go out as they are. They never end inside an escape.
    pub(super) fn skip(&mut self, bytes: &[u8]) {
        if self.watching {
            self.in_string ^= open_quotes(bytes) % 2 == 1;
        }
    }

    /// Writes the replacement of the match at `span` of `text`; `out` holds what precedes it.
    /// Gives back where the text goes on.
    pub(super) fn place(&self, text: &[u8], span: Range<usize>, out: &mut BytesMut) -> usize {
        let end = span.end;
        let is_number = || text.get(span).unwrap_or_default().iter().all(|&b| is_number_byte(b));
        if !self.watching || self.in_string || !is_number() {
            out.extend_from_slice(REPLACEMENT);
            return end;
        }
        out.truncate(out.len() - trailing_number(out));
        out.extend_from_slice(QUOTED_REPLACEMENT);
        let rest = text.get(end..).unwrap_or_default();
        end + rest.iter().take_while(|&&b| is_number_byte(b)).count()
    }

    /// Moves `hold` to the start of a number that it would cut.
    pub(super) fn hold(&self, text: &[u8], hold: usize) -> usize {
        if !self.watching {
            return hold;
        }
        let head = text.get(..hold).unwrap_or_default();
        let digits = trailing_number(head);
        if digits == 0 || digits > LONGEST_NUMBER_BYTES {
            return hold;
        }
        let in_string = self.in_string ^ (open_quotes(head) % 2 == 1);
        if in_string { hold } else { hold - digits }
    }
}

fn trailing_number(bytes: &[u8]) -> usize {
    bytes.iter().rev().take_while(|&&b| is_number_byte(b)).count()
}

/// Quotes that open or close a string.
#[expect(clippy::naive_bytecount, reason = "the compiler makes vector code of it")]
fn open_quotes(bytes: &[u8]) -> usize {
    let all = bytes.iter().filter(|&&b| b == b'"').count();
    let mut escaped = 0;
    let mut rest = bytes;
    while let Some(slash) = memchr::memchr(b'\\', rest) {
        escaped += usize::from(rest.get(slash + 1) == Some(&b'"'));
        rest = rest.get(slash + 2..).unwrap_or_default();
    }
    all - escaped
}
