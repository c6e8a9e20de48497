//! Terms of a session: one list for `POST /sessions`, `POST /policy/explain` and `arbiter session open`, with
//! the work order that they become and the form in which a session is shown.

use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{self, MAX_CAPABILITIES, MAX_NAMES};
use super::error::ApiError;
use crate::config::{MAX_CALL_BUDGET, MAX_TIME_LIMIT_SECS};
use crate::firewall::agent::AgentId;
use crate::firewall::checks::drift::{self, Keywords};
use crate::firewall::granted::Grants;
use crate::firewall::session::{
    IntentTier, RefusalStyle, Sensitivity, SessionId, Status, WorkOrder,
};
use crate::firewall::time::{Now, Timestamp};
use crate::firewall::uri;
use crate::sessions::Live;

const MAX_RATE_PER_MINUTE: u32 = 1_000_000;

/// Terms that a session may be given, besides its agent, its intent and its tools. Each is a member of
/// a body and an option of the command line, described by the same words.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, clap::Args)]
pub(crate) struct SessionTerms {
    /// Resources that may be read: exact URIs, or beginnings of URIs followed by `*`.
    #[serde(default)]
    #[schemars(length(max = MAX_NAMES))]
    #[arg(long = "resource", value_name = "URI")]
    pub(super) authorized_resources: Vec<String>,
    /// Prompts that may be got.
    #[serde(default)]
    #[schemars(length(max = MAX_NAMES))]
    #[arg(long = "prompt", value_name = "NAME")]
    pub(super) authorized_prompts: Vec<String>,
    /// Other methods that may be called.
    #[serde(default)]
    #[schemars(length(max = MAX_NAMES))]
    #[arg(long = "method", value_name = "METHOD")]
    pub(super) authorized_methods: Vec<String>,
    /// Credentials that arguments may name, as `${CRED:name}`.
    #[serde(default)]
    #[schemars(length(max = MAX_CAPABILITIES))]
    #[arg(long = "credential", value_name = "NAME")]
    pub(super) authorized_credentials: Vec<String>,
    /// Seconds until the session ends; `sessions.default_time_limit_secs` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_TIME_LIMIT_SECS))]
    #[arg(long, value_name = "SECONDS")]
    pub(super) time_limit_secs: Option<u64>,
    /// Tool calls that may be made in all; `sessions.default_call_budget` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_CALL_BUDGET))]
    #[arg(long, value_name = "CALLS")]
    pub(super) call_budget: Option<u64>,
    /// Tool calls that may be made in any minute; no limit unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_RATE_PER_MINUTE))]
    #[arg(long, value_name = "CALLS")]
    pub(super) rate_limit_per_minute: Option<u32>,
    /// Most sensitive data that may be reached: public, internal, confidential or restricted; `internal`
    /// unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "TIER")]
    pub(super) data_sensitivity: Option<Sensitivity>,
    /// Form of refusals: HTTP statuses, or results that reach the model; `proxy.refusal_style` unless
    /// given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "STYLE", value_parser = styles())]
    pub(super) refusal_style: Option<RefusalStyle>,
}

fn styles() -> impl TypedValueParser<Value = RefusalStyle> {
    let styles = RefusalStyle::ALL.map(RefusalStyle::as_str);
    PossibleValuesParser::new(styles).try_map(|style| style.parse())
}

/// The rest of a work order: for whom and for what it is, and from when to when.
pub(super) struct Opening {
    pub(super) agent: AgentId,
    pub(super) declared_intent: String,
    pub(super) authorized_tools: Vec<String>,
    pub(super) delegation_chain: Arc<[AgentId]>,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) opened_by: Option<Arc<str>>,
    /// Budget of a session that is given none.
    pub(super) default_budget: u64,
}

impl SessionTerms {
    /// Checks every term by itself.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        check::names("authorized_resources", &self.authorized_resources, MAX_NAMES)?;
        check::names("authorized_prompts", &self.authorized_prompts, MAX_NAMES)?;
        check::names("authorized_methods", &self.authorized_methods, MAX_NAMES)?;
        check::names("authorized_credentials", &self.authorized_credentials, MAX_CAPABILITIES)?;
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

    pub(super) fn lists_nothing(&self) -> bool {
        self.authorized_resources.is_empty()
            && self.authorized_prompts.is_empty()
            && self.authorized_methods.is_empty()
    }

    /// Brings the resources into the form in which they are compared.
    pub(super) fn canonical(mut self) -> Result<Self, ApiError> {
        for entry in &mut self.authorized_resources {
            let canonical = uri::pattern(entry).map_err(|doubt| {
                ApiError::field("authorized_resources", format!("holds `{entry}`, which {doubt}"))
            });
            *entry = canonical?;
        }
        Ok(self)
    }

    pub(super) fn into_order(self, of: Opening, keywords: &Keywords) -> WorkOrder {
        let grants = Grants {
            tools: of.authorized_tools.into(),
            resources: self.authorized_resources.into(),
            prompts: self.authorized_prompts.into(),
            methods: self.authorized_methods.into(),
            credentials: self.authorized_credentials.into(),
            opened_by: of.opened_by,
        };
        WorkOrder {
            id: SessionId::random(),
            agent: of.agent,
            intent_tier: drift::tier(&of.declared_intent, keywords),
            declared_intent: of.declared_intent.into(),
            grants: Arc::new(grants),
            call_budget: self.call_budget.unwrap_or(of.default_budget),
            rate_limit: self.rate_limit_per_minute,
            ceiling: self.data_sensitivity.unwrap_or_default(),
            refusal_style: self.refusal_style,
            delegation_chain: of.delegation_chain,
            created_at: of.created_at,
            expires_at: of.expires_at,
        }
    }
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
    authorized_tools: Arc<[String]>,
    #[schemars(with = "Vec<String>")]
    authorized_resources: Arc<[String]>,
    #[schemars(with = "Vec<String>")]
    authorized_prompts: Arc<[String]>,
    #[schemars(with = "Vec<String>")]
    authorized_methods: Arc<[String]>,
    #[schemars(with = "Vec<String>")]
    authorized_credentials: Arc<[String]>,
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
    pub(super) fn of(live: &Live, now: Now) -> Self {
        let order = &live.order;
        let calls_made = live.with(|usage| usage.calls_made);
        Self {
            session_id: order.id,
            agent_id: order.agent,
            declared_intent: order.declared_intent.clone(),
            intent_tier: order.intent_tier,
            authorized_tools: order.grants.tools.clone(),
            authorized_resources: order.grants.resources.clone(),
            authorized_prompts: order.grants.prompts.clone(),
            authorized_methods: order.grants.methods.clone(),
            authorized_credentials: order.grants.credentials.clone(),
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
