use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::firewall::agent::{AgentId, Caller};
use crate::firewall::call::UpstreamRef;
use crate::firewall::checks::continuation::RequestState;
use crate::firewall::checks::session::{AgentHeader, Seen};
use crate::firewall::checks::task::Owned;
use crate::firewall::delegation::Lapse;
use crate::firewall::denial::Code;
use crate::firewall::freeze::{Freeze, Freezes, Frozen, Held, Scope};
use crate::firewall::granted::Grants;
use crate::firewall::policy::PolicySet;
use crate::firewall::rules::Rules;
use crate::firewall::session::{IntentTier, WorkOrder};
use crate::firewall::terms::Terms;
use crate::firewall::time::{Mono, Timestamp};
use crate::json::Doc;
use crate::mcp::message;
use crate::testkit;

const NOW: Now = Now { wall: Timestamp(1_000_000), mono: Mono(1_000_000) };

const POLICIES: &str = r#"
[[policies]]
id = "reads"
effect = "allow"
allowed_tools = ["read_file", "write_file", "secret_file", "delete_file"]
allowed_resources = ["file:///a/*"]
[[policies]]
id = "restricted"
effect = "allow"
priority = 1000
allowed_tools = ["secret_file"]
data_sensitivity = "restricted"
[[policies]]
id = "never"
effect = "deny"
allowed_tools = ["delete_file"]
priority = 1000
[[policies]]
id = "ask"
effect = "escalate"
allowed_tools = ["pay"]
"#;

/// A case to decide, everything in order unless a test spoils it.
struct Case {
    rules: Rules,
    freezes: Freezes,
    caller: Caller,
    order: WorkOrder,
    usage: Usage,
    deadline: Mono,
    header: AgentHeader,
    /// No session is claimed, an unknown one, or a known one.
    claimed: Option<bool>,
    chain: Result<(), Lapse>,
    /// The tool of the task that the session owns.
    task: Option<&'static str>,
    state: RequestState,
    /// The tools that the order law calls: one that reads and one that writes, and what spoils it.
    tools: Vec<&'static str>,
}

impl Case {
    fn new() -> Self {
        let rules = Rules {
            policies: testkit::policies(POLICIES),
            terms: Terms { escalate_anomalies: true, ..Terms::default() },
        };
        let caller = testkit::caller(testkit::agent(AgentId::random()));
        let order = WorkOrder {
            declared_intent: "write the report".into(),
            intent_tier: IntentTier::Write,
            grants: Arc::new(Grants {
                tools: testkit::names(&[
                    "read_file",
                    "write_file",
                    "secret_file",
                    "delete_file",
                    "pay",
                    "other",
                ]),
                resources: testkit::names(&["file:///a/*"]),
                ..Grants::default()
            }),
            call_budget: 10,
            rate_limit: Some(5),
            ..testkit::order(caller.agent.id)
        };
        let usage = Usage { booked: 10, ..Usage::default() };
        let header = AgentHeader::Is(caller.agent.id);
        let (deadline, claimed, chain) = (Mono(u64::MAX), Some(true), Ok(()));
        let tools = vec!["read_file", "write_file"];
        let freezes = Freezes::default();
        let (task, state) = (None, RequestState::Absent);
        Self {
            rules,
            freezes,
            caller,
            order,
            usage,
            deadline,
            header,
            claimed,
            chain,
            task,
            state,
            tools,
        }
    }

    /// Decides as the gate does, but for leases; gives `None` if one is needed.
    fn decide(&mut self, body: &str) -> Option<Verdict> {
        self.traced(body, &mut ())
    }

    fn traced(&mut self, body: &str, trace: &mut impl Trace) -> Option<Verdict> {
        let doc = Doc::parse(body.as_bytes()).unwrap();
        let message = message::read(&doc).unwrap();
        let price = price(&message.calls);
        let seen = Seen::of(&self.rules.terms, &self.order, &mut self.usage, price, NOW);
        let claimed = match self.claimed {
            None => Claimed::Nothing,
            Some(false) => Claimed::Unknown,
            Some(true) => Claimed::Found(Found {
                order: &self.order,
                deadline: self.deadline,
                seen,
                chain: self.chain,
            }),
        };
        let tasks: Vec<_> = self.task.map(|tool| Owned { id: "t-1", tool }).into_iter().collect();
        let ask = Ask {
            policies: &self.rules.policies,
            terms: &self.rules.terms,
            frozen: Frozen::alone(&self.freezes),
            caller: &self.caller,
            header: self.header,
            claimed,
            calls: &message.calls,
            tasks: &tasks,
            state: self.state,
            upstream: UpstreamRef::default(),
            now: NOW,
        };
        let known = ask.claimed.found().is_some();
        admit(ask, known.then_some(&mut self.usage), trace)
    }

    fn verdict(&mut self, body: &str) -> Verdict {
        self.decide(body).expect("no lease is needed")
    }

    fn code(&mut self, body: &str) -> Option<Code> {
        let verdict = self.verdict(body);
        let outcome = verdict.outcome.and_then(|()| settle(&verdict.escalations, &mut ()));
        outcome.err().map(|denial| denial.code)
    }
}

fn call(tool: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#)
}

fn method(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

fn batch(tools: &[&str]) -> String {
    let calls: Vec<_> = tools
        .iter()
        .enumerate()
        .map(|(id, tool)| call(tool).replace("\"id\":1", &format!("\"id\":{id}")))
        .collect();
    format!("[{}]", calls.join(","))
}

#[test]
fn an_allowed_call_is_counted_once_and_names_its_policy() {
    let mut case = Case::new();
    let verdict = case.verdict(&call("read_file"));
    assert_eq!(verdict.outcome, Ok(()));
    assert_eq!(verdict.policy.as_deref(), Some("reads"));
    assert_eq!((case.usage.calls_made, case.usage.recent.total()), (1, 1));
}

#[test]
fn what_fails_before_the_counter_spends_nothing_and_what_fails_behind_it_does() {
    for (tool, code, spent) in [
        ("unlisted", Code::ToolNotAuthorized, 0),
        ("secret_file", Code::SensitivityExceeded, 0),
        ("other", Code::PolicyDenied, 1),
        ("delete_file", Code::PolicyDenied, 1),
        ("pay", Code::EscalationRequired, 1),
    ] {
        let mut case = Case::new();
        assert_eq!(case.code(&call(tool)), Some(code), "{tool}");
        assert_eq!(case.usage.calls_made, spent, "{tool}");
    }
}

#[test]
fn a_batch_passes_whole_or_not_at_all() {
    let mut case = Case::new();
    assert_eq!(case.code(&batch(&["read_file", "unlisted"])), Some(Code::ToolNotAuthorized));
    assert_eq!(case.code(&batch(&["read_file"; 6])), Some(Code::RateLimited));
    assert_eq!(case.usage.calls_made, 0);
    assert_eq!(case.code(&batch(&["read_file", "delete_file"])), Some(Code::PolicyDenied));
    assert_eq!(case.usage.calls_made, 2);
    assert_eq!(case.code(&batch(&["read_file"; 3])), None);
    assert_eq!(case.usage.calls_made, 5);
}

#[test]
fn a_task_needs_its_owner_and_its_tool_and_costs_nothing() {
    let check = |task, expected: Option<Code>, change: &dyn Fn(&mut Case)| {
        let mut case = Case::new();
        case.task = task;
        change(&mut case);
        for name in ["tasks/get", "tasks/update", "tasks/cancel", "tasks/result"] {
            let found = case.code(&method(name, r#"{"taskId":"t-1"}"#));
            assert_eq!(found, expected, "{name} {task:?}");
        }
        assert_eq!(case.usage.calls_made, 0);
    };
    let unknown = Some(Code::TaskUnknown);
    check(Some("read_file"), None, &|_| ());
    check(None, unknown, &|_| ());
    check(Some("unlisted"), unknown, &|_| ());
    check(Some("secret_file"), unknown, &|_| ());
    check(Some("read_file"), unknown, &|case| case.rules.policies = PolicySet::empty());
    check(Some("read_file"), Some(Code::SessionUnknown), &|case| case.claimed = Some(false));
    check(Some("read_file"), Some(Code::SessionRequired), &|case| {
        (case.claimed, case.header) = (None, AgentHeader::Absent);
    });
    check(Some("read_file"), unknown, &|case| {
        (case.claimed, case.header) = (None, AgentHeader::Absent);
        (case.rules.terms.require_session, case.task) = (false, None);
    });
}

#[test]
fn data_and_protocol_messages_cost_nothing_and_need_their_own_grant() {
    let mut case = Case::new();
    let read = |uri: &str| method("resources/read", &format!(r#"{{"uri":"{uri}"}}"#));
    assert_eq!(case.code(&read("file:///a/b")), None);
    assert_eq!(case.code(&read("file:///a/../b")), Some(Code::ResourceNotAuthorized));
    assert_eq!(case.code(&read("file:///b")), Some(Code::ResourceNotAuthorized));
    assert_eq!(
        case.code(&method("prompts/get", r#"{"name":"p"}"#)),
        Some(Code::PromptNotAuthorized)
    );
    assert_eq!(case.code(&method("tasks/other", "{}")), Some(Code::MethodNotAuthorized));
    assert_eq!(case.code(&method("tools/list", "{}")), None);
    assert_eq!(case.usage.calls_made, 0);
    case.rules.policies = PolicySet::empty();
    assert_eq!(case.code(&method("tools/list", "{}")), Some(Code::PolicyDenied));
}

#[test]
fn what_is_not_leased_is_leased_before_it_is_counted() {
    let mut case = Case::new();
    case.usage.booked = 0;
    assert!(case.decide(&call("read_file")).is_none());
    assert_eq!(case.usage.calls_made, 0);
    case.usage = Usage { booked: 10, calls_made: 10, ..Usage::default() };
    assert_eq!(case.code(&call("read_file")), Some(Code::BudgetExhausted));
}

#[test]
fn a_state_goes_on_only_where_it_was_handed_out_and_counts_no_flag_again() {
    let mut case = Case::new();
    case.rules.terms.escalate_anomalies = false;
    case.order.intent_tier = IntentTier::Read;
    case.order.declared_intent = "read the report".into();
    let flags = |verdict: Verdict| (verdict.outcome.is_ok(), verdict.flags, verdict.counted_flags);
    assert_eq!(flags(case.verdict(&call("write_file"))), (true, vec!["write_under_read"], 1));
    case.state = RequestState::Ours;
    assert_eq!(flags(case.verdict(&call("write_file"))), (true, vec!["write_under_read"], 0));
    assert_eq!(case.usage.calls_made, 2, "each round is a call");
    case.state = RequestState::Unknown;
    assert_eq!(case.code(&call("write_file")), Some(Code::ContinuationUnknown));
    case.claimed = None;
    case.rules.terms.require_session = false;
    assert_eq!(case.code(&call("write_file")), Some(Code::ContinuationUnknown));
    assert_eq!(case.usage.calls_made, 2, "a state of nobody costs no call");
}

#[test]
fn drift_is_refused_or_flagged_and_counts() {
    let mut case = Case::new();
    case.order.intent_tier = IntentTier::Read;
    case.order.declared_intent = "read the report".into();
    let verdict = case.verdict(&batch(&["write_file", "write_file"]));
    assert_eq!(verdict.outcome.unwrap_err().code, Code::DriftDetected);
    assert_eq!((verdict.flags.len(), verdict.counted_flags), (1, 2));
    case.rules.terms.escalate_anomalies = false;
    let verdict = case.verdict(&call("write_file"));
    assert_eq!(verdict.outcome, Ok(()));
    assert_eq!(verdict.counted_flags, 1);
}

#[test]
fn a_call_without_a_session_is_judged_by_policy_alone() {
    let mut case = Case::new();
    case.rules.terms.require_session = false;
    case.claimed = None;
    case.header = AgentHeader::Absent;
    assert_eq!(case.code(&call("read_file")), None);
    assert_eq!(case.code(&call("other")), Some(Code::PolicyDenied));
    assert_eq!(case.code(&call("delete_file")), Some(Code::PolicyDenied));
    assert_eq!(case.usage.calls_made, 0);
    case.header = AgentHeader::Malformed;
    assert_eq!(case.code(&call("read_file")), Some(Code::AgentMismatch));
}

#[test]
fn a_refusal_names_the_policy_that_led_to_it() {
    let mut case = Case::new();
    let policy = |case: &mut Case, body: &str| case.verdict(body).policy;
    assert_eq!(policy(&mut case, &call("secret_file")).as_deref(), Some("restricted"));
    let both = batch(&["read_file", "secret_file"]);
    assert_eq!(policy(&mut case, &both).as_deref(), Some("restricted"));
    assert_eq!(policy(&mut case, &batch(&["read_file", "delete_file"])).as_deref(), Some("never"));
    assert_eq!(policy(&mut case, &batch(&["read_file", "pay"])).as_deref(), Some("ask"));
    assert_eq!(policy(&mut case, &call("unlisted")), None);
}

#[test]
fn an_escalation_is_answered_after_everything_else() {
    let mut case = Case::new();
    let verdict = case.verdict(&batch(&["pay", "read_file"]));
    assert_eq!(verdict.outcome, Ok(()));
    let asked: Vec<_> = verdict.escalations.iter().map(|one| (one.call, &*one.policy)).collect();
    assert_eq!(asked, [(0, "ask")]);
    assert_eq!(case.usage.calls_made, 2);
    // A policy that forbids another call of the batch, or drift, is not put before a person.
    assert_eq!(case.code(&batch(&["pay", "delete_file"])), Some(Code::PolicyDenied));
    case.order.intent_tier = IntentTier::Read;
    assert_eq!(case.code(&call("pay")), Some(Code::DriftDetected));
}

fn frozen(agent: AgentId) -> Held {
    let freeze = Freeze {
        id: uuid::Uuid::nil(),
        scope: Scope::Agent(agent),
        reason: "an incident".into(),
        by: "ops".into(),
        frozen_at: NOW.wall,
        until: None,
    };
    Held::new(Arc::new(freeze), NOW)
}

/// A way to spoil a message. The order is the one in which the checks answer.
type Spoiler = (Code, fn(&mut Case));

const SPOILERS: &[Spoiler] = &[
    (Code::Frozen, |case| case.freezes = Freezes::of([frozen(case.caller.agent.id)])),
    (Code::SessionRequired, |case| case.claimed = None),
    (Code::AgentIdRequired, |case| case.header = AgentHeader::Absent),
    (Code::SessionUnknown, |case| case.claimed = case.claimed.map(|_known| false)),
    (Code::SessionClosed, |case| case.usage.closed = true),
    (Code::SessionExpired, |case| case.deadline = NOW.mono),
    (Code::AgentMismatch, |case| case.order.agent = AgentId::random()),
    (Code::ContinuationUnknown, |case| case.state = RequestState::Unknown),
    (Code::AgentInactive, |case| case.chain = Err(Lapse::Above)),
    (Code::ToolNotAuthorized, |case| case.tools.push("unlisted")),
    (Code::BudgetExhausted, |case| case.order.call_budget = 0),
    (Code::RateLimited, |case| case.order.rate_limit = Some(0)),
    (Code::SensitivityExceeded, |case| case.tools.push("secret_file")),
    (Code::PolicyDenied, |case| case.tools.push("delete_file")),
    (Code::DriftDetected, |case| case.order.intent_tier = IntentTier::Read),
    (Code::EscalationRequired, |case| case.tools.push("pay")),
];

/// Steps that refused.
#[derive(Default)]
struct Refusing(Vec<Step>);

impl Trace for Refusing {
    fn step(&mut self, step: Step, result: Result<(), Denial>) -> Result<(), Denial> {
        if result.is_err() {
            self.0.push(step);
        }
        result
    }
}

#[test]
fn every_step_of_the_decision_is_spoilt_in_its_order() {
    let mut refused = Vec::new();
    for &(code, spoil) in SPOILERS {
        let (mut case, mut steps) = (Case::new(), Refusing::default());
        spoil(&mut case);
        let verdict = case.traced(&batch(&case.tools.clone()), &mut steps).expect("no lease");
        let _settled = settle(&verdict.escalations, &mut steps);
        assert_eq!(steps.0.len(), 1, "{code:?}");
        refused.extend(steps.0);
    }
    refused.dedup();
    // Spending fails only where another request has spent since the look, and the gate resolves credentials.
    let elsewhere = [Step::Spend, Step::Credentials];
    let wanted: Vec<_> = Step::ALL.into_iter().filter(|step| !elsewhere.contains(step)).collect();
    assert_eq!(refused, wanted, "give each step a spoiler, in the order of the steps");
}

proptest! {
    /// Any set of faults together: the first check in order answers; what passed the session's
    /// checks is counted, and nothing else.
    #[test]
    fn the_first_check_that_fails_answers(
        wrong in proptest::collection::hash_set(0..SPOILERS.len(), 0..SPOILERS.len()),
    ) {
        let wrong: HashSet<usize> = wrong;
        let mut case = Case::new();
        for &n in &wrong {
            SPOILERS[n].1(&mut case);
        }
        let first = wrong.iter().min().map(|&n| SPOILERS[n].0);
        let message = batch(&case.tools.clone());
        prop_assert_eq!(case.code(&message), first);
        let behind = [Code::PolicyDenied, Code::DriftDetected, Code::EscalationRequired];
        let counted = first.is_none_or(|first| behind.contains(&first));
        let calls = u64::try_from(case.tools.len()).unwrap();
        prop_assert_eq!(case.usage.calls_made, if counted { calls } else { 0 });
    }
}
