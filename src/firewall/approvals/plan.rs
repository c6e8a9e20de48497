//! The next step of a message whose calls need approval: all of it at once, or none.

use uuid::Uuid;

use super::{Approval, ApprovalStep, Book, Digest, Limits, Lookup, Status};
use crate::firewall::time::Timestamp;

/// One call that needs a person's approval.
#[derive(Clone, Debug)]
pub struct Plea {
    pub digest: Digest,
    /// Hash of the text of the policy that asks.
    pub policy_text: Digest,
}

/// Answer to the calls of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All are approved, and one use of each is taken.
    Used(Vec<Approval>),
    /// A person has to decide about these.
    Pending(Vec<Approval>),
    /// A person has said no.
    Denied(Box<Approval>),
    TooMany,
}

impl Answer {
    /// Returns the approvals about which a person has to decide.
    pub fn pending(&self) -> &[Approval] {
        match self {
            Self::Pending(pending) => pending,
            Self::Used(_) | Self::Denied(_) | Self::TooMany => &[],
        }
    }
}

/// Answer, and the steps that the store has to take, all or none, before it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<ApprovalStep>,
    /// None if the book has to be looked at again after the steps.
    pub answer: Option<Answer>,
}

impl Plan {
    fn only(answer: Answer) -> Self {
        Self { steps: Vec::new(), answer: Some(answer) }
    }
}

/// Plans to take one use of each call's approval, or to ask for those that nobody was asked about.
/// None where a draft is needed and there is none.
pub fn plan(
    book: &Book,
    pleas: &[Plea],
    limits: Limits,
    now: Timestamp,
    mut draft: impl FnMut(usize) -> Option<Approval>,
) -> Option<Plan> {
    let (mut voided, mut asked) = (Vec::new(), Vec::<Approval>::new());
    let (mut waiting, mut ready) = (Vec::new(), Vec::<(Uuid, u32)>::new());
    for (at, plea) in pleas.iter().enumerate() {
        if let Some(same) = asked.iter().find(|one| one.digest == plea.digest) {
            waiting.push(same.clone());
            continue;
        }
        match book.look(&plea.digest, &plea.policy_text, now) {
            Lookup::Outdated(id) => {
                voided.extend(book.get(id).and_then(|one| one.end(Status::Void)));
            }
            Lookup::Denied(id) => {
                let denied = book.get(id).cloned().map(Box::new);
                return Some(Plan::only(denied.map_or(Answer::TooMany, Answer::Denied)));
            }
            Lookup::Approved(id) => match ready.iter_mut().find(|(one, _)| *one == id) {
                Some((_, uses)) => *uses = uses.saturating_add(1),
                None => ready.push((id, 1)),
            },
            Lookup::Pending(id) => waiting.extend(book.get(id).cloned()),
            Lookup::Unknown => {
                let new = draft(at)?;
                if book.has_room(new.agent, &new.owner, asked.len(), limits).is_err() {
                    return Some(Plan::only(Answer::TooMany));
                }
                waiting.push(new.clone());
                asked.push(new);
            }
        }
    }
    if !voided.is_empty() {
        return Some(Plan { steps: voided, answer: None });
    }
    if !waiting.is_empty() {
        let steps = asked.into_iter().map(ApprovalStep::ask).collect();
        return Some(Plan { steps, answer: Some(Answer::Pending(waiting)) });
    }
    // Two equal calls in one batch share an approval: each takes a use of its own, or none does.
    let mut steps = Vec::new();
    for (id, uses) in ready {
        let Some(step) = book.get(id).and_then(|one| one.take(uses, now)) else {
            let short = book.get(id).cloned().into_iter().collect();
            return Some(Plan::only(Answer::Pending(short)));
        };
        steps.push(step);
    }
    let used = steps.iter().map(|step| step.to.clone()).collect();
    Some(Plan { steps, answer: Some(Answer::Used(used)) })
}
