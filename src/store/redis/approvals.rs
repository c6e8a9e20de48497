//! Approvals in Redis: the call that was asked about by id, and what became of it by id.

use std::collections::HashMap;

use redis::{cmd, pipe};
use uuid::Uuid;

use super::super::{Change, Put, Room, StoreError};
use super::{PAGE, Redis, RedisFault, scripts, wire};
use crate::firewall::approvals::{Approval, ApprovalState, ApprovalStep};

/// Approvals that are read at once: each may hold 64 KiB of parameters.
const ROWS: usize = 50;

impl Redis {
    pub(super) async fn load_approvals(&self) -> Result<Vec<Approval>, StoreError> {
        let mut approvals = HashMap::new();
        let mut cursor = 0;
        loop {
            self.open_for_asking()?;
            let mut scan = cmd("HSCAN");
            scan.arg(self.key("approval_states")).arg(cursor).arg("COUNT").arg(PAGE);
            let (next, page): (u64, Vec<(String, String)>) = self.link.command(&scan).await?;
            let ids: Vec<Uuid> = page.iter().filter_map(|(id, _)| id.parse().ok()).collect();
            for approval in self.read_approvals(&ids).await? {
                approvals.insert(approval.id, approval);
            }
            cursor = next;
            if cursor == 0 {
                return Ok(approvals.into_values().collect());
            }
        }
    }

    /// Returns those of these approvals that there are.
    pub(super) async fn read_approvals(&self, ids: &[Uuid]) -> Result<Vec<Approval>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(ROWS) {
            self.open_for_asking()?;
            let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
            let mut ask = pipe();
            ask.cmd("HMGET").arg(self.key("approvals")).arg(&ids);
            ask.cmd("HMGET").arg(self.key("approval_states")).arg(&ids);
            let (bodies, states): (Vec<Option<String>>, Vec<Option<String>>) =
                self.link.pipeline(&ask).await?;
            for (body, state) in bodies.into_iter().zip(states) {
                // Forgotten while it was read.
                let (Some(body), Some(state)) = (body, state) else { continue };
                let state = state.splitn(5, ' ').nth(4);
                let state = state.ok_or_else(|| wire::damaged("approval", "no state"))?;
                let state: ApprovalState = wire::read("approval", state)?;
                found.push(wire::read::<Approval>("approval", &body)?.with(state));
            }
        }
        Ok(found)
    }

    pub(super) async fn store_steps(
        &self,
        steps: Vec<ApprovalStep>,
        room: Room,
    ) -> Result<Put, StoreError> {
        let mut script = self.write(&scripts::PUT_APPROVALS)?;
        script.arg(room.of_agent).arg(room.of_owner).arg(room.in_all);
        for ApprovalStep { from, to } in &steps {
            let timed = u8::from(ApprovalStep { from: *from, to: to.clone() }.is_timed());
            let (id, state) = (to.id, to.state());
            script.arg(id).arg(from.map_or_else(String::new, |from| from.to_string()));
            script.arg(to.stamp()).arg(wire::write("approval", &state)?);
            script.arg(match from {
                Some(_) => String::new(),
                None => wire::write("approval", to)?,
            });
            script.arg(to.digest).arg(to.agent).arg(&to.owner).arg(to.expires_at.0);
            script.arg(to.status.as_str()).arg(u8::from(to.status.is_open())).arg(timed);
            script.arg(wire::change(&Change::Approval { id, state })?);
        }
        let (answer, replicas): (Vec<String>, _) = self.run_carefully(&script).await?;
        let answer: Vec<&str> = answer.iter().map(String::as_str).collect();
        let id = |text: &str| text.parse().map_err(|_none| RedisFault::Unexpected);
        match answer.as_slice() {
            ["done"] => Ok(Put::Done(replicas)),
            ["overtaken", by] => Ok(Put::Overtaken(id(by)?)),
            ["over", which] => Ok(Put::Over(id(which)?)),
            ["too_many"] => Ok(Put::TooMany),
            _ => Err(RedisFault::Unexpected.into()),
        }
    }

    pub(super) async fn drop_approvals(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        for ids in ids.chunks(PAGE) {
            let mut script = self.write(&scripts::FORGET_APPROVALS)?;
            for id in ids {
                script.arg(id);
            }
            self.run::<()>(&script).await?;
        }
        Ok(())
    }
}
