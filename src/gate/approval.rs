//! Calls that a person has to approve: asked about once, held if configured, used exactly once.
//!
//! Everything else about such a call was checked before this: session, budget, policies, drift and
//! credentials. An ask and each end of an approval are on record before the agent hears of them.

use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;
use uuid::Uuid;

use super::hearing::{Hearing, Passed};
use super::ticket::Ticket;
use super::{Claims, Destination, Form, Gate, Refused, store_unavailable};
use crate::approvals::page::MARK;
use crate::audit::record::Approval as OnRecord;
use crate::firewall::approvals::{Answer, Approval, Digest, Plea, Status, Subject};
use crate::firewall::call::{Call, CallKind};
use crate::firewall::checks::continuation::{self, RequestState};
use crate::firewall::checks::escalation::{self, Escalation};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::session::SessionId;
use crate::firewall::time::{Now, Timestamp};
use crate::json::{Doc, Kind};
use crate::mcp::elicitation::{self, Sending};
use crate::mcp::message::Message;
use crate::sessions::Live;
use crate::store::StoreError;
use crate::telemetry::Causes;
use clerk::UseError;
pub use clerk::{Clerk, event_of};

mod clerk;

/// Longest form of the parameters that an approver is shown.
const MAX_SHOWN_BYTES: usize = 64 * 1024;
/// Longest progress token that is repeated to its client.
const MAX_TOKEN_BYTES: usize = 256;
/// Delay after which an agent may ask again while too many approvals wait.
const RETRY_SECS: u64 = 30;

/// A client's retry after it was sent to the page of an approval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Returned {
    /// True if the person agreed to open the page.
    accepted: bool,
}

impl Gate {
    /// Takes out of a message what is meant for the gateway: the state that it gave to a client which it
    /// sent to the page of an approval, and that client's answer. The rest is judged and forwarded.
    pub(super) fn without_our_state(
        &self,
        body: Bytes,
        claims: &Claims<'_>,
    ) -> (Bytes, Option<Returned>) {
        let session = claims.session.and_then(SessionId::parse);
        let (Some(page), Some(session)) = (self.state.approvals.page(), session) else {
            return (body, None);
        };
        if memchr::memmem::find(&body, MARK.as_bytes()).is_none() {
            return (body, None);
        }
        let retry =
            Doc::parse_request(&body).ok().and_then(|doc| elicitation::retry(doc.root(), MARK));
        match retry {
            Some(retry) if page.unseal(&retry.state, session).is_some() => {
                (retry.rest.into(), Some(Returned { accepted: retry.accepted }))
            }
            Some(_) | None => (body, None),
        }
    }

    /// Returns the form in which the client can be sent to the page of an approval.
    fn sending(&self, hearing: &Hearing<'_, '_>, live: &Live) -> Option<Sending> {
        self.state.approvals.page()?;
        let [call] = hearing.message.calls.as_slice() else { return None };
        let single = !hearing.message.batch && hearing.message.listens.is_none();
        elicitation::sending(call, hearing.version, live.opens_urls()).filter(|_| single)
    }

    fn digest(&self, live: &Live, call: &Call<'_>, to: &Destination) -> Digest {
        self.state.approvals.digest(&subject(live, call, to))
    }

    /// Returns what the later rounds of an approved call have in common with it; none for a message
    /// that needed no approval, or is no single call.
    pub(super) fn digest_of_rounds(
        &self,
        hearing: &Hearing<'_, '_>,
        live: Option<&Live>,
        escalations: &[Escalation],
    ) -> Option<Digest> {
        let ([escalation], [call]) = (escalations, hearing.message.calls.as_slice()) else {
            return None;
        };
        let subject = subject(live?, call, hearing.to);
        Some(self.state.approvals.digest_of_rounds(&subject, &escalation.text))
    }

    /// Counts the calls of a message that were counted when a person was first asked about them.
    pub(super) fn counted_before(
        &self,
        live: &Live,
        message: &Message<'_>,
        to: &Destination,
        now: Now,
    ) -> u64 {
        if !self.state.approvals.concern(live.order.id) {
            return 0;
        }
        let tools = message.calls.iter().filter(|call| matches!(call.kind, CallKind::Tool { .. }));
        let digests: Vec<_> = tools.map(|call| self.digest(live, call, to)).collect();
        self.state.approvals.paid(&digests, now)
    }

    /// Takes a use of the approval of each escalated call, or refuses the message.
    pub(super) async fn approved(
        &self,
        ticket: &mut Ticket,
        hearing: &Hearing<'_, '_>,
        passed: &Passed,
        returned: Option<Returned>,
    ) -> Result<(), Denial> {
        let Passed { live, escalations, before, .. } = passed;
        // The rounds of one call are one use, as long as nothing but the client's answers changes.
        let covered = before.as_ref().and_then(|before| before.approved);
        if let Some(before) = before.as_ref().filter(|_| covered.is_some())
            && covered == self.digest_of_rounds(hearing, live.as_deref(), escalations)
        {
            let taken = self.state.continuations.take(before.mark, &self.state.clock).await;
            return if taken.map_err(|error| no_store(&error))? {
                Ok(())
            } else {
                // Another request went on with this round, with what may be other answers.
                continuation::check(RequestState::Unknown)
            };
        }
        let escalation_id = ticket.request_id().to_string();
        let all_requests = hearing.message.calls.iter().all(Call::is_request);
        let Some(live) = live.as_ref().filter(|_| all_requests) else {
            // Nobody would learn of the decision.
            return Err(escalation::impossible().with("escalation_id", escalation_id));
        };
        let (mut answer, is_new) = self.ask(hearing, live, escalations).await?;
        let sending = self.sending(hearing, live);
        // The page first: nobody would decide while the client does not know of it.
        let sent_now = match sending {
            Some(Sending::ByError) => is_new,
            Some(Sending::ByResult) => returned.is_none(),
            None => false,
        };
        let declined = returned.is_some_and(|returned| !returned.accepted);
        if let Answer::Pending(pending) = &answer
            && !sent_now
            && !declined
            && self.held(ticket, hearing, pending).await
        {
            // What was revoked while the call was held is revoked. It was counted when it came.
            let escalations = self.judge_again(ticket, hearing, live).await?;
            if escalations.is_empty() {
                return Ok(());
            }
            (answer, _) = self.ask(hearing, live, &escalations).await?;
        }
        // A result is sent once: a client that retries by itself would go on for ever.
        let sending = sending.filter(|sending| sent_now || *sending == Sending::ByError);
        let to_page = match (sending, answer.pending()) {
            (Some(sending), [one]) => self.state.approvals.page().map(|page| {
                let state = page.seal(one.id, live.order.id);
                (sending, page.of(one.id), state)
            }),
            (Some(_) | None, _) => None,
        };
        let mut denial = match Self::conclude(ticket, hearing, answer, escalation_id) {
            Ok(()) => return Ok(()),
            Err(denial) => denial,
        };
        if let Some((sending, url, state)) = to_page {
            ticket.reply_mut().form = Form::ToPage(sending);
            denial = denial.with("url", url);
            if sending == Sending::ByResult {
                denial = denial.with("request_state", state);
            }
        }
        Err(denial)
    }

    /// Reports whether calls may wait here for a person. One that is judged after a first policy that
    /// asks came into force, and looked at before, waits without its client being watched.
    pub fn holds_calls(&self) -> bool {
        !self.state.approvals.settings().hold.is_zero()
            && self.state.rulebook.rules().policies.asks()
    }

    /// Returns the answer for a client that left while its call was held; its ticket leaves the record.
    pub fn left(&self, request_id: Uuid) -> Refused {
        self.refuse_recorded(request_id, escalation::required())
    }

    /// Holds a call until each of its approvals is decided; false if it is to be answered as it is.
    async fn held(
        &self,
        ticket: &mut Ticket,
        hearing: &Hearing<'_, '_>,
        pending: &[Approval],
    ) -> bool {
        let hold = self.state.approvals.settings().hold;
        let mut leaving = self.state.drain.when_leaving();
        if hold.is_zero() || *leaving.borrow() {
            return false;
        }
        if let Some(token) = progress_token(hearing.message) {
            ticket.waits(token);
        }
        let waiting = Waiting::new(self, pending.iter().map(|one| one.id).collect());
        let open = || self.state.approvals.any_pending(&waiting.ids, self.state.clock.now());
        let since = self.state.clock.mono();
        tokio::select! {
            () = self.state.approvals.wait(hold, open) => {}
            // Another node, or this one after its restart, answers the next attempt.
            _ = leaving.wait_for(|leaving| *leaving) => {}
        }
        ticket.waited(self.state.clock.mono().since(since));
        let decided = !open();
        waiting.done();
        decided
    }

    /// Takes the uses, or asks; true if something was asked for the first time.
    async fn ask(
        &self,
        hearing: &Hearing<'_, '_>,
        live: &Live,
        escalations: &[Escalation],
    ) -> Result<(Answer, bool), Denial> {
        let plea = |one: &Escalation| {
            let call = hearing.message.calls.get(one.call);
            let digest = call.map(|call| self.digest(live, call, hearing.to));
            digest.map(|digest| Plea { digest, policy_text: one.text })
        };
        let pleas: Vec<Plea> = escalations.iter().filter_map(plea).collect();
        if pleas.len() != escalations.len() {
            return Err(escalation::required());
        }
        // What is pending or denied is answered without the store.
        let seen = self.state.approvals.plan(&pleas, self.state.clock.now(), |_| None);
        if seen.is_none() && self.state.drain.is_leaving() {
            // Another node, or this one after its restart, asks.
            return Err(super::shutting_down());
        }
        if let Some(answer) = seen.filter(|seen| seen.steps.is_empty()).and_then(|seen| seen.answer)
        {
            return Ok((answer, false));
        }
        let now = self.state.approvals.time(self.state.clock.now());
        let drafts = escalations.iter().zip(&pleas);
        let drafts = drafts.map(|(one, plea)| self.draft(hearing, live, one, plea, now));
        let drafts = drafts.collect();
        let turn =
            self.state.approvals.turn(&self.state.clock).await.map_err(|error| no_store(&error))?;
        let settled = self.clerk().settle(turn, pleas, drafts).await;
        settled.map(|answer| (answer, true)).map_err(|error| match error {
            UseError::Store(error) => no_store(&error),
            UseError::ReplicasShort => {
                warn!(error = %Causes(&error), "the use of an approval is lost; call refused");
                store_unavailable()
            }
            UseError::Audit(_unavailable) => {
                let message = "the audit log cannot be written: try again";
                Denial::new(Code::AuditUnavailable, message).retry_after(super::RETRY_SECS)
            }
        })
    }

    /// Returns the keeper of approvals and of their record.
    fn clerk(&self) -> Clerk {
        Clerk {
            approvals: Arc::clone(&self.state.approvals),
            audit: Arc::clone(&self.state.audit),
            clock: self.state.clock.clone(),
        }
    }

    fn draft(
        &self,
        hearing: &Hearing<'_, '_>,
        live: &Live,
        escalation: &Escalation,
        plea: &Plea,
        now: Timestamp,
    ) -> Approval {
        let Hearing { caller, message, to, .. } = hearing;
        let call = message.calls.get(escalation.call);
        let known = self.state.secrets.patterns();
        let shown = call.and_then(|call| call.params).map(|params| {
            let marks = self.state.approvals.marks(live.order.id, Arc::clone(&known));
            let (text, clipped) = self.redactor.show(params, MAX_SHOWN_BYTES, &marks);
            (text.as_str().into(), clipped || params.raw().len() > MAX_SHOWN_BYTES)
        });
        let (arguments, clipped) = shown.unwrap_or_else(|| (Arc::from("{}"), false));
        let expires_at = now.plus_secs(self.state.approvals.settings().limits.ttl_secs);
        let target = match call.map(|call| &call.kind) {
            Some(CallKind::Tool { name, .. }) => name.as_ref(),
            Some(CallKind::Data { target, .. }) => target.as_ref(),
            Some(CallKind::Protocol) | None => "",
        };
        Approval {
            id: Uuid::new_v4(),
            version: 1,
            status: Status::Pending,
            digest: plea.digest,
            agent: caller.agent.id,
            owner: caller.agent.owner.as_str().into(),
            principal: Arc::clone(&caller.principal.subject),
            session: live.order.id,
            declared_intent: live.order.declared_intent.clone(),
            upstream: to.name.as_deref().map(Into::into),
            method: call.and_then(|call| call.method.as_deref()).unwrap_or_default().into(),
            target: crate::audit::redact::scrubbed(target, &known).into(),
            arguments,
            clipped,
            policy: Arc::clone(&escalation.policy),
            policy_text: escalation.text,
            requested_at: now,
            // Nothing is approved beyond its session's end.
            expires_at: expires_at.min(live.order.expires_at),
            opened_by: live.order.grants.opened_by.clone(),
            registered_by: caller.agent.registered_by.clone(),
            decided_at: None,
            decided_by: None,
            reason: None,
            uses_left: 0,
            // Data methods cost no call.
            paid: call.is_some_and(|call| matches!(call.kind, CallKind::Tool { .. })),
        }
    }

    fn conclude(
        ticket: &mut Ticket,
        hearing: &Hearing<'_, '_>,
        answer: Answer,
        escalation_id: String,
    ) -> Result<(), Denial> {
        let on_record = |one: &Approval, by| Some(Box::new(OnRecord { id: one.id, by }));
        match answer {
            Answer::Used(used) => {
                ticket.entry_mut().approval =
                    used.first().and_then(|one| on_record(one, one.decided_by.clone()));
                Ok(())
            }
            Answer::Pending(pending) => {
                ticket.entry_mut().approval = pending.first().and_then(|one| on_record(one, None));
                let required = if hearing.message.batch {
                    escalation::required_for_batch()
                } else {
                    escalation::required()
                };
                let mut denial = required.with("escalation_id", escalation_id);
                if let Some(expires) = pending.iter().map(|one| one.expires_at).min() {
                    denial = denial.with("expires_at", expires.to_string());
                }
                let ids: Vec<_> = pending.iter().map(|one| one.id.to_string()).collect();
                Err(match ids.as_slice() {
                    [id] if !hearing.message.batch => denial.with("approval_id", id.as_str()),
                    _ => denial.with("approval_ids", ids),
                })
            }
            Answer::Denied(denied) => {
                ticket.entry_mut().approval = on_record(&denied, None);
                Err(escalation::denied()
                    .with("approval_id", denied.id.to_string())
                    .with("expires_at", denied.expires_at.to_string()))
            }
            Answer::TooMany => Err(escalation::too_many(RETRY_SECS)),
        }
    }
}

/// Returns what an approval of a call is bound to.
fn subject<'c>(live: &Live, call: &'c Call<'_>, to: &'c Destination) -> Subject<'c> {
    Subject {
        agent: live.order.agent,
        session: live.order.id,
        upstream: to.name.as_deref(),
        method: call.method.as_deref().unwrap_or_default(),
        params: call.params,
    }
}

/// Returns the token by which a client follows the progress of its one request, as it was written.
fn progress_token<'d>(message: &Message<'d>) -> Option<&'d str> {
    let [call] = message.calls.as_slice() else { return None };
    let token = call.meta?.get("progressToken")?;
    let is_token = matches!(token.kind(), Kind::String | Kind::Number);
    let fits = token.raw().len() <= MAX_TOKEN_BYTES;
    (is_token && fits && !message.batch).then(|| token.raw())
}

fn no_store(error: &StoreError) -> Denial {
    warn!(error = %Causes(error), "store did not answer; call refused");
    store_unavailable()
}

/// Held call; dropped before its time, because its client left, its approvals are withdrawn.
struct Waiting<'g> {
    gate: &'g Gate,
    ids: Vec<Uuid>,
    over: bool,
}

impl<'g> Waiting<'g> {
    fn new(gate: &'g Gate, ids: Vec<Uuid>) -> Self {
        gate.state.approvals.hold(&ids);
        Self { gate, ids, over: false }
    }

    fn done(mut self) {
        self.over = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let left = self.gate.state.approvals.let_go(&self.ids);
        if self.over || left.is_empty() {
            return;
        }
        let clerk = self.gate.clerk();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let withdrawn = clerk.approvals.withdraw(&left).await;
                clerk.note_ends(withdrawn).await;
            });
        }
    }
}
