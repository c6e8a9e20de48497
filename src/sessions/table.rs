//! Sessions by their id: in many small parts, each under a lock of its own, so that
//! one that grows is small and stops few calls.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use dashmap::DashMap;

use super::Live;
use crate::firewall::session::SessionId;

const PARTS: usize = 512;

#[derive(Debug)]
pub(super) struct Table(DashMap<Kept, ()>);

/// A session under its own id, which is not kept twice.
#[derive(Debug)]
struct Kept(Arc<Live>);

impl Table {
    pub(super) fn get(&self, id: SessionId) -> Option<Arc<Live>> {
        self.0.get(&id).map(|found| Arc::clone(&found.key().0))
    }

    /// Adds a session whose id is not there yet.
    pub(super) fn insert(&self, live: &Arc<Live>) {
        self.0.insert(Kept(Arc::clone(live)), ());
    }

    pub(super) fn remove(&self, id: SessionId) {
        self.0.remove(&id);
    }

    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        self.0.iter().map(|found| Arc::clone(&found.key().0)).collect()
    }
}

impl Default for Table {
    fn default() -> Self {
        Self(DashMap::with_shard_amount(PARTS))
    }
}

impl Borrow<SessionId> for Kept {
    fn borrow(&self) -> &SessionId {
        &self.0.order.id
    }
}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.order.id.hash(state);
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.0.order.id == other.0.order.id
    }
}

impl Eq for Kept {}
