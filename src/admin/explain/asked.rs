//! The question: who calls, in which session, and what is called.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Asked;
use crate::admin::check::{self, MAX_CAPABILITIES, MAX_NAMES};
use crate::admin::endpoint::not_a_uuid;
use crate::admin::error::ApiError;
use crate::admin::terms::{Opening, SessionTerms};
use crate::config::MAX_CALL_BUDGET;
use crate::firewall::agent::{Agent, AgentId, Caller, Principal, TrustLevel};
use crate::firewall::call::{CallKind, Data};
use crate::firewall::checks::Needs;
use crate::firewall::checks::drift::Keywords;
use crate::firewall::session::{Sensitivity, Usage};
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::firewall::uri;
use crate::json;
use crate::mcp::class::Class;

/// Longest tool name, URI or method that is asked about, in bytes.
const MAX_TARGET_BYTES: usize = 4_096;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ExplainPolicy")]
pub(crate) struct Explain {
    /// A registered agent, as the delegations above it leave it now; or describe one as `agent`.
    #[schemars(extend("format" = "uuid"))]
    pub(super) agent_id: Option<String>,
    pub(super) agent: Option<AgentDescription>,
    /// Principal for whom the agent acts; the agent's owner by default.
    principal: Option<PrincipalDescription>,
    /// A session that was opened, with what it has used; its agent is the caller unless given.
    #[schemars(extend("format" = "uuid"))]
    pub(super) session_id: Option<String>,
    /// Terms of a session that might be opened, in place of `session_id`.
    pub(super) session: Option<SessionDescription>,
    /// Intent of a session alone; then only policies and drift are asked.
    declared_intent: Option<String>,
    /// The tool that is called; or give `method` and `target`.
    tool: Option<String>,
    method: Option<String>,
    /// The resource's URI, the prompt's or the tool's name that the method is about.
    target: Option<String>,
    /// The configured name of the upstream that has the tool; without one, what policies say of
    /// `name:tool` is left out.
    pub(super) upstream: Option<String>,
    /// Arguments of the tool call.
    #[expect(dead_code, reason = "read from the body's own text, which keeps every digit")]
    arguments: Option<Map<String, Value>>,
    /// The client's answers to what the server asked, as a later round of the call carries them.
    #[serde(rename = "inputResponses")]
    #[expect(dead_code, reason = "read from the body's own text, which keeps every digit")]
    input_responses: Option<Map<String, Value>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentDescription {
    /// For policies that name an agent; any unless given.
    #[schemars(extend("format" = "uuid"))]
    agent_id: Option<String>,
    #[serde(default = "untrusted")]
    trust_level: TrustLevel,
    #[serde(default)]
    capabilities: Vec<String>,
}

fn untrusted() -> TrustLevel {
    TrustLevel::Untrusted
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PrincipalDescription {
    sub: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    scopes: Vec<String>,
}

/// A session as it might be opened; it has no end without a time limit, and calls enough without a
/// budget.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionDescription {
    declared_intent: String,
    #[serde(default)]
    authorized_tools: Vec<String>,
    /// Number of calls of the budget that are used up.
    #[serde(default)]
    calls_made: u64,
    #[serde(flatten)]
    terms: SessionTerms,
}

impl Explain {
    pub(super) fn check(&self) -> Result<(), ApiError> {
        if let Some(intent) = &self.declared_intent {
            check::intent("declared_intent", intent)?;
        }
        for (field, text) in [
            ("tool", &self.tool),
            ("method", &self.method),
            ("target", &self.target),
            ("upstream", &self.upstream),
        ] {
            if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > MAX_TARGET_BYTES) {
                let problem = format!("is empty or over {MAX_TARGET_BYTES} bytes");
                return Err(ApiError::field(field, problem));
            }
        }
        if let Some(agent) = &self.agent {
            check::names("agent.capabilities", &agent.capabilities, MAX_CAPABILITIES)?;
        }
        if let Some(principal) = &self.principal {
            check::name("principal.sub", &principal.sub)?;
            check::names("principal.groups", &principal.groups, MAX_NAMES)?;
            check::names("principal.scopes", &principal.scopes, MAX_NAMES)?;
        }
        if let Some(session) = &self.session {
            session.check().map_err(|error| error.inside("session"))?;
            if self.session_id.is_some() {
                return Err(ApiError::field("session", "is given together with `session_id`"));
            }
        }
        if self.session_id.is_some() && self.declared_intent.is_some() {
            let problem = "is given together with `session_id`";
            return Err(ApiError::field("declared_intent", problem));
        }
        Ok(())
    }

    /// Returns the parts that the question has.
    pub(super) fn given(&self) -> Needs {
        if self.session_id.is_some() || self.session.is_some() {
            Needs::Session
        } else if self.declared_intent.is_some() {
            Needs::Intent
        } else {
            Needs::Call
        }
    }

    pub(super) fn described_agent(&self) -> Result<Agent, ApiError> {
        let missing = || ApiError::field("agent_id", "is missing; or describe an `agent`");
        self.agent.as_ref().ok_or_else(missing)?.as_agent()
    }

    pub(super) fn principal(&self, agent: &Agent) -> Principal {
        let (subject, groups, scopes) = match &self.principal {
            Some(p) => (p.sub.clone(), p.groups.clone(), p.scopes.clone()),
            None => (agent.owner.clone(), Vec::new(), Vec::new()),
        };
        Principal {
            subject: subject.into(),
            groups,
            scopes,
            issuer: String::new(),
            agent: Some(agent.id),
            token_id: None,
            expires_at: Timestamp(i64::MAX),
        }
    }

    /// The session that is described, if one is. For an intent alone, returns a session that lists
    /// what is asked about.
    pub(super) fn described_session(
        &self,
        caller: &Caller,
        keywords: &Keywords,
        now: Now,
    ) -> Result<Option<Asked>, ApiError> {
        let described = match (&self.session, &self.declared_intent) {
            (Some(_), Some(_)) => {
                return Err(ApiError::field("declared_intent", "is given together with `session`"));
            }
            (None, None) => return Ok(None),
            (Some(described), None) => described.clone(),
            (None, Some(intent)) => self.listing_what_is_asked(intent),
        };
        let SessionDescription { declared_intent, authorized_tools, calls_made, terms } = described;
        let terms = terms.canonical().map_err(|error| error.inside("session"))?;
        let limit = terms.time_limit_secs;
        let opening = Opening {
            agent: caller.agent.id,
            declared_intent,
            authorized_tools,
            delegation_chain: caller.chain.clone(),
            created_at: now.wall,
            expires_at: limit.map_or(Timestamp(i64::MAX), |secs| now.wall.plus_secs(secs)),
            opened_by: None,
            default_budget: MAX_CALL_BUDGET,
        };
        let order = terms.into_order(opening, keywords);
        let usage = Usage { calls_made, booked: u64::MAX, ..Usage::default() };
        let deadline = limit.map_or(Mono(u64::MAX), |secs| now.mono.plus_secs(secs));
        Ok(Some(Asked { order: order.into(), usage, deadline, chain: Ok(()) }))
    }

    /// A session with this intent that lists what is asked about, for data of every tier.
    fn listing_what_is_asked(&self, intent: &str) -> SessionDescription {
        let named: Vec<String> =
            self.tool.iter().chain(&self.target).chain(&self.method).cloned().collect();
        let uris = named.iter().filter_map(|name| uri::canonical(name).ok());
        SessionDescription {
            declared_intent: intent.to_owned(),
            // At any upstream, whatever colons the name holds.
            authorized_tools: named.iter().map(|name| format!("*:{name}")).collect(),
            calls_made: 0,
            terms: SessionTerms {
                authorized_resources: uris.map(|uri| uri.text().to_owned()).collect(),
                authorized_prompts: named.clone(),
                authorized_methods: named,
                data_sensitivity: Some(Sensitivity::Restricted),
                ..SessionTerms::default()
            },
        }
    }

    /// The id of the task that is asked about.
    pub(super) fn task(&self) -> Option<&str> {
        let is_about_one = self.method.as_deref().is_some_and(|m| Class::of(m) == Class::Task);
        self.target.as_deref().filter(|_| is_about_one)
    }

    /// Refuses an upstream that is not configured.
    pub(super) fn check_upstream(&self, known: &[Box<str>]) -> Result<(), ApiError> {
        match &self.upstream {
            Some(name) if !known.iter().any(|known| **known == **name) => {
                Err(ApiError::field("upstream", "is not the name of a configured upstream"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The call that is asked about.
    pub(super) fn kind<'a>(
        &'a self,
        arguments: Option<json::Value<'a>>,
    ) -> Result<CallKind<'a>, ApiError> {
        let tool = |name: &'a str| CallKind::Tool { name: name.into(), arguments };
        let data = |what, target: &'a str| CallKind::Data { what, target: target.into() };
        let needed = || {
            let missing = || ApiError::field("target", "is missing; the method needs one");
            self.target.as_deref().ok_or_else(missing)
        };
        let method = match (&self.tool, self.method.as_deref()) {
            (Some(name), None) => return Ok(tool(name)),
            (Some(_), Some(_)) => {
                return Err(ApiError::field("tool", "is given together with `method`"));
            }
            (None, None) => return Err(ApiError::field("tool", "is missing; or give a `method`")),
            (None, Some(method)) => method,
        };
        Ok(match Class::of(method) {
            Class::Tool => tool(needed()?),
            Class::Resource => data(Data::Resource, needed()?),
            Class::Prompt => data(Data::Prompt, needed()?),
            // By what its `ref` names: a resource has a scheme, a prompt has none.
            Class::Completion => {
                let target = needed()?;
                let is_uri = target.contains(':');
                data(if is_uri { Data::Resource } else { Data::Prompt }, target)
            }
            Class::Task => data(Data::Task, needed()?),
            Class::Protocol => CallKind::Protocol,
            Class::Other => data(Data::Method, method),
        })
    }
}

impl AgentDescription {
    fn as_agent(&self) -> Result<Agent, ApiError> {
        let id = match &self.agent_id {
            Some(id) => AgentId::parse(id).ok_or_else(|| not_a_uuid("agent.agent_id"))?,
            None => AgentId::random(),
        };
        Ok(Agent {
            id,
            owner: String::new(),
            model: String::new(),
            capabilities: self.capabilities.clone(),
            trust: self.trust_level,
            active: true,
            created_at: Timestamp(0),
            expires_at: None,
            registered_by: None,
        })
    }
}

impl SessionDescription {
    fn check(&self) -> Result<(), ApiError> {
        check::intent("declared_intent", &self.declared_intent)?;
        check::names("authorized_tools", &self.authorized_tools, MAX_NAMES)?;
        check::within("calls_made", self.calls_made, 0, MAX_CALL_BUDGET)?;
        self.terms.check()
    }
}
