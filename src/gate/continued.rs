//! Calls that go on: whose a task or a state is, and what an answer hands out.
//!
//! Tasks and states that an answer hands out are noted before the last of the answer leaves, so that the client can go on
//! at whichever node it asks next.

use std::sync::Arc;

use serde_json::json;
use smallvec::SmallVec;
use tracing::warn;
use uuid::Uuid;

use super::hearing::Hearing;
use super::{Destination, Gate, store_unavailable};
use crate::clock::Clock;
use crate::continuations::{Continuations, Marks};
use crate::firewall::agent::{AgentId, Caller};
use crate::firewall::approvals::Digest;
use crate::firewall::call::{Call, CallKind, Data};
use crate::firewall::checks::continuation::RequestState;
use crate::firewall::checks::task::Owned;
use crate::firewall::continuation::Continuation;
use crate::firewall::denial::{Cause, Code, Denial};
use crate::firewall::session::SessionId;
use crate::firewall::time::Timestamp;
use crate::json::Kind as Json;
use crate::mcp::capabilities;
use crate::mcp::continued::{Answer, Task};
use crate::mcp::message::Message;
use crate::mcp::version::{Era, Version};
use crate::sessions::Live;
use crate::telemetry::Causes;

/// Continuation on its way into the store, which the answer waits for.
#[derive(Debug)]
pub struct Keeping {
    continuations: Arc<Continuations>,
    one: Continuation,
    noted_at: Timestamp,
}

impl Keeping {
    /// Keeps it where the other nodes find it. If the store fails, this node knows it all the same.
    pub async fn done(self) {
        if let Err(error) = self.continuations.keep(&self.one, self.noted_at).await {
            let (session, error) = (self.one.session, Causes(&error));
            warn!(%session, %error, "store did not answer; a task is known to this node only");
        }
    }
}

/// Reader of what one answer hands out.
#[derive(Debug)]
pub struct Handout {
    continuations: Arc<Continuations>,
    clock: Clock,
    to: Arc<Destination>,
    request_id: Uuid,
    holder: Holder,
    may: May,
}

/// Session that a continuation is handed to, and its end; without one the agent holds states itself.
#[derive(Clone, Copy, Debug)]
struct Holder {
    id: SessionId,
    is_session: bool,
    ends: Timestamp,
}

/// Continuations that an answer may hand out.
#[derive(Debug)]
enum May {
    /// A task, if the client knows tasks, or a state.
    Begin { call: Begun, knows_tasks: bool },
    /// Nothing: it describes a task that has begun.
    Describe,
}

/// Call whose answer is awaited.
#[derive(Debug)]
struct Begun {
    method: Box<str>,
    target: Box<str>,
    is_tool: bool,
    approved: Option<Digest>,
}

/// Lead of a state's end on its session's, as a part of the time that is left: the later of two states
/// ends later, so that the older ones are forgotten first.
const LEAD: i64 = 1_000;
/// Time for which a state is kept that was handed out without a session.
const WITHOUT_SESSION_US: i64 = 3_600_000_000;

impl Handout {
    /// Takes an answer by which the call goes on. Refuses one that the client has not declared to know how
    /// to go on with; what it returns is to be kept before the answer goes on.
    pub fn take(&self, answer: &Answer) -> Result<Option<Keeping>, Denial> {
        let May::Begin { call, knows_tasks } = &self.may else { return Ok(None) };
        match answer {
            Answer::Task(task) if !task.begins => Ok(None),
            Answer::Task(task) if *knows_tasks => Ok(self.task(task, call)),
            Answer::Task(_) => {
                let message = "the MCP server answered with a task, which this client has not declared \
                               to know: declare tasks, or ask your operator";
                Err(Denial::upstream(Cause::Protocol, message))
            }
            Answer::Asks(questions) => {
                Ok(questions.state.as_deref().and_then(|state| self.state(state, call)))
            }
        }
    }

    fn task(&self, task: &Task, call: &Begun) -> Option<Keeping> {
        let Holder { id, is_session, ends } = self.holder;
        if !is_session {
            return None;
        }
        let marks = self.continuations.marks_of_task(id, self.to.name.as_deref(), &task.id);
        let now = self.clock.now().wall;
        let lives_ms = task.ttl_ms.and_then(|ttl| i64::try_from(ttl).ok());
        let ends = lives_ms
            .map_or(ends, |ms| Timestamp(now.0.saturating_add(ms.saturating_mul(1_000))).min(ends));
        self.note(&marks, call, ends, now)
    }

    fn state(&self, state: &str, call: &Begun) -> Option<Keeping> {
        let Holder { id, ends, .. } = self.holder;
        let (upstream, now) = (self.to.name.as_deref(), self.clock.now().wall);
        let marks = self.continuations.marks_of_state(id, upstream, call.name(), state);
        let left = ends.0.saturating_sub(now.0).max(0);
        self.note(&marks, call, Timestamp(ends.0.saturating_sub(left / LEAD)), now)
    }

    fn note(
        &self,
        marks: &Marks,
        call: &Begun,
        ends: Timestamp,
        now: Timestamp,
    ) -> Option<Keeping> {
        let one = Continuation {
            mark: marks.newest()?,
            session: self.holder.id,
            begun_by: self.request_id,
            tool: call.is_tool.then(|| call.target.clone()),
            approved: call.approved,
            ends,
        };
        self.continuations.note(one.clone(), now);
        let further = self.continuations.reach_further();
        let continuations = Arc::clone(&self.continuations);
        further.then_some(Keeping { continuations, one, noted_at: now })
    }
}

impl Begun {
    fn name(&self) -> (&str, &str) {
        (&self.method, &self.target)
    }
}

/// Tasks that a message is about and that the session owns, by their ids.
pub(super) type Tasks<'m> = SmallVec<[(&'m str, Arc<Continuation>); 1]>;

/// Returns the tasks as the decision is asked about them.
pub(super) fn owned<'b>(begun: &'b Tasks<'_>) -> SmallVec<[Owned<'b>; 1]> {
    let owned =
        |(id, one): &'b (&str, Arc<Continuation>)| Some(Owned { id, tool: one.tool.as_deref()? });
    begun.iter().filter_map(owned).collect()
}

/// Round before of a call that goes on, and the state that names it.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) state: RequestState,
    pub(super) before: Option<Arc<Continuation>>,
}

/// Returns the method and the target of a call, by which its rounds belong together.
fn name<'c>(call: &'c Call<'_>) -> (&'c str, &'c str) {
    let target = match &call.kind {
        CallKind::Tool { name, .. } => name,
        CallKind::Data { target, .. } => target,
        CallKind::Protocol => "",
    };
    (call.method.as_deref().unwrap_or_default(), target)
}

/// Refuses later rounds that are not sent by themselves, requests about tasks that cannot be one, and
/// those of clients that do not know tasks.
pub(super) fn is_in_order(message: &Message<'_>, version: Version) -> Result<(), Denial> {
    let by_itself = !message.batch && message.calls.iter().all(Call::is_request);
    if !by_itself
        && message.calls.iter().any(|call| call.state().is_some() || call.inputs().is_some())
    {
        let message = "send a call with `inputResponses` or `requestState` as a request with an `id`, \
                       and by itself";
        return Err(Denial::new(Code::MalformedRequest, message));
    }
    let Some(call) = message.calls.iter().find(|call| call.task().is_some()) else {
        return Ok(());
    };
    if message.batch || !call.is_request() {
        let message = "send a request about a task with an `id`, and by itself";
        return Err(Denial::new(Code::MalformedRequest, message));
    }
    let is_gone = call.method.as_deref().is_some_and(|method| version.has_removed(method));
    if version.era() == Era::Modern && !is_gone && !capabilities::declares_tasks(call) {
        let message = "this needs a client that declares tasks among its extensions";
        let needed = json!({"extensions": {capabilities::TASKS: {}}});
        let denial = Denial::new(Code::CapabilityMissing, message);
        return Err(denial.with("requiredCapabilities", needed));
    }
    Ok(())
}

impl Gate {
    /// Looks up the tasks that a message is about, as far as the session owns them.
    pub(super) async fn tasks_of<'m>(
        &self,
        message: &'m Message<'_>,
        live: Option<&Live>,
        caller: &Caller,
        to: &Destination,
    ) -> Result<Tasks<'m>, Denial> {
        let Some(live) = live.filter(|live| live.order.agent == caller.agent.id) else {
            return Ok(Tasks::new());
        };
        let upstream = to.name.as_deref();
        let marks = |id| self.state.continuations.marks_of_task(live.order.id, upstream, id);
        if let Some(listens) = message.listens.as_ref().filter(|one| one.tasks().next().is_some()) {
            self.know_tasks(Some(live)).await?;
            let now = self.state.clock.now().wall;
            let owned = |id| Some((id, self.state.continuations.get(&marks(id), now)?));
            return Ok(listens.tasks().filter_map(owned).collect());
        }
        let Some(id) = message.calls.iter().find_map(Call::task) else { return Ok(Tasks::new()) };
        // Boxed, because few requests wait for it and all would carry its room.
        let marks = marks(id);
        let found = Box::pin(self.state.continuations.find(&marks, &self.state.clock)).await;
        let found = found.map_err(|error| {
            let (session, error) = (live.order.id, Causes(&error));
            warn!(%session, %error, "store did not answer; request about a task refused");
            store_unavailable()
        })?;
        Ok(found.map(|found| (id, found)).into_iter().collect())
    }

    /// Looks up the round before of a call that goes on, by the state that it brings.
    pub(super) async fn round_of(
        &self,
        message: &Message<'_>,
        live: Option<&Live>,
        caller: &Caller,
        to: &Destination,
    ) -> Result<Round, Denial> {
        let state = |call| Call::state(call).map(|state| (call, state));
        let Some((call, state)) = message.calls.iter().find_map(state) else {
            return Ok(Round::default());
        };
        let unknown = Round { state: RequestState::Unknown, before: None };
        let id = match live {
            Some(live) if live.order.agent != caller.agent.id => return Ok(unknown),
            Some(live) => live.order.id,
            None => holder_without_session(caller.agent.id),
        };
        let marks =
            self.state.continuations.marks_of_state(id, to.name.as_deref(), name(call), &state);
        // Boxed, because few requests wait for it and all would carry its room.
        let found = Box::pin(self.state.continuations.find(&marks, &self.state.clock)).await;
        let found = found.map_err(|error| {
            let (session, error) = (id, Causes(&error));
            warn!(%session, %error, "store did not answer; later round of a call refused");
            store_unavailable()
        })?;
        Ok(found
            .map_or(unknown, |before| Round { state: RequestState::Ours, before: Some(before) }))
    }

    /// Takes in the tasks that a session began at other nodes.
    pub(super) async fn know_tasks(&self, live: Option<&Live>) -> Result<(), Denial> {
        let Some(live) = live else { return Ok(()) };
        let loaded =
            Box::pin(self.state.continuations.load(live.order.id, &self.state.clock)).await;
        loaded.map_err(|error| {
            let (session, error) = (live.order.id, Causes(&error));
            warn!(%session, %error, "store did not answer; its tasks are not known and the request is refused");
            store_unavailable()
        })
    }

    /// Returns the reader of what the answer to a message may hand out; none for messages whose answers
    /// hand out nothing. `approved` is the digest of an approval that covers the call's later rounds.
    pub(super) fn handout(
        &self,
        hearing: &Hearing<'_, '_>,
        live: Option<&Live>,
        request_id: Uuid,
        approved: Option<Digest>,
    ) -> Option<Handout> {
        let [call] = hearing.message.calls.as_slice() else { return None };
        let may = may(call, hearing.version, approved)?;
        let holder = match live {
            Some(live) => {
                Holder { id: live.order.id, is_session: true, ends: live.order.expires_at }
            }
            None => Holder {
                id: holder_without_session(hearing.caller.agent.id),
                is_session: false,
                ends: Timestamp(self.state.clock.now().wall.0.saturating_add(WITHOUT_SESSION_US)),
            },
        };
        Some(Handout {
            continuations: Arc::clone(&self.state.continuations),
            clock: self.state.clock.clone(),
            to: Arc::clone(hearing.to),
            request_id,
            holder,
            may,
        })
    }
}

/// Returns the id under which the states of an agent are kept that calls without a session.
fn holder_without_session(agent: AgentId) -> SessionId {
    SessionId(agent.0)
}

fn may(call: &Call<'_>, version: Version, approved: Option<Digest>) -> Option<May> {
    if call.task().is_some() {
        return Some(May::Describe);
    }
    let is_tool = match &call.kind {
        CallKind::Tool { .. } => true,
        CallKind::Data { what: Data::Resource | Data::Prompt, .. } => false,
        CallKind::Data { .. } | CallKind::Protocol => return None,
    };
    let knows_tasks = match version.era() {
        Era::Modern => is_tool && capabilities::declares_tasks(call),
        // The client asks for a task, or gets none.
        Era::Legacy => {
            let asked = call.params.and_then(|params| params.get("task"));
            asked.filter(|task| is_tool && task.kind() == Json::Object)?;
            true
        }
    };
    let (method, target) = name(call);
    let call = Begun { method: method.into(), target: target.into(), is_tool, approved };
    Some(May::Begin { call, knows_tasks })
}
