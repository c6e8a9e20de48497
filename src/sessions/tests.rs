use std::collections::HashSet;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use super::*;
use crate::clock::Clock;
use crate::firewall::checks::{budget, rate};
use crate::store::Booking;
use crate::store::tests::contract::{Rig, on_each_backend};
use crate::testkit::full_order as order;

mod fleet;
mod index;
pub(super) mod model;
mod store_calls;

pub(super) const SETTINGS: Settings = Settings { max_per_agent: 10, rate_window_secs: 60 };

/// Orders of the rig begin at 1000 s and end at 9000 s.
fn clock() -> Clock {
    Clock::manual(Timestamp::from_secs(1000))
}

async fn open(rig: &Rig, now: Now) -> Sessions {
    Sessions::load(rig.open().await, SETTINGS, now).await.unwrap()
}

pub(super) fn unlimited(agent: AgentId, call_budget: u64) -> WorkOrder {
    WorkOrder { rate_limit: None, ..order(agent, call_budget) }
}

/// One call as the gate makes it: asks, counts, and leases in between as often as it takes.
async fn call(sessions: &Sessions, live: &Arc<Live>, price: u64, now: Now) -> bool {
    let clock = Clock::manual(now.wall);
    let limit = live.order.rate_limit;
    loop {
        let refused = live.with(|usage| {
            let window = SETTINGS.rate_window_secs * 1_000_000;
            if budget::afford(usage, live.order.call_budget, price).is_err()
                || limit
                    .is_some_and(|limit| rate::fits(usage, limit, window, price, now.mono).is_err())
            {
                return Some(Refused::ForGood);
            }
            let counted = budget::count(usage, price, limit.is_some(), now.mono);
            counted.err().map(|budget::NotBooked| Refused::NotBooked)
        });
        match refused {
            None => return true,
            Some(Refused::ForGood) => return false,
            Some(Refused::NotBooked) => {
                sessions.lease(live, price, clock.mono(), &clock).await.unwrap();
            }
        }
    }
}

fn needs_lease(live: &Live, price: u64) -> bool {
    live.booking(price, 60_000_000, Mono(0)).is_some()
}

enum Refused {
    ForGood,
    NotBooked,
}

fn made(live: &Live) -> u64 {
    live.with(|usage| {
        assert!(usage.calls_made <= usage.booked && usage.booked <= live.order.call_budget);
        usage.calls_made
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_forty_creations_at_once_the_cap_gets_through() {
    on_each_backend(async |rig| {
        let now = clock().now();
        let sessions = Arc::new(open(&rig, now).await);
        let agent = AgentId::random();
        let creations: Vec<_> = (0..40)
            .map(|_| {
                let sessions = Arc::clone(&sessions);
                tokio::spawn(async move { sessions.create(order(agent, 1), now).await })
            })
            .collect();
        let mut created = 0;
        for creation in creations {
            match creation.await.unwrap() {
                Ok(_) => created += 1,
                Err(CreateError::TooManySessions { cap }) => assert_eq!(cap, 10),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((created, sessions.active_count(now)), (10, 10));
        sessions.create(order(AgentId::random(), 1), now).await.unwrap();
        drop(sessions);

        let sessions = open(&rig, now).await;
        assert!(sessions.create(order(agent, 1), now).await.is_err(), "the cap survives");
    })
    .await;
}

#[tokio::test]
async fn sessions_that_ended_or_were_never_stored_leave_their_place() {
    on_each_backend(async |rig| {
        let clock = clock();
        let store = rig.open().await;
        let sessions = Sessions::load(Arc::clone(&store), SETTINGS, clock.now()).await.unwrap();
        let agent = AgentId::random();
        store.refuse_writes(true).await;
        for _ in 0..20 {
            let failed = sessions.create(order(agent, 1), clock.now()).await;
            assert!(matches!(failed, Err(CreateError::Store(_))));
        }
        store.refuse_writes(false).await;
        let mut last = None;
        for _ in 0..10 {
            last = Some(sessions.create(order(agent, 1), clock.now()).await.unwrap());
        }
        assert!(sessions.create(order(agent, 1), clock.now()).await.is_err());
        sessions.close(last.unwrap().order.id, clock.now()).await.unwrap();
        sessions.create(order(agent, 1), clock.now()).await.unwrap();
        assert!(sessions.create(order(agent, 1), clock.now()).await.is_err());
        clock.advance_us(8_000_000_000);
        assert_eq!(sessions.active_count(clock.now()), 0);
        let expires_at = Timestamp::from_secs(10_000);
        let later = WorkOrder { expires_at, ..order(agent, 1) };
        sessions.create(later, clock.now()).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_callers_spend_exactly_the_budget() {
    on_each_backend(async |rig| {
        let now = clock().now();
        let sessions = Arc::new(open(&rig, now).await);
        let live = sessions.create(unlimited(AgentId::random(), 50), now).await.unwrap();
        let callers: Vec<_> = (0..200)
            .map(|_| {
                let (sessions, live) = (Arc::clone(&sessions), Arc::clone(&live));
                tokio::spawn(async move { call(&sessions, &live, 1, now).await })
            })
            .collect();
        let mut through = 0;
        for caller in callers {
            through += u64::from(caller.await.unwrap());
        }
        assert_eq!((through, made(&live)), (50, 50));
    })
    .await;
}

#[tokio::test]
async fn a_crash_costs_at_most_two_percent_and_never_gives_calls_back() {
    on_each_backend(async |rig| {
        let now = clock().now();
        let sessions = open(&rig, now).await;
        let live = sessions.create(unlimited(AgentId::random(), 1000), now).await.unwrap();
        for _ in 0..101 {
            assert!(call(&sessions, &live, 1, now).await);
        }
        assert_eq!(made(&live), 101);
        let id = live.order.id;
        drop((sessions, live));

        let sessions = open(&rig, now).await;
        let live = sessions.get(id).unwrap();
        assert!((101..=121).contains(&made(&live)), "{}", made(&live));
        let left = 1000 - made(&live);
        for _ in 0..left {
            assert!(call(&sessions, &live, 1, now).await);
        }
        assert!(!call(&sessions, &live, 1, now).await);
    })
    .await;
}

#[tokio::test]
async fn after_a_clean_stop_counts_and_windows_are_exact() {
    on_each_backend(async |rig| {
        let clock = clock();
        let store = rig.open().await;
        let sessions = Sessions::load(store, SETTINGS, clock.now()).await.unwrap();
        let live = sessions.create(order(AgentId::random(), 1000), clock.now()).await.unwrap();
        let id = live.order.id;
        clock.advance_us(100_000_000);
        for _ in 0..7 {
            assert!(call(&sessions, &live, 1, clock.now()).await);
            clock.advance_us(5_000_000);
        }
        sessions.close_all_leases(clock.now()).await.unwrap();
        drop((sessions, live));

        // A new run: its monotonic clock begins at zero. The first call was 35 s ago.
        let clock = Clock::manual(clock.now().wall);
        let sessions = open(&rig, clock.now()).await;
        let live = sessions.get(id).unwrap();
        assert_eq!(made(&live), 7);
        assert!(!call(&sessions, &live, 1, clock.now()).await);
        // Calls from before this run count as made at its beginning.
        clock.advance_us(59_999_999);
        assert!(!call(&sessions, &live, 1, clock.now()).await);
        clock.advance_us(1);
        assert!(call(&sessions, &live, 7, clock.now()).await);
    })
    .await;
}

#[tokio::test]
async fn after_a_crash_the_rate_counts_as_spent() {
    on_each_backend(async |rig| {
        let clock = clock();
        let sessions = open(&rig, clock.now()).await;
        let used = sessions.create(order(AgentId::random(), 1000), clock.now()).await.unwrap();
        let fresh = sessions.create(order(AgentId::random(), 1000), clock.now()).await.unwrap();
        assert!(call(&sessions, &used, 1, clock.now()).await);
        let (used, fresh) = (used.order.id, fresh.order.id);
        drop(sessions);

        let sessions = open(&rig, clock.now()).await;
        let (used, fresh) = (sessions.get(used).unwrap(), sessions.get(fresh).unwrap());
        assert!(!call(&sessions, &used, 1, clock.now()).await);
        assert!(call(&sessions, &fresh, 7, clock.now()).await);
        clock.advance_us(60_000_000);
        assert!(call(&sessions, &used, 7, clock.now()).await);
    })
    .await;
}

#[tokio::test]
async fn with_a_lease_in_hand_the_store_is_not_asked() {
    on_each_backend(async |rig| {
        let now = clock().now();
        let store = rig.open().await;
        let sessions = Sessions::load(Arc::clone(&store), SETTINGS, now).await.unwrap();
        let live = sessions.create(unlimited(AgentId::random(), 1000), now).await.unwrap();
        assert!(needs_lease(&live, 1));
        assert!(!needs_lease(&live, 0));
        assert!(!needs_lease(&live, 1001), "what never fits needs no lease");
        assert!(call(&sessions, &live, 1, now).await);
        store.refuse_writes(true).await;
        for _ in 0..19 {
            assert!(!needs_lease(&live, 1));
            assert!(call(&sessions, &live, 1, now).await);
        }
        assert!(sessions.lease(&live, 1, Mono(0), &clock()).await.is_err());
        assert_eq!(made(&live), 20);
        store.refuse_writes(false).await;
        assert!(call(&sessions, &live, 100, now).await, "a batch above the block");
        assert_eq!(made(&live), 120);
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_goes_away_while_booking_loses_nothing() {
    on_each_backend(async |rig| {
        let clock = clock();
        let now = clock.now();
        let sessions = open(&rig, now).await;
        let live = sessions.create(unlimited(AgentId::random(), 10), now).await.unwrap();
        for _ in 0..30 {
            // Asked once, then dropped.
            std::future::poll_fn(|context| {
                let lease = std::pin::pin!(sessions.lease(&live, 1, clock.mono(), &clock));
                std::task::Poll::Ready(lease.poll(context).is_ready())
            })
            .await;
        }
        for _ in 0..10 {
            assert!(call(&sessions, &live, 1, now).await);
        }
        assert!(!call(&sessions, &live, 1, now).await);
    })
    .await;
}

#[tokio::test]
async fn what_others_booked_counts_as_spent_here() {
    on_each_backend(async |rig| {
        let now = clock().now();
        let store = rig.open().await;
        let sessions = Sessions::load(Arc::clone(&store), SETTINGS, now).await.unwrap();
        let live = sessions.create(unlimited(AgentId::random(), 10), now).await.unwrap();
        assert!(call(&sessions, &live, 1, now).await);
        let elsewhere = Booking { id: live.order.id, least: 7, most: 7, unused: 0, rate: None };
        store.book(elsewhere).await.unwrap();
        assert!(call(&sessions, &live, 1, now).await);
        assert_eq!(made(&live), 9);
        assert!(!call(&sessions, &live, 2, now).await);
        assert!(call(&sessions, &live, 1, now).await);
        assert!(!call(&sessions, &live, 1, now).await);
    })
    .await;
}

#[tokio::test]
async fn a_closed_session_stays_closed() {
    on_each_backend(async |rig| {
        let now = clock().now();
        let store = rig.open().await;
        let sessions = Sessions::load(Arc::clone(&store), SETTINGS, now).await.unwrap();
        let agent = AgentId::random();
        let mut ids = Vec::new();
        for _ in 0..3 {
            let live = sessions.create(unlimited(agent, 1000), now).await.unwrap();
            assert!(call(&sessions, &live, 1, now).await);
            ids.push(live.order.id);
        }
        assert!(sessions.close(SessionId::random(), now).await.unwrap().is_none());
        let (closed, _) = sessions.close(ids[0], now).await.unwrap().unwrap();
        assert_eq!(closed.status(now), Status::Closed);
        assert!(!needs_lease(&closed, 100));

        store.refuse_writes(true).await;
        assert!(sessions.close(ids[1], now).await.is_err());
        assert_eq!(sessions.get(ids[1]).unwrap().status(now), Status::Closed, "at once");
        assert!(sessions.close_agents(&[agent], now).await.is_err());
        assert_eq!(sessions.active_count(now), 0);
        store.refuse_writes(false).await;
        sessions.cleanup(now).await.unwrap();
        drop((sessions, closed, store));

        let sessions = open(&rig, now).await;
        for id in ids {
            let live = sessions.get(id).unwrap();
            assert_eq!((live.status(now), made(&live)), (Status::Closed, 1));
        }
        assert_eq!(sessions.active_count(now), 0);
    })
    .await;
}

#[tokio::test]
async fn closing_agents_closes_their_sessions_and_no_others() {
    on_each_backend(async |rig| {
        let now = clock().now();
        let sessions = open(&rig, now).await;
        let (first, second, third) = (AgentId::random(), AgentId::random(), AgentId::random());
        for agent in [first, first, second, third] {
            sessions.create(order(agent, 1), now).await.unwrap();
        }
        assert_eq!(sessions.close_agents(&[first, second], now).await.unwrap().0, 3);
        assert_eq!(sessions.close_agents(&[first, second], now).await.unwrap().0, 0);
        let active = Filter { agent: None, status: Some(Status::Active) };
        let active = sessions.list(active, None, 10, now);
        assert_eq!(active.iter().map(|live| live.order.agent).collect::<Vec<_>>(), [third]);
    })
    .await;
}

#[tokio::test]
async fn listing_goes_page_by_page_in_the_order_of_creation() {
    let clock = clock();
    let sessions = open(&Rig::Memory(Arc::new(Store::memory())), clock.now()).await;
    let agents: Vec<AgentId> = (0..100).map(|_| AgentId::random()).collect();
    let mut created = Vec::new();
    for step in 0_u8..200 {
        let agent = agents[usize::from(step) / 2];
        let created_at = Timestamp(1_000_000_000 + i64::from(step / 7));
        let order = WorkOrder { created_at, ..order(agent, 1) };
        let live = sessions.create(order, clock.now()).await.unwrap();
        created.push((created_at, live.order.id));
        if step % 2 == 0 {
            sessions.close(live.order.id, clock.now()).await.unwrap();
        }
    }
    created.sort_unstable();
    let pages = |filter: Filter, size: usize| {
        let mut listed: Vec<SessionId> = Vec::new();
        loop {
            let page = sessions.list(filter, listed.last().copied(), size, clock.now());
            assert!(page.len() <= size);
            if page.is_empty() {
                return listed;
            }
            listed.extend(page.iter().map(|live| live.order.id));
        }
    };
    let all: Vec<SessionId> = created.iter().map(|&(_, id)| id).collect();
    assert_eq!(pages(Filter::default(), 7), all);
    assert_eq!(pages(Filter::default(), 1000), all);
    let closed = pages(Filter { status: Some(Status::Closed), agent: None }, 9);
    assert_eq!(closed.len(), 100);
    let of_one = pages(Filter { agent: Some(agents[3]), status: None }, 1);
    assert_eq!(of_one.len(), 2);
    let closed: HashSet<SessionId> = closed.into_iter().collect();
    assert_eq!(of_one.iter().filter(|id| closed.contains(id)).count(), 1);
    let unknown = sessions.list(Filter::default(), Some(SessionId::random()), 9, clock.now());
    assert!(unknown.is_empty());
}

#[tokio::test]
async fn ended_sessions_are_known_for_a_while_and_then_forgotten() {
    on_each_backend(async |rig| {
        let clock = clock();
        let sessions = open(&rig, clock.now()).await;
        let agent = AgentId::random();
        let closed = sessions.create(order(agent, 1), clock.now()).await.unwrap().order.id;
        let expires = sessions.create(order(agent, 1), clock.now()).await.unwrap().order.id;
        sessions.close(closed, clock.now()).await.unwrap();
        clock.advance_us(3_599_000_000);
        assert_eq!(sessions.cleanup(clock.now()).await.unwrap(), 0);
        clock.advance_us(1_000_000);
        assert_eq!(sessions.cleanup(clock.now()).await.unwrap(), 1);
        assert!(sessions.get(closed).is_none());
        clock.advance_us(4_400_000_000);
        assert_eq!(sessions.get(expires).unwrap().status(clock.now()), Status::Expired);
        drop(sessions);

        let clock = Clock::manual(clock.now().wall);
        let sessions = open(&rig, clock.now()).await;
        assert_eq!(sessions.get(expires).unwrap().status(clock.now()), Status::Expired);
        assert_eq!(sessions.active_count(clock.now()), 0);
        clock.advance_us(3_600_000_000);
        assert_eq!(sessions.cleanup(clock.now()).await.unwrap(), 1);
        assert_eq!(sessions.list(Filter::default(), None, 9, clock.now()).len(), 0);
        assert!(sessions.inner.index().is_empty());
        drop(sessions);
        assert!(rig.open().await.sessions(Timestamp(0)).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_was_too_old_to_be_loaded_is_forgotten_too() {
    on_each_backend(async |rig| {
        if !rig.open().await.outlives_the_process() {
            // There is no earlier run that could have left something.
            return;
        }
        let clock = clock();
        let sessions = open(&rig, clock.now()).await;
        sessions.create(order(AgentId::random(), 1), clock.now()).await.unwrap();
        drop(sessions);
        let clock = Clock::manual(Timestamp::from_secs(9000 + 3600));
        let sessions = open(&rig, clock.now()).await;
        assert_eq!(sessions.list(Filter::default(), None, 9, clock.now()).len(), 0);
        // By then the clock is believed.
        clock.advance_us(3_600_000_000);
        sessions.cleanup(clock.now()).await.unwrap();
        drop(sessions);
        assert!(rig.open().await.sessions(Timestamp(0)).await.unwrap().is_empty());
    })
    .await;
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Call { price: u64 },
    Wait { us: u64 },
    Crash,
    CleanStop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u64..4).prop_map(|price| Step::Call { price }),
        3 => (0_u64..40_000_000).prop_map(|us| Step::Wait { us }),
        1 => Just(Step::Crash),
        1 => Just(Step::CleanStop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_budget_and_rate_hold_and_counts_are_never_too_low(
        steps in prop::collection::vec(step(), 1..120),
        budget in 1_u64..200,
        limit in 3_u32..9,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::Memory(Arc::new(Store::memory()));
            let mut clock = clock();
            let mut sessions = open(&rig, clock.now()).await;
            let order = WorkOrder { rate_limit: Some(limit), ..order(AgentId::random(), budget) };
            let id = sessions.create(order, clock.now()).await.unwrap().order.id;
            let mut calls: Vec<(Timestamp, u64)> = Vec::new();
            let mut lost_at_most = 0;
            for step in steps {
                let live = sessions.get(id).unwrap();
                match step {
                    Step::Call { price } => {
                        if call(&sessions, &live, price, clock.now()).await {
                            calls.push((clock.now().wall, price));
                        }
                    }
                    Step::Wait { us } => clock.advance_us(us),
                    Step::Crash | Step::CleanStop => {
                        if matches!(step, Step::CleanStop) {
                            sessions.close_all_leases(clock.now()).await.unwrap();
                        } else {
                            // A batch of three books three, though two percent may be less.
                            lost_at_most += (budget / 50).max(1).max(3);
                        }
                        clock = Clock::manual(clock.now().wall);
                        sessions = open(&rig, clock.now()).await;
                    }
                }
                let truth: u64 = calls.iter().map(|(_, price)| price).sum();
                let counted = made(&sessions.get(id).unwrap());
                assert!(truth <= counted && counted <= truth + lost_at_most);
                assert!(truth <= budget);
            }
            for &(start, _) in &calls {
                let window = start.0..start.plus_secs(60).0;
                let inside = calls.iter().filter(|(at, _)| window.contains(&at.0));
                assert!(inside.map(|(_, price)| price).sum::<u64>() <= u64::from(limit));
            }
        });
    }
}
