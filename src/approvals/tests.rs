use std::sync::Arc;

use super::*;

const NOW: Timestamp = Timestamp(1_000_000_000);

fn approvals() -> Approvals {
    let limits = Limits { ttl_secs: 900, max_pending_per_agent: 3 };
    Approvals::new(Settings { limits, hold: Duration::ZERO }, b"secret")
}

fn plea(byte: u8) -> Plea {
    Plea { digest: Digest([byte; 32]), policy_text: Digest([1; 32]) }
}

fn draft(byte: u8, agent: AgentId) -> Approval {
    Approval {
        id: Uuid::new_v4(),
        version: 1,
        status: Status::Pending,
        digest: Digest([byte; 32]),
        agent,
        owner: "user:alice".into(),
        principal: "user:alice".into(),
        session: SessionId::random(),
        declared_intent: "delete old reports".into(),
        upstream: None,
        method: "tools/call".into(),
        target: "delete_file".into(),
        arguments: "{}".into(),
        clipped: false,
        policy: "ask".into(),
        policy_text: Digest([1; 32]),
        requested_at: NOW,
        expires_at: NOW.plus_secs(900),
        decided_at: None,
        decided_by: None,
        reason: None,
        uses_left: 0,
        paid: true,
    }
}

fn ask(approvals: &Approvals, pleas: &[Plea], agent: AgentId) -> Answer {
    let byte = |at: usize| pleas.get(at).map_or(0, |plea| plea.digest.0[0]);
    approvals.settle(pleas, NOW, |at| draft(byte(at), agent)).0
}

fn ids(answer: &Answer) -> Vec<Uuid> {
    match answer {
        Answer::Used(some) | Answer::Pending(some) => some.iter().map(|one| one.id).collect(),
        Answer::Denied(one) => vec![one.id],
        Answer::TooMany => Vec::new(),
    }
}

fn approve(approvals: &Approvals, id: Uuid, uses: u32) {
    let ruling = Ruling { approve: true, uses, reason: None, by: "bob".into() };
    approvals.decide(id, &ruling, NOW).unwrap();
}

#[test]
fn an_identical_call_waits_under_the_same_id() {
    let (approvals, agent) = (approvals(), AgentId::random());
    let first = ids(&ask(&approvals, &[plea(1)], agent));
    assert_eq!(ids(&ask(&approvals, &[plea(1)], agent)), first);
    assert_ne!(ids(&ask(&approvals, &[plea(2)], agent)), first);
    assert_eq!(approvals.pending(), 2);
}

#[test]
fn fifty_retries_at_once_share_the_uses() {
    let (approvals, agent) = (Arc::new(approvals()), AgentId::random());
    let id = ids(&ask(&approvals, &[plea(1)], agent))[0];
    approve(&approvals, id, 3);
    let tries: Vec<_> = (0..50)
        .map(|_| {
            let approvals = Arc::clone(&approvals);
            std::thread::spawn(move || {
                matches!(ask(&approvals, &[plea(1)], agent), Answer::Used(_))
            })
        })
        .collect();
    let used = tries.into_iter().filter_map(|one| one.join().ok()).filter(|used| *used).count();
    assert_eq!(used, 3);
}

#[test]
fn a_batch_takes_all_its_uses_or_none() {
    let (approvals, agent) = (approvals(), AgentId::random());
    let both = [plea(1), plea(2)];
    let waiting = ids(&ask(&approvals, &both, agent));
    approve(&approvals, waiting[0], 1);
    assert!(matches!(ask(&approvals, &both, agent), Answer::Pending(_)));
    approve(&approvals, waiting[1], 1);
    assert_eq!(ids(&ask(&approvals, &both, agent)), waiting);
    // One call twice in a batch needs two uses.
    let twice = [plea(3), plea(3)];
    let waiting = ids(&ask(&approvals, &twice, agent));
    approve(&approvals, waiting[0], 1);
    assert!(matches!(ask(&approvals, &twice, agent), Answer::Pending(_)));
    assert_eq!(ids(&ask(&approvals, &[plea(3)], agent)), waiting[..1]);
}

#[test]
fn pending_approvals_end_with_their_session_and_agent() {
    let (approvals, agent) = (approvals(), AgentId::random());
    for byte in 1..=3 {
        ask(&approvals, &[plea(byte)], agent);
    }
    assert_eq!(ask(&approvals, &[plea(4)], agent), Answer::TooMany);
    assert_eq!(approvals.end_agents(&[agent]).len(), 3);
    assert!(matches!(ask(&approvals, &[plea(4)], agent), Answer::Pending(_)));
    let session = approvals.list(|one| one.status == Status::Pending, None, 9)[0].session;
    assert!(approvals.concern(session));
    assert_eq!(approvals.end_session(session).len(), 1);
    assert!(!approvals.concern(session));
    assert_eq!(approvals.pending(), 0);
}

#[test]
fn the_count_of_the_call_that_asked_pays_for_one_use() {
    let (approvals, agent) = (approvals(), AgentId::random());
    let id = ids(&ask(&approvals, &[plea(1)], agent))[0];
    let digests = [Digest([1; 32])];
    assert_eq!(approvals.paid(&digests, NOW), 0);
    approve(&approvals, id, 2);
    assert_eq!(approvals.paid(&digests, NOW), 1);
    ask(&approvals, &[plea(1)], agent);
    assert_eq!(approvals.paid(&digests, NOW), 0);
}

#[tokio::test(start_paused = true)]
async fn a_held_call_goes_on_when_a_person_has_decided() {
    let (approvals, agent) = (Arc::new(approvals()), AgentId::random());
    let id = ids(&ask(&approvals, &[plea(1)], agent))[0];
    let (waiting, decider) = (Arc::clone(&approvals), Arc::clone(&approvals));
    let wait = async move {
        let started = tokio::time::Instant::now();
        waiting.wait(Duration::from_mins(1), || waiting.any_pending(&[id], NOW)).await;
        started.elapsed()
    };
    let decide = async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        approve(&decider, id, 1);
    };
    let (waited, ()) = tokio::join!(wait, decide);
    assert_eq!(waited, Duration::from_secs(5));
}
