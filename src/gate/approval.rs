//! Calls that a person has to approve: asked about once, held if configured, used exactly once.
//!
//! Everything else about such a call was checked before this: session, budget, policies, drift and
//! credentials. An ask and each end of an approval are on record before the agent hears of them.

use std::sync::Arc;

use uuid::Uuid;

use super::ticket::Ticket;
use super::{Destination, Gate};
use crate::approvals::{Answer, Effects, Plea};
use crate::audit::record::Approval as OnRecord;
use crate::audit::{By, Change};
use crate::firewall::agent::Caller;
use crate::firewall::approvals::{Approval, Digest, Status, Subject};
use crate::firewall::call::{Call, CallKind};
use crate::firewall::checks::escalation::{self, Escalation};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::time::Timestamp;
use crate::mcp::message::Message;
use crate::sessions::Live;

/// Longest form of the parameters that an approver is shown.
const MAX_SHOWN_BYTES: usize = 64 * 1024;
/// Delay after which an agent may ask again while too many approvals wait.
const RETRY_SECS: u64 = 30;

/// Message whose calls need approval, and its surroundings.
pub(super) struct Hearing<'h, 'd> {
    pub(super) caller: &'h Caller,
    pub(super) live: Option<&'h Live>,
    pub(super) message: &'h Message<'d>,
    pub(super) to: &'h Destination,
}

impl Gate {
    fn digest(&self, live: &Live, call: &Call<'_>, to: &Destination) -> Digest {
        self.approvals.digest(&Subject {
            agent: live.order.agent,
            session: live.order.id,
            upstream: to.name.as_deref(),
            method: call.method.as_deref().unwrap_or_default(),
            params: call.params,
        })
    }

    /// Counts the calls of a message that were counted when a person was first asked about them.
    pub(super) fn counted_before(
        &self,
        live: &Live,
        message: &Message<'_>,
        to: &Destination,
        now: Timestamp,
    ) -> u64 {
        if !self.approvals.concern(live.order.id) {
            return 0;
        }
        let tools = message.calls.iter().filter(|call| matches!(call.kind, CallKind::Tool { .. }));
        let digests: Vec<_> = tools.map(|call| self.digest(live, call, to)).collect();
        self.approvals.paid(&digests, now)
    }

    /// Takes a use of the approval of each escalated call, or refuses the message.
    pub(super) async fn approved(
        &self,
        ticket: &mut Ticket,
        hearing: &Hearing<'_, '_>,
        escalations: &[Escalation],
    ) -> Result<(), Denial> {
        if escalations.is_empty() {
            return Ok(());
        }
        let escalation_id = ticket.request_id().to_string();
        let all_requests = hearing.message.calls.iter().all(Call::is_request);
        let Some(live) = hearing.live.filter(|_| all_requests) else {
            // Nobody would learn of the decision.
            return Err(escalation::required().with("escalation_id", escalation_id));
        };
        let plea = |one: &Escalation| {
            let call = hearing.message.calls.get(one.call);
            let digest = call.map(|call| self.digest(live, call, hearing.to));
            digest.map(|digest| Plea { digest, policy_text: one.text })
        };
        let pleas: Vec<Plea> = escalations.iter().filter_map(plea).collect();
        let mut answer = self.ask(hearing, live, escalations, &pleas).await?;
        let hold = self.approvals.settings().hold;
        if let Answer::Pending(pending) = &answer
            && !hold.is_zero()
        {
            let waiting = Waiting { gate: self, ids: pending.iter().map(|one| one.id).collect() };
            let open = || self.approvals.any_pending(&waiting.ids, self.clock.now().wall);
            self.approvals.wait(hold, open).await;
            waiting.done();
            // What was revoked while the call was held is revoked.
            self.still_allowed(live)?;
            answer = self.ask(hearing, live, escalations, &pleas).await?;
        }
        self.conclude(ticket, hearing, answer, escalation_id).await
    }

    /// Settles the pleas and puts what changed on record.
    async fn ask(
        &self,
        hearing: &Hearing<'_, '_>,
        live: &Live,
        escalations: &[Escalation],
        pleas: &[Plea],
    ) -> Result<Answer, Denial> {
        let now = self.clock.now().wall;
        let draft = |at: usize| self.draft(hearing, live, escalations.get(at), pleas.get(at), now);
        let (answer, effects) = self.approvals.settle(pleas, now, draft);
        let Effects { requested, voided } = effects;
        for approval in voided {
            self.note(&approval, "approval.void").await?;
        }
        for approval in requested {
            self.note(&approval, "approval.requested").await?;
        }
        Ok(answer)
    }

    fn draft(
        &self,
        hearing: &Hearing<'_, '_>,
        live: &Live,
        escalation: Option<&Escalation>,
        plea: Option<&Plea>,
        now: Timestamp,
    ) -> Approval {
        let Hearing { caller, message, to, .. } = hearing;
        let call = escalation.and_then(|one| message.calls.get(one.call));
        let known = self.secrets.patterns();
        let shown = call.and_then(|call| call.params).map(|params| {
            let whole = params.raw().len() <= MAX_SHOWN_BYTES;
            (self.redactor.redact(params, MAX_SHOWN_BYTES, &known), whole)
        });
        let (arguments, whole) = shown
            .map_or_else(|| (Box::from("{}"), true), |(text, whole)| (text.as_str().into(), whole));
        let target = match call.map(|call| &call.kind) {
            Some(CallKind::Tool { name, .. }) => name.as_ref(),
            Some(CallKind::Data { target, .. }) => target.as_ref(),
            Some(CallKind::Protocol) | None => "",
        };
        Approval {
            id: Uuid::new_v4(),
            version: 1,
            status: Status::Pending,
            digest: plea.map_or(Digest([0; 32]), |plea| plea.digest),
            agent: caller.agent.id,
            owner: caller.agent.owner.as_str().into(),
            principal: Arc::clone(&caller.principal.subject),
            session: live.order.id,
            declared_intent: live.order.declared_intent.clone(),
            upstream: to.name.as_deref().map(Into::into),
            method: call.and_then(|call| call.method.as_deref()).unwrap_or_default().into(),
            target: crate::audit::redact::scrubbed(target, &known).into(),
            arguments,
            clipped: !whole,
            policy: escalation.map_or_else(|| Arc::from(""), |one| Arc::clone(&one.policy)),
            policy_text: escalation.map_or(Digest([0; 32]), |one| one.text),
            requested_at: now,
            expires_at: now.plus_secs(self.approvals.settings().limits.ttl_secs),
            decided_at: None,
            decided_by: None,
            reason: None,
            uses_left: 0,
            // Data methods cost no call.
            paid: call.is_some_and(|call| matches!(call.kind, CallKind::Tool { .. })),
        }
    }

    async fn conclude(
        &self,
        ticket: &mut Ticket,
        hearing: &Hearing<'_, '_>,
        answer: Answer,
        escalation_id: String,
    ) -> Result<(), Denial> {
        let on_record = |one: &Approval, by| Some(Box::new(OnRecord { id: one.id, by }));
        match answer {
            Answer::Used(used) => {
                for approval in &used {
                    self.note(approval, "approval.used").await?;
                }
                ticket.entry_mut().approval =
                    used.first().and_then(|one| on_record(one, one.decided_by.clone()));
                Ok(())
            }
            Answer::Pending(pending) => {
                ticket.entry_mut().approval = pending.first().and_then(|one| on_record(one, None));
                let mut denial = escalation::required().with("escalation_id", escalation_id);
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
                ticket.entry_mut().approval = on_record(&denied, denied.decided_by.clone());
                Err(escalation::denied()
                    .with("approval_id", denied.id.to_string())
                    .with("expires_at", denied.expires_at.to_string()))
            }
            Answer::TooMany => Err(escalation::too_many(RETRY_SECS)),
        }
    }

    /// Refuses if the session was closed or ran out meanwhile.
    fn still_allowed(&self, live: &Live) -> Result<(), Denial> {
        let closed = live.with(|usage| usage.closed);
        if closed {
            return Err(Denial::new(
                Code::SessionClosed,
                "this session was closed: ask your operator for a new one",
            ));
        }
        let now = self.clock.now();
        if now.mono >= live.ends(now) {
            return Err(Denial::new(
                Code::SessionExpired,
                "this session's time limit has passed: ask your operator for a new one",
            ));
        }
        Ok(())
    }

    /// Puts an event of an approval on record.
    async fn note(&self, approval: &Approval, event: &'static str) -> Result<(), Denial> {
        let change = event_of(approval, event);
        match self.audit.announce(change, By::default(), &self.clock).await {
            Ok(announced) => {
                announced.done();
                Ok(())
            }
            Err(_unavailable) => {
                let message = "the audit log cannot be written: try again";
                Err(Denial::new(Code::AuditUnavailable, message).retry_after(super::RETRY_SECS))
            }
        }
    }
}

/// Describes an approval to the record.
pub fn event_of(approval: &Approval, event: &'static str) -> Change {
    Change::new(event)
        .agent(approval.agent)
        .session(approval.session)
        .with("approval_id", approval.id)
        .with("method", &approval.method)
        .with("target", &approval.target)
        .with("policy", &approval.policy)
        .with("arguments_digest", approval.digest)
        .with("expires_at", approval.expires_at)
}

/// Held call; dropped before its time, because its client left, its approvals are withdrawn.
struct Waiting<'g> {
    gate: &'g Gate,
    ids: Vec<Uuid>,
}

impl Waiting<'_> {
    fn done(mut self) {
        self.ids.clear();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            self.gate.approvals.withdraw(&self.ids);
        }
    }
}
