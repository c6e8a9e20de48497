use proptest::prelude::*;

use super::*;
use crate::firewall::time::Mono;
use crate::store::contract::{Rig, on_each_backend};

const NOW: Timestamp = Timestamp(1_000);

fn now(mono_us: u64) -> Now {
    Now { wall: NOW, mono: Mono(mono_us) }
}

async fn open(rig: &Rig) -> Registry {
    Registry::open(rig.open().await).await.unwrap()
}

fn new(capabilities: &[&str], expires_at: Option<i64>) -> NewAgent {
    NewAgent {
        owner: "ops".to_owned(),
        model: "m".to_owned(),
        capabilities: texts(capabilities),
        trust: TrustLevel::Trusted,
        expires_at: expires_at.map(Timestamp),
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
    registry.delegate(from, to, texts(scopes), None, NOW).await
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
        registry.deactivate(agents[0].1).await.unwrap();
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
async fn a_write_the_store_does_not_take_changes_nothing() {
    on_each_backend(async |rig| {
        let store = rig.open().await;
        let registry = Registry::open(Arc::clone(&store)).await.unwrap();
        let (top, low) = (register(&registry, &["a"]).await, register(&registry, &["a"]).await);
        store.refuse_writes(true).await;
        assert!(registry.register(new(&["a"], None), NOW).await.is_err());
        assert!(registry.set_trust(top, TrustLevel::Basic).await.is_err());
        assert!(registry.deactivate(top).await.is_err());
        let failed = delegate(&registry, top, low, &["a"]).await;
        assert!(matches!(failed, Err(DelegateError::Store(_))));
        assert!(registry.revoke_token("t", Timestamp(2_000), NOW).await.is_err());

        assert_eq!((registry.active_count(), registry.list(None, 9).len()), (2, 2));
        let agent = registry.agent(top).unwrap();
        assert_eq!((agent.trust, agent.active), (TrustLevel::Trusted, true));
        assert_eq!(registry.delegations(low).unwrap(), (vec![], vec![]));
        assert!(!registry.is_revoked("t"));
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
        let mut gone = registry.deactivate(ids[1]).await.unwrap().unwrap();
        let mut expected = vec![ids[1], ids[2], ids[3]];
        gone.sort_unstable();
        expected.sort_unstable();
        assert_eq!(gone, expected);
        assert_eq!(registry.deactivate(ids[1]).await.unwrap(), Some(vec![]));
        assert_eq!(registry.deactivate(AgentId::random()).await.unwrap(), None);
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
        assert_eq!(registry.effective_capabilities(low, NOW), Some(texts(&["a"])));
        drop(registry);

        let registry = open(&rig).await;
        assert_eq!(registry.delegations(low).unwrap().0, [made]);
        assert_eq!(registry.delegations(mid).unwrap().0.len(), 1);
        assert_eq!(registry.delegations(mid).unwrap().1.len(), 1);
        assert_eq!(*registry.chain(low), [top, mid, low]);
        assert_eq!(*registry.chain(top), [top]);
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
    assert_eq!(registry.chain(ids[8]).len(), 9);
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

    // Nobody stands behind `mid` any more, until `top` delegates anew; then `top` itself expires.
    let refused = until(mid, low, Some(6_000), 5_000).await;
    assert!(matches!(refused, Err(DelegateError::Inactive(id)) if id == mid));
    until(top, mid, Some(8_000), 5_000).await.unwrap();
    until(mid, low, Some(6_000), 5_000).await.unwrap();
    let refused = until(top, mid, Some(9_500), 9_000).await;
    assert!(matches!(refused, Err(DelegateError::Inactive(id)) if id == top));
    assert_eq!(registry.effective_capabilities(low, Timestamp(9_000)), None);
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
        assert_eq!(*registry.chain(ids[2]), [ids[0], ids[2]]);
        // The wall clock was set back.
        at(ids[1], 1_500).await;
        assert_eq!(*registry.chain(ids[2]), [ids[1], ids[2]]);
        drop(registry);
        let registry = open(&rig).await;
        assert_eq!(*registry.chain(ids[2]), [ids[1], ids[2]]);
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
        store.insert_delegation(&back, 1).await.unwrap();
        let found = Registry::open(store).await.unwrap_err();
        assert!(matches!(found, StoreError::Damaged { what: "delegation", .. }));
    })
    .await;
}

#[tokio::test]
async fn too_many_flags_demote_at_once_and_for_good() {
    on_each_backend(async |rig| {
        let registry = open(&rig).await;
        let id = register(&registry, &["a"]).await;
        assert_eq!(registry.flag(id, 4, now(0)), None);
        assert_eq!(registry.flag(id, 0, now(0)), None);
        assert_eq!(registry.flag(id, 1, now(0)), Some(TrustLevel::Verified));
        assert_eq!(registry.agent(id).unwrap().trust, TrustLevel::Verified);
        assert_eq!(registry.flag(id, 9, now(0)), Some(TrustLevel::Basic), "one level at a time");
        assert_eq!(registry.flag(AgentId::random(), 9, now(0)), None);
        registry.close().await.unwrap();
        drop(registry);

        let registry = open(&rig).await;
        assert_eq!(registry.agent(id).unwrap().trust, TrustLevel::Basic);
        registry.flag(id, 4, now(0));
        let raised = registry.set_trust(id, TrustLevel::Verified).await.unwrap().unwrap();
        assert_eq!(raised.trust, TrustLevel::Verified);
        assert_eq!(registry.flag(id, 4, now(0)), None, "earlier flags are forgotten");
        assert_eq!(registry.flag(id, 1, now(0)), Some(TrustLevel::Basic));
        assert_eq!(registry.flag(id, 5, now(0)), Some(TrustLevel::Untrusted));
        assert_eq!(registry.flag(id, 5, now(0)), None, "nothing is left to lose");
        let unknown = registry.set_trust(AgentId::random(), TrustLevel::Basic).await.unwrap();
        assert!(unknown.is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_demotion_is_stored_as_soon_as_the_store_takes_it() {
    let rig = Rig::Memory(Arc::new(Store::memory()));
    let store = rig.open().await;
    let registry = Registry::open(Arc::clone(&store)).await.unwrap();
    let id = register(&registry, &["a"]).await;
    let stored = async || store.agents().await.unwrap()[0].trust;
    store.refuse_writes(true).await;
    assert_eq!(registry.flag(id, 5, now(0)), Some(TrustLevel::Verified));
    tokio::time::sleep(std::time::Duration::from_mins(1)).await;
    assert_eq!(stored().await, TrustLevel::Trusted);
    store.refuse_writes(false).await;
    // The clock of this test is paused: this is until every other task waits for longer.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(stored().await, TrustLevel::Verified);

    store.refuse_writes(true).await;
    assert_eq!(registry.flag(id, 5, now(0)), Some(TrustLevel::Basic));
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_graph_has_a_cycle_or_gives_anyone_more_than_those_above(
        own in prop::collection::vec(prop::sample::subsequence(vec!["a", "b", "c", "d"], 2..=4), 7),
        asked in prop::collection::vec(
            (0_usize..7, 0_usize..7, prop::sample::subsequence(vec!["a", "b", "c", "d"], 0..3)),
            1..40,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let registry = open(&Rig::Memory(Arc::new(Store::memory()))).await;
            let mut ids = Vec::new();
            for own in &own {
                ids.push(register(&registry, own).await);
            }
            let mut above: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); 7];
            for (from, to, scopes) in asked {
                let reaches = from == to || above[from].contains(&to);
                match delegate(&registry, ids[from], ids[to], &scopes).await {
                    Ok(_) => {
                        assert!(!reaches, "a cycle");
                        let new: BTreeSet<usize> =
                            above[from].iter().copied().chain([from]).collect();
                        for (id, above) in above.iter_mut().enumerate() {
                            if id == to || above.contains(&to) {
                                above.extend(new.iter().copied());
                            }
                        }
                    }
                    Err(DelegateError::Cycle) => assert!(reaches),
                    Err(DelegateError::ScopeNarrowing { extra }) => {
                        let has = registry.effective_capabilities(ids[from], NOW).unwrap();
                        assert!(!extra.is_empty());
                        assert!(extra.iter().all(|scope| !has.contains(scope)));
                    }
                    Err(other) => panic!("{other}"),
                }
                for id in 0..7 {
                    let has = registry.effective_capabilities(ids[id], NOW).unwrap();
                    for &ancestor in &above[id] {
                        let most = registry.effective_capabilities(ids[ancestor], NOW).unwrap();
                        assert!(has.iter().all(|scope| most.contains(scope)));
                    }
                    let chain = registry.chain(ids[id]);
                    assert_eq!(chain.last(), Some(&ids[id]));
                    assert_eq!(chain.len() == 1, above[id].is_empty());
                }
            }
        });
    }
}
