//! Short descriptions of policies, for operators' lists and for the difference between two sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::PolicySet;
use super::constraint::{Constraint, Items};
use super::model::{Effect, Policy};
use super::name::Name;
use crate::firewall::session::Sensitivity;

/// One policy, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub id: Arc<str>,
    pub effect: Effect,
    /// Names of each list, the kind of list before those that are not tools; none for everything.
    pub targets: Vec<String>,
    pub conditions: Vec<String>,
    pub data_sensitivity: Sensitivity,
    /// 0 where the score is computed.
    pub priority: u32,
    /// Hash of everything that the policy's text says.
    text: [u8; 32],
}

/// Difference between the set in force and a candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub added: Vec<Summary>,
    pub removed: Vec<Summary>,
    /// Before and after.
    pub changed: Vec<(Summary, Summary)>,
    /// Number of policies that say the same in both.
    pub unchanged: usize,
}

impl PolicySet {
    /// Describes up to `count` policies in file order, those that may cover `tool` if one is given.
    pub fn summaries(&self, tool: Option<&str>, from: usize, count: usize) -> Vec<Summary> {
        let wanted =
            self.policies.iter().filter(|policy| tool.is_none_or(|tool| may_cover(policy, tool)));
        wanted.skip(from).take(count).map(Summary::of).collect()
    }

    /// Returns the ids of all policies, in file order.
    pub fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.policies.iter().map(|policy| &policy.id)
    }

    /// Compares this set with a candidate, by the policies' ids.
    pub fn difference(&self, candidate: &Self) -> Difference {
        let mut before: BTreeMap<&str, &Policy> =
            self.policies.iter().map(|policy| (&*policy.id, policy)).collect();
        let mut found = Difference::default();
        for policy in &candidate.policies {
            let after = Summary::of(policy);
            match before.remove(&*policy.id).map(Summary::of) {
                None => found.added.push(after),
                Some(before) if before.text == after.text => {
                    found.unchanged = found.unchanged.saturating_add(1);
                }
                Some(before) => found.changed.push((before, after)),
            }
        }
        found.removed = before.into_values().map(Summary::of).collect();
        found
    }
}

fn may_cover(policy: &Policy, tool: &str) -> bool {
    let lists = [&policy.allowed_resources, &policy.allowed_prompts, &policy.allowed_methods];
    let covers = |name: &Name| {
        let bare =
            name.upstream().and_then(|upstream| tool.strip_prefix(upstream)?.strip_prefix(':'));
        name.covers(bare.unwrap_or(tool))
    };
    if policy.allowed_tools.is_empty() {
        return lists.into_iter().all(Vec::is_empty);
    }
    policy.allowed_tools.iter().any(covers)
}

impl Summary {
    fn of(policy: &Policy) -> Self {
        let mut targets: Vec<String> = policy.allowed_tools.iter().map(shown).collect();
        for (kind, names) in [
            ("resource", &policy.allowed_resources),
            ("prompt", &policy.allowed_prompts),
            ("method", &policy.allowed_methods),
        ] {
            targets.extend(names.iter().map(|name| format!("{kind} {}", shown(name))));
        }
        Self {
            id: Arc::clone(&policy.id),
            effect: policy.effect,
            targets,
            conditions: conditions(policy),
            data_sensitivity: policy.data_sensitivity,
            priority: policy.priority,
            text: *blake3::hash(format!("{policy:?}").as_bytes()).as_bytes(),
        }
    }
}

fn shown(name: &Name) -> String {
    let star = if name.is_prefix() { "*" } else { "" };
    match name.upstream() {
        Some(upstream) => format!("{upstream}:{}{star}", name.fixed()),
        None => format!("{}{star}", name.fixed()),
    }
}

fn conditions(policy: &Policy) -> Vec<String> {
    let mut found = Vec::new();
    let agent = &policy.agent_match;
    found.extend(agent.agent_id.map(|id| format!("agent {id}")));
    found.extend(agent.trust_level.map(|level| format!("trust {level} or higher")));
    found.extend(agent.capabilities.iter().map(|one| format!("capability {one}")));
    let principal = &policy.principal_match;
    found.extend(principal.sub.iter().map(|sub| format!("principal {sub}")));
    if !principal.groups.is_empty() {
        found.push(format!("group {}", principal.groups.join(" or ")));
    }
    found.extend(principal.scopes.iter().map(|one| format!("scope {one}")));
    found.extend(policy.intent_match.keywords.iter().map(|word| format!("intent says {word}")));
    found.extend(policy.intent_match.regex.iter().map(|regex| format!("intent matches {regex}")));
    found.extend(policy.parameter_constraints.iter().map(constraint));
    found
}

fn constraint(one: &Constraint) -> String {
    let mut parts = Vec::new();
    parts.extend(one.min_value.as_ref().map(|least| format!("at least {least}")));
    parts.extend(one.max_value.as_ref().map(|most| format!("at most {most}")));
    if !one.allowed_values.is_empty() {
        parts.push(format!("one of {} values", one.allowed_values.len()));
    }
    parts.extend(one.max_length.map(|most| format!("at most {most} characters")));
    parts.extend(one.regex.as_ref().map(|regex| format!("matches {regex}")));
    parts.extend(one.matcher.as_ref().map(|_| "passes its matcher".to_owned()));
    let Items { min, max } = one.items;
    if min != 1 {
        parts.push(format!("{min} items or more"));
    }
    if max != usize::MAX {
        parts.push(format!("{max} items or fewer"));
    }
    if parts.is_empty() {
        parts.push("is given".to_owned());
    }
    let optional = if one.required { "" } else { " (if given)" };
    format!("argument {} {}{optional}", one.key, parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::policies as set;

    fn policy(id: &str, effect: &str, more: &str) -> String {
        format!("[[policies]]\nid = \"{id}\"\neffect = \"{effect}\"\n{more}\n")
    }

    #[test]
    fn a_policy_is_described_in_words() {
        let set = set(&policy(
            "a",
            "allow",
            r#"allowed_tools = ["git:commit", "read_*"]
allowed_prompts = ["daily"]
[policies.agent_match]
trust_level = "basic"
[policies.intent_match]
keywords = ["read"]
[[policies.parameter_constraints]]
key = "limit"
max_value = 10
required = false"#,
        ));
        let found = set.summaries(None, 0, 10);
        assert_eq!(found[0].targets, ["git:commit", "read_*", "prompt daily"]);
        let conditions =
            ["trust basic or higher", "intent says read", "argument limit at most 10 (if given)"];
        assert_eq!(found[0].conditions, conditions);
    }

    #[test]
    fn policies_are_found_by_the_tools_that_they_may_cover() {
        let set = set(&(policy("a", "allow", "allowed_tools = [\"git:commit\"]")
            + &policy("b", "allow", "allowed_tools = [\"read_*\"]")
            + &policy("c", "deny", "")
            + &policy("d", "deny", "allowed_prompts = [\"x\"]")));
        let ids = |tool| -> Vec<String> {
            set.summaries(Some(tool), 0, 10).iter().map(|one| one.id.to_string()).collect()
        };
        assert_eq!(ids("git:commit"), ["a", "c"]);
        assert_eq!(ids("read_file"), ["b", "c"]);
        assert_eq!(set.summaries(None, 1, 2).len(), 2);
    }

    #[test]
    fn a_difference_names_what_came_went_and_changed() {
        let read = "allowed_tools = [\"read\"]";
        let before = set(&(policy("a", "allow", read)
            + &policy("b", "deny", "")
            + &policy("c", "allow", read)));
        let after = set(&(policy("c", "allow", read)
            + &policy("b", "escalate", "")
            + &policy("d", "deny", "")));
        let found = before.difference(&after);
        let ids = |list: &[Summary]| -> Vec<String> {
            list.iter().map(|one| one.id.to_string()).collect()
        };
        assert_eq!(
            (ids(&found.added), ids(&found.removed)),
            (vec!["d".to_owned()], vec!["a".to_owned()])
        );
        assert_eq!((found.changed.len(), found.unchanged), (1, 1));
        assert_eq!(found.changed[0].1.effect, Effect::Escalate);
    }
}
