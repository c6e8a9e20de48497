//! The policy language: which call is allowed, refused, or put before a person (contract 10).
//!
//! Of all policies that match a call the one with the highest score speaks; at equal score deny
//! beats escalate beats allow, then the earlier one does. If none matches, the call is refused.
//! What is in doubt is decided for the refusal: see [`evaluate`].

mod constraint;
mod error;
mod evaluate;
mod explain;
mod index;
mod model;
mod number;
mod read;
mod schema;
pub mod uri;
pub mod words;

use std::cmp::Reverse;
use std::collections::BTreeSet;

pub use error::PolicyError;
use evaluate::{Rank, Scopes};
pub use explain::{Explanation, TraceEntry};
use index::{Index, best_rank};
use model::Name;
pub use model::{Effect, Policy};
pub use schema::json_schema;

use super::agent::{Agent, Principal};
use super::call::Place;
use crate::json;

/// One file of policies.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

/// Who asks, and for what task.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub agent: &'a Agent,
    pub principal: &'a Principal,
    /// The session's declared intent; none without a session.
    pub intent: Option<&'a str>,
}

/// What a call touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Tool(&'a str),
    /// A tool of one of several upstreams.
    ToolAt(Place<'a>, &'a str),
    Resource(&'a str),
    Prompt(&'a str),
    Method(&'a str),
}

impl<'a> Target<'a> {
    pub fn name(self) -> &'a str {
        match self {
            Self::Tool(name)
            | Self::ToolAt(_, name)
            | Self::Resource(name)
            | Self::Prompt(name)
            | Self::Method(name) => name,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Tool(_) | Self::ToolAt(..) => "tool",
            Self::Resource(_) => "resource",
            Self::Prompt(_) => "prompt",
            Self::Method(_) => "method",
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub target: Target<'a>,
    /// The arguments of a tool call.
    pub arguments: Option<json::Value<'a>>,
}

/// What the policies say of a call.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'p> {
    Allow(&'p Policy),
    Deny(&'p Policy),
    Escalate(&'p Policy),
    /// No policy matches: refused.
    NoMatch,
}

impl<'p> Decision<'p> {
    fn by(policy: Option<&'p Policy>) -> Self {
        match policy.map(|policy| (policy.effect, policy)) {
            Some((Effect::Allow, policy)) => Self::Allow(policy),
            Some((Effect::Deny, policy)) => Self::Deny(policy),
            Some((Effect::Escalate, policy)) => Self::Escalate(policy),
            None => Self::NoMatch,
        }
    }

    /// The policy that spoke.
    pub fn policy(self) -> Option<&'p Policy> {
        match self {
            Self::Allow(policy) | Self::Deny(policy) | Self::Escalate(policy) => Some(policy),
            Self::NoMatch => None,
        }
    }
}

/// All policies in force.
#[derive(Debug)]
pub struct PolicySet {
    policies: Vec<Policy>,
    index: Index,
    version: String,
    scopes_asked: BTreeSet<String>,
}

impl PolicySet {
    /// Reads files as one set, or reports every mistake in them.
    pub fn parse(sources: &[Source<'_>]) -> Result<Self, Vec<PolicyError>> {
        let (policies, errors) = read::read(sources);
        if errors.is_empty() { Ok(Self::of(policies, sources)) } else { Err(errors) }
    }

    /// The set that refuses everything.
    pub fn empty() -> Self {
        Self::of(Vec::new(), &[])
    }

    fn of(policies: Vec<Policy>, sources: &[Source<'_>]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for source in sources {
            hasher.update(source.text.as_bytes());
        }
        let mut version = hasher.finalize().to_hex().to_string();
        version.truncate(16);
        let allows = policies.iter().filter(|policy| policy.effect == Effect::Allow);
        let scopes_asked = allows.flat_map(|policy| &policy.principal_match.scopes).cloned();
        let scopes_asked = scopes_asked.collect();
        Self { index: Index::of(&policies), policies, version, scopes_asked }
    }

    pub fn len(&self) -> usize {
        self.policies.len()
    }

    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The first 16 hex digits of BLAKE3 over the files' texts, one after the other.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Decides a call.
    pub fn evaluate(&self, facts: &Facts<'_>, asked: &Asked<'_>) -> Decision<'_> {
        Decision::by(self.best(asked.target, facts, |policy| {
            policy.is_about(facts, Scopes::Needed).is_ok() && policy.is_met(asked).is_ok()
        }))
    }

    /// Decides a call by asking every policy: the reference that `evaluate` is tested against.
    pub fn evaluate_plainly(&self, facts: &Facts<'_>, asked: &Asked<'_>) -> Decision<'_> {
        let matching = self.policies.iter().enumerate().filter(|(_, policy)| {
            policy.covers(asked.target)
                && policy.is_about(facts, Scopes::Needed).is_ok()
                && policy.is_met(asked).is_ok()
        });
        let best = matching.max_by_key(|(place, policy)| rank(policy, facts, *place));
        Decision::by(best.map(|(_, policy)| policy))
    }

    /// An allow policy for this agent, principal and intent, whatever it allows and however: what
    /// protocol methods need.
    pub fn any_allow(&self, facts: &Facts<'_>) -> Option<&Policy> {
        let mut found = None;
        self.index.allows(facts, &mut |list| {
            if found.is_none() {
                let policies = list.iter().filter_map(|place| self.policies.get(*place));
                found = { policies }.find(|policy| policy.is_about(facts, Scopes::Needed).is_ok());
            }
        });
        found
    }

    /// Looks for arguments that some policy would allow, every policy being within reach.
    pub fn could_allow(&self, facts: &Facts<'_>, target: Target<'_>) -> bool {
        self.would_allow(facts, target, |_| true)
    }

    /// Looks for arguments that a policy `within` reach would allow.
    ///
    /// Constraints may be met or evaded by the right arguments. So a policy that has some decides
    /// nothing for the lower-ranked ones, and one that has none decides for all of them.
    pub fn would_allow(
        &self,
        facts: &Facts<'_>,
        target: Target<'_>,
        within: impl Fn(&Policy) -> bool,
    ) -> bool {
        let speaks = |policy: &Policy| match target {
            Target::Tool(_) | Target::ToolAt(..) => {
                policy.parameter_constraints.is_empty()
                    || (policy.effect == Effect::Allow && within(policy))
            }
            Target::Resource(_) | Target::Prompt(_) | Target::Method(_) => {
                policy.is_met(&Asked { target, arguments: None }).is_ok()
            }
        };
        let best = self.best(target, facts, |policy| {
            speaks(policy) && policy.is_about(facts, Scopes::Needed).is_ok()
        });
        best.is_some_and(|policy| policy.effect == Effect::Allow && within(policy))
    }

    /// The scopes of the allow policy that would decide a refused call if only the token had them.
    pub fn missing_scopes(&self, facts: &Facts<'_>, asked: &Asked<'_>) -> Option<&[String]> {
        let best = self.best(asked.target, facts, |policy| {
            policy.is_about(facts, Scopes::Granted).is_ok() && policy.is_met(asked).is_ok()
        })?;
        let lacks_some = best.is_about(facts, Scopes::Needed).is_err();
        (best.effect == Effect::Allow && lacks_some).then_some(&best.principal_match.scopes)
    }

    /// The tools that a policy names exactly: safe as labels of metrics.
    pub fn named_tools(&self) -> impl Iterator<Item = &str> {
        let names = self.policies.iter().flat_map(|policy| &policy.allowed_tools);
        let exact: BTreeSet<&str> = names
            .filter_map(|name| match name {
                Name::Exact(name) => Some(&**name),
                Name::Prefix(_) => None,
            })
            .collect();
        exact.into_iter()
    }

    /// The scopes that allow policies ask for: what a client may need to request.
    pub fn scopes_asked(&self) -> impl Iterator<Item = &str> {
        self.scopes_asked.iter().map(String::as_str)
    }

    /// The policy of the highest rank that `fits`, among those that name the target.
    fn best(
        &self,
        target: Target<'_>,
        facts: &Facts<'_>,
        fits: impl Fn(&Policy) -> bool,
    ) -> Option<&Policy> {
        let mut best: Option<(Rank, &Policy)> = None;
        self.index.lists(target, facts, &mut |list| {
            for &place in list {
                let Some(policy) = self.policies.get(place) else { continue };
                let beaten = best.map(|(rank, _)| rank);
                // The list is sorted: what follows can reach no more than this.
                if beaten.is_some() && best_rank(&self.policies, place) <= beaten {
                    break;
                }
                let rank = rank(policy, facts, place);
                if Some(rank) > beaten && fits(policy) {
                    best = Some((rank, policy));
                }
            }
        });
        best.map(|(_, policy)| policy)
    }
}

fn rank(policy: &Policy, facts: &Facts<'_>, place: usize) -> Rank {
    (policy.score_for(facts), policy.effect, Reverse(place))
}

#[cfg(test)]
mod tests;
