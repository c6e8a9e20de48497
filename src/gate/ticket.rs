//! The record of a request, open from its arrival to its decision.
//!
//! A ticket that is dropped undecided, because the client left while its body was read or because
//! of a bug of ours, still becomes a record, and the record says which.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::audit::redact::{Redactor, scrubbed};
use crate::audit::{Audit, Completion, Entry, Outcome};
use crate::credentials::Patterns;
use crate::firewall::call::CallKind;
use crate::firewall::session::WorkOrder;
use crate::firewall::time::Now;
use crate::mcp::message::Message;

/// Counts the requests that are being served.
#[derive(Debug, Default)]
pub struct InFlight {
    count: AtomicUsize,
    draining: AtomicBool,
    none_left: Notify,
}

/// One request among those being served.
#[derive(Debug)]
pub struct Open(Arc<InFlight>);

impl InFlight {
    pub fn enter(self: &Arc<Self>) -> Open {
        self.count.fetch_add(1, Ordering::AcqRel);
        Open(self.clone())
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

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

/// An undecided request.
pub struct Ticket {
    request_id: Uuid,
    arrived: Now,
    /// Taken when the request is decided.
    parts: Option<(Entry, Open)>,
    audit: Arc<Audit>,
}

impl Ticket {
    pub(super) fn open(entry: Entry, arrived: Now, open: Open, audit: Arc<Audit>) -> Self {
        Self { request_id: entry.request_id, arrived, parts: Some((entry, open)), audit }
    }

    pub fn request_id(&self) -> Uuid {
        self.request_id
    }

    pub fn arrived(&self) -> Now {
        self.arrived
    }

    /// The record so far.
    #[expect(
        clippy::expect_used,
        reason = "only `into_parts` takes it, and that consumes the ticket"
    )]
    pub(super) fn entry_mut(&mut self) -> &mut Entry {
        let (entry, _) =
            self.parts.as_mut().expect("a ticket holds its record until it is decided");
        entry
    }

    /// Ends the ticket: whoever takes its parts puts the decision on record.
    #[expect(clippy::expect_used, reason = "nothing else takes it, and this consumes the ticket")]
    pub(super) fn into_parts(mut self) -> (Entry, Open) {
        self.parts.take().expect("a ticket holds its record until it is decided")
    }

    /// Notes what is asked, arguments redacted and nothing in it that is `known` to be secret.
    pub(super) fn describe(
        &mut self,
        message: &Message<'_>,
        redactor: &Redactor,
        max_bytes: usize,
        known: &Arc<Patterns>,
    ) {
        let entry = self.entry_mut();
        let mut arguments = Vec::new();
        for call in &message.calls {
            if entry.mcp_method.is_none() {
                entry.mcp_method = call.method.as_deref().map(|method| scrubbed(method, known));
            }
            match &call.kind {
                CallKind::Tool { name, arguments: given } => {
                    entry.tool_called.get_or_insert_with(|| scrubbed(name, known));
                    if message.batch {
                        entry.tools_called.push(scrubbed(name, known));
                    }
                    arguments.push(*given);
                }
                CallKind::Data { .. } => arguments.push(call.params),
                CallKind::Protocol => {}
            }
        }
        entry.arguments = match arguments.as_slice() {
            [] => None,
            [one] => one.map(|given| redactor.redact(given, max_bytes, known)),
            several => Some(redactor.redact_batch(several, max_bytes, known)),
        };
    }

    /// Notes within which session.
    pub(super) fn in_session(&mut self, order: &WorkOrder) {
        let entry = self.entry_mut();
        entry.task_session_id = Some(order.id);
        entry.delegation_chain = order.delegation_chain.clone();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some((mut entry, _open)) = self.parts.take() else { return };
        let (flag, completion) = if std::thread::panicking() {
            ("panicked", Completion::Unknown)
        } else {
            ("broken_off", Completion::ClientGone)
        };
        entry.anomaly_flags.push(flag);
        self.audit.note(&entry, Outcome { completion, ..Outcome::default() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::audit::{Decision, Settings};
    use crate::clock::Clock;

    /// Runs something that has a ticket and a call under way, and gives the records it leaves.
    async fn records(
        run: impl AsyncFnOnce(&Arc<Audit>, Ticket) + Send + 'static,
    ) -> (Vec<Value>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let settings = Settings::at(folder.path().join("audit.jsonl"), "node-1");
        let audit = Arc::new(Audit::open(settings, clock.clone()).unwrap());
        let in_flight = Arc::<InFlight>::default();
        let entry = Entry::new(clock.now().wall, Uuid::new_v4(), Decision::Deny);
        let ticket = Ticket::open(entry, clock.now(), in_flight.enter(), audit.clone());
        let local = tokio::task::LocalSet::new();
        let used = audit.clone();
        let task = local.spawn_local(async move { run(&used, ticket).await });
        // A panic is what some of them are for.
        drop(local.run_until(task).await);
        audit.close();
        let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
        let records = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (records, in_flight.count.load(Ordering::SeqCst))
    }

    fn call(ticket: &Ticket) -> Entry {
        let mut entry = Entry::new(ticket.arrived().wall, Uuid::new_v4(), Decision::Allow);
        entry.tool_called = Some("admitted".to_owned());
        entry
    }

    #[tokio::test]
    async fn a_panic_in_a_request_leaves_a_record() {
        let (records, left) = records(async |audit, ticket| {
            let receipt = audit.admit(&call(&ticket)).await.unwrap();
            assert!(ticket.request_id().is_nil(), "injected");
            receipt.complete(Outcome::completed(1, Some(200)));
        })
        .await;
        assert_eq!((records.len(), left), (2, 0), "{records:?}");
        let of = |decision: &str| {
            records.iter().find(|r| r["authorization_decision"] == decision).unwrap()
        };
        assert_eq!(of("allow")["tool_called"], "admitted");
        assert_eq!(of("allow")["outcome"], "unknown");
        assert_eq!(of("deny")["outcome"], "unknown");
        assert_eq!(of("deny")["anomaly_flags"], serde_json::json!(["panicked"]));
    }

    #[tokio::test]
    async fn a_request_that_breaks_off_leaves_a_record() {
        let (records, left) = records(async |_, ticket| drop(ticket)).await;
        assert_eq!((records.len(), left), (1, 0));
        assert_eq!(records[0]["outcome"], "client_gone");
        assert_eq!(records[0]["anomaly_flags"], serde_json::json!(["broken_off"]));
    }
}
