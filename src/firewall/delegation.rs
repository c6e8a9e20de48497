//! Rights of an agent with delegators: links that narrow and never widen.
//!
//! An agent to whom nothing was delegated has the rights that it is registered with. To a delegate
//! is left what it, each delegation in force to it and each agent above it have in common: of the
//! capabilities the intersection, of trust the lowest, of ends the earliest. With several delegations
//! all of those in force narrow it, so that its rights are never more than those of anyone above it.

use std::collections::BTreeSet;

use super::agent::{Agent, Delegation, TrustLevel};
use super::denial::{Code, Denial};
use super::time::Timestamp;

/// Rights of an agent, and the time until which they are certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    pub capabilities: BTreeSet<String>,
    pub trust: TrustLevel,
    pub ends_at: Option<Timestamp>,
}

/// Reason why an agent may not act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Lapse {
    #[error("this agent was deactivated or has expired")]
    Agent,
    #[error("the delegation that this agent acts under has expired")]
    Delegation,
    #[error(
        "an agent above this one in its delegation chain was deactivated or has expired, or what \
         was delegated to it has"
    )]
    Above,
}

impl From<Lapse> for Denial {
    fn from(lapse: Lapse) -> Self {
        Self::new(Code::AgentInactive, format!("{lapse}: ask your operator"))
    }
}

impl Delegation {
    /// Reports whether the delegation is in force at `now`, other delegations aside.
    pub fn in_force(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

impl Authorization {
    /// The authorization of an agent to whom nothing was delegated.
    pub fn alone(agent: &Agent) -> Self {
        Self {
            capabilities: agent.capabilities.iter().cloned().collect(),
            trust: agent.trust,
            ends_at: agent.expires_at,
        }
    }

    /// Returns the rights of `agent` under these delegations, each with the rights of its
    /// delegator.
    pub fn narrow<'s>(
        agent: &Agent,
        links: impl IntoIterator<Item = (&'s Delegation, &'s Self)>,
    ) -> Self {
        let mut authorization = Self::alone(agent);
        for (delegation, from) in links {
            authorization.capabilities.retain(|capability| {
                delegation.scopes.contains(capability) && from.capabilities.contains(capability)
            });
            authorization.trust = authorization.trust.min(from.trust);
            let ends = [authorization.ends_at, delegation.expires_at, from.ends_at];
            authorization.ends_at = ends.into_iter().flatten().min();
        }
        authorization
    }

    /// The agent as policies see it: what it is registered as, narrowed to this authorization.
    pub fn apply(&self, agent: &Agent) -> Agent {
        let mut narrowed = agent.clone();
        narrowed.capabilities.retain(|capability| self.capabilities.contains(capability));
        narrowed.trust = narrowed.trust.min(self.trust);
        narrowed.expires_at = [narrowed.expires_at, self.ends_at].into_iter().flatten().min();
        narrowed
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::firewall::agent::AgentId;
    use crate::testkit;

    fn agent(capabilities: &[&str], trust: TrustLevel, expires_at: Option<i64>) -> Agent {
        Agent {
            capabilities: capabilities.iter().map(|&c| c.to_owned()).collect(),
            trust,
            expires_at: expires_at.map(Timestamp),
            ..testkit::agent(AgentId::random())
        }
    }

    fn delegation(scopes: &[&str], expires_at: Option<i64>) -> Delegation {
        Delegation {
            id: Uuid::new_v4(),
            from: AgentId::random(),
            to: AgentId::random(),
            scopes: scopes.iter().map(|&c| c.to_owned()).collect(),
            created_at: Timestamp(0),
            expires_at: expires_at.map(Timestamp),
        }
    }

    #[test]
    fn alone_an_agent_is_what_it_is_registered_as() {
        let alone = agent(&["b", "a"], TrustLevel::Verified, Some(7));
        assert_eq!(Authorization::narrow(&alone, []), Authorization::alone(&alone));
        assert_eq!(Authorization::alone(&alone).apply(&alone), alone);
    }

    #[test]
    fn each_link_takes_away_and_none_adds() {
        let low = agent(&["c", "b", "a"], TrustLevel::Trusted, None);
        let above = Authorization::alone(&agent(&["a", "b", "d"], TrustLevel::Basic, Some(90)));
        let link = delegation(&["b", "a", "d"], Some(50));
        let narrowed = Authorization::narrow(&low, [(&link, &above)]).apply(&low);
        assert_eq!(narrowed.capabilities, ["b", "a"]);
        assert_eq!((narrowed.trust, narrowed.expires_at), (TrustLevel::Basic, Some(Timestamp(50))));
        assert_eq!((narrowed.id, narrowed.active), (low.id, true));

        let other = Authorization::alone(&agent(&["b"], TrustLevel::Trusted, Some(40)));
        let both = [(&link, &above), (&delegation(&["b"], None), &other)];
        let narrowed = Authorization::narrow(&low, both).apply(&low);
        assert_eq!(narrowed.capabilities, ["b"]);
        assert_eq!((narrowed.trust, narrowed.expires_at), (TrustLevel::Basic, Some(Timestamp(40))));

        let poor = agent(&[], TrustLevel::Untrusted, Some(10));
        let narrowed = Authorization::narrow(&poor, [(&link, &above)]).apply(&poor);
        assert_eq!(narrowed, poor, "a delegation lends nothing");
    }

    #[test]
    fn a_delegation_ends_at_its_end() {
        let link = delegation(&[], Some(50));
        assert!(link.in_force(Timestamp(49)) && !link.in_force(Timestamp(50)));
        assert!(delegation(&[], None).in_force(Timestamp(i64::MAX)));
    }
}
