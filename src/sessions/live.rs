//! One live session: its work order, and its usage under a lock of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;

use crate::firewall::recent::Recent;
use crate::firewall::session::{Status, Usage, WorkOrder};
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::mcp::continued::Needs;
use crate::saturate::SaturatingFrom as _;
use crate::store::{Booked, Booking, RecentCalls, Settlement, StoredSession};

/// Divisor of the budget that gives the largest lease: a crash loses no more than one.
const BLOCKS_IN_A_BUDGET: u64 = 50;

/// Mark that a client has declared what it answers, which may be nothing.
const DECLARED: u8 = 0x80;

/// A session as this node serves it.
#[derive(Debug)]
pub struct Live {
    pub order: Arc<WorkOrder>,
    /// Time of expiry on this run's clock.
    pub(super) deadline: Mono,
    /// The ledger says that it has expired, whatever this node's clocks say.
    ended: AtomicBool,
    usage: Mutex<Usage>,
    /// True once a client of this session has declared on this node that it shows applications.
    has_apps: AtomicBool,
    /// True once a client of this session has declared on this node that it opens pages.
    opens_urls: AtomicBool,
    /// Kinds of question that clients of this session have declared on this node to answer, with [`DECLARED`]
    /// once one has.
    answers: AtomicU8,
}

impl Live {
    /// A session that was opened just now, here or on another node.
    pub(super) fn of(order: Arc<WorkOrder>, shared: bool, now: Now) -> Self {
        let deadline = now.mono_at(order.expires_at);
        let usage = Usage { shared: shared.then(Box::default), ..Usage::default() };
        Self {
            order,
            deadline,
            ended: AtomicBool::new(false),
            usage: Mutex::new(usage),
            has_apps: AtomicBool::default(),
            opens_urls: AtomicBool::default(),
            answers: AtomicU8::default(),
        }
    }

    /// A session of an earlier run. Booked calls count as made. The times of its last calls are known
    /// after a clean stop; else a rate limit counts as spent just now, so that no window that reaches
    /// back into the earlier run holds too many.
    pub(super) fn load(stored: StoredSession, shared: bool, window_secs: u64, now: Now) -> Self {
        let mut recent = Recent::default();
        if let Some(limit) = stored.order.rate_limit.filter(|_| !shared) {
            if let Some(calls) = stored.recent {
                recall(&mut recent, calls, window_secs, now);
            } else {
                let spent = u64::from(limit).min(stored.booked);
                recent.push(now.mono, u32::saturating_from(spent));
            }
        }
        let usage = Usage {
            calls_made: stored.booked,
            booked: stored.booked,
            recent,
            closed: stored.closed_at.is_some(),
            shared: shared.then(Box::default),
        };
        let deadline = now.mono_at(stored.order.expires_at);
        let (order, ended) = (stored.order, AtomicBool::new(false));
        Self {
            order,
            deadline,
            ended,
            usage: Mutex::new(usage),
            has_apps: AtomicBool::default(),
            opens_urls: AtomicBool::default(),
            answers: AtomicU8::default(),
        }
    }

    /// Looks at the usage, or changes it, under the session's lock. Keep it short.
    pub fn with<R>(&self, step: impl FnOnce(&mut Usage) -> R) -> R {
        // Steps change the usage last and at once, so a lock that a panic left is as good as any.
        step(&mut self.usage.lock())
    }

    /// Returns when the session expires, on this run's clock: by the earlier of both clocks, since the
    /// monotonic one stops while the machine is suspended, and at once if the ledger says so.
    pub fn ends(&self, now: Now) -> Mono {
        if self.ended.load(Ordering::Relaxed) {
            return Mono(0);
        }
        self.deadline.min(now.mono_at(self.order.expires_at))
    }

    pub(super) fn end_by_ledger(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.with(|usage| usage.closed)
    }

    /// Notes if the client that begins opens pages for a person.
    pub fn declare_urls(&self, opened: bool) {
        self.opens_urls.store(opened, Ordering::Release);
    }

    pub fn opens_urls(&self) -> bool {
        self.opens_urls.load(Ordering::Acquire)
    }

    /// Notes the questions that a client which begins declares to answer. Several clients can share a
    /// session, so none takes back what another one has declared.
    pub fn declare_answers(&self, answers: Needs) {
        self.answers.fetch_or(answers.bits() | DECLARED, Ordering::AcqRel);
    }

    /// Returns the questions that the clients of this session answer; none if none has declared any here.
    pub fn answers(&self) -> Option<Needs> {
        let bits = self.answers.load(Ordering::Acquire);
        (bits & DECLARED != 0).then(|| Needs::of_bits(bits & !DECLARED))
    }

    /// Notes what a client declared when it began.
    pub fn declare_apps(&self, shown: bool) {
        self.has_apps.store(shown, Ordering::Release);
    }

    pub fn has_apps(&self) -> bool {
        self.has_apps.load(Ordering::Acquire)
    }

    pub fn status(&self, now: Now) -> Status {
        if self.with(|usage| usage.closed) {
            Status::Closed
        } else if self.ends(now) <= now.mono {
            Status::Expired
        } else {
            Status::Active
        }
    }

    /// Returns the booking needed to count `price`; none if enough is in hand, if the budget cannot
    /// cover the price, or if the session is closed.
    pub(super) fn booking(&self, price: u64, window_us: u64, now: Mono) -> Option<Booking> {
        let budget = self.order.call_budget;
        self.with(|usage| {
            let wanted = usage.calls_made.checked_add(price)?;
            if usage.closed || (wanted > budget && !usage.may_regain(now)) {
                return None;
            }
            let unused = usage.booked.saturating_sub(usage.calls_made);
            let least = price.saturating_sub(unused);
            let block = (budget / BLOCKS_IN_A_BUDGET).saturating_sub(unused).max(least);
            let most = if least == 0 { 0 } else { block };
            let limit = self.order.rate_limit;
            let rate = limit.and_then(|limit| {
                usage.shared.as_deref_mut()?.rate_booking(limit, window_us, price, now)
            });
            (least > 0 || rate.is_some()).then_some(Booking {
                id: self.order.id,
                least,
                most,
                unused,
                rate,
            })
        })
    }

    /// Returns a booking of nothing, whose answer reports the number booked by all.
    pub(super) fn look(&self) -> Booking {
        let unused = self.with(|usage| usage.booked.saturating_sub(usage.calls_made));
        Booking { id: self.order.id, least: 0, most: 0, unused, rate: None }
    }

    /// Takes over what the store granted to a booking of `asked_at`. Calls that are booked there
    /// and not held unused here were made: here, elsewhere, or lost with an answer.
    pub(super) fn receive(&self, booked: Booked, asked_at: Mono, now: Mono) {
        self.with(|usage| {
            usage.closed |= booked.closed;
            let unused = usage.booked.saturating_sub(usage.calls_made);
            let unused = unused.saturating_add(booked.granted);
            usage.booked = booked.total;
            usage.calls_made = booked.total.saturating_sub(unused);
            if let Some((shared, rate)) = usage.shared.as_deref_mut().zip(booked.rate) {
                shared.receive(rate, asked_at, now);
            }
        });
    }

    /// Does not ask the ledger for more of a budget that is used up until then.
    pub(super) fn believe_spent(&self, until: Mono) {
        self.with(|usage| {
            if let Some(shared) = &mut usage.shared {
                shared.calls_refused_until = until;
            }
        });
    }

    /// Lets go of what is booked and not counted; says how much that is.
    pub(super) fn give_back(&self) -> u64 {
        self.with(|usage| {
            let unused = usage.booked.saturating_sub(usage.calls_made);
            usage.booked = usage.calls_made;
            unused
        })
    }

    /// Lets go of all that is in hand, calls and permits, if that is anything.
    pub(super) fn let_go(&self, now: Mono) -> Option<Settlement> {
        let unused = self.give_back();
        let rate = self.with(|usage| usage.shared.as_deref_mut()?.report(now));
        let nothing = unused == 0 && rate.is_none();
        (!nothing).then(|| Settlement { id: self.order.id, unused, recent: None, rate })
    }

    /// Returns the record that a clean stop stores for this session, if any.
    pub(super) fn settle(&self, window_secs: u64, now: Now) -> Option<Settlement> {
        if self.with(|usage| usage.shared.is_some()) {
            return self.let_go(now.mono);
        }
        let unused = self.give_back();
        let rate_limited = self.order.rate_limit.is_some() && self.deadline > now.mono;
        let recent = self.with(|usage| {
            let used = rate_limited && !usage.closed && usage.calls_made > 0;
            used.then(|| wall_times(&usage.recent, window_secs, now))
        });
        let nothing_to_say = unused == 0 && recent.is_none();
        (!nothing_to_say).then(|| Settlement { id: self.order.id, unused, recent, rate: None })
    }
}

/// Remembers call times of an earlier run. Times before this run's clock began are remembered at
/// its beginning, and times that seem to lie ahead (the wall clock was set back) as of now: both
/// later than they were, so that no window holds too many.
fn recall(recent: &mut Recent, mut calls: Vec<RecentCalls>, window_secs: u64, now: Now) {
    calls.sort_by_key(|call| call.at);
    for call in calls.into_iter().filter(|call| call.at.plus_secs(window_secs) > now.wall) {
        recent.push(now.mono_at(call.at).min(now.mono), call.count);
    }
}

fn wall_times(recent: &Recent, window_secs: u64, now: Now) -> Vec<RecentCalls> {
    let in_window = recent.iter().filter(|(at, _)| at.plus_secs(window_secs) > now.mono);
    in_window
        .map(|(at, count)| {
            let ago_us = i64::saturating_from(now.mono.since(at));
            RecentCalls { at: Timestamp(now.wall.0.saturating_sub(ago_us)), count }
        })
        .collect()
}
