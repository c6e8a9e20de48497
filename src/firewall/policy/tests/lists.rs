//! Constraints on lists: an allow needs every item, a refusal any.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Returns the policy that decides on arguments under an allow and a deny policy with one constraint.
fn both(constraint: &str, arguments: &str) -> (bool, bool) {
    let lines = format!("parameter_constraints = [{{ {constraint} }}]");
    let decide = |effect| {
        decide_for(&set(&policy("p", effect, &lines)), Some("x"), Target::Tool("t"), arguments)
    };
    (decide("allow") == "allow p", decide("deny") == "deny p")
}

#[track_caller]
fn check(constraint: &str, arguments: &str, expected: (bool, bool)) {
    assert_eq!(both(constraint, arguments), expected, "{constraint} {arguments}");
}

const CORP: &str = "key = 'to[]', domain_in = 'corp.com'";

#[test]
fn an_allow_needs_every_item_and_a_refusal_any() {
    check(CORP, r#"{"to": ["a@corp.com"]}"#, (true, true));
    check(CORP, r#"{"to": ["a@corp.com", "b@corp.com"]}"#, (true, true));
    check(CORP, r#"{"to": ["a@corp.com", "x@evil.com"]}"#, (false, true));
    check(CORP, r#"{"to": ["x@evil.com"]}"#, (false, false));
    check(CORP, r#"{"to": []}"#, (false, false));
    check(CORP, "{}", (false, true));
    for unclear in [
        r#"{"to": "a@corp.com"}"#,
        r#"{"to": null}"#,
        r#"{"to": {"0": "a@corp.com"}}"#,
        r#"{"to": ["a@corp.com", null]}"#,
        r#"{"to": [7]}"#,
        r#"{"To": ["a@corp.com"]}"#,
        r#"{"to": [["a@corp.com"], {}]}"#,
    ] {
        check(CORP, unclear, (false, true));
    }
}

#[test]
fn paths_lead_on_behind_a_list() {
    let path = "key = 'files[].path', path_under = ['/projects']";
    check(path, r#"{"files": [{"path": "/projects/a"}, {"path": "/projects/b"}]}"#, (true, true));
    check(path, r#"{"files": [{"path": "/projects/a"}, {"path": "/etc"}]}"#, (false, true));
    check(path, r#"{"files": [{"path": "/etc"}]}"#, (false, false));
    check(path, r#"{"files": [{"path": "/projects/a"}, {}]}"#, (false, true));
    check(path, r#"{"files": [{"path": "/projects/a", "Path": "/etc"}]}"#, (false, true));
    check(path, r#"{"files": ["/projects/a"]}"#, (false, true));
    let optional = "key = 'files[].path', path_under = ['/projects'], required = false";
    check(optional, r#"{"files": [{"path": "/projects/a"}, {}]}"#, (true, true));
    check(optional, r#"{"files": [{}]}"#, (true, false));
    check(optional, "{}", (true, false));
    let deep = "key = 'a[].b[]', max_value = 5";
    check(deep, r#"{"a": [{"b": [1, 2]}, {"b": [3]}]}"#, (true, true));
    check(deep, r#"{"a": [{"b": [1, 2]}, {"b": [9]}]}"#, (false, true));
    check(deep, r#"{"a": [{"b": []}, {"b": []}]}"#, (false, false));
}

#[test]
fn items_and_characters_are_counted() {
    let few = "key = 'to[]', max_items = 2, max_length = 3";
    check(few, r#"{"to": ["abc", "üöä"]}"#, (true, true));
    check(few, r#"{"to": ["abcd"]}"#, (false, false));
    check(few, r#"{"to": ["a", "b", "c"]}"#, (false, false));
    check(few, r#"{"to": ["a", 5]}"#, (false, true));
    let many = "key = 'to[]', min_items = 3";
    check(many, r#"{"to": ["a", "b"]}"#, (false, false));
    check(many, r#"{"to": ["a", "b", "c"]}"#, (true, true));
    check("key = 'to[]', min_items = 0, max_length = 1", r#"{"to": []}"#, (true, false));
    check("key = 's', max_length = 2", r#"{"s": "abc"}"#, (false, false));
    check("key = 's', max_length = 2", r#"{"s": "ab"}"#, (true, true));
}

#[test]
fn answers_of_the_client_are_constrained_too() {
    let lines =
        "parameter_constraints = [{ key = '@input.ask.content.to[]', domain_in = 'corp.com' }]";
    let (agent, principal) = (agent(), principal());
    let facts = Facts { agent: &agent, principal: &principal, intent: None };
    for (inputs, allow, deny) in [
        (Some(r#"{"ask": {"content": {"to": ["a@corp.com"]}}}"#), true, true),
        (Some(r#"{"ask": {"content": {"to": ["a@evil.com"]}}}"#), false, false),
        (Some(r#"{"other": {"content": {"to": ["a@corp.com"]}}}"#), false, true),
        (None, false, true),
    ] {
        let doc = inputs.map(|text| json::Doc::parse(text.as_bytes()).unwrap());
        let asked =
            Asked { inputs: doc.as_ref().map(json::Doc::root), ..Asked::of(Target::Tool("t")) };
        for (effect, expected) in [("allow", allow), ("deny", deny)] {
            let set = set(&policy("p", effect, lines));
            assert_eq!(
                set.evaluate(&facts, &asked).policy().is_some(),
                expected,
                "{inputs:?} {effect}"
            );
        }
    }
}

#[test]
fn answers_for_a_task_are_judged_by_what_is_said_of_answers() {
    let (agent, principal) = (agent(), principal());
    let facts = Facts { agent: &agent, principal: &principal, intent: None };
    let about_answers = "{ key = '@input.ask.content.to', domain_in = 'corp.com' }";
    let about_arguments = "{ key = 'path', path_under = ['/a'] }";
    let (fine, evil) = ("a@corp.com", "a@evil.com");
    for (effect, constraints, to, expected) in [
        ("allow", vec![about_answers, about_arguments], fine, "allow p"),
        ("allow", vec![about_answers, about_arguments], evil, "no match"),
        ("allow", vec![about_arguments], evil, "allow p"),
        ("allow", vec![], evil, "allow p"),
        ("deny", vec![about_answers], fine, "deny p"),
        ("deny", vec![about_answers], evil, "no match"),
        ("deny", vec![about_answers, about_arguments], fine, "deny p"),
        ("deny", vec![about_arguments], fine, "no match"),
        ("deny", vec![], fine, "deny p"),
    ] {
        let lines = format!("parameter_constraints = [{}]", constraints.join(", "));
        let set = set(&policy("p", effect, &lines));
        let inputs = format!(r#"{{"ask": {{"content": {{"to": "{to}"}}}}}}"#);
        let doc = json::Doc::parse(inputs.as_bytes()).unwrap();
        let decided = said(set.for_answers(&facts, Target::Tool("t"), doc.root()));
        assert_eq!(decided, expected, "{effect} {constraints:?} {to}");
    }
}

fn any_constraint() -> impl Strategy<Value = &'static str> {
    select(
        &[
            CORP,
            "key = 'to[]', not_domain_in = 'corp.com'",
            "key = 'to[]', regex = '[a-z]@corp.com'",
            "key = 'to[]', id_in = ['a@corp.com', 7]",
            "key = 'to[]', allowed_values = ['a@corp.com', 7, true]",
            "key = 'to[]', max_length = 10",
            "key = 'to[].x', max_value = 7",
            "key = 'to[].x', max_value = 7, required = false",
        ][..],
    )
}

fn any_items() -> impl Strategy<Value = Vec<&'static str>> {
    let item = select(
        &[
            r#""a@corp.com""#,
            r#""b@corp.com""#,
            r#""x@evil.com""#,
            "7",
            "8",
            "null",
            "true",
            r#"{"x":7}"#,
            r#"{"x":8}"#,
            r#"{"X":7}"#,
            "{}",
        ][..],
    );
    prop::collection::vec(item, 1..5)
}

proptest! {
    /// Order, duplicates and nesting change nothing; an allow over a list is one over each item, and so
    /// is a refusal.
    #[test]
    fn a_list_says_what_its_items_say(
        constraint in any_constraint(), items in any_items(), cut in 0..5_usize, twice in 0..5_usize,
    ) {
        let list = |items: &[&str]| both(constraint, &format!("{{\"to\": [{}]}}", items.join(",")));
        let expected = list(&items);
        let mut other = items.clone();
        other.reverse();
        prop_assert_eq!(list(&other), expected);
        other.rotate_left(cut % items.len());
        other.push(items[twice % items.len()]);
        prop_assert_eq!(list(&other), expected);
        let (left, right) = items.split_at(cut % items.len());
        let nested = format!("[[{}]],{}", left.join(","), right.join(","));
        prop_assert_eq!(list(&[nested.as_str()]), expected);
        let single: Vec<_> = items.iter().map(|item| list(&[item])).collect();
        let silent = constraint.contains("required") && items.contains(&"{}");
        if !silent {
            prop_assert_eq!(expected.0, single.iter().all(|(allow, _)| *allow));
            prop_assert_eq!(expected.1, single.iter().any(|(_, deny)| *deny));
        }
    }
}
