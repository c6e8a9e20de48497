//! Reading all that there is, page by page: no answer is so large that the server, or another node, would
//! have to wait for it. Entries that are there all the while are found; those that come or go meanwhile
//! are in the changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use redis::{cmd, pipe};

use super::super::{StoreError, StoredAgent, StoredDelegations, StoredSession};
use super::wire::{self, AgentText, DelegationText};
use super::{PAGE, Redis};
use crate::firewall::agent::{Agent, AgentId, Delegation};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

impl Redis {
    pub(super) async fn load_agents(&self) -> Result<Vec<StoredAgent>, StoreError> {
        type Page = (Vec<Option<String>>, Vec<Option<u64>>, Vec<bool>, Columns, Columns);
        type Columns = Vec<Option<String>>;
        let mut agents = HashMap::new();
        let mut cursor = 0;
        loop {
            let (next, page) = self.scan("HSCAN", "agents", cursor).await?;
            let ids: Vec<&String> = page.iter().map(|(id, _)| id).collect();
            if !ids.is_empty() {
                let mut ask = pipe();
                ask.cmd("HMGET").arg(self.key("trust")).arg(&ids);
                ask.cmd("HMGET").arg(self.key("numbers")).arg(&ids);
                ask.cmd("SMISMEMBER").arg(self.key("inactive")).arg(&ids);
                ask.cmd("HMGET").arg(self.key("ended")).arg(&ids);
                ask.cmd("HMGET").arg(self.key("flags")).arg(&ids);
                let (trust, numbers, inactive, ended, flags): Page =
                    self.link.pipeline(&ask).await?;
                let columns = trust.into_iter().zip(numbers).zip(inactive).zip(ended).zip(flags);
                for ((_, text), ((((trust, number), inactive), ended), flags)) in
                    page.iter().zip(columns)
                {
                    let mut agent: Agent = wire::read::<AgentText>("agent", text)?.into();
                    // Purged while it was read.
                    let Some(trust) = trust else { continue };
                    agent.trust =
                        trust.parse().map_err(|error: &str| wire::damaged("agent", error))?;
                    agent.active = !inactive;
                    let ended_at = ended.map(|at| wire::score("agent", &at)).transpose()?;
                    let stored = StoredAgent {
                        agent: Arc::new(agent),
                        number: number.unwrap_or(0),
                        ended_at: ended_at.map(Timestamp),
                        flags: wire::flags(flags.as_deref().unwrap_or_default())?,
                    };
                    agents.insert(stored.agent.id, stored);
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(agents.into_values().collect());
            }
        }
    }

    /// Returns when each of these agents ends by itself, as far as it does.
    pub(super) async fn ends_of(
        &self,
        ids: &[AgentId],
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let mut ask = cmd("HMGET");
        ask.arg(self.key("agents"));
        for id in ids {
            ask.arg(id.to_string());
        }
        let found: Vec<Option<String>> = self.link.command(&ask).await?;
        let end = |text: Option<String>| {
            let Some(text) = text else { return Ok(None) };
            Ok(Agent::from(wire::read::<AgentText>("agent", &text)?).expires_at)
        };
        found.into_iter().map(end).collect()
    }

    pub(super) async fn load_tombstones(&self) -> Result<Vec<AgentId>, StoreError> {
        let mut ids = HashSet::new();
        let mut cursor = 0;
        loop {
            self.open_for_asking()?;
            let mut scan = cmd("SSCAN");
            scan.arg(self.key("tombstones")).arg(cursor).arg("COUNT").arg(PAGE);
            let (next, page): (u64, Vec<String>) = self.link.command(&scan).await?;
            ids.extend(page.iter().filter_map(|id| AgentId::parse(id)));
            cursor = next;
            if cursor == 0 {
                return Ok(ids.into_iter().collect());
            }
        }
    }

    pub(super) async fn load_delegations(&self) -> Result<StoredDelegations, StoreError> {
        self.open_for_asking()?;
        // Read first: what is changed meanwhile has a higher number, and is in the changes.
        let mut ask = cmd("GET");
        let version: Option<u64> = self.link.command(ask.arg(self.key("graph"))).await?;
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
                let all = delegations.into_values().collect();
                return Ok(StoredDelegations { all, version: version.unwrap_or(0) });
            }
        }
    }

    pub(super) async fn load_sessions(
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

    pub(super) async fn load_session(
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

    pub(super) async fn load_revoked_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
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

    /// One page of a hash or a sorted set, and where the next one begins. Entries that are there all
    /// the while are seen, perhaps twice.
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
