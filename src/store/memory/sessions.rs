//! The sessions of the memory store: a session costs it little more than the order that its node holds anyway.

use std::sync::Arc;

use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::store::by_session::{BySession, Key, by_session};
use crate::store::{RecentCalls, StoredSession};

#[derive(Clone, Debug)]
pub(super) struct Sessions(BySession<Arc<WorkOrder>, Account>);

/// Mutable part of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) booked: u64,
    /// None of most sessions.
    end: Option<Box<End>>,
}

/// Parts of an account that a session gets when it is closed, or when its node stops.
#[derive(Clone, Debug, Default)]
struct End {
    closed_at: Option<Timestamp>,
    recent: Option<Vec<RecentCalls>>,
}

impl Sessions {
    pub(super) fn insert(&self, order: &Arc<WorkOrder>) {
        self.0.insert(Key(Arc::clone(order)), Account::default());
    }

    /// Changes the account of a session; `None` if there is no such session.
    pub(super) fn with<R>(
        &self,
        id: SessionId,
        step: impl FnOnce(&WorkOrder, &mut Account) -> R,
    ) -> Option<R> {
        let mut found = self.0.get_mut(&id)?;
        let (Key(order), account) = found.pair_mut();
        Some(step(order, account))
    }

    #[cfg(test)]
    pub(super) fn get(&self, id: SessionId) -> Option<StoredSession> {
        self.0.get(&id).map(|found| found.value().stored(&found.key().0))
    }

    /// Returns the sessions that had not ended by `cutoff`.
    pub(super) fn kept(&self, cutoff: Timestamp) -> Vec<StoredSession> {
        let all = self.0.iter();
        let kept = all.filter(|found| !found.value().ended_by(&found.key().0, cutoff));
        kept.map(|found| found.value().stored(&found.key().0)).collect()
    }

    /// Returns at most `limit` sessions that had ended by `cutoff`.
    pub(super) fn ended(&self, cutoff: Timestamp, limit: usize) -> Vec<SessionId> {
        let all = self.0.iter();
        let ended = all.filter(|found| found.value().ended_by(&found.key().0, cutoff));
        ended.map(|found| found.key().0.id).take(limit).collect()
    }

    /// Forgets a session that had ended by `cutoff`.
    pub(super) fn forget(&self, id: SessionId, cutoff: Timestamp) {
        self.0.remove_if(&id, |Key(order), account| account.ended_by(order, cutoff));
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self(by_session())
    }
}

impl Account {
    pub(super) fn is_closed(&self) -> bool {
        self.closed_at().is_some()
    }

    /// Closes the session, once.
    pub(super) fn close(&mut self, at: Timestamp, unused: u64) {
        let end = self.end.get_or_insert_default();
        if end.closed_at.is_none() {
            end.closed_at = Some(at);
            self.booked = self.booked.saturating_sub(unused);
        }
    }

    /// Sets the calls of the last rate window.
    pub(super) fn set_recent(&mut self, recent: Option<Vec<RecentCalls>>) {
        if recent.is_some() || self.end.is_some() {
            self.end.get_or_insert_default().recent = recent;
        }
    }

    fn closed_at(&self) -> Option<Timestamp> {
        self.end.as_ref().and_then(|end| end.closed_at)
    }

    fn ended_by(&self, order: &WorkOrder, cutoff: Timestamp) -> bool {
        self.closed_at().unwrap_or(order.expires_at) <= cutoff
    }

    fn stored(&self, order: &Arc<WorkOrder>) -> StoredSession {
        StoredSession {
            order: Arc::clone(order),
            booked: self.booked,
            closed_at: self.closed_at(),
            recent: self.end.as_ref().and_then(|end| end.recent.clone()),
        }
    }
}
