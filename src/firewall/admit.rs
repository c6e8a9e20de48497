//! The decision on one message, in one function whose lines are the checks in order.

use std::sync::Arc;

use smallvec::SmallVec;

use super::agent::Caller;
use super::call::{Call, CallKind, Data, Place};
use super::checks::{budget, drift, rate, sensitivity, whitelist};
use super::denial::{Code, Denial};
use super::policy::{Asked, Decision, Facts, Target};
use super::rules::{Rules, Terms};
use super::session::{Usage, WorkOrder};
use super::shared::RateShort;
use super::time::{Mono, Now};

/// A session as the decision sees it.
pub struct Session<'s> {
    pub order: &'s WorkOrder,
    pub usage: &'s mut Usage,
    pub deadline: Mono,
}

/// What a decision comes to.
#[derive(Debug)]
pub enum Decided {
    Verdict(Verdict),
    /// The budget covers the calls, but what is leased of it does not: lease more and ask again.
    LeaseFirst,
}

/// What came of it, and what is to be remembered.
#[derive(Debug)]
pub struct Verdict {
    pub outcome: Result<(), Denial>,
    /// The policy that decided, if one did.
    pub policy: Option<Arc<str>>,
    /// For the record: every finding of the drift check.
    pub flags: Vec<&'static str>,
    /// How many of them count against the agent's trust.
    pub counted_flags: u32,
}

/// Why the checks stopped.
enum Stop {
    Denied(Denial),
    LeaseFirst,
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// Judges `calls`, all of them or none, and counts what passed the session's checks.
pub fn admit(
    rules: &Rules,
    caller: &Caller,
    session: Option<Session<'_>>,
    calls: &[Call<'_>],
    place: Place<'_>,
    now: Now,
) -> Decided {
    let mut verdict =
        Verdict { outcome: Ok(()), policy: None, flags: Vec::new(), counted_flags: 0 };
    match checks(rules, caller, session, calls, place, now, &mut verdict) {
        Ok(()) => {}
        Err(Stop::Denied(denial)) => verdict.outcome = Err(denial),
        Err(Stop::LeaseFirst) => return Decided::LeaseFirst,
    }
    Decided::Verdict(verdict)
}

fn checks(
    rules: &Rules,
    caller: &Caller,
    session: Option<Session<'_>>,
    calls: &[Call<'_>],
    place: Place<'_>,
    now: Now,
    verdict: &mut Verdict,
) -> Result<(), Stop> {
    let order = session.as_ref().map(|session| session.order);
    let facts = Facts {
        agent: &caller.agent,
        principal: &caller.principal,
        intent: order.map(|order| order.declared_intent.as_ref()),
    };
    let judged: Judged<'_> =
        calls.iter().map(|call| (call, decide(rules, &facts, call, place))).collect();
    if let Some(session) = session {
        within_session(&rules.terms, caller, session, &judged, place, now)?;
    }
    verdict.policy = judged.iter().find_map(|(_, d)| d.policy()).map(|p| p.id.clone());
    for (call, decision) in &judged {
        allowed(rules, &facts, call, decision, place).inspect_err(|_denial| {
            verdict.policy = decision.policy().map(|p| p.id.clone());
        })?;
    }
    match order {
        Some(order) => Ok(fits_intent(&rules.terms, order, calls, place, verdict)?),
        None => Ok(()),
    }
}

/// The calls, each with what the policies say of it.
type Judged<'r> = SmallVec<[(&'r Call<'r>, Decision<'r>); 1]>;

/// The session's own checks; what passes them is counted.
fn within_session(
    terms: &Terms,
    caller: &Caller,
    session: Session<'_>,
    judged: &Judged<'_>,
    place: Place<'_>,
    now: Now,
) -> Result<(), Stop> {
    let Session { order, usage, deadline } = session;
    active(usage, deadline, now)?;
    if order.agent != caller.agent.id {
        return Err(not_the_agent().into());
    }
    for (call, _) in judged {
        granted(terms, order, call, place)?;
    }
    for (call, decision) in judged {
        within_ceiling(order, call, decision)?;
    }
    let price = price(judged.iter().map(|(call, _)| *call));
    if price == 0 {
        return Ok(());
    }
    if let Err(spent) = afford(usage, order, price) {
        let regain = usage.may_regain(now.mono);
        return Err(if regain { Stop::LeaseFirst } else { spent.into() });
    }
    if let Some(limit) = order.rate_limit {
        within_rate(usage, limit, terms.rate_window_secs, price, now.mono)?;
    }
    budget::count(usage, price, order.rate_limit.is_some(), now.mono)
        .map_err(|budget::NotBooked| Stop::LeaseFirst)
}

fn not_the_agent() -> Denial {
    Denial::new(
        Code::AgentMismatch,
        "this session belongs to another agent: use a session that was opened for you",
    )
}

fn within_ceiling(
    order: &WorkOrder,
    call: &Call<'_>,
    decision: &Decision<'_>,
) -> Result<(), Denial> {
    let Decision::Allow(policy) = decision else { return Ok(()) };
    if matches!(call.kind, CallKind::Protocol)
        || sensitivity::reaches(order.ceiling, policy.data_sensitivity)
    {
        return Ok(());
    }
    Err(Denial::new(
        Code::SensitivityExceeded,
        "this call reaches data above the session's data_sensitivity: ask your operator for a \
         session with a higher one",
    )
    .with("data_sensitivity", order.ceiling.as_str()))
}

/// How many calls a message costs: its tool calls.
pub fn price<'c>(calls: impl IntoIterator<Item = &'c Call<'c>>) -> u64 {
    let tools = calls.into_iter().filter(|c| matches!(c.kind, CallKind::Tool { .. })).count();
    u64::try_from(tools).unwrap_or(u64::MAX)
}

fn active(usage: &Usage, deadline: Mono, now: Now) -> Result<(), Denial> {
    if usage.closed {
        return Err(Denial::new(
            Code::SessionClosed,
            "this session was closed: ask your operator for a new one",
        ));
    }
    if now.mono >= deadline {
        return Err(Denial::new(
            Code::SessionExpired,
            "this session's time limit has passed: ask your operator for a new one",
        ));
    }
    Ok(())
}

/// Whether the session lists what the call touches.
fn granted(
    terms: &Terms,
    order: &WorkOrder,
    call: &Call<'_>,
    place: Place<'_>,
) -> Result<(), Denial> {
    match &call.kind {
        CallKind::Tool { name, .. } => {
            if whitelist::lists(&order.authorized_tools, place, name, terms.wildcard) {
                return Ok(());
            }
            Err(Denial::new(
                Code::ToolNotAuthorized,
                "this tool is not among the session's authorized_tools: use one that tools/list \
                 shows, or ask your operator for a session that includes it",
            ))
        }
        CallKind::Data { what, target } => {
            let (list, code, field) = match what {
                Data::Resource => (
                    &order.authorized_resources,
                    Code::ResourceNotAuthorized,
                    "authorized_resources",
                ),
                Data::Prompt => {
                    (&order.authorized_prompts, Code::PromptNotAuthorized, "authorized_prompts")
                }
                Data::Method => {
                    (&order.authorized_methods, Code::MethodNotAuthorized, "authorized_methods")
                }
            };
            if whitelist::lists_data(list, *what, target, terms.wildcard) {
                return Ok(());
            }
            Err(Denial::new(
                code,
                format!(
                    "this is not among the session's {field}: ask your operator for a session that includes it"
                ),
            ))
        }
        CallKind::Protocol => Ok(()),
    }
}

fn afford(usage: &Usage, order: &WorkOrder, price: u64) -> Result<(), Denial> {
    budget::afford(usage, order.call_budget, price).map_err(|short| {
        Denial::new(
            Code::BudgetExhausted,
            "the session's call budget is used up: finish, or ask your operator for a new session",
        )
        .with("budget_remaining", short.remaining)
        .with("budget_total", order.call_budget)
    })
}

/// How long a counted call may take to reach the MCP server. Calls are counted here and felt there:
/// without this a slow one and a quick one could lie closer together there than they were counted.
const ON_THE_WAY_US: u64 = 100_000;

/// How long a call counts against a rate limit of so many seconds.
pub fn rate_window_us(window_secs: u64) -> u64 {
    window_secs.saturating_mul(1_000_000).saturating_add(ON_THE_WAY_US)
}

fn within_rate(
    usage: &mut Usage,
    limit: u32,
    window_secs: u64,
    price: u64,
    now: Mono,
) -> Result<(), Stop> {
    let limited = match &usage.shared {
        Some(shared) if price <= u64::from(limit) => match shared.permit(price, now) {
            Ok(()) => return Ok(()),
            Err(RateShort::NotLeased) => return Err(Stop::LeaseFirst),
            Err(RateShort::Limited { retry_after_secs }) => {
                rate::Limited { retry_after_secs, never_fits: false }
            }
        },
        Some(_) | None => {
            match rate::admit(usage, limit, rate_window_us(window_secs), price, now) {
                Ok(()) => return Ok(()),
                Err(limited) => limited,
            }
        }
    };
    let message = if limited.never_fits {
        "this batch holds more tool calls than the session's rate limit allows in one window: send \
         fewer at once"
    } else {
        "too many tool calls in this window: wait as long as Retry-After says"
    };
    // What is on the way is nobody's concern: after a whole window there is room.
    let retry_after_secs = limited.retry_after_secs.min(window_secs);
    let denial = Denial::new(Code::RateLimited, message)
        .retry_after(retry_after_secs)
        .with("retry_after_secs", retry_after_secs)
        .with("rate_limit", limit)
        .with("rate_limit_window_secs", window_secs);
    Err(denial.into())
}

fn decide<'r>(
    rules: &'r Rules,
    facts: &Facts<'_>,
    call: &Call<'_>,
    place: Place<'_>,
) -> Decision<'r> {
    match asked(call, place) {
        Some(asked) => rules.policies.evaluate(facts, &asked),
        None => match rules.policies.any_allow(facts) {
            Some(policy) => Decision::Allow(policy),
            None => Decision::NoMatch,
        },
    }
}

/// What a call asks of the policies; nothing for protocol messages.
fn asked<'c>(call: &'c Call<'c>, place: Place<'c>) -> Option<Asked<'c>> {
    match &call.kind {
        CallKind::Tool { name, arguments } => {
            Some(Asked::of(Target::ToolAt(place, name)).with_arguments(*arguments))
        }
        CallKind::Data { what, target } => {
            let target = match what {
                Data::Resource => Target::Resource(target),
                Data::Prompt => Target::Prompt(target),
                Data::Method => Target::Method(target),
            };
            Some(Asked::of(target))
        }
        CallKind::Protocol => None,
    }
}

fn allowed(
    rules: &Rules,
    facts: &Facts<'_>,
    call: &Call<'_>,
    decision: &Decision<'_>,
    place: Place<'_>,
) -> Result<(), Denial> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(_) => Err(Denial::new(
            Code::PolicyDenied,
            "a policy forbids this call: do not retry it as it is",
        )),
        Decision::Escalate(_) => Err(Denial::new(
            Code::EscalationRequired,
            "this call needs a person's approval: report the escalation_id to your operator",
        )),
        Decision::NoMatch => {
            let missing =
                asked(call, place).and_then(|asked| rules.policies.missing_scopes(facts, &asked));
            Err(match missing {
                Some(scopes) => Denial::new(
                    Code::InsufficientScope,
                    "the token lacks a scope that this call needs: ask for a token that has it",
                )
                .with("scope", scopes.join(" ")),
                None => Denial::new(
                    Code::PolicyDenied,
                    "no policy allows this call for this agent, intent and these arguments: \
                     change the call, or ask your operator",
                ),
            })
        }
    }
}

/// Compares what is done with what was declared.
fn fits_intent(
    terms: &Terms,
    order: &WorkOrder,
    calls: &[Call<'_>],
    place: Place<'_>,
    verdict: &mut Verdict,
) -> Result<(), Denial> {
    let mut refused = false;
    for call in calls {
        let CallKind::Tool { name, .. } = &call.kind else { continue };
        let finding = drift::judge(
            order.intent_tier,
            terms.tools.does(place, name),
            terms.unknown_intent,
            terms.escalate_anomalies,
        );
        if let Some(flag) = finding.flag
            && !verdict.flags.contains(&flag)
        {
            verdict.flags.push(flag);
        }
        verdict.counted_flags = verdict.counted_flags.saturating_add(u32::from(finding.counts));
        refused |= finding.refuse;
    }
    if refused {
        return Err(Denial::new(
            Code::DriftDetected,
            "this call goes beyond the session's declared intent: keep to it, or ask your operator \
             for a session that declares what you need",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
