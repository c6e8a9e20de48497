//! A task session: the work order (what was agreed, immutable) and its usage (what was done).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agent::{AgentId, id};
use super::granted::Grants;
use super::node_share::NodeShare;
use super::recent::Recent;
use super::time::{Mono, Timestamp};
use written::WrittenOrder;

mod written;

id! {
    /// One task session.
    SessionId
}

/// Sensitivity of data, lowest first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    Public,
    #[default]
    Internal,
    Confidential,
    Restricted,
}

impl Sensitivity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Restricted => "restricted",
        }
    }
}

impl fmt::Display for Sensitivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Sensitivity {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "public" => Ok(Self::Public),
            "internal" => Ok(Self::Internal),
            "confidential" => Ok(Self::Confidential),
            "restricted" => Ok(Self::Restricted),
            _ => Err("expected public, internal, confidential or restricted"),
        }
    }
}

/// Tier of a declared intent, lowest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum IntentTier {
    Unknown,
    Read,
    Write,
    Admin,
}

impl IntentTier {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Form in which refusals reach the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RefusalStyle {
    /// The statuses of the refusal table.
    #[default]
    Http,
    /// HTTP 200 with a result or error that every client hands to its model.
    Result,
}

impl RefusalStyle {
    pub const ALL: [Self; 2] = [Self::Http, Self::Result];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Result => "result",
        }
    }
}

impl FromStr for RefusalStyle {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "http" => Ok(Self::Http),
            "result" => Ok(Self::Result),
            _ => Err("expected http or result"),
        }
    }
}

/// Terms agreed when the session was opened. Never changes. A node may hold a million: with the counts of its `Arc`, one
/// takes two cache lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenOrder", into = "WrittenOrder")]
pub struct WorkOrder {
    pub id: SessionId,
    pub agent: AgentId,
    pub declared_intent: Box<str>,
    pub intent_tier: IntentTier,
    pub grants: Arc<Grants>,
    pub call_budget: u64,
    pub rate_limit: Option<u32>,
    pub ceiling: Sensitivity,
    pub refusal_style: Option<RefusalStyle>,
    /// From the agent at the top down to the one whose session this is, as it was at creation.
    pub delegation_chain: Arc<[AgentId]>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// Status of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Active,
    Expired,
    Closed,
}

/// Usage of a session. Kept on the node that serves the call, under the session's own lock.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Tool calls counted, over all runs.
    pub calls_made: u64,
    /// Calls booked at the ledger; `calls_made` never passes it.
    pub booked: u64,
    /// Times at which the calls of the last window were counted; empty without a rate limit.
    pub recent: Recent,
    pub closed: bool,
    /// Only where other nodes serve the session as well.
    pub shared: Option<Box<NodeShare>>,
}

impl Usage {
    /// Reports whether the ledger may have more of a budget that seems to be used up: other nodes
    /// may have given something back.
    pub fn may_regain(&self, now: Mono) -> bool {
        self.shared.as_ref().is_some_and(|shared| now >= shared.calls_refused_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_style_is_written_and_read_in_one_way() {
        for style in RefusalStyle::ALL {
            assert_eq!(style.as_str().parse(), Ok(style));
            assert_eq!(serde_json::to_value(style).unwrap(), style.as_str());
        }
        assert_eq!("Http".parse::<RefusalStyle>(), Err("expected http or result"));
    }
}
