//! The policy language: which call is allowed, refused, or put before a person.
//!
//! The policy with the highest score among those that match a call decides; at equal score deny
//! beats escalate, escalate beats allow, and an earlier policy beats a later one. If none matches,
//! the call is refused. Doubt is decided for the refusal: see [`evaluate`].

mod bound;
mod constraint;
mod error;
mod evaluate;
mod explain;
mod index;
mod lint;
mod matcher;
mod memo;
mod model;
mod name;
mod path;
mod read;
mod regexes;
mod satisfaction;
mod schema;
mod shape;
mod summary;
mod wanted;
pub mod words;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub use error::PolicyError;
use evaluate::{Block, Fit, Mismatch, Question, Rank, Scopes};
pub use explain::{Explanation, TraceEntry};
use index::{Index, best_rank};
pub(super) use matcher::Hosts;
pub use model::{Effect, Policy};
pub use read::Limits;
pub use schema::json_schema;
pub use summary::{Difference, Summary};
use wanted::{Coverage, Wanted};

use super::agent::{Agent, Principal};
use super::call::UpstreamRef;
use crate::json;
use crate::saturate::SaturatingFrom as _;

/// One file of policies.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

/// Caller and task of a call.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub agent: &'a Agent,
    pub principal: &'a Principal,
    /// The session's declared intent; none without a session.
    pub intent: Option<&'a str>,
}

/// Target of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Tool(&'a str),
    /// A tool of the upstream that has it.
    ToolAt(UpstreamRef<'a>, &'a str),
    Resource(&'a str),
    /// All resources that a template can expand to.
    Template(&'a str),
    Prompt(&'a str),
    Method(&'a str),
}

impl<'a> Target<'a> {
    pub fn name(self) -> &'a str {
        match self {
            Self::Tool(name)
            | Self::ToolAt(_, name)
            | Self::Resource(name)
            | Self::Template(name)
            | Self::Prompt(name)
            | Self::Method(name) => name,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Tool(_) | Self::ToolAt(..) => "tool",
            Self::Resource(_) | Self::Template(_) => "resource",
            Self::Prompt(_) => "prompt",
            Self::Method(_) => "method",
        }
    }
}

/// Question to the policies.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub target: Target<'a>,
    /// The arguments of a tool call.
    pub arguments: Option<json::Value<'a>>,
    /// Answers of the client to questions of the server, by key (`@input.<key>`).
    pub inputs: Option<json::Value<'a>>,
}

impl<'a> Asked<'a> {
    /// A call without arguments.
    pub fn of(target: Target<'a>) -> Self {
        Self { target, arguments: None, inputs: None }
    }

    #[must_use]
    pub fn with_arguments(self, arguments: Option<json::Value<'a>>) -> Self {
        Self { arguments, ..self }
    }

    #[must_use]
    pub fn with_inputs(self, inputs: Option<json::Value<'a>>) -> Self {
        Self { inputs, ..self }
    }
}

/// Decision of the policies on a call.
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
    version: Arc<str>,
    scopes_asked: BTreeSet<String>,
    asks: bool,
    warnings: Vec<PolicyError>,
}

impl PolicySet {
    /// Reads files as one set, or reports every mistake in them. Names of upstreams are not checked.
    pub fn parse(sources: &[Source<'_>]) -> Result<Self, Vec<PolicyError>> {
        Self::parse_within(sources, &Limits::default())
    }

    /// Reads files as one set for an Arbiter with these limits.
    pub fn parse_within(
        sources: &[Source<'_>],
        limits: &Limits<'_>,
    ) -> Result<Self, Vec<PolicyError>> {
        let found = read::read(sources, limits);
        if !found.errors.is_empty() {
            return Err(found.errors);
        }
        Ok(Self { warnings: found.warnings, ..Self::of(found.policies, sources) })
    }

    /// The set that refuses everything.
    pub fn empty() -> Self {
        Self::of(Vec::new(), &[])
    }

    fn of(mut policies: Vec<Policy>, sources: &[Source<'_>]) -> Self {
        number_shared(&mut policies);
        let mut hasher = blake3::Hasher::new();
        for source in sources {
            hasher.update(source.text.as_bytes());
        }
        let mut version = hasher.finalize().to_hex().to_string();
        version.truncate(16);
        let allows = policies.iter().filter(|policy| policy.effect == Effect::Allow);
        let scopes_asked = allows.flat_map(|policy| &policy.principal_match.scopes).cloned();
        let scopes_asked = scopes_asked.collect();
        let asks = policies.iter().any(|policy| policy.effect == Effect::Escalate);
        let index = Index::of(&policies);
        let version = version.into();
        Self { index, policies, version, scopes_asked, asks, warnings: Vec::new() }
    }

    /// Oddities in the files that are no mistakes, with their lines.
    pub fn warnings(&self) -> &[PolicyError] {
        &self.warnings
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

    /// The version, for what outlives the set.
    pub fn shared_version(&self) -> Arc<str> {
        Arc::clone(&self.version)
    }

    /// Reports whether some call may need a person's approval.
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// Decides a call.
    pub fn evaluate(&self, facts: &Facts<'_>, asked: &Asked<'_>) -> Decision<'_> {
        let question = Question::new(facts, asked);
        Decision::by(
            self.decide(&question.wanted, facts, |policy| policy.fit(&question, Scopes::Needed)),
        )
    }

    /// Decides a call by asking every policy: the reference that `evaluate` is tested against.
    pub fn evaluate_plainly(&self, facts: &Facts<'_>, asked: &Asked<'_>) -> Decision<'_> {
        let wanted = Wanted::of(asked.target);
        let naming = self.policies.iter().enumerate();
        let mut naming: Vec<_> =
            naming.filter(|(_, policy)| policy.coverage(&wanted) != Coverage::None).collect();
        naming.sort_by_key(|(place, policy)| Reverse(order(policy, facts, *place, &wanted)));
        let mut block: Option<Block> = None;
        let speaks = naming.into_iter().find(|(_, policy)| {
            // Each is asked alone: what was found out for one is not kept for the next.
            match policy.fit(&Question::new(facts, asked), Scopes::Needed) {
                Fit::Met | Fit::InDoubt(_) => !block.is_some_and(|block| block.holds_back(policy)),
                Fit::Unmet(_) => false,
                Fit::Unclear(_, blocks) => {
                    block = block.max(Some(blocks));
                    false
                }
            }
        });
        Decision::by(speaks.map(|(_, policy)| policy))
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
        let best = self.foremost(facts, target, &within);
        best.is_some_and(|policy| policy.effect == Effect::Allow && within(policy))
    }

    /// Decides as if the call had the arguments that suit it best.
    pub fn for_some_arguments(&self, facts: &Facts<'_>, target: Target<'_>) -> Decision<'_> {
        Decision::by(self.foremost(facts, target, |_| true))
    }

    /// Decides about answers to the questions of a task that a call of the target began.
    pub fn for_answers(
        &self,
        facts: &Facts<'_>,
        target: Target<'_>,
        inputs: json::Value<'_>,
    ) -> Decision<'_> {
        let asked = Asked::of(target).with_inputs(Some(inputs));
        let question = Question::new(facts, &asked);
        Decision::by(self.decide(&question.wanted, facts, |policy| {
            match policy.is_about(facts, Scopes::Needed) {
                Ok(()) => policy.fit_answers(&question),
                Err(mismatch) => Fit::Unmet(mismatch),
            }
        }))
    }

    /// The policy that decides for some arguments, those out of reach and evadable left out.
    fn foremost(
        &self,
        facts: &Facts<'_>,
        target: Target<'_>,
        within: impl Fn(&Policy) -> bool,
    ) -> Option<&Policy> {
        let asked = Asked::of(target);
        let question = Question::new(facts, &asked);
        let wanted = &question.wanted;
        self.decide(wanted, facts, |policy| {
            let evadable = !policy.parameter_constraints.is_empty();
            match policy.is_about(facts, Scopes::Needed) {
                Err(mismatch) => Fit::Unmet(mismatch),
                Ok(()) if !wanted.is_tool() => policy.fit_target(&question),
                Ok(()) if evadable && (policy.refuses() || !within(policy)) => {
                    Fit::Unmet(Mismatch::Silent)
                }
                Ok(()) => Fit::Met,
            }
        })
    }

    /// The scopes of the allow policy that would decide a refused call if only the token had them.
    pub fn missing_scopes(&self, facts: &Facts<'_>, asked: &Asked<'_>) -> Option<&[String]> {
        let question = Question::new(facts, asked);
        let best =
            self.decide(&question.wanted, facts, |policy| policy.fit(&question, Scopes::Granted))?;
        let lacks_some = best.is_about(facts, Scopes::Needed).is_err();
        (best.effect == Effect::Allow && lacks_some).then_some(&best.principal_match.scopes)
    }

    /// The tools that a policy names exactly: safe as labels of metrics.
    pub fn named_tools(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let names = self.policies.iter().flat_map(|policy| &policy.allowed_tools);
        let exact: BTreeSet<Cow<'_, str>> = names.filter_map(name::Name::exact).collect();
        exact.into_iter()
    }

    /// The scopes that allow policies ask for: what a client may need to request.
    pub fn scopes_asked(&self) -> impl Iterator<Item = &str> {
        self.scopes_asked.iter().map(String::as_str)
    }

    /// The policy that decides, by how each `fits`.
    fn decide<'s>(
        &'s self,
        wanted: &Wanted<'_>,
        facts: &Facts<'_>,
        fit: impl Fn(&'s Policy) -> Fit<'s>,
    ) -> Option<&'s Policy> {
        if wanted.doubt().is_some() {
            return self.refusal(wanted, facts, fit);
        }
        let mut block = None;
        loop {
            // Each round finds one that decides, or blocks more than the round before.
            match self.best(wanted, facts, block, &fit)? {
                (policy, None) => return Some(policy),
                (_, blocks) => block = block.max(blocks),
            }
        }
    }

    /// The refusal for a doubtful URI: a deny before any escalation, as the URI may mean either.
    fn refusal<'s>(
        &'s self,
        wanted: &Wanted<'_>,
        facts: &Facts<'_>,
        fit: impl Fn(&'s Policy) -> Fit<'s>,
    ) -> Option<&'s Policy> {
        let mut best = None;
        self.index.lists(wanted, facts, &mut |list| {
            for &place in list {
                let Some(policy) = self.policies.get(place) else { continue };
                let order = order(policy, facts, place, wanted);
                let better = best.is_none_or(|(beaten, _)| order > beaten);
                if better && matches!(fit(policy), Fit::Met | Fit::InDoubt(_)) {
                    best = Some((order, policy));
                }
            }
        });
        best.map(|(_, policy)| policy)
    }

    /// The policy of the highest rank that is met or blocks more than `block` does, and what it
    /// blocks.
    fn best<'s>(
        &'s self,
        wanted: &Wanted<'_>,
        facts: &Facts<'_>,
        block: Option<Block>,
        fit: &impl Fn(&'s Policy) -> Fit<'s>,
    ) -> Option<(&'s Policy, Option<Block>)> {
        let mut best: Option<(Rank, &Policy, Option<Block>)> = None;
        self.index.lists(wanted, facts, &mut |list| {
            for &place in list {
                let Some(policy) = self.policies.get(place) else { continue };
                let beaten = best.map(|(rank, _, _)| rank);
                // The list is sorted: what follows can reach no more than this.
                if beaten.is_some() && best_rank(&self.policies, place) <= beaten {
                    break;
                }
                let rank = rank(policy, facts, place);
                if Some(rank) <= beaten {
                    continue;
                }
                match fit(policy) {
                    Fit::Met | Fit::InDoubt(_) => {
                        if !block.is_some_and(|block| block.holds_back(policy)) {
                            best = Some((rank, policy, None));
                        }
                    }
                    Fit::Unclear(_, blocks) if Some(blocks) > block => {
                        best = Some((rank, policy, Some(blocks)));
                    }
                    Fit::Unclear(..) | Fit::Unmet(_) => {}
                }
            }
        });
        best.map(|(_, policy, blocks)| (policy, blocks))
    }
}

/// Numbers the keys and the costly constraints that several policies have, so that one call is held
/// against each of them once.
fn number_shared(policies: &mut [Policy]) {
    let mut keys = Numbers::default();
    let mut wholes = Numbers::default();
    let all = || policies.iter().flat_map(|policy| &policy.parameter_constraints);
    for constraint in all() {
        keys.see(constraint.key.to_string());
        wholes.see(format!("{constraint:?}"));
    }
    for constraint in policies.iter_mut().flat_map(|policy| &mut policy.parameter_constraints) {
        let costly = constraint.regex.is_some() || constraint.key.enters_list();
        let whole = costly.then(|| format!("{constraint:?}"));
        constraint.shared = whole.and_then(|whole| wholes.shared(&whole));
        constraint.shared_key = keys.shared(&constraint.key.to_string());
    }
}

/// Numbers texts, and counts each.
#[derive(Default)]
struct Numbers(HashMap<String, (u32, usize)>);

impl Numbers {
    fn see(&mut self, text: String) {
        let next = u32::saturating_from(self.0.len());
        self.0.entry(text).or_insert((next, 0)).1 += 1;
    }

    /// The number of a text that was seen more than once.
    fn shared(&self, text: &str) -> Option<u32> {
        self.0.get(text).filter(|(_, count)| *count > 1).map(|(number, _)| *number)
    }
}

fn rank(policy: &Policy, facts: &Facts<'_>, place: usize) -> Rank {
    (policy.score_for(facts), policy.effect, Reverse(place))
}

/// The order in which policies are asked: by rank, but the stricter effect first for a doubtful URI.
fn order(
    policy: &Policy,
    facts: &Facts<'_>,
    place: usize,
    wanted: &Wanted<'_>,
) -> (Option<Effect>, Rank) {
    (wanted.doubt().map(|_| policy.effect), rank(policy, facts, place))
}

#[cfg(test)]
mod tests;
