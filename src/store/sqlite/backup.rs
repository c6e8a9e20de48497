//! A consistent copy of the file while it is served from, and its way back.
//!
//! The thread that owns the file copies some pages at a time and does what waits in between. SQLite
//! brings what is written meanwhile into the copy, so the copy is the state of the moment in which it
//! is complete. A mark in it says how far the audit log had got before it was begun: whatever a later
//! record says may be missing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use tokio::sync::{mpsc, oneshot};

use super::super::StoreError;
use super::at_rest::{Rows, read_through};
use super::{BATCH, Request, SealKey, commit_lastingly, file};
use crate::firewall::time::Timestamp;
use crate::saturate::SaturatingFrom as _;

/// Pages between two looks at what waits.
const PAGES: i32 = 256;

/// Position of the audit log before a copy was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub taken_at: Timestamp,
    pub sequence: u64,
    /// Hash of the record with that sequence.
    pub hash: String,
}

/// An order for a copy at a path where there is no file.
pub(super) struct Order {
    pub(super) target: PathBuf,
    pub(super) mark: Mark,
    pub(super) done: oneshot::Sender<Result<(), StoreError>>,
}

/// Carries an order out; returns who wants the file closed, if somebody does meanwhile.
pub(super) fn copy(
    db: &Connection,
    order: Order,
    queue: &mut mpsc::Receiver<Request>,
    failing: &std::sync::atomic::AtomicBool,
) -> Option<oneshot::Sender<Result<(), StoreError>>> {
    let Order { target, mark, done } = order;
    let mut close = None;
    let copied = copy_to(db, &target, &mark, || {
        let (mut steps, mut lasting) = (Vec::new(), false);
        while close.is_none() && steps.len() < BATCH {
            match queue.try_recv() {
                Ok(Request::Work(step)) => steps.push(step),
                Ok(Request::Lasting(step)) => {
                    lasting = true;
                    steps.push(step);
                }
                Ok(Request::Close(closed)) => close = Some(closed),
                Ok(Request::Copy(other)) => drop(other.done.send(Err(StoreError::Queued))),
                #[cfg(test)]
                Ok(Request::RefuseWrites(_, done)) => drop(done.send(())),
                Err(_nothing) => break,
            }
        }
        commit_lastingly(db, steps, failing, lasting);
        close.is_none()
    });
    // The caller may have gone.
    done.send(copied).ok();
    close
}

fn copy_to(
    db: &Connection,
    target: &Path,
    mark: &Mark,
    mut go_on: impl FnMut() -> bool,
) -> Result<(), StoreError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)
        .map_err(|source| StoreError::File { path: target.to_owned(), source })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(target, flags)?;
    copy.pragma_update(None, "synchronous", "OFF")?;
    copy.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    {
        let backup = Backup::new(db, &mut copy)?;
        while backup.step(PAGES)? != StepResult::Done {
            if !go_on() {
                return Err(StoreError::Stopped);
            }
        }
    }
    // One file, without a journal.
    copy.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
    copy.execute_batch(
        "CREATE TABLE IF NOT EXISTS backup
            (taken_at INTEGER NOT NULL, sequence INTEGER NOT NULL, hash TEXT NOT NULL) STRICT;
         DELETE FROM backup;",
    )?;
    drop_approvals(&copy)?;
    let sequence = i64::saturating_from(mark.sequence);
    copy.execute(
        "INSERT INTO backup VALUES (?1, ?2, ?3)",
        (mark.taken_at.0, sequence, &mark.hash),
    )?;
    copy.close().map_err(|(_, error)| StoreError::Sql(error))?;
    let synced = File::open(target).and_then(|file| file.sync_all());
    synced.map_err(|source| StoreError::File { path: target.to_owned(), source })
}

/// Deletes the approvals of a file that nobody serves from, and brings it to the disk.
fn without_approvals(path: &Path) -> Result<(), StoreError> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
    drop_approvals(&db)?;
    db.close().map_err(|(_, error)| StoreError::Sql(error))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(failed(path))
}

/// Deletes the approvals of a copy, and what they hold of calls: a use that was taken after the copy was
/// begun must not come back.
fn drop_approvals(copy: &Connection) -> Result<(), StoreError> {
    if copy.table_exists(None, "approvals")? {
        copy.pragma_update(None, "secure_delete", "ON")?;
        copy.execute("DELETE FROM approvals", ())?;
    }
    Ok(())
}

/// Reads a copy through to its end, and its mark; a file that is no copy has none.
pub fn inspect(path: &Path, key: Option<&SealKey>) -> Result<(Rows, Option<Mark>), StoreError> {
    fs::metadata(path).map_err(failed(path))?;
    let db = file::reopen(path, key)?;
    let rows = read_through(&db, path)?;
    if !db.table_exists(None, "backup")? {
        return Ok((rows, None));
    }
    let mark = db.query_row("SELECT taken_at, sequence, hash FROM backup", (), |row| {
        let sequence: i64 = row.get(1)?;
        let sequence = u64::try_from(sequence).unwrap_or_default();
        Ok(Mark { taken_at: Timestamp(row.get(0)?), sequence, hash: row.get(2)? })
    });
    Ok((rows, mark.optional()?))
}

/// Checks that the pages of a copy are sound; needs no key.
pub fn is_sound(path: &Path) -> Result<bool, StoreError> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let verdict: String = db.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    Ok(verdict == "ok")
}

/// Puts a copy in the place of the store's file. The old file is kept under another name, which is
/// returned; a file that a process serves from is refused.
pub fn put_in_place(
    from: &Path,
    path: &Path,
    key: Option<&SealKey>,
    now: Timestamp,
) -> Result<Option<PathBuf>, StoreError> {
    let beside = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let aside = beside(&format!(".before-{}", now.as_secs()));
    let there = path.try_exists().map_err(failed(path))?;
    if there && let Err(error @ StoreError::InUse { .. }) = file::open(path, key).map(drop) {
        return Err(error);
    }
    let new = beside("-restored");
    let unless_missing = |done: io::Result<()>, of: &Path| match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(of)(error)),
        Ok(()) | Err(_) => Ok(()),
    };
    unless_missing(fs::remove_file(&new), &new)?;
    let copied = (|| {
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        io::copy(&mut File::open(from)?, &mut to)?;
        to.sync_all()
    })();
    copied.map_err(failed(&new))?;
    // The file may be no copy of this store, or an old one.
    without_approvals(&new)?;
    for end in ["-wal", "-shm"] {
        // The journal first: it must not be read into another file.
        let (old, kept) = (beside(end), PathBuf::from(format!("{}{end}", aside.display())));
        unless_missing(fs::rename(&old, &kept), &old)?;
    }
    // A second name, so that there is a file at every moment: a start that found none would begin with an
    // empty store, in which nothing is revoked.
    unless_missing(fs::hard_link(path, &aside), path)?;
    fs::rename(&new, path).map_err(failed(path))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
    Ok(there.then_some(aside))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::approvals::ApprovalStep;
    use crate::firewall::approvals::tests::{asked, hash};
    use crate::store::{Room, Store};
    use crate::testkit::full_order as order;

    fn mark() -> Mark {
        Mark { taken_at: Timestamp(7), sequence: 3, hash: "ab".repeat(32) }
    }

    #[tokio::test]
    async fn a_copy_holds_what_was_answered_before_it_was_complete() {
        for key in [None, SealKey::from_hex(&"5e".repeat(32))] {
            let folder = tempfile::tempdir().unwrap();
            let (path, to) = (folder.path().join("store.db"), folder.path().join("copy.db"));
            let store = Store::sealed_sqlite(&path, key.clone()).await.unwrap();
            let agent = crate::firewall::agent::AgentId::random();
            for _ in 0..2_000 {
                store.insert_session(&order(agent, 5).into(), 10_000).await.unwrap();
            }
            let waits = ApprovalStep::ask(asked(hash(1), agent, Timestamp(0)));
            store.put_approvals(vec![waits], Room::UNLIMITED).await.unwrap();
            let copying = store.back_up(to.clone(), mark());
            // Written while pages are copied.
            let writing = async {
                for n in 0..200 {
                    store.revoke_token(&n.to_string(), Timestamp(9), Timestamp(0)).await.unwrap();
                }
            };
            let (copied, ()) = tokio::join!(copying, writing);
            copied.unwrap();
            let (rows, found) = inspect(&to, key.as_ref()).unwrap();
            assert_eq!(found, Some(mark()));
            assert!(rows.contains(&("sessions", 2_000)), "{rows:?}");
            assert!(rows.contains(&("approvals", 0)), "{rows:?}");
            assert!(is_sound(&to).unwrap());
            assert!(store.back_up(to.clone(), mark()).await.is_err(), "never over a file");
            // Once is enough: it waits for the lock.
            if key.is_none() {
                let busy = put_in_place(&to, &path, None, Timestamp(0));
                assert!(matches!(busy, Err(StoreError::InUse { .. })), "{busy:?}");
            }
            store.close().await.unwrap();
            let kept = put_in_place(&to, &path, key.as_ref(), Timestamp(0)).unwrap().unwrap();
            assert!(kept.exists());
            let store = Store::sealed_sqlite(&path, key).await.unwrap();
            assert_eq!(store.sessions(Timestamp(i64::MIN)).await.unwrap().len(), 2_000);
            store.revoke_token("later", Timestamp(9), Timestamp(0)).await.unwrap();
            store.back_up(folder.path().join("again.db"), mark()).await.unwrap();
            store.close().await.unwrap();
        }
    }

    #[tokio::test]
    async fn no_file_that_is_put_in_place_brings_approvals_back() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("whole.db"), folder.path().join("store.db"));
        let store = Store::sealed_sqlite(&from, None).await.unwrap();
        let agent = crate::firewall::agent::AgentId::random();
        let waits = ApprovalStep::ask(asked(hash(1), agent, Timestamp(0)));
        store.put_approvals(vec![waits], Room::UNLIMITED).await.unwrap();
        store.close().await.unwrap();
        put_in_place(&from, &to, None, Timestamp(0)).unwrap();
        let count = async |path: &Path| {
            let store = Store::sealed_sqlite(path, None).await.unwrap();
            let found = store.approvals().await.unwrap().len();
            store.close().await.unwrap();
            found
        };
        assert_eq!((count(&from).await, count(&to).await), (1, 0));
    }
}
