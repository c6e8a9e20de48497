//! Tokens of Arbiter's own: issued for an agent, revoked by their id.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agents::ShownUuid;
use super::error::{ApiError, Code};
use super::record::{Change, ShownReplicas, not_stored};
use super::routes::{Answer, Input};
use super::{Admin, check};
use crate::config::MAX_TOKEN_EXPIRY_SECS;
use crate::firewall::agent::Agent;
use crate::firewall::time::Timestamp;
use crate::identity::mint::Minted;
use crate::registry::RevokeError;

/// For how long a revoked token is remembered. Its own end is not known here, and an identity
/// provider's token may live longer than Arbiter's.
const REVOKED_FOR_SECS: u64 = 366 * 86_400;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "IssueToken")]
pub struct Issue {
    /// `admin.token_expiry_secs` unless given.
    #[schemars(range(min = 1, max = MAX_TOKEN_EXPIRY_SECS))]
    expiry_seconds: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "IssuedToken")]
pub struct Issued {
    token: String,
    /// For `DELETE /tokens/{jti}`.
    jti: ShownUuid,
    #[schemars(with = "String", extend("format" = "date-time"))]
    expires_at: Timestamp,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RevokedToken")]
pub struct Revoked {
    status: &'static str,
    jti: String,
    /// Absent unless fewer replicas of the store have this than `storage.redis_wait_replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<ShownReplicas>,
}

pub(super) async fn issue(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let id = input.agent_id()?;
    let body: Issue = if input.body.is_empty() { Issue::default() } else { input.json()? };
    let expiry_secs = body.expiry_seconds.unwrap_or(admin.settings.token_expiry_secs);
    check::within("expiry_seconds", expiry_secs, 1, MAX_TOKEN_EXPIRY_SECS)?;
    input.actor.serves(&admin.agent(id)?.owner)?;
    let (agent, _chain) = admin.acting(id)?;
    let minted = admin.mint(&agent, expiry_secs)?;
    let change = Change::new("token.issue")
        .agent(id)
        .with("jti", minted.jti)
        .with("expires_at", minted.expires_at);
    // Nobody has the token before it is on record.
    admin.announce(&input.actor, change).await?.done();
    Answer::of(&Issued {
        token: minted.token,
        jti: ShownUuid(minted.jti),
        expires_at: minted.expires_at,
    })
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
