//! GET and DELETE of the 2025 era, judged as a protocol call without a body.
//!
//! They carry no message, so what can be checked is who calls and in which session; what the server
//! sends on the stream is filtered and scrubbed like any answer. A resumed stream may repeat the
//! answer to any earlier request, so every list on it is filtered.

use bytes::Bytes;
use smallvec::smallvec;

use super::hearing::Hearing;
use super::listening::Opened;
use super::phases::{Contents, Read, Verb};
use super::{Admitted, Claims, Expected, ExpectedReply, Gate, ListView};
use crate::firewall::admit;
use crate::firewall::call::{Call, CallKind};
use crate::firewall::denial::{Code, Denial};
use crate::mcp::headers;
use crate::mcp::message::Message;
use crate::mcp::version::Era;

impl Verb {
    /// Name in the record, where other requests have their method.
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Delete => "DELETE",
        }
    }

    fn due(self) -> ExpectedReply {
        match self {
            Self::Get => ExpectedReply::Events,
            Self::Delete => ExpectedReply::Anything,
        }
    }
}

impl Gate {
    /// Decides for a GET or DELETE.
    pub(super) async fn decide_legacy(
        &self,
        read: &mut Read,
        claims: &Claims<'_>,
        verb: Verb,
    ) -> Result<Admitted, Denial> {
        let Contents { ticket, caller, to, kind, .. } = read.contents();
        ticket.entry_mut().mcp_method = Some(verb.as_str().into());
        let message = without_body();
        let version = headers::agree(&claims.protocol, &message).map_err(|bad| bad.denial())?;
        if version.era() == Era::Modern {
            let message = "from protocol version 2026-07-28 on only POST is served";
            return Err(Denial::new(Code::MethodNotAllowed, message));
        }
        let Claims { session, agent, .. } = *claims;
        let hearing = Hearing { kind, caller, session, agent, message: &message, version, to };
        let passed = self.by_rules(ticket, &hearing).await?;
        admit::settle(&passed.escalations, &mut ())?;
        let live = passed.live.as_deref();
        let (stream, lists) = match verb {
            Verb::Get => {
                self.know_tasks(live).await?;
                let asked = self.asked_on_stream(live);
                let stream = self.stream(Opened::Get, &hearing, &passed, Some(asked));
                let viewer = self.viewer(&hearing, &passed);
                let lists = ListView::of_stream(self.caching(version), viewer);
                (Some(Box::new(stream)), Some(lists))
            }
            Verb::Delete => (None, None),
        };
        let scrub = self.scrub_of(caller.agent.id, live, &[], &self.state.secrets.vault());
        let expected = Expected { lists, stream, ..Expected::without_message(verb.due(), scrub) };
        Ok(Admitted::unedited(Bytes::new(), expected))
    }
}

/// A message that asks nothing by itself: what a protocol call is judged by.
fn without_body<'d>() -> Message<'d> {
    let call = Call { method: None, id: None, params: None, meta: None, kind: CallKind::Protocol };
    Message { calls: smallvec![call], batch: false, listens: None }
}
