//! The escalation: a policy that wants a person to see the call, asked last of all.

use std::sync::Arc;

use crate::firewall::denial::{Code, Denial};
use crate::firewall::policy::{Decision, PolicySet};

/// A policy's demand that a person decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escalation {
    /// The id of the policy.
    pub policy: Arc<str>,
    /// The version of the set that the policy stands in.
    pub version: Arc<str>,
}

impl Escalation {
    /// The demand that this decision of these policies makes, if it does.
    pub fn by(decision: Decision<'_>, policies: &PolicySet) -> Option<Self> {
        let Decision::Escalate(policy) = decision else { return None };
        Some(Self { policy: Arc::clone(&policy.id), version: policies.version().into() })
    }
}

/// Refuses what a person has to decide.
pub fn check(escalation: Option<&Escalation>) -> Result<(), Denial> {
    match escalation {
        None => Ok(()),
        Some(_) => Err(Denial::new(
            Code::EscalationRequired,
            "this call needs a person's approval: report the escalation_id to your operator",
        )),
    }
}
