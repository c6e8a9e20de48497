//! What outlives a run: agents, delegations, sessions with their booked calls, revoked tokens.
//!
//! The store is the ledger. It books calls before a node may count them, so it can say too much of
//! a budget is spent after a crash and never too little. It is not on the path of each call: nodes
//! count against the blocks they booked (`sessions`), and read agents from memory (`registry`).
//!
//! Backends are an enum, and `store/contract.rs` holds one suite of tests that runs over all of
//! them. Every write is one transaction: it is done whole, or it failed and changed nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use memory::Memory;
use sqlite::Sqlite;
pub use sqlite::{SealKey, at_rest};

#[cfg(test)]
pub(crate) mod contract;
mod memory;
mod sqlite;

/// Where state is kept.
#[derive(Debug)]
pub enum Store {
    /// For this run only.
    Memory(Memory),
    /// In one SQLite file.
    Sqlite(Sqlite),
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

/// So many calls were counted at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecentCalls {
    pub at: Timestamp,
    pub count: u32,
}

/// The answer to a booking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booked {
    /// So many calls may be counted by whoever asked: fewer than asked for where the budget ends.
    pub granted: u64,
    /// All calls of this session that are booked now, by anyone.
    pub total: u64,
}

/// A session that ends before its time.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    pub id: SessionId,
    /// Booked calls that were not made.
    pub unused: u64,
}

/// What a clean stop leaves behind for one session.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub id: SessionId,
    /// Booked calls that were not made.
    pub unused: u64,
    /// The calls of the last rate window; none leaves what is stored as it is.
    pub recent: Option<Vec<RecentCalls>>,
}

/// The store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store `{path}` cannot be opened")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the store `{path}` cannot be opened")]
    Open {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("`{path}` is in use by another process")]
    InUse {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("`{path}` is not a database, or is damaged")]
    Corrupt {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("`{path}` is a database, but not one of Arbiter's")]
    Foreign { path: PathBuf },
    #[error(
        "`{path}` was written by a newer Arbiter: its schema is {found}, this one knows {known}"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("`{path}`: {problem}")]
    Sealed { path: PathBuf, problem: &'static str },
    #[error("the thread of the store cannot be started")]
    Thread(#[source] std::io::Error),
    #[error("the store could not do it")]
    Sql(#[from] rusqlite::Error),
    /// Shared by every write of the transaction.
    #[error("the store could not commit")]
    Commit(#[source] Arc<rusqlite::Error>),
    #[error("the store holds a damaged {what}")]
    Damaged {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("`{0}` is not in the store")]
    Missing(uuid::Uuid),
    #[error("{what} is too large to be stored")]
    TooLarge { what: &'static str },
    #[error("the store has stopped")]
    Stopped,
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

    /// The same for a file whose rows are sealed with a key.
    pub async fn sealed_sqlite(path: &Path, key: Option<SealKey>) -> Result<Self, StoreError> {
        Ok(Self::Sqlite(Sqlite::open(path.to_owned(), key).await?))
    }

    /// Finishes what is queued and lets go of the file. Whatever is asked afterwards fails.
    pub async fn close(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.close(),
            Self::Sqlite(sqlite) => return sqlite.close().await,
        }
        Ok(())
    }

    pub async fn agents(&self) -> Result<Vec<Arc<Agent>>, StoreError> {
        match self {
            Self::Memory(memory) => memory.agents(),
            Self::Sqlite(sqlite) => sqlite.agents().await,
        }
    }

    pub async fn insert_agent(&self, agent: &Arc<Agent>) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.insert_agent(agent),
            Self::Sqlite(sqlite) => sqlite.insert_agent(agent).await,
        }
    }

    /// Sets the trust of each agent: all of them, or none.
    pub async fn set_trust(&self, levels: Vec<(AgentId, TrustLevel)>) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.set_trust(&levels),
            Self::Sqlite(sqlite) => sqlite.set_trust(levels).await,
        }
    }

    /// Deactivates all of them, or none.
    pub async fn deactivate(&self, agents: Vec<AgentId>) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.deactivate(&agents),
            Self::Sqlite(sqlite) => sqlite.deactivate(agents).await,
        }
    }

    pub async fn delegations(&self) -> Result<Vec<Delegation>, StoreError> {
        match self {
            Self::Memory(memory) => memory.delegations(),
            Self::Sqlite(sqlite) => sqlite.delegations().await,
        }
    }

    pub async fn insert_delegation(&self, delegation: &Delegation) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.insert_delegation(delegation),
            Self::Sqlite(sqlite) => sqlite.insert_delegation(delegation.clone()).await,
        }
    }

    /// Sessions that had not ended by `cutoff`.
    pub async fn sessions(&self, cutoff: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
        match self {
            Self::Memory(memory) => memory.sessions(cutoff),
            Self::Sqlite(sqlite) => sqlite.sessions(cutoff).await,
        }
    }

    pub async fn insert_session(&self, order: &Arc<WorkOrder>) -> Result<(), StoreError> {
        i64::try_from(order.call_budget)
            .map_err(|_over| StoreError::TooLarge { what: "the call budget" })?;
        match self {
            Self::Memory(memory) => memory.insert_session(order),
            Self::Sqlite(sqlite) => sqlite.insert_session(order).await,
        }
    }

    /// Books `calls` as spent, or as many as the budget still has. Call times that a clean stop left
    /// are forgotten: they are no longer all.
    pub async fn book(&self, id: SessionId, calls: u64) -> Result<Booked, StoreError> {
        match self {
            Self::Memory(memory) => memory.book(id, calls),
            Self::Sqlite(sqlite) => sqlite.book(id, calls).await,
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
            Self::Sqlite(sqlite) => sqlite.close_sessions(closings, at).await,
        }
    }

    /// Takes back what was not used and keeps the call times, so that the next run knows exactly.
    pub async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.settle(settlements),
            Self::Sqlite(sqlite) => sqlite.settle(settlements).await,
        }
    }

    pub async fn forget_sessions(&self, ids: Vec<SessionId>) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.forget_sessions(&ids),
            Self::Sqlite(sqlite) => sqlite.forget_sessions(ids).await,
        }
    }

    /// Forgets at most `limit` sessions that had ended by `cutoff`; says how many.
    pub async fn forget_ended(&self, cutoff: Timestamp, limit: u32) -> Result<usize, StoreError> {
        match self {
            Self::Memory(memory) => memory.forget_ended(cutoff, limit),
            Self::Sqlite(sqlite) => sqlite.forget_ended(cutoff, limit).await,
        }
    }

    /// Revoked token ids, each with the time from which it need not be remembered.
    pub async fn revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        match self {
            Self::Memory(memory) => memory.revoked_tokens(),
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
            Self::Sqlite(sqlite) => sqlite.revoke_token(token_id.to_owned(), until, now).await,
        }
    }

    /// Makes every write fail, or work again.
    #[cfg(test)]
    pub(crate) async fn refuse_writes(&self, refuse: bool) {
        match self {
            Self::Memory(memory) => memory.refuse_writes(refuse),
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
