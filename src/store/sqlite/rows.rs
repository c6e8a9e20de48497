//! What is in the rows, and the statements that read and change them. Each function is one step of
//! a transaction.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::ledger::share;
use super::super::{Booked, Booking, Closing, RecentCalls, Settlement, StoreError, StoredSession};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

type Result<T> = std::result::Result<T, StoreError>;

#[derive(Serialize, Deserialize)]
struct AgentBody {
    owner: String,
    model: String,
    capabilities: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct DelegationBody {
    scopes: Vec<String>,
}

pub(super) fn agents(db: &Connection) -> Result<Vec<Arc<Agent>>> {
    let mut select = db.prepare_cached(
        "SELECT id, trust, active, created_at, expires_at, unseal(body, id) FROM agents",
    )?;
    let mut rows = select.query(())?;
    let mut agents = Vec::new();
    while let Some(row) = rows.next()? {
        let trust: String = row.get(1)?;
        let body: AgentBody = body("agent", row, 5)?;
        agents.push(Arc::new(Agent {
            id: AgentId(id(row, 0)?),
            owner: body.owner,
            model: body.model,
            capabilities: body.capabilities,
            trust: trust.parse().map_err(|e: &str| damaged("agent", e))?,
            active: row.get(2)?,
            created_at: Timestamp(row.get(3)?),
            expires_at: row.get::<_, Option<i64>>(4)?.map(Timestamp),
        }));
    }
    Ok(agents)
}

pub(super) fn insert_agent(db: &Connection, agent: &Agent) -> Result<()> {
    let body = AgentBody {
        owner: agent.owner.clone(),
        model: agent.model.clone(),
        capabilities: agent.capabilities.clone(),
    };
    db.prepare_cached("INSERT INTO agents VALUES (?1, ?2, ?3, ?4, ?5, seal(?6, ?1))")?.execute(
        params![
            agent.id.0.as_bytes(),
            agent.trust.as_str(),
            agent.active,
            agent.created_at.0,
            agent.expires_at.map(|at| at.0),
            json("agent", &body)?,
        ],
    )?;
    Ok(())
}

pub(super) fn set_trust(db: &Connection, levels: &[(AgentId, TrustLevel)]) -> Result<()> {
    let mut update = db.prepare_cached("UPDATE agents SET trust = ?2 WHERE id = ?1")?;
    for (id, trust) in levels {
        update.execute(params![id.0.as_bytes(), trust.as_str()])?;
    }
    Ok(())
}

pub(super) fn deactivate(db: &Connection, agents: &[AgentId]) -> Result<()> {
    let mut update = db.prepare_cached("UPDATE agents SET active = 0 WHERE id = ?1")?;
    for id in agents {
        update.execute([id.0.as_bytes()])?;
    }
    Ok(())
}

pub(super) fn delegations(db: &Connection) -> Result<Vec<Delegation>> {
    let mut select = db.prepare_cached(
        "SELECT id, from_agent, to_agent, created_at, expires_at, unseal(body, id)
         FROM delegations",
    )?;
    let mut rows = select.query(())?;
    let mut delegations = Vec::new();
    while let Some(row) = rows.next()? {
        let body: DelegationBody = body("delegation", row, 5)?;
        delegations.push(Delegation {
            id: id(row, 0)?,
            from: AgentId(id(row, 1)?),
            to: AgentId(id(row, 2)?),
            scopes: body.scopes,
            created_at: Timestamp(row.get(3)?),
            expires_at: row.get::<_, Option<i64>>(4)?.map(Timestamp),
        });
    }
    Ok(delegations)
}

pub(super) fn insert_delegation(db: &Connection, delegation: &Delegation) -> Result<()> {
    let body = DelegationBody { scopes: delegation.scopes.clone() };
    db.prepare_cached("INSERT INTO delegations VALUES (?1, ?2, ?3, ?4, ?5, seal(?6, ?1))")?
        .execute(params![
            delegation.id.as_bytes(),
            delegation.from.0.as_bytes(),
            delegation.to.0.as_bytes(),
            delegation.created_at.0,
            delegation.expires_at.map(|at| at.0),
            json("delegation", &body)?,
        ])?;
    Ok(())
}

pub(super) fn sessions(db: &Connection, cutoff: Timestamp) -> Result<Vec<StoredSession>> {
    let mut select = db.prepare_cached(
        "SELECT id, call_budget, booked, closed_at, recent, unseal(body, id) FROM sessions
         WHERE coalesce(closed_at, expires_at) > ?1",
    )?;
    let mut rows = select.query([cutoff.0])?;
    let mut sessions = Vec::new();
    while let Some(row) = rows.next()? {
        let order: WorkOrder = body("session", row, 5)?;
        let budget = count(row.get(1)?)?;
        if order.id.0 != id(row, 0)? || order.call_budget != budget {
            return Err(damaged("session", "a row and its body disagree"));
        }
        let recent: Option<String> = row.get(4)?;
        let recent = recent
            .map(|text| serde_json::from_str::<Vec<(i64, u32)>>(&text))
            .transpose()
            .map_err(|error| damaged("session", error))?;
        sessions.push(StoredSession {
            order: Arc::new(order),
            booked: count(row.get(2)?)?,
            closed_at: row.get::<_, Option<i64>>(3)?.map(Timestamp),
            recent: recent.map(|calls| {
                let calls = calls.into_iter();
                calls.map(|(at, count)| RecentCalls { at: Timestamp(at), count }).collect()
            }),
        });
    }
    Ok(sessions)
}

pub(super) fn insert_session(db: &Connection, order: &WorkOrder) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO sessions (id, call_budget, booked, expires_at, body)
         VALUES (?1, ?2, 0, ?3, seal(?4, ?1))",
    )?
    .execute(params![
        order.id.0.as_bytes(),
        stored(order.call_budget),
        order.expires_at.0,
        json("session", order)?,
    ])?;
    Ok(())
}

pub(super) fn book(db: &Connection, booking: Booking) -> Result<Booked> {
    let id = booking.id;
    // Both statements are in one write transaction: nobody books in between.
    let (budget, before) = db
        .prepare_cached("SELECT call_budget, booked FROM sessions WHERE id = ?1")?
        .query_row([id.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .ok_or(StoreError::Missing(id.0))?;
    let (budget, before) = (count(budget)?, count(before)?);
    let granted = share(booking.least, booking.most, budget.saturating_sub(before));
    let total = before.saturating_add(granted);
    db.prepare_cached("UPDATE sessions SET booked = ?2, recent = NULL WHERE id = ?1")?
        .execute(params![id.0.as_bytes(), stored(total)])?;
    Ok(Booked::alone(granted, total))
}

pub(super) fn close_sessions(db: &Connection, closings: &[Closing], at: Timestamp) -> Result<()> {
    let mut update = db.prepare_cached(
        "UPDATE sessions SET closed_at = min(?2, expires_at), booked = max(0, booked - ?3)
         WHERE id = ?1 AND closed_at IS NULL",
    )?;
    for closing in closings {
        update.execute(params![closing.id.0.as_bytes(), at.0, stored(closing.unused)])?;
    }
    Ok(())
}

pub(super) fn settle(db: &Connection, settlements: &[Settlement]) -> Result<()> {
    let mut update = db.prepare_cached(
        "UPDATE sessions SET booked = max(0, booked - ?2), recent = coalesce(?3, recent)
         WHERE id = ?1",
    )?;
    for settlement in settlements {
        let calls = settlement.recent.as_ref().map(|calls| {
            let calls = calls.iter().map(|calls| (calls.at.0, calls.count));
            json("session", &calls.collect::<Vec<(i64, u32)>>())
        });
        update.execute(params![
            settlement.id.0.as_bytes(),
            stored(settlement.unused),
            calls.transpose()?,
        ])?;
    }
    Ok(())
}

pub(super) fn forget_sessions(db: &Connection, ids: &[SessionId]) -> Result<()> {
    let mut delete = db.prepare_cached("DELETE FROM sessions WHERE id = ?1")?;
    for id in ids {
        delete.execute([id.0.as_bytes()])?;
    }
    Ok(())
}

pub(super) fn forget_ended(db: &Connection, cutoff: Timestamp, limit: u32) -> Result<usize> {
    let mut delete = db.prepare_cached(
        "DELETE FROM sessions WHERE rowid IN (
             SELECT rowid FROM sessions WHERE coalesce(closed_at, expires_at) <= ?1 LIMIT ?2)",
    )?;
    Ok(delete.execute(params![cutoff.0, limit])?)
}

pub(super) fn revoked_tokens(db: &Connection) -> Result<Vec<(String, Timestamp)>> {
    let mut select = db.prepare_cached("SELECT token_id, until FROM revoked_tokens")?;
    let rows = select.query_map((), |row| Ok((row.get(0)?, Timestamp(row.get(1)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn revoke_token(
    db: &Connection,
    token_id: &str,
    until: Timestamp,
    now: Timestamp,
) -> Result<()> {
    db.prepare_cached("DELETE FROM revoked_tokens WHERE until <= ?1")?.execute([now.0])?;
    db.prepare_cached(
        "INSERT INTO revoked_tokens VALUES (?1, ?2)
         ON CONFLICT (token_id) DO UPDATE SET until = max(until, excluded.until)",
    )?
    .execute(params![token_id, until.0])?;
    Ok(())
}

fn id(row: &Row<'_>, column: usize) -> Result<Uuid> {
    Ok(Uuid::from_bytes(row.get(column)?))
}

fn body<T: DeserializeOwned>(what: &'static str, row: &Row<'_>, column: usize) -> Result<T> {
    let text = row.get_ref(column)?.as_str().map_err(|error| damaged(what, error))?;
    serde_json::from_str(text).map_err(|error| damaged(what, error))
}

fn json(what: &'static str, body: &impl Serialize) -> Result<String> {
    serde_json::to_string(body).map_err(|error| damaged(what, error))
}

/// A count as SQLite keeps it. What is larger than that is more than any budget in the store.
fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count(stored: i64) -> Result<u64> {
    u64::try_from(stored).map_err(|error| damaged("session", error))
}

fn damaged(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Damaged { what, source: source.into() }
}
