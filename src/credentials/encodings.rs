//! The forms in which a secret may come back, and how each is recognised at a position.
//!
//! A form is a row of bytes that is compared with the text as [`super::decoded`] reads it. So five
//! rows a secret are enough: the secret itself (which covers every escape), hex, base64 at three
//! alignments, base32 at five, and UTF-16 as raw bytes.
//!
//! Of base64 and base32 only the characters that the secret alone determines are compared; their
//! neighbours hold a few bits of the secret mixed with what stands beside it. A row with fewer than
//! [`LEAST_CODED`] such characters (secrets of one to three bytes, which only `allow_short` lets in)
//! is left out, since it would match innocent text all the time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use smallvec::SmallVec;
use zeroize::Zeroizing;

use super::decoded::{CutShort, Text, Value};
use super::lattice::Lattice;

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

/// One form of one secret.
pub(super) struct Form {
    pub kind: Kind,
    pub row: Zeroizing<Vec<u8>>,
    /// Length of `row` that is required; the rest is padding, included if present.
    pub required: usize,
    /// Length of the secret itself.
    pub secret_bytes: usize,
}

/// State of a form at one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// End of the longest match so far.
    pub end: Option<usize>,
    /// Number of the secret's bytes seen, if more text could extend the match.
    pub pending: Option<usize>,
}

impl Seen {
    /// The better of two forms at the same position.
    pub(super) fn merge(self, other: Self) -> Self {
        Self { end: self.end.max(other.end), pending: self.pending.max(other.pending) }
    }
}

/// Every form of `secret` that is searched for.
pub(super) fn forms(secret: &[u8]) -> Vec<Form> {
    let form = |kind, row: Vec<u8>, required| Form {
        kind,
        row: Zeroizing::new(row),
        required,
        secret_bytes: secret.len(),
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

/// A place in a form and the place in the text that it was matched up to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    matched: usize,
    at: usize,
    noise: usize,
}

impl Form {
    /// Compares the form with the text at `start`.
    pub(super) fn seen_at(&self, lattice: &mut Lattice<'_>, start: usize) -> Seen {
        let text = lattice.text();
        if self.kind == Kind::Raw {
            return self.raw_seen_at(text, start);
        }
        let state = self.run_from(text, start);
        if state.matched < self.required
            && text.bytes.get(state.at).is_some_and(|&b| !self.is_special(b))
        {
            return Seen::default();
        }
        let mut seen = Seen::default();
        // Kept sorted, so that what several readings lead to is followed once.
        let mut states: SmallVec<[State; 8]> = SmallVec::new();
        let mut state = state;
        loop {
            if state.matched >= self.required {
                seen.end = seen.end.max(Some(state.at));
            }
            if state.matched < self.row.len() {
                let mut cut = CutShort::default();
                self.step(lattice, state, &mut cut, &mut |next| {
                    if let Err(at) = states.binary_search(&next) {
                        states.insert(at, next);
                    }
                });
                if cut.0 {
                    let bytes = state.matched.min(self.required) * self.secret_bytes;
                    seen.pending = seen.pending.max(Some(bytes / self.required.max(1)));
                }
            }
            if states.is_empty() {
                return seen;
            }
            state = states.remove(0);
        }
    }

    /// Returns the length over which form and text agree byte for byte, where each byte has one
    /// reading only.
    fn run_from(&self, text: Text<'_>, start: usize) -> State {
        let here = text.bytes.get(start..).unwrap_or_default();
        let head = self.row.get(..self.required).unwrap_or_default();
        let same = |&(&wanted, &byte): &(&u8, &u8)| {
            !self.is_special(byte)
                && match self.kind {
                    Kind::Plain | Kind::Raw => byte == wanted,
                    Kind::Hex | Kind::Base32 => byte.eq_ignore_ascii_case(&wanted),
                    Kind::Base64 => standard_base64(byte) == wanted,
                }
        };
        let matched = head.iter().zip(here).take_while(same).count();
        State { matched, at: start + matched, noise: 0 }
    }

    fn raw_seen_at(&self, text: Text<'_>, start: usize) -> Seen {
        let here = text.bytes.get(start..).unwrap_or_default();
        let whole = here.starts_with(&self.row);
        let pending = !text.complete && !whole && self.row.starts_with(here);
        Seen {
            end: whole.then_some(start + self.row.len()),
            pending: pending.then_some(here.len() * self.secret_bytes / self.required.max(1)),
        }
    }

    /// Follows every reading of the text at `state.at`.
    fn step(
        &self,
        lattice: &mut Lattice<'_>,
        state: State,
        cut: &mut CutShort,
        go: &mut dyn FnMut(State),
    ) {
        // INVARIANT: `matched` never passes the end of the row; `seen_at` asks before it steps.
        let Some(&wanted) = self.row.get(state.matched) else { return };
        let rest = self.row.get(state.matched..).unwrap_or_default();
        for reading in lattice.read(state.at, cut) {
            let mut forward = |by: usize| {
                go(State { matched: state.matched + by, at: state.at + reading.length, noise: 0 });
            };
            match (self.kind, reading.value) {
                (Kind::Plain, Value::Byte(byte)) if byte == wanted => forward(1),
                (Kind::Plain, Value::Byte(b'\r')) if wanted == b'\n' => forward(1),
                (Kind::Plain, Value::Byte(b'\n')) if rest.starts_with(b"\r\n") => forward(2),
                (Kind::Plain, Value::Char(c)) => {
                    let mut utf8 = [0; 4];
                    if rest.starts_with(c.encode_utf8(&mut utf8).as_bytes()) {
                        forward(c.len_utf8());
                    }
                    // Bytes that were taken for Latin-1.
                    if u8::try_from(c).is_ok_and(|byte| byte == wanted) {
                        forward(1);
                    }
                }
                (Kind::Hex, Value::Byte(byte)) if byte.eq_ignore_ascii_case(&wanted) => forward(1),
                (Kind::Base32, Value::Byte(byte)) if byte.eq_ignore_ascii_case(&wanted) => {
                    forward(1);
                }
                (Kind::Base64, Value::Byte(byte)) if standard_base64(byte) == wanted => forward(1),
                (_, Value::Byte(_) | Value::Char(_)) => {}
            }
            if let Value::Byte(byte) = reading.value
                && state.noise < MOST_NOISE
                && self.is_noise(byte, state.matched)
            {
                go(State { noise: state.noise + 1, at: state.at + reading.length, ..state });
            }
        }
    }

    /// Reports whether a byte of a text can be read in more than one way, or be noise in this form.
    #[inline]
    fn is_special(&self, byte: u8) -> bool {
        Text::is_introducer(byte)
            || match self.kind {
                Kind::Plain | Kind::Base64 | Kind::Base32 => matches!(byte, b'\r' | b'\n'),
                Kind::Hex => matches!(byte, b':' | b' ' | b'-' | b'\n'),
                Kind::Raw => false,
            }
    }

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

fn standard_base64(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::heads::Heads;
    use super::*;

    fn covers(secret: &str, text: &str) {
        let heads = Heads::new(&[]);
        let mut whole = Lattice::new(Text::whole(text.as_bytes()), &heads);
        let seen = forms(secret.as_bytes())
            .iter()
            .map(|f| f.seen_at(&mut whole, 0))
            .fold(Seen::default(), Seen::merge);
        assert_eq!(seen.end, Some(text.len()), "{secret:?} in {text:?}");
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
                let heads = Heads::new(&[]);
                let mut whole = Lattice::new(Text::whole(text.as_bytes()), &heads);
                let found = (0..text.len()).any(|at| {
                    forms(secret.as_bytes()).iter().any(|f| f.seen_at(&mut whole, at).end.is_some())
                });
                assert!(found, "{secret} in {text}");
            }
        }
    }

    #[test]
    fn a_text_that_breaks_off_inside_a_form_is_pending() {
        let forms = forms(b"secret-value");
        let heads = Heads::new(&[]);
        let mut cut = Lattice::new(Text::unfinished(b"secret-v"), &heads);
        assert_eq!(forms[0].seen_at(&mut cut, 0), Seen { end: None, pending: Some(8) });
        let mut cut = Lattice::new(Text::unfinished(b"c2VjcmV0L"), &heads);
        assert_eq!(forms[2].seen_at(&mut cut, 0).pending, Some(6));
    }

    #[test]
    fn many_backslashes_cost_little() {
        covers(&"\\".repeat(40), &"\\".repeat(320));
    }
}
