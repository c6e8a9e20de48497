//! Choice of the requests that are traced.
//!
//! Spans are a cost that an agent could run up: it chooses the flag of its parent span, and as many
//! requests as it likes. A request without a parent is sampled by a number of the gateway's own, not
//! by a trace id that an agent could choose, and a limit holds for all together.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::firewall::time::Mono;
use crate::mcp::trace::TraceContext;

/// Decision about a request's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Sampled,
    Unsampled,
    /// To be sampled, but that the limit of this second is reached.
    OverLimit,
}

#[derive(Debug)]
pub(super) struct Sampler {
    /// Random numbers up to this one are sampled; none if no request is.
    up_to: Option<u64>,
    per_sec: u32,
    /// The second of the last sample, and in the lower half the samples of that second.
    window: AtomicU64,
}

impl Sampler {
    pub(super) fn new(ratio: f64, per_sec: u32) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a ratio from 0 to 1 of the whole range, which the cast saturates"
        )]
        let up_to = (ratio > 0.0).then_some((ratio * u64::MAX as f64) as u64);
        Self { up_to, per_sec, window: AtomicU64::new(0) }
    }

    /// Follows the parent's choice; without a parent, the ratio.
    pub(super) fn choose(&self, parent: Option<&TraceContext>, random: u64, now: Mono) -> Choice {
        let wanted = match parent {
            Some(parent) => parent.sampled,
            None => self.up_to.is_some_and(|up_to| random <= up_to),
        };
        if !wanted {
            Choice::Unsampled
        } else if self.has_room(now) {
            Choice::Sampled
        } else {
            Choice::OverLimit
        }
    }

    /// Counts a sample, unless this second has all that it may.
    fn has_room(&self, now: Mono) -> bool {
        // Seconds of more than a century fit; what the mask leaves out is never reached.
        let second = (now.0 / 1_000_000) & u64::from(u32::MAX);
        let counted = self.window.fetch_update(Ordering::AcqRel, Ordering::Acquire, |window| {
            let used = if window >> 32 == second { window & u64::from(u32::MAX) } else { 0 };
            (used < u64::from(self.per_sec)).then(|| (second << 32) | used.saturating_add(1))
        });
        counted.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(sampled: bool) -> TraceContext {
        TraceContext { trace: [1; 16], parent: [2; 8], sampled }
    }

    #[test]
    fn a_parent_decides_and_without_one_the_ratio() {
        for (ratio, random, expected) in [
            (1.0, u64::MAX, Choice::Sampled),
            (1.0, 0, Choice::Sampled),
            (0.0, 0, Choice::Unsampled),
            (0.5, u64::MAX / 2 - 1_000, Choice::Sampled),
            (0.5, u64::MAX / 2 + 10_000, Choice::Unsampled),
        ] {
            let sampler = Sampler::new(ratio, 10);
            assert_eq!(sampler.choose(None, random, Mono(0)), expected, "{ratio} {random}");
            assert_eq!(sampler.choose(Some(&parent(true)), random, Mono(0)), Choice::Sampled);
            assert_eq!(sampler.choose(Some(&parent(false)), random, Mono(0)), Choice::Unsampled);
        }
    }

    #[test]
    fn no_second_has_more_than_the_limit_however_many_parents_ask() {
        let sampler = Sampler::new(1.0, 3);
        let sampled = |at: u64, context: Option<&TraceContext>| {
            let asked = (0..10).map(|n| sampler.choose(context, n, Mono(at)));
            asked.filter(|choice| *choice == Choice::Sampled).count()
        };
        assert_eq!(sampled(0, Some(&parent(true))), 3);
        assert_eq!(sampled(999_999, None), 0);
        assert_eq!(sampled(1_000_000, None), 3);
        assert_eq!(sampled(7_500_000, Some(&parent(true))), 3);
        assert_eq!(sampler.choose(Some(&parent(true)), 0, Mono(7_500_000)), Choice::OverLimit);
        assert_eq!(sampler.choose(Some(&parent(false)), 0, Mono(7_500_000)), Choice::Unsampled);
    }
}
