//! Agents that are registered when a valid token of theirs is first seen, where an issuer's
//! configuration allows it.
//!
//! Such an agent is untrusted, has no capabilities and can do nothing before an operator opens a
//! session for it. Only an id that was never registered is taken: an agent that was deactivated
//! stays so, even after it was forgotten. The agents of one issuer that are kept are capped, over all
//! restarts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::config;
use crate::firewall::agent::{Agent, AgentId, Principal, TrustLevel};
use crate::firewall::time::Timestamp;
use crate::registry::{NewAgent, Registry};
use crate::store::StoreError;

/// The longest subject that becomes an agent's owner.
const MAX_OWNER_BYTES: usize = 256;

/// Issuers that may register agents, and the number they registered.
pub struct Enrolment {
    issuers: HashMap<String, Quota>,
    /// One registration at a time, so that no id is registered twice and the cap is exact.
    turn: Semaphore,
}

struct Quota {
    /// `model` of the registered agents, by which they are counted after a restart.
    mark: String,
    max: usize,
    used: AtomicUsize,
}

impl Enrolment {
    pub fn new(issuers: &[config::Issuer], registry: &Registry) -> Self {
        let allowed = issuers.iter().filter_map(|issuer| Some((issuer, issuer.auto_register?)));
        let mut issuers: HashMap<_, _> = allowed
            .map(|(issuer, max)| {
                let mark = format!("auto:{}", issuer.name);
                (issuer.issuer_url.clone(), Quota { mark, max, used: AtomicUsize::new(0) })
            })
            .collect();
        if !issuers.is_empty() {
            let mut counts: HashMap<String, usize> = HashMap::new();
            for agent in registry.list(None, usize::MAX) {
                *counts.entry(agent.model.clone()).or_default() += 1;
            }
            for quota in issuers.values_mut() {
                *quota.used.get_mut() = counts.get(&quota.mark).copied().unwrap_or(0);
            }
        }
        Self { issuers, turn: Semaphore::new(1) }
    }

    /// Counts an agent that another node has registered, if an issuer brought it in. Nodes that do so
    /// at the same instant may pass the cap by one each.
    pub fn enrolled_elsewhere(&self, agent: &Agent) {
        if let Some(quota) = self.issuers.values().find(|quota| quota.mark == agent.model) {
            quota.used.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Frees the place of an agent that was forgotten, if an issuer brought it in.
    pub fn purged(&self, agent: &Agent) {
        if let Some(quota) = self.issuers.values().find(|quota| quota.mark == agent.model) {
            let fewer = |used: usize| Some(used.saturating_sub(1));
            // With a closure that always gives a number this cannot fail.
            let _before = quota.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        }
    }

    /// Checks whether any issuer may bring in agents.
    pub fn is_allowed(&self) -> bool {
        !self.issuers.is_empty()
    }

    /// Registers the agent that a verified token names; `None` if this is not allowed.
    pub async fn enrol(
        &self,
        registry: &Registry,
        id: AgentId,
        principal: &Principal,
        now: Timestamp,
    ) -> Result<Option<Arc<Agent>>, StoreError> {
        let Some(quota) = self.issuers.get(&principal.issuer) else { return Ok(None) };
        let owner = &*principal.subject;
        if owner.len() > MAX_OWNER_BYTES || owner.chars().any(char::is_control) {
            return Ok(None);
        }
        let _turn = self.turn.acquire().await;
        if let Some(agent) = registry.agent(id) {
            return Ok(Some(agent));
        }
        if quota.used.load(Ordering::Relaxed) >= quota.max {
            return Ok(None);
        }
        let new = NewAgent {
            owner: owner.to_owned(),
            model: quota.mark.clone(),
            capabilities: Vec::new(),
            trust: TrustLevel::Untrusted,
            expires_at: None,
            registered_by: None,
        };
        let agent = registry.register_as(id, new, now).await?;
        let used = quota.used.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        info!(agent = %id, issuer = principal.issuer, used, "agent registered on first sight");
        if used == quota.max {
            warn!(issuer = principal.issuer, used, "the issuer can register no more agents");
        }
        Ok(Some(agent))
    }
}
