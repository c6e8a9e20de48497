//! Forgetting what is over: agents that were deactivated or have expired, delegations whose time has
//! passed, revoked tokens that nobody could present any more.
//!
//! Nothing that is forgotten may give anybody more: an agent is kept for as long as a delegation by it is
//! in force for an agent that may still act.

use std::ops::Bound;
use std::sync::Arc;

use uuid::Uuid;

use super::{Inner, Registry, read};
use crate::firewall::agent::{Agent, AgentId};
use crate::firewall::time::Timestamp;
use crate::store::{Purge, StoreError, before};

/// Agents looked at under one hold of a lock.
const SLICE: usize = 1_000;

/// The time for which ended agents are kept, and a switch that keeps the ids of deactivated ones for good.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub secs: u64,
    pub tombstones: bool,
}

impl Registry {
    /// Forgets what ended long enough before `now`, in slices; returns the agents that were forgotten.
    pub async fn purge(
        &self,
        retention: Retention,
        now: Timestamp,
    ) -> Result<Vec<Arc<Agent>>, StoreError> {
        let inner = &self.inner;
        inner.forget_revoked(now);
        let over = read(&inner.graph).over(before(now, retention.secs));
        inner.end_for_good(over).await?;
        let mut purged = Vec::new();
        let mut after = Bound::Unbounded;
        loop {
            let slice: Vec<(Timestamp, AgentId)> =
                read(&inner.by_age).range((after, Bound::Unbounded)).take(SLICE).copied().collect();
            let Some(&last) = slice.last() else { return Ok(purged) };
            after = Bound::Excluded(last);
            let over = slice.iter().map(|&(_, id)| id);
            let over: Vec<AgentId> =
                over.filter(|&id| inner.is_over(id, retention.secs, now)).collect();
            if over.is_empty() {
                tokio::task::yield_now().await;
                continue;
            }
            let left = over.iter().flat_map(|&id| inner.delegations_of(id)).collect();
            inner.end_for_good(left).await?;
            let secs = retention.secs;
            let purge = Purge { ids: over, retention_secs: secs, tombstones: retention.tombstones };
            for id in inner.store.purge(purge, now).await? {
                let inactive = inner.agent(id).is_some_and(|agent| !agent.active);
                purged.extend(inner.purged(id, retention.tombstones && inactive));
            }
        }
    }
}

impl Inner {
    /// Checks whether an agent ended long enough ago and nothing that is in force rests on it.
    fn is_over(&self, id: AgentId, secs: u64, now: Timestamp) -> bool {
        // A deactivation of an earlier version has no time: the store gives it one when it is asked.
        let over = self.agents.get(&id).is_some_and(|entry| {
            let undated = !entry.stored.agent.active && entry.stored.ended_at.is_none();
            !entry.lost && (undated || entry.stored.is_over(now, secs))
        });
        over && {
            let graph = read(&self.graph);
            graph.outgoing(id).iter().all(|delegation| {
                let other = self.agent(delegation.to);
                !delegation.in_force(now) || !other.is_some_and(|agent| agent.may_act(now))
            })
        }
    }

    fn delegations_of(&self, id: AgentId) -> Vec<Uuid> {
        let graph = read(&self.graph);
        let all = graph.incoming(id).iter().chain(graph.outgoing(id));
        all.map(|delegation| delegation.id).collect()
    }

    async fn end_for_good(&self, ids: Vec<Uuid>) -> Result<(), StoreError> {
        for ids in ids.chunks(SLICE) {
            let _writing = self.writing.lock().await;
            let (version, _replicas) = self.store.end_delegations(ids.to_vec()).await?;
            for &id in ids {
                self.delegation_ended(id, Some(version));
            }
        }
        Ok(())
    }

    fn forget_revoked(&self, now: Timestamp) {
        self.revoked.retain(|_, until| *until > now);
        self.count_revoked();
    }

    pub(super) fn count_revoked(&self) {
        self.revoked_count.store(self.revoked.len(), std::sync::atomic::Ordering::Release);
    }
}
