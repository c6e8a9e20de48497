//! Actions of the nodes and the ledger, and the properties they must keep. The ledger's part is
//! [`Account`]'s own code, a node's part that of [`Live`] and of the budget's check; this file adds
//! only the schedule and the fate of messages.

use std::sync::Arc;

use super::explore::Model;
use super::sizes::{Asserts, GOOD_US, Requests, SKEW_US, Sizes, WINDOW_US, WRONG_US};
use super::world::{
    Answer, Hand, Lane, Late, Node, Request, Sleep, Time, Truth, Unsaved, World, ledger, signed,
};
use crate::clock::Clock;
use crate::config::Skew;
use crate::firewall::agent::AgentId;
use crate::firewall::checks::budget;
use crate::firewall::session::{Status, WorkOrder};
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::sessions::{Live, fell_short};
use crate::store::ledger::account::Account;
use crate::store::tests::fleet::Fleet;
use crate::store::{Booking, Freshness, NodeName, Store};
use crate::testkit::full_order as order;

pub(super) struct Protocol {
    sizes: Sizes,
    order: Arc<WorkOrder>,
    /// Compares the clocks.
    freshness: Freshness,
    /// For each place its first node, and those that follow after crashes.
    names: Vec<Vec<NodeName>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Call {
        node: usize,
        price: u64,
    },
    Ask {
        node: usize,
        price: u64,
    },
    Look {
        node: usize,
    },
    /// Return of permits that were idle, or are wanted by another node.
    GiveBack {
        node: usize,
    },
    Close {
        node: usize,
    },
    SaveClosed {
        node: usize,
    },
    HearOfClose {
        node: usize,
    },
    AskAgain {
        node: usize,
    },
    Arrive {
        node: usize,
    },
    Hear {
        node: usize,
    },
    ArriveLate {
        at: usize,
    },
    /// The ledger's time comes with an answer, as it does with every question for changes.
    Compare {
        node: usize,
    },
    /// The replica falls behind: what the store does from now on it has not got.
    FallBehind,
    /// A node that lost its connection goes on with the server that is the store now.
    Follow {
        node: usize,
    },
    Fails(Fault),
    Wait,
}

/// Fault to inject.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    LoseRequest {
        node: usize,
    },
    LoseAnswer {
        node: usize,
    },
    /// The node does not wait any longer, and the request arrives later or never.
    GiveUp {
        node: usize,
    },
    /// A request arrives twice; the answer is the second one's.
    ArriveTwice {
        node: usize,
    },
    /// A request arrives, and will do so again.
    ArriveAndAgainLater {
        node: usize,
    },
    Crash {
        node: usize,
        late: bool,
    },
    SetWall {
        node: usize,
        wall_us: i64,
    },
    /// The machine is suspended: its monotonic clock stands still.
    Suspend {
        node: usize,
    },
    /// The other server does what the node tells it, and the node hears nothing of that.
    FollowUnheard {
        node: usize,
    },
    /// The store is gone, and with it what its replica has not got.
    FailOver,
}

impl Protocol {
    pub(super) fn new(sizes: Sizes) -> Self {
        let order = order(AgentId::random(), sizes.budget);
        let expires_at = sizes.ends_us.map_or(order.expires_at, ledger);
        let order = Arc::new(WorkOrder { rate_limit: sizes.limit, expires_at, ..order });
        let store = Store::from(Fleet::new("one", Clock::manual(Timestamp(0))));
        let skew = Skew { most_secs: SKEW_US / 1_000_000, unready_secs: 30 };
        let freshness = Freshness::of(&Arc::new(store), 30, skew, Mono(0));
        let lives = |place| (0..=sizes.crashes).map(move |life| format!("{place}.{life}").into());
        let names = (0..sizes.nodes).map(|place| lives(place).collect()).collect();
        Self { sizes, order, freshness, names }
    }

    fn ask(&self, node: &mut Node, what: impl FnOnce(&Live) -> Option<Request>) -> Option<()> {
        if !node.is_free() {
            return None;
        }
        node.lane = Lane::Asking(node.with(&self.order, what)?);
        Some(())
    }

    /// A call, as the gate makes it.
    fn call(&self, world: &mut World, node: usize, price: u64) -> Option<()> {
        let (node, now_us) = (&mut world.nodes[node], world.now_us);
        let now = node.clock(now_us);
        let counted = node.with(&self.order, |live| {
            if live.status(now) == Status::Expired {
                return false;
            }
            live.with(|usage| {
                let permitted = || {
                    let shared = usage.shared.as_ref().unwrap();
                    self.order.rate_limit.is_none() || shared.permit(price, now.mono).is_ok()
                };
                let may = !usage.closed
                    && budget::afford(usage, self.order.call_budget, price).is_ok()
                    && permitted();
                let limited = self.order.rate_limit.is_some();
                may && budget::count(usage, price, limited, now.mono).is_ok()
            })
        });
        let Time { stepped, slept, .. } = node.time;
        let late_us = self.sizes.ends_us.and_then(|ends| now_us.checked_sub(ends + SKEW_US));
        // A machine that has slept goes by its date: once that is wrong, it knows nothing of the time until it
        // compares, which it does several times a second.
        let late_us = late_us.filter(|_| counted && !(stepped && slept));
        world.truth.late_us = world.truth.late_us.max(late_us);
        counted.then(|| world.truth.call(now_us, price))
    }

    /// Goes by the ledger's time where the machine's is too far from it.
    fn compare(&self, node: &mut Node, now_us: u64) -> Option<()> {
        let machine = node.time.machine(now_us);
        let off = self.freshness.compare_clocks(machine, ledger(now_us), machine);
        let time = &mut node.time;
        let before = (time.by_ledger_us, time.stepped, time.sleep);
        (time.by_ledger_us, time.stepped, time.sleep) = (off.unwrap_or(0), false, Sleep::None);
        (before != (time.by_ledger_us, false, Sleep::None)).then_some(())
    }

    /// Returns the calls that the node holds no longer: the total of a store that lost bookings
    /// leaves it fewer than it had.
    fn hear(&self, node: &mut Node, now: Now, answer: Answer) -> u64 {
        let (before, knew) = (node.around(), node.hand.is_closed());
        node.lane = Lane::Free;
        match answer {
            Answer::Settled => {}
            Answer::Closed => node.unsaved = None,
            Answer::Booked { booking, asked_at, booked } => {
                node.time.ended |= booked.ended;
                node.with(&self.order, |live| {
                    live.receive(booked, asked_at, now.mono);
                    if fell_short(&booking, &booked) && booked.elsewhere == 0 {
                        live.believe_spent(Mono(u64::MAX));
                    }
                });
                // As it is told again: the server that said so may be gone, and the next one may not know.
                if self.sizes.asserts == Asserts::All && node.hand.is_closed() && !knew {
                    node.unsaved.get_or_insert_default();
                }
            }
        }
        before - node.around()
    }

    /// Applies the answer that the node waits for.
    fn arrive(&self, world: &mut World, node: usize, repeated: bool) -> Option<()> {
        let Lane::Asking(request) = world.nodes[node].lane else { return None };
        let from = Arc::clone(&world.nodes[node].name);
        let answer = world.arrive(&from, request, &self.order, repeated);
        world.nodes[node].lane = Lane::Answered(answer);
        Some(())
    }

    fn apply(&self, world: &mut World, action: Action) -> Option<()> {
        let now_us = world.now_us;
        let now_at = |world: &World, node: usize| world.nodes[node].clock(now_us);
        match action {
            Action::Call { node, price } => self.call(world, node, price),
            Action::Ask { node, price } => {
                let now = now_at(world, node);
                world.truth.asks += u8::from(self.sizes.asks > 0);
                self.ask(&mut world.nodes[node], |live| {
                    let booking = live.booking(price, WINDOW_US, now.mono)?;
                    Some(Request::Book { booking, asked_at: now.mono })
                })
            }
            Action::Look { node } => {
                let now = now_at(world, node);
                let look = |live: &Live| Request::Book { booking: live.look(), asked_at: now.mono };
                self.ask(&mut world.nodes[node], |live| Some(look(live)))
            }
            Action::GiveBack { node } => {
                let now = now_at(world, node);
                self.ask(&mut world.nodes[node], |live| {
                    let settlement = live.let_go(now.mono)?;
                    Some(Request::Settle { unused: settlement.unused, rate: settlement.rate })
                })
            }
            Action::Close { node } => {
                let _news: Option<()> = self.hear_of_close(world, node);
                let unsaved = &mut world.nodes[node].unsaved;
                unsaved.is_none().then(|| *unsaved = Some(Unsaved::default()))
            }
            Action::SaveClosed { node } => {
                let node = &mut world.nodes[node];
                let (mut unsaved, mut dropped) = (node.unsaved?, 0);
                self.ask(node, |live| {
                    // What was let go of for the first attempt is what every attempt says.
                    let unused = live.give_back();
                    dropped = if unsaved.unused.is_some() { unused } else { 0 };
                    Some(Request::Close { unused: *unsaved.unused.get_or_insert(unused) })
                })?;
                node.unsaved = Some(unsaved);
                world.truth.lost += signed(dropped);
                Some(())
            }
            Action::HearOfClose { node } => {
                if world.closed {
                    self.hear_of_close(world, node)
                } else {
                    None
                }
            }
            Action::AskAgain { node } => {
                let node = &mut world.nodes[node];
                let believes = node.hand.believes_spent();
                believes.then(|| node.with(&self.order, |live| live.believe_spent(Mono(0))))
            }
            Action::Arrive { node } => self.arrive(world, node, false),
            Action::Hear { node } => {
                let now = now_at(world, node);
                let Lane::Answered(answer) = world.nodes[node].lane else { return None };
                let dropped = self.hear(&mut world.nodes[node], now, answer);
                world.truth.lost += signed(dropped);
                Some(())
            }
            Action::ArriveLate { at } => {
                let Late { from, request, repeated } = world.late.remove(at);
                let answer = world.arrive(&from, request, &self.order, repeated);
                world.lose(answer);
                Some(())
            }
            Action::Compare { node } => self.compare(&mut world.nodes[node], now_us),
            Action::FallBehind => {
                world.behind = Some((world.account.clone(), world.closed));
                Some(())
            }
            Action::Follow { node } => {
                if self.sizes.asserts == Asserts::Nothing {
                    return None;
                }
                world.follow(node, &self.order, true)
            }
            Action::Fails(fault) => self.fail(world, fault),
            Action::Wait => {
                world.now_us = *self.sizes.instants_us.iter().find(|at| **at > now_us)?;
                for time in world.nodes.iter_mut().map(|node| &mut node.time) {
                    if time.sleep == Sleep::Now {
                        time.ahead_us -= signed(world.now_us - now_us);
                        (time.sleep, time.slept) = (Sleep::Before, true);
                    }
                }
                world.truth.forget(world.now_us);
                Some(())
            }
        }
    }

    fn fail(&self, world: &mut World, fault: Fault) -> Option<()> {
        match fault {
            Fault::LoseRequest { node } => {
                let Lane::Asking(request) = world.nodes[node].lane else { return None };
                world.truth.losses += 1;
                world.lose_request(request);
                world.nodes[node].lane = Lane::Free;
                Some(())
            }
            Fault::LoseAnswer { node } => {
                let Lane::Answered(answer) = world.nodes[node].lane else { return None };
                world.truth.losses += 1;
                world.lose(answer);
                world.nodes[node].lane = Lane::Free;
                Some(())
            }
            Fault::GiveUp { node } => {
                let Lane::Asking(request) = world.nodes[node].lane else { return None };
                world.truth.losses += 1;
                world.send_late(node, request, false);
                world.nodes[node].lane = Lane::Free;
                Some(())
            }
            Fault::ArriveTwice { node } => {
                let Lane::Asking(request) = world.nodes[node].lane else { return None };
                world.truth.repeats += 1;
                let from = Arc::clone(&world.nodes[node].name);
                let unheard = world.arrive(&from, request, &self.order, false);
                world.lose(unheard);
                self.arrive(world, node, true)
            }
            Fault::ArriveAndAgainLater { node } => {
                let Lane::Asking(request) = world.nodes[node].lane else { return None };
                world.truth.repeats += 1;
                world.send_late(node, request, true);
                self.arrive(world, node, false)
            }
            Fault::Crash { node, late } => {
                world.truth.crashes += 1;
                let names = &self.names[node];
                let now = names.iter().position(|name| *name == world.nodes[node].name)?;
                world.crash(node, &names[now + 1], &self.order, late);
                Some(())
            }
            Fault::SetWall { node, wall_us } => {
                world.truth.upsets += 1;
                let time = &mut world.nodes[node].time;
                time.stepped = true;
                (time.wall_us != wall_us).then(|| time.wall_us = wall_us)
            }
            Fault::Suspend { node } => {
                world.truth.upsets += 1;
                world.nodes[node].time.sleep = Sleep::Now;
                Some(())
            }
            Fault::FollowUnheard { node } => {
                world.truth.losses += 1;
                world.follow(node, &self.order, false)
            }
            Fault::FailOver => {
                world.truth.failovers += 1;
                world.fail_over()
            }
        }
    }

    fn hear_of_close(&self, world: &mut World, node: usize) -> Option<()> {
        let node = &mut world.nodes[node];
        let news = !node.hand.is_closed();
        news.then(|| node.with(&self.order, |live| live.with(|usage| usage.closed = true)))
    }

    /// Every message arrives, and every node gives back what it holds.
    fn settle_all(&self, world: &mut World) {
        while !world.late.is_empty() {
            self.apply(world, Action::ArriveLate { at: 0 }).unwrap();
        }
        for node in 0..world.nodes.len() {
            let _news: Option<()> = self.compare(&mut world.nodes[node], world.now_us);
            for action in [
                Action::Follow { node },
                Action::HearOfClose { node },
                Action::SaveClosed { node },
                Action::GiveBack { node },
                Action::AskAgain { node },
            ] {
                self.exchange(world, node);
                let _possible: Option<()> = self.apply(world, action);
            }
            self.exchange(world, node);
        }
    }

    fn exchange(&self, world: &mut World, node: usize) {
        let _asking: Option<()> = self.apply(world, Action::Arrive { node });
        let _answered: Option<()> = self.apply(world, Action::Hear { node });
    }

    /// One call at this node, with as much asking as it takes.
    fn make(&self, world: &mut World, node: usize) -> Option<()> {
        let (call, ask) = (Action::Call { node, price: 1 }, Action::Ask { node, price: 1 });
        self.apply(world, call).or_else(|| {
            self.apply(world, ask)?;
            self.exchange(world, node);
            self.apply(world, call)
        })
    }

    /// Checks that a good end is reachable: nothing is booked that was not made or lost, and any
    /// node can use the rest.
    fn check_end(&self, world: &World) -> Result<(), String> {
        let mut end = world.clone();
        self.settle_all(&mut end);
        if world.nodes.iter().any(|node| node.hand.is_closed()) {
            // Those before the one that knew have not heard of it yet.
            self.settle_all(&mut end);
            let open = |node: &Node| !node.hand.is_closed();
            if !end.closed || end.nodes.iter().any(open) {
                return Err("what a node knew closed is open again".to_owned());
            }
        }
        let (booked, made, lost) = (end.account.booked(), end.truth.made, end.truth.lost);
        if signed(booked) != signed(made) + lost || end.around() > 0 {
            return Err(format!("at rest {booked} are booked, {made} were made, {lost} lost"));
        }
        if end.closed {
            return Ok(());
        }
        let rest = self.sizes.budget - booked;
        let rest = self.sizes.limit.map_or(rest, |limit| rest.min(limit.into()));
        end.now_us += WINDOW_US + GOOD_US;
        if self.sizes.ends_us.is_some_and(|ends| end.now_us + SKEW_US > ends) {
            return Ok(());
        }
        end.truth.forget(end.now_us);
        for node in 0..end.nodes.len() {
            let mut end = end.clone();
            for made in 0..rest {
                self.make(&mut end, node).ok_or_else(|| {
                    format!("node {node} makes {made} more calls of {rest} that remain")
                })?;
            }
        }
        Ok(())
    }

    /// The most that a node holds at any time.
    fn lease(&self) -> u64 {
        let dearest = self.sizes.prices.iter().copied().max().unwrap_or(0);
        dearest.max(self.sizes.budget / 50)
    }
}

impl Truth {
    fn call(&mut self, now_us: u64, price: u64) {
        self.made += price;
        self.recent.push((now_us, price));
        self.forget(now_us);
    }

    /// A window holds its first instant and not its last.
    fn forget(&mut self, now_us: u64) {
        self.recent.retain(|(at_us, _)| at_us + WINDOW_US > now_us);
    }

    fn in_window(&self) -> u64 {
        self.recent.iter().map(|(_, price)| price).sum()
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn start(&self) -> World {
        let Sizes { budget, spent, nodes, .. } = self.sizes;
        let mut account = Account::default();
        let id = self.order.id;
        let before = Booking { id, least: spent, most: spent, unused: 0, rate: None };
        account.book(&"before".into(), budget, &before, 0, |_| true);
        account
            .book(&"before".into(), budget, &Booking { least: 0, most: 0, ..before }, 0, |_| true);
        let node = |place: usize| {
            let time = Time::begin([0, 7, 1_000_000][place], self.sizes.walls_us[place], 0);
            let live = time.live(&self.order);
            Node::new(&self.names[place][0], time, &live, 0)
        };
        World {
            account,
            closed: false,
            behind: None,
            server: 0,
            nodes: (0..nodes).map(node).collect(),
            late: Vec::new(),
            now_us: 0,
            truth: Truth { made: spent, ..Truth::default() },
        }
    }

    fn actions(&self, world: &World) -> Vec<Action> {
        let sizes = &self.sizes;
        let ask = sizes.asks == 0 || world.truth.asks < sizes.asks;
        let lose = world.truth.losses < sizes.losses;
        let repeat = world.truth.repeats < sizes.repeats;
        let upset = world.truth.upsets < sizes.upsets;
        let fail_over = world.truth.failovers < sizes.failovers;
        let mut actions = vec![Action::Wait];
        let mut may = |so: bool, action| actions.extend(so.then_some(action));
        for (node, at) in world.nodes.iter().enumerate() {
            if at.time.sleep == Sleep::Now {
                continue;
            }
            let (free, answered) = (at.is_free(), matches!(at.lane, Lane::Answered(_)));
            let asking = !free && !answered;
            for &price in sizes.prices {
                may(at.hand.unused() >= price, Action::Call { node, price });
                may(free && ask, Action::Ask { node, price });
            }
            may(free, Action::GiveBack { node });
            may(free && sizes.looks, Action::Look { node });
            may(free && at.unsaved.is_some(), Action::SaveClosed { node });
            may(sizes.closes, Action::Close { node });
            may(world.closed, Action::HearOfClose { node });
            may(at.hand.believes_spent(), Action::AskAgain { node });
            may(asking, Action::Arrive { node });
            may(asking && repeat, Action::Fails(Fault::ArriveTwice { node }));
            may(
                asking && repeat && sizes.late_repeats,
                Action::Fails(Fault::ArriveAndAgainLater { node }),
            );
            may(asking && lose, Action::Fails(Fault::LoseRequest { node }));
            may(asking && lose, Action::Fails(Fault::GiveUp { node }));
            may(answered, Action::Hear { node });
            may(answered && lose, Action::Fails(Fault::LoseAnswer { node }));
            let crash = world.truth.crashes < sizes.crashes;
            may(crash, Action::Fails(Fault::Crash { node, late: false }));
            may(crash && asking, Action::Fails(Fault::Crash { node, late: true }));
            let behind = at.server != world.server;
            may(behind, Action::Follow { node });
            may(behind && lose, Action::Fails(Fault::FollowUnheard { node }));
            may(sizes.upsets > 0, Action::Compare { node });
            may(upset, Action::Fails(Fault::Suspend { node }));
            for wall_us in WRONG_US {
                may(upset, Action::Fails(Fault::SetWall { node, wall_us }));
            }
            let is_wrong = WRONG_US.contains(&at.time.wall_us);
            may(upset && is_wrong, Action::Fails(Fault::SetWall { node, wall_us: 0 }));
        }
        actions.extend((0..world.late.len()).map(|at| Action::ArriveLate { at }));
        actions.extend(match (fail_over, &world.behind) {
            (false, _) => None,
            (true, None) => Some(Action::FallBehind),
            (true, Some(_)) => Some(Action::Fails(Fault::FailOver)),
        });
        actions
    }

    fn step(&self, world: &World, action: &Action) -> Option<World> {
        let mut after = world.clone();
        self.apply(&mut after, *action)?;
        if self.sizes.requests == Requests::ArriveAtOnce {
            for node in 0..after.nodes.len() {
                let _asking: Option<()> = self.arrive(&mut after, node, false);
            }
        }
        Some(after)
    }

    fn check(&self, world: &World) -> Result<(), String> {
        let Sizes { budget, limit, .. } = self.sizes;
        let Truth { made, lost, crashes, losses, repeats, failovers, forgotten, revived, .. } =
            world.truth;
        let (booked, around) = (world.account.booked(), world.around());
        // What a failover lost of the bookings can be booked once more, and nothing else.
        if made > budget + forgotten {
            return Err(format!("{made} calls were made of a budget of {budget} and {forgotten}"));
        }
        if booked > budget || made + around > booked + forgotten {
            return Err(format!("{made} were made, {around} may be, and {booked} are booked"));
        }
        if signed(booked) != signed(made + around) + lost || lost < -signed(forgotten) {
            return Err(format!("{made} made + {around} around + {lost} lost, {booked} booked"));
        }
        if !world.nodes.iter().map(|node| &node.hand).all(|hand: &Hand| hand.is_within(budget)) {
            return Err(format!("a node counts what it should not: {:?}", world.nodes));
        }
        // A message that comes late may also hide what the node got meanwhile.
        let most = u64::from(crashes + repeats + 2 * losses) * self.lease();
        // What a node told another server of a close costs what it was giving back at that time.
        let told = u64::from(failovers) * u64::try_from(world.nodes.len()).unwrap() * self.lease();
        let most = most + revived + forgotten + told;
        if lost > signed(most) {
            return Err(format!("{lost} calls are lost, more than {most}"));
        }
        if let Some(late_us) = world.truth.late_us {
            return Err(format!("a call was made {late_us} us after the end and what may differ"));
        }
        for node in &world.nodes {
            let live = node.time.live(&self.order);
            let sure = !node.time.stepped && node.time.sleep == Sleep::None;
            let early = self.sizes.ends_us.is_some_and(|ends| world.now_us + SKEW_US < ends);
            if early && sure && live.status(node.clock(world.now_us)) == Status::Expired {
                return Err(format!("a node takes for ended what has not: {node:?}"));
            }
        }
        for node in world.nodes.iter().filter(|node| node.hand.is_closed()) {
            let untold = node.unsaved.is_some() || node.server != world.server;
            if !untold && !world.closed {
                return Err(format!("the store has open what a node knows closed: {node:?}"));
            }
        }
        let in_window = world.truth.in_window();
        if limit.is_some_and(|limit| in_window > u64::from(limit)) {
            return Err(format!("{in_window} calls in a window of at most {limit:?}"));
        }
        // Whatever travels may arrive first: how it ends then is checked there.
        if world.nodes.iter().all(Node::is_free) { self.check_end(world) } else { Ok(()) }
    }
}
