//! Task sessions: opened with what an agent may do, looked at, closed.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::access::Actor;
use super::agents::{inactive, unknown_cursor, uuid_parameter};
use super::check::{self, MAX_NAMES};
use super::endpoint::{Answer, Input, not_a_uuid};
use super::error::{ApiError, Code};
use super::query::{MAX_PAGE, Parameter};
use super::record::{Change, ShownReplicas, not_stored, store_failed};
use super::terms::{Opening, SessionTerms, SessionView};
use super::{Admin, Settings};
use crate::firewall::agent::AgentId;
use crate::firewall::call::{Entry, unknown_upstream};
use crate::firewall::delegation::Lapse;
use crate::firewall::session::{SessionId, Status, WorkOrder};
use crate::firewall::time::{Now, Timestamp};
use crate::sessions::{CreateError, Filter, Live};
use crate::store::{Replicas, StoreError, to_the_end};
use crate::telemetry::Causes;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenSession {
    #[schemars(extend("format" = "uuid"))]
    agent_id: String,
    /// Declared intent, in words. At most 1024 bytes.
    #[schemars(length(min = 1, max = check::MAX_INTENT_BYTES))]
    declared_intent: String,
    /// Exact names; `upstream:tool` limits one to an upstream, `*:a:b` is a tool that is called `a:b`.
    /// `*` alone is every tool where `sessions.allow_wildcard_tools` is set.
    #[schemars(length(max = MAX_NAMES))]
    authorized_tools: Vec<String>,
    #[serde(flatten)]
    terms: SessionTerms,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenedSession")]
pub(crate) struct Opened {
    #[schemars(with = "String", extend("format" = "uuid"))]
    session_id: SessionId,
    #[schemars(with = "String", extend("format" = "date-time"))]
    expires_at: Timestamp,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct SessionList {
    sessions: Vec<SessionView>,
    /// Give it as `cursor` to get what follows; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "uuid"))]
    next_cursor: Option<SessionId>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ClosedSession")]
pub(crate) struct Closed {
    status: Status,
    /// Absent unless fewer replicas of the store have this than `storage.redis_wait_replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<ShownReplicas>,
}

impl OpenSession {
    /// Checks every field that can be checked without knowing the agent.
    fn check(&self, settings: &Settings) -> Result<(), ApiError> {
        check::intent("declared_intent", &self.declared_intent)?;
        check::names("authorized_tools", &self.authorized_tools, MAX_NAMES)?;
        self.check_stars(settings.sessions.allow_wildcard_tools)?;
        self.check_upstreams(&settings.upstreams)?;
        if self.authorized_tools.is_empty() && self.terms.lists_nothing() {
            let problem = "is empty, and so are the other lists: the session could do nothing";
            return Err(ApiError::field("authorized_tools", problem));
        }
        self.terms.check()
    }

    /// Refuses patterns: names are compared byte for byte, so one would silently match nothing.
    fn check_stars(&self, allow_wildcard_tools: bool) -> Result<(), ApiError> {
        let refused = |problem: &str| Err(ApiError::field("authorized_tools", problem));
        let starred = |tool: &String| tool.strip_prefix("*:").unwrap_or(tool).contains('*');
        if !self.authorized_tools.iter().any(starred) {
            return Ok(());
        }
        if self.authorized_tools != ["*"] {
            return refused("takes exact names; a `*` may only stand alone");
        }
        if !allow_wildcard_tools {
            return refused("may be `*` only where `sessions.allow_wildcard_tools` is set");
        }
        Ok(())
    }

    /// Refuses tools of upstreams that do not exist, which would silently match nothing.
    fn check_upstreams(&self, known: &[Box<str>]) -> Result<(), ApiError> {
        let field = "authorized_tools";
        for entry in &self.authorized_tools {
            let Entry { upstream, tool } = Entry::of(entry);
            if tool.is_empty() {
                let problem = format!("holds `{entry}`, which names no tool behind its `:`");
                return Err(ApiError::field(field, problem));
            }
            if upstream.is_some_and(|name| !known.iter().any(|known| **known == *name)) {
                let problem = format!("holds `{entry}`: {}", unknown_upstream(entry, known));
                return Err(ApiError::field(field, problem));
            }
        }
        Ok(())
    }
}

pub(super) async fn open(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let body: OpenSession = input.json_with::<_, SessionTerms>()?;
    let agent_id = AgentId::parse(&body.agent_id).ok_or_else(|| not_a_uuid("agent_id"))?;
    let settings = &admin.settings;
    body.check(settings)?;
    let terms = body.terms.canonical()?;
    let now = admin.clock.now();
    let registered = admin.agent(agent_id).map_err(|error| error.of_field("agent_id"))?;
    input.actor.serves(&registered.owner)?;
    let (agent, chain) = admin.acting(agent_id).map_err(|error| error.of_field("agent_id"))?;
    let secs = terms.time_limit_secs.unwrap_or(settings.sessions.default_time_limit_secs);
    let end = now.wall.plus_secs(secs);
    let opening = Opening {
        agent: agent_id,
        declared_intent: body.declared_intent,
        authorized_tools: body.authorized_tools,
        delegation_chain: chain,
        created_at: now.wall,
        // A session outlives neither its agent nor what that acts under.
        expires_at: agent.expires_at.map_or(end, |last| last.min(end)),
        opened_by: Some(Arc::clone(&input.actor.name)),
        default_budget: settings.sessions.default_call_budget,
    };
    let order = terms.into_order(opening, &settings.keywords);
    let (id, expires_at) = (order.id, order.expires_at);
    let tools = order.grants.tools.clone();
    let change = Change::new("session.open")
        .agent(agent_id)
        .session(id)
        .with("declared_intent", &*order.declared_intent)
        .with("intent_tier", order.intent_tier.as_str())
        .with("authorized_tools", order.grants.tools.join(" "))
        .count("call_budget", order.call_budget)
        .with("data_sensitivity", order.ceiling)
        .with("expires_at", expires_at);
    let announced = admin.announce(&input.actor, change).await?;
    if let Err(failed) = create(&admin, order, now).await {
        return Err(announced.refused(failed.into()));
    }
    announced.done();
    admin.metrics.name_tools(tools.iter());
    Answer::of(&Opened { session_id: id, expires_at })
}

impl Admin {
    /// Returns the next sessions that an actor may see, `count` of them at most.
    async fn listed(
        &self,
        actor: &Actor,
        filter: Filter,
        mut after: Option<SessionId>,
        count: usize,
        now: Now,
    ) -> Vec<Arc<Live>> {
        if actor.scope.as_ref().is_none_or(|scope| scope.owners.is_none()) {
            return self.sessions.list(filter, after, count, now);
        }
        let mut seen = Vec::new();
        loop {
            let page = self.sessions.list(filter, after, MAX_PAGE, now);
            let Some(last) = page.last() else { return seen };
            after = Some(last.order.id);
            let served = |live: &Arc<Live>| {
                let agent = self.registry.agent(live.order.agent);
                agent.is_some_and(|agent| actor.may_serve(&agent.owner))
            };
            seen.extend(page.into_iter().filter(served));
            if seen.len() >= count {
                seen.truncate(count);
                return seen;
            }
            // Others' sessions may be many; other work of this thread goes first.
            tokio::task::yield_now().await;
        }
    }

    /// Finds a session of any node.
    pub(super) async fn session(&self, id: SessionId) -> Result<Arc<Live>, ApiError> {
        let found = self.sessions.find(id, &self.clock).await;
        found.map_err(|error| store_failed(&error))?.ok_or_else(|| ApiError::not_found("session"))
    }
}

/// Reason why a session was not opened, or was closed again.
enum NotOpened {
    Refused(CreateError),
    Lapsed(Lapse),
}

impl From<StoreError> for NotOpened {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<NotOpened> for ApiError {
    fn from(failed: NotOpened) -> Self {
        match failed {
            NotOpened::Refused(CreateError::TooManySessions { cap }) => {
                let message =
                    format!("the agent has {cap} active sessions already; close one of them first");
                Self::new(Code::TooManySessions, message)
            }
            NotOpened::Refused(CreateError::NoAgent) => inactive(Lapse::Agent),
            NotOpened::Refused(CreateError::Store(error)) => store_failed(&error),
            NotOpened::Lapsed(lapse) => inactive(lapse),
        }
    }
}

/// Creates a session that outlives neither its agent nor a link of its chain. They may end while it
/// is being stored, and their sessions be closed before this one is there: so they are looked at
/// again afterwards, even if the client has gone.
async fn create(admin: &Admin, order: WorkOrder, now: Now) -> Result<(), NotOpened> {
    let (sessions, registry) = (Arc::clone(&admin.sessions), Arc::clone(&admin.registry));
    let clock = admin.clock.clone();
    to_the_end(async move {
        let (id, agent, chain) = (order.id, order.agent, Arc::clone(&order.delegation_chain));
        sessions.create(order, now).await.map_err(NotOpened::Refused)?;
        let now = clock.now();
        let acting = registry.acting(agent, now.wall).map_or(Err(Lapse::Agent), |a| a.agent);
        let stands = acting.and_then(|_agent| registry.holds(&chain, now.wall));
        if let Err(lapse) = stands {
            sessions.close(id, now).await?;
            return Err(NotOpened::Lapsed(lapse));
        }
        Ok(())
    })
    .await
}

pub(super) async fn list(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let query = &input.query;
    let limit = query.limit()?;
    let after = query.get(Parameter::Cursor, "a UUID of 36 characters", SessionId::parse)?;
    let filter = Filter {
        agent: uuid_parameter(query, Parameter::AgentId)?,
        status: query.get(Parameter::Status, "`active`, `expired` or `closed`", status)?,
    };
    if after.is_some_and(|id| admin.sessions.get(id).is_none()) {
        return Err(unknown_cursor());
    }
    let now = admin.clock.now();
    let mut lives = admin.listed(&input.actor, filter, after, limit.saturating_add(1), now).await;
    let more = lives.len() > limit;
    lives.truncate(limit);
    for live in lives.iter().filter(|_| admin.freshness.has_others()) {
        if let Err(error) = admin.sessions.refresh(live, &admin.clock).await {
            warn!(error = %Causes(&error), "listed as last known: the store did not answer");
            break;
        }
    }
    let next_cursor = if more { lives.last().map(|live| live.order.id) } else { None };
    let sessions = lives.iter().map(|live| SessionView::of(live, now)).collect();
    Answer::of(&SessionList { sessions, next_cursor })
}

fn status(text: &str) -> Option<Status> {
    match text {
        "active" => Some(Status::Active),
        "expired" => Some(Status::Expired),
        "closed" => Some(Status::Closed),
        _ => None,
    }
}

pub(super) async fn show(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let live = admin.session(input.session_id()?).await?;
    input.actor.serves_agent(admin.registry.agent(live.order.agent).as_deref())?;
    if let Err(error) = admin.sessions.refresh(&live, &admin.clock).await {
        warn!(session = %live.order.id, error = %Causes(&error), "shown as last known: the store did not answer");
    }
    Answer::of(&SessionView::of(&live, admin.clock.now()))
}

pub(super) async fn close(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.session_id()?;
    let live = admin.session(id).await?;
    input.actor.serves_agent(admin.registry.agent(live.order.agent).as_deref())?;
    let change = Change::new("session.close").agent(live.order.agent).session(id);
    let announced = admin.announce(&input.actor, change).await?;
    admin.note_ends(admin.approvals.end_session(id).await).await;
    match admin.sessions.close(id, admin.clock.now()).await {
        Ok(closed) => {
            // None was forgotten between the two looks: it had ended long before.
            let replicas = closed.map_or_else(Replicas::default, |(_live, replicas)| replicas);
            announced.done_on(replicas);
            let replicas = ShownReplicas::of(replicas);
            Answer::of(&Closed { status: Status::Closed, replicas })
        }
        Err(error) => Err(announced.in_force(not_stored(&error))),
    }
}
