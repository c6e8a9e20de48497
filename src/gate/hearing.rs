//! One message that is judged: what is asked by whom, and what the decision let through.

use std::sync::Arc;

use super::phases::Kind;
use super::reply;
use super::{Destination, Form};
use crate::firewall::agent::Caller;
use crate::firewall::checks::escalation::Escalation;
use crate::firewall::continuation::Continuation;
use crate::firewall::rules::Rules;
use crate::firewall::session::RefusalStyle;
use crate::mcp::message::Message;
use crate::mcp::version::Version;
use crate::sessions::Live;

/// Message that is judged, and its sender.
#[derive(Clone, Copy)]
pub(super) struct Hearing<'h, 'd> {
    pub(super) kind: Kind,
    pub(super) caller: &'h Caller,
    /// Session and agent that headers claim, unverified.
    pub(super) session: Option<&'h str>,
    pub(super) agent: Option<&'h str>,
    pub(super) message: &'h Message<'d>,
    pub(super) version: Version,
    pub(super) to: &'h Arc<Destination>,
}

/// A message that the decision let through, but for its credentials and a person's leave.
pub(super) struct Passed {
    pub(super) rules: Arc<Rules>,
    pub(super) live: Option<Arc<Live>>,
    pub(super) escalations: Vec<Escalation>,
    /// The round before of a call that goes on.
    pub(super) before: Option<Arc<Continuation>>,
}

impl Hearing<'_, '_> {
    /// Returns the form of this message's refusal.
    pub(super) fn form(&self, style: RefusalStyle) -> Form {
        match self.kind {
            Kind::Message => reply::form(style, self.message, self.version.era()),
            // There is no id that a result could answer.
            Kind::Legacy(_) | Kind::Unchecked => Form::Http,
        }
    }
}
