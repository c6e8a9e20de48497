//! Approvals that a node knows, by what they are looked for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::{
    Approval, ApprovalState, ApprovalStep, Digest, MAX_PENDING, MAX_PENDING_OF_OWNER, Ruling,
    Status, Undecided,
};
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;

/// Ended approvals that stay readable, and the bytes of their parameters in all.
const MAX_ENDED: usize = 10_000;
const MAX_ENDED_BYTES: usize = 64 << 20;
/// Time for which an ended approval stays readable after its expiry.
const KEPT_SECS: u64 = 86_400;

/// Limits of pending approvals.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub ttl_secs: u64,
    pub max_pending_per_agent: usize,
}

/// Result of looking for an approval of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Nobody was asked yet.
    Unknown,
    Pending(Uuid),
    Approved(Uuid),
    Denied(Uuid),
    /// Asked under another text of the policy.
    Outdated(Uuid),
}

/// Limit that keeps a call from being asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many approvals are pending")]
pub struct TooMany;

/// Approvals known to a node.
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
    ended_bytes: usize,
    /// Ended approvals that were too many, for the store to forget as well.
    evicted: Vec<Uuid>,
}

impl Book {
    /// Looks for an approval of the call with this digest, asked for by this text of a policy.
    pub fn look(&self, digest: &Digest, policy_text: &Digest, now: Timestamp) -> Lookup {
        let Some(approval) = self.open_by(digest) else { return Lookup::Unknown };
        match approval.status_at(now) {
            Status::Expired | Status::Used | Status::Void | Status::Withdrawn => Lookup::Unknown,
            _ if approval.policy_text != *policy_text => Lookup::Outdated(approval.id),
            Status::Pending => Lookup::Pending(approval.id),
            Status::Approved => Lookup::Approved(approval.id),
            Status::Denied => Lookup::Denied(approval.id),
        }
    }

    fn open_by(&self, digest: &Digest) -> Option<&Approval> {
        self.open.get(digest).and_then(|id| self.by_id.get(id))
    }

    /// Checks that one more approval of this agent and owner may wait, besides `more` of them.
    pub fn has_room(
        &self,
        agent: AgentId,
        owner: &str,
        more: usize,
        limits: Limits,
    ) -> Result<(), TooMany> {
        let of_agent = self.pending_of.get(&agent).copied().unwrap_or_default();
        let of_owner = self.pending_of_owner.get(owner).copied().unwrap_or_default();
        let room = of_agent.saturating_add(more) < limits.max_pending_per_agent
            && of_owner.saturating_add(more) < MAX_PENDING_OF_OWNER
            && self.pending.saturating_add(more) < MAX_PENDING;
        if room { Ok(()) } else { Err(TooMany) }
    }

    /// Returns the step in which a person decides.
    pub fn decide(
        &self,
        id: Uuid,
        ruling: &Ruling,
        now: Timestamp,
    ) -> Result<ApprovalStep, Undecided> {
        self.by_id.get(&id).ok_or(Undecided::Unknown)?.decide(ruling, now)
    }

    /// Returns the steps that end the open approvals for which `of` holds.
    pub fn ends(&self, status: Status, of: impl Fn(&Approval) -> bool) -> Vec<ApprovalStep> {
        let open = self.open.values().filter_map(|id| self.by_id.get(id));
        open.filter(|approval| of(approval)).filter_map(|one| one.end(status)).collect()
    }

    /// Returns the steps that end up to `limit` approvals whose time has passed.
    pub fn due(&self, now: Timestamp, limit: usize) -> Vec<ApprovalStep> {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now).take(limit);
        let due = due.filter_map(|(_, id)| self.by_id.get(id));
        due.filter_map(|one| one.end(Status::Expired)).collect()
    }

    /// Takes in a version, unless a later one is known. Between two versions with one number, the
    /// one that refuses more counts.
    pub fn put(&mut self, approval: Approval) {
        if let Some(known) = self.by_id.get(&approval.id) {
            let is_newer = approval.version > known.version
                || approval.version == known.version && approval.is_stricter_than(known);
            if !is_newer {
                return;
            }
        }
        self.replace(approval);
    }

    /// Takes in a state, unless a later one is known; false if the approval is not known.
    pub fn put_state(&mut self, id: Uuid, state: ApprovalState) -> bool {
        let Some(known) = self.by_id.get(&id) else { return false };
        let next = known.clone().with(state);
        self.put(next);
        true
    }

    /// Takes in a version whatever is known.
    pub fn replace(&mut self, approval: Approval) {
        self.forget(approval.id);
        if approval.status.is_open() {
            self.open.insert(approval.digest, approval.id);
            let of_session = self.open_of.entry(approval.session).or_default();
            *of_session = of_session.saturating_add(1);
            self.expiries.insert((approval.expires_at, approval.id));
        } else {
            self.ended.insert((approval.expires_at, approval.id));
            self.ended_bytes = self.ended_bytes.saturating_add(approval.arguments.len());
        }
        if approval.status == Status::Pending {
            self.pending = self.pending.saturating_add(1);
            let of_agent = self.pending_of.entry(approval.agent).or_default();
            *of_agent = of_agent.saturating_add(1);
            let of_owner = self.pending_of_owner.entry(Arc::clone(&approval.owner)).or_default();
            *of_owner = of_owner.saturating_add(1);
        }
        self.by_id.insert(approval.id, approval);
        while self.ended.len() > MAX_ENDED || self.ended_bytes > MAX_ENDED_BYTES {
            let Some(&(_, oldest)) = self.ended.first() else { break };
            self.forget(oldest);
            self.evicted.push(oldest);
        }
    }

    /// Forgets an approval.
    pub fn forget(&mut self, id: Uuid) {
        let Some(approval) = self.by_id.remove(&id) else { return };
        if approval.status.is_open() {
            less(&mut self.open_of, &approval.session);
        }
        if self.open.get(&approval.digest) == Some(&id) {
            self.open.remove(&approval.digest);
        }
        self.expiries.remove(&(approval.expires_at, id));
        if self.ended.remove(&(approval.expires_at, id)) {
            self.ended_bytes = self.ended_bytes.saturating_sub(approval.arguments.len());
        }
        if approval.status == Status::Pending {
            self.pending = self.pending.saturating_sub(1);
            less(&mut self.pending_of, &approval.agent);
            less(&mut self.pending_of_owner, &approval.owner);
        }
    }

    /// Forgets ended approvals that are old or too many; returns up to `limit` of them, for the store
    /// to forget as well.
    pub fn sweep(&mut self, now: Timestamp, limit: usize) -> Vec<Uuid> {
        let old = self.ended.iter().take_while(|(at, _)| at.plus_secs(KEPT_SECS) <= now);
        let old: Vec<Uuid> = old.take(limit).map(|&(_, id)| id).collect();
        for &id in &old {
            self.forget(id);
        }
        self.evicted.extend(old);
        let rest = self.evicted.len().saturating_sub(limit);
        self.evicted.split_off(rest)
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
        let found = self.open_by(digest);
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
