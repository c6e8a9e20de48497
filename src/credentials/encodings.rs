//! The forms in which a secret may come back, and how each is recognised at a position.
//!
//! A form is a row of bytes that is compared with the text as [`super::decoded`] reads it. So five
//! rows a secret are enough: the secret itself (which covers every escape), hex, base64 at three
//! alignments, base32 at five, and UTF-16 as raw bytes.
//!
//! In base64 and base32 only the characters that the secret alone determines are compared; their
//! neighbours hold a few bits of the secret mixed with what stands beside it. A row with fewer than
//! [`LEAST_CODED`] such characters (secrets of one to three bytes, which only `allow_short` lets in)
//! is left out, since it would match innocent text all the time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use smallvec::SmallVec;
use zeroize::Zeroizing;

use super::decoded::{Text, Value, look};

/// Fewest characters of base64 or base32 that are searched for: 20 to 24 bits.
const LEAST_CODED: usize = 4;

/// Most line breaks and the like that may stand between two characters of a form.
pub(super) const MOST_NOISE: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The secret, in any mixture of escapes.
    Plain,
    Hex,
    Base64,
    Base32,
    /// Bytes that are compared as they are.
    Raw,
}

/// One form of one secret.
pub(super) struct Form {
    pub kind: Kind,
    pub row: Zeroizing<Vec<u8>>,
    /// Length of `row` that must be there; the rest is padding that goes with it if it is.
    pub required: usize,
    /// Length of the secret itself.
    pub secret_bytes: usize,
    /// For each length of a partial match, the longest shorter one that ends where it does.
    shorter: Box<[u32]>,
}

/// Effect of one character on a partial match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The match goes on by as many bytes of the row.
    Forward(usize),
    /// The character may stand between two of the row.
    Noise,
    Mismatch,
}

/// Every form of `secret` that is searched for.
pub(super) fn forms(secret: &[u8]) -> Vec<Form> {
    let form = |kind, row: Vec<u8>, required| Form {
        kind,
        shorter: shorter_matches(row.get(..required).unwrap_or_default()),
        row: Zeroizing::new(row),
        required,
        secret_bytes: secret.len(),
    };
    if secret.is_empty() {
        return Vec::new();
    }
    let plain = with_single_line_feeds(secret);
    let length = plain.len();
    let mut forms = vec![form(Kind::Plain, plain, length)];
    let hex: Vec<u8> = secret.iter().flat_map(|b| [hex_digit(b >> 4), hex_digit(b & 15)]).collect();
    forms.push(form(Kind::Hex, hex, secret.len() * 2));
    for lead in 0..3 {
        let (row, required) = coded(secret, lead, 6, 3, base64);
        forms.push(form(Kind::Base64, row, required));
    }
    for lead in 0..5 {
        let (row, required) = coded(secret, lead, 5, 5, base32);
        forms.push(form(Kind::Base32, row, required));
    }
    if let Ok(text) = std::str::from_utf8(secret) {
        let escaped = json_escaped(text);
        for text in [Some(text), (escaped.as_str() != text).then_some(escaped.as_str())]
            .into_iter()
            .flatten()
        {
            let units = || text.encode_utf16();
            let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
            let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
            for row in [little, big] {
                let required = row.len();
                forms.push(form(Kind::Raw, row, required));
            }
        }
    }
    forms.retain(|f| !matches!(f.kind, Kind::Base64 | Kind::Base32) || f.required >= LEAST_CODED);
    forms
}

/// `text` as the inside of a JSON string, as most writers put it.
pub(super) fn json_escaped(text: &str) -> Zeroizing<String> {
    /// Most bytes of one escaped byte, as `\\u0000`.
    const LONGEST_ESCAPE: usize = 6;
    // Sized beforehand, so that no copy of a secret is left behind by growing.
    let mut quoted = Zeroizing::new(Vec::with_capacity(text.len() * LONGEST_ESCAPE + 2));
    // Writing into memory does not fail.
    let _written = serde_json::to_writer(&mut *quoted, text);
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    Zeroizing::new(std::str::from_utf8(inner).unwrap_or_default().to_owned())
}

/// The characters of an encoding that `secret` determines when `lead` bytes stand before it, then
/// the rest of the last group if the text ends with the secret: `(row, length of the former)`.
fn coded(
    secret: &[u8],
    lead: usize,
    bits: usize,
    group_bytes: usize,
    encode: fn(&[u8]) -> Vec<u8>,
) -> (Vec<u8>, usize) {
    let mut led = Zeroizing::new(vec![0; lead]);
    led.extend_from_slice(secret);
    let encoded = Zeroizing::new(encode(&led));
    let first = (lead * 8).div_ceil(bits);
    let determined = (led.len() * 8 / bits).saturating_sub(first);
    let row: Vec<u8> = encoded.iter().skip(first).copied().collect();
    debug_assert!(!led.len().is_multiple_of(group_bytes) || row.len() == determined);
    (row, determined)
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    STANDARD.encode(bytes).into_bytes()
}

fn base32(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut out = Vec::with_capacity(bytes.len().div_ceil(5) * 8);
    for group in bytes.chunks(5) {
        let number = (0..5).fold(0u64, |n, at| n << 8 | u64::from(*group.get(at).unwrap_or(&0)));
        let used = (group.len() * 8).div_ceil(5);
        out.extend((0..8).map(|at| {
            let five = usize::try_from(number >> (35 - 5 * at) & 31).unwrap_or(0);
            if at < used { ALPHABET.get(five).copied().unwrap_or(b'=') } else { b'=' }
        }));
    }
    out
}

pub(super) fn hex_digit(nibble: u8) -> u8 {
    *b"0123456789abcdef".get(usize::from(nibble & 15)).unwrap_or(&b'0')
}

/// `secret` with every run of line ends as one line feed, however a text breaks its lines.
fn with_single_line_feeds(secret: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(secret.len());
    for &byte in secret {
        match byte {
            b'\r' | b'\n' if row.last() == Some(&b'\n') => {}
            b'\r' => row.push(b'\n'),
            other => row.push(other),
        }
    }
    row
}

/// For each length of a match of `row`, the longest shorter one that ends with it (Knuth, Morris and
/// Pratt), so that a text is read once however often it looks like the beginning.
fn shorter_matches(row: &[u8]) -> Box<[u32]> {
    let mut shorter = vec![0u32; row.len() + 1];
    let mut matched = 0;
    for (at, byte) in row.iter().enumerate().skip(1) {
        while matched > 0 && row.get(matched) != Some(byte) {
            matched = shorter.get(matched).map_or(0, |n| usize::try_from(*n).unwrap_or(0));
        }
        matched += usize::from(row.get(matched) == Some(byte));
        if let Some(slot) = shorter.get_mut(at + 1) {
            *slot = u32::try_from(matched).unwrap_or(0);
        }
    }
    shorter.into()
}

impl Form {
    /// Returns the longest match that ends where one of `matched` bytes does and is shorter.
    pub(super) fn shorter(&self, matched: usize) -> usize {
        self.shorter.get(matched).map_or(0, |n| usize::try_from(*n).unwrap_or(0))
    }

    /// Whether the form is compared with the text as decoders read it.
    pub(super) fn reads_escapes(&self) -> bool {
        self.kind != Kind::Raw
    }

    /// Compares a character with the row behind `matched` bytes of it.
    pub(super) fn step(&self, matched: usize, value: Value) -> Step {
        look();
        // INVARIANT: `matched` never passes the end of the row; the search asks before it steps.
        let Some(&wanted) = self.row.get(matched) else { return Step::Mismatch };
        match value {
            Value::Byte(byte) if self.same(byte, wanted) => Step::Forward(1),
            Value::Byte(byte) if self.is_noise(byte, matched) => Step::Noise,
            Value::Char(c) if self.kind == Kind::Plain => {
                let rest = self.row.get(matched..).unwrap_or_default();
                if rest.starts_with(c.encode_utf8(&mut [0; 4]).as_bytes()) {
                    return Step::Forward(c.len_utf8());
                }
                // Bytes that were taken for Latin-1.
                let latin1 = u8::try_from(c).is_ok_and(|byte| byte == wanted);
                if latin1 { Step::Forward(1) } else { Step::Mismatch }
            }
            Value::Byte(_) | Value::Char(_) => Step::Mismatch,
        }
    }

    /// Whether a byte of the text stands for `wanted` of the row.
    fn same(&self, byte: u8, wanted: u8) -> bool {
        match self.kind {
            Kind::Plain => byte == wanted || (byte == b'\r' && wanted == b'\n'),
            Kind::Raw => byte == wanted,
            Kind::Hex | Kind::Base32 => byte.eq_ignore_ascii_case(&wanted),
            Kind::Base64 => standard_base64(byte) == wanted,
        }
    }

    /// Compares the start of the row with `text`, whose first byte is the row's first, as far as a
    /// byte has one reading: how much is the same, or nothing if the next byte cannot be.
    pub(super) fn begins(&self, text: &[u8]) -> Option<usize> {
        /// Longer beginnings are compared by the search, byte by byte.
        const LONGEST: usize = 16;
        let longest = LONGEST.min(self.required);
        let mut same = 1;
        while same < longest {
            let (Some(&byte), Some(&wanted)) = (text.get(same), self.row.get(same)) else { break };
            if self.is_special(byte) {
                break;
            }
            look();
            if !self.same(byte, wanted) {
                return None;
            }
            same += 1;
        }
        Some(same)
    }

    /// Whether a byte can be read in more than one way, or be noise between others.
    fn is_special(&self, byte: u8) -> bool {
        match self.kind {
            Kind::Raw => false,
            Kind::Plain | Kind::Base64 | Kind::Base32 => {
                Text::is_introducer(byte) || matches!(byte, b'\r' | b'\n')
            }
            Kind::Hex => {
                Text::is_introducer(byte) || matches!(byte, b'\r' | b'\n' | b' ' | b':' | b'-')
            }
        }
    }

    /// Whether `byte` may stand between the row's bytes before and at `matched`.
    fn is_noise(&self, byte: u8, matched: usize) -> bool {
        if matched == 0 || matched >= self.required {
            return false;
        }
        match self.kind {
            Kind::Plain => {
                matches!(byte, b'\r' | b'\n') && self.row.get(matched - 1) == Some(&b'\n')
            }
            Kind::Hex => matched.is_multiple_of(2) && matches!(byte, b':' | b' ' | b'-' | b'\n'),
            Kind::Base64 | Kind::Base32 => matches!(byte, b'\r' | b'\n'),
            Kind::Raw => false,
        }
    }

    /// The bytes that the row's byte at `at` may be once decoded.
    pub(super) fn spellings(&self, at: usize) -> SmallVec<[u8; 3]> {
        let Some(&wanted) = self.row.get(at) else { return SmallVec::new() };
        let mut spellings = SmallVec::from_slice(&[wanted]);
        match (self.kind, wanted) {
            (Kind::Plain, b'\n') => spellings.push(b'\r'),
            (Kind::Hex | Kind::Base32, letter) if letter.is_ascii_alphabetic() => {
                spellings.push(letter ^ 0x20);
            }
            (Kind::Base64, b'+') => spellings.push(b'-'),
            (Kind::Base64, b'/') => spellings.push(b'_'),
            (Kind::Plain | Kind::Hex | Kind::Base64 | Kind::Base32 | Kind::Raw, _) => {}
        }
        spellings
    }

    /// The character beyond ASCII that starts at `at` of the secret.
    pub(super) fn char_at(&self, at: usize) -> Option<char> {
        if self.kind != Kind::Plain {
            return None;
        }
        let rest = self.row.get(at..)?;
        let head = rest.get(..4.min(rest.len()))?;
        let valid = match std::str::from_utf8(head) {
            Ok(text) => text,
            Err(e) => std::str::from_utf8(head.get(..e.valid_up_to())?).ok()?,
        };
        valid.chars().next().filter(|c| !c.is_ascii())
    }
}

fn standard_base64(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::decoded::Text;
    use super::super::search::Search;
    use super::*;
    use crate::credentials::Patterns;

    fn found(secret: &str, text: &str) -> Vec<(usize, usize)> {
        let patterns = Patterns::new([secret.as_bytes()]);
        let mut search = Search::default();
        search.run(&patterns, Text::whole(text.as_bytes()));
        search.matches().to_vec()
    }

    fn covers(secret: &str, text: &str) {
        assert!(found(secret, text).contains(&(0, text.len())), "{secret:?} in {text:?}");
    }

    #[test]
    fn a_secret_is_known_in_each_form() {
        covers("S3cr3t/é", "S3cr3t/é");
        covers("S3cr3t/é", "S3cr3t%2F%c3%A9");
        covers("S3cr3t/é", "S3cr3t\\/\\u00e9");
        covers("S3cr3t/é", "5333637233742fc3A9");
        covers("S3cr3t/é", "53:33:63:72:33:74:2f:c3:a9");
        covers("S3cr3t/é", "UzNjcjN0L8Op");
        covers("S3cr3t/é?", "UzNjcjN0L8OpPw==");
        covers("S3cr3t/é?", "UzNjcjN0L8OpPw%3D%3D");
        covers("S3cr3t/é?", "UzNj\\r\\ncjN0\r\nL8OpPw");
        covers("S3cr3t/é", "KMZWG4RTOQX4HKI=");
        covers("a\nb\nc\nd", "a\r\nb\\r\\nc\rd");
        covers("a\r\nbcd", "a\nbcd");
        covers("12345678", "\u{31}\0\u{32}\0\u{33}\0\u{34}\0\u{35}\0\u{36}\0\u{37}\0\u{38}\0");
    }

    #[test]
    fn base64_is_known_at_each_alignment() {
        for lead in ["", "u", "u:"] {
            for secret in ["four", "fiveb", "sixbyt", "tok_live_4f9aC2e7B1d8Kq3Z"] {
                let text = STANDARD.encode(format!("{lead}{secret}!!"));
                assert!(!found(secret, &text).is_empty(), "{secret} in {text}");
            }
        }
    }

    #[test]
    fn a_beginning_that_repeats_itself_is_found_where_it_goes_on() {
        for (secret, text, at) in [
            ("-----BEGIN", "---------BEGIN", 4),
            ("aabaaab", "aabaabaaab", 3),
            ("aabaaab", "aab%61%61baaab", 3),
            ("ababac", "abababac", 2),
            ("6666a", "%36%366666a", 6),
        ] {
            assert!(found(secret, text).contains(&(at, text.len())), "{secret} in {text}");
        }
        let patterns = Patterns::new(["abab".as_bytes()]);
        let scan = patterns.scan(Text::whole(b"ababab!"));
        assert_eq!(scan.spans.iter().map(|s| (s.start, s.end)).collect::<Vec<_>>(), [(0, 6)]);
    }

    #[test]
    fn many_backslashes_are_all_found() {
        let patterns = Patterns::new(["\\".repeat(40).as_bytes()]);
        let scan = patterns.scan(Text::whole("\\".repeat(320).as_bytes()));
        assert_eq!(scan.spans.iter().map(|s| (s.start, s.end)).collect::<Vec<_>>(), [(0, 320)]);
    }
}
