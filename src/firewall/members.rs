//! The calls of a message, each with the policies' answer to it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::ask::Ask;
use super::call::Call;
use super::checks::continuation::RequestState;
use super::checks::drift::Findings;
use super::checks::escalation::Escalation;
use super::checks::{Step, Trace, policy, task};
use super::denial::Denial;
use super::policy::Decision;
use super::verdict::Verdict;

/// One call with the policies' answer to it.
pub(super) struct Member<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) decision: Decision<'a>,
}

/// Every call of a message with the policies' answers.
pub(super) struct Members<'a>(SmallVec<[Member<'a>; 1]>);

impl<'a> Members<'a> {
    /// Asks the policies about each call.
    pub(super) fn decide(ask: &Ask<'a>) -> Self {
        let facts = ask.facts();
        let decide = |call| {
            let task = task::tool_of(ask.tasks, call);
            let decision = policy::decide(ask.policies, &facts, call, task, ask.upstream);
            Member { call, decision }
        };
        Self(ask.calls.iter().map(decide).collect())
    }

    /// Runs one check over all calls; the first that fails names its policy.
    pub(super) fn every(
        &self,
        step: Step,
        trace: &mut impl Trace,
        check: impl Fn(&Member<'_>) -> Result<(), Denial>,
    ) -> Result<(), Box<Verdict>> {
        let mut by = None;
        let checked = self.0.iter().try_for_each(|member| {
            by = member.decision.policy();
            check(member)
        });
        trace.step(step, checked).map_err(|denial| Verdict::refused(denial, by))
    }

    /// Returns the verdict on calls that the policies allow, with the findings of the drift check.
    pub(super) fn verdict(
        &self,
        outcome: Result<(), Denial>,
        findings: Findings,
        state: RequestState,
    ) -> Verdict {
        let escalations = self.escalations();
        let policy = match escalations.first() {
            Some(escalation) => Some(Arc::clone(&escalation.policy)),
            None => self
                .0
                .iter()
                .find_map(|member| member.decision.policy())
                .map(|policy| Arc::clone(&policy.id)),
        };
        // The first round of a call was counted.
        let again = state == RequestState::Ours;
        let counted_flags = if again { 0 } else { findings.counted };
        Verdict { outcome, policy, flags: findings.flags, counted_flags, escalations }
    }

    /// Returns the approvals that the calls need.
    pub(super) fn escalations(&self) -> Vec<Escalation> {
        let members = self.0.iter().enumerate();
        members.filter_map(|(at, member)| Escalation::by(at, member.decision)).collect()
    }
}
