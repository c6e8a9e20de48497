//! Shares of one agent in the things that all agents share: places among the calls in flight, refusals,
//! and bytes of the audit log.
//!
//! An agent that takes more than its part is refused, and nobody else is. The part of the body memory
//! is counted where bodies are read, see `proxy::memory`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::bucket::{Bucket, Rate};
use crate::firewall::agent::AgentId;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::time::Mono;
use crate::saturate::SaturatingFrom as _;

/// Seconds of the rate of refusals that an agent can save up.
const BURST_SECS: u64 = 4;

/// Bytes a second that the arguments of an agent's refused requests may add to the log; beyond it
/// they are written as length and hash. A second's worth can be saved up, so that any second has
/// at most twice as many.
const REFUSED_BYTES_PER_SEC: u64 = 1_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// Limits of one agent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls in flight over all agents.
    pub max_calls: u32,
    /// Percentage of the calls in flight that one agent may have.
    pub share_pct: f64,
    pub refusals_per_sec: u32,
    /// Bytes of records a second with their arguments in full; 0: no limit.
    pub log_bytes_per_sec: u64,
}

impl Default for Limits {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self { max_calls: 8_192, share_pct: 12.5, refusals_per_sec: 50, log_bytes_per_sec: 0 }
    }
}

/// The parts of all agents.
#[derive(Debug)]
pub(super) struct Shares {
    max_places: usize,
    refusals_per_sec: u32,
    refusals: Rate,
    refused_bytes: Rate,
    log_bytes: Option<Rate>,
    by_agent: DashMap<AgentId, Arc<Share>>,
}

/// The part of one agent.
#[derive(Debug, Default)]
pub(super) struct Share {
    places: AtomicUsize,
    refusals: Bucket,
    /// Records of refusals that are not the agent's fault, and so draw nothing.
    troubles: Bucket,
    refused_bytes: Bucket,
    log_bytes: Bucket,
}

/// Way in which a refusal of a known agent is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    ByItself,
    /// Counted together with the agent's other refusals of this code.
    Folded,
}

/// A part of `whole`, at least one.
pub fn part(whole: usize, percent: f64) -> usize {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a limit may be off by one in 2^53; the percentage is between 0 and 100"
    )]
    let part = (whole as f64 * percent / 100.0) as usize;
    part.max(1)
}

impl Shares {
    pub(super) fn new(limits: Limits) -> Self {
        let max_calls = usize::saturating_from(limits.max_calls);
        let log_bytes = limits.log_bytes_per_sec;
        Self {
            max_places: part(max_calls, limits.share_pct),
            refusals_per_sec: limits.refusals_per_sec,
            refusals: Rate::per_sec(limits.refusals_per_sec.into(), BURST_SECS),
            refused_bytes: Rate::per_sec(REFUSED_BYTES_PER_SEC, 1),
            log_bytes: (log_bytes > 0).then(|| Rate::per_sec(log_bytes, 1)),
            by_agent: DashMap::default(),
        }
    }

    /// Finds the part of an agent. The caller has seen that the agent is registered, so that there
    /// are no more parts than agents.
    pub(super) fn of(&self, agent: AgentId) -> Arc<Share> {
        if let Some(share) = self.by_agent.get(&agent) {
            return share.clone();
        }
        self.by_agent.entry(agent).or_default().clone()
    }

    /// Refuses while the agent's bucket of refusals is empty.
    pub(super) fn check_refusals(&self, share: &Share, now: Mono) -> Result<(), Denial> {
        let wait_ns = share.refusals.empty_for_ns(self.refusals, now);
        if wait_ns == 0 {
            return Ok(());
        }
        let denial = Denial::new(
            Code::TooManyRefusals,
            "too many of this agent's requests were refused: wait, then send only what it may do",
        );
        Err(denial
            .retry_after(wait_ns.div_ceil(SECOND_NS))
            .with("max_refusals_per_agent_per_sec", self.refusals_per_sec))
    }

    /// Takes a place among the calls in flight.
    pub(super) fn take_place(&self, share: &Arc<Share>) -> Result<PlaceInFlight, Denial> {
        let taken = share.places.fetch_add(1, Ordering::AcqRel);
        let place = PlaceInFlight { share: share.clone() };
        if taken < self.max_places { Ok(place) } else { Err(too_many_in_flight()) }
    }

    /// Counts a refusal of the agent.
    pub(super) fn refused(&self, share: &Share, code: Code, now: Mono) -> Recorded {
        if code == Code::TooManyRefusals {
            return Recorded::Folded;
        }
        if draws(code) {
            share.refusals.draw(self.refusals, 1, now);
            return Recorded::ByItself;
        }
        self.troubled(share, now)
    }

    /// Counts the end of a request that is nobody's refusal, as one whose client has left.
    pub(super) fn troubled(&self, share: &Share, now: Mono) -> Recorded {
        let own = share.troubles.take(self.refusals, now);
        if own { Recorded::ByItself } else { Recorded::Folded }
    }

    /// Charges the arguments of a refused request; false if they are too much for the log.
    pub(super) fn refused_bytes_fit(&self, share: &Share, bytes: usize, now: Mono) -> bool {
        charge(&share.refused_bytes, self.refused_bytes, bytes, now)
    }

    /// Charges the arguments of any request; false if they are too much for the log.
    pub(super) fn log_bytes_fit(&self, share: &Share, bytes: usize, now: Mono) -> bool {
        self.log_bytes.is_none_or(|rate| charge(&share.log_bytes, rate, bytes, now))
    }

    /// Forgets agents that have nothing in use and nothing owed.
    pub(super) fn sweep(&self, now: Mono) {
        self.by_agent.retain(|_, share| {
            // INVARIANT: a part is handed out under the lock that `retain` holds, so one that only
            // the map has cannot be in use.
            Arc::strong_count(share) > 1 || !share.is_full(now)
        });
    }
}

impl Share {
    fn is_full(&self, now: Mono) -> bool {
        let Self { places: _, refusals, troubles, refused_bytes, log_bytes } = self;
        [refusals, troubles, refused_bytes, log_bytes].iter().all(|bucket| bucket.is_full(now))
    }
}

/// A place among the calls in flight, given back when it is dropped.
#[derive(Debug)]
pub(super) struct PlaceInFlight {
    share: Arc<Share>,
}

impl Drop for PlaceInFlight {
    fn drop(&mut self) {
        self.share.places.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The refusal of an agent that has its whole part in use.
pub fn too_many_in_flight() -> Denial {
    Denial::new(
        Code::TooManyInFlight,
        "this agent has too much in flight: wait for some of its calls to end",
    )
    .retry_after(1)
}

fn charge(bucket: &Bucket, rate: Rate, bytes: usize, now: Mono) -> bool {
    let fits = bucket.empty_for_ns(rate, now) == 0;
    if fits {
        bucket.draw(rate, u64::saturating_from(bytes), now);
    }
    fits
}

/// Reports whether a refusal counts against its agent: not if the gateway or what is behind it
/// has failed.
fn draws(code: Code) -> bool {
    let own_limits = matches!(code, Code::TooManyRefusals | Code::TooManyInFlight);
    !own_limits && code.row().status < 500
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::agent::AgentId;

    fn shares() -> Shares {
        Shares::new(Limits { max_calls: 80, ..Limits::default() })
    }

    #[test]
    fn an_agent_has_its_part_of_the_places_and_gives_them_back() {
        let shares = shares();
        let share = shares.of(AgentId::random());
        let places: Vec<_> = (0..10).map(|_| shares.take_place(&share).unwrap()).collect();
        assert_eq!(shares.take_place(&share).unwrap_err().code, Code::TooManyInFlight);
        shares.take_place(&shares.of(AgentId::random())).unwrap();
        drop(places);
        shares.take_place(&share).unwrap();
    }

    #[test]
    fn what_is_not_the_agents_fault_draws_nothing() {
        let (shares, now) = (shares(), Mono(5));
        let share = shares.of(AgentId::random());
        for code in [
            Code::TooManyRefusals,
            Code::TooManyInFlight,
            Code::Overloaded,
            Code::StoreUnavailable,
            Code::AuditUnavailable,
            Code::InternalError,
            Code::UpstreamFailed,
        ] {
            for _ in 0..300 {
                shares.refused(&share, code, now);
            }
            shares.check_refusals(&share, now).unwrap();
        }
        for _ in 0..200 {
            shares.check_refusals(&share, now).unwrap();
            assert_eq!(shares.refused(&share, Code::PolicyDenied, now), Recorded::ByItself);
        }
        let denial = shares.check_refusals(&share, now).unwrap_err();
        assert_eq!((denial.code, denial.retry_after_secs), (Code::TooManyRefusals, Some(1)));
        shares.check_refusals(&share, Mono(20_005)).unwrap();
    }

    #[test]
    fn troubles_beyond_the_rate_are_folded() {
        let (shares, now) = (shares(), Mono(5));
        let share = shares.of(AgentId::random());
        let alone = (0..1_000)
            .filter(|_| shares.refused(&share, Code::TooManyInFlight, now) == Recorded::ByItself);
        assert_eq!(alone.count(), 200);
        assert_eq!(shares.refused(&share, Code::TooManyRefusals, now), Recorded::Folded);
    }

    #[test]
    fn a_swept_agent_has_nothing_owed_and_nothing_in_use() {
        let (shares, now) = (shares(), Mono(5));
        let (idle, busy, owing) = (AgentId::random(), AgentId::random(), AgentId::random());
        shares.of(idle);
        let _place = shares.take_place(&shares.of(busy)).unwrap();
        shares.refused(&shares.of(owing), Code::PolicyDenied, now);
        shares.sweep(now);
        assert_eq!(shares.by_agent.len(), 2);
        assert!(!shares.by_agent.contains_key(&idle));
        shares.sweep(Mono(10_000_000));
        assert_eq!(shares.by_agent.len(), 1);
    }

    #[test]
    fn arguments_beyond_the_rate_do_not_fit() {
        let shares = Shares::new(Limits { log_bytes_per_sec: 10_000, ..Limits::default() });
        let share = shares.of(AgentId::random());
        assert!(shares.log_bytes_fit(&share, 9_999, Mono(5)));
        assert!(shares.log_bytes_fit(&share, 9_999, Mono(5)));
        assert!(!shares.log_bytes_fit(&share, 1, Mono(5)));
        assert!(shares.log_bytes_fit(&share, 1, Mono(1_100_005)));
        let fitting =
            (0..10_000).filter(|_| shares.refused_bytes_fit(&share, 8_192, Mono(5))).count();
        assert_eq!(fitting, 123);
    }
}
