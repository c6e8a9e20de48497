//! Match of one policy with one call, and its rank. Evaluating, explaining and the plain reference
//! loop all come here, so they cannot differ.
//!
//! Doubt is decided for the refusal. A deny or escalate policy that cannot be judged matches. An allow
//! policy that cannot be judged does not, and no policy ranked below it may allow the call in its
//! place: otherwise a stricter allow would give way to a laxer one as soon as an agent blurs an
//! argument.

use std::cmp::Reverse;
use std::fmt;

use super::constraint::{self, Constraint};
use super::memo::Memo;
use super::model::{Effect, Policy};
use super::path::Path;
use super::regexes::Pattern;
use super::satisfaction::{Need, Satisfaction};
use super::wanted::{Coverage, Wanted};
use super::words::Phrase;
use super::{Asked, Facts};
use crate::firewall::agent::{AgentId, TrustLevel};
use crate::firewall::session::Sensitivity;
use crate::firewall::uri::Doubt;

const AGENT_ID_SCORE: usize = 100;
const TRUST_LEVEL_SCORE: usize = 50;
const CAPABILITY_SCORE: usize = 25;
const SUBJECT_SCORE: usize = 40;
const GROUP_SCORE: usize = 20;
const SCOPE_SCORE: usize = 20;
const REGEX_SCORE: usize = 30;
const KEYWORD_SCORE: usize = 10;

/// Highest computed score, below the highest priority.
const SCORE_MAX: u32 = 999;

/// Rank among matching policies; the greatest decides. Score first, then the stricter effect, then
/// the earlier place in the files.
pub(super) type Rank = (u32, Effect, Reverse<usize>);

/// Result of holding one policy against one call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fit<'p> {
    Met,
    /// A refusal that cannot be judged, which counts as met.
    InDoubt(Mismatch<'p>),
    Unmet(Mismatch<'p>),
    /// An allow policy that cannot be judged: not met, and `Block` is blocked.
    Unclear(Mismatch<'p>, Block),
}

/// The lower-ranked allow policies that an unclear one blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Block {
    /// Policies that reach data of a lower tier.
    Below(Sensitivity),
    All,
}

impl Block {
    pub(super) fn holds_back(self, policy: &Policy) -> bool {
        match self {
            _ if policy.refuses() => false,
            Self::Below(tier) => policy.data_sensitivity < tier,
            Self::All => true,
        }
    }
}

/// Reason why a policy does not match, or not with certainty.
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
    Doubtful(Doubt),
    /// Only the URI without its query, fragment or another part that servers may ignore is named.
    OtherReading,
    Argument(&'p Path, Satisfaction),
    /// No optional argument that a deny or escalate policy constrains is there.
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
            Self::Doubtful(doubt) => write!(f, "the URI {doubt}"),
            Self::OtherReading => {
                f.write_str("the URI is named only without parts that servers may ignore")
            }
            Self::Argument(key, satisfaction) => write!(f, "the argument `{key}` {satisfaction}"),
            Self::Silent => f.write_str("none of the optional arguments is present"),
        }
    }
}

/// Treatment of scopes that the token lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scopes {
    Needed,
    /// As if the token had whatever an allow policy asks for.
    Granted,
}

impl Policy {
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
        u32::try_from(score).map_or(SCORE_MAX, |score| score.min(SCORE_MAX))
    }

    /// Reports whether agent, principal and intent are those that this policy applies to.
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

    /// Holds the policy against a call.
    pub(super) fn fit(&self, question: &Question<'_>, scopes: Scopes) -> Fit<'_> {
        match self.is_about(question.facts, scopes) {
            Ok(()) => self.fit_target(question),
            Err(mismatch) => Fit::Unmet(mismatch),
        }
    }

    /// Holds names and constraints, but no caller, against a call.
    pub(super) fn fit_target(&self, question: &Question<'_>) -> Fit<'_> {
        let wanted = &question.wanted;
        match (self.coverage(wanted), self.refuses(), wanted.doubt()) {
            (Coverage::Perhaps, true, Some(doubt)) => {
                return Fit::InDoubt(Mismatch::Doubtful(doubt));
            }
            (Coverage::Perhaps, true, None) => return Fit::InDoubt(Mismatch::OtherReading),
            (Coverage::Perhaps, false, Some(doubt)) => {
                return Fit::Unmet(Mismatch::Doubtful(doubt));
            }
            (Coverage::Perhaps, false, None) => {
                return Fit::Unclear(Mismatch::OtherReading, Block::Below(self.data_sensitivity));
            }
            (Coverage::Full | Coverage::None, _, _) => {}
        }
        let constraints = &self.parameter_constraints;
        match (constraints.is_empty(), self.refuses(), wanted.is_tool()) {
            (true, _, _) | (false, true, false) => Fit::Met,
            (false, false, false) => Fit::Unmet(Mismatch::NotATool),
            (false, false, true) => allowed_by(constraints, question),
            (false, true, true) => refused_by(constraints, question),
        }
    }
}

impl Policy {
    /// Compares the client's answers with the constraints on answers. Constraints on arguments are left
    /// out: the call that the answers belong to was judged by them.
    pub(super) fn fit_answers(&self, question: &Question<'_>) -> Fit<'_> {
        let on_answers = || self.parameter_constraints.iter().filter(|one| one.key.is_of_inputs());
        if self.parameter_constraints.is_empty() {
            Fit::Met
        } else if self.refuses() {
            refused_by(on_answers(), question)
        } else {
            allowed_by(on_answers(), question)
        }
    }

    /// Reports whether it looks at answers of the client.
    pub fn constrains_answers(&self) -> bool {
        self.parameter_constraints.iter().any(|constraint| constraint.key.is_of_inputs())
    }
}

/// One call, as the policies are asked about it.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) facts: &'a Facts<'a>,
    asked: &'a Asked<'a>,
    pub(super) wanted: Wanted<'a>,
    memo: Memo<'a>,
}

impl<'a> Question<'a> {
    pub(super) fn new(facts: &'a Facts<'a>, asked: &'a Asked<'a>) -> Self {
        Self { facts, asked, wanted: Wanted::of(asked.target), memo: Memo::default() }
    }

    fn satisfaction(&self, constraint: &Constraint, need: Need) -> Satisfaction {
        constraint::satisfaction(constraint, need, self.facts, self.asked, &self.memo)
    }
}

/// Constraints of an allow policy: what is certainly not met decides, then what is unclear.
fn allowed_by<'p>(
    constraints: impl IntoIterator<Item = &'p Constraint>,
    question: &Question<'_>,
) -> Fit<'p> {
    let mut unclear = None;
    for constraint in constraints {
        let satisfaction = question.satisfaction(constraint, Need::All);
        let mismatch = Mismatch::Argument(&constraint.key, satisfaction);
        match satisfaction {
            Satisfaction::Met | Satisfaction::Silent => {}
            Satisfaction::Unmet(_) | Satisfaction::Absent => return Fit::Unmet(mismatch),
            Satisfaction::Unclear(_) => unclear = unclear.or(Some(mismatch)),
        }
    }
    unclear.map_or(Fit::Met, |mismatch| Fit::Unclear(mismatch, Block::All))
}

/// Constraints of a refusal: what cannot be judged counts as met.
fn refused_by<'p>(
    constraints: impl IntoIterator<Item = &'p Constraint>,
    question: &Question<'_>,
) -> Fit<'p> {
    let mut spoken = None;
    for constraint in constraints {
        let satisfaction = question.satisfaction(constraint, Need::Any);
        let mismatch = Mismatch::Argument(&constraint.key, satisfaction);
        match satisfaction {
            Satisfaction::Met => spoken = spoken.or(Some(Fit::Met)),
            Satisfaction::Unclear(_) | Satisfaction::Absent => {
                spoken = Some(Fit::InDoubt(mismatch));
            }
            Satisfaction::Silent => {}
            Satisfaction::Unmet(_) => return Fit::Unmet(mismatch),
        }
    }
    spoken.unwrap_or(Fit::Unmet(Mismatch::Silent))
}
