//! Phases of one request, each made only from the one before.
//!
//! A request has [`Arrived`], then its sender is [`Identified`], its body [`Read`], its message [`Judged`]
//! and its decision put on record, which makes it [`Cleared`](super::Cleared), the key to the upstream. At
//! each step it may become [`Denied`] instead, whose record makes it [`Refused`](super::Refused). A phase
//! is consumed by the step that leaves it, so no step can be left out or taken twice; the fields are private
//! here, so no other file makes a phase.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use super::ticket::Ticket;
use super::{Admitted, Destination};
use crate::firewall::agent::{AgentId, Caller};
use crate::firewall::denial::Denial;

/// Request whose record is open, from an unknown sender.
pub struct Arrived {
    ticket: Ticket,
}

/// Request of a known agent, which is charged for it.
pub struct Identified {
    ticket: Ticket,
    caller: Caller,
}

/// Request that is here whole.
pub struct Read {
    ticket: Ticket,
    /// Sender, as it could act when it was last looked up.
    caller: Caller,
    kind: Kind,
    /// Taken by the decision.
    body: Bytes,
    to: Arc<Destination>,
}

/// Contents of a request that is here whole, for its decision.
pub(super) struct Contents<'r> {
    pub(super) ticket: &'r mut Ticket,
    pub(super) caller: &'r Caller,
    pub(super) kind: Kind,
    pub(super) body: &'r mut Bytes,
    pub(super) to: &'r Arc<Destination>,
}

/// Request that the decision let through.
pub(super) struct Judged {
    ticket: Ticket,
    agent: AgentId,
    admitted: Admitted,
}

/// Refused request that is not on record yet.
pub struct Denied {
    ticket: Ticket,
    denial: Denial,
}

/// Kind of a request, by which it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An MCP message, judged by everything.
    Message,
    /// GET or DELETE of the 2025 era, judged as a protocol call.
    Legacy(Verb),
    /// Another method while `deny_non_post_methods` is off: the token is all that is checked.
    Unchecked,
}

/// Method of the 2025 revisions without a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The server's own stream, or the rest of one that broke off.
    Get,
    /// The end of the upstream's session.
    Delete,
}

impl Arrived {
    pub(super) fn new(ticket: Ticket) -> Self {
        Self { ticket }
    }

    pub(super) fn ticket(&mut self) -> &mut Ticket {
        &mut self.ticket
    }

    pub fn request_id(&self) -> Uuid {
        self.ticket.request_id()
    }

    /// Notes for which upstream.
    pub fn bound_for(&mut self, to: &Destination) {
        self.ticket.bound_for(to);
    }

    pub(super) fn by(self, caller: Caller) -> Identified {
        Identified { ticket: self.ticket, caller }
    }

    pub fn denied(self, denial: Denial) -> Box<Denied> {
        Denied::of(self.ticket, denial)
    }
}

impl Identified {
    /// Returns the sender.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Takes the body and the destination in, after which nothing of the request is missing.
    pub fn read(mut self, kind: Kind, body: Bytes, to: Arc<Destination>) -> Read {
        self.ticket.body_came(body.len());
        Read { ticket: self.ticket, caller: self.caller, kind, body, to }
    }

    pub fn denied(self, denial: Denial) -> Box<Denied> {
        Denied::of(self.ticket, denial)
    }
}

impl Read {
    pub fn request_id(&self) -> Uuid {
        self.ticket.request_id()
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Has `held` receive the progress token of the call once it waits for a person.
    pub fn show_wait(&mut self, held: watch::Sender<Option<Arc<str>>>) {
        self.ticket.show_wait(held);
    }

    pub(super) fn contents(&mut self) -> Contents<'_> {
        let Self { ticket, caller, kind, body, to } = self;
        Contents { ticket, caller, kind: *kind, body, to }
    }

    /// Notes how the sender may act now.
    pub(super) fn by(&mut self, caller: Caller) {
        self.caller = caller;
    }

    pub(super) fn judged(self, admitted: Admitted) -> Judged {
        Judged { agent: self.caller.agent.id, ticket: self.ticket, admitted }
    }

    pub fn denied(self, denial: Denial) -> Box<Denied> {
        Denied::of(self.ticket, denial)
    }
}

impl Judged {
    pub(super) fn into_parts(self) -> (Ticket, AgentId, Admitted) {
        (self.ticket, self.agent, self.admitted)
    }
}

impl Denied {
    fn of(ticket: Ticket, denial: Denial) -> Box<Self> {
        Box::new(Self { ticket, denial })
    }

    pub(super) fn into_parts(self) -> (Ticket, Denial) {
        (self.ticket, self.denial)
    }
}
