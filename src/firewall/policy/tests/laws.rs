//! Laws: the index finds what the plain loop finds, for every set, caller and call.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

const TOOLS: [&str; 7] = ["a", "ab", "abc", "b", "a*", "ab*", "*"];
const WORDS: [&str; 4] = ["read", "write", "grüße", "logs"];
const GROUPS: [&str; 4] = ["g1", "g2", "g3", "g4"];
const CAPABILITIES: [&str; 3] = ["c1", "c2", "c3"];
const SCOPES: [&str; 2] = ["s1", "s2"];
const SUBJECTS: [&str; 3] = ["u1", "u2", "u3"];
const AGENTS: [&str; 3] = [
    "0c2a8f3e-1111-4a6b-8a53-000000000001",
    "0c2a8f3e-1111-4a6b-8a53-000000000002",
    "0c2a8f3e-1111-4a6b-8a53-000000000003",
];
const LEVELS: [&str; 4] = ["untrusted", "basic", "verified", "trusted"];
const CONSTRAINTS: [&str; 9] = [
    "{ key = 'l[]', regex = 'x+' }",
    "{ key = 'l[]', id_in = [1, 'x'], max_items = 2 }",
    "{ key = 's', id_in = 'x' }",
    "{ key = 'n', max_value = 5 }",
    "{ key = 'n', min_value = 3, required = false }",
    "{ key = 'o.n', allowed_values = [1, 'x'] }",
    "{ key = 's', regex = 'x+' }",
    "{ key = 's', required = false }",
    "{ key = 'o' }",
];

fn some_of(all: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    // Mostly none: a policy with many criteria never matches.
    prop_oneof![3 => Just(Vec::new()), 1 => subsequence(all, 0..=most)]
}

fn maybe(all: &'static [&'static str]) -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![3 => Just(None), 1 => select(all).prop_map(Some)]
}

/// The text of a policy, all but its id.
fn any_policy() -> impl Strategy<Value = String> {
    let agent = (maybe(&AGENTS), maybe(&LEVELS), some_of(&CAPABILITIES, 2));
    let principal = (maybe(&SUBJECTS), some_of(&GROUPS, 3), some_of(&SCOPES, 2));
    let intent = (some_of(&WORDS, 2), maybe(&["read", "^l", "ü"]));
    let what = (
        select(&["allow", "deny", "escalate"][..]),
        subsequence(&TOOLS[..], 0..3),
        subsequence(&TOOLS[..], 0..2),
        prop_oneof![4 => Just(0), 1 => 1..60_u32],
    );
    (what, agent, principal, intent, some_of(&CONSTRAINTS, 2)).prop_map(
        |((effect, tools, prompts, priority), agent, principal, intent, constraints)| {
            let tools =
                if effect == "allow" && tools.is_empty() && prompts.is_empty() { vec!["a"] } else { tools };
            let one = |key: &str, value: Option<&str>| {
                value.map(|value| format!("{key} = '{value}'\n")).unwrap_or_default()
            };
            [
                format!("effect = '{effect}'\nallowed_tools = {tools:?}\nallowed_prompts = {prompts:?}\n"),
                format!("priority = {priority}\nparameter_constraints = [{}]\n", constraints.join(",")),
                "[policies.agent_match]\n".into(),
                one("agent_id", agent.0),
                one("trust_level", agent.1),
                format!("capabilities = {:?}\n", agent.2),
                "[policies.principal_match]\n".into(),
                one("sub", principal.0),
                format!("groups = {:?}\nscopes = {:?}\n", principal.1, principal.2),
                "[policies.intent_match]\n".into(),
                one("regex", intent.1),
                format!("keywords = {:?}\n", intent.0),
            ]
            .concat()
        },
    )
}

/// Up to enough policies for lists that are cut by their callers.
fn any_set() -> impl Strategy<Value = PolicySet> {
    let some = prop_oneof![
        prop::collection::vec(any_policy(), 0..6),
        prop::collection::vec(any_policy(), 40..90)
    ];
    some.prop_map(|policies| {
        let numbered = policies.iter().enumerate();
        let texts: Vec<String> =
            numbered.map(|(n, policy)| format!("[[policies]]\nid = 'p{n}'\n{policy}")).collect();
        set(&texts.concat())
    })
}

fn any_caller() -> impl Strategy<Value = (Agent, Principal, Option<String>)> {
    let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<String>>();
    (
        select(&AGENTS[..]),
        select(&LEVELS[..]),
        subsequence(&CAPABILITIES[..], 0..=3),
        select(&SUBJECTS[..]),
        subsequence(&GROUPS[..], 0..=4),
        subsequence(&SCOPES[..], 0..=2),
        prop_oneof![
            1 => Just(None),
            4 => subsequence(&["Read", "WRITE", "grüße", "GRÜSSE", "logs"][..], 0..=5)
                .prop_map(|words| Some(words.join(" "))),
        ],
    )
        .prop_map(move |(id, level, capabilities, sub, groups, scopes, intent)| {
            let agent = Agent {
                id: AgentId::parse(id).unwrap(),
                trust: level.parse().unwrap(),
                capabilities: owned(capabilities),
                ..agent()
            };
            let principal = Principal {
                subject: sub.into(),
                groups: owned(groups),
                scopes: owned(scopes),
                ..principal()
            };
            (agent, principal, intent)
        })
}

fn any_arguments() -> impl Strategy<Value = Option<&'static str>> {
    select(vec![
        None,
        Some("{}"),
        Some("[]"),
        Some(r#"{"n": 4}"#),
        Some(r#"{"n": 9, "s": "xx"}"#),
        Some(r#"{"n": "4", "o": {"n": 1}}"#),
        Some(r#"{"n": 1, "o": {"n": "x"}, "s": "y"}"#),
        Some(r#"{"o": [], "s": 1}"#),
        Some(r#"{"l": ["x", "xx"], "s": "x"}"#),
        Some(r#"{"l": [1, ["x"]], "s": "X"}"#),
        Some(r#"{"l": [], "S": "x"}"#),
    ])
}

fn any_target() -> impl Strategy<Value = Target<'static>> {
    let name = select(&["a", "ab", "abc", "abcd", "b", "c", ""][..]);
    prop_oneof![
        4 => name.clone().prop_map(Target::Tool),
        1 => name.clone().prop_map(Target::Prompt),
        1 => name.prop_map(Target::Resource),
    ]
}

proptest! {
    #[test]
    fn the_index_finds_what_the_plain_loop_finds(
        set in any_set(),
        callers in prop::collection::vec((any_caller(), any_target(), any_arguments()), 30),
    ) {
        for ((agent, principal, intent), target, arguments) in &callers {
            let facts = Facts { agent, principal, intent: intent.as_deref() };
            let doc = arguments.map(|text| json::Doc::parse(text.as_bytes()).unwrap());
            let asked = Asked::of(*target).with_arguments(doc.as_ref().map(json::Doc::root));
            let decision = set.evaluate(&facts, &asked);
            prop_assert_eq!(said(decision), said(set.evaluate_plainly(&facts, &asked)));

            let explanation = set.explain(&facts, &asked);
            prop_assert_eq!(&explanation.matched, &decision.policy().map(|p| p.id.clone()));
            prop_assert_eq!(explanation.trace.len(), set.len());

            // What is allowed is shown in lists; what is not shown is not allowed.
            if matches!(decision, Decision::Allow(_)) {
                prop_assert!(set.could_allow(&facts, *target));
                prop_assert!(set.any_allow(&facts).is_some());
                prop_assert!(set.missing_scopes(&facts, &asked).is_none_or(|s| !s.is_empty()));
            }
            let plainly = set.policies.iter().any(|policy| {
                policy.effect == Effect::Allow && policy.is_about(&facts, Scopes::Needed).is_ok()
            });
            prop_assert_eq!(set.any_allow(&facts).is_some(), plainly);
            let could = could_allow_plainly(&set, &facts, *target);
            prop_assert_eq!(set.could_allow(&facts, *target), could);

            // With the scopes that are said to be missing, the call passes.
            if let Some(scopes) = set.missing_scopes(&facts, &asked) {
                let mut granted = principal.clone();
                granted.scopes.extend(scopes.iter().cloned());
                prop_assert!(scopes.iter().any(|scope| !principal.scopes.contains(scope)));
                let facts = Facts { principal: &granted, ..facts };
                let question = Question::new(&facts, &asked);
                let allowed = set.policies.iter().any(|policy| {
                    let fit = policy.fit(&question, Scopes::Needed);
                    policy.effect == Effect::Allow
                        && policy.coverage(&question.wanted) == Coverage::Full
                        && matches!(fit, Fit::Met)
                });
                prop_assert!(allowed);
            }
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[\\[\\]{}='\"\\n.,#a-z_0-9 -]{0,80}") {
        let text = format!("[[policies]]\n{text}");
        drop(PolicySet::parse(&[Source { name: "p", text: &text }]));
    }
}

fn could_allow_plainly(set: &PolicySet, facts: &Facts<'_>, target: Target<'_>) -> bool {
    let tool = matches!(target, Target::Tool(_));
    let wanted = Wanted::of(target);
    let speaks = |policy: &Policy| match policy.effect {
        Effect::Allow => tool || policy.parameter_constraints.is_empty(),
        Effect::Deny | Effect::Escalate => !tool || policy.parameter_constraints.is_empty(),
    };
    let about = set.policies.iter().enumerate().filter(|(_, policy)| {
        policy.coverage(&wanted) != Coverage::None
            && speaks(policy)
            && policy.is_about(facts, Scopes::Needed).is_ok()
    });
    let best = about.max_by_key(|(place, policy)| rank(policy, facts, *place));
    best.is_some_and(|(_, policy)| policy.effect == Effect::Allow)
}
