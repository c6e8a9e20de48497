//! One policy, in the words of the policy file. What is here has been checked: types carry the proof.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::name::Name;
use super::number::Number;
use super::words::Phrase;
use crate::firewall::agent::{AgentId, TrustLevel};
use crate::firewall::session::Sensitivity;

/// Largest size of a compiled regex. Enough for `^\w{1,64}$`, too little to fill a node's memory.
const REGEX_BYTES_MAX: usize = 8 << 20;

/// Longest text of a regex.
const REGEX_TEXT_BYTES_MAX: usize = 4096;

/// What a policy says when it matches. The stricter one is the greater one.
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
    /// Unique name; it stands in the audit log as `policy_matched`.
    #[schemars(with = "String", length(min = 1))]
    pub id: Arc<str>,
    /// What happens when the policy matches.
    pub effect: Effect,
    /// Tools, by exact name or with a trailing `*`. A deny or escalate policy without any of the
    /// four lists speaks of everything; an allow policy must have one.
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
    /// What the arguments of a tool call must be like; all of them must hold.
    #[schemars(default)]
    pub(super) parameter_constraints: Vec<Constraint>,
}

/// Which agents; every criterion given must hold.
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

/// For whom the agent acts; every criterion given must hold.
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

/// What the session's declared intent must be like; every criterion given must hold.
#[derive(Debug, Default, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct IntentMatch {
    /// All of these words, in any case.
    #[schemars(default, with = "Vec<String>")]
    pub(super) keywords: Vec<Phrase>,
    /// Found anywhere in the intent.
    pub(super) regex: Option<Pattern>,
}

impl IntentMatch {
    pub(super) fn is_empty(&self) -> bool {
        self.keywords.is_empty() && self.regex.is_none()
    }
}

/// What one argument of a tool call must be like.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Constraint {
    /// Dotted path into `arguments`, object by object; arrays are not entered.
    pub(super) key: Path,
    /// Inclusive and exact.
    pub(super) min_value: Option<Number>,
    /// Inclusive and exact.
    pub(super) max_value: Option<Number>,
    /// One of these, compared by value.
    #[schemars(with = "Option<Vec<Scalar>>", length(min = 1))]
    pub(super) allowed_values: Vec<Scalar>,
    /// Must match the whole value.
    pub(super) regex: Option<Pattern>,
    /// Whether the argument must be there. If not, the constraint speaks only when it is: an allow
    /// policy does without it, and a deny or escalate policy of whose constraints none speaks does
    /// not match.
    #[schemars(default = "yes")]
    pub(super) required: bool,
}

fn yes() -> bool {
    true
}

/// A dotted path into the arguments.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) segments: Box<[Box<str>]>,
}

impl Path {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let segments: Box<[Box<str>]> = text.split('.').map(Into::into).collect();
        if segments.iter().any(|segment| segment.is_empty()) {
            return Err("must be names joined by single dots");
        }
        Ok(Self { segments })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("."))
    }
}

/// One allowed value.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(super) enum Scalar {
    Text(String),
    Number(Number),
    Boolean(bool),
}

/// A regex of bounded size. Two are equal if they are written and used alike.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// A regex that is looked for anywhere in a text.
    pub(super) fn anywhere(text: &str) -> Result<Self, String> {
        if text.len() > REGEX_TEXT_BYTES_MAX {
            return Err(format!("is longer than {REGEX_TEXT_BYTES_MAX} bytes"));
        }
        Ok(Self { text: text.into(), regex: build(text)? })
    }

    /// A regex that must match a text from its first to its last character.
    pub(super) fn whole(text: &str) -> Result<Self, String> {
        // On its own first, so that `a)|(?:b` is seen as what it is.
        Self::anywhere(text)?;
        let regex = build(&format!(r"\A(?:{text})\z"))
            .ok()
            .ok_or("cannot be held to the whole value (does it end in a comment?)")?;
        Ok(Self { text: text.into(), regex })
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

fn build(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "is too large once compiled".to_owned(),
            // The last line says why; those before it draw where.
            other => {
                let text = other.to_string();
                let why = text.lines().last().unwrap_or_default();
                format!("is not a regex: {}", why.trim_start_matches("error: "))
            }
        })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.regex.as_str().hash(state);
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Says how a type of ours is written in the file.
macro_rules! written_as {
    ($($type:ident $schema:tt)*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

written_as! {
    Path { "type": "string", "pattern": r"^[^.]+(\.[^.]+)*$" }
    Pattern { "type": "string", "format": "regex", "maxLength": REGEX_TEXT_BYTES_MAX }
    Number { "type": "number" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_match_leaves_nothing_over() {
        let whole = |pattern: &str, text: &str| Pattern::whole(pattern).unwrap().is_match(text);
        assert!(whole("[a-z]+", "abc"));
        assert!(!whole("[a-z]+", "abc\n"));
        assert!(!whole("^[a-z]+$", "abc\n"));
        assert!(!whole("[a-z]+", "abc;rm"));
        assert!(!whole("(?m)^[a-z]+$", "abc\nrm -rf"));
        assert!(whole("a|ab", "ab"));
        assert!(!whole("a|b", "ab"));
        assert!(whole("(?i)select", "SELECT"));
    }

    #[test]
    fn a_pattern_cannot_break_out_of_its_anchors() {
        for bad in ["a)|(?:b", "(?x)a # comment", "(", "[z-a]", "(?P<n>a)(?P<n>b)"] {
            assert!(Pattern::whole(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_cannot_fill_the_memory() {
        assert_eq!(Pattern::whole(r"\w{500}{500}").unwrap_err(), "is too large once compiled");
        assert!(Pattern::anywhere(&"a".repeat(REGEX_TEXT_BYTES_MAX + 1)).is_err());
        assert!(Pattern::whole(r"^\w{1,64}$").unwrap().is_match("grüße"));
    }

    #[test]
    fn paths_are_names_joined_by_single_dots() {
        assert_eq!(Path::parse("a.b").unwrap().segments.len(), 2);
        for bad in ["", ".", "a..b", ".a", "a."] {
            assert!(Path::parse(bad).is_err(), "{bad}");
        }
    }
}
