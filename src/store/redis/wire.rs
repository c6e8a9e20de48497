//! Encoding in Redis: JSON, with times as microseconds.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::store::{Change, StoreError};

/// An agent as it was registered; its trust and whether it is active are kept apart.
#[derive(Serialize, Deserialize)]
pub(super) struct AgentText {
    id: AgentId,
    owner: String,
    model: String,
    capabilities: Vec<String>,
    trust: TrustLevel,
    active: bool,
    created_at_us: i64,
    expires_at_us: Option<i64>,
}

impl From<&Agent> for AgentText {
    fn from(agent: &Agent) -> Self {
        Self {
            id: agent.id,
            owner: agent.owner.clone(),
            model: agent.model.clone(),
            capabilities: agent.capabilities.clone(),
            trust: agent.trust,
            active: agent.active,
            created_at_us: agent.created_at.0,
            expires_at_us: agent.expires_at.map(|at| at.0),
        }
    }
}

impl From<AgentText> for Agent {
    fn from(text: AgentText) -> Self {
        Self {
            id: text.id,
            owner: text.owner,
            model: text.model,
            capabilities: text.capabilities,
            trust: text.trust,
            active: text.active,
            created_at: Timestamp(text.created_at_us),
            expires_at: text.expires_at_us.map(Timestamp),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct DelegationText {
    id: Uuid,
    from: AgentId,
    to: AgentId,
    scopes: Vec<String>,
    created_at_us: i64,
    expires_at_us: Option<i64>,
}

impl From<&Delegation> for DelegationText {
    fn from(delegation: &Delegation) -> Self {
        Self {
            id: delegation.id,
            from: delegation.from,
            to: delegation.to,
            scopes: delegation.scopes.clone(),
            created_at_us: delegation.created_at.0,
            expires_at_us: delegation.expires_at.map(|at| at.0),
        }
    }
}

impl From<DelegationText> for Delegation {
    fn from(text: DelegationText) -> Self {
        Self {
            id: text.id,
            from: text.from,
            to: text.to,
            scopes: text.scopes,
            created_at: Timestamp(text.created_at_us),
            expires_at: text.expires_at_us.map(Timestamp),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeText {
    Registered(AgentText),
    Trust(AgentId, TrustLevel),
    Deactivated(AgentId),
    Delegation(DelegationText),
    TokenRevoked { token_id: String, until_us: i64 },
    Flagged { agent: AgentId, flags: u32 },
    SessionOpened(Arc<WorkOrder>),
    SessionClosed { id: SessionId, at_us: i64 },
    Wanted(SessionId),
    Frozen(Arc<Freeze>),
    Unfrozen(Uuid),
}

pub(super) fn change(change: &Change) -> Result<String, StoreError> {
    let text = match change {
        Change::Registered(agent) => ChangeText::Registered((&**agent).into()),
        Change::Trust(id, level) => ChangeText::Trust(*id, *level),
        Change::Deactivated(id) => ChangeText::Deactivated(*id),
        Change::Delegation(delegation) => ChangeText::Delegation(delegation.into()),
        Change::TokenRevoked { token_id, until } => {
            ChangeText::TokenRevoked { token_id: token_id.clone(), until_us: until.0 }
        }
        Change::Flagged { agent, flags } => ChangeText::Flagged { agent: *agent, flags: *flags },
        Change::SessionOpened(order) => ChangeText::SessionOpened(Arc::clone(order)),
        Change::SessionClosed { id, at } => ChangeText::SessionClosed { id: *id, at_us: at.0 },
        Change::Wanted(id) => ChangeText::Wanted(*id),
        Change::Frozen(freeze) => ChangeText::Frozen(Arc::clone(freeze)),
        Change::Unfrozen(id) => ChangeText::Unfrozen(*id),
    };
    write("change", &text)
}

/// None for what this version does not know: a newer node wrote it.
pub(super) fn read_change(text: &str) -> Option<Change> {
    Some(match serde_json::from_str(text).ok()? {
        ChangeText::Registered(agent) => Change::Registered(Arc::new(agent.into())),
        ChangeText::Trust(id, level) => Change::Trust(id, level),
        ChangeText::Deactivated(id) => Change::Deactivated(id),
        ChangeText::Delegation(delegation) => Change::Delegation(delegation.into()),
        ChangeText::TokenRevoked { token_id, until_us } => {
            Change::TokenRevoked { token_id, until: Timestamp(until_us) }
        }
        ChangeText::Flagged { agent, flags } => Change::Flagged { agent, flags },
        ChangeText::SessionOpened(order) => Change::SessionOpened(order),
        ChangeText::SessionClosed { id, at_us } => {
            Change::SessionClosed { id, at: Timestamp(at_us) }
        }
        ChangeText::Wanted(id) => Change::Wanted(id),
        ChangeText::Frozen(freeze) => Change::Frozen(freeze),
        ChangeText::Unfrozen(id) => Change::Unfrozen(id),
    })
}

pub(super) fn write(what: &'static str, body: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(body).map_err(|error| damaged(what, error))
}

pub(super) fn read<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| damaged(what, error))
}

/// A score of a sorted set, which Redis may write with an exponent.
pub(super) fn score(what: &'static str, text: &str) -> Result<i64, StoreError> {
    let number: f64 = text.parse().map_err(|error| damaged(what, error))?;
    format!("{number:.0}").parse().map_err(|error| damaged(what, error))
}

pub(super) fn damaged(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Damaged { what, source: source.into() }
}
