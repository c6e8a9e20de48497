//! Calls that go on: who owns a task, and what an answer hands out.
//!
//! What an answer hands out is noted before the last of the answer leaves, so that the client finds its
//! task at whichever node it asks next.

use std::sync::Arc;

use serde_json::json;
use smallvec::SmallVec;
use tracing::warn;
use uuid::Uuid;

use super::{Destination, Gate, store_unavailable};
use crate::clock::Clock;
use crate::continuations::{Continuations, Kind};
use crate::firewall::agent::Caller;
use crate::firewall::call::{Call, CallKind};
use crate::firewall::checks::task::Owned;
use crate::firewall::continuation::Continuation;
use crate::firewall::denial::{Cause, Code, Denial};
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::json::Kind as Json;
use crate::mcp::capabilities;
use crate::mcp::continued::Task;
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
    /// Keeps it where the other nodes find it. Where that fails, this node knows it all the same.
    pub async fn done(self) {
        if let Err(error) = self.continuations.keep(&self.one, self.noted_at).await {
            let (session, error) = (self.one.session, Causes(&error));
            warn!(%session, %error, "store did not answer; a task is known to this node only");
        }
    }
}

/// Reader of what one answer hands out.
#[derive(Clone, Debug)]
pub struct Handout {
    continuations: Arc<Continuations>,
    clock: Clock,
    to: Arc<Destination>,
    request_id: Uuid,
    owner: Option<Owner>,
    may: May,
}

/// The session that a continuation is handed to, and its end.
#[derive(Clone, Copy, Debug)]
struct Owner {
    session: SessionId,
    ends: Timestamp,
}

/// Continuations that an answer may hand out.
#[derive(Clone, Debug)]
enum May {
    /// A task of this tool, if the client knows tasks.
    Begin { tool: Box<str>, knows_tasks: bool },
    /// Nothing: it describes a task that has begun.
    Describe,
}

impl Handout {
    /// Takes a task that the answer describes. Refuses one that begins and that the client does not know
    /// how to go on with; what it returns is to be awaited before the answer goes on.
    pub fn take(&self, task: &Task) -> Result<Option<Keeping>, Denial> {
        let May::Begin { tool, knows_tasks } = &self.may else { return Ok(None) };
        if !task.begins {
            return Ok(None);
        }
        if !knows_tasks {
            let message = "the MCP server answered with a task, which this client has not declared \
                           to know: declare tasks, or ask your operator";
            return Err(Denial::upstream(Cause::Protocol, message));
        }
        let Some(owner) = self.owner else { return Ok(None) };
        let now = self.clock.now().wall;
        let lives_ms = task.ttl_ms.and_then(|ttl| i64::try_from(ttl).ok());
        let ends = lives_ms.map_or(owner.ends, |ms| {
            Timestamp(now.0.saturating_add(ms.saturating_mul(1_000))).min(owner.ends)
        });
        let upstream = self.to.name.as_deref();
        let one = Continuation {
            mark: self.continuations.mark(Kind::Task, owner.session, upstream, &task.id),
            session: owner.session,
            begun_by: self.request_id,
            tool: Some(tool.clone()),
            ends,
        };
        self.continuations.note(one.clone(), now);
        let further = self.continuations.reach_further();
        let continuations = Arc::clone(&self.continuations);
        Ok(further.then_some(Keeping { continuations, one, noted_at: now }))
    }
}

/// Tasks that a message is about and that the session owns, by their ids.
pub(super) type Begun<'m> = SmallVec<[(&'m str, Arc<Continuation>); 1]>;

/// Returns the tasks as the decision is asked about them.
pub(super) fn owned<'b>(begun: &'b Begun<'_>) -> SmallVec<[Owned<'b>; 1]> {
    let owned =
        |(id, one): &'b (&str, Arc<Continuation>)| Some(Owned { id, tool: one.tool.as_deref()? });
    begun.iter().filter_map(owned).collect()
}

/// Refuses requests about tasks that cannot be one, and those of clients that do not know tasks.
pub(super) fn is_in_order(message: &Message<'_>, version: Version) -> Result<(), Denial> {
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
    ) -> Result<Begun<'m>, Denial> {
        let Some(live) = live.filter(|live| live.order.agent == caller.agent.id) else {
            return Ok(Begun::new());
        };
        let mark = |id| self.continuations.mark(Kind::Task, live.order.id, to.name.as_deref(), id);
        if let Some(listens) = message.listens.as_ref().filter(|one| one.tasks().next().is_some()) {
            self.know_tasks(Some(live)).await?;
            let now = self.clock.now().wall;
            let owned = |id| Some((id, self.continuations.get(mark(id), now)?));
            return Ok(listens.tasks().filter_map(owned).collect());
        }
        let Some(id) = message.calls.iter().find_map(Call::task) else { return Ok(Begun::new()) };
        // Boxed, because few requests wait for it and all would carry its room.
        let found = Box::pin(self.continuations.find(mark(id), &self.clock)).await;
        let found = found.map_err(|error| {
            let (session, error) = (live.order.id, Causes(&error));
            warn!(%session, %error, "store did not answer; request about a task refused");
            store_unavailable()
        })?;
        Ok(found.map(|found| (id, found)).into_iter().collect())
    }

    /// Takes in the tasks that a session began at other nodes.
    pub(super) async fn know_tasks(&self, live: Option<&Live>) -> Result<(), Denial> {
        let Some(live) = live else { return Ok(()) };
        let loaded = Box::pin(self.continuations.load(live.order.id, &self.clock)).await;
        loaded.map_err(|error| {
            let (session, error) = (live.order.id, Causes(&error));
            warn!(%session, %error, "store did not answer; its tasks are not known and the request is refused");
            store_unavailable()
        })
    }

    /// Returns the reader of what the answer to a message may hand out; none for messages whose answers
    /// hand out nothing.
    pub(super) fn handout(
        &self,
        message: &Message<'_>,
        version: Version,
        live: Option<&Live>,
        to: &Arc<Destination>,
        request_id: Uuid,
    ) -> Option<Handout> {
        let [call] = message.calls.as_slice() else { return None };
        let may = may(call, version)?;
        let of = |order: &WorkOrder| Owner { session: order.id, ends: order.expires_at };
        Some(Handout {
            continuations: Arc::clone(&self.continuations),
            clock: self.clock.clone(),
            to: Arc::clone(to),
            request_id,
            owner: live.map(|live| of(&live.order)),
            may,
        })
    }
}

fn may(call: &Call<'_>, version: Version) -> Option<May> {
    if call.task().is_some() {
        return Some(May::Describe);
    }
    let CallKind::Tool { name, .. } = &call.kind else { return None };
    let tool = name.as_ref().into();
    match version.era() {
        Era::Modern => Some(May::Begin { tool, knows_tasks: capabilities::declares_tasks(call) }),
        // The client asks for a task, or gets none.
        Era::Legacy => {
            let asked = call.params.and_then(|params| params.get("task"));
            asked.filter(|task| task.kind() == Json::Object)?;
            Some(May::Begin { tool, knows_tasks: true })
        }
    }
}
