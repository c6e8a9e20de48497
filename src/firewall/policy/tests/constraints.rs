//! Effect of arguments on allow and deny policies.

use super::*;

/// Checks the match of an allow policy and of a deny policy with this constraint.
fn check(constraint: &str, arguments: &str, allows: bool, denies: bool) {
    let lines = format!("parameter_constraints = [{{ {constraint} }}]");
    let allow = decide_for(&set(&policy("p", "allow", &lines)), None, Target::Tool("t"), arguments);
    let deny = decide_for(&set(&policy("p", "deny", &lines)), None, Target::Tool("t"), arguments);
    assert_eq!(allow == "allow p", allows, "allow {{ {constraint} }} for {arguments}");
    assert_eq!(deny == "deny p", denies, "deny {{ {constraint} }} for {arguments}");
}

/// The constraint is judged, so allow and deny match alike.
fn judged(constraint: &str, arguments: &str, met: bool) {
    check(constraint, arguments, met, met);
}

/// The constraint cannot be judged: nothing is allowed, and what is denied stays denied.
fn unclear(constraint: &str, arguments: &str) {
    check(constraint, arguments, false, true);
}

#[test]
fn bounds_are_inclusive() {
    let bounds = "key = 'n', min_value = 0.0, max_value = 100";
    judged(bounds, r#"{"n": 0}"#, true);
    judged(bounds, r#"{"n": -0.0}"#, true);
    judged(bounds, r#"{"n": 100}"#, true);
    judged(bounds, r#"{"n": 1e2}"#, true);
    judged(bounds, r#"{"n": -0.0000001}"#, false);
    judged(bounds, r#"{"n": 100.0000000000000000000001}"#, false);
    judged(bounds, r#"{"n": 1e400}"#, false);
    judged(bounds, r#"{"n": -1e99999999999999999999}"#, false);
    judged(bounds, r#"{"n": 1e-99999999999999999999}"#, true);
}

#[test]
fn bounds_are_exact_on_big_integers() {
    let bounds = "key = 'n', min_value = 9007199254740993, max_value = 18446744073709551615";
    judged(bounds, r#"{"n": 9007199254740993}"#, true);
    judged(bounds, r#"{"n": 9007199254740992}"#, false);
    judged(bounds, r#"{"n": 18446744073709551615}"#, true);
    judged(bounds, r#"{"n": 18446744073709551616}"#, false);
    judged("key = 'n', max_value = 0x10", r#"{"n": 16}"#, true);
    judged("key = 'n', max_value = 1_000.5", r#"{"n": 1000.5}"#, true);
    judged("key = 'n', max_value = 1_000.5", r#"{"n": 1000.6}"#, false);
}

#[test]
fn what_is_missing_or_of_another_type_is_in_doubt() {
    let bound = "key = 'n', max_value = 1000";
    for arguments in [
        "{}",
        "[]",
        "null",
        r#"{"N": 1}"#,
        r#"{"n": "50000"}"#,
        r#"{"n": "5"}"#,
        r#"{"n": [5]}"#,
        r#"{"n": {"n": 5}}"#,
        r#"{"n": null}"#,
        r#"{"n": true}"#,
    ] {
        unclear(bound, arguments);
    }
    unclear("key = 's', regex = 'a*'", r#"{"s": 1}"#);
    unclear("key = 's', regex = 'a*'", r#"{"s": ["a"]}"#);
    unclear("key = 's', allowed_values = ['a']", r#"{"s": ["a"]}"#);
    unclear("key = 's', allowed_values = ['a']", r#"{"s": 1}"#);
    unclear("key = 's', allowed_values = [1]", r#"{"s": "1"}"#);
    unclear("key = 's', allowed_values = [true, 1]", r#"{"s": "true"}"#);
}

#[test]
fn a_call_without_arguments_lacks_them_all() {
    let (agent, principal) = (agent(), principal());
    let facts = Facts { agent: &agent, principal: &principal, intent: None };
    let asked = Asked::of(Target::Tool("t"));
    let lines = "parameter_constraints = [{ key = 'n', max_value = 1 }]";
    assert_eq!(said(set(&policy("p", "allow", lines)).evaluate(&facts, &asked)), "no match");
    assert_eq!(said(set(&policy("p", "deny", lines)).evaluate(&facts, &asked)), "deny p");
}

#[test]
fn an_optional_argument_speaks_only_when_it_is_there() {
    let optional = "key = 'n', max_value = 10, required = false";
    check(optional, "{}", true, false);
    judged(optional, r#"{"n": 10}"#, true);
    judged(optional, r#"{"n": 11}"#, false);
    unclear(optional, r#"{"n": null}"#);
    unclear(optional, r#"{"n": "1"}"#);
    unclear(optional, "[]");
    unclear("key = 'a.n', max_value = 10, required = false", r#"{"a": [{"n": 1}]}"#);
    check("key = 'a.n', max_value = 10, required = false", r#"{"a": {}}"#, true, false);
    // Silent beside one that is met: the one that speaks decides.
    let both = "key = 'm' }, { key = 'n', max_value = 10, required = false";
    check(both, r#"{"m": 1}"#, true, true);
}

#[test]
fn a_bare_key_asks_only_that_the_argument_is_there() {
    judged("key = 'n'", r#"{"n": []}"#, true);
    judged("key = 'n'", r#"{"n": false}"#, true);
    unclear("key = 'n'", "{}");
    unclear("key = 'n'", r#"{"n": null}"#);
    check("key = 'n', required = false", "{}", true, false);
    judged("key = 'n', required = false", r#"{"n": 1}"#, true);
}

#[test]
fn allowed_values_are_compared_by_value() {
    let values = "key = 'v', allowed_values = ['a', 1, 2.50, true]";
    for met in [r#""a""#, r#""\u0061""#, "1", "1.0", "10e-1", "2.5", "true"] {
        judged(values, &format!(r#"{{"v": {met}}}"#), true);
    }
    for unmet in [r#""A""#, r#""1""#, "1.0000000000000000000000000001", "false", "3"] {
        judged(values, &format!(r#"{{"v": {unmet}}}"#), false);
    }
}

#[test]
fn a_regex_must_match_the_whole_value() {
    let regex = "key = 's', regex = '^[a-z]+$'";
    judged(regex, r#"{"s": "abc"}"#, true);
    judged(regex, r#"{"s": "abc\n"}"#, false);
    judged(regex, r#"{"s": "abc\nrm"}"#, false);
    judged(regex, r#"{"s": ""}"#, false);
    judged("key = 's', regex = '/tmp/.*'", r#"{"s": "/tmp/../etc"}"#, true);
    judged("key = 's', regex = 'tmp'", r#"{"s": "/tmp/x"}"#, false);
}

#[test]
fn paths_lead_through_objects_only() {
    let nested = "key = 'options.limit', max_value = 10";
    judged(nested, r#"{"options": {"limit": 10}}"#, true);
    judged(nested, r#"{"options": {"limit": 100}}"#, false);
    unclear(nested, r#"{"options": [{"limit": 1}]}"#);
    unclear(nested, r#"{"options": "limit"}"#);
    unclear(nested, r#"{"options.limit": 1}"#);
    judged(nested, r#"{"opt\u0069ons": {"lim\u0069t": 100}}"#, false);
}

#[test]
fn every_constraint_and_every_check_must_hold() {
    let two = "key = 'a', max_value = 1 }, { key = 'b', max_value = 1";
    judged(two, r#"{"a": 1, "b": 1}"#, true);
    judged(two, r#"{"a": 1, "b": 2}"#, false);
    unclear(two, r#"{"a": 1}"#);
    check(two, r#"{"a": 2}"#, false, false);
    let in_one = "key = 'a', max_value = 5, allowed_values = [1, 9]";
    judged(in_one, r#"{"a": 1}"#, true);
    judged(in_one, r#"{"a": 9}"#, false);
    judged(in_one, r#"{"a": 2}"#, false);
}

#[test]
fn constraints_are_for_tools() {
    let rule = |effect: &str| {
        set(&format!(
            "[[policies]]\nid = 'p'\neffect = '{effect}'\nallowed_resources = ['*']\n\
             parameter_constraints = [{{ key = 'x', required = false }}]"
        ))
    };
    let target = Target::Resource("file:///a");
    assert_eq!(decide_for(&rule("allow"), None, target, "{}"), "no match");
    assert_eq!(decide_for(&rule("deny"), None, target, "{}"), "deny p");
    assert_eq!(decide_for(&rule("escalate"), None, target, "{}"), "escalate p");
}

#[test]
fn a_key_that_is_the_wanted_one_but_for_its_case_leaves_doubt() {
    let bounded = "key = 'amount', max_value = 10";
    unclear(bounded, r#"{"amount": 5, "Amount": 99999}"#);
    unclear("key = 'amount', max_value = 10, required = false", r#"{"AMOUNT": 99999}"#);
    unclear("key = 'a.n', max_value = 10", r#"{"a": {"n": 5}, "A": {"n": 99}}"#);
    judged(bounded, r#"{"amount": 5, "amounts": 99999}"#, true);
}
