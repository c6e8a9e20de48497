//! Beginnings of forms, searched for all at once from the end of a text to its start.
//!
//! One bit stands for each of the first [`DEPTH`] characters of a form: it is set where the form
//! from that character on could follow in the text (shift-and, read backwards). Forms share
//! [`BUCKETS`] rows of bits, so that one number holds all. Several readings of a text are joined by
//! "or". So a start may be seen where there is none, since forms that share a row are mixed up; none
//! is missed. [`super::encodings`] confirms or refuses each start.

use std::ops::Range;

use super::decoded::Text;
use super::encodings::{Form, Kind, MOST_NOISE, NOISE};
use super::nodes::{count, number};

/// Characters of a form that are looked at.
const DEPTH: usize = 16;
const BUCKETS: usize = 8;
/// The bits of the first and of the last character of each row.
const FIRST: Bits = 0x0001_0001_0001_0001_0001_0001_0001_0001;
const LAST: Bits = FIRST << (DEPTH - 1);

/// Characters of all rows, a bit for each.
pub(super) type Bits = u128;

/// Bytes that may stand at each character of a row.
#[derive(Clone, Copy, Default)]
struct Row([Class; DEPTH]);

/// A set of bytes.
type Class = [u64; 4];

impl Row {
    fn with(&self, other: &Self) -> Self {
        let mut both = *self;
        for (class, more) in both.0.iter_mut().zip(&other.0) {
            class.iter_mut().zip(more).for_each(|(bits, more)| *bits |= more);
        }
        both
    }

    /// Returns a measure of how often a text has such a beginning.
    fn likelihood(&self) -> f64 {
        let size = |class: &Class| class.iter().map(|bits| bits.count_ones()).sum::<u32>();
        self.0.iter().map(|class| f64::from(size(class)) / 64.0).product()
    }
}

/// Rows for a form: what one may have between its characters is what another is made of.
fn buckets(form: &Form) -> Range<usize> {
    match form.kind {
        Kind::Plain => 0..2,
        Kind::Raw => 2..4,
        Kind::Hex => 4..5,
        Kind::Base64 => 5..7,
        Kind::Base32 => 7..BUCKETS,
    }
}

/// Length of the form's head that has few spellings: behind a line break anything may follow.
fn exact(form: &Form) -> usize {
    let is_break = |byte: &u8| form.kind == Kind::Plain && matches!(byte, b'\r' | b'\n');
    form.row.iter().position(is_break).map_or(form.required, |at| at + 1).min(form.required)
}

fn classes(form: &Form) -> Row {
    let exact = exact(form);
    let mut row = Row::default();
    for (at, class) in row.0.iter_mut().enumerate() {
        if at >= exact {
            *class = [u64::MAX; 4];
        }
        for byte in form.spellings(at) {
            if let Some(bits) = class.get_mut(usize::from(byte / 64)) {
                *bits |= 1 << (byte % 64);
            }
        }
    }
    row
}

/// Characters that could stand at a position: at once, and behind bytes of noise.
#[derive(Clone, Copy, Default)]
pub(super) struct Behind {
    real: Bits,
    /// Behind one to [`MOST_NOISE`] bytes.
    skipped: [Bits; MOST_NOISE],
    /// False if none stands behind noise.
    is_noisy: bool,
}

impl From<Bits> for Behind {
    fn from(real: Bits) -> Self {
        Self { real, ..Self::default() }
    }
}

impl Behind {
    #[inline]
    fn all(&self) -> Bits {
        self.skipped.iter().fold(self.real, |all, row| all | row)
    }
}

/// Characters that could stand at each byte of a stretch, filled from its end on.
#[derive(Default)]
pub(super) struct Beginnings {
    all: Vec<Bits>,
    /// For each byte, the number of its row of `noisy`; the first one stands for none.
    rows: Vec<u32>,
    noisy: Vec<Behind>,
}

impl Beginnings {
    /// Empties a stretch of so many bytes; `end` stands behind it.
    pub(super) fn clear(&mut self, bytes: usize, end: Bits) {
        self.all.resize(bytes + 1, 0);
        self.rows.resize(bytes + 1, 0);
        self.rows.fill(0);
        self.noisy.clear();
        self.noisy.push(Behind::default());
        self.set(bytes, end);
    }

    /// Fills the stretch from `from` back to the last byte before it that introduces an escape or is
    /// noise, and returns the position behind that byte. `after` is what could stand at `from`; `starts`
    /// takes the positions at which a form could start.
    pub(super) fn pass(
        &mut self,
        heads: &Heads,
        bytes: &[u8],
        from: usize,
        after: Bits,
        mut starts: impl FnMut(usize),
    ) -> usize {
        let bytes = bytes.get(..from).unwrap_or_default();
        let slots = self.all.get_mut(..from).unwrap_or_default();
        let (mut at, mut after) = (from, after);
        for (slot, &byte) in slots.iter_mut().rev().zip(bytes.iter().rev()) {
            let fit = heads.fit(byte);
            if heads.may_stop(byte) && (Text::is_introducer(byte) || fit.skips & after != 0) {
                break;
            }
            at -= 1;
            after = fit.is & (after >> 1 | LAST);
            *slot = after;
            if Heads::any_whole(after) {
                starts(at);
            }
        }
        at
    }

    #[inline]
    pub(super) fn all_at(&self, at: usize) -> Bits {
        self.all.get(at).copied().unwrap_or(Bits::MAX)
    }

    fn at(&self, at: usize) -> Behind {
        match self.rows.get(at) {
            Some(0) | None => Behind::from(self.all_at(at)),
            Some(&row) => self.noisy.get(count(row)).copied().unwrap_or_default(),
        }
    }

    #[inline]
    fn set(&mut self, at: usize, all: Bits) {
        if let Some(slot) = self.all.get_mut(at) {
            *slot = all;
        }
    }

    /// Notes what stands at a byte, and returns all of it.
    #[inline]
    pub(super) fn set_behind(&mut self, at: usize, behind: &Behind) -> Bits {
        if !behind.is_noisy {
            self.set(at, behind.real);
            return behind.real;
        }
        let all = behind.all();
        if let (Some(slot), Some(row)) = (self.all.get_mut(at), self.rows.get_mut(at)) {
            (*slot, *row) = (all, number(self.noisy.len()));
            self.noisy.push(*behind);
        }
        all
    }
}

/// First characters of a set of forms.
pub(super) struct Heads {
    bytes: Box<[Fit; 256]>,
    /// True for introducers of escapes, and for noise.
    stops: [bool; 256],
    /// Characters that no more text need follow.
    ends: Bits,
    /// Characters that are the first byte of a character beyond ASCII.
    wide: Bits,
}

/// Characters that a byte may be, of those with which forms begin.
#[derive(Clone, Copy, Default)]
pub(super) struct Lanes {
    pub is: u64,
    /// Characters before which the byte may be skipped.
    pub skips: u64,
}

impl Lanes {
    /// Characters of a row that are kept.
    const DEPTH: usize = 8;
    pub(super) const FIRST: u64 = 0x0101_0101_0101_0101;
    pub(super) const LAST: u64 = Self::FIRST << (Self::DEPTH - 1);

    /// Keeps the first characters of each row.
    pub(super) fn of(bits: Bits) -> u64 {
        (0..BUCKETS).fold(0, |lanes, row| {
            let first = bits >> (row * DEPTH) & ((1 << Self::DEPTH) - 1);
            lanes | u64::try_from(first).unwrap_or(u64::MAX) << (row * Self::DEPTH)
        })
    }
}

const NO_FIT: Fit = Fit { is: 0, skips: 0 };

#[derive(Clone, Copy, Default)]
struct Fit {
    /// Characters that the byte may be.
    is: Bits,
    /// Characters before which the byte may be skipped.
    skips: Bits,
}

impl Heads {
    pub(super) fn new(forms: &[Form]) -> Self {
        let mut heads =
            Self { bytes: Box::new([Fit::default(); 256]), stops: [false; 256], ends: 0, wide: 0 };
        for (stops, byte) in heads.stops.iter_mut().zip(0..=u8::MAX) {
            *stops = Text::is_introducer(byte) || NOISE.contains(&byte);
        }
        let mut rows = [Row::default(); BUCKETS];
        for form in forms {
            let mut best = (f64::INFINITY, 0);
            let classes = classes(form);
            for (number, row) in rows.iter().enumerate().filter(|(n, _)| buckets(form).contains(n))
            {
                let more = row.with(&classes).likelihood() - row.likelihood();
                if more < best.0 {
                    best = (more, number);
                }
            }
            let (_, number) = best;
            if let Some(row) = rows.get_mut(number) {
                *row = row.with(&classes);
            }
            heads.add(form, number * DEPTH);
        }
        heads
    }

    fn add(&mut self, form: &Form, row: usize) {
        let exact = exact(form);
        for at in 0..DEPTH {
            let bit: Bits = 1 << (row + at);
            if at >= exact {
                self.ends |= bit;
                self.bytes.iter_mut().for_each(|fit| fit.is |= bit);
                continue;
            }
            for byte in form.spellings(at) {
                if let Some(fit) = self.bytes.get_mut(usize::from(byte)) {
                    fit.is |= bit;
                }
            }
            for byte in NOISE.into_iter().filter(|byte| form.is_noise(*byte, at)) {
                if let Some(fit) = self.bytes.get_mut(usize::from(byte)) {
                    fit.skips |= bit;
                }
            }
            if form.char_at(at).is_some() {
                self.wide |= bit;
            }
        }
    }

    pub(super) fn lanes(&self, byte: u8) -> Lanes {
        let fit = self.fit(byte);
        Lanes { is: Lanes::of(fit.is), skips: Lanes::of(fit.skips) }
    }

    /// Returns the characters that no more text need follow.
    pub(super) fn end_lanes(&self) -> u64 {
        Lanes::of(self.ends)
    }

    /// Returns the characters that are the first byte of a character beyond ASCII.
    pub(super) fn wide_lanes(&self) -> u64 {
        Lanes::of(self.wide)
    }

    /// Returns the characters that could stand behind the end of a text.
    pub(super) fn at_end(&self, complete: bool) -> Bits {
        if complete { self.ends } else { Bits::MAX }
    }

    /// Adds the characters that could stand at `byte` to `all`; the text goes on at `next`.
    #[inline]
    pub(super) fn add_before(&self, byte: u8, behind: &Beginnings, next: usize, all: &mut Behind) {
        let fit = self.fit(byte);
        let close = behind.all_at(next);
        all.real |= fit.is & (close >> 1 | LAST);
        if fit.skips & close != 0 {
            let after = behind.at(next);
            // What stands behind four bytes of noise is not skipped to again.
            let [one, two, three, four] = &mut all.skipped;
            let [once, twice, thrice, _] = after.skipped;
            *one |= after.real & fit.skips;
            *two |= once & fit.skips;
            *three |= twice & fit.skips;
            *four |= thrice & fit.skips;
            all.is_noisy = true;
        }
    }

    /// Adds the characters that could stand at `c`, written by its number, to `all`.
    pub(super) fn add_before_char(
        &self,
        c: char,
        behind: &Beginnings,
        next: usize,
        all: &mut Behind,
    ) {
        let mut utf8 = [0; 4];
        c.encode_utf8(&mut utf8);
        let [first, ..] = utf8;
        all.real |= self.fit(first).is & (self.wide | self.ends);
        // Bytes that were taken for Latin-1.
        if let Ok(byte) = u8::try_from(c) {
            self.add_before(byte, behind, next, all);
        }
    }

    /// Reports whether a glance at `at` shows that no form starts there.
    pub(super) fn refute(&self, text: Text<'_>, at: usize) -> bool {
        if let Some(glance) = text.glance(at) {
            return !glance.iter().any(|&byte| Self::any_whole(self.fit(byte).is));
        }
        let Some(head) = text.bytes.get(at..).and_then(<[u8]>::first_chunk::<DEPTH>) else {
            return false;
        };
        // Forwards, since most that the filter lets through end after few bytes.
        let mut open = FIRST;
        for (ahead, &byte) in head.iter().enumerate() {
            let goes_on = |byte: u8| open & (self.fit(byte).is | self.fit(byte).skips) != 0;
            if Text::is_introducer(byte) {
                let glance = text.glance(at + ahead);
                return glance.is_some_and(|glance| !glance.iter().any(|&byte| goes_on(byte)));
            }
            let fit = self.fit(byte);
            if open & fit.is & LAST != 0 {
                return false;
            }
            open = ((open & fit.is) << 1) | (open & fit.skips);
            if open == 0 {
                return true;
            }
        }
        false
    }

    #[inline]
    fn may_stop(&self, byte: u8) -> bool {
        self.stops.get(usize::from(byte)) == Some(&true)
    }

    #[inline]
    fn fit(&self, byte: u8) -> &Fit {
        // INVARIANT: there are as many as bytes.
        self.bytes.get(usize::from(byte)).unwrap_or(&NO_FIT)
    }

    /// Reports whether a whole beginning is among `heads`.
    #[inline]
    pub(super) fn any_whole(heads: Bits) -> bool {
        heads & FIRST != 0
    }
}
