//! The lease protocol, checked in every state that a small fleet can reach: whatever is lost, late or
//! killed, a budget is never overspent and a limit holds in every window; what was closed stays closed when
//! the store loses its last writes; and what was not lost can be used to the last call, by whichever node.
//!
//! With `ARBITER_MODEL=large` in the environment the fleets are larger, and it takes minutes.

use explore::explore;
use protocol::Protocol;
use sizes::{Asserts, ENDING, RATED, Requests, SMALL, Sizes, WINDOW_US};

pub(crate) mod explore;
mod protocol;
mod sizes;
mod world;

/// These sizes, or larger ones if they are asked for.
fn sizes(usual: Sizes, large: Sizes) -> Sizes {
    let asked = std::env::var_os("ARBITER_MODEL").is_some_and(|asked| asked == "large");
    if asked { large } else { usual }
}

fn holds(sizes: Sizes) {
    match explore(&Protocol::new(sizes)) {
        Ok(explored) => println!("{explored:?} of {sizes:?}"),
        Err(bad) => panic!("{bad}in {sizes:?}"),
    }
}

#[test]
fn a_budget_is_spent_to_its_last_call_and_no_further() {
    let usual = Sizes { looks: true, ..SMALL };
    let large = Sizes { nodes: 3, prices: &[1], looks: false, ..usual };
    holds(sizes(usual, large));
}

#[test]
fn blocks_of_a_larger_budget_are_spent_to_their_last_call() {
    let usual = Sizes { budget: 100, spent: 90, prices: &[1], ..SMALL };
    let large = Sizes { prices: &[1, 3], ..usual };
    holds(sizes(usual, large));
}

#[test]
fn what_is_lost_or_late_is_not_spent_twice() {
    let usual = Sizes { losses: 1, prices: &[1], ..SMALL };
    let large = Sizes { prices: &[1, 2], ..usual };
    holds(sizes(usual, large));
}

#[test]
fn what_is_sent_twice_before_its_answer_counts_once() {
    let usual = Sizes { repeats: 1, prices: &[1], closes: true, ..SMALL };
    let large = Sizes { prices: &[1, 2], ..usual };
    holds(sizes(usual, large));
}

#[test]
fn a_crash_costs_no_more_than_the_lease_in_hand() {
    let usual = Sizes { crashes: 1, prices: &[1], ..SMALL };
    let large = Sizes { prices: &[1, 2], ..usual };
    holds(sizes(usual, large));
}

#[test]
fn a_close_on_any_node_brings_back_what_all_hold() {
    let usual = Sizes { closes: true, prices: &[1], ..SMALL };
    let large = Sizes { prices: &[1, 2], ..usual };
    holds(sizes(usual, large));
}

/// One failover to a replica that may lack the last writes. A node's knowledge of a close is in the store
/// once the node follows it and has nothing left to publish; the others hear of it from there, within a second.
const FAILOVER: Sizes = Sizes {
    failovers: 1,
    budget: 1,
    prices: &[1],
    closes: true,
    asks: 1,
    requests: Requests::ArriveAtOnce,
    ..SMALL
};
/// As many requests as there may be, each on the way for as long as it likes.
const LARGE_FAILOVER: Sizes = Sizes { asks: 0, requests: Requests::TakeTime, ..FAILOVER };

#[test]
fn a_store_that_lost_its_last_writes_opens_nothing_and_books_only_those_again() {
    holds(sizes(Sizes { asks: 2, ..FAILOVER }, Sizes { budget: 2, ..LARGE_FAILOVER }));
}

#[test]
fn what_was_closed_stays_so_over_a_failover_and_a_restart() {
    holds(sizes(Sizes { crashes: 1, ..FAILOVER }, Sizes { crashes: 1, ..LARGE_FAILOVER }));
}

#[test]
fn what_was_closed_stays_so_over_a_failover_and_lost_messages() {
    holds(sizes(Sizes { losses: 1, ..FAILOVER }, Sizes { losses: 1, ..LARGE_FAILOVER }));
}

#[test]
fn what_was_closed_stays_so_over_two_failovers() {
    holds(sizes(Sizes { failovers: 2, ..FAILOVER }, Sizes { failovers: 2, asks: 2, ..FAILOVER }));
}

#[test]
fn what_was_closed_or_has_ended_stays_so_over_a_failover_with_clocks_apart() {
    let usual = Sizes {
        failovers: 1,
        closes: true,
        asks: 1,
        requests: Requests::ArriveAtOnce,
        budget: 1,
        ..ENDING
    };
    holds(sizes(usual, Sizes { asks: 2, ..usual }));
}

#[test]
fn the_model_knows_what_it_would_cost_to_assert_nothing_again() {
    let bad = explore(&Protocol::new(Sizes { asserts: Asserts::Nothing, ..FAILOVER }));
    let history = bad.unwrap_err().to_string();
    assert!(history.contains("what a node knew closed is open again"), "{history}");
    assert!(history.contains("FailOver") && history.contains("SaveClosed"), "{history}");
}

#[test]
fn the_model_knows_what_a_late_answer_would_cost_that_is_not_asserted() {
    let bad = explore(&Protocol::new(Sizes { asserts: Asserts::Known, ..FAILOVER }));
    let history = bad.unwrap_err().to_string();
    assert!(history.contains("the store has open what a node knows closed"), "{history}");
    assert!(history.contains("Follow"), "{history}");
}

#[test]
fn a_limit_holds_in_every_window_whatever_the_clocks_say() {
    let usual = Sizes { prices: &[1], limit: Some(1), asks: 2, ..RATED };
    let large = Sizes { limit: Some(2), asks: 3, ..usual };
    holds(sizes(usual, large));
}

#[test]
fn a_limit_holds_though_reports_are_lost_or_late() {
    let usual = Sizes {
        losses: 1,
        prices: &[1],
        limit: Some(1),
        instants_us: &[0, 1, WINDOW_US + 2],
        ..RATED
    };
    let large = Sizes { instants_us: RATED.instants_us, ..usual };
    holds(sizes(usual, large));
}

#[test]
fn a_session_ends_by_the_ledgers_time_whatever_the_clocks_say() {
    let usual = Sizes { budget: 1, upsets: 1, ..ENDING };
    let large = Sizes { budget: 2, upsets: 2, ..ENDING };
    holds(sizes(usual, large));
}

#[test]
fn an_end_holds_though_answers_are_lost_and_nodes_restart() {
    let large = Sizes { budget: 2, losses: 1, crashes: 1, ..ENDING };
    // One fault each, or both.
    holds(sizes(Sizes { budget: 1, losses: 1, ..ENDING }, large));
    holds(sizes(Sizes { budget: 1, crashes: 1, ..ENDING }, SMALL));
}

/// A store never asks twice by itself: a copy that arrives after a later booking is taken for a new
/// one.
#[test]
fn the_model_knows_what_a_repeated_give_back_would_cost() {
    let sizes = Sizes { repeats: 1, late_repeats: true, ..SMALL };
    let bad = explore(&Protocol::new(sizes)).unwrap_err();
    let history = bad.to_string();
    assert!(history.contains("ArriveAndAgainLater") && history.contains("ArriveLate"), "{history}");
}
