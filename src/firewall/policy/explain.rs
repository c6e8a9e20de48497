//! The reasons of a decision: every policy that was considered, with its answer.

use std::cmp::Reverse;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::evaluate::{Block, Fit, Question, Scopes};
use super::model::{Effect, Policy};
use super::wanted::Coverage;
use super::{Asked, Decision, Facts, PolicySet, order};

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
    /// Number of policies left out of the trace because they do not name the target.
    pub left_out: usize,
}

/// Result of one policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TraceEntry {
    pub policy_id: Arc<str>,
    pub effect: Effect,
    /// True if every criterion holds and nothing blocks the policy. The first of these decided.
    pub matched: bool,
    pub reason: String,
    /// The score for this caller, also if the policy does not match.
    pub score: u32,
}

impl PolicySet {
    /// Evaluates a call with reasons, by the same matching as [`PolicySet::evaluate`].
    pub fn explain(&self, facts: &Facts<'_>, asked: &Asked<'_>) -> Explanation {
        let decision = self.evaluate(facts, asked);
        let question = Question::new(facts, asked);
        let wanted = &question.wanted;
        let (mut naming, others): (Vec<_>, Vec<_>) = { self.policies.iter().enumerate() }
            .partition(|(_, p)| p.coverage(wanted) != Coverage::None);
        naming.sort_by_key(|(place, policy)| Reverse(order(policy, facts, *place, wanted)));
        let left_out = others.len().saturating_sub(OTHERS_MAX);
        let mut block: Option<(Block, &str)> = None;
        let naming = naming.into_iter().map(|(_, policy)| {
            let fit = policy.fit(&question, Scopes::Needed);
            let entry = considered(policy, facts, fit, block);
            if let Fit::Unclear(_, blocks) = fit
                && block.is_none_or(|(before, _)| blocks > before)
            {
                block = Some((blocks, &policy.id));
            }
            entry
        });
        let naming: Vec<_> = naming.collect();
        let others = others.into_iter().take(OTHERS_MAX).map(|(_, policy)| {
            let reason = format!("does not name the {}", asked.target.what());
            entry(policy, facts, false, reason)
        });
        Explanation {
            decision: match decision {
                Decision::Allow(_) => Some(Effect::Allow),
                Decision::Deny(_) => Some(Effect::Deny),
                Decision::Escalate(_) => Some(Effect::Escalate),
                Decision::NoMatch => None,
            },
            matched: decision.policy().map(|policy| Arc::clone(&policy.id)),
            trace: naming.into_iter().chain(others).collect(),
            left_out,
        }
    }
}

fn considered(
    policy: &Policy,
    facts: &Facts<'_>,
    fit: Fit<'_>,
    block: Option<(Block, &str)>,
) -> TraceEntry {
    let blocked = block.filter(|(block, _)| block.holds_back(policy));
    let (matched, reason) = match (fit, blocked) {
        (Fit::Met, None) => (true, "every criterion holds".to_owned()),
        (Fit::Met, Some((_, by))) => {
            let reason = "every criterion holds, but blocked: policy";
            (false, format!("{reason} `{by}`, which ranks above, is unclear"))
        }
        (Fit::InDoubt(doubt), _) => {
            let doubt = doubt.to_string();
            let doubt = doubt.strip_prefix("the argument ").unwrap_or(&doubt);
            let kind = match policy.effect {
                Effect::Allow => "an allow",
                Effect::Deny => "a deny",
                Effect::Escalate => "an escalate",
            };
            (true, format!("{doubt}: {kind} policy whose constraint cannot be judged matches"))
        }
        (Fit::Unmet(mismatch), _) => (false, mismatch.to_string()),
        (Fit::Unclear(mismatch, Block::All), _) => {
            (false, format!("unclear, so no lower-ranked policy allows this: {mismatch}"))
        }
        (Fit::Unclear(mismatch, Block::Below(_)), _) => {
            let blocks =
                "unclear, so no lower-ranked policy of a lower data_sensitivity allows this";
            (false, format!("{blocks}: {mismatch}"))
        }
    };
    entry(policy, facts, matched, reason)
}

fn entry(policy: &Policy, facts: &Facts<'_>, matched: bool, reason: String) -> TraceEntry {
    TraceEntry {
        policy_id: Arc::clone(&policy.id),
        effect: policy.effect,
        matched,
        reason,
        score: policy.score_for(facts),
    }
}
