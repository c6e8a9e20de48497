//! State that outlives a run: agents, delegations, sessions with their booked calls, revoked
//! tokens.
//!
//! The store is the ledger. Calls are booked in it before a node may count them, so after a crash
//! too much of a budget may be spent there and never too little. The store is not on the path of
//! each call: nodes count against the blocks they booked (`sessions`), and read agents from memory
//! (`registry`).
//!
//! Every backend implements [`Backend`]; one that several nodes share implements [`SharedBackend`] as
//! well, which a caller reaches through [`Store::shared`]. One suite (`store/tests/contract.rs`) runs
//! over all of them, and random histories hold Redis' scripts against the model of a shared ledger
//! (`store/redis/tests/differential.rs`). Every write is one transaction: it is done whole, or it
//! failed and changed nothing. Ends are judged by the ledger's time, where it has a clock.
//!
//! A new kind of record that all nodes hold takes: its type in `store/kept.rs`; its methods in
//! [`Backend`], with a line each in `Store`; rows and a migration in `store/sqlite`; keys and a script in
//! `store/redis` (list both in its head); a [`Change`], whose text is in `store/redis/wire.rs`, published by
//! the script before it changes anything; a step in the differential test. On the nodes: memory of it in
//! the room that uses it, an arm in `app/follow.rs` that takes the change in, and a place in that room's
//! `reload`. If it takes something away, it is kept by the nodes as well and asserted again there
//! (`registry/overlay.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use uuid::Uuid;

use crate::config;
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::approvals::{Approval, ApprovalStep, Digest};
use crate::firewall::continuation::Continuation;
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::saturate::SaturatingFrom as _;
pub use approvals::{Put, Room};
use backend::{Backend, SharedBackend};
pub use booking::{Booked, Booking, NodeName, RateBooked, RateBooking, RateUse};
pub use change::{Bookmark, Change, Changes, Position};
pub use error::StoreError;
pub use freshness::Freshness;
pub use kept::{
    Closing, Flags, Lowered, Opened, Purge, RecentCalls, Replicas, Settlement, StoredAgent,
    StoredDelegations, StoredSession, TakenAway,
};
use memory::Memory;
pub use queue::Queue;
pub(crate) use queue::left;
use redis::Redis;
#[cfg(test)]
pub(crate) use redis::tests::Server as RedisServer;
pub use redis::{RedisFault, RedisReport};
use sqlite::Sqlite;
pub use sqlite::backup::Mark as BackupMark;
pub use sqlite::{SealKey, at_rest, backup as backups};
#[cfg(test)]
use tests::fleet::Fleet;

mod approvals;
mod backend;
mod booking;
pub(crate) mod by_session;
mod change;
mod error;
mod freshness;
mod kept;
pub(crate) mod ledger;
mod memory;
mod queue;
mod redis;
pub(crate) mod retries;
mod sqlite;
#[cfg(test)]
pub(crate) mod tests;

/// The place where state is kept.
#[derive(Debug)]
pub enum Store {
    /// For this run only.
    Memory(Memory),
    /// In one SQLite file.
    Sqlite(Sqlite),
    /// Shared by the nodes of a fleet.
    Redis(Box<Redis>),
    /// Shared by nodes of one process: the model of a shared ledger, for tests.
    #[cfg(test)]
    Fleet(Fleet),
}

/// A store that several nodes write to.
#[derive(Clone, Copy, Debug)]
pub enum SharedStore<'s> {
    Redis(&'s Redis),
    #[cfg(test)]
    Fleet(&'s Fleet),
}

/// Asks the backend that there is.
macro_rules! ask {
    ($store:expr, $backend:ident => $asked:expr) => {
        match $store {
            Store::Memory($backend) => $asked,
            Store::Sqlite($backend) => $asked,
            Store::Redis($backend) => $asked,
            #[cfg(test)]
            Store::Fleet($backend) => $asked,
        }
    };
}

/// Asks the shared backend that there is.
macro_rules! ask_shared {
    ($store:expr, $backend:ident => $asked:expr) => {
        match $store {
            SharedStore::Redis($backend) => $asked,
            #[cfg(test)]
            SharedStore::Fleet($backend) => $asked,
        }
    };
}

impl Store {
    /// Returns a store that forgets all when it is dropped.
    pub fn memory() -> Self {
        Self::Memory(Memory::default())
    }

    /// Opens or creates the file, and refuses one that is damaged, in use, newer or not ours.
    pub async fn sqlite(path: &Path) -> Result<Self, StoreError> {
        Self::sealed_sqlite(path, None).await
    }

    /// Opens an encrypted SQLite file.
    pub async fn sealed_sqlite(path: &Path, key: Option<SealKey>) -> Result<Self, StoreError> {
        Ok(Self::Sqlite(Sqlite::open(path.to_owned(), key).await?))
    }

    /// Connects to a Redis that other nodes share. `node` is this run's name: no other has it. The
    /// connections live on `home`, which must do nothing that keeps them waiting.
    pub async fn redis(
        config: &config::Redis,
        node: &str,
        home: &Handle,
    ) -> Result<Self, StoreError> {
        Ok(Self::Redis(Box::new(Redis::open(config, node.into(), home).await?)))
    }

    /// Finishes what is queued and lets go of the file. Later questions fail.
    pub async fn close(&self) -> Result<(), StoreError> {
        ask!(self, store => store.close().await)
    }

    /// Returns the store as one that other nodes write to as well, if it is.
    pub fn shared(&self) -> Option<SharedStore<'_>> {
        match self {
            Self::Memory(_) | Self::Sqlite(_) => None,
            Self::Redis(redis) => Some(SharedStore::Redis(redis)),
            #[cfg(test)]
            Self::Fleet(fleet) => Some(SharedStore::Fleet(fleet)),
        }
    }

    /// Checks whether other nodes write to this store as well.
    pub fn is_shared(&self) -> bool {
        self.shared().is_some()
    }

    /// Checks whether a lease that is not given back is lost to more than this process.
    pub fn outlives_the_process(&self) -> bool {
        !matches!(self, Self::Memory(_))
    }

    /// Checks whether the store could not be written to when that was last tried. A shared store is
    /// judged by whether it is heard ([`Freshness`]).
    pub fn is_failing(&self) -> bool {
        match self {
            Self::Sqlite(sqlite) => sqlite.is_failing(),
            Self::Memory(_) | Self::Redis(_) => false,
            #[cfg(test)]
            Self::Fleet(_) => false,
        }
    }

    /// Returns how long an answer may take; none where every question is answered.
    pub fn patience(&self) -> Option<std::time::Duration> {
        match self {
            Self::Redis(redis) => Some(redis.patience()),
            Self::Memory(_) | Self::Sqlite(_) => None,
            #[cfg(test)]
            Self::Fleet(_) => None,
        }
    }

    /// Returns the file that the state is in, if it is in one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(sqlite) => Some(sqlite.path()),
            Self::Memory(_) | Self::Redis(_) => None,
            #[cfg(test)]
            Self::Fleet(_) => None,
        }
    }

    /// Copies the file to a new one at `target`, while it is in use.
    pub async fn back_up(&self, target: PathBuf, mark: BackupMark) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.back_up(target, mark).await,
            Self::Memory(_) | Self::Redis(_) => Err(StoreError::NoFile),
            #[cfg(test)]
            Self::Fleet(_) => Err(StoreError::NoFile),
        }
    }

    /// Notes the time and returns the newest one that was noted before; a ledger with a clock of its
    /// own returns what that says.
    pub async fn newest(&self, at: Timestamp) -> Result<Timestamp, StoreError> {
        ask!(self, store => store.newest(at).await)
    }

    pub async fn agents(&self) -> Result<Vec<StoredAgent>, StoreError> {
        ask!(self, store => store.agents().await)
    }

    /// Returns the ids of agents that were purged after they had been deactivated.
    pub async fn tombstones(&self) -> Result<Vec<AgentId>, StoreError> {
        ask!(self, store => store.tombstones().await)
    }

    /// Registers an agent under an id that was never used.
    pub async fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        ask!(self, store => store.insert_agent(agent).await)
    }

    /// Sets an agent's trust, up or down, as a change with a number above `above` and above all that
    /// were before. Returns the number; none if the agent is not known. Its flags are forgotten.
    pub async fn set_trust(
        &self,
        id: AgentId,
        level: TrustLevel,
        above: u64,
    ) -> Result<Option<(u64, Replicas)>, StoreError> {
        ask!(self, store => store.set_trust(id, level, above).await)
    }

    /// Takes away what is not gone yet.
    pub async fn take_away(
        &self,
        taken: Vec<TakenAway>,
        at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        ask!(self, store => store.take_away(taken, at).await)
    }

    /// Counts drift flags against an agent.
    pub async fn flag(&self, id: AgentId, count: u32, at: Timestamp) -> Result<(), StoreError> {
        ask!(self, store => store.flag(id, count, at).await)
    }

    /// Forgets those agents that ended long enough ago; returns which these were.
    pub async fn purge(&self, purge: Purge, now: Timestamp) -> Result<Vec<AgentId>, StoreError> {
        ask!(self, store => store.purge(purge, now).await)
    }

    pub async fn delegations(&self) -> Result<StoredDelegations, StoreError> {
        ask!(self, store => store.delegations().await)
    }

    /// Adds a delegation, or replaces the one with its id, if it was checked against all changes of
    /// delegations up to `version`. Returns the number of this change.
    pub async fn put_delegation(
        &self,
        delegation: &Delegation,
        version: u64,
    ) -> Result<u64, StoreError> {
        ask!(self, store => store.put_delegation(delegation, version).await)
    }

    /// Ends those delegations that there are; returns the number of the latest change.
    pub async fn end_delegations(&self, ids: Vec<Uuid>) -> Result<(u64, Replicas), StoreError> {
        ask!(self, store => store.end_delegations(ids).await)
    }

    /// Returns the sessions that had not ended by `cutoff`.
    pub async fn sessions(&self, cutoff: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
        ask!(self, store => store.sessions(cutoff).await)
    }

    /// Hands out the sessions that had not ended by `cutoff` in batches, in no order and from several
    /// threads at once, while more is being read.
    pub async fn sessions_in_batches(
        &self,
        cutoff: Timestamp,
        take: impl Fn(Vec<StoredSession>) + Send + Sync + 'static,
    ) -> Result<(), StoreError> {
        if let Self::Sqlite(sqlite) = self {
            return sqlite.sessions_in_batches(cutoff, take).await;
        }
        take(self.sessions(cutoff).await?);
        Ok(())
    }

    /// Opens a session. A shared store sees to the agent's cap itself; else the one node does.
    pub async fn insert_session(
        &self,
        order: &Arc<WorkOrder>,
        cap: usize,
    ) -> Result<Opened, StoreError> {
        i64::try_from(order.call_budget)
            .map_err(|_over| StoreError::TooLarge { what: "the call budget" })?;
        ask!(self, store => store.insert_session(order, cap).await)
    }

    /// Books calls as spent: as many as are needed, and some more while much of the budget remains.
    /// Call times that a clean stop left are forgotten: they are no longer all.
    pub async fn book(&self, booking: Booking) -> Result<Booked, StoreError> {
        ask!(self, store => store.book(booking).await)
    }

    /// Closes sessions and takes back what they did not use. One that is closed stays as it is.
    pub async fn close_sessions(
        &self,
        closings: Vec<Closing>,
        at: Timestamp,
    ) -> Result<Replicas, StoreError> {
        ask!(self, store => store.close_sessions(closings, at).await)
    }

    /// Takes back what was not used and keeps the call times, so that the next run knows exactly.
    pub async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        ask!(self, store => store.settle(settlements).await)
    }

    /// Forgets those sessions among these that ended at least `retention_secs` before `now`, or before
    /// what the ledger's own clock says.
    pub async fn forget_sessions(
        &self,
        ids: Vec<SessionId>,
        now: Timestamp,
        retention_secs: u64,
    ) -> Result<(), StoreError> {
        ask!(self, store => store.forget_sessions(ids, now, retention_secs).await)
    }

    /// Forgets at most `limit` sessions that ended as long ago; returns how many.
    pub async fn forget_ended(
        &self,
        now: Timestamp,
        retention_secs: u64,
        limit: u32,
    ) -> Result<usize, StoreError> {
        ask!(self, store => store.forget_ended(now, retention_secs, limit).await)
    }

    /// Returns revoked token ids, each with the time from which it need not be remembered.
    pub async fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        ask!(self, store => store.revoked_tokens().await)
    }

    /// Remembers a revoked token, and forgets those whose time is over at `now`.
    pub async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Replicas, StoreError> {
        ask!(self, store => store.revoke_token(token_id, until, now).await)
    }

    /// Returns the pairs of admin key and source that have succeeded, the oldest first: hashes that
    /// name neither.
    pub async fn admin_pairs(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        ask!(self, store => store.admin_pairs().await)
    }

    /// Keeps a pair over a restart, and of all only the newest `most`.
    pub async fn keep_admin_pair(
        &self,
        pair: [u8; 32],
        at: Timestamp,
        most: u32,
    ) -> Result<(), StoreError> {
        ask!(self, store => store.keep_admin_pair(pair, at, most).await)
    }

    /// Returns every freeze that was not lifted, those whose time is over included.
    pub async fn freezes(&self) -> Result<Vec<Arc<Freeze>>, StoreError> {
        ask!(self, store => store.freezes().await)
    }

    /// Keeps a freeze; one that is kept already stays as it is.
    pub async fn freeze(&self, freeze: &Arc<Freeze>) -> Result<(), StoreError> {
        ask!(self, store => store.freeze(freeze).await)
    }

    /// Lifts a freeze; false if it was not kept.
    pub async fn unfreeze(&self, id: Uuid) -> Result<bool, StoreError> {
        ask!(self, store => store.unfreeze(id).await)
    }

    /// Returns every approval that is kept, ended ones included.
    pub async fn approvals(&self) -> Result<Vec<Approval>, StoreError> {
        ask!(self, store => store.approvals().await)
    }

    /// Returns those of these approvals that are kept.
    pub async fn find_approvals(&self, ids: Vec<Uuid>) -> Result<Vec<Approval>, StoreError> {
        ask!(self, store => store.find_approvals(ids).await)
    }

    /// Takes steps of approvals, all or none: each if the store has the version that it starts from.
    /// Outlasts a power cut as soon as it is answered, where the store can.
    pub async fn put_approvals(
        &self,
        steps: Vec<ApprovalStep>,
        room: Room,
    ) -> Result<Put, StoreError> {
        ask!(self, store => store.put_approvals(steps, room).await)
    }

    /// Forgets those of these approvals that have ended by `now`, or by the ledger's own clock.
    pub async fn forget_approvals(&self, ids: Vec<Uuid>, now: Timestamp) -> Result<(), StoreError> {
        ask!(self, store => store.forget_approvals(ids, now).await)
    }

    /// Keeps a continuation until its end: for other nodes and later runs, if this store has any.
    pub async fn keep_continuation(
        &self,
        one: &Continuation,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        ask!(self, store => store.keep_continuation(one, now).await)
    }

    /// Takes a continuation away, for one of those who ask at the same time; false if it was not there.
    pub async fn take_continuation(&self, mark: Digest) -> Result<(bool, Replicas), StoreError> {
        ask!(self, store => store.take_continuation(mark).await)
    }

    /// Returns the continuation with this mark, if it has not ended.
    pub async fn continuation(
        &self,
        mark: Digest,
        now: Timestamp,
    ) -> Result<Option<Continuation>, StoreError> {
        ask!(self, store => store.continuation(mark, now).await)
    }

    /// Returns the continuations of a session that have not ended.
    pub async fn continuations_of(
        &self,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Vec<Continuation>, StoreError> {
        ask!(self, store => store.continuations_of(session, now).await)
    }

    /// Makes every write fail, or work again.
    #[cfg(test)]
    pub(crate) async fn refuse_writes(&self, refuse: bool) {
        match self {
            Self::Memory(memory) => memory.refuse_writes(refuse),
            Self::Fleet(fleet) => fleet.refuse_writes(refuse),
            Self::Redis(redis) => redis.refuse_writes(refuse),
            Self::Sqlite(sqlite) => sqlite.refuse_writes(refuse).await,
        }
    }
}

impl SharedStore<'_> {
    /// Reads the ledger's clock.
    pub async fn time(self) -> Result<Timestamp, StoreError> {
        ask_shared!(self, store => store.time().await)
    }

    /// Returns one session as it is now.
    pub async fn session(self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        ask_shared!(self, store => store.session(id).await)
    }

    /// Returns the bookmark from which a node follows the changes that loads everything now.
    pub async fn follow_from_here(self) -> Result<Bookmark, StoreError> {
        ask_shared!(self, store => store.follow_from_here().await)
    }

    /// Returns where the changes end now.
    pub async fn position(self) -> Result<Position, StoreError> {
        ask_shared!(self, store => store.position().await)
    }

    /// Returns the changes after `after`; waits a short while if there are none. Asking is also how a
    /// node shows that it is running.
    pub async fn changes(self, after: &Bookmark) -> Result<Changes, StoreError> {
        ask_shared!(self, store => store.changes(after).await)
    }
}

/// Returns the time that lies so many seconds before `at`.
pub(crate) fn before(at: Timestamp, secs: u64) -> Timestamp {
    let micros = i64::saturating_from(secs.saturating_mul(1_000_000));
    Timestamp(at.0.saturating_sub(micros))
}

/// Runs a change to its end even if its caller goes away in the middle, so that what the
/// store has and what memory has do not part.
pub(crate) async fn to_the_end<T, E>(
    change: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    match tokio::spawn(change).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_stopping) => Err(StoreError::Stopped.into()),
        },
    }
}
