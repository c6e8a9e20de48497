//! The order of the checks, and nothing else: each check is one file of [`checks`](super::checks).
//!
//! A decision has three parts. [`examine`] looks at what is known and asks the policies; no lock is
//! held. [`Examined::spend`] counts the calls under the session's lock, and is the only part that is
//! repeated after a lease. [`Examined::conclude`] gives the policies' answer and compares the calls
//! with the declared intent. Escalations are left in the verdict for the end, after the credentials:
//! [`settle`].

use super::ask::Ask;
use super::call::price;
use super::checks::escalation::{self, Escalation};
use super::checks::session::{Claimed, Found};
use super::checks::{
    Lack, Step, Trace, budget, continuation, delegation, drift, freeze, owner, policy, rate,
    sensitivity, session, spend, task, whitelist,
};
use super::denial::Denial;
use super::members::Members;
use super::session::Usage;
use super::time::{Mono, Now};
use super::verdict::Verdict;

/// Calls that passed every check that needs no lock.
pub struct Examined<'a> {
    ask: Ask<'a>,
    members: Members<'a>,
    /// Calls that were counted when they were first asked about.
    paid: u64,
}

/// Proof that the calls of a message are counted, where they have to be.
#[derive(Debug)]
pub struct Spent(());

/// Takes the three parts in turn, where nothing has to be leased in between: `None` if it has.
pub fn admit(ask: Ask<'_>, usage: Option<&mut Usage>, trace: &mut impl Trace) -> Option<Verdict> {
    let examined = match examine(ask, trace) {
        Ok(examined) => examined,
        Err(refused) => return Some(*refused),
    };
    match examined.spend(usage, ask.now, trace) {
        Ok(spent) => Some(examined.conclude(spent, trace)),
        Err(Lack::Over(refused)) => Some(*refused),
        Err(Lack::NotLeased) => None,
    }
}

/// Looks at the session, then asks the policies. Changes nothing.
pub fn examine<'a>(ask: Ask<'a>, trace: &mut impl Trace) -> Result<Examined<'a>, Box<Verdict>> {
    look(&ask, trace).map_err(|denial| Verdict::refused(denial, None))?;
    let members = Members::decide(&ask);
    members.every(Step::Sensitivity, trace, |member| match ask.claimed.found() {
        Some(found) => sensitivity::check(found.order, &member.call.kind, &member.decision),
        None => Ok(()),
    })?;
    Ok(Examined { ask, members, paid: 0 })
}

/// The cheap checks: none reads an argument.
fn look(ask: &Ask<'_>, trace: &mut impl Trace) -> Result<(), Denial> {
    let Ask { terms, frozen, caller, header, claimed, calls, tasks, state, upstream, now, .. } =
        *ask;
    let begun = task::begun(tasks);
    let kinds = calls.iter().map(|call| &call.kind).chain(&begun);
    trace.step(Step::Freeze, freeze::check(frozen, &caller.agent, kinds, upstream, now))?;
    trace.step(Step::Session, session::check(terms, header, &claimed, now))?;
    trace.step(Step::Owner, owner::check(caller.agent.id, header, &claimed))?;
    trace.step(Step::Continuation, continuation::check(state))?;
    let Some(Found { order, seen, chain, .. }) = claimed.found() else { return Ok(()) };
    trace.step(Step::Delegation, delegation::check(*chain))?;
    trace.step(Step::Whitelist, whitelist::check_all(terms, order, calls, tasks, upstream))?;
    trace.step(Step::Budget, budget::check(order, seen.budget))?;
    trace.step(Step::Rate, rate::check(terms, order, seen.rate))
}

impl Examined<'_> {
    /// Returns the approvals that the calls need.
    pub fn escalations(&self) -> Vec<Escalation> {
        self.members.escalations()
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
        let spent = spend::spend(self.ask.terms, self.ask.claimed.found(), usage, price, now);
        let spent = match spent {
            Ok(()) => Ok(()),
            Err(Lack::Over(denial)) => Err(denial),
            Err(Lack::NotLeased) => return Err(Lack::NotLeased),
        };
        let refused = |denial| Lack::Over(Verdict::refused(denial, None));
        trace.step(Step::Spend, spent).map_err(refused).map(Spent)
    }

    /// Gives the policies' answer, then compares what is done with what was declared.
    pub fn conclude(self, _counted: Spent, trace: &mut impl Trace) -> Verdict {
        let Ask { policies, terms, claimed, calls, state, upstream, .. } = self.ask;
        let facts = self.ask.facts();
        let answered = self.members.every(Step::Policy, trace, |member| {
            policy::check(policies, &facts, member.call, &member.decision, upstream)
        });
        if let Err(refused) = answered {
            return *refused;
        }
        let kinds = calls.iter().map(|call| &call.kind);
        let look = |found: &Found<'_>| drift::look(terms, found.order, kinds, upstream);
        let findings = claimed.found().map(look).unwrap_or_default();
        let outcome = trace.step(Step::Drift, drift::check(&findings));
        self.members.verdict(outcome, findings, state)
    }
}

/// The end of a decision, once the credentials are there: what waits for a person is refused.
pub fn settle(escalations: &[Escalation], trace: &mut impl Trace) -> Result<(), Denial> {
    trace.step(Step::Escalation, escalation::check(escalations))
}

#[cfg(test)]
mod tests;
