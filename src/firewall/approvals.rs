//! Approvals: a person's decisions on calls that an `escalate` policy holds back.
//!
//! An approval is bound to one digest of agent, session, upstream, method and all parameters, and to
//! the text of the policy that asked. The [`Book`] keeps the approvals of this node and says what
//! becomes of each; it changes nothing itself: every transition returns the approval's next version,
//! which counts once the store has it. A version is stored only after the version before it, so a use
//! is taken once, on whichever node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agent::AgentId;
use super::session::SessionId;
use super::time::Timestamp;
pub use digest::{Digest, Subject, digest};

mod digest;

/// Uses that an approver may grant at most.
pub const MAX_USES: u32 = 100;
/// Pending approvals in all.
pub const MAX_PENDING: usize = 10_000;
/// Pending approvals of the agents of one owner.
pub const MAX_PENDING_OF_OWNER: usize = MAX_PENDING / 4;
/// Ended approvals that stay readable.
const MAX_ENDED: usize = 10_000;

/// Status of an approval.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
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

    fn is_open(self) -> bool {
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
    pub arguments: Box<str>,
    /// True if a part of the parameters is missing from `arguments`.
    pub clipped: bool,
    pub policy: Arc<str>,
    /// Hash of the policy's text.
    pub policy_text: Digest,
    pub requested_at: Timestamp,
    pub expires_at: Timestamp,
    pub decided_at: Option<Timestamp>,
    pub decided_by: Option<Arc<str>>,
    pub reason: Option<Box<str>>,
    pub uses_left: u32,
    /// True while the count of the call that asked still pays for a use.
    pub paid: bool,
}

impl Approval {
    /// Returns the next version with this status.
    fn next(&self, status: Status) -> Self {
        Self { version: self.version.saturating_add(1), status, ..self.clone() }
    }

    /// Returns the status at `now`, expiry included.
    pub fn status_at(&self, now: Timestamp) -> Status {
        if self.status.is_open() && now >= self.expires_at { Status::Expired } else { self.status }
    }
}

/// Limits of pending approvals.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub ttl_secs: u64,
    pub max_pending_per_agent: usize,
}

/// Result of looking for an approval of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody was asked yet.
    Unknown,
    Pending(Uuid),
    Approved {
        id: Uuid,
        paid: bool,
    },
    Denied(Uuid),
    /// Asked under another text of the policy.
    Outdated(Uuid),
}

/// Limit that keeps a call from being asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many approvals are pending")]
pub struct TooMany;

/// Reason why a decision is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    #[error("there is no such approval")]
    Unknown,
    #[error("the approval is {} already", .0.as_str())]
    Over(Status),
    #[error("parts of the arguments cannot be shown: give a `reason`")]
    NeedsReason,
    #[error("four eyes: the key that opened the session or registered the agent may not decide")]
    OwnCall,
}

/// Decision of a person.
#[derive(Clone, Debug)]
pub struct Ruling {
    pub approve: bool,
    pub uses: u32,
    pub reason: Option<Box<str>>,
    pub by: Arc<str>,
}

/// Approvals known to this node.
#[derive(Debug, Default)]
pub struct Book {
    by_id: HashMap<Uuid, Approval>,
    open: HashMap<Digest, Uuid>,
    pending_of: HashMap<AgentId, usize>,
    pending_of_owner: HashMap<Arc<str>, usize>,
    pending: usize,
    open_of: HashMap<SessionId, usize>,
    /// Open approvals by their expiry.
    expiries: BTreeSet<(Timestamp, Uuid)>,
    /// Ended approvals, oldest first.
    ended: BTreeSet<(Timestamp, Uuid)>,
}

impl Book {
    /// Looks for an approval of the call with this digest, asked for by this text of a policy.
    pub fn look(&self, digest: &Digest, policy_text: &Digest, now: Timestamp) -> Standing {
        let found = self.open.get(digest).and_then(|id| self.by_id.get(id));
        let Some(approval) = found else { return Standing::Unknown };
        match approval.status_at(now) {
            _ if approval.policy_text != *policy_text => Standing::Outdated(approval.id),
            Status::Pending => Standing::Pending(approval.id),
            Status::Approved => Standing::Approved { id: approval.id, paid: approval.paid },
            Status::Denied => Standing::Denied(approval.id),
            Status::Expired | Status::Used | Status::Void | Status::Withdrawn => Standing::Unknown,
        }
    }

    /// Checks that one more approval of this agent and owner may wait.
    pub fn has_room(&self, agent: AgentId, owner: &str, limits: Limits) -> Result<(), TooMany> {
        let of_agent = self.pending_of.get(&agent).copied().unwrap_or_default();
        let of_owner = self.pending_of_owner.get(owner).copied().unwrap_or_default();
        let room = of_agent < limits.max_pending_per_agent
            && of_owner < MAX_PENDING_OF_OWNER
            && self.pending < MAX_PENDING;
        if room { Ok(()) } else { Err(TooMany) }
    }

    /// Returns the version in which a person has decided.
    pub fn decide(&self, id: Uuid, ruling: &Ruling, now: Timestamp) -> Result<Approval, Undecided> {
        let approval = self.by_id.get(&id).ok_or(Undecided::Unknown)?;
        match approval.status_at(now) {
            Status::Pending => {}
            over => return Err(Undecided::Over(over)),
        }
        if ruling.approve && approval.clipped && ruling.reason.is_none() {
            return Err(Undecided::NeedsReason);
        }
        let status = if ruling.approve { Status::Approved } else { Status::Denied };
        Ok(Approval {
            decided_at: Some(now),
            decided_by: Some(Arc::clone(&ruling.by)),
            reason: ruling.reason.clone(),
            uses_left: if ruling.approve { ruling.uses.clamp(1, MAX_USES) } else { 0 },
            ..approval.next(status)
        })
    }

    /// Returns the version in which one use is taken, if there is one.
    pub fn take(&self, id: Uuid, now: Timestamp) -> Option<Approval> {
        let approval = self.by_id.get(&id)?;
        if approval.status_at(now) != Status::Approved {
            return None;
        }
        let left = approval.uses_left.checked_sub(1)?;
        let status = if left == 0 { Status::Used } else { Status::Approved };
        Some(Approval { uses_left: left, paid: false, ..approval.next(status) })
    }

    /// Returns the version that ends an approval; none if it has ended already.
    pub fn end(&self, id: Uuid, status: Status) -> Option<Approval> {
        let approval = self.by_id.get(&id)?;
        approval.status.is_open().then(|| approval.next(status))
    }

    /// Returns the ids of open approvals for which `of` holds.
    pub fn open_ids(&self, of: impl Fn(&Approval) -> bool) -> Vec<Uuid> {
        let open = self.open.values().filter_map(|id| self.by_id.get(id));
        open.filter(|approval| of(approval)).map(|approval| approval.id).collect()
    }

    /// Returns up to `limit` approvals whose time has passed, in their last version.
    pub fn due(&self, now: Timestamp, limit: usize) -> Vec<Approval> {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now).take(limit);
        due.filter_map(|(_, id)| self.end(*id, Status::Expired)).collect()
    }

    /// Takes in a version that the store has, unless a later one is known.
    pub fn put(&mut self, approval: Approval) {
        if let Some(known) = self.by_id.get(&approval.id) {
            if known.version >= approval.version {
                return;
            }
            let known = known.clone();
            self.forget(&known);
        }
        self.remember(approval);
    }

    /// Puts an approval back as it was, where a step over several failed at a later one.
    pub fn restore(&mut self, approval: Approval) {
        if let Some(known) = self.by_id.get(&approval.id).cloned() {
            self.forget(&known);
        }
        self.remember(approval);
    }

    fn remember(&mut self, approval: Approval) {
        if approval.status.is_open() {
            self.open.insert(approval.digest, approval.id);
            let of_session = self.open_of.entry(approval.session).or_default();
            *of_session = of_session.saturating_add(1);
            self.expiries.insert((approval.expires_at, approval.id));
        } else {
            self.ended.insert((approval.expires_at, approval.id));
        }
        if approval.status == Status::Pending {
            self.pending = self.pending.saturating_add(1);
            let of_agent = self.pending_of.entry(approval.agent).or_default();
            *of_agent = of_agent.saturating_add(1);
            let of_owner = self.pending_of_owner.entry(Arc::clone(&approval.owner)).or_default();
            *of_owner = of_owner.saturating_add(1);
        }
        self.by_id.insert(approval.id, approval);
        while self.ended.len() > MAX_ENDED {
            let Some((_, oldest)) = self.ended.pop_first() else { break };
            self.by_id.remove(&oldest);
        }
    }

    fn forget(&mut self, approval: &Approval) {
        if approval.status.is_open() {
            less(&mut self.open_of, &approval.session);
        }
        if self.open.get(&approval.digest) == Some(&approval.id) {
            self.open.remove(&approval.digest);
        }
        self.expiries.remove(&(approval.expires_at, approval.id));
        self.ended.remove(&(approval.expires_at, approval.id));
        if approval.status == Status::Pending {
            self.pending = self.pending.saturating_sub(1);
            less(&mut self.pending_of, &approval.agent);
            less(&mut self.pending_of_owner, &approval.owner);
        }
        self.by_id.remove(&approval.id);
    }

    pub fn get(&self, id: Uuid) -> Option<&Approval> {
        self.by_id.get(&id)
    }

    /// Returns every approval, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Approval> {
        self.by_id.values()
    }

    /// Reports whether a session has open approvals.
    pub fn concerns(&self, session: SessionId) -> bool {
        self.open_of.contains_key(&session)
    }

    /// Reports whether the next use of the call with this digest was counted when it was asked about.
    pub fn is_paid(&self, digest: &Digest, now: Timestamp) -> bool {
        let found = self.open.get(digest).and_then(|id| self.by_id.get(id));
        found.is_some_and(|one| one.paid && one.status_at(now) == Status::Approved)
    }

    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    pub fn pending(&self) -> usize {
        self.pending
    }
}

/// Counts one less of `key`.
fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
