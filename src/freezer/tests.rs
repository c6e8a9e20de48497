use super::*;
use crate::clock::Clock;
use crate::firewall::agent::AgentId;
use crate::store::retries::LAST_WAIT;
use crate::store::tests::contract::{Rig, on_all_backends};

const START: Timestamp = Timestamp(1_000_000_000);

async fn freezer(rig: &Rig, clock: &Clock) -> (Freezer, Arc<Store>) {
    let store = rig.open().await;
    (Freezer::load(Arc::clone(&store), clock.now()).await.unwrap(), store)
}

async fn set(freezer: &Freezer, scope: Scope, until: Option<Timestamp>, now: Now) -> Arc<Freeze> {
    match freezer.freeze(scope, ("why", "ops"), until, now).await {
        Set::New { freeze, stored } => {
            stored.unwrap();
            freeze
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_freeze_lasts_over_a_restart_until_it_is_lifted() {
    on_all_backends(async |rig| {
        let clock = Clock::manual(START);
        let (first, store) = freezer(&rig, &clock).await;
        let all = set(&first, Scope::All, None, clock.now()).await;
        let until = Some(START.plus_secs(60));
        let tool = set(&first, Scope::Tool("t".into()), until, clock.now()).await;
        // As after `kill -9`: nothing is closed.
        drop((first, store));
        let (second, store) = freezer(&rig, &clock).await;
        let mut there = second.list(clock.now());
        there.sort_by_key(|freeze| freeze.id);
        let mut expected = [Arc::clone(&all), tool];
        expected.sort_by_key(|freeze| freeze.id);
        assert_eq!(there, expected);
        assert!(second.lift(all.id).await.unwrap());
        assert!(!second.lift(all.id).await.unwrap());
        clock.advance_us(60_000_000);
        assert_eq!(second.list(clock.now()), []);
        second.sweep(clock.now()).await.unwrap();
        assert_eq!(store.freezes().await.unwrap(), []);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_freeze_counts_before_the_store_takes_it_and_is_stored_later() {
    let clock = Clock::manual(START);
    let rig = Rig::Memory(Arc::new(Store::memory()));
    let (freezer, store) = freezer(&rig, &clock).await;
    store.refuse_writes(true).await;
    let frozen = freezer.freeze(Scope::All, ("why", "ops"), None, clock.now()).await;
    let Set::New { freeze, stored: Err(_) } = frozen else { panic!("{frozen:?}") };
    assert_eq!(freezer.list(clock.now()), [Arc::clone(&freeze)]);
    freezer.reload(clock.now()).await.unwrap();
    assert_eq!(freezer.list(clock.now()).len(), 1, "what is not stored yet stays in force");
    assert!(freezer.lift(freeze.id).await.is_err(), "lifting waits for the store");
    store.refuse_writes(false).await;
    tokio::time::sleep(LAST_WAIT * 2).await;
    assert_eq!(store.freezes().await.unwrap(), [freeze]);
    freezer.close().await.unwrap();
}

#[tokio::test]
async fn what_is_frozen_already_is_not_frozen_twice_and_there_is_an_end_to_them() {
    let clock = Clock::manual(START);
    let now = clock.now();
    let rig = Rig::Memory(Arc::new(Store::memory()));
    let (freezer, _store) = freezer(&rig, &clock).await;
    let owner = || Scope::Owner("user:a".into());
    let short = set(&freezer, owner(), Some(START.plus_secs(5)), now).await;
    let again = freezer.freeze(owner(), ("why", "ops"), Some(START.plus_secs(5)), now).await;
    assert!(matches!(again, Set::Already(there) if there == short));
    set(&freezer, owner(), None, now).await;
    for _ in 2..MAX_FREEZES {
        set(&freezer, Scope::Agent(AgentId::random()), None, now).await;
    }
    let more = freezer.freeze(Scope::Tool("t".into()), ("why", "ops"), None, now).await;
    assert!(matches!(more, Set::TooMany));
    set(&freezer, Scope::All, None, now).await;
    clock.advance_us(5_000_000);
    set(&freezer, Scope::Tool("t".into()), None, clock.now()).await;
}

#[tokio::test]
async fn a_freeze_that_the_store_has_lost_is_stored_again() {
    on_all_backends(async |rig| {
        let clock = Clock::manual(START);
        let (freezer, store) = freezer(&rig, &clock).await;
        let lost = set(&freezer, Scope::All, None, clock.now()).await;
        let lifted = set(&freezer, Scope::Tool("t".into()), None, clock.now()).await;
        assert!(freezer.lift(lifted.id).await.unwrap());
        // As after a failover to a replica that lagged.
        assert!(store.unfreeze(lost.id).await.unwrap());
        freezer.assert_kept(clock.now()).await.unwrap();
        assert_eq!(store.freezes().await.unwrap(), [lost]);
    })
    .await;
}
