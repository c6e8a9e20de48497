//! The file: opened, checked and brought to this version's schema before anything is read from it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::super::StoreError;
use super::seal::{self, SealKey};

/// `Arbt`, in the file's header: says that the file is ours.
const APPLICATION_ID: i64 = 0x4172_6274;
/// How long to wait for a process that is just letting go of the file.
const BUSY: Duration = Duration::from_secs(5);

/// Each brings the schema one version further. Only ever append.
///
/// What a query needs is a column of its own; all else is one JSON `body`, so that it can be sealed
/// as a whole.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE agents (
        id BLOB PRIMARY KEY, trust TEXT NOT NULL, active INTEGER NOT NULL,
        created_at INTEGER NOT NULL, expires_at INTEGER, body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE delegations (
        id BLOB PRIMARY KEY, from_agent BLOB NOT NULL, to_agent BLOB NOT NULL,
        created_at INTEGER NOT NULL, expires_at INTEGER, body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sessions (
        id BLOB PRIMARY KEY, call_budget INTEGER NOT NULL,
        booked INTEGER NOT NULL CHECK (booked BETWEEN 0 AND call_budget),
        expires_at INTEGER NOT NULL, closed_at INTEGER, recent TEXT, body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX sessions_by_end ON sessions (coalesce(closed_at, expires_at));
    CREATE TABLE revoked_tokens (
        token_id TEXT PRIMARY KEY, until INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX revoked_tokens_by_end ON revoked_tokens (until);
",
    "
    CREATE TABLE sealed (proof TEXT NOT NULL) STRICT;
",
];

/// What is sealed to tell later whether a key is the right one.
const PROOF: &str = "arbiter";

pub(super) fn open(path: &Path, key: Option<SealKey>) -> Result<Connection, StoreError> {
    // SQLite would create the file for all to read; its journal takes over the file's mode.
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| StoreError::File { path: path.to_owned(), source })?;
    let opened = connect(path, MIGRATIONS).and_then(|db| {
        seal(&db, path, key)?;
        Ok(db)
    });
    opened.map_err(|error| match error {
        Failure::Sql(source) => explain(path, source),
        Failure::Ours(error) => error,
    })
}

/// Brings file and key together: a file is sealed from its first row on, or not at all.
fn seal(db: &Connection, path: &Path, key: Option<SealKey>) -> Result<(), Failure> {
    let with_key = key.is_some();
    seal::install(db, key)?;
    let refused =
        |problem| Err(Failure::Ours(StoreError::Sealed { path: path.to_owned(), problem }));
    let sealed: bool = db.query_row("SELECT count(*) > 0 FROM sealed", (), |row| row.get(0))?;
    match (sealed, with_key) {
        (false, false) => Ok(()),
        (true, false) => refused("it is encrypted: set ARBITER_STORAGE_ENCRYPTION_KEY"),
        (true, true) => {
            let proof = db.query_row("SELECT unseal(proof, x'') FROM sealed", (), |row| {
                row.get::<_, String>(0)
            });
            if proof.is_ok_and(|proof| proof == PROOF) {
                return Ok(());
            }
            refused("ARBITER_STORAGE_ENCRYPTION_KEY is not the key it was encrypted with")
        }
        (false, true) => {
            let rows: i64 = db.query_row(
                "SELECT (SELECT count(*) FROM agents) + (SELECT count(*) FROM sessions)",
                (),
                |row| row.get(0),
            )?;
            if rows > 0 {
                return refused(
                    "it holds data that is not encrypted: unset ARBITER_STORAGE_ENCRYPTION_KEY, \
                     or begin with a new file",
                );
            }
            db.execute("INSERT INTO sealed VALUES (seal(?1, x''))", [PROOF])?;
            Ok(())
        }
    }
}

enum Failure {
    Sql(rusqlite::Error),
    Ours(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

fn connect(path: &Path, migrations: &[&str]) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(64);
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;

    // Nothing is written before it is certain that the file is ours.
    let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let owner: i64 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    let empty = tables == 0 && found == 0 && owner == 0;
    if !empty && owner != APPLICATION_ID {
        return Err(Failure::Ours(StoreError::Foreign { path: path.to_owned() }));
    }
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    if found > known {
        let newer = StoreError::Newer { path: path.to_owned(), found, known };
        return Err(Failure::Ours(newer));
    }

    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    for (version, migration) in (1_i64..).zip(migrations).skip(done) {
        let step = db.transaction()?;
        step.execute_batch(migration)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.pragma_update(None, "user_version", version)?;
        step.commit()?;
    }
    Ok(db)
}

fn explain(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Corrupt { path, source }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::InUse { path, source }
        }
        _ => StoreError::Open { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_migrated_from_the_version_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        drop(open(&path, None).unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut more = MIGRATIONS.to_vec();
        more.push("CREATE TABLE added (id INTEGER PRIMARY KEY) STRICT");
        let Ok(db) = connect(&path, &more) else { panic!("the next migration failed") };
        db.execute("INSERT INTO added VALUES (1)", ()).unwrap();
        drop(db);
        let newer = open(&path, None).unwrap_err();
        assert!(matches!(newer, StoreError::Newer { found: 3, known: 2, .. }), "{newer}");
    }

    #[test]
    fn a_failed_migration_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        drop(open(&path, None).unwrap());
        let mut broken = MIGRATIONS.to_vec();
        broken.push("CREATE TABLE half (id INTEGER); CREATE TABLE half (id INTEGER)");
        assert!(connect(&path, &broken).is_err());
        drop(open(&path, None).unwrap());
    }

    #[test]
    fn a_sealed_file_opens_with_its_own_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let key = |digit: &str| SealKey::from_hex(&digit.repeat(64));
        let told = |path: &Path, key| match open(path, key) {
            Ok(_) => String::new(),
            Err(StoreError::Sealed { problem, .. }) => problem.to_owned(),
            Err(other) => panic!("{other}"),
        };
        let sealed = folder.path().join("sealed.db");
        assert_eq!(told(&sealed, key("a")), "");
        assert_eq!(told(&sealed, key("a")), "");
        assert!(told(&sealed, key("b")).contains("is not the key"));
        assert!(told(&sealed, None).contains("is encrypted"));

        let plain = folder.path().join("plain.db");
        let db = open(&plain, None).unwrap();
        db.execute("INSERT INTO agents VALUES (x'00', 'basic', 1, 0, NULL, '{}')", ()).unwrap();
        drop(db);
        assert!(told(&plain, key("a")).contains("not encrypted"));
        assert_eq!(told(&plain, None), "");
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.db");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
        drop(other);
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path, None), Err(StoreError::Foreign { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);

        let path = folder.path().join("letter.txt");
        std::fs::write(&path, "Dear reader, ".repeat(400)).unwrap();
        assert!(matches!(open(&path, None), Err(StoreError::Corrupt { .. })));

        let path = folder.path().join("missing/store.db");
        assert!(matches!(open(&path, None), Err(StoreError::File { .. })));
    }
}
