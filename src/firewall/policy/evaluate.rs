//! Whether one policy matches one call, and how strongly. Evaluating, explaining and the plain
//! reference loop all come here, so they cannot differ.

use std::cmp::Reverse;
use std::fmt;

use super::constraint::{self, Verdict};
use super::model::{Constraint, Effect, Name, Path, Pattern, Policy};
use super::uri::climbs;
use super::words::Phrase;
use super::{Asked, Facts, Target};
use crate::firewall::agent::{AgentId, TrustLevel};

const AGENT_ID_SCORE: usize = 100;
const TRUST_LEVEL_SCORE: usize = 50;
const CAPABILITY_SCORE: usize = 25;
const SUBJECT_SCORE: usize = 40;
const GROUP_SCORE: usize = 20;
const SCOPE_SCORE: usize = 20;
const REGEX_SCORE: usize = 30;
const KEYWORD_SCORE: usize = 10;

/// Which of several matching policies speaks: the greatest. Score first, then the stricter effect,
/// then the earlier place in the files.
pub(super) type Rank = (u32, Effect, Reverse<usize>);

/// Why a policy does not match.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mismatch<'p> {
    AgentId(AgentId),
    Trust {
        has: TrustLevel,
        needs: TrustLevel,
    },
    Capability(&'p str),
    Subject(&'p str),
    Groups,
    Scope(&'p str),
    NoSession,
    Keyword(&'p Phrase),
    Intent(&'p Pattern),
    NotATool,
    /// The URI holds `..`, so what it begins with says nothing of where it leads.
    Climbs,
    Argument(&'p Path, Verdict),
    /// No optional argument that a deny or escalate policy speaks of is there.
    Silent,
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AgentId(wanted) => write!(f, "the agent is not `{wanted}`"),
            Self::Trust { has, needs } => {
                write!(f, "the agent's trust level is {has}, below {needs}")
            }
            Self::Capability(wanted) => write!(f, "the agent lacks the capability `{wanted}`"),
            Self::Subject(wanted) => write!(f, "the principal is not `{wanted}`"),
            Self::Groups => f.write_str("the principal is in none of the groups"),
            Self::Scope(wanted) => write!(f, "the token lacks the scope `{wanted}`"),
            Self::NoSession => f.write_str("there is no session whose intent could match"),
            Self::Keyword(wanted) => write!(f, "the intent lacks the word `{wanted}`"),
            Self::Intent(wanted) => write!(f, "the intent does not match the regex `{wanted}`"),
            Self::NotATool => f.write_str("parameter constraints are met by tool calls only"),
            Self::Climbs => f.write_str("a URI with `..` is allowed by its exact name only"),
            Self::Argument(key, verdict) => write!(f, "the argument `{key}` {verdict}"),
            Self::Silent => f.write_str("none of the optional arguments is there"),
        }
    }
}

/// Whether scopes that the token lacks keep an allow policy from matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scopes {
    Needed,
    /// As if the token had whatever an allow policy asks for.
    Granted,
}

impl Policy {
    /// The names that this policy has for what is asked.
    pub(super) fn names(&self, target: Target<'_>) -> &[Name] {
        match target {
            Target::Tool(_) | Target::ToolAt(..) => &self.allowed_tools,
            Target::Resource(_) => &self.allowed_resources,
            Target::Prompt(_) => &self.allowed_prompts,
            Target::Method(_) => &self.allowed_methods,
        }
    }

    /// Whether this policy speaks of what is asked.
    pub(super) fn covers(&self, target: Target<'_>) -> bool {
        let names = self.names(target);
        match target {
            Target::ToolAt(place, tool) => names.iter().any(|name| name.covers_at(place, tool)),
            Target::Tool(name)
            | Target::Resource(name)
            | Target::Prompt(name)
            | Target::Method(name) => names.iter().any(|entry| entry.covers(name)),
        }
    }

    /// The highest score this policy can reach: the one of a principal that is in all its groups.
    pub fn score(&self) -> u32 {
        self.score_with(self.principal_match.groups.len())
    }

    /// The score for this caller: each criterion counts, of the groups those that the caller is in.
    pub(super) fn score_for(&self, facts: &Facts<'_>) -> u32 {
        let groups = &self.principal_match.groups;
        self.score_with(
            groups.iter().filter(|&group| facts.principal.groups.contains(group)).count(),
        )
    }

    fn score_with(&self, groups: usize) -> u32 {
        if self.priority != 0 {
            return self.priority;
        }
        let (agent, principal, intent) =
            (&self.agent_match, &self.principal_match, &self.intent_match);
        let score = AGENT_ID_SCORE * usize::from(agent.agent_id.is_some())
            + TRUST_LEVEL_SCORE * usize::from(agent.trust_level.is_some())
            + CAPABILITY_SCORE * agent.capabilities.len()
            + SUBJECT_SCORE * usize::from(principal.sub.is_some())
            + GROUP_SCORE * groups
            + SCOPE_SCORE * principal.scopes.len()
            + REGEX_SCORE * usize::from(intent.regex.is_some())
            + KEYWORD_SCORE * intent.keywords.len();
        u32::try_from(score).unwrap_or(u32::MAX)
    }

    /// Whether agent, principal and intent are those this policy speaks of.
    pub(super) fn is_about(&self, facts: &Facts<'_>, scopes: Scopes) -> Result<(), Mismatch<'_>> {
        self.about_agent(facts)?;
        self.about_principal(facts, scopes)?;
        self.about_intent(facts)
    }

    fn about_agent(&self, facts: &Facts<'_>) -> Result<(), Mismatch<'_>> {
        let (wanted, agent) = (&self.agent_match, facts.agent);
        if let Some(id) = wanted.agent_id
            && id != agent.id
        {
            return Err(Mismatch::AgentId(id));
        }
        if let Some(needs) = wanted.trust_level
            && agent.trust < needs
        {
            return Err(Mismatch::Trust { has: agent.trust, needs });
        }
        match wanted.capabilities.iter().find(|capability| !agent.has_capability(capability)) {
            Some(missing) => Err(Mismatch::Capability(missing)),
            None => Ok(()),
        }
    }

    fn about_principal(&self, facts: &Facts<'_>, scopes: Scopes) -> Result<(), Mismatch<'_>> {
        let (wanted, principal) = (&self.principal_match, facts.principal);
        if let Some(sub) = &wanted.sub
            && sub.as_str() != &*principal.subject
        {
            return Err(Mismatch::Subject(sub));
        }
        let groups = &wanted.groups;
        if !groups.is_empty() && !groups.iter().any(|group| principal.groups.contains(group)) {
            return Err(Mismatch::Groups);
        }
        if scopes == Scopes::Granted && self.effect == Effect::Allow {
            return Ok(());
        }
        match wanted.scopes.iter().find(|scope| !principal.scopes.contains(scope)) {
            Some(missing) => Err(Mismatch::Scope(missing)),
            None => Ok(()),
        }
    }

    /// Without a session there is no intent: nothing is allowed for it, and nothing spared.
    fn about_intent(&self, facts: &Facts<'_>) -> Result<(), Mismatch<'_>> {
        let wanted = &self.intent_match;
        if wanted.is_empty() {
            return Ok(());
        }
        let Some(intent) = facts.intent else {
            return match self.effect {
                Effect::Allow => Err(Mismatch::NoSession),
                Effect::Escalate | Effect::Deny => Ok(()),
            };
        };
        if let Some(missing) = wanted.keywords.iter().find(|keyword| !keyword.occurs_in(intent)) {
            return Err(Mismatch::Keyword(missing));
        }
        match &wanted.regex {
            Some(regex) if !regex.is_match(intent) => Err(Mismatch::Intent(regex)),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the arguments are such that this policy speaks. In doubt an allow policy does not,
    /// a deny or escalate policy does.
    pub(super) fn is_met(&self, asked: &Asked<'_>) -> Result<(), Mismatch<'_>> {
        if let (Effect::Allow, Target::Resource(uri)) = (self.effect, asked.target)
            && climbs(uri)
            && !self.allowed_resources.contains(&Name::Exact(uri.into()))
        {
            return Err(Mismatch::Climbs);
        }
        let constraints = &self.parameter_constraints;
        if constraints.is_empty() {
            return Ok(());
        }
        match (self.effect, asked.target) {
            (Effect::Allow, Target::Tool(_) | Target::ToolAt(..)) => {
                met_for_allow(constraints, asked)
            }
            (Effect::Allow, Target::Resource(_) | Target::Prompt(_) | Target::Method(_)) => {
                Err(Mismatch::NotATool)
            }
            (Effect::Escalate | Effect::Deny, Target::Tool(_) | Target::ToolAt(..)) => {
                met_for_refusal(constraints, asked)
            }
            (
                Effect::Escalate | Effect::Deny,
                Target::Resource(_) | Target::Prompt(_) | Target::Method(_),
            ) => Ok(()),
        }
    }
}

impl Policy {
    /// The first constraint that is in doubt, and therefore counts as met, for a policy that refuses
    /// a tool call.
    pub(super) fn doubt(&self, asked: &Asked<'_>) -> Option<(&Path, Verdict)> {
        let tool = matches!(asked.target, Target::Tool(_) | Target::ToolAt(..));
        let refuses = tool && self.effect != Effect::Allow;
        let mut judged = self
            .parameter_constraints
            .iter()
            .map(|constraint| (&constraint.key, constraint::judge(constraint, asked.arguments)));
        let unclear = judged.find(|(_, verdict)| matches!(verdict, Verdict::Unclear(_)));
        unclear.filter(|_| refuses)
    }
}

fn met_for_allow<'p>(constraints: &'p [Constraint], asked: &Asked<'_>) -> Result<(), Mismatch<'p>> {
    for constraint in constraints {
        match constraint::judge(constraint, asked.arguments) {
            Verdict::Met | Verdict::Silent => {}
            verdict @ (Verdict::Unmet(_) | Verdict::Unclear(_)) => {
                return Err(Mismatch::Argument(&constraint.key, verdict));
            }
        }
    }
    Ok(())
}

fn met_for_refusal<'p>(
    constraints: &'p [Constraint],
    asked: &Asked<'_>,
) -> Result<(), Mismatch<'p>> {
    let mut spoken = false;
    for constraint in constraints {
        match constraint::judge(constraint, asked.arguments) {
            Verdict::Met | Verdict::Unclear(_) => spoken = true,
            Verdict::Silent => {}
            verdict @ Verdict::Unmet(_) => {
                return Err(Mismatch::Argument(&constraint.key, verdict));
            }
        }
    }
    if spoken { Ok(()) } else { Err(Mismatch::Silent) }
}
