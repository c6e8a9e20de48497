//! A ledger that several nodes of one process share: the model of what Redis does, for tests of what
//! the nodes make of it. Nodes can be told apart, cut off and killed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::super::backend::{Backend, SharedBackend};
use super::super::ledger::account::Account;
use super::super::memory::Memory;
use super::super::{
    Booked, Booking, Bookmark, Change, Changes, Closing, NodeName, Opened, Position, Purge, Put,
    Replicas, Room, Settlement, Store, StoreError, StoredAgent, StoredDelegations, StoredSession,
    TakenAway,
};
use crate::clock::Clock;
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::approvals::{Approval, ApprovalStep, Digest, Status};
use crate::firewall::continuation::{Continuation, MAX_OF_SESSION};
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::testkit;

/// Time for which a node waits for changes before it asks again.
const WAIT: Duration = Duration::from_millis(100);

/// One node's way to the ledger.
#[derive(Debug)]
pub struct Fleet {
    node: NodeName,
    shared: Arc<SharedLedger>,
    /// Nothing gets through while this is set.
    cut_off: AtomicBool,
    /// True while bookings and closings are done but not answered.
    holds_answers: watch::Sender<bool>,
}

#[derive(Debug)]
struct SharedLedger {
    clock: Clock,
    kept: Memory,
    ledger: Mutex<Ledger>,
    changed: Notify,
}

#[derive(Clone, Debug, Default)]
struct Ledger {
    accounts: HashMap<SessionId, Account>,
    closed: HashSet<SessionId>,
    log: Vec<(NodeName, Change)>,
    dead: HashSet<NodeName>,
    continuations: Vec<Continuation>,
    bookings: u64,
    /// Another one after each failover.
    server: u64,
}

impl Ledger {
    /// Number of the connection by which every node reaches the server that there is.
    fn connection(&self) -> u64 {
        self.server + 1
    }
}

/// A state to which the ledger can go back.
pub(crate) struct Backup {
    kept: Memory,
    ledger: Ledger,
}

impl Fleet {
    pub(crate) fn new(node: &str, clock: Clock) -> Self {
        let shared = SharedLedger {
            clock,
            kept: Memory::default(),
            ledger: Mutex::default(),
            changed: Notify::new(),
        };
        Self::at(node, Arc::new(shared))
    }

    fn at(node: &str, shared: Arc<SharedLedger>) -> Self {
        let holds_answers = watch::Sender::new(false);
        Self { node: node.into(), shared, cut_off: false.into(), holds_answers }
    }

    /// Another node on the same ledger.
    pub(crate) fn beside(&self, node: &str) -> Self {
        Self::at(node, Arc::clone(&self.shared))
    }

    pub(crate) fn backup(&self) -> Backup {
        Backup { kept: self.shared.kept.copy(), ledger: self.ledger().clone() }
    }

    /// All that was written since the backup is lost, and another server answers.
    pub(crate) fn fail_over(&self, backup: &Backup) {
        let mut ledger = self.ledger();
        self.shared.kept.become_like(&backup.kept);
        let server = ledger.server + 1;
        *ledger = Ledger { server, ..backup.ledger.clone() };
        drop(ledger);
        self.shared.changed.notify_waiters();
    }

    /// Makes an agent known, so that sessions can be opened for it.
    pub(crate) fn register(&self, id: AgentId) {
        let agent = Arc::new(Agent { owner: "ops".to_owned(), ..testkit::agent(id) });
        self.shared.kept.insert_agent_now(&agent).unwrap();
        self.tell(&mut self.ledger(), Change::Registered(agent));
    }

    /// The node is gone, as far as the others can tell.
    pub(crate) fn kill(&self) {
        self.ledger().dead.insert(self.node.clone());
        self.cut_off(true);
    }

    pub(crate) fn cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::SeqCst);
    }

    pub(crate) fn hold_answers(&self, hold: bool) {
        self.holds_answers.send_replace(hold);
    }

    /// Gives the answer as soon as no answers are held.
    async fn answer<T>(&self, answer: T) -> T {
        let mut held = self.holds_answers.subscribe();
        held.wait_for(|held| !held).await.expect("the sender lives as long as the node");
        answer
    }

    /// Returns the number of bookings.
    pub(crate) fn bookings(&self) -> u64 {
        self.ledger().bookings
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock()
    }

    fn through(&self) -> Result<MutexGuard<'_, Ledger>, StoreError> {
        if self.cut_off.load(Ordering::SeqCst) {
            return Err(StoreError::Stopped);
        }
        Ok(self.ledger())
    }

    fn tell(&self, ledger: &mut Ledger, change: Change) {
        ledger.log.push((self.node.clone(), change));
        self.shared.changed.notify_waiters();
    }

    fn session_now(
        &self,
        ledger: &Ledger,
        id: SessionId,
    ) -> Result<Option<StoredSession>, StoreError> {
        let found = self.shared.kept.session_now(id)?;
        Ok(found.map(|session| with_account(ledger, session)))
    }

    fn book_now(&self, booking: Booking) -> Result<Booked, StoreError> {
        let mut ledger = self.through()?;
        ledger.bookings += 1;
        let id = booking.id;
        let stored = self.session_now(&ledger, id)?.ok_or(StoreError::Missing(id.0))?;
        if ledger.closed.contains(&id) {
            return Ok(Booked { closed: true, ..Booked::alone(0, stored.booked) });
        }
        let now = self.shared.clock.now();
        if stored.order.expires_at <= now.wall {
            return Ok(Booked { ended: true, ..Booked::alone(0, stored.booked) });
        }
        let dead = ledger.dead.clone();
        let account = ledger.accounts.get_mut(&id).ok_or(StoreError::Missing(id.0))?;
        let budget = stored.order.call_budget;
        let alive = |node: &NodeName| !dead.contains(node);
        let now_us = u64::try_from(now.wall.0).unwrap();
        let booked = account.book(&self.node, budget, &booking, now_us, alive);
        if booked.elsewhere > 0 {
            self.tell(&mut ledger, Change::Wanted(id));
        }
        Ok(booked)
    }

    fn close_now(&self, closings: Vec<Closing>, at: Timestamp) -> Result<Replicas, StoreError> {
        let mut ledger = self.through()?;
        let now_us = u64::try_from(self.shared.clock.now().wall.0).unwrap();
        for closing in closings {
            if self.session_now(&ledger, closing.id)?.is_none() {
                continue;
            }
            self.shared.kept.close_session_now(Closing { unused: 0, ..closing }, at)?;
            // A node that closes it a second time may hold something of it all the same.
            if let Some(account) = ledger.accounts.get_mut(&closing.id) {
                account.give_back(&self.node, closing.unused, None, now_us);
            }
            if ledger.closed.insert(closing.id) {
                self.tell(&mut ledger, Change::SessionClosed { id: closing.id, at });
            }
        }
        Ok(Replicas::default())
    }

    pub(in crate::store) fn refuse_writes(&self, refuse: bool) {
        self.cut_off(refuse);
    }
}

fn with_account(ledger: &Ledger, session: StoredSession) -> StoredSession {
    let booked = ledger.accounts.get(&session.order.id).map_or(0, Account::booked);
    StoredSession { booked, ..session }
}

/// The refusal of steps, in the order of the steps, if there is one.
fn refuse_steps(
    kept: &[Approval],
    steps: &[ApprovalStep],
    room: Room,
    now: Timestamp,
) -> Option<Put> {
    let there = |id| kept.iter().find(|one| one.id == id);
    let waiting = |one: &&Approval| one.status_at(now) == Status::Pending;
    for (at, step) in steps.iter().enumerate() {
        let to = &step.to;
        if there(to.id).map(Approval::stamp) != step.from {
            return Some(Put::Overtaken(to.id));
        }
        let before = steps.get(..at).unwrap_or_default();
        if step.from.is_none() {
            let same = |one: &&Approval| {
                one.digest == to.digest && one.id != to.id && one.status_at(now).is_open()
            };
            if let Some(other) = kept.iter().find(same) {
                return Some(Put::Overtaken(other.id));
            }
        }
        if step.is_timed() && to.expires_at <= now {
            return Some(Put::Over(to.id));
        }
        if step.from.is_none() && to.status == Status::Pending {
            let count = |of: &dyn Fn(&Approval) -> bool| {
                let new = before.iter().map(|step| &step.to).filter(|one| of(one));
                kept.iter().filter(waiting).filter(|one| of(one)).count() + new.count()
            };
            if count(&|one| one.agent == to.agent) >= room.of_agent
                || count(&|one| one.owner == to.owner) >= room.of_owner
                || count(&|_| true) >= room.in_all
            {
                return Some(Put::TooMany);
            }
        }
    }
    None
}

impl Backend for Fleet {
    async fn close(&self) -> Result<(), StoreError> {
        self.cut_off(true);
        Ok(())
    }

    async fn newest(&self, _at: Timestamp) -> Result<Timestamp, StoreError> {
        self.time().await
    }

    async fn agents(&self) -> Result<Vec<StoredAgent>, StoreError> {
        drop(self.through()?);
        self.shared.kept.agents().await
    }

    async fn tombstones(&self) -> Result<Vec<AgentId>, StoreError> {
        drop(self.through()?);
        self.shared.kept.tombstones().await
    }

    async fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        self.shared.kept.insert_agent_now(agent)?;
        self.tell(&mut ledger, Change::Registered(Arc::clone(agent)));
        Ok(())
    }

    async fn set_trust(
        &self,
        id: AgentId,
        level: TrustLevel,
        above: u64,
    ) -> Result<Option<(u64, Replicas)>, StoreError> {
        let mut ledger = self.through()?;
        let Some(number) = self.shared.kept.set_trust_now(id, level, above)? else {
            return Ok(None);
        };
        self.tell(&mut ledger, Change::Trust { id, level, number });
        Ok(Some((number, Replicas::default())))
    }

    async fn take_away(
        &self,
        taken: Vec<TakenAway>,
        _at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        let mut ledger = self.through()?;
        for taken in self.shared.kept.take_away_now(&taken, self.shared.clock.now().wall)? {
            self.tell(&mut ledger, Change::TakenAway(taken));
        }
        Ok(Replicas::default())
    }

    async fn flag(&self, id: AgentId, count: u32, _at: Timestamp) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        self.shared.kept.flag_now(id, count, self.shared.clock.now().wall)?;
        self.tell(&mut ledger, Change::Flagged { agent: id, flags: count });
        Ok(())
    }

    async fn purge(&self, purge: Purge, _now: Timestamp) -> Result<Vec<AgentId>, StoreError> {
        let mut ledger = self.through()?;
        let now = self.shared.clock.now().wall;
        let purged = self.shared.kept.purge_now(&purge, now)?;
        for &(id, tombstone) in &purged {
            self.tell(&mut ledger, Change::Purged { id, tombstone });
        }
        Ok(purged.into_iter().map(|(id, _)| id).collect())
    }

    async fn delegations(&self) -> Result<StoredDelegations, StoreError> {
        drop(self.through()?);
        self.shared.kept.delegations().await
    }

    async fn put_delegation(
        &self,
        delegation: &Delegation,
        version: u64,
    ) -> Result<u64, StoreError> {
        let mut ledger = self.through()?;
        let version = self.shared.kept.put_delegation_now(delegation, version)?;
        self.tell(&mut ledger, Change::Delegation { delegation: delegation.clone(), version });
        Ok(version)
    }

    async fn end_delegations(&self, ids: Vec<Uuid>) -> Result<(u64, Replicas), StoreError> {
        let mut ledger = self.through()?;
        let (ended, version) = self.shared.kept.end_delegations_now(&ids)?;
        let first = version - u64::try_from(ended.len()).unwrap();
        for (version, id) in (first + 1..).zip(ended) {
            self.tell(&mut ledger, Change::DelegationEnded { id, version });
        }
        Ok((version, Replicas::default()))
    }

    async fn sessions(&self, cutoff: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
        let ledger = self.through()?;
        let sessions = self.shared.kept.sessions_now(cutoff)?.into_iter();
        Ok(sessions.map(|session| with_account(&ledger, session)).collect())
    }

    async fn insert_session(
        &self,
        order: &Arc<WorkOrder>,
        cap: usize,
    ) -> Result<Opened, StoreError> {
        let mut ledger = self.through()?;
        let now = self.shared.clock.now().wall;
        if !self.shared.kept.is_active_now(order.agent)? {
            return Ok(Opened::NoAgent);
        }
        let active = self.shared.kept.sessions_now(now)?.into_iter().filter(|session| {
            session.order.agent == order.agent && !ledger.closed.contains(&session.order.id)
        });
        if active.count() >= cap {
            return Ok(Opened::TooMany);
        }
        ledger.accounts.insert(order.id, Account::default());
        ledger.closed.remove(&order.id);
        self.shared.kept.insert_session_now(order)?;
        self.tell(&mut ledger, Change::SessionOpened(Arc::clone(order)));
        Ok(Opened::Yes)
    }

    async fn book(&self, booking: Booking) -> Result<Booked, StoreError> {
        self.answer(self.book_now(booking)).await
    }

    async fn close_sessions(
        &self,
        closings: Vec<Closing>,
        at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        self.answer(self.close_now(closings, at)).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        let now_us = u64::try_from(self.shared.clock.now().wall.0).unwrap();
        for settlement in settlements {
            if let Some(account) = ledger.accounts.get_mut(&settlement.id) {
                account.give_back(&self.node, settlement.unused, settlement.rate, now_us);
            }
        }
        Ok(())
    }

    async fn forget_sessions(
        &self,
        ids: Vec<SessionId>,
        _now: Timestamp,
        retention_secs: u64,
    ) -> Result<(), StoreError> {
        drop(self.through()?);
        let now = self.shared.clock.now().wall;
        self.shared.kept.forget_sessions(ids, now, retention_secs).await
    }

    async fn forget_ended(
        &self,
        _now: Timestamp,
        retention_secs: u64,
        limit: u32,
    ) -> Result<usize, StoreError> {
        drop(self.through()?);
        let now = self.shared.clock.now().wall;
        self.shared.kept.forget_ended(now, retention_secs, limit).await
    }

    async fn freezes(&self) -> Result<Vec<Arc<Freeze>>, StoreError> {
        let _ledger = self.through()?;
        self.shared.kept.freezes_now()
    }

    async fn freeze(&self, freeze: &Arc<Freeze>) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        self.shared.kept.freeze_now(freeze)?;
        self.tell(&mut ledger, Change::Frozen(Arc::clone(freeze)));
        Ok(())
    }

    async fn unfreeze(&self, id: Uuid) -> Result<bool, StoreError> {
        let mut ledger = self.through()?;
        self.tell(&mut ledger, Change::Unfrozen(id));
        self.shared.kept.unfreeze_now(id)
    }

    async fn approvals(&self) -> Result<Vec<Approval>, StoreError> {
        let _ledger = self.through()?;
        self.shared.kept.approvals_now()
    }

    async fn find_approvals(&self, ids: Vec<Uuid>) -> Result<Vec<Approval>, StoreError> {
        drop(self.through()?);
        self.shared.kept.find_approvals(ids).await
    }

    async fn put_approvals(&self, steps: Vec<ApprovalStep>, room: Room) -> Result<Put, StoreError> {
        let mut ledger = self.through()?;
        let now = self.shared.clock.now().wall;
        let kept = self.shared.kept.approvals_now()?;
        if let Some(refused) = refuse_steps(&kept, &steps, room, now) {
            return Ok(refused);
        }
        let told: Vec<_> = steps.iter().map(|step| (step.to.id, step.to.state())).collect();
        let done = self.shared.kept.put_approvals_now(steps)?;
        for (id, state) in told {
            self.tell(&mut ledger, Change::Approval { id, state });
        }
        Ok(done)
    }

    async fn forget_approvals(&self, ids: Vec<Uuid>, _now: Timestamp) -> Result<(), StoreError> {
        let _ledger = self.through()?;
        self.shared.kept.forget_approvals_now(&ids, self.shared.clock.now().wall)
    }

    async fn keep_continuation(
        &self,
        one: &Continuation,
        _now: Timestamp,
    ) -> Result<(), StoreError> {
        let now = self.shared.clock.now().wall;
        let kept = &mut self.through()?.continuations;
        if one.ends <= now {
            return Ok(());
        }
        kept.retain(|other| other.mark != one.mark && other.ends > now);
        kept.push(one.clone());
        kept.sort_by_key(|one| (one.ends, one.mark.to_string()));
        let of_session = kept.iter().filter(|other| other.session == one.session).count();
        let mut surplus = of_session.saturating_sub(MAX_OF_SESSION.into());
        kept.retain(|other| {
            let goes = surplus > 0 && other.session == one.session;
            surplus -= usize::from(goes);
            !goes
        });
        Ok(())
    }

    async fn take_continuation(&self, mark: Digest) -> Result<(bool, Replicas), StoreError> {
        let kept = &mut self.through()?.continuations;
        let before = kept.len();
        kept.retain(|one| one.mark != mark);
        Ok((kept.len() < before, Replicas::default()))
    }

    async fn continuation(
        &self,
        mark: Digest,
        now: Timestamp,
    ) -> Result<Option<Continuation>, StoreError> {
        let ledger = self.through()?;
        let mut found = ledger.continuations.iter();
        Ok(found.find(|one| one.mark == mark && one.ends > now).cloned())
    }

    async fn continuations_of(
        &self,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Vec<Continuation>, StoreError> {
        let ledger = self.through()?;
        let of_session = ledger.continuations.iter().filter(|one| one.session == session);
        Ok(of_session.filter(|one| one.ends > now).cloned().collect())
    }

    async fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        drop(self.through()?);
        self.shared.kept.revoked_tokens().await
    }

    async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        _now: Timestamp,
    ) -> Result<Replicas, StoreError> {
        let mut ledger = self.through()?;
        let now = self.shared.clock.now().wall;
        self.shared.kept.revoke_token_now(token_id, until, now)?;
        self.tell(&mut ledger, Change::TokenRevoked { token_id: token_id.to_owned(), until });
        Ok(Replicas::default())
    }
}

impl SharedBackend for Fleet {
    async fn time(&self) -> Result<Timestamp, StoreError> {
        drop(self.through()?);
        Ok(self.shared.clock.now().wall)
    }

    async fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        let ledger = self.through()?;
        self.session_now(&ledger, id)
    }

    async fn follow_from_here(&self) -> Result<Bookmark, StoreError> {
        let connection = self.through()?.connection();
        Ok(Bookmark { connection, ..self.position().await?.into() })
    }

    async fn position(&self) -> Result<Position, StoreError> {
        Ok(Position(u64::try_from(self.through()?.log.len()).unwrap()))
    }

    async fn changes(&self, bookmark: &Bookmark) -> Result<Changes, StoreError> {
        let after = bookmark.position;
        let changed = self.shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if self.position().await? == after {
            // Whether there is news or not, the answer follows.
            let _news = tokio::time::timeout(WAIT, changed).await;
        }
        let ledger = self.through()?;
        let seen = usize::try_from(after.0).unwrap();
        let new = ledger.log.get(seen..).ok_or(StoreError::Missed)?;
        let others = new.iter();
        let others =
            others.filter(|(node, change)| change.returns_to_its_node() || *node != self.node);
        let changes = others.map(|(_, change)| change.clone()).collect();
        let connection = ledger.connection();
        let reconnected = bookmark.connection != 0 && bookmark.connection != connection;
        let position = Position(u64::try_from(ledger.log.len()).unwrap());
        let bookmark = Bookmark { connection, ..position.into() };
        Ok(Changes { changes, bookmark, time: Some(self.shared.clock.now().wall), reconnected })
    }
}

impl From<Fleet> for Store {
    fn from(fleet: Fleet) -> Self {
        Self::Fleet(fleet)
    }
}
