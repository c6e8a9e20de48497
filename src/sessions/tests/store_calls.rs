//! Number of store calls, and short waits for them.

use super::*;
use crate::store::tests::contract::CAP;

fn asked(store: &Store) -> u64 {
    let Store::Sqlite(sqlite) = store else { panic!("the test is about the file") };
    sqlite.asked()
}

fn rig() -> Rig {
    Rig::Sqlite(tempfile::tempdir().unwrap())
}

/// With a lease in hand, a call asks nobody: a thousand calls cost seventy bookings,
/// more towards the end than at the beginning, and nothing else.
#[tokio::test]
async fn the_store_is_asked_once_a_lease() {
    const BUDGET: u64 = 1000;
    let (rig, now) = (rig(), clock().now());
    let store = rig.open().await;
    let sessions = Sessions::load(Arc::clone(&store), SETTINGS, now).await.unwrap();
    let live = sessions.create(unlimited(AgentId::random(), BUDGET), now).await.unwrap();
    let (before, mut leases) = (asked(&store), 0);
    for n in 1..=BUDGET {
        let (booked, earlier) = (live.with(|usage| usage.booked), asked(&store));
        let in_hand = booked >= n;
        assert!(call(&sessions, &live, 1, now).await);
        leases += u64::from(!in_hand);
        assert_eq!(asked(&store) - earlier, u64::from(!in_hand), "call {n}");
    }
    assert_eq!((asked(&store) - before, leases), (70, 70));
    assert!(!call(&sessions, &live, 1, now).await, "the budget is spent");
    assert_eq!(asked(&store) - before, 70, "a refusal asks nobody");
}

/// Bookings wait for one small transaction while sessions are forgotten, not for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bookings_go_on_while_ended_sessions_are_forgotten() {
    const ENDED: usize = 10_000;
    let (rig, clock) = (rig(), clock());
    let store = rig.open().await;
    let inserts: Vec<_> = (0..ENDED)
        .map(|_| {
            let (store, order) = (Arc::clone(&store), Arc::new(order(AgentId::random(), 10)));
            tokio::spawn(async move { store.insert_session(&order, CAP).await.unwrap() })
        })
        .collect();
    for insert in inserts {
        insert.await.unwrap();
    }
    let sessions = Sessions::load(Arc::clone(&store), SETTINGS, clock.now()).await.unwrap();
    let sessions = Arc::new(sessions);
    clock.advance_us(8_000_000_000 + RETENTION_SECS * 1_000_000);
    let now = clock.now();
    let expires_at = now.wall.plus_secs(60);
    // Each call is a booking.
    let order = WorkOrder { expires_at, ..unlimited(AgentId::random(), 49) };
    let mut live = sessions.create(order.clone(), now).await.unwrap();
    let cleaning = {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move { sessions.cleanup(now).await.unwrap() })
    };
    let (mut took, mut spent, watch) = (Vec::new(), 0, Clock::system());
    while !cleaning.is_finished() {
        let started = watch.now().mono;
        assert!(call(&sessions, &live, 1, now).await);
        took.push(watch.now().mono.since(started));
        spent += 1;
        if spent == 49 {
            let agent = AgentId::random();
            let again = WorkOrder { id: SessionId::random(), agent, ..order.clone() };
            live = sessions.create(again, now).await.unwrap();
            spent = 0;
        }
    }
    assert_eq!(cleaning.await.unwrap(), ENDED);
    took.sort_unstable();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{} bookings, median {median} µs, longest {longest} µs", took.len());
    // There are as many transactions as there are parts, and a booking fits between any two.
    let parts = ENDED / FORGET_AT_ONCE;
    assert!(took.len() >= parts / 2, "{} bookings in {parts} parts", took.len());
}
