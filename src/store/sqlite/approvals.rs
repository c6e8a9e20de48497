//! Rows of approvals: the call that was asked about in `body`, and what became of it in `state`.

use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::super::{Put, Replicas, StoreError};
use super::rows::{damaged, id, json, read};
use crate::firewall::approvals::{Approval, ApprovalState, ApprovalStep};
use crate::firewall::time::Timestamp;

type Result<T> = std::result::Result<T, StoreError>;

const COLUMNS: &str = "id, ends_at, unseal(body, 'approvals.body', id), \
                       unseal(state, 'approvals.state', id)";

fn approval(row: &Row<'_>) -> Result<Approval> {
    let body: Approval = read("approval", row, 2)?;
    let state: ApprovalState = read("approval", row, 3)?;
    if body.id != id(row, 0)? || body.expires_at.0 != row.get::<_, i64>(1)? {
        return Err(damaged("approval", "what its row says in several places disagrees"));
    }
    Ok(body.with(state))
}

pub(super) fn all(db: &Connection) -> Result<Vec<Approval>> {
    let mut select = db.prepare_cached(&format!("SELECT {COLUMNS} FROM approvals"))?;
    let mut rows = select.query(())?;
    let mut approvals = Vec::new();
    while let Some(row) = rows.next()? {
        approvals.push(approval(row)?);
    }
    Ok(approvals)
}

pub(super) fn find(db: &Connection, ids: &[Uuid]) -> Result<Vec<Approval>> {
    let mut approvals = Vec::new();
    for id in ids {
        approvals.extend(one(db, *id)?);
    }
    Ok(approvals)
}

fn one(db: &Connection, id: Uuid) -> Result<Option<Approval>> {
    let mut select =
        db.prepare_cached(&format!("SELECT {COLUMNS} FROM approvals WHERE id = ?1"))?;
    let mut rows = select.query([id.as_bytes()])?;
    rows.next()?.map(approval).transpose()
}

/// Takes steps, all or none. Every look comes before the first change.
pub(super) fn put(db: &Connection, steps: &[ApprovalStep]) -> Result<Put> {
    for step in steps {
        if one(db, step.to.id)?.as_ref().map(Approval::stamp) != step.from {
            return Ok(Put::Overtaken(step.to.id));
        }
    }
    for step in steps {
        let (id, state) = (step.to.id, json("approval", &step.to.state())?);
        if step.from.is_some() {
            db.prepare_cached(
                "UPDATE approvals SET state = seal(?2, 'approvals.state', ?1) WHERE id = ?1",
            )?
            .execute(params![id.as_bytes(), state])?;
        } else {
            db.prepare_cached(
                "INSERT INTO approvals (id, ends_at, body, state) VALUES
                    (?1, ?2, seal(?3, 'approvals.body', ?1), seal(?4, 'approvals.state', ?1))",
            )?
            .execute(params![
                id.as_bytes(),
                step.to.expires_at.0,
                json("approval", &step.to)?,
                state
            ])?;
        }
    }
    Ok(Put::Done(Replicas::default()))
}

pub(super) fn forget(db: &Connection, ids: &[Uuid], now: Timestamp) -> Result<()> {
    let mut delete = db.prepare_cached("DELETE FROM approvals WHERE id = ?1")?;
    for &id in ids {
        if one(db, id)?.is_some_and(|one| !one.status_at(now).is_open()) {
            delete.execute([id.as_bytes()])?;
        }
    }
    Ok(())
}
