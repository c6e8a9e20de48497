//! Continuations of this node's calls: the task ids and states that answers handed out.
//!
//! Each is noted in memory before its answer goes on, and kept in the store for the other nodes and
//! later runs. What memory does not know is looked up there. Bounded for each session and in all: an
//! id that had to go belongs to nobody any more.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::firewall::approvals::Digest;
use crate::firewall::continuation::{Continuation, MAX_OF_SESSION};
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;
use crate::store::{Queue, Store, StoreError};

/// Continuations that this node holds in memory.
const MAX_KNOWN: usize = 65_536;
/// Continuations looked up in the store at the same time, at most.
const FINDING: usize = 32;

/// Kind of a continuation, which keeps equal texts of several kinds apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Task,
}

impl Kind {
    fn as_byte(self) -> u8 {
        match self {
            Self::Task => b't',
        }
    }
}

/// The continuations that answers have handed out.
#[derive(Debug)]
pub struct Continuations {
    store: Arc<Store>,
    key: [u8; 32],
    known: Mutex<Known>,
    finding: Queue,
}

/// Continuations in memory.
#[derive(Debug, Default)]
struct Known {
    by_mark: HashMap<Digest, Arc<Continuation>>,
    of_session: HashMap<SessionId, BTreeSet<(Timestamp, Digest)>>,
    ends: BTreeSet<(Timestamp, Digest)>,
}

impl Continuations {
    /// Makes an empty table; `secret` keys the marks.
    pub fn new(store: Arc<Store>, secret: &[u8]) -> Self {
        Self {
            store,
            key: blake3::derive_key("arbiter 2026 continuations: marks", secret),
            known: Mutex::default(),
            finding: Queue::new(FINDING),
        }
    }

    /// Returns the mark of a text that an upstream handed to a session.
    pub fn mark(
        &self,
        kind: Kind,
        session: SessionId,
        upstream: Option<&str>,
        text: &str,
    ) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[kind.as_byte()]).update(session.0.as_bytes());
        let name = upstream.unwrap_or_default();
        hasher.update(&[u8::from(upstream.is_some())]);
        hasher.update(&u64::try_from(name.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(name.as_bytes()).update(text.as_bytes());
        Digest(*hasher.finalize().as_bytes())
    }

    /// Notes a continuation on this node.
    pub fn note(&self, one: Continuation, now: Timestamp) {
        self.known().put(Arc::new(one), now);
    }

    /// Keeps a continuation where other nodes and later runs find it.
    pub async fn keep(&self, one: &Continuation, now: Timestamp) -> Result<(), StoreError> {
        self.store.keep_continuation(one, now).await
    }

    /// Reports whether anyone but this process could find a continuation.
    pub fn reach_further(&self) -> bool {
        self.store.outlives_the_process()
    }

    /// Returns a continuation that this node knows.
    pub fn get(&self, mark: Digest, now: Timestamp) -> Option<Arc<Continuation>> {
        let known = self.known();
        known.by_mark.get(&mark).filter(|one| one.ends > now).cloned()
    }

    /// Returns a continuation, from wherever it was handed out.
    pub async fn find(
        &self,
        mark: Digest,
        clock: &Clock,
    ) -> Result<Option<Arc<Continuation>>, StoreError> {
        let now = clock.now();
        let here = self.get(mark, now.wall);
        if here.is_some() || !self.reach_further() {
            return Ok(here);
        }
        let _place = self.finding.enter(now.mono, self.store.patience(), clock).await?;
        let Some(found) = self.store.continuation(mark, now.wall).await? else { return Ok(None) };
        let found = Arc::new(found);
        self.known().put(Arc::clone(&found), now.wall);
        Ok(Some(found))
    }

    /// Takes in all that a session was handed by whichever node.
    pub async fn load(&self, session: SessionId, clock: &Clock) -> Result<(), StoreError> {
        if !self.reach_further() {
            return Ok(());
        }
        let now = clock.now();
        let _place = self.finding.enter(now.mono, self.store.patience(), clock).await?;
        let found = self.store.continuations_of(session, now.wall).await?;
        let mut known = self.known();
        for one in found {
            known.put(Arc::new(one), now.wall);
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // INVARIANT: every change is complete before anything can panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Adds a continuation, and forgets what has ended and what is too much.
    fn put(&mut self, one: Arc<Continuation>, now: Timestamp) {
        while let Some(&(ends, mark)) = self.ends.first()
            && (ends <= now || self.ends.len() >= MAX_KNOWN)
        {
            self.forget(mark);
        }
        self.forget(one.mark);
        let place = (one.ends, one.mark);
        self.ends.insert(place);
        let of_session = self.of_session.entry(one.session).or_default();
        of_session.insert(place);
        let is_full = of_session.len() > usize::from(MAX_OF_SESSION);
        let surplus = of_session.first().copied().filter(|_| is_full);
        self.by_mark.insert(one.mark, one);
        if let Some((_, mark)) = surplus {
            self.forget(mark);
        }
    }

    fn forget(&mut self, mark: Digest) {
        let Some(one) = self.by_mark.remove(&mark) else { return };
        let place = (one.ends, mark);
        self.ends.remove(&place);
        if let Some(of_session) = self.of_session.get_mut(&one.session) {
            of_session.remove(&place);
            if of_session.is_empty() {
                self.of_session.remove(&one.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn one(session: SessionId, n: u64, ends: i64) -> Continuation {
        let mut mark = [0; 32];
        mark[..8].copy_from_slice(&n.to_le_bytes());
        mark[8..24].copy_from_slice(session.0.as_bytes());
        let tool = Some("read".into());
        let ends = Timestamp(ends);
        Continuation { mark: Digest(mark), session, begun_by: Uuid::nil(), tool, ends }
    }

    #[test]
    fn what_is_known_is_bounded_for_each_session_and_ends() {
        let mut known = Known::default();
        let (ours, theirs) = (SessionId::random(), SessionId::random());
        let first = one(theirs, 0, 1_000_000);
        known.put(Arc::new(first.clone()), Timestamp(0));
        let most = u64::from(MAX_OF_SESSION);
        for n in 0..2 * most {
            known.put(Arc::new(one(ours, n, i64::try_from(n).unwrap() + 10)), Timestamp(0));
        }
        assert_eq!(known.of_session[&ours].len(), usize::from(MAX_OF_SESSION));
        assert!(!known.by_mark.contains_key(&one(ours, 0, 0).mark), "the first to end has gone");
        assert!(known.by_mark.contains_key(&first.mark), "another session's stays");
        known.put(Arc::new(one(theirs, 1, 2_000_000)), Timestamp(500_000));
        assert_eq!((known.by_mark.len(), known.ends.len(), known.of_session.len()), (2, 2, 1));
    }

    #[test]
    fn a_mark_is_of_one_session_and_one_upstream() {
        let table = Continuations::new(Arc::new(Store::memory()), b"secret");
        let (ours, theirs) = (SessionId::random(), SessionId::random());
        let mark = |session, upstream, text| table.mark(Kind::Task, session, upstream, text);
        let marks = [
            mark(ours, None, "a"),
            mark(theirs, None, "a"),
            mark(ours, Some(""), "a"),
            mark(ours, Some("a"), ""),
            mark(ours, Some("b"), "a"),
            mark(ours, None, "b"),
        ];
        assert_eq!(marks.iter().collect::<BTreeSet<_>>().len(), marks.len());
        assert_eq!(marks[0], mark(ours, None, "a"));
    }
}
