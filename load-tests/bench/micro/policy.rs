//! Cost of one policy decision, by the number of policies.
//!
//! `cargo bench --bench policy`. The claim held here: ten thousand policies cost about what ten do,
//! whether they differ by their tools or by their callers.
#![expect(clippy::panic, reason = "a bench that cannot be set up must stop")]

use arbiter::firewall::agent::{Agent, AgentId, Principal, TrustLevel};
use arbiter::firewall::checks::drift;
use arbiter::firewall::policy::{Asked, Facts, PolicySet, Target};
use arbiter::json::Doc;
use divan::{Bencher, black_box};

#[expect(dead_code, reason = "each target takes what it needs")]
#[path = "../../../src/testkit.rs"]
mod testkit;

const SIZES: [usize; 3] = [10, 1_000, 10_000];
const INTENT: &str = "read and analyze customer transaction history";
const ARGUMENTS: &str = r#"{"path":"/projects/a/b.md","options":{"limit":10}}"#;

fn main() {
    divan::main();
}

fn agent_id(n: usize) -> String {
    format!("0c2a8f3e-1111-4a6b-8a53-{n:012}")
}

/// Policies for different tools.
fn by_tool(policies: usize) -> PolicySet {
    parse(policies, |n| {
        format!(
            "allowed_tools = ['read_{n}', 'group{n}_*']
             agent_match = {{ trust_level = 'basic' }}
             intent_match = {{ keywords = ['read'] }}
             parameter_constraints = [
                 {{ key = 'options.limit', min_value = 0, max_value = 100 }},
                 {{ key = 'path', regex = '/projects/[a-z/.]+' }},
             ]"
        )
    })
}

/// Policies for different agents, each for all tools.
fn by_agent(policies: usize) -> PolicySet {
    parse(policies, |n| {
        format!("allowed_tools = ['*']\nagent_match = {{ agent_id = '{}' }}", agent_id(n))
    })
}

/// Policies that differ in a criterion the index does not know: the worst case.
fn by_regex(policies: usize) -> PolicySet {
    parse(policies, |n| format!("allowed_tools = ['*']\nintent_match = {{ regex = 'task-{n}' }}"))
}

fn parse(policies: usize, lines: impl Fn(usize) -> String) -> PolicySet {
    let texts: Vec<String> = (0..policies)
        .map(|n| format!("[[policies]]\nid = 'p{n}'\neffect = 'allow'\n{}\n", lines(n)))
        .collect();
    testkit::policies(&texts.concat())
}

fn caller(n: usize) -> (Agent, Principal) {
    let agent = Agent {
        owner: "ann".into(),
        capabilities: vec!["files".into(), "net".into()],
        trust: TrustLevel::Verified,
        ..testkit::agent(AgentId::parse(&agent_id(n)).unwrap_or_else(AgentId::random))
    };
    let principal = Principal {
        subject: "user:ann".into(),
        groups: vec!["ops".into(), "dev".into(), "all".into()],
        scopes: vec!["mcp".into()],
        ..testkit::principal()
    };
    (agent, principal)
}

/// Evaluates one call of the last policy's agent for the last policy's tool.
fn evaluate(bencher: Bencher<'_, '_>, policies: usize, set: &PolicySet, allowed: bool) {
    let (agent, principal) = caller(policies - 1);
    let facts = Facts { agent: &agent, principal: &principal, intent: Some(INTENT) };
    let tool = format!("read_{}", policies - 1);
    let doc = Doc::parse(ARGUMENTS.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let asked = Asked::of(Target::Tool(&tool)).with_arguments(Some(doc.root()));
    assert_eq!(set.evaluate(&facts, &asked).policy().is_some(), allowed);
    bencher.bench_local(|| black_box(set.evaluate(black_box(&facts), black_box(&asked)).policy()));
}

#[divan::bench(args = SIZES)]
fn evaluate_by_tool(bencher: Bencher<'_, '_>, policies: usize) {
    evaluate(bencher, policies, &by_tool(policies), true);
}

#[divan::bench(args = SIZES)]
fn evaluate_by_agent(bencher: Bencher<'_, '_>, policies: usize) {
    evaluate(bencher, policies, &by_agent(policies), true);
}

#[divan::bench(args = SIZES)]
fn evaluate_by_regex_worst_case(bencher: Bencher<'_, '_>, policies: usize) {
    evaluate(bencher, policies, &by_regex(policies), false);
}

#[divan::bench(args = SIZES)]
fn evaluate_plainly_by_tool(bencher: Bencher<'_, '_>, policies: usize) {
    let set = by_tool(policies);
    let (agent, principal) = caller(0);
    let facts = Facts { agent: &agent, principal: &principal, intent: Some(INTENT) };
    let asked = Asked::of(Target::Tool("read_1"));
    bencher.bench_local(|| black_box(set.evaluate_plainly(black_box(&facts), &asked).policy()));
}

#[divan::bench(args = SIZES)]
fn any_allow_by_tool(bencher: Bencher<'_, '_>, policies: usize) {
    let set = by_tool(policies);
    let (agent, principal) = caller(0);
    let facts = Facts { agent: &agent, principal: &principal, intent: Some(INTENT) };
    bencher.bench_local(|| black_box(set.any_allow(black_box(&facts))));
}

#[divan::bench(args = SIZES)]
fn any_allow_by_agent_none(bencher: Bencher<'_, '_>, policies: usize) {
    let set = by_agent(policies);
    let (agent, principal) = caller(policies + 1);
    let facts = Facts { agent: &agent, principal: &principal, intent: Some(INTENT) };
    bencher.bench_local(|| black_box(set.any_allow(black_box(&facts))));
}

#[divan::bench(args = SIZES, sample_count = 5)]
fn parse_by_tool(bencher: Bencher<'_, '_>, policies: usize) {
    bencher.bench_local(|| by_tool(black_box(policies)));
}

/// Five matchers on five arguments, without and with them. The difference is what they cost: at most
/// 0.2 µs.
#[divan::bench(args = [false, true])]
fn five_matchers(bencher: Bencher<'_, '_>, matchers: bool) {
    let keys = [
        ("path", "path_under = ['/projects', '/srv']"),
        ("url", "host_in = ['api.corp.com', '*.cdn.corp.com']"),
        ("to", "domain_in = ['corp.com', '*.eu.corp.com']"),
        ("account", "id_in = ['acct-1', 'acct-2']"),
        ("order", "from_intent = true"),
    ];
    let constraints = keys.map(|(key, matcher)| {
        format!("{{ key = '{key}', {} }}", if matchers { matcher } else { "required = true" })
    });
    let set = parse(1, |_| {
        format!("allowed_tools = ['t']\nparameter_constraints = [{}]", constraints.join(", "))
    });
    let (agent, principal) = caller(0);
    let facts = Facts { agent: &agent, principal: &principal, intent: Some("refund order 4711") };
    let arguments = r#"{"path":"/projects/a/b.md","url":"https://api.corp.com/v1","to":"a@corp.com","account":"acct-2","order":"4711"}"#;
    let doc = Doc::parse(arguments.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let asked = Asked::of(Target::Tool("t")).with_arguments(Some(doc.root()));
    assert!(set.evaluate(&facts, &asked).policy().is_some());
    bencher.bench_local(|| black_box(set.evaluate(black_box(&facts), black_box(&asked)).policy()));
}

#[divan::bench]
fn operation_of_a_tool() -> drift::Does {
    drift::operation(black_box("get_account_summary"))
}
