//! A file that nobody serves from: sealed, opened, given another key, or read through to the end.
//!
//! All or nothing, whatever breaks: the result is written to a new file in the same folder, brought to the
//! disk, read back, and only then renamed into its place, under the lock that keeps everyone else out
//! from the first look to the last. A new file, and not a change in place, as no page of it has ever
//! held anything unsealed. The old file and its journal are overwritten before their blocks go back to
//! the file system. A copy that the file system, the disk or a backup keeps of its own is out of
//! reach.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::super::StoreError;
use super::{SealKey, approvals, continuations, file, rows};
use crate::firewall::time::Timestamp;
use crate::saturate::SaturatingFrom as _;

/// A table: the columns in the clear, its key first, and those that are sealed.
struct Table {
    name: &'static str,
    clear: &'static [&'static str],
    sealed: &'static [&'static str],
}

const TABLES: [Table; 10] = [
    Table { name: "agents", clear: &["id"], sealed: &["body", "state"] },
    Table { name: "delegations", clear: &["id"], sealed: &["body"] },
    Table { name: "sessions", clear: &["id", "ends_at"], sealed: &["body", "state"] },
    Table { name: "revoked_tokens", clear: &["token_id", "until"], sealed: &["body"] },
    Table { name: "admin_pairs", clear: &["pair", "used_at"], sealed: &[] },
    Table { name: "tombstones", clear: &["id"], sealed: &[] },
    Table { name: "ledger", clear: &["seen"], sealed: &[] },
    Table { name: "freezes", clear: &["id"], sealed: &["body"] },
    Table { name: "approvals", clear: &["id", "ends_at"], sealed: &["body", "state"] },
    Table { name: "continuations", clear: &["mark", "session", "ends_at"], sealed: &["body"] },
];

/// Number of rows in each table.
pub type Rows = Vec<(&'static str, u64)>;

/// Result for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub rows: Rows,
    /// False if it was as it should be before.
    pub changed: bool,
    /// The old file lives on under another name (a hard link), as it was.
    pub linked: bool,
}

/// Seals a file that is not sealed.
pub fn encrypt(path: &Path, key: &SealKey) -> Result<Done, StoreError> {
    // Looked at without the key first: with it, an empty file would be sealed as it is.
    match look(path, None) {
        Ok(_) => turn(path, None, Some(key)),
        Err(StoreError::Sealed { problem: file::NEEDS_KEY, .. }) => {
            unchanged(look(path, Some(key)))
        }
        Err(other) => Err(other),
    }
}

/// Gives a sealed file a new key.
pub fn rekey(path: &Path, key: &SealKey, new: &SealKey) -> Result<Done, StoreError> {
    match look(path, None) {
        Ok(_) => {
            let (path, problem) = (path.to_owned(), file::NO_KEY_YET);
            return Err(StoreError::Sealed { path, problem });
        }
        Err(StoreError::Sealed { problem: file::NEEDS_KEY, .. }) => {}
        Err(other) => return Err(other),
    }
    match look(path, Some(new)) {
        Err(StoreError::Sealed { problem: file::WRONG_KEY, .. }) => {
            turn(path, Some(key), Some(new))
        }
        other => unchanged(other),
    }
}

/// Writes a sealed file as it is without a key.
pub fn decrypt(path: &Path, key: &SealKey) -> Result<Done, StoreError> {
    match look(path, None) {
        Err(StoreError::Sealed { problem: file::NEEDS_KEY, .. }) => turn(path, Some(key), None),
        other => unchanged(other),
    }
}

/// Opens the file as `serve` would and reads every value of every row.
pub fn check(path: &Path, key: Option<&SealKey>) -> Result<Rows, StoreError> {
    look(path, key)
}

fn unchanged(looked: Result<Rows, StoreError>) -> Result<Done, StoreError> {
    looked.map(|rows| Done { rows, changed: false, linked: false })
}

fn look(path: &Path, key: Option<&SealKey>) -> Result<Rows, StoreError> {
    // Opening would make it.
    fs::metadata(path).map_err(failed(path))?;
    let db = file::open(path, key)?;
    let rows = read_through(&db, path)?;
    db.close().map_err(|(_, error)| StoreError::Sql(error))?;
    Ok(rows)
}

/// Every value is opened, read and compared as at a start.
pub(super) fn read_through(db: &Connection, path: &Path) -> Result<Rows, StoreError> {
    let verdict: String = db.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if verdict != "ok" {
        let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        let source = rusqlite::Error::SqliteFailure(corrupt, Some(verdict));
        return Err(StoreError::Corrupt { path: path.to_owned(), source });
    }
    let mut sessions = 0;
    rows::each_session(db, Timestamp(i64::MIN), |_| sessions += 1)?;
    let count = u64::saturating_from::<usize>;
    Ok(vec![
        ("agents", count(rows::agents(db)?.len())),
        ("delegations", count(rows::delegations(db)?.len())),
        ("sessions", sessions),
        ("revoked_tokens", count(rows::revoked_tokens(db)?.len())),
        ("freezes", count(rows::freezes(db)?.len())),
        ("approvals", count(approvals::all(db)?.len())),
        ("continuations", count(continuations::all(db)?.len())),
    ])
}

/// Puts a file that is sealed with `to` in the place of one that is sealed with `from`.
fn turn(path: &Path, from: Option<&SealKey>, to: Option<&SealKey>) -> Result<Done, StoreError> {
    // A name that leads elsewhere goes on leading there.
    let path = &fs::canonicalize(path).map_err(failed(path))?;
    // Opened before the database is: closing it would give up the database's lock.
    let mut old = OpenOptions::new().read(true).write(true).open(path).map_err(failed(path))?;
    let source = file::open(path, from)?;
    // INVARIANT: from here to the end this process alone has the file, and its journal is found by a
    // name that will be the new file's: closing must not touch that one.
    source.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let there = old.metadata().map_err(failed(path))?;
    let named = fs::metadata(path).map_err(failed(path))?;
    if (there.dev(), there.ino()) != (named.dev(), named.ino()) {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        let source = rusqlite::Error::SqliteFailure(busy, None);
        return Err(file::in_use(path, source));
    }
    let rows = read_through(&source, path)?;
    let beside = Beside::make(path, &there)?;
    copy(&source, &beside.path, to)?;
    beside.sync()?;
    if rows != read_back(&beside.path, to)? {
        let source = "the new file does not hold what the old one does".into();
        return Err(StoreError::Damaged { what: "copy", source });
    }
    empty_journal(&source, path)?;
    beside.put_in_place(path)?;

    // The new file counts from here on; what follows only cleans up.
    let links = old.metadata().map_err(failed(path))?.nlink();
    if links == 0 {
        overwrite(&mut old).map_err(failed(path))?;
    }
    drop(source);
    Ok(Done { rows, changed: true, linked: links > 0 })
}

fn copy(source: &Connection, target: &Path, key: Option<&SealKey>) -> Result<(), StoreError> {
    let mut target = file::create(target, key)?;
    let writing = target.transaction()?;
    for Table { name, clear, sealed } in &TABLES {
        let id = clear.first().copied().unwrap_or_default();
        let opened =
            sealed.iter().map(|column| format!("unseal({column}, '{name}.{column}', {id})"));
        let columns: Vec<String> =
            clear.iter().map(|column| (*column).to_owned()).chain(opened).collect();
        let placed = (clear.len() + 1..).zip(*sealed);
        let placed = placed.map(|(n, column)| format!("seal(?{n}, '{name}.{column}', ?1)"));
        let places: Vec<String> =
            (1..=clear.len()).map(|n| format!("?{n}")).chain(placed).collect();
        let names = [*clear, *sealed].concat().join(", ");
        let mut insert = writing
            .prepare(&format!("INSERT INTO {name} ({names}) VALUES ({})", places.join(", ")))?;
        let mut select = source.prepare(&format!("SELECT {} FROM {name}", columns.join(", ")))?;
        let mut found = select.query(())?;
        while let Some(row) = found.next()? {
            let values: Result<Vec<Value>, _> = (0..columns.len()).map(|n| row.get(n)).collect();
            insert.execute(params_from_iter(values?))?;
        }
    }
    writing.commit()?;
    target.close().map_err(|(_, error)| StoreError::Sql(error))
}

/// Reads the new file as the next start will, but for its journal.
fn read_back(path: &Path, key: Option<&SealKey>) -> Result<Rows, StoreError> {
    let db = file::reopen(path, key)?;
    let rows = read_through(&db, path)?;
    db.close().map_err(|(_, error)| StoreError::Sql(error))?;
    Ok(rows)
}

/// Brings all that the journal holds into the file and leaves the journal empty, as it would
/// otherwise be taken for the new file's.
fn empty_journal(source: &Connection, path: &Path) -> Result<(), StoreError> {
    checkpoint(source, "FULL")?;
    let mut journal = path.as_os_str().to_owned();
    journal.push("-wal");
    let journal = PathBuf::from(journal);
    match OpenOptions::new().write(true).open(&journal) {
        // Its content is in the file: it is not needed any more, not even by this connection.
        Ok(mut journal) => overwrite(&mut journal).map_err(failed(path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(path)(error)),
    }
    checkpoint(source, "TRUNCATE")?;
    match fs::metadata(&journal) {
        Ok(left) if left.len() > 0 => {
            let source = format!("{} bytes are left in it", left.len()).into();
            Err(StoreError::Damaged { what: "journal", source })
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path)(error)),
    }
}

fn checkpoint(db: &Connection, how: &str) -> Result<(), StoreError> {
    let (busy, frames, done): (i64, i64, i64) =
        db.query_row(&format!("PRAGMA wal_checkpoint({how})"), (), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    if busy == 0 && frames == done {
        return Ok(());
    }
    let source = format!("{done} of {frames} pages were taken out of it").into();
    Err(StoreError::Damaged { what: "journal", source })
}

/// Leaves nothing but zeros of what is in a file, as far as the file system writes in place.
fn overwrite(file: &mut File) -> io::Result<()> {
    let zeros = vec![0_u8; 1 << 20];
    let mut left = file.metadata()?.len();
    file.seek(SeekFrom::Start(0))?;
    while left > 0 {
        let some = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
        let zeros = zeros.get(..some).unwrap_or(&zeros);
        file.write_all(zeros)?;
        left = left.saturating_sub(u64::try_from(some).unwrap_or(left));
    }
    file.sync_all()
}

/// The new file, gone unless it is put in place.
struct Beside {
    path: PathBuf,
    placed: bool,
}

impl Beside {
    /// Makes an empty file that belongs to whom the old one belongs to, and that nobody else can read.
    fn make(path: &Path, old: &fs::Metadata) -> Result<Self, StoreError> {
        let mut name = path.as_os_str().to_owned();
        name.push("-converted");
        let beside = Self { path: name.into(), placed: false };
        // Left by an earlier run that was killed. The holder of the lock is alone in making it.
        match fs::remove_file(&beside.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&beside.path)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside.path);
        let made = made.map_err(failed(&beside.path))?;
        let new = made.metadata().map_err(failed(&beside.path))?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            std::os::unix::fs::fchown(&made, Some(old.uid()), Some(old.gid()))
                .map_err(failed(&beside.path))?;
        }
        made.set_permissions(old.permissions()).map_err(failed(&beside.path))?;
        Ok(beside)
    }

    fn sync(&self) -> Result<(), StoreError> {
        File::open(&self.path).and_then(|file| file.sync_all()).map_err(failed(&self.path))
    }

    fn put_in_place(mut self, path: &Path) -> Result<(), StoreError> {
        fs::rename(&self.path, path).map_err(failed(path))?;
        self.placed = true;
        let folder = path.parent().unwrap_or(Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.placed {
            // What stays is removed by the next run.
            fs::remove_file(&self.path).ok();
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { path, source }
}

#[cfg(test)]
mod tests;
