//! Recent decisions of this node, for operators who look: a ring that is bounded in count and bytes.
//!
//! The audit log has every decision for ever; this has the last few thousand at hand, and counts how
//! often each policy decided. A decision costs one short lock and a few small copies, whether or not
//! anybody looks. Readers ask for what came after a number they know, so that a decision waits for
//! no reader and no reader can fall behind by more than the ring.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use smol_str::SmolStr;
use uuid::Uuid;

use crate::audit::record::{Decision, Entry};
use crate::firewall::agent::AgentId;
use crate::firewall::session::SessionId;
use crate::firewall::time::{Mono, Timestamp};
use crate::saturate::SaturatingFrom as _;

/// Decisions that are kept.
pub const KEPT: usize = 4_096;
/// Longest text of a decision that is kept; the audit log clips later.
const MAX_TEXT_BYTES: usize = 128;
/// Policies whose hits are counted: more than a set in force has, over some reloads.
const MAX_COUNTED: usize = 65_536;
/// Shortest time between two refusals of unauthenticated requests that are kept.
const STRANGERS_EVERY_US: u64 = 50_000;

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub at: Timestamp,
    pub request_id: Uuid,
    pub agent: Option<AgentId>,
    pub session: Option<SessionId>,
    /// Method of a request that names no tool.
    pub method: Option<SmolStr>,
    pub tool: Option<SmolStr>,
    /// Number of further tools that a batch named.
    pub more_tools: usize,
    pub upstream: Option<Arc<str>>,
    pub decision: Decision,
    pub code: Option<&'static str>,
    pub stage: Option<&'static str>,
    pub policy: Option<Arc<str>>,
    pub flags: Box<[&'static str]>,
    pub approval: Option<Uuid>,
    /// Time that the decision took.
    pub took_us: u64,
}

impl Seen {
    /// Copies what is kept of a request that was decided.
    pub fn of(entry: &Entry, took_us: u64) -> Self {
        let clipped = |text: &SmolStr| {
            let end = text.floor_char_boundary(MAX_TEXT_BYTES);
            if end == text.len() {
                text.clone()
            } else {
                text.get(..end).unwrap_or_default().into()
            }
        };
        Self {
            at: entry.timestamp,
            request_id: entry.request_id,
            agent: entry.agent_id,
            session: entry.task_session_id,
            method: entry.mcp_method.as_ref().filter(|_| entry.tool_called.is_none()).map(clipped),
            tool: entry.tool_called.as_ref().map(clipped),
            more_tools: entry.tools_called.len().saturating_sub(1),
            upstream: entry.upstream.clone(),
            decision: entry.decision,
            code: entry.denial_code,
            stage: entry.stage,
            policy: entry.policy_matched.clone(),
            flags: entry.anomaly_flags.as_slice().into(),
            approval: entry.approval.as_ref().map(|approval| approval.id),
            took_us,
        }
    }
}

/// The last decisions and the hits of policies.
#[derive(Debug, Default)]
pub struct Recent {
    // INVARIANT: every change of the state is complete before anything can panic.
    state: Mutex<Decisions>,
}

#[derive(Debug, Default)]
struct Decisions {
    /// Oldest first; the last one has the number `next - 1`.
    ring: VecDeque<Arc<Seen>>,
    next: u64,
    hits: HashMap<Arc<str>, u64>,
    stranger_at: Option<Mono>,
}

impl Recent {
    /// Keeps a decision in place of the oldest one.
    pub fn note(&self, seen: Seen, now: Mono) {
        let mut state = self.state.lock();
        if let Some(policy) = &seen.policy {
            state.count(policy);
        }
        if seen.agent.is_none() && !state.stranger_has_room(now) {
            return;
        }
        let gone = state.push(seen);
        state.next = state.next.saturating_add(1);
        drop(state);
        // Freed without the lock.
        drop(gone);
    }

    /// Returns the number that the next decision gets.
    pub fn next(&self) -> u64 {
        self.state.lock().next
    }

    /// Returns up to `limit` of the decisions from number `from` on, the oldest first, and the number
    /// to go on from.
    pub fn since(&self, from: u64, limit: usize) -> (Vec<Arc<Seen>>, u64) {
        let state = self.state.lock();
        let kept = u64::saturating_from(state.ring.len());
        let first = state.next.saturating_sub(kept);
        let skip = usize::saturating_from(from.saturating_sub(first));
        let found: Vec<_> = state.ring.iter().skip(skip).take(limit).cloned().collect();
        let taken = u64::saturating_from(found.len());
        (found, from.max(first).saturating_add(taken).min(state.next))
    }

    /// Returns up to `limit` decisions for which `wanted` holds, the newest first.
    pub fn newest(&self, limit: usize, wanted: impl Fn(&Seen) -> bool) -> Vec<Arc<Seen>> {
        let all: Vec<_> = self.state.lock().ring.iter().rev().cloned().collect();
        all.into_iter().filter(|seen| wanted(seen)).take(limit).collect()
    }

    /// Returns how often each policy decided since the start.
    pub fn hits(&self) -> HashMap<Arc<str>, u64> {
        self.state.lock().hits.clone()
    }
}

impl Decisions {
    /// Keeps a decision, in the memory of the oldest one unless somebody reads that, and returns the one that is gone.
    fn push(&mut self, mut seen: Seen) -> Option<Seen> {
        let oldest = if self.ring.len() >= KEPT { self.ring.pop_front() } else { None };
        if let Some(mut oldest) = oldest
            && let Some(kept) = Arc::get_mut(&mut oldest)
        {
            std::mem::swap(kept, &mut seen);
            self.ring.push_back(oldest);
            return Some(seen);
        }
        self.ring.push_back(Arc::new(seen));
        None
    }

    fn count(&mut self, policy: &Arc<str>) {
        if let Some(hits) = self.hits.get_mut(policy) {
            *hits = hits.saturating_add(1);
        } else if self.hits.len() < MAX_COUNTED {
            self.hits.insert(Arc::clone(policy), 1);
        }
    }

    /// A flood from outside leaves room for the decisions about agents.
    fn stranger_has_room(&mut self, now: Mono) -> bool {
        let room = self.stranger_at.is_none_or(|last| now.since(last) >= STRANGERS_EVERY_US);
        if room {
            self.stranger_at = Some(now);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(n: u128, policy: Option<&str>) -> Seen {
        let mut entry = Entry::new(Timestamp(1), Uuid::from_u128(n), Decision::Allow);
        entry.agent_id = Some(AgentId::random());
        entry.policy_matched = policy.map(Arc::from);
        entry.tool_called = Some("ä".repeat(200).into());
        Seen::of(&entry, 1)
    }

    fn ids(found: &[Arc<Seen>]) -> Vec<u128> {
        found.iter().map(|seen| seen.request_id.as_u128()).collect()
    }

    #[test]
    fn the_ring_is_bounded_in_count_and_in_each_text() {
        let recent = Recent::default();
        for n in 0..10_000 {
            recent.note(seen(n, None), Mono(0));
        }
        assert_eq!(recent.next(), 10_000);
        let kept = recent.newest(usize::MAX, |_| true);
        assert_eq!((kept.len(), kept[0].request_id.as_u128()), (KEPT, 9_999));
        assert!(kept.iter().all(|one| one.tool.as_ref().unwrap().len() <= MAX_TEXT_BYTES));
    }

    #[test]
    fn a_reader_gets_each_decision_once_and_loses_only_what_the_ring_lost() {
        let recent = Recent::default();
        for n in 0..5 {
            recent.note(seen(n, None), Mono(0));
        }
        let (found, next) = recent.since(2, 2);
        assert_eq!((ids(&found), next), (vec![2, 3], 4));
        let (found, next) = recent.since(next, 100);
        assert_eq!((ids(&found), next), (vec![4], 5));
        assert_eq!(recent.since(next, 100), (Vec::new(), 5));
        for n in 5..10_000 {
            recent.note(seen(n, None), Mono(0));
        }
        let (found, next) = recent.since(next, 1);
        assert_eq!((ids(&found), next), (vec![10_000 - 4_096], 10_000 - 4_095));
    }

    #[test]
    fn hits_are_counted_for_each_policy() {
        let recent = Recent::default();
        for policy in [Some("a"), None, Some("b"), Some("a")] {
            recent.note(seen(1, policy), Mono(0));
        }
        let hits = recent.hits();
        assert_eq!((hits.get("a"), hits.get("b"), hits.len()), (Some(&2), Some(&1), 2));
    }

    #[test]
    fn a_flood_of_strangers_leaves_room_for_agents() {
        let recent = Recent::default();
        recent.note(seen(1, None), Mono(0));
        for n in 0..1_000_000 {
            recent.note(Seen { agent: None, ..seen(2, None) }, Mono(n));
        }
        assert_eq!(recent.next(), 1 + 1_000_000 / STRANGERS_EVERY_US);
    }
}
