use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use super::*;
use crate::json::Doc;

const KEY: [u8; 32] = [7; 32];
const LIMITS: Limits = Limits { ttl_secs: 900, max_pending_per_agent: 20 };

pub(crate) fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

pub(crate) fn hash(byte: u8) -> Digest {
    Digest([byte; 32])
}

pub(crate) fn asked(digest: Digest, agent: AgentId, now: Timestamp) -> Approval {
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
        opened_by: Some("orchestrator".into()),
        registered_by: Some("registrar".into()),
        decided_at: None,
        decided_by: None,
        reason: None,
        uses_left: 0,
        paid: true,
    }
}

pub(crate) fn ruling(approve: bool, uses: u32) -> Ruling {
    Ruling { approve, uses, reason: None, by: "bob".into() }
}

/// Takes a step in, as after the store has taken it.
fn take(book: &mut Book, step: ApprovalStep) -> Approval {
    assert_eq!(book.get(step.to.id).map(Approval::stamp), step.from);
    book.put(step.to.clone());
    step.to
}

fn plea(byte: u8) -> Plea {
    Plea { digest: hash(byte), policy_text: hash(1) }
}

/// One look at the calls, whose steps the store takes.
fn settle(book: &mut Book, pleas: &[Plea], agent: AgentId, now: Timestamp) -> Answer {
    loop {
        let draft = |at: usize| Some(asked(pleas[at].digest, agent, now));
        let plan = plan(book, pleas, LIMITS, now, draft).unwrap();
        for step in plan.steps {
            take(book, step);
        }
        if let Some(answer) = plan.answer {
            return answer;
        }
    }
}

fn pending(answer: Answer) -> Vec<Uuid> {
    let Answer::Pending(pending) = answer else { panic!("{answer:?}") };
    pending.iter().map(|one| one.id).collect()
}

fn is_used(answer: &Answer) -> bool {
    matches!(answer, Answer::Used(_))
}

#[test]
fn an_approval_is_used_as_often_as_it_says() {
    let (mut book, agent) = (Book::default(), AgentId::random());
    let id = pending(settle(&mut book, &[plea(9)], agent, at(0)))[0];
    assert_eq!(book.get(id).unwrap().take(1, at(1)), None);
    let step = book.decide(id, &ruling(true, 2), at(2)).unwrap();
    take(&mut book, step);
    assert!(book.is_paid(&hash(9), at(3)));
    assert!(is_used(&settle(&mut book, &[plea(9)], agent, at(3))));
    assert!(!book.is_paid(&hash(9), at(3)));
    assert!(is_used(&settle(&mut book, &[plea(9)], agent, at(4))));
    assert_eq!(book.get(id).unwrap().status, Status::Used);
    assert_ne!(pending(settle(&mut book, &[plea(9)], agent, at(4))), [id]);
}

#[test]
fn what_is_decided_or_over_is_not_decided_again() {
    let (mut book, agent) = (Book::default(), AgentId::random());
    let id = pending(settle(&mut book, &[plea(9)], agent, at(0)))[0];
    let late = book.decide(id, &ruling(true, 1), at(900));
    assert_eq!(late, Err(Undecided::Over(Status::Expired)));
    let step = book.decide(id, &ruling(false, 1), at(1)).unwrap();
    take(&mut book, step);
    let again = book.decide(id, &ruling(true, 1), at(2));
    assert_eq!(again, Err(Undecided::Over(Status::Denied)));
    assert_eq!(book.look(&hash(9), &hash(1), at(899)), Lookup::Denied(id));
    assert_eq!(book.look(&hash(9), &hash(1), at(900)), Lookup::Unknown);
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
    let (mut book, agent) = (Book::default(), AgentId::random());
    let id = pending(settle(&mut book, &[plea(9)], agent, at(0)))[0];
    let step = book.decide(id, &ruling(true, 1), at(1)).unwrap();
    take(&mut book, step);
    let changed = Plea { policy_text: hash(2), ..plea(9) };
    assert_ne!(pending(settle(&mut book, &[changed], agent, at(2))), [id]);
    assert_eq!(book.get(id).unwrap().status, Status::Void);
}

#[test]
fn pending_approvals_are_limited_by_agent_and_owner() {
    let (mut book, agent) = (Book::default(), AgentId::random());
    // A message asks for all of its calls or for none.
    let many: Vec<Plea> = (0..21).map(plea).collect();
    assert_eq!(settle(&mut book, &many, agent, at(0)), Answer::TooMany);
    assert_eq!(pending(settle(&mut book, &many[..20], agent, at(0))).len(), 20);
    assert_eq!(settle(&mut book, &[plea(99)], agent, at(0)), Answer::TooMany);
    assert_eq!(book.has_room(AgentId::random(), "user:alice", 0, LIMITS), Ok(()));
    let first = book.ends(Status::Void, |_| true).remove(0);
    take(&mut book, first);
    assert_eq!(book.has_room(agent, "user:alice", 0, LIMITS), Ok(()));
    let due = book.due(at(900), 100);
    assert_eq!((due.len(), book.pending()), (19, 19));
    for ended in due {
        take(&mut book, ended);
    }
    assert_eq!(book.pending(), 0);
}

#[test]
fn an_owner_has_a_quarter_of_all_that_wait() {
    let mut book = Book::default();
    for n in 0..u64::try_from(MAX_PENDING_OF_OWNER).unwrap() {
        let digest = Digest(*blake3::hash(&n.to_le_bytes()).as_bytes());
        book.put(asked(digest, AgentId::random(), at(0)));
    }
    let agent = AgentId::random();
    assert_eq!(book.has_room(agent, "user:alice", 0, LIMITS), Err(TooMany));
    assert_eq!(book.has_room(agent, "user:bob", 0, LIMITS), Ok(()));
}

#[test]
fn ended_approvals_are_kept_for_a_day_and_not_too_many_of_them() {
    let mut book = Book::default();
    let arguments: Arc<str> = "x".repeat(1 << 20).into();
    let ended = |secs| {
        let one = asked(hash(9), AgentId::random(), at(secs));
        Approval { status: Status::Used, arguments: Arc::clone(&arguments), ..one }
    };
    for n in 0..65 {
        book.put(ended(n));
    }
    assert_eq!(book.all().count(), 64);
    assert_eq!(book.sweep(at(900 + 86_400 - 1), 100).len(), 1);
    let day_after = at(1 + 900 + 86_400);
    assert_eq!(book.sweep(day_after, 100).len(), 1);
    assert_eq!((book.all().count(), book.sweep(day_after, 100).len()), (63, 0));
}

#[test]
fn a_batch_takes_all_its_uses_or_none() {
    let (mut book, agent) = (Book::default(), AgentId::random());
    let both = [plea(1), plea(2)];
    let waiting = pending(settle(&mut book, &both, agent, at(0)));
    let approve = |book: &mut Book, id, uses| {
        let step = book.decide(id, &ruling(true, uses), at(1)).unwrap();
        take(book, step);
    };
    approve(&mut book, waiting[0], 1);
    assert_eq!(pending(settle(&mut book, &both, agent, at(1))), [waiting[1]]);
    approve(&mut book, waiting[1], 1);
    assert!(is_used(&settle(&mut book, &both, agent, at(1))));
    // One call twice in a batch needs two uses.
    let twice = [plea(3), plea(3)];
    let waiting = pending(settle(&mut book, &twice, agent, at(1)));
    assert_eq!(waiting[0], waiting[1]);
    approve(&mut book, waiting[0], 1);
    assert_eq!(pending(settle(&mut book, &twice, agent, at(1))), waiting[..1]);
    assert!(is_used(&settle(&mut book, &twice[..1], agent, at(1))));
    let waiting = pending(settle(&mut book, &twice, agent, at(1)));
    approve(&mut book, waiting[0], 2);
    assert!(is_used(&settle(&mut book, &twice, agent, at(1))));
    assert_eq!(book.get(waiting[0]).unwrap().status, Status::Used);
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

#[test]
fn rounds_of_a_call_differ_in_answers_and_state_only() {
    let (agent, session) = (AgentId::random(), SessionId::random());
    let of = |params: &str, policy_text: &Digest| {
        let doc = Doc::parse(params.as_bytes()).unwrap();
        let params = Some(doc.root());
        let subject = Subject { agent, session, upstream: None, method: "tools/call", params };
        (digest(&KEY, &subject), digest_of_rounds(&KEY, &subject, policy_text))
    };
    let first = of(r#"{"name":"pay","arguments":{"requestState":"a"}}"#, &hash(1));
    let later = |params, policy| of(params, &hash(policy));
    let round = r#"{"name":"pay","arguments":{"requestState":"a"},"requestState":"s","inputResponses":{"k":1}}"#;
    assert_eq!(later(round, 1).1, first.1);
    assert_ne!(later(round, 1).0, first.0, "its own digest has the answers");
    assert_ne!(later(round, 2).1, first.1, "another text of the policy");
    assert_ne!(first.0, first.1);
    for other in [
        r#"{"name":"pay","arguments":{"requestState":"b"},"requestState":"s"}"#,
        r#"{"name":"pay2","arguments":{"requestState":"a"},"requestState":"s"}"#,
        r#"{"name":"pay","arguments":{"requestState":"a"},"requeststate":"s"}"#,
    ] {
        assert_ne!(later(other, 1).1, first.1, "{other}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Approve(u32),
    Deny,
    Take(u32),
    Void,
    Expire,
    Wait(i64),
    /// Another node acts on the version that it has.
    Other,
    /// An older version arrives once more.
    Echo(usize),
    /// The store loses its last writes, and both nodes store again what refuses.
    FailOver(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1..5_u32).prop_map(Act::Approve),
        1 => Just(Act::Deny),
        6 => (1..3_u32).prop_map(Act::Take),
        1 => Just(Act::Void),
        1 => Just(Act::Expire),
        2 => (1..400_i64).prop_map(Act::Wait),
        4 => Just(Act::Other),
        2 => (0..8_usize).prop_map(Act::Echo),
        1 => (0..3_usize).prop_map(Act::FailOver),
    ]
}

/// A store that takes a step only from the version that it has, and its history.
struct Ledger {
    history: Vec<Option<Approval>>,
}

impl Ledger {
    fn now(&self) -> Option<&Approval> {
        self.history.last().and_then(Option::as_ref)
    }

    fn put(&mut self, step: &ApprovalStep) -> bool {
        let taken = self.now().map(Approval::stamp) == step.from;
        if taken {
            self.history.push(Some(step.to.clone()));
        }
        taken
    }
}

fn reconcile(ledger: &mut Ledger, book: &mut Book, id: Uuid) {
    let kept = book.get(id).unwrap().clone();
    match kept.restored_over(ledger.now()) {
        Some(step) => {
            assert!(ledger.put(&step));
            book.replace(step.to);
        }
        None => match ledger.now() {
            Some(stored) => book.replace(stored.clone()),
            None => book.replace(kept.end(Status::Void).map_or(kept, |step| step.to)),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    /// Acts of two nodes in any order, while their store goes back in time while both
    /// go on: no more uses than people granted, none after a denial, an end or the expiry.
    #[test]
    fn no_more_uses_than_granted(acts in prop::collection::vec((any::<bool>(), act()), 1..40)) {
        let first = asked(hash(9), AgentId::random(), at(0));
        let id = first.id;
        let mut ledger = Ledger { history: vec![None, Some(first.clone())] };
        let mut books = [Book::default(), Book::default()];
        for book in &mut books {
            book.put(first.clone());
        }
        let (mut now, mut granted, mut used, mut over) = (0, 0, 0, false);
        for (second, act) in acts {
            let book = &mut books[usize::from(second)];
            let known = book.get(id).unwrap().clone();
            let step = match act {
                Act::Approve(uses) => book.decide(id, &ruling(true, uses), at(now)).ok(),
                Act::Deny => book.decide(id, &ruling(false, 1), at(now)).ok(),
                Act::Take(uses) => known.take(uses, at(now)),
                Act::Void => known.end(Status::Void),
                Act::Expire => book.due(at(now), 9).pop(),
                Act::Wait(secs) => { now += secs; None }
                Act::Other => {
                    if let Some(stored) = ledger.now() {
                        book.put(stored.clone());
                    }
                    None
                }
                Act::Echo(n) => {
                    if let Some(Some(old)) = ledger.history.get(n).cloned() {
                        book.put(old);
                    }
                    None
                }
                Act::FailOver(lost) => {
                    let kept = ledger.history.len().saturating_sub(lost).max(1);
                    ledger.history.truncate(kept);
                    for book in &mut books {
                        reconcile(&mut ledger, book, id);
                    }
                    None
                }
            };
            let Some(step) = step.filter(|step| ledger.put(step)) else { continue };
            match act {
                Act::Approve(uses) => granted += uses,
                Act::Take(uses) => {
                    used += uses;
                    prop_assert!(!over && now < 900);
                }
                Act::Deny | Act::Void | Act::Expire => over = true,
                Act::Wait(_) | Act::Other | Act::Echo(_) | Act::FailOver(_) => {}
            }
            prop_assert!(used <= granted, "{used} of {granted}");
            books[usize::from(second)].put(step.to);
        }
    }

    /// Every change of what a call says is another call, and every respelling is not.
    #[test]
    fn a_digest_follows_the_meaning_of_a_call(
        keys in prop::collection::btree_map("[a-c]{1,2}", -3_i64..3, 0..4),
        other in prop::collection::btree_map("[a-c]{1,2}", -3_i64..3, 0..4),
        token in 0_u8..9,
    ) {
        let (agent, session) = (AgentId::random(), SessionId::random());
        let of = |params: String| {
            let doc = Doc::parse(params.as_bytes()).unwrap();
            let params = Some(doc.root());
            digest(&KEY, &Subject { agent, session, upstream: None, method: "tools/call", params })
        };
        let member = |(key, value): (&String, &i64)| format!("\"{key}\":{value}");
        let spelt = |(key, value): (&String, &i64)| {
            let key: Vec<String> = key.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
            let key = key.concat();
            format!(" \"{key}\" : {value}.0e0 ")
        };
        let plain: Vec<String> = keys.iter().map(member).collect();
        let respelt: Vec<String> = keys.iter().rev().map(spelt).collect();
        let different: Vec<String> = other.iter().map(member).collect();
        let call = |members: &[String]| format!("{{\"arguments\":{{{}}}}}", members.join(","));
        let marked = format!(
            "{{\"_meta\":{{\"progressToken\":{token}}},\"arguments\":{{{}}}}}", respelt.join(",")
        );
        prop_assert_eq!(of(call(&plain)), of(marked));
        prop_assert_eq!(of(call(&plain)) == of(call(&different)), keys == other);
    }
}

#[test]
fn four_eyes_are_those_of_neither_maker() {
    let check = |opened_by: Option<&str>, registered_by: Option<&str>, by, expected| {
        let asked = Approval {
            opened_by: opened_by.map(Into::into),
            registered_by: registered_by.map(Into::into),
            ..asked(hash(1), AgentId::random(), at(0))
        };
        assert_eq!(asked.check_four_eyes(by), expected, "{opened_by:?} {registered_by:?} {by}");
    };
    check(Some("a"), Some("b"), "c", Ok(()));
    check(Some("a"), Some("b"), "a", Err(Undecided::OwnCall));
    check(Some("a"), Some("b"), "b", Err(Undecided::OwnCall));
    check(Some("idp:a"), Some("b"), "other:a", Ok(()));
    check(Some("a"), None, "c", Ok(()));
    check(None, Some("b"), "c", Err(Undecided::OpenerUnknown));
    check(None, Some("b"), "b", Err(Undecided::OwnCall));
}
