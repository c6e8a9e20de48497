//! `POST /policy/explain`: the decision on a call that was never made, step by step.
//!
//! The steps are the gateway's own. A question that names no session is answered by token and
//! policies alone, and the steps that need one say so.

mod asked;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::Admin;
use super::body::parse;
use super::endpoint::{Answer, Input, not_a_uuid};
use super::error::{ApiError, Code};
use super::record::store_failed;
use crate::credentials::{self, CredentialDenial};
use crate::firewall::agent::{Agent, AgentId, Caller};
use crate::firewall::ask::Ask;
use crate::firewall::call::{self, Call, CallKind, UpstreamRef};
use crate::firewall::checks::continuation::RequestState;
use crate::firewall::checks::drift::Keywords;
use crate::firewall::checks::session::{AgentHeader, Claimed, Found, Seen};
use crate::firewall::checks::task::Owned;
use crate::firewall::checks::{Needs, Step, agent, policy};
use crate::firewall::continuation::Continuation;
use crate::firewall::delegation::Lapse;
use crate::firewall::denial::{self, Denial};
use crate::firewall::explain::{Explained, Taken, explain as explained};
use crate::firewall::freeze::{Freezes, Frozen};
use crate::firewall::policy::{Effect, PolicySet, TraceEntry};
use crate::firewall::session::{SessionId, Usage, WorkOrder};
use crate::firewall::terms::Terms;
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::json::{Doc, Kind};
pub(crate) use asked::Explain;

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PolicyExplanation")]
pub(crate) struct Explanation {
    /// `deny` also when no policy matches.
    decision: Effect,
    /// The stage that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'static str>,
    /// The code of the refusal, as the agent would get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// The message of the refusal, as the agent would get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// The policy that decided; `null` when none did.
    matched_policy: Option<Arc<str>>,
    /// Every check, in order.
    steps: Vec<StepTaken>,
    /// Every policy that was considered, best rank first, then those that do not name the target.
    trace: Vec<TraceEntry>,
    /// Number of policies left out of the trace.
    left_out: usize,
    policy_version: String,
    /// The reason why the agent may not act at all, if so; then no policy is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_inactive: Option<String>,
}

/// One check of the decision.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ExplainedStep")]
struct StepTaken {
    step: &'static str,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// The message of a refusal, or the reason why nothing could be checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Passed,
    Refused,
    /// An earlier step refused.
    NotReached,
    /// The question does not hold what this check needs.
    NotJudged,
}

/// A question that is put to the decision, all of it looked up.
struct Question<'a> {
    policies: &'a PolicySet,
    terms: Terms,
    freezes: Arc<Freezes>,
    /// Agents that the caller acts for.
    above: Vec<Arc<Agent>>,
    caller: Caller,
    session: Option<Asked>,
    /// The task that the question is about, if the session owns it.
    task: Option<Arc<Continuation>>,
    /// Parts that the question has.
    given: Needs,
    now: Now,
}

/// A session that a question is about.
struct Asked {
    order: Arc<WorkOrder>,
    usage: Usage,
    deadline: Mono,
    chain: Result<(), Lapse>,
}

pub(super) async fn explain(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let body: Explain = input.json()?;
    body.check()?;
    let now = admin.clock.now();
    let known = &admin.settings.upstreams;
    body.check_upstream(known)?;
    let live = match &body.session_id {
        None => None,
        Some(id) => {
            let id = SessionId::parse(id).ok_or_else(|| not_a_uuid("session_id"))?;
            let live = admin.session(id).await.map_err(|error| error.of_field("session_id"))?;
            input.actor.serves_agent(admin.registry.agent(live.order.agent).as_deref())?;
            Some(live)
        }
    };
    let id = match &body.agent_id {
        Some(_) if body.agent.is_some() => {
            return Err(ApiError::field("agent", "is given together with `agent_id`"));
        }
        Some(id) => Some(AgentId::parse(id).ok_or_else(|| not_a_uuid("agent_id"))?),
        None if body.agent.is_some() => None,
        None => live.as_ref().map(|live| live.order.agent),
    };
    let rules = admin.rulebook.rules();
    let (agent, chain) = match id {
        None => {
            let agent = body.described_agent()?;
            let chain = [agent.id].into();
            (Arc::new(agent), chain)
        }
        Some(id) => {
            let unknown = || ApiError::not_found("agent").of_field("agent_id");
            let acting = admin.registry.acting(id, now.wall).ok_or_else(unknown)?;
            match acting.agent {
                Ok(agent) => (agent, acting.chain),
                Err(lapse) => {
                    body.kind(None)?;
                    return Answer::of(&Explanation::of_lapsed(lapse, rules.policies.version()));
                }
            }
        }
    };
    let caller = Caller { principal: Arc::new(body.principal(&agent)), agent, chain };
    let session = match live {
        Some(live) => Some(Asked {
            usage: live.with(|usage| usage.clone()),
            deadline: live.ends(now),
            chain: if live.order.delegation_chain == caller.chain {
                Ok(())
            } else {
                admin.registry.holds(&live.order.delegation_chain, now.wall)
            },
            order: Arc::clone(&live.order),
        }),
        None => body.described_session(&caller, &admin.settings.keywords, now)?,
    };
    let task = match (body.task(), &session) {
        (Some(id), Some(asked)) => {
            let upstream = body.upstream.as_deref();
            let marks = admin.continuations.marks_of_task(asked.order.id, upstream, id);
            let found = admin.continuations.find(&marks, &admin.clock).await;
            found.map_err(|error| store_failed(&error))?
        }
        _ => None,
    };
    let others = caller.chain.iter().filter(|&&id| id != caller.agent.id);
    let question = Question {
        policies: &rules.policies,
        terms: rules.terms.clone(),
        freezes: admin.freezer.in_force(),
        above: others.filter_map(|&id| admin.registry.agent(id)).collect(),
        caller,
        session,
        task,
        given: body.given(),
        now,
    };
    Answer::of(&question.answer(&body, &input.body)?)
}

/// Answers as `POST /policy/explain` would with these policies and the default settings, without a
/// running Arbiter.
pub fn explain_offline(policies: &PolicySet, body: &[u8]) -> Result<Value, ApiError> {
    let request: Explain = parse(body)?;
    request.check()?;
    let running = |field: &str| {
        let problem = "is known to a running Arbiter only; describe it instead";
        Err(ApiError::field(field, problem))
    };
    if request.agent_id.is_some() {
        return running("agent_id");
    }
    if request.session_id.is_some() {
        return running("session_id");
    }
    let agent = Arc::new(request.described_agent()?);
    let caller =
        Caller { principal: Arc::new(request.principal(&agent)), chain: [agent.id].into(), agent };
    let now = Now { wall: Timestamp(0), mono: Mono(0) };
    let session = request.described_session(&caller, &Keywords::default(), now)?;
    let question = Question {
        policies,
        terms: Terms::default(),
        freezes: Arc::default(),
        above: Vec::new(),
        caller,
        session,
        task: None,
        given: request.given(),
        now,
    };
    serde_json::to_value(question.answer(&request, body)?)
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))
}

impl Question<'_> {
    /// Decides. `bytes` are the request's own text: arguments taken from there keep every digit.
    fn answer(self, body: &Explain, bytes: &[u8]) -> Result<Explanation, ApiError> {
        let Self { policies, mut terms, freezes, above, caller, session, task, given, now } = self;
        let doc = Doc::parse(bytes)
            .map_err(|error| ApiError::new(Code::MalformedRequest, error.to_string()))?;
        let arguments = doc.root().get("arguments").filter(|value| value.kind() == Kind::Object);
        let kind = body.kind(arguments)?;
        let upstream = UpstreamRef { name: body.upstream.as_deref() };
        if session.is_none() {
            // The question is about the policies alone.
            terms.require_session = false;
        }
        // The question has `inputResponses` under the name that a request's parameters have them by.
        let params = Some(doc.root());
        let call = Call { method: None, id: None, params, meta: None, kind };
        let calls = std::slice::from_ref(&call);
        let price = call::price(calls);
        let mut usage = session.as_ref().map(|asked| asked.usage.clone());
        let claimed = match (&session, &mut usage) {
            (Some(asked), Some(usage)) => Claimed::Found(Found {
                order: &asked.order,
                deadline: asked.deadline,
                seen: Seen::of(&terms, &asked.order, usage, price, now),
                chain: asked.chain,
            }),
            _ => Claimed::Nothing,
        };
        let tool = task.as_deref().and_then(|task| task.tool.as_deref());
        let owned = body.task().zip(tool).map(|(id, tool)| Owned { id, tool });
        let tasks: Vec<_> = owned.into_iter().collect();
        let ask = Ask {
            policies,
            terms: &terms,
            frozen: Frozen { freezes: &freezes, above: &above },
            caller: &caller,
            header: AgentHeader::Is(caller.agent.id),
            claimed,
            calls,
            tasks: &tasks,
            state: RequestState::Absent,
            upstream,
            now,
        };
        let places: Vec<_> = arguments.into_iter().collect();
        let references = match &call.kind {
            CallKind::Tool { .. } => credentials::references(&doc, &places),
            CallKind::Data { .. } | CallKind::Protocol => Ok(Vec::new()),
        };
        let (credentials, unknown) = match references {
            Ok(references) => (Ok(()), !references.is_empty()),
            Err(misuse) => (Err(Denial::from(CredentialDenial::from(misuse))), false),
        };
        let facts = ask.facts();
        let asked =
            policy::asked(&call.kind, upstream).map(|asked| asked.with_inputs(call.inputs()));
        let told = asked.map(|asked| policies.explain(&facts, &asked));
        let explained = explained(ask, usage, credentials);
        let steps = explained.steps.iter().map(|(step, taken)| {
            let reason = if given < step.needs() {
                Some("no session is named or described")
            } else if unknown && *step == Step::Credentials {
                Some("credentials are looked up only when a call is made")
            } else {
                None
            };
            StepTaken::of(*step, taken, reason)
        });
        Ok(Explanation {
            steps: [StepTaken::agent(None)].into_iter().chain(steps).collect(),
            left_out: told.as_ref().map_or(0, |told| told.left_out),
            trace: told.map_or_else(Vec::new, |told| told.trace),
            ..Explanation::of(explained, policies.version())
        })
    }
}

impl Explanation {
    fn of(explained: Explained, version: &str) -> Self {
        let verdict = explained.verdict;
        let denial = verdict.outcome.err();
        let row = denial.as_ref().map(|denial| denial.code.row());
        Self {
            decision: match &denial {
                None => Effect::Allow,
                Some(denial) if denial.code == denial::Code::EscalationRequired => Effect::Escalate,
                Some(_) => Effect::Deny,
            },
            stage: row.map(|row| row.stage.as_str()),
            code: denial.as_ref().map(|denial| denial.code.name()),
            message: denial.map(|denial| denial.message),
            matched_policy: verdict.policy,
            steps: Vec::new(),
            trace: Vec::new(),
            left_out: 0,
            policy_version: version.to_owned(),
            agent_inactive: None,
        }
    }

    /// An agent that may not act is refused before anything else is looked at.
    fn of_lapsed(lapse: Lapse, version: &str) -> Self {
        let denial = agent::check::<()>(Some(Err(lapse))).err();
        let row = denial.as_ref().map(|denial| denial.code.row());
        let not_reached = Step::ALL.map(|step| StepTaken::of(step, &Taken::NotReached, None));
        Self {
            decision: Effect::Deny,
            stage: row.map(|row| row.stage.as_str()),
            code: denial.as_ref().map(|denial| denial.code.name()),
            message: denial.as_ref().map(|denial| denial.message.clone()),
            matched_policy: None,
            steps: [StepTaken::agent(denial)].into_iter().chain(not_reached).collect(),
            trace: Vec::new(),
            left_out: 0,
            policy_version: version.to_owned(),
            agent_inactive: Some(lapse.to_string()),
        }
    }
}

impl StepTaken {
    /// The step before all others.
    fn agent(refused: Option<Denial>) -> Self {
        let taken = refused.map_or(Taken::Passed, Taken::Refused);
        Self { step: "agent", ..Self::of(Step::Session, &taken, None) }
    }

    /// `open` is the reason why a step that passed was not judged.
    fn of(step: Step, taken: &Taken, open: Option<&str>) -> Self {
        let (outcome, code, message) = match (taken, open) {
            (Taken::Passed, Some(reason)) => (Outcome::NotJudged, None, Some(reason.to_owned())),
            (Taken::Passed, None) => (Outcome::Passed, None, None),
            (Taken::NotReached, _) => (Outcome::NotReached, None, None),
            (Taken::Refused(denial), _) => {
                (Outcome::Refused, Some(denial.code.name()), Some(denial.message.clone()))
            }
        };
        Self { step: step.as_str(), outcome, code, message }
    }
}
