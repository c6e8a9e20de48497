//! The last 15 minutes in samples of five seconds, for the charts: bounded, and read from counters
//! that the gateway keeps anyway.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;

use crate::firewall::denial::Code;
use crate::firewall::time::Mono;
use crate::metrics::Totals;

/// Seconds between two samples.
pub(super) const EVERY_SECS: u64 = 5;
/// Samples that are kept: 15 minutes.
const KEPT: usize = 181;

/// Samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: Mutex<VecDeque<(Mono, Totals)>>,
}

/// Figures of the time between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Span {
    /// Seconds before now at which the span ended.
    pub(super) ago_secs: f64,
    pub(super) allowed_per_sec: f64,
    pub(super) refused_per_sec: f64,
    /// Arbiter's own share of a request, in microseconds; none if there was no request.
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
}

impl History {
    pub(super) fn add(&self, at: Mono, totals: Totals) {
        let mut samples = self.samples.lock();
        if samples.len() >= KEPT {
            samples.pop_front();
        }
        samples.push_back((at, totals));
    }

    /// Returns the time of the last sample.
    pub(super) fn last(&self) -> Option<Mono> {
        let samples = self.samples.lock();
        samples.back().map(|(at, _)| *at)
    }

    /// Returns the figures between samples, oldest first.
    pub(super) fn spans(&self) -> Vec<Span> {
        let samples = self.samples.lock();
        let Some((now, _)) = samples.back() else { return Vec::new() };
        let pairs = samples.iter().zip(samples.iter().skip(1));
        pairs.map(|(before, after)| span(before, after, *now)).collect()
    }

    /// Returns the refusals of each code over the whole time, the most frequent first.
    pub(super) fn refusals(&self) -> Vec<(&'static str, u64)> {
        let samples = self.samples.lock();
        let (Some((_, first)), Some((_, last))) = (samples.front(), samples.back()) else {
            return Vec::new();
        };
        let counts = first
            .denials
            .iter()
            .zip(&last.denials)
            .map(|(before, after)| after.saturating_sub(*before));
        // Several causes share a name.
        let mut by_name: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (code, count) in Code::ALL.iter().zip(counts).filter(|(_, count)| *count > 0) {
            *by_name.entry(code.name()).or_default() += count;
        }
        let mut found: Vec<_> = by_name.into_iter().collect();
        found.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        found
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for a chart")]
fn span(before: &(Mono, Totals), after: &(Mono, Totals), now: Mono) -> Span {
    let secs = (after.0.since(before.0) as f64 / 1e6).max(1e-3);
    let (before, at, after) = (&before.1, after.0, &after.1);
    let grown = |before: u64, after: u64| after.saturating_sub(before) as f64;
    let refused = grown(before.denied, after.denied) + grown(before.escalated, after.escalated);
    let counts = before.overhead.iter().zip(&after.overhead);
    let buckets: Vec<_> =
        counts.map(|((_, a), (bound, b))| (*bound, b.saturating_sub(*a))).collect();
    Span {
        ago_secs: now.since(at) as f64 / 1e6,
        allowed_per_sec: grown(before.allowed, after.allowed) / secs,
        refused_per_sec: refused / secs,
        p50_us: quantile(&buckets, 0.5),
        p99_us: quantile(&buckets, 0.99),
    }
}

/// Returns a quantile of cumulative counts in microseconds, linear within its bucket.
#[expect(clippy::cast_precision_loss, reason = "figures for a chart")]
fn quantile(buckets: &[(f64, u64)], q: f64) -> Option<f64> {
    let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
    let rank = q * all as f64;
    let (mut lower, mut below) = (0.0, 0);
    for (bound, count) in buckets {
        if *count as f64 >= rank {
            let within = (rank - below as f64) / (count.saturating_sub(below).max(1)) as f64;
            return Some((lower + (bound - lower) * within) * 1e6);
        }
        (lower, below) = (*bound, *count);
    }
    Some(lower * 1e6)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn totals(allowed: u64, denied: u64) -> Totals {
        let denials = vec![denied; Code::ALL.len()];
        let overhead = vec![(1e-5, allowed / 2), (1e-4, allowed)];
        Totals { allowed, denied, escalated: 0, denials, overhead }
    }

    #[test]
    fn rates_and_quantiles_are_of_the_time_between_samples() {
        let history = History::default();
        history.add(Mono(0), totals(0, 0));
        history.add(Mono(5_000_000), totals(100, 10));
        history.add(Mono(10_000_000), totals(100, 10));
        let spans = history.spans();
        assert_eq!((spans[0].allowed_per_sec, spans[0].refused_per_sec), (20.0, 2.0));
        assert_eq!(spans[0].p50_us.map(f64::round), Some(10.0));
        assert_eq!(spans[0].p99_us.map(f64::round), Some(98.0));
        assert_eq!((spans[1].allowed_per_sec, spans[1].p50_us), (0.0, None));
        assert_eq!((spans[0].ago_secs, spans[1].ago_secs), (5.0, 0.0));
        let refusals = history.refusals();
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(refusals.len(), names.len(), "one row for each name");
        let all: u64 = refusals.iter().map(|(_, count)| count).sum();
        assert_eq!(all, 10 * Code::ALL.len() as u64);
    }

    #[test]
    fn only_a_quarter_of_an_hour_is_kept() {
        let history = History::default();
        for n in 0..1_000 {
            history.add(Mono(n * EVERY_SECS * 1_000_000), Totals::default());
        }
        assert_eq!(history.spans().len(), 180);
        assert_eq!(history.last(), Some(Mono(999 * 5_000_000)));
    }
}
