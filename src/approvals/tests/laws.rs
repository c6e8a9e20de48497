//! Laws of approvals, over the book, its digests and its store: an approval is one call's, and lets
//! it pass as often as a person said, until it expires or is ended.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::json::Doc;

/// Everything that makes a call this one and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Call {
    agent: usize,
    session: usize,
    tool: &'static str,
    argument: &'static str,
}

#[derive(Clone, Debug)]
enum Act {
    /// A call, in one of its spellings.
    Call(Call, bool),
    /// A decision about one of those that wait, with its uses; none to deny.
    Decide(usize, Option<u32>),
    CloseSession(usize),
    Deactivate(usize),
    Wait(u64),
    RewritePolicy,
}

/// State of one call, kept apart from the code under test.
#[derive(Clone, Copy, Debug)]
struct Kept {
    id: Uuid,
    state: CallState,
    policy_text: u8,
    until: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallState {
    Waits,
    Granted { uses: u32, paid: bool },
    Denied,
}

/// Values of the argument, each in two spellings.
const ARGUMENTS: [(&str, &str); 3] = [("1", "10e-1"), ("1.5", "1.50"), ("\"1\"", r#""\u0031""#)];

fn call() -> impl Strategy<Value = Call> {
    let tool = prop_oneof![Just("pay"), Just("delete")];
    (0..2_usize, 0..2_usize, tool, 0..ARGUMENTS.len()).prop_map(|(agent, session, tool, n)| Call {
        agent,
        session,
        tool,
        argument: ARGUMENTS[n].0,
    })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (call(), any::<bool>()).prop_map(|(call, respelt)| Act::Call(call, respelt)),
        6 => (0..6_usize, 1..4_u32).prop_map(|(nth, uses)| Act::Decide(nth, Some(uses))),
        1 => (0..6_usize).prop_map(|nth| Act::Decide(nth, None)),
        1 => (0..2_usize).prop_map(Act::CloseSession),
        1 => (0..2_usize).prop_map(Act::Deactivate),
        2 => (1..500_u64).prop_map(Act::Wait),
        1 => Just(Act::RewritePolicy),
    ]
}

/// The approvals of a gateway, and what people granted.
struct World {
    clock: Clock,
    approvals: Arc<Approvals>,
    agents: [AgentId; 2],
    sessions: [SessionId; 2],
    policy_text: u8,
    kept: HashMap<Call, Kept>,
    ids: HashSet<Uuid>,
}

impl World {
    async fn new() -> Self {
        let clock = Clock::manual(START);
        let approvals = alone(&clock).await;
        Self {
            clock,
            approvals,
            agents: [AgentId::random(), AgentId::random()],
            sessions: [SessionId::random(), SessionId::random()],
            policy_text: 1,
            kept: HashMap::new(),
            ids: HashSet::new(),
        }
    }

    fn plea(&self, call: Call, respelt: bool) -> Plea {
        let spellings = ARGUMENTS.iter().find(|(plain, _)| *plain == call.argument).unwrap();
        let text = if respelt {
            let argument = spellings.1;
            format!(r#"{{ "arguments": {{"\u0061mount": {argument}}}, "name": "{}" }}"#, call.tool)
        } else {
            format!(r#"{{"name":"{}","arguments":{{"amount":{}}}}}"#, call.tool, call.argument)
        };
        let doc = Doc::parse(text.as_bytes()).unwrap();
        let digest = self.approvals.digest(&Subject {
            agent: self.agents[call.agent],
            session: self.sessions[call.session],
            upstream: None,
            method: "tools/call",
            params: Some(doc.root()),
        });
        Plea { digest, policy_text: hash(self.policy_text) }
    }

    /// Forgets what no longer lets a call pass, refuses it, or waits.
    fn end(&mut self, over: impl Fn(&Call, &Kept) -> bool) {
        self.kept.retain(|call, kept| !over(call, kept));
    }

    async fn call(&mut self, call: Call, respelt: bool) -> Result<(), TestCaseError> {
        let plea = self.plea(call, respelt);
        let (agent, session) = (self.agents[call.agent], self.sessions[call.session]);
        let before = self.kept.get(&call).copied();
        let paid =
            matches!(before.map(|kept| kept.state), Some(CallState::Granted { paid: true, .. }));
        let counted = self.approvals.paid(&[plea.digest], self.clock.now());
        prop_assert_eq!(counted, u64::from(paid), "counted when it was asked about");

        let policy_text = plea.policy_text;
        let draft = |now| Approval { session, policy_text, ..asked(plea.digest, agent, now) };
        let answer =
            attempt(&self.approvals, std::slice::from_ref(&plea), |_, now| draft(now), &self.clock)
                .await;
        let snapshot = before.filter(|kept| kept.policy_text == self.policy_text);
        match snapshot.map(|kept| (kept.id, kept.state)) {
            None => {
                self.kept.remove(&call);
                let waiting = self.kept.iter().filter(|(other, kept)| {
                    other.agent == call.agent && kept.state == CallState::Waits
                });
                if waiting.count() >= self.approvals.settings().limits.max_pending_per_agent {
                    prop_assert_eq!(answer, Answer::TooMany);
                    return Ok(());
                }
                let Answer::Pending(pending) = &answer else {
                    return Err(TestCaseError::fail(format!("passed unapproved: {answer:?}")));
                };
                let (id, until) = (pending[0].id, pending[0].expires_at);
                prop_assert!(self.ids.insert(id), "an approval of another call, or an old one");
                let policy_text = self.policy_text;
                self.kept.insert(call, Kept { id, state: CallState::Waits, policy_text, until });
            }
            Some((id, CallState::Waits)) => {
                prop_assert!(matches!(answer, Answer::Pending(_)), "{:?}", answer);
                prop_assert_eq!(ids(&answer), [id]);
            }
            Some((id, CallState::Denied)) => {
                prop_assert!(matches!(answer, Answer::Denied(_)), "{:?}", answer);
                prop_assert_eq!(ids(&answer), [id]);
            }
            Some((id, CallState::Granted { uses, .. })) => {
                prop_assert!(matches!(answer, Answer::Used(_)), "{:?}", answer);
                prop_assert_eq!(ids(&answer), [id]);
                match (self.kept.get_mut(&call), uses - 1) {
                    (Some(kept), left @ 1..) => {
                        kept.state = CallState::Granted { uses: left, paid: false };
                    }
                    _ => self.end(|other, _| *other == call),
                }
            }
        }
        Ok(())
    }

    async fn decide(&mut self, nth: usize, uses: Option<u32>) {
        let waiting = self.approvals.list(|one| one.status == Status::Pending, None, 99);
        let Some(one) = waiting.get(nth) else { return };
        decide(&self.approvals, one.id, (uses.is_some(), uses.unwrap_or(1)), &self.clock).await;
        let kept = self.kept.values_mut().find(|kept| kept.id == one.id).unwrap();
        kept.state = match uses {
            Some(uses) => CallState::Granted { uses, paid: true },
            None => CallState::Denied,
        };
    }

    async fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Call(call, respelt) => self.call(call, respelt).await?,
            Act::Decide(nth, uses) => self.decide(nth, uses).await,
            Act::CloseSession(n) => {
                self.approvals.end_session(self.sessions[n]).await;
                self.end(|call, _| call.session == n);
            }
            Act::Deactivate(n) => {
                self.approvals.end_agents(&[self.agents[n]]).await;
                self.end(|call, _| call.agent == n);
            }
            Act::Wait(secs) => {
                self.clock.advance_us(secs * 1_000_000);
                let now = self.clock.now();
                self.approvals.expire(now).await;
                self.end(|_, kept| kept.until <= now.wall);
            }
            Act::RewritePolicy => self.policy_text = self.policy_text.wrapping_add(1),
        }
        let waiting = self.kept.values().filter(|kept| kept.state == CallState::Waits).count();
        prop_assert_eq!(self.approvals.pending(), waiting);
        Ok(())
    }
}

proptest! {
    /// Any order of calls, decisions and ends: a call passes only for an approval of
    /// this very agent, session, tool and arguments, under the policy's text of now, as often as it
    /// was granted, and never after its expiry, its session's end or its agent's. Each other call is
    /// one that nobody was asked about.
    #[test]
    fn a_call_passes_as_often_as_it_was_approved_and_no_other_does(
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for act in acts {
                world.act(act).await?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}
