//! The suite that every backend passes, and the rig with which other tests run over all of them.

use tempfile::TempDir;

use super::super::RedisServer as Server;
use super::super::*;
use crate::clock::Clock;
use crate::firewall::continuation::MAX_OF_SESSION;
use crate::testkit::{full_agent as agent, full_order as order};

mod agents;
mod sessions;
mod shared;
mod sqlite;

/// One backend, and where it keeps its state between one opening and the next.
pub(crate) enum Rig {
    Memory(Arc<Store>),
    Sqlite(TempDir),
    Sealed(TempDir),
    /// Each opening is another node.
    Fleet(Fleet, Clock),
    /// Each opening is another node.
    Redis(Server, Clock),
}

fn key() -> Option<SealKey> {
    SealKey::from_hex(&"5e".repeat(32))
}

impl Rig {
    /// Opens the store on what earlier openings left. They need not have been closed: dropping them
    /// is a crash.
    pub(crate) async fn open(&self) -> Arc<Store> {
        match self {
            Self::Memory(store) => Arc::clone(store),
            Self::Sqlite(folder) => {
                Arc::new(Store::sqlite(&folder.path().join("store.db")).await.unwrap())
            }
            Self::Sealed(folder) => {
                let path = folder.path().join("store.db");
                Arc::new(Store::sealed_sqlite(&path, key()).await.unwrap())
            }
            Self::Fleet(fleet, _) => {
                Arc::new(fleet.beside(&SessionId::random().to_string()).into())
            }
            Self::Redis(server, clock) => {
                let node = SessionId::random().to_string();
                Arc::new(server.node(&node, clock.clone()).await)
            }
        }
    }

    /// Lets time pass on the clock of a ledger that has one.
    fn pass(&self, secs: u64) {
        match self {
            Self::Memory(_) | Self::Sqlite(_) | Self::Sealed(_) => {}
            Self::Fleet(_, clock) | Self::Redis(_, clock) => clock.advance_us(secs * 1_000_000),
        }
    }
}

/// Time as the orders of this suite have it: when they were given.
fn clock() -> Clock {
    Clock::manual(Timestamp(1_000_000_000))
}

/// Runs a test over every backend that serves one node.
pub(crate) async fn on_each_backend(test: impl AsyncFn(Rig)) {
    test(Rig::Memory(Arc::new(Store::memory()))).await;
    test(Rig::Sqlite(tempfile::tempdir().unwrap())).await;
    test(Rig::Sealed(tempfile::tempdir().unwrap())).await;
}

/// Runs a test over every backend, those that nodes share included.
pub(crate) async fn on_all_backends(test: impl AsyncFn(Rig)) {
    on_each_backend(&test).await;
    let fleet = clock();
    test(Rig::Fleet(Fleet::new("first", fleet.clone()), fleet)).await;
    test(Rig::Redis(Server::start().await, clock())).await;
}

/// Opens a session of an agent that is registered for it.
async fn opened(store: &Store, call_budget: u64) -> Arc<WorkOrder> {
    let agent = agent(TrustLevel::Basic);
    store.insert_agent(&agent).await.unwrap();
    let order = Arc::new(order(agent.id, call_budget));
    assert_eq!(store.insert_session(&order, CAP).await.unwrap(), Opened::Yes);
    order
}

/// The instant at which the clocks of this suite begin.
const START: Timestamp = Timestamp(1_000_000_000);

/// A cap that no test reaches.
pub(crate) const CAP: usize = 1000;

/// Books exactly `count` calls, or none.
pub(crate) fn calls(id: SessionId, count: u64) -> Booking {
    Booking { id, least: count, most: count, unused: 0, rate: None }
}

const LONG_AGO: Timestamp = Timestamp(0);

fn inactive(id: AgentId) -> TakenAway {
    TakenAway { id, inactive: true, lowered: None }
}

fn lowered(id: AgentId, level: TrustLevel, number: u64) -> TakenAway {
    TakenAway { id, inactive: false, lowered: Some(Lowered { level, number }) }
}

#[tokio::test]
async fn revoked_tokens_are_remembered_as_long_as_they_matter() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let later = |secs: u64| START.plus_secs(secs);
        store.newest(START).await.unwrap();
        store.revoke_token("old", later(10), START).await.unwrap();
        store.revoke_token("new", later(30), START).await.unwrap();
        rig.pass(10);
        store.newest(later(10)).await.unwrap();
        store.revoke_token("new", later(20), later(10)).await.unwrap();
        drop(store);
        let store = rig.open().await;
        let kept = store.revoked_tokens().await.unwrap();
        assert_eq!(kept, [("new".to_owned(), later(30))]);
    })
    .await;
}

/// A continuation with this mark.
pub(crate) fn continuation(session: SessionId, mark: u8, ends: i64) -> Continuation {
    Continuation {
        mark: Digest([mark; 32]),
        session,
        approved: None,
        begun_by: Uuid::from_u128(7),
        tool: Some("export".into()),
        ends: Timestamp(ends),
    }
}

#[tokio::test]
async fn continuations_are_kept_until_their_end_and_a_session_has_only_so_many() {
    on_all_backends(async |rig| {
        // Nobody else could find them there.
        if matches!(rig, Rig::Memory(_)) {
            return;
        }
        let store = rig.open().await;
        let now = Timestamp(1_000_000_000);
        let later = |secs| now.plus_secs(secs).0;
        let (ours, theirs) = (SessionId::random(), SessionId::random());
        let first = continuation(ours, 0, later(100));
        let other = continuation(theirs, 255, later(60));
        store.keep_continuation(&first, now).await.unwrap();
        store.keep_continuation(&other, now).await.unwrap();
        drop(store);
        let store = rig.open().await;
        let found = |mark| store.continuation(Digest([mark; 32]), now);
        assert_eq!(found(0).await.unwrap(), Some(first.clone()));
        assert_eq!(found(1).await.unwrap(), None);
        assert_eq!(store.continuations_of(theirs, now).await.unwrap(), [other]);
        for n in 0..=MAX_OF_SESSION {
            let mut mark = [9; 32];
            mark[..2].copy_from_slice(&n.to_le_bytes());
            let one = Continuation { mark: Digest(mark), ..continuation(ours, 0, later(200)) };
            store.keep_continuation(&one, now).await.unwrap();
        }
        let kept = store.continuations_of(ours, now).await.unwrap();
        assert_eq!(kept.len(), usize::from(MAX_OF_SESSION));
        let one = kept.first().unwrap().mark;
        assert!(store.take_continuation(one).await.unwrap().0);
        assert!(!store.take_continuation(one).await.unwrap().0, "it is taken once");
        assert_eq!(store.continuation(one, now).await.unwrap(), None);
        assert_eq!(found(0).await.unwrap(), None, "it would have ended first");
        rig.pass(61);
        let after = now.plus_secs(61);
        assert_eq!(store.continuation(Digest([255; 32]), after).await.unwrap(), None);
        assert_eq!(store.continuations_of(theirs, after).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn a_budget_that_no_store_can_hold_is_refused() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let order = Arc::new(order(AgentId::random(), u64::MAX));
        let refused = store.insert_session(&order, CAP).await.unwrap_err();
        assert!(matches!(refused, StoreError::TooLarge { .. }), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn a_closed_store_refuses_everything() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        store.close().await.unwrap();
        store.close().await.unwrap();
        assert!(matches!(store.agents().await, Err(StoreError::Stopped)));
        let refused = store.insert_agent(&agent(TrustLevel::Basic)).await;
        assert!(matches!(refused, Err(StoreError::Stopped)));
    })
    .await;
}

#[tokio::test]
async fn a_write_that_fails_changes_nothing_and_the_next_one_works() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let order = opened(&store, 10).await;
        store.refuse_writes(true).await;
        assert!(store.book(calls(order.id, 5)).await.is_err());
        assert!(store.insert_agent(&agent(TrustLevel::Basic)).await.is_err());
        store.refuse_writes(false).await;
        assert_eq!(store.agents().await.unwrap().len(), 1);
        assert_eq!(store.book(calls(order.id, 5)).await.unwrap().total, 5);
    })
    .await;
}
