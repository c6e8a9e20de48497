//! Agents, their trust levels, and the principals for whom they act.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::time::Timestamp;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Draws a new random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// Reads the 36-character form only, so that one id has one spelling.
            pub fn parse(text: &str) -> Option<Self> {
                (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
pub(crate) use id;

id! {
    /// One agent.
    AgentId
}

/// Trust level of an agent, lowest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum TrustLevel {
    Untrusted,
    Basic,
    Verified,
    Trusted,
}

impl TrustLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Basic => "basic",
            Self::Verified => "verified",
            Self::Trusted => "trusted",
        }
    }

    /// One level down; the lowest stays.
    #[must_use]
    pub fn demoted(self) -> Self {
        match self {
            Self::Untrusted | Self::Basic => Self::Untrusted,
            Self::Verified => Self::Basic,
            Self::Trusted => Self::Verified,
        }
    }
}

impl fmt::Display for TrustLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TrustLevel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "untrusted" => Ok(Self::Untrusted),
            "basic" => Ok(Self::Basic),
            "verified" => Ok(Self::Verified),
            "trusted" => Ok(Self::Trusted),
            _ => Err("expected untrusted, basic, verified or trusted"),
        }
    }
}

/// One registered agent, as it is right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    pub id: AgentId,
    pub owner: String,
    pub model: String,
    pub capabilities: Vec<String>,
    pub trust: TrustLevel,
    pub active: bool,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// Name of the admin key or person that registered the agent; none for agents that an issuer
    /// registered.
    pub registered_by: Option<Arc<str>>,
}

impl Agent {
    pub fn has_capability(&self, wanted: &str) -> bool {
        self.capabilities.iter().any(|c| c == wanted)
    }

    /// Reports whether the agent may act at `now`.
    pub fn may_act(&self, now: Timestamp) -> bool {
        self.active && self.expires_at.is_none_or(|end| now < end)
    }
}

/// Subject of a token, from its verified claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub subject: Arc<str>,
    pub groups: Vec<String>,
    pub scopes: Vec<String>,
    pub issuer: String,
    pub agent: Option<AgentId>,
    pub token_id: Option<String>,
    pub expires_at: Timestamp,
}

/// The agent that calls and the principal it calls for: both proved.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Narrowed to what the agents above it have as well.
    pub agent: Arc<Agent>,
    pub principal: Arc<Principal>,
    /// From the agent at the top down to the one that calls, as of now.
    pub chain: Arc<[AgentId]>,
}

/// One agent's leave for another to act for it, within some scopes and for some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    pub id: Uuid,
    pub from: AgentId,
    pub to: AgentId,
    pub scopes: Vec<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}
