//! Secrets to scrub from responses: all that were injected into a session's calls so far.
//!
//! A server may give back in one response what it was sent in another request, so a session's set
//! only grows while it lives; a response that is still under way is scrubbed of what was added since
//! it began. Responses to requests without a session are scrubbed of what any session of their agent
//! was given, or leaving the session out would be a way around. Secrets injected before a restart
//! are not known; a session from before counts as having been given all that it is authorised for.

use std::sync::Arc;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;

use super::PatternCache;
use crate::credentials::{Patterns, Secret, Vault};
use crate::firewall::agent::AgentId;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

/// Number of remembered values of the configured headers; a rotated value soon loses its worth.
const MOST_IN_HEADERS: usize = 64;

/// A set of secrets and the patterns that find them.
#[derive(Debug)]
struct Known {
    secrets: Mutex<Vec<Arc<Secret>>>,
    patterns: ArcSwap<Patterns>,
}

/// Secrets that a response must not show. May grow while the response passes.
#[derive(Clone, Debug)]
pub struct ScrubSet(Arc<Known>);

/// The secrets of every session that was given any.
pub struct ScrubSets {
    started: Timestamp,
    /// Values of the headers that every upstream request carries.
    always: Arc<Known>,
    by_session: DashMap<SessionId, Arc<Known>>,
    /// The sets of `by_session` by their agent, so that no agent's clean-up looks at the others'.
    sessions_of: DashMap<AgentId, Vec<(SessionId, Arc<Known>)>>,
    by_agent: DashMap<AgentId, Arc<Known>>,
    cache: PatternCache,
    /// Sets of sessions that clean-ups have looked at.
    #[cfg(test)]
    looked_at: std::sync::atomic::AtomicUsize,
}

impl Known {
    fn of(secrets: Vec<Arc<Secret>>, cache: &PatternCache) -> Self {
        let patterns = ArcSwap::new(cache.get(&secrets));
        Self { secrets: Mutex::new(secrets), patterns }
    }

    fn secrets(&self) -> Vec<Arc<Secret>> {
        self.secrets.lock().clone()
    }

    /// Adds what is not there yet, and forgets the oldest beyond `most`.
    fn grow(&self, more: &[Arc<Secret>], most: usize, cache: &PatternCache) {
        if more.is_empty() {
            return;
        }
        let mut secrets = self.secrets.lock();
        if merge(&mut secrets, more) {
            let surplus = secrets.len().saturating_sub(most);
            secrets.drain(..surplus);
            self.patterns.store(cache.get(&secrets));
        }
    }
}

/// Appends those of `more` that are not in `secrets` by their value; says whether there were any.
fn merge(secrets: &mut Vec<Arc<Secret>>, more: &[Arc<Secret>]) -> bool {
    let before = secrets.len();
    for secret in more {
        let same = |known: &Arc<Secret>| {
            Arc::ptr_eq(known, secret) || known.value.expose() == secret.value.expose()
        };
        if !secrets.iter().any(same) {
            secrets.push(Arc::clone(secret));
        }
    }
    secrets.len() > before
}

impl ScrubSet {
    /// Returns the current patterns.
    pub fn patterns(&self) -> Arc<Patterns> {
        self.0.patterns.load_full()
    }

    /// Returns the current patterns if they differ from `before`.
    pub fn newer(&self, before: &Arc<Patterns>) -> Option<Arc<Patterns>> {
        let now = self.0.patterns.load();
        (!Arc::ptr_eq(&now, before)).then(|| Arc::clone(&now))
    }
}

impl ScrubSets {
    /// `headers`: what every upstream request carries.
    pub fn new(headers: Vec<Arc<Secret>>, started: Timestamp) -> Self {
        let cache = PatternCache::default();
        let always = Arc::new(Known::of(headers, &cache));
        Self {
            started,
            always,
            by_session: DashMap::new(),
            sessions_of: DashMap::new(),
            by_agent: DashMap::new(),
            cache,
            #[cfg(test)]
            looked_at: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    /// Adds what a call of a session injects and gives what its response is scrubbed of; nothing if
    /// there is nothing to look for, and never will be.
    pub fn add(
        &self,
        order: &WorkOrder,
        secrets: &[Arc<Secret>],
        vault: &Vault,
    ) -> Option<ScrubSet> {
        if order.grants.credentials.is_empty() {
            let nothing = self.always.patterns.load().is_empty();
            return (!nothing).then(|| ScrubSet(Arc::clone(&self.always)));
        }
        let found = self.by_session.get(&order.id).map(|known| Arc::clone(&known));
        let known = found.unwrap_or_else(|| self.first_seen(order, vault));
        // First the session's, then the agent's: see `retain`.
        known.grow(secrets, usize::MAX, &self.cache);
        if !secrets.is_empty() {
            self.of_agent(order.agent).grow(secrets, usize::MAX, &self.cache);
        }
        Some(ScrubSet(known))
    }

    /// Returns the secrets to scrub from the response to a request without a session.
    pub fn without_session(&self, agent: AgentId, vault: &Vault) -> Option<ScrubSet> {
        let nothing = vault.is_empty()
            && self.always.patterns.load().is_empty()
            && !self.by_agent.contains_key(&agent);
        (!nothing).then(|| ScrubSet(self.of_agent(agent)))
    }

    /// From now on the configured headers carry these.
    pub fn in_headers(&self, secrets: &[Arc<Secret>]) {
        // What is made from now on starts with them; what there is gets them.
        self.always.grow(secrets, MOST_IN_HEADERS, &self.cache);
        for known in &self.by_session {
            known.grow(secrets, usize::MAX, &self.cache);
        }
        for known in &self.by_agent {
            known.grow(secrets, usize::MAX, &self.cache);
        }
    }

    fn first_seen(&self, order: &WorkOrder, vault: &Vault) -> Arc<Known> {
        let from_before = order.created_at < self.started;
        let earlier = order.grants.credentials.iter().filter(|_| from_before);
        let earlier: Vec<_> = earlier.filter_map(|name| vault.get(name)).cloned().collect();
        let known = {
            let known = self.by_session.entry(order.id).or_insert_with(|| {
                let known = Arc::new(Known::of(self.always.secrets(), &self.cache));
                let mut of_agent = self.sessions_of.entry(order.agent).or_default();
                of_agent.push((order.id, Arc::clone(&known)));
                known
            });
            Arc::clone(&known)
        };
        known.grow(&earlier, usize::MAX, &self.cache);
        if !earlier.is_empty() {
            self.of_agent(order.agent).grow(&earlier, usize::MAX, &self.cache);
        }
        known
    }

    fn of_agent(&self, agent: AgentId) -> Arc<Known> {
        let known = self
            .by_agent
            .entry(agent)
            .or_insert_with(|| Arc::new(Known::of(self.always.secrets(), &self.cache)));
        Arc::clone(&known)
    }

    /// Forgets the sessions that are gone, and what only they were given.
    pub fn retain(&self, lives: impl Fn(SessionId) -> bool) {
        self.by_session.retain(|id, _| lives(*id));
        self.sessions_of.retain(|_, sessions| {
            sessions.retain(|(id, _)| lives(*id));
            !sessions.is_empty()
        });
        // While a response under way watches a set, the set must stay the one that grows.
        self.by_agent.retain(|agent, known| {
            self.sessions_of.contains_key(agent) || Arc::strong_count(known) > 1
        });
        let agents: Vec<_> =
            self.by_agent.iter().map(|of| (*of.key(), Arc::clone(of.value()))).collect();
        for (agent, known) in agents {
            // A call that adds to its session while these are gathered waits here to add to the
            // agent, so what it adds is kept either way.
            let mut secrets = known.secrets.lock();
            let mut left = self.always.secrets();
            for (_, of_session) in self.sessions_of.get(&agent).iter().flat_map(|of| of.iter()) {
                merge(&mut left, &of_session.secrets());
                #[cfg(test)]
                self.looked_at.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            if left.len() < secrets.len() {
                *secrets = left;
                known.patterns.store(self.cache.get(&secrets));
            }
        }
        self.cache.forget_unused();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Content, Scrubber};
    use crate::firewall::agent::AgentId;
    use crate::firewall::granted::Grants;
    use crate::testkit;

    fn order(created_at: Timestamp) -> WorkOrder {
        let credentials = testkit::names(&["a", "b"]);
        WorkOrder {
            grants: Arc::new(Grants { credentials, ..Grants::default() }),
            ..testkit::order_for(AgentId::random(), created_at, 0, &[])
        }
    }

    fn scrubs(watch: Option<&ScrubSet>, text: &'static str) -> bool {
        let Some(watch) = watch else { return false };
        let mut scrubber = Scrubber::new(watch.patterns(), Content::Other);
        let mut out = scrubber.push(text.as_bytes().into()).to_vec();
        out.extend_from_slice(&scrubber.finish());
        out != text.as_bytes()
    }

    fn vault() -> Vault {
        let secret = |name, value| Secret::plain(name, value);
        Vault::new([secret("a", "alpha-secret"), secret("b", "beta-secret")]).unwrap()
    }

    fn injected() -> ScrubSets {
        ScrubSets::new(vec![Arc::new(Secret::plain("h", "header-secret"))], Timestamp(5))
    }

    #[test]
    fn what_was_injected_once_is_scrubbed_from_then_on() {
        let (vault, injected) = (vault(), injected());
        let a = vault.get("a").unwrap().clone();
        let new = order(Timestamp(6));
        let before = injected.add(&new, &[], &vault);
        assert!(!scrubs(before.as_ref(), "alpha-secret"));
        assert!(scrubs(before.as_ref(), "header-secret"));
        assert!(scrubs(injected.add(&new, &[a], &vault).as_ref(), "alpha-secret"));
        let later = injected.add(&new, &[], &vault);
        assert!(scrubs(later.as_ref(), "alpha-secret") && !scrubs(later.as_ref(), "beta-secret"));
        assert!(scrubs(before.as_ref(), "alpha-secret"), "a response under way is scrubbed of it");
        let from_before = injected.add(&order(Timestamp(4)), &[], &vault);
        assert!(scrubs(from_before.as_ref(), "beta-secret"));
        injected.retain(|_| false);
        assert!(!scrubs(injected.add(&new, &[], &vault).as_ref(), "alpha-secret"));
    }

    #[test]
    fn leaving_the_session_out_is_no_way_around() {
        let (vault, injected) = (vault(), injected());
        let a = vault.get("a").unwrap().clone();
        let (ours, theirs) = (order(Timestamp(6)), order(Timestamp(6)));
        let under_way = injected.without_session(ours.agent, &vault);
        injected.add(&ours, &[a], &vault);
        assert!(scrubs(under_way.as_ref(), "alpha-secret"));
        injected.retain(|id| id == ours.id);
        let without = |agent| injected.without_session(agent, &vault);
        assert!(scrubs(without(ours.agent).as_ref(), "alpha-secret"));
        assert!(!scrubs(without(theirs.agent).as_ref(), "alpha-secret"));
        assert!(scrubs(without(theirs.agent).as_ref(), "header-secret"));
        injected.retain(|_| false);
        assert!(!scrubs(without(ours.agent).as_ref(), "alpha-secret"));
    }

    #[test]
    fn forgetting_looks_at_each_session_once_however_many_agents_there_are() {
        let vault = vault();
        let a = vault.get("a").unwrap().clone();
        let injected = injected();
        for _ in 0..1_000 {
            injected.add(&order(Timestamp(6)), std::slice::from_ref(&a), &vault);
        }
        injected.retain(|_| true);
        assert_eq!(injected.looked_at.load(std::sync::atomic::Ordering::Relaxed), 1_000);
    }

    #[test]
    fn a_header_that_changes_is_scrubbed_in_both_values() {
        let (vault, injected) = (vault(), injected());
        let mut none_authorised = order(Timestamp(6));
        none_authorised.grants = Arc::default();
        let watches = [
            injected.add(&order(Timestamp(6)), &[], &vault),
            injected.add(&none_authorised, &[], &vault),
            injected.without_session(none_authorised.agent, &vault),
        ];
        injected.in_headers(&[Arc::new(Secret::plain("h", "header-rotated"))]);
        for watch in &watches {
            assert!(scrubs(watch.as_ref(), "header-rotated"));
            assert!(scrubs(watch.as_ref(), "header-secret"));
        }
        for n in 0..2 * MOST_IN_HEADERS {
            injected.in_headers(&[Arc::new(Secret::plain("h", format!("header-{n}-value")))]);
        }
        assert_eq!(injected.always.secrets().len(), MOST_IN_HEADERS);
        let silent = ScrubSets::new(Vec::new(), Timestamp(5));
        assert!(silent.add(&none_authorised, &[], &vault).is_none());
        assert!(silent.without_session(AgentId::random(), &Vault::default()).is_none());
    }
}
