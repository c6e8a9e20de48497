//! Reads one character of a text as every decoder the agent might own would read it.
//!
//! A list of encoded patterns misses mixtures (`%41b\u0063`), odd hex case and encodings of
//! encodings. So a byte is read through up to [`LEVELS`] decoders at once, each of which undoes
//! percent, JSON, `\x` and HTML escapes and passes on what is not escaped: three levels cover double
//! URL-encoding, JSON in JSON in JSON, and a URL-encoded HTML entity inside a JSON string.

use smallvec::SmallVec;

/// Number of nested encodings that are undone.
pub(super) const LEVELS: u8 = 3;

/// A reading: what stands at a position, and where the text goes on behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub value: Value,
    pub next: usize,
}

/// A decoded byte, or a character beyond ASCII that was written by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Byte(u8),
    Char(char),
}

impl Value {
    fn of_number(number: u32) -> Option<Self> {
        match u8::try_from(number) {
            Ok(byte) if byte.is_ascii() => Some(Self::Byte(byte)),
            _ => char::from_u32(number).map(Self::Char),
        }
    }

    fn byte(self) -> Option<u8> {
        match self {
            Self::Byte(byte) => Some(byte),
            Self::Char(_) => None,
        }
    }
}

pub(super) type Readings = SmallVec<[Reading; 6]>;

/// The bytes with which what an introducer may be read as starts.
pub(super) type Glance = SmallVec<[u8; 4]>;

/// The first bytes of the character whose number `digits` are; `itself` alone if they are none.
fn glance_number(itself: u8, digits: &[u8]) -> Option<Glance> {
    let mut glance = Glance::from_slice(&[itself]);
    let mut number = 0u32;
    for &digit in digits {
        if Text::is_introducer(digit) {
            return None;
        }
        let Some(value) = char::from(digit).to_digit(16) else { return Some(glance) };
        number = number * 16 + value;
    }
    // As a byte, as Latin-1, and as the first byte of UTF-8.
    if let Ok(byte) = u8::try_from(number) {
        if Text::is_introducer(byte) {
            return None;
        }
        glance.push(byte);
    }
    let mut utf8 = [0; 4];
    char::from_u32(number)?.encode_utf8(&mut utf8);
    glance.extend(utf8.first().copied());
    Some(glance)
}

/// A stretch of text, and whether more of it may come.
#[derive(Clone, Copy)]
pub(super) struct Text<'t> {
    pub bytes: &'t [u8],
    pub complete: bool,
    /// The last byte before it that is no white space, if anything came before it.
    pub before: Option<u8>,
}

impl<'t> Text<'t> {
    pub(super) fn whole(bytes: &'t [u8]) -> Self {
        Self { bytes, complete: true, before: None }
    }

    pub(super) fn unfinished(bytes: &'t [u8]) -> Self {
        Self { bytes, complete: false, before: None }
    }
}

/// State of a reading that reached the end of incomplete text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CutShort(pub bool);

impl Text<'_> {
    /// Reports whether a raw byte can mean something else than itself.
    pub(super) fn is_introducer(byte: u8) -> bool {
        matches!(byte, b'%' | b'\\' | b'&' | b'+')
    }

    /// All that the introducer at `at` could be read as, more rather than less, where that is seen
    /// at a glance; most escapes of a body stand for nothing that a secret starts with.
    pub(super) fn glance(&self, at: usize) -> Option<Glance> {
        /// Longer runs of backslashes stand for backslashes alone.
        const LONGEST_RUN: usize = 1 << LEVELS;
        /// More than any glance looks at.
        const AHEAD: usize = LONGEST_RUN + 8;
        let ahead = self.bytes.get(at..)?.first_chunk::<AHEAD>()?;
        let only = |value: u8| Some(Glance::from_slice(&[*ahead.first()?, value]));
        match ahead {
            [b'+', ..] => only(b' '),
            [b'%', high, low, ..] => glance_number(b'%', &[*high, *low]),
            [b'\\', ..] => {
                let run = ahead.iter().take_while(|&&b| b == b'\\').count();
                if run >= LONGEST_RUN {
                    return only(b'\\');
                }
                let coded = match *ahead.get(run)? {
                    b'u' => ahead.get(run + 1..run + 5)?,
                    b'x' => ahead.get(run + 1..run + 3)?,
                    letter if Self::is_introducer(letter) => return None,
                    letter => return only(simple_escape(letter).unwrap_or(b'\\')),
                };
                // The second backslash may be undone first; what it stands for is then escaped by
                // the first.
                let escapes =
                    |&byte: &u8| matches!(byte, b'u' | b'x') || simple_escape(byte).is_some();
                let glance = glance_number(b'\\', coded)?;
                (run == 1 || !glance.iter().skip(1).any(escapes)).then_some(glance)
            }
            _ => None,
        }
    }

    /// All readings of what starts at `at`.
    pub(super) fn read(&self, at: usize, cut: &mut CutShort) -> Readings {
        self.read_level(at, LEVELS, cut)
    }

    fn read_level(&self, at: usize, level: u8, cut: &mut CutShort) -> Readings {
        let mut readings = Readings::new();
        let Some(&raw) = self.bytes.get(at) else {
            cut.0 |= !self.complete;
            return readings;
        };
        if level == 0 || !Self::is_introducer(raw) {
            readings.push(Reading { value: Value::Byte(raw), next: at + 1 });
            return readings;
        }
        readings = self.read_level(at, level - 1, cut);
        let below = Below { text: self, level: level - 1 };
        for at in 0..readings.len() {
            let Some(&Reading { value: Value::Byte(byte), next }) = readings.get(at) else {
                continue;
            };
            let mut found = |value: Option<Value>, next: usize| {
                if let Some(value) = value {
                    let reading = Reading { value, next };
                    if !readings.contains(&reading) {
                        readings.push(reading);
                    }
                }
            };
            match byte {
                b'%' => below.hex(next, 2, cut, &mut |number, next| {
                    found(u8::try_from(number).ok().map(Value::Byte), next);
                }),
                b'+' => found(Some(Value::Byte(b' ')), next),
                b'\\' => below.backslash(next, cut, &mut found),
                b'&' => below.entity(next, cut, &mut found),
                _ => {}
            }
        }
        readings
    }
}

/// The text as it looks one decoder further down.
struct Below<'t> {
    text: &'t Text<'t>,
    level: u8,
}

type Found<'f> = &'f mut dyn FnMut(Option<Value>, usize);
type Number<'f> = &'f mut dyn FnMut(u32, usize);

impl Below<'_> {
    fn bytes(&self, at: usize, cut: &mut CutShort) -> impl Iterator<Item = (u8, usize)> + use<> {
        let readings = self.text.read_level(at, self.level, cut);
        readings.into_iter().filter_map(|r| Some((r.value.byte()?, r.next)))
    }

    /// The one reading of `at` that `wanted` accepts.
    fn expect(
        &self,
        at: usize,
        cut: &mut CutShort,
        wanted: impl Fn(u8) -> bool,
    ) -> Option<(u8, usize)> {
        self.bytes(at, cut).find(|&(byte, _)| wanted(byte))
    }

    /// Exactly `digits` hexadecimal digits.
    fn hex(&self, at: usize, digits: u8, cut: &mut CutShort, found: Number<'_>) {
        let mut next = at;
        let mut number = 0;
        for _ in 0..digits {
            let Some((digit, behind)) = self.expect(next, cut, |b| b.is_ascii_hexdigit()) else {
                return;
            };
            number = number * 16 + char::from(digit).to_digit(16).unwrap_or(0);
            next = behind;
        }
        found(number, next);
    }

    fn backslash(&self, at: usize, cut: &mut CutShort, found: Found<'_>) {
        for (byte, next) in self.bytes(at, cut).collect::<SmallVec<[_; 6]>>() {
            match byte {
                b'u' => self.unicode(next, cut, found),
                b'x' => self.hex(next, 2, cut, &mut |number, next| {
                    found(u8::try_from(number).ok().map(Value::Byte), next);
                }),
                _ => found(simple_escape(byte).map(Value::Byte), next),
            }
        }
    }

    /// The digits behind `\u`, and the second half of a surrogate pair.
    fn unicode(&self, at: usize, cut: &mut CutShort, found: Found<'_>) {
        let mut first = None;
        self.hex(at, 4, cut, &mut |unit, next| first = Some((unit, next)));
        let Some((unit, next)) = first else { return };
        if !(0xD800..0xDC00).contains(&unit) {
            return found(Value::of_number(unit), next);
        }
        // A backslash has readings of several lengths here; the right one is the one before a `u`.
        for (byte, next) in self.bytes(next, cut).collect::<SmallVec<[_; 6]>>() {
            if byte != b'\\' {
                continue;
            }
            let Some((_, next)) = self.expect(next, cut, |b| b == b'u') else { continue };
            self.hex(next, 4, cut, &mut |low, next| {
                if (0xDC00..0xE000).contains(&low) {
                    let number = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                    found(Value::of_number(number), next);
                }
            });
        }
    }

    /// Reads an entity after `&`: a number in either base, or one of the five names of XML. The
    /// semicolon may be missing, as browsers allow.
    fn entity(&self, at: usize, cut: &mut CutShort, found: Found<'_>) {
        if let Some((_, next)) = self.expect(at, cut, |b| b == b'#') {
            let (base, next) = match self.expect(next, cut, |b| matches!(b, b'x' | b'X')) {
                Some((_, next)) => (16, next),
                None => (10, next),
            };
            return self.entity_number(next, base, cut, found);
        }
        for (name, byte) in ENTITIES {
            let end = name.bytes().try_fold(at, |at, wanted| {
                self.expect(at, cut, |b| b == wanted).map(|(_, next)| next)
            });
            if let Some(end) = end {
                self.entity_end(end, Some(Value::Byte(byte)), cut, found);
            }
        }
    }

    fn entity_number(&self, at: usize, base: u32, cut: &mut CutShort, found: Found<'_>) {
        /// Digits of an entity, leading zeros included, that are followed.
        const MOST_DIGITS: u8 = 9;
        let mut next = at;
        let mut number = 0u32;
        for digits in 0..=MOST_DIGITS {
            let digit = self.expect(next, cut, |b| char::from(b).is_digit(base));
            let Some((digit, behind)) = digit else {
                if digits > 0 {
                    self.entity_end(next, Value::of_number(number), cut, found);
                }
                return;
            };
            number = number
                .saturating_mul(base)
                .saturating_add(char::from(digit).to_digit(base).unwrap_or(0));
            next = behind;
        }
    }

    fn entity_end(&self, at: usize, value: Option<Value>, cut: &mut CutShort, found: Found<'_>) {
        let end = self.expect(at, cut, |b| b == b';').map_or(at, |(_, next)| next);
        found(value, end);
    }
}

/// The named entities that escaping functions write.
pub(super) const ENTITIES: [(&str, u8); 5] =
    [("quot", b'"'), ("amp", b'&'), ("lt", b'<'), ("gt", b'>'), ("apos", b'\'')];

/// Returns the character escaped by a backslash before `byte`.
fn simple_escape(byte: u8) -> Option<u8> {
    match byte {
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'b' => Some(8),
        b'f' => Some(12),
        other => other.is_ascii_punctuation().then_some(other),
    }
}

/// The letter behind a backslash that stands for `byte`.
pub(super) fn escape_letter(byte: u8) -> Option<u8> {
    match byte {
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\t' => Some(b't'),
        8 => Some(b'b'),
        12 => Some(b'f'),
        other => other.is_ascii_punctuation().then_some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(text: &str, wanted: Value) {
        let text = Text::whole(text.as_bytes());
        let readings = text.read(0, &mut CutShort::default());
        let whole = Reading { value: wanted, next: text.bytes.len() };
        assert!(readings.contains(&whole), "{:?}: {readings:?}", text.bytes);
    }

    #[test]
    fn one_character_has_many_spellings() {
        for text in ["A", "%41", "%2541", "%252541", "\\u0041", "\\\\u0041", "\\x41", "&#65;"] {
            reads(text, Value::Byte(b'A'));
        }
        for text in ["&#x41;", "&#X0041", "&amp;#65;", "%26%2365%3B", "%5Cu0041", "\\u0026#65;"] {
            reads(text, Value::Byte(b'A'));
        }
        for text in ["\"", "\\\"", "\\\\\\\"", "&quot;", "%22", "%5C%22", "\\u0022", "&#34;"] {
            reads(text, Value::Byte(b'"'));
        }
        for text in ["\\", "\\\\", "\\\\\\\\", "\\\\\\\\\\\\\\\\"] {
            reads(text, Value::Byte(b'\\'));
        }
        for text in ["\\n", "\\\\n", "%0a", "%0A", "%250a", "&#10;"] {
            reads(text, Value::Byte(b'\n'));
        }
        for text in ["\\ud83d\\udd11", "\\\\uD83D\\\\uDD11", "&#x1F511;", "&#128273;"] {
            reads(text, Value::Char('🔑'));
        }
        reads("+", Value::Byte(b' '));
        reads("%2F", Value::Byte(b'/'));
        reads("\\/", Value::Byte(b'/'));
    }

    #[test]
    fn a_glance_sees_no_less_than_a_reading() {
        for head in
            ["%41", "%zz", "%25", "%\\", "\\n", "\\q", "\\\\n", "\\\\\\\"", "\\u0041", "\\\\u0041"]
                .into_iter()
                .chain([
                    "\\u4e2d",
                    "\\u00e9",
                    "\\ud83d\\udd11",
                    "\\xe9",
                    "\\u00",
                    "+",
                    "&#65;",
                    "\\%41",
                    "\\\\u0075",
                    "\\\\u0074",
                    "\\\\x6e",
                ])
                .map(str::to_owned)
                .chain((1..12).map(|n| "\\".repeat(n)))
        {
            for tail in
                ["                ", "nnnnnnnnnnnnnnnn", "4141414141414141", "%41%41%41%41%41%41"]
            {
                let bytes = format!("{head}{tail}");
                let text = Text::whole(bytes.as_bytes());
                let Some(glance) = text.glance(0) else { continue };
                for reading in text.read(0, &mut CutShort::default()) {
                    let first = match reading.value {
                        Value::Byte(byte) => byte,
                        Value::Char(c) => c.to_string().as_bytes()[0],
                    };
                    assert!(glance.contains(&first), "{bytes}: {reading:?}, {glance:?}");
                }
            }
        }
    }

    #[test]
    fn an_escape_that_is_cut_short_says_so() {
        for text in ["%", "%4", "\\", "\\u", "\\u004", "&", "&#6", "&am", "%25", "\\ud83d\\u"] {
            let mut cut = CutShort::default();
            Text::unfinished(text.as_bytes()).read(0, &mut cut);
            assert!(cut.0, "{text}");
            let mut cut = CutShort::default();
            Text::whole(text.as_bytes()).read(0, &mut cut);
            assert!(!cut.0, "{text}");
        }
    }

    #[test]
    fn what_is_no_escape_is_itself_alone() {
        for text in ["a%", "%zz", "&;", "\\q", "&#;"] {
            let text = Text::whole(text.as_bytes());
            assert_eq!(text.read(0, &mut CutShort::default()).len(), 1, "{:?}", text.bytes);
        }
    }
}
