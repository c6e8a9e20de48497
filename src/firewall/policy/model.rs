//! One policy, in the words of the policy file. Its values have been checked: types carry the proof.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::constraint::Constraint;
use super::name::Name;
use super::regexes::Pattern;
use super::shape::ConstraintShape;
use super::words::Phrase;
use crate::firewall::agent::{AgentId, TrustLevel};
use crate::firewall::session::Sensitivity;

/// Effect of a policy. The stricter one is the greater one.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    Allow,
    Escalate,
    Deny,
}

impl Effect {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Escalate => "escalate",
            Self::Deny => "deny",
        }
    }
}

/// One policy.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Policy {
    /// Unique name, recorded in the audit log as `policy_matched`.
    #[schemars(with = "String", length(min = 1))]
    pub id: Arc<str>,
    /// Effect when the policy matches.
    pub effect: Effect,
    /// Tools, by exact name or with a trailing `*`. A deny or escalate policy without any of the
    /// four lists applies to everything; an allow policy must have one.
    #[schemars(default)]
    pub(super) allowed_tools: Vec<Name>,
    /// Resources, by URI.
    #[schemars(default)]
    pub(super) allowed_resources: Vec<Name>,
    /// Prompts, by name.
    #[schemars(default)]
    pub(super) allowed_prompts: Vec<Name>,
    /// Methods that are neither protocol, tool, resource nor prompt methods.
    #[schemars(default)]
    pub(super) allowed_methods: Vec<Name>,
    /// Tier of the data that is reached; the session's ceiling must not lie below it.
    #[schemars(default)]
    pub data_sensitivity: Sensitivity,
    /// Replaces the computed score unless it is 0.
    #[schemars(default, range(min = 0, max = 1000))]
    pub priority: u32,
    #[schemars(default)]
    pub(super) agent_match: AgentMatch,
    #[schemars(default)]
    pub(super) principal_match: PrincipalMatch,
    #[schemars(default)]
    pub(super) intent_match: IntentMatch,
    /// Constraints on the arguments of a tool call; all must hold.
    #[schemars(default, with = "Vec<ConstraintShape>")]
    pub(super) parameter_constraints: Vec<Constraint>,
}

/// Criteria on the agent; every one given must hold.
#[derive(Debug, Default, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct AgentMatch {
    /// Exactly this agent.
    #[schemars(with = "Option<String>", extend("format" = "uuid"))]
    pub(super) agent_id: Option<AgentId>,
    /// At least this trust level.
    pub(super) trust_level: Option<TrustLevel>,
    /// All of these capabilities.
    #[schemars(default)]
    pub(super) capabilities: Vec<String>,
}

/// Criteria on the principal; every one given must hold.
#[derive(Debug, Default, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct PrincipalMatch {
    /// Exactly this subject.
    pub(super) sub: Option<String>,
    /// Any of these groups. Each one that the principal is in adds to the score.
    #[schemars(default)]
    pub(super) groups: Vec<String>,
    /// All of these scopes must be in the token.
    #[schemars(default)]
    pub(super) scopes: Vec<String>,
}

/// Criteria on the session's declared intent; every one given must hold.
#[derive(Debug, Default, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct IntentMatch {
    /// All of these words, in any case.
    #[schemars(default, with = "Vec<String>")]
    pub(super) keywords: Vec<Phrase>,
    /// Found anywhere in the intent.
    #[schemars(with = "Option<String>", extend("format" = "regex"))]
    pub(super) regex: Option<Pattern>,
}

impl IntentMatch {
    pub(super) fn is_empty(&self) -> bool {
        self.keywords.is_empty() && self.regex.is_none()
    }
}
