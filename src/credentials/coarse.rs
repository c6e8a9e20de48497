//! A quick look at a stretch of a text, which shows where no secret can start.
//!
//! Text full of escapes within escapes is slow to read exactly. So a stretch is first read backwards
//! with all that its escapes could stand for by their ends ([`super::endings`]): each may begin at any
//! introducer before its end, as long as every two bytes between could stand beside each other in an
//! escape. Starts may be seen where there are none; none is missed. The lattice reads what remains.

use super::decoded::Text;
use super::endings::{ESCAPED, Found, NONE, endings, find_endings, kind};
use super::heads::{Heads, Lanes};

/// Bytes behind a stretch that are read to know what starts at its end.
const TAIL: usize = 128;

/// Characters that a byte, or an escape by its ending, can be.
#[derive(Clone, Copy, Default)]
struct Transition {
    lanes: Lanes,
    /// Characters that it is, whatever follows.
    surely: u64,
    /// Kinds of bytes that may follow it within an escape.
    followed_by: u16,
    /// Its own kind.
    kind: u16,
    /// True if it may be a digit of another escape, or close one.
    is_digit: bool,
}

/// Steps of each byte and of each ending, for a set of secrets.
pub(super) struct Steps {
    bytes: Box<[Transition; 256]>,
    endings: Vec<Transition>,
    ends: u64,
}

impl Steps {
    pub(super) fn new(heads: &Heads) -> Self {
        let mut bytes = Box::new([Transition::default(); 256]);
        for (step, byte) in bytes.iter_mut().zip(0..=u8::MAX) {
            *step = Transition {
                lanes: heads.lanes(byte),
                kind: kind::of(byte),
                ..Transition::default()
            };
            step.is_digit = byte.is_ascii_hexdigit();
        }
        let endings = endings().all.iter().map(|ending| {
            let mut step = Transition {
                followed_by: ending.followed_by,
                is_digit: ending.is_digit,
                surely: if ending.is_number { heads.wide_lanes() } else { 0 },
                ..Transition::default()
            };
            for value in ending.values.iter() {
                let lanes = bytes.get(usize::from(value)).unwrap_or(&NO_STEP).lanes;
                step.lanes.is |= lanes.is;
                step.lanes.skips |= lanes.skips;
            }
            step
        });
        let endings = endings.collect();
        Self { bytes, endings, ends: heads.end_lanes() }
    }

    /// Returns what could stand behind the end of a text: characters of forms, and those that an escape
    /// which goes on there could be.
    fn behind(&self, complete: bool) -> (u64, u64) {
        if complete { (self.ends, 0) } else { (u64::MAX, u64::MAX) }
    }

    #[inline]
    fn byte(&self, byte: u8) -> &Transition {
        // INVARIANT: there are as many as bytes.
        self.bytes.get(usize::from(byte)).unwrap_or(&NO_STEP)
    }
}

const NO_STEP: Transition = Transition {
    lanes: Lanes { is: u64::MAX, skips: u64::MAX },
    surely: 0,
    followed_by: u16::MAX,
    kind: u16::MAX,
    is_digit: true,
};

/// A stretch that was looked at.
#[derive(Default)]
pub(super) struct Coarse {
    start: usize,
    /// Bytes that were asked for.
    pub span: usize,
    /// Up to here the starts are known.
    pub sure: usize,
    /// End of the text that was looked at.
    pub end: usize,
    /// Positions at which a secret could start, the last one first; those that were passed are gone.
    starts: Vec<usize>,
    found: Vec<Found>,
}

impl Coarse {
    /// Reports whether the starts from `at` on are known.
    #[inline]
    pub(super) fn knows(&self, at: usize) -> bool {
        self.start <= at && at < self.sure
    }

    /// Returns the number of starts that are known.
    pub(super) fn starts(&self) -> usize {
        self.starts.len()
    }

    /// The first start from `at` on, which never goes back, or the end of what is known.
    pub(super) fn next(&mut self, at: usize) -> usize {
        while self.starts.pop_if(|start| *start < at).is_some() {}
        self.starts.last().copied().unwrap_or(self.sure)
    }

    /// Looks at `text` from `start` on.
    pub(super) fn fill(&mut self, text: Text<'_>, steps: &Steps, start: usize, span: usize) {
        (self.start, self.span) = (start, span);
        self.end = (start + span + TAIL).min(text.bytes.len());
        let last = self.end == text.bytes.len();
        self.sure = if last { self.end } else { start + span };
        let bytes = text.bytes.get(start..self.end).unwrap_or_default();
        find_endings(bytes, &mut self.found);
        self.starts.clear();
        let (starts, sure) = (&mut self.starts, self.sure - start);
        pass(bytes, &self.found, steps, steps.behind(last && text.complete), |at, here| {
            if here & Lanes::FIRST != 0 && at < sure {
                starts.push(start + at);
            }
        });
    }
}

/// Goes through `bytes` from their end on, behind which stand the characters of forms `end`, and `open`
/// within an escape. `each` takes each position and the characters that could stand there.
fn pass(
    bytes: &[u8],
    found: &[Found],
    steps: &Steps,
    (end, open): (u64, u64),
    mut each: impl FnMut(usize, u64),
) {
    let (mut here, mut inside) = (end, open);
    let mut before_digit = open != 0;
    let mut next = kind::ALL;
    for (at, (&byte, ending)) in bytes.iter().zip(found).enumerate().rev() {
        let raw = steps.byte(byte);
        let one = steps.endings.get(usize::from(ending.one)).unwrap_or(&NO_STEP);
        let after = here >> 1 | Lanes::LAST;
        let mut new = one.lanes.is & after | one.lanes.skips & here | one.surely;
        let mut followed_by = one.followed_by;
        let mut is_digit = one.is_digit;
        if ending.other != NONE {
            for id in [ending.other, ESCAPED] {
                let other = steps.endings.get(usize::from(id)).unwrap_or(&NO_STEP);
                new |= other.lanes.is & after | other.lanes.skips & here | other.surely;
                followed_by |= other.followed_by;
            }
            is_digit = true;
        }
        if raw.is_digit && before_digit {
            followed_by |= kind::OPEN;
        }
        let goes_on = followed_by & next != 0;
        inside = if goes_on { inside } else { 0 } | new;
        before_digit = goes_on && before_digit || is_digit;
        here = raw.lanes.is & after | raw.lanes.skips & here;
        if Text::is_introducer(byte) {
            here |= inside;
        }
        each(at, here);
        next = raw.kind;
    }
}

/// The characters of forms that could stand at each position of `text`, the last position first.
#[cfg(test)]
pub(super) fn characters(text: Text<'_>, heads: &Heads) -> Vec<u64> {
    let (steps, mut found, mut all) = (Steps::new(heads), Vec::new(), Vec::new());
    find_endings(text.bytes, &mut found);
    pass(text.bytes, &found, &steps, steps.behind(text.complete), |_, here| all.push(here));
    all
}
