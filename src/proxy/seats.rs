//! Places for connections: no more than there are descriptors for, and the least useful one goes
//! first when they run out.
//!
//! A connection is busy from the end of a request's head to the end of its answer, and idle else.
//! A new connection that finds every place taken gets that of an idle one: first of those that have
//! never sent a whole head, the oldest first, then of the others, the longest idle first. So idle
//! connections keep nobody out; only while all are busy is a new one refused.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::firewall::time::Mono;
use crate::metrics::{Closed, Metrics};

/// Divides the places: this part of them is cleared at once, so that looking for idle connections
/// costs a newcomer little.
const CLEARED_PART: usize = 32;

/// The places of one listener.
pub struct Seats {
    max: usize,
    /// 0: no limit.
    max_per_source: usize,
    metrics: Arc<Metrics>,
    state: Mutex<Occupancy>,
    refused: Refused,
}

#[derive(Default)]
struct Occupancy {
    next: u64,
    taken: HashMap<u64, Arc<Seat>>,
    by_source: HashMap<IpAddr, usize>,
    /// Connections that were asked to go and have not gone yet.
    leaving: usize,
}

/// The place of one connection; free again when this is dropped.
pub struct Taken {
    seats: Arc<Seats>,
    id: u64,
    source: IpAddr,
    seat: Arc<Seat>,
}

/// State that a connection and the others share.
pub struct Seat {
    /// Since when it is idle; 0 while it is busy.
    idle_since: AtomicU64,
    /// Set once a whole head has come.
    proven: AtomicBool,
    asked_to_leave: AtomicBool,
    leave: Notify,
}

impl Seats {
    pub fn new(max: usize, max_per_source: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { max, max_per_source, metrics, state, refused: Refused::default() })
    }

    /// Takes a place for a connection that has just come; none if it cannot be kept.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr, now: Mono) -> Option<Taken> {
        let source = source(peer);
        let mut state = self.state.lock();
        let of_source = state.by_source.get(&source).copied().unwrap_or(0);
        let refused = if self.max_per_source > 0 && of_source >= self.max_per_source {
            Some(Closed::SourceFull)
        } else if self.has_room(&mut state) {
            None
        } else {
            Some(Closed::Full)
        };
        if let Some(why) = refused {
            drop(state);
            self.metrics.connection_closed(why);
            self.refused.warn(now, self.max);
            return None;
        }
        let id = state.next;
        state.next += 1;
        let seat = Arc::new(Seat {
            idle_since: AtomicU64::new(now.0.max(1)),
            proven: AtomicBool::default(),
            asked_to_leave: AtomicBool::default(),
            leave: Notify::default(),
        });
        state.taken.insert(id, seat.clone());
        *state.by_source.entry(source).or_default() += 1;
        self.metrics.connections(state.taken.len());
        drop(state);
        Some(Taken { seats: self.clone(), id, source, seat })
    }

    /// Makes room if there is none, by asking idle connections to leave.
    fn has_room(&self, state: &mut Occupancy) -> bool {
        if state.taken.len().saturating_sub(state.leaving) < self.max {
            return true;
        }
        let mut idle: Vec<_> =
            state.taken.values().filter_map(|seat| Some((seat.rank()?, seat))).collect();
        let count = (self.max / CLEARED_PART).max(1).min(idle.len());
        if count == 0 {
            return false;
        }
        if count < idle.len() {
            idle.select_nth_unstable_by_key(count, |(rank, _)| *rank);
        }
        let mut asked = 0;
        for (_, seat) in idle.iter().take(count) {
            seat.asked_to_leave.store(true, Ordering::Release);
            seat.leave.notify_one();
            self.metrics.connection_closed(Closed::ForAnother);
            asked += 1;
        }
        state.leaving += asked;
        true
    }
}

impl Taken {
    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut state = self.seats.state.lock();
        if let Some(seat) = state.taken.remove(&self.id)
            && seat.asked_to_leave.load(Ordering::Acquire)
        {
            state.leaving = state.leaving.saturating_sub(1);
        }
        if let Some(of_source) = state.by_source.get_mut(&self.source) {
            *of_source = of_source.saturating_sub(1);
            if *of_source == 0 {
                state.by_source.remove(&self.source);
            }
        }
        self.seats.metrics.connections(state.taken.len());
    }
}

impl Seat {
    /// Order in which idle connections leave; none for a busy one, or one that was asked already.
    fn rank(&self) -> Option<(bool, u64)> {
        let since = self.idle_since.load(Ordering::Acquire);
        let stays = since == 0 || self.asked_to_leave.load(Ordering::Acquire);
        (!stays).then(|| (self.proven.load(Ordering::Acquire), since))
    }

    /// Notes that a whole head has come.
    pub(super) fn busy(&self) {
        self.proven.store(true, Ordering::Release);
        self.idle_since.store(0, Ordering::Release);
    }

    pub(super) fn idle(&self, now: Mono) {
        self.idle_since.store(now.0.max(1), Ordering::Release);
    }

    /// Resolves when the place is wanted for another connection.
    pub(super) async fn wanted(&self) {
        self.leave.notified().await;
    }
}

/// Connections that were refused, and when this was last logged.
#[derive(Default)]
struct Refused {
    count: AtomicU64,
    logged: Mutex<Option<Mono>>,
}

impl Refused {
    /// Warns at most once a second.
    fn warn(&self, now: Mono, max: usize) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut logged = self.logged.lock();
        if logged.is_none_or(|at| now.since(at) >= 1_000_000) {
            *logged = Some(now);
            let refused = self.count.swap(0, Ordering::Relaxed);
            tracing::warn!(refused, max, "connections refused: every place is busy");
        }
    }
}

/// The address that connections are counted under: of IPv6 the network that one customer has.
fn source(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn seats(max: usize, per_source: usize) -> Arc<Seats> {
        Seats::new(max, per_source, Arc::new(Metrics::new()))
    }

    fn asked(taken: &Taken) -> bool {
        taken.seat.asked_to_leave.load(Ordering::SeqCst)
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_that_has_sent_nothing() {
        let seats = seats(3, 0);
        let known = seats.take(HERE, Mono(1)).unwrap();
        known.seat().busy();
        known.seat().idle(Mono(2));
        let silent = [3, 4].map(|at| seats.take(HERE, Mono(at)).unwrap());
        let newcomer = seats.take(HERE, Mono(5)).unwrap();
        assert_eq!((asked(&silent[0]), asked(&silent[1]), asked(&known)), (true, false, false));
        newcomer.seat().busy();
        let next = seats.take(HERE, Mono(6)).unwrap();
        next.seat().busy();
        assert!(asked(&silent[1]) && !asked(&known));
        // Now only those are idle that are known.
        let last = seats.take(HERE, Mono(7)).unwrap();
        last.seat().busy();
        assert!(asked(&known));
    }

    #[test]
    fn while_all_are_busy_a_newcomer_is_refused() {
        let seats = seats(2, 0);
        let busy = [1, 2].map(|at| seats.take(HERE, Mono(at)).unwrap());
        for taken in &busy {
            taken.seat().busy();
        }
        assert!(seats.take(HERE, Mono(3)).is_none());
        drop(busy);
        assert!(seats.take(HERE, Mono(4)).is_some());
        assert!(seats.state.lock().taken.is_empty() && seats.state.lock().by_source.is_empty());
    }

    #[test]
    fn one_source_has_its_own_limit() {
        let seats = seats(100, 2);
        let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
        let _first = seats.take(v6("2001:db8::1"), Mono(1)).unwrap();
        let second = seats.take(v6("2001:db8::2"), Mono(1)).unwrap();
        assert!(seats.take(v6("2001:db8::3"), Mono(1)).is_none());
        assert!(seats.take(v6("2001:db8:0:1::3"), Mono(1)).is_some());
        drop(second);
        assert!(seats.take(v6("2001:db8::3"), Mono(1)).is_some());
    }
}
