//! Changes of what is in memory, before the store has them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use uuid::Uuid;

use super::entry::Entry;
use super::pending::{Pending, Revoked};
use super::{Demotion, Inner, RevokeError, read, write};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::time::{Now, Timestamp};
use crate::store::{Lowered, TakenAway};

/// Maximum number of revoked tokens kept. A token is valid for a day at most.
pub(super) const MAX_REVOKED: usize = 100_000;

impl Inner {
    pub(super) fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        self.agents.get(&id).map(|entry| Arc::clone(&entry.agent))
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock()
    }

    /// Lowers an agent's trust in memory, unless an operator has set it since the change of that number;
    /// returns whether it was higher. The caller has it stored.
    pub(super) fn lower(&self, id: AgentId, level: TrustLevel, number: u64) -> bool {
        let Some(mut entry) = self.agents.get_mut(&id) else { return false };
        if entry.agent.trust <= level || entry.number() > number {
            return false;
        }
        let lowered = Some(Lowered { level, number: entry.number() });
        entry.kept.take(&TakenAway { id, inactive: false, lowered });
        entry.refresh();
        self.pending().taken.insert(id);
        drop(entry);
        self.authorizations.changed();
        true
    }

    /// Applies the trust level that an operator set, numbered by the store.
    pub(super) fn trust_set(&self, id: AgentId, level: TrustLevel, number: u64) {
        if let Some(mut entry) = self.agents.get_mut(&id) {
            entry.set_trust(level, number);
        }
        self.authorizations.changed();
    }

    /// Changes an entry and counts whether it is active afterwards.
    pub(super) fn change(&self, id: AgentId, change: impl FnOnce(&mut Entry)) -> bool {
        let Some(mut entry) = self.agents.get_mut(&id) else { return false };
        let before = entry.agent.active;
        change(&mut entry);
        entry.refresh();
        self.count_active(before, entry.agent.active);
        before && !entry.agent.active
    }

    pub(super) fn count_active(&self, before: bool, after: bool) {
        match (before, after) {
            (false, true) => self.active.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.active.fetch_sub(1, Ordering::Relaxed),
            (false, false) | (true, true) => 0,
        };
    }

    /// Deactivates an agent and everyone below it in memory; gives those that were still active, and
    /// all of them.
    pub(super) fn deactivate(&self, id: AgentId) -> (Vec<AgentId>, Vec<AgentId>) {
        let now = self.clock.now().wall;
        // Held until all are marked: a delegation that is taken in meanwhile finds its giver marked.
        let graph = read(&self.graph);
        let all = graph.with_all_below(id, now);
        let mut ids = Vec::new();
        for &id in &all {
            let taken = TakenAway { id, inactive: true, lowered: None };
            if self.change(id, |entry| entry.kept.take(&taken)) {
                ids.push(id);
            }
        }
        drop(graph);
        self.authorizations.changed();
        self.pending().taken.extend(&ids);
        (ids, all)
    }

    pub(super) fn delegated(&self, delegation: Delegation, version: u64) {
        let to = delegation.to;
        write(&self.graph).insert(delegation, version);
        self.is_delegate(to);
        self.authorizations.changed();
    }

    /// Removes a delegation from memory, by the change of this number if that is known.
    pub(super) fn delegation_ended(&self, id: Uuid, version: Option<u64>) {
        let removed = write(&self.graph).end(id, version);
        if let Some(delegation) = removed {
            self.is_delegate(delegation.to);
        }
        self.authorizations.changed();
    }

    pub(super) fn is_delegate(&self, id: AgentId) {
        let delegate = !read(&self.graph).incoming(id).is_empty();
        if let Some(mut entry) = self.agents.get_mut(&id) {
            entry.delegate = delegate;
        }
    }

    /// Counts flags. None if there is nothing to count; inside, the demotion that they are enough for.
    #[expect(clippy::option_option, reason = "not counted, counted, and one too many")]
    pub(super) fn count(&self, id: AgentId, flags: u32, now: Now) -> Option<Option<Demotion>> {
        let mut entry = self.agents.get_mut(&id)?;
        let (from, to) = (entry.agent.trust, entry.agent.trust.demoted());
        if flags == 0 || !entry.agent.active || to == from {
            return None;
        }
        if !entry.flags.get_or_insert_default().add(flags, now.mono) {
            return Some(None);
        }
        entry.flags = None;
        Some(Some(Demotion { agent: id, from, to, number: entry.number() }))
    }

    pub(super) fn revoke(
        &self,
        token_id: &str,
        until: Timestamp,
        at: Timestamp,
    ) -> Result<(), RevokeError> {
        // Held so that the cap is exact.
        let mut pending = self.pending();
        self.revoked.retain(|_, until| *until > at);
        let full = self.revoked.len() >= MAX_REVOKED && !self.revoked.contains_key(token_id);
        if !full {
            let mut kept = self.revoked.entry(token_id.to_owned()).or_insert(until);
            *kept = until.max(*kept);
            pending.revoked.insert(token_id.to_owned(), Revoked { until: *kept, at });
        }
        self.count_revoked();
        if full { Err(RevokeError::Full { cap: MAX_REVOKED }) } else { Ok(()) }
    }
}
