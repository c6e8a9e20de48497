//! The verdict: what a decision came to, and what is to be remembered of it.

use std::sync::Arc;

use super::checks::escalation::Escalation;
use super::denial::Denial;
use super::policy::Policy;

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
    /// Returns the verdict of a check before drift; `by` is the policy that the check rests on.
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
