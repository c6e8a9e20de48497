//! Approvals: list, show, decide.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Admin;
use super::access::Actor;
use super::agents::unknown_cursor;
use super::endpoint::{Answer, Input, not_a_uuid};
use super::error::{ApiError, Code};
use super::query::{MAX_PAGE, Parameter};
use super::record::store_failed;
use crate::approvals::Committed;
use crate::firewall::agent::AgentId;
use crate::firewall::approvals::{Approval, ApprovalStep, MAX_USES, Ruling, Status, Undecided};
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;
use crate::gate::approval::{Clerk, event_of};

/// Longest reason of a decision.
const MAX_REASON_BYTES: usize = 1_024;

/// One approval.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ApprovalView {
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
    /// Tool of a tool call.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<Box<str>>,
    /// Tool, URI, prompt or method that the call names.
    target: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Box<str>>,
    /// Parameters of the call. Places that are secret or too long are marks with length and keyed hash:
    /// equal places of one session have equal hashes.
    arguments: serde_json::Value,
    /// True if parts of the parameters cannot be shown; approving then needs a `reason`.
    arguments_clipped: bool,
    /// Keyed hash of the whole call: equal calls of one session have equal digests.
    #[schemars(with = "String")]
    arguments_digest: String,
    policy: Arc<str>,
    /// Hash of that policy's text: the approval counts while the policy has this text.
    #[schemars(with = "String")]
    policy_digest: String,
    #[schemars(with = "String", extend("format" = "date-time"))]
    requested_at: Timestamp,
    #[schemars(with = "String", extend("format" = "date-time"))]
    expires_at: Timestamp,
    /// Uses that remain of an approved call.
    #[serde(skip_serializing_if = "Option::is_none")]
    uses_left: Option<u32>,
    /// Key or person that opened the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    opened_by: Option<Arc<str>>,
    /// Key or person that registered the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    registered_by: Option<Arc<str>>,
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
        let tool = approval.is_of_tool().then(|| approval.target.clone());
        let arguments = serde_json::from_str(&approval.arguments)
            .unwrap_or_else(|_not_json| serde_json::Value::from(&*approval.arguments));
        Self {
            approval_id: approval.id,
            status,
            agent_id: approval.agent,
            principal: approval.principal,
            session_id: approval.session,
            declared_intent: approval.declared_intent,
            tool,
            method: approval.method,
            target: approval.target,
            upstream: approval.upstream,
            arguments,
            arguments_clipped: approval.clipped,
            arguments_digest: approval.digest.to_string(),
            policy: approval.policy,
            policy_digest: approval.policy_text.to_string(),
            requested_at: approval.requested_at,
            expires_at: approval.expires_at,
            uses_left: (status == Status::Approved).then_some(approval.uses_left),
            opened_by: approval.opened_by,
            registered_by: approval.registered_by,
            decided_by: approval.decided_by,
            decided_at: approval.decided_at,
            reason: approval.reason,
        }
    }
}

/// A page of approvals.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ApprovalList {
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
pub(crate) enum Decision {
    Approve,
    Deny,
}

/// Body of a decision.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decide {
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
    let now = admin.approvals.time(admin.clock.now());
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
    let found = admin.approvals.find(id(&input)?).await.map_err(|error| store_failed(&error))?;
    let approval = found.ok_or_else(|| ApiError::not_found("approval"))?;
    Answer::of(&ApprovalView::of(approval, admin.approvals.time(admin.clock.now())))
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
    admin.approvals.find(id).await.map_err(|error| store_failed(&error))?;
    admin.decide(&input.actor, id, &ruling).await
}

impl Admin {
    /// Makes a person's decision, on record first.
    async fn decide(&self, actor: &Actor, id: Uuid, ruling: &Ruling) -> Result<Answer, ApiError> {
        let step = self.approvals.check(id, ruling, self.clock.now())?;
        let mut change = event_of(&step.to, step.event());
        if ruling.approve {
            change = change.count("uses", step.to.uses_left.into());
        }
        if let Some(reason) = &step.to.reason {
            change = change.with("reason", reason);
        }
        let announced = self.announce(actor, change).await?;
        let decided = step.to.clone();
        match self.approvals.commit(vec![step], &self.clock).await {
            Ok(Committed::Done(replicas)) => {
                announced.done_on(replicas);
                Answer::of(&ApprovalView::of(decided, self.approvals.time(self.clock.now())))
            }
            // Another decision came first, while this one was put on record.
            Ok(Committed::Overtaken | Committed::TooMany) => {
                let over = self.approvals.check(id, ruling, self.clock.now()).err();
                let over = over.unwrap_or(Undecided::Over(Status::Pending));
                Err(announced.refused(over.into()))
            }
            // The record states the outcome as unknown: the store may have taken it.
            Err(error) => Err(store_failed(&error)),
        }
    }

    /// Puts on record that approvals ended with their session or agent.
    pub(super) async fn note_ends(&self, ended: Vec<ApprovalStep>) {
        let clerk = Clerk {
            approvals: Arc::clone(&self.approvals),
            audit: Arc::clone(&self.audit),
            clock: self.clock.clone(),
        };
        clerk.note_ends(ended).await;
    }
}

impl From<Undecided> for ApiError {
    fn from(error: Undecided) -> Self {
        match error {
            Undecided::Unknown => Self::not_found("approval"),
            Undecided::Over(_) => Self::new(Code::AlreadyDecided, error.to_string()),
            Undecided::NeedsReason => Self::field("reason", error.to_string()),
            Undecided::OwnCall | Undecided::OpenerUnknown => {
                Self::new(Code::Forbidden, error.to_string())
            }
        }
    }
}
