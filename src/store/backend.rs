//! Every question that a backend answers.
//!
//! Each write is one transaction. A method that takes something away does nothing where that is so
//! already, so a caller that has not heard an answer asks again.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    Booked, Booking, Bookmark, Changes, Closing, Opened, Position, Purge, Put, Replicas, Room,
    Settlement, StoreError, StoredAgent, StoredDelegations, StoredSession, TakenAway,
};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::approvals::{Approval, ApprovalStep, Digest};
use crate::firewall::continuation::Continuation;
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

/// A place where state is kept.
pub(super) trait Backend {
    async fn close(&self) -> Result<(), StoreError>;

    /// Notes the time and returns the newest one that was noted before: the time of a ledger that has
    /// no clock of its own. One that has a clock returns what that says.
    async fn newest(&self, at: Timestamp) -> Result<Timestamp, StoreError>;

    async fn agents(&self) -> Result<Vec<StoredAgent>, StoreError>;
    async fn tombstones(&self) -> Result<Vec<AgentId>, StoreError>;
    async fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError>;
    async fn set_trust(
        &self,
        id: AgentId,
        level: TrustLevel,
        above: u64,
    ) -> Result<Option<(u64, Replicas)>, StoreError>;
    async fn take_away(&self, taken: Vec<TakenAway>, at: Timestamp)
    -> Result<Replicas, StoreError>;
    async fn flag(&self, id: AgentId, count: u32, at: Timestamp) -> Result<(), StoreError>;
    async fn purge(&self, purge: Purge, now: Timestamp) -> Result<Vec<AgentId>, StoreError>;

    async fn delegations(&self) -> Result<StoredDelegations, StoreError>;
    async fn put_delegation(
        &self,
        delegation: &Delegation,
        version: u64,
    ) -> Result<u64, StoreError>;
    async fn end_delegations(&self, ids: Vec<Uuid>) -> Result<(u64, Replicas), StoreError>;

    async fn sessions(&self, cutoff: Timestamp) -> Result<Vec<StoredSession>, StoreError>;
    async fn insert_session(
        &self,
        order: &Arc<WorkOrder>,
        cap: usize,
    ) -> Result<Opened, StoreError>;
    async fn book(&self, booking: Booking) -> Result<Booked, StoreError>;
    async fn close_sessions(
        &self,
        closings: Vec<Closing>,
        at: Timestamp,
    ) -> Result<Replicas, StoreError>;
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError>;
    async fn forget_sessions(
        &self,
        ids: Vec<SessionId>,
        now: Timestamp,
        retention_secs: u64,
    ) -> Result<(), StoreError>;
    async fn forget_ended(
        &self,
        now: Timestamp,
        retention_secs: u64,
        limit: u32,
    ) -> Result<usize, StoreError>;

    async fn freezes(&self) -> Result<Vec<Arc<Freeze>>, StoreError>;
    async fn freeze(&self, freeze: &Arc<Freeze>) -> Result<(), StoreError>;
    async fn unfreeze(&self, id: Uuid) -> Result<bool, StoreError>;

    async fn approvals(&self) -> Result<Vec<Approval>, StoreError>;
    async fn find_approvals(&self, ids: Vec<Uuid>) -> Result<Vec<Approval>, StoreError>;
    async fn put_approvals(&self, steps: Vec<ApprovalStep>, room: Room) -> Result<Put, StoreError>;
    async fn forget_approvals(&self, ids: Vec<Uuid>, now: Timestamp) -> Result<(), StoreError>;
    /// Keeps a continuation until its end, and of its session only the `MAX_OF_SESSION` that end last.
    async fn keep_continuation(
        &self,
        _one: &Continuation,
        _now: Timestamp,
    ) -> Result<(), StoreError> {
        Ok(())
    }
    /// Takes a continuation away; false if it was not there.
    async fn take_continuation(&self, _mark: Digest) -> Result<(bool, Replicas), StoreError> {
        Ok((false, Replicas::default()))
    }
    async fn continuation(
        &self,
        _mark: Digest,
        _now: Timestamp,
    ) -> Result<Option<Continuation>, StoreError> {
        Ok(None)
    }
    async fn continuations_of(
        &self,
        _session: SessionId,
        _now: Timestamp,
    ) -> Result<Vec<Continuation>, StoreError> {
        Ok(Vec::new())
    }

    /// Returns the pairs of admin key and source that were kept, the oldest first.
    async fn admin_pairs(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        Ok(Vec::new())
    }
    async fn keep_admin_pair(
        &self,
        _pair: [u8; 32],
        _at: Timestamp,
        _most: u32,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    async fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError>;
    async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Replicas, StoreError>;
}

/// A place that several nodes share.
pub(super) trait SharedBackend: Backend {
    async fn time(&self) -> Result<Timestamp, StoreError>;
    async fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError>;
    async fn follow_from_here(&self) -> Result<Bookmark, StoreError>;
    async fn position(&self) -> Result<Position, StoreError>;
    async fn changes(&self, after: &Bookmark) -> Result<Changes, StoreError>;
}
