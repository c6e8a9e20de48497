//! GET and DELETE of the 2025 era, judged as a protocol call without a body.
//!
//! They carry no message, so what can be checked is who calls and in which session; what the server
//! sends on the stream is filtered and scrubbed like any answer. A resumed stream may repeat the
//! answer to any earlier request, so every list on it is filtered.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;

use super::decide::Passed;
use super::listening::Opened;
use super::{
    Admitted, Claims, Cleared, Destination, Due, Form, Gate, ListView, Refused, Reply, Ticket,
};
use crate::credentials::Edits;
use crate::firewall::admit;
use crate::firewall::agent::Caller;
use crate::firewall::call::{Call, CallKind};
use crate::firewall::denial::{Code, Denial};
use crate::mcp::headers;
use crate::mcp::message::Message;
use crate::mcp::version::Era;

/// Request of the 2025 revisions without a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The server's own stream, or the rest of one that broke off.
    Get,
    /// The end of the upstream's session.
    Delete,
}

impl Verb {
    /// As it stands in the record, where other requests have their method.
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Delete => "DELETE",
        }
    }

    fn due(self) -> Due {
        match self {
            Self::Get => Due::Events,
            Self::Delete => Due::Anything,
        }
    }
}

impl Gate {
    /// Judges a GET or DELETE and puts the decision on record.
    pub async fn judge_legacy(
        &self,
        mut ticket: Ticket,
        caller: &Caller,
        claims: &Claims<'_>,
        verb: Verb,
        to: &Arc<Destination>,
    ) -> Result<Box<Cleared>, Refused> {
        let mut reply = Reply::plain();
        let now = self.clock.now();
        ticket.judged_from(now.mono);
        let caller = match self.still(&mut ticket, caller, now) {
            Ok(caller) => caller,
            Err(denial) => return Err(self.refuse_as(ticket, denial, reply).await),
        };
        match self.decide_legacy(&mut ticket, &caller, claims, verb, to, &mut reply).await {
            Ok(admitted) => self.clear(ticket, &caller, admitted, reply).await,
            Err(denial) => Err(self.refuse_as(ticket, denial, reply).await),
        }
    }

    async fn decide_legacy(
        &self,
        ticket: &mut Ticket,
        caller: &Caller,
        claims: &Claims<'_>,
        verb: Verb,
        to: &Arc<Destination>,
        reply: &mut Reply,
    ) -> Result<Admitted, Denial> {
        ticket.entry_mut().mcp_method = Some(verb.as_str().to_owned());
        let message = without_body();
        let version = headers::agree(&claims.protocol, &message).map_err(|bad| bad.denial())?;
        if version.era() == Era::Modern {
            let message = "from protocol version 2026-07-28 on only POST is served";
            return Err(Denial::new(Code::MethodNotAllowed, message));
        }
        // There is no id that a result could answer, so the form is always HTTP's.
        let Passed { rules, live, escalations, .. } = self
            .by_rules(ticket, caller, claims, (&message, version), to, reply, |_style| Form::Http)
            .await?;
        admit::settle(&escalations, &mut ())?;
        if let Verb::Get = verb {
            self.know_tasks(live.as_deref()).await?;
        }
        let about = (caller, live.as_ref(), to);
        let asked = self.asked_on_stream(live.as_deref());
        let stream = match verb {
            Verb::Get => Some(Box::new(self.stream(Opened::Get, about, (&rules, false), asked))),
            Verb::Delete => None,
        };
        let vault = self.secrets.vault();
        let scrub = match &live {
            Some(live) => self.injected.add(&live.order, &[], &vault),
            None => self.injected.without_session(caller.agent.id, &vault),
        };
        let lists = match verb {
            Verb::Get => Some(ListView::of_stream(
                self.caching(version),
                self.viewer(rules, caller, live, to),
            )),
            Verb::Delete => None,
        };
        let (body, edits) = (Bytes::new(), Edits::default());
        Ok(Admitted {
            body,
            edits,
            repeatable: false,
            due: verb.due(),
            lists,
            scrub,
            tools: None,
            stream,
            handout: None,
            asked: None,
        })
    }
}

/// A message that asks nothing by itself: what a protocol call is judged by.
fn without_body<'d>() -> Message<'d> {
    let call = Call { method: None, id: None, params: None, meta: None, kind: CallKind::Protocol };
    Message { calls: smallvec![call], batch: false, listens: None }
}
