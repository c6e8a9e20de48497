//! The record of a request, open from its arrival to its decision.
//!
//! A ticket that is dropped undecided, because the client left while its body was read or because
//! of a bug of ours, still becomes a record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use smallvec::SmallVec;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::audit::redact::Redactor;
use crate::audit::{Audit, Completion, Entry as Record, Outcome};
use crate::firewall::agent::AgentId;
use crate::firewall::call::CallKind;
use crate::firewall::session::WorkOrder;
use crate::firewall::time::{Mono, Now};
use crate::mcp::message::Message;

/// Counts the requests that are being served.
#[derive(Debug, Default)]
pub struct InFlight {
    count: AtomicUsize,
    by_agent: DashMap<AgentId, usize>,
    draining: AtomicBool,
    none_left: Notify,
}

/// Most requests of one agent that are served at a time: an eighth of what the audit journal holds,
/// so that no agent can take the room of all others.
const MAX_PER_AGENT: usize = 1_024;

/// One request among those being served.
#[derive(Debug)]
pub struct Open {
    among: Arc<InFlight>,
    agent: Option<AgentId>,
}

impl InFlight {
    pub fn enter(self: &Arc<Self>) -> Open {
        self.count.fetch_add(1, Ordering::AcqRel);
        Open { among: self.clone(), agent: None }
    }

    /// From now on no new request is served.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Resolves when no request is being served.
    pub async fn idle(&self) {
        loop {
            let mut changed = std::pin::pin!(self.none_left.notified());
            changed.as_mut().enable();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Open {
    /// Counts the request among its agent's; false if there are too many.
    fn take_place(&mut self, agent: AgentId) -> bool {
        let mut count = self.among.by_agent.entry(agent).or_default();
        if *count >= MAX_PER_AGENT {
            return false;
        }
        *count = count.saturating_add(1);
        self.agent = Some(agent);
        true
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(agent) = self.agent
            && let Entry::Occupied(mut count) = self.among.by_agent.entry(agent)
        {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
        if self.among.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.among.none_left.notify_waiters();
        }
    }
}

/// An undecided request.
pub struct Ticket {
    request_id: Uuid,
    arrived: Now,
    judged_from: Mono,
    /// Taken when the request is decided.
    parts: Option<(Record, Open)>,
    audit: Arc<Audit>,
}

impl Ticket {
    pub(super) fn open(entry: Record, arrived: Now, open: Open, audit: Arc<Audit>) -> Self {
        Self {
            request_id: entry.request_id,
            arrived,
            judged_from: arrived.mono,
            parts: Some((entry, open)),
            audit,
        }
    }

    pub fn request_id(&self) -> Uuid {
        self.request_id
    }

    pub fn arrived(&self) -> Now {
        self.arrived
    }

    /// Notes when judging begins, the whole request being here.
    pub(super) fn judged_from(&mut self, now: Mono) {
        self.judged_from = now;
    }

    pub(super) fn judging_since(&self) -> Mono {
        self.judged_from
    }

    /// Counts the request among its agent's; false if there are too many.
    pub(super) fn take_place(&mut self, agent: AgentId) -> bool {
        self.parts.as_mut().is_some_and(|(_, open)| open.take_place(agent))
    }

    /// The record so far.
    #[expect(
        clippy::expect_used,
        reason = "only `into_parts` takes it, and that consumes the ticket"
    )]
    pub(super) fn entry_mut(&mut self) -> &mut Record {
        let (entry, _) =
            self.parts.as_mut().expect("a ticket holds its record until it is decided");
        entry
    }

    /// Ends the ticket: whoever takes its parts puts the decision on record.
    #[expect(clippy::expect_used, reason = "nothing else takes it, and this consumes the ticket")]
    pub(super) fn into_parts(mut self) -> (Record, Open) {
        self.parts.take().expect("a ticket holds its record until it is decided")
    }

    /// Notes what is asked, arguments redacted.
    pub(super) fn describe(
        &mut self,
        message: &Message<'_>,
        redactor: &Redactor,
        max_bytes: usize,
    ) {
        let entry = self.entry_mut();
        let mut arguments = SmallVec::<[_; 1]>::new();
        for call in &message.calls {
            if let Some(method) = call.method.as_deref() {
                name_method(&mut entry.mcp_method, method);
            }
            match &call.kind {
                CallKind::Tool { name, arguments: given } => {
                    entry.tool_called.get_or_insert_with(|| name.as_ref().to_owned());
                    if message.batch {
                        entry.tools_called.push(name.as_ref().to_owned());
                    }
                    arguments.push(*given);
                }
                CallKind::Data { .. } => arguments.push(call.params),
                CallKind::Protocol => {}
            }
        }
        entry.arguments = match arguments.as_slice() {
            [] => None,
            [one] => one.map(|given| redactor.redact(given, max_bytes)),
            several => Some(redactor.redact_batch(several, max_bytes)),
        };
    }

    /// Notes within which session.
    pub(super) fn in_session(&mut self, order: &WorkOrder) {
        let entry = self.entry_mut();
        entry.task_session_id = Some(order.id);
        entry.delegation_chain = order.delegation_chain.clone();
    }
}

/// Longest list of a batch's methods; the record clips it anyway.
const MAX_METHODS_BYTES: usize = 1_024;

/// Adds a method to the record: of a batch all different ones, in order, with commas between.
fn name_method(named: &mut Option<String>, method: &str) {
    match named {
        None => *named = Some(method.to_owned()),
        Some(named) => {
            let known = named.split(',').any(|known| known == method);
            if !known && named.len() < MAX_METHODS_BYTES {
                named.push(',');
                named.push_str(method);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some((mut entry, _open)) = self.parts.take() else { return };
        entry.anomaly_flags.push("broken_off");
        self.audit
            .note(&entry, Outcome { completion: Completion::ClientGone, ..Outcome::default() });
    }
}
