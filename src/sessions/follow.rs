//! Changes of sessions, taken in here; and sessions of other nodes, found when they are needed.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Live, RETENTION_SECS, Sessions};
use crate::clock::Clock;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Now;
use crate::store::{Closing, StoreError, StoredSession, before};

impl Sessions {
    /// A session by its id: one that another node has opened a moment ago is looked up in the store.
    pub async fn find(
        &self,
        id: SessionId,
        clock: &Clock,
    ) -> Result<Option<Arc<Live>>, StoreError> {
        if let Some(live) = self.get(id) {
            return Ok(Some(live));
        }
        let Some(shared) = self.inner.store.shared() else { return Ok(None) };
        let (finding, patience) = (&self.inner.finding, self.inner.store.patience());
        let _turn = finding.enter(clock.mono(), patience, clock).await?;
        if let Some(live) = self.get(id) {
            return Ok(Some(live));
        }
        let stored = finding.noted(shared.session(id).await, clock)?;
        let now = clock.now();
        let cutoff = before(now.wall, RETENTION_SECS);
        let known = stored.filter(|s| s.closed_at.unwrap_or(s.order.expires_at) > cutoff);
        Ok(known.map(|stored| self.take_in(stored, now)))
    }

    /// Takes in a session that was opened, here or on another node.
    pub fn opened(&self, order: &Arc<WorkOrder>, now: Now) {
        let mut order = Arc::clone(order);
        self.inner.interned.share(&mut order);
        self.inner.insert(Live::of(order, true, now), &mut self.inner.index());
    }

    /// Takes in that a session was closed, here or on another node.
    pub fn closed(&self, id: SessionId, now: Now) {
        if let Some(live) = self.get(id).filter(|live| !live.is_closed()) {
            self.inner.end(&live, now.mono);
        }
    }

    /// Gives back what this node holds of a session and does not use: another one needs it.
    pub fn wanted_elsewhere(self: &Arc<Self>, id: SessionId, clock: &Clock) {
        let (sessions, clock) = (Arc::clone(self), clock.clone());
        tokio::spawn(async move { sessions.give_back(id, &clock).await });
    }

    /// Reloads everything, because changes were missed. A session that the store does not know any
    /// more is forgotten; one that is open there, and was closed, is closed there again.
    pub async fn reload(&self, now: Now) -> Result<(), StoreError> {
        // Those were in the store before it is asked; later ones may come in meanwhile.
        let mut lost: HashSet<SessionId> =
            self.inner.live.all().iter().map(|live| live.order.id).collect();
        let mut reopened = Vec::new();
        for stored in self.inner.store.sessions(before(now.wall, RETENTION_SECS)).await? {
            lost.remove(&stored.order.id);
            let is_open = stored.closed_at.is_none();
            let live = self.take_in(stored, now);
            if is_open && live.is_closed() {
                reopened.push(live.order.id);
            }
        }
        for live in lost.into_iter().filter_map(|id| self.get(id)) {
            self.inner.lose(&live, now.mono);
        }
        self.inner.save_closed(&[], &reopened, now.wall).await?;
        Ok(())
    }

    /// Closes again in the store what was closed: another server answers, which may not have it.
    pub async fn assert_closed(&self, now: Now) -> Result<(), StoreError> {
        let closed: Vec<SessionId> = self.inner.closed().keys().copied().collect();
        self.inner.save_closed(&[], &closed, now.wall).await?;
        Ok(())
    }

    fn take_in(&self, mut stored: StoredSession, now: Now) -> Arc<Live> {
        self.inner.interned.share(&mut stored.order);
        let closed_at = stored.closed_at;
        let loaded = Live::load(stored, true, self.inner.settings.rate_window_secs, now);
        let live = self.inner.insert(loaded, &mut self.inner.index());
        let id = live.order.id;
        if let Some(closed_at) = closed_at {
            self.inner.end(&live, now.mono_at(closed_at));
        } else if self.inner.closed().contains_key(&id) {
            self.inner.end(&live, now.mono);
            self.inner.unsaved().note(Closing { id, unused: 0 });
        }
        live
    }
}
