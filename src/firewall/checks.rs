//! The checks, one file each with its text and its tests, and the steps of a decision by name;
//! [`admit`](super::admit) takes them in this order.

pub mod agent;
pub mod budget;
pub mod continuation;
pub mod delegation;
pub mod drift;
pub mod escalation;
pub mod freeze;
pub mod owner;
pub mod policy;
pub mod rate;
pub mod sensitivity;
pub mod session;
pub mod spend;
pub mod task;
pub mod token;
pub mod whitelist;

use super::denial::Denial;

macro_rules! steps {
    ($($step:ident $name:literal $needs:ident;)*) => {
        /// One check of a decision.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Step { $($step),* }

        impl Step {
            /// Every step, in the order in which a decision takes them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$step),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$step => $name),* }
            }

            /// Returns the least that must be known for the step to refuse anything.
            pub fn needs(self) -> Needs {
                match self { $(Self::$step => Needs::$needs),* }
            }
        }
    };
}

/// Knowledge that a step rests on, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    Call,
    /// The call and the declared intent.
    Intent,
    /// The call and every term of its session.
    Session,
}

#[rustfmt::skip]
steps! {
    Freeze        "freeze"        Call;
    Session       "session"       Session;
    Owner         "agent_match"   Session;
    Continuation  "continuation"  Call;
    Delegation    "delegation"    Session;
    Whitelist     "whitelist"     Session;
    Budget        "budget"        Session;
    Rate          "rate"          Session;
    Sensitivity   "sensitivity"   Session;
    Spend         "spend"         Session;
    Policy        "policy"        Call;
    Drift         "drift"         Intent;
    Credentials   "credentials"   Call;
    Escalation    "escalation"    Call;
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

/// The reason why something cannot be counted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack<S> {
    /// The ledger may have more than is leased of it: lease, then ask again.
    NotLeased,
    /// There is no more.
    Over(S),
}
