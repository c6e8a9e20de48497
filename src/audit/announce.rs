//! Changes of what is in force: on record before they are made.
//!
//! A change is announced like a call is admitted: its line is in the journal before anything
//! happens, and how it ended is added when it has. A crash in between leaves a record whose outcome
//! is unknown, never a change without a record.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use super::record::{Decision, Detail, Entry, Event, HeadParts, Outcome, RequestHead};
use super::{Audit, AuditUnavailable, Receipt};
use crate::clock::Clock;
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;
use crate::firewall::time::Mono;

/// Pending change.
#[derive(Debug)]
pub struct Change {
    event: &'static str,
    agent: Option<AgentId>,
    session: Option<SessionId>,
    detail: Vec<(&'static str, Detail)>,
}

impl Change {
    pub fn new(event: &'static str) -> Self {
        Self { event, agent: None, session: None, detail: Vec::new() }
    }

    #[must_use]
    pub fn agent(mut self, id: AgentId) -> Self {
        self.agent = Some(id);
        self
    }

    #[must_use]
    pub fn session(mut self, id: SessionId) -> Self {
        self.session = Some(id);
        self
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, text: impl Display) -> Self {
        self.detail.push((name, Detail::Text(text.to_string())));
        self
    }

    #[must_use]
    pub fn count(mut self, name: &'static str, count: u64) -> Self {
        self.detail.push((name, Detail::Count(count)));
        self
    }

    pub fn event(&self) -> &'static str {
        self.event
    }
}

/// Author of a change; without a name, the gateway itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct By<'a> {
    pub name: Option<&'a Arc<str>>,
    pub source: Option<IpAddr>,
    pub http_method: Option<&'a str>,
    /// As the table of endpoints has it.
    pub path: Option<&'a str>,
    pub role: Option<&'a str>,
}

impl By<'_> {
    /// Returns the record of a change and of its author.
    pub fn entry(&self, change: Change, clock: &Clock, decision: Decision) -> Entry {
        let mut entry = Entry::new(clock.now().wall, Uuid::new_v4(), decision);
        entry.principal = self.name.cloned();
        entry.agent_id = change.agent;
        entry.task_session_id = change.session;
        entry.head = RequestHead::of(&HeadParts {
            client_addr: self.source,
            http_method: self.http_method,
            path: self.path,
            ..HeadParts::default()
        });
        let mut detail = change.detail;
        detail.extend(self.role.map(|role| ("role", Detail::Text(role.to_owned()))));
        entry.event = Some(Box::new(Event { name: change.event, detail }));
        entry
    }
}

/// A change that is on record and may be made now. Dropped, its outcome is on record as unknown.
#[must_use = "a change that is dropped has an unknown outcome on record"]
pub struct PendingChange {
    receipt: Receipt,
    clock: Clock,
    since: Mono,
}

impl Audit {
    /// Puts a change on record; without that it must not be made.
    pub async fn announce(
        &self,
        change: Change,
        by: By<'_>,
        clock: &Clock,
    ) -> Result<PendingChange, AuditUnavailable> {
        let since = clock.mono();
        let entry = by.entry(change, clock, Decision::Allow);
        let receipt = self.record_admitted(&entry).await?;
        Ok(PendingChange { receipt, clock: clock.clone(), since })
    }
}

impl Audit {
    /// Puts a change on record that cannot fail once it is there, or one that was refused with a
    /// code. Without that it must not be made.
    pub async fn record_change(
        &self,
        change: Change,
        by: By<'_>,
        clock: &Clock,
        refused: Option<&'static str>,
    ) -> Result<(), AuditUnavailable> {
        let decision = if refused.is_some() { Decision::Deny } else { Decision::Allow };
        let mut entry = by.entry(change, clock, decision);
        entry.denial_code = refused;
        let outcome = match refused {
            Some(_) => Outcome::refused(0),
            None => Outcome::completed(0, None),
        };
        self.record(entry, outcome).await
    }
}

impl PendingChange {
    fn latency_us(&self) -> u64 {
        self.clock.mono().since(self.since)
    }

    /// Records that the change was made.
    pub fn done(self) {
        let latency_us = self.latency_us();
        self.receipt.complete(Outcome::completed(latency_us, None));
    }

    /// Records that the change was made, though not all of it is as it should be.
    pub fn in_force(self, code: &'static str) {
        let latency_us = self.latency_us();
        let denial_code = Some(code);
        self.receipt.complete(Outcome { denial_code, ..Outcome::completed(latency_us, None) });
    }

    /// Records that the change was not made.
    pub fn refused(self, code: &'static str) {
        let latency_us = self.latency_us();
        self.receipt.complete(Outcome {
            decision: Some(Decision::Deny),
            denial_code: Some(code),
            ..Outcome::refused(latency_us)
        });
    }
}
