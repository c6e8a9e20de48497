//! Policies: what would be decided and why, whether a file is right, and reading the files again.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Admin;
use super::body::parse;
use super::check::{self, MAX_CAPABILITIES};
use super::error::{ApiError, Code, Mistake};
use super::routes::{Answer, Input, not_a_uuid};
use crate::firewall::agent::{Agent, AgentId, Principal, TrustLevel};
use crate::firewall::call::Place;
use crate::firewall::delegation::Lapse;
use crate::firewall::policy::{
    Asked, Effect, Facts, PolicySet, Source, Target, TraceEntry, json_schema,
};
use crate::firewall::time::Timestamp;
use crate::json::{Doc, Kind};
use crate::reload::{NotReloaded, Trigger};

/// Longest tool name, URI or method that is asked about, in bytes.
const MAX_TARGET_BYTES: usize = 4_096;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ExplainPolicy")]
pub struct Explain {
    /// A registered agent, as the delegations above it leave it now; or describe one as `agent`.
    #[schemars(extend("format" = "uuid"))]
    agent_id: Option<String>,
    agent: Option<AgentDescription>,
    /// For whom the agent acts; its owner unless given.
    principal: Option<PrincipalDescription>,
    /// Of the session; without one there is no intent.
    declared_intent: Option<String>,
    /// The tool that is called; or give `method` and `target`.
    tool: Option<String>,
    method: Option<String>,
    /// The resource's URI, the prompt's or the tool's name that the method is about.
    target: Option<String>,
    /// The configured name of the upstream that has the tool; without one, what policies say of
    /// `name:tool` is left out.
    upstream: Option<String>,
    /// Of the tool call.
    #[expect(dead_code, reason = "read from the body's own text, which keeps every digit")]
    arguments: Option<Map<String, Value>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AgentDescription {
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

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PolicyExplanation")]
pub struct Explained {
    /// `deny` also when no policy matches.
    decision: Effect,
    /// The policy that spoke; `null` when none matches.
    matched_policy: Option<Arc<str>>,
    /// Every policy that was considered, best rank first, then those that do not name the target.
    trace: Vec<TraceEntry>,
    /// How many of the latter were left out.
    left_out: usize,
    policy_version: String,
    /// Why the agent may not act at all, if so; then no policy is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_inactive: Option<String>,
}

impl Explained {
    /// Whatever the policies say, an agent that may not act is refused before they are asked.
    fn of_lapsed(admin: &Admin, body: &Explain, lapse: Lapse) -> Result<Self, ApiError> {
        body.target(&admin.settings.upstreams)?;
        Ok(Self {
            decision: Effect::Deny,
            matched_policy: None,
            trace: Vec::new(),
            left_out: 0,
            policy_version: admin.rulebook.rules().policies.version().to_owned(),
            agent_inactive: Some(lapse.to_string()),
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ValidatePolicy")]
pub struct Validate {
    /// The text of a policy file.
    toml: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PolicyValidation")]
pub struct Validated {
    valid: bool,
    policies_count: usize,
    errors: Vec<Mistake>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PolicyReload")]
pub struct Reloaded {
    policies_count: usize,
    policy_version: String,
}

pub(super) async fn explain(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let body: Explain = input.json()?;
    body.check()?;
    let agent = match &body.agent_id {
        None => body.described_agent()?,
        Some(_) if body.agent.is_some() => {
            return Err(ApiError::field("agent", "is given beside `agent_id`"));
        }
        Some(id) => {
            let id = AgentId::parse(id).ok_or_else(|| not_a_uuid("agent_id"))?;
            let acting = admin.registry.acting(id, admin.clock.now().wall);
            let unknown = || ApiError::not_found("agent").of_field("agent_id");
            match acting.ok_or_else(unknown)?.agent {
                Ok(agent) => Agent::clone(&agent),
                Err(lapse) => return Answer::of(&Explained::of_lapsed(&admin, &body, lapse)?),
            }
        }
    };
    let known = &admin.settings.upstreams;
    if let Some(name) = &body.upstream
        && !known.iter().any(|known| **known == **name)
    {
        return Err(ApiError::field("upstream", "is not the name of a configured upstream"));
    }
    Answer::of(&explained(&admin.rulebook.rules().policies, &body, known, &agent, &input.body)?)
}

/// What `POST /policy/explain` would say with these policies, without a running Arbiter.
pub fn explain_offline(policies: &PolicySet, body: &[u8]) -> Result<Value, ApiError> {
    let request: Explain = parse(body)?;
    request.check()?;
    if request.agent_id.is_some() {
        let problem = "is known to a running Arbiter only; describe the `agent` instead";
        return Err(ApiError::field("agent_id", problem));
    }
    let agent = request.described_agent()?;
    // Which other names stand before tools is known to a running Arbiter only; they matter to none.
    let known: Vec<Box<str>> = request.upstream.as_deref().map(Box::from).into_iter().collect();
    serde_json::to_value(explained(policies, &request, &known, &agent, body)?)
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))
}

/// `bytes` are the request's own text: arguments taken from there keep every digit.
fn explained(
    policies: &PolicySet,
    body: &Explain,
    upstreams: &[Box<str>],
    agent: &Agent,
    bytes: &[u8],
) -> Result<Explained, ApiError> {
    let principal = body.principal(agent);
    let doc = Doc::parse(bytes)
        .map_err(|error| ApiError::new(Code::MalformedRequest, error.to_string()))?;
    let arguments = doc.root().get("arguments").filter(|value| value.kind() == Kind::Object);
    let intent = body.declared_intent.as_deref();
    let facts = Facts { agent, principal: &principal, intent };
    let policy_version = policies.version().to_owned();
    Ok(if let Some(target) = body.target(upstreams)? {
        let told = policies.explain(&facts, &Asked { target, arguments });
        Explained {
            decision: told.decision.unwrap_or(Effect::Deny),
            matched_policy: told.matched,
            trace: told.trace,
            left_out: told.left_out,
            policy_version,
            agent_inactive: None,
        }
    } else {
        // Protocol methods need some allow policy for this caller, whatever it allows.
        let found = policies.any_allow(&facts);
        Explained {
            decision: found.map_or(Effect::Deny, |_| Effect::Allow),
            matched_policy: found.map(|policy| Arc::clone(&policy.id)),
            trace: Vec::new(),
            left_out: 0,
            policy_version,
            agent_inactive: None,
        }
    })
}

impl Explain {
    fn check(&self) -> Result<(), ApiError> {
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
            check::names("principal.groups", &principal.groups, check::MAX_NAMES)?;
            check::names("principal.scopes", &principal.scopes, check::MAX_NAMES)?;
        }
        Ok(())
    }

    fn described_agent(&self) -> Result<Agent, ApiError> {
        let missing = || ApiError::field("agent_id", "is missing; or describe an `agent`");
        self.agent.as_ref().ok_or_else(missing)?.as_agent()
    }

    fn principal(&self, agent: &Agent) -> Principal {
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

    /// What the call touches; none for a protocol method.
    fn target<'a>(&'a self, upstreams: &'a [Box<str>]) -> Result<Option<Target<'a>>, ApiError> {
        let tool = |name| match self.upstream.as_deref() {
            None => Target::Tool(name),
            upstream => Target::ToolAt(Place { upstream, known: upstreams }, name),
        };
        let needed = || {
            self.target
                .as_deref()
                .ok_or_else(|| ApiError::field("target", "is missing; the method needs one"))
        };
        let method = match (&self.tool, self.method.as_deref()) {
            (Some(name), None) => return Ok(Some(tool(name))),
            (Some(_), Some(_)) => {
                return Err(ApiError::field("tool", "is given beside `method`"));
            }
            (None, None) => return Err(ApiError::field("tool", "is missing; or give a `method`")),
            (None, Some(method)) => method,
        };
        Ok(match method {
            "tools/call" => Some(tool(needed()?)),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                Some(Target::Resource(needed()?))
            }
            "prompts/get" => Some(Target::Prompt(needed()?)),
            // By what its `ref` names: a resource has a scheme, a prompt has none.
            "completion/complete" => {
                let target = needed()?;
                let is_uri = target.contains(':');
                Some(if is_uri { Target::Resource(target) } else { Target::Prompt(target) })
            }
            "initialize"
            | "ping"
            | "server/discover"
            | "logging/setLevel"
            | "tools/list"
            | "resources/list"
            | "resources/templates/list"
            | "prompts/list" => None,
            other if other.starts_with("notifications/") => None,
            other => Some(Target::Method(other)),
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
        })
    }
}

pub(super) async fn validate(_admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let body: Validate = input.json()?;
    let parsed = PolicySet::parse(&[Source { name: "toml", text: &body.toml }]);
    let validated = match parsed {
        Ok(set) => Validated { valid: true, policies_count: set.len(), errors: Vec::new() },
        Err(errors) => Validated {
            valid: false,
            policies_count: 0,
            errors: errors.into_iter().map(Mistake::from).collect(),
        },
    };
    Answer::of(&validated)
}

pub(super) async fn reload(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let role = input.actor.role_text();
    let reloaded = admin.reloader.policies(Trigger::Api, input.actor.as_author(&role)).await;
    let rules = reloaded.map_err(|error| match error {
        NotReloaded::Mistakes(error) => {
            let errors = error.mistakes().into_iter().map(Mistake::from).collect();
            let message = "the policy files have mistakes; the old set stays in force";
            ApiError::new(Code::PolicyInvalid, message).with_mistakes(errors)
        }
        NotReloaded::Unrecorded(error) => {
            let message = format!("{error}, so the old set stays in force; try again when it is");
            ApiError::new(Code::AuditUnavailable, message).retry_after(1)
        }
        NotReloaded::BrokenOff => ApiError::new(Code::Internal, error.to_string()),
    })?;
    Answer::of(&Reloaded {
        policies_count: rules.policies.len(),
        policy_version: rules.policies.version().to_owned(),
    })
}

pub(super) async fn schema(_admin: Arc<Admin>, _input: Input) -> Result<Answer, ApiError> {
    Ok(Answer::Json(json_schema()))
}
