//! Agents and delegations: kept, taken away, and purged.

use super::*;

#[tokio::test]
async fn agents_and_delegations_survive() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let (first, second) = (agent(TrustLevel::Trusted), agent(TrustLevel::Basic));
        store.insert_agent(&first).await.unwrap();
        store.insert_agent(&second).await.unwrap();
        let delegation = Delegation {
            id: Uuid::new_v4(),
            from: first.id,
            to: second.id,
            scopes: vec!["read".to_owned()],
            created_at: Timestamp(6),
            expires_at: None,
        };
        store.put_delegation(&delegation, 0).await.unwrap();
        let set = store.set_trust(first.id, TrustLevel::Verified, 0).await.unwrap();
        assert_eq!(set.map(|(number, _)| number), Some(1));
        store.flag(first.id, 3, START).await.unwrap();
        store.take_away(vec![inactive(second.id)], START).await.unwrap();
        assert!(matches!(store.insert_agent(&first).await, Err(StoreError::Overtaken)));
        drop(store);

        let store = rig.open().await;
        let agents = store.agents().await.unwrap();
        let find = |id| agents.iter().find(|stored| stored.agent.id == id).unwrap();
        let stored = find(first.id);
        let expected = Agent { trust: TrustLevel::Verified, ..(*first).clone() };
        assert_eq!((&*stored.agent, stored.number, stored.ended_at), (&expected, 1, None));
        assert_eq!(stored.flags, [Flags { at: START, count: 3 }]);
        let stored = find(second.id);
        let expected = Agent { active: false, ..(*second).clone() };
        assert_eq!((&*stored.agent, stored.number, stored.ended_at), (&expected, 0, Some(START)));
        assert_eq!(store.delegations().await.unwrap().all, std::slice::from_ref(&delegation));

        // One with the same id takes its place, and one that is ended is gone, however often.
        let longer = Delegation { expires_at: Some(Timestamp(77)), ..delegation };
        let version = store.delegations().await.unwrap().version;
        store.put_delegation(&longer, version).await.unwrap();
        assert_eq!(store.delegations().await.unwrap().all, std::slice::from_ref(&longer));
        store.end_delegations(vec![longer.id, Uuid::new_v4()]).await.unwrap();
        store.end_delegations(vec![longer.id]).await.unwrap();
        assert_eq!(store.delegations().await.unwrap().all, []);
    })
    .await;
}

#[tokio::test]
async fn taking_away_twice_is_taking_away_once_and_undoes_no_raise() {
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let agent = agent(TrustLevel::Trusted);
        store.insert_agent(&agent).await.unwrap();
        let now = async || {
            let stored = store.agents().await.unwrap().pop().unwrap();
            (stored.agent.trust, stored.number, stored.flags.len())
        };
        let take = async |taken| {
            store.take_away(vec![taken], START).await.unwrap();
        };
        store.flag(agent.id, 1, START).await.unwrap();
        take(lowered(agent.id, TrustLevel::Verified, 0)).await;
        assert_eq!(now().await, (TrustLevel::Verified, 0, 0), "and its flags are forgotten");
        store.flag(agent.id, 1, START).await.unwrap();
        take(lowered(agent.id, TrustLevel::Trusted, 0)).await;
        take(lowered(agent.id, TrustLevel::Verified, 0)).await;
        assert_eq!(now().await, (TrustLevel::Verified, 0, 1), "nothing was to be taken");
        store.set_trust(agent.id, TrustLevel::Trusted, 4).await.unwrap();
        take(lowered(agent.id, TrustLevel::Basic, 4)).await;
        assert_eq!(now().await, (TrustLevel::Trusted, 5, 0), "a raise came later");
        // The store has lost the changes since then.
        take(lowered(agent.id, TrustLevel::Untrusted, 9)).await;
        assert_eq!(now().await, (TrustLevel::Untrusted, 9, 0));
        assert_eq!(store.set_trust(AgentId::random(), TrustLevel::Basic, 0).await.unwrap(), None);
        take(lowered(AgentId::random(), TrustLevel::Basic, 0)).await;
    })
    .await;
}

#[tokio::test]
async fn agents_that_ended_long_ago_are_purged_and_their_ids_kept() {
    const DAY: u64 = 86_400;
    on_all_backends(async |rig| {
        let store = rig.open().await;
        let end = START.plus_secs(10);
        let agents = [None, Some(end), None].map(|expires_at| {
            Arc::new(Agent { expires_at, ..Agent::clone(&agent(TrustLevel::Basic)) })
        });
        for agent in &agents {
            store.insert_agent(agent).await.unwrap();
        }
        let [deactivated, expired, _active] = agents.each_ref().map(|agent| agent.id);
        store.take_away(vec![inactive(deactivated)], START).await.unwrap();
        let ids: Vec<AgentId> = agents.iter().map(|agent| agent.id).collect();
        let purge = async |now: Timestamp| {
            store.newest(now).await.unwrap();
            let purge = Purge { ids: ids.clone(), retention_secs: DAY, tombstones: true };
            let mut purged = store.purge(purge, now).await.unwrap();
            purged.sort_unstable();
            purged
        };
        rig.pass(DAY - 1);
        assert_eq!(purge(START.plus_secs(DAY - 1)).await, []);
        rig.pass(1);
        assert_eq!(purge(START.plus_secs(DAY)).await, [deactivated]);
        rig.pass(10);
        assert_eq!(purge(START.plus_secs(DAY + 10)).await, [expired]);
        drop(store);
        let store = rig.open().await;
        assert_eq!(store.agents().await.unwrap().len(), 1);
        assert_eq!(store.tombstones().await.unwrap(), [deactivated]);
        assert!(matches!(store.insert_agent(&agents[0]).await, Err(StoreError::Overtaken)));
        store.insert_agent(&agents[1]).await.unwrap();
    })
    .await;
}
