//! The way of one message to its decision: the one parse, the look-ups, the credentials.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tracing::warn;

use super::approval::Hearing;
use super::continued;
use super::reply::{Reply, echoed_id, form, warnings};
use super::ticket::Ticket;
use super::tools::Tools;
use super::view::ListView;
use super::{Admitted, Claims, Destination, Due, Form, Gate, store_unavailable};
use crate::audit::Redacted;
use crate::credentials::{self, CredentialDenial, Edits, Grant, Vault};
use crate::firewall::admit::{self, Ask, Verdict};
use crate::firewall::agent::Caller;
use crate::firewall::call::{Call, CallKind};
use crate::firewall::checks::Lack;
use crate::firewall::checks::escalation::Escalation;
use crate::firewall::checks::session::{AgentHeader, Claimed, Found, Seen};
use crate::firewall::continuation::Continuation;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::freeze::Frozen;
use crate::firewall::rules::Rules;
use crate::firewall::session::{RefusalStyle, SessionId, Status};
use crate::firewall::time::Now;
use crate::json::{Doc, JsonError, Problem};
use crate::mcp::capabilities;
use crate::mcp::filter::Caching;
use crate::mcp::headers;
use crate::mcp::message::{self, Message};
use crate::mcp::version::{Era, Version};
use crate::registry::Demotion;
use crate::sessions::Live;
use crate::store::StoreError;
use crate::telemetry::Causes;

/// Refuses a body that is not strict JSON, or holds more values than are read.
fn unreadable(error: JsonError, length: usize) -> Denial {
    if error.problem == Problem::TooDense {
        let message = format!(
            "a body of {length} bytes may not hold so many values: send fewer, or large data as one string"
        );
        return Denial::new(Code::BodyTooLarge, message);
    }
    Denial::new(Code::NotJson, format!("the body is not strict JSON: {error}"))
}

/// A message that the decision let through, but for its credentials and a person's leave.
pub(super) struct Passed {
    pub(super) rules: Arc<Rules>,
    pub(super) live: Option<Arc<Live>>,
    pub(super) escalations: Vec<Escalation>,
    /// The round before of a call that goes on.
    pub(super) before: Option<Arc<Continuation>>,
}

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
        let (body, returned) = self.without_our_state(body, claims);
        let doc = Doc::parse_request(&body).map_err(|error| unreadable(error, body.len()))?;
        let message = message::read(&doc).map_err(|bad| self.malformed(bad, reply))?;
        reply.id = echoed_id(&message);
        ticket.name(&message, &self.secrets.patterns());
        let labels = self.count_tools(&message, to);
        if let Some(draft) = ticket.draft() {
            draft.describes(
                &message,
                labels.first().is_some_and(|label| self.metrics.is_named(label)),
            );
        }
        let version = headers::agree(&claims.protocol, &message).map_err(|bad| bad.denial())?;
        if let Some(draft) = ticket.draft() {
            draft.in_version(version);
        }
        continued::is_in_order(&message, version)?;

        let form_for = |style| form(style, &message, version.era());
        let passed =
            self.by_rules(ticket, caller, claims, (&message, version), to, reply, form_for).await;
        // Hashing is work, like redacting, and is not done for a request without its session.
        if message.calls.iter().any(is_one_way) && (passed.is_ok() || ticket.has_session()) {
            ticket.entry_mut().arguments.get_or_insert_with(|| Redacted::digest(&body));
        }
        let Passed { rules, live, escalations, before } = passed?;
        if message.calls.iter().any(|call| call.method.as_deref() == Some("tasks/list")) {
            self.know_tasks(live.as_deref()).await?;
        }

        let vault = self.secrets.vault();
        let edits = Self::resolve(&doc, &message, live.as_deref(), to, &vault)?;
        edits.edited_length(body.len(), self.settings.max_request_body_bytes)?;
        let hearing = Hearing {
            caller,
            claimed: claims.agent,
            live: live.as_ref(),
            message: &message,
            version,
            returned,
            to,
            before: before.as_deref(),
        };
        if !escalations.is_empty() {
            // Boxed, because few requests wait for a person and all would carry its room.
            Box::pin(self.approved(ticket, &hearing, &escalations, reply)).await?;
        }
        let covers = self.digest_of_rounds(&hearing, &escalations);
        ticket.entry_mut().credentials_injected = edits.names();
        let scrub = match &live {
            Some(live) => self.injected.add(&live.order, edits.secrets(), &vault),
            None => self.injected.without_session(caller.agent.id, &vault),
        };
        let begun = message.calls.iter().find(|call| call.method.as_deref() == Some("initialize"));
        if let (Some(begun), Some(live)) = (begun, &live) {
            live.declare_apps(capabilities::declare_apps(begun));
            live.declare_urls(capabilities::opens_urls(begun));
            live.declare_answers(capabilities::answers(begun));
        }
        let (about, approved) = ((caller, live.as_ref(), to), !escalations.is_empty());
        let stream = self.stream_of(&message, version, about, (&rules, approved)).map(Box::new);
        let holder = (live.as_deref(), caller.agent.id);
        let handout = self.handout(&message, version, holder, to, ticket.request_id(), covers);
        let handout = handout.map(Arc::new);
        let asked = self.asked(&message, version, live.as_deref());
        let caching = self.caching(version);
        let lists = ListView::of(&message, caching, || self.viewer(rules, caller, live, to));
        let due = Due::to(&message);
        let repeatable = message::is_repeatable(&message);
        let tools = Tools::of(&message, labels);
        drop(message);
        drop(doc);
        Ok(Admitted { body, edits, repeatable, due, lists, scrub, tools, stream, handout, asked })
    }

    /// Judges a message by session, policies and drift.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of the one request")]
    pub(super) async fn by_rules(
        &self,
        ticket: &mut Ticket,
        caller: &Caller,
        claims: &Claims<'_>,
        (message, version): (&Message<'_>, Version),
        to: &Destination,
        reply: &mut Reply,
        form_for: impl Fn(RefusalStyle) -> Form,
    ) -> Result<Passed, Denial> {
        let rules = self.rulebook.rules();
        ticket.entry_mut().policy_version = Some(rules.policies.shared_version());
        let live = match claims.session {
            Some(session) => self.claimed(session).await?,
            None => None,
        };
        let begun = self.tasks_of(message, live.as_deref(), caller, to).await?;
        let tasks = continued::owned(&begun);
        let round = self.round_of(message, live.as_deref(), caller, to).await?;
        let now = self.clock.now();
        let counted = live.as_ref().map_or(0, |live| self.counted_before(live, message, to, now));
        let (freezes, above) = (self.freezer.in_force(), self.above(caller));
        let asked = message.listens.as_ref().map(|listens| listens.with_reads(&message.calls));
        let ask = Ask {
            policies: &rules.policies,
            terms: &rules.terms,
            frozen: Frozen { freezes: &freezes, above: &above },
            caller,
            header: AgentHeader::of(claims.agent),
            claimed: match (claims.session, &live) {
                (None, _) => Claimed::Nothing,
                (Some(_), None) => Claimed::Unknown,
                (Some(_), Some(live)) => {
                    let price = admit::price(&message.calls).saturating_sub(counted);
                    Claimed::Found(self.found(&rules, caller, live, price, now))
                }
            },
            calls: asked.as_deref().unwrap_or(&message.calls),
            tasks: &tasks,
            state: round.state,
            place: to.place(),
            now,
        };
        // Redacting is work, done for nobody who has no session to do it in.
        if ask.session().is_some() || (claims.session.is_none() && !rules.terms.require_session) {
            let known = self.secrets.patterns();
            ticket.describe(message, &self.redactor, self.settings.max_argument_bytes, &known);
        }
        let mut style = self.settings.refusal_style;
        if ask.session().is_some()
            && let Some(live) = &live
        {
            ticket.in_session(&live.order);
            if let Some((_, task)) = begun.first().filter(|_| message.listens.is_none()) {
                ticket.goes_on_with(task);
            }
            if let Some(before) = &round.before {
                ticket.goes_on_with(before);
            }
            style = live.order.refusal_style.unwrap_or(style);
        }
        let usable =
            ask.session().is_some() || (claims.session.is_none() && !rules.terms.require_session);
        if usable {
            reply.form = form_for(style);
            still_there(message, version, live.as_deref(), now)?;
        }
        let verdict = self.verdict(ask, live.as_ref(), counted).await?;
        if let Some(demotion) = self.remember(ticket, caller, &verdict) {
            Box::pin(self.demote(&demotion)).await;
        }
        if ask.session().is_some()
            && let Some(live) = &live
        {
            let threshold = rules.terms.warning_threshold_pct;
            reply.warnings = warnings(live, threshold, now);
        }
        verdict.outcome?;
        let escalations = of_members(message, verdict.escalations);
        Ok(Passed { rules, live, escalations, before: round.before })
    }

    /// Judges a message again that was held: by what is in force now, and without counting it twice.
    pub(super) async fn judge_again(
        &self,
        ticket: &mut Ticket,
        hearing: &Hearing<'_, '_>,
        live: &Arc<Live>,
    ) -> Result<Vec<Escalation>, Denial> {
        let Hearing { caller, claimed, message, to, .. } = *hearing;
        let caller = &self.still(ticket, caller, self.clock.now())?;
        let rules = self.rulebook.rules();
        let begun = self.tasks_of(message, Some(live), caller, to).await?;
        let tasks = continued::owned(&begun);
        let round = self.round_of(message, Some(live), caller, to).await?;
        let (now, counted) = (self.clock.now(), admit::price(&message.calls));
        let (freezes, above) = (self.freezer.in_force(), self.above(caller));
        let asked = message.listens.as_ref().map(|listens| listens.with_reads(&message.calls));
        let ask = Ask {
            policies: &rules.policies,
            terms: &rules.terms,
            frozen: Frozen { freezes: &freezes, above: &above },
            caller,
            header: AgentHeader::of(claimed),
            claimed: Claimed::Found(self.found(&rules, caller, live, 0, now)),
            calls: asked.as_deref().unwrap_or(&message.calls),
            tasks: &tasks,
            state: round.state,
            place: to.place(),
            now,
        };
        let verdict = self.verdict(ask, Some(live), counted).await?;
        verdict.outcome?;
        Ok(of_members(message, verdict.escalations))
    }

    /// The bounds of what answers of this version may say about their being kept.
    pub(super) fn caching(&self, version: Version) -> Caching {
        let demanded = version.era() == Era::Modern;
        Caching { max_ttl_ms: self.settings.max_list_ttl_ms, demanded }
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

    /// Looks up the session that the headers claim; `None` if it is not known.
    async fn claimed(&self, session: &str) -> Result<Option<Arc<Live>>, Denial> {
        let Some(id) = SessionId::parse(session) else { return Ok(None) };
        match self.sessions.get(id) {
            Some(live) => Ok(Some(live)),
            // Boxed, because few requests wait for it and all would carry its room.
            None => Box::pin(self.elsewhere(id)).await,
        }
    }

    /// Looks for a session that another node may have opened a moment ago.
    async fn elsewhere(&self, id: SessionId) -> Result<Option<Arc<Live>>, Denial> {
        self.sessions.find(id, &self.clock).await.map_err(|error| {
            warn!(session = %id, error = %Causes(&error), "store did not answer; call refused");
            store_unavailable()
        })
    }

    /// Describes a session to the decision, without counting anything.
    pub(super) fn found<'l>(
        &self,
        rules: &Rules,
        caller: &Caller,
        live: &'l Live,
        price: u64,
        now: Now,
    ) -> Found<'l> {
        let order = &*live.order;
        let opened_for = &order.delegation_chain;
        Found {
            order,
            deadline: live.ends(now),
            seen: live.with(|usage| Seen::of(&rules.terms, order, usage, price, now)),
            // The caller's own chain held a moment ago.
            chain: if *opened_for == caller.chain {
                Ok(())
            } else {
                self.registry.holds(opened_for, now.wall)
            },
        }
    }

    /// Decides, leasing first what the session may count if it has to be.
    async fn verdict(
        &self,
        ask: Ask<'_>,
        live: Option<&Arc<Live>>,
        counted: u64,
    ) -> Result<Verdict, Denial> {
        // The store has as long as one answer may take, however often it is asked for this call.
        let arrived = ask.now.mono;
        let mut judged = match admit::judge(ask, &mut ()) {
            Ok(judged) => judged,
            Err(refused) => return Ok(*refused),
        };
        judged.paid(counted);
        loop {
            // Read again after every wait: what is counted is counted at the time it is counted.
            let now = self.clock.now();
            let spent = match live {
                None => judged.spend(None, now, &mut ()),
                Some(live) => {
                    judged.ends(live.ends(now));
                    live.with(|usage| judged.spend(Some(usage), now, &mut ()))
                }
            };
            match (spent, live) {
                (Ok(spent), _) => return Ok(judged.conclude(spent, &mut ())),
                (Err(Lack::Over(refused)), _) => return Ok(*refused),
                (Err(Lack::NotLeased), Some(live)) => {
                    let price = admit::price(ask.calls).saturating_sub(counted);
                    let since = self.clock.mono();
                    // Boxed, because few calls wait for a lease and all would carry its room.
                    let lease = self.sessions.lease(live, price, arrived, &self.clock);
                    let leased = Box::pin(lease).await;
                    let took = Duration::from_micros(self.clock.mono().since(since));
                    self.metrics.operation.leased(took, leased.is_ok());
                    leased.map_err(|error| no_lease(live, &error))?;
                }
                // Only a session has a budget to lease from.
                (Err(Lack::NotLeased), None) => return Err(store_unavailable()),
            }
        }
    }

    /// Notes what the decision found, for the record and for the agent's standing; returns the demotion
    /// that it is the last cause of.
    fn remember(
        &self,
        ticket: &mut Ticket,
        caller: &Caller,
        verdict: &Verdict,
    ) -> Option<Demotion> {
        let entry = ticket.entry_mut();
        entry.policy_matched.clone_from(&verdict.policy);
        entry.anomaly_flags.extend_from_slice(&verdict.flags);
        for _flag in &verdict.flags {
            self.metrics.anomaly();
        }
        if verdict.counted_flags == 0 {
            return None;
        }
        self.registry.flag(caller.agent.id, verdict.counted_flags, self.clock.now())
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

/// Returns the escalations by the members of the message: a person approves a subscription as a whole.
fn of_members(message: &Message<'_>, mut escalations: Vec<Escalation>) -> Vec<Escalation> {
    if let Some(listens) = &message.listens {
        for one in &mut escalations {
            one.call = listens.member(one.call, message.calls.len());
        }
        escalations.sort_by_key(|one| one.call);
        escalations.dedup_by_key(|one| one.call);
    }
    escalations
}

/// A session whose calls cannot be booked: the store is in trouble, or has lost it.
fn no_lease(live: &Live, error: &StoreError) -> Denial {
    if let StoreError::Missing(_) = error {
        warn!(session = %live.order.id, "the store has lost this session; it is forgotten");
        return Denial::new(Code::SessionUnknown, "there is no such session");
    }
    warn!(session = %live.order.id, error = %Causes(error), "store did not answer; call refused");
    store_unavailable()
}

/// Reports a notification or response of the client that no check looks into: the record has its
/// length and hash.
fn is_one_way(call: &Call<'_>) -> bool {
    !call.is_request() && matches!(call.kind, CallKind::Protocol)
}

/// Refuses a method that the message's version has removed: a server of both eras would serve it
/// all the same, by the rules of the other one. Whether the session has ended is asked first.
fn still_there(
    message: &Message<'_>,
    version: Version,
    live: Option<&Live>,
    now: Now,
) -> Result<(), Denial> {
    let ended = live.is_some_and(|live| live.status(now) != Status::Active);
    let gone = |method: &str| version.has_removed(method);
    if ended || !message.calls.iter().any(|call| call.method.as_deref().is_some_and(gone)) {
        return Ok(());
    }
    Err(Denial::new(
        Code::MethodNotFound,
        format!("protocol version {version} and later have no such method"),
    ))
}
