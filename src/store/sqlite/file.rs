//! The file: opened, checked and brought to this version's schema before anything is read from it.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::super::StoreError;
use super::seal::{self, SealKey};
use crate::holder::Holder;
use crate::saturate::SaturatingFrom as _;

/// `Arbt`, in the file's header: says that the file is ours.
const APPLICATION_ID: i64 = 0x4172_6274;
/// Time to wait for a process that is just releasing the file.
const BUSY: Duration = Duration::from_millis(500);

/// Each brings the schema one version further. Only ever append.
///
/// Members that queries need are columns of their own; the rest is JSON, so that it can be sealed as
/// a whole. Migrations from [`KEYED`] on may use `seal` and `unseal`.
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
    // Only ids and the times until which rows are kept stay in columns of their own.
    "
    ALTER TABLE agents RENAME TO agents_2;
    CREATE TABLE agents (
        id BLOB PRIMARY KEY, body TEXT NOT NULL, state TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO agents SELECT id,
        seal(json_set(unseal(body, id), '$.created_at', created_at, '$.expires_at', expires_at),
             'agents.body', id),
        seal(json_object('trust', trust, 'active', json(iif(active, 'true', 'false'))),
             'agents.state', id)
    FROM agents_2;
    DROP TABLE agents_2;

    ALTER TABLE delegations RENAME TO delegations_2;
    CREATE TABLE delegations (id BLOB PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO delegations SELECT id,
        seal(json_set(unseal(body, id), '$.from', lower(hex(from_agent)), '$.to', lower(hex(to_agent)),
                      '$.created_at', created_at, '$.expires_at', expires_at),
             'delegations.body', id)
    FROM delegations_2;
    DROP TABLE delegations_2;

    ALTER TABLE sessions RENAME TO sessions_2;
    DROP INDEX sessions_by_end;
    CREATE TABLE sessions (
        id BLOB PRIMARY KEY, ends_at INTEGER NOT NULL, body TEXT NOT NULL, state TEXT NOT NULL
    ) STRICT;
    CREATE INDEX sessions_by_end ON sessions (ends_at);
    INSERT INTO sessions SELECT id, coalesce(closed_at, expires_at),
        seal(unseal(body, id), 'sessions.body', id),
        seal(json_object('budget', call_budget, 'booked', booked, 'closed_at', closed_at,
                         'recent', json(recent)),
             'sessions.state', id)
    FROM sessions_2;
    DROP TABLE sessions_2;

    ALTER TABLE revoked_tokens RENAME TO revoked_tokens_2;
    DROP INDEX revoked_tokens_by_end;
    CREATE TABLE revoked_tokens (
        token_id TEXT PRIMARY KEY, until INTEGER NOT NULL, body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX revoked_tokens_by_end ON revoked_tokens (until);
    INSERT INTO revoked_tokens SELECT token_id, until,
        seal(CAST(until AS TEXT), 'revoked_tokens.body', token_id)
    FROM revoked_tokens_2;
    DROP TABLE revoked_tokens_2;
",
    // Hashes that say neither which key nor which address, so nothing of them is sealed.
    "
    CREATE TABLE admin_pairs (
        pair BLOB PRIMARY KEY, used_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    // The newest time that was noted (none: no row), and ids that no issuer brings in again.
    "
    CREATE TABLE ledger (seen INTEGER NOT NULL) STRICT;
    CREATE TABLE tombstones (id BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE freezes (id BLOB PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE approvals (
        id BLOB PRIMARY KEY, ends_at INTEGER NOT NULL, body TEXT NOT NULL, state TEXT NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE continuations (
        mark BLOB PRIMARY KEY, session BLOB NOT NULL, ends_at INTEGER NOT NULL, body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX continuations_by_session ON continuations (session, ends_at);
    CREATE INDEX continuations_by_end ON continuations (ends_at);
",
];

/// The version that has a place for the proof of a key. The key is tried there, before a row is
/// touched.
const KEYED: usize = 2;

/// Message for a file and key that do not match.
pub(super) const NEEDS_KEY: &str = "it is encrypted: set ARBITER_STORAGE_ENCRYPTION_KEY";
pub(super) const WRONG_KEY: &str =
    "ARBITER_STORAGE_ENCRYPTION_KEY is not the key it was encrypted with";
pub(super) const NO_KEY_YET: &str =
    "it is not encrypted, so it has no key to change: run `arbiter storage encrypt`";
pub(super) const NOT_SEALED: &str = "it holds data that is not encrypted: run \
    `arbiter storage encrypt`, or unset ARBITER_STORAGE_ENCRYPTION_KEY";

/// Plaintext sealed to test later keys.
const PROOF: &str = "arbiter";

/// Number of replacements of the file tolerated while it is opened.
const ATTEMPTS: usize = 3;

pub(super) fn open(path: &Path, key: Option<&SealKey>) -> Result<Connection, StoreError> {
    open_with(path, key, MIGRATIONS)
}

fn open_with(
    path: &Path,
    key: Option<&SealKey>,
    migrations: &[&str],
) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::File { path: path.to_owned(), source };
    // SQLite would create the file for all to read; its journal takes over the file's mode.
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(failed)?;
    for _ in 0..ATTEMPTS {
        let before = inode(path).map_err(failed)?;
        let connected = connect(path, migrations.len());
        // Encrypting puts another file in the place of this one. A process that waited for the lock
        // meanwhile has it on a file that has no name any more.
        if inode(path).map_err(failed)? != before {
            continue;
        }
        let opened = connected.and_then(|(mut db, found)| {
            migrate(&mut db, found, migrations.get(..KEYED).unwrap_or(migrations))?;
            unlock(&db, path, key)?;
            migrate(&mut db, found.max(KEYED), migrations)?;
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
            Ok(db)
        });
        return opened.map_err(|failure| failure.at(path));
    }
    let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    let source = rusqlite::Error::SqliteFailure(busy, None);
    Err(in_use(path, source))
}

fn inode(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Brings file and key together: a file is sealed from its first row on, or not at all.
fn unlock(db: &Connection, path: &Path, key: Option<&SealKey>) -> Result<(), Failure> {
    let with_key = key.is_some();
    seal::install(db, key)?;
    let refused =
        |problem| Err(Failure::Ours(StoreError::Sealed { path: path.to_owned(), problem }));
    let sealed: bool = db.query_row("SELECT count(*) > 0 FROM sealed", (), |row| row.get(0))?;
    match (sealed, with_key) {
        (false, false) => Ok(()),
        (true, false) => refused(NEEDS_KEY),
        (true, true) => {
            let proof = db.query_row("SELECT unseal(proof, x'') FROM sealed", (), |row| {
                row.get::<_, String>(0)
            });
            if proof.is_ok_and(|proof| proof == PROOF) { Ok(()) } else { refused(WRONG_KEY) }
        }
        (false, true) => {
            let empty: bool = db.query_row(
                "SELECT NOT EXISTS (SELECT 1 FROM agents) AND NOT EXISTS (SELECT 1 FROM sessions)
                    AND NOT EXISTS (SELECT 1 FROM delegations)
                    AND NOT EXISTS (SELECT 1 FROM revoked_tokens)",
                (),
                |row| row.get(0),
            )?;
            // A file of an earlier version has no such tables yet.
            let has_rows = |table: &str| -> rusqlite::Result<bool> {
                let any = format!("SELECT EXISTS (SELECT 1 FROM {table})");
                Ok(db.table_exists(None, table)? && db.query_row(&any, (), |row| row.get(0))?)
            };
            if !empty
                || has_rows("freezes")?
                || has_rows("approvals")?
                || has_rows("continuations")?
            {
                return refused(NOT_SEALED);
            }
            prove(db)?;
            // What was deleted from it before must not stay where it was.
            let free: i64 = db.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
            if free > 0 {
                db.execute_batch("VACUUM")?;
            }
            Ok(())
        }
    }
}

/// Writes the mark by which the file's key is recognised.
pub(super) fn prove(db: &Connection) -> rusqlite::Result<()> {
    db.execute("INSERT INTO sealed VALUES (seal(?1, x''))", [PROOF]).map(drop)
}

enum Failure {
    Sql(rusqlite::Error),
    Ours(StoreError),
}

impl Failure {
    fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Sql(source) => explain(path, source),
            Self::Ours(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Takes the file for this process alone, if it is ours; says which version of the schema it has.
fn connect(path: &Path, known: usize) -> Result<(Connection, usize), Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    // Until it is certain that this is the file of that name: its journal is found by the name.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
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
    let version = usize::try_from(found).ok().filter(|version| *version <= known);
    let Some(version) = version else {
        let known = i64::saturating_from(known);
        return Err(Failure::Ours(StoreError::Newer { path: path.to_owned(), found, known }));
    };
    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    Ok((db, version))
}

fn migrate(db: &mut Connection, found: usize, migrations: &[&str]) -> rusqlite::Result<()> {
    for (version, migration) in (1_i64..).zip(migrations).skip(found) {
        let step = db.transaction()?;
        step.execute_batch(migration)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.pragma_update(None, "user_version", version)?;
        step.commit()?;
    }
    Ok(())
}

/// A file that [`create`] made, to be read only.
pub(super) fn reopen(path: &Path, key: Option<&SealKey>) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).map_err(Failure::Sql).and_then(|db| {
        unlock(&db, path, key)?;
        Ok(db)
    });
    opened.map_err(|failure| failure.at(path))
}

/// A new file at a path where there is none, with this version's schema and the functions of a key.
/// The file is written without a journal: callers throw it away if anything fails.
pub(super) fn create(path: &Path, key: Option<&SealKey>) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.pragma_update_and_check(None, "journal_mode", "OFF", |_| Ok(()))?;
    db.pragma_update(None, "synchronous", "OFF")?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    let with_key = key.is_some();
    seal::install(&db, key)?;
    migrate(&mut db, 0, MIGRATIONS)?;
    if with_key {
        prove(&db)?;
    }
    Ok(db)
}

fn explain(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Corrupt { path, source }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => in_use(&path, source),
        _ => StoreError::Open { path, source },
    }
}

/// Returns the error of a file that another process has.
pub(super) fn in_use(path: &Path, source: rusqlite::Error) -> StoreError {
    let holder = Holder::of(path);
    StoreError::InUse { path: path.to_owned(), holder, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rusqlite::params;

    use super::*;
    use crate::firewall::agent::AgentId;
    use crate::firewall::time::Timestamp;
    use crate::store::sqlite::rows;
    use crate::store::{RecentCalls, StoredSession};
    use crate::testkit::full_order as order;

    #[test]
    fn a_file_is_migrated_from_the_version_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        drop(open(&path, None).unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut more = MIGRATIONS.to_vec();
        more.push("CREATE TABLE added (id INTEGER PRIMARY KEY) STRICT");
        let db = open_with(&path, None, &more).unwrap();
        db.execute("INSERT INTO added VALUES (1)", ()).unwrap();
        drop(db);
        let newer = open(&path, None).unwrap_err();
        let StoreError::Newer { found, known, .. } = newer else { panic!("{newer}") };
        let known_here = i64::try_from(MIGRATIONS.len()).unwrap();
        assert_eq!((found, known), (known_here + 1, known_here));
    }

    /// Rows as version 2 wrote them, plain and sealed.
    #[test]
    fn what_version_two_wrote_is_kept() {
        for key in [None, SealKey::from_hex(&"5e".repeat(32)).as_ref()] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store.db");
            let db = open_with(&path, key, &MIGRATIONS[..2]).unwrap();
            db.execute_batch(VERSION_TWO).unwrap();
            let order = order(AgentId::random(), 100);
            db.execute(
                "INSERT INTO sessions VALUES (?1, 100, 30, ?2, 8000, '[[7,2]]', seal(?3, ?1))",
                params![
                    order.id.0.as_bytes(),
                    order.expires_at.0,
                    serde_json::to_string(&order).unwrap()
                ],
            )
            .unwrap();
            drop(db);

            let db = open(&path, key).unwrap();
            let agents = rows::agents(&db).unwrap();
            let [stored] = agents.as_slice() else { panic!("{agents:?}") };
            assert_eq!((stored.number, stored.ended_at, stored.flags.len()), (0, None, 0));
            let agent = &stored.agent;
            assert_eq!((agent.owner.as_str(), agent.trust.as_str()), ("o", "basic"));
            assert_eq!((agent.active, agent.created_at.0, agent.expires_at), (false, 5, None));
            let delegations = rows::delegations(&db).unwrap();
            assert_eq!((delegations.len(), delegations[0].from), (1, agent.id));
            assert_eq!(delegations[0].expires_at.map(|at| at.0), Some(9));
            let mut sessions = Vec::new();
            rows::each_session(&db, Timestamp(0), |session| sessions.push(session)).unwrap();
            let recent = vec![RecentCalls { at: Timestamp(7), count: 2 }];
            let closed_at = Some(Timestamp(8000));
            let expected =
                StoredSession { order: order.into(), booked: 30, closed_at, recent: Some(recent) };
            assert_eq!(sessions, [expected]);
            let tokens = rows::revoked_tokens(&db).unwrap();
            assert_eq!((tokens[0].0.as_str(), tokens[0].1.0), ("jti", 77));
        }
    }

    const VERSION_TWO: &str = r#"
        INSERT INTO agents VALUES (x'000102030405060708090a0b0c0d0e0f', 'basic', 0, 5, NULL,
            seal('{"owner":"o","model":"m","capabilities":["c"]}',
                 x'000102030405060708090a0b0c0d0e0f'));
        INSERT INTO delegations VALUES (x'100102030405060708090a0b0c0d0e0f',
            x'000102030405060708090a0b0c0d0e0f', x'200102030405060708090a0b0c0d0e0f', 6, 9,
            seal('{"scopes":["c"]}', x'100102030405060708090a0b0c0d0e0f'));
        INSERT INTO revoked_tokens VALUES ('jti', 77);
    "#;

    #[test]
    fn a_failed_migration_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        drop(open(&path, None).unwrap());
        let mut broken = MIGRATIONS.to_vec();
        broken.push("CREATE TABLE half (id INTEGER); CREATE TABLE half (id INTEGER)");
        assert!(open_with(&path, None, &broken).is_err());
        drop(open(&path, None).unwrap());
    }

    #[test]
    fn a_sealed_file_opens_with_its_own_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let keys = ["a", "b"].map(|digit| SealKey::from_hex(&digit.repeat(64)).unwrap());
        let [a, b] = &keys;
        let told = |path: &Path, key: Option<&SealKey>| match open(path, key) {
            Ok(_) => String::new(),
            Err(StoreError::Sealed { problem, .. }) => problem.to_owned(),
            Err(other) => panic!("{other}"),
        };
        let sealed = folder.path().join("sealed.db");
        assert_eq!(told(&sealed, Some(a)), "");
        assert_eq!(told(&sealed, Some(a)), "");
        assert!(told(&sealed, Some(b)).contains("is not the key"));
        assert!(told(&sealed, None).contains("is encrypted"));

        let plain = folder.path().join("plain.db");
        let db = open(&plain, None).unwrap();
        db.execute("INSERT INTO agents VALUES (x'00', '{}', '{}')", ()).unwrap();
        drop(db);
        assert!(told(&plain, Some(a)).contains("run `arbiter storage encrypt`"));
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
