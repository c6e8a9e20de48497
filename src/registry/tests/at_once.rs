//! Immediate effect of revocations: without the store, and against concurrent changes.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn what_takes_away_is_in_force_before_it_is_stored() {
    on_each_backend(async |rig| {
        let store = rig.open().await;
        let registry = over(Arc::clone(&store)).await;
        let (top, low) = (register(&registry, &["a"]).await, register(&registry, &["a"]).await);
        let other = register(&registry, &["a"]).await;
        delegate(&registry, top, low, &["a"]).await.unwrap();
        store.refuse_writes(true).await;

        let gone = registry.deactivate(top).await.unwrap();
        assert_eq!(gone.ids, [top, low]);
        assert!(gone.stored.is_err());
        for id in [top, low] {
            assert_eq!(registry.acting(id, NOW).unwrap().agent, Err(Lapse::Agent));
        }
        let failed = registry.set_trust(other, TrustLevel::Basic).await.unwrap_err();
        assert!(failed.in_force);
        assert_eq!(registry.agent(other).unwrap().trust, TrustLevel::Basic);
        let failed = registry.revoke_token("t", Timestamp(2_000), NOW).await;
        assert!(matches!(failed, Err(RevokeError::NotStored(_))));
        assert!(registry.is_revoked("t"));
        assert_eq!(registry.active_count(), 1);
        assert!(registry.close().await.is_err());

        store.refuse_writes(false).await;
        registry.close().await.unwrap();
        drop((registry, store));
        let registry = open(&rig).await;
        assert!(!registry.agent(top).unwrap().active && !registry.agent(low).unwrap().active);
        assert_eq!(registry.agent(other).unwrap().trust, TrustLevel::Basic);
        assert!(registry.is_revoked("t"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_is_stored_as_soon_as_the_store_takes_it() {
    let store = Arc::new(Store::memory());
    let registry = over(Arc::clone(&store)).await;
    let (gone, lowered) = (register(&registry, &["a"]).await, register(&registry, &["a"]).await);
    store.refuse_writes(true).await;
    assert!(registry.deactivate(gone).await.unwrap().stored.is_err());
    assert!(registry.set_trust(lowered, TrustLevel::Basic).await.is_err());
    assert!(registry.revoke_token("t", Timestamp(2_000), NOW).await.is_err());
    let stored = async || {
        let agents = store.agents().await.unwrap();
        let of = |id| Arc::clone(&agents.iter().find(|a| a.agent.id == id).unwrap().agent);
        (of(gone).active, of(lowered).trust, store.revoked_tokens().await.unwrap().len())
    };
    assert_eq!(stored().await, (true, TrustLevel::Trusted, 0));
    store.refuse_writes(false).await;
    // The clock of this test is paused: this is until every other task waits for longer.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(stored().await, (false, TrustLevel::Basic, 1));

    // Asked again, what failed before is stored on the spot.
    store.refuse_writes(true).await;
    assert!(registry.deactivate(lowered).await.unwrap().stored.is_err());
    store.refuse_writes(false).await;
    let again = registry.deactivate(lowered).await.unwrap();
    assert_eq!((again.ids, again.stored.is_ok()), (vec![], true));
    assert!(!store.agents().await.unwrap().iter().any(|stored| stored.agent.active));
}

#[tokio::test]
async fn a_change_above_counts_below_on_the_next_look() {
    let registry = open(&Rig::Memory(Arc::new(Store::memory()))).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(register(&registry, &["a", "b"]).await);
    }
    for (from, to) in [(0, 1), (1, 2), (2, 3)] {
        delegate(&registry, ids[from], ids[to], &["a"]).await.unwrap();
    }
    let low = || registry.acting(ids[3], NOW).unwrap();
    let agent = low().agent.unwrap();
    assert_eq!((&*agent.capabilities, agent.trust), (&texts(&["a"])[..], TrustLevel::Trusted));
    assert_eq!(registry.acting(ids[0], NOW).unwrap().agent.unwrap().capabilities.len(), 2);

    registry.set_trust(ids[0], TrustLevel::Verified).await.unwrap();
    assert_eq!(low().agent.unwrap().trust, TrustLevel::Verified);
    assert_eq!(flag(&registry, ids[1], 5, now(0)), Some(TrustLevel::Verified));
    assert_eq!(flag(&registry, ids[1], 5, now(0)), Some(TrustLevel::Basic));
    assert_eq!(low().agent.unwrap().trust, TrustLevel::Basic, "drift above is drift below");
    registry.set_trust(ids[1], TrustLevel::Trusted).await.unwrap();
    assert_eq!(low().agent.unwrap().trust, TrustLevel::Verified);

    registry.deactivate(ids[1]).await.unwrap();
    assert_eq!(low().agent, Err(Lapse::Agent));
    assert_eq!(*low().chain, *ids, "who stood behind it is still known");
    assert!(registry.acting(ids[0], NOW).unwrap().agent.is_ok());
}

#[tokio::test]
async fn an_authorization_ends_with_the_first_thing_it_rests_on() {
    let registry = open(&Rig::Memory(Arc::new(Store::memory()))).await;
    let top = registry.register(new(&["a"], Some(9_000)), NOW).await.unwrap().id;
    let (mid, low) = (register(&registry, &["a"]).await, register(&registry, &["a"]).await);
    let until = async |from, to, end, now| {
        let made = registry.delegate(from, to, texts(&["a"]), Some(Timestamp(end)), Timestamp(now));
        made.await.unwrap();
    };
    until(top, mid, 5_000, 1_000).await;
    until(mid, low, 4_000, 1_000).await;
    let at = |id, now| registry.acting(id, Timestamp(now)).unwrap().agent.map(|a| a.expires_at);
    assert_eq!(at(low, 3_999), Ok(Some(Timestamp(4_000))));
    assert_eq!(at(mid, 3_999), Ok(Some(Timestamp(5_000))));
    assert_eq!(at(low, 4_000), Ok(None), "on its own account");
    assert_eq!(at(low, 3_999), Ok(Some(Timestamp(4_000))), "the clock was set back");
    until(mid, low, 5_000, 4_000).await;
    assert_eq!(at(low, 4_999), Ok(Some(Timestamp(5_000))));
    until(top, mid, 9_000, 4_500).await;
    until(mid, low, 5_000, 4_500).await;
    assert_eq!(at(mid, 5_000), Ok(Some(Timestamp(9_000))));
    assert_eq!(at(low, 5_000), Ok(None));
    until(mid, low, 9_000, 5_000).await;
    assert_eq!(at(low, 8_999), Ok(Some(Timestamp(9_000))));
    let chain = registry.acting(low, Timestamp(8_999)).unwrap().chain;
    assert_eq!(*chain, [top, mid, low]);
    assert_eq!((at(low, 9_000), at(mid, 9_000)), (Ok(None), Ok(None)));
    let held = |now| registry.holds(&chain, Timestamp(now));
    assert_eq!((held(8_999), held(9_000)), (Ok(()), Err(Lapse::Above)));
}

#[tokio::test]
async fn with_two_delegators_both_narrow_and_the_chain_is_of_one() {
    let registry = open(&Rig::Memory(Arc::new(Store::memory()))).await;
    let (one, two) = (register(&registry, &["a", "b"]).await, register(&registry, &["b"]).await);
    let low = register(&registry, &["a", "b"]).await;
    let at = Timestamp;
    let alone = registry.acting(low, NOW).unwrap().chain;
    registry.delegate(one, low, texts(&["a", "b"]), Some(at(3_000)), at(1_000)).await.unwrap();
    let first = registry.acting(low, at(1_000)).unwrap().chain;
    assert_eq!(*first, [one, low]);
    assert_eq!(capabilities(&registry, low, at(1_000)), Some(texts(&["a", "b"])));
    registry.delegate(two, low, texts(&["b"]), None, at(1_001)).await.unwrap();
    assert_eq!(capabilities(&registry, low, at(2_000)), Some(texts(&["b"])));
    assert_eq!(*registry.acting(low, at(2_000)).unwrap().chain, [one, low]);

    // What the first gave is over: who was to act for it may not, and a new session is the second's.
    let after = registry.acting(low, at(3_000)).unwrap();
    assert_eq!((&*after.chain, after.agent.is_ok()), (&[two, low][..], true));
    assert_eq!(registry.holds(&first, at(2_999)), Ok(()));
    assert_eq!(registry.holds(&first, at(3_000)), Err(Lapse::Delegation));
    assert_eq!(registry.holds(&after.chain, at(3_000)), Ok(()));
    assert_eq!(registry.holds(&alone, at(3_000)), Ok(()), "its rights are narrowed as they are");
    registry.deactivate(two).await.unwrap();
    assert_eq!(registry.acting(low, at(3_000)).unwrap().agent, Err(Lapse::Agent));
}

/// The giver is deactivated while the store takes the delegation in.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_delegate_escapes_a_deactivation_at_the_same_time() {
    on_each_backend(async |rig| {
        let registry = Arc::new(open(&rig).await);
        for _ in 0..30 {
            let (top, low) = (register(&registry, &["a"]).await, register(&registry, &["a"]).await);
            let made = tokio::spawn({
                let registry = Arc::clone(&registry);
                async move { delegate(&registry, top, low, &["a"]).await.is_ok() }
            });
            while registry.inner.writing.try_lock().is_ok() && !made.is_finished() {
                tokio::task::yield_now().await;
            }
            registry.deactivate(top).await.unwrap();
            let made = made.await.unwrap();
            assert_eq!(registry.agent(low).unwrap().active, !made);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_trust_levels_at_the_same_time_one_holds_here_and_in_the_store() {
    on_each_backend(async |rig| {
        let store = rig.open().await;
        let registry = Arc::new(over(Arc::clone(&store)).await);
        let id = register(&registry, &["a"]).await;
        for _ in 0..50 {
            registry.set_trust(id, TrustLevel::Basic).await.unwrap();
            let raised = tokio::spawn({
                let registry = Arc::clone(&registry);
                async move { registry.set_trust(id, TrustLevel::Trusted).await.map(drop) }
            });
            registry.set_trust(id, TrustLevel::Untrusted).await.unwrap();
            raised.await.unwrap().unwrap();
            let here = registry.agent(id).unwrap().trust;
            assert!([TrustLevel::Untrusted, TrustLevel::Trusted].contains(&here));
            assert_eq!(store.agents().await.unwrap()[0].agent.trust, here);
        }
    })
    .await;
}
