//! Tokens of Arbiter's own: issued for an agent, revoked by their id.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::Actor;
use super::agents::{ShownUuid, unknown_cursor, uuid_parameter};
use super::endpoint::{Answer, Input};
use super::error::{ApiError, Code};
use super::query::Parameter;
use super::record::{Change, ShownReplicas, not_stored};
use super::{Admin, check};
use crate::config::MAX_TOKEN_EXPIRY_SECS;
use crate::firewall::agent::{Agent, AgentId};
use crate::firewall::time::Timestamp;
use crate::identity::mint::Minted;
use crate::registry::RevokeError;

/// Records that are waited for together.
const AT_ONCE: usize = 32;

/// Time for which a revoked token is remembered. Its own end is not known here, and an identity
/// provider's token may live longer than Arbiter's.
const REVOKED_FOR_SECS: u64 = 366 * 86_400;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "IssueToken")]
pub(crate) struct Issue {
    /// `admin.token_expiry_secs` unless given.
    #[schemars(range(min = 1, max = MAX_TOKEN_EXPIRY_SECS))]
    expiry_seconds: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "IssuedToken")]
pub(crate) struct Issued {
    token: String,
    /// For `DELETE /tokens/{jti}`.
    jti: ShownUuid,
    #[schemars(with = "String", extend("format" = "date-time"))]
    expires_at: Timestamp,
}

/// One token of many.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "IssuedFor")]
struct IssuedFor {
    #[schemars(with = "String", extend("format" = "uuid"))]
    agent_id: AgentId,
    token: String,
    /// For `DELETE /tokens/{jti}`.
    jti: ShownUuid,
    #[schemars(with = "String", extend("format" = "date-time"))]
    expires_at: Timestamp,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ReissuedTokens")]
pub(crate) struct Reissued {
    /// In the order of the agents' registration, without those that may not act.
    tokens: Vec<IssuedFor>,
    /// Give it as `cursor` to go on; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "uuid"))]
    next_cursor: Option<AgentId>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RevokedToken")]
pub(crate) struct Revoked {
    status: &'static str,
    jti: String,
    /// Absent unless fewer replicas of the store have this than `storage.redis_wait_replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<ShownReplicas>,
}

pub(super) async fn issue(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.agent_id()?;
    let expiry_secs = expiry_secs(&admin, &input)?;
    input.actor.serves(&admin.agent(id)?.owner)?;
    let (agent, _chain) = admin.acting(id)?;
    let IssuedFor { token, jti, expires_at, .. } =
        issue_for(&admin, &input.actor, &agent, expiry_secs).await?;
    Answer::of(&Issued { token, jti, expires_at })
}

/// Issues a token for each agent of a page that may act, each on record by itself.
pub(super) async fn reissue(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let limit = input.query.limit()?;
    let after = uuid_parameter(&input.query, Parameter::Cursor)?;
    if after.is_some_and(|id| admin.registry.agent(id).is_none()) {
        return Err(unknown_cursor());
    }
    let expiry_secs = expiry_secs(&admin, &input)?;
    let mut agents = admin.registry.list(after, limit.saturating_add(1));
    let more = agents.len() > limit;
    agents.truncate(limit);
    let next_cursor = agents.last().filter(|_| more).map(|agent| agent.id);
    let acting = agents.iter().filter_map(|agent| Some(admin.acting(agent.id).ok()?.0));
    let acting: Vec<_> = acting.collect();
    let mut tokens = Vec::with_capacity(acting.len());
    for few in acting.chunks(AT_ONCE) {
        let issued = few.iter().map(|agent| issue_for(&admin, &input.actor, agent, expiry_secs));
        tokens.extend(futures::future::try_join_all(issued).await?);
    }
    Answer::of(&Reissued { tokens, next_cursor })
}

/// Issues one token, once that is on record.
async fn issue_for(
    admin: &Admin,
    actor: &Actor,
    agent: &Agent,
    expiry_secs: u64,
) -> Result<IssuedFor, ApiError> {
    let minted = admin.mint(agent, expiry_secs)?;
    let change = Change::new("token.issue")
        .agent(agent.id)
        .with("jti", minted.jti)
        .with("expires_at", minted.expires_at);
    admin.announce(actor, change).await?.done();
    Ok(IssuedFor {
        agent_id: agent.id,
        token: minted.token,
        jti: ShownUuid(minted.jti),
        expires_at: minted.expires_at,
    })
}

fn expiry_secs(admin: &Admin, input: &Input) -> Result<u64, ApiError> {
    let body: Issue = if input.body.is_empty() { Issue::default() } else { input.json()? };
    let expiry_secs = body.expiry_seconds.unwrap_or(admin.settings.token_expiry_secs);
    check::within("expiry_seconds", expiry_secs, 1, MAX_TOKEN_EXPIRY_SECS)?;
    Ok(expiry_secs)
}

pub(super) async fn revoke(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let jti = input.id.clone().unwrap_or_default();
    check::name("jti", &jti)?;
    let now = admin.clock.now().wall;
    let announced =
        admin.announce(&input.actor, Change::new("token.revoke").with("jti", &jti)).await?;
    match admin.registry.revoke_token(&jti, now.plus_secs(REVOKED_FOR_SECS), now).await {
        Ok(replicas) => {
            announced.done_on(replicas);
            let replicas = ShownReplicas::of(replicas);
            Answer::of(&Revoked { status: "revoked", jti, replicas })
        }
        Err(RevokeError::Full { cap }) => {
            let message = format!("{cap} tokens are revoked already; deactivate the agent instead");
            Err(announced.refused(ApiError::new(Code::TooManyRevoked, message)))
        }
        Err(RevokeError::NotStored(error)) => Err(announced.in_force(not_stored(&error))),
    }
}

impl Admin {
    pub(super) fn mint(&self, agent: &Agent, expiry_secs: u64) -> Result<Minted, ApiError> {
        let minted = self.minter.mint(agent, expiry_secs, self.clock.now().wall);
        minted.map_err(|error| ApiError::new(Code::Internal, error.to_string()))
    }
}
