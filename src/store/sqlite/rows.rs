//! Content of the rows, and the statements that read and change them. Each function is one step of
//! a transaction.
//!
//! A row is its id, the time it is kept until where queries need that, and what it says as JSON, in
//! values that are sealed as a whole: `body` for what never changes, `state` for what does. A value
//! is tied to its column and row, so that it opens nowhere else; the clear time is compared with the
//! sealed one when the row is loaded.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::ledger::share;
use super::super::{
    Booked, Booking, Closing, Flags, Purge, RecentCalls, Settlement, StoreError, StoredAgent,
    StoredSession, TakenAway,
};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;

type Result<T> = std::result::Result<T, StoreError>;

/// Immutable part of an agent.
#[derive(Serialize, Deserialize)]
struct AgentBody {
    owner: String,
    model: String,
    capabilities: Vec<String>,
    created_at: i64,
    expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registered_by: Option<String>,
}

/// The part of an agent that changes.
#[derive(Serialize, Deserialize)]
struct AgentState {
    trust: String,
    active: bool,
    #[serde(default)]
    number: u64,
    #[serde(default)]
    ended_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    flags: Vec<(i64, u32)>,
}

impl AgentState {
    fn of(stored: &StoredAgent) -> Self {
        Self {
            trust: stored.agent.trust.as_str().to_owned(),
            active: stored.agent.active,
            number: stored.number,
            ended_at: stored.ended_at.map(|at| at.0),
            flags: stored.flags.iter().map(|flags| (flags.at.0, flags.count)).collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct DelegationBody {
    from: Uuid,
    to: Uuid,
    scopes: Vec<String>,
    created_at: i64,
    expires_at: Option<i64>,
}

/// Mutable part of a session, and the budget that bounds it. The work order is the row's body.
#[derive(Serialize, Deserialize)]
struct SessionState {
    budget: u64,
    booked: u64,
    closed_at: Option<i64>,
    recent: Option<Vec<(i64, u32)>>,
}

/// The pairs of admin key and source that are kept, the oldest first.
pub(super) fn admin_pairs(db: &Connection) -> Result<Vec<[u8; 32]>> {
    let mut select = db.prepare_cached("SELECT pair FROM admin_pairs ORDER BY used_at")?;
    let pairs = select.query_map((), |row| row.get(0))?;
    Ok(pairs.collect::<std::result::Result<_, _>>()?)
}

pub(super) fn keep_admin_pair(
    db: &Connection,
    pair: &[u8; 32],
    at: Timestamp,
    most: u32,
) -> Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO admin_pairs VALUES (?1, ?2)")?
        .execute(params![pair, at.0])?;
    db.prepare_cached(
        "DELETE FROM admin_pairs WHERE pair NOT IN
            (SELECT pair FROM admin_pairs ORDER BY used_at DESC LIMIT ?1)",
    )?
    .execute([most])?;
    Ok(())
}

pub(super) fn agents(db: &Connection) -> Result<Vec<StoredAgent>> {
    let mut select = db.prepare_cached(
        "SELECT id, unseal(body, 'agents.body', id), unseal(state, 'agents.state', id)
         FROM agents",
    )?;
    let mut rows = select.query(())?;
    let mut agents = Vec::new();
    while let Some(row) = rows.next()? {
        agents.push(stored_agent(row)?);
    }
    Ok(agents)
}

fn agent(db: &Connection, id: AgentId) -> Result<Option<StoredAgent>> {
    let mut select = db.prepare_cached(
        "SELECT id, unseal(body, 'agents.body', id), unseal(state, 'agents.state', id)
         FROM agents WHERE id = ?1",
    )?;
    let mut rows = select.query([id.0.as_bytes()])?;
    rows.next()?.map(stored_agent).transpose()
}

fn stored_agent(row: &Row<'_>) -> Result<StoredAgent> {
    let body: AgentBody = read("agent", row, 1)?;
    let state: AgentState = read("agent", row, 2)?;
    let flags = state.flags.into_iter();
    Ok(StoredAgent {
        agent: Arc::new(Agent {
            id: AgentId(id(row, 0)?),
            owner: body.owner,
            model: body.model,
            capabilities: body.capabilities,
            trust: state.trust.parse().map_err(|e: &str| damaged("agent", e))?,
            active: state.active,
            created_at: Timestamp(body.created_at),
            expires_at: body.expires_at.map(Timestamp),
            registered_by: body.registered_by.map(Into::into),
        }),
        number: state.number,
        ended_at: state.ended_at.map(Timestamp),
        flags: flags.map(|(at, count)| Flags { at: Timestamp(at), count }).collect(),
    })
}

pub(super) fn insert_agent(db: &Connection, agent: &Arc<Agent>) -> Result<()> {
    let mut known = db.prepare_cached("SELECT 1 FROM tombstones WHERE id = ?1")?;
    if known.exists([agent.id.0.as_bytes()])? {
        return Err(StoreError::Overtaken);
    }
    let body = AgentBody {
        owner: agent.owner.clone(),
        model: agent.model.clone(),
        capabilities: agent.capabilities.clone(),
        created_at: agent.created_at.0,
        expires_at: agent.expires_at.map(|at| at.0),
        registered_by: agent.registered_by.as_deref().map(str::to_owned),
    };
    let state = AgentState::of(&StoredAgent::new(Arc::clone(agent)));
    let new = db
        .prepare_cached(
            "INSERT INTO agents
             VALUES (?1, seal(?2, 'agents.body', ?1), seal(?3, 'agents.state', ?1))
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![agent.id.0.as_bytes(), json("agent", &body)?, json("agent", &state)?])?;
    if new == 0 { Err(StoreError::Overtaken) } else { Ok(()) }
}

pub(super) fn set_trust(
    db: &Connection,
    id: AgentId,
    level: TrustLevel,
    above: u64,
) -> Result<Option<u64>> {
    change_agent(db, id, |stored| Some(stored.set_trust(level, above)))
}

pub(super) fn take_away(db: &Connection, taken: &[TakenAway], at: Timestamp) -> Result<()> {
    for taken in taken {
        change_agent(db, taken.id, |stored| stored.take_away(taken, at).then_some(()))?;
    }
    Ok(())
}

pub(super) fn flag(db: &Connection, id: AgentId, count: u32, at: Timestamp) -> Result<()> {
    change_agent(db, id, |stored| {
        stored.flag(count, at);
        Some(())
    })?;
    Ok(())
}

/// Changes an agent that is there, unless the change says that there is none to make.
fn change_agent<T>(
    db: &Connection,
    id: AgentId,
    change: impl FnOnce(&mut StoredAgent) -> Option<T>,
) -> Result<Option<T>> {
    // As everywhere here, both statements are in one write transaction: nobody writes in between.
    let Some(mut stored) = agent(db, id)? else { return Ok(None) };
    let Some(changed) = change(&mut stored) else { return Ok(None) };
    db.prepare_cached("UPDATE agents SET state = seal(?2, 'agents.state', ?1) WHERE id = ?1")?
        .execute(params![id.0.as_bytes(), json("agent", &AgentState::of(&stored))?])?;
    Ok(Some(changed))
}

pub(super) fn purge(db: &Connection, purge: &Purge, now: Timestamp) -> Result<Vec<AgentId>> {
    let now = now.min(seen(db)?.unwrap_or(now));
    let mut purged = Vec::new();
    for &id in &purge.ids {
        let Some(stored) = agent(db, id)? else { continue };
        if !stored.is_over(now, purge.retention_secs) {
            continue;
        }
        if purge.tombstones && !stored.agent.active {
            db.prepare_cached("INSERT OR IGNORE INTO tombstones VALUES (?1)")?
                .execute([id.0.as_bytes()])?;
        }
        db.prepare_cached("DELETE FROM agents WHERE id = ?1")?.execute([id.0.as_bytes()])?;
        purged.push(id);
    }
    Ok(purged)
}

pub(super) fn tombstones(db: &Connection) -> Result<Vec<AgentId>> {
    let mut select = db.prepare_cached("SELECT id FROM tombstones")?;
    let mut rows = select.query(())?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        ids.push(AgentId(id(row, 0)?));
    }
    Ok(ids)
}

/// Returns the newest time that was noted, if one was.
fn seen(db: &Connection) -> Result<Option<Timestamp>> {
    let mut select = db.prepare_cached("SELECT max(seen) FROM ledger")?;
    Ok(select.query_row((), |row| row.get::<_, Option<i64>>(0))?.map(Timestamp))
}

/// Notes a time; returns the newest one that was noted before, or this one.
pub(super) fn newest(db: &Connection, at: Timestamp) -> Result<Timestamp> {
    let before = seen(db)?;
    match before {
        None => {
            db.prepare_cached("INSERT INTO ledger VALUES (?1)")?.execute([at.0])?;
        }
        Some(before) => {
            db.prepare_cached("UPDATE ledger SET seen = ?1")?.execute([at.max(before).0])?;
        }
    }
    Ok(before.unwrap_or(at))
}

pub(super) fn delegations(db: &Connection) -> Result<Vec<Delegation>> {
    let mut select =
        db.prepare_cached("SELECT id, unseal(body, 'delegations.body', id) FROM delegations")?;
    let mut rows = select.query(())?;
    let mut delegations = Vec::new();
    while let Some(row) = rows.next()? {
        let body: DelegationBody = read("delegation", row, 1)?;
        delegations.push(Delegation {
            id: id(row, 0)?,
            from: AgentId(body.from),
            to: AgentId(body.to),
            scopes: body.scopes,
            created_at: Timestamp(body.created_at),
            expires_at: body.expires_at.map(Timestamp),
        });
    }
    Ok(delegations)
}

pub(super) fn put_delegation(db: &Connection, delegation: &Delegation) -> Result<()> {
    let body = DelegationBody {
        from: delegation.from.0,
        to: delegation.to.0,
        scopes: delegation.scopes.clone(),
        created_at: delegation.created_at.0,
        expires_at: delegation.expires_at.map(|at| at.0),
    };
    db.prepare_cached(
        "INSERT INTO delegations VALUES (?1, seal(?2, 'delegations.body', ?1))
         ON CONFLICT (id) DO UPDATE SET body = excluded.body",
    )?
    .execute(params![delegation.id.as_bytes(), json("delegation", &body)?])?;
    Ok(())
}

pub(super) fn end_delegations(db: &Connection, ids: &[Uuid]) -> Result<()> {
    let mut delete = db.prepare_cached("DELETE FROM delegations WHERE id = ?1")?;
    for id in ids {
        delete.execute([id.as_bytes()])?;
    }
    Ok(())
}

/// A session's row, as it is or with its values opened.
pub(super) struct SessionRow {
    pub(super) id: Uuid,
    ends_at: i64,
    pub(super) body: String,
    pub(super) state: String,
}

impl SessionRow {
    /// Opens the row's values.
    pub(super) fn read(&self) -> Result<StoredSession> {
        let order: WorkOrder = parse("session", &self.body)?;
        let state: SessionState = parse("session", &self.state)?;
        let ends_at = state.closed_at.unwrap_or(order.expires_at.0);
        if order.id.0 != self.id
            || order.call_budget != state.budget
            || state.booked > state.budget
            || self.ends_at != ends_at
        {
            return Err(damaged("session", "what its row says in several places disagrees"));
        }
        Ok(StoredSession {
            order: Arc::new(order),
            booked: state.booked,
            closed_at: state.closed_at.map(Timestamp),
            recent: state.recent.map(|calls| {
                let calls = calls.into_iter();
                calls.map(|(at, count)| RecentCalls { at: Timestamp(at), count }).collect()
            }),
        })
    }
}

pub(super) fn each_session(
    db: &Connection,
    cutoff: Timestamp,
    mut then: impl FnMut(StoredSession),
) -> Result<()> {
    let opened = "unseal(body, 'sessions.body', id), unseal(state, 'sessions.state', id)";
    each_row(db, opened, cutoff, |row| {
        then(row.read()?);
        Ok(())
    })
}

/// The rows as they are stored: the caller decrypts them.
pub(super) fn each_closed_row(
    db: &Connection,
    cutoff: Timestamp,
    then: impl FnMut(SessionRow) -> Result<()>,
) -> Result<()> {
    each_row(db, "body, state", cutoff, then)
}

fn each_row(
    db: &Connection,
    values: &str,
    cutoff: Timestamp,
    mut then: impl FnMut(SessionRow) -> Result<()>,
) -> Result<()> {
    // From the table's beginning to its end. Most rows are wanted, and by the index (which the plus
    // sign hides) each would be looked up in another place.
    let sql = format!("SELECT id, ends_at, {values} FROM sessions WHERE +ends_at > ?1");
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query([cutoff.0])?;
    while let Some(row) = rows.next()? {
        let (id, ends_at) = (id(row, 0)?, row.get(1)?);
        let text = |column| text("session", row, column).map(str::to_owned);
        then(SessionRow { id, ends_at, body: text(2)?, state: text(3)? })?;
    }
    Ok(())
}

pub(super) fn insert_session(db: &Connection, order: &WorkOrder) -> Result<()> {
    let state =
        SessionState { budget: order.call_budget, booked: 0, closed_at: None, recent: None };
    db.prepare_cached(
        "INSERT INTO sessions (id, ends_at, body, state)
         VALUES (?1, ?2, seal(?3, 'sessions.body', ?1), seal(?4, 'sessions.state', ?1))",
    )?
    .execute(params![
        order.id.0.as_bytes(),
        order.expires_at.0,
        json("session", order)?,
        json("session", &state)?,
    ])?;
    Ok(())
}

pub(super) fn book(db: &Connection, booking: Booking) -> Result<Booked> {
    let booked = change_session(db, booking.id, |state, _| {
        if state.closed_at.is_some() {
            return Some(Booked { closed: true, ..Booked::alone(0, state.booked) });
        }
        let remaining = state.budget.saturating_sub(state.booked);
        let granted = share(booking.least, booking.most, remaining);
        state.booked = state.booked.saturating_add(granted);
        state.recent = None;
        Some(Booked::alone(granted, state.booked))
    })?;
    booked.ok_or(StoreError::Missing(booking.id.0))
}

pub(super) fn close_sessions(db: &Connection, closings: &[Closing], at: Timestamp) -> Result<()> {
    for closing in closings {
        change_session(db, closing.id, |state, ends_at| {
            if state.closed_at.is_some() {
                return None;
            }
            *ends_at = at.0.min(*ends_at);
            state.closed_at = Some(*ends_at);
            state.booked = state.booked.saturating_sub(closing.unused);
            Some(())
        })?;
    }
    Ok(())
}

pub(super) fn settle(db: &Connection, settlements: &[Settlement]) -> Result<()> {
    for settlement in settlements {
        change_session(db, settlement.id, |state, _| {
            state.booked = state.booked.saturating_sub(settlement.unused);
            if let Some(calls) = &settlement.recent {
                state.recent = Some(calls.iter().map(|calls| (calls.at.0, calls.count)).collect());
            }
            Some(())
        })?;
    }
    Ok(())
}

/// Changes a session that is there, unless the change says that there is none to make.
fn change_session<T>(
    db: &Connection,
    id: SessionId,
    change: impl FnOnce(&mut SessionState, &mut i64) -> Option<T>,
) -> Result<Option<T>> {
    let mut select = db.prepare_cached(
        "SELECT ends_at, unseal(state, 'sessions.state', id) FROM sessions WHERE id = ?1",
    )?;
    let mut rows = select.query([id.0.as_bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut ends_at = row.get(0)?;
    let mut state: SessionState = read("session", row, 1)?;
    let Some(changed) = change(&mut state, &mut ends_at) else { return Ok(None) };
    db.prepare_cached(
        "UPDATE sessions SET ends_at = ?2, state = seal(?3, 'sessions.state', ?1) WHERE id = ?1",
    )?
    .execute(params![id.0.as_bytes(), ends_at, json("session", &state)?])?;
    Ok(Some(changed))
}

pub(super) fn forget_sessions(db: &Connection, ids: &[SessionId], cutoff: Timestamp) -> Result<()> {
    let mut delete = db.prepare_cached("DELETE FROM sessions WHERE id = ?1 AND ends_at <= ?2")?;
    for id in ids {
        delete.execute(params![id.0.as_bytes(), cutoff.0])?;
    }
    Ok(())
}

pub(super) fn forget_ended(db: &Connection, cutoff: Timestamp, limit: u32) -> Result<usize> {
    let mut delete = db.prepare_cached(
        "DELETE FROM sessions WHERE rowid IN (
             SELECT rowid FROM sessions WHERE ends_at <= ?1 LIMIT ?2)",
    )?;
    Ok(delete.execute(params![cutoff.0, limit])?)
}

pub(super) fn revoked_tokens(db: &Connection) -> Result<Vec<(String, Timestamp)>> {
    let mut select = db.prepare_cached(
        "SELECT token_id, until, unseal(body, 'revoked_tokens.body', token_id) FROM revoked_tokens",
    )?;
    let mut rows = select.query(())?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        let until = row.get(1)?;
        if read::<i64>("revoked token", row, 2)? != until {
            return Err(damaged("revoked token", "what its row says in two places disagrees"));
        }
        tokens.push((row.get(0)?, Timestamp(until)));
    }
    Ok(tokens)
}

pub(super) fn revoke_token(
    db: &Connection,
    token_id: &str,
    until: Timestamp,
    now: Timestamp,
) -> Result<()> {
    // A clock that is ahead for a while must not bring a token back.
    let over = now.min(seen(db)?.unwrap_or(now));
    db.prepare_cached("DELETE FROM revoked_tokens WHERE until <= ?1")?.execute([over.0])?;
    db.prepare_cached(
        "INSERT INTO revoked_tokens VALUES (?1, ?2, seal(?3, 'revoked_tokens.body', ?1))
         ON CONFLICT (token_id) DO UPDATE SET until = excluded.until, body = excluded.body
         WHERE until < excluded.until",
    )?
    .execute(params![token_id, until.0, json("revoked token", &until.0)?])?;
    Ok(())
}

pub(super) fn freezes(db: &Connection) -> Result<Vec<Arc<Freeze>>> {
    let mut select =
        db.prepare_cached("SELECT id, unseal(body, 'freezes.body', id) FROM freezes")?;
    let mut rows = select.query(())?;
    let mut freezes = Vec::new();
    while let Some(row) = rows.next()? {
        let freeze: Freeze = read("freeze", row, 1)?;
        if freeze.id != id(row, 0)? {
            return Err(damaged("freeze", "its row has the id of another"));
        }
        freezes.push(Arc::new(freeze));
    }
    Ok(freezes)
}

pub(super) fn freeze(db: &Connection, freeze: &Freeze) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO freezes VALUES (?1, seal(?2, 'freezes.body', ?1)) ON CONFLICT (id) DO NOTHING",
    )?
    .execute(params![freeze.id.as_bytes(), json("freeze", freeze)?])?;
    Ok(())
}

pub(super) fn unfreeze(db: &Connection, id: Uuid) -> Result<bool> {
    Ok(db.prepare_cached("DELETE FROM freezes WHERE id = ?1")?.execute([id.as_bytes()])? > 0)
}

pub(super) fn id(row: &Row<'_>, column: usize) -> Result<Uuid> {
    Ok(Uuid::from_bytes(row.get(column)?))
}

pub(super) fn read<T: DeserializeOwned>(
    what: &'static str,
    row: &Row<'_>,
    column: usize,
) -> Result<T> {
    parse(what, text(what, row, column)?)
}

fn text<'r>(what: &'static str, row: &'r Row<'_>, column: usize) -> Result<&'r str> {
    row.get_ref(column)?.as_str().map_err(|error| damaged(what, error))
}

fn parse<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| damaged(what, error))
}

pub(super) fn json(what: &'static str, body: &impl Serialize) -> Result<String> {
    serde_json::to_string(body).map_err(|error| damaged(what, error))
}

pub(super) fn damaged(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Damaged { what, source: source.into() }
}
