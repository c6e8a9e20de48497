//! A ledger that several nodes of one process share: the model of what Redis does, for tests of what
//! the nodes make of it. Nodes can be told apart, cut off and killed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use super::super::ledger::account::Account;
use super::super::memory::Memory;
use super::super::{
    Booked, Booking, Change, Changes, Closing, NodeName, Opened, Position, Settlement, Store,
    StoreError, StoredSession,
};
use crate::clock::Clock;
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

/// Time for which a node waits for changes before it asks again.
const WAIT: Duration = Duration::from_millis(100);

/// One node's way to the ledger.
#[derive(Debug)]
pub struct Fleet {
    node: NodeName,
    shared: Arc<Shared>,
    /// Nothing gets through while this is set.
    cut_off: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    kept: Memory,
    ledger: Mutex<Ledger>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Ledger {
    accounts: HashMap<SessionId, Account>,
    closed: HashSet<SessionId>,
    log: Vec<(NodeName, Change)>,
    dead: HashSet<NodeName>,
    bookings: u64,
}

impl Fleet {
    pub(crate) fn new(node: &str, clock: Clock) -> Self {
        let shared = Shared {
            clock,
            kept: Memory::default(),
            ledger: Mutex::default(),
            changed: Notify::new(),
        };
        Self::at(node, Arc::new(shared))
    }

    fn at(node: &str, shared: Arc<Shared>) -> Self {
        Self { node: node.into(), shared, cut_off: false.into() }
    }

    /// Another node on the same ledger.
    pub(crate) fn beside(&self, node: &str) -> Self {
        Self::at(node, Arc::clone(&self.shared))
    }

    /// Makes an agent known, so that sessions can be opened for it.
    pub(crate) fn register(&self, id: AgentId) {
        let agent = Agent {
            id,
            owner: "ops".to_owned(),
            model: "m".to_owned(),
            capabilities: Vec::new(),
            trust: TrustLevel::Basic,
            active: true,
            created_at: Timestamp(0),
            expires_at: None,
        };
        self.insert_agent(&Arc::new(agent)).unwrap();
    }

    /// The node is gone, as far as the others can tell.
    pub(crate) fn kill(&self) {
        self.ledger().dead.insert(self.node.clone());
        self.cut_off(true);
    }

    pub(crate) fn cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, std::sync::atomic::Ordering::SeqCst);
    }

    /// Returns the number of bookings.
    pub(crate) fn bookings(&self) -> u64 {
        self.ledger().bookings
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn through(&self) -> Result<MutexGuard<'_, Ledger>, StoreError> {
        if self.cut_off.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError::Stopped);
        }
        Ok(self.ledger())
    }

    fn tell(&self, ledger: &mut Ledger, change: Change) {
        ledger.log.push((self.node.clone(), change));
        self.shared.changed.notify_waiters();
    }

    pub(in crate::store) fn close(&self) {
        self.cut_off(true);
    }

    pub(in crate::store) fn agents(&self) -> Result<Vec<Arc<Agent>>, StoreError> {
        let _ledger = self.through()?;
        self.shared.kept.agents()
    }

    pub(in crate::store) fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        self.shared.kept.insert_agent(agent)?;
        self.tell(&mut ledger, Change::Registered(Arc::clone(agent)));
        Ok(())
    }

    pub(in crate::store) fn set_trust(
        &self,
        levels: &[(AgentId, TrustLevel)],
    ) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        self.shared.kept.set_trust(levels)?;
        for &(id, level) in levels {
            self.tell(&mut ledger, Change::Trust(id, level));
        }
        Ok(())
    }

    pub(in crate::store) fn deactivate(&self, agents: &[AgentId]) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        self.shared.kept.deactivate(agents)?;
        for &id in agents {
            self.tell(&mut ledger, Change::Deactivated(id));
        }
        Ok(())
    }

    pub(in crate::store) fn delegations(&self) -> Result<Vec<Delegation>, StoreError> {
        let _ledger = self.through()?;
        self.shared.kept.delegations()
    }

    pub(in crate::store) fn insert_delegation(
        &self,
        delegation: &Delegation,
        known: usize,
    ) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        if self.shared.kept.delegations()?.len() != known {
            return Err(StoreError::Overtaken);
        }
        self.shared.kept.insert_delegation(delegation)?;
        self.tell(&mut ledger, Change::Delegation(delegation.clone()));
        Ok(())
    }

    pub(in crate::store) fn sessions(
        &self,
        cutoff: Timestamp,
    ) -> Result<Vec<StoredSession>, StoreError> {
        let ledger = self.through()?;
        let mut sessions = self.shared.kept.sessions(cutoff)?;
        for session in &mut sessions {
            let account = ledger.accounts.get(&session.order.id);
            session.booked = account.map_or(0, Account::booked);
        }
        Ok(sessions)
    }

    pub(in crate::store) fn session(
        &self,
        id: SessionId,
    ) -> Result<Option<StoredSession>, StoreError> {
        let sessions = self.sessions(Timestamp(i64::MIN))?;
        Ok(sessions.into_iter().find(|session| session.order.id == id))
    }

    pub(in crate::store) fn insert_session(
        &self,
        order: &Arc<WorkOrder>,
        cap: usize,
    ) -> Result<Opened, StoreError> {
        let mut ledger = self.through()?;
        let now = self.shared.clock.now().wall;
        let agents = self.shared.kept.agents()?;
        if !agents.iter().any(|agent| agent.id == order.agent && agent.active) {
            return Ok(Opened::NoAgent);
        }
        let active = self.shared.kept.sessions(now)?.into_iter().filter(|session| {
            session.order.agent == order.agent && !ledger.closed.contains(&session.order.id)
        });
        if active.count() >= cap {
            return Ok(Opened::TooMany);
        }
        ledger.accounts.insert(order.id, Account::default());
        self.shared.kept.insert_session(order)?;
        self.tell(&mut ledger, Change::SessionOpened(Arc::clone(order)));
        Ok(Opened::Yes)
    }

    pub(in crate::store) fn book(&self, booking: Booking) -> Result<Booked, StoreError> {
        let mut ledger = self.through()?;
        ledger.bookings += 1;
        let id = booking.id;
        let stored = self.session_budget(id)?;
        if ledger.closed.contains(&id) {
            let total = ledger.accounts.get(&id).map_or(0, Account::booked);
            return Ok(Booked { closed: true, ..Booked::alone(0, total) });
        }
        let now_us = self.shared.clock.now().mono.0;
        let dead = ledger.dead.clone();
        let account = ledger.accounts.get_mut(&id).ok_or(StoreError::Missing(id.0))?;
        let booked =
            account.book(&self.node, stored, &booking, now_us, |node| !dead.contains(node));
        if booked.elsewhere > 0 {
            self.tell(&mut ledger, Change::Wanted(id));
        }
        Ok(booked)
    }

    fn session_budget(&self, id: SessionId) -> Result<u64, StoreError> {
        let sessions = self.shared.kept.sessions(Timestamp(i64::MIN))?;
        let found = sessions.into_iter().find(|session| session.order.id == id);
        Ok(found.ok_or(StoreError::Missing(id.0))?.order.call_budget)
    }

    pub(in crate::store) fn close_sessions(
        &self,
        closings: &[Closing],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        let now_us = self.shared.clock.now().mono.0;
        self.shared.kept.close_sessions(closings, at)?;
        for closing in closings {
            // Whoever closes it a second time may hold something of it all the same.
            if let Some(account) = ledger.accounts.get_mut(&closing.id) {
                account.give_back(&self.node, closing.unused, None, now_us);
            }
            if ledger.closed.insert(closing.id) {
                self.tell(&mut ledger, Change::SessionClosed { id: closing.id, at });
            }
        }
        Ok(())
    }

    pub(in crate::store) fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        let now_us = self.shared.clock.now().mono.0;
        for settlement in settlements {
            if let Some(account) = ledger.accounts.get_mut(&settlement.id) {
                account.give_back(&self.node, settlement.unused, settlement.rate, now_us);
            }
        }
        Ok(())
    }

    pub(in crate::store) fn forget_sessions(&self, ids: &[SessionId]) -> Result<(), StoreError> {
        let _ledger = self.through()?;
        self.shared.kept.forget_sessions(ids)
    }

    pub(in crate::store) fn forget_ended(
        &self,
        cutoff: Timestamp,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let _ledger = self.through()?;
        self.shared.kept.forget_ended(cutoff, limit)
    }

    pub(in crate::store) fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let _ledger = self.through()?;
        self.shared.kept.revoked_tokens()
    }

    pub(in crate::store) fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        self.shared.kept.revoke_token(token_id, until, now)?;
        self.tell(&mut ledger, Change::TokenRevoked { token_id: token_id.to_owned(), until });
        Ok(())
    }

    pub(in crate::store) fn freezes(&self) -> Result<Vec<Arc<Freeze>>, StoreError> {
        let _ledger = self.through()?;
        self.shared.kept.freezes()
    }

    pub(in crate::store) fn freeze(&self, freeze: &Arc<Freeze>) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        self.shared.kept.freeze(freeze)?;
        self.tell(&mut ledger, Change::Frozen(Arc::clone(freeze)));
        Ok(())
    }

    pub(in crate::store) fn unfreeze(&self, id: Uuid) -> Result<bool, StoreError> {
        let mut ledger = self.through()?;
        self.tell(&mut ledger, Change::Unfrozen(id));
        self.shared.kept.unfreeze(id)
    }

    pub(in crate::store) fn tell_flags(
        &self,
        agent: AgentId,
        flags: u32,
    ) -> Result<(), StoreError> {
        let mut ledger = self.through()?;
        self.tell(&mut ledger, Change::Flagged { agent, flags });
        Ok(())
    }

    pub(in crate::store) fn position(&self) -> Result<Position, StoreError> {
        Ok(Position(u64::try_from(self.through()?.log.len()).unwrap()))
    }

    pub(in crate::store) async fn changes(&self, after: Position) -> Result<Changes, StoreError> {
        let changed = self.shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if self.position()? == after {
            // Whether there is news or not, the answer follows.
            let _news = tokio::time::timeout(WAIT, changed).await;
        }
        let ledger = self.through()?;
        let seen = usize::try_from(after.0).unwrap();
        let new = ledger.log.get(seen..).ok_or(StoreError::Missed)?;
        let others = new.iter().filter(|(node, _)| *node != self.node);
        let changes = others.map(|(_, change)| change.clone()).collect();
        Ok(Changes { changes, position: Position(u64::try_from(ledger.log.len()).unwrap()) })
    }

    pub(in crate::store) fn refuse_writes(&self, refuse: bool) {
        self.cut_off(refuse);
    }
}

impl From<Fleet> for Store {
    fn from(fleet: Fleet) -> Self {
        Self::Fleet(fleet)
    }
}
