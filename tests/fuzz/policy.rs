//! Policy files: read twice alike, mistakes placed inside the file, and both ways to evaluate agree.

use arbiter::firewall::agent::{Agent, AgentId, Principal, TrustLevel};
use arbiter::firewall::policy::{Asked, Facts, PolicySet, Source, Target};
use arbiter::json::Doc;
use proptest::prelude::*;

use crate::driver::{Input, changed, changes, fuzz, soup};
use crate::testkit;

const PIECES: &[&str] = &[
    "[[policies]]\n",
    "[policies.agent_match]\n",
    "[policies.principal_match]\n",
    "[policies.intent_match]\n",
    "[[policies.parameter_constraints]]\n",
    "[[policies.constraints]]\n",
    "id = \"a\"\n",
    "id = \"b\"\n",
    "id = 3\n",
    "effect = \"allow\"\n",
    "effect = \"deny\"\n",
    "effect = \"escalate\"\n",
    "effect = \"x\"\n",
    "allowed_tools = [\"read_file\", \"list_*\"]\n",
    "allowed_tools = [\"*\"]\n",
    "allowed_tools = []\n",
    "allowed_tools = [\"a*b\"]\n",
    "allowed_methods = [\"*\"]\n",
    "allowed_resources = [\"file:///srv/*\"]\n",
    "allowed_prompts = [\"p\"]\n",
    "data_sensitivity = \"internal\"\n",
    "priority = 0\n",
    "priority = 1000\n",
    "priority = -1\n",
    "trust_level = \"basic\"\n",
    "capabilities = [\"files\"]\n",
    "sub = \"user:ann\"\n",
    "groups = [\"ops\"]\n",
    "keywords = [\"read\"]\n",
    "regex = \"^[a-z]+$\"\n",
    "regex = \"(a|b)*c{1,9}\"\n",
    "regex = \"(\"\n",
    "key = \"path\"\n",
    "key = \"options.limit\"\n",
    "key = \"@input.a.content.b\"\n",
    "min_value = 0.0\n",
    "max_value = 1e3\n",
    "max_value = 123456789012345678901234567890\n",
    "allowed_values = [\"a\", 1, true]\n",
    "required = false\n",
    "#",
    "\"\"\"",
    "'",
    "=",
    "\n",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "\\u0000",
    "\u{e9}",
    "nan",
    "1979-05-27T07:32:00Z",
];

const FILES: [&str; 3] = [
    include_str!("../../policies/10-read.toml"),
    include_str!("../../policies/20-write.toml"),
    include_str!("../../policies/90-guard.toml"),
];

const ARGUMENTS: &str = r#"{"path":"/srv/a/../b","options":{"limit":5,"Limit":6},"url":"https://h.example/p?q=1","n":1e3}"#;

fn check(text: &str) -> Result<(), TestCaseError> {
    let read = || PolicySet::parse(&[Source { name: "policies.toml", text }]);
    let set = match (read(), read()) {
        (Ok(set), Ok(again)) => {
            prop_assert_eq!(set.version(), again.version());
            set
        }
        (Err(mistakes), Err(again)) => {
            prop_assert!(!mistakes.is_empty());
            prop_assert_eq!(&mistakes, &again);
            let lines = text.split('\n').count();
            for mistake in mistakes {
                prop_assert!((1..=lines).contains(&mistake.line), "{mistake}");
                prop_assert!(mistake.column >= 1 && !mistake.message.is_empty(), "{mistake}");
            }
            return Ok(());
        }
        _ => return Err(TestCaseError::fail("read once so and once otherwise")),
    };
    let agent = Agent {
        owner: "ann".into(),
        capabilities: vec!["files".into()],
        trust: TrustLevel::Verified,
        ..testkit::agent(AgentId::parse("7f3c2a10-1111-4222-8333-444455556666").unwrap())
    };
    let principal = Principal {
        subject: "user:ann".into(),
        groups: vec!["ops".into()],
        ..testkit::principal()
    };
    let arguments = Doc::parse(ARGUMENTS.as_bytes()).unwrap();
    for intent in [None, Some("read the logs"), Some("delete all")] {
        let facts = Facts { agent: &agent, principal: &principal, intent };
        for target in [
            Target::Tool("read_file"),
            Target::Tool("delete_file"),
            Target::Resource("file:///srv/%2e%2e/etc"),
            Target::Prompt("p"),
            Target::Method("tasks/get"),
        ] {
            let asked = Asked::of(target).with_arguments(Some(arguments.root()));
            let by_index = format!("{:?}", set.evaluate(&facts, &asked).policy().map(|p| &p.id));
            let plainly = set.evaluate_plainly(&facts, &asked).policy().map(|p| &p.id);
            prop_assert_eq!(by_index, format!("{plainly:?}"), "{:?}", target);
        }
    }
    Ok(())
}

#[test]
fn policy_file() {
    let inputs = prop_oneof![
        soup(PIECES, 24),
        (0..FILES.len(), changes(PIECES))
            .prop_map(|(file, changes)| Input(changed(FILES[file].as_bytes(), &changes))),
    ];
    fuzz("policy file", &inputs, |Input(text)| check(&String::from_utf8_lossy(&text)));
}
