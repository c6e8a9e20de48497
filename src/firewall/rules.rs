//! Everything in force at one moment: immutable, shared, and replaced whole.

use std::sync::Arc;

use super::checks::drift::{Tools, UnknownIntent};
use super::checks::whitelist::Wildcard;
use super::policy::PolicySet;

/// Rules by which a request is judged. A request in flight keeps the rules it started with.
#[derive(Debug)]
pub struct Rules {
    pub policies: PolicySet,
    pub terms: Terms,
}

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
