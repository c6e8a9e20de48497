//! Finds at each byte of a text the endings of the escapes that could end there.
//!
//! A byte and the three before it decide, but for a semicolon, which closes what ends before it. Texts
//! that are slow to read have all bytes in random order, so a byte is looked up rather than judged: a
//! processor that guesses wrong at every third byte would lose more time than all of this takes.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::endings::{BEFORE, Before, Ending, Values, hex, numbers_with};
use super::kinds;

/// Number of an ending among those of [`Finder::endings`], with two marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndingId(u16);

impl EndingId {
    /// Ending that nothing is known of.
    const ANY: Self = Self(Self::DIGIT);
    /// Ending that no escape has.
    pub(super) const NONE: Self = Self(1);
    /// Ending of a semicolon behind a backslash.
    pub(super) const ESCAPED: Self = Self(2);
    /// Ending of half a character.
    const HALF: Self = Self(3);
    /// Mark of an ending that may be a digit of another escape.
    const DIGIT: u16 = 1 << 15;
    /// Mark of an ending that may be a backslash.
    const BACKSLASH: u16 = 1 << 14;

    #[inline]
    pub(super) fn number(self) -> usize {
        usize::from(self.0 & !(Self::DIGIT | Self::BACKSLASH))
    }

    #[inline]
    fn is_digit(self) -> bool {
        self.0 & Self::DIGIT != 0
    }

    #[inline]
    fn is_backslash(self) -> bool {
        self.0 & Self::BACKSLASH != 0
    }
}

/// Bytes of the longest escape that has no other in it.
const LONGEST: usize = 16;

const DIGITS: u16 = 16;
/// Columns of a row: a first digit, what a number of one digit may follow, and what none may.
const COLUMNS: u16 = 32;
const ONE_DIGIT: u16 = 16;
const NO_DIGIT: u16 = 17;
/// Entries of a row.
const ROW: u16 = COLUMNS * DIGITS;
/// Entries by a byte that is no digit, behind those by the byte before two digits.
const BYTES: u16 = 6 * ROW;
/// Entries by the last digit, where an escape spells another.
const NESTED: u16 = 7 * ROW;
const ENTRIES: usize = 4096;

/// Place of a byte among the entries.
#[derive(Clone, Copy)]
struct Place {
    /// Entry of the byte as the last one, less its row and column if it is a digit.
    last: u16,
    /// Start of the column if the byte is the first of two digits.
    column: u16,
    /// Start of the row if the byte is the one before two digits.
    row: u16,
}

impl Place {
    fn of(byte: u8) -> Self {
        let digit = hex(byte).map(u16::from);
        let other = if matches!(byte, b'#' | b'x' | b'X' | b';') { ONE_DIGIT } else { NO_DIGIT };
        let row = (0..).zip(BEFORE).find(|(_, before)| *before == Before::of(byte));
        Self {
            last: digit.unwrap_or(BYTES + u16::from(byte)),
            column: digit.unwrap_or(other) * DIGITS,
            row: row.map_or(0, |(row, _)| row) * ROW,
        }
    }

    #[inline]
    fn is_digit(self) -> bool {
        self.last < DIGITS
    }
}

/// All endings, and how each is found.
pub(super) struct Finder {
    pub endings: Vec<Ending>,
    entries: Box<[EndingId; ENTRIES]>,
    places: [Place; 256],
}

/// Returns the finder; it is the same for all secrets.
pub(super) fn finder() -> &'static Finder {
    static FINDER: LazyLock<Finder> = LazyLock::new(Finder::new);
    &FINDER
}

impl Finder {
    fn new() -> Self {
        let none =
            Ending { values: Values::NONE, followed_by: 0, is_digit: false, is_number: false };
        let any = Ending {
            values: Values::ANY,
            followed_by: kinds::ALL,
            is_digit: true,
            is_number: true,
        };
        let escaped = Ending { values: Values::of(b';'), ..none };
        let half = Ending { followed_by: kinds::OPEN, ..none };
        let mut finder = Self {
            endings: vec![any, none, escaped, half],
            entries: Box::new([EndingId::ANY; ENTRIES]),
            places: std::array::from_fn(|byte| Place::of(u8::try_from(byte).unwrap_or(0))),
        };
        let mut known = HashMap::from([(any, EndingId::ANY), (none, EndingId::NONE)]);
        for byte in 0..=u8::MAX {
            finder.enter(BYTES + u16::from(byte), Ending::of_byte(byte), &mut known);
        }
        for low in 0..16 {
            let column = u16::from(low);
            for (row, before) in (0..).zip(BEFORE) {
                let first = row * ROW + column;
                for high in 0..16 {
                    let values = before.numbers(high, low);
                    let entry = first + u16::from(high) * DIGITS;
                    finder.enter(entry, Ending::of_numbers(low, values), &mut known);
                }
                let alone = Ending::of_numbers(low, Values::of(low));
                finder.enter(first + ONE_DIGIT * DIGITS, alone, &mut known);
                let no_number = Ending::of_numbers(low, Values::NONE);
                finder.enter(first + NO_DIGIT * DIGITS, no_number, &mut known);
            }
            let nested = Ending::of_numbers(low, numbers_with(low));
            // Half a character, whose other half follows.
            let followed_by = nested.followed_by | kinds::OPEN;
            let nested = Ending { followed_by, is_digit: true, ..nested };
            finder.enter(NESTED + column, nested, &mut known);
        }
        finder
    }

    fn enter(&mut self, entry: u16, ending: Ending, known: &mut HashMap<Ending, EndingId>) {
        let id = *known.entry(ending).or_insert_with(|| {
            let mut id = u16::try_from(self.endings.len()).unwrap_or(0);
            self.endings.push(ending);
            if ending.is_digit {
                id |= EndingId::DIGIT;
            }
            if ending.values.contains(b'\\') {
                id |= EndingId::BACKSLASH;
            }
            EndingId(id)
        });
        if let Some(slot) = self.entries.get_mut(usize::from(entry)) {
            *slot = id;
        }
    }

    #[inline]
    fn place(&self, byte: u8) -> Place {
        // INVARIANT: there are as many as bytes.
        self.places.get(usize::from(byte)).copied().unwrap_or(Place { last: 0, column: 0, row: 0 })
    }

    #[inline]
    fn entry(&self, entry: u16) -> EndingId {
        self.entries.get(usize::from(entry) % ENTRIES).copied().unwrap_or(EndingId::ANY)
    }
}

/// Endings of the escapes that could end behind a byte: mostly one, the other being [`EndingId::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub one: EndingId,
    pub other: EndingId,
}

const NOTHING: Found = Found { one: EndingId::NONE, other: EndingId::NONE };

/// Finds the endings at each byte of a text, one after the other.
pub(super) fn find_endings(bytes: &[u8], found: &mut Vec<Found>) {
    let finder = finder();
    found.clear();
    found.resize(bytes.len(), NOTHING);
    let nothing = finder.place(0);
    let (mut row, mut column) = (nothing.row, nothing.column);
    let (mut next_row, mut nested, mut recent) = (row, false, 0u32);
    let mut before = NOTHING;
    for (at, &byte) in bytes.iter().enumerate() {
        let place = finder.place(byte);
        let is_digit = place.is_digit();
        let plain = finder.entry(if is_digit { row | column | place.last } else { place.last });
        let is_nested = is_digit & nested;
        nested = is_digit & (nested | plain.is_digit());
        let one = if is_nested { finder.entry(NESTED | place.last) } else { plain };
        let mut ending = Found { one, other: EndingId::NONE };
        if byte == b';' {
            let is_simple = before.other == EndingId::NONE && !before.one.is_backslash();
            ending = before;
            if !is_simple || recent & 0xFF == u32::from(b'\\') {
                ending = closed(bytes, at, found);
            }
            nested = ending.one.is_digit() | ending.other.is_digit();
        } else if begins_half(recent) && is_digit && !is_nested {
            ending.other = EndingId::HALF;
        }
        if let Some(slot) = found.get_mut(at) {
            *slot = ending;
        }
        before = ending;
        (row, next_row, column) = (next_row, place.row, place.column);
        recent = recent << 8 | u32::from(byte);
    }
}

/// Reports whether the three bytes before a digit begin the number of half a character, whose other half
/// follows.
#[inline]
fn begins_half(recent: u32) -> bool {
    let [_, first, second, _] = recent.to_be_bytes();
    matches!(first, b'd' | b'D') && matches!(second, b'8' | b'9' | b'a' | b'b' | b'A' | b'B')
}

/// Finds the endings at a semicolon at `at`, which closes what ends before it. A backslash may stand between.
#[inline(never)]
fn closed(bytes: &[u8], at: usize, found: &[Found]) -> Found {
    let behind = |end: usize| {
        let ending = end.checked_sub(1).and_then(|at| found.get(at));
        ending.map_or(EndingId::NONE, |found| found.single())
    };
    let head = bytes.get(..at).unwrap_or_default();
    let run = head.iter().rev().take_while(|&&b| b == b'\\').count();
    let end = at - run;
    let one = behind(end);
    if !one.is_backslash() {
        return Found { one, other: if run > 0 { EndingId::ESCAPED } else { EndingId::NONE } };
    }
    // The backslash is an escape without others in it.
    let near = end.saturating_sub(LONGEST);
    let mut before = bytes.get(near..end).unwrap_or_default().iter();
    let opens = before.rposition(|b| matches!(b, b'%' | b'\\' | b'&')).map(|n| near + n);
    let other = opens.map_or(EndingId::NONE, behind);
    Found { one, other: if other == EndingId::NONE { EndingId::ESCAPED } else { other } }
}

impl Found {
    /// A single ending for what two could be.
    fn single(self) -> EndingId {
        if matches!(self.other, EndingId::NONE | EndingId::HALF) { self.one } else { EndingId::ANY }
    }
}
