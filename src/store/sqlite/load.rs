//! All sessions at a start: one thread reads rows while others open and parse them.
//!
//! Opening and parsing a row costs several times what reading it does. Rows go from hand to hand in
//! batches; few are under way at any time, however many there are.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use parking_lot::Mutex;
use rusqlite::Connection;

use super::super::{StoreError, StoredSession};
use super::rows::{self, SessionRow};
use super::seal::{self, SealKey};
use crate::firewall::time::Timestamp;

/// Rows in a batch, and batches that may wait.
const BATCH: usize = 1_000;
const WAITING: usize = 4;
/// Threads that open and parse, at most.
const READERS: usize = 8;

/// Hands out all sessions that had not ended by `cutoff`, unless one of them cannot be read.
pub(super) fn sessions(
    db: &Connection,
    key: Option<&SealKey>,
    cutoff: Timestamp,
    take: &(impl Fn(Vec<StoredSession>) + Sync),
) -> Result<(), StoreError> {
    let readers = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(READERS);
    let (batches, waiting) = sync_channel(WAITING);
    // Only the readers hold it: when the last of them has ended, no batch waits for ever.
    let waiting = Arc::new(Mutex::new(waiting));
    thread::scope(|scope| {
        let mut reading = Vec::new();
        for _ in 0..readers {
            let waiting = Arc::clone(&waiting);
            let reader = thread::Builder::new().name("store-reader".to_owned());
            let reader = reader.spawn_scoped(scope, move || read(&waiting, key, take));
            reading.push(reader.map_err(StoreError::Thread)?);
        }
        drop(waiting);
        let mut batch = Vec::with_capacity(BATCH);
        let mut read = rows::each_closed_row(db, cutoff, |row| {
            batch.push(row);
            if batch.len() < BATCH {
                return Ok(());
            }
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            batches.send(full).map_err(|_gone| StoreError::Stopped)
        });
        if read.is_ok() {
            read = batches.send(batch).map_err(|_gone| StoreError::Stopped);
        }
        drop(batches);
        // What a reader found is why nobody read on.
        for reader in reading {
            reader.join().unwrap_or(Err(StoreError::Stopped))?;
        }
        read
    })
}

/// One reader: opens and parses batches until there are no more, or until one is not as it should be.
fn read(
    waiting: &Mutex<Receiver<Vec<SessionRow>>>,
    key: Option<&SealKey>,
    take: &impl Fn(Vec<StoredSession>),
) -> Result<(), StoreError> {
    loop {
        let next = waiting.lock().recv();
        let Ok(batch) = next else { return Ok(()) };
        let sessions: Result<Vec<StoredSession>, StoreError> =
            batch.into_iter().map(|row| open(row, key)?.read()).collect();
        take(sessions?);
    }
}

fn open(mut row: SessionRow, key: Option<&SealKey>) -> Result<SessionRow, StoreError> {
    if let Some(key) = key {
        row.body = seal::open_value(key, &row.body, "sessions.body", row.id.as_bytes())?;
        row.state = seal::open_value(key, &row.state, "sessions.state", row.id.as_bytes())?;
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;
    use crate::firewall::agent::AgentId;
    use crate::store::sqlite::file;
    use crate::testkit::full_order as order;

    /// A file with more rows than all batches under way hold.
    fn file(key: Option<&SealKey>, rows: usize) -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let db = file::open(&folder.path().join("store.db"), key).unwrap();
        db.execute_batch("BEGIN").unwrap();
        for _ in 0..rows {
            rows::insert_session(&db, &order(AgentId::random(), 5)).unwrap();
        }
        db.execute_batch("COMMIT").unwrap();
        (folder, db)
    }

    fn load(db: &Connection, key: Option<&SealKey>) -> Result<Vec<StoredSession>, StoreError> {
        let all = Mutex::new(Vec::new());
        sessions(db, key, Timestamp(0), &|batch| all.lock().extend(batch))?;
        Ok(all.into_inner())
    }

    const MANY: usize = BATCH * (WAITING + READERS + 2) + 1;

    #[test]
    fn every_session_comes_once() {
        for key in [None, SealKey::from_hex(&"5e".repeat(32))] {
            let (_folder, db) = file(key.as_ref(), MANY);
            let mut loaded: Vec<_> =
                load(&db, key.as_ref()).unwrap().iter().map(|stored| stored.order.id).collect();
            loaded.sort_unstable();
            loaded.dedup();
            assert_eq!(loaded.len(), MANY);
        }
    }

    #[test]
    fn one_damaged_row_is_found_wherever_it_is() {
        let key = SealKey::from_hex(&"5e".repeat(32));
        let (_folder, db) = file(key.as_ref(), MANY);
        let many = i64::try_from(MANY).unwrap();
        for row in [1, many / 2, many] {
            let get = "SELECT state FROM sessions WHERE rowid = ?1";
            let state: String = db.query_row(get, [row], |row| row.get(0)).unwrap();
            let set = "UPDATE sessions SET state = ?2 WHERE rowid = ?1";
            db.execute(set, params![row, state.replace(':', "::")]).unwrap();
            let error = load(&db, key.as_ref()).unwrap_err();
            assert!(format!("{error:?}").contains("sessions.state"), "{error:?}");
            db.execute(set, params![row, state]).unwrap();
        }
        load(&db, key.as_ref()).unwrap();
    }
}
