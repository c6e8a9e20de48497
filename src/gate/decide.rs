//! The way of one message to its decision: the one parse, the look-ups, the credentials.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use smol_str::SmolStr;
use tracing::warn;

use super::continued::{self, Round, Tasks};
use super::frozen::Above;
use super::hearing::{Hearing, Passed};
use super::phases::{Contents, Read};
use super::reply::{Reply, echoed_id, warnings};
use super::ticket::Ticket;
use super::tools::Tools;
use super::view::ListView;
use super::{Admitted, Claims, Destination, Expected, ExpectedReply, Gate, store_unavailable};
use crate::audit::Redacted;
use crate::credentials::{self, CredentialDenial, Edits, Grant, Secret, Vault};
use crate::firewall::admit;
use crate::firewall::agent::{AgentId, Caller};
use crate::firewall::ask::Ask;
use crate::firewall::call::{self, Call, CallKind};
use crate::firewall::checks::Lack;
use crate::firewall::checks::escalation::Escalation;
use crate::firewall::checks::session::{AgentHeader, Claimed, Found, Seen};
use crate::firewall::checks::task::Owned;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::freeze::{Freezes, Frozen};
use crate::firewall::rules::Rules;
use crate::firewall::session::{SessionId, Status};
use crate::firewall::time::Now;
use crate::firewall::verdict::Verdict;
use crate::json::{Doc, JsonError, Problem};
use crate::mcp::capabilities;
use crate::mcp::filter::Caching;
use crate::mcp::headers;
use crate::mcp::message::{self, Message};
use crate::mcp::version::{Era, Version};
use crate::registry::Demotion;
use crate::secrets::ScrubSet;
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

/// Facts that were looked up for one decision.
struct Looked<'h, 'd> {
    rules: Arc<Rules>,
    tasks: Tasks<'h>,
    round: Round,
    freezes: Arc<Freezes>,
    above: Above,
    /// Calls that are decided, where those are more than the message has: each read of a subscription.
    reads: Option<Vec<Call<'d>>>,
    /// The instant of the look-ups.
    now: Now,
}

impl Looked<'_, '_> {
    /// Asks the decision about a session that was found as `claimed`, and about the session's `tasks`.
    fn ask<'a>(
        &'a self,
        hearing: &Hearing<'a, '_>,
        claimed: Claimed<'a>,
        tasks: &'a [Owned<'a>],
    ) -> Ask<'a> {
        Ask {
            policies: &self.rules.policies,
            terms: &self.rules.terms,
            frozen: Frozen { freezes: &self.freezes, above: &self.above },
            caller: hearing.caller,
            header: AgentHeader::of(hearing.agent),
            claimed,
            calls: self.reads.as_deref().unwrap_or(&hearing.message.calls),
            tasks,
            state: self.round.state,
            upstream: hearing.to.upstream(),
            now: self.now,
        }
    }
}

impl Gate {
    /// Decides for a message: the one parse, session, policies and drift, credentials, a person's leave.
    pub(super) async fn decide(
        &self,
        read: &mut Read,
        claims: &Claims<'_>,
    ) -> Result<Admitted, Denial> {
        let Contents { ticket, caller, to, kind, body } = read.contents();
        let (body, returned) = self.without_our_state(std::mem::take(body), claims);
        let doc = Doc::parse_request(&body).map_err(|error| unreadable(error, body.len()))?;
        let message = message::read(&doc).map_err(|bad| self.malformed(bad, ticket.reply_mut()))?;
        ticket.reply_mut().id = echoed_id(&message);
        ticket.name(&message, &self.state.secrets.patterns());
        let labels = self.count_tools(&message, to);
        if let Some(draft) = ticket.draft() {
            draft.describes(
                &message,
                labels.first().is_some_and(|label| self.state.metrics.is_named(label)),
            );
        }
        let version = headers::agree(&claims.protocol, &message).map_err(|bad| bad.denial())?;
        if let Some(draft) = ticket.draft() {
            draft.in_version(version);
        }
        continued::is_in_order(&message, version)?;

        let Claims { session, agent, .. } = *claims;
        let hearing = Hearing { kind, caller, session, agent, message: &message, version, to };
        let passed = self.by_rules(ticket, &hearing).await;
        // Hashing is work, like redacting, and is not done for a request without its session.
        if message.calls.iter().any(is_one_way) && (passed.is_ok() || ticket.has_session()) {
            ticket.entry_mut().arguments.get_or_insert_with(|| Redacted::digest(&body));
        }
        let passed = passed?;
        let live = passed.live.as_deref();
        if message.calls.iter().any(|call| call.method.as_deref() == Some("tasks/list")) {
            self.know_tasks(live).await?;
        }

        let vault = self.state.secrets.vault();
        let edits = Self::resolve(&doc, &message, live, to, &vault)?;
        edits.edited_length(body.len(), self.settings.max_request_body_bytes)?;
        if !passed.escalations.is_empty() {
            // Boxed, because few requests wait for a person and all would carry its room.
            Box::pin(self.approved(ticket, &hearing, &passed, returned)).await?;
        }
        let covers = self.digest_of_rounds(&hearing, live, &passed.escalations);
        ticket.entry_mut().credentials_injected = edits.names();
        let scrub = self.scrub_of(caller.agent.id, live, edits.secrets(), &vault);
        let begun = message.calls.iter().find(|call| call.method.as_deref() == Some("initialize"));
        if let (Some(begun), Some(live)) = (begun, live) {
            live.declare_apps(capabilities::declare_apps(begun));
            live.declare_urls(capabilities::opens_urls(begun));
            live.declare_answers(capabilities::answers(begun));
        }
        let stream = self.stream_of(&hearing, &passed).map(Box::new);
        let handout = self.handout(&hearing, live, ticket.request_id(), covers);
        let handout = handout.map(Arc::new);
        let asked = self.asked(&message, version, live);
        let caching = self.caching(version);
        let lists = ListView::of(&message, caching, || self.viewer(&hearing, &passed));
        let due = ExpectedReply::to(&message);
        let repeatable = message::is_repeatable(&message);
        let tools = Tools::of(&message, labels);
        drop(message);
        drop(doc);
        let expected = Expected { due, repeatable, lists, scrub, tools, stream, handout, asked };
        Ok(Admitted { body, edits, expected })
    }

    /// Judges a message by session, policies and drift.
    pub(super) async fn by_rules(
        &self,
        ticket: &mut Ticket,
        hearing: &Hearing<'_, '_>,
    ) -> Result<Passed, Denial> {
        let Hearing { caller, session, message, version, to, .. } = *hearing;
        let rules = self.state.rulebook.rules();
        ticket.entry_mut().policy_version = Some(rules.policies.shared_version());
        let live = match session {
            Some(session) => self.claimed(session).await?,
            None => None,
        };
        let looked = self.look_up(hearing, rules, live.as_deref()).await?;
        let (rules, now) = (&looked.rules, looked.now);
        let counted = live.as_ref().map_or(0, |live| self.counted_before(live, message, to, now));
        let tasks = continued::owned(&looked.tasks);
        let claimed = match (session, &live) {
            (None, _) => Claimed::Nothing,
            (Some(_), None) => Claimed::Unknown,
            (Some(_), Some(live)) => {
                let price = call::price(&message.calls).saturating_sub(counted);
                Claimed::Found(self.found(rules, caller, live, price, now))
            }
        };
        let ask = looked.ask(hearing, claimed, &tasks);
        let in_session = live.as_ref().filter(|_| ask.session().is_some());
        if in_session.is_some() || (session.is_none() && !rules.terms.require_session) {
            // Redacting is work, done for nobody who has no session to do it in.
            let known = self.state.secrets.patterns();
            ticket.describe(message, &self.redactor, self.settings.max_argument_bytes, &known);
            let mut style = self.settings.refusal_style;
            if let Some(live) = in_session {
                ticket.in_session(&live.order);
                if let Some((_, task)) = looked.tasks.first().filter(|_| message.listens.is_none())
                {
                    ticket.goes_on_with(task);
                }
                if let Some(before) = &looked.round.before {
                    ticket.goes_on_with(before);
                }
                style = live.order.refusal_style.unwrap_or(style);
            }
            ticket.reply_mut().form = hearing.form(style);
            still_there(message, version, live.as_deref(), now)?;
        }
        let verdict = self.verdict(ask, live.as_ref(), counted).await?;
        if let Some(demotion) = self.remember(ticket, caller, &verdict) {
            Box::pin(self.demote(&demotion)).await;
        }
        if let Some(live) = in_session {
            let threshold = rules.terms.warning_threshold_pct;
            ticket.reply_mut().warnings = warnings(live, threshold, now);
        }
        verdict.outcome?;
        let escalations = of_members(message, verdict.escalations);
        let Looked { rules, round, .. } = looked;
        Ok(Passed { rules, live, escalations, before: round.before })
    }

    /// Judges a message again that was held: by what is in force now, and without counting it twice.
    pub(super) async fn judge_again(
        &self,
        ticket: &mut Ticket,
        hearing: &Hearing<'_, '_>,
        live: &Arc<Live>,
    ) -> Result<Vec<Escalation>, Denial> {
        let caller = &self.caller_now(ticket, hearing.caller, self.state.clock.now())?;
        let hearing = &Hearing { caller, ..*hearing };
        let looked = self.look_up(hearing, self.state.rulebook.rules(), Some(live)).await?;
        let tasks = continued::owned(&looked.tasks);
        let claimed = Claimed::Found(self.found(&looked.rules, caller, live, 0, looked.now));
        let ask = looked.ask(hearing, claimed, &tasks);
        let verdict = self.verdict(ask, Some(live), call::price(&hearing.message.calls)).await?;
        verdict.outcome?;
        Ok(of_members(hearing.message, verdict.escalations))
    }

    /// Looks up what a decision needs besides the session.
    async fn look_up<'h, 'd>(
        &self,
        hearing: &Hearing<'h, 'd>,
        rules: Arc<Rules>,
        live: Option<&Live>,
    ) -> Result<Looked<'h, 'd>, Denial> {
        let Hearing { caller, message, to, .. } = *hearing;
        let tasks = self.tasks_of(message, live, caller, to).await?;
        let round = self.round_of(message, live, caller, to).await?;
        Ok(Looked {
            rules,
            tasks,
            round,
            freezes: self.state.freezer.in_force(),
            above: self.above(caller),
            reads: message.listens.as_ref().map(|listens| listens.with_reads(&message.calls)),
            now: self.state.clock.now(),
        })
    }

    /// Returns the secrets that the answer must not show, after a call that injects `secrets`.
    pub(super) fn scrub_of(
        &self,
        agent: AgentId,
        live: Option<&Live>,
        secrets: &[Arc<Secret>],
        vault: &Vault,
    ) -> Option<ScrubSet> {
        match live {
            Some(live) => self.state.scrub_sets.add(&live.order, secrets, vault),
            None => self.state.scrub_sets.without_session(agent, vault),
        }
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
        reply.id = bad.id.map(SmolStr::from);
        Denial::new(code, bad.reason)
    }

    /// Looks up the session that the headers claim; `None` if it is not known.
    async fn claimed(&self, session: &str) -> Result<Option<Arc<Live>>, Denial> {
        let Some(id) = SessionId::parse(session) else { return Ok(None) };
        match self.state.sessions.get(id) {
            Some(live) => Ok(Some(live)),
            // Boxed, because few requests wait for it and all would carry its room.
            None => Box::pin(self.fetch_session(id)).await,
        }
    }

    /// Looks for a session that another node may have opened a moment ago.
    async fn fetch_session(&self, id: SessionId) -> Result<Option<Arc<Live>>, Denial> {
        self.state.sessions.find(id, &self.state.clock).await.map_err(|error| {
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
                self.state.registry.holds(opened_for, now.wall)
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
        let mut examined = match admit::examine(ask, &mut ()) {
            Ok(examined) => examined,
            Err(refused) => return Ok(*refused),
        };
        examined.paid(counted);
        let mut now = ask.now;
        loop {
            let spent = match live {
                None => examined.spend(None, now, &mut ()),
                Some(live) => {
                    examined.ends(live.ends(now));
                    live.with(|usage| examined.spend(Some(usage), now, &mut ()))
                }
            };
            match (spent, live) {
                (Ok(spent), _) => return Ok(examined.conclude(spent, &mut ())),
                (Err(Lack::Over(refused)), _) => return Ok(*refused),
                (Err(Lack::NotLeased), Some(live)) => {
                    let price = call::price(ask.calls).saturating_sub(counted);
                    let since = self.state.clock.mono();
                    // Boxed, because few calls wait for a lease and all would carry its room.
                    let lease = self.state.sessions.lease(live, price, arrived, &self.state.clock);
                    let leased = Box::pin(lease).await;
                    let took = Duration::from_micros(self.state.clock.mono().since(since));
                    self.state.metrics.operation.leased(took, leased.is_ok());
                    leased.map_err(|error| no_lease(live, &error))?;
                    // Read again after every wait: what is counted is counted at the time it is counted.
                    now = self.state.clock.now();
                }
                // Only a session has a budget to lease from.
                (Err(Lack::NotLeased), None) => return Err(store_unavailable()),
            }
        }
    }

    /// Notes what the decision found, for the record and for the agent's trust; returns the demotion
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
            self.state.metrics.anomaly();
        }
        if verdict.counted_flags == 0 {
            return None;
        }
        self.state.registry.flag(caller.agent.id, verdict.counted_flags, self.state.clock.now())
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
            credentials: live.map_or(&[], |live| &live.order.grants.credentials),
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

/// A session whose calls cannot be booked: the store is unavailable, or has lost it.
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
/// all the same, by the rules of the other one. A session that has ended is refused by the decision
/// instead.
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
