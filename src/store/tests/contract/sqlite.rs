//! Promises of a file.

use super::*;

#[tokio::test]
async fn a_clock_that_is_ahead_once_takes_nothing_for_good() {
    let rig = Rig::Sqlite(tempfile::tempdir().unwrap());
    let store = rig.open().await;
    assert_eq!(store.newest(START).await.unwrap(), START);
    assert_eq!(store.newest(START.plus_secs(5)).await.unwrap(), START);
    assert_eq!(store.newest(Timestamp(i64::MIN)).await.unwrap(), START.plus_secs(5));
    let (agent, until) = (agent(TrustLevel::Basic), START.plus_secs(60));
    store.insert_agent(&agent).await.unwrap();
    store.take_away(vec![inactive(agent.id)], START).await.unwrap();
    store.revoke_token("t", until, START).await.unwrap();
    let year = START.plus_secs(366 * 86_400);
    store.revoke_token("another", year, year).await.unwrap();
    let purge = Purge { ids: vec![agent.id], retention_secs: 86_400, tombstones: true };
    assert_eq!(store.purge(purge, year).await.unwrap(), []);
    drop(store);
    let store = rig.open().await;
    assert_eq!(store.revoked_tokens().await.unwrap().len(), 2);
    assert_eq!(store.agents().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_to_is_told_until_it_can() {
    let rig = Rig::Sqlite(tempfile::tempdir().unwrap());
    let store = rig.open().await;
    assert!(!store.is_failing());
    store.refuse_writes(true).await;
    assert!(store.newest(START).await.is_err() && store.is_failing());
    assert!(store.agents().await.is_err(), "each transaction begins as one that may write");
    assert!(store.is_failing());
    store.refuse_writes(false).await;
    store.newest(START).await.unwrap();
    assert!(!store.is_failing());
}

#[tokio::test]
async fn one_of_many_in_a_transaction_fails_alone() {
    let rig = Rig::Sqlite(tempfile::tempdir().unwrap());
    let store = rig.open().await;
    let orders: Vec<_> = (0..50).map(|_| Arc::new(order(AgentId::random(), 1))).collect();
    let inserts: Vec<_> = (orders.iter().chain(&orders[20..30]))
        .map(|order| {
            let (store, order) = (Arc::clone(&store), Arc::clone(order));
            tokio::spawn(async move { store.insert_session(&order, CAP).await.is_ok() })
        })
        .collect();
    let mut done = 0;
    for insert in inserts {
        done += usize::from(insert.await.unwrap());
    }
    assert_eq!(done, 50);
    assert_eq!(store.sessions(LONG_AGO).await.unwrap().len(), 50);
}

/// The files as they lie on the disk while the process lives are what a kill leaves.
#[tokio::test]
async fn a_sealed_file_says_nothing_of_what_was_agreed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::sealed_sqlite(&folder.path().join("store.db"), key()).await.unwrap();
    store.insert_agent(&agent(TrustLevel::Basic)).await.unwrap();
    store.insert_session(&Arc::new(order(AgentId::random(), 100)), CAP).await.unwrap();
    store.close().await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for clear in ["quarterly", "read_file", "Zoë"] {
            let found = bytes.windows(clear.len()).any(|part| part == clear.as_bytes());
            assert!(!found, "{clear}");
        }
    }
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::sqlite(&folder.path().join("store.db")).await.unwrap();
    let order = Arc::new(order(AgentId::random(), 100));
    store.insert_session(&order, CAP).await.unwrap();
    store.book(calls(order.id, 42)).await.unwrap();
    let after = tempfile::tempdir().unwrap();
    for file in ["store.db", "store.db-wal"] {
        std::fs::copy(folder.path().join(file), after.path().join(file)).unwrap();
    }
    let store = Store::sqlite(&after.path().join("store.db")).await.unwrap();
    assert_eq!(store.sessions(LONG_AGO).await.unwrap()[0].booked, 42);
}

#[tokio::test]
async fn a_damaged_row_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::sqlite(&path).await.unwrap();
    store.insert_agent(&agent(TrustLevel::Basic)).await.unwrap();
    store.close().await.unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute("UPDATE agents SET state = json_set(state, '$.trust', 'total')", ()).unwrap();
    drop(db);
    let store = Store::sqlite(&path).await.unwrap();
    let found = store.agents().await.unwrap_err();
    assert_eq!(found.to_string(), "the store holds a damaged agent");
}

#[tokio::test]
async fn a_file_belongs_to_one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::sqlite(&path).await.unwrap();
    store.insert_agent(&agent(TrustLevel::Basic)).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    let read = other.query_row("SELECT count(*) FROM agents", (), |row| row.get::<_, i64>(0));
    assert!(read.unwrap_err().to_string().contains("locked"));
}
