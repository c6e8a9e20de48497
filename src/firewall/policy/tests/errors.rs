//! Messages for a person who made a mistake.

use super::*;

/// All errors of one file, as they are shown.
fn errors(text: &str) -> Vec<String> {
    let source = Source { name: "p.toml", text };
    let errors = PolicySet::parse(&[source]).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

/// The one error that these lines cause inside an otherwise good policy (they start at line 5).
fn error(lines: &str) -> String {
    let mut errors = errors(&policy("p", "allow", lines));
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

#[test]
fn unknown_keys_suggest_the_nearest_known_one() {
    assert_eq!(
        error("allowed_tool = ['x']"),
        "p.toml:5: unknown key `allowed_tool`; did you mean `allowed_tools`?"
    );
    assert_eq!(
        error("[policies.agent_match]\ntrustlevel = 'basic'"),
        "p.toml:6: unknown key `trustlevel`; did you mean `trust_level`?"
    );
    assert_eq!(
        error("[[policies.parameter_constraints]]\nkey = 'a'\nregexp = 'x'"),
        "p.toml:7: unknown key `regexp`; did you mean `regex`?"
    );
    assert_eq!(
        error("[policies.intent_match]\ncolour = 'red'"),
        "p.toml:6: unknown key `colour`; known here are `keywords`, `regex`"
    );
    assert_eq!(
        errors("\n[[policy]]\nid = 'x'"),
        ["p.toml:2: unknown key `policy`; did you mean `policies`?"]
    );
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    let text = "
[[policies]]
id = ''
effect = 'permit'
allowed_tools = ['a*b', 7]
priority = -1

[[policies]]
effect = 'allow'

[[policies]]
id = 'c'
effect = 'deny'
priority = 1001
[[policies.parameter_constraints]]
key = 'a..b'
min_value = 2
max_value = 1.5
regex = '('
required = 'yes'
";
    let expected = [
        "p.toml:3: `id` must not be empty",
        "p.toml:4: unknown `effect` `permit`: expected allow, deny or escalate",
        "p.toml:5: `a*b` in `allowed_tools` may have a `*` only at its end",
        "p.toml:5: `allowed_tools` must be a list of strings, not an integer",
        "p.toml:6: `priority` must lie between 0 and 1000",
        "p.toml:8: `id` is missing",
        "p.toml:8: an allow policy must say what it allows: give `allowed_tools`, \
         `allowed_resources`, `allowed_prompts` or `allowed_methods` (`*` is everything)",
        "p.toml:14: `priority` must lie between 0 and 1000",
        "p.toml:16: `key` must be names joined by single dots",
        "p.toml:17: `min_value` 2 is above `max_value` 1.5",
        "p.toml:19: `regex` is not a regex: unclosed group",
        "p.toml:20: `required` must be true or false, not a string",
    ];
    assert_eq!(errors(text), expected);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn numbers_and_types_name_their_field() {
    for (lines, expected) in [
        ("priority = 0.5", "`priority` must be an integer, not a float"),
        ("priority = 99999999999999999999", "`priority` must lie between 0 and 1000"),
        ("allowed_prompts = 'x'", "`allowed_prompts` must be a list, not a string"),
        (
            "data_sensitivity = 'secret'",
            "`data_sensitivity`: expected public, internal, confidential or restricted",
        ),
        ("agent_match = 1", "`agent_match` must be a table, not an integer"),
        ("agent_match = { agent_id = 'x' }", "`agent_id` must be a UUID of 36 characters"),
        (
            "agent_match = { trust_level = 'high' }",
            "`trust_level`: expected untrusted, basic, verified or trusted",
        ),
        ("agent_match = { capabilities = [''] }", "`capabilities` must not be empty"),
        ("principal_match = { sub = '' }", "`sub` must not be empty"),
        (
            "intent_match = { keywords = ['--'] }",
            "`--` in `keywords` must hold a word (letters or digits)",
        ),
        ("intent_match = { keywords = [''] }", "`keywords` must not be empty"),
        ("intent_match = { regex = '[' }", "`regex` is not a regex: unclosed character class"),
        (
            "parameter_constraints = { key = 'a' }",
            "`parameter_constraints` must be a list of tables (`[[…parameter_constraints]]`), not a table",
        ),
        ("parameter_constraints = [{ max_value = 1 }]", "`key` is missing"),
        (
            "parameter_constraints = [{ key = 'a', max_value = '1' }]",
            "`max_value` must be a number, not a string",
        ),
        (
            "parameter_constraints = [{ key = 'a', max_value = inf }]",
            "`max_value` must be a finite number",
        ),
        (
            "parameter_constraints = [{ key = 'a', min_value = nan }]",
            "`min_value` must be a finite number",
        ),
        (
            "parameter_constraints = [{ key = 'a', min_value = 1e400 }]",
            "`min_value` must be a finite number",
        ),
        (
            "parameter_constraints = [{ key = 'a', allowed_values = [] }]",
            "`allowed_values` must list at least one value",
        ),
        (
            "parameter_constraints = [{ key = 'a', allowed_values = [[1]] }]",
            "`allowed_values` must be a list of strings, numbers and booleans, not a list",
        ),
        (
            "parameter_constraints = [{ key = 'a', allowed_values = [nan] }]",
            "a value of `allowed_values` must be a finite number",
        ),
        (
            "parameter_constraints = [{ key = 'recipients[*]' }]",
            "`key` enters a list by `[]` behind its name, such as `files[].path`",
        ),
        (
            "parameter_constraints = [{ key = '@input.a' }]",
            "`key` must be `@input.<key>.content.<path>`",
        ),
        (
            "parameter_constraints = [{ key = 'a', min_items = 2 }]",
            "`min_items` needs a `key` that enters a list, such as `a[]`",
        ),
        (
            "parameter_constraints = [{ key = 'a[]', min_items = 3, max_items = 2 }]",
            "`min_items` 3 is above `max_items` 2",
        ),
        (
            "parameter_constraints = [{ key = 'a', max_length = -1 }]",
            "`max_length` must lie between 0 and 4294967295",
        ),
        (
            "parameter_constraints = [{ key = 'a', path_under = ['/a', '~/b'] }]",
            "`path_under`: `~/b` is not a plain path such as `/projects`",
        ),
        (
            "parameter_constraints = [{ key = 'a', host_in = 'https://a' }]",
            "`host_in`: `https://a` must be a host such as `corp.com`, or `*.corp.com` for what lies \
             below it",
        ),
        (
            "parameter_constraints = [{ key = 'a', domain_in = [] }]",
            "`domain_in` must list at least one value",
        ),
        (
            "parameter_constraints = [{ key = 'a', id_in = [true] }]",
            "`id_in` must be a string or a list of strings, not a boolean",
        ),
        (
            "parameter_constraints = [{ key = 'a', ports = [443] }]",
            "`ports` needs `host_in` or `not_host_in`",
        ),
        (
            "parameter_constraints = [{ key = 'a', host_in = 'a', ports = [0] }]",
            "`ports` must list ports, from 1 to 65535",
        ),
        (
            "parameter_constraints = [{ key = 'a', from_intent = false }]",
            "`from_intent` must be true, or left out",
        ),
        (
            "parameter_constraints = [{ key = 'a', regex = 'x', id_in = 'x' }]",
            "`id_in` cannot be given with `regex`: one of `regex`, `path_under`, `not_path_under`, \
             `host_in`, `not_host_in`, `domain_in`, `not_domain_in`, `id_in`, `not_id_in`, \
             `from_intent` for each constraint",
        ),
        (
            "parameter_constraints = [{ key = 'a', regex = 'a)|(?:b' }]",
            "`regex` is not a regex: unopened group",
        ),
        (
            "parameter_constraints = [{ key = 'a', regex = '\\w{500}{500}' }]",
            "`regex` is too large once compiled",
        ),
    ] {
        assert_eq!(error(lines), format!("p.toml:5: {expected}"), "{lines}");
    }
}

#[test]
fn a_duplicate_id_names_both_places() {
    let (one, two) = (policy("twin", "allow", ""), format!("\n\n{}", policy("twin", "deny", "")));
    let sources = [Source { name: "1.toml", text: &one }, Source { name: "2.toml", text: &two }];
    let errors = PolicySet::parse(&sources).unwrap_err();
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors, ["2.toml:4: `id` `twin` was given before, at 1.toml:2"]);
}

#[test]
fn syntax_errors_have_lines_too_and_other_files_are_still_read() {
    let broken = "[[policies]]\nid = 'a'\neffect = \nallowed_tools = ['x'\n";
    let wrong = policy("b", "nonsense", "");
    let sources =
        [Source { name: "1.toml", text: broken }, Source { name: "2.toml", text: &wrong }];
    let errors = PolicySet::parse(&sources).unwrap_err();
    assert!(errors.iter().any(|e| e.source == "1.toml" && e.line == 3), "{errors:?}");
    assert!(errors.iter().any(|e| e.source == "2.toml" && e.line == 3), "{errors:?}");
    let twice = errors_of_line("[[policies]]\nid = 'a'\nid = 'b'\neffect = 'deny'");
    assert_eq!(twice, [3]);
}

#[test]
fn an_open_regex_of_an_allow_is_a_warning_with_the_matcher() {
    let warnings = |effect| {
        let lines = "parameter_constraints = [{ key = 'path', regex = '/projects/.*' }]";
        let warnings = set(&policy("p", effect, lines)).warnings;
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let expected = "test.toml:5: `regex` also matches `/projects/../etc/passwd`; use `path_under = \
                    [\"/projects\"]`";
    assert_eq!(warnings("allow"), [expected]);
    assert_eq!(warnings("deny"), [""; 0]);
}

#[test]
fn all_regexes_of_a_set_share_a_budget() {
    let texts: String = (100..140)
        .map(|n| {
            let lines =
                format!("parameter_constraints = [{{ key = 'a', regex = '\\w{{1,{n}}}x' }}]");
            policy(&n.to_string(), "deny", &lines)
        })
        .collect();
    let limits = Limits { regex_bytes: 16 << 20, ..Limits::default() };
    let sources = [Source { name: "p", text: &texts }];
    let errors = PolicySet::parse_within(&sources, &limits).unwrap_err();
    assert!(errors.len() > 20, "{}", errors.len());
    assert!(errors.last().unwrap().message.contains("all regexes together are too large"));
}

fn errors_of_line(text: &str) -> Vec<usize> {
    let errors = PolicySet::parse(&[Source { name: "p", text }]).unwrap_err();
    errors.iter().map(|error| error.line).collect()
}

#[test]
fn deep_nesting_is_an_error_not_a_crash() {
    let deep = format!("x = {}", "[".repeat(100_000));
    assert!(PolicySet::parse(&[Source { name: "p", text: &deep }]).is_err());
    let dotted = format!("{}x = 1", "a.".repeat(100_000));
    assert!(PolicySet::parse(&[Source { name: "p", text: &dotted }]).is_err());
}

#[test]
fn columns_count_characters() {
    let text = "[[policies]]\nid = 'ä'\neffect = 'deny'\nallowed_tools = ['ü', '*x']";
    let errors = PolicySet::parse(&[Source { name: "p", text }]).unwrap_err();
    assert_eq!((errors[0].line, errors[0].column), (4, 23));
}

#[test]
fn the_contracts_example_is_accepted() {
    let text = r#"
[[policies]]
id = "read-basic"            # unique
effect = "allow"             # allow | deny | escalate
allowed_tools = ["read_file", "list_*"]   # exact names or a trailing *
allowed_resources = ["file:///projects/*"]
data_sensitivity = "internal"
priority = 0
[policies.agent_match]
trust_level = "basic"
[policies.principal_match]
groups = ["ops-team"]
[policies.intent_match]
keywords = ["read"]
[[policies.parameter_constraints]]
key = "options.limit"        # dotted path into arguments
min_value = 0.0
max_value = 100.0
allowed_values = ["a", "b"]
regex = "^[a-z]+$"           # must match the WHOLE value
required = true
"#;
    assert_eq!(set(text).len(), 1);
}
