use super::changes::MAX_REVOKED;
use super::*;
use crate::firewall::delegation::Lapse;
use crate::firewall::time::Mono;
use crate::store::tests::contract::{Rig, on_each_backend};
use crate::testkit;

mod at_once;
mod follow;
mod model;
mod purge;
mod rights;

const NOW: Timestamp = Timestamp(1_000);

fn now(mono_us: u64) -> Now {
    Now { wall: NOW, mono: Mono(mono_us) }
}

async fn open(rig: &Rig) -> Registry {
    over(rig.open().await).await
}

async fn over(store: Arc<Store>) -> Registry {
    Registry::load(store, Clock::manual(NOW)).await.unwrap()
}

/// Counts flags and, as the gate does, takes the level that they cost.
fn flag(registry: &Registry, id: AgentId, flags: u32, now: Now) -> Option<TrustLevel> {
    let demotion = registry.flag(id, flags, now)?;
    registry.demote(&demotion);
    Some(demotion.to)
}

fn new(capabilities: &[&str], expires_at: Option<i64>) -> NewAgent {
    NewAgent {
        trust: TrustLevel::Trusted,
        expires_at: expires_at.map(Timestamp),
        ..testkit::new_agent(capabilities)
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

async fn register(registry: &Registry, capabilities: &[&str]) -> AgentId {
    registry.register(new(capabilities, None), NOW).await.unwrap().id
}

async fn delegate(
    registry: &Registry,
    from: AgentId,
    to: AgentId,
    scopes: &[&str],
) -> Result<Delegation, DelegateError> {
    registry.delegate(from, to, texts(scopes), None, NOW).await.map(|made| made.delegation)
}

/// Returns the capabilities of an agent at this time; none if it may not act.
fn capabilities(registry: &Registry, id: AgentId, now: Timestamp) -> Option<Vec<String>> {
    let acting = registry.acting(id, now).unwrap().agent;
    acting.ok().map(|agent| agent.capabilities.clone())
}

fn chain(registry: &Registry, id: AgentId) -> Arc<[AgentId]> {
    registry.acting(id, NOW).unwrap().chain
}

#[tokio::test]
async fn agents_are_found_listed_and_survive() {
    on_each_backend(async |rig| {
        let registry = open(&rig).await;
        let mut agents = Vec::new();
        for at in [5, 3, 9, 3] {
            let agent = registry.register(new(&["a"], None), Timestamp(at)).await.unwrap();
            agents.push((agent.created_at, agent.id));
        }
        assert_eq!(registry.active_count(), 4);
        registry.deactivate(agents[0].1).await.unwrap().stored.unwrap();
        drop(registry);

        let registry = open(&rig).await;
        agents.sort_unstable();
        let ids = |agents: Vec<Arc<Agent>>| agents.iter().map(|a| a.id).collect::<Vec<_>>();
        let expected: Vec<AgentId> = agents.iter().map(|&(_, id)| id).collect();
        assert_eq!(ids(registry.list(None, 10)), expected);
        assert_eq!(ids(registry.list(None, 2)), expected[..2]);
        assert_eq!(ids(registry.list(Some(expected[1]), 10)), expected[2..]);
        assert_eq!(ids(registry.list(Some(AgentId::random()), 10)), []);
        assert_eq!(registry.active_count(), 3);
        assert!(registry.agent(AgentId::random()).is_none());
    })
    .await;
}

#[tokio::test]
async fn what_gives_is_not_in_force_before_it_is_stored() {
    on_each_backend(async |rig| {
        let store = rig.open().await;
        let registry = over(Arc::clone(&store)).await;
        let (top, low) = (register(&registry, &["a"]).await, register(&registry, &["a"]).await);
        let basic = register(&registry, &["a"]).await;
        registry.set_trust(basic, TrustLevel::Basic).await.unwrap();
        store.refuse_writes(true).await;
        assert!(registry.register(new(&["a"], None), NOW).await.is_err());
        for trust in [TrustLevel::Verified, TrustLevel::Trusted] {
            let failed = registry.set_trust(basic, trust).await.unwrap_err();
            assert!(!failed.in_force);
        }
        let failed = delegate(&registry, top, low, &["a"]).await;
        assert!(matches!(failed, Err(DelegateError::Store(_))));

        assert_eq!((registry.active_count(), registry.list(None, 9).len()), (3, 3));
        assert_eq!(registry.agent(basic).unwrap().trust, TrustLevel::Basic);
        assert_eq!(registry.delegations(low).unwrap(), (vec![], vec![]));
    })
    .await;
}

#[tokio::test]
async fn deactivating_takes_everyone_below_along() {
    on_each_backend(async |rig| {
        let registry = open(&rig).await;
        let mut ids = Vec::new();
        for _ in 0..6 {
            ids.push(register(&registry, &["a"]).await);
        }
        // 0 -> 1 -> 2 -> 3, 0 -> 2, 4 -> 1; 5 stands alone.
        for (from, to) in [(0, 1), (1, 2), (2, 3), (0, 2), (4, 1)] {
            delegate(&registry, ids[from], ids[to], &["a"]).await.unwrap();
        }
        let mut gone = registry.deactivate(ids[1]).await.unwrap();
        let mut expected = vec![ids[1], ids[2], ids[3]];
        gone.ids.sort_unstable();
        gone.all.sort_unstable();
        expected.sort_unstable();
        assert_eq!((&gone.ids, &gone.all), (&expected, &expected));
        gone.stored.unwrap();
        let again = registry.deactivate(ids[1]).await.unwrap();
        assert_eq!((again.ids.len(), again.all.len()), (0, 3));
        assert!(registry.deactivate(AgentId::random()).await.is_none());
        drop(registry);

        let registry = open(&rig).await;
        let active: Vec<bool> = ids.iter().map(|&id| registry.agent(id).unwrap().active).collect();
        assert_eq!(active, [true, false, false, false, true, true]);
        assert_eq!(registry.active_count(), 3);
        let refused = delegate(&registry, ids[0], ids[1], &["a"]).await;
        assert!(matches!(refused, Err(DelegateError::Inactive(id)) if id == ids[1]));
        let refused = delegate(&registry, ids[1], ids[0], &["a"]).await;
        assert!(matches!(refused, Err(DelegateError::Inactive(id)) if id == ids[1]));
    })
    .await;
}

#[tokio::test]
async fn a_delegation_only_ever_narrows() {
    on_each_backend(async |rig| {
        let registry = open(&rig).await;
        let top = register(&registry, &["a", "b", "c"]).await;
        let mid = register(&registry, &["a", "b", "d"]).await;
        let low = register(&registry, &["a", "b", "c", "d"]).await;
        let wide = delegate(&registry, top, mid, &["a", "x", "y"]).await.unwrap_err();
        assert!(matches!(wide, DelegateError::ScopeNarrowing { extra } if extra == ["x", "y"]));
        delegate(&registry, top, mid, &["a", "c"]).await.unwrap();
        // `mid` has `c` neither by itself, nor `b` and `d` from `top`.
        let wide = delegate(&registry, mid, low, &["a", "b", "c", "d"]).await.unwrap_err();
        assert!(
            matches!(wide, DelegateError::ScopeNarrowing { extra } if extra == ["b", "c", "d"])
        );
        let made = delegate(&registry, mid, low, &["a"]).await.unwrap();
        assert_eq!(capabilities(&registry, low, NOW), Some(texts(&["a"])));
        drop(registry);

        let registry = open(&rig).await;
        assert_eq!(registry.delegations(low).unwrap().0, [made]);
        assert_eq!(registry.delegations(mid).unwrap().0.len(), 1);
        assert_eq!(registry.delegations(mid).unwrap().1.len(), 1);
        assert_eq!(*chain(&registry, low), [top, mid, low]);
        assert_eq!(*chain(&registry, top), [top]);
        assert!(registry.delegations(AgentId::random()).is_none());
    })
    .await;
}

#[tokio::test]
async fn cycles_strangers_and_long_chains_are_refused() {
    let registry = open(&Rig::Memory(Arc::new(Store::memory()))).await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(register(&registry, &["a"]).await);
    }
    let stranger = AgentId::random();
    for (from, to) in [(ids[0], stranger), (stranger, ids[0])] {
        let refused = delegate(&registry, from, to, &[]).await;
        assert!(matches!(refused, Err(DelegateError::Unknown(id)) if id == stranger));
    }
    assert!(matches!(delegate(&registry, ids[0], ids[0], &[]).await, Err(DelegateError::Cycle)));
    // Eight steps, laid from both ends.
    for step in [0, 1, 2, 7, 6, 5, 4, 3] {
        delegate(&registry, ids[step], ids[step + 1], &["a"]).await.unwrap();
    }
    assert!(matches!(delegate(&registry, ids[8], ids[0], &[]).await, Err(DelegateError::Cycle)));
    for (from, to) in [(ids[8], ids[9]), (ids[9], ids[0])] {
        let refused = delegate(&registry, from, to, &[]).await;
        assert!(matches!(refused, Err(DelegateError::TooDeep { max: 8 })));
    }
    delegate(&registry, ids[7], ids[9], &["a"]).await.unwrap();
    assert_eq!(chain(&registry, ids[8]).len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn delegations_at_the_same_time_do_not_make_a_cycle() {
    on_each_backend(async |rig| {
        let registry = Arc::new(open(&rig).await);
        for _ in 0..10 {
            let mut ids = Vec::new();
            for _ in 0..3 {
                ids.push(register(&registry, &["a"]).await);
            }
            let writes: Vec<_> = (0..3)
                .map(|step| {
                    let (from, to) = (ids[step], ids[(step + 1) % 3]);
                    let registry = Arc::clone(&registry);
                    tokio::spawn(async move { delegate(&registry, from, to, &["a"]).await.is_ok() })
                })
                .collect();
            let mut made = 0;
            for write in writes {
                made += usize::from(write.await.unwrap());
            }
            assert_eq!(made, 2);
        }
    })
    .await;
}

#[tokio::test]
async fn a_delegation_does_not_outlive_what_it_rests_on() {
    let registry = open(&Rig::Memory(Arc::new(Store::memory()))).await;
    let top = registry.register(new(&["a"], Some(9_000)), NOW).await.unwrap().id;
    let (mid, low) = (register(&registry, &["a"]).await, register(&registry, &["a"]).await);
    let until = async |from, to, end: Option<i64>, now| {
        registry.delegate(from, to, texts(&["a"]), end.map(Timestamp), Timestamp(now)).await
    };
    for end in [None, Some(9_001)] {
        let refused = until(top, mid, end, 1_000).await;
        assert!(matches!(refused, Err(DelegateError::ExpiryWidening(Timestamp(9_000)))));
    }
    assert!(matches!(until(top, mid, Some(1_000), 1_000).await, Err(DelegateError::Past)));
    until(top, mid, Some(5_000), 1_000).await.unwrap();
    let refused = until(mid, low, Some(5_001), 1_000).await;
    assert!(matches!(refused, Err(DelegateError::ExpiryWidening(Timestamp(5_000)))));
    until(mid, low, Some(5_000), 1_000).await.unwrap();

    // `mid` acts on its own account, until `top` delegates again; then `top` itself expires.
    until(mid, low, Some(6_000), 5_000).await.unwrap();
    until(top, mid, Some(8_000), 5_000).await.unwrap();
    until(mid, low, Some(6_000), 5_000).await.unwrap();
    let refused = until(top, mid, Some(9_500), 9_000).await;
    assert!(matches!(refused, Err(DelegateError::Inactive(id)) if id == top));
    assert_eq!(capabilities(&registry, low, Timestamp(9_000)), Some(texts(&["a"])));
}

#[tokio::test]
async fn the_chain_follows_the_oldest_delegation() {
    on_each_backend(async |rig| {
        let registry = open(&rig).await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(register(&registry, &["a"]).await);
        }
        let at = async |from, now| {
            registry.delegate(from, ids[2], texts(&["a"]), None, Timestamp(now)).await.unwrap();
        };
        at(ids[0], 2_000).await;
        assert_eq!(*chain(&registry, ids[2]), [ids[0], ids[2]]);
        // The wall clock was set back.
        at(ids[1], 1_500).await;
        assert_eq!(*chain(&registry, ids[2]), [ids[1], ids[2]]);
        drop(registry);
        let registry = open(&rig).await;
        assert_eq!(*chain(&registry, ids[2]), [ids[1], ids[2]]);
    })
    .await;
}

#[tokio::test]
async fn a_circle_in_the_store_is_found_at_the_start() {
    on_each_backend(async |rig| {
        let registry = open(&rig).await;
        let (one, two) = (register(&registry, &["a"]).await, register(&registry, &["a"]).await);
        let made = delegate(&registry, one, two, &["a"]).await.unwrap();
        drop(registry);
        let back = Delegation { id: Uuid::new_v4(), from: two, to: one, ..made };
        let store = rig.open().await;
        let version = store.delegations().await.unwrap().version;
        store.put_delegation(&back, version).await.unwrap();
        let found = Registry::load(store, Clock::manual(NOW)).await.unwrap_err();
        assert!(matches!(found, StoreError::Damaged { what: "delegation", .. }));
    })
    .await;
}

#[tokio::test]
async fn too_many_flags_demote_at_once_and_for_good() {
    on_each_backend(async |rig| {
        let registry = open(&rig).await;
        let id = register(&registry, &["a"]).await;
        assert_eq!(flag(&registry, id, 4, now(0)), None);
        assert_eq!(flag(&registry, id, 0, now(0)), None);
        assert_eq!(flag(&registry, id, 1, now(0)), Some(TrustLevel::Verified));
        assert_eq!(registry.agent(id).unwrap().trust, TrustLevel::Verified);
        assert_eq!(flag(&registry, id, 9, now(0)), Some(TrustLevel::Basic), "one level at a time");
        assert_eq!(flag(&registry, AgentId::random(), 9, now(0)), None);
        registry.close().await.unwrap();
        drop(registry);

        let registry = open(&rig).await;
        assert_eq!(registry.agent(id).unwrap().trust, TrustLevel::Basic);
        flag(&registry, id, 4, now(0));
        let (raised, _) = registry.set_trust(id, TrustLevel::Verified).await.unwrap().unwrap();
        assert_eq!(raised.trust, TrustLevel::Verified);
        assert_eq!(flag(&registry, id, 4, now(0)), None, "earlier flags are forgotten");
        assert_eq!(flag(&registry, id, 1, now(0)), Some(TrustLevel::Basic));
        assert_eq!(flag(&registry, id, 5, now(0)), Some(TrustLevel::Untrusted));
        assert_eq!(flag(&registry, id, 5, now(0)), None, "nothing is left to lose");
        let unknown = registry.set_trust(AgentId::random(), TrustLevel::Basic).await.unwrap();
        assert!(unknown.is_none());
    })
    .await;
}

#[tokio::test]
async fn flags_outlive_the_run_that_counted_them() {
    on_each_backend(async |rig| {
        let registry = open(&rig).await;
        let id = register(&registry, &["a"]).await;
        assert_eq!(flag(&registry, id, 4, now(0)), None);
        registry.close().await.unwrap();
        drop(registry);
        let registry = open(&rig).await;
        assert_eq!(flag(&registry, id, 1, now(0)), Some(TrustLevel::Verified));
        registry.close().await.unwrap();
        drop(registry);
        let registry = open(&rig).await;
        assert_eq!(flag(&registry, id, 4, now(0)), None, "a demotion starts the count again");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_demotion_is_stored_as_soon_as_the_store_takes_it() {
    let rig = Rig::Memory(Arc::new(Store::memory()));
    let store = rig.open().await;
    let registry = over(Arc::clone(&store)).await;
    let id = register(&registry, &["a"]).await;
    let stored = async || store.agents().await.unwrap()[0].agent.trust;
    store.refuse_writes(true).await;
    assert_eq!(flag(&registry, id, 5, now(0)), Some(TrustLevel::Verified));
    tokio::time::sleep(std::time::Duration::from_mins(1)).await;
    assert_eq!(stored().await, TrustLevel::Trusted);
    store.refuse_writes(false).await;
    // The clock of this test is paused: this is until every other task waits for longer.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(stored().await, TrustLevel::Verified);

    store.refuse_writes(true).await;
    assert_eq!(flag(&registry, id, 5, now(0)), Some(TrustLevel::Basic));
    assert!(registry.close().await.is_err());
    store.refuse_writes(false).await;
    registry.close().await.unwrap();
    assert_eq!(stored().await, TrustLevel::Basic);
}

#[tokio::test]
async fn a_revoked_token_stays_revoked_until_it_expires() {
    on_each_backend(async |rig| {
        let registry = open(&rig).await;
        assert!(!registry.is_revoked("one"));
        registry.revoke_token("one", Timestamp(2_000), NOW).await.unwrap();
        registry.revoke_token("over", NOW, NOW).await.unwrap();
        drop(registry);

        let registry = open(&rig).await;
        assert!(registry.is_revoked("one"));
        assert!(!registry.is_revoked("over") && !registry.is_revoked("two"));
        registry.revoke_token("two", Timestamp(3_000), Timestamp(2_000)).await.unwrap();
        assert!(registry.is_revoked("two") && !registry.is_revoked("one"));
    })
    .await;
}

#[tokio::test]
async fn revoked_tokens_are_bounded() {
    let registry = open(&Rig::Memory(Arc::new(Store::memory()))).await;
    for token in 0..MAX_REVOKED {
        registry.inner.revoked.insert(token.to_string(), Timestamp(2_000));
    }
    let refused = registry.revoke_token("one more", Timestamp(3_000), NOW).await;
    assert!(matches!(refused, Err(RevokeError::Full { .. })));
    registry.revoke_token("7", Timestamp(3_000), NOW).await.unwrap();
    registry.revoke_token("one more", Timestamp(3_000), Timestamp(2_000)).await.unwrap();
    assert_eq!(registry.inner.revoked.len(), 2);
}
