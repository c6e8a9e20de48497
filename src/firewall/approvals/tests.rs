use proptest::prelude::*;

use super::*;
use crate::json::Doc;

const KEY: [u8; 32] = [7; 32];
const LIMITS: Limits = Limits { ttl_secs: 900, max_pending_per_agent: 20 };

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn hash(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn asked(digest: Digest, agent: AgentId, now: Timestamp) -> Approval {
    Approval {
        id: Uuid::new_v4(),
        version: 1,
        status: Status::Pending,
        digest,
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
        policy_text: hash(1),
        requested_at: now,
        expires_at: now.plus_secs(LIMITS.ttl_secs),
        decided_at: None,
        decided_by: None,
        reason: None,
        uses_left: 0,
        paid: true,
    }
}

fn ruling(approve: bool, uses: u32) -> Ruling {
    Ruling { approve, uses, reason: None, by: "bob".into() }
}

#[test]
fn an_approval_is_used_as_often_as_it_says() {
    let mut book = Book::default();
    let approval = asked(hash(9), AgentId::random(), at(0));
    let id = approval.id;
    book.put(approval);
    assert_eq!(book.look(&hash(9), &hash(1), at(1)), Standing::Pending(id));
    assert_eq!(book.take(id, at(1)), None);
    book.put(book.decide(id, &ruling(true, 2), at(2)).unwrap());
    assert_eq!(book.look(&hash(9), &hash(1), at(3)), Standing::Approved { id, paid: true });
    book.put(book.take(id, at(3)).unwrap());
    assert_eq!(book.look(&hash(9), &hash(1), at(3)), Standing::Approved { id, paid: false });
    book.put(book.take(id, at(4)).unwrap());
    assert_eq!(book.take(id, at(4)), None);
    assert_eq!(book.look(&hash(9), &hash(1), at(4)), Standing::Unknown);
    assert_eq!(book.get(id).unwrap().status, Status::Used);
}

#[test]
fn what_is_decided_or_over_is_not_decided_again() {
    let mut book = Book::default();
    let approval = asked(hash(9), AgentId::random(), at(0));
    let id = approval.id;
    book.put(approval);
    let late = book.decide(id, &ruling(true, 1), at(900));
    assert_eq!(late, Err(Undecided::Over(Status::Expired)));
    book.put(book.decide(id, &ruling(false, 1), at(1)).unwrap());
    let again = book.decide(id, &ruling(true, 1), at(2));
    assert_eq!(again, Err(Undecided::Over(Status::Denied)));
    assert_eq!(book.look(&hash(9), &hash(1), at(899)), Standing::Denied(id));
    assert_eq!(book.look(&hash(9), &hash(1), at(900)), Standing::Unknown);
    assert_eq!(book.decide(Uuid::new_v4(), &ruling(true, 1), at(2)), Err(Undecided::Unknown));
}

#[test]
fn clipped_arguments_need_a_reason() {
    let mut book = Book::default();
    let approval = Approval { clipped: true, ..asked(hash(9), AgentId::random(), at(0)) };
    let id = approval.id;
    book.put(approval);
    assert_eq!(book.decide(id, &ruling(true, 1), at(1)), Err(Undecided::NeedsReason));
    let reasoned = Ruling { reason: Some("seen elsewhere".into()), ..ruling(true, 1) };
    assert!(book.decide(id, &reasoned, at(1)).is_ok());
}

#[test]
fn another_text_of_the_policy_voids_what_was_approved() {
    let mut book = Book::default();
    let approval = asked(hash(9), AgentId::random(), at(0));
    let id = approval.id;
    book.put(approval);
    book.put(book.decide(id, &ruling(true, 1), at(1)).unwrap());
    assert_eq!(book.look(&hash(9), &hash(2), at(2)), Standing::Outdated(id));
}

#[test]
fn pending_approvals_are_limited_by_agent_and_owner() {
    let mut book = Book::default();
    let agent = AgentId::random();
    for n in 0..20 {
        book.has_room(agent, "user:alice", LIMITS).unwrap();
        book.put(asked(hash(n), agent, at(0)));
    }
    assert_eq!(book.has_room(agent, "user:alice", LIMITS), Err(TooMany));
    assert_eq!(book.has_room(AgentId::random(), "user:alice", LIMITS), Ok(()));
    let first = book.open_ids(|_| true)[0];
    book.put(book.end(first, Status::Void).unwrap());
    assert_eq!(book.has_room(agent, "user:alice", LIMITS), Ok(()));
    let due = book.due(at(900), 100);
    assert_eq!((due.len(), book.pending()), (19, 19));
    for ended in due {
        book.put(ended);
    }
    assert_eq!(book.pending(), 0);
}

#[test]
fn any_change_of_a_call_is_another_digest() {
    let (agent, session) = (AgentId::random(), SessionId::random());
    let of = |agent, session, upstream, method, params: &str| {
        let doc = Doc::parse(params.as_bytes()).unwrap();
        digest(&KEY, &Subject { agent, session, upstream, method, params: Some(doc.root()) })
    };
    let params = r#"{"name":"pay","arguments":{"to":"a","amount":1},"_meta":{"progressToken":1}}"#;
    let first = of(agent, session, Some("bank"), "tools/call", params);
    let again =
        r#"{"_meta":{"progressToken":"x"},"arguments":{"amount":1.0,"to":"\u0061"},"name":"pay"}"#;
    assert_eq!(of(agent, session, Some("bank"), "tools/call", again), first);
    for other in [
        of(AgentId::random(), session, Some("bank"), "tools/call", params),
        of(agent, SessionId::random(), Some("bank"), "tools/call", params),
        of(agent, session, None, "tools/call", params),
        of(agent, session, Some(""), "tools/call", params),
        of(agent, session, Some("bank"), "tools/call2", params),
        of(agent, session, Some("bank"), "tools/call", &params.replace("pay", "pay2")),
        of(agent, session, Some("bank"), "tools/call", &params.replace(":1}", ":2}")),
        of(agent, session, Some("bank"), "tools/call", r#"{"name":"pay"}"#),
    ] {
        assert_ne!(other, first);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Approve(u32),
    Deny,
    Take,
    Void,
    Wait(i64),
    /// An older version arrives once more.
    Echo(usize),
}

proptest! {
    /// Whatever happens in whatever order: no more uses than granted, none after denial, end or expiry.
    #[test]
    fn no_more_uses_than_granted(steps in prop::collection::vec(prop_oneof![
        (1..5_u32).prop_map(Step::Approve), Just(Step::Deny), Just(Step::Take), Just(Step::Void),
        (1..400_i64).prop_map(Step::Wait), (0..8_usize).prop_map(Step::Echo),
    ], 1..30)) {
        let (mut book, mut now) = (Book::default(), 0);
        let first = asked(hash(9), AgentId::random(), at(0));
        let (id, mut versions) = (first.id, vec![first.clone()]);
        book.put(first);
        let (mut granted, mut over) = (None, false);
        let mut used = 0;
        for step in steps {
            let next = match step {
                Step::Approve(uses) => book.decide(id, &ruling(true, uses), at(now)).ok().inspect(|_| {
                    granted = Some(uses);
                }),
                Step::Deny => book.decide(id, &ruling(false, 1), at(now)).ok(),
                Step::Take => book.take(id, at(now)).inspect(|_| {
                    used += 1;
                    assert!(!over && now < 900);
                }),
                Step::Void => book.end(id, Status::Void).inspect(|_| over = true),
                Step::Wait(secs) => { now += secs; None }
                Step::Echo(n) => versions.get(n).cloned(),
            };
            if let Some(next) = next {
                versions.push(next.clone());
                book.put(next);
            }
            prop_assert!(used <= granted.unwrap_or(0));
        }
    }
}
