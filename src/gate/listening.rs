//! Streams on which a server notifies by itself, and the right to what they bring.
//!
//! A call is decided when it arrives; these streams stay open for hours. So the decision is made again
//! while they are: for each notification when it passes, and several times a second for the stream. A
//! refusal ends what was allowed: a notification is dropped and counted, a stream is ended. A change of
//! rules, freezes or the agent's rights is announced to the client as a change of its lists.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use smol_str::SmolStr;

use super::asking::Asked;
use super::hearing::{Hearing, Passed};
use super::{Cleared, Destination, Gate};
use crate::firewall::admit::admit;
use crate::firewall::agent::{Agent, AgentId, Caller, Principal};
use crate::firewall::ask::Ask;
use crate::firewall::call::{Call, CallKind, Data};
use crate::firewall::checks::session::{self, AgentHeader, Claimed};
use crate::firewall::checks::task::Owned;
use crate::firewall::checks::{agent, continuation, delegation, escalation};
use crate::firewall::denial::Denial;
use crate::firewall::freeze::{Freezes, Frozen};
use crate::firewall::rules::Rules;
use crate::firewall::time::Now;
use crate::firewall::verdict::Verdict;
use crate::mcp::continued::{MAX_TASK_ID_BYTES, Questions};
use crate::mcp::filter::Notice;
use crate::mcp::list_changes::ListChanges;
use crate::mcp::message::MAX_URI_BYTES;
use crate::mcp::message::subscriptions::{LISTEN, get_of, read_of};
use crate::mcp::version::Era;
use crate::sessions::Live;

/// Interval between looks at the right to an open stream.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Kind of a stream that notifications can come on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// By a `subscriptions/listen` with this id, for changes of these lists.
    Subscription { id: Option<SmolStr>, lists: ListChanges },
    /// By a GET of the 2025 revisions, for whatever the server sends.
    Get,
    /// By another request of those revisions: ends with its answer.
    Answer,
}

/// Facts about a stream that do not change while it is open.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    opened: Opened,
    principal: Arc<Principal>,
    live: Option<Arc<Live>>,
    to: Arc<Destination>,
    /// True if a person has approved it.
    approved: bool,
    /// Client that questions on the stream are put to; none where they are judged as the answer's.
    asked: Option<Asked>,
    basis: Basis,
}

/// Facts that a decision rested on, and that operators change.
#[derive(Clone, Debug)]
struct Basis {
    rules: Arc<Rules>,
    freezes: Arc<Freezes>,
    agent: Arc<Agent>,
    chain: Arc<[AgentId]>,
}

impl Basis {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rules, &other.rules)
            && Arc::ptr_eq(&self.freezes, &other.freezes)
            && self.agent == other.agent
            && self.chain == other.chain
    }
}

/// An open stream, and its right to go on.
pub struct Listening {
    gate: Arc<Gate>,
    stream: Stream,
    state: Mutex<StreamState>,
}

struct StreamState {
    basis: Basis,
    /// Lists whose changes the client is notified about.
    listened: ListChanges,
    /// True if those have changed since the client was last notified.
    changed: bool,
    /// Lists that a change is still to be announced for.
    due: ListChanges,
    /// Reason for the stream's end.
    ended: Option<Denial>,
    /// Hosts to which questions send people.
    hosts: Vec<Box<str>>,
}

impl Gate {
    /// Returns the stream that notifications can come on in the answer to `message`; none if an honest
    /// server sends none there.
    pub(super) fn stream_of(&self, hearing: &Hearing<'_, '_>, passed: &Passed) -> Option<Stream> {
        let Hearing { message, version, .. } = *hearing;
        let live = passed.live.as_deref();
        let opened = match (&message.listens, message.calls.as_slice()) {
            (Some(listens), [call]) if !message.batch => Opened::Subscription {
                id: call.id.map(|id| SmolStr::from(id.raw())),
                lists: listens.lists,
            },
            (Some(_), _) => Opened::Subscription { id: None, lists: ListChanges::default() },
            // From 2026-07-28 on there are none but on a subscription's stream; before that only for a
            // session that may read something, or about the task of the request.
            (None, _) if version.era() == Era::Modern => return None,
            (None, calls)
                if live.is_some_and(|live| live.order.grants.resources.is_empty())
                    && !calls.iter().any(concerns_task) =>
            {
                return None;
            }
            (None, calls) if !calls.iter().any(Call::is_request) => return None,
            (None, _) => Opened::Answer,
        };
        let asked = match opened {
            Opened::Subscription { .. } => self.asked(message, version, live),
            Opened::Get | Opened::Answer => None,
        };
        Some(self.stream(opened, hearing, passed, asked))
    }

    pub(super) fn stream(
        &self,
        opened: Opened,
        hearing: &Hearing<'_, '_>,
        passed: &Passed,
        asked: Option<Asked>,
    ) -> Stream {
        let caller = hearing.caller;
        let basis = Basis {
            rules: Arc::clone(&passed.rules),
            freezes: self.state.freezer.in_force(),
            agent: Arc::clone(&caller.agent),
            chain: Arc::clone(&caller.chain),
        };
        Stream {
            opened,
            principal: Arc::clone(&caller.principal),
            live: passed.live.clone(),
            to: Arc::clone(hearing.to),
            approved: !passed.escalations.is_empty(),
            asked,
            basis,
        }
    }

    /// Begins to watch the stream of a cleared call, if notifications can come on it.
    pub fn listen(self: &Arc<Self>, cleared: &mut Cleared) -> Option<Arc<Listening>> {
        let stream = cleared.expected.stream.take()?;
        let state = Mutex::new(StreamState {
            basis: stream.basis.clone(),
            // A subscription begins with its acknowledgement.
            listened: match stream.opened {
                Opened::Get => stream.of_use(ListChanges::new(true, true, true)),
                Opened::Subscription { .. } | Opened::Answer => ListChanges::default(),
            },
            changed: false,
            due: ListChanges::default(),
            ended: None,
            hosts: Vec::new(),
        });
        Some(Arc::new(Listening { gate: Arc::clone(self), stream: *stream, state }))
    }
}

/// Reports whether a request of the older revisions is about a task, or asks for one.
fn concerns_task(call: &Call<'_>) -> bool {
    call.task().is_some() || call.params.is_some_and(|params| params.get("task").is_some())
}

impl Stream {
    /// Returns those of `lists` that can show the session anything.
    fn of_use(&self, lists: ListChanges) -> ListChanges {
        let Some(live) = &self.live else { return lists };
        let some = |list: &[String]| !list.is_empty();
        let order = &live.order;
        lists.and(ListChanges::new(
            some(&order.grants.tools),
            some(&order.grants.prompts),
            some(&order.grants.resources),
        ))
    }

    /// Returns the call that opens the stream.
    fn call(&self) -> Call<'static> {
        let method = match &self.opened {
            Opened::Subscription { .. } => Some(LISTEN.into()),
            Opened::Get | Opened::Answer => None,
        };
        let kind = match &method {
            Some(method) => CallKind::Data { what: Data::Method, target: Clone::clone(method) },
            None => CallKind::Protocol,
        };
        Call { method, id: None, params: None, meta: None, kind }
    }
}

impl Listening {
    /// Reports whether the stream is to be looked at while it is open.
    pub fn is_lasting(&self) -> bool {
        match self.stream.opened {
            Opened::Subscription { .. } | Opened::Get => true,
            Opened::Answer => false,
        }
    }

    /// Looks at the right to the stream; false once it has to end.
    pub fn look(&self) -> bool {
        let looked = self.recheck();
        let mut state = self.state();
        match looked {
            Ok(basis) => {
                if !basis.is(&state.basis) {
                    state.basis = basis;
                    state.changed = true;
                }
                true
            }
            Err(denial) => {
                state.ended = Some(denial);
                false
            }
        }
    }

    /// Returns the reason for which the stream had to end.
    pub fn ended(&self) -> Option<Denial> {
        self.state().ended.clone()
    }

    /// Decides for a notification if it passes; one that does not is counted.
    pub fn passes(&self, notice: Notice<'_>) -> bool {
        match notice {
            Notice::Updated(uri) => {
                let passes = uri.is_some_and(|uri| self.may_know_of(uri));
                if !passes {
                    self.gate.state.metrics.notification_dropped();
                }
                passes
            }
            Notice::Task(id) => {
                let passes = id.is_some_and(|id| self.may_know_of_task(id));
                if !passes {
                    self.gate.state.metrics.notification_dropped();
                }
                passes
            }
            Notice::Asks(questions) => {
                let passes = self.may_ask(questions);
                if !passes {
                    self.gate.state.metrics.notification_dropped();
                }
                passes
            }
            Notice::Acknowledged(lists) => {
                if let Opened::Subscription { lists: asked, .. } = &self.stream.opened {
                    self.state().listened = self.stream.of_use(asked.and(lists));
                }
                true
            }
        }
    }

    /// Judges questions; those that nobody can read do not pass.
    fn may_ask(&self, questions: Option<&Questions>) -> bool {
        let Some(asked) = &self.stream.asked else { return true };
        questions.is_some_and(|questions| asked.check(questions, &mut self.state().hosts).is_ok())
    }

    /// Returns the hosts to which questions on the stream send people.
    pub fn elicited(&self) -> Vec<Box<str>> {
        self.state().hosts.clone()
    }

    /// Takes the next event that announces a change of a list, if one is due.
    pub fn announcement(&self) -> Option<Bytes> {
        let method = {
            let mut state = self.state();
            if state.changed && !state.listened.is_empty() {
                (state.changed, state.due) = (false, state.listened);
            }
            state.due.pop()?
        };
        let mut event = String::with_capacity(192);
        let head = r#"event: message
data: {"jsonrpc":"2.0","method":""#;
        event.push_str(head);
        event.push_str(method);
        let written = match &self.stream.opened {
            Opened::Subscription { id: Some(id), .. } => write!(
                event,
                r#"","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
            ),
            Opened::Subscription { id: None, .. } | Opened::Get | Opened::Answer => {
                event.write_str("\"}")
            }
        };
        written.ok()?;
        event.push_str("\n\n");
        Some(event.into())
    }

    /// Announces all changes again: one was perhaps not sent whole.
    pub fn announce_again(&self) {
        self.state().changed = true;
    }

    fn may_know_of(&self, uri: &str) -> bool {
        if uri.len() > MAX_URI_BYTES {
            return false;
        }
        let verdict = self.caller().and_then(|(caller, now)| {
            let decided = self.decide(&caller, &[read_of(uri.into())], &[], now);
            decided.map(|(verdict, _)| verdict)
        });
        // Nobody is asked about a notification: what waits for a person passes only if one has approved
        // the stream.
        verdict.is_ok_and(|verdict| {
            verdict.outcome.is_ok() && (verdict.escalations.is_empty() || self.stream.approved)
        })
    }

    /// Decides for a task that began in the session, as far as this node knows its tasks.
    fn may_know_of_task(&self, id: &str) -> bool {
        let Some(live) = self.stream.live.as_deref().filter(|_| id.len() <= MAX_TASK_ID_BYTES)
        else {
            return false;
        };
        let (upstream, known) = (self.stream.to.name.as_deref(), &self.gate.state.continuations);
        let marks = known.marks_of_task(live.order.id, upstream, id);
        let verdict = self.caller().and_then(|(caller, now)| {
            let begun = known.get(&marks, now.wall);
            let tool = begun.as_deref().and_then(|task| task.tool.as_deref());
            let owned: Vec<_> = tool.map(|tool| Owned { id, tool }).into_iter().collect();
            let decided = self.decide(&caller, &[get_of(id.into())], &owned, now);
            decided.map(|(verdict, _)| verdict)
        });
        verdict.is_ok_and(|verdict| verdict.outcome.is_ok())
    }

    /// Refuses a stream that would not be opened now.
    fn recheck(&self) -> Result<Basis, Denial> {
        let (caller, now) = self.caller()?;
        let gate = &self.gate;
        let basis = Basis {
            rules: gate.state.rulebook.rules(),
            freezes: gate.state.freezer.in_force(),
            agent: Arc::clone(&caller.agent),
            chain: Arc::clone(&caller.chain),
        };
        if basis.is(&self.state().basis) {
            // Only time and the session can have changed the answer.
            self.still_open(&caller, now)?;
            return Ok(basis);
        }
        let (verdict, basis) = self.decide(&caller, &[self.stream.call()], &[], now)?;
        verdict.outcome?;
        if !verdict.escalations.is_empty() && !self.stream.approved {
            return Err(escalation::required());
        }
        Ok(basis)
    }

    fn still_open(&self, caller: &Caller, now: Now) -> Result<(), Denial> {
        let Some(live) = &self.stream.live else { return Ok(()) };
        session::active(live.with(|usage| usage.closed), live.ends(now), now)?;
        if live.order.delegation_chain != caller.chain {
            delegation::check(
                self.gate.state.registry.holds(&live.order.delegation_chain, now.wall),
            )?;
        }
        Ok(())
    }

    /// The caller as it may act now.
    fn caller(&self) -> Result<(Caller, Now), Denial> {
        let now = self.gate.state.clock.now();
        let principal = &self.stream.principal;
        let acting = self.gate.acting(principal, now)?.ok_or_else(agent::unknown)?;
        let agent = agent::check(Some(acting.agent))?;
        Ok((Caller { agent, principal: Arc::clone(principal), chain: acting.chain }, now))
    }

    /// Decides about calls as if they came now. They cost nothing, so nothing is counted.
    fn decide(
        &self,
        caller: &Caller,
        calls: &[Call<'_>],
        tasks: &[Owned<'_>],
        now: Now,
    ) -> Result<(Verdict, Basis), Denial> {
        let gate = &self.gate;
        let (rules, freezes) = (gate.state.rulebook.rules(), gate.state.freezer.in_force());
        let above = gate.above(caller);
        let live = self.stream.live.as_deref();
        let ask = Ask {
            policies: &rules.policies,
            terms: &rules.terms,
            frozen: Frozen { freezes: &freezes, above: &above },
            caller,
            header: AgentHeader::Is(caller.agent.id),
            claimed: live.map_or(Claimed::Nothing, |live| {
                Claimed::Found(gate.found(&rules, caller, live, 0, now))
            }),
            calls,
            tasks,
            state: continuation::RequestState::Absent,
            upstream: self.stream.to.upstream(),
            now,
        };
        let verdict = admit(ask, None, &mut ()).ok_or_else(super::store_unavailable)?;
        let (agent, chain) = (Arc::clone(&caller.agent), Arc::clone(&caller.chain));
        Ok((verdict, Basis { rules, freezes, agent, chain }))
    }

    fn state(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock()
    }
}
