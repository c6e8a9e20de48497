//! The script that books tested against the model of an account, over random histories of three nodes.
//! All other scripts: see `every_script`.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Server, histories};
use crate::clock::Clock;
use crate::firewall::agent::{AgentId, TrustLevel};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::store::ledger::account::Account;
use crate::store::{Booking, NodeName, RateBooking, RateUse, Settlement, Store};
use crate::testkit::{full_agent as agent, full_order as order};

const NODES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Book { node: usize, least: u64, most: u64, unused: u64, rate: Option<RateBooking> },
    GiveBack { node: usize, unused: u64, rate: Option<RateUse> },
    Wait { us: u64 },
}

fn rate_use() -> impl Strategy<Value = Option<RateUse>> {
    // Leases are numbered from one: most of these are somebody's.
    let some = (1_u64..12, 0_u64..6, 0_u64..3_000_000);
    prop::option::of(some.prop_map(|(lease, used, ago_us)| RateUse { lease, used, ago_us }))
}

fn step(limit: u32, window_us: u64) -> impl Strategy<Value = Step> {
    let rate = (0_u64..4, rate_use()).prop_map(move |(least, before)| RateBooking {
        limit,
        window_us,
        least,
        before,
    });
    prop_oneof![
        6 => (0..NODES, 0_u64..5, 0_u64..20, 0_u64..8, prop::option::of(rate)).prop_map(
            |(node, least, more, unused, rate)| Step::Book {
                node, least, most: least + more, unused, rate
            }
        ),
        2 => (0..NODES, 0_u64..8, rate_use())
            .prop_map(|(node, unused, rate)| Step::GiveBack { node, unused, rate }),
        2 => (0..window_us).prop_map(|us| Step::Wait { us }),
    ]
}

fn history() -> impl Strategy<Value = (u64, Vec<Step>)> {
    let budget = prop_oneof![0_u64..60, Just(1 << 53), (1_u64 << 53) - 30..1 << 53];
    let windows = prop_oneof![Just(60_000_000_u64), Just(999), Just(1_000_003)];
    (budget, 1_u32..80, windows).prop_flat_map(|(budget, limit, window_us)| {
        (Just(budget), prop::collection::vec(step(limit, window_us), 1..60))
    })
}

#[test]
fn whatever_is_asked_the_script_answers_as_the_model_does() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = Clock::manual(Timestamp(1_000_000_000));
    let names: Vec<NodeName> = ["a", "b:1", "c"].map(NodeName::from).into();
    let (_server, nodes, agent) = runtime.block_on(async {
        let server = Server::start().await;
        let mut nodes = Vec::new();
        for name in &names {
            nodes.push(server.node(name, clock.clone()).await);
        }
        let agent = agent(TrustLevel::Basic);
        nodes[0].insert_agent(&agent).await.unwrap();
        (server, nodes, agent)
    });
    let checked = histories(150, file!()).run(&history(), |(budget, steps)| {
        runtime.block_on(follow(&nodes, &names, &clock, agent.id, budget, steps));
        Ok(())
    });
    checked.unwrap_or_else(|failed| panic!("{failed}"));
}

async fn follow(
    nodes: &[Store],
    names: &[NodeName],
    clock: &Clock,
    agent: AgentId,
    budget: u64,
    steps: Vec<Step>,
) {
    // In a hundred years: the clock goes on from one history to the next.
    let expires_at = Timestamp(3_155_760_000_000_000);
    let order = Arc::new(WorkOrder { expires_at, ..order(agent, budget) });
    let id: SessionId = order.id;
    nodes[0].insert_session(&order, usize::MAX).await.unwrap();
    let mut account = Account::default();
    for step in steps {
        let now_us = u64::try_from(clock.now().wall.0).unwrap();
        match step {
            Step::Book { node, least, most, unused, rate } => {
                for node in nodes {
                    // Shows the others that it runs, however long the history takes.
                    node.shared().unwrap().position().await.unwrap();
                }
                let booking = Booking { id, least, most, unused, rate };
                let expected = account.book(&names[node], budget, &booking, now_us, |_| true);
                assert_eq!(nodes[node].book(booking).await.unwrap(), expected, "{booking:?}");
            }
            Step::GiveBack { node, unused, rate } => {
                account.give_back(&names[node], unused, rate, now_us);
                let settlement = Settlement { id, unused, recent: None, rate };
                nodes[node].settle(vec![settlement]).await.unwrap();
            }
            Step::Wait { us } => clock.advance_us(us),
        }
        let stored = nodes[0].shared().unwrap().session(id).await.unwrap().unwrap();
        assert_eq!(stored.booked, account.booked());
    }
}
