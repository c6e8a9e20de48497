//! The store that lasts as long as its process: the same promises as the others, under one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use super::backend::Backend;
use super::ledger::share;
use super::{
    Booked, Booking, Closing, Opened, Purge, Put, Replicas, Room, Settlement, StoreError,
    StoredAgent, StoredDelegations, StoredSession, TakenAway, before,
};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::approvals::{Approval, ApprovalStep};
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::saturate::SaturatingFrom as _;
use sessions::Sessions;

mod sessions;

#[derive(Debug, Default)]
pub struct Memory {
    tables: Mutex<Box<Tables>>,
}

#[derive(Clone, Debug, Default)]
struct Tables {
    agents: HashMap<AgentId, StoredAgent>,
    tombstones: BTreeSet<AgentId>,
    delegations: BTreeMap<Uuid, Delegation>,
    /// Counts the changes of `delegations`.
    version: u64,
    sessions: Sessions,
    revoked: HashMap<String, Timestamp>,
    freezes: HashMap<Uuid, Arc<Freeze>>,
    approvals: HashMap<Uuid, Approval>,
    closed: bool,
    #[cfg(test)]
    refuse_writes: bool,
}

impl Memory {
    #[cfg(test)]
    pub(super) fn refuse_writes(&self, refuse: bool) {
        self.tables.lock().refuse_writes = refuse;
    }

    /// Takes away, and returns what was not gone before, with the levels that result.
    pub(super) fn take_away_now(
        &self,
        taken: &[TakenAway],
        at: Timestamp,
    ) -> Result<Vec<TakenAway>, StoreError> {
        let mut tables = self.write()?;
        let changed = taken.iter().filter_map(|taken| {
            let agent = tables.agents.get_mut(&taken.id)?;
            agent.take_away(taken, at).then(|| agent.resulting(taken))
        });
        Ok(changed.collect())
    }

    /// Ends delegations; returns those that were there, and the version after that.
    pub(super) fn end_delegations_now(&self, ids: &[Uuid]) -> Result<(Vec<Uuid>, u64), StoreError> {
        let mut tables = self.write()?;
        let mut ended = Vec::new();
        for id in ids {
            if tables.delegations.remove(id).is_some() {
                tables.version += 1;
                ended.push(*id);
            }
        }
        Ok((ended, tables.version))
    }

    pub(super) fn insert_agent_now(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        let mut tables = self.write()?;
        if tables.agents.contains_key(&agent.id) || tables.tombstones.contains(&agent.id) {
            return Err(StoreError::Overtaken);
        }
        tables.agents.insert(agent.id, StoredAgent::new(Arc::clone(agent)));
        Ok(())
    }

    pub(super) fn set_trust_now(
        &self,
        id: AgentId,
        level: TrustLevel,
        above: u64,
    ) -> Result<Option<u64>, StoreError> {
        let mut tables = self.write()?;
        Ok(tables.agents.get_mut(&id).map(|agent| agent.set_trust(level, above)))
    }

    pub(super) fn flag_now(
        &self,
        id: AgentId,
        count: u32,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        if let Some(agent) = self.write()?.agents.get_mut(&id) {
            agent.flag(count, at);
        }
        Ok(())
    }

    /// Forgets agents, and returns them with whether their ids are kept.
    pub(super) fn purge_now(
        &self,
        purge: &Purge,
        now: Timestamp,
    ) -> Result<Vec<(AgentId, bool)>, StoreError> {
        let mut tables = self.write()?;
        let mut purged = Vec::new();
        for &id in &purge.ids {
            let Some(agent) = tables.agents.get(&id) else { continue };
            if !agent.is_over(now, purge.retention_secs) {
                continue;
            }
            let tombstone = purge.tombstones && !agent.agent.active;
            if tombstone {
                tables.tombstones.insert(id);
            }
            tables.agents.remove(&id);
            purged.push((id, tombstone));
        }
        Ok(purged)
    }

    pub(super) fn put_delegation_now(
        &self,
        delegation: &Delegation,
        version: u64,
    ) -> Result<u64, StoreError> {
        let mut tables = self.write()?;
        if tables.version != version {
            return Err(StoreError::Overtaken);
        }
        tables.delegations.insert(delegation.id, delegation.clone());
        tables.version += 1;
        Ok(tables.version)
    }

    pub(super) fn sessions_now(&self, cutoff: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
        Ok(self.read()?.sessions.kept(cutoff))
    }

    pub(super) fn insert_session_now(&self, order: &Arc<WorkOrder>) -> Result<(), StoreError> {
        self.write()?.sessions.insert(order);
        Ok(())
    }

    pub(super) fn close_session_now(
        &self,
        closing: Closing,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.write()?.sessions.with(closing.id, |order, account| {
            account.close(at.min(order.expires_at), closing.unused);
        });
        Ok(())
    }

    pub(super) fn revoke_token_now(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tables = self.write()?;
        tables.revoked.retain(|_, &mut until| until > now);
        let kept = tables.revoked.entry(token_id.to_owned()).or_insert(until);
        *kept = until.max(*kept);
        Ok(())
    }

    pub(super) fn freezes_now(&self) -> Result<Vec<Arc<Freeze>>, StoreError> {
        Ok(self.read()?.freezes.values().cloned().collect())
    }

    pub(super) fn freeze_now(&self, freeze: &Arc<Freeze>) -> Result<(), StoreError> {
        self.write()?.freezes.insert(freeze.id, Arc::clone(freeze));
        Ok(())
    }

    pub(super) fn unfreeze_now(&self, id: Uuid) -> Result<bool, StoreError> {
        Ok(self.write()?.freezes.remove(&id).is_some())
    }

    pub(super) fn approvals_now(&self) -> Result<Vec<Approval>, StoreError> {
        Ok(self.read()?.approvals.values().cloned().collect())
    }

    pub(super) fn put_approvals_now(&self, steps: Vec<ApprovalStep>) -> Result<Put, StoreError> {
        let mut tables = self.write()?;
        for step in &steps {
            let there = tables.approvals.get(&step.to.id).map(Approval::stamp);
            if there != step.from {
                return Ok(Put::Overtaken(step.to.id));
            }
        }
        tables.approvals.extend(steps.into_iter().map(|step| (step.to.id, step.to)));
        Ok(Put::Done(Replicas::default()))
    }

    pub(super) fn forget_approvals_now(
        &self,
        ids: &[Uuid],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tables = self.write()?;
        for id in ids {
            if tables.approvals.get(id).is_some_and(|one| !one.status_at(now).is_open()) {
                tables.approvals.remove(id);
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn session_now(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        Ok(self.read()?.sessions.get(id))
    }

    #[cfg(test)]
    pub(super) fn is_active_now(&self, id: AgentId) -> Result<bool, StoreError> {
        Ok(self.read()?.agents.get(&id).is_some_and(|stored| stored.agent.active))
    }

    #[cfg(test)]
    pub(super) fn copy(&self) -> Self {
        Self { tables: Mutex::new(self.tables.lock().clone()) }
    }

    #[cfg(test)]
    pub(super) fn become_like(&self, other: &Self) {
        let other = other.tables.lock().clone();
        *self.tables.lock() = other;
    }

    /// No step below can fail half-way, so a lock that a panic left is as good as any.
    fn read(&self) -> Result<MutexGuard<'_, Box<Tables>>, StoreError> {
        let tables = self.tables.lock();
        if tables.closed { Err(StoreError::Stopped) } else { Ok(tables) }
    }

    fn write(&self) -> Result<MutexGuard<'_, Box<Tables>>, StoreError> {
        let tables = self.read()?;
        #[cfg(test)]
        if tables.refuse_writes {
            return Err(StoreError::Stopped);
        }
        Ok(tables)
    }
}

impl Backend for Memory {
    async fn close(&self) -> Result<(), StoreError> {
        self.tables.lock().closed = true;
        Ok(())
    }

    /// Nothing here is older than this run, whose clock is the only one.
    async fn newest(&self, at: Timestamp) -> Result<Timestamp, StoreError> {
        Ok(at)
    }

    async fn agents(&self) -> Result<Vec<StoredAgent>, StoreError> {
        Ok(self.read()?.agents.values().cloned().collect())
    }

    async fn tombstones(&self) -> Result<Vec<AgentId>, StoreError> {
        Ok(self.read()?.tombstones.iter().copied().collect())
    }

    async fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        self.insert_agent_now(agent)
    }

    async fn set_trust(
        &self,
        id: AgentId,
        level: TrustLevel,
        above: u64,
    ) -> Result<Option<(u64, Replicas)>, StoreError> {
        let number = self.set_trust_now(id, level, above)?;
        Ok(number.map(|number| (number, Replicas::default())))
    }

    async fn take_away(
        &self,
        taken: Vec<TakenAway>,
        at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        self.take_away_now(&taken, at)?;
        Ok(Replicas::default())
    }

    async fn flag(&self, id: AgentId, count: u32, at: Timestamp) -> Result<(), StoreError> {
        self.flag_now(id, count, at)
    }

    async fn purge(&self, purge: Purge, now: Timestamp) -> Result<Vec<AgentId>, StoreError> {
        Ok(self.purge_now(&purge, now)?.into_iter().map(|(id, _tombstone)| id).collect())
    }

    async fn delegations(&self) -> Result<StoredDelegations, StoreError> {
        let tables = self.read()?;
        let all = tables.delegations.values().cloned().collect();
        Ok(StoredDelegations { all, version: tables.version })
    }

    async fn put_delegation(
        &self,
        delegation: &Delegation,
        version: u64,
    ) -> Result<u64, StoreError> {
        self.put_delegation_now(delegation, version)
    }

    async fn end_delegations(&self, ids: Vec<Uuid>) -> Result<(u64, Replicas), StoreError> {
        let (_ended, version) = self.end_delegations_now(&ids)?;
        Ok((version, Replicas::default()))
    }

    async fn sessions(&self, cutoff: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
        self.sessions_now(cutoff)
    }

    async fn insert_session(
        &self,
        order: &Arc<WorkOrder>,
        _cap: usize,
    ) -> Result<Opened, StoreError> {
        self.insert_session_now(order)?;
        Ok(Opened::Yes)
    }

    async fn book(&self, booking: Booking) -> Result<Booked, StoreError> {
        let booked = self.write()?.sessions.with(booking.id, |order, account| {
            if account.is_closed() {
                return Booked { closed: true, ..Booked::alone(0, account.booked) };
            }
            let remaining = order.call_budget.saturating_sub(account.booked);
            let granted = share(booking.least, booking.most, remaining);
            account.booked = account.booked.saturating_add(granted);
            account.set_recent(None);
            Booked::alone(granted, account.booked)
        });
        booked.ok_or(StoreError::Missing(booking.id.0))
    }

    async fn close_sessions(
        &self,
        closings: Vec<Closing>,
        at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        for closing in closings {
            self.close_session_now(closing, at)?;
        }
        Ok(Replicas::default())
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        let tables = self.write()?;
        for settlement in settlements {
            tables.sessions.with(settlement.id, |_, account| {
                account.booked = account.booked.saturating_sub(settlement.unused);
                if settlement.recent.is_some() {
                    account.set_recent(settlement.recent);
                }
            });
        }
        Ok(())
    }

    async fn forget_sessions(
        &self,
        ids: Vec<SessionId>,
        now: Timestamp,
        retention_secs: u64,
    ) -> Result<(), StoreError> {
        let cutoff = before(now, retention_secs);
        let tables = self.write()?;
        for id in ids {
            tables.sessions.forget(id, cutoff);
        }
        Ok(())
    }

    async fn forget_ended(
        &self,
        now: Timestamp,
        retention_secs: u64,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let cutoff = before(now, retention_secs);
        let tables = self.write()?;
        let ids = tables.sessions.ended(cutoff, usize::saturating_from(limit));
        for &id in &ids {
            tables.sessions.forget(id, cutoff);
        }
        Ok(ids.len())
    }

    async fn freezes(&self) -> Result<Vec<Arc<Freeze>>, StoreError> {
        self.freezes_now()
    }

    async fn freeze(&self, freeze: &Arc<Freeze>) -> Result<(), StoreError> {
        self.freeze_now(freeze)
    }

    async fn unfreeze(&self, id: Uuid) -> Result<bool, StoreError> {
        self.unfreeze_now(id)
    }

    async fn approvals(&self) -> Result<Vec<Approval>, StoreError> {
        self.approvals_now()
    }

    async fn find_approvals(&self, ids: Vec<Uuid>) -> Result<Vec<Approval>, StoreError> {
        let tables = self.read()?;
        Ok(ids.iter().filter_map(|id| tables.approvals.get(id).cloned()).collect())
    }

    async fn put_approvals(
        &self,
        steps: Vec<ApprovalStep>,
        _room: Room,
    ) -> Result<Put, StoreError> {
        self.put_approvals_now(steps)
    }

    async fn forget_approvals(&self, ids: Vec<Uuid>, now: Timestamp) -> Result<(), StoreError> {
        self.forget_approvals_now(&ids, now)
    }

    async fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        Ok(self.read()?.revoked.iter().map(|(id, &until)| (id.clone(), until)).collect())
    }

    async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Replicas, StoreError> {
        self.revoke_token_now(token_id, until, now)?;
        Ok(Replicas::default())
    }
}
