//! The policies: what they say of a call, and the refusal when that is no.

use super::task;
use crate::firewall::call::{Call, CallKind, Data, UpstreamRef};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::policy::{Asked, Decision, Facts, PolicySet, Target};
use crate::json;

/// Asks the policies. A protocol message needs any policy that allows its caller something, a task one
/// that allows some call of its tool.
pub fn decide<'r>(
    policies: &'r PolicySet,
    facts: &Facts<'_>,
    call: &Call<'_>,
    task: Option<&str>,
    upstream: UpstreamRef<'_>,
) -> Decision<'r> {
    if call.task().is_some() {
        return of_task(policies, facts, (task, call.inputs()), upstream);
    }
    match asked(&call.kind, upstream) {
        Some(asked) => policies.evaluate(facts, &asked.with_inputs(call.inputs())),
        None => match policies.any_allow(facts) {
            Some(policy) => Decision::Allow(policy),
            None => Decision::NoMatch,
        },
    }
}

/// Asks the policies about a task of this tool: some call of it must be allowed, and what the client
/// answers to the task's questions.
pub fn of_task<'r>(
    policies: &'r PolicySet,
    facts: &Facts<'_>,
    (tool, inputs): (Option<&str>, Option<json::Value<'_>>),
    upstream: UpstreamRef<'_>,
) -> Decision<'r> {
    let Some(tool) = tool else { return Decision::NoMatch };
    let target = Target::ToolAt(upstream, tool);
    let decided = match inputs {
        None => policies.for_some_arguments(facts, target),
        Some(inputs) => policies.for_answers(facts, target, inputs),
    };
    match decided {
        // The call that began the task was approved, its answers were not.
        Decision::Escalate(policy) if inputs.is_none() || !policy.constrains_answers() => {
            Decision::Allow(policy)
        }
        decided => decided,
    }
}

/// Refuses what a policy forbids, and what none allows. An escalation is answered later.
pub fn check(
    policies: &PolicySet,
    facts: &Facts<'_>,
    call: &Call<'_>,
    decision: &Decision<'_>,
    upstream: UpstreamRef<'_>,
) -> Result<(), Denial> {
    match decision {
        Decision::Allow(_) | Decision::Escalate(_) => Ok(()),
        Decision::Deny(policy) if call.task().is_some() && !policy.constrains_answers() => {
            Err(task::unknown())
        }
        Decision::NoMatch if call.task().is_some() => Err(task::unknown()),
        Decision::Deny(_) => Err(Denial::new(
            Code::PolicyDenied,
            "a policy forbids this call: do not retry it as it is",
        )),
        Decision::NoMatch => {
            let asked = asked(&call.kind, upstream).map(|asked| asked.with_inputs(call.inputs()));
            let missing = asked.and_then(|asked| policies.missing_scopes(facts, &asked));
            Err(match missing {
                Some(scopes) => Denial::new(
                    Code::InsufficientScope,
                    "the token lacks a scope that this call needs: ask for a token that has it",
                )
                .with("scope", scopes.join(" ")),
                None => Denial::new(
                    Code::PolicyDenied,
                    "no policy allows this call for this agent, intent and these arguments: \
                     change the call, or ask your operator",
                ),
            })
        }
    }
}

/// The question that a call puts to the policies; none for a protocol message, nor for a task, whose
/// tool the call does not name.
pub fn asked<'c>(kind: &'c CallKind<'c>, upstream: UpstreamRef<'c>) -> Option<Asked<'c>> {
    match kind {
        CallKind::Tool { name, arguments } => {
            Some(Asked::of(Target::ToolAt(upstream, name)).with_arguments(*arguments))
        }
        CallKind::Data { what, target } => {
            let target = match what {
                Data::Resource => Target::Resource(target),
                Data::Prompt => Target::Prompt(target),
                Data::Method => Target::Method(target),
                Data::Task => return None,
            };
            Some(Asked::of(target))
        }
        CallKind::Protocol => None,
    }
}
