//! Approvals: list, show, decide.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use super::Admin;
use super::agents::unknown_cursor;
use super::endpoint::{Answer, Input, not_a_uuid};
use super::error::{ApiError, Code};
use super::query::{MAX_PAGE, Parameter};
use crate::audit::By;
use crate::firewall::agent::AgentId;
use crate::firewall::approvals::{Approval, MAX_USES, Ruling, Status, Undecided};
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;
use crate::gate::approval::event_of;
use crate::telemetry::Causes;

/// Longest reason of a decision.
const MAX_REASON_BYTES: usize = 1_024;

/// One approval.
#[derive(Serialize, JsonSchema)]
pub struct ApprovalView {
    #[schemars(with = "String", extend("format" = "uuid"))]
    approval_id: Uuid,
    status: Status,
    #[schemars(with = "String", extend("format" = "uuid"))]
    agent_id: AgentId,
    principal: Arc<str>,
    #[schemars(with = "String", extend("format" = "uuid"))]
    session_id: SessionId,
    declared_intent: Box<str>,
    method: Box<str>,
    /// Tool, URI, prompt or method that the call names.
    tool: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Box<str>>,
    /// Parameters of the call, redacted; as an object with `truncated` where they are too long.
    arguments: serde_json::Value,
    /// True if parts of the parameters cannot be shown; approving then needs a `reason`.
    arguments_clipped: bool,
    /// Keyed hash of the whole call: equal calls of one session have equal digests.
    #[schemars(with = "String")]
    arguments_digest: String,
    policy: Arc<str>,
    #[schemars(with = "String", extend("format" = "date-time"))]
    requested_at: Timestamp,
    #[schemars(with = "String", extend("format" = "date-time"))]
    expires_at: Timestamp,
    /// Uses that remain of an approved call.
    #[serde(skip_serializing_if = "Option::is_none")]
    uses_left: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    decided_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Box<str>>,
}

impl ApprovalView {
    pub(super) fn of(approval: Approval, now: Timestamp) -> Self {
        let status = approval.status_at(now);
        let arguments = serde_json::from_str(&approval.arguments)
            .unwrap_or_else(|_not_json| serde_json::Value::from(&*approval.arguments));
        Self {
            approval_id: approval.id,
            status,
            agent_id: approval.agent,
            principal: approval.principal,
            session_id: approval.session,
            declared_intent: approval.declared_intent,
            method: approval.method,
            tool: approval.target,
            upstream: approval.upstream,
            arguments,
            arguments_clipped: approval.clipped,
            arguments_digest: approval.digest.to_string(),
            policy: approval.policy,
            requested_at: approval.requested_at,
            expires_at: approval.expires_at,
            uses_left: (status == Status::Approved).then_some(approval.uses_left),
            decided_by: approval.decided_by,
            decided_at: approval.decided_at,
            reason: approval.reason,
        }
    }
}

/// A page of approvals.
#[derive(Serialize, JsonSchema)]
pub struct ApprovalList {
    approvals: Vec<ApprovalView>,
    /// Cursor of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "uuid"))]
    next_cursor: Option<Uuid>,
}

/// Decision on an approval.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ApprovalDecision")]
pub enum Decision {
    Approve,
    Deny,
}

/// Body of a decision.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    decision: Decision,
    /// Calls that the approval covers until it expires: 1 to 100, 1 by default.
    #[schemars(range(min = 1, max = 100))]
    uses: Option<u32>,
    /// Reason, for the record. At most 1024 bytes.
    #[schemars(length(max = MAX_REASON_BYTES))]
    reason: Option<String>,
}

fn status(text: &str) -> Option<Status> {
    const ALL: [Status; 7] = [
        Status::Pending,
        Status::Approved,
        Status::Denied,
        Status::Expired,
        Status::Used,
        Status::Void,
        Status::Withdrawn,
    ];
    ALL.into_iter().find(|status| status.as_str() == text)
}

fn uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

fn id(input: &Input) -> Result<Uuid, ApiError> {
    input.id.as_deref().and_then(uuid).ok_or_else(|| not_a_uuid("id"))
}

pub(super) async fn list(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let limit = input.query.limit()?.min(MAX_PAGE);
    let statuses = "pending, approved, denied, expired, used, void or withdrawn";
    let wanted = input.query.get(Parameter::Status, statuses, status)?;
    let agent = input.query.get(Parameter::AgentId, "a UUID of 36 characters", AgentId::parse)?;
    let after = input.query.get(Parameter::Cursor, "a cursor of this list", uuid)?;
    if after.is_some_and(|id| admin.approvals.get(id).is_none()) {
        return Err(unknown_cursor());
    }
    let now = admin.clock.now().wall;
    let of = |one: &Approval| {
        wanted.is_none_or(|status| one.status_at(now) == status)
            && agent.is_none_or(|agent| one.agent == agent)
    };
    let mut found = admin.approvals.list(of, after, limit.saturating_add(1));
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| more).map(|last| last.id);
    let approvals = found.into_iter().map(|one| ApprovalView::of(one, now)).collect();
    Answer::of(&ApprovalList { approvals, next_cursor })
}

pub(super) async fn show(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let found = admin.approvals.get(id(&input)?);
    let approval = found.ok_or_else(|| ApiError::not_found("approval"))?;
    Answer::of(&ApprovalView::of(approval, admin.clock.now().wall))
}

pub(super) async fn decide(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = id(&input)?;
    let body: Decide = input.json()?;
    let approve = matches!(body.decision, Decision::Approve);
    if body.uses.is_some_and(|uses| !(1..=MAX_USES).contains(&uses)) {
        return Err(ApiError::field("uses", format!("must be a number from 1 to {MAX_USES}")));
    }
    if body.uses.is_some() && !approve {
        return Err(ApiError::field("uses", "belongs to an approval; leave it out to deny"));
    }
    if body.reason.as_ref().is_some_and(|text| text.len() > MAX_REASON_BYTES || text.is_empty()) {
        let message = format!("must have 1 to {MAX_REASON_BYTES} bytes");
        return Err(ApiError::field("reason", message));
    }
    let ruling = Ruling {
        approve,
        uses: body.uses.unwrap_or(1),
        reason: body.reason.map(Into::into),
        by: Arc::clone(&input.actor.name),
    };
    let now = admin.clock.now().wall;
    let decided = admin.approvals.check(id, &ruling, now)?;
    let event = if approve { "approval.approved" } else { "approval.denied" };
    let mut change = event_of(&decided, event).count("uses", decided.uses_left.into());
    if let Some(reason) = &decided.reason {
        change = change.with("reason", reason);
    }
    let announced = admin.announce(&input.actor, change).await?;
    match admin.approvals.decide(id, &ruling, now) {
        Ok(decided) => {
            announced.done();
            Answer::of(&ApprovalView::of(decided, now))
        }
        // Another decision came first, while this one was put on record.
        Err(over) => Err(announced.refused(over.into())),
    }
}

impl Admin {
    /// Puts on record that approvals ended with their session or agent.
    pub(super) async fn void(&self, ended: Vec<Approval>) {
        for approval in ended {
            let change = event_of(&approval, "approval.void");
            match self.audit.announce(change, By::default(), &self.clock).await {
                Ok(announced) => announced.done(),
                // They are void all the same: the record of what ended them is there.
                Err(error) => warn!(error = %Causes(&error), "ended approval is not on record"),
            }
        }
    }
}

impl From<Undecided> for ApiError {
    fn from(error: Undecided) -> Self {
        match error {
            Undecided::Unknown => Self::not_found("approval"),
            Undecided::Over(_) => Self::new(Code::AlreadyDecided, error.to_string()),
            Undecided::NeedsReason => Self::field("reason", error.to_string()),
            Undecided::OwnCall => Self::new(Code::Forbidden, error.to_string()),
        }
    }
}
