//! Tools of one upstream, and upstreams that do not exist.

use super::*;
use crate::firewall::call::UpstreamRef;

fn at(text: &str, upstream: Option<&str>, tool: &str) -> String {
    decide_for(&set(text), None, Target::ToolAt(UpstreamRef { name: upstream }, tool), "{}")
}

#[test]
fn a_name_before_a_colon_is_an_upstream() {
    let text = "
        [[policies]]
        id = 'git'
        effect = 'allow'
        allowed_tools = ['git:commit', 'git:list_*', 'read', '*:ns:delete']";
    for (upstream, tool, expected) in [
        (Some("git"), "commit", "allow git"),
        (Some("git"), "list_all", "allow git"),
        (Some("git"), "read", "allow git"),
        (Some("git"), "ns:delete", "allow git"),
        (Some("files"), "commit", "no match"),
        (Some("files"), "read", "allow git"),
        (Some("files"), "ns:delete", "allow git"),
        (Some("files"), "git:commit", "no match"),
        (Some("ns"), "delete", "no match"),
        (None, "git:commit", "no match"),
        (None, "ns:delete", "allow git"),
    ] {
        assert_eq!(at(text, upstream, tool), expected, "{upstream:?} {tool}");
    }
}

/// Errors and warnings of one entry where the upstreams have these names.
fn found(effect: &str, entry: &str, upstreams: &[&str]) -> (Vec<String>, Vec<String>) {
    let text =
        format!("[[policies]]\nid = 'p'\neffect = '{effect}'\nallowed_tools = [\n'ok', '{entry}']");
    let names: Vec<Box<str>> = upstreams.iter().map(|&name| name.into()).collect();
    let limits = Limits { upstreams: Some(&names), ..Limits::default() };
    let shown = |found: &[PolicyError]| found.iter().map(ToString::to_string).collect();
    match PolicySet::parse_within(&[Source { name: "p.toml", text: &text }], &limits) {
        Ok(set) => (Vec::new(), shown(set.warnings())),
        Err(errors) => (shown(&errors), Vec::new()),
    }
}

#[test]
fn an_upstream_that_does_not_exist_is_an_error_in_a_refusal() {
    let said = "p.toml:5: `gihub:delete_*` in `allowed_tools`: no upstream is called `gihub` \
                (upstreams are `github`, `files`); for a tool with a colon in its name write \
                `*:gihub:delete_*`";
    for effect in ["deny", "escalate"] {
        let (errors, _) = found(effect, "gihub:delete_*", &["github", "files"]);
        assert_eq!(errors, [said]);
    }
    let (errors, warnings) = found("allow", "gihub:delete_*", &["github", "files"]);
    assert_eq!(errors, [""; 0]);
    assert_eq!(warnings, [format!("{said}; until then it allows nothing")]);
    for entry in ["github:delete_*", "*:gihub:x", "delete"] {
        assert_eq!(found("deny", entry, &["github"]), (vec![], vec![]), "{entry}");
    }
}

#[test]
fn a_single_upstream_without_a_name_has_no_prefix() {
    let (errors, _) = found("deny", "github:x", &[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("(no upstream has a name)"), "{errors:?}");
}
