//! Approvals: a person's decisions on calls that an `escalate` policy holds back.
//!
//! An approval is bound to one digest of agent, session, upstream, method and all parameters, and to
//! the text of the policy that asked. The [`Book`] keeps the approvals that a node knows and says what
//! becomes of each; it changes nothing itself: every transition is a [`ApprovalStep`] to the approval's next
//! version, which counts once the store has it. The store takes a step only from the version that it
//! has, so a use is taken once, on whichever node.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agent::AgentId;
use super::session::SessionId;
use super::time::Timestamp;
pub use book::{Book, Limits, Lookup, TooMany};
pub use digest::{Digest, Subject, digest, digest_of_rounds};
pub use plan::{Answer, Plan, Plea, plan};

mod book;
mod digest;
mod plan;

/// Uses that an approver may grant at most.
pub const MAX_USES: u32 = 100;
/// Pending approvals in all.
pub const MAX_PENDING: usize = 10_000;
/// Pending approvals of the agents of one owner.
pub const MAX_PENDING_OF_OWNER: usize = MAX_PENDING / 4;
/// Status of an approval.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ApprovalStatus")]
pub enum Status {
    /// Waits for a person.
    Pending,
    /// Approved, with uses left.
    Approved,
    /// Denied until its expiry.
    Denied,
    /// Not decided, or not used up, in time.
    Expired,
    /// All uses are taken.
    Used,
    /// Ended by a closed session, a deactivated agent or a changed policy.
    Void,
    /// The waiting client left.
    Withdrawn,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Used => "used",
            Self::Void => "void",
            Self::Withdrawn => "withdrawn",
        }
    }

    pub fn is_open(self) -> bool {
        match self {
            Self::Pending | Self::Approved | Self::Denied => true,
            Self::Expired | Self::Used | Self::Void | Self::Withdrawn => false,
        }
    }
}

/// One approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub id: Uuid,
    /// Number of this version; each change adds one.
    pub version: u32,
    pub status: Status,
    pub digest: Digest,
    pub agent: AgentId,
    pub owner: Arc<str>,
    pub principal: Arc<str>,
    pub session: SessionId,
    pub declared_intent: Box<str>,
    pub upstream: Option<Box<str>>,
    pub method: Box<str>,
    /// Tool, URI, prompt or method.
    pub target: Box<str>,
    /// Parameters as JSON text, redacted and clipped for reading.
    pub arguments: Arc<str>,
    /// True if a part of the parameters is missing from `arguments`.
    pub clipped: bool,
    pub policy: Arc<str>,
    /// Hash of the policy's text.
    pub policy_text: Digest,
    pub requested_at: Timestamp,
    pub expires_at: Timestamp,
    /// Name of the admin key or person that opened the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_by: Option<Arc<str>>,
    /// Name of the admin key or person that registered the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_by: Option<Arc<str>>,
    pub decided_at: Option<Timestamp>,
    pub decided_by: Option<Arc<str>>,
    pub reason: Option<Box<str>>,
    pub uses_left: u32,
    /// True while the count of the call that asked still pays for a use.
    pub paid: bool,
}

/// The part of an approval that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalState {
    pub version: u32,
    pub status: Status,
    pub decided_at: Option<Timestamp>,
    pub decided_by: Option<Arc<str>>,
    pub reason: Option<Box<str>>,
    pub uses_left: u32,
    pub paid: bool,
}

/// Mark by which a store knows the version that a step starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub version: u32,
    pub status: Status,
    pub uses_left: u32,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.version, self.status.as_str(), self.uses_left)
    }
}

/// Change of one approval, from the version that the store must have to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalStep {
    /// None for an approval that the store does not have.
    pub from: Option<Stamp>,
    pub to: Approval,
}

impl ApprovalStep {
    /// Makes the step that asks a person.
    pub fn ask(to: Approval) -> Self {
        Self { from: None, to }
    }

    /// Returns the event that the step is on record as.
    pub fn event(&self) -> &'static str {
        match (self.to.status, self.from.map(|from| from.status)) {
            (Status::Pending, _) => "approval.requested",
            (Status::Approved, Some(Status::Approved)) | (Status::Used, _) => "approval.used",
            (Status::Approved, _) => "approval.approved",
            (Status::Denied, _) => "approval.denied",
            (Status::Expired, _) => "approval.expired",
            (Status::Void, _) => "approval.void",
            (Status::Withdrawn, _) => "approval.withdrawn",
        }
    }

    /// Reports whether the step may be taken only before the approval's expiry.
    pub fn is_timed(&self) -> bool {
        match self.to.status {
            Status::Pending | Status::Approved | Status::Denied | Status::Used => true,
            Status::Expired | Status::Void | Status::Withdrawn => false,
        }
    }
}

impl Approval {
    /// Returns the step to the next version, with this status.
    fn step(&self, status: Status) -> ApprovalStep {
        let to = Self { version: self.version.saturating_add(1), status, ..self.clone() };
        ApprovalStep { from: Some(self.stamp()), to }
    }

    pub fn stamp(&self) -> Stamp {
        Stamp { version: self.version, status: self.status, uses_left: self.uses_left }
    }

    pub fn state(&self) -> ApprovalState {
        ApprovalState {
            version: self.version,
            status: self.status,
            decided_at: self.decided_at,
            decided_by: self.decided_by.clone(),
            reason: self.reason.clone(),
            uses_left: self.uses_left,
            paid: self.paid,
        }
    }

    /// Returns the approval in another state.
    #[must_use]
    pub fn with(self, state: ApprovalState) -> Self {
        let ApprovalState { version, status, decided_at, decided_by, reason, uses_left, paid } =
            state;
        Self { version, status, decided_at, decided_by, reason, uses_left, paid, ..self }
    }

    /// Returns the status at `now`, expiry included.
    pub fn status_at(&self, now: Timestamp) -> Status {
        if self.status.is_open() && now >= self.expires_at { Status::Expired } else { self.status }
    }

    /// Reports whether the target is a tool.
    pub fn is_of_tool(&self) -> bool {
        &*self.method == "tools/call"
    }

    /// Returns the step in which a person decides.
    pub fn decide(&self, ruling: &Ruling, now: Timestamp) -> Result<ApprovalStep, Undecided> {
        match self.status_at(now) {
            Status::Pending => {}
            over => return Err(Undecided::Over(over)),
        }
        if ruling.approve && self.clipped && ruling.reason.is_none() {
            return Err(Undecided::NeedsReason);
        }
        let mut step = self.step(if ruling.approve { Status::Approved } else { Status::Denied });
        step.to.decided_at = Some(now);
        step.to.decided_by = Some(Arc::clone(&ruling.by));
        step.to.reason.clone_from(&ruling.reason);
        step.to.uses_left = if ruling.approve { ruling.uses.clamp(1, MAX_USES) } else { 0 };
        Ok(step)
    }

    /// Checks that somebody else opened the session and registered the agent.
    pub fn check_four_eyes(&self, by: &str) -> Result<(), Undecided> {
        let is_own = |name: &Option<Arc<str>>| name.as_deref() == Some(by);
        if is_own(&self.opened_by) || is_own(&self.registered_by) {
            return Err(Undecided::OwnCall);
        }
        // An agent that its issuer registered has no other maker; every session has one.
        if self.opened_by.is_some() { Ok(()) } else { Err(Undecided::OpenerUnknown) }
    }

    /// Returns the step in which so many uses are taken, if there are as many.
    pub fn take(&self, uses: u32, now: Timestamp) -> Option<ApprovalStep> {
        if self.status_at(now) != Status::Approved || uses == 0 {
            return None;
        }
        let left = self.uses_left.checked_sub(uses)?;
        let mut step = self.step(if left == 0 { Status::Used } else { Status::Approved });
        step.to.uses_left = left;
        step.to.paid = false;
        Some(step)
    }

    /// Returns the step that ends the approval; none if it has ended already.
    pub fn end(&self, status: Status) -> Option<ApprovalStep> {
        self.status.is_open().then(|| self.step(status))
    }

    /// Ranks what an approval refuses: the higher of two refuses more.
    fn strictness(&self) -> (u8, u32) {
        let rank = match self.status {
            Status::Approved => 0,
            Status::Pending => 1,
            Status::Expired | Status::Used | Status::Void | Status::Withdrawn => 2,
            Status::Denied => 3,
        };
        (rank, u32::MAX.saturating_sub(self.uses_left))
    }

    /// Reports whether this version refuses more than `other` does.
    pub fn is_stricter_than(&self, other: &Self) -> bool {
        self.strictness() > other.strictness()
    }

    /// Returns the step that puts this version over what a store has that lost its last writes; none
    /// where that refuses as much. An approval is never given again: a person decides once more.
    pub fn restored_over(&self, stored: Option<&Self>) -> Option<ApprovalStep> {
        let Some(stored) = stored else {
            let grants = self.status == Status::Approved;
            return (!grants).then(|| ApprovalStep { from: None, to: self.clone() });
        };
        // A later version is what became of this one since.
        if stored.version > self.version || !self.is_stricter_than(stored) {
            return None;
        }
        let version = self.version.max(stored.version.saturating_add(1));
        Some(ApprovalStep { from: Some(stored.stamp()), to: Self { version, ..self.clone() } })
    }
}

/// Reason why a decision is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    #[error("there is no such approval")]
    Unknown,
    #[error("the approval is {} already", .0.as_str())]
    Over(Status),
    #[error("must be given, because parts of the arguments cannot be shown")]
    NeedsReason,
    #[error("four eyes: whoever opened the session or registered the agent may not decide")]
    OwnCall,
    #[error("four eyes: who opened the session is not known; open another one")]
    OpenerUnknown,
}

/// Decision of a person.
#[derive(Clone, Debug)]
pub struct Ruling {
    pub approve: bool,
    pub uses: u32,
    pub reason: Option<Box<str>>,
    pub by: Arc<str>,
}

#[cfg(test)]
pub(crate) mod tests;
