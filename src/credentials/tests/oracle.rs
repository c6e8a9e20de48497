//! The readings of a text in their plainest form, as an oracle: every way to read it is tried again
//! each time it is asked for, level by level, however long that takes.

use smallvec::SmallVec;

use super::super::decoded::{CutShort, ENTITIES, LEVELS, Text, Value, simple_escape};

/// A reading, and the position behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub value: Value,
    pub next: usize,
}

type Readings = SmallVec<[Reading; 6]>;

/// A text that is read anew for every question.
pub(super) struct Oracle<'t>(pub Text<'t>);

impl Oracle<'_> {
    /// All readings of what starts at `at`.
    pub(super) fn read(&self, at: usize, cut: &mut CutShort) -> Readings {
        self.read_level(at, LEVELS, cut)
    }

    fn read_level(&self, at: usize, level: usize, cut: &mut CutShort) -> Readings {
        let mut readings = Readings::new();
        let Some(&raw) = self.0.bytes.get(at) else {
            cut.0 |= !self.0.complete;
            return readings;
        };
        if level == 0 || !Text::is_introducer(raw) {
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
    text: &'t Oracle<'t>,
    level: usize,
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
