//! Which secrets a session's responses are scrubbed of: all that were put into its calls so far.
//!
//! A server may give back in one response what it was sent in an earlier request, so the set only
//! grows while the session lives. What was injected before a restart is not known; a session from
//! before counts as having been given all that it is authorised for.

use std::sync::Arc;

use dashmap::DashMap;

use crate::credentials::{Patterns, Secret, Vault};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::secrets::PatternCache;

/// The secrets of one session and the patterns that find them.
#[derive(Clone)]
struct Known {
    secrets: Vec<Arc<Secret>>,
    patterns: Arc<Patterns>,
}

/// The secrets of every session that was given any.
pub struct Injected {
    started: Timestamp,
    /// Those that every upstream request carries.
    always: Known,
    by_session: DashMap<SessionId, Known>,
    cache: PatternCache,
}

impl Known {
    fn of(secrets: Vec<Arc<Secret>>, cache: &PatternCache) -> Self {
        let patterns = cache.get(&secrets);
        Self { secrets, patterns }
    }

    fn holds(&self, secret: &Arc<Secret>) -> bool {
        self.secrets.iter().any(|known| {
            Arc::ptr_eq(known, secret) || known.value.expose() == secret.value.expose()
        })
    }

    fn with(&self, more: &[Arc<Secret>], cache: &PatternCache) -> Option<Self> {
        let new: Vec<_> = more.iter().filter(|secret| !self.holds(secret)).cloned().collect();
        if new.is_empty() {
            return None;
        }
        Some(Self::of(self.secrets.iter().cloned().chain(new).collect(), cache))
    }
}

impl Injected {
    pub fn new(always: Vec<Arc<Secret>>, started: Timestamp) -> Self {
        let cache = PatternCache::default();
        let always = Known::of(always, &cache);
        Self { started, always, by_session: DashMap::new(), cache }
    }

    /// Adds what a call injects and gives what its response is scrubbed of; nothing if there is
    /// nothing to look for.
    pub(super) fn add(
        &self,
        order: Option<&WorkOrder>,
        secrets: &[Arc<Secret>],
        vault: &Vault,
    ) -> Option<Arc<Patterns>> {
        let patterns = match order {
            Some(order) => self.of_session(order, secrets, vault),
            None => self.always.patterns.clone(),
        };
        (!patterns.is_empty()).then_some(patterns)
    }

    fn of_session(
        &self,
        order: &WorkOrder,
        secrets: &[Arc<Secret>],
        vault: &Vault,
    ) -> Arc<Patterns> {
        if order.authorized_credentials.is_empty() {
            return self.always.patterns.clone();
        }
        if let Some(known) = self.by_session.get(&order.id)
            && secrets.iter().all(|secret| known.holds(secret))
        {
            return known.patterns.clone();
        }
        let from_before = order.created_at < self.started;
        let earlier = order.authorized_credentials.iter().filter(|_| from_before);
        let mut all: Vec<_> = earlier.filter_map(|name| vault.get(name)).cloned().collect();
        all.extend_from_slice(secrets);
        let mut known = self.by_session.entry(order.id).or_insert_with(|| self.always.clone());
        if let Some(grown) = known.with(&all, &self.cache) {
            *known = grown;
        }
        known.patterns.clone()
    }

    /// Forgets the sessions that are gone.
    pub fn retain(&self, lives: impl Fn(SessionId) -> bool) {
        self.by_session.retain(|id, _| lives(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Content, Scrubber};
    use crate::firewall::agent::AgentId;
    use crate::firewall::session::{IntentTier, Sensitivity};

    fn order(created_at: Timestamp) -> WorkOrder {
        WorkOrder {
            id: SessionId::random(),
            agent: AgentId::random(),
            declared_intent: "read".to_owned(),
            intent_tier: IntentTier::Read,
            authorized_tools: [].into(),
            authorized_resources: [].into(),
            authorized_prompts: [].into(),
            authorized_methods: [].into(),
            authorized_credentials: ["a".to_owned(), "b".to_owned()].into(),
            call_budget: 1,
            rate_limit: None,
            ceiling: Sensitivity::Internal,
            refusal_style: None,
            delegation_chain: [].into(),
            created_at,
            expires_at: created_at,
        }
    }

    fn scrubs(patterns: Option<&Arc<Patterns>>, text: &'static str) -> bool {
        let Some(patterns) = patterns else { return false };
        let mut scrubber = Scrubber::new(patterns.clone(), Content::Other);
        let mut out = scrubber.push(text.as_bytes().into()).to_vec();
        out.extend_from_slice(&scrubber.finish());
        out != text.as_bytes()
    }

    #[test]
    fn what_was_injected_once_is_scrubbed_from_then_on() {
        let secret = |name, value| Secret::plain(name, value);
        let vault = Vault::new([secret("a", "alpha-secret"), secret("b", "beta-secret")]).unwrap();
        let a = vault.get("a").unwrap().clone();
        let injected = Injected::new(vec![Arc::new(secret("h", "header-secret"))], Timestamp(5));
        let new = order(Timestamp(6));
        let before = injected.add(Some(&new), &[], &vault);
        assert!(!scrubs(before.as_ref(), "alpha-secret"));
        assert!(scrubs(before.as_ref(), "header-secret"));
        assert!(scrubs(injected.add(Some(&new), &[a], &vault).as_ref(), "alpha-secret"));
        let later = injected.add(Some(&new), &[], &vault);
        assert!(scrubs(later.as_ref(), "alpha-secret") && !scrubs(later.as_ref(), "beta-secret"));
        let from_before = injected.add(Some(&order(Timestamp(4))), &[], &vault);
        assert!(scrubs(from_before.as_ref(), "beta-secret"));
        injected.retain(|_| false);
        assert!(!scrubs(injected.add(Some(&new), &[], &vault).as_ref(), "alpha-secret"));
    }
}
