//! The suite that every backend passes, and the rig with which other tests run over all of them.

use tempfile::TempDir;

use super::super::RedisServer as Server;
use super::super::*;
use crate::clock::Clock;
use crate::firewall::continuation::MAX_OF_SESSION;
use crate::firewall::names::Names;
use crate::firewall::session::{IntentTier, Sensitivity};

mod shared;

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

/// And over those that nodes share.
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

pub(crate) fn order(agent: AgentId, call_budget: u64) -> WorkOrder {
    WorkOrder {
        id: SessionId::random(),
        agent,
        declared_intent: "read the \"quarterly\" reports\n".into(),
        intent_tier: IntentTier::Read,
        authorized_tools: ["read_file".to_owned(), "list".to_owned()].into(),
        authorized_resources: Names::default(),
        authorized_prompts: Names::default(),
        authorized_methods: Names::default(),
        authorized_credentials: ["db".to_owned()].into(),
        call_budget,
        rate_limit: Some(7),
        ceiling: Sensitivity::Confidential,
        refusal_style: None,
        delegation_chain: [agent].into(),
        created_at: Timestamp(1_000_000_000),
        expires_at: Timestamp(9_000_000_000),
        opened_by: Some("corporate:alice".into()),
    }
}

pub(crate) fn agent(trust: TrustLevel) -> Arc<Agent> {
    Arc::new(Agent {
        id: AgentId::random(),
        owner: "Zoë \"ops\"".to_owned(),
        model: "m-1".to_owned(),
        capabilities: vec!["read".to_owned(), "write".to_owned()],
        trust,
        active: true,
        created_at: Timestamp(5),
        expires_at: Some(Timestamp(i64::MAX)),
        registered_by: Some("orchestrator".into()),
    })
}

/// The instant at which the clocks of this suite begin.
const START: Timestamp = Timestamp(1_000_000_000);

/// A cap that no test reaches.
pub(crate) const CAP: usize = 1000;

/// Exactly so many calls, or none.
pub(crate) fn calls(id: SessionId, count: u64) -> Booking {
    Booking { id, least: count, most: count, unused: 0, rate: None }
}

const LONG_AGO: Timestamp = Timestamp(0);

#[tokio::test]
async fn agents_and_delegations_survive() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let (first, second) = (agent(TrustLevel::Trusted), agent(TrustLevel::Basic));
        store.insert_agent(&first).await.unwrap();
        store.insert_agent(&second).await.unwrap();
        let delegation = Delegation {
            id: Uuid::new_v4(),
            from: first.id,
            to: second.id,
            scopes: vec!["read".to_owned()],
            created_at: Timestamp(6),
            expires_at: None,
        };
        store.put_delegation(&delegation, 0).await.unwrap();
        let set = store.set_trust(first.id, TrustLevel::Verified, 0).await.unwrap();
        assert_eq!(set.map(|(number, _)| number), Some(1));
        store.flag(first.id, 3, START).await.unwrap();
        store.take_away(vec![inactive(second.id)], START).await.unwrap();
        assert!(matches!(store.insert_agent(&first).await, Err(StoreError::Overtaken)));
        drop(store);

        let store = rig.open().await;
        let agents = store.agents().await.unwrap();
        let find = |id| agents.iter().find(|stored| stored.agent.id == id).unwrap();
        let stored = find(first.id);
        let expected = Agent { trust: TrustLevel::Verified, ..(*first).clone() };
        assert_eq!((&*stored.agent, stored.number, stored.ended_at), (&expected, 1, None));
        assert_eq!(stored.flags, [Flags { at: START, count: 3 }]);
        let stored = find(second.id);
        let expected = Agent { active: false, ..(*second).clone() };
        assert_eq!((&*stored.agent, stored.number, stored.ended_at), (&expected, 0, Some(START)));
        assert_eq!(store.delegations().await.unwrap().all, std::slice::from_ref(&delegation));

        // One with the same id takes its place, and one that is ended is gone, however often.
        let longer = Delegation { expires_at: Some(Timestamp(77)), ..delegation };
        let version = store.delegations().await.unwrap().version;
        store.put_delegation(&longer, version).await.unwrap();
        assert_eq!(store.delegations().await.unwrap().all, std::slice::from_ref(&longer));
        store.end_delegations(vec![longer.id, Uuid::new_v4()]).await.unwrap();
        store.end_delegations(vec![longer.id]).await.unwrap();
        assert_eq!(store.delegations().await.unwrap().all, []);
    })
    .await;
}

fn inactive(id: AgentId) -> TakenAway {
    TakenAway { id, inactive: true, lowered: None }
}

fn lowered(id: AgentId, level: TrustLevel, number: u64) -> TakenAway {
    TakenAway { id, inactive: false, lowered: Some(Lowered { level, number }) }
}

#[tokio::test]
async fn taking_away_twice_is_taking_away_once_and_undoes_no_raise() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let agent = agent(TrustLevel::Trusted);
        store.insert_agent(&agent).await.unwrap();
        let now = async || {
            let stored = store.agents().await.unwrap().pop().unwrap();
            (stored.agent.trust, stored.number, stored.flags.len())
        };
        let take = async |taken| {
            store.take_away(vec![taken], START).await.unwrap();
        };
        store.flag(agent.id, 1, START).await.unwrap();
        take(lowered(agent.id, TrustLevel::Verified, 0)).await;
        assert_eq!(now().await, (TrustLevel::Verified, 0, 0), "and its flags are forgotten");
        store.flag(agent.id, 1, START).await.unwrap();
        take(lowered(agent.id, TrustLevel::Trusted, 0)).await;
        take(lowered(agent.id, TrustLevel::Verified, 0)).await;
        assert_eq!(now().await, (TrustLevel::Verified, 0, 1), "nothing was to be taken");
        store.set_trust(agent.id, TrustLevel::Trusted, 4).await.unwrap();
        take(lowered(agent.id, TrustLevel::Basic, 4)).await;
        assert_eq!(now().await, (TrustLevel::Trusted, 5, 0), "a raise came later");
        // The store has lost the changes since then.
        take(lowered(agent.id, TrustLevel::Untrusted, 9)).await;
        assert_eq!(now().await, (TrustLevel::Untrusted, 9, 0));
        assert_eq!(store.set_trust(AgentId::random(), TrustLevel::Basic, 0).await.unwrap(), None);
        take(lowered(AgentId::random(), TrustLevel::Basic, 0)).await;
    })
    .await;
}

#[tokio::test]
async fn agents_that_ended_long_ago_are_purged_and_their_ids_kept() {
    const DAY: u64 = 86_400;
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let end = START.plus_secs(10);
        let agents = [None, Some(end), None].map(|expires_at| {
            Arc::new(Agent { expires_at, ..Agent::clone(&agent(TrustLevel::Basic)) })
        });
        for agent in &agents {
            store.insert_agent(agent).await.unwrap();
        }
        let [deactivated, expired, _active] = agents.each_ref().map(|agent| agent.id);
        store.take_away(vec![inactive(deactivated)], START).await.unwrap();
        let ids: Vec<AgentId> = agents.iter().map(|agent| agent.id).collect();
        let purge = async |now: Timestamp| {
            store.newest(now).await.unwrap();
            let purge = Purge { ids: ids.clone(), retention_secs: DAY, tombstones: true };
            let mut purged = store.purge(purge, now).await.unwrap();
            purged.sort_unstable();
            purged
        };
        rig.pass(DAY - 1);
        assert_eq!(purge(START.plus_secs(DAY - 1)).await, []);
        rig.pass(1);
        assert_eq!(purge(START.plus_secs(DAY)).await, [deactivated]);
        rig.pass(10);
        assert_eq!(purge(START.plus_secs(DAY + 10)).await, [expired]);
        drop(store);
        let store = rig.open().await;
        assert_eq!(store.agents().await.unwrap().len(), 1);
        assert_eq!(store.tombstones().await.unwrap(), [deactivated]);
        assert!(matches!(store.insert_agent(&agents[0]).await, Err(StoreError::Overtaken)));
        store.insert_agent(&agents[1]).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn sessions_survive_as_they_are() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let order = opened(&store, 100).await;
        store.book(calls(order.id, 30)).await.unwrap();
        drop(store);

        let store = rig.open().await;
        let loaded = store.sessions(LONG_AGO).await.unwrap();
        let expected =
            StoredSession { order: Arc::clone(&order), booked: 30, closed_at: None, recent: None };
        assert_eq!(loaded, [expected]);
    })
    .await;
}

#[tokio::test]
async fn a_booking_ends_where_the_budget_ends() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let order = opened(&store, 10).await;
        let book = async |count| store.book(calls(order.id, count)).await.unwrap();
        assert_eq!(book(4).await, Booked::alone(4, 4));
        assert_eq!(book(7).await, Booked::alone(0, 4));
        assert_eq!(book(6).await, Booked::alone(6, 10));
        assert_eq!(book(1).await, Booked::alone(0, 10));
        let unknown = store.book(calls(SessionId::random(), 1)).await.unwrap_err();
        assert!(matches!(unknown, StoreError::Missing(_)), "{unknown}");
    })
    .await;
}

#[tokio::test]
async fn what_is_granted_beyond_the_need_shrinks_with_what_remains() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let order = opened(&store, 100).await;
        let mut granted = Vec::new();
        while granted.iter().sum::<u64>() < 100 {
            let booking = Booking { most: 10, ..calls(order.id, 1) };
            granted.push(store.book(booking).await.unwrap().granted);
        }
        let after = [10, 10, 10, 9, 8, 7, 6, 5, 5, 4, 4, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1];
        assert_eq!(granted, after);
    })
    .await;
}

#[tokio::test]
async fn bookings_at_the_same_time_add_up_to_the_budget() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let order = opened(&store, 252).await;
        let bookings: Vec<_> = (0..100)
            .map(|_| {
                let (store, id) = (Arc::clone(&store), order.id);
                tokio::spawn(async move { store.book(calls(id, 3)).await.unwrap().granted })
            })
            .collect();
        let mut granted = 0;
        for booking in bookings {
            granted += booking.await.unwrap();
        }
        assert_eq!(granted, 252);
    })
    .await;
}

#[tokio::test]
async fn settling_keeps_the_calls_until_the_next_booking() {
    on_each_backend(async |rig| {
        let store = rig.open().await;
        let order = opened(&store, 100).await;
        store.book(calls(order.id, 20)).await.unwrap();
        let recent = vec![
            RecentCalls { at: Timestamp(-3), count: 2 },
            RecentCalls { at: Timestamp(i64::MAX), count: u32::MAX },
        ];
        let settlement =
            Settlement { id: order.id, unused: 15, recent: Some(recent.clone()), rate: None };
        store.settle(vec![settlement]).await.unwrap();
        store
            .settle(vec![Settlement { id: order.id, unused: 0, recent: None, rate: None }])
            .await
            .unwrap();
        drop(store);

        let store = rig.open().await;
        let stored = async || store.sessions(LONG_AGO).await.unwrap().pop().unwrap();
        assert_eq!((stored().await.booked, stored().await.recent), (5, Some(recent)));
        store.book(calls(order.id, 1)).await.unwrap();
        assert_eq!((stored().await.booked, stored().await.recent), (6, None));
    })
    .await;
}

#[tokio::test]
async fn closing_takes_back_once() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let order = opened(&store, 100).await;
        store.book(calls(order.id, 20)).await.unwrap();
        let closing = Closing { id: order.id, unused: 15 };
        store.close_sessions(vec![closing], Timestamp(2_000_000_000)).await.unwrap();
        store.close_sessions(vec![closing], Timestamp(3_000_000_000)).await.unwrap();
        let stored = store.sessions(LONG_AGO).await.unwrap().pop().unwrap();
        assert_eq!(stored.booked, 5);
        assert_eq!(stored.closed_at, Some(Timestamp(2_000_000_000)));
    })
    .await;
}

#[tokio::test]
async fn ended_sessions_are_forgotten_a_few_at_a_time() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let mut orders = Vec::new();
        for _ in 0..10 {
            orders.push(opened(&store, 1).await);
        }
        let end = orders[0].expires_at;
        let early = Timestamp(end.0 - 10);
        let closing = Closing { id: orders[0].id, unused: 0 };
        store.close_sessions(vec![closing], early).await.unwrap();
        assert_eq!(store.sessions(early).await.unwrap().len(), 9);
        assert_eq!(store.sessions(end).await.unwrap().len(), 0);
        // By the ledger's own clock, where it has one.
        let later = |secs: u64| START.plus_secs(secs);
        assert_eq!(store.forget_ended(START, 0, 4).await.unwrap(), 0);
        rig.pass(7_999);
        assert_eq!(store.forget_ended(later(7_999), 0, 4).await.unwrap(), 0);
        rig.pass(1);
        assert_eq!(store.forget_ended(later(8_000), 1, 4).await.unwrap(), 0);
        assert_eq!(store.forget_ended(later(8_000), 0, 4).await.unwrap(), 4);
        let left = store.sessions(LONG_AGO).await.unwrap();
        assert_eq!(left.len(), 6);
        let ids: Vec<SessionId> = left.iter().map(|stored| stored.order.id).collect();
        store.forget_sessions(ids.clone(), later(8_000), 1).await.unwrap();
        assert_eq!(store.sessions(LONG_AGO).await.unwrap().len(), 6);
        store.forget_sessions(ids, later(8_000), 0).await.unwrap();
        assert_eq!(store.sessions(LONG_AGO).await.unwrap().len(), 0);
    })
    .await;
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

mod sqlite {
    use super::*;

    #[tokio::test]
    async fn a_clock_that_is_ahead_once_takes_nothing_for_good() {
        let rig = Rig::Sqlite(tempfile::tempdir().unwrap());
        let store = rig.open().await;
        assert_eq!(store.newest(START).await.unwrap(), START);
        assert_eq!(store.newest(START.plus_secs(5)).await.unwrap(), START);
        assert_eq!(store.newest(Timestamp(i64::MIN)).await.unwrap(), START.plus_secs(5));
        let (agent, until) = (agent(TrustLevel::Basic), START.plus_secs(60));
        store.insert_agent(&agent).await.unwrap();
        store.take_away(vec![inactive(agent.id)], START).await.unwrap();
        store.revoke_token("t", until, START).await.unwrap();
        let year = START.plus_secs(366 * 86_400);
        store.revoke_token("another", year, year).await.unwrap();
        let purge = Purge { ids: vec![agent.id], retention_secs: 86_400, tombstones: true };
        assert_eq!(store.purge(purge, year).await.unwrap(), []);
        drop(store);
        let store = rig.open().await;
        assert_eq!(store.revoked_tokens().await.unwrap().len(), 2);
        assert_eq!(store.agents().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_to_is_told_until_it_can() {
        let rig = Rig::Sqlite(tempfile::tempdir().unwrap());
        let store = rig.open().await;
        assert!(!store.is_failing());
        store.refuse_writes(true).await;
        assert!(store.newest(START).await.is_err() && store.is_failing());
        assert!(store.agents().await.is_err(), "each transaction begins as one that may write");
        assert!(store.is_failing());
        store.refuse_writes(false).await;
        store.newest(START).await.unwrap();
        assert!(!store.is_failing());
    }

    #[tokio::test]
    async fn one_of_many_in_a_transaction_fails_alone() {
        let rig = Rig::Sqlite(tempfile::tempdir().unwrap());
        let store = rig.open().await;
        let orders: Vec<_> = (0..50).map(|_| Arc::new(order(AgentId::random(), 1))).collect();
        let inserts: Vec<_> = (orders.iter().chain(&orders[20..30]))
            .map(|order| {
                let (store, order) = (Arc::clone(&store), Arc::clone(order));
                tokio::spawn(async move { store.insert_session(&order, CAP).await.is_ok() })
            })
            .collect();
        let mut done = 0;
        for insert in inserts {
            done += usize::from(insert.await.unwrap());
        }
        assert_eq!(done, 50);
        assert_eq!(store.sessions(LONG_AGO).await.unwrap().len(), 50);
    }

    /// The files as they lie on the disk while the process lives are what a kill leaves.
    #[tokio::test]
    async fn a_sealed_file_says_nothing_of_what_was_agreed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::sealed_sqlite(&folder.path().join("store.db"), key()).await.unwrap();
        store.insert_agent(&agent(TrustLevel::Basic)).await.unwrap();
        store.insert_session(&Arc::new(order(AgentId::random(), 100)), CAP).await.unwrap();
        store.close().await.unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            for clear in ["quarterly", "read_file", "Zoë"] {
                let found = bytes.windows(clear.len()).any(|part| part == clear.as_bytes());
                assert!(!found, "{clear}");
            }
        }
    }

    #[tokio::test]
    async fn what_was_answered_survives_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::sqlite(&folder.path().join("store.db")).await.unwrap();
        let order = Arc::new(order(AgentId::random(), 100));
        store.insert_session(&order, CAP).await.unwrap();
        store.book(calls(order.id, 42)).await.unwrap();
        let after = tempfile::tempdir().unwrap();
        for file in ["store.db", "store.db-wal"] {
            std::fs::copy(folder.path().join(file), after.path().join(file)).unwrap();
        }
        let store = Store::sqlite(&after.path().join("store.db")).await.unwrap();
        assert_eq!(store.sessions(LONG_AGO).await.unwrap()[0].booked, 42);
    }

    #[tokio::test]
    async fn a_damaged_row_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = Store::sqlite(&path).await.unwrap();
        store.insert_agent(&agent(TrustLevel::Basic)).await.unwrap();
        store.close().await.unwrap();
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute("UPDATE agents SET state = json_set(state, '$.trust', 'total')", ()).unwrap();
        drop(db);
        let store = Store::sqlite(&path).await.unwrap();
        let found = store.agents().await.unwrap_err();
        assert_eq!(found.to_string(), "the store holds a damaged agent");
    }

    #[tokio::test]
    async fn a_file_belongs_to_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = Store::sqlite(&path).await.unwrap();
        store.insert_agent(&agent(TrustLevel::Basic)).await.unwrap();
        let other = rusqlite::Connection::open(&path).unwrap();
        other.busy_timeout(std::time::Duration::ZERO).unwrap();
        let read = other.query_row("SELECT count(*) FROM agents", (), |row| row.get::<_, i64>(0));
        assert!(read.unwrap_err().to_string().contains("locked"));
    }
}
