//! Values that an escape could stand for, found from its last bytes alone.
//!
//! Escapes within escapes have many readings, and finding them all is slow. Their ends are enough to
//! pass over most of them: an escape ends with a digit, a semicolon, the last letter of a name or the
//! character that a backslash escapes, and the digits before its end nearly give its value. More values
//! than there are may be found, none is missed: a law compares them with the lattice.

use super::decoded::{ENTITIES, simple_escape};
use super::kinds::{self, followers};

/// A set of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Values([u64; 4]);

impl Values {
    pub(super) const NONE: Self = Self([0; 4]);
    pub(super) const ANY: Self = Self([u64::MAX; 4]);

    pub(super) fn of(value: u8) -> Self {
        let mut values = Self::NONE;
        values.add(value);
        values
    }

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
pub(super) fn numbers_with(digit: u8) -> Values {
    let mut values = Values::NONE;
    for value in 0..=u8::MAX {
        if value % 16 == digit || value % 10 == digit {
            values.add(value);
        }
    }
    values
}

pub(super) fn hex(byte: u8) -> Option<u8> {
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
    pub(super) fn of_byte(last: u8) -> Self {
        let values = ended_by(last).with_outer().with_outer();
        let followed_by = values.followed_by() | followers(last);
        Self { values, followed_by, is_digit: values.may_be_digit(), is_number: false }
    }

    /// Ending of numbers `values`, whose last digit is `last`.
    pub(super) fn of_numbers(last: u8, values: Values) -> Self {
        let values = values.with_outer().with_outer();
        // An escape behind a digit is another digit, or stands behind what the number means.
        let digit = kinds::DIGIT | kinds::SEMICOLON;
        let name = if last == 0xA { kinds::M | kinds::P | kinds::OPEN } else { 0 };
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
pub(super) enum Before {
    /// No number ends with the two digits alone.
    Nothing,
    Hex,
    HexOrDecimal,
    Decimal,
    /// A decimal digit that counts hundreds.
    Hundreds(u8),
}

pub(super) const BEFORE: [Before; 6] = [
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
    pub(super) fn of(byte: u8) -> Self {
        match byte {
            b'%' | b'x' | b'X' | b'7' | b'8' => Self::Hex,
            b'0' | b'5' | b';' => Self::HexOrDecimal,
            b'3' | b'#' => Self::Decimal,
            b'1' => Self::Hundreds(1),
            b'2' => Self::Hundreds(2),
            _ => Self::Nothing,
        }
    }

    pub(super) fn numbers(self, high: u8, low: u8) -> Values {
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
