//! Continuations of this node's calls: the task ids and states that answers handed out.
//!
//! Each is noted in memory before its answer goes on, and kept in the store for the other nodes and
//! later runs. An id that memory does not know is looked up there. Their number is bounded for each
//! session and in all: an id that was dropped belongs to no session.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::clock::Clock;
use crate::firewall::approvals::Digest;
use crate::firewall::continuation::{Continuation, MAX_OF_SESSION};
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;
use crate::saturate::SaturatingFrom as _;
use crate::store::{Queue, Store, StoreError};

/// Continuations that this node holds in memory.
const MAX_KNOWN: usize = 65_536;
/// Continuations looked up in the store at the same time, at most.
const FINDING: usize = 32;

/// Hashes of one text, the first by the key that is in use and the others by keys before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks(SmallVec<[Digest; 1]>);

impl Marks {
    /// Returns the mark by which the text is kept; none without a key.
    pub fn newest(&self) -> Option<Digest> {
        self.0.first().copied()
    }
}

/// The continuations that answers have handed out.
#[derive(Debug)]
pub struct Continuations {
    store: Arc<Store>,
    keys: ArcSwap<Vec<[u8; 32]>>,
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
    /// Makes an empty table. The first of the secrets keys the marks; those made with the others are
    /// found, so that what was handed out outlives a change of the first secret.
    pub fn new<S: AsRef<[u8]>>(store: Arc<Store>, secrets: impl IntoIterator<Item = S>) -> Self {
        Self {
            store,
            keys: ArcSwap::from_pointee(keys(secrets)),
            known: Mutex::default(),
            finding: Queue::new(FINDING),
        }
    }

    /// Replaces the secrets.
    pub fn rekey<S: AsRef<[u8]>>(&self, secrets: impl IntoIterator<Item = S>) {
        self.keys.store(Arc::new(keys(secrets)));
    }

    /// Returns the marks of a task's id that an upstream handed to a session.
    pub fn marks_of_task(&self, session: SessionId, upstream: Option<&str>, id: &str) -> Marks {
        let mark = |key: &[u8; 32]| {
            let mut hasher = hasher(key, b't', session, upstream);
            hasher.update(id.as_bytes());
            Digest(*hasher.finalize().as_bytes())
        };
        Marks(self.keys.load().iter().map(mark).collect())
    }

    /// Returns the marks of a state that the answer to a call of this method and target handed to a
    /// session.
    pub fn marks_of_state(
        &self,
        session: SessionId,
        upstream: Option<&str>,
        (method, target): (&str, &str),
        state: &str,
    ) -> Marks {
        let mark = |key: &[u8; 32]| {
            let mut hasher = hasher(key, b's', session, upstream);
            put(&mut hasher, method);
            put(&mut hasher, target);
            hasher.update(state.as_bytes());
            Digest(*hasher.finalize().as_bytes())
        };
        Marks(self.keys.load().iter().map(mark).collect())
    }

    /// Notes a continuation on this node.
    pub fn note(&self, one: Continuation, now: Timestamp) {
        self.known().put(Arc::new(one), now);
    }

    /// Keeps a continuation where other nodes and later runs find it.
    pub async fn keep(&self, one: &Continuation, now: Timestamp) -> Result<(), StoreError> {
        self.store.keep_continuation(one, now).await
    }

    /// Takes a continuation away, so that it is gone on with once, on whichever node; false if it is not
    /// there any more. A continuation that the store does not have is gone.
    pub async fn take(&self, mark: Digest, clock: &Clock) -> Result<bool, StoreError> {
        let was_known = self.known().forget(mark);
        if !self.reach_further() {
            return Ok(was_known);
        }
        let _place = self.finding.enter(clock.mono(), self.store.patience(), clock).await?;
        let (taken, replicas) = self.store.take_continuation(mark).await?;
        Ok(taken && !replicas.are_short())
    }

    /// Reports whether anyone but this process could find a continuation.
    pub fn reach_further(&self) -> bool {
        self.store.outlives_the_process()
    }

    /// Returns a continuation that this node knows.
    pub fn get(&self, marks: &Marks, now: Timestamp) -> Option<Arc<Continuation>> {
        let known = self.known();
        let found = marks.0.iter().find_map(|mark| known.by_mark.get(mark));
        found.filter(|one| one.ends > now).cloned()
    }

    /// Returns a continuation, from wherever it was handed out.
    pub async fn find(
        &self,
        marks: &Marks,
        clock: &Clock,
    ) -> Result<Option<Arc<Continuation>>, StoreError> {
        let now = clock.now();
        let here = self.get(marks, now.wall);
        if here.is_some() || !self.reach_further() {
            return Ok(here);
        }
        let _place = self.finding.enter(now.mono, self.store.patience(), clock).await?;
        for mark in &marks.0 {
            if let Some(found) = self.store.continuation(*mark, now.wall).await? {
                let found = Arc::new(found);
                self.known().put(Arc::clone(&found), now.wall);
                return Ok(Some(found));
            }
        }
        Ok(None)
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
        self.known.lock()
    }
}

fn keys<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Vec<[u8; 32]> {
    let key = |secret: S| blake3::derive_key("arbiter 2026 continuations: marks", secret.as_ref());
    secrets.into_iter().map(key).collect()
}

/// Begins the mark of what an upstream handed to a session.
fn hasher(key: &[u8; 32], kind: u8, session: SessionId, upstream: Option<&str>) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&[kind]).update(session.0.as_bytes());
    hasher.update(&[u8::from(upstream.is_some())]);
    put(&mut hasher, upstream.unwrap_or_default());
    hasher
}

/// Adds a text with its length, so that no two lists of texts are one.
fn put(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&u64::saturating_from(text.len()).to_le_bytes());
    hasher.update(text.as_bytes());
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

    /// Forgets a continuation; false if it was not known.
    fn forget(&mut self, mark: Digest) -> bool {
        let Some(one) = self.by_mark.remove(&mark) else { return false };
        let place = (one.ends, mark);
        self.ends.remove(&place);
        if let Some(of_session) = self.of_session.get_mut(&one.session) {
            of_session.remove(&place);
            if of_session.is_empty() {
                self.of_session.remove(&one.session);
            }
        }
        true
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
        let begun_by = Uuid::nil();
        Continuation { mark: Digest(mark), session, begun_by, tool, approved: None, ends }
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
    fn a_mark_is_of_one_session_one_upstream_and_one_call() {
        let table = Continuations::new(Arc::new(Store::memory()), [&b"secret"[..]]);
        let (ours, theirs) = (SessionId::random(), SessionId::random());
        let task = |session, upstream, id| table.marks_of_task(session, upstream, id);
        let state =
            |session, upstream, call, text| table.marks_of_state(session, upstream, call, text);
        let (read, edit) = (("tools/call", "read"), ("tools/call", "edit"));
        let marks = [
            task(ours, None, "a"),
            task(theirs, None, "a"),
            task(ours, Some(""), "a"),
            task(ours, Some("a"), ""),
            task(ours, Some("b"), "a"),
            task(ours, None, "b"),
            state(ours, None, read, "a"),
            state(theirs, None, read, "a"),
            state(ours, Some("up"), read, "a"),
            state(ours, None, edit, "a"),
            state(ours, None, ("prompts/get", "read"), "a"),
            state(ours, None, read, "b"),
            state(ours, None, ("tools/call", "reada"), ""),
        ];
        let all: BTreeSet<_> = marks.iter().map(|marks| marks.newest().unwrap()).collect();
        assert_eq!(all.len(), marks.len());
        assert_eq!(marks[0], task(ours, None, "a"));
        assert_eq!(marks[6], state(ours, None, read, "a"));
    }

    #[tokio::test]
    async fn what_was_handed_out_under_the_secret_before_is_found() {
        let (clock, session) = (Clock::system(), SessionId::random());
        let before = Continuations::new(Arc::new(Store::memory()), [&b"before"[..]]);
        let after = Continuations::new(Arc::new(Store::memory()), [&b"after"[..], b"before"]);
        let gone = Continuations::new(Arc::new(Store::memory()), [&b"after"[..]]);
        let mark = before.marks_of_task(session, None, "t").newest().unwrap();
        let one = Continuation { mark, ..one(session, 0, i64::MAX) };
        for (table, found) in [(&before, true), (&after, true), (&gone, false)] {
            table.note(one.clone(), clock.now().wall);
            let marks = table.marks_of_task(session, None, "t");
            assert_eq!(table.find(&marks, &clock).await.unwrap().is_some(), found);
        }
        gone.rekey([&b"third"[..], b"before"]);
        let marks = gone.marks_of_task(session, None, "t");
        assert!(gone.find(&marks, &clock).await.unwrap().is_some());
    }
}
