//! All that there is at one moment: the ledger, the nodes, what travels between them, and what has
//! really happened, which none of them sees.

use std::mem;
use std::sync::Arc;

use crate::firewall::node_share::NodeShare;
use crate::firewall::recent::Recent;
use crate::firewall::session::{Usage, WorkOrder};
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::sessions::Live;
use crate::store::ledger::account::Account;
use crate::store::{Booked, Booking, NodeName, RateUse, StoredSession};

#[derive(Clone, Debug, Hash)]
pub(super) struct World {
    pub(super) account: Account,
    pub(super) closed: bool,
    /// The account and the close as a replica has them that has fallen behind.
    pub(super) behind: Option<(Account, bool)>,
    /// Number of the server that is the store.
    pub(super) server: u8,
    pub(super) nodes: Vec<Node>,
    /// Requests that nobody waits for any more, and that may arrive all the same.
    pub(super) late: Vec<Late>,
    pub(super) now_us: u64,
    pub(super) truth: Truth,
}

/// Ground truth.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Truth {
    pub(super) made: u64,
    /// Calls that nobody will ever make or give back.
    pub(super) lost: i64,
    /// The calls of the last window, by their true time.
    pub(super) recent: Vec<(u64, u64)>,
    pub(super) asks: u8,
    pub(super) crashes: u8,
    pub(super) losses: u8,
    pub(super) repeats: u8,
    pub(super) upsets: u8,
    pub(super) failovers: u8,
    /// Calls whose booking a failover lost, and calls whose return it lost.
    pub(super) forgotten: u64,
    pub(super) revived: u64,
    /// Time after the session's end at which a call was made that should not have been.
    pub(super) late_us: Option<u64>,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) time: Time,
    pub(super) hand: Hand,
    pub(super) lane: Lane,
    /// Closed here; the ledger has not yet said that it knows.
    pub(super) unsaved: Option<Unsaved>,
    /// Server whose changes the node follows, and that it has told again of a close.
    pub(super) server: u8,
}

/// A node's clocks, and what it makes of them.
#[derive(Clone, Debug, Hash)]
pub(super) struct Time {
    /// Offset of the monotonic clock from the true time: less after each sleep.
    pub(super) ahead_us: i64,
    /// Offset of the machine's wall clock from the true time, which is the ledger's.
    pub(super) wall_us: i64,
    /// Added to the machine's wall clock since it was compared with the ledger's.
    pub(super) by_ledger_us: i64,
    /// The wall clock was set since then.
    pub(super) stepped: bool,
    pub(super) sleep: Sleep,
    /// The machine was suspended while it knew the session.
    pub(super) slept: bool,
    /// The clocks as the session was taken in.
    known_at: (Timestamp, Mono),
    /// The ledger said that the session has ended.
    pub(super) ended: bool,
}

/// Suspension of a machine since its clocks were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sleep {
    None,
    /// Until time passes.
    Now,
    Before,
}

/// A node's [`Usage`] of the session.
#[derive(Clone, Debug, Hash)]
pub(super) struct Hand {
    calls_made: u64,
    booked: u64,
    closed: bool,
    shared: NodeShare,
}

/// Activity of a node's lane for the session.
#[derive(Clone, Debug, Hash)]
pub(super) enum Lane {
    Free,
    Asking(Request),
    Answered(Answer),
}

#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum Request {
    Book { booking: Booking, asked_at: Mono },
    Settle { unused: u64, rate: Option<RateUse> },
    Close { unused: u64 },
}

#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum Answer {
    Booked { booking: Booking, asked_at: Mono, booked: Booked },
    Settled,
    Closed,
}

#[derive(Clone, Copy, Debug, Default, Hash)]
pub(super) struct Unsaved {
    /// Permits released at the first request.
    pub(super) unused: Option<u64>,
    /// The ledger knows, although the node may not have heard of it.
    pub(super) applied: bool,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Late {
    pub(super) from: NodeName,
    pub(super) request: Request,
    /// True if the message has arrived once before.
    pub(super) repeated: bool,
}

impl Node {
    pub(super) fn new(name: &NodeName, time: Time, live: &Live, server: u8) -> Self {
        let (name, hand) = (Arc::clone(name), Hand::of(live));
        Self { name, time, hand, lane: Lane::Free, unsaved: None, server }
    }

    pub(super) fn clock(&self, now_us: u64) -> Now {
        self.time.now(now_us)
    }

    /// Runs the node's own code on its session.
    pub(super) fn with<R>(&mut self, order: &Arc<WorkOrder>, step: impl FnOnce(&Live) -> R) -> R {
        let live = self.time.live(order);
        self.hand.put_into(&live);
        let result = step(&live);
        self.hand = Hand::of(&live);
        result
    }

    pub(super) fn is_free(&self) -> bool {
        matches!(self.lane, Lane::Free)
    }
}

impl Time {
    /// A node that begins now, and knows the session from now on.
    pub(super) fn begin(ahead_us: i64, wall_us: i64, now_us: u64) -> Self {
        let known_at = (Timestamp(0), Mono(0));
        let mut time = Self {
            ahead_us,
            wall_us,
            by_ledger_us: 0,
            stepped: false,
            sleep: Sleep::None,
            slept: false,
            known_at,
            ended: false,
        };
        let now = time.now(now_us);
        time.known_at = (now.wall, now.mono);
        time
    }

    /// The clocks as the node reads them.
    pub(super) fn now(&self, now_us: u64) -> Now {
        let Now { wall, mono } = self.machine(now_us);
        Now { wall: Timestamp(wall.0 + self.by_ledger_us), mono }
    }

    /// The clocks as the machine has them.
    pub(super) fn machine(&self, now_us: u64) -> Now {
        let wall = Timestamp(ledger(now_us).0 + self.wall_us);
        Now { wall, mono: Mono(now_us.saturating_add_signed(self.ahead_us)) }
    }

    pub(super) fn live(&self, order: &Arc<WorkOrder>) -> Live {
        let (wall, mono) = self.known_at;
        let live = Live::of(Arc::clone(order), true, Now { wall, mono });
        if self.ended {
            live.end_by_ledger();
        }
        live
    }
}

/// The ledger's clock. Orders of the rig begin at 1000 s and end at 9000 s.
pub(super) fn ledger(now_us: u64) -> Timestamp {
    Timestamp(2_000_000_000 + signed(now_us))
}

impl Hand {
    fn of(live: &Live) -> Self {
        let Usage { calls_made, booked, recent, closed, shared } = live.with(mem::take);
        assert_eq!(recent, Recent::default(), "a shared session's calls are counted by the ledger");
        Self { calls_made, booked, closed, shared: *shared.unwrap() }
    }

    fn put_into(&self, live: &Live) {
        let Self { calls_made, booked, closed, ref shared } = *self;
        let shared = Some(Box::new(shared.clone()));
        let usage = Usage { calls_made, booked, recent: Recent::default(), closed, shared };
        live.with(|of_live| *of_live = usage);
    }

    pub(super) fn unused(&self) -> u64 {
        self.booked - self.calls_made
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn is_within(&self, budget: u64) -> bool {
        self.calls_made <= self.booked && self.booked <= budget
    }

    pub(super) fn believes_spent(&self) -> bool {
        self.shared.calls_refused_until > Mono(0)
    }
}

impl Request {
    /// Applies the request to the ledger.
    fn apply(self, world: &mut World, from: &NodeName, order: &WorkOrder) -> Answer {
        let alive = |name: &NodeName| world.nodes.iter().any(|node| node.name == *name);
        let now_us = world.now_us;
        match self {
            Self::Book { booking, asked_at } => {
                let ended = order.expires_at <= ledger(now_us);
                let booked = if world.closed || ended {
                    // As the ledgers answer: nothing more, and that it is closed or has ended.
                    let (total, closed) = (world.account.booked(), world.closed);
                    let ended = ended && !closed;
                    Booked { granted: 0, total, elsewhere: 0, closed, ended, rate: None }
                } else {
                    world.account.book(from, order.call_budget, &booking, now_us, alive)
                };
                Answer::Booked { booking, asked_at, booked }
            }
            Self::Settle { unused, rate } => {
                world.account.give_back(from, unused, rate, now_us);
                Answer::Settled
            }
            Self::Close { unused } => {
                world.closed = true;
                world.account.give_back(from, unused, None, now_us);
                Answer::Closed
            }
        }
    }

    /// Calls that were let go of, and that the ledger does not know about yet.
    fn returning(self) -> u64 {
        match self {
            // A close is tried again until it is answered: see `Node::closing`.
            Self::Book { .. } | Self::Close { .. } => 0,
            Self::Settle { unused, .. } => unused,
        }
    }
}

impl Answer {
    /// Calls that are the node's and not in its hand yet.
    pub(super) fn granted(self) -> u64 {
        match self {
            Self::Booked { booked, .. } => booked.granted,
            Self::Settled | Self::Closed => 0,
        }
    }
}

impl World {
    /// A request arrives. Calls that cannot be had again are lost; calls that are given back twice
    /// were found, which must not be.
    pub(super) fn arrive(
        &mut self,
        from: &NodeName,
        request: Request,
        order: &WorkOrder,
        repeated: bool,
    ) -> Answer {
        let before = self.account.booked();
        let answer = request.apply(self, from, order);
        let given_back = signed(before + answer.granted()) - signed(self.account.booked());
        let returning = match request {
            Request::Close { .. } => self.sender(from).map_or(0, |node| node.closing()),
            Request::Book { .. } | Request::Settle { .. } if repeated => 0,
            Request::Book { .. } | Request::Settle { .. } => request.returning(),
        };
        self.truth.lost += signed(returning) - given_back;
        if let Request::Close { .. } = request
            && let Some(unsaved) = self.sender(from).and_then(|node| node.unsaved.as_mut())
        {
            unsaved.applied = true;
        }
        answer
    }

    fn sender(&mut self, name: &NodeName) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.name == *name)
    }

    /// A request of this node's may arrive later.
    pub(super) fn send_late(&mut self, node: usize, request: Request, repeated: bool) {
        let from = Arc::clone(&self.nodes[node].name);
        self.late.push(Late { from, request, repeated });
    }

    /// Nobody will hear this answer.
    pub(super) fn lose(&mut self, answer: Answer) {
        self.truth.lost += signed(answer.granted());
    }

    /// Nobody will hear of this request.
    pub(super) fn lose_request(&mut self, request: Request) {
        self.truth.lost += signed(request.returning());
    }

    /// The node at this place is gone with all that it held, and another one takes the place.
    /// Answers to its requests may still arrive.
    pub(super) fn crash(
        &mut self,
        node: usize,
        restarted: &NodeName,
        order: &Arc<WorkOrder>,
        late: bool,
    ) {
        // A machine whose wall clock is off by more than it may does not start.
        let Time { ahead_us, .. } = self.nodes[node].time;
        let time = Time::begin(ahead_us, 0, self.now_us);
        let now = time.now(self.now_us);
        let stored = StoredSession {
            order: Arc::clone(order),
            booked: self.account.booked(),
            closed_at: self.closed.then_some(now.wall),
            recent: None,
        };
        let live = Live::load(stored, true, 1, now);
        let fresh = Node::new(restarted, time, &live, self.server);
        let gone = mem::replace(&mut self.nodes[node], fresh);
        self.truth.lost += signed(gone.hand.unused() + gone.closing());
        match gone.lane {
            Lane::Free => {}
            Lane::Asking(request) if late => {
                self.late.push(Late { from: gone.name, request, repeated: false });
            }
            Lane::Asking(request) => self.lose_request(request),
            Lane::Answered(answer) => self.lose(answer),
        }
    }

    /// The replica becomes the store, as far as it has followed.
    pub(super) fn fail_over(&mut self) -> Option<()> {
        let (booked, around) = (self.account.booked(), self.around());
        (self.account, self.closed) = self.behind.take()?;
        self.server += 1;
        for unsaved in self.nodes.iter_mut().filter_map(|node| node.unsaved.as_mut()) {
            unsaved.applied &= self.closed;
        }
        let revived = signed(self.account.booked()) - signed(booked);
        self.truth.revived += revived.max(0).unsigned_abs();
        self.truth.lost += revived - (signed(self.around()) - signed(around));
        // What was made or is around, and the new store has not booked, it may book once more.
        let unbooked = (-self.truth.lost).max(0).unsigned_abs();
        self.truth.forgotten = self.truth.forgotten.max(unbooked);
        Some(())
    }

    /// A node that follows another server tells it again of the close that it knows, and goes on only
    /// when that has an answer.
    pub(super) fn follow(&mut self, node: usize, order: &WorkOrder, answered: bool) -> Option<()> {
        let server = self.server;
        let place = self.nodes.get_mut(node).filter(|place| place.server != server)?;
        if place.hand.is_closed() {
            let unsaved = place.unsaved.get_or_insert_default();
            let unused = *unsaved.unused.get_or_insert(0);
            let from = Arc::clone(&place.name);
            self.arrive(&from, Request::Close { unused }, order, false);
        }
        if answered {
            let place = &mut self.nodes[node];
            (place.server, place.unsaved) = (server, None);
        }
        Some(())
    }

    /// Calls that some node may still make, or that are on their way back.
    pub(super) fn around(&self) -> u64 {
        let first = |late: &&Late| !late.repeated;
        let late = self.late.iter().filter(first).map(|late| late.request.returning());
        self.nodes.iter().map(Node::around).chain(late).sum()
    }
}

impl Node {
    /// Calls that the node may still make, or that it is giving back.
    pub(super) fn around(&self) -> u64 {
        let travelling = match self.lane {
            Lane::Free => 0,
            Lane::Asking(request) => request.returning(),
            Lane::Answered(answer) => answer.granted(),
        };
        self.hand.unused() + travelling + self.closing()
    }

    fn closing(&self) -> u64 {
        self.unsaved
            .filter(|unsaved| !unsaved.applied)
            .and_then(|unsaved| unsaved.unused)
            .unwrap_or(0)
    }
}

pub(super) fn signed(calls: u64) -> i64 {
    i64::try_from(calls).unwrap()
}
