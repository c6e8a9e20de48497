//! Records: admissions before anything moves, refusals before their answer, and the ends of
//! admitted calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::phases::{Denied, Judged};
use super::reply::Reply;
use super::ticket::Parts;
use super::{Cleared, Form, Gate, RETRY_SECS, Refused};
use crate::audit::redact::scrubbed;
use crate::audit::{Completion, Decision, Entry, Outcome};
use crate::credentials::Edits;
use crate::firewall::denial::{Cause, Code, Denial};
use crate::firewall::time::{Mono, Now};
use crate::mcp::continued::TaskStatus;
use crate::metrics;
use crate::recent::Seen;
use crate::saturate::SaturatingFrom as _;
use crate::traces::{Decided, Draft, Trace};

/// End of a cleared call.
#[derive(Debug)]
pub struct Ended {
    /// Host and port of the server that the call went to.
    pub server: Option<Arc<str>>,
    pub upstream_status: Option<u16>,
    pub scrubbed: u64,
    /// Length of the answer's body as the client got it.
    pub bytes_out: u64,
    pub failed: Option<Denial>,
    /// True if the whole answer went to the client.
    pub whole: bool,
    /// The state of the task that the answer described.
    pub task: Option<TaskStatus>,
    /// Hosts to which questions in the answer send people.
    pub elicited: Vec<Box<str>>,
}

impl Gate {
    /// Puts a refusal on record.
    pub async fn refuse(&self, denied: Box<Denied>) -> Refused {
        // Boxed, so that requests that are not refused do not carry its room.
        Box::pin(self.put_refusal_on_record(denied)).await
    }

    /// Puts an admitted call on record; only now may it go on.
    pub(super) async fn clear(&self, judged: Judged) -> Result<Box<Cleared>, Refused> {
        let (mut ticket, agent, admitted) = judged.into_parts();
        let (request_id, arrived) = (ticket.request_id(), ticket.arrived());
        let judged_from = ticket.judging_since();
        let draft = ticket.take_draft();
        let mut parts = ticket.into_parts();
        let Parts { entry, reply, open } = &mut *parts;
        open.logged(entry, arrived.mono);
        entry.decision = Decision::Allow;
        let trace = draft.and_then(|draft| self.trace(draft, entry, arrived, (reply, judged_from)));
        let injected = entry.credentials_injected.len();
        match self.state.audit.record_admitted(entry).await {
            Ok(receipt) => {
                let decided_at = self.state.clock.mono();
                self.state.recent.note(Seen::of(entry, decided_at.since(judged_from)), decided_at);
                self.state.metrics.request(metrics::Outcome::Allow);
                self.state.metrics.credentials_injected(u64::saturating_from(injected));
                let Parts { reply, open, .. } = *parts;
                Ok(Box::new(Cleared {
                    receipt,
                    request_id,
                    arrived,
                    judged_from,
                    decided_at,
                    answered_at: None,
                    // Only now: what is made for a call is made for a call on record.
                    body: edited(admitted.body, &admitted.edits),
                    agent,
                    warnings: reply.warnings,
                    id: reply.id,
                    form: reply.form,
                    expected: admitted.expected,
                    trace,
                    _open: open,
                }))
            }
            Err(_unavailable) => {
                let Parts { mut entry, reply: _, open: _open } = *parts;
                entry.decision = Decision::Deny;
                Err(Box::pin(self.refuse_unrecorded(entry, arrived, trace)).await)
            }
        }
    }

    /// Settles the trace of a request that is decided now.
    fn trace(
        &self,
        draft: Box<Draft>,
        entry: &mut Entry,
        arrived: Now,
        (reply, from): (&Reply, Mono),
    ) -> Option<Box<Trace>> {
        let known = self.state.secrets.patterns();
        let id = reply.id.as_deref().map(|id| scrubbed(id, &known));
        let times = Decided { arrived, from, at: self.state.clock.mono() };
        draft.decided(entry, id.as_deref(), times)
    }

    async fn put_refusal_on_record(&self, denied: Box<Denied>) -> Refused {
        let (mut ticket, denial) = denied.into_parts();
        let (request_id, arrived) = (ticket.request_id(), ticket.arrived());
        let judged_from = ticket.judging_since();
        let draft = ticket.take_draft();
        let Parts { mut entry, reply, open } = *ticket.into_parts();
        let row = denial.code.row();
        entry.decision = if denial.code == Code::EscalationRequired {
            Decision::Escalate
        } else {
            Decision::Deny
        };
        entry.denial_code = Some(denial.code.name());
        entry.failure_category = Some(row.category.as_str());
        entry.stage = Some(row.stage.as_str());
        let trace =
            draft.and_then(|draft| self.trace(draft, &mut entry, arrived, (&reply, judged_from)));
        let now = self.state.clock.mono();
        open.logged(&mut entry, now);
        let weight = open.refused(denial.code, &mut entry, now);
        let latency_us = now.since(arrived.mono);
        let outcome = Outcome::refused(latency_us);
        let seen = Seen::of(&entry, now.since(judged_from));
        if self.state.audit.record_as(entry, outcome.clone(), weight).await.is_err() {
            if let Some(trace) = trace {
                trace.end(unrecorded(latency_us), now);
            }
            return self.unrecorded(request_id);
        }
        if let Some(trace) = trace {
            trace.end(outcome, now);
        }
        self.state.recent.note(seen, now);
        let took = Duration::from_micros(latency_us);
        self.count_denial(denial.code);
        self.state.metrics.request_took(took);
        self.state
            .metrics
            .arbiter_took(Duration::from_micros(self.state.clock.mono().since(judged_from)));
        Refused { denial, request_id, id: reply.id, form: reply.form, warnings: reply.warnings }
    }

    /// Refuses a request whose record its ticket has left already.
    pub fn refuse_recorded(&self, request_id: Uuid, denial: Denial) -> Refused {
        self.count_denial(denial.code);
        Refused { denial, request_id, id: None, form: Form::Http, warnings: Vec::new() }
    }

    fn count_denial(&self, code: Code) {
        self.state.metrics.denial(code);
        self.state.metrics.request(if code == Code::EscalationRequired {
            metrics::Outcome::Escalate
        } else {
            metrics::Outcome::Deny
        });
    }

    /// Refuses an admitted call because its decision could not be put on record. The refusal is
    /// recorded if that works again by now, else counted.
    pub(super) async fn refuse_unrecorded(
        &self,
        mut entry: Entry,
        arrived: Now,
        trace: Option<Box<Trace>>,
    ) -> Refused {
        let request_id = entry.request_id;
        let now = self.state.clock.mono();
        if let Some(trace) = trace {
            trace.end(unrecorded(now.since(arrived.mono)), now);
        }
        let row = Code::AuditUnavailable.row();
        entry.denial_code = Some(row.name);
        entry.failure_category = Some(row.category.as_str());
        entry.stage = Some(row.stage.as_str());
        let outcome = Outcome::refused(now.since(arrived.mono));
        // Whether or not it is on record, the answer is the same.
        let _counted = Box::pin(self.state.audit.record(entry, outcome)).await;
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
        cleared.answered_at.get_or_insert_with(|| self.state.clock.mono());
    }

    /// Completes the record of a call that was cleared.
    pub fn finish(&self, cleared: Box<Cleared>, ended: &Ended) {
        let cleared = *cleared;
        let now = self.state.clock.mono();
        let latency_us = now.since(cleared.arrived.mono);
        let row = ended.failed.as_ref().map(|denial| denial.code.row());
        let completion = match (&row, ended.whole) {
            (Some(_), _) => Completion::UpstreamFailed,
            (None, true) => Completion::Completed,
            (None, false) => Completion::ClientGone,
        };
        let deciding_us = cleared.decided_at.since(cleared.judged_from);
        let upstream_us = cleared.answered_at.map(|at| at.since(cleared.decided_at));
        self.state.metrics.request_took(Duration::from_micros(latency_us));
        self.state.metrics.arbiter_took(Duration::from_micros(deciding_us));
        if let Some(upstream_us) = upstream_us {
            self.state.metrics.upstream_took(Duration::from_micros(upstream_us));
        }
        self.state.metrics.credentials_scrubbed(ended.scrubbed);
        if let Some(denial) = &ended.failed {
            self.state.metrics.denial(denial.code);
        }
        if let Some(tools) = &cleared.expected.tools {
            tools.count(&self.state.metrics);
        }
        let outcome = Outcome {
            latency_us,
            upstream_status: ended.upstream_status,
            upstream_server: ended.server.clone(),
            credentials_scrubbed: ended.scrubbed,
            upstream_cause: ended
                .failed
                .as_ref()
                .and_then(|denial| denial.cause)
                .map(Cause::as_str),
            tool_outcome: cleared.expected.tools.as_ref().map(|tools| tools.outcome()),
            bytes_out: Some(ended.bytes_out),
            task_status: ended.task.map(TaskStatus::as_str),
            elicited_hosts: ended.elicited.clone(),
            decision: None,
            denial_code: ended.failed.as_ref().map(|denial| denial.code.name()),
            failure_category: row.map(|row| row.category.as_str()),
            stage: row.map(|row| row.stage.as_str()),
            completion,
        };
        if let Some(trace) = cleared.trace {
            trace.end(outcome.clone(), now);
        }
        cleared.receipt.complete(outcome);
    }
}

/// Returns the end of a request whose decision could not be put on record.
fn unrecorded(latency_us: u64) -> Outcome {
    let row = Code::AuditUnavailable.row();
    Outcome {
        decision: Some(Decision::Deny),
        denial_code: Some(row.name),
        failure_category: Some(row.category.as_str()),
        stage: Some(row.stage.as_str()),
        ..Outcome::refused(latency_us)
    }
}

/// A body with secrets in it, wiped when it goes.
struct Edited(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Edited {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn edited(body: Bytes, edits: &Edits) -> Bytes {
    if edits.is_empty() { body } else { Bytes::from_owner(Edited(edits.apply(&body))) }
}
