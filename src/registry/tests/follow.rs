//! Changes by other nodes, in any order and however late.

use super::*;
use crate::clock::Clock;
use crate::store::TakenAway;
use crate::store::tests::fleet::Fleet;

/// Two nodes on one ledger; the second hears what a test tells it.
async fn two() -> (Registry, Registry, Arc<Store>) {
    let first = Fleet::new("one", Clock::manual(Timestamp(0)));
    let second = Arc::new(Store::from(first.beside("two")));
    let one = over(Arc::new(Store::from(first))).await;
    let two = over(Arc::clone(&second)).await;
    (one, two, second)
}

#[tokio::test]
async fn an_agent_of_another_node_is_as_it_is_there() {
    let (one, two, _) = two().await;
    let id = register(&one, &["a"]).await;
    two.registered(&one.agent(id).unwrap());
    two.registered(&one.agent(id).unwrap());
    assert_eq!((two.agent(id), two.active_count()), (one.agent(id), 1));
    assert_eq!(two.list(None, 10).len(), 1);
    let low = register(&one, &["a", "b"]).await;
    let made = delegate(&one, id, low, &["a"]).await.unwrap();
    two.delegated(made.clone(), 1);
    two.delegated(made, 1);
    two.registered(&one.agent(low).unwrap());
    assert_eq!(capabilities(&two, low, NOW), Some(texts(&["a"])), "told in the wrong order");
    assert_eq!(two.delegations(low).unwrap().0.len(), 1, "told twice");
    two.trust_set(id, TrustLevel::Untrusted, 1);
    assert_eq!(two.acting(low, NOW).unwrap().agent.unwrap().trust, TrustLevel::Untrusted);
    two.taken_away(&TakenAway { id, inactive: true, lowered: None });
    two.taken_away(&TakenAway { id, inactive: true, lowered: None });
    assert_eq!(two.active_count(), 1);
    assert!(two.acting(low, NOW).unwrap().agent.is_err());
}

#[tokio::test]
async fn nobody_comes_back_by_old_news() {
    let (one, two, _) = two().await;
    let id = register(&one, &["a"]).await;
    let before = one.agent(id).unwrap();
    two.registered(&before);
    two.taken_away(&TakenAway { id, inactive: true, lowered: None });
    two.registered(&before);
    assert!(!two.agent(id).unwrap().active);
    assert_eq!(two.active_count(), 0);
}

#[tokio::test]
async fn a_demotion_that_is_not_stored_yet_is_not_overruled() {
    let (one, two, store) = two().await;
    let id = register(&one, &["a"]).await;
    two.registered(&one.agent(id).unwrap());
    store.refuse_writes(true).await;
    assert_eq!(flag(&two, id, 5, now(0)), Some(TrustLevel::Verified));
    two.trust_set(id, TrustLevel::Trusted, 0);
    assert_eq!(two.agent(id).unwrap().trust, TrustLevel::Verified);
    two.registered(&one.agent(id).unwrap());
    assert_eq!(two.agent(id).unwrap().trust, TrustLevel::Verified);
    store.refuse_writes(false).await;
    two.close().await.unwrap();
    assert_eq!(store.agents().await.unwrap()[0].agent.trust, TrustLevel::Verified);
}

#[tokio::test]
async fn flags_of_all_nodes_add_up() {
    let (one, two, _) = two().await;
    let id = register(&one, &["a"]).await;
    two.registered(&one.agent(id).unwrap());
    assert_eq!(flag(&one, id, 3, now(0)), None);
    assert_eq!(two.flagged_elsewhere(id, 3, now(0)), None);
    assert_eq!(flag(&two, id, 2, now(0)), Some(TrustLevel::Verified));
}

#[tokio::test]
async fn everything_is_loaded_anew_after_missing_some() {
    let (one, two, _) = two().await;
    let (top, low) = (register(&one, &["a"]).await, register(&one, &["a", "b"]).await);
    delegate(&one, top, low, &["a"]).await.unwrap();
    one.revoke_token("t", Timestamp(2_000_000), NOW).await.unwrap();
    let gone = register(&one, &[]).await;
    one.deactivate(gone).await.unwrap().stored.unwrap();
    let unknown = Agent { id: AgentId::random(), ..Agent::clone(&one.agent(top).unwrap()) };
    two.registered(&Arc::new(unknown.clone()));
    two.reload().await.unwrap();
    assert!(two.acting(unknown.id, NOW).unwrap().agent.is_err(), "lost by the store");
    assert_eq!(capabilities(&two, low, NOW), Some(texts(&["a"])));
    assert!(two.is_revoked("t"));
    assert_eq!((two.active_count(), two.agent(gone).unwrap().active), (2, false));
}
