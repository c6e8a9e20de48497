//! Sessions: kept, booked, settled, closed and forgotten.

use super::*;

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
