//! The reasons of a decision: every policy that was considered, with its answer.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::evaluate::Scopes;
use super::model::{Effect, Policy};
use super::{Asked, Decision, Facts, PolicySet};

/// At most this many policies that do not name what is asked are listed.
const OTHERS_MAX: usize = 1000;

/// A decision with its reasons. For operators: it quotes policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Explanation {
    /// `None`: no policy matches, which is a refusal too.
    pub decision: Option<Effect>,
    /// The policy that spoke.
    pub matched: Option<Arc<str>>,
    /// The policies that name what is asked, best rank first, then the others in file order.
    pub trace: Vec<TraceEntry>,
    /// How many policies that do not name what is asked were left out of the trace.
    pub left_out: usize,
}

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TraceEntry {
    pub policy_id: Arc<str>,
    pub effect: Effect,
    /// Whether every criterion holds. The first of these in the trace is the one that spoke.
    pub matched: bool,
    pub reason: String,
    /// The score for this caller, whether the policy matches or not.
    pub score: u32,
}

impl PolicySet {
    /// Evaluates a call and says why, by the same matching as [`PolicySet::evaluate`].
    pub fn explain(&self, facts: &Facts<'_>, asked: &Asked<'_>) -> Explanation {
        let decision = self.evaluate(facts, asked);
        let (mut naming, others): (Vec<_>, Vec<_>) =
            self.policies.iter().enumerate().partition(|(_, p)| p.covers(asked.target));
        naming.sort_by_key(|(place, policy)| {
            std::cmp::Reverse((policy.score_for(facts), policy.effect, std::cmp::Reverse(*place)))
        });
        let left_out = others.len().saturating_sub(OTHERS_MAX);
        let naming = naming.into_iter().map(|(_, policy)| considered(policy, facts, asked));
        let others = others.into_iter().take(OTHERS_MAX).map(|(_, policy)| {
            entry(policy, facts, Err(format!("does not name the {}", asked.target.what())))
        });
        Explanation {
            decision: match decision {
                Decision::Allow(_) => Some(Effect::Allow),
                Decision::Deny(_) => Some(Effect::Deny),
                Decision::Escalate(_) => Some(Effect::Escalate),
                Decision::NoMatch => None,
            },
            matched: decision.policy().map(|policy| Arc::clone(&policy.id)),
            trace: naming.chain(others).collect(),
            left_out,
        }
    }
}

fn considered(policy: &Policy, facts: &Facts<'_>, asked: &Asked<'_>) -> TraceEntry {
    let verdict = policy.is_about(facts, Scopes::Needed).and_then(|()| policy.is_met(asked));
    let mut entry = entry(policy, facts, verdict.map_err(|mismatch| mismatch.to_string()));
    if let Some((key, why)) = policy.doubt(asked).filter(|_| entry.matched) {
        let effect = match policy.effect {
            Effect::Deny => "a deny",
            Effect::Escalate | Effect::Allow => "an escalate",
        };
        entry.reason =
            format!("`{key}` {why}: {effect} policy whose constraint cannot be judged matches");
    }
    entry
}

fn entry(policy: &Policy, facts: &Facts<'_>, verdict: Result<(), String>) -> TraceEntry {
    TraceEntry {
        policy_id: Arc::clone(&policy.id),
        effect: policy.effect,
        matched: verdict.is_ok(),
        reason: verdict.err().unwrap_or_else(|| "every criterion holds".to_owned()),
        score: policy.score_for(facts),
    }
}
