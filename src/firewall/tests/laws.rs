//! The laws. `PROPTEST_CASES` sets the number of cases: 256 in the tests, 100,000 in `tests/run long`.

use proptest::prelude::*;

use super::worlds::{
    NOW, RESOURCES, TOOLS, World, arguments, caller_of, code, order_of, request, tool_call, world,
};
use crate::firewall::admit::{self, settle};
use crate::firewall::agent::{AgentId, TrustLevel};
use crate::firewall::call::{Call, CallKind, Data, UpstreamRef, price};
use crate::firewall::checks::{Lack, Step, drift, rate, session};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::explain::{Taken, explain};
use crate::firewall::freeze::{Freezes, Frozen};
use crate::firewall::granted;
use crate::firewall::policy::{Decision, Facts};
use crate::firewall::preview::{Reader, shows};
use crate::firewall::rules::Rules;
use crate::firewall::session::{Usage, WorkOrder};
use crate::firewall::terms::Terms;
use crate::firewall::time::Mono;
use crate::firewall::verdict::Verdict;
use crate::json::Doc;
use crate::mcp::message;
use crate::testkit;

/// Decides as the gate does: without the lock, leasing between two tries to spend, and with the
/// credentials before the escalation.
fn decided(
    world: &World,
    message: &str,
    credentials: Result<(), Denial>,
) -> (Verdict, Option<Usage>) {
    let mut usage = world.usage();
    let mut verdict = world.ask(message, |ask| {
        let examined = match admit::examine(ask, &mut ()) {
            Ok(examined) => examined,
            Err(refused) => return *refused,
        };
        loop {
            match examined.spend(usage.as_mut(), NOW, &mut ()) {
                Ok(spent) => return examined.conclude(spent, &mut ()),
                Err(Lack::Over(refused)) => return *refused,
                Err(Lack::NotLeased) => {
                    let usage = usage.as_mut().expect("only a session leases");
                    assert!(usage.booked < usage.calls_made + price(ask.calls), "leased twice");
                    usage.booked = usage.calls_made + price(ask.calls);
                }
            }
        }
    });
    verdict.outcome =
        verdict.outcome.and(credentials).and_then(|()| settle(&verdict.escalations, &mut ()));
    (verdict, usage)
}

/// The decision written plainly, check after check on one usage, every policy asked in turn. Gives
/// the code, the deciding policy where one refused, and how many calls are counted.
#[expect(
    clippy::too_many_lines,
    reason = "one check after the other, as a reader would write them"
)]
fn plainly(world: &World, message: &str) -> (Option<Code>, u64) {
    world.ask(message, |ask| {
        let terms = ask.terms;
        let caller = ask.caller.agent.id;
        let named = match ask.header {
            session::AgentHeader::Absent => None,
            session::AgentHeader::Malformed => Some(false),
            session::AgentHeader::Is(agent) => Some(agent == caller),
        };
        let frozen = |tool: Option<&str>| {
            ask.frozen
                .freezes
                .of_caller(&ask.caller.agent, &[], UpstreamRef::default(), NOW)
                .is_some()
                || tool.is_some_and(|tool| {
                    ask.frozen.freezes.of_tool(tool, UpstreamRef::default(), NOW).is_some()
                })
        };
        let tool = |call: &Call<'_>| match &call.kind {
            CallKind::Tool { name, .. } => Some(name.to_string()),
            CallKind::Data { .. } | CallKind::Protocol => None,
        };
        if ask.calls.iter().any(|call| frozen(tool(call).as_deref())) {
            return (Some(Code::Frozen), 0);
        }
        let order = match &world.session {
            None if terms.require_session => return (Some(Code::SessionRequired), 0),
            None if named == Some(false) => return (Some(Code::AgentMismatch), 0),
            None => None,
            Some(_) if named.is_none() => return (Some(Code::AgentIdRequired), 0),
            Some(None) => return (Some(Code::SessionUnknown), 0),
            Some(Some((order, usage))) => {
                if usage.closed {
                    return (Some(Code::SessionClosed), 0);
                }
                if world.deadline <= NOW.mono {
                    return (Some(Code::SessionExpired), 0);
                }
                if named != Some(true) || order.agent != caller {
                    return (Some(Code::AgentMismatch), 0);
                }
                if world.chain.is_err() {
                    return (Some(Code::AgentInactive), 0);
                }
                Some((order, usage))
            }
        };
        let price = price(ask.calls);
        if let Some((order, usage)) = order {
            for call in ask.calls {
                let (listed, refusal) = match &call.kind {
                    CallKind::Tool { name, .. } => (
                        granted::lists(
                            &order.grants.tools,
                            UpstreamRef::default(),
                            name,
                            terms.wildcard,
                        ),
                        Code::ToolNotAuthorized,
                    ),
                    CallKind::Data { what: what @ Data::Resource, target } => (
                        granted::lists_data(&order.grants.resources, *what, target, terms.wildcard),
                        Code::ResourceNotAuthorized,
                    ),
                    CallKind::Data { what, target } => (
                        granted::lists_data(&order.grants.prompts, *what, target, terms.wildcard),
                        Code::PromptNotAuthorized,
                    ),
                    CallKind::Protocol => continue,
                };
                if !listed {
                    return (Some(refusal), 0);
                }
            }
            if usage.calls_made + price > order.call_budget && price > 0 {
                return (Some(Code::BudgetExhausted), 0);
            }
            let window = rate::window_us(terms.rate_window_secs);
            if price > 0
                && order.rate_limit.is_some_and(|limit| {
                    rate::fits(&mut usage.clone(), limit, window, price, NOW.mono).is_err()
                })
            {
                return (Some(Code::RateLimited), 0);
            }
        }
        let facts = Facts {
            agent: &ask.caller.agent,
            principal: &ask.caller.principal,
            intent: order.map(|(order, _)| &*order.declared_intent),
        };
        let policies = ask.policies;
        let asked = |kind| crate::firewall::checks::policy::asked(kind, UpstreamRef::default());
        let decisions: Vec<Decision<'_>> = { ask.calls.iter() }
            .map(|call| match asked(&call.kind) {
                Some(asked) => policies.evaluate_plainly(&facts, &asked),
                None => policies.any_allow(&facts).map_or(Decision::NoMatch, Decision::Allow),
            })
            .collect();
        if let Some((order, _)) = order {
            for (call, decision) in ask.calls.iter().zip(&decisions) {
                if let Decision::Allow(policy) | Decision::Escalate(policy) = decision
                    && !matches!(call.kind, CallKind::Protocol)
                    && policy.data_sensitivity > order.ceiling
                {
                    return (Some(Code::SensitivityExceeded), 0);
                }
            }
        }
        let counted = if order.is_some() { price } else { 0 };
        if decisions.iter().any(|d| matches!(d, Decision::Deny(_) | Decision::NoMatch)) {
            return (Some(Code::PolicyDenied), counted);
        }
        let drifts = |order| {
            let mut calls = ask.calls.iter();
            calls.any(|call| drift::look(terms, order, [&call.kind], ask.upstream).refuse)
        };
        if order.is_some_and(|(order, _)| drifts(order)) {
            return (Some(Code::DriftDetected), counted);
        }
        if decisions.iter().any(|decision| matches!(decision, Decision::Escalate(_))) {
            return (Some(Code::EscalationRequired), counted);
        }
        (None, counted)
    })
}

fn refused_credentials(refused: bool) -> Result<(), Denial> {
    if refused { Err(Denial::new(Code::CredentialUnknown, "")) } else { Ok(()) }
}

fn hidden(world: &World, item: &CallKind<'_>) -> bool {
    let reader = Reader {
        rules: &world.rules,
        caller: &world.caller,
        order: world.order(),
        upstream: UpstreamRef::default(),
        frozen: Frozen::alone(&world.freezes),
        now: NOW,
    };
    !shows(&reader, item)
}

/// Every tool and resource, as a list names it, with the message that would use it.
fn items(given: &str) -> impl Iterator<Item = (CallKind<'static>, String)> {
    let tools = TOOLS.map(|tool| {
        (CallKind::Tool { name: tool.into(), arguments: None }, tool_call(1, tool, given))
    });
    let resources = RESOURCES.map(|uri| {
        let read = request(1, "resources/read", &format!(r#"{{"uri":"{uri}"}}"#));
        (CallKind::Data { what: Data::Resource, target: uri.into() }, read)
    });
    tools.into_iter().chain(resources)
}

proptest! {
    #[test]
    fn an_explanation_decides_as_the_gate_does(world in world(true), refused in any::<bool>()) {
        let (verdict, _) = decided(&world, &world.message, refused_credentials(refused));
        let told = world.ask(&world.message, |ask| {
            explain(ask, world.usage(), refused_credentials(refused))
        });
        prop_assert_eq!(&told.verdict.outcome, &verdict.outcome);
        prop_assert_eq!(&told.verdict.policy, &verdict.policy);
        prop_assert_eq!(&told.verdict.flags, &verdict.flags);
        prop_assert!(told.steps.iter().map(|(step, _)| *step).eq(Step::ALL));
        let refusals: Vec<_> = { told.steps.iter() }
            .filter_map(|(step, taken)| match taken {
                Taken::Refused(denial) => Some((*step, denial.code)),
                Taken::Passed | Taken::NotReached => None,
            })
            .collect();
        prop_assert_eq!(refusals.first().map(|(_, code)| *code), code(&verdict));
        prop_assert!(refusals.len() <= 1);
        // What comes before a refusal passed, what comes behind it was not reached.
        let at = refusals.first().map(|(step, _)| *step);
        for (step, taken) in &told.steps {
            let expected = match at {
                Some(at) if *step == at => continue,
                Some(at) if *step > at => Taken::NotReached,
                Some(_) | None => Taken::Passed,
            };
            prop_assert_eq!(taken, &expected, "{:?}", step);
        }
    }

    #[test]
    fn the_split_decision_is_the_plain_one(world in world(true)) {
        let (verdict, usage) = decided(&world, &world.message, Ok(()));
        let made = |usage: Option<Usage>| usage.map_or(0, |usage| usage.calls_made);
        let counted = made(usage) - made(world.usage());
        prop_assert_eq!((code(&verdict), counted), plainly(&world, &world.message));
    }

    #[test]
    fn what_a_list_hides_is_refused_for_all_arguments(world in world(true), given in arguments()) {
        for (item, message) in items(given) {
            if hidden(&world, &item) {
                let (verdict, _) = decided(&world, &message, Ok(()));
                prop_assert!(verdict.outcome.is_err(), "{} of {:?}", message, world.rules.policies);
            }
        }
    }

    /// A list shows what the agent can call, no more and no less, where no argument matters.
    #[test]
    fn what_a_list_shows_is_allowed_where_arguments_do_not_matter(mut world in world(false)) {
        let Some(Some((order, usage))) = &mut world.session else { return Ok(()) };
        (order.call_budget, order.rate_limit, *usage) = (10, None, Usage::default());
        order.agent = world.caller.agent.id;
        world.header = session::AgentHeader::Is(world.caller.agent.id);
        (world.chain, world.deadline) = (Ok(()), Mono(u64::MAX));
        for (item, message) in items("") {
            let (verdict, _) = decided(&world, &message, Ok(()));
            prop_assert_eq!(verdict.outcome.is_ok(), !hidden(&world, &item), "{}", message);
        }
    }
}

/// A call that a cheap check refuses never reaches the policies: it costs what its parse costs, and
/// not as much again, whatever the policies would cost.
#[test]
fn a_refused_call_costs_less_than_twice_its_parse() {
    let mut text = String::new();
    for n in 0..100 {
        let policy = format!(
            "[[policies]]\nid = \"r{n}\"\neffect = \"deny\"\nallowed_tools = [\"read_file\"]\n\
             [[policies.parameter_constraints]]\nkey = \"n\"\nregex = \"(a|b)*c{n}\"\n"
        );
        text.push_str(&policy);
    }
    let policies = testkit::policies(&text);
    let message = tool_call(1, "read_file", &format!(r#"{{"n":"{}"}}"#, "ab".repeat(250_000)));
    let agent = AgentId::random();
    let grants = testkit::granted(&["read_file"]);
    let order = WorkOrder { grants, ..order_of(agent, "read") };
    let world = World {
        rules: Rules { policies, terms: Terms::default() },
        freezes: Freezes::default(),
        header: session::AgentHeader::Is(agent),
        caller: caller_of(agent, TrustLevel::Basic),
        session: Some(Some((order, Usage::default()))),
        chain: Ok(()),
        deadline: Mono(u64::MAX),
        message: message.clone(),
    };
    #[expect(clippy::disallowed_methods, reason = "a comparison of two durations in one run")]
    let least = |run: &mut dyn FnMut()| {
        let timed = (0..25).map(|_| {
            let started = std::time::Instant::now();
            run();
            started.elapsed()
        });
        timed.min().unwrap()
    };
    let parse = least(&mut || {
        let doc = Doc::parse(message.as_bytes()).unwrap();
        assert_eq!(message::read(&doc).unwrap().calls.len(), 1);
    });
    let whole = least(&mut || {
        let refused = world.ask(&message, |ask| admit::examine(ask, &mut ()).err());
        assert_eq!(code(&refused.unwrap()), Some(Code::BudgetExhausted));
    });
    assert!(whole <= 2 * parse, "refused in {whole:?}, parsed in {parse:?}");
}
