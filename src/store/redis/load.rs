//! Reading all that there is, page by page: no answer is so large that the server, or another node, would
//! have to wait for it. What is there all the while is found; what comes or goes meanwhile is in the
//! changes.

use std::collections::HashMap;
use std::sync::Arc;

use redis::{cmd, pipe};

use super::super::{StoreError, StoredSession};
use super::wire::{self, AgentText, DelegationText};
use super::{PAGE, Redis};
use crate::firewall::agent::{Agent, Delegation};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

impl Redis {
    pub(in super::super) async fn agents(&self) -> Result<Vec<Arc<Agent>>, StoreError> {
        let mut agents = HashMap::new();
        let mut cursor = 0;
        loop {
            let (next, page) = self.scan("HSCAN", "agents", cursor).await?;
            let ids: Vec<&String> = page.iter().map(|(id, _)| id).collect();
            if !ids.is_empty() {
                let mut ask = pipe();
                ask.cmd("HMGET").arg(self.key("trust")).arg(&ids);
                ask.cmd("SMISMEMBER").arg(self.key("inactive")).arg(&ids);
                let (trust, inactive): (Vec<Option<String>>, Vec<bool>) =
                    self.link.pipeline(&ask).await?;
                for ((row, trust), inactive) in page.iter().zip(trust).zip(inactive) {
                    let mut agent: Agent = wire::read::<AgentText>("agent", &row.1)?.into();
                    let trust = trust.unwrap_or_default().parse();
                    agent.trust = trust.map_err(|error: &str| wire::damaged("agent", error))?;
                    agent.active = !inactive;
                    agents.insert(agent.id, Arc::new(agent));
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(agents.into_values().collect());
            }
        }
    }

    pub(in super::super) async fn delegations(&self) -> Result<Vec<Delegation>, StoreError> {
        let mut delegations = HashMap::new();
        let mut cursor = 0;
        loop {
            let (next, page) = self.scan("HSCAN", "delegations", cursor).await?;
            for (_, text) in &page {
                let delegation: Delegation =
                    wire::read::<DelegationText>("delegation", text)?.into();
                delegations.insert(delegation.id, delegation);
            }
            cursor = next;
            if cursor == 0 {
                return Ok(delegations.into_values().collect());
            }
        }
    }

    pub(in super::super) async fn sessions(
        &self,
        cutoff: Timestamp,
    ) -> Result<Vec<StoredSession>, StoreError> {
        let mut sessions = HashMap::new();
        let mut cursor = 0;
        loop {
            let (next, page) = self.scan("ZSCAN", "ends", cursor).await?;
            let mut ids = Vec::with_capacity(page.len());
            for (id, end) in page {
                if wire::score("session", &end)? > cutoff.0 {
                    let id = SessionId::parse(&id);
                    ids.push(id.ok_or_else(|| wire::damaged("session", "its id is none"))?);
                }
            }
            for ids in ids.chunks(PAGE) {
                let found = self.rows(ids).await?;
                sessions.extend(found.into_iter().map(|found| (found.order.id, found)));
            }
            cursor = next;
            if cursor == 0 {
                return Ok(sessions.into_values().collect());
            }
        }
    }

    pub(in super::super) async fn session(
        &self,
        id: SessionId,
    ) -> Result<Option<StoredSession>, StoreError> {
        Ok(self.rows(&[id]).await?.pop())
    }

    /// The sessions among these that are there.
    async fn rows(&self, ids: &[SessionId]) -> Result<Vec<StoredSession>, StoreError> {
        type Row = (Option<String>, Option<u64>, Option<i64>);
        self.open_for_asking()?;
        let mut ask = pipe();
        for id in ids {
            ask.cmd("HMGET").arg(self.key(&format!("s:{id}")));
            ask.arg("order").arg("booked").arg("closed_at");
        }
        let rows: Vec<Row> = self.link.pipeline(&ask).await?;
        let mut sessions = Vec::with_capacity(rows.len());
        for ((order, booked, closed_at), id) in rows.into_iter().zip(ids) {
            let Some(order) = order else { continue };
            let order: WorkOrder = wire::read("session", &order)?;
            if order.id != *id {
                return Err(wire::damaged("session", "a key and its order disagree"));
            }
            let booked = booked.ok_or_else(|| wire::damaged("session", "nothing is booked"))?;
            sessions.push(StoredSession {
                order: Arc::new(order),
                booked,
                closed_at: closed_at.map(Timestamp),
                // What was called of late is in the permits.
                recent: None,
            });
        }
        Ok(sessions)
    }

    pub(in super::super) async fn revoked_tokens(
        &self,
    ) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let mut revoked = HashMap::new();
        let mut cursor = 0;
        loop {
            let (next, page) = self.scan("ZSCAN", "revoked", cursor).await?;
            for (token_id, until) in page {
                revoked.insert(token_id, Timestamp(wire::score("revoked token", &until)?));
            }
            cursor = next;
            if cursor == 0 {
                return Ok(revoked.into_iter().collect());
            }
        }
    }

    /// One page of a hash or a sorted set, and where the next one begins. What is there all the while
    /// is seen, perhaps twice.
    pub(super) async fn scan(
        &self,
        command: &str,
        name: &str,
        cursor: u64,
    ) -> Result<(u64, Vec<(String, String)>), StoreError> {
        self.open_for_asking()?;
        let mut scan = cmd(command);
        scan.arg(self.key(name)).arg(cursor).arg("COUNT").arg(PAGE);
        Ok(self.link.command(&scan).await?)
    }
}
