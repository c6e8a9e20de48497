//! Maps of what belongs to one session, by the session's id, which the key holds already: it is not kept twice. In many
//! small parts, each under a lock of its own, so that one that grows is small and stops few calls.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use dashmap::DashMap;

use crate::firewall::session::{SessionId, WorkOrder};

const PARTS: usize = 512;

/// Map whose keys hold the ids by which they are found.
pub(crate) type BySession<T, V> = DashMap<Key<T>, V>;

/// Part of one session.
pub(crate) trait OfSession {
    fn session(&self) -> &SessionId;
}

/// Key that is found by the id of its session.
#[derive(Clone, Debug)]
pub(crate) struct Key<T>(pub(crate) T);

pub(crate) fn by_session<T: OfSession, V>() -> BySession<T, V> {
    DashMap::with_shard_amount(PARTS)
}

impl OfSession for Arc<WorkOrder> {
    fn session(&self) -> &SessionId {
        &self.id
    }
}

impl<T: OfSession> Borrow<SessionId> for Key<T> {
    fn borrow(&self) -> &SessionId {
        self.0.session()
    }
}

impl<T: OfSession> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.session().hash(state);
    }
}

impl<T: OfSession> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.session() == other.0.session()
    }
}

impl<T: OfSession> Eq for Key<T> {}
