//! Comparison of a text with a form of a secret, at one position and by every reading of the text.

use smallvec::SmallVec;

use super::decoded::{CutShort, Text, Value};
use super::encodings::{Form, Kind, MOST_NOISE};
use super::lattice::Lattice;

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
        if self.is_unambiguous
            && text.bytes.get(start..).is_some_and(|here| here.starts_with(&self.row))
        {
            return Seen { end: Some(start + self.row.len()), pending: None };
        }
        let state = self.run_from(text, start);
        if state.matched < self.required
            && text.bytes.get(state.at).is_some_and(|&b| !self.kind.is_special(b))
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
            !self.kind.is_special(byte)
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
            pending: pending.then(|| here.len() * self.secret_bytes / self.required.max(1)),
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
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::super::encodings::forms;
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
