//! The sessions of this node by their id.

use std::sync::Arc;

use super::Live;
use crate::firewall::session::SessionId;
use crate::store::by_session::{BySession, Key, OfSession, by_session};

#[derive(Debug)]
pub(super) struct Table(BySession<Arc<Live>, ()>);

impl Table {
    pub(super) fn get(&self, id: SessionId) -> Option<Arc<Live>> {
        self.0.get(&id).map(|found| Arc::clone(&found.key().0))
    }

    /// Adds a session whose id is not there yet.
    pub(super) fn insert(&self, live: &Arc<Live>) {
        self.0.insert(Key(Arc::clone(live)), ());
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
        Self(by_session())
    }
}

impl OfSession for Arc<Live> {
    fn session(&self) -> &SessionId {
        &self.order.id
    }
}
