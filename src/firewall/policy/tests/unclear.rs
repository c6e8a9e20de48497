//! An allow policy that cannot be judged does not give way to a laxer one.

use super::*;

/// Returns the policy that decides on a query: everyone may read tables, `hr_` ones at a higher tier.
fn query(arguments: &str) -> String {
    let text = [
        policy("any", "allow", "data_sensitivity = 'public'"),
        policy(
            "hr",
            "allow",
            "data_sensitivity = 'restricted'\npriority = 100\n\
             parameter_constraints = [{ key = 'table', regex = 'hr_.*' }]",
        ),
    ];
    decide_for(&set(&text.concat()), None, Target::Tool("t"), arguments)
}

#[test]
fn an_unclear_allow_blocks_every_lower_one() {
    assert_eq!(query(r#"{"table": "hr_pay"}"#), "allow hr");
    assert_eq!(query(r#"{"table": "sales"}"#), "allow any");
    assert_eq!(query("{}"), "allow any");
    assert_eq!(query(r#"{"tables": "hr_pay"}"#), "allow any");
    for blurred in [
        r#"{"table": ["hr_pay"]}"#,
        r#"{"table": {"name": "hr_pay"}}"#,
        r#"{"table": null}"#,
        r#"{"table": 7}"#,
        r#"{"Table": "hr_pay"}"#,
        r#"{"table": "sales", "Table": "hr_pay"}"#,
        r#"{"tab\u0054e": 1, "TABLE": "hr_pay"}"#,
        r#"{"ｔable": "hr_pay"}"#,
        r#"{"ta\u200bble": "hr_pay"}"#,
        r#"["hr_pay"]"#,
    ] {
        assert_eq!(query(blurred), "no match", "{blurred}");
    }
}

#[test]
fn what_ranks_above_or_refuses_is_not_blocked() {
    let constrained = |id: &str, priority: u32| {
        let lines = format!(
            "priority = {priority}\nparameter_constraints = [{{ key = 'n', max_value = 1 }}]"
        );
        policy(id, "allow", &lines)
    };
    let decide = |texts: &[String]| {
        decide_for(&set(&texts.concat()), None, Target::Tool("t"), r#"{"n": "1"}"#)
    };
    let above = policy("above", "allow", "priority = 9");
    let below = policy("below", "allow", "priority = 1");
    let deny = policy("deny", "deny", "priority = 2");
    let escalate = policy("escalate", "escalate", "priority = 3");
    let unclear = constrained("unclear", 5);
    let all = [above, unclear.clone(), below.clone(), deny.clone(), escalate.clone()];
    assert_eq!(decide(&all), "allow above");
    assert_eq!(decide(&[unclear.clone(), below.clone(), deny, escalate]), "escalate escalate");
    assert_eq!(decide(&[unclear, below.clone(), constrained("b", 1)]), "no match");
    // A constraint that is certainly not met settles the matter: nothing is blocked.
    let two = policy(
        "two",
        "allow",
        "priority = 5\nparameter_constraints = [{ key = 'n', max_value = 1 }, { key = 'm' }]",
    );
    assert_eq!(decide(&[two, below]), "allow below");
}

#[test]
fn an_explanation_names_what_blocks_and_why() {
    let text = [
        policy("lax", "allow", ""),
        policy(
            "strict",
            "allow",
            "priority = 5\nparameter_constraints = [{ key = 'n', max_value = 1 }]",
        ),
        policy("guard", "deny", "parameter_constraints = [{ key = 'path', regex = '/etc' }]"),
    ];
    let (agent, principal) = (agent(), principal());
    let facts = Facts { agent: &agent, principal: &principal, intent: None };
    let reasons = |arguments: &str, expected: [(&str, bool, &str); 3]| {
        let doc = json::Doc::parse(arguments.as_bytes()).unwrap();
        let asked = Asked::of(Target::Tool("t")).with_arguments(Some(doc.root()));
        let explanation = set(&text.concat()).explain(&facts, &asked);
        let trace: Vec<_> =
            explanation.trace.iter().map(|e| (&*e.policy_id, e.matched, &*e.reason)).collect();
        assert_eq!(trace, expected);
    };
    let other = "is of another type, or its key is written otherwise";
    let unclear =
        format!("unclear, so no lower-ranked policy allows this: the argument `n` {other}");
    reasons(
        r#"{"n": "1", "path": "/srv"}"#,
        [
            ("strict", false, &unclear),
            ("guard", false, "the argument `path` does not match `regex`"),
            (
                "lax",
                false,
                "every criterion holds, but blocked: policy `strict`, which ranks above, is unclear",
            ),
        ],
    );
    reasons(
        r#"{"n": 2}"#,
        [
            ("strict", false, "the argument `n` is above `max_value`"),
            (
                "guard",
                true,
                "`path` is missing: a deny policy whose constraint cannot be judged matches",
            ),
            ("lax", true, "every criterion holds"),
        ],
    );
}
