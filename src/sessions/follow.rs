//! Changes of sessions by other nodes, applied here; and sessions of other nodes, fetched when
//! needed.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Live, RETENTION_SECS, Sessions, before};
use crate::clock::Clock;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Now;
use crate::store::{StoreError, StoredSession};

impl Sessions {
    /// A session by its id: one that another node has opened a moment ago is looked up in the store.
    pub async fn find(&self, id: SessionId, now: Now) -> Result<Option<Arc<Live>>, StoreError> {
        if let Some(live) = self.get(id) {
            return Ok(Some(live));
        }
        if !self.inner.store.is_shared() {
            return Ok(None);
        }
        let _turn = self.inner.finding.acquire().await.map_err(|_closed| StoreError::Stopped)?;
        if let Some(live) = self.get(id) {
            return Ok(Some(live));
        }
        let cutoff = before(now.wall, RETENTION_SECS);
        let stored = self.inner.store.session(id).await?;
        let known = stored.filter(|s| s.closed_at.unwrap_or(s.order.expires_at) > cutoff);
        Ok(known.map(|stored| self.take_in(stored, now)))
    }

    /// Another node has opened a session.
    pub fn opened_elsewhere(&self, order: &Arc<WorkOrder>, now: Now) {
        let mut order = Arc::clone(order);
        self.inner.same.share(&mut order);
        self.inner.insert(Live::of(order, true, now), &mut self.inner.index());
    }

    /// Another node has closed a session.
    pub fn closed_elsewhere(&self, id: SessionId, now: Now) {
        if let Some(live) = self.get(id) {
            self.inner.end(&live, now.mono);
        }
    }

    /// Another node needs what this one holds of a session and does not use.
    pub fn wanted_elsewhere(self: &Arc<Self>, id: SessionId, clock: &Clock) {
        let (sessions, clock) = (Arc::clone(self), clock.clone());
        tokio::spawn(async move { sessions.give_back(id, &clock).await });
    }

    /// Takes in everything anew, because changes were missed. What the store does not know any more
    /// is closed.
    pub async fn reload(&self, now: Now) -> Result<(), StoreError> {
        // Those were in the store before it is asked; later ones may come in meanwhile.
        let mut lost: HashSet<SessionId> =
            self.inner.live.all().iter().map(|live| live.order.id).collect();
        for stored in self.inner.store.sessions(before(now.wall, RETENTION_SECS)).await? {
            lost.remove(&stored.order.id);
            self.take_in(stored, now);
        }
        for live in lost.into_iter().filter_map(|id| self.get(id)) {
            self.inner.end(&live, now.mono);
        }
        Ok(())
    }

    fn take_in(&self, mut stored: StoredSession, now: Now) -> Arc<Live> {
        self.inner.same.share(&mut stored.order);
        let closed_at = stored.closed_at;
        let loaded = Live::load(stored, true, self.inner.settings.rate_window_secs, now);
        let live = self.inner.insert(loaded, &mut self.inner.index());
        if let Some(closed_at) = closed_at {
            self.inner.end(&live, now.mono_at(closed_at));
        }
        live
    }
}
