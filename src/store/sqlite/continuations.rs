//! Rows of continuations: found by their mark, forgotten at their end.

use rusqlite::{Connection, Params, params};

use super::rows::{damaged, json, read};
use crate::firewall::approvals::Digest;
use crate::firewall::continuation::{Continuation, MAX_OF_SESSION};
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;
use crate::store::StoreError;

type Result<T> = std::result::Result<T, StoreError>;

/// Keeps a continuation, and of its session only those that end last.
pub(super) fn keep(db: &Connection, one: &Continuation, now: Timestamp) -> Result<()> {
    db.prepare_cached("DELETE FROM continuations WHERE ends_at <= ?1")?.execute([now.0])?;
    db.prepare_cached(
        "INSERT OR REPLACE INTO continuations
         VALUES (?1, ?2, ?3, seal(?4, 'continuations.body', ?1))",
    )?
    .execute(params![
        one.mark.0,
        one.session.0.as_bytes(),
        one.ends.0,
        json("continuation", one)?
    ])?;
    db.prepare_cached(
        "DELETE FROM continuations WHERE session = ?1 AND mark NOT IN
            (SELECT mark FROM continuations WHERE session = ?1 ORDER BY ends_at DESC LIMIT ?2)",
    )?
    .execute(params![one.session.0.as_bytes(), MAX_OF_SESSION])?;
    Ok(())
}

/// Takes a continuation away; false if it was not there.
pub(super) fn take(db: &Connection, mark: Digest) -> Result<bool> {
    Ok(db.prepare_cached("DELETE FROM continuations WHERE mark = ?1")?.execute([mark.0])? > 0)
}

pub(super) fn find(db: &Connection, mark: Digest, now: Timestamp) -> Result<Option<Continuation>> {
    let found = select(db, "mark = ?1 AND ends_at > ?2", params![mark.0, now.0])?;
    Ok(found.into_iter().next())
}

pub(super) fn of_session(
    db: &Connection,
    session: SessionId,
    now: Timestamp,
) -> Result<Vec<Continuation>> {
    select(db, "session = ?1 AND ends_at > ?2", params![session.0.as_bytes(), now.0])
}

pub(super) fn all(db: &Connection) -> Result<Vec<Continuation>> {
    select(db, "TRUE", ())
}

fn select(db: &Connection, which: &str, given: impl Params) -> Result<Vec<Continuation>> {
    let mut select = db.prepare_cached(&format!(
        "SELECT mark, session, ends_at, unseal(body, 'continuations.body', mark) FROM continuations
         WHERE {which}"
    ))?;
    let mut rows = select.query(given)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let one: Continuation = read("continuation", row, 3)?;
        let key = (row.get::<_, [u8; 32]>(0)?, row.get::<_, [u8; 16]>(1)?, row.get::<_, i64>(2)?);
        if key != (one.mark.0, *one.session.0.as_bytes(), one.ends.0) {
            return Err(damaged("continuation", "its row is another's"));
        }
        found.push(one);
    }
    Ok(found)
}
