//! Destination of a request, and the reply it requires.

use std::sync::Arc;

use crate::firewall::call::{Call, UpstreamRef};
use crate::mcp::message::Message;

/// The upstream that a request is for.
#[derive(Clone, Debug, Default)]
pub struct Destination {
    /// The name by which policies and sessions know it, if it has one.
    pub name: Option<Arc<str>>,
    /// Its servers.
    pub urls: Vec<String>,
}

impl Destination {
    pub(super) fn upstream(&self) -> UpstreamRef<'_> {
        UpstreamRef { name: self.name.as_deref() }
    }
}

/// Reply that the upstream owes for a request answered with success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedReply {
    /// A JSON-RPC response, as JSON or as events.
    Rpc,
    /// An event stream.
    Events,
    /// Any successful response: an acknowledgement has no kind.
    Anything,
}

impl ExpectedReply {
    /// Returns the reply owed for a message: a response if any member is a request.
    pub(super) fn to(message: &Message<'_>) -> Self {
        if message.calls.iter().any(Call::is_request) { Self::Rpc } else { Self::Anything }
    }
}
