//! Agents, how far they are trusted, and who may act for whom.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::endpoint::{Answer, Input, not_a_uuid};
use super::error::{ApiError, Code};
use super::query::{Parameter, Parameters};
use super::record::{Change, ShownReplicas, not_stored, store_failed};
use super::{Admin, check};
use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::delegation::Lapse;
use crate::firewall::time::Timestamp;
use crate::registry::{
    Acting, Deactivated as Gone, DelegateError, Delegated as Made, NewAgent, TrustError,
};
use crate::store::{Replicas, StoreError, to_the_end};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RegisterAgent")]
pub(crate) struct Register {
    /// Person or service answerable for the agent; `sub` of its tokens. At most 256 bytes.
    #[schemars(length(min = 1, max = check::MAX_NAME_BYTES))]
    owner: String,
    /// At most 256 bytes.
    #[schemars(length(min = 1, max = check::MAX_NAME_BYTES))]
    model: String,
    /// Capabilities that policies can require.
    #[serde(default)]
    #[schemars(length(max = check::MAX_CAPABILITIES))]
    capabilities: Vec<String>,
    #[serde(default = "untrusted")]
    trust_level: TrustLevel,
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    expires_at: Option<Timestamp>,
}

fn untrusted() -> TrustLevel {
    TrustLevel::Untrusted
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RegisteredAgent")]
pub(crate) struct Registered {
    #[schemars(with = "String", extend("format" = "uuid"))]
    agent_id: AgentId,
    token: String,
    /// For `DELETE /tokens/{jti}`.
    jti: ShownUuid,
    #[schemars(with = "String", extend("format" = "date-time"))]
    token_expires_at: Timestamp,
}

/// A UUID in an answer.
#[derive(Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(rename = "Uuid", inline)]
pub(crate) struct ShownUuid(#[schemars(with = "String", extend("format" = "uuid"))] pub Uuid);

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Agent")]
pub(crate) struct AgentView {
    #[schemars(with = "String", extend("format" = "uuid"))]
    id: AgentId,
    owner: String,
    model: String,
    capabilities: Vec<String>,
    trust_level: TrustLevel,
    active: bool,
    #[schemars(with = "String", extend("format" = "date-time"))]
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    expires_at: Option<Timestamp>,
}

impl From<&Agent> for AgentView {
    fn from(agent: &Agent) -> Self {
        Self {
            id: agent.id,
            owner: agent.owner.clone(),
            model: agent.model.clone(),
            capabilities: agent.capabilities.clone(),
            trust_level: agent.trust,
            active: agent.active,
            created_at: agent.created_at,
            expires_at: agent.expires_at,
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct AgentList {
    agents: Vec<AgentView>,
    /// Give it as `cursor` to get what follows; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "uuid"))]
    next_cursor: Option<AgentId>,
}

#[derive(Serialize, JsonSchema)]
#[expect(clippy::struct_field_names, reason = "the word of the API")]
pub(crate) struct Deactivated {
    /// The agent and every delegate below it that was still active.
    #[schemars(with = "Vec<String>")]
    deactivated: Vec<AgentId>,
    sessions_closed: usize,
    /// Absent unless fewer replicas of the store have this than `storage.redis_wait_replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<ShownReplicas>,
}

/// An agent, and in which way it may act at this moment.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AgentStanding")]
pub(crate) struct AuthorizationView {
    #[serde(flatten)]
    agent: AgentView,
    acts: Acts,
    /// The reason why it may not act.
    #[serde(skip_serializing_if = "Option::is_none")]
    inactive: Option<String>,
}

/// The account on which an agent acts.
#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Acts {
    /// On its own account, with all that it is registered with: nothing is delegated to it, or what was
    /// has ended.
    ByItself,
    /// For others, with what the delegations in force leave to it.
    AsDelegate,
    /// Not at all.
    Not,
}

/// An agent whose trust was set.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AgentTrust")]
pub(crate) struct TrustView {
    #[serde(flatten)]
    agent: AgentView,
    /// Absent unless fewer replicas of the store have this than `storage.redis_wait_replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<ShownReplicas>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndedDelegation")]
pub(crate) struct Ended {
    status: &'static str,
    delegation_id: ShownUuid,
    sessions_closed: usize,
    /// Absent unless fewer replicas of the store have this than `storage.redis_wait_replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<ShownReplicas>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetTrust {
    trust_level: TrustLevel,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delegate {
    /// The agent that may act for this one.
    #[schemars(extend("format" = "uuid"))]
    to: String,
    /// Capabilities that this agent has itself.
    #[schemars(length(min = 1, max = check::MAX_CAPABILITIES))]
    scopes: Vec<String>,
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    expires_at: Option<Timestamp>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Delegated {
    delegation_id: ShownUuid,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Delegations {
    incoming: Vec<DelegationView>,
    outgoing: Vec<DelegationView>,
    /// From the one at the top down to the agent: what a session that is opened now would record.
    #[schemars(with = "Vec<String>")]
    delegation_chain: Arc<[AgentId]>,
    /// Rights that the delegations in force leave to the agent; absent when the agent may not act.
    #[serde(skip_serializing_if = "Option::is_none")]
    effective: Option<Effective>,
    /// Reason why the agent may not act.
    #[serde(skip_serializing_if = "Option::is_none")]
    inactive: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EffectiveRights")]
struct Effective {
    capabilities: Vec<String>,
    trust_level: TrustLevel,
    /// Earliest end of the agents and delegations that the rights depend on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    expires_at: Option<Timestamp>,
}

impl From<&Agent> for Effective {
    fn from(narrowed: &Agent) -> Self {
        Self {
            capabilities: narrowed.capabilities.clone(),
            trust_level: narrowed.trust,
            expires_at: narrowed.expires_at,
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Delegation")]
struct DelegationView {
    delegation_id: ShownUuid,
    #[schemars(with = "String", extend("format" = "uuid"))]
    from: AgentId,
    #[schemars(with = "String", extend("format" = "uuid"))]
    to: AgentId,
    scopes: Vec<String>,
    #[schemars(with = "String", extend("format" = "date-time"))]
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    expires_at: Option<Timestamp>,
}

impl From<Delegation> for DelegationView {
    fn from(delegation: Delegation) -> Self {
        Self {
            delegation_id: ShownUuid(delegation.id),
            from: delegation.from,
            to: delegation.to,
            scopes: delegation.scopes,
            created_at: delegation.created_at,
            expires_at: delegation.expires_at,
        }
    }
}

pub(super) async fn register(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let body: Register = input.json()?;
    let now = admin.clock.now().wall;
    check::name("owner", &body.owner)?;
    check::name("model", &body.model)?;
    check::names("capabilities", &body.capabilities, check::MAX_CAPABILITIES)?;
    check::future("expires_at", body.expires_at, now)?;
    input.actor.serves(&body.owner)?;
    input.actor.may_trust(body.trust_level)?;
    let id = AgentId::random();
    let change = Change::new("agent.register")
        .agent(id)
        .with("owner", &body.owner)
        .with("model", &body.model)
        .with("trust_level", body.trust_level)
        .with("capabilities", body.capabilities.join(" "));
    let announced = admin.announce(&input.actor, change).await?;
    let new = NewAgent {
        owner: body.owner,
        model: body.model,
        capabilities: body.capabilities,
        trust: body.trust_level,
        expires_at: body.expires_at,
        registered_by: Some(Arc::clone(&input.actor.name)),
    };
    let agent = match admin.registry.register_as(id, new, now).await {
        Ok(agent) => agent,
        Err(error) => return Err(announced.refused(store_failed(&error))),
    };
    let minted = admin.mint(&agent, admin.settings.token_expiry_secs);
    announced.done();
    let minted = minted?;
    Answer::of(&Registered {
        agent_id: agent.id,
        token: minted.token,
        jti: ShownUuid(minted.jti),
        token_expires_at: minted.expires_at,
    })
}

pub(super) async fn list(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let limit = input.query.limit()?;
    let after = uuid_parameter(&input.query, Parameter::Cursor)?;
    if after.is_some_and(|id| admin.registry.agent(id).is_none()) {
        return Err(unknown_cursor());
    }
    let mut agents = admin.registry.list(after, limit.saturating_add(1));
    let more = agents.len() > limit;
    agents.truncate(limit);
    let next_cursor = if more { agents.last().map(|agent| agent.id) } else { None };
    let agents = agents.iter().map(|agent| AgentView::from(&**agent)).collect();
    Answer::of(&AgentList { agents, next_cursor })
}

/// An agent's id in the query.
pub(super) fn uuid_parameter(
    query: &Parameters,
    parameter: Parameter,
) -> Result<Option<AgentId>, ApiError> {
    query.get(parameter, "a UUID of 36 characters", AgentId::parse)
}

pub(super) fn unknown_cursor() -> ApiError {
    ApiError::field("cursor", "is not known (any more); start again without it")
}

pub(super) async fn show(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.agent_id()?;
    let agent = admin.agent(id)?;
    let acting = admin.registry.acting(id, admin.clock.now().wall);
    let Acting { agent: acting, chain } = acting.ok_or_else(|| ApiError::not_found("agent"))?;
    let acts = match &acting {
        Ok(_) if chain.len() > 1 => Acts::AsDelegate,
        Ok(_) => Acts::ByItself,
        Err(_) => Acts::Not,
    };
    let inactive = acting.err().map(|lapse| lapse.to_string());
    Answer::of(&AuthorizationView { agent: AgentView::from(&*agent), acts, inactive })
}

pub(super) async fn deactivate(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.agent_id()?;
    admin.agent(id)?;
    let announced = admin.announce(&input.actor, Change::new("agent.deactivate").agent(id)).await?;
    let Some((gone, closed)) = deactivate_and_close(&admin, id).await? else {
        return Err(announced.refused(ApiError::not_found("agent")));
    };
    admin.note_ends(admin.approvals.end_agents(&gone.all).await).await;
    let (sessions_closed, replicas) = match both(gone.stored, closed) {
        Ok(done) => done,
        Err(error) => return Err(announced.in_force(not_stored(&error))),
    };
    announced.done_on(replicas);
    let replicas = ShownReplicas::of(replicas);
    Answer::of(&Deactivated { deactivated: gone.ids, sessions_closed, replicas })
}

/// Sessions that were closed, and which replicas know.
type Closed = Result<(usize, Replicas), StoreError>;

fn both(stored: Result<Replicas, StoreError>, closed: Closed) -> Closed {
    let (replicas, (sessions_closed, of_sessions)) = (stored?, closed?);
    Ok((sessions_closed, replicas.and(of_sessions)))
}

/// Deactivates and closes, in memory before the store is asked, even if the client goes away.
/// Sessions end with the agents, and with those that an earlier, interrupted call left open.
async fn deactivate_and_close(
    admin: &Admin,
    id: AgentId,
) -> Result<Option<(Gone, Closed)>, ApiError> {
    let (registry, sessions) = (Arc::clone(&admin.registry), Arc::clone(&admin.sessions));
    let clock = admin.clock.clone();
    let done = to_the_end::<_, StoreError>(async move {
        let Some(gone) = registry.deactivate(id).await else { return Ok(None) };
        let closed = sessions.close_agents(&gone.all, clock.now()).await;
        Ok(Some((gone, closed)))
    });
    done.await.map_err(|error| store_failed(&error))
}

pub(super) async fn set_trust(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.agent_id()?;
    let body: SetTrust = input.json()?;
    let before = admin.agent(id)?.trust;
    input.actor.only_takes_away(body.trust_level < before)?;
    let change =
        Change::new("agent.trust").agent(id).with("from", before).with("to", body.trust_level);
    let announced = admin.announce(&input.actor, change).await?;
    match admin.registry.set_trust(id, body.trust_level).await {
        Ok(Some((agent, replicas))) => {
            announced.done_on(replicas);
            let replicas = ShownReplicas::of(replicas);
            Answer::of(&TrustView { agent: AgentView::from(&*agent), replicas })
        }
        Ok(None) => Err(announced.refused(ApiError::not_found("agent"))),
        Err(TrustError { in_force: true, source }) => Err(announced.in_force(not_stored(&source))),
        Err(TrustError { in_force: false, source }) => {
            Err(announced.refused(store_failed(&source)))
        }
    }
}

pub(super) async fn delegate(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let from = input.agent_id()?;
    let body: Delegate = input.json()?;
    let now = admin.clock.now().wall;
    let to = AgentId::parse(&body.to).ok_or_else(|| not_a_uuid("to"))?;
    check::names("scopes", &body.scopes, check::MAX_CAPABILITIES)?;
    if body.scopes.is_empty() {
        return Err(ApiError::field("scopes", "is empty; a delegation without scopes is none"));
    }
    check::future("expires_at", body.expires_at, now)?;
    admin.agent(from)?;
    admin.agent(to).map_err(|error| error.of_field("to"))?;
    let change = Change::new("agent.delegate")
        .agent(from)
        .with("to", to)
        .with("scopes", body.scopes.join(" "));
    let announced = admin.announce(&input.actor, change).await?;
    match delegate_from_now(&admin, from, to, body, now).await {
        Ok(made) => {
            announced.done();
            let answer = Delegated { delegation_id: ShownUuid(made.delegation.id) };
            if made.is_new { Answer::of(&answer) } else { Answer::replaced(&answer) }
        }
        Err(error) => Err(announced.refused(not_delegated(&error))),
    }
}

/// Delegates by what is known now; if another node was quicker, by what is known then.
async fn delegate_from_now(
    admin: &Admin,
    from: AgentId,
    to: AgentId,
    body: Delegate,
    now: Timestamp,
) -> Result<Made, DelegateError> {
    /// More than one other node at the same time is rare.
    const TRIES: usize = 5;
    for tried in 1..TRIES {
        let scopes = body.scopes.clone();
        match admin.registry.delegate(from, to, scopes, body.expires_at, now).await {
            Err(DelegateError::Store(StoreError::Overtaken)) if tried == 1 => {
                admin.freshness.catch_up(&admin.clock).await?;
            }
            // The changes do not show that the store has lost some of them.
            Err(DelegateError::Store(StoreError::Overtaken)) => admin.registry.reload().await?,
            done => return done,
        }
    }
    admin.registry.delegate(from, to, body.scopes, body.expires_at, now).await
}

/// Ends a delegation, and the sessions that were opened under it. In memory before the store is asked, even
/// if the caller goes away.
pub(super) async fn undelegate(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.id.as_deref().filter(|id| id.len() == 36);
    let id = id.and_then(|id| Uuid::try_parse(id).ok()).ok_or_else(|| not_a_uuid("id"))?;
    let unknown = || ApiError::not_found("delegation");
    let delegation = admin.registry.delegation(id).ok_or_else(unknown)?;
    let change = Change::new("agent.undelegate")
        .agent(delegation.from)
        .with("delegation_id", id)
        .with("to", delegation.to);
    let announced = admin.announce(&input.actor, change).await?;
    let (registry, sessions) = (Arc::clone(&admin.registry), Arc::clone(&admin.sessions));
    let clock = admin.clock.clone();
    let done = to_the_end::<_, StoreError>(async move {
        let Some(ended) = registry.end_delegation(id).await else { return Ok(None) };
        let Delegation { from, to, .. } = ended.delegation;
        let closed = sessions.close_under(&ended.below, from, to, clock.now()).await;
        Ok(Some(both(ended.stored, closed)))
    });
    match done.await.map_err(|error| store_failed(&error))? {
        Some(Ok((sessions_closed, replicas))) => {
            announced.done_on(replicas);
            Answer::of(&Ended {
                status: "ended",
                delegation_id: ShownUuid(id),
                sessions_closed,
                replicas: ShownReplicas::of(replicas),
            })
        }
        Some(Err(error)) => Err(announced.in_force(not_stored(&error))),
        // Another caller was quicker.
        None => Err(announced.refused(unknown())),
    }
}

fn not_delegated(error: &DelegateError) -> ApiError {
    let text = error.to_string();
    match error {
        DelegateError::Unknown(_) => ApiError::not_found("agent"),
        DelegateError::Inactive(_) => ApiError::new(Code::AgentInactive, text),
        DelegateError::ScopeNarrowing { .. } => {
            ApiError::new(Code::ScopeNarrowingViolation, text).of_field("scopes")
        }
        DelegateError::Cycle => ApiError::new(Code::DelegationCycle, text).of_field("to"),
        DelegateError::ExpiryWidening(_) | DelegateError::Past => {
            ApiError::field("expires_at", format!("will not do: {text}"))
        }
        DelegateError::TooDeep { .. } => ApiError::field("to", format!("will not do: {text}")),
        DelegateError::Store(error) => store_failed(error),
    }
}

pub(super) async fn delegations(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.agent_id()?;
    let unknown = || ApiError::not_found("agent");
    let (incoming, outgoing) = admin.registry.delegations(id).ok_or_else(unknown)?;
    let acting = admin.registry.acting(id, admin.clock.now().wall).ok_or_else(unknown)?;
    let views = |list: Vec<Delegation>| list.into_iter().map(DelegationView::from).collect();
    Answer::of(&Delegations {
        incoming: views(incoming),
        outgoing: views(outgoing),
        delegation_chain: acting.chain,
        effective: acting.agent.as_ref().ok().map(|agent| Effective::from(&**agent)),
        inactive: acting.agent.err().map(|lapse| lapse.to_string()),
    })
}

impl Admin {
    pub(super) fn agent(&self, id: AgentId) -> Result<Arc<Agent>, ApiError> {
        self.registry.agent(id).ok_or_else(|| ApiError::not_found("agent"))
    }

    /// An agent that may act now, as its delegators leave it, and the chain down to it.
    pub(super) fn acting(&self, id: AgentId) -> Result<(Arc<Agent>, Arc<[AgentId]>), ApiError> {
        let acting = self.registry.acting(id, self.clock.now().wall);
        let Acting { agent, chain } = acting.ok_or_else(|| ApiError::not_found("agent"))?;
        Ok((agent.map_err(inactive)?, chain))
    }
}

/// An agent that may not act.
pub(super) fn inactive(lapse: Lapse) -> ApiError {
    ApiError::new(Code::AgentInactive, lapse.to_string())
}
