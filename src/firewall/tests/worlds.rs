//! Random rules, sessions and messages, drawn so that each check has something to refuse.

use std::fmt::Write as _;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::firewall::agent::{Agent, AgentId, Caller, TrustLevel};
use crate::firewall::ask::Ask;
use crate::firewall::call::{UpstreamRef, price};
use crate::firewall::checks::continuation::RequestState;
use crate::firewall::checks::drift::{self, Keywords, UnknownIntent};
use crate::firewall::checks::session::{AgentHeader, Claimed, Found, Seen};
use crate::firewall::checks::whitelist::Wildcard;
use crate::firewall::delegation::Lapse;
use crate::firewall::denial::Code;
use crate::firewall::freeze::{Freeze, Freezes, Frozen, Held, Scope};
use crate::firewall::granted::Grants;
use crate::firewall::policy::PolicySet;
use crate::firewall::rules::Rules;
use crate::firewall::session::{Sensitivity, SessionId, Usage, WorkOrder};
use crate::firewall::terms::Terms;
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::firewall::verdict::Verdict;
use crate::json::Doc;
use crate::mcp::message::{self, Message};
use crate::testkit;

pub(super) const NOW: Now = Now { wall: Timestamp(1_000_000_000), mono: Mono(1_000_000_000) };

pub(super) const TOOLS: [&str; 5] = ["read_file", "write_file", "delete_file", "list_dir", "pay"];
pub(super) const RESOURCES: [&str; 3] = ["file:///a/x", "file:///b", "file:///c"];
const ARGUMENTS: [&str; 6] =
    ["", r#"{"n":5}"#, r#"{"n":500}"#, r#"{"n":"x"}"#, r#"{"N":5}"#, r#"{"n":null}"#];

/// Everything that a decision depends on.
#[derive(Debug)]
pub(super) struct World {
    pub(super) rules: Rules,
    pub(super) freezes: Freezes,
    pub(super) caller: Caller,
    pub(super) header: AgentHeader,
    /// No session, an unknown one, or this one.
    #[expect(
        clippy::option_option,
        reason = "a header may name nothing, or a session that is unknown"
    )]
    pub(super) session: Option<Option<(WorkOrder, Usage)>>,
    pub(super) chain: Result<(), Lapse>,
    pub(super) deadline: Mono,
    /// The text of a message.
    pub(super) message: String,
}

impl World {
    pub(super) fn order(&self) -> Option<&WorkOrder> {
        self.session.as_ref()?.as_ref().map(|(order, _)| order)
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        self.session.as_ref()?.as_ref().map(|(_, usage)| usage.clone())
    }

    /// Puts the question about this world's message, or about another one in it.
    pub(super) fn ask<R>(&self, message: &str, run: impl FnOnce(Ask<'_>) -> R) -> R {
        let doc = Doc::parse(message.as_bytes()).unwrap();
        let Message { calls, .. } = message::read(&doc).unwrap();
        let terms = &self.rules.terms;
        let claimed = match &self.session {
            None => Claimed::Nothing,
            Some(None) => Claimed::Unknown,
            Some(Some((order, usage))) => Claimed::Found(Found {
                order,
                deadline: self.deadline,
                seen: Seen::of(terms, order, &mut usage.clone(), price(&calls), NOW),
                chain: self.chain,
            }),
        };
        run(Ask {
            policies: &self.rules.policies,
            terms,
            frozen: Frozen::alone(&self.freezes),
            caller: &self.caller,
            header: self.header,
            claimed,
            calls: &calls,
            tasks: &[],
            state: RequestState::Absent,
            upstream: UpstreamRef::default(),
            now: NOW,
        })
    }
}

/// The code of a verdict's refusal.
pub(super) fn code(verdict: &Verdict) -> Option<Code> {
    verdict.outcome.as_ref().err().map(|denial| denial.code)
}

/// One tool call, or another request.
pub(super) fn request(id: usize, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

pub(super) fn tool_call(id: usize, tool: &str, arguments: &str) -> String {
    let arguments =
        if arguments.is_empty() { String::new() } else { format!(r#","arguments":{arguments}"#) };
    request(id, "tools/call", &format!(r#"{{"name":"{tool}"{arguments}}}"#))
}

pub(super) fn arguments() -> impl Strategy<Value = &'static str> {
    select(&ARGUMENTS[..])
}

fn message() -> impl Strategy<Value = String> {
    let call = prop_oneof![
        6 => (select(&TOOLS[..]), arguments()).prop_map(|(tool, given)| {
            ("tools/call", tool.to_owned(), given)
        }),
        2 => select(&RESOURCES[..]).prop_map(|uri| ("resources/read", uri.to_owned(), "")),
        1 => Just(("prompts/get", "p".to_owned(), "")),
        1 => Just(("tools/list", String::new(), "")),
    ];
    prop::collection::vec(call, 1..4).prop_map(|calls| {
        let calls: Vec<String> = calls
            .iter()
            .enumerate()
            .map(|(id, (method, name, given))| match *method {
                "tools/call" => tool_call(id, name, given),
                "resources/read" => request(id, method, &format!(r#"{{"uri":"{name}"}}"#)),
                "prompts/get" => request(id, method, &format!(r#"{{"name":"{name}"}}"#)),
                other => request(id, other, "{}"),
            })
            .collect();
        match calls.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(",")),
        }
    })
}

/// One policy's text; `constraints` says if it may have any.
fn policy(constraints: bool) -> impl Strategy<Value = String> {
    let effect = select(&["allow", "allow", "allow", "deny", "escalate"][..]);
    let tools = subsequence(vec!["read_file", "write_file", "delete_file", "list_*", "pay"], 1..=5);
    let resources = subsequence(vec!["file:///a/*", "file:///b"], 0..=2);
    let tier = select(&["", "public", "internal", "confidential", "restricted"][..]);
    let trust = select(&["", "", "basic", "trusted"][..]);
    let keyword = select(&["", "", "read", "write"][..]);
    let constraint = (prop::bool::weighted(0.4), any::<bool>(), select(&["max", "regex"][..]));
    (effect, tools, resources, tier, trust, keyword, constraint, 0_u32..3).prop_map(
        move |(effect, tools, resources, tier, trust, keyword, constraint, priority)| {
            let mut text = format!("effect = \"{effect}\"\nallowed_tools = {tools:?}\n");
            let mut add = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").unwrap();
            add(format_args!("allowed_resources = {resources:?}\nallowed_prompts = [\"p\"]"));
            if !tier.is_empty() {
                add(format_args!("data_sensitivity = \"{tier}\""));
            }
            add(format_args!("priority = {priority}"));
            if !trust.is_empty() {
                add(format_args!("agent_match = {{ trust_level = \"{trust}\" }}"));
            }
            if !keyword.is_empty() {
                add(format_args!("intent_match = {{ keywords = [\"{keyword}\"] }}"));
            }
            let (has, required, what) = constraint;
            if has && constraints {
                let wants = if what == "max" { "max_value = 100" } else { "regex = \"[a-z]\"" };
                add(format_args!(
                    "[[policies.parameter_constraints]]\nkey = \"n\"\nrequired = {required}\n{wants}"
                ));
            }
            text
        },
    )
}

fn policies(constraints: bool) -> impl Strategy<Value = PolicySet> {
    prop::collection::vec(policy(constraints), 0..6).prop_map(|policies| {
        let mut text = String::new();
        for (n, policy) in policies.iter().enumerate() {
            write!(text, "[[policies]]\nid = \"p{n}\"\n{policy}").unwrap();
        }
        testkit::policies(&text)
    })
}

fn terms() -> impl Strategy<Value = Terms> {
    let unknown = select(vec![UnknownIntent::Off, UnknownIntent::Flag, UnknownIntent::Enforce]);
    (any::<bool>(), any::<bool>(), any::<bool>(), unknown).prop_map(
        |(require_session, escalate_anomalies, wildcard, unknown_intent)| Terms {
            require_session,
            escalate_anomalies,
            unknown_intent,
            wildcard: if wildcard { Wildcard::Honoured } else { Wildcard::Literal },
            ..Terms::default()
        },
    )
}

fn names(of: &[&str]) -> impl Strategy<Value = Arc<[String]>> + use<> {
    let of: Vec<String> = of.iter().map(|&name| name.to_owned()).collect();
    let all = of.len();
    prop_oneof![Just(of.clone()), subsequence(of, 0..=all)].prop_map(Arc::from)
}

fn order(agent: AgentId) -> impl Strategy<Value = WorkOrder> {
    use Sensitivity::{Confidential, Internal, Public, Restricted};
    let intent = select(&["read reports", "write the report", "manage all", "hello"][..]);
    let ceiling = select(vec![Public, Internal, Confidential, Restricted, Restricted]);
    let owner = prop_oneof![9 => Just(agent), 1 => Just(AgentId::random())];
    let lists = (
        names(&["read_file", "write_file", "delete_file", "pay", "*"]),
        names(&["file:///a/*", "file:///b"]),
        names(&["p"]),
    );
    let limits = (0_u64..6, prop::option::of(0_u32..4));
    (intent, ceiling, owner, lists, limits).prop_map(
        |(intent, ceiling, agent, (tools, resources, prompts), (call_budget, rate_limit))| {
            // Every member by name: a new one is drawn too, so that the laws see it at work.
            WorkOrder {
                id: SessionId::random(),
                agent,
                declared_intent: intent.into(),
                intent_tier: drift::tier(intent, &Keywords::default()),
                grants: Arc::new(Grants { tools, resources, prompts, ..Grants::default() }),
                call_budget,
                rate_limit,
                ceiling,
                refusal_style: None,
                delegation_chain: [agent].into(),
                created_at: Timestamp(0),
                expires_at: Timestamp(i64::MAX),
            }
        },
    )
}

/// A session that lists nothing and can call nothing.
pub(super) fn order_of(agent: AgentId, intent: &str) -> WorkOrder {
    WorkOrder {
        declared_intent: intent.into(),
        intent_tier: drift::tier(intent, &Keywords::default()),
        ..testkit::order(agent)
    }
}

/// A session's usage: some calls made, none or some of them just now; leased or not.
fn usage() -> impl Strategy<Value = Usage> {
    (0_u64..4, 0_u32..3, any::<bool>(), prop::bool::weighted(0.1)).prop_map(
        |(calls_made, recent, leased, closed)| {
            let booked = if leased { calls_made + 10 } else { calls_made };
            let mut usage = Usage { calls_made, booked, closed, ..Usage::default() };
            usage.recent.push(NOW.mono, recent);
            usage
        },
    )
}

fn caller() -> impl Strategy<Value = Caller> {
    select(vec![TrustLevel::Untrusted, TrustLevel::Basic, TrustLevel::Trusted])
        .prop_map(|trust| caller_of(AgentId::random(), trust))
}

pub(super) fn caller_of(id: AgentId, trust: TrustLevel) -> Caller {
    testkit::caller(Agent { trust, ..testkit::agent(id) })
}

/// None, mostly; or one of an agent, an owner or a tool, over or not.
fn freezes(agent: AgentId) -> impl Strategy<Value = Freezes> {
    let scope = select(vec![
        Scope::All,
        Scope::Agent(agent),
        Scope::Agent(AgentId::random()),
        Scope::Owner("u".into()),
        Scope::Owner("someone else".into()),
        Scope::Tool("pay".into()),
        Scope::Tool("write_*".into()),
        Scope::Upstream("git".into()),
    ]);
    let until = select(vec![None, Some(NOW.wall), Some(Timestamp(i64::MAX))]);
    let some = prop::collection::vec((scope, until), 1..3);
    prop_oneof![4 => Just(Vec::new()), 1 => some].prop_map(|drawn| {
        let held = drawn.into_iter().map(|(scope, until)| Freeze {
            id: uuid::Uuid::nil(),
            scope,
            reason: "an incident".into(),
            by: "ops".into(),
            frozen_at: Timestamp(0),
            until,
        });
        Freezes::of(held.map(|freeze| Held::new(Arc::new(freeze), NOW)))
    })
}

/// Draws a world; `constraints` says if its policies may have any.
pub(super) fn world(constraints: bool) -> impl Strategy<Value = World> {
    caller().prop_flat_map(move |caller| {
        let agent = caller.agent.id;
        let header = prop_oneof![
            12 => Just(AgentHeader::Is(agent)),
            1 => Just(AgentHeader::Absent),
            1 => Just(AgentHeader::Malformed),
        ];
        let session = prop_oneof![
            1 => Just(None),
            1 => Just(Some(None)),
            12 => (order(agent), usage()).prop_map(|session| Some(Some(session))),
        ];
        let chain = prop_oneof![15 => Just(Ok(())), 1 => Just(Err(Lapse::Above))];
        let deadline = prop_oneof![15 => Just(Mono(u64::MAX)), 1 => Just(NOW.mono)];
        let rules = (policies(constraints), terms());
        let freezes = freezes(agent);
        (rules, freezes, header, session, chain, deadline, message()).prop_map(
            move |((policies, terms), freezes, header, session, chain, deadline, message)| World {
                rules: Rules { policies, terms },
                freezes,
                caller: caller.clone(),
                header,
                session,
                chain,
                deadline,
                message,
            },
        )
    })
}
