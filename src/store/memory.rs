//! The store that lasts as long as its process: the same promises as the others, under one lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::ledger::share;
use super::{Booked, Booking, Closing, Opened, RecentCalls, Settlement, StoreError, StoredSession};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

#[derive(Debug, Default)]
pub struct Memory {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    agents: HashMap<AgentId, Arc<Agent>>,
    delegations: Vec<Delegation>,
    /// A tree, as a hash table that grows moves all at once, and every booking waits.
    sessions: BTreeMap<SessionId, Row>,
    revoked: HashMap<String, Timestamp>,
    freezes: HashMap<Uuid, Arc<Freeze>>,
    closed: bool,
    #[cfg(test)]
    refuse_writes: bool,
}

#[derive(Debug)]
struct Row {
    order: Arc<WorkOrder>,
    booked: u64,
    closed_at: Option<Timestamp>,
    recent: Option<Box<[RecentCalls]>>,
}

impl Row {
    fn ended_by(&self, cutoff: Timestamp) -> bool {
        self.closed_at.unwrap_or(self.order.expires_at) <= cutoff
    }
}

impl Memory {
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    pub(super) fn agents(&self) -> Result<Vec<Arc<Agent>>, StoreError> {
        Ok(self.read()?.agents.values().cloned().collect())
    }

    pub(super) fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        self.write()?.agents.insert(agent.id, Arc::clone(agent));
        Ok(())
    }

    pub(super) fn set_trust(&self, levels: &[(AgentId, TrustLevel)]) -> Result<(), StoreError> {
        let mut tables = self.write()?;
        for (id, trust) in levels {
            if let Some(agent) = tables.agents.get_mut(id) {
                Arc::make_mut(agent).trust = *trust;
            }
        }
        Ok(())
    }

    pub(super) fn deactivate(&self, agents: &[AgentId]) -> Result<(), StoreError> {
        let mut tables = self.write()?;
        for id in agents {
            if let Some(agent) = tables.agents.get_mut(id) {
                Arc::make_mut(agent).active = false;
            }
        }
        Ok(())
    }

    pub(super) fn delegations(&self) -> Result<Vec<Delegation>, StoreError> {
        Ok(self.read()?.delegations.clone())
    }

    pub(super) fn insert_delegation(&self, delegation: &Delegation) -> Result<(), StoreError> {
        self.write()?.delegations.push(delegation.clone());
        Ok(())
    }

    pub(super) fn sessions(&self, cutoff: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
        let tables = self.read()?;
        let kept = tables.sessions.values().filter(|row| !row.ended_by(cutoff));
        Ok(kept
            .map(|row| StoredSession {
                order: Arc::clone(&row.order),
                booked: row.booked,
                closed_at: row.closed_at,
                recent: row.recent.as_deref().map(<[RecentCalls]>::to_vec),
            })
            .collect())
    }

    pub(super) fn insert_session(&self, order: &Arc<WorkOrder>) -> Result<Opened, StoreError> {
        let row = Row { order: Arc::clone(order), booked: 0, closed_at: None, recent: None };
        self.write()?.sessions.insert(order.id, row);
        Ok(Opened::Yes)
    }

    pub(super) fn book(&self, booking: Booking) -> Result<Booked, StoreError> {
        let mut tables = self.write()?;
        let id = booking.id;
        let row = tables.sessions.get_mut(&id).ok_or(StoreError::Missing(id.0))?;
        let remaining = row.order.call_budget.saturating_sub(row.booked);
        let granted = share(booking.least, booking.most, remaining);
        row.booked = row.booked.saturating_add(granted);
        row.recent = None;
        Ok(Booked::alone(granted, row.booked))
    }

    pub(super) fn close_sessions(
        &self,
        closings: &[Closing],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tables = self.write()?;
        for closing in closings {
            if let Some(row) = tables.sessions.get_mut(&closing.id)
                && row.closed_at.is_none()
            {
                row.closed_at = Some(at.min(row.order.expires_at));
                row.booked = row.booked.saturating_sub(closing.unused);
            }
        }
        Ok(())
    }

    pub(super) fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        let mut tables = self.write()?;
        for settlement in settlements {
            if let Some(row) = tables.sessions.get_mut(&settlement.id) {
                row.booked = row.booked.saturating_sub(settlement.unused);
                if let Some(calls) = settlement.recent {
                    row.recent = Some(calls.into());
                }
            }
        }
        Ok(())
    }

    pub(super) fn forget_sessions(&self, ids: &[SessionId]) -> Result<(), StoreError> {
        let mut tables = self.write()?;
        for id in ids {
            tables.sessions.remove(id);
        }
        Ok(())
    }

    pub(super) fn forget_ended(&self, cutoff: Timestamp, limit: u32) -> Result<usize, StoreError> {
        let mut tables = self.write()?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let ended = tables.sessions.iter().filter(|(_, row)| row.ended_by(cutoff));
        let ids: Vec<SessionId> = ended.map(|(&id, _)| id).take(limit).collect();
        for id in &ids {
            tables.sessions.remove(id);
        }
        Ok(ids.len())
    }

    pub(super) fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        Ok(self.read()?.revoked.iter().map(|(id, &until)| (id.clone(), until)).collect())
    }

    pub(super) fn revoke_token(
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

    pub(super) fn freezes(&self) -> Result<Vec<Arc<Freeze>>, StoreError> {
        Ok(self.read()?.freezes.values().cloned().collect())
    }

    pub(super) fn freeze(&self, freeze: &Arc<Freeze>) -> Result<(), StoreError> {
        self.write()?.freezes.insert(freeze.id, Arc::clone(freeze));
        Ok(())
    }

    pub(super) fn unfreeze(&self, id: Uuid) -> Result<bool, StoreError> {
        Ok(self.write()?.freezes.remove(&id).is_some())
    }

    #[cfg(test)]
    pub(super) fn refuse_writes(&self, refuse: bool) {
        self.lock().refuse_writes = refuse;
    }

    /// No step below can fail half-way, so a lock that a panic left is as good as any.
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<MutexGuard<'_, Tables>, StoreError> {
        let tables = self.lock();
        if tables.closed { Err(StoreError::Stopped) } else { Ok(tables) }
    }

    fn write(&self) -> Result<MutexGuard<'_, Tables>, StoreError> {
        let tables = self.read()?;
        #[cfg(test)]
        if tables.refuse_writes {
            return Err(StoreError::Stopped);
        }
        Ok(tables)
    }
}
