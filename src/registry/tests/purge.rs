//! Ended agents are forgotten, and nobody gets more by that.

use super::*;

const DAY: u64 = 86_400;
const RETENTION: Retention = Retention { secs: DAY, tombstones: true };

#[tokio::test]
async fn agents_that_are_over_are_forgotten_and_deactivated_ones_stay_so() {
    on_each_backend(async |rig| {
        let clock = Clock::manual(NOW);
        let store = rig.open().await;
        let registry = Registry::load(Arc::clone(&store), clock.clone()).await.unwrap();
        let (gone, stays) = (register(&registry, &["a"]).await, register(&registry, &["a"]).await);
        let short = new(&["a"], Some(NOW.0 + 1));
        let expired = registry.register(short, NOW).await.unwrap().id;
        let made = delegate(&registry, stays, gone, &["a"]).await.unwrap();
        registry.deactivate(gone).await.unwrap().stored.unwrap();
        registry.revoke_token("t", Timestamp(NOW.0 + 5), NOW).await.unwrap();
        let purge = async || {
            let now = clock.now().wall;
            store.newest(now).await.unwrap();
            let mut ids: Vec<AgentId> =
                registry.purge(RETENTION, now).await.unwrap().iter().map(|a| a.id).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(purge().await, []);
        clock.advance_us((DAY + 1) * 1_000_000);
        let mut over = vec![gone, expired];
        over.sort_unstable();
        assert_eq!(purge().await, over);
        assert_eq!(purge().await, []);
        assert!(!registry.is_revoked("t"));
        assert!(registry.delegation(made.id).is_none(), "with the agent that it was to");
        assert_eq!((registry.list(None, 9).len(), registry.active_count()), (1, 1));
        assert!(registry.is_tombstone(gone) && !registry.is_tombstone(expired));
        let again = registry.register_as(gone, new(&[], None), NOW).await;
        assert!(matches!(again, Err(StoreError::Overtaken)));
        registry.close().await.unwrap();
        drop((registry, store));
        let registry = open(&rig).await;
        assert!(registry.is_tombstone(gone) && registry.agent(gone).is_none());
    })
    .await;
}

#[tokio::test]
async fn nobody_gets_more_by_what_is_forgotten() {
    let clock = Clock::manual(NOW);
    let registry = Registry::load(Arc::new(Store::memory()), clock.clone()).await.unwrap();
    let short = new(&["a"], Some(NOW.0 + 1));
    let top = registry.register(short, NOW).await.unwrap().id;
    let low = register(&registry, &["a", "b"]).await;
    let end = Some(Timestamp(NOW.0 + 1));
    registry.delegate(top, low, texts(&["a"]), end, NOW).await.unwrap();
    let other = register(&registry, &["a"]).await;
    let mid = register(&registry, &["a", "b"]).await;
    delegate(&registry, other, mid, &["a"]).await.unwrap();
    clock.advance_us((DAY + 1) * 1_000_000);
    let now = clock.now().wall;
    let before = [low, mid].map(|id| capabilities(&registry, id, now));
    assert_eq!(registry.purge(RETENTION, now).await.unwrap().len(), 1);
    assert_eq!([low, mid].map(|id| capabilities(&registry, id, now)), before);
}
