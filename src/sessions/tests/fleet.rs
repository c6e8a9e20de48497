//! Several nodes on one ledger: what they may spend together, and what they tell each other.

use std::time::Duration;

use super::super::*;
use super::{SETTINGS, unlimited};
use crate::firewall::checks::budget;
use crate::firewall::node_share::RateShort;
use crate::store::tests::fleet::Fleet;
use crate::store::{Bookmark, Change, Position, Store};
use crate::testkit::full_order as order;

/// One node: its sessions, and a task that follows the others until it is dropped.
struct Node {
    sessions: Arc<Sessions>,
    store: Arc<Store>,
    clock: Clock,
    follower: tokio::task::JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Node {
    async fn start(fleet: Fleet, clock: &Clock) -> Self {
        let store = Arc::new(Store::from(fleet));
        let position = store.shared().unwrap().position().await.unwrap();
        let opened = Sessions::load(Arc::clone(&store), SETTINGS, clock.now()).await;
        let sessions = Arc::new(opened.unwrap());
        let follower = tokio::spawn(follow(
            Arc::clone(&store),
            Arc::clone(&sessions),
            clock.clone(),
            position,
        ));
        Self { sessions, store, clock: clock.clone(), follower }
    }

    fn fleet(&self) -> &Fleet {
        let Store::Fleet(fleet) = &*self.store else { panic!("a fleet") };
        fleet
    }

    async fn live(&self, id: SessionId) -> Arc<Live> {
        self.sessions.find(id, &self.clock).await.unwrap().unwrap()
    }

    /// One call, as the gate makes it.
    async fn call(&self, live: &Arc<Live>, price: u64) -> bool {
        loop {
            let now = self.clock.mono();
            match count(live, price, now) {
                Counted::Yes => return true,
                Counted::No => return false,
                Counted::LeaseFirst => {
                    if self
                        .sessions
                        .lease(live, price, self.clock.mono(), &self.clock)
                        .await
                        .is_err()
                    {
                        return false;
                    }
                }
            }
        }
    }

    async fn calls_until_refused(&self, id: SessionId, price: u64) -> u64 {
        let live = self.live(id).await;
        let mut made = 0;
        while self.call(&live, price).await {
            made += price;
            tokio::task::yield_now().await;
        }
        made
    }

    fn kill(self) {
        self.fleet().kill();
    }
}

async fn follow(store: Arc<Store>, sessions: Arc<Sessions>, clock: Clock, from: Position) {
    let mut bookmark = Bookmark::from(from);
    loop {
        let Ok(changes) = store.shared().unwrap().changes(&bookmark).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        for change in changes.changes {
            match change {
                Change::SessionOpened(order) => sessions.opened(&order, clock.now()),
                Change::SessionClosed { id, .. } => sessions.closed(id, clock.now()),
                Change::Wanted(id) => sessions.wanted_elsewhere(id, &clock),
                _ => {}
            }
        }
        bookmark = changes.bookmark;
    }
}

enum Counted {
    Yes,
    No,
    LeaseFirst,
}

fn count(live: &Live, price: u64, now: Mono) -> Counted {
    live.with(|usage| {
        assert!(usage.calls_made <= usage.booked && usage.booked <= live.order.call_budget);
        if usage.closed {
            return Counted::No;
        }
        if budget::afford(usage, live.order.call_budget, price).is_err() {
            return if usage.may_regain(now) { Counted::LeaseFirst } else { Counted::No };
        }
        if live.order.rate_limit.is_some() {
            match usage.shared.as_ref().unwrap().permit(price, now) {
                Ok(()) => {}
                Err(RateShort::NotLeased) => return Counted::LeaseFirst,
                Err(RateShort::Limited { .. }) => return Counted::No,
            }
        }
        match budget::count(usage, price, live.order.rate_limit.is_some(), now) {
            Ok(()) => Counted::Yes,
            Err(budget::NotBooked) => Counted::LeaseFirst,
        }
    })
}

async fn nodes(clock: &Clock, count: usize) -> (Vec<Node>, AgentId) {
    let first = Fleet::new("node 0", clock.clone());
    let agent = AgentId::random();
    first.register(agent);
    let others: Vec<Fleet> = (1..count).map(|n| first.beside(&format!("node {n}"))).collect();
    let mut nodes = Vec::new();
    for fleet in [first].into_iter().chain(others) {
        nodes.push(Node::start(fleet, clock).await);
    }
    (nodes, agent)
}

/// Orders of the rig begin at 1000 s and end at 9000 s; the clock moves.
fn clock() -> Clock {
    let clock = Clock::manual(Timestamp::from_secs(1000));
    let moving = clock.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            moving.advance_us(1_000);
        }
    });
    clock
}

#[tokio::test(start_paused = true)]
async fn four_nodes_spend_a_budget_to_its_last_call_and_no_further() {
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 4).await;
    let live = nodes[0].sessions.create(unlimited(agent, 10_000), clock.now()).await.unwrap();
    let id = live.order.id;
    let mut made = Vec::new();
    let calls = nodes.iter().map(|node| node.calls_until_refused(id, 1));
    made.extend(futures::future::join_all(calls).await);
    assert_eq!(made.iter().sum::<u64>(), 10_000, "{made:?}");
    assert!(made.iter().all(|&made| made > 0), "{made:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_call_is_reachable_from_any_node() {
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 4).await;
    for last in 0..4 {
        let order = unlimited(agent, 1_000);
        let live = nodes[0].sessions.create(order, clock.now()).await.unwrap();
        let id = live.order.id;
        // Every node takes a lease and leaves most of it.
        for node in &nodes {
            let live = node.live(id).await;
            assert!(node.call(&live, 1).await);
        }
        let made = nodes[last].calls_until_refused(id, 1).await;
        assert_eq!(made, 996);
        nodes[0].sessions.close(id, clock.now()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_node_held_is_spent() {
    let clock = clock();
    let (mut nodes, agent) = nodes(&clock, 3).await;
    let live = nodes[0].sessions.create(unlimited(agent, 1_000), clock.now()).await.unwrap();
    let id = live.order.id;
    let killed = nodes.remove(1);
    let held = killed.live(id).await;
    assert!(killed.call(&held, 1).await);
    let lease = held.with(|usage| usage.booked);
    killed.kill();
    let made =
        futures::future::join_all(nodes.iter().map(|node| node.calls_until_refused(id, 1))).await;
    assert_eq!(lease, 20, "2 % of the budget");
    assert_eq!(made.iter().sum::<u64>() + lease, 1_000, "{made:?}");
}

#[tokio::test(start_paused = true)]
async fn two_batches_that_wait_for_each_other_do_not_both_fail() {
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 2).await;
    let live = nodes[0].sessions.create(unlimited(agent, 10), clock.now()).await.unwrap();
    let id = live.order.id;
    let (one, two) = (nodes[0].live(id).await, nodes[1].live(id).await);
    assert!(nodes[0].call(&one, 3).await && nodes[1].call(&two, 1).await);
    let (first, second) = tokio::join!(nodes[0].call(&one, 5), nodes[1].call(&two, 5));
    assert!(first != second, "one of them: {first} {second}");
    assert!(nodes[0].call(&one, 1).await);
    assert!(!nodes[1].call(&two, 1).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_idle_goes_back_after_a_second() {
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 2).await;
    let live = nodes[0].sessions.create(unlimited(agent, 1_000), clock.now()).await.unwrap();
    assert!(nodes[0].call(&live, 1).await);
    let booked = || async {
        let stored =
            nodes[1].store.shared().unwrap().session(live.order.id).await.unwrap().unwrap();
        stored.booked
    };
    assert_eq!(booked().await, 20);
    assert_eq!(nodes[0].sessions.return_idle(&clock).await.unwrap(), 0);
    clock.advance_us(900_000);
    assert!(nodes[0].call(&live, 1).await);
    assert_eq!(nodes[0].sessions.return_idle(&clock).await.unwrap(), 0, "it is used");
    clock.advance_us(1_000_001);
    assert_eq!(nodes[0].sessions.return_idle(&clock).await.unwrap(), 1);
    assert_eq!(booked().await, 2);
    assert_eq!(nodes[0].sessions.return_idle(&clock).await.unwrap(), 0);
    assert!(nodes[0].call(&live, 1).await, "and comes again");
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_holds_for_the_sum_of_all_nodes() {
    const LIMIT: u32 = 40;
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 4).await;
    let order = WorkOrder { rate_limit: Some(LIMIT), ..order(agent, 100_000) };
    let id = order.id;
    nodes[0].sessions.create(order, clock.now()).await.unwrap();
    let mut made: Vec<u64> = Vec::new();
    let until = Mono(clock.mono().0 + 200_000_000);
    while clock.mono() < until {
        for node in &nodes {
            let live = node.live(id).await;
            if node.call(&live, 1).await {
                made.push(clock.mono().0);
            }
            node.sessions.return_idle(&clock).await.unwrap();
        }
        clock.advance_us(50_000);
    }
    let window_us = SETTINGS.rate_window_secs * 1_000_000;
    for (first, &at) in made.iter().enumerate() {
        let in_window = made[first..].iter().take_while(|&&later| later < at + window_us).count();
        assert!(in_window <= usize::try_from(LIMIT).unwrap(), "{in_window} from {at}");
    }
    // Three whole windows and the beginning of a fourth, less what waits for its node's word.
    assert!(made.len() >= 4 * 38 && made.len() <= 4 * 40, "{}", made.len());
}

#[tokio::test(start_paused = true)]
async fn a_close_reaches_every_node_and_so_does_a_new_session() {
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 3).await;
    let live = nodes[0].sessions.create(unlimited(agent, 100), clock.now()).await.unwrap();
    let id = live.order.id;
    let elsewhere = nodes[2].live(id).await;
    assert!(nodes[2].call(&elsewhere, 1).await);
    nodes[1].sessions.find(id, &clock).await.unwrap().unwrap();
    nodes[1].sessions.close(id, clock.now()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), async {
        while elsewhere.status(clock.now()) != Status::Closed {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(!nodes[2].call(&elsewhere, 1).await);
    let unknown = nodes[0].sessions.find(SessionId::random(), &clock).await.unwrap();
    assert!(unknown.is_none());
}

/// Closed by one node, which is gone; another one hears of it by the answer to its booking alone, which
/// a server gave that is gone too, and which comes when the node follows the next one already.
#[tokio::test(start_paused = true)]
async fn a_session_that_ends_while_its_last_call_is_booked_is_closed_at_the_next_server() {
    let clock = clock();
    let (mut nodes, agent) = nodes(&clock, 2).await;
    let live = nodes[0].sessions.create(unlimited(agent, 100), clock.now()).await.unwrap();
    let id = live.order.id;
    let backup = nodes[0].fleet().backup();
    nodes[1].live(id).await;
    nodes[1].follower.abort();
    nodes[0].sessions.close(id, clock.now()).await.unwrap();
    nodes.remove(0).kill();
    let knows = &nodes[0];
    let held = knows.live(id).await;
    assert!(!held.is_closed());
    knows.fleet().hold_answers(true);
    let calling = knows.call(&held, 1);
    let failing_over = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        knows.fleet().fail_over(&backup);
        knows.sessions.assert_closed(clock.now()).await.unwrap();
        let stored = knows.store.shared().unwrap().session(id).await.unwrap().unwrap();
        assert!(stored.closed_at.is_none() && !held.is_closed());
        knows.fleet().hold_answers(false);
    };
    let (made, ()) = tokio::join!(calling, failing_over);
    assert!(!made && held.is_closed());
    let restarted = Node::start(knows.fleet().beside("node 0, restarted"), &clock).await;
    let elsewhere = restarted.live(id).await;
    assert_eq!(elsewhere.status(clock.now()), Status::Closed);
    assert!(!restarted.call(&elsewhere, 1).await);
}

/// The answer to a close comes from a server that is gone while the next one cannot be reached.
#[tokio::test(start_paused = true)]
async fn a_late_answer_of_a_server_that_is_gone_settles_nothing_at_the_next_one() {
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 1).await;
    let live = nodes[0].sessions.create(unlimited(agent, 100), clock.now()).await.unwrap();
    let id = live.order.id;
    let (node, backup) = (&nodes[0], nodes[0].fleet().backup());
    node.fleet().hold_answers(true);
    let closing = node.sessions.close(id, clock.now());
    let failing_over = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        node.fleet().fail_over(&backup);
        node.fleet().cut_off(true);
        node.fleet().hold_answers(false);
        // The attempt at the next server begins before the late answer is heard, and fails.
        node.sessions.assert_closed(clock.now()).await.unwrap_err();
    };
    let (closed, ()) = tokio::join!(closing, failing_over);
    closed.unwrap().unwrap();
    node.fleet().cut_off(false);
    node.sessions.cleanup(clock.now()).await.unwrap();
    let stored = node.store.shared().unwrap().session(id).await.unwrap().unwrap();
    assert!(stored.closed_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_cap_counts_over_all_nodes() {
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 4).await;
    let creations = (0..40).map(|n| {
        let node = &nodes[n % 4];
        node.sessions.create(unlimited(agent, 10), node.clock.now())
    });
    let created = futures::future::join_all(creations).await;
    assert_eq!(created.iter().filter(|created| created.is_ok()).count(), 10);
}

#[tokio::test(start_paused = true)]
async fn without_the_ledger_what_is_leased_is_used_up_and_no_more() {
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 2).await;
    let live = nodes[0].sessions.create(unlimited(agent, 1_000), clock.now()).await.unwrap();
    assert!(nodes[0].call(&live, 1).await);
    nodes[0].fleet().cut_off(true);
    let mut made = 1;
    while nodes[0].call(&live, 1).await {
        made += 1;
    }
    assert_eq!(made, 20);
    assert!(nodes[0].sessions.lease(&live, 1, clock.mono(), &clock).await.is_err());
    nodes[0].fleet().cut_off(false);
    assert!(nodes[0].call(&live, 1).await, "and goes on by itself");
}

#[tokio::test(start_paused = true)]
async fn with_a_lease_in_hand_the_ledger_is_not_asked() {
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 1).await;
    let live = nodes[0].sessions.create(unlimited(agent, 100_000), clock.now()).await.unwrap();
    for _ in 0..2_000 {
        assert!(nodes[0].call(&live, 1).await);
    }
    assert_eq!(nodes[0].fleet().bookings(), 1);
    assert!(nodes[0].call(&live, 1).await);
    assert_eq!(nodes[0].fleet().bookings(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_missed_changes_loads_everything_anew() {
    let clock = clock();
    let (nodes, agent) = nodes(&clock, 2).await;
    let one = nodes[0].sessions.create(unlimited(agent, 100), clock.now()).await.unwrap();
    let gone = nodes[1].live(one.order.id).await;
    nodes[1].follower.abort();
    nodes[0].sessions.close(one.order.id, clock.now()).await.unwrap();
    let two = nodes[0].sessions.create(unlimited(agent, 100), clock.now()).await.unwrap();
    nodes[1].sessions.reload(clock.now()).await.unwrap();
    assert_eq!(gone.status(clock.now()), Status::Closed);
    assert!(nodes[1].sessions.get(two.order.id).is_some());
    // What the ledger has lost is not served.
    let backup = nodes[0].fleet().backup();
    let three = nodes[0].sessions.create(unlimited(agent, 100), clock.now()).await.unwrap();
    nodes[1].sessions.reload(clock.now()).await.unwrap();
    assert!(nodes[1].sessions.get(three.order.id).is_some());
    let after = nodes[0].fleet().backup();
    nodes[0].fleet().fail_over(&backup);
    nodes[1].sessions.reload(clock.now()).await.unwrap();
    assert!(nodes[1].sessions.get(three.order.id).is_none());
    // Until the ledger has it again.
    nodes[0].fleet().fail_over(&after);
    nodes[1].sessions.reload(clock.now()).await.unwrap();
    assert!(nodes[1].sessions.get(three.order.id).is_some());
}
