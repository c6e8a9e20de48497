//! Changes that are in force on this node and not yet in the store; a task of [`crate::store::retries`]
//! brings them there.
//!
//! Taking something away waits for nobody. A demotion, a deactivation and a revoked token count in
//! memory first; a store that is away delays only that they outlive a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use tokio::sync::Notify;
use uuid::Uuid;

use super::Inner;
use crate::firewall::agent::AgentId;
use crate::firewall::time::Timestamp;
use crate::store::retries::Unsaved;
use crate::store::{Replicas, StoreError, TakenAway};

/// Changes to be stored. Bounded by the agents that are registered, the delegations that were ended and
/// the tokens that are revoked.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Agents of which something was taken away; all of it is written.
    pub(super) taken: BTreeSet<AgentId>,
    pub(super) ended: BTreeSet<Uuid>,
    pub(super) revoked: BTreeMap<String, Revoked>,
    /// Drift flags that are not stored, and that other nodes do not know.
    pub(super) flags: BTreeMap<AgentId, Flagged>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Revoked {
    pub(super) until: Timestamp,
    pub(super) at: Timestamp,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flagged {
    pub(super) count: u32,
    pub(super) at: Timestamp,
}

impl Inner {
    /// Stores what is pending; returns which replicas have it. Changes that the store refuses stay
    /// pending.
    pub(super) async fn store_pending(&self) -> Result<Replicas, StoreError> {
        let _writing = self.writing.lock().await;
        // Taken out before they are looked at: what comes in meanwhile is put in again.
        let Pending { taken, ended, revoked, flags } = mem::take(&mut *self.pending());
        // Before the level that they cost, which forgets them.
        let mut outcome = self.store_flags(flags).await;
        outcome = both(outcome, self.store_taken(taken).await);
        if !ended.is_empty() {
            let stored = self.store.end_delegations(ended.iter().copied().collect()).await;
            if stored.is_err() {
                self.pending().ended.extend(ended);
            }
            outcome = both(outcome, stored.map(|(_version, replicas)| replicas));
        }
        let mut revoked = revoked.into_iter();
        while let Some((token_id, token)) = revoked.next() {
            let stored = self.store.revoke_token(&token_id, token.until, token.at).await;
            let failed = stored.is_err();
            outcome = both(outcome, stored);
            if failed {
                // There may be many: one failure ends the attempt.
                self.pending().revoked.extend(revoked.chain([(token_id, token)]));
                break;
            }
        }
        if outcome.is_err() {
            self.unsaved.notify_one();
        }
        outcome
    }

    async fn store_flags(&self, flags: BTreeMap<AgentId, Flagged>) -> Result<Replicas, StoreError> {
        let mut flags = flags.into_iter();
        while let Some((agent, flagged)) = flags.next() {
            if let Err(error) = self.store.flag(agent, flagged.count, flagged.at).await {
                // There may be many: one failure ends the attempt.
                let mut pending = self.pending();
                for (agent, flagged) in flags.chain([(agent, flagged)]) {
                    let left =
                        pending.flags.entry(agent).or_insert(Flagged { count: 0, ..flagged });
                    left.count = left.count.saturating_add(flagged.count);
                }
                return Err(error);
            }
        }
        Ok(Replicas::default())
    }

    async fn store_taken(&self, ids: BTreeSet<AgentId>) -> Result<Replicas, StoreError> {
        if ids.is_empty() {
            return Ok(Replicas::default());
        }
        let at = self.clock.now().wall;
        let taken: Vec<TakenAway> = ids
            .iter()
            .filter_map(|&id| self.agents.get(&id).map(|entry| entry.kept.of(id)))
            .collect();
        match self.store.take_away(taken.clone(), at).await {
            Ok(replicas) => {
                // A shared store publishes the result in the order of its changes, which others make, too.
                let own = if self.store.is_shared() { Vec::new() } else { taken };
                for taken in own {
                    self.change(taken.id, |entry| {
                        entry.stored.take_away(&taken, at);
                    });
                }
                Ok(replicas)
            }
            Err(error) => {
                self.pending().taken.extend(ids);
                Err(error)
            }
        }
    }
}

/// The outcome of two writes of one act.
fn both(
    one: Result<Replicas, StoreError>,
    other: Result<Replicas, StoreError>,
) -> Result<Replicas, StoreError> {
    Ok(one?.and(other?))
}

impl Unsaved for Inner {
    const NOT_STORED: &'static str =
        "demotions or revocations are in force but not stored; trying again";

    fn unsaved(&self) -> &Notify {
        &self.unsaved
    }

    async fn save(&self) -> Result<(), StoreError> {
        self.store_pending().await.map(|_replicas| ())
    }
}
