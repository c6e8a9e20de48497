//! The record of a request, open from its arrival to its decision.
//!
//! A ticket that is dropped undecided, because the client left while its body was read or because
//! of a bug, still becomes a record, and the record says which.

use std::sync::Arc;

use smallvec::SmallVec;
use smol_str::{SmolStr, format_smolstr};
use tokio::sync::watch;
use uuid::Uuid;

use super::in_flight::RequestInFlight;
use super::reply::Reply;
use crate::audit::redact::{Redactor, scrubbed};
use crate::audit::{Audit, Completion, Entry as Record, Outcome};
use crate::credentials::Patterns;
use crate::firewall::agent::AgentId;
use crate::firewall::call::CallKind;
use crate::firewall::continuation::Continuation;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::session::WorkOrder;
use crate::firewall::time::{Mono, Now};
use crate::gate::Destination;
use crate::mcp::message::Message;
use crate::traces::Draft;

/// An undecided request.
pub(super) struct Ticket {
    request_id: Uuid,
    arrived: Now,
    judged_from: Mono,
    /// Taken when the request is decided. Boxed, because each step of the request's way would copy it.
    parts: Option<Box<Parts>>,
    audit: Arc<Audit>,
    /// None if requests are not traced.
    draft: Option<Box<Draft>>,
    /// Receives the progress token of a call that waits for a person.
    held: Option<watch::Sender<Option<Arc<str>>>>,
}

/// Parts of an undecided request: its record, its reply and its place among those in flight.
pub(super) struct Parts {
    pub(super) entry: Record,
    pub(super) reply: Reply,
    pub(super) open: RequestInFlight,
}

impl Ticket {
    pub(super) fn begin(
        entry: Record,
        arrived: Now,
        open: RequestInFlight,
        audit: Arc<Audit>,
    ) -> Self {
        Self {
            request_id: entry.request_id,
            arrived,
            judged_from: arrived.mono,
            parts: Some(Box::new(Parts { entry, reply: Reply::plain(), open })),
            audit,
            draft: None,
            held: None,
        }
    }

    /// Sets the trace of the request.
    pub(super) fn traced_by(&mut self, draft: Option<Box<Draft>>) {
        self.draft = draft;
    }

    /// Returns the trace under way, if requests are traced.
    pub(super) fn draft(&mut self) -> Option<&mut Draft> {
        self.draft.as_deref_mut()
    }

    pub(super) fn take_draft(&mut self) -> Option<Box<Draft>> {
        self.draft.take()
    }

    pub(super) fn request_id(&self) -> Uuid {
        self.request_id
    }

    pub(super) fn arrived(&self) -> Now {
        self.arrived
    }

    /// Notes when judging begins, the whole request being here.
    pub(super) fn judged_from(&mut self, now: Mono) {
        self.judged_from = now;
    }

    /// Has `held` receive the progress token of the call once it waits for a person.
    pub(super) fn show_wait(&mut self, held: watch::Sender<Option<Arc<str>>>) {
        self.held = Some(held);
    }

    /// Reports that the call waits for a person, to a client that gave this token.
    pub(super) fn waits(&self, token: &str) {
        if let Some(held) = &self.held {
            held.send_replace(Some(token.into()));
        }
    }

    /// Leaves the time for which the call waited for a person out of the gateway's own.
    pub(super) fn waited(&mut self, micros: u64) {
        self.judged_from = Mono(self.judged_from.0.saturating_add(micros));
    }

    pub(super) fn judging_since(&self) -> Mono {
        self.judged_from
    }

    /// Charges the request to its agent; refused if that has used up its part.
    pub(super) fn charge(&mut self, agent: AgentId) -> Result<(), Denial> {
        let now = self.arrived.mono;
        self.parts.as_mut().map_or(Ok(()), |parts| parts.open.charge(agent, now))
    }

    /// Notes the length of the body.
    pub(super) fn body_came(&mut self, bytes: usize) {
        self.entry_mut().bytes_in = u64::try_from(bytes).ok();
    }

    /// The record so far.
    #[expect(
        clippy::expect_used,
        reason = "only `into_parts` takes it, and that consumes the ticket"
    )]
    pub(super) fn entry_mut(&mut self) -> &mut Record {
        &mut self.parts.as_mut().expect("a ticket holds its record until it is decided").entry
    }

    /// The reply so far.
    #[expect(
        clippy::expect_used,
        reason = "only `into_parts` takes it, and that consumes the ticket"
    )]
    pub(super) fn reply_mut(&mut self) -> &mut Reply {
        &mut self.parts.as_mut().expect("a ticket holds its reply until it is decided").reply
    }

    /// Ends the ticket: the caller, which takes its parts, puts the decision on record.
    #[expect(clippy::expect_used, reason = "nothing else takes it, and this consumes the ticket")]
    pub(super) fn into_parts(mut self) -> Box<Parts> {
        self.parts.take().expect("a ticket holds its record until it is decided")
    }

    /// Notes which methods and tools are asked for, without what is `known` to be secret.
    pub(super) fn name(&mut self, message: &Message<'_>, known: &Arc<Patterns>) {
        let entry = self.entry_mut();
        for call in &message.calls {
            if let Some(method) = call.method.as_deref() {
                name_method(&mut entry.mcp_method, &scrubbed(method, known));
            }
            if let CallKind::Tool { name, .. } = &call.kind {
                entry.tool_called.get_or_insert_with(|| SmolStr::from(scrubbed(name, known)));
                if message.batch {
                    entry.tools_called.push(scrubbed(name, known).into_owned());
                }
            }
        }
    }

    /// Notes the arguments, redacted and without what is `known` to be secret: work that is done
    /// only for a request whose session is known.
    pub(super) fn describe(
        &mut self,
        message: &Message<'_>,
        redactor: &Redactor,
        max_bytes: usize,
        known: &Arc<Patterns>,
    ) {
        let entry = self.entry_mut();
        let mut arguments = SmallVec::<[_; 1]>::new();
        for call in &message.calls {
            match &call.kind {
                CallKind::Tool { arguments: given, .. } => arguments.push(*given),
                CallKind::Data { .. } => arguments.push(call.params),
                CallKind::Protocol => {}
            }
        }
        // A later round is sent by itself; what a data call brings is in its parameters.
        let inputs = match message.calls.as_slice() {
            [call] if matches!(call.kind, CallKind::Tool { .. }) => call.inputs(),
            _ => None,
        };
        entry.input_responses = inputs.map(|given| redactor.redact(given, max_bytes, known));
        entry.arguments = match arguments.as_slice() {
            [] => None,
            [one] => one.map(|given| redactor.redact(given, max_bytes, known)),
            several => Some(redactor.redact_batch(several, max_bytes, known)),
        };
    }

    /// Notes for which upstream.
    pub(super) fn bound_for(&mut self, to: &Destination) {
        self.entry_mut().upstream.clone_from(&to.name);
    }

    pub(super) fn has_session(&mut self) -> bool {
        self.entry_mut().task_session_id.is_some()
    }

    /// Notes the call that a request goes on with.
    pub(super) fn goes_on_with(&mut self, begun: &Continuation) {
        let entry = self.entry_mut();
        entry.continues = Some(begun.begun_by);
        if entry.tool_called.is_none() {
            entry.tool_called = begun.tool.as_deref().map(SmolStr::from);
        }
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
fn name_method(named: &mut Option<SmolStr>, method: &str) {
    match named {
        None => *named = Some(method.into()),
        Some(named) => {
            let known = named.split(',').any(|known| known == method);
            if !known && named.len() < MAX_METHODS_BYTES {
                *named = format_smolstr!("{named},{method}");
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        let Parts { entry, open, .. } = &mut *parts;
        let (flag, completion) = if std::thread::panicking() {
            // Nothing has gone upstream, and the handler of the panic answers with this refusal.
            let row = Code::InternalError.row();
            entry.denial_code = Some(row.name);
            entry.failure_category = Some(row.category.as_str());
            entry.stage = Some(row.stage.as_str());
            ("panicked", Completion::Refused)
        } else {
            ("broken_off", Completion::ClientGone)
        };
        entry.anomaly_flags.push(flag);
        let weight = open.troubled(self.arrived.mono);
        let outcome = Outcome { completion, ..Outcome::default() };
        if let Some(draft) = self.draft.take() {
            draft.broken_off(entry, outcome.clone(), self.arrived, self.judged_from);
        }
        self.audit.note(entry, outcome, weight);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::audit::{Decision, Settings};
    use crate::clock::Clock;
    use crate::gate::in_flight::InFlight;
    use crate::gate::shares::Limits;

    /// Runs something that has a ticket and a call under way, and gives the records it leaves.
    async fn records(
        run: impl AsyncFnOnce(&Arc<Audit>, Ticket) + Send + 'static,
    ) -> (Vec<Value>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let settings = Settings::at(folder.path().join("audit.jsonl"), "node-1");
        let audit = Arc::new(Audit::open(settings, clock.clone()).unwrap());
        let in_flight = Arc::new(InFlight::new(Limits::default()));
        let entry = Record::new(clock.now().wall, Uuid::new_v4(), Decision::Deny);
        let ticket = Ticket::begin(entry, clock.now(), in_flight.enter(), audit.clone());
        let local = tokio::task::LocalSet::new();
        let used = audit.clone();
        let task = local.spawn_local(async move { run(&used, ticket).await });
        // A panic is what some of them are for.
        drop(local.run_until(task).await);
        audit.close();
        let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
        let records = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (records, in_flight.count())
    }

    fn call(ticket: &Ticket) -> Record {
        let mut entry = Record::new(ticket.arrived().wall, Uuid::new_v4(), Decision::Allow);
        entry.tool_called = Some("admitted".into());
        entry
    }

    #[tokio::test]
    async fn a_panic_in_a_request_leaves_a_record() {
        let (records, left) = records(async |audit, ticket| {
            let receipt = audit.record_admitted(&call(&ticket)).await.unwrap();
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
        assert_eq!(of("deny")["outcome"], "refused");
        assert_eq!(of("deny")["denial_code"], "InternalError");
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
