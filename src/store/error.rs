//! Errors of a store.

use std::path::PathBuf;
use std::sync::Arc;

use super::redis::RedisFault;
use crate::holder::Holder;

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
    #[error("`{path}` is in use by {holder}")]
    InUse {
        path: PathBuf,
        holder: Holder,
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
    #[error(transparent)]
    Redis(#[from] RedisFault),
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
    #[error("the store is in no file of its own")]
    NoFile,
    #[error("the store has stopped")]
    Stopped,
    /// The caller waited behind others for the store, and the store did not answer one of those.
    #[error("the store did not answer the one before in time")]
    Queued,
    #[error("the store did not answer in time")]
    Late,
    /// Several nodes write, and the state that this one decided by is not what is stored.
    #[error("another node has changed this meanwhile")]
    Overtaken,
    /// Changes were missed: only a full reload shows what is.
    #[error("changes of other nodes were missed")]
    Missed,
}

impl StoreError {
    /// Checks whether the store itself is unavailable, so that others will fare no better just now.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::File { .. }
            | Self::Open { .. }
            | Self::InUse { .. }
            | Self::Corrupt { .. }
            | Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::Sealed { .. }
            | Self::Thread(_)
            | Self::Sql(_)
            | Self::Commit(_)
            | Self::Redis(_)
            | Self::Stopped
            | Self::Late => true,
            Self::Damaged { .. }
            | Self::Missing(_)
            | Self::TooLarge { .. }
            | Self::NoFile
            | Self::Queued
            | Self::Overtaken
            | Self::Missed => false,
        }
    }
}
