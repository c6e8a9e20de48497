//! Reads one character of a text as every decoder the agent might own would read it.
//!
//! A list of encoded patterns misses mixtures (`%41b\u0063`), odd hex case and encodings of
//! encodings. So a byte is read through up to [`LEVELS`] decoders at once, each of which undoes
//! percent, JSON, `\x` and HTML escapes and passes on what is not escaped: three levels cover double
//! URL-encoding, JSON in JSON in JSON, and a URL-encoded HTML entity inside a JSON string.
//!
//! One decoder reads one text in one way: what stands at a position at a level is a single character,
//! and it is found from the characters of the level below, of which an escape has a dozen at most. A
//! position has therefore at most one reading a level, and reading it costs a bounded number of steps.

use smallvec::SmallVec;

/// Most encodings that may lie over each other.
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

    /// Whether one more decoder could make something else of it.
    fn is_introducer(self) -> bool {
        self.byte().is_some_and(Text::is_introducer)
    }

    fn byte(self) -> Option<u8> {
        match self {
            Self::Byte(byte) => Some(byte),
            Self::Char(_) => None,
        }
    }
}

pub(super) type Readings = SmallVec<[Reading; 3]>;

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

/// Counts one look at a byte of a text: the law of cost is about how many there are.
#[inline]
pub(super) fn look() {
    #[cfg(test)]
    READ.set(READ.get() + 1);
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

/// Whether reading came to the end of a text that is not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CutShort(pub bool);

impl Text<'_> {
    /// Whether a raw byte can mean something else than itself.
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
                match *ahead.get(run)? {
                    b'u' => glance_number(b'\\', ahead.get(run + 1..run + 5)?),
                    b'x' => glance_number(b'\\', ahead.get(run + 1..run + 3)?),
                    letter if Self::is_introducer(letter) => None,
                    letter => only(simple_escape(letter).unwrap_or(b'\\')),
                }
            }
            _ => None,
        }
    }

    /// Returns the readings of what starts at `at`: the byte itself first.
    pub(super) fn read(&self, at: usize, cut: &mut CutShort) -> Readings {
        let mut readings = Readings::new();
        let Some(raw) = self.char_at(at, 0, cut) else { return readings };
        readings.push(raw);
        let mut reading = raw;
        for level in 0..LEVELS {
            if !reading.value.is_introducer() {
                break;
            }
            if let Some(decoded) = self.decoded(reading, level, cut) {
                reading = decoded;
                if !readings.contains(&reading) {
                    readings.push(reading);
                }
            }
        }
        if raw.value == Value::Byte(b'\\')
            && let Some(&punctuation @ (b'%' | b'&' | b'+')) = self.bytes.get(raw.next)
        {
            readings.push(Reading { value: Value::Byte(punctuation), next: raw.next + 1 });
        }
        readings
    }

    /// Returns the character at `at` behind `level` decoders.
    fn char_at(&self, at: usize, level: u8, cut: &mut CutShort) -> Option<Reading> {
        let Some(below) = level.checked_sub(1) else {
            look();
            let Some(&raw) = self.bytes.get(at) else {
                cut.0 |= !self.complete;
                return None;
            };
            return Some(Reading { value: Value::Byte(raw), next: at + 1 });
        };
        let itself = self.char_at(at, below, cut)?;
        Some(self.decoded(itself, below, cut).unwrap_or(itself))
    }

    /// Undoes the escape that `first` introduces in the text behind `level` decoders.
    fn decoded(&self, first: Reading, level: u8, cut: &mut CutShort) -> Option<Reading> {
        let below = Below { text: self, level };
        match first.value {
            Value::Byte(b'%') => below.byte(first.next, cut),
            Value::Byte(b'+') => Some(Reading { value: Value::Byte(b' '), next: first.next }),
            Value::Byte(b'\\') => below.backslash(first.next, cut),
            Value::Byte(b'&') => below.entity(first.next, cut),
            Value::Byte(_) | Value::Char(_) => None,
        }
    }
}

/// The text as it looks one decoder further down.
struct Below<'t> {
    text: &'t Text<'t>,
    level: u8,
}

impl Below<'_> {
    /// The byte at `at`, and where the text goes on behind it.
    fn next(&self, at: usize, cut: &mut CutShort) -> Option<(u8, usize)> {
        let reading = self.text.char_at(at, self.level, cut)?;
        Some((reading.value.byte()?, reading.next))
    }

    fn expect(&self, at: usize, wanted: u8, cut: &mut CutShort) -> Option<usize> {
        self.next(at, cut).filter(|(byte, _)| *byte == wanted).map(|(_, next)| next)
    }

    /// Exactly `digits` hexadecimal digits.
    fn hex(&self, at: usize, digits: u8, cut: &mut CutShort) -> Option<(u32, usize)> {
        let mut next = at;
        let mut number = 0;
        for _ in 0..digits {
            let (digit, behind) = self.next(next, cut)?;
            number = number * 16 + char::from(digit).to_digit(16)?;
            next = behind;
        }
        Some((number, next))
    }

    /// A byte of two hexadecimal digits.
    fn byte(&self, at: usize, cut: &mut CutShort) -> Option<Reading> {
        let (number, next) = self.hex(at, 2, cut)?;
        Some(Reading { value: Value::Byte(u8::try_from(number).ok()?), next })
    }

    fn backslash(&self, at: usize, cut: &mut CutShort) -> Option<Reading> {
        let (byte, next) = self.next(at, cut)?;
        match byte {
            b'u' => self.unicode(next, cut),
            b'x' => self.byte(next, cut),
            // No notation that is read here escapes these; what follows may be an escape of its own.
            b'%' | b'&' | b'+' => None,
            _ => Some(Reading { value: Value::Byte(simple_escape(byte)?), next }),
        }
    }

    /// The digits behind `\u`, and the second half of a surrogate pair.
    fn unicode(&self, at: usize, cut: &mut CutShort) -> Option<Reading> {
        let (unit, next) = self.hex(at, 4, cut)?;
        if !(0xD800..0xDC00).contains(&unit) {
            return Some(Reading { value: Value::of_number(unit)?, next });
        }
        let next = self.expect(next, b'\\', cut)?;
        let next = self.expect(next, b'u', cut)?;
        let (low, next) = self.hex(next, 4, cut)?;
        if !(0xDC00..0xE000).contains(&low) {
            return None;
        }
        let number = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
        Some(Reading { value: Value::of_number(number)?, next })
    }

    /// Reads an entity behind `&`: a number in either base, or one of the five names of XML. The
    /// semicolon may be missing, as browsers allow.
    fn entity(&self, at: usize, cut: &mut CutShort) -> Option<Reading> {
        let (first, next) = self.next(at, cut)?;
        if first == b'#' {
            return match self.next(next, cut)? {
                (b'x' | b'X', digits) => self.entity_number(digits, 16, cut),
                _ => self.entity_number(next, 10, cut),
            };
        }
        let (name, value) = if first == b'a' {
            // Two names begin with this letter.
            let second = self.next(next, cut)?.0;
            ENTITIES.into_iter().find(|(name, _)| name.as_bytes().starts_with(&[first, second]))?
        } else {
            ENTITIES.into_iter().find(|(name, _)| name.as_bytes().first() == Some(&first))?
        };
        let mut end = next;
        for wanted in name.bytes().skip(1) {
            end = self.expect(end, wanted, cut)?;
        }
        Some(self.entity_end(end, Value::Byte(value), cut))
    }

    fn entity_number(&self, at: usize, base: u32, cut: &mut CutShort) -> Option<Reading> {
        /// Digits of an entity, leading zeros included, that are followed.
        const MOST_DIGITS: u8 = 9;
        let mut next = at;
        let mut number = 0u32;
        for digits in 0..=MOST_DIGITS {
            let digit = self.next(next, cut).and_then(|(byte, behind)| {
                char::from(byte).to_digit(base).map(|digit| (digit, behind))
            });
            let Some((digit, behind)) = digit else {
                if digits == 0 {
                    return None;
                }
                return Some(self.entity_end(next, Value::of_number(number)?, cut));
            };
            number = number.saturating_mul(base).saturating_add(digit);
            next = behind;
        }
        None
    }

    fn entity_end(&self, at: usize, value: Value, cut: &mut CutShort) -> Reading {
        Reading { value, next: self.expect(at, b';', cut).unwrap_or(at) }
    }
}

/// The named entities that escaping functions write.
pub(super) const ENTITIES: [(&str, u8); 5] =
    [("quot", b'"'), ("amp", b'&'), ("lt", b'<'), ("gt", b'>'), ("apos", b'\'')];

/// Value of an escape of a backslash and `byte`.
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
thread_local! {
    static READ: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Bytes that this thread has read, each as often as it was read.
#[cfg(test)]
pub(super) fn bytes_read() -> u64 {
    READ.get()
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
