//! The forms in which a secret may come back.
//!
//! A form is a row of bytes that is compared with the text as [`super::decoded`] reads it. So five
//! rows a secret are enough: the secret itself (which covers every escape), hex, base64 at three
//! alignments, base32 at five, and UTF-16 as raw bytes.
//!
//! For base64 and base32, only the characters that the secret alone determines are compared; their
//! neighbours mix a few bits of the secret with the bytes around it. A row with fewer than
//! [`LEAST_CODED`] such characters (secrets of one to three bytes, which only `allow_short` lets in)
//! is left out, since it would match innocent text all the time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use smallvec::SmallVec;
use zeroize::Zeroizing;

use super::decoded::Text;

/// Fewest characters of base64 or base32 that are searched for: 20 to 24 bits.
const LEAST_CODED: usize = 4;

/// Line breaks and the like that may stand between two characters of a form.
pub(super) const MOST_NOISE: usize = 4;

/// The bytes that any form may have between two of its characters.
pub(super) const NOISE: [u8; 5] = [b'\r', b'\n', b' ', b':', b'-'];

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

impl Kind {
    /// Reports whether a byte of a text can be read in more than one way, or be noise in such a form.
    #[inline]
    pub(super) fn is_special(self, byte: u8) -> bool {
        Text::is_introducer(byte)
            || match self {
                Self::Plain | Self::Base64 | Self::Base32 => matches!(byte, b'\r' | b'\n'),
                Self::Hex => matches!(byte, b':' | b' ' | b'-' | b'\n'),
                Self::Raw => false,
            }
    }
}

/// One form of one secret.
pub(super) struct Form {
    pub kind: Kind,
    pub row: Zeroizing<Vec<u8>>,
    /// Length of `row` that is required; the rest is padding, included if present.
    pub required: usize,
    /// Length of the secret itself.
    pub secret_bytes: usize,
    /// True if the row, where a text has it byte for byte, can be read in no other way.
    pub is_unambiguous: bool,
}

/// Every form of `secret` that is searched for.
pub(super) fn forms(secret: &[u8]) -> Vec<Form> {
    let form = |kind, row: Vec<u8>, required| Form {
        kind,
        required,
        secret_bytes: secret.len(),
        is_unambiguous: row.len() == required && !row.iter().any(|b| kind.is_special(*b)),
        row: Zeroizing::new(row),
    };
    if secret.is_empty() {
        return Vec::new();
    }
    let mut forms = vec![form(Kind::Plain, secret.to_vec(), secret.len())];
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
    /// Longest spelling of one byte, as `\\u0000`.
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

impl Form {
    /// Reports whether `byte` may stand between the row's bytes before and at `matched`.
    pub(super) fn is_noise(&self, byte: u8, matched: usize) -> bool {
        if matched == 0 || matched >= self.required {
            return false;
        }
        match self.kind {
            Kind::Plain => byte == b'\n' && self.row.get(matched - 1) == Some(&b'\n'),
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
            (Kind::Plain, b'\r') => spellings.push(b'\n'),
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
