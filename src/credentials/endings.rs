//! Values that an escape could stand for, found from its last bytes alone.
//!
//! Escapes within escapes have many readings, and finding them all is slow. Their ends are enough to
//! pass over most of them: an escape ends with a digit, a semicolon, the last letter of a name or the
//! character that a backslash escapes, and the digits before its end nearly give its value. More values
//! than there are may be found, none is missed: a law compares them with the lattice.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::decoded::{ENTITIES, simple_escape};

/// Kinds of bytes, a bit each: which of them may follow within an escape.
pub(super) mod kind {
    pub(in super::super) const OPEN: u16 = 1;
    pub(super) const POINT: u16 = 1 << 1;
    pub(super) const HASH: u16 = 1 << 2;
    pub(super) const SEMICOLON: u16 = 1 << 3;
    pub(super) const X: u16 = 1 << 4;
    pub(super) const U: u16 = 1 << 5;
    pub(super) const PLAIN_DIGIT: u16 = 1 << 6;
    pub(super) const B_OR_F: u16 = 1 << 7;
    pub(super) const A: u16 = 1 << 8;
    pub(super) const N_OR_R: u16 = 1 << 9;
    pub(super) const T: u16 = 1 << 10;
    pub(super) const Q_L_OR_G: u16 = 1 << 11;
    pub(super) const M: u16 = 1 << 12;
    pub(super) const P: u16 = 1 << 13;
    pub(super) const O: u16 = 1 << 14;
    pub(super) const S: u16 = 1 << 15;
    pub(in super::super) const DIGIT: u16 = PLAIN_DIGIT | B_OR_F | A;
    pub(in super::super) const ALL: u16 = u16::MAX;

    /// Returns the kind of a byte, if an escape can have it in its middle or at its end.
    pub(in super::super) fn of(byte: u8) -> u16 {
        match byte {
            b'%' | b'\\' | b'&' => OPEN,
            b'#' => HASH,
            b';' => SEMICOLON,
            b'x' | b'X' => X,
            b'u' => U,
            b'b' | b'f' => B_OR_F,
            b'a' => A,
            b'n' | b'r' => N_OR_R,
            b't' => T,
            b'q' | b'l' | b'g' => Q_L_OR_G,
            b'm' => M,
            b'p' => P,
            b'o' => O,
            b's' => S,
            digit if digit.is_ascii_hexdigit() => PLAIN_DIGIT,
            point if point.is_ascii_punctuation() => POINT,
            _ => 0,
        }
    }
}

/// Number of an ending among those of [`endings`].
pub(super) type EndingId = u16;

/// Number of the ending that nothing is known of.
const ANY: EndingId = 0;
/// Number of the ending that no escape has.
pub(super) const NONE: EndingId = 1;
/// Number of the ending of a semicolon behind a backslash.
pub(super) const ESCAPED: EndingId = 2;
/// Number of the ending of half a character.
const HALF: EndingId = 3;

/// Bytes of the longest escape that has no other in it.
const LONGEST: usize = 16;

/// A set of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Values([u64; 4]);

impl Values {
    const NONE: Self = Self([0; 4]);
    const ANY: Self = Self([u64::MAX; 4]);

    pub(super) fn contains(&self, value: u8) -> bool {
        self.0.get(usize::from(value / 64)).is_some_and(|bits| bits >> (value % 64) & 1 == 1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u8> {
        self.0.into_iter().zip([0, 64, 128, 192]).flat_map(|(mut bits, first)| {
            std::iter::from_fn(move || {
                let bit = u8::try_from(bits.trailing_zeros()).ok().filter(|bit| *bit < 64)?;
                bits &= bits - 1;
                Some(first + bit)
            })
        })
    }

    fn add(&mut self, value: u8) {
        if let Some(bits) = self.0.get_mut(usize::from(value / 64)) {
            *bits |= 1 << (value % 64);
        }
    }

    fn with(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(bits, more)| *bits |= more);
        self
    }

    /// Values of escapes one level up that end where an escape for one of these ends.
    fn outer(&self) -> Self {
        // Any number may stand before a semicolon that is spelled by an escape.
        if self.contains(b';') {
            return Self::ANY;
        }
        self.iter().fold(Self::NONE, |outer, value| outer.with(&ended_by(value)))
    }

    fn with_outer(&self) -> Self {
        self.with(&self.outer())
    }

    fn may_be_digit(&self) -> bool {
        self.iter().any(|value| value.is_ascii_hexdigit())
    }

    fn followed_by(&self) -> u16 {
        self.iter().fold(0, |all, value| all | followers(value))
    }
}

/// Values of escapes whose last character is `last`, which is no semicolon.
fn ended_by(last: u8) -> Values {
    let mut values = Values::NONE;
    if let Some(digit) = hex(last) {
        values = numbers_with(digit);
    }
    if last == b'+' {
        values.add(b' ');
    }
    for (_, value) in ENTITIES.iter().filter(|(name, _)| name.as_bytes().last() == Some(&last)) {
        values.add(*value);
    }
    if let Some(value) = simple_escape(last) {
        values.add(value);
    }
    values
}

/// Numbers up to 255 whose last digit is `digit`, in either base.
fn numbers_with(digit: u8) -> Values {
    let mut values = Values::NONE;
    for value in 0..=u8::MAX {
        if value % 16 == digit || value % 10 == digit {
            values.add(value);
        }
    }
    values
}

/// Kinds of bytes that may stand behind the character `value` within one escape.
fn followers(value: u8) -> u16 {
    use kind::{
        A, B_OR_F, DIGIT, HASH, M, N_OR_R, O, OPEN, P, POINT, Q_L_OR_G, S, SEMICOLON, T, U, X,
    };
    let number = if value.is_ascii_hexdigit() { DIGIT | SEMICOLON | OPEN } else { 0 };
    number
        | match value {
            b'%' | b'x' | b'X' => DIGIT | OPEN,
            b'\\' => X | U | N_OR_R | T | B_OR_F | POINT | HASH | SEMICOLON | OPEN,
            b'&' => HASH | Q_L_OR_G | A | OPEN,
            b'#' => X | DIGIT | OPEN,
            b'u' => DIGIT | O | OPEN,
            b'a' => M | P | OPEN,
            b'm' => P | OPEN,
            // The last letter of a name that means `&`, too.
            b'p' => O | SEMICOLON | HASH | Q_L_OR_G | A | OPEN,
            b'o' => S | T | OPEN,
            b's' | b't' => SEMICOLON | OPEN,
            b'q' => U | OPEN,
            b'l' | b'g' => T | OPEN,
            b';' => kind::ALL,
            _ => 0,
        }
}

fn hex(byte: u8) -> Option<u8> {
    u8::try_from(char::from(byte).to_digit(16)?).ok()
}

/// Ends of escapes that stand for the same values.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ending {
    pub values: Values,
    /// Kinds of bytes that may follow within an escape around it.
    pub followed_by: u16,
    /// True if it may be a digit of another escape.
    pub is_digit: bool,
    /// True if it may be a character beyond ASCII.
    pub is_number: bool,
}

impl Ending {
    /// Ending of escapes whose last byte is `last`, which is no digit.
    fn of_byte(last: u8) -> Self {
        let values = ended_by(last).with_outer().with_outer();
        let followed_by = values.followed_by() | followers(last);
        Self { values, followed_by, is_digit: values.may_be_digit(), is_number: false }
    }

    /// Ending of numbers `values`, whose last digit is `last`.
    fn of_numbers(last: u8, values: Values) -> Self {
        let values = values.with_outer().with_outer();
        // An escape behind a digit is another digit, or stands behind what the number means.
        let digit = kind::DIGIT | kind::SEMICOLON;
        let name = if last == 0xA { kind::M | kind::P | kind::OPEN } else { 0 };
        let followed_by = values.followed_by() | digit | name;
        let mut all =
            Self { values, followed_by, is_digit: values.may_be_digit(), is_number: true };
        for (number, letter) in [(0xB, b'b'), (0xF, b'f')] {
            if let Some(value) = simple_escape(letter).filter(|_| number == last) {
                all.values.add(value);
            }
        }
        all
    }
}

/// Places of a byte before two digits that decide which numbers the two can be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// No number ends with the two digits alone.
    Nothing,
    Hex,
    HexOrDecimal,
    Decimal,
    /// A decimal digit that counts hundreds.
    Hundreds(u8),
}

const BEFORE: [Before; 6] = [
    Before::Nothing,
    Before::Hex,
    Before::HexOrDecimal,
    Before::Decimal,
    Before::Hundreds(1),
    Before::Hundreds(2),
];

impl Before {
    /// Place of a byte: before digits stands the end of an introducer and its letter, of `#` or of a zero,
    /// each perhaps spelled by an escape: `%25`, `&#37`, `\x78`, `&#120`, `%58`, `&#88`, `%23`, `&#35`.
    fn of(byte: u8) -> Self {
        match byte {
            b'%' | b'x' | b'X' | b'7' | b'8' => Self::Hex,
            b'0' | b'5' | b';' => Self::HexOrDecimal,
            b'3' | b'#' => Self::Decimal,
            b'1' => Self::Hundreds(1),
            b'2' => Self::Hundreds(2),
            _ => Self::Nothing,
        }
    }

    fn numbers(self, high: u8, low: u8) -> Values {
        let mut values = Values::NONE;
        if matches!(self, Self::Hex | Self::HexOrDecimal) {
            values.add(high << 4 | low);
        }
        let hundreds = match self {
            Self::HexOrDecimal | Self::Decimal => Some(0),
            Self::Hundreds(hundreds) => Some(hundreds),
            Self::Nothing | Self::Hex => None,
        };
        if let Some(hundreds) = hundreds.filter(|_| high < 10 && low < 10)
            && let Ok(value) = u8::try_from(u16::from(hundreds) * 100 + u16::from(high * 10 + low))
        {
            values.add(value);
        }
        // A number of one digit, behind the end of `#` or of `x`.
        if matches!(high, 0 | 3 | 5 | 8) {
            values.add(low);
        }
        values
    }
}

const DIGITS: usize = 16;
/// Columns of a table of two digits: a first digit, and two that are none.
const COLUMNS: usize = DIGITS + 2;
/// Column of what a number of one digit may follow, and of what none may.
const ONE_DIGIT: u8 = 16;
const NO_DIGIT: u8 = 17;

/// All endings, and how each is found.
pub(super) struct Endings {
    pub all: Vec<Ending>,
    by_byte: [EndingId; 256],
    /// By the byte before them, the first digit and the last one.
    by_digits: [[[EndingId; DIGITS]; COLUMNS]; BEFORE.len()],
    /// By the last digit, where an escape spells another.
    nested: [EndingId; DIGITS],
    columns: [u8; 256],
    before: [u8; 256],
    /// For each ending, whether it may be a digit of another escape.
    digits: Vec<bool>,
}

/// Returns all endings; they are the same for all secrets.
pub(super) fn endings() -> &'static Endings {
    static ENDINGS: LazyLock<Endings> = LazyLock::new(Endings::new);
    &ENDINGS
}

impl Endings {
    fn new() -> Self {
        let any =
            Ending { values: Values::ANY, followed_by: kind::ALL, is_digit: true, is_number: true };
        let none =
            Ending { values: Values::NONE, followed_by: 0, is_digit: false, is_number: false };
        let mut semicolon = Values::NONE;
        semicolon.add(b';');
        let escaped = Ending { values: semicolon, ..none };
        let half = Ending { followed_by: kind::OPEN, ..none };
        let mut all = vec![any, none, escaped, half];
        let mut known = HashMap::from([(any, ANY), (none, NONE)]);
        let mut number = |ending: Ending| {
            *known.entry(ending).or_insert_with(|| {
                all.push(ending);
                EndingId::try_from(all.len() - 1).unwrap_or(ANY)
            })
        };
        let by_byte =
            std::array::from_fn(|byte| number(Ending::of_byte(u8::try_from(byte).unwrap_or(0))));
        let digit = |n: usize| u8::try_from(n).unwrap_or(0);
        let by_digits = BEFORE.map(|before| {
            std::array::from_fn(|column| {
                std::array::from_fn(|low| {
                    let mut values = Values::NONE;
                    if column < DIGITS {
                        values = before.numbers(digit(column), digit(low));
                    } else if column == usize::from(ONE_DIGIT) {
                        values.add(digit(low));
                    }
                    number(Ending::of_numbers(digit(low), values))
                })
            })
        });
        let nested = std::array::from_fn(|low| {
            let ending = Ending::of_numbers(digit(low), numbers_with(digit(low)));
            // Half a character, whose other half follows.
            number(Ending {
                followed_by: ending.followed_by | kind::OPEN,
                is_digit: true,
                ..ending
            })
        });
        let columns = std::array::from_fn(|byte| {
            let byte = digit(byte);
            let other =
                if matches!(byte, b'#' | b'x' | b'X' | b';') { ONE_DIGIT } else { NO_DIGIT };
            hex(byte).unwrap_or(other)
        });
        let before = std::array::from_fn(|byte| {
            let before = Before::of(digit(byte));
            digit(BEFORE.iter().position(|one| *one == before).unwrap_or(0))
        });
        let digits = all.iter().map(|ending| ending.is_digit).collect();
        Self { all, by_byte, by_digits, nested, columns, before, digits }
    }
}

/// Endings of the escapes that could end behind a byte: mostly one, the other being [`NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub one: EndingId,
    pub other: EndingId,
}

const NOTHING: Found = Found { one: NONE, other: NONE };

/// Finds the endings at each byte of a text, one after the other.
pub(super) fn find_endings(bytes: &[u8], found: &mut Vec<Found>) {
    let endings = endings();
    found.clear();
    found.reserve(bytes.len());
    let (mut before, mut last, mut nested) = (0, 0, false);
    for (at, &byte) in bytes.iter().enumerate() {
        let low = endings.column(byte);
        let mut ending = NOTHING;
        if usize::from(low) < DIGITS {
            if nested {
                ending.one = endings.nested.get(usize::from(low)).copied().unwrap_or(ANY);
            } else {
                ending.one = endings.number(before, last, low);
                nested = endings.is_digit(ending.one);
                if matches!(before, b'8' | b'9' | b'a' | b'b' | b'A' | b'B') && is_half(bytes, at) {
                    ending.other = HALF;
                }
            }
        } else if byte == b';' {
            ending = endings.closed(bytes, at, found);
            nested = endings.is_digit(ending.one) || endings.is_digit(ending.other);
        } else {
            ending.one = endings.by_byte.get(usize::from(byte)).copied().unwrap_or(ANY);
            nested = false;
        }
        found.push(ending);
        (before, last) = (last, byte);
    }
}

/// Reports whether the number of half a character ends at `at`, whose other half follows.
fn is_half(bytes: &[u8], at: usize) -> bool {
    matches!(at.checked_sub(3).and_then(|at| bytes.get(at)), Some(b'd' | b'D'))
}

impl Endings {
    #[inline]
    fn column(&self, byte: u8) -> u8 {
        self.columns.get(usize::from(byte)).copied().unwrap_or(NO_DIGIT)
    }

    #[inline]
    fn is_digit(&self, id: EndingId) -> bool {
        self.digits.get(usize::from(id)) != Some(&false)
    }

    #[inline]
    fn number(&self, before: u8, last: u8, low: u8) -> EndingId {
        let row = self.before.get(usize::from(before)).copied().unwrap_or(0);
        let digits = self.by_digits.get(usize::from(row));
        let digits = digits.and_then(|d| d.get(usize::from(self.column(last))));
        digits.and_then(|d| d.get(usize::from(low))).copied().unwrap_or(ANY)
    }

    /// Endings at a semicolon at `at`, which closes what ends before it. A backslash may stand between.
    fn closed(&self, bytes: &[u8], at: usize, found: &[Found]) -> Found {
        let behind = |end: usize| {
            let ending = end.checked_sub(1).and_then(|at| found.get(at));
            ending.map_or(NONE, |found| found.single())
        };
        let head = bytes.get(..at).unwrap_or_default();
        let run = head.iter().rev().take_while(|&&b| b == b'\\').count();
        let end = at - run;
        let one = behind(end);
        let spells = self.all.get(usize::from(one)).is_none_or(|end| end.values.contains(b'\\'));
        if !spells || one == ANY {
            return Found { one, other: if run > 0 { ESCAPED } else { NONE } };
        }
        // The backslash is an escape without others in it.
        let near = end.saturating_sub(LONGEST);
        let mut before = bytes.get(near..end).unwrap_or_default().iter();
        let opens = before.rposition(|b| matches!(b, b'%' | b'\\' | b'&')).map(|n| near + n);
        let other = opens.map_or(NONE, behind);
        Found { one, other: if other == NONE { ESCAPED } else { other } }
    }
}

impl Found {
    /// A single ending for what two could be.
    fn single(self) -> EndingId {
        if self.other == NONE || self.other == HALF { self.one } else { ANY }
    }
}
