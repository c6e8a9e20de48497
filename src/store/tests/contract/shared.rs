//! Promises of a shared store to its nodes: over the model of such a ledger, and over Redis.

use std::collections::BTreeMap;

use super::*;

/// A shared ledger, to which nodes come and from which they go.
enum Ledger {
    Model(Fleet, Clock),
    Redis(Server, Clock),
}

impl Ledger {
    async fn node(&self, name: &str) -> Arc<Store> {
        Arc::new(match self {
            Self::Model(fleet, _) => fleet.beside(name).into(),
            Self::Redis(server, clock) => server.node(name, clock.clone()).await,
        })
    }

    fn clock(&self) -> &Clock {
        match self {
            Self::Model(_, clock) | Self::Redis(_, clock) => clock,
        }
    }
}

/// The node is gone, without giving anything back.
async fn kill(store: &Store) {
    match store {
        Store::Fleet(fleet) => fleet.kill(),
        _ => store.close().await.unwrap(),
    }
}

async fn on_each_ledger(test: impl AsyncFn(Ledger)) {
    let now = clock();
    test(Ledger::Model(Fleet::new("first", now.clone()), now)).await;
    test(Ledger::Redis(Server::start().await, clock())).await;
}

fn settled(id: SessionId, unused: u64) -> Vec<Settlement> {
    vec![Settlement { id, unused, recent: None, rate: None }]
}

/// All changes of others since then, and where that leads.
async fn news(store: &Store, after: Position) -> (Vec<Change>, Position) {
    let found = store.shared().unwrap().changes(&after.into()).await.unwrap();
    (found.changes, found.bookmark.position)
}

#[tokio::test]
async fn the_cap_is_exact_however_many_open_at_once() {
    on_each_ledger(async |ledger| {
        let mut nodes = Vec::new();
        for name in ["a", "b", "c", "d"] {
            nodes.push(ledger.node(name).await);
        }
        let agent = agent(TrustLevel::Basic);
        nodes[0].insert_agent(&agent).await.unwrap();
        let openings: Vec<_> = (0..40)
            .map(|at| {
                let (store, order) = (Arc::clone(&nodes[at % 4]), Arc::new(order(agent.id, 5)));
                tokio::spawn(
                    async move { (order.id, store.insert_session(&order, 10).await.unwrap()) },
                )
            })
            .collect();
        let mut opened = Vec::new();
        for opening in openings {
            match opening.await.unwrap() {
                (id, Opened::Yes) => opened.push(id),
                (_, Opened::TooMany) => {}
                (_, Opened::NoAgent) => panic!("the agent is there"),
            }
        }
        assert_eq!(opened.len(), 10);

        let one_more = async |store: &Store| {
            store.insert_session(&Arc::new(order(agent.id, 5)), 10).await.unwrap()
        };
        let closing = Closing { id: opened[3], unused: 0 };
        nodes[1].close_sessions(vec![closing], Timestamp(1_000_000_001)).await.unwrap();
        assert_eq!(one_more(&nodes[2]).await, Opened::Yes);
        assert_eq!(one_more(&nodes[3]).await, Opened::TooMany);
        // All end after 8000 s.
        ledger.clock().advance_us(8_000_000_000);
        let later = WorkOrder { expires_at: Timestamp(20_000_000_000), ..order(agent.id, 5) };
        assert_eq!(nodes[0].insert_session(&Arc::new(later), 10).await.unwrap(), Opened::Yes);
    })
    .await;
}

#[tokio::test]
async fn only_agents_that_are_active_everywhere_open_sessions() {
    on_each_ledger(async |ledger| {
        let (a, b) = (ledger.node("a").await, ledger.node("b").await);
        let agent = agent(TrustLevel::Basic);
        let open = async |store: &Store| {
            store.insert_session(&Arc::new(order(agent.id, 5)), CAP).await.unwrap()
        };
        assert_eq!(open(&a).await, Opened::NoAgent);
        b.insert_agent(&agent).await.unwrap();
        assert_eq!(open(&a).await, Opened::Yes);
        b.take_away(vec![inactive(agent.id)], START).await.unwrap();
        assert_eq!(open(&a).await, Opened::NoAgent);
    })
    .await;
}

#[tokio::test]
async fn what_others_hold_is_told_wanted_and_given_back() {
    on_each_ledger(async |ledger| {
        let (a, b, c) = (ledger.node("a").await, ledger.node("b").await, ledger.node("c").await);
        let order = opened(&a, 10).await;
        let start = a.shared().unwrap().position().await.unwrap();
        assert_eq!(a.book(calls(order.id, 6)).await.unwrap().granted, 6);
        assert_eq!(c.book(calls(order.id, 2)).await.unwrap().granted, 2);
        let short = b.book(calls(order.id, 5)).await.unwrap();
        assert_eq!(short, Booked { elsewhere: 8, ..Booked::alone(0, 8) });
        assert_eq!(news(&a, start).await.0, [Change::Wanted(order.id)]);

        // A node that is gone cannot give back, and what it held stays spent.
        kill(&c).await;
        let short = b.book(calls(order.id, 5)).await.unwrap();
        assert_eq!(short, Booked { elsewhere: 6, ..Booked::alone(0, 8) });

        a.settle(settled(order.id, 4)).await.unwrap();
        let short = b.book(calls(order.id, 7)).await.unwrap();
        assert_eq!(short, Booked::alone(0, 4));
        assert_eq!(b.book(calls(order.id, 5)).await.unwrap(), Booked::alone(5, 9));
    })
    .await;
}

#[tokio::test]
async fn giving_back_twice_is_giving_back_once() {
    on_each_ledger(async |ledger| {
        let (a, b) = (ledger.node("a").await, ledger.node("b").await);
        let order = opened(&a, 100).await;
        let booked = async || a.shared().unwrap().session(order.id).await.unwrap().unwrap().booked;
        a.book(calls(order.id, 20)).await.unwrap();
        b.book(calls(order.id, 30)).await.unwrap();
        a.settle(settled(order.id, 15)).await.unwrap();
        assert_eq!(booked().await, 35);
        a.settle(settled(order.id, 15)).await.unwrap();
        assert_eq!(booked().await, 35);
        // Nobody gives back what it does not hold.
        b.settle(settled(order.id, 1_000)).await.unwrap();
        assert_eq!(booked().await, 5);
        // With a booking a node says what it still holds of earlier ones.
        b.book(Booking { unused: 0, ..calls(order.id, 4) }).await.unwrap();
        b.book(Booking { unused: 1, ..calls(order.id, 4) }).await.unwrap();
        b.settle(settled(order.id, 1_000)).await.unwrap();
        assert_eq!(booked().await, 8);
        a.settle(settled(SessionId::random(), 1)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_session_closed_anywhere_is_closed_everywhere() {
    on_each_ledger(async |ledger| {
        let (a, b) = (ledger.node("a").await, ledger.node("b").await);
        let order = opened(&a, 100).await;
        assert_eq!(b.shared().unwrap().session(order.id).await.unwrap().unwrap().order, order);
        assert_eq!(b.shared().unwrap().session(SessionId::random()).await.unwrap(), None);
        b.book(calls(order.id, 20)).await.unwrap();
        let closing = Closing { id: order.id, unused: 3 };
        let start = b.shared().unwrap().position().await.unwrap();
        a.close_sessions(vec![closing], Timestamp(2_000_000_000)).await.unwrap();
        a.close_sessions(vec![closing], Timestamp(3_000_000_000)).await.unwrap();
        let booked = b.book(calls(order.id, 1)).await.unwrap();
        assert!(booked.closed && booked.granted == 0, "{booked:?}");
        let at = Timestamp(2_000_000_000);
        assert_eq!(news(&b, start).await.0, [Change::SessionClosed { id: order.id, at }]);
        assert_eq!(news(&a, start).await.0, [Change::SessionClosed { id: order.id, at }]);
        // Its calls were never `a`'s to give back.
        let stored = b.shared().unwrap().session(order.id).await.unwrap().unwrap();
        assert_eq!((stored.booked, stored.closed_at), (20, Some(at)));
        b.settle(settled(order.id, 15)).await.unwrap();
        assert_eq!(a.shared().unwrap().session(order.id).await.unwrap().unwrap().booked, 5);
    })
    .await;
}

#[tokio::test]
async fn every_node_hears_what_all_did_in_order() {
    on_each_ledger(async |ledger| {
        let (a, b) = (ledger.node("a").await, ledger.node("b").await);
        let start = b.shared().unwrap().position().await.unwrap();
        assert_eq!(news(&b, start).await, (vec![], start));
        let (first, second) = (agent(TrustLevel::Trusted), agent(TrustLevel::Basic));
        a.insert_agent(&first).await.unwrap();
        b.insert_agent(&second).await.unwrap();
        let delegation = Delegation {
            id: Uuid::new_v4(),
            from: first.id,
            to: second.id,
            scopes: vec![],
            created_at: Timestamp(6),
            expires_at: Some(Timestamp(i64::MAX)),
        };
        assert_eq!(a.put_delegation(&delegation, 0).await.unwrap(), 1);
        a.set_trust(first.id, TrustLevel::Basic, 6).await.unwrap();
        let taken = lowered(second.id, TrustLevel::Untrusted, 0);
        a.take_away(vec![taken], START).await.unwrap();
        a.take_away(vec![taken], START).await.unwrap();
        let order = Arc::new(order(first.id, 3));
        a.insert_session(&order, CAP).await.unwrap();
        a.revoke_token("t", Timestamp(i64::MAX), START).await.unwrap();
        let (heard, middle) = news(&b, start).await;
        let trust = Change::Trust { id: first.id, level: TrustLevel::Basic, number: 7 };
        let until = Timestamp(i64::MAX);
        let expected = [
            Change::Registered(first.clone()),
            Change::Registered(second.clone()),
            Change::Delegation { delegation: delegation.clone(), version: 1 },
            trust,
            Change::TakenAway(taken),
            Change::SessionOpened(order),
            Change::TokenRevoked { token_id: "t".to_owned(), until },
        ];
        assert_eq!(heard, expected);
        assert_eq!(news(&a, start).await.0, expected, "its own as well: an answer may be lost");

        a.flag(second.id, 2, START).await.unwrap();
        a.take_away(vec![inactive(second.id)], START).await.unwrap();
        assert_eq!(a.end_delegations(vec![delegation.id]).await.unwrap().0, 2);
        assert_eq!(a.end_delegations(vec![delegation.id]).await.unwrap().0, 2);
        let (later, end) = news(&b, middle).await;
        let flags = Change::Flagged { agent: second.id, flags: 2 };
        let ended = Change::DelegationEnded { id: delegation.id, version: 2 };
        let gone = Change::TakenAway(inactive(second.id));
        assert_eq!(later, [flags, gone.clone(), ended.clone()]);
        assert_eq!(end, b.shared().unwrap().position().await.unwrap());
        assert_eq!(news(&a, middle).await, (vec![gone, ended], end), "but for what it counted");
        // What has not been yet cannot have been seen.
        let missed = b.shared().unwrap().changes(&Position(end.0 + 1).into()).await.unwrap_err();
        assert!(matches!(missed, StoreError::Missed), "{missed}");
    })
    .await;
}

#[tokio::test]
async fn nothing_is_booked_of_what_has_ended_by_the_ledgers_time() {
    on_each_ledger(async |ledger| {
        let a = ledger.node("a").await;
        let order = opened(&a, 10).await;
        a.book(calls(order.id, 2)).await.unwrap();
        ledger.clock().advance_us(7_999_999_999);
        assert_eq!(a.book(calls(order.id, 1)).await.unwrap(), Booked::alone(1, 3));
        ledger.clock().advance_us(1);
        let ended = a.book(calls(order.id, 1)).await.unwrap();
        assert_eq!(ended, Booked { ended: true, ..Booked::alone(0, 3) });
        assert_eq!(a.shared().unwrap().time().await.unwrap(), order.expires_at);
    })
    .await;
}

#[tokio::test]
async fn news_wakes_whoever_waits_for_it() {
    on_each_ledger(async |ledger| {
        let (a, b) = (ledger.node("a").await, ledger.node("b").await);
        let mut position = b.shared().unwrap().position().await.unwrap();
        let agent = agent(TrustLevel::Basic);
        let told = a.flag(agent.id, 1, START);
        let heard = async {
            loop {
                let (changes, next) = news(&b, position).await;
                position = next;
                if !changes.is_empty() {
                    return changes;
                }
            }
        };
        let (told, heard) = tokio::join!(told, heard);
        told.unwrap();
        assert_eq!(heard, [Change::Flagged { agent: agent.id, flags: 1 }]);
    })
    .await;
}

#[tokio::test]
async fn a_delegation_checked_against_others_than_there_are_is_refused() {
    on_each_ledger(async |ledger| {
        let (a, b) = (ledger.node("a").await, ledger.node("b").await);
        let delegation = || Delegation {
            id: Uuid::new_v4(),
            from: AgentId::random(),
            to: AgentId::random(),
            scopes: vec![],
            created_at: Timestamp(6),
            expires_at: None,
        };
        let (first, second) = (delegation(), delegation());
        assert_eq!(a.put_delegation(&first, 0).await.unwrap(), 1);
        let refused = b.put_delegation(&second, 0).await.unwrap_err();
        assert!(matches!(refused, StoreError::Overtaken), "{refused}");
        assert_eq!(b.put_delegation(&second, 1).await.unwrap(), 2);
        // One that is ended and one that is added leave as many as there were.
        a.end_delegations(vec![first.id]).await.unwrap();
        let refused = b.put_delegation(&first, 2).await.unwrap_err();
        assert!(matches!(refused, StoreError::Overtaken), "{refused}");
        b.put_delegation(&first, 3).await.unwrap();
        assert_eq!(a.delegations().await.unwrap().all.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn permits_of_all_nodes_together_keep_the_limit_in_every_window() {
    const WINDOW_US: u64 = 60_000_000;
    on_each_ledger(async |ledger| {
        let nodes = [ledger.node("a").await, ledger.node("b").await, ledger.node("c").await];
        let order = opened(&nodes[0], 1_000).await;
        let ask = async |at: usize, before: Option<RateUse>| {
            let rate = RateBooking { limit: 100, window_us: WINDOW_US, least: 1, before };
            let booking = Booking { rate: Some(rate), ..calls(order.id, 1) };
            nodes[at % 3].book(booking).await.unwrap()
        };
        let mut leases: BTreeMap<usize, RateBooked> = BTreeMap::new();
        let mut permitted = 0;
        let mut refused = None;
        for at in 0..200 {
            let booked = ask(at, None).await;
            let rate = booked.rate.unwrap();
            assert_eq!(booked.granted > 0, rate.granted > 0);
            if rate.granted == 0 {
                refused = Some(rate);
                break;
            }
            permitted += rate.granted;
            assert_eq!(rate.good_for_us, 1_000_000);
            leases.insert(at, rate);
        }
        assert_eq!(permitted, 100);
        // They may be used until a second from now: until then and a window.
        let refused = refused.unwrap();
        assert_eq!(
            refused,
            RateBooked { lease: 0, granted: 0, good_for_us: 0, wait_us: 61_000_000 }
        );

        // Those that were not used are free at once, for any node.
        let (at, rate) = leases.pop_first().unwrap();
        let unused = RateUse { lease: rate.lease, used: 1, ago_us: 0 };
        let again = ask(at, Some(unused)).await.rate.unwrap();
        assert!(again.granted > 0 && again.granted < rate.granted, "{again:?}");
        // What another node says of them counts for nothing.
        let (at, rate) = leases.pop_first().unwrap();
        let lie = RateUse { lease: rate.lease, used: 0, ago_us: 0 };
        nodes[(at + 1) % 3]
            .settle(vec![Settlement { id: order.id, unused: 0, recent: None, rate: Some(lie) }])
            .await
            .unwrap();
        while ask(0, None).await.granted > 0 {
            permitted += 1;
        }
        assert!(permitted < 200);
        // The one that was used leaves the window first.
        ledger.clock().advance_us(59_999_999);
        assert_eq!(ask(2, None).await.granted, 0);
        ledger.clock().advance_us(1);
        assert!(ask(1, None).await.granted > 0);
    })
    .await;
}
