//! The escalation: a policy that requires a person's approval, asked last of all.

use std::sync::Arc;

use crate::firewall::approvals::Digest;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::policy::Decision;

/// A policy's demand that a person decides about one call of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escalation {
    /// Index of the call in its message.
    pub call: usize,
    /// Id of the policy.
    pub policy: Arc<str>,
    /// Hash of the policy's text: another text needs another approval.
    pub text: Digest,
}

impl Escalation {
    /// Returns the demand that this decision makes about a call, if it does.
    pub fn by(call: usize, decision: Decision<'_>) -> Option<Self> {
        let Decision::Escalate(policy) = decision else { return None };
        let text = Digest(*blake3::hash(format!("{policy:?}").as_bytes()).as_bytes());
        Some(Self { call, policy: Arc::clone(&policy.id), text })
    }
}

/// Refuses a call that a person has to decide.
pub fn check(escalations: &[Escalation]) -> Result<(), Denial> {
    if escalations.is_empty() { Ok(()) } else { Err(required()) }
}

/// Refusal of a call that nobody has approved yet.
pub fn required() -> Denial {
    Denial::new(
        Code::EscalationRequired,
        "this call needs a person's approval: give the approval_id to your operator, and repeat the \
         same call when it is approved",
    )
}

/// Refusal of a batch with calls that nobody has approved yet.
pub fn required_for_batch() -> Denial {
    Denial::new(
        Code::EscalationRequired,
        "calls of this batch need a person's approval: give the approval_ids to your operator, and \
         repeat the same batch when all are approved",
    )
}

/// Refusal of a call about which nobody can be asked.
pub fn impossible() -> Denial {
    Denial::new(
        Code::EscalationRequired,
        "this call needs a person's approval, which only a request can get that has an id and a \
         session: send it as one",
    )
}

/// Refusal of a call that a person has denied.
pub fn denied() -> Denial {
    Denial::new(
        Code::ApprovalDenied,
        "a person has denied this call: do not repeat it; another call may be allowed",
    )
}

/// Refusal of a call while too many others wait for a person.
pub fn too_many(retry_after_secs: u64) -> Denial {
    Denial::new(
        Code::TooManyApprovals,
        "too many calls wait for a person's approval: wait until some are decided",
    )
    .retry_after(retry_after_secs)
}
