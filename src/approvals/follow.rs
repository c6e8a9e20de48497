//! Keeping up with the store: changes of other nodes, and what a store lost that goes back in time.

use std::collections::HashMap;

use uuid::Uuid;

use super::{AT_ONCE, ATTEMPTS, ApprovalState, Approvals};
use crate::firewall::approvals::{Approval, ApprovalStep, Status};
use crate::firewall::time::Now;
use crate::store::{Put, Room, StoreError};

impl Approvals {
    /// Takes in the state of an approval. One whose call is not known is read by [`Self::refresh`].
    pub fn changed(&self, id: Uuid, state: ApprovalState) {
        if !self.book().put_state(id, state) {
            self.unread.lock().insert(id);
        }
        self.decided.notify_waiters();
    }

    /// Reads the approvals that changed and whose calls are not known here.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        loop {
            let ids: Vec<Uuid> = self.unread.lock().iter().take(AT_ONCE).copied().collect();
            if ids.is_empty() {
                return Ok(());
            }
            self.read(ids.clone()).await?;
            self.unread.lock().retain(|id| !ids.contains(id));
        }
    }

    /// Takes in what the store has of these approvals.
    pub(super) async fn read(&self, ids: Vec<Uuid>) -> Result<(), StoreError> {
        let found = self.store.find_approvals(ids).await?;
        let mut book = self.book();
        for one in found {
            book.put(one);
        }
        drop(book);
        self.decided.notify_waiters();
        Ok(())
    }

    /// Reloads everything, because changes were missed or another server answers, and stores
    /// again what the store has lost and what refuses.
    pub async fn reload(&self, now: Now) -> Result<(), StoreError> {
        let there = self.store.approvals().await?;
        let there: HashMap<Uuid, Approval> = there.into_iter().map(|one| (one.id, one)).collect();
        let ids: Vec<Uuid> = {
            let time = self.time(now);
            let mut book = self.book();
            // What the store has as it is here, or what is over, needs no second look.
            let differs =
                |kept: &&Approval| kept.expires_at > time && there.get(&kept.id) != Some(*kept);
            let ids = book.all().filter(differs).map(|one| one.id).collect();
            for (id, one) in there {
                if book.get(id).is_none() {
                    book.replace(one);
                }
            }
            ids
        };
        for ids in ids.chunks(AT_ONCE) {
            self.settle_with_store(ids.to_vec()).await?;
        }
        Ok(())
    }

    /// Makes store and book agree on these approvals: on what refuses more. Returns the steps that the
    /// store took.
    pub(super) async fn settle_with_store(
        &self,
        ids: Vec<Uuid>,
    ) -> Result<Vec<ApprovalStep>, StoreError> {
        let mut stored_here = Vec::new();
        for id in ids {
            for attempt in 1.. {
                let stored = self.store.find_approvals(vec![id]).await?.pop();
                let Some(kept) = self.get(id) else {
                    if let Some(one) = stored {
                        self.book().put(one);
                    }
                    break;
                };
                let Some(step) = kept.restored_over(stored.as_ref()) else {
                    let here = stored.unwrap_or_else(|| Self::lost(kept));
                    self.book().replace(here);
                    break;
                };
                let to = step.to.clone();
                match self.store.put_approvals(vec![step.clone()], Room::UNLIMITED).await? {
                    Put::Done(_) => {
                        self.book().replace(to);
                        stored_here.push(step);
                        break;
                    }
                    // Its time is over: nothing is left to be refused.
                    Put::Over(_) | Put::TooMany => break,
                    Put::Overtaken(by) if by != id => {
                        // Asked about again meanwhile: that one counts.
                        let void = Self::lost(to);
                        self.book().replace(void);
                        self.read(vec![by]).await?;
                        break;
                    }
                    Put::Overtaken(_) if attempt < ATTEMPTS => {}
                    Put::Overtaken(_) => return Err(StoreError::Overtaken),
                }
            }
        }
        self.decided.notify_waiters();
        Ok(stored_here)
    }

    /// Returns an approval that the store does not have: nothing is granted by it any more.
    fn lost(approval: Approval) -> Approval {
        approval.end(Status::Void).map_or(approval, |ApprovalStep { to, .. }| to)
    }
}
