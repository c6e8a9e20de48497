//! One call, end to end: look up, decide, remember, put on record.
//!
//! The gate is where the pure decision meets what is remembered. A request becomes one of two
//! things: a [`Cleared`], which is the only key to the upstream and exists only after the decision
//! is on record, or a [`Refused`], which is on record too. The phases on the way there are
//! [`phases`].

pub mod approval;
pub mod asking;
mod bucket;
mod caller;
pub mod continued;
mod decide;
mod demote;
mod destination;
pub mod drain;
pub mod enrol;
mod frozen;
mod hearing;
pub mod in_flight;
mod legacy;
pub mod listening;
mod on_record;
mod phases;
mod reply;
pub mod shares;
mod state;
mod ticket;
mod tools;
pub mod view;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use smol_str::SmolStr;
use uuid::Uuid;

pub use crate::audit::HeadParts;
use crate::audit::redact::{Redactor, scrubbed};
use crate::audit::{Decision, Entry, Receipt, RequestHead};
use crate::credentials::Edits;
use crate::firewall::agent::AgentId;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::session::RefusalStyle;
use crate::firewall::time::{Mono, Now};
use crate::mcp::headers::ProtocolHeaders;
use crate::mcp::outcome::Carrier;
use crate::metrics::Metrics;
pub use crate::secrets::ScrubSet;
pub use crate::traces::Carried;
use crate::traces::{Decided, Trace};
use asking::{Asked, Asking};
use continued::Handout;
pub use destination::{Destination, ExpectedReply};
use drain::{Drain, Phase};
use in_flight::RequestInFlight;
use listening::Stream;
pub use on_record::Ended;
use phases::Contents;
pub use phases::{Arrived, Denied, Identified, Kind, Read, Verb};
pub use reply::{Form, Refused};
pub use state::ProcessState;
use ticket::Ticket;
pub use tools::Tools;
use view::ListView;

/// Retry delay given to clients when a part of the gateway is unavailable.
const RETRY_SECS: u64 = 1;

/// The one way of a request to its decision and to the record of it.
pub struct Gate {
    state: ProcessState,
    asking: Arc<Asking>,
    redactor: Redactor,
    settings: Settings,
}

/// Part of the configuration that the gate needs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub strict_mcp: bool,
    pub require_healthy_audit: bool,
    pub refusal_style: RefusalStyle,
    pub max_argument_bytes: usize,
    /// Bound of a body also after its credentials were put in.
    pub max_request_body_bytes: usize,
    /// Longest time for which an answer that shows a session's rights says that it may be kept.
    pub max_list_ttl_ms: u64,
}

/// Claims in a client's headers, unverified.
#[derive(Clone, Debug, Default)]
pub struct Claims<'h> {
    pub session: Option<&'h str>,
    pub agent: Option<&'h str>,
    pub protocol: ProtocolHeaders<'h>,
}

/// Proof that a call was admitted and that its decision is on record.
#[derive(Debug)]
pub struct Cleared {
    receipt: Receipt,
    request_id: Uuid,
    arrived: Now,
    judged_from: Mono,
    decided_at: Mono,
    answered_at: Option<Mono>,
    body: Bytes,
    agent: AgentId,
    warnings: Vec<String>,
    /// The JSON-RPC id to echo if the upstream fails, and in which form.
    id: Option<SmolStr>,
    form: Form,
    expected: Expected,
    trace: Option<Box<Trace>>,
    _open: RequestInFlight,
}

/// Result of an admission.
struct Admitted {
    body: Bytes,
    /// Made to the body once the decision is on record.
    edits: Edits,
    expected: Expected,
}

/// Treatment of the answer that an admitted call may get.
#[derive(Debug)]
struct Expected {
    due: ExpectedReply,
    /// True if the message may be sent again where its connection died.
    repeatable: bool,
    lists: Option<ListView>,
    scrub: Option<ScrubSet>,
    tools: Option<Box<Tools>>,
    /// Set if notifications can come on the answer's stream.
    stream: Option<Box<Stream>>,
    handout: Option<Arc<Handout>>,
    asked: Option<Asked>,
}

/// Readiness to serve calls, and the first thing in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    Draining,
    StoreUnavailable,
    AuditUnavailable,
}

impl Gate {
    /// Makes a gate that decides from `state`, and puts the questions of servers to `asking`.
    pub fn new(
        state: ProcessState,
        asking: Asking,
        redactor: Redactor,
        settings: Settings,
    ) -> Self {
        Self { state, asking: Arc::new(asking), redactor, settings }
    }

    /// Returns the time since the start.
    pub fn mono(&self) -> Mono {
        self.state.clock.mono()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.state.metrics
    }

    pub fn drain(&self) -> &Drain {
        &self.state.drain
    }

    pub fn is_traced(&self) -> bool {
        self.state.traces.is_some()
    }

    pub fn readiness(&self) -> Readiness {
        if self.state.drain.is_leaving() {
            Readiness::Draining
        } else if self.state.freshness.is_stale(self.state.clock.mono()) {
            Readiness::StoreUnavailable
        } else if self.settings.require_healthy_audit && !self.state.audit.healthy() {
            Readiness::AuditUnavailable
        } else {
            Readiness::Ready
        }
    }

    /// Returns the members of a record that come from the request's head, without known secrets.
    pub fn head(&self, parts: &HeadParts<'_>) -> RequestHead {
        let known = self.state.secrets.patterns();
        let user_agent = parts.user_agent.map(|text| scrubbed(text, &known));
        let path = parts.path.map(|text| scrubbed(text, &known));
        RequestHead::of(&HeadParts {
            user_agent: user_agent.as_deref(),
            path: path.as_deref(),
            ..*parts
        })
    }

    /// Opens the record of a request; refused while the log cannot be written.
    pub async fn receive(
        &self,
        head: RequestHead,
        carried: &Carried<'_>,
    ) -> Result<Arrived, Refused> {
        let arrived = self.state.clock.now();
        let mut entry = Entry::new(arrived.wall, Uuid::new_v4(), Decision::Deny);
        entry.head = head;
        let draft = self.state.traces.as_ref().map(|traces| traces.draft(carried));
        if !self.state.audit.healthy() && self.settings.require_healthy_audit {
            let times = Decided { arrived, from: arrived.mono, at: arrived.mono };
            let trace = draft.and_then(|draft| draft.decided(&mut entry, None, times));
            return Err(Box::pin(self.refuse_unrecorded(entry, arrived, trace)).await);
        }
        let open = self.state.in_flight.enter();
        let mut ticket = Ticket::begin(entry, arrived, open, self.state.audit.clone());
        ticket.traced_by(draft);
        let arrived = Arrived::new(ticket);
        if self.state.drain.phase() >= Phase::Refusing {
            return Err(self.refuse(arrived.denied(shutting_down())).await);
        }
        Ok(arrived)
    }

    /// Judges a request and puts the decision on record.
    pub async fn judge(
        &self,
        mut read: Read,
        claims: &Claims<'_>,
    ) -> Result<Box<Cleared>, Refused> {
        let decided = match (self.recheck_caller(&mut read), read.kind()) {
            (Ok(()), Kind::Message) => self.decide(&mut read, claims).await,
            // Boxed, because few requests come this way and all would carry its room.
            (Ok(()), Kind::Legacy(verb)) => {
                Box::pin(self.decide_legacy(&mut read, claims, verb)).await
            }
            (Ok(()), Kind::Unchecked) => self.decide_unchecked(&mut read),
            (Err(denial), _) => Err(denial),
        };
        match decided {
            Ok(admitted) => self.clear(read.judged(admitted)).await,
            Err(denial) => Err(self.refuse(read.denied(denial)).await),
        }
    }

    /// Lets a request pass that only its token was checked for (`deny_non_post_methods = false`).
    fn decide_unchecked(&self, read: &mut Read) -> Result<Admitted, Denial> {
        let Contents { ticket, caller, to, body, .. } = read.contents();
        self.still_free(caller, &[], to)?;
        ticket.entry_mut().anomaly_flags.push("unchecked_method");
        let scrub =
            self.state.scrub_sets.without_session(caller.agent.id, &self.state.secrets.vault());
        let body = std::mem::take(body);
        let expected = Expected::without_message(ExpectedReply::Anything, scrub);
        Ok(Admitted::unedited(body, expected))
    }
}

impl Admitted {
    /// Returns the admission of a body that goes upstream as it came.
    fn unedited(body: Bytes, expected: Expected) -> Self {
        Self { body, edits: Edits::default(), expected }
    }
}

impl Expected {
    /// Returns the treatment of the answer to a request without a message.
    fn without_message(due: ExpectedReply, scrub: Option<ScrubSet>) -> Self {
        Self {
            due,
            repeatable: false,
            lists: None,
            scrub,
            tools: None,
            stream: None,
            handout: None,
            asked: None,
        }
    }
}

impl Cleared {
    /// The bytes that were checked: what goes upstream, and nothing else.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    pub fn agent(&self) -> AgentId {
        self.agent
    }

    pub fn request_id(&self) -> Uuid {
        self.request_id
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reports whether the message may be sent again where its connection died.
    pub fn is_repeatable(&self) -> bool {
        self.expected.repeatable
    }

    pub fn due(&self) -> ExpectedReply {
        self.expected.due
    }

    pub fn lists(&self) -> Option<&ListView> {
        self.expected.lists.as_ref()
    }

    /// Notes in which form the answer comes.
    pub fn answer_comes(&mut self, carrier: Carrier) {
        if let Some(tools) = &mut self.expected.tools {
            tools.answers.begin(carrier);
        }
    }

    /// Notes bytes of the answer that go to the client.
    pub fn answer_passes(&mut self, bytes: &[u8]) {
        if let Some(tools) = &mut self.expected.tools {
            tools.read(bytes);
        }
    }

    /// Lends the tools, whose answer is read elsewhere: [`Cleared::take_tools_back`].
    pub fn lend_tools(&mut self) -> Option<Box<Tools>> {
        self.expected.tools.take()
    }

    /// Takes the tools back, with what their answer has said.
    pub fn take_tools_back(&mut self, tools: Option<Box<Tools>>) {
        self.expected.tools = tools;
    }

    /// Puts the trace context that the upstream gets into the head that it gets; without a trace the
    /// client's own passes as it came.
    pub fn pass_trace_on(&self, headers: &mut HeaderMap) {
        if let Some(trace) = &self.trace {
            trace.pass_on(headers);
        }
    }

    /// Returns the secrets that the answer must not show.
    pub fn scrub(&self) -> Option<&ScrubSet> {
        self.expected.scrub.as_ref()
    }

    /// Returns the reader of what the answer hands out, if it could hand out anything.
    pub fn handout(&self) -> Option<Arc<Handout>> {
        self.expected.handout.clone()
    }

    /// Returns the client that the answer may put questions to, if there is an answer.
    pub fn asked(&self) -> Option<&Asked> {
        self.expected.asked.as_ref()
    }

    /// The answer when the call failed behind the gate. The record follows in [`Gate::finish`].
    pub fn failed(&self, denial: Denial) -> Refused {
        Refused {
            denial,
            request_id: self.request_id,
            id: self.id.clone(),
            form: self.form,
            warnings: self.warnings.clone(),
        }
    }
}

fn shutting_down() -> Denial {
    Denial::new(Code::Overloaded, "this gateway is shutting down: try again")
        .retry_after(RETRY_SECS)
}

/// The end of a call that did not end by itself before the gateway had to.
pub fn cut_off() -> Denial {
    let message = "this gateway is shutting down and had to end the call, which may have done its \
                   work: look before you send it again";
    Denial::new(Code::Overloaded, message).retry_after(RETRY_SECS)
}

fn store_unavailable() -> Denial {
    Denial::new(Code::StoreUnavailable, "the session's state cannot be written: try again")
        .retry_after(RETRY_SECS)
}
