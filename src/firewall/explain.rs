//! The explanation: a decision with each of its steps, by the checks that the gateway runs.

use super::admit::{admit, settle};
use super::ask::Ask;
use super::checks::{Step, Trace};
use super::denial::{Code, Denial};
use super::session::Usage;
use super::verdict::Verdict;

/// The result of one step.
#[derive(Clone, Debug, PartialEq)]
pub enum Taken {
    Passed,
    Refused(Denial),
    /// An earlier step refused.
    NotReached,
}

/// A decision and its steps.
#[derive(Debug)]
pub struct Explained {
    pub verdict: Verdict,
    /// Every step of [`Step::ALL`], in order.
    pub steps: Vec<(Step, Taken)>,
}

/// Decides as the gateway would, on a copy of the session's usage and as if whatever can be leased
/// were leased. `credentials` is the refusal of the calls' credentials, if there is one.
pub fn explain(ask: Ask<'_>, usage: Option<Usage>, credentials: Result<(), Denial>) -> Explained {
    let mut log = Log(Vec::with_capacity(Step::ALL.len()));
    let mut usage = usage.map(|usage| Usage { booked: u64::MAX, shared: None, ..usage });
    let verdict = admit(ask, usage.as_mut(), &mut log).map(|mut verdict| {
        verdict.outcome = verdict
            .outcome
            .and_then(|()| log.step(Step::Credentials, credentials))
            .and_then(|()| settle(&verdict.escalations, &mut log));
        verdict
    });
    let verdict = verdict.unwrap_or_else(|| {
        let message = "the calls cannot be counted: the session's usage is not known";
        *Verdict::refused(Denial::new(Code::StoreUnavailable, message), None)
    });
    let last = log.0.last().map(|(step, _)| *step);
    let steps = Step::ALL.map(|step| {
        let seen = log.0.iter().find(|(taken, _)| *taken == step).map(|(_, taken)| taken.clone());
        // What was left out on the way had nothing to refuse.
        let passed_by = Some(step) < last;
        (step, seen.unwrap_or(if passed_by { Taken::Passed } else { Taken::NotReached }))
    });
    Explained { verdict, steps: steps.into() }
}

/// The steps that were taken.
struct Log(Vec<(Step, Taken)>);

impl Trace for Log {
    fn step(&mut self, step: Step, result: Result<(), Denial>) -> Result<(), Denial> {
        let taken = match &result {
            Ok(()) => Taken::Passed,
            Err(denial) => Taken::Refused(denial.clone()),
        };
        self.0.push((step, taken));
        result
    }
}
