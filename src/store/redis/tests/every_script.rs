//! All scripts but the booking's permits tested against the model of a shared ledger: random histories of two
//! nodes are done by both, and each answer and all that is stored afterwards is compared.

use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::{Server, histories};
use crate::clock::Clock;
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::approvals::tests::{asked, hash};
use crate::firewall::approvals::{Approval, ApprovalStep, Digest, Status};
use crate::firewall::continuation::{Continuation, MAX_OF_SESSION};
use crate::firewall::freeze::{Freeze, Scope};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::store::tests::contract::{calls, continuation};
use crate::store::tests::fleet::Fleet;
use crate::store::{
    Change, Closing, Lowered, Position, Purge, Room, Settlement, Store, StoreError, TakenAway,
};
use crate::testkit::{full_agent as agent, full_order as order};

const START: Timestamp = Timestamp(1_000_000_000);
const AGENTS: usize = 3;
const SESSIONS: usize = 3;
const CAP: usize = 2;
const APPROVALS: usize = 5;
const FREEZES: u8 = 3;
/// Continuations that one act keeps at most: a few acts fill a session's room.
const CONTINUATIONS: u16 = 150;
const MOST_ACTS: usize = 50;
/// Bound of the seconds that pass at once.
const MOST_SECS: u64 = 70_000;
/// Least life of a continuation: longer than a history.
const LASTS_SECS: u64 = 5_000_000;

/// A loss of an agent: its activity, and its level by which number.
type Loss = (usize, bool, Option<(TrustLevel, u64)>);

#[derive(Clone, Debug)]
enum Act {
    Register(usize),
    SetTrust(usize, TrustLevel, u64),
    TakeAway(Vec<Loss>),
    Flag(usize, u32),
    Purge { retention_secs: u64, tombstones: bool },
    Delegate { id: usize, from: usize, to: usize, version: u64 },
    EndDelegations(Vec<usize>),
    Open { session: usize, agent: usize, lasts_secs: u64 },
    Book { session: usize, least: u64, unused: u64 },
    Close { sessions: Vec<usize>, unused: u64, after_secs: u64 },
    Settle { session: usize, unused: u64 },
    Forget { sessions: Vec<usize>, retention_secs: u64 },
    ForgetEnded { retention_secs: u64, limit: u32 },
    Revoke { token: usize, for_secs: u64 },
    Freeze(u8, bool),
    Unfreeze(u8),
    Continue { session: usize, first: u16, count: u16, for_secs: u64 },
    GoOn { session: usize, number: u16 },
    Ask { approval: usize, call: u8, agent: usize, room: usize, for_secs: u64 },
    ApprovalStep { approval: usize, status: Status, uses_left: u32, stale: bool },
    ForgetApprovals(Vec<usize>),
    Pass(u64),
}

fn level() -> impl Strategy<Value = TrustLevel> {
    use TrustLevel::{Basic, Trusted, Untrusted, Verified};
    prop_oneof![Just(Untrusted), Just(Basic), Just(Verified), Just(Trusted)]
}

fn act() -> impl Strategy<Value = Act> {
    let (a, s, d, n) = (0..AGENTS, 0..SESSIONS, 0..3_usize, 0..4_u64);
    let secs = prop_oneof![Just(0_u64), 1..100_u64, 3_000..MOST_SECS];
    let lowered = prop::option::of((level(), n.clone()));
    let taken = prop::collection::vec((a.clone(), any::<bool>(), lowered), 1..4);
    let several = prop::collection::vec(s.clone(), 1..4);
    prop_oneof![
        2 => a.clone().prop_map(Act::Register),
        2 => (a.clone(), level(), n.clone()).prop_map(|(a, l, n)| Act::SetTrust(a, l, n)),
        3 => taken.prop_map(Act::TakeAway),
        2 => (a.clone(), 1..4_u32).prop_map(|(a, flags)| Act::Flag(a, flags)),
        1 => (secs.clone(), any::<bool>())
            .prop_map(|(retention_secs, tombstones)| Act::Purge { retention_secs, tombstones }),
        2 => (d.clone(), a.clone(), a.clone(), n.clone())
            .prop_map(|(id, from, to, version)| Act::Delegate { id, from, to, version }),
        1 => prop::collection::vec(d, 1..3).prop_map(Act::EndDelegations),
        3 => (s.clone(), a, secs.clone())
            .prop_map(|(session, agent, lasts_secs)| Act::Open { session, agent, lasts_secs }),
        3 => (s.clone(), 0..5_u64, n.clone())
            .prop_map(|(session, least, unused)| Act::Book { session, least, unused }),
        2 => (several.clone(), n.clone(), secs.clone()).prop_map(|(sessions, unused, after_secs)| {
            Act::Close { sessions, unused, after_secs }
        }),
        1 => (s, n).prop_map(|(session, unused)| Act::Settle { session, unused }),
        1 => (several, secs.clone())
            .prop_map(|(sessions, retention_secs)| Act::Forget { sessions, retention_secs }),
        1 => (secs.clone(), 0..3_u32)
            .prop_map(|(retention_secs, limit)| Act::ForgetEnded { retention_secs, limit }),
        1 => (0..2_usize, secs.clone())
            .prop_map(|(token, for_secs)| Act::Revoke { token, for_secs }),
        1 => (0..FREEZES, any::<bool>()).prop_map(|(id, all)| Act::Freeze(id, all)),
        1 => (0..FREEZES).prop_map(Act::Unfreeze),
        1 => (0..SESSIONS, 0..CONTINUATIONS, 1..CONTINUATIONS, prop::sample::select(vec![0, LASTS_SECS, 2 * LASTS_SECS]))
            .prop_map(|(session, first, count, for_secs)| {
                Act::Continue { session, first, count, for_secs }
            }),
        1 => (0..SESSIONS, 0..CONTINUATIONS)
            .prop_map(|(session, number)| Act::GoOn { session, number }),
        4 => (0..APPROVALS, 0..3_u8, 0..AGENTS, 0..4_usize, secs.clone())
            .prop_map(|(approval, call, agent, room, for_secs)| {
                Act::Ask { approval, call, agent, room, for_secs }
            }),
        4 => (0..APPROVALS, status(), 0..3_u32, prop::bool::weighted(0.2))
            .prop_map(|(approval, status, uses_left, stale)| {
                Act::ApprovalStep { approval, status, uses_left, stale }
            }),
        1 => prop::collection::vec(0..APPROVALS, 1..3).prop_map(Act::ForgetApprovals),
        3 => secs.prop_map(Act::Pass),
    ]
}

fn status() -> impl Strategy<Value = Status> {
    use Status::{Approved, Denied, Expired, Pending, Used, Void, Withdrawn};
    prop::sample::select(vec![Pending, Approved, Denied, Used, Expired, Void, Withdrawn])
}

/// The ids of one history.
struct Names {
    approvals: Vec<Uuid>,
    agents: Vec<Arc<Agent>>,
    sessions: Vec<SessionId>,
    delegations: Vec<Uuid>,
}

impl Names {
    fn new() -> Self {
        let expires_at = [None, Some(START.plus_secs(50)), Some(START.plus_secs(40_000))];
        let agents = expires_at.map(|expires_at| {
            Arc::new(Agent { expires_at, ..Agent::clone(&agent(TrustLevel::Verified)) })
        });
        Self {
            approvals: (0..APPROVALS).map(|_| Uuid::new_v4()).collect(),
            agents: agents.into(),
            sessions: (0..SESSIONS).map(|_| SessionId::random()).collect(),
            delegations: (0..3).map(|_| Uuid::new_v4()).collect(),
        }
    }

    fn agent(&self, at: usize) -> AgentId {
        self.agents[at].id
    }
}

/// The outcome of an act as text: errors say nothing but their kind.
fn told<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> String {
    match outcome {
        Ok(answer) => format!("{answer:?}"),
        Err(StoreError::Overtaken) => "overtaken".to_owned(),
        Err(StoreError::Missing(id)) => format!("missing {id}"),
        Err(other) => panic!("{other}"),
    }
}

async fn take(store: &Store, names: &Names, act: &Act, now: Timestamp) -> String {
    match act {
        Act::Register(at) => told(store.insert_agent(&names.agents[*at]).await),
        Act::SetTrust(at, level, above) => {
            told(store.set_trust(names.agent(*at), *level, *above).await)
        }
        Act::TakeAway(taken) => {
            let taken = taken.iter().map(|&(at, inactive, lowered)| TakenAway {
                id: names.agent(at),
                inactive,
                lowered: lowered.map(|(level, number)| Lowered { level, number }),
            });
            told(store.take_away(taken.collect(), now).await)
        }
        Act::Flag(at, count) => told(store.flag(names.agent(*at), *count, now).await),
        Act::Purge { retention_secs, tombstones } => {
            let ids = names.agents.iter().map(|agent| agent.id).collect();
            let purge = Purge { ids, retention_secs: *retention_secs, tombstones: *tombstones };
            told(store.purge(purge, now).await)
        }
        Act::Delegate { id, from, to, version } => {
            let delegation = Delegation {
                id: names.delegations[*id],
                from: names.agent(*from),
                to: names.agent(*to),
                scopes: vec![format!("{version}")],
                created_at: START,
                expires_at: None,
            };
            // Mostly the right one.
            let there = store.delegations().await.unwrap().version;
            let version = if *version == 0 { 0 } else { there };
            told(store.put_delegation(&delegation, version).await)
        }
        Act::EndDelegations(ids) => {
            let ids = ids.iter().map(|&id| names.delegations[id]).collect();
            told(store.end_delegations(ids).await)
        }
        Act::Open { session, agent, lasts_secs } => {
            let id = names.sessions[*session];
            // An id is used once.
            if store.shared().unwrap().session(id).await.unwrap().is_some() {
                return String::new();
            }
            let expires_at = now.plus_secs(*lasts_secs);
            let order = WorkOrder { id, expires_at, ..order(names.agent(*agent), 9) };
            told(store.insert_session(&Arc::new(order), CAP).await)
        }
        Act::Book { session, least, unused } => {
            let mut booking = calls(names.sessions[*session], *least);
            (booking.most, booking.unused) = (least + 1, *unused);
            told(store.book(booking).await)
        }
        Act::Close { sessions, unused, after_secs } => {
            let closing = |&at: &usize| Closing { id: names.sessions[at], unused: *unused };
            let closings = sessions.iter().map(closing).collect();
            told(store.close_sessions(closings, now.plus_secs(*after_secs)).await)
        }
        Act::Settle { session, unused } => {
            let id = names.sessions[*session];
            let settlement = Settlement { id, unused: *unused, recent: None, rate: None };
            told(store.settle(vec![settlement]).await)
        }
        Act::Forget { sessions, retention_secs } => {
            let ids = sessions.iter().map(|&at| names.sessions[at]).collect();
            told(store.forget_sessions(ids, now, *retention_secs).await)
        }
        // Which of several is forgotten first is the store's to choose.
        Act::ForgetEnded { retention_secs, limit: 0 } => {
            told(store.forget_ended(now, *retention_secs, 0).await)
        }
        Act::ForgetEnded { retention_secs, limit: _ } => {
            told(store.forget_ended(now, *retention_secs, 100).await)
        }
        Act::Revoke { token, for_secs } => {
            let until = now.plus_secs(*for_secs);
            told(store.revoke_token(&format!("token {token}"), until, now).await)
        }
        Act::Freeze(..) | Act::Unfreeze(_) | Act::Continue { .. } | Act::GoOn { .. } => {
            take_freeze_or_continuation(store, names, act, now).await
        }
        Act::Ask { .. } | Act::ApprovalStep { .. } | Act::ForgetApprovals(_) => {
            take_approval(store, names, act, now).await
        }
        Act::Pass(_) => String::new(),
    }
}

async fn take_freeze_or_continuation(
    store: &Store,
    names: &Names,
    act: &Act,
    now: Timestamp,
) -> String {
    match act {
        Act::Freeze(id, all) => {
            let scope = if *all { Scope::All } else { Scope::Agent(names.agent(0)) };
            let freeze = Freeze {
                id: Uuid::from_u128((*id).into()),
                scope,
                reason: "a test".into(),
                by: "key".into(),
                frozen_at: now,
                until: all.then(|| now.plus_secs(10)),
            };
            told(store.freeze(&Arc::new(freeze)).await)
        }
        Act::Unfreeze(id) => told(store.unfreeze(Uuid::from_u128((*id).into())).await),
        Act::Continue { session, first, count, for_secs } => {
            for number in *first..first + count {
                // No two of a session end at once, since which of them goes would be the store's to
                // choose; and none ends while the test runs, since Redis lets go of it by its own clock.
                let apart = if *for_secs == 0 { 0 } else { i64::from(number) };
                let ends = now.plus_secs(*for_secs).0 + apart;
                let one = continuation(names.sessions[*session], 0, ends);
                let one = Continuation { mark: mark(*session, number), ..one };
                store.keep_continuation(&one, now).await.unwrap();
            }
            String::new()
        }
        Act::GoOn { session, number } => {
            told(store.take_continuation(mark(*session, *number)).await)
        }
        _ => String::new(),
    }
}

async fn take_approval(store: &Store, names: &Names, act: &Act, now: Timestamp) -> String {
    match act {
        Act::Ask { approval, call, agent, room, for_secs } => {
            let agent = &names.agents[*agent];
            let to = Approval {
                id: names.approvals[*approval],
                owner: agent.owner.as_str().into(),
                expires_at: now.plus_secs(*for_secs),
                session: SessionId(names.approvals[0]),
                ..asked(hash(*call), agent.id, now)
            };
            let room = Room { of_agent: *room, of_owner: room + 1, in_all: room + 1 };
            told(store.put_approvals(vec![ApprovalStep::ask(to)], room).await)
        }
        Act::ApprovalStep { approval, status, uses_left, stale } => {
            let found = store.find_approvals(vec![names.approvals[*approval]]).await.unwrap();
            let Some(there) = found.into_iter().next() else { return String::new() };
            let mut from = there.stamp();
            from.uses_left += u32::from(*stale);
            let version = there.version + 1;
            let to = Approval { version, status: *status, uses_left: *uses_left, ..there };
            told(
                store
                    .put_approvals(vec![ApprovalStep { from: Some(from), to }], Room::UNLIMITED)
                    .await,
            )
        }
        Act::ForgetApprovals(which) => {
            let ids = which.iter().map(|&at| names.approvals[at]).collect();
            told(store.forget_approvals(ids, now).await)
        }
        _ => String::new(),
    }
}

fn mark(session: usize, number: u16) -> Digest {
    let mut mark = [u8::try_from(session).unwrap(); 32];
    mark[..2].copy_from_slice(&number.to_be_bytes());
    Digest(mark)
}

/// The continuations of each session, those that end first first.
async fn continuations(store: &Store, names: &Names, now: Timestamp) -> Vec<Continuation> {
    let mut all = Vec::new();
    for &session in &names.sessions {
        let mut kept = store.continuations_of(session, now).await.unwrap();
        kept.sort_unstable_by_key(|one| (one.ends, one.mark.0));
        assert!(kept.len() <= usize::from(MAX_OF_SESSION));
        for one in &kept {
            assert_eq!(store.continuation(one.mark, now).await.unwrap().as_ref(), Some(one));
        }
        all.append(&mut kept);
    }
    all
}

/// All that is stored, in one order.
async fn all(store: &Store, from: Position) -> (String, Vec<Change>) {
    let mut agents: Vec<String> = Vec::new();
    for stored in store.agents().await.unwrap() {
        agents.push(format!("{stored:?}"));
    }
    let delegations = store.delegations().await.unwrap();
    let mut links: Vec<String> = delegations.all.iter().map(|d| format!("{d:?}")).collect();
    let sessions = store.sessions(Timestamp(0)).await.unwrap();
    let mut sessions: Vec<String> = sessions.iter().map(|s| format!("{s:?}")).collect();
    let mut revoked = store.revoked_tokens().await.unwrap();
    let mut tombstones = store.tombstones().await.unwrap();
    let mut approvals = store.approvals().await.unwrap();
    approvals.sort_unstable_by_key(|one| one.id);
    let mut freezes = store.freezes().await.unwrap();
    freezes.sort_unstable_by_key(|one| one.id);
    agents.sort_unstable();
    links.sort_unstable();
    sessions.sort_unstable();
    revoked.sort_unstable();
    tombstones.sort_unstable();
    let version = delegations.version;
    let text = format!(
        "{agents:#?}{links:#?}{version}{sessions:#?}{revoked:?}{tombstones:?}\n{approvals:#?}{freezes:#?}"
    );
    let changes = store.shared().unwrap().changes(&from.into()).await.unwrap().changes;
    // Who is asked to give back is told again after a while, by a clock that is not the test's.
    let changes = changes.into_iter().filter(|change| !matches!(change, Change::Wanted(_)));
    (text, changes.collect())
}

#[test]
fn whatever_is_done_the_scripts_do_as_the_model_does() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start());
    let run = std::cell::Cell::new(0_u32);
    let acts = prop::collection::vec((any::<bool>(), act()), 1..MOST_ACTS);
    let checked = histories(60, file!()).run(&acts, |acts| {
        run.set(run.get() + 1);
        runtime.block_on(async {
            let clock = Clock::manual(START);
            let prefix = format!("run{}", run.get());
            let redis = async |name: &str| server.node_of(&prefix, name, clock.clone()).await;
            let redis = [redis("a").await, redis("b").await];
            let fleet = Fleet::new("a", clock.clone());
            let model = [Store::from(fleet.beside("a")), Store::from(fleet.beside("b"))];
            let names = Names::new();
            for (second, act) in &acts {
                let (node, now) = (usize::from(*second), clock.now().wall);
                let expected = take(&model[node], &names, act, now).await;
                assert_eq!(take(&redis[node], &names, act, now).await, expected, "{act:?}");
                if let Act::Pass(secs) = act {
                    clock.advance_us(secs * 1_000_000);
                }
            }
            for (redis, model) in redis.iter().zip(&model) {
                let (stored, told) = all(redis, Position(0)).await;
                let (expected, expected_told) = all(model, Position(0)).await;
                assert_eq!(stored, expected);
                assert_eq!(told, expected_told);
                let now = clock.now().wall;
                let expected = continuations(model, &names, now).await;
                assert_eq!(continuations(redis, &names, now).await, expected);
            }
        });
        Ok(())
    });
    checked.unwrap_or_else(|failed| panic!("{failed}"));
}
