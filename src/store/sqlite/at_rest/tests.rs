use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::firewall::agent::{AgentId, Delegation};
use crate::firewall::approvals::tests::{asked, hash};
use crate::firewall::approvals::{Approval, ApprovalStep};
use crate::firewall::freeze::{Freeze, Scope};
use crate::firewall::session::SessionId;
use crate::store::tests::contract::{CAP, calls, continuation};
use crate::store::{Closing, Put, Room, Store, StoredSession};
use crate::testkit::{full_agent as agent, full_order as order};

/// Words that no sealed file may show, of an agent, a session, a trust level and a usage: nothing
/// that Base64 could spell by chance.
const SAID: [&str; 6] = ["quarterly", "read_file", "Zoë", "trusted", "\"booked\"", "\"active\""];

fn key(digit: char) -> SealKey {
    SealKey::from_hex(&digit.to_string().repeat(64)).unwrap()
}

struct Filled {
    folder: TempDir,
    path: PathBuf,
    sessions: Vec<StoredSession>,
}

/// A file with something in each table, deleted rows among them.
async fn filled(key: Option<SealKey>) -> Filled {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::sealed_sqlite(&path, key).await.unwrap();
    let agent = agent(crate::firewall::agent::TrustLevel::Trusted);
    store.insert_agent(&agent).await.unwrap();
    store
        .put_delegation(
            &Delegation {
                id: uuid::Uuid::new_v4(),
                from: agent.id,
                to: AgentId::random(),
                scopes: vec!["read_file".to_owned()],
                created_at: Timestamp(6),
                expires_at: None,
            },
            0,
        )
        .await
        .unwrap();
    let orders: Vec<_> = (0..200).map(|_| Arc::new(order(agent.id, 100))).collect();
    for order in &orders {
        store.insert_session(order, CAP).await.unwrap();
        store.book(calls(order.id, 7)).await.unwrap();
    }
    let forgotten = orders[..100].iter().map(|order| order.id).collect();
    store.forget_sessions(forgotten, Timestamp(i64::MAX), 0).await.unwrap();
    let closing = Closing { id: orders[150].id, unused: 3 };
    store.close_sessions(vec![closing], Timestamp(2_000_000_000)).await.unwrap();
    store.revoke_token("a-token", Timestamp(30), Timestamp(0)).await.unwrap();
    let freeze = Freeze {
        id: uuid::Uuid::new_v4(),
        scope: Scope::All,
        reason: "an incident".into(),
        by: "ops".into(),
        frozen_at: Timestamp(7),
        until: None,
    };
    store.freeze(&Arc::new(freeze)).await.unwrap();
    let approval = asked(hash(1), AgentId::random(), Timestamp(8));
    let asked = ApprovalStep::ask(Approval { policy: "an intent".into(), ..approval });
    let put = store.put_approvals(vec![asked], Room::UNLIMITED).await.unwrap();
    assert!(matches!(put, Put::Done(_)), "{put:?}");
    let task = continuation(SessionId::random(), 1, 1_000);
    store.keep_continuation(&task, Timestamp(7)).await.unwrap();
    let sessions = sorted(&store).await;
    store.close().await.unwrap();
    Filled { folder, path, sessions }
}

async fn sorted(store: &Store) -> Vec<StoredSession> {
    let mut sessions = store.sessions(Timestamp(i64::MIN)).await.unwrap();
    sessions.sort_by_key(|session| session.order.id);
    sessions
}

async fn assert_holds_all(filled: &Filled, key: Option<SealKey>) {
    let store = Store::sealed_sqlite(&filled.path, key).await.unwrap();
    assert_eq!(sorted(&store).await, filled.sessions);
    assert_eq!(store.agents().await.unwrap().len(), 1);
    assert_eq!(store.delegations().await.unwrap().all.len(), 1);
    assert_eq!(store.revoked_tokens().await.unwrap(), [("a-token".to_owned(), Timestamp(30))]);
    store.close().await.unwrap();
}

fn shown_in(folder: &Path) -> Vec<&'static str> {
    let files = fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
    let bytes = files.collect::<Vec<_>>().concat();
    let shown = |word: &str| bytes.windows(word.len()).any(|part| part == word.as_bytes());
    SAID.into_iter().filter(|word| shown(word)).collect()
}

const ROWS: [(&str, u64); 7] = [
    ("agents", 1),
    ("delegations", 1),
    ("sessions", 100),
    ("revoked_tokens", 1),
    ("freezes", 1),
    ("approvals", 1),
    ("continuations", 1),
];

#[tokio::test]
async fn a_plain_file_is_sealed_gets_another_key_and_is_opened_again() {
    let filled = filled(None).await;
    assert_eq!(shown_in(filled.folder.path()), SAID);
    fs::set_permissions(&filled.path, fs::Permissions::from_mode(0o640)).unwrap();
    let changed = Done { rows: ROWS.to_vec(), changed: true, linked: false };
    let same = Done { changed: false, ..changed.clone() };

    assert_eq!(encrypt(&filled.path, &key('a')).unwrap(), changed);
    assert_eq!(shown_in(filled.folder.path()), [""; 0]);
    assert_eq!(encrypt(&filled.path, &key('a')).unwrap(), same);
    assert_holds_all(&filled, Some(key('a'))).await;
    assert_eq!(rekey(&filled.path, &key('a'), &key('b')).unwrap(), changed);
    assert_eq!(rekey(&filled.path, &key('a'), &key('b')).unwrap(), same);
    assert_holds_all(&filled, Some(key('b'))).await;
    assert_eq!(check(&filled.path, Some(&key('b'))).unwrap(), ROWS);
    assert_eq!(shown_in(filled.folder.path()), [""; 0]);
    assert_eq!(decrypt(&filled.path, &key('b')).unwrap(), changed);
    assert_eq!(decrypt(&filled.path, &key('b')).unwrap(), same);
    assert_holds_all(&filled, None).await;

    let mode = fs::metadata(&filled.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let left: Vec<_> = fs::read_dir(filled.folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// Rows after a kill: in the journal only.
#[tokio::test]
async fn what_is_only_in_the_journal_goes_along() {
    let filled = filled(None).await;
    let store = Store::sqlite(&filled.path).await.unwrap();
    store.insert_session(&Arc::new(order(AgentId::random(), 100)), CAP).await.unwrap();
    let after = tempfile::tempdir().unwrap();
    let path = after.path().join("store.db");
    for end in ["", "-wal"] {
        let from = format!("{}{end}", filled.path.display());
        fs::copy(from, format!("{}{end}", path.display())).unwrap();
    }
    let done = encrypt(&path, &key('a')).unwrap();
    assert!(done.rows.contains(&("sessions", 101)), "{done:?}");
    assert_eq!(shown_in(after.path()), [""; 0]);
    assert!(check(&path, Some(&key('a'))).unwrap().contains(&("sessions", 101)));
}

#[tokio::test]
async fn a_key_that_does_not_fit_changes_nothing() {
    let filled = filled(Some(key('a'))).await;
    let before = fs::read(&filled.path).unwrap();
    let told = |error: StoreError| error.to_string();
    assert!(told(encrypt(&filled.path, &key('b')).unwrap_err()).contains("is not the key"));
    assert!(told(decrypt(&filled.path, &key('b')).unwrap_err()).contains("is not the key"));
    let wrong = rekey(&filled.path, &key('b'), &key('c')).unwrap_err();
    assert!(told(wrong).contains("is not the key"));
    assert_eq!(fs::read(&filled.path).unwrap(), before);
    decrypt(&filled.path, &key('a')).unwrap();
    let plain = rekey(&filled.path, &key('a'), &key('b')).unwrap_err();
    assert!(told(plain).contains("run `arbiter storage encrypt`"));
    let missing = filled.folder.path().join("missing.db");
    assert!(matches!(encrypt(&missing, &key('a')), Err(StoreError::File { .. })));
    assert!(!missing.exists());
}

#[tokio::test]
async fn another_name_of_the_old_file_is_told_and_left_alone() {
    let filled = filled(None).await;
    let other = filled.folder.path().join("other.db");
    fs::hard_link(&filled.path, &other).unwrap();
    let link = filled.folder.path().join("link.db");
    std::os::unix::fs::symlink(&filled.path, &link).unwrap();
    assert!(encrypt(&link, &key('a')).unwrap().linked);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(check(&link, Some(&key('a'))).unwrap(), ROWS);
    assert_eq!(check(&other, None).unwrap(), ROWS);
}

/// A process that has the old file open when the new one takes its place does not go on with it.
#[tokio::test]
async fn a_file_that_was_replaced_is_not_served_from() {
    let filled = filled(None).await;
    let source = file::open(&filled.path, None).unwrap();
    let path = filled.path.clone();
    let waiting = std::thread::spawn(move || file::open(&path, Some(&key('a'))).map(drop));
    let there = fs::metadata(&filled.path).unwrap();
    source.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    let beside = Beside::make(&filled.path, &there).unwrap();
    copy(&source, &beside.path, Some(&key('a'))).unwrap();
    empty_journal(&source, &filled.path).unwrap();
    beside.put_in_place(&filled.path).unwrap();
    drop(source);
    waiting.join().unwrap().unwrap();
    assert_holds_all(&filled, Some(key('a'))).await;
}

/// Everything that a row says, and its clear columns too: each changed by one byte, in each table
/// that has anything sealed.
#[tokio::test]
async fn a_changed_byte_is_found_and_its_table_named() {
    let filled = filled(Some(key('a'))).await;
    // Tables of ids and times alone have nothing that is sealed.
    for Table { name, clear, sealed } in TABLES.iter().filter(|table| !table.sealed.is_empty()) {
        for (column, is_clear) in
            clear.iter().map(|column| (column, true)).chain(sealed.iter().map(|c| (c, false)))
        {
            let copy = filled.folder.path().join("changed.db");
            fs::copy(&filled.path, &copy).unwrap();
            let db = Connection::open(&copy).unwrap();
            let change = match *column {
                "id" | "session" => "zeroblob(16)".to_owned(),
                "mark" => "zeroblob(32)".to_owned(),
                "ends_at" | "until" => format!("{column} + 1"),
                // The last but one, whatever it is, becomes another of the same alphabet.
                _ => format!(
                    "substr({column}, 1, length({column}) - 2) ||
                     iif(substr({column}, -2, 1) = 'A', 'B', 'A') || substr({column}, -1)"
                ),
            };
            let first = clear[0];
            let sql = format!(
                "UPDATE {name} SET {column} = {change} WHERE {first} = (SELECT max({first}) FROM {name})"
            );
            assert_eq!(db.execute(&sql, ()).unwrap(), 1);
            drop(db);
            let found = check(&copy, Some(&key('a'))).unwrap_err();
            let told = format!("{found}: {:?}", std::error::Error::source(&found));
            let what = name.trim_end_matches('s').replace('_', " ");
            assert!(told.contains(name) || told.contains(&what), "{name}.{column}: {told}");
            assert!(is_clear || told.contains(&format!("{name}.{column}")), "{told}");
            let store = Store::sealed_sqlite(&copy, Some(key('a'))).await.unwrap();
            let loaded = async || -> Result<(), StoreError> {
                store.agents().await?;
                store.delegations().await?;
                store.sessions(Timestamp(i64::MIN)).await?;
                store.freezes().await?;
                store.approvals().await?;
                store.revoked_tokens().await.map(drop)
            };
            // These are never loaded all at once: one under another key is not found.
            let by_key = *name == "continuations";
            assert!(by_key || loaded().await.is_err(), "{name}.{column}");
            store.close().await.unwrap();
        }
    }
}

#[test]
fn every_column_of_every_table_is_known_here() {
    let folder = tempfile::tempdir().unwrap();
    let db = file::open(&folder.path().join("store.db"), None).unwrap();
    let mut select = db
        .prepare(
            "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c
             WHERE t.type = 'table' AND t.name <> 'sealed'",
        )
        .unwrap();
    let rows = select.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let mut found: Vec<(String, String)> = rows.map(Result::unwrap).collect();
    let mut known: Vec<(String, String)> = Vec::new();
    for Table { name, clear, sealed } in &TABLES {
        known.extend(
            [*clear, *sealed].concat().iter().map(|c| ((*name).to_owned(), (*c).to_owned())),
        );
    }
    found.sort();
    known.sort();
    assert_eq!(found, known);
}
