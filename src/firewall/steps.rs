//! The steps of a decision by name, for an observer of which were taken.

use super::denial::Denial;

macro_rules! steps {
    ($($step:ident $name:literal;)*) => {
        /// One check of a decision.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Step { $($step),* }

        impl Step {
            /// Every step, in the order in which a decision takes them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$step),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$step => $name),* }
            }
        }
    };
}

#[rustfmt::skip]
steps! {
    Freeze        "freeze";
    Session       "session";
    Owner         "agent_match";
    Continuation  "continuation";
    Delegation    "delegation";
    Whitelist     "whitelist";
    Budget        "budget";
    Rate          "rate";
    Sensitivity   "sensitivity";
    Spend         "spend";
    Policy        "policy";
    Drift         "drift";
    Credentials   "credentials";
    Escalation    "escalation";
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
