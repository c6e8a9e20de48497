//! Task sessions: opened with what an agent may do, looked at, closed.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::access::Actor;
use super::agents::{inactive, unknown_cursor, uuid_parameter};
use super::check::{self, MAX_CAPABILITIES, MAX_NAMES};
use super::endpoint::{Answer, Input, not_a_uuid};
use super::error::{ApiError, Code};
use super::query::{MAX_PAGE, Parameter};
use super::record::{Change, ShownReplicas, not_stored, store_failed};
use super::{Admin, Settings};
use crate::config::{MAX_CALL_BUDGET, MAX_TIME_LIMIT_SECS};
use crate::firewall::agent::{Agent, AgentId};
use crate::firewall::call::{Entry, unknown_upstream};
use crate::firewall::checks::drift;
use crate::firewall::delegation::Lapse;
use crate::firewall::names::Names;
use crate::firewall::session::{
    IntentTier, RefusalStyle, Sensitivity, SessionId, Status, WorkOrder,
};
use crate::firewall::time::{Now, Timestamp};
use crate::firewall::uri;
use crate::sessions::{CreateError, Filter, Live};
use crate::store::{Replicas, StoreError, to_the_end};
use crate::telemetry::Causes;

const MAX_RATE_PER_MINUTE: u32 = 1_000_000;

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
    /// Exact URIs, or beginnings of URIs followed by `*`.
    #[serde(default)]
    #[schemars(length(max = MAX_NAMES))]
    authorized_resources: Vec<String>,
    #[serde(default)]
    #[schemars(length(max = MAX_NAMES))]
    authorized_prompts: Vec<String>,
    #[serde(default)]
    #[schemars(length(max = MAX_NAMES))]
    authorized_methods: Vec<String>,
    /// Names that `${CRED:name}` may contain.
    #[serde(default)]
    #[schemars(length(max = MAX_CAPABILITIES))]
    authorized_credentials: Vec<String>,
    #[schemars(range(min = 1, max = MAX_TIME_LIMIT_SECS))]
    time_limit_secs: Option<u64>,
    #[schemars(range(min = 1, max = MAX_CALL_BUDGET))]
    call_budget: Option<u64>,
    #[schemars(range(min = 1, max = MAX_RATE_PER_MINUTE))]
    rate_limit_per_minute: Option<u32>,
    /// The most sensitive data that may be reached; `internal` unless given.
    data_sensitivity: Option<Sensitivity>,
    /// `proxy.refusal_style` unless given.
    refusal_style: Option<RefusalStyle>,
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
#[schemars(rename = "Session")]
pub(crate) struct SessionView {
    #[schemars(with = "String", extend("format" = "uuid"))]
    session_id: SessionId,
    #[schemars(with = "String", extend("format" = "uuid"))]
    agent_id: AgentId,
    declared_intent: Box<str>,
    intent_tier: IntentTier,
    #[schemars(with = "Vec<String>")]
    authorized_tools: Names,
    #[schemars(with = "Vec<String>")]
    authorized_resources: Names,
    #[schemars(with = "Vec<String>")]
    authorized_prompts: Names,
    #[schemars(with = "Vec<String>")]
    authorized_methods: Names,
    #[schemars(with = "Vec<String>")]
    authorized_credentials: Names,
    calls_made: u64,
    call_budget: u64,
    remaining: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit_per_minute: Option<u32>,
    data_sensitivity: Sensitivity,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal_style: Option<RefusalStyle>,
    status: Status,
    #[schemars(with = "String", extend("format" = "date-time"))]
    created_at: Timestamp,
    #[schemars(with = "String", extend("format" = "date-time"))]
    expires_at: Timestamp,
    /// From the one at the top down to the agent, as it was when the session was opened.
    #[schemars(with = "Vec<String>")]
    delegation_chain: Arc<[AgentId]>,
}

impl SessionView {
    fn of(live: &Live, now: Now) -> Self {
        let order = &live.order;
        let calls_made = live.with(|usage| usage.calls_made);
        Self {
            session_id: order.id,
            agent_id: order.agent,
            declared_intent: order.declared_intent.clone(),
            intent_tier: order.intent_tier,
            authorized_tools: order.authorized_tools.clone(),
            authorized_resources: order.authorized_resources.clone(),
            authorized_prompts: order.authorized_prompts.clone(),
            authorized_methods: order.authorized_methods.clone(),
            authorized_credentials: order.authorized_credentials.clone(),
            calls_made,
            call_budget: order.call_budget,
            remaining: order.call_budget.saturating_sub(calls_made),
            rate_limit_per_minute: order.rate_limit,
            data_sensitivity: order.ceiling,
            refusal_style: order.refusal_style,
            status: live.status(now),
            created_at: order.created_at,
            expires_at: order.expires_at,
            delegation_chain: Arc::clone(&order.delegation_chain),
        }
    }
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
        check::names("authorized_resources", &self.authorized_resources, MAX_NAMES)?;
        check::names("authorized_prompts", &self.authorized_prompts, MAX_NAMES)?;
        check::names("authorized_methods", &self.authorized_methods, MAX_NAMES)?;
        check::names("authorized_credentials", &self.authorized_credentials, MAX_CAPABILITIES)?;
        self.check_stars(settings.sessions.allow_wildcard_tools)?;
        self.check_upstreams(&settings.upstreams)?;
        if self.grants_nothing() {
            let problem = "is empty, and so are the other lists: the session could do nothing";
            return Err(ApiError::field("authorized_tools", problem));
        }
        if let Some(secs) = self.time_limit_secs {
            check::within("time_limit_secs", secs, 1, MAX_TIME_LIMIT_SECS)?;
        }
        if let Some(calls) = self.call_budget {
            check::within("call_budget", calls, 1, MAX_CALL_BUDGET)?;
        }
        if let Some(rate) = self.rate_limit_per_minute {
            let (low, high) = (1, u64::from(MAX_RATE_PER_MINUTE));
            check::within("rate_limit_per_minute", rate.into(), low, high)?;
        }
        Ok(())
    }

    fn grants_nothing(&self) -> bool {
        self.authorized_tools.is_empty()
            && self.authorized_resources.is_empty()
            && self.authorized_prompts.is_empty()
            && self.authorized_methods.is_empty()
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

    /// Brings the resources into the form in which they are compared.
    fn canonical_resources(&mut self) -> Result<(), ApiError> {
        for entry in &mut self.authorized_resources {
            let canonical = uri::pattern(entry).map_err(|doubt| {
                ApiError::field("authorized_resources", format!("holds `{entry}`, which {doubt}"))
            });
            *entry = canonical?;
        }
        Ok(())
    }

    fn into_order(
        self,
        agent: &Agent,
        chain: Arc<[AgentId]>,
        admin: &Admin,
        opened_by: Arc<str>,
        now: Now,
    ) -> WorkOrder {
        let settings = &admin.settings;
        let secs = self.time_limit_secs.unwrap_or(settings.sessions.default_time_limit_secs);
        let end = now.wall.plus_secs(secs);
        WorkOrder {
            id: SessionId::random(),
            agent: agent.id,
            intent_tier: drift::tier(&self.declared_intent, &settings.keywords),
            declared_intent: self.declared_intent.into(),
            authorized_tools: self.authorized_tools.into(),
            authorized_resources: self.authorized_resources.into(),
            authorized_prompts: self.authorized_prompts.into(),
            authorized_methods: self.authorized_methods.into(),
            authorized_credentials: self.authorized_credentials.into(),
            call_budget: self.call_budget.unwrap_or(settings.sessions.default_call_budget),
            rate_limit: self.rate_limit_per_minute,
            ceiling: self.data_sensitivity.unwrap_or_default(),
            refusal_style: self.refusal_style,
            delegation_chain: chain,
            created_at: now.wall,
            // A session outlives neither its agent nor what that acts under.
            expires_at: agent.expires_at.map_or(end, |last| last.min(end)),
            opened_by: Some(opened_by),
        }
    }
}

pub(super) async fn open(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let mut body: OpenSession = input.json()?;
    let agent_id = AgentId::parse(&body.agent_id).ok_or_else(|| not_a_uuid("agent_id"))?;
    body.check(&admin.settings)?;
    body.canonical_resources()?;
    let now = admin.clock.now();
    let registered = admin.agent(agent_id).map_err(|error| error.of_field("agent_id"))?;
    input.actor.serves(&registered.owner)?;
    let (agent, chain) = admin.acting(agent_id).map_err(|error| error.of_field("agent_id"))?;
    let order = body.into_order(&agent, chain, &admin, Arc::clone(&input.actor.name), now);
    let (id, expires_at) = (order.id, order.expires_at);
    let tools = order.authorized_tools.clone();
    let change = Change::new("session.open")
        .agent(agent_id)
        .session(id)
        .with("declared_intent", &*order.declared_intent)
        .with("intent_tier", order.intent_tier.as_str())
        .with("authorized_tools", order.authorized_tools.join(" "))
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
