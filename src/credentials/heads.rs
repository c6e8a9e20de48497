//! Beginnings of forms, searched for all at once from the end of a text to its start.
//!
//! One bit stands for each of the first [`DEPTH`] characters of a form: it is set where the form
//! from that character on could follow in the text (shift-and, read backwards). Forms share
//! [`BUCKETS`] rows of bits, so that one word holds all. Several readings of a text are joined by
//! "or". So a start may be seen where there is none, since forms that share a row are mixed up; none
//! is missed. [`super::encodings`] confirms or refuses each start.

use super::decoded::Text;
use super::encodings::{Form, Kind, MOST_NOISE, NOISE};

/// Characters of a form that are looked at.
const DEPTH: usize = 8;
const BUCKETS: usize = 8;
const ROWS: usize = MOST_NOISE + 1;
/// The bits of the first and of the last character of each row.
const FIRST: u64 = 0x0101_0101_0101_0101;
const LAST: u64 = 0x8080_8080_8080_8080;

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

/// Characters that could stand at a position: at once, and behind one to
/// [`MOST_NOISE`] bytes of noise.
#[derive(Clone, Copy, Default)]
pub(super) struct Behind([u64; ROWS]);

impl From<u64> for Behind {
    fn from(row: u64) -> Self {
        Self([row; ROWS])
    }
}

impl Behind {
    pub(super) fn all(&self) -> u64 {
        self.0.iter().fold(0, |all, row| all | row)
    }
}

/// First characters of a set of forms.
pub(super) struct Heads {
    bytes: Box<[Fit; 256]>,
    /// Characters that no more text need follow.
    ends: u64,
    /// Characters that are the first byte of a character beyond ASCII.
    wide: u64,
}

#[derive(Clone, Copy, Default)]
struct Fit {
    /// Characters that the byte may be.
    is: u64,
    /// Characters before which the byte may be skipped.
    skips: u64,
}

impl Heads {
    pub(super) fn new(forms: &[Form]) -> Self {
        let mut heads = Self { bytes: Box::new([Fit::default(); 256]), ends: 0, wide: 0 };
        let mut rows = [Row::default(); BUCKETS];
        for form in forms {
            let mut best = (f64::INFINITY, 0);
            let classes = classes(form);
            for (number, row) in rows.iter().enumerate() {
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
            let bit = 1 << (row + at);
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

    /// Returns the characters that could stand behind the end of a text.
    pub(super) fn at_end(&self, complete: bool) -> u64 {
        if complete { self.ends } else { u64::MAX }
    }

    /// Returns the characters that could stand at `byte`, given those that could stand behind it.
    #[inline]
    pub(super) fn before(&self, byte: u8, after: u64, behind: &Behind) -> Behind {
        let mut all = Behind::default();
        self.add_before(byte, after, behind, &mut all);
        all
    }

    /// Adds the characters that could stand at `byte` to `all`.
    #[inline]
    pub(super) fn add_before(&self, byte: u8, after: u64, behind: &Behind, all: &mut Behind) {
        let fit = self.fit(byte);
        let [real, one, two, three, four] = &mut all.0;
        *real |= fit.is & (after >> 1 | LAST);
        if fit.skips != 0 {
            // What stands behind four bytes of noise is not skipped to again.
            let [none, once, twice, thrice, _] = behind.0;
            *one |= none & fit.skips;
            *two |= once & fit.skips;
            *three |= twice & fit.skips;
            *four |= thrice & fit.skips;
        }
    }

    /// Adds the characters that could stand at `c`, written by its number, to `all`.
    pub(super) fn add_before_char(&self, c: char, after: u64, behind: &Behind, all: &mut Behind) {
        let mut utf8 = [0; 4];
        c.encode_utf8(&mut utf8);
        let [first, ..] = utf8;
        let [real, ..] = &mut all.0;
        *real |= self.fit(first).is & (self.wide | self.ends);
        // Bytes that were taken for Latin-1.
        if let Ok(byte) = u8::try_from(c) {
            self.add_before(byte, after, behind, all);
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
    fn fit(&self, byte: u8) -> Fit {
        self.bytes.get(usize::from(byte)).copied().unwrap_or_default()
    }

    /// Reports whether a whole beginning is among `heads`.
    #[inline]
    pub(super) fn any_whole(heads: u64) -> bool {
        heads & FIRST != 0
    }
}
