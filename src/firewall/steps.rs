//! The steps of a decision by name, for whoever wants to see which of them were taken.

use super::denial::Denial;

/// One check of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Freeze,
    Session,
    Owner,
    Continuation,
    Delegation,
    Whitelist,
    Budget,
    Rate,
    Sensitivity,
    Spend,
    Policy,
    Drift,
    Credentials,
    Escalation,
}

impl Step {
    /// Every step, in the order in which a decision takes them.
    pub const ALL: [Self; 14] = [
        Self::Freeze,
        Self::Session,
        Self::Owner,
        Self::Continuation,
        Self::Delegation,
        Self::Whitelist,
        Self::Budget,
        Self::Rate,
        Self::Sensitivity,
        Self::Spend,
        Self::Policy,
        Self::Drift,
        Self::Credentials,
        Self::Escalation,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Session => "session",
            Self::Owner => "agent_match",
            Self::Continuation => "continuation",
            Self::Delegation => "delegation",
            Self::Whitelist => "whitelist",
            Self::Budget => "budget",
            Self::Rate => "rate",
            Self::Sensitivity => "sensitivity",
            Self::Spend => "spend",
            Self::Policy => "policy",
            Self::Drift => "drift",
            Self::Credentials => "credentials",
            Self::Escalation => "escalation",
        }
    }
}

/// Sees each step of a decision as it is taken.
pub trait Trace {
    /// Passes a step's result on.
    fn step(&mut self, step: Step, result: Result<(), Denial>) -> Result<(), Denial>;
}

/// No trace: what the gateway takes.
impl Trace for () {
    fn step(&mut self, _step: Step, result: Result<(), Denial>) -> Result<(), Denial> {
        result
    }
}
