use super::*;
use crate::firewall::approvals::Answer;
use crate::firewall::approvals::tests::{asked, hash, ruling};
use crate::store::tests::contract::{Rig, on_all_backends};

mod laws;

const START: Timestamp = Timestamp(1_000_000_000);

fn settings() -> Settings {
    let limits = Limits { ttl_secs: 900, max_pending_per_agent: 3 };
    Settings { limits, hold: Duration::ZERO, four_eyes: false }
}

/// The approvals of a node that has just started.
async fn open(store: Arc<Store>, clock: &Clock) -> Arc<Approvals> {
    let approvals = Approvals::new(settings(), b"secret", store, clock.now());
    approvals.load(clock.now()).await.unwrap();
    Arc::new(approvals)
}

async fn alone(clock: &Clock) -> Arc<Approvals> {
    open(Arc::new(Store::memory()), clock).await
}

fn plea(byte: u8) -> Plea {
    Plea { digest: hash(byte), policy_text: hash(1) }
}

/// One attempt at the calls, as the gate makes it.
async fn ask(approvals: &Arc<Approvals>, pleas: &[Plea], agent: AgentId, clock: &Clock) -> Answer {
    attempt(approvals, pleas, |at, now| asked(pleas[at].digest, agent, now), clock).await
}

/// One attempt at the calls, with what is asked where nobody was asked yet.
async fn attempt(
    approvals: &Arc<Approvals>,
    pleas: &[Plea],
    asked: impl Fn(usize, Timestamp) -> Approval,
    clock: &Clock,
) -> Answer {
    let _turn = approvals.turn(clock).await.unwrap();
    loop {
        let now = approvals.time(clock.now());
        let plan = approvals.plan(pleas, clock.now(), |at| Some(asked(at, now))).unwrap();
        if plan.steps.is_empty() {
            return plan.answer.unwrap();
        }
        match approvals.commit(plan.steps, clock).await.unwrap() {
            Committed::Done(_) => {
                if let Some(answer) = plan.answer {
                    return answer;
                }
            }
            Committed::Overtaken => {}
            Committed::TooMany => return Answer::TooMany,
        }
    }
}

fn ids(answer: &Answer) -> Vec<Uuid> {
    match answer {
        Answer::Used(some) | Answer::Pending(some) => some.iter().map(|one| one.id).collect(),
        Answer::Denied(one) => vec![one.id],
        Answer::TooMany => Vec::new(),
    }
}

async fn decide(approvals: &Arc<Approvals>, id: Uuid, (approve, uses): (bool, u32), clock: &Clock) {
    let step = approvals.check(id, &ruling(approve, uses), clock.now()).unwrap();
    let done = approvals.commit(vec![step], clock).await.unwrap();
    assert!(matches!(done, Committed::Done(_)), "{done:?}");
}

#[tokio::test]
async fn fifty_retries_at_once_share_the_uses() {
    let clock = Clock::manual(START);
    let (approvals, agent) = (alone(&clock).await, AgentId::random());
    let id = ids(&ask(&approvals, &[plea(1)], agent, &clock).await)[0];
    decide(&approvals, id, (true, 3), &clock).await;
    let tries = (0..50).map(|_| {
        let (approvals, clock) = (Arc::clone(&approvals), clock.clone());
        tokio::spawn(async move { ask(&approvals, &[plea(1)], agent, &clock).await })
    });
    let answers = futures::future::join_all(tries).await;
    let used = |answer: &Answer| matches!(answer, Answer::Used(_));
    assert_eq!(answers.iter().filter(|answer| used(answer.as_ref().unwrap())).count(), 3);
}

#[tokio::test]
async fn approvals_last_over_a_kill_as_they_are() {
    on_all_backends(async |rig| {
        let clock = match &rig {
            Rig::Fleet(_, clock) | Rig::Redis(_, clock) => clock.clone(),
            Rig::Memory(_) | Rig::Sqlite(_) | Rig::Sealed(_) => Clock::manual(START),
        };
        let agent = AgentId::random();
        let first = open(rig.open().await, &clock).await;
        let mut asked = Vec::new();
        for byte in 1..=3 {
            asked.extend(ids(&ask(&first, &[plea(byte)], agent, &clock).await));
        }
        assert_eq!(ask(&first, &[plea(4)], agent, &clock).await, Answer::TooMany);
        decide(&first, asked[0], (true, 2), &clock).await;
        decide(&first, asked[1], (false, 1), &clock).await;
        assert_eq!(ids(&ask(&first, &[plea(1)], agent, &clock).await), asked[..1]);
        let mut before = first.list(|_| true, None, 9);
        // As after `kill -9`: nothing is closed.
        drop(first);
        let second = open(rig.open().await, &clock).await;
        let mut after = second.list(|_| true, None, 9);
        before.sort_by_key(|one| one.id);
        after.sort_by_key(|one| one.id);
        assert_eq!(after, before);
        let answers = async |byte| ask(&second, &[plea(byte)], agent, &clock).await;
        assert!(matches!(answers(1).await, Answer::Used(_)));
        assert!(matches!(answers(2).await, Answer::Denied(_)));
        assert_eq!(ids(&answers(3).await), asked[2..]);
        let again = ids(&answers(1).await);
        assert_ne!(again, asked[..1], "all its uses are taken");

        // What ends here ends for the next run as well.
        assert_eq!(second.end_agents(&[agent]).await.len(), 3);
        drop(second);
        let third = open(rig.open().await, &clock).await;
        assert_eq!(
            (third.pending(), third.list(|one| one.status == Status::Void, None, 9).len()),
            (0, 3)
        );
    })
    .await;
}

#[tokio::test]
async fn pending_approvals_end_with_their_session_and_agent() {
    let clock = Clock::manual(START);
    let (approvals, agent) = (alone(&clock).await, AgentId::random());
    for byte in 1..=3 {
        ask(&approvals, &[plea(byte)], agent, &clock).await;
    }
    assert_eq!(ask(&approvals, &[plea(4)], agent, &clock).await, Answer::TooMany);
    assert_eq!(approvals.end_agents(&[agent]).await.len(), 3);
    let answer = ask(&approvals, &[plea(4)], agent, &clock).await;
    assert!(matches!(answer, Answer::Pending(_)));
    let session = approvals.list(|one| one.status == Status::Pending, None, 9)[0].session;
    assert!(approvals.concern(session));
    assert_eq!(approvals.end_session(session).await.len(), 1);
    assert!(!approvals.concern(session));
    assert_eq!(approvals.pending(), 0);
}

#[tokio::test]
async fn what_ends_while_the_store_is_away_is_stored_later() {
    let clock = Clock::manual(START);
    let rig = Rig::Memory(Arc::new(Store::memory()));
    let store = rig.open().await;
    let (approvals, agent) = (open(Arc::clone(&store), &clock).await, AgentId::random());
    let id = ids(&ask(&approvals, &[plea(1)], agent, &clock).await)[0];
    store.refuse_writes(true).await;
    assert_eq!(approvals.end_agents(&[agent]).await.len(), 1);
    assert_eq!(approvals.get(id).unwrap().status, Status::Void);
    approvals.sweep(clock.now()).await.unwrap_err();
    store.refuse_writes(false).await;
    approvals.sweep(clock.now()).await.unwrap();
    let stored = store.find_approvals(vec![id]).await.unwrap();
    assert_eq!(stored[0].status, Status::Void);
}

#[tokio::test]
async fn an_approval_ends_by_time_whatever_the_clock_says_after_a_restart() {
    on_all_backends(async |rig| {
        let clock = match &rig {
            Rig::Fleet(_, clock) | Rig::Redis(_, clock) => clock.clone(),
            Rig::Memory(_) | Rig::Sqlite(_) | Rig::Sealed(_) => Clock::manual(START),
        };
        let agent = AgentId::random();
        let first = open(rig.open().await, &clock).await;
        let id = ids(&ask(&first, &[plea(1)], agent, &clock).await)[0];
        decide(&first, id, (true, 1), &clock).await;
        clock.advance_us(899_999_999);
        assert_eq!(first.expire(clock.now()).await, []);
        clock.advance_us(1);
        assert!(matches!(ask(&first, &[plea(1)], agent, &clock).await, Answer::Pending(_)));
        assert_eq!(first.expire(clock.now()).await.len(), 1);
        assert_eq!(first.get(id).unwrap().status, Status::Expired);
        drop(first);
        let store = rig.open().await;
        let stored = store.find_approvals(vec![id]).await.unwrap();
        assert_eq!(stored[0].status, Status::Expired);
    })
    .await;
    // A file whose clock was set back by less than an approval's time, and by more.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    for back_us in [600_000_000, 7_200_000_000] {
        let clock = Clock::manual(Timestamp(START.0 * 20));
        let store = Arc::new(Store::sqlite(&path).await.unwrap());
        let approvals = open(Arc::clone(&store), &clock).await;
        let agent = AgentId::random();
        let id = ids(&ask(&approvals, &[plea(1)], agent, &clock).await)[0];
        decide(&approvals, id, (true, 1), &clock).await;
        clock.advance_us(899_000_000);
        store.newest(clock.now().wall).await.unwrap();
        store.close().await.unwrap();
        let clock = Clock::manual(Timestamp(clock.now().wall.0 - back_us));
        let store = Arc::new(Store::sqlite(&path).await.unwrap());
        let approvals = open(Arc::clone(&store), &clock).await;
        clock.advance_us(1_000_000);
        let answer = ask(&approvals, &[plea(1)], agent, &clock).await;
        assert!(matches!(answer, Answer::Pending(_)), "{answer:?}");
        store.close().await.unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn a_use_that_the_store_has_lost_stays_taken() {
    let clock = Clock::manual(START);
    let ledger = crate::store::tests::fleet::Fleet::new("a", clock.clone());
    let node = async |name: &str| open(Arc::new(ledger.beside(name).into()), &clock).await;
    let (a, b) = (node("a").await, node("b").await);
    let agent = AgentId::random();
    let asked = ids(&ask(&a, &[plea(1), plea(2), plea(3)], agent, &clock).await);
    decide(&a, asked[0], (true, 1), &clock).await;
    let before = ledger.backup();
    assert!(matches!(ask(&a, &[plea(1)], agent, &clock).await, Answer::Used(_)));
    decide(&a, asked[1], (false, 1), &clock).await;
    decide(&a, asked[2], (true, 1), &clock).await;
    b.reload(clock.now()).await.unwrap();
    ledger.fail_over(&before);
    for node in [&a, &b] {
        node.reload(clock.now()).await.unwrap();
        let pending = ids(&ask(node, &[plea(1)], agent, &clock).await);
        assert_ne!(pending, asked[..1], "the use stays taken");
        assert!(matches!(ask(node, &[plea(2)], agent, &clock).await, Answer::Denied(_)));
        // A lost approval is not given again by itself.
        assert_eq!(ids(&ask(node, &[plea(3)], agent, &clock).await), asked[2..]);
    }
    decide(&b, asked[2], (true, 1), &clock).await;
    assert!(
        matches!(ask(&a, &[plea(3)], agent, &clock).await, Answer::Pending(_)),
        "not heard yet"
    );
    a.reload(clock.now()).await.unwrap();
    assert!(matches!(ask(&a, &[plea(3)], agent, &clock).await, Answer::Used(_)));
}

#[tokio::test]
async fn one_call_asked_on_two_nodes_is_one_approval_and_limits_hold_for_the_sum() {
    on_shared(async |a, b, clock| {
        let agent = AgentId::random();
        let first = ids(&ask(&a, &[plea(1)], agent, &clock).await);
        assert_eq!(ids(&ask(&b, &[plea(1)], agent, &clock).await), first);
        for byte in 2..=3 {
            ask(&a, &[plea(byte)], agent, &clock).await;
        }
        assert_eq!(ask(&b, &[plea(4)], agent, &clock).await, Answer::TooMany);
        decide(&b, first[0], (true, 1), &clock).await;
        // What one node has not heard of it cannot take twice.
        a.read(first.clone()).await.unwrap();
        assert!(matches!(ask(&a, &[plea(1)], agent, &clock).await, Answer::Used(_)));
        let answer = ask(&b, &[plea(1)], agent, &clock).await;
        assert!(matches!(answer, Answer::Pending(_)), "{answer:?}");
    })
    .await;
}

async fn on_shared(test: impl AsyncFn(Arc<Approvals>, Arc<Approvals>, Clock)) {
    on_all_backends(async |rig| {
        if let Rig::Fleet(_, clock) | Rig::Redis(_, clock) = &rig {
            let (a, b) = (open(rig.open().await, clock).await, open(rig.open().await, clock).await);
            test(a, b, clock.clone()).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_held_call_goes_on_when_a_person_has_decided() {
    let clock = Clock::manual(START);
    let (approvals, agent) = (alone(&clock).await, AgentId::random());
    let id = ids(&ask(&approvals, &[plea(1)], agent, &clock).await)[0];
    let (waiting, now) = (Arc::clone(&approvals), clock.now());
    let wait = async move {
        let started = tokio::time::Instant::now();
        waiting.wait(Duration::from_mins(1), || waiting.any_pending(&[id], now)).await;
        started.elapsed()
    };
    let decide = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        decide(&approvals, id, (true, 1), &clock).await;
    };
    let (waited, ()) = tokio::join!(wait, decide);
    assert_eq!(waited.as_secs(), 5);
}

#[test]
fn an_approval_is_withdrawn_when_the_last_call_that_waits_for_it_leaves() {
    let clock = Clock::manual(START);
    let approvals = Approvals::new(settings(), b"secret", Arc::new(Store::memory()), clock.now());
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    approvals.hold(&[one]);
    approvals.hold(&[one, two]);
    assert!(approvals.let_go(&[one]).is_empty());
    assert_eq!(approvals.let_go(&[one, two]), [one, two]);
}
