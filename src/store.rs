//! State that outlives a run: agents, delegations, sessions with their booked calls, revoked
//! tokens.
//!
//! The store is the ledger. It books calls before a node may count them, so it can say too much of
//! a budget is spent after a crash and never too little. It is not on the path of each call: nodes
//! count against the blocks they booked (`sessions`), and read agents from memory (`registry`).
//!
//! Backends are an enum, and `store/contract.rs` holds one suite of tests that runs over all of
//! them. Every write is one transaction: it is done whole, or it failed and changed nothing.

use std::path::Path;
use std::sync::Arc;

use crate::config;
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
pub use booking::{Booked, Booking, NodeName, RateBooked, RateBooking, RateUse};
pub use change::{Change, Changes, Position};
pub use error::StoreError;
pub use followed::Followed;
use memory::Memory;
use redis::Redis;
#[cfg(test)]
pub(crate) use redis::tests::Server as RedisServer;
pub use redis::{RedisReport, RedisTrouble};
use sqlite::Sqlite;
pub use sqlite::{SealKey, at_rest};
#[cfg(test)]
use tests::fleet::Fleet;

mod booking;
mod change;
mod error;
mod followed;
pub(crate) mod ledger;
mod memory;
mod redis;
mod sqlite;
#[cfg(test)]
pub(crate) mod tests;

/// Backend of the state.
#[derive(Debug)]
pub enum Store {
    /// For this run only.
    Memory(Memory),
    /// In one SQLite file.
    Sqlite(Sqlite),
    /// Shared by the nodes of a fleet.
    Redis(Redis),
    /// Shared by nodes of one process: the model of a shared ledger, for tests.
    #[cfg(test)]
    Fleet(Fleet),
}

/// A session as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    pub order: Arc<WorkOrder>,
    /// Calls that were booked and not given back: at least as many as were made.
    pub booked: u64,
    pub closed_at: Option<Timestamp>,
    /// The calls of the last rate window, if a clean stop left them and nothing was booked since.
    pub recent: Option<Vec<RecentCalls>>,
}

/// Calls counted at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecentCalls {
    pub at: Timestamp,
    pub count: u32,
}

/// Result of opening a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Yes,
    /// Its agent has as many active sessions as it may have.
    TooMany,
    /// Its agent was deactivated, or is not known.
    NoAgent,
}

/// A session that ends before its time.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    pub id: SessionId,
    /// Booked calls that were not made.
    pub unused: u64,
}

/// State of one session after a clean stop.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub id: SessionId,
    /// Booked calls that were not made.
    pub unused: u64,
    /// The calls of the last rate window; none leaves what is stored as it is.
    pub recent: Option<Vec<RecentCalls>>,
    /// Usage of the permits of a shared rate limit, if there were any.
    pub rate: Option<RateUse>,
}

impl Store {
    /// A store that forgets all when it is dropped.
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

    /// Connects to a Redis that other nodes share. `node` is this run's name: no other has it.
    pub async fn redis(config: &config::Redis, node: &str) -> Result<Self, StoreError> {
        Ok(Self::Redis(Redis::open(config, node.into()).await?))
    }

    /// Finishes what is queued and lets go of the file. Whatever is asked afterwards fails.
    pub async fn close(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.close(),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.close(),
            Self::Redis(redis) => return redis.close().await,
            Self::Sqlite(sqlite) => return sqlite.close().await,
        }
        Ok(())
    }

    pub async fn agents(&self) -> Result<Vec<Arc<Agent>>, StoreError> {
        match self {
            Self::Memory(memory) => memory.agents(),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.agents(),
            Self::Redis(redis) => redis.agents().await,
            Self::Sqlite(sqlite) => sqlite.agents().await,
        }
    }

    pub async fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.insert_agent(agent),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.insert_agent(agent),
            Self::Redis(redis) => redis.insert_agent(agent).await,
            Self::Sqlite(sqlite) => sqlite.insert_agent(agent).await,
        }
    }

    /// Sets the trust of each agent: all of them, or none.
    pub async fn set_trust(&self, levels: Vec<(AgentId, TrustLevel)>) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.set_trust(&levels),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.set_trust(&levels),
            Self::Redis(redis) => redis.set_trust(&levels).await,
            Self::Sqlite(sqlite) => sqlite.set_trust(levels).await,
        }
    }

    /// Deactivates all of them, or none.
    pub async fn deactivate(&self, agents: Vec<AgentId>) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.deactivate(&agents),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.deactivate(&agents),
            Self::Redis(redis) => redis.deactivate(&agents).await,
            Self::Sqlite(sqlite) => sqlite.deactivate(agents).await,
        }
    }

    pub async fn delegations(&self) -> Result<Vec<Delegation>, StoreError> {
        match self {
            Self::Memory(memory) => memory.delegations(),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.delegations(),
            Self::Redis(redis) => redis.delegations().await,
            Self::Sqlite(sqlite) => sqlite.delegations().await,
        }
    }

    /// Adds a delegation to the `known` ones that it was checked against.
    pub async fn insert_delegation(
        &self,
        delegation: &Delegation,
        known: usize,
    ) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.insert_delegation(delegation),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.insert_delegation(delegation, known),
            Self::Redis(redis) => redis.insert_delegation(delegation, known).await,
            Self::Sqlite(sqlite) => sqlite.insert_delegation(delegation.clone()).await,
        }
    }

    /// Sessions that had not ended by `cutoff`.
    pub async fn sessions(&self, cutoff: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
        match self {
            Self::Memory(memory) => memory.sessions(cutoff),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.sessions(cutoff),
            Self::Redis(redis) => redis.sessions(cutoff).await,
            Self::Sqlite(sqlite) => sqlite.sessions(cutoff).await,
        }
    }

    /// Reads sessions in batches, unordered and from several threads at once, while reading
    /// continues.
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
        match self {
            Self::Memory(memory) => memory.insert_session(order),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.insert_session(order, cap),
            Self::Redis(redis) => redis.insert_session(order, cap).await,
            Self::Sqlite(sqlite) => sqlite.insert_session(order).await,
        }
    }

    /// Books calls as spent: as many as are needed, and some more while much of the budget remains.
    /// Call times that a clean stop left are forgotten: they are no longer all.
    pub async fn book(&self, booking: Booking) -> Result<Booked, StoreError> {
        match self {
            Self::Memory(memory) => memory.book(booking),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.book(booking),
            Self::Redis(redis) => redis.book(booking).await,
            Self::Sqlite(sqlite) => sqlite.book(booking).await,
        }
    }

    /// Closes sessions and takes back what they did not use. One that is closed stays as it is.
    pub async fn close_sessions(
        &self,
        closings: Vec<Closing>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.close_sessions(&closings, at),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.close_sessions(&closings, at),
            Self::Redis(redis) => redis.close_sessions(&closings, at).await,
            Self::Sqlite(sqlite) => sqlite.close_sessions(closings, at).await,
        }
    }

    /// Takes back what was not used and keeps the call times, so that the next run knows exactly.
    pub async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.settle(settlements),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.settle(settlements),
            Self::Redis(redis) => redis.settle(&settlements).await,
            Self::Sqlite(sqlite) => sqlite.settle(settlements).await,
        }
    }

    pub async fn forget_sessions(&self, ids: Vec<SessionId>) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.forget_sessions(&ids),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.forget_sessions(&ids),
            Self::Redis(redis) => redis.forget_sessions(&ids).await,
            Self::Sqlite(sqlite) => sqlite.forget_sessions(ids).await,
        }
    }

    /// Forgets at most `limit` sessions that had ended by `cutoff`; says how many.
    pub async fn forget_ended(&self, cutoff: Timestamp, limit: u32) -> Result<usize, StoreError> {
        match self {
            Self::Memory(memory) => memory.forget_ended(cutoff, limit),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.forget_ended(cutoff, limit),
            Self::Redis(redis) => redis.forget_ended(cutoff, limit).await,
            Self::Sqlite(sqlite) => sqlite.forget_ended(cutoff, limit).await,
        }
    }

    /// Revoked token ids, each with the time from which it need not be remembered.
    pub async fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        match self {
            Self::Memory(memory) => memory.revoked_tokens(),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.revoked_tokens(),
            Self::Redis(redis) => redis.revoked_tokens().await,
            Self::Sqlite(sqlite) => sqlite.revoked_tokens().await,
        }
    }

    /// Remembers a revoked token, and forgets those whose time is over at `now`.
    pub async fn revoke_token(
        &self,
        token_id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.revoke_token(token_id, until, now),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.revoke_token(token_id, until, now),
            Self::Redis(redis) => redis.revoke_token(token_id, until, now).await,
            Self::Sqlite(sqlite) => sqlite.revoke_token(token_id.to_owned(), until, now).await,
        }
    }

    /// Returns the pairs of admin key and source that have succeeded, the oldest first: hashes that
    /// name neither.
    pub async fn admin_pairs(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        match self {
            Self::Memory(_) => Ok(Vec::new()),
            #[cfg(test)]
            Self::Fleet(_) => Ok(Vec::new()),
            Self::Redis(redis) => redis.admin_pairs().await,
            Self::Sqlite(sqlite) => sqlite.admin_pairs().await,
        }
    }

    /// Keeps a pair over a restart, and of all only the newest `most`.
    pub async fn keep_admin_pair(
        &self,
        pair: [u8; 32],
        at: Timestamp,
        most: u32,
    ) -> Result<(), StoreError> {
        match self {
            Self::Memory(_) => Ok(()),
            #[cfg(test)]
            Self::Fleet(_) => Ok(()),
            Self::Redis(redis) => redis.keep_admin_pair(pair, at, most).await,
            Self::Sqlite(sqlite) => sqlite.keep_admin_pair(pair, at, most).await,
        }
    }

    /// Reports whether other nodes write to this store as well.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Memory(_) | Self::Sqlite(_) => false,
            Self::Redis(_) => true,
            #[cfg(test)]
            Self::Fleet(_) => true,
        }
    }

    /// Reports whether a lease that is not given back is lost to more than this process.
    pub fn outlives_the_process(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Sqlite(_) | Self::Redis(_) => true,
            #[cfg(test)]
            Self::Fleet(_) => true,
        }
    }

    /// One session of a shared store, as it is now.
    pub async fn session(&self, id: SessionId) -> Result<Option<StoredSession>, StoreError> {
        match self {
            Self::Memory(_) | Self::Sqlite(_) => Ok(None),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.session(id),
            Self::Redis(redis) => redis.session(id).await,
        }
    }

    /// Returns where the changes end now.
    pub async fn position(&self) -> Result<Position, StoreError> {
        match self {
            Self::Memory(_) | Self::Sqlite(_) => Ok(Position(0)),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.position(),
            Self::Redis(redis) => redis.position().await,
        }
    }

    /// Returns the position from which a node follows the changes that loads everything now.
    pub async fn follow_from_here(&self) -> Result<Position, StoreError> {
        match self {
            Self::Memory(_) | Self::Sqlite(_) => Ok(Position(0)),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.position(),
            Self::Redis(redis) => redis.follow_from_here().await,
        }
    }

    /// Returns the changes of other nodes after `after`; waits a short while if there are none.
    /// Asking also shows that this node is running.
    pub async fn changes(&self, after: Position) -> Result<Changes, StoreError> {
        match self {
            Self::Memory(_) | Self::Sqlite(_) => std::future::pending().await,
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.changes(after).await,
            Self::Redis(redis) => redis.changes(after).await,
        }
    }

    /// Tells the other nodes that drift flags were counted against an agent.
    pub async fn tell_flags(&self, agent: AgentId, flags: u32) -> Result<(), StoreError> {
        match self {
            Self::Memory(_) | Self::Sqlite(_) => Ok(()),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.tell_flags(agent, flags),
            Self::Redis(redis) => redis.tell_flags(agent, flags).await,
        }
    }

    /// Makes every write fail, or work again.
    #[cfg(test)]
    pub(crate) async fn refuse_writes(&self, refuse: bool) {
        match self {
            Self::Memory(memory) => memory.refuse_writes(refuse),
            #[cfg(test)]
            Self::Fleet(fleet) => fleet.refuse_writes(refuse),
            Self::Redis(redis) => redis.refuse_writes(refuse),
            Self::Sqlite(sqlite) => sqlite.refuse_writes(refuse).await,
        }
    }
}

/// Runs a change to its end even if whoever asked for it goes away in the middle, so that what the
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
