//! The order of the checks, and nothing else: each check is one file of [`checks`](super::checks).
//!
//! A decision has three parts. [`judge`] looks at what is known and asks the policies; no lock is
//! held. [`Judged::spend`] counts the calls under the session's lock, and is the only part that is
//! repeated after a lease. [`Judged::conclude`] gives the policies' answer and compares the calls
//! with the declared intent. Escalations are left in the verdict for the end, after the credentials:
//! [`settle`].

use std::sync::Arc;

use smallvec::SmallVec;

use super::agent::Caller;
use super::call::{Call, CallKind, UpstreamRef};
use super::checks::escalation::{self, Escalation};
use super::checks::session::{AgentHeader, Claimed, Found};
use super::checks::task::Owned;
use super::checks::{
    Lack, budget, continuation, delegation, drift, freeze, owner, policy, rate, sensitivity,
    session, spend, task, whitelist,
};
use super::denial::Denial;
use super::freeze::Frozen;
use super::policy::{Decision, Facts, Policy, PolicySet};
use super::session::Usage;
use super::steps::{Step, Trace};
use super::terms::Terms;
use super::time::{Mono, Now};

/// A message to decide, with everything that was looked up for it.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub policies: &'a PolicySet,
    pub terms: &'a Terms,
    pub frozen: Frozen<'a>,
    pub caller: &'a Caller,
    pub header: AgentHeader,
    pub claimed: Claimed<'a>,
    pub calls: &'a [Call<'a>],
    /// Tasks that the calls are about, as far as the session owns them.
    pub tasks: &'a [Owned<'a>],
    /// State by which the calls go on with the round before.
    pub state: continuation::RequestState,
    pub upstream: UpstreamRef<'a>,
    /// The instant of the look-ups.
    pub now: Now,
}

impl<'a> Ask<'a> {
    /// The session, if there is one and the caller may use it.
    pub fn session(&self) -> Option<&Found<'a>> {
        let owned = owner::check(self.caller.agent.id, self.header, &self.claimed).is_ok();
        self.claimed.found().filter(|_| owned)
    }

    /// The caller and the intent, as the policies are asked about them.
    pub fn facts(&self) -> Facts<'a> {
        Facts {
            agent: &self.caller.agent,
            principal: &self.caller.principal,
            intent: self.claimed.found().map(|found| &*found.order.declared_intent),
        }
    }
}

/// The decision on a message, and what is to be remembered of it.
#[derive(Debug)]
pub struct Verdict {
    pub outcome: Result<(), Denial>,
    /// The policy that decided, if one did.
    pub policy: Option<Arc<str>>,
    /// Every finding of the drift check, for the record.
    pub flags: Vec<&'static str>,
    /// Number of findings that count against the agent's trust.
    pub counted_flags: u32,
    /// Approvals that the calls still need, everything else being in order.
    pub escalations: Vec<Escalation>,
}

impl Verdict {
    pub(super) fn refused(denial: Denial, by: Option<&Policy>) -> Box<Self> {
        Box::new(Self {
            outcome: Err(denial),
            policy: by.map(|policy| Arc::clone(&policy.id)),
            flags: Vec::new(),
            counted_flags: 0,
            escalations: Vec::new(),
        })
    }
}

/// One call with the policies' answer to it.
struct Member<'a> {
    call: &'a Call<'a>,
    decision: Decision<'a>,
}

/// Calls that passed every check that needs no lock.
pub struct Judged<'a> {
    ask: Ask<'a>,
    members: SmallVec<[Member<'a>; 1]>,
    /// Calls that were counted when they were first asked about.
    paid: u64,
}

/// Proof that the calls of a message are counted, where they have to be.
#[derive(Debug)]
pub struct Spent(());

/// Takes the three parts in turn, where nothing has to be leased in between: `None` if it has.
pub fn admit(ask: Ask<'_>, usage: Option<&mut Usage>, trace: &mut impl Trace) -> Option<Verdict> {
    let judged = match judge(ask, trace) {
        Ok(judged) => judged,
        Err(refused) => return Some(*refused),
    };
    match judged.spend(usage, ask.now, trace) {
        Ok(spent) => Some(judged.conclude(spent, trace)),
        Err(Lack::Over(refused)) => Some(*refused),
        Err(Lack::NotLeased) => None,
    }
}

/// Looks at the session, then asks the policies. Changes nothing.
pub fn judge<'a>(ask: Ask<'a>, trace: &mut impl Trace) -> Result<Judged<'a>, Box<Verdict>> {
    look(&ask, trace).map_err(|denial| Verdict::refused(denial, None))?;
    let facts = ask.facts();
    let decide = |call| {
        let task = task::tool_of(ask.tasks, call);
        let decision = policy::decide(ask.policies, &facts, call, task, ask.upstream);
        Member { call, decision }
    };
    let judged = Judged { ask, members: ask.calls.iter().map(decide).collect(), paid: 0 };
    judged.every(Step::Sensitivity, trace, |member| match ask.claimed.found() {
        Some(found) => sensitivity::check(found.order, &member.call.kind, &member.decision),
        None => Ok(()),
    })?;
    Ok(judged)
}

/// The cheap checks: none reads an argument.
fn look(ask: &Ask<'_>, trace: &mut impl Trace) -> Result<(), Denial> {
    let Ask { terms, frozen, caller, header, claimed, calls, tasks, state, upstream, now, .. } =
        *ask;
    let tools = tasks.iter().map(|task| task.tool);
    let begun = tools.map(|tool| CallKind::Tool { name: tool.into(), arguments: None });
    let begun: Vec<_> = begun.collect();
    let kinds = calls.iter().map(|call| &call.kind).chain(&begun);
    trace.step(Step::Freeze, freeze::check(frozen, &caller.agent, kinds, upstream, now))?;
    trace.step(Step::Session, session::check(terms, header, &claimed, now))?;
    trace.step(Step::Owner, owner::check(caller.agent.id, header, &claimed))?;
    trace.step(Step::Continuation, continuation::check(state))?;
    let Some(Found { order, seen, chain, .. }) = claimed.found() else { return Ok(()) };
    trace.step(Step::Delegation, delegation::check(*chain))?;
    let mut calls = calls.iter();
    let listed = calls.try_for_each(|call| match call.task() {
        Some(_) => task::check(terms, order, task::tool_of(tasks, call), upstream),
        None => whitelist::check(terms, order, &call.kind, upstream),
    });
    trace.step(Step::Whitelist, listed)?;
    trace.step(Step::Budget, budget::check(order, seen.budget))?;
    trace.step(Step::Rate, rate::check(terms, order, seen.rate))
}

impl Judged<'_> {
    /// Returns the approvals that the calls need.
    pub fn escalations(&self) -> Vec<Escalation> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(at, member)| Escalation::by(at, member.decision)).collect()
    }

    /// Notes that so many of the calls were counted already, when they were first asked about.
    pub fn paid(&mut self, calls: u64) {
        self.paid = calls;
    }

    /// Notes when the session ends, since the store may have said that it ends earlier.
    pub fn ends(&mut self, at: Mono) {
        if let Claimed::Found(found) = &mut self.ask.claimed {
            found.deadline = at;
        }
    }

    /// Counts the calls: the one step under the session's lock, and the one that a lease repeats.
    pub fn spend(
        &self,
        usage: Option<&mut Usage>,
        now: Now,
        trace: &mut impl Trace,
    ) -> Result<Spent, Lack<Box<Verdict>>> {
        let price = price(self.ask.calls).saturating_sub(self.paid);
        let spent = match (self.ask.claimed.found(), usage) {
            (None, _) => Ok(()),
            (Some(_), _) if price == 0 => Ok(()),
            (Some(found), Some(usage)) => spend::spend(self.ask.terms, found, usage, price, now),
            // Without its usage a session's calls cannot be counted.
            (Some(_), None) => Err(Lack::NotLeased),
        };
        match spent {
            Ok(()) => trace.step(Step::Spend, Ok(())),
            Err(Lack::NotLeased) => return Err(Lack::NotLeased),
            Err(Lack::Over(denial)) => trace.step(Step::Spend, Err(denial)),
        }
        .map_err(|denial| Lack::Over(Verdict::refused(denial, None)))?;
        Ok(Spent(()))
    }

    /// Gives the policies' answer, then compares what is done with what was declared.
    pub fn conclude(self, _counted: Spent, trace: &mut impl Trace) -> Verdict {
        let Ask { policies, terms, claimed, calls, state, upstream, .. } = self.ask;
        let facts = self.ask.facts();
        let answer = |member: &Member<'_>| {
            policy::check(policies, &facts, member.call, &member.decision, upstream)
        };
        if let Err(refused) = self.every(Step::Policy, trace, answer) {
            return *refused;
        }
        let escalations = self.escalations();
        let first = || self.members.iter().find_map(|member| member.decision.policy());
        let kinds = || calls.iter().map(|call| &call.kind);
        let found = claimed.found().map(|found| drift::look(terms, found.order, kinds(), upstream));
        let found = found.unwrap_or_default();
        let outcome = trace.step(Step::Drift, drift::check(&found));
        Verdict {
            outcome,
            policy: match escalations.first() {
                Some(escalation) => Some(Arc::clone(&escalation.policy)),
                None => first().map(|policy| Arc::clone(&policy.id)),
            },
            flags: found.flags,
            // The first round of the call was counted.
            counted_flags: if state == continuation::RequestState::Ours {
                0
            } else {
                found.counted
            },
            escalations,
        }
    }

    /// Runs one check over all calls; the first that fails names its policy.
    fn every(
        &self,
        step: Step,
        trace: &mut impl Trace,
        check: impl Fn(&Member<'_>) -> Result<(), Denial>,
    ) -> Result<(), Box<Verdict>> {
        let mut by = None;
        let checked = self.members.iter().try_for_each(|member| {
            by = member.decision.policy();
            check(member)
        });
        trace.step(step, checked).map_err(|denial| Verdict::refused(denial, by))
    }
}

/// The end of a decision, once the credentials are there: what waits for a person is refused.
pub fn settle(escalations: &[Escalation], trace: &mut impl Trace) -> Result<(), Denial> {
    trace.step(Step::Escalation, escalation::check(escalations))
}

/// The number of calls that a message costs: its tool calls.
pub fn price(calls: &[Call<'_>]) -> u64 {
    let tools = calls.iter().filter(|call| matches!(call.kind, CallKind::Tool { .. })).count();
    u64::try_from(tools).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
