//! A quick look at a stretch of a text, which shows where no secret can start.
//!
//! Text full of escapes within escapes is slow to read exactly. So a stretch is first read backwards
//! with all that its escapes could stand for by their ends ([`super::endings`]): each may begin at any
//! introducer before its end, as long as every two bytes between could stand beside each other in an
//! escape. Starts may be seen where there are none; none is missed. The lattice reads what remains.

use super::decoded::Text;
use super::finding::{EndingId, Found, find_endings, finder};
use super::heads::{Heads, Lanes};
use super::kinds;

/// Bytes behind a stretch that are read to know what starts at its end.
const TAIL: usize = 96;

/// Characters that a byte can be.
#[derive(Clone, Copy)]
struct ByteStep {
    lanes: Lanes,
    /// All bits if it introduces an escape.
    opens: u64,
    kind: u16,
    /// [`kinds::OPEN`] if an escape may stand behind it whose digit it is.
    digit: u16,
}

/// Characters that an escape can be, by its ending.
#[derive(Clone, Copy)]
struct EndingStep {
    lanes: Lanes,
    /// Characters that it is, whatever follows.
    surely: u64,
    /// Kinds of bytes that may follow it within an escape.
    followed_by: u16,
    /// All bits if it may be a digit of another escape.
    digit: u16,
}

/// Steps of each byte and of each ending, for a set of secrets.
pub(super) struct Steps {
    bytes: Box<[ByteStep; 256]>,
    endings: Vec<EndingStep>,
    ends: u64,
}

impl Steps {
    pub(super) fn new(heads: &Heads) -> Self {
        let mut bytes = Box::new([NO_BYTE; 256]);
        for (step, byte) in bytes.iter_mut().zip(0..=u8::MAX) {
            *step = ByteStep {
                lanes: heads.lanes(byte),
                opens: if Text::is_introducer(byte) { u64::MAX } else { 0 },
                kind: kinds::of(byte),
                digit: if byte.is_ascii_hexdigit() { kinds::OPEN } else { 0 },
            };
        }
        let endings = finder().endings.iter().map(|ending| {
            let mut step = EndingStep {
                lanes: Lanes::default(),
                surely: if ending.is_number { heads.wide_lanes() } else { 0 },
                followed_by: ending.followed_by,
                digit: if ending.is_digit { u16::MAX } else { 0 },
            };
            for value in ending.values.iter() {
                let lanes = bytes.get(usize::from(value)).unwrap_or(&NO_BYTE).lanes;
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
    fn byte(&self, byte: u8) -> &ByteStep {
        // INVARIANT: there are as many as bytes.
        self.bytes.get(usize::from(byte)).unwrap_or(&NO_BYTE)
    }

    #[inline]
    fn ending(&self, id: EndingId) -> &EndingStep {
        // INVARIANT: there are as many as endings.
        self.endings.get(id.number()).unwrap_or(&ANY_ENDING)
    }
}

const NO_BYTE: ByteStep = ByteStep {
    lanes: Lanes { is: u64::MAX, skips: u64::MAX },
    opens: u64::MAX,
    kind: kinds::ALL,
    digit: kinds::OPEN,
};

const ANY_ENDING: EndingStep = EndingStep {
    lanes: Lanes { is: u64::MAX, skips: u64::MAX },
    surely: u64::MAX,
    followed_by: kinds::ALL,
    digit: u16::MAX,
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
    /// Knows no starts any more, but where it was and how long.
    pub(super) fn forget(&mut self) {
        self.start = self.sure;
        self.starts.clear();
    }

    /// Reports whether the starts from `at` on are known.
    #[inline]
    pub(super) fn knows(&self, at: usize) -> bool {
        self.start <= at && at < self.sure
    }

    /// Returns the number of starts that are known, but for those near the end, where an open end makes
    /// many.
    pub(super) fn starts(&self) -> usize {
        let near_end = self.end.saturating_sub(TAIL);
        self.starts.len() - self.starts.partition_point(|start| *start >= near_end)
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
    let mut before_digit = if open == 0 { 0 } else { u16::MAX };
    let mut next = kinds::ALL;
    // Each byte takes the same way, since none can be foreseen.
    for (at, (&byte, ending)) in bytes.iter().zip(found).enumerate().rev() {
        let raw = steps.byte(byte);
        let one = steps.ending(ending.one);
        let after = here >> 1 | Lanes::LAST;
        let mut new = one.lanes.is & after | one.lanes.skips & here | one.surely;
        let mut followed_by = one.followed_by | raw.digit & before_digit;
        let mut digit = one.digit;
        if ending.other != EndingId::NONE {
            for id in [ending.other, EndingId::ESCAPED] {
                let other = steps.ending(id);
                new |= other.lanes.is & after | other.lanes.skips & here | other.surely;
                followed_by |= other.followed_by;
            }
            digit = u16::MAX;
        }
        let goes_on = followed_by & next != 0;
        inside = inside & 0u64.wrapping_sub(u64::from(goes_on)) | new;
        before_digit = before_digit & 0u16.wrapping_sub(u16::from(goes_on)) | digit;
        here = raw.lanes.is & after | raw.lanes.skips & here | inside & raw.opens;
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
