//! Questions of servers to the client, its person or its model: what may be asked of whom.
//!
//! A question needs an ability that its client has declared, an address must lead to an allowed host, and a
//! form may be refused that asks for a secret, which the protocol demands to be asked for on a page.

use std::sync::Arc;

use super::Gate;
use crate::audit::redact::{Redactor, scrubbed};
use crate::firewall::call::Call;
use crate::firewall::denial::{Cause, Denial};
use crate::firewall::elicitation::Elicitation;
use crate::mcp::capabilities;
use crate::mcp::continued::{Needs, Questions};
use crate::mcp::message::Message;
use crate::mcp::version::{Era, Version};
use crate::secrets::Secrets;
use crate::sessions::Live;

/// Hosts of one answer that its record names.
const MAX_HOSTS: usize = 8;

/// Rules for questions.
#[derive(Debug)]
pub struct Asking {
    pub elicitation: Elicitation,
    /// Secrets that no record may hold.
    pub secrets: Arc<Secrets>,
    /// Names of secrets, if forms that ask for one are refused.
    pub secret_names: Option<Redactor>,
}

/// Client that questions are put to.
#[derive(Clone, Debug)]
pub struct Asked {
    rules: Arc<Asking>,
    /// Abilities that it has declared; none if this node has not heard its declaration.
    declared: Option<Needs>,
}

impl Asked {
    /// Checks questions, and notes in `hosts` where they send people.
    pub fn check(&self, questions: &Questions, hosts: &mut Vec<Box<str>>) -> Result<(), Denial> {
        if self.declared.is_some_and(|declared| !declared.cover(questions.needs)) {
            return Err(refused(
                "asks for what this client has not declared to answer: declare elicitation, sampling \
                 or roots, or ask your operator",
            ));
        }
        let known = self.rules.secrets.patterns();
        for url in &questions.urls {
            let url = url.as_deref().unwrap_or_default();
            let place = self.rules.elicitation.check(&scrubbed(url, &known));
            if let Some(host) = place.host
                && hosts.len() < MAX_HOSTS
                && !hosts.contains(&host)
            {
                hosts.push(host);
            }
            if !place.is_allowed {
                return Err(refused(
                    "wants to send people to a web address that is not allowed here: ask your operator",
                ));
            }
        }
        if let Some(names) = &self.rules.secret_names
            && (questions.wants_password
                || questions.fields.iter().any(|field| names.names_a_secret(field)))
        {
            return Err(refused(
                "asks for a secret in a form, which is not allowed here: ask your operator for a way \
                 to sign in",
            ));
        }
        Ok(())
    }
}

fn refused(reason: &str) -> Denial {
    Denial::upstream(Cause::Protocol, format!("the MCP server {reason}"))
}

impl Gate {
    /// Returns the client that the answer to a message may put questions to; none if nothing is answered.
    pub(super) fn asked(
        &self,
        message: &Message<'_>,
        version: Version,
        live: Option<&Live>,
    ) -> Option<Asked> {
        if !message.calls.iter().any(Call::is_request) {
            return None;
        }
        let declared = match (version.era(), message.calls.as_slice()) {
            (Era::Modern, calls) => Some(calls.first().map(capabilities::answers)?),
            (Era::Legacy, _) => live.and_then(Live::answers),
        };
        Some(Asked { rules: Arc::clone(&self.asking), declared })
    }

    /// Returns the client at the other end of a GET stream.
    pub(super) fn asked_on_stream(&self, live: Option<&Live>) -> Asked {
        Asked { rules: Arc::clone(&self.asking), declared: live.and_then(Live::answers) }
    }
}
