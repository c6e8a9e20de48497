//! What is asked and whether it may be: the one parse, the decision, the credentials.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::caller::not_yours;
use super::reply::{Reply, echoed_id, form, warnings};
use super::ticket::Ticket;
use super::view::ListView;
use super::{Admitted, Claims, Destination, Due, Form, Gate, store_unavailable};
use crate::audit::Redacted;
use crate::credentials::{self, CredentialDenial, Edits, Grant, Vault};
use crate::firewall::admit::{self, Decided, Verdict, admit};
use crate::firewall::agent::{AgentId, Caller};
use crate::firewall::call::{Call, CallKind};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::rules::Rules;
use crate::firewall::session::{RefusalStyle, SessionId};
use crate::json::Doc;
use crate::mcp::headers;
use crate::mcp::message::{self, Message};
use crate::sessions::Live;
use crate::telemetry::Causes;

impl Gate {
    pub(super) async fn decide(
        &self,
        ticket: &mut Ticket,
        caller: &Caller,
        claims: &Claims<'_>,
        body: Bytes,
        to: &Arc<Destination>,
        reply: &mut Reply,
    ) -> Result<Admitted, Denial> {
        let doc = Doc::parse(&body)
            .map_err(|e| Denial::new(Code::NotJson, format!("the body is not strict JSON: {e}")))?;
        let message = message::read(&doc).map_err(|bad| self.malformed(bad, reply))?;
        reply.id = echoed_id(&message);
        ticket.name(&message, &self.secrets.patterns());
        self.count_tools(&message, to);
        let era = headers::agree(&claims.protocol, &message)
            .map_err(|bad| Denial::new(bad.code(), bad.to_string()))?;

        let form_for = |style| form(style, &message, era);
        let (rules, live) =
            self.by_rules(ticket, caller, claims, &message, to, reply, form_for).await?;

        if message.calls.iter().all(is_one_way) {
            ticket.entry_mut().arguments = Some(Redacted::digest(&body));
        }
        let vault = self.secrets.vault();
        let edits = Self::resolve(&doc, &message, live.as_deref(), to, &vault)?;
        ticket.entry_mut().credentials_injected = edits.names();
        let scrub = match &live {
            Some(live) => self.injected.add(&live.order, edits.secrets(), &vault),
            None => self.injected.without_session(caller.agent.id, &vault),
        };
        let edited = (!edits.is_empty()).then(|| edits.apply(&body));
        let lists = ListView::of(&message, rules, caller, live, to);
        let due = Due::to(&message);
        drop(message);
        drop(doc);
        let body = edited.map_or(body, |edited| Bytes::from_owner(Edited(edited)));
        Ok(Admitted { body, due, lists, scrub })
    }

    /// Judges a message by session, policies and drift; gives by which rules, and which session.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of the one request")]
    pub(super) async fn by_rules(
        &self,
        ticket: &mut Ticket,
        caller: &Caller,
        claims: &Claims<'_>,
        message: &Message<'_>,
        to: &Destination,
        reply: &mut Reply,
        form_for: impl Fn(RefusalStyle) -> Form,
    ) -> Result<(Arc<Rules>, Option<Arc<Live>>), Denial> {
        let rules = self.rulebook.rules();
        ticket.entry_mut().policy_version = Some(rules.policies.version().into());
        let live = self.session(&rules, caller, claims).await?;
        let known = self.secrets.patterns();
        ticket.describe(message, &self.redactor, self.settings.max_argument_bytes, &known);
        let mut style = self.settings.refusal_style;
        if let Some(live) = &live {
            ticket.in_session(&live.order);
            style = live.order.refusal_style.unwrap_or(style);
        }
        reply.form = form_for(style);
        if let Some(live) = &live {
            self.still_delegated(caller, live)?;
        }
        let verdict = self.verdict(&rules, caller, live.as_ref(), message, to).await?;
        self.remember(ticket, caller, &verdict);
        reply.warnings = live.as_ref().map_or_else(Vec::new, |live| {
            warnings(live, rules.terms.warning_threshold_pct, self.clock.now())
        });
        verdict.outcome.map_err(|denial| escalated(denial, ticket))?;
        Ok((rules, live))
    }

    fn count_tools(&self, message: &Message<'_>, to: &Destination) {
        for call in &message.calls {
            if let CallKind::Tool { name, .. } = &call.kind {
                self.metrics.tool_call(to.name.as_deref(), name);
            }
        }
    }

    fn malformed(&self, bad: message::Malformed, reply: &mut Reply) -> Denial {
        let code = if bad.not_mcp && !self.settings.strict_mcp {
            Code::MalformedRequest
        } else {
            bad.code()
        };
        reply.id = bad.id;
        Denial::new(code, bad.reason)
    }

    /// Finds the session that the headers claim.
    async fn session(
        &self,
        rules: &Rules,
        caller: &Caller,
        claims: &Claims<'_>,
    ) -> Result<Option<Arc<Live>>, Denial> {
        let Some(session) = claims.session else {
            if rules.terms.require_session {
                return Err(Denial::new(
                    Code::SessionRequired,
                    "send the header x-arbiter-session with a session that was opened for you",
                ));
            }
            return match claims.agent {
                Some(agent) if AgentId::parse(agent) != Some(caller.agent.id) => Err(not_yours()),
                Some(_) | None => Ok(None),
            };
        };
        let Some(agent) = claims.agent else {
            return Err(Denial::new(
                Code::AgentIdRequired,
                "send the header x-agent-id with your agent's id",
            ));
        };
        let live = match SessionId::parse(session) {
            // Boxed, because few requests wait for it and all would carry its room.
            Some(id) => match self.sessions.get(id) {
                Some(live) => Some(live),
                None => Box::pin(self.elsewhere(id)).await?,
            },
            None => None,
        };
        let live =
            live.ok_or_else(|| Denial::new(Code::SessionUnknown, "there is no such session"))?;
        // Before anything of it is used: another agent's session is nobody else's business.
        if AgentId::parse(agent) != Some(caller.agent.id) || live.order.agent != caller.agent.id {
            return Err(not_yours());
        }
        Ok(Some(live))
    }

    /// Looks for a session that another node may have opened a moment ago.
    async fn elsewhere(&self, id: SessionId) -> Result<Option<Arc<Live>>, Denial> {
        self.sessions.find(id, self.clock.now()).await.map_err(|error| {
            warn!(session = %id, error = %Causes(&error), "store did not answer; call refused");
            store_unavailable()
        })
    }

    /// Whether those for whom the session was opened still stand behind the caller: its rights are
    /// no more than theirs already, by the delegations of now.
    fn still_delegated(&self, caller: &Caller, live: &Live) -> Result<(), Denial> {
        let opened_for = &live.order.delegation_chain;
        if *opened_for == caller.chain {
            return Ok(());
        }
        Ok(self.registry.holds(opened_for, self.clock.now().wall)?)
    }

    /// Decides; what a session may count is leased first if it has to be.
    async fn verdict(
        &self,
        rules: &Rules,
        caller: &Caller,
        live: Option<&Arc<Live>>,
        message: &Message<'_>,
        to: &Destination,
    ) -> Result<Verdict, Denial> {
        loop {
            // Read anew after every wait: what is counted is counted at the time it is counted.
            let now = self.clock.now();
            let decided = match live {
                None => admit(rules, caller, None, &message.calls, to.place(), now),
                Some(live) => live.with(|usage| {
                    let session =
                        admit::Session { order: &live.order, usage, deadline: live.deadline };
                    admit(rules, caller, Some(session), &message.calls, to.place(), now)
                }),
            };
            match (decided, live) {
                (Decided::Verdict(verdict), _) => return Ok(verdict),
                (Decided::LeaseFirst, Some(live)) => {
                    let price = admit::price(message.calls.iter());
                    self.sessions.lease(live, price, &self.clock).await.map_err(|error| {
                        warn!(session = %live.order.id, error = %Causes(&error), "store did not answer; call refused");
                        store_unavailable()
                    })?;
                }
                // Only a session has a budget to lease from.
                (Decided::LeaseFirst, None) => return Err(store_unavailable()),
            }
        }
    }

    /// Notes what the decision found, for the record and for the agent's standing.
    fn remember(&self, ticket: &mut Ticket, caller: &Caller, verdict: &Verdict) {
        let entry = ticket.entry_mut();
        entry.policy_matched.clone_from(&verdict.policy);
        entry.anomaly_flags.extend_from_slice(&verdict.flags);
        for _flag in &verdict.flags {
            self.metrics.anomaly();
        }
        if verdict.counted_flags > 0
            && let Some(level) =
                self.registry.flag(caller.agent.id, verdict.counted_flags, self.clock.now())
        {
            info!(agent = %caller.agent.id, %level, "drifted too often; agent demoted");
        }
    }

    /// Finds the credentials that the message refers to; refuses what may not be replaced.
    fn resolve(
        doc: &Doc<'_>,
        message: &Message<'_>,
        live: Option<&Live>,
        to: &Destination,
        vault: &Vault,
    ) -> Result<Edits, Denial> {
        let mut tools = SmallVec::<[&str; 1]>::new();
        let mut arguments = SmallVec::<[_; 1]>::new();
        for call in &message.calls {
            if let CallKind::Tool { name, arguments: Some(given) } = &call.kind {
                tools.push(name);
                arguments.push(*given);
            }
        }
        let references =
            credentials::references(doc, &arguments).map_err(CredentialDenial::from)?;
        let grant = Grant {
            credentials: live.map_or(&[], |live| &live.order.authorized_credentials),
            tools: &tools,
            upstreams: &to.urls,
        };
        Ok(credentials::resolve(&references, vault, grant)?)
    }
}

/// Reports what the client sends of its own accord and what no check looks into: of that the record
/// keeps length and hash.
fn is_one_way(call: &Call<'_>) -> bool {
    !call.is_request() && matches!(call.kind, CallKind::Protocol)
}

/// A body with secrets in it, wiped when it goes.
struct Edited(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Edited {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Gives a refusal that waits for a person the id under which it is on record.
fn escalated(denial: Denial, ticket: &Ticket) -> Denial {
    if denial.code == Code::EscalationRequired {
        denial.with("escalation_id", ticket.request_id().to_string())
    } else {
        denial
    }
}
