//! One session's account, as every shared ledger keeps it: the model that Redis is held against, and
//! the ledger of tests that run several nodes in one process.

use std::collections::BTreeMap;

use super::{PERMIT_US, PERMITS_IN_A_WINDOW, RATE_BLOCKS, share};
use crate::store::{Booked, Booking, NodeName, RateBooked, RateBooking, RateUse};

/// Time for which a permit of this window may be used.
fn good_for_us(window_us: u64) -> u64 {
    (window_us / PERMITS_IN_A_WINDOW).min(PERMIT_US)
}

/// Bookings of one session, and the holders of its permits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Account {
    booked: u64,
    held: BTreeMap<NodeName, u64>,
    permits: Vec<Permits>,
    granted_before: u64,
}

/// Permits granted at once to one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Permits {
    lease: u64,
    node: NodeName,
    count: u64,
    /// The last instant at which they were or will be used, on the ledger's clock.
    last_us: u64,
    /// Their node has not yet said what became of them.
    open: bool,
}

impl Account {
    pub(crate) fn booked(&self) -> u64 {
        self.booked
    }

    /// Grants calls, permits, both or neither.
    pub(crate) fn book(
        &mut self,
        node: &NodeName,
        budget: u64,
        asked: &Booking,
        now_us: u64,
        alive: impl Fn(&NodeName) -> bool,
    ) -> Booked {
        let mut booked = Booked::alone(0, 0);
        if let Some(rate) = &asked.rate {
            self.used(node, rate.before, now_us);
        }
        let remaining = budget.saturating_sub(self.booked);
        let granted = share(asked.least, asked.most, remaining);
        if asked.least == 0 || granted > 0 {
            booked.rate = asked.rate.as_ref().map(|rate| self.permit(node, rate, now_us));
            if booked.rate.is_none_or(|rate| rate.granted > 0) {
                self.booked = self.booked.saturating_add(granted);
                booked.granted = granted;
            }
        } else {
            let others = self.held.iter().filter(|(holder, _)| *holder != node && alive(holder));
            booked.elsewhere = others.fold(0, |sum, (_, held)| sum.saturating_add(*held));
        }
        self.hold(node, asked.unused.saturating_add(booked.granted));
        booked.total = self.booked;
        booked
    }

    /// Takes back what a node did not use. Never more than it holds, so that twice is once: unless the
    /// node has booked again in between, which is why no store sends anything a second time.
    pub(crate) fn give_back(
        &mut self,
        node: &NodeName,
        unused: u64,
        rate: Option<RateUse>,
        now_us: u64,
    ) {
        if rate.is_some() {
            self.used(node, rate, now_us);
        }
        let held = self.held.get(node).copied().unwrap_or(0);
        self.booked = self.booked.saturating_sub(unused.min(held));
        self.hold(node, 0);
    }

    fn hold(&mut self, node: &NodeName, calls: u64) {
        if calls == 0 {
            self.held.remove(node);
        } else {
            self.held.insert(node.clone(), calls);
        }
    }

    /// Takes in what became of the permits that a node was given before.
    fn used(&mut self, node: &NodeName, before: Option<RateUse>, now_us: u64) {
        let Some(before) = before else { return };
        for permits in
            self.permits.iter_mut().filter(|p| p.open && p.lease == before.lease && p.node == *node)
        {
            permits.open = false;
            permits.count = permits.count.min(before.used);
            permits.last_us = permits.last_us.min(now_us.saturating_sub(before.ago_us));
        }
        self.permits.retain(|permits| permits.count > 0);
    }

    fn permit(&mut self, node: &NodeName, asked: &RateBooking, now_us: u64) -> RateBooked {
        self.permits.retain(|p| p.last_us.saturating_add(asked.window_us) > now_us);
        let counted = self.permits.iter().fold(0_u64, |sum, p| sum.saturating_add(p.count));
        let room = u64::from(asked.limit).saturating_sub(counted);
        let most = u64::from(asked.limit) / RATE_BLOCKS;
        let granted = if asked.least == 0 { 0 } else { share(asked.least, most, room) };
        if granted == 0 {
            let wait_us = self.wait_us(asked, counted, now_us);
            return RateBooked { lease: 0, granted: 0, good_for_us: 0, wait_us };
        }
        let good_for_us = good_for_us(asked.window_us);
        self.granted_before += 1;
        let lease = self.granted_before;
        self.permits.push(Permits {
            lease,
            node: node.clone(),
            count: granted,
            last_us: now_us.saturating_add(good_for_us),
            open: true,
        });
        RateBooked { lease, granted, good_for_us, wait_us: 0 }
    }

    /// Returns the time until enough permits have left the window, if none is returned.
    fn wait_us(&self, asked: &RateBooking, counted: u64, now_us: u64) -> u64 {
        let mut over = counted.saturating_add(asked.least).saturating_sub(u64::from(asked.limit));
        let mut permits: Vec<_> = self.permits.iter().map(|p| (p.last_us, p.count)).collect();
        permits.sort_unstable();
        for (last_us, count) in permits {
            over = over.saturating_sub(count);
            if over == 0 {
                return last_us.saturating_add(asked.window_us).saturating_sub(now_us);
            }
        }
        asked.window_us
    }
}
