//! Terms that hold for every session, as they are configured.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::Tools;

/// The configured terms that hold for every session.
#[derive(Clone, Debug)]
pub struct Terms {
    pub require_session: bool,
    pub rate_window_secs: u64,
    /// Meaning of `*` alone in `authorized_tools`.
    pub wildcard: Wildcard,
    /// True if drift is refused, not only flagged.
    pub escalate_anomalies: bool,
    pub unknown_intent: UnknownIntent,
    /// Operations of tools whose names do not show them.
    pub tools: Tools,
    pub warning_threshold_pct: f64,
    /// The names of all upstreams, which policies may limit tools to.
    pub upstreams: Arc<[Box<str>]>,
}

/// The meaning of an entry that is `*` alone (`sessions.allow_wildcard_tools`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wildcard {
    Honoured,
    Literal,
}

/// The treatment of an intent of which no keyword is known (`sessions.unknown_intent`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownIntent {
    /// Nothing is checked.
    Off,
    /// Everything but a read is flagged for the record, never counted and never refused.
    #[default]
    Flag,
    /// As a read intent.
    Enforce,
}

/// As the configuration's own defaults are.
impl Default for Terms {
    fn default() -> Self {
        Self {
            require_session: true,
            rate_window_secs: 60,
            wildcard: Wildcard::Literal,
            escalate_anomalies: false,
            unknown_intent: UnknownIntent::default(),
            tools: Tools::default(),
            warning_threshold_pct: 20.0,
            upstreams: Arc::default(),
        }
    }
}
