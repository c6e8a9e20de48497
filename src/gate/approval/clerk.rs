//! Steps of approvals, on record before they count.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use crate::approvals::{Approvals, Committed};
use crate::audit::{Audit, AuditUnavailable, By, Change};
use crate::clock::Clock;
use crate::firewall::approvals::{Answer, Approval, ApprovalStep, Plea};
use crate::firewall::denial::Code;
use crate::store::{StoreError, to_the_end};
use crate::telemetry::Causes;

/// Attempts at an answer that other nodes come before.
const ATTEMPTS: usize = 8;
/// Noted in the record of a step that another node came before.
const OVERTAKEN: &str = "Overtaken";
/// Noted in the record of a step that too few replicas of the store have.
const REPLICAS_SHORT: &str = "ReplicasShort";

/// Keeper of approvals and of their record; lives as long as any step that was begun.
#[derive(Clone)]
pub struct Clerk {
    pub approvals: Arc<Approvals>,
    pub audit: Arc<Audit>,
    pub clock: Clock,
}

/// Reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum UseError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Audit(#[from] AuditUnavailable),
    #[error("fewer replicas of the store have the use than `storage.redis_wait_replicas`")]
    ReplicasShort,
}

impl Clerk {
    /// Takes one use of each call's approval, all or none, or asks for those that nobody was asked
    /// about; to the end, even if the client leaves.
    pub(super) async fn settle(
        self,
        turn: OwnedSemaphorePermit,
        pleas: Vec<Plea>,
        drafts: Vec<Approval>,
    ) -> Result<Answer, UseError> {
        to_the_end(async move {
            let _turn = turn;
            for _ in 0..ATTEMPTS {
                if let Some(answer) = self.try_settle(&pleas, &drafts).await? {
                    return Ok(answer);
                }
            }
            Err(StoreError::Overtaken.into())
        })
        .await
    }

    async fn try_settle(
        &self,
        pleas: &[Plea],
        drafts: &[Approval],
    ) -> Result<Option<Answer>, UseError> {
        let draft = |at: usize| drafts.get(at).cloned();
        let Some(plan) = self.approvals.plan(pleas, self.clock.now(), draft) else {
            return Err(StoreError::Overtaken.into());
        };
        if plan.steps.is_empty() {
            return Ok(plan.answer);
        }
        let mut announced = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let change = event_of(&step.to, step.event());
            match self.audit.announce(change, By::default(), &self.clock).await {
                Ok(one) => announced.push(one),
                Err(unavailable) => {
                    let refused = Code::AuditUnavailable.name();
                    for one in announced {
                        one.refused(refused);
                    }
                    return Err(unavailable.into());
                }
            }
        }
        // Where the store does not answer, the record says that the outcome is unknown.
        let committed = self.approvals.commit(plan.steps, &self.clock).await?;
        match committed {
            Committed::Done(replicas) if replicas.are_short() => {
                for one in announced {
                    one.in_force(REPLICAS_SHORT);
                }
                match plan.answer {
                    // The use is lost: another server might not know of it.
                    Some(Answer::Used(_)) => Err(UseError::ReplicasShort),
                    other => Ok(other),
                }
            }
            Committed::Done(_) => {
                for one in announced {
                    one.done();
                }
                Ok(plan.answer)
            }
            Committed::Overtaken => {
                for one in announced {
                    one.refused(OVERTAKEN);
                }
                Ok(None)
            }
            Committed::TooMany => {
                let code = Code::TooManyApprovals.name();
                for one in announced {
                    one.refused(code);
                }
                Ok(Some(Answer::TooMany))
            }
        }
    }

    /// Puts on record what has ended, by a person, a limit or time.
    pub async fn note_ends(&self, ended: Vec<ApprovalStep>) {
        for step in ended {
            let change = event_of(&step.to, step.event());
            let noted = self.audit.record_change(change, By::default(), &self.clock, None);
            if let Err(error) = noted.await {
                // They have ended all the same: that is the safe side.
                warn!(error = %Causes(&error), "ended approval is not on record");
            }
        }
    }
}

/// Describes an approval to the record.
pub fn event_of(approval: &Approval, event: &'static str) -> Change {
    let change = Change::new(event)
        .agent(approval.agent)
        .session(approval.session)
        .with("approval_id", approval.id)
        .with("method", &approval.method)
        .with("target", &approval.target)
        .with("policy", &approval.policy)
        .with("arguments_digest", approval.digest)
        .with("expires_at", approval.expires_at);
    match &approval.decided_by {
        Some(by) if event == "approval.used" => {
            change.with("approved_by", by).count("uses_left", approval.uses_left.into())
        }
        Some(_) | None => change,
    }
}
