//! One call, end to end: look up, decide, remember, put on record.
//!
//! The gate is where the pure decision meets what is remembered. It hands out exactly one of two
//! things for a request: a [`Cleared`], which is the only key to the upstream and exists only after
//! the decision is on record, or a [`Refused`], which is on record too.

mod destination;
pub mod enrol;
pub mod injected;
pub mod legacy;
mod reply;
pub mod ticket;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tracing::{info, warn};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::audit::redact::Redactor;
use crate::audit::{Audit, Completion, Decision, Entry, Outcome, Receipt};
use crate::clock::Clock;
use crate::credentials::{self, CredentialDenial, Edits, Grant, Vault};
use crate::firewall::admit::{self, Decided, Verdict, admit};
use crate::firewall::agent::{Agent, AgentId, Caller, Principal};
use crate::firewall::call::CallKind;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::rules::Rules;
use crate::firewall::session::{RefusalStyle, SessionId};
use crate::firewall::time::{Mono, Now};
use crate::identity::{Identity, TokenError};
use crate::mcp::headers::{self, ProtocolHeaders};
use crate::mcp::json::Doc;
use crate::mcp::message::{self, Message};
use crate::metrics::{self, Metrics};
use crate::registry::Registry;
use crate::rulebook::Rulebook;
use crate::secrets::Secrets;
use crate::sessions::{Live, Sessions};
pub use destination::{Destination, Due};
use enrol::Enrolment;
use injected::{Injected, Watch};
pub use reply::{Form, Refused};
use reply::{Reply, echoed_id, form, warnings};
use ticket::{InFlight, Open, Ticket};
use view::ListView;

/// How long a client is asked to wait when something of ours is down.
const RETRY_SECS: u64 = 1;

/// Everything a decision needs, shared by all requests.
pub struct Gate {
    pub clock: Clock,
    pub identity: Identity,
    pub enrolment: Enrolment,
    pub rulebook: Arc<Rulebook>,
    pub registry: Arc<Registry>,
    pub sessions: Arc<Sessions>,
    pub audit: Arc<Audit>,
    pub secrets: Arc<Secrets>,
    pub injected: Injected,
    pub redactor: Redactor,
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    pub in_flight: Arc<InFlight>,
}

/// What of the configuration the gate itself needs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub strict_mcp: bool,
    pub require_healthy_audit: bool,
    pub refusal_style: RefusalStyle,
    pub max_argument_bytes: usize,
}

/// What a client claims in its headers, nothing of it believed yet.
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
    id: Option<String>,
    form: Form,
    due: Due,
    lists: Option<ListView>,
    scrub: Option<Watch>,
    _open: Open,
}

/// What the decision let through.
struct Admitted {
    body: Bytes,
    due: Due,
    lists: Option<ListView>,
    scrub: Option<Watch>,
}

impl Gate {
    /// Opens the record of a request; refused while the log cannot be written.
    pub async fn open(&self) -> Result<Ticket, Refused> {
        let arrived = self.clock.now();
        let entry = Entry::new(arrived.wall, Uuid::new_v4(), Decision::Deny);
        if !self.audit.healthy() && self.settings.require_healthy_audit {
            return Err(self.refuse_unrecorded(entry, arrived).await);
        }
        let open = self.in_flight.enter();
        let ticket = Ticket::open(entry, arrived, open, self.audit.clone());
        if self.in_flight.is_draining() {
            let denial = Denial::new(Code::Overloaded, "this gateway is shutting down: try again")
                .retry_after(RETRY_SECS);
            return Err(self.refuse(ticket, denial).await);
        }
        Ok(ticket)
    }

    /// From now on new requests are refused.
    pub fn drain(&self) {
        self.in_flight.drain();
    }

    /// Resolves when no request is being served any more.
    pub async fn idle(&self) {
        self.in_flight.idle().await;
    }

    /// Proves who calls.
    pub async fn identify(
        &self,
        ticket: &mut Ticket,
        token: Option<&str>,
    ) -> Result<Caller, Denial> {
        let token = token.ok_or_else(|| {
            Denial::new(Code::TokenMissing, "send one Authorization header with a Bearer token")
        })?;
        let verified = match self.identity.remembered(token, ticket.arrived()) {
            Some(known) => known,
            // Boxed, because few requests come this way and all would carry its room.
            None => Box::pin(self.identity.verify(token, ticket.arrived())).await,
        };
        let principal = verified.map_err(token_denial)?;
        ticket.entry_mut().principal = Some(principal.subject.clone());
        ticket.entry_mut().agent_id = principal.agent;
        if let Some(caller) = self.standing(&principal, ticket.arrived())? {
            return Ok(caller);
        }
        let agent = Box::pin(self.enrol(ticket, &principal)).await?;
        Ok(Caller { agent, principal })
    }

    /// Looks up who a principal is right now; `None` if its agent is not known.
    fn standing(&self, principal: &Arc<Principal>, now: Now) -> Result<Option<Caller>, Denial> {
        if now.wall >= principal.expires_at {
            return Err(token_denial(TokenError::Expired));
        }
        if principal.token_id.as_deref().is_some_and(|jti| self.registry.is_revoked(jti)) {
            return Err(Denial::new(
                Code::TokenInvalid,
                "this token was revoked: ask your operator for a new one",
            ));
        }
        let Some(agent) = principal.agent.and_then(|id| self.registry.agent(id)) else {
            return Ok(None);
        };
        if !agent.may_act(now.wall) {
            return Err(Denial::new(
                Code::AgentInactive,
                "this agent was deactivated or has expired: ask your operator",
            ));
        }
        Ok(Some(Caller { agent, principal: principal.clone() }))
    }

    /// Looks again, now that the whole request is here: a body may take its time to arrive, and
    /// what was revoked meanwhile is revoked. Takes the agent's place among the calls in flight.
    fn still(&self, ticket: &mut Ticket, caller: &Caller) -> Result<Caller, Denial> {
        let caller =
            self.standing(&caller.principal, self.clock.now())?.ok_or_else(unknown_agent)?;
        if !ticket.take_place(caller.agent.id) {
            return Err(Denial::new(
                Code::Overloaded,
                "this agent has too many calls in flight: wait for some of them to end",
            )
            .retry_after(RETRY_SECS));
        }
        Ok(caller)
    }

    /// The scopes that policies ask tokens for.
    pub fn scopes_asked(&self) -> Vec<String> {
        self.rulebook.rules().policies.scopes_asked().map(str::to_owned).collect()
    }

    /// Registers an agent that is not known, where its issuer may bring agents in.
    async fn enrol(
        &self,
        ticket: &mut Ticket,
        principal: &Principal,
    ) -> Result<Arc<Agent>, Denial> {
        let id = principal.agent.ok_or_else(unknown_agent)?;
        let now = ticket.arrived().wall;
        let enrolled = self.enrolment.enrol(&self.registry, id, principal, now).await;
        let agent = enrolled.map_err(|error| {
            warn!(agent = %id, %error, "store did not answer; agent not registered, call refused");
            store_unavailable()
        })?;
        let agent = agent.ok_or_else(unknown_agent)?;
        ticket.entry_mut().anomaly_flags.push("auto_registered");
        Ok(agent)
    }

    /// Judges a message and puts the decision on record.
    pub async fn judge(
        &self,
        mut ticket: Ticket,
        caller: &Caller,
        claims: &Claims<'_>,
        body: Bytes,
        to: &Arc<Destination>,
    ) -> Result<Cleared, Refused> {
        let mut reply = Reply::plain();
        ticket.judged_from(self.clock.mono());
        let decided = match self.still(&mut ticket, caller) {
            Ok(caller) => {
                let decided = self.decide(&mut ticket, &caller, claims, body, to, &mut reply).await;
                decided.map(|admitted| (caller, admitted))
            }
            Err(denial) => Err(denial),
        };
        match decided {
            Ok((caller, admitted)) => self.clear(ticket, &caller, admitted, reply).await,
            Err(denial) => Err(self.refuse_as(ticket, denial, reply).await),
        }
    }

    /// Lets a request pass that only its token was checked for (`deny_non_post_methods = false`).
    pub async fn pass_unchecked(
        &self,
        mut ticket: Ticket,
        caller: &Caller,
        body: Bytes,
    ) -> Result<Cleared, Refused> {
        ticket.judged_from(self.clock.mono());
        let caller = match self.still(&mut ticket, caller) {
            Ok(caller) => caller,
            Err(denial) => return Err(self.refuse(ticket, denial).await),
        };
        ticket.entry_mut().anomaly_flags.push("unchecked_method");
        let admitted = Admitted {
            body,
            due: Due::Anything,
            lists: None,
            scrub: self.injected.without_session(caller.agent.id, &self.secrets.vault()),
        };
        self.clear(ticket, &caller, admitted, Reply::plain()).await
    }

    /// Puts a refusal from before the message was read on record.
    pub async fn refuse(&self, ticket: Ticket, denial: Denial) -> Refused {
        let reply = Reply::plain();
        self.refuse_as(ticket, denial, reply).await
    }

    async fn decide(
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
        let known = self.secrets.patterns();
        ticket.describe(&message, &self.redactor, self.settings.max_argument_bytes, &known);
        self.count_tools(&message, to);
        let era = headers::agree(&claims.protocol, &message)
            .map_err(|bad| Denial::new(bad.code(), bad.to_string()))?;

        let form_for = |style| form(style, &message, era);
        let (rules, live) =
            self.by_rules(ticket, caller, claims, &message, to, reply, form_for).await?;

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
    async fn by_rules(
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
        let live = self.session(&rules, caller, claims)?;
        let mut style = self.settings.refusal_style;
        if let Some(live) = &live {
            ticket.in_session(&live.order);
            style = live.order.refusal_style.unwrap_or(style);
        }
        reply.form = form_for(style);
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
    fn session(
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
        let live = SessionId::parse(session)
            .and_then(|id| self.sessions.get(id))
            .ok_or_else(|| Denial::new(Code::SessionUnknown, "there is no such session"))?;
        // Before anything of it is used: another agent's session is nobody else's business.
        if AgentId::parse(agent) != Some(caller.agent.id) || live.order.agent != caller.agent.id {
            return Err(not_yours());
        }
        Ok(Some(live))
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
                    self.sessions.lease(live, price).await.map_err(|error| {
                        warn!(session = %live.order.id, %error, "store did not answer; call refused");
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

    /// Puts an admitted call on record; only now may it go on.
    async fn clear(
        &self,
        ticket: Ticket,
        caller: &Caller,
        admitted: Admitted,
        reply: Reply,
    ) -> Result<Cleared, Refused> {
        let (request_id, arrived) = (ticket.request_id(), ticket.arrived());
        let judged_from = ticket.judging_since();
        let (mut entry, open) = ticket.into_parts();
        entry.decision = Decision::Allow;
        let injected = entry.credentials_injected.len();
        match self.audit.admit(&entry).await {
            Ok(receipt) => {
                self.metrics.request(metrics::Outcome::Allow);
                self.metrics.credentials_injected(u64::try_from(injected).unwrap_or(u64::MAX));
                Ok(Cleared {
                    receipt,
                    request_id,
                    arrived,
                    judged_from,
                    decided_at: self.clock.mono(),
                    answered_at: None,
                    body: admitted.body,
                    agent: caller.agent.id,
                    warnings: reply.warnings,
                    id: reply.id,
                    form: reply.form,
                    due: admitted.due,
                    lists: admitted.lists,
                    scrub: admitted.scrub,
                    _open: open,
                })
            }
            Err(_unavailable) => {
                entry.decision = Decision::Deny;
                Err(self.refuse_unrecorded(entry, arrived).await)
            }
        }
    }

    async fn refuse_as(&self, ticket: Ticket, denial: Denial, reply: Reply) -> Refused {
        let (request_id, arrived) = (ticket.request_id(), ticket.arrived());
        let judged_from = ticket.judging_since();
        let (mut entry, _open) = ticket.into_parts();
        let row = denial.code.row();
        entry.decision = if denial.code == Code::EscalationRequired {
            Decision::Escalate
        } else {
            Decision::Deny
        };
        entry.denial_code = Some(denial.code.name());
        entry.failure_category = Some(row.category.as_str());
        entry.stage = Some(row.stage.as_str());
        let latency_us = self.clock.mono().since(arrived.mono);
        let outcome = Outcome::refused(latency_us);
        if self.audit.record(entry, outcome).await.is_err() {
            return self.unrecorded(request_id);
        }
        let took = Duration::from_micros(latency_us);
        self.count_denial(denial.code);
        self.metrics.request_took(took);
        self.metrics.arbiter_took(Duration::from_micros(self.clock.mono().since(judged_from)));
        Refused { denial, request_id, id: reply.id, form: reply.form, warnings: reply.warnings }
    }

    fn count_denial(&self, code: Code) {
        self.metrics.denial(code);
        self.metrics.request(if code == Code::EscalationRequired {
            metrics::Outcome::Escalate
        } else {
            metrics::Outcome::Deny
        });
    }

    /// Refuses an admitted call because its decision could not be put on record. The refusal is
    /// recorded if that works again by now, else counted.
    async fn refuse_unrecorded(&self, mut entry: Entry, arrived: Now) -> Refused {
        let request_id = entry.request_id;
        let row = Code::AuditUnavailable.row();
        entry.denial_code = Some(row.name);
        entry.failure_category = Some(row.category.as_str());
        entry.stage = Some(row.stage.as_str());
        let outcome = Outcome::refused(self.clock.mono().since(arrived.mono));
        // Whether or not it is on record, the answer is the same.
        let _counted = self.audit.record(entry, outcome).await;
        self.unrecorded(request_id)
    }

    /// The answer while nothing can be put on record.
    fn unrecorded(&self, request_id: Uuid) -> Refused {
        self.count_denial(Code::AuditUnavailable);
        let denial = Denial::new(
            Code::AuditUnavailable,
            "calls cannot be put on record at the moment and are refused: try again",
        )
        .retry_after(RETRY_SECS);
        Refused { denial, request_id, id: None, form: Form::Http, warnings: Vec::new() }
    }

    /// Notes that the upstream has begun to answer.
    pub fn upstream_answered(&self, cleared: &mut Cleared) {
        cleared.answered_at.get_or_insert_with(|| self.clock.mono());
    }

    /// Completes the record of a call that was cleared.
    pub fn finish(&self, cleared: Cleared, ended: &Ended) {
        let now = self.clock.mono();
        let latency_us = now.since(cleared.arrived.mono);
        let row = ended.failed.as_ref().map(|denial| denial.code.row());
        let completion = match (&row, ended.whole) {
            (Some(_), _) => Completion::UpstreamFailed,
            (None, true) => Completion::Completed,
            (None, false) => Completion::ClientGone,
        };
        let deciding_us = cleared.decided_at.since(cleared.judged_from);
        let upstream_us = cleared.answered_at.map(|at| at.since(cleared.decided_at));
        self.metrics.request_took(Duration::from_micros(latency_us));
        self.metrics.arbiter_took(Duration::from_micros(deciding_us));
        if let Some(upstream_us) = upstream_us {
            self.metrics.upstream_took(Duration::from_micros(upstream_us));
        }
        self.metrics.credentials_scrubbed(ended.scrubbed);
        if let Some(denial) = &ended.failed {
            self.metrics.denial(denial.code);
        }
        cleared.receipt.complete(Outcome {
            latency_us,
            upstream_status: ended.upstream_status,
            upstream_server: ended.server.clone(),
            credentials_scrubbed: ended.scrubbed,
            denial_code: ended.failed.as_ref().map(|denial| denial.code.name()),
            failure_category: row.map(|row| row.category.as_str()),
            stage: row.map(|row| row.stage.as_str()),
            completion,
        });
    }
}

/// How a cleared call ended.
#[derive(Debug)]
pub struct Ended {
    /// Host and port of the server that the call went to.
    pub server: Option<Arc<str>>,
    pub upstream_status: Option<u16>,
    pub scrubbed: u64,
    pub failed: Option<Denial>,
    /// Whether the whole answer went to the client.
    pub whole: bool,
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

    pub fn due(&self) -> Due {
        self.due
    }

    pub fn lists(&self) -> Option<&ListView> {
        self.lists.as_ref()
    }

    /// What the answer must not show.
    pub fn scrub(&self) -> Option<&Watch> {
        self.scrub.as_ref()
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

/// A body with secrets in it, wiped when it goes.
struct Edited(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Edited {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn store_unavailable() -> Denial {
    Denial::new(Code::StoreUnavailable, "the session's state cannot be written: try again")
        .retry_after(RETRY_SECS)
}

fn unknown_agent() -> Denial {
    Denial::new(Code::AgentUnknown, "the token's agent is not registered here")
}

fn not_yours() -> Denial {
    Denial::new(
        Code::AgentMismatch,
        "x-agent-id, the token's agent and the session's agent must be the same",
    )
}

fn token_denial(error: TokenError) -> Denial {
    let code = if error == TokenError::Expired { Code::TokenExpired } else { Code::TokenInvalid };
    let advice = if error.is_passing() { "try again later" } else { "get a new token" };
    Denial::new(code, format!("{error}: {advice}"))
}

/// Gives a refusal that waits for a person the id under which it is on record.
fn escalated(denial: Denial, ticket: &Ticket) -> Denial {
    if denial.code == Code::EscalationRequired {
        denial.with("escalation_id", ticket.request_id().to_string())
    } else {
        denial
    }
}
