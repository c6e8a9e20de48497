//! Text that repeats what was searched just before it, and is passed over.
//!
//! Runs of one escape or of padding are common, and a text made to be slow is often one piece over and
//! over. Comparing it with itself is far quicker than reading it.

use std::ops::Range;

/// Longest stretch whose repetitions are recognised.
const MOST_PERIOD: usize = 64;
/// Bytes that are compared at once to find them.
const SAME: usize = 16;

/// Returns the position up to which no secret starts, for text that repeats what stands in `free`.
///
/// No secret starts in `free`, which rests on the text up to `end` alone. So none starts where the same
/// text follows for as long.
pub(super) fn repeat_end(text: &[u8], free: Range<usize>, end: usize) -> Option<usize> {
    if free.len() < SAME {
        return None;
    }
    let here = text.get(free.start..)?;
    let head = here.first_chunk::<SAME>()?;
    let behind = here.get(1..=MOST_PERIOD.min(free.len()))?;
    let mut periods = memchr::memchr_iter(*head.first()?, behind).map(|n| n + 1);
    let period = periods.find(|period| chunk_at(here, *period) == Some(head))?;
    let repeat = text.get(free.start + period..)?;
    let mut same = 0;
    while let (Some(one), Some(other)) = (chunk_at(here, same), chunk_at(repeat, same))
        && one == other
    {
        same += SAME;
    }
    let sure = free.start + period + same;
    // What was looked at from the first position of the last period on.
    let looked_at = end - (free.end - period);
    sure.checked_sub(looked_at).filter(|further| *further > free.end)
}

fn chunk_at(text: &[u8], at: usize) -> Option<&[u8; SAME]> {
    text.get(at..)?.first_chunk()
}
