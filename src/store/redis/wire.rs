//! Encoding in Redis: JSON, with times as microseconds.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::firewall::agent::{Agent, AgentId, Delegation, TrustLevel};
use crate::firewall::approvals::ApprovalState;
use crate::firewall::freeze::Freeze;
use crate::firewall::session::{SessionId, WorkOrder};
use crate::firewall::time::Timestamp;
use crate::store::{Change, Flags, Lowered, StoreError, TakenAway};

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registered_by: Option<Arc<str>>,
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
            registered_by: agent.registered_by.clone(),
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
            registered_by: text.registered_by,
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
    // Last in its text, where the script puts it: see `trust_change`.
    SetTrust { id: AgentId, level: TrustLevel, number: u64 },
    TakenAway { id: AgentId, inactive: bool, lowered: Option<(TrustLevel, u64)> },
    Purged { id: AgentId, tombstone: bool },
    PutDelegation { delegation: DelegationText, version: u64 },
    DelegationEnded { id: Uuid, version: u64 },
    TokenRevoked { token_id: String, until_us: i64 },
    Flagged { agent: AgentId, flags: u32 },
    SessionOpened(Arc<WorkOrder>),
    SessionClosed { id: SessionId, at_us: i64 },
    Wanted(SessionId),
    Frozen(Arc<Freeze>),
    Unfrozen(Uuid),
    Approval { id: Uuid, state: ApprovalState },
}

pub(super) fn change(change: &Change) -> Result<String, StoreError> {
    let text = match change {
        Change::Registered(agent) => ChangeText::Registered((&**agent).into()),
        Change::Trust { id, level, number } => {
            ChangeText::SetTrust { id: *id, level: *level, number: *number }
        }
        Change::TakenAway(TakenAway { id, inactive, lowered }) => ChangeText::TakenAway {
            id: *id,
            inactive: *inactive,
            lowered: lowered.map(|lowered| (lowered.level, lowered.number)),
        },
        Change::Purged { id, tombstone } => ChangeText::Purged { id: *id, tombstone: *tombstone },
        Change::Delegation { delegation, version } => {
            ChangeText::PutDelegation { delegation: delegation.into(), version: *version }
        }
        Change::DelegationEnded { id, version } => {
            ChangeText::DelegationEnded { id: *id, version: *version }
        }
        Change::TokenRevoked { token_id, until } => {
            ChangeText::TokenRevoked { token_id: token_id.clone(), until_us: until.0 }
        }
        Change::Flagged { agent, flags } => ChangeText::Flagged { agent: *agent, flags: *flags },
        Change::SessionOpened(order) => ChangeText::SessionOpened(Arc::clone(order)),
        Change::SessionClosed { id, at } => ChangeText::SessionClosed { id: *id, at_us: at.0 },
        Change::Wanted(id) => ChangeText::Wanted(*id),
        Change::Frozen(freeze) => ChangeText::Frozen(Arc::clone(freeze)),
        Change::Unfrozen(id) => ChangeText::Unfrozen(*id),
        Change::Approval { id, state } => ChangeText::Approval { id: *id, state: state.clone() },
    };
    write("change", &text)
}

/// The text of a new level in two parts, between which the script puts the change's number.
pub(super) fn trust_change(id: AgentId, level: TrustLevel) -> Result<(String, String), StoreError> {
    around_number(&change(&Change::Trust { id, level, number: 0 })?)
}

/// The text of what is taken away in two parts, between which the script puts the level that results.
pub(super) fn taken_change(taken: &TakenAway) -> Result<(String, String), StoreError> {
    let text = change(&Change::TakenAway(*taken))?;
    let Some(lowered) = taken.lowered else { return Ok((text, String::new())) };
    let parts = text.split_once(&format!("[\"{}\",", lowered.level.as_str()));
    let parts = parts.map(|(before, rest)| (format!("{before}[\""), format!("\",{rest}")));
    parts.ok_or_else(|| damaged("change", "its level is not where a level is"))
}

/// The text of a delegation's end in two parts, between which the script puts the change's number.
pub(super) fn ended_change(id: Uuid) -> Result<(String, String), StoreError> {
    around_number(&change(&Change::DelegationEnded { id, version: 0 })?)
}

/// Splits a text at the zero that is its last value.
fn around_number(text: &str) -> Result<(String, String), StoreError> {
    let parts =
        text.rsplit_once(":0}").map(|(before, rest)| (format!("{before}:"), format!("}}{rest}")));
    parts.ok_or_else(|| damaged("change", "its number is not its last value"))
}

/// None for a change that this version does not know: a newer node wrote it.
pub(super) fn read_change(text: &str) -> Option<Change> {
    Some(match serde_json::from_str(text).ok()? {
        ChangeText::Registered(agent) => Change::Registered(Arc::new(agent.into())),
        ChangeText::SetTrust { id, level, number } => Change::Trust { id, level, number },
        ChangeText::TakenAway { id, inactive, lowered } => Change::TakenAway(TakenAway {
            id,
            inactive,
            lowered: lowered.map(|(level, number)| Lowered { level, number }),
        }),
        ChangeText::Purged { id, tombstone } => Change::Purged { id, tombstone },
        ChangeText::PutDelegation { delegation, version } => {
            Change::Delegation { delegation: delegation.into(), version }
        }
        ChangeText::DelegationEnded { id, version } => Change::DelegationEnded { id, version },
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
        ChangeText::Approval { id, state } => Change::Approval { id, state },
    })
}

/// Reads drift flags: `time:count`, with spaces between them.
pub(super) fn flags(text: &str) -> Result<Vec<Flags>, StoreError> {
    let read = |entry: &str| {
        let (at, count) = entry.split_once(':')?;
        Some(Flags { at: Timestamp(at.parse().ok()?), count: count.parse().ok()? })
    };
    let entries = text.split_ascii_whitespace();
    entries
        .map(|entry| read(entry).ok_or_else(|| damaged("flag", "not a time and a count")))
        .collect()
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
