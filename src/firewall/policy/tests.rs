//! The language as a whole: files in, decisions out.

mod compliance;
mod constraints;
mod errors;
mod laws;
mod lists;
mod spellings;
mod starter;
mod unclear;
mod upstreams;

use super::*;
use crate::firewall::agent::{AgentId, TrustLevel};
use crate::firewall::session::Sensitivity;
use crate::testkit::{self, policies as set};

const AGENT: &str = "0c2a8f3e-1111-4a6b-8a53-0123456789ab";

fn agent() -> Agent {
    Agent {
        owner: "ann".into(),
        capabilities: vec!["files".into(), "net".into()],
        trust: TrustLevel::Verified,
        ..testkit::agent(AgentId::parse(AGENT).unwrap())
    }
}

fn principal() -> Principal {
    Principal {
        subject: "user:ann".into(),
        groups: vec!["ops".into(), "dev".into()],
        scopes: vec!["mcp:read".into()],
        ..testkit::principal()
    }
}

/// Evaluates a tool call, both ways, and names the policy that spoke.
fn decide_for(
    set: &PolicySet,
    intent: Option<&str>,
    target: Target<'_>,
    arguments: &str,
) -> String {
    let (agent, principal) = (agent(), principal());
    let facts = Facts { agent: &agent, principal: &principal, intent };
    let doc = json::Doc::parse(arguments.as_bytes()).unwrap();
    let asked = Asked::of(target).with_arguments(Some(doc.root()));
    let decision = set.evaluate(&facts, &asked);
    let plainly = set.evaluate_plainly(&facts, &asked);
    assert_eq!(said(decision), said(plainly));
    let explanation = set.explain(&facts, &asked);
    assert_eq!(explanation.matched, decision.policy().map(|policy| policy.id.clone()));
    let first = explanation.trace.iter().find(|entry| entry.matched);
    assert_eq!(first.map(|entry| &entry.policy_id), explanation.matched.as_ref());
    said(decision)
}

fn said(decision: Decision<'_>) -> String {
    match decision {
        Decision::Allow(policy) => format!("allow {}", policy.id),
        Decision::Deny(policy) => format!("deny {}", policy.id),
        Decision::Escalate(policy) => format!("escalate {}", policy.id),
        Decision::NoMatch => "no match".into(),
    }
}

fn decide(text: &str, tool: &str) -> String {
    decide_for(&set(text), Some("Read the logs"), Target::Tool(tool), "{}")
}

/// One policy for tool `t` with these further lines.
fn policy(id: &str, effect: &str, lines: &str) -> String {
    format!("[[policies]]\nid = '{id}'\neffect = '{effect}'\nallowed_tools = ['t']\n{lines}\n")
}

/// Returns the score with which an allow policy with these lines matches, if it does.
fn matches(lines: &str) -> Option<u32> {
    let set = set(&policy("p", "allow", lines));
    let (agent, principal) = (agent(), principal());
    let facts = Facts { agent: &agent, principal: &principal, intent: Some("Read the logs") };
    let asked = Asked::of(Target::Tool("t"));
    let explanation = set.explain(&facts, &asked);
    explanation.matched.and(explanation.trace.first().map(|entry| entry.score))
}

#[test]
fn without_policies_everything_is_refused() {
    let none = PolicySet::empty();
    assert_eq!(decide_for(&none, Some("x"), Target::Tool("t"), "{}"), "no match");
    assert!(none.is_empty());
    assert_eq!(none.version(), "af1349b9f5f9a1a6");
    assert_eq!(decide("", "t"), "no match");
}

#[test]
fn tools_are_named_exactly_or_by_their_beginning() {
    let text = "[[policies]]\nid = 'p'\neffect = 'allow'\nallowed_tools = ['read_file', 'list_*', '*:up:x']";
    for tool in ["read_file", "list_", "list_dirs", "up:x"] {
        assert_eq!(decide(text, tool), "allow p", "{tool}");
    }
    for tool in ["read_files", "Read_file", "list", "", "x", "read_file ", "lïst_x"] {
        assert_eq!(decide(text, tool), "no match", "{tool}");
    }
    let all = "[[policies]]\nid = 'p'\neffect = 'allow'\nallowed_tools = ['*']";
    assert_eq!(decide(all, "whatever"), "allow p");
    assert_eq!(decide(all, ""), "allow p");
}

#[test]
fn a_list_speaks_of_its_own_kind_only() {
    let text = "
        [[policies]]
        id = 'data'
        effect = 'allow'
        allowed_resources = ['file:///projects/*']
        allowed_prompts = ['review']
        allowed_methods = ['tasks/*']
        [[policies]]
        id = 'no-tasks'
        effect = 'deny'
        allowed_methods = ['tasks/cancel']";
    let set = set(text);
    let decide = |target| decide_for(&set, None, target, "{}");
    assert_eq!(decide(Target::Resource("file:///projects/a")), "allow data");
    assert_eq!(decide(Target::Resource("file:///etc/passwd")), "no match");
    assert_eq!(decide(Target::Prompt("review")), "allow data");
    assert_eq!(decide(Target::Method("tasks/get")), "allow data");
    assert_eq!(decide(Target::Method("tasks/cancel")), "deny no-tasks");
    assert_eq!(decide(Target::Tool("review")), "no match");
    assert_eq!(decide(Target::Prompt("tasks/get")), "no match");
}

#[test]
fn a_refusal_without_lists_speaks_of_everything() {
    let text = "
        [[policies]]
        id = 'all'
        effect = 'allow'
        allowed_tools = ['*']
        allowed_resources = ['*']
        allowed_prompts = ['*']
        allowed_methods = ['*']
        [[policies]]
        id = 'freeze'
        effect = 'deny'
        allowed_tools = []";
    let set = set(text);
    for target in
        [Target::Tool("t"), Target::Resource("x:r"), Target::Prompt("p"), Target::Method("m")]
    {
        assert_eq!(decide_for(&set, None, target, "{}"), "deny freeze");
    }
}

#[test]
fn each_criterion_must_hold_and_has_its_score() {
    assert_eq!(matches(""), Some(0));
    for (lines, score) in [
        (format!("agent_match = {{ agent_id = '{AGENT}' }}"), 100),
        ("agent_match = { trust_level = 'basic' }".into(), 50),
        ("agent_match = { trust_level = 'verified' }".into(), 50),
        ("agent_match = { capabilities = ['files', 'net'] }".into(), 50),
        ("agent_match = { capabilities = ['net', 'net'] }".into(), 25),
        ("principal_match = { sub = 'user:ann' }".into(), 40),
        ("principal_match = { groups = ['ops'] }".into(), 20),
        ("principal_match = { groups = ['ops', 'other'] }".into(), 20),
        ("principal_match = { groups = ['ops', 'dev', 'other'] }".into(), 40),
        ("principal_match = { scopes = ['mcp:read'] }".into(), 20),
        ("intent_match = { keywords = ['read', 'LOGS'] }".into(), 20),
        ("intent_match = { regex = 'the l' }".into(), 30),
        ("intent_match = { keywords = ['read'], regex = '^Read' }".into(), 40),
        ("agent_match = { trust_level = 'basic' }\npriority = 7".into(), 7),
    ] {
        assert_eq!(matches(&lines), Some(score), "{lines}");
    }
    for lines in [
        "agent_match = { agent_id = '0c2a8f3e-1111-4a6b-8a53-0123456789ac' }",
        "agent_match = { trust_level = 'trusted' }",
        "agent_match = { capabilities = ['files', 'shell'] }",
        "principal_match = { sub = 'user:ceo' }",
        "principal_match = { sub = 'user:an' }",
        "principal_match = { groups = ['other'] }",
        "principal_match = { scopes = ['mcp:read', 'mcp:write'] }",
        "intent_match = { keywords = ['read', 'write'] }",
        "intent_match = { keywords = ['log'] }",
        "intent_match = { regex = 'read' }",
        "intent_match = { keywords = ['read'], regex = 'write' }",
        "agent_match = { trust_level = 'basic' }\nprincipal_match = { sub = 'x' }",
        "priority = 1000\nprincipal_match = { sub = 'x' }",
    ] {
        assert_eq!(matches(lines), None, "{lines}");
    }
}

#[test]
fn the_highest_score_speaks() {
    let allow = policy("a", "allow", "agent_match = { trust_level = 'basic' }");
    let deny = policy("d", "deny", "");
    assert_eq!(decide(&format!("{deny}{allow}"), "t"), "allow a");
    let deny = policy("d", "deny", "priority = 51");
    assert_eq!(decide(&format!("{deny}{allow}"), "t"), "deny d");
    let low = policy("a", "allow", "priority = 1\nagent_match = { trust_level = 'basic' }");
    assert_eq!(
        decide(&format!("{low}{}", policy("e", "escalate", "priority = 2")), "t"),
        "escalate e"
    );
}

#[test]
fn at_equal_score_the_stricter_one_speaks_then_the_earlier_one() {
    let [allow, escalate, deny] =
        ["allow", "escalate", "deny"].map(|effect| policy(effect, effect, ""));
    assert_eq!(decide(&format!("{allow}{escalate}{deny}"), "t"), "deny deny");
    assert_eq!(decide(&format!("{allow}{escalate}"), "t"), "escalate escalate");
    let twins = format!("{}{}", policy("first", "allow", ""), policy("second", "allow", ""));
    assert_eq!(decide(&twins, "t"), "allow first");
}

#[test]
fn a_set_asks_if_one_of_its_policies_does() {
    let [allow, escalate, deny] =
        ["allow", "escalate", "deny"].map(|effect| policy(effect, effect, ""));
    assert!(!set(&format!("{allow}{deny}")).asks() && !PolicySet::empty().asks());
    assert!(set(&format!("{allow}{escalate}{deny}")).asks());
}

#[test]
fn no_computed_score_outranks_a_priority_of_a_thousand() {
    let groups: Vec<String> = (0..60).map(|n| format!("g{n}")).collect();
    let many = policy("many", "allow", &format!("principal_match = {{ groups = {groups:?} }}"));
    let set = set(&(many + &policy("first", "deny", "priority = 1000")));
    let (agent, principal) = (agent(), Principal { groups, ..principal() });
    let facts = Facts { agent: &agent, principal: &principal, intent: None };
    assert_eq!(said(set.evaluate(&facts, &Asked::of(Target::Tool("t")))), "deny first");
}

#[test]
fn groups_score_by_those_the_principal_is_in() {
    let many = policy("many", "allow", "principal_match = { groups = ['ops', 'x', 'y', 'z'] }");
    let two = policy("two", "deny", "principal_match = { groups = ['dev', 'ops'] }");
    assert_eq!(decide(&format!("{many}{two}"), "t"), "deny two");
}

#[test]
fn without_a_session_an_intent_allows_nothing_and_spares_nothing() {
    let intent = "intent_match = { keywords = ['nuclear'] }";
    let allow = set(&policy("a", "allow", intent));
    assert_eq!(decide_for(&allow, None, Target::Tool("t"), "{}"), "no match");
    assert_eq!(decide_for(&allow, Some("nuclear"), Target::Tool("t"), "{}"), "allow a");
    let both = format!("{}{}", policy("a", "allow", ""), policy("d", "deny", intent));
    assert_eq!(decide_for(&set(&both), None, Target::Tool("t"), "{}"), "deny d");
    assert_eq!(decide_for(&set(&both), Some("harmless"), Target::Tool("t"), "{}"), "allow a");
}

#[test]
fn protocol_methods_need_any_allow_policy_for_the_caller() {
    let (agent, principal) = (agent(), principal());
    let found = |text: &str, intent| {
        let facts = Facts { agent: &agent, principal: &principal, intent };
        set(text).any_allow(&facts).map(|policy| policy.id.to_string())
    };
    assert_eq!(found("", None), None);
    assert_eq!(found(&policy("d", "deny", ""), None), None);
    let constrained = policy("c", "allow", "parameter_constraints = [{ key = 'x' }]");
    assert_eq!(found(&constrained, None).as_deref(), Some("c"));
    let trusted = policy("a", "allow", "agent_match = { trust_level = 'trusted' }");
    assert_eq!(found(&trusted, None), None);
    let intent = policy("i", "allow", "intent_match = { keywords = ['deploy'] }");
    assert_eq!(found(&intent, None), None);
    assert_eq!(found(&intent, Some("Deploy it")).as_deref(), Some("i"));
    assert_eq!(found(&format!("{trusted}{intent}"), Some("deploy")).as_deref(), Some("i"));
}

#[test]
fn lists_show_what_some_arguments_would_reach() {
    let (agent, principal) = (agent(), principal());
    let facts = Facts { agent: &agent, principal: &principal, intent: Some("x") };
    let constraint = "parameter_constraints = [{ key = 'x' }]";
    for (first, second, expected) in [
        (policy("a", "allow", ""), String::new(), true),
        (policy("a", "allow", constraint), String::new(), true),
        (policy("a", "allow", ""), policy("d", "deny", ""), false),
        (policy("a", "allow", ""), policy("e", "escalate", ""), false),
        (policy("a", "allow", ""), policy("d", "deny", constraint), true),
        (policy("a", "allow", "priority = 9"), policy("d", "deny", ""), true),
        (policy("a", "allow", "principal_match = { sub = 'x' }"), String::new(), false),
    ] {
        let set = set(&format!("{first}{second}"));
        assert_eq!(set.could_allow(&facts, Target::Tool("t")), expected, "{first}{second}");
        assert!(!set.could_allow(&facts, Target::Tool("other")));
    }
    let allow = "[[policies]]\nid = 'r'\neffect = 'allow'\nallowed_resources = ['*']\n";
    assert!(set(allow).could_allow(&facts, Target::Resource("x:r")));
    assert!(!set(&format!("{allow}{constraint}")).could_allow(&facts, Target::Resource("x:r")));
    let deny = format!("{allow}[[policies]]\nid = 'd'\neffect = 'deny'\n{constraint}");
    assert!(!set(&deny).could_allow(&facts, Target::Resource("x:r")));
}

#[test]
fn missing_scopes_are_those_that_would_let_the_call_through() {
    let (agent, principal) = (agent(), principal());
    let facts = Facts { agent: &agent, principal: &principal, intent: Some("x") };
    let asked = Asked::of(Target::Tool("t"));
    let missing = |text: &str| set(text).missing_scopes(&facts, &asked).map(<[String]>::to_vec);
    let scoped = |more: &str| {
        policy(
            "a",
            "allow",
            &format!("principal_match = {{ scopes = ['mcp:read', 'mcp:write'] }}\n{more}"),
        )
    };
    assert_eq!(missing(&scoped("")), Some(vec!["mcp:read".into(), "mcp:write".into()]));
    assert_eq!(missing(&scoped("agent_match = { trust_level = 'trusted' }")), None);
    assert_eq!(missing(&scoped("parameter_constraints = [{ key = 'x' }]")), None);
    assert_eq!(missing(&policy("a", "allow", "")), None);
    let outranked = format!("{}{}", scoped(""), policy("d", "deny", "priority = 900"));
    assert_eq!(missing(&outranked), None);
    let denied = policy("d", "deny", "principal_match = { scopes = ['mcp:write'] }");
    assert_eq!(missing(&denied), None);
    let set = set(&format!("{}{denied}", scoped("")));
    assert_eq!(set.scopes_asked().collect::<Vec<_>>(), ["mcp:read", "mcp:write"]);
}

#[test]
fn several_files_form_one_set_with_one_version() {
    let (one, two) = (policy("a", "allow", ""), policy("b", "deny", "priority = 1"));
    let sources = [Source { name: "1.toml", text: &one }, Source { name: "2.toml", text: &two }];
    let set = PolicySet::parse(&sources).unwrap();
    assert_eq!(set.len(), 2);
    assert_eq!(set.version().len(), 16);
    let whole = blake3::hash(format!("{one}{two}").as_bytes()).to_hex();
    assert!(whole.starts_with(set.version()));
    assert_eq!(decide_for(&set, None, Target::Tool("t"), "{}"), "deny b");
    let sensitivity = PolicySet::parse(&sources).unwrap().policies[0].data_sensitivity;
    assert_eq!(sensitivity, Sensitivity::Internal);
}

#[test]
fn only_exact_tool_names_become_labels() {
    let text = "[[policies]]\nid = 'p'\neffect = 'deny'\nallowed_tools = ['b', 'a', 'c_*']\n";
    let set = set(&format!("{text}{}", policy("q", "allow", "")));
    assert_eq!(set.named_tools().collect::<Vec<_>>(), ["a", "b", "t"]);
}

#[test]
fn an_explanation_names_every_policy_and_why() {
    let text = [
        policy("low", "allow", ""),
        policy("trusted", "allow", "agent_match = { trust_level = 'trusted' }"),
        policy(
            "bounded",
            "allow",
            "priority = 5\nparameter_constraints = [{ key = 'n', max_value = 1 }]",
        ),
        "[[policies]]\nid = 'other'\neffect = 'deny'\nallowed_tools = ['o']".into(),
    ]
    .concat();
    let (agent, principal) = (agent(), principal());
    let facts = Facts { agent: &agent, principal: &principal, intent: None };
    let doc = json::Doc::parse(br#"{"n": 2}"#).unwrap();
    let asked = Asked::of(Target::Tool("t")).with_arguments(Some(doc.root()));
    let explanation = set(&text).explain(&facts, &asked);
    assert_eq!(explanation.decision, Some(Effect::Allow));
    assert_eq!(explanation.matched.as_deref(), Some("low"));
    let trace: Vec<_> =
        explanation.trace.iter().map(|e| (&*e.policy_id, e.matched, &*e.reason, e.score)).collect();
    assert_eq!(
        trace,
        [
            ("trusted", false, "the agent's trust level is verified, below trusted", 50),
            ("bounded", false, "the argument `n` is above `max_value`", 5),
            ("low", true, "every criterion holds", 0),
            ("other", false, "does not name the tool", 0),
        ]
    );
}

#[test]
fn a_long_trace_is_cut() {
    let texts: Vec<String> = (0..1500)
        .map(|n| format!("[[policies]]\nid = 'p{n}'\neffect = 'deny'\nallowed_tools = ['t{n}']\n"))
        .collect();
    let (agent, principal) = (agent(), principal());
    let facts = Facts { agent: &agent, principal: &principal, intent: None };
    let asked = Asked::of(Target::Tool("t1400"));
    let explanation = set(&texts.concat()).explain(&facts, &asked);
    assert_eq!(explanation.trace.len(), 1001);
    assert_eq!(&*explanation.trace[0].policy_id, "p1400");
    assert_eq!(explanation.left_out, 499);
}

#[test]
fn the_schema_knows_the_keys_that_the_reader_knows() {
    let schema = json_schema();
    let defs = &schema["$defs"];
    let keys = |name: &str| -> Vec<String> {
        let object = defs[name]["properties"].as_object().unwrap_or_else(|| panic!("{schema:#}"));
        object.keys().cloned().collect()
    };
    let known = |keys: &[&str]| {
        let mut keys: Vec<String> = keys.iter().copied().map(str::to_owned).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys("Policy"), known(read::POLICY_KEYS));
    assert_eq!(keys("AgentMatch"), known(read::AGENT_KEYS));
    assert_eq!(keys("PrincipalMatch"), known(read::PRINCIPAL_KEYS));
    assert_eq!(keys("IntentMatch"), known(read::INTENT_KEYS));
    assert_eq!(keys("Constraint"), known(read::CONSTRAINT_KEYS));
    assert_eq!(defs["Policy"]["required"], serde_json::json!(["id", "effect"]));
    assert_eq!(defs["Constraint"]["required"], serde_json::json!(["key"]));
    assert_eq!(defs["Policy"]["additionalProperties"], serde_json::json!(false));
}
