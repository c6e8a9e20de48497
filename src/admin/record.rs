//! Changes go on record before they are made.
//!
//! What is refused before it changes anything (a wrong key, a bad field) leaves no record: the log
//! holds what was done. A wrong key is a line of the ordinary log, bounded by the rate.

use std::fmt::Display;
use std::sync::Arc;

use uuid::Uuid;

use super::Admin;
use super::error::{ApiError, Code};
use crate::audit::{Decision, Detail, Entry, Event, Outcome, Receipt};
use crate::clock::Clock;
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;
use crate::firewall::time::Mono;
use crate::store::StoreError;
use crate::telemetry::Causes;

/// What is about to change.
pub(super) struct Change {
    event: &'static str,
    agent: Option<AgentId>,
    session: Option<SessionId>,
    detail: Vec<(&'static str, Detail)>,
}

impl Change {
    pub(super) fn new(event: &'static str) -> Self {
        Self { event, agent: None, session: None, detail: Vec::new() }
    }

    pub(super) fn agent(mut self, id: AgentId) -> Self {
        self.agent = Some(id);
        self
    }

    pub(super) fn session(mut self, id: SessionId) -> Self {
        self.session = Some(id);
        self
    }

    pub(super) fn with(mut self, name: &'static str, text: impl Display) -> Self {
        self.detail.push((name, Detail::Text(text.to_string())));
        self
    }

    pub(super) fn count(mut self, name: &'static str, count: u64) -> Self {
        self.detail.push((name, Detail::Count(count)));
        self
    }
}

/// A change that is on record and may be made now. Dropped, its outcome is on record as unknown.
pub(super) struct Announced {
    receipt: Receipt,
    clock: Clock,
    since: Mono,
}

impl Admin {
    /// Puts a change on record; without that it must not be made.
    pub(super) async fn announce(&self, change: Change) -> Result<Announced, ApiError> {
        let now = self.clock.now();
        let mut entry = Entry::new(now.wall, Uuid::new_v4(), Decision::Allow);
        entry.principal = Some(Arc::from("admin"));
        entry.agent_id = change.agent;
        entry.task_session_id = change.session;
        entry.event = Some(Event { name: change.event, detail: change.detail });
        match self.audit.admit(&entry).await {
            Ok(receipt) => Ok(Announced { receipt, clock: self.clock.clone(), since: now.mono }),
            Err(error) => {
                tracing::error!(event = change.event, error = %Causes(&error), "admin change refused");
                let message = format!("{error}, so nothing was changed; try again when it is");
                Err(ApiError::new(Code::AuditUnavailable, message).retry_after(1))
            }
        }
    }
}

impl Announced {
    fn latency_us(&self) -> u64 {
        self.clock.mono().since(self.since)
    }

    pub(super) fn done(self) {
        let latency_us = self.latency_us();
        self.receipt.complete(Outcome::completed(latency_us, None));
    }

    /// The change was made, though not all of it is as it should be.
    pub(super) fn in_force(self, error: ApiError) -> ApiError {
        let latency_us = self.latency_us();
        let denial_code = Some(error.code.name());
        self.receipt.complete(Outcome { denial_code, ..Outcome::completed(latency_us, None) });
        error
    }

    /// The change was not made after all.
    pub(super) fn refused(self, error: ApiError) -> ApiError {
        let latency_us = self.latency_us();
        let denial_code = Some(error.code.name());
        self.receipt.complete(Outcome { denial_code, ..Outcome::refused(latency_us) });
        error
    }
}

/// The store did not take a change that counts all the same, on this node.
pub(super) fn not_stored(error: &StoreError) -> ApiError {
    tracing::error!(error = %Causes(error), "store did not take a revocation; it is in force here and tried again");
    let message = "this is in force on this gateway from now on, but the store did not take it yet: \
                   it is tried again until it does, and a restart before that would undo it";
    ApiError::new(Code::StoreUnavailable, message).retry_after(1)
}

/// The store did not take a change.
pub(super) fn store_failed(error: &StoreError) -> ApiError {
    tracing::error!(error = %Causes(error), "store did not take an admin change");
    let message = "the store did not answer, so the change may not have been made; try again";
    ApiError::new(Code::StoreUnavailable, message).retry_after(1)
}
