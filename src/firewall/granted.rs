//! The lists of names that a session was granted, and the look-up in them.

use std::sync::Arc;

use crate::firewall::call::{Data, Entry, UpstreamRef};
use crate::firewall::terms::Wildcard;
use crate::firewall::uri::{self, Canonical};

/// Names that a session may use, and who opened it: sessions that were given the same share one in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grants {
    pub tools: Arc<[String]>,
    pub resources: Arc<[String]>,
    pub prompts: Arc<[String]>,
    pub methods: Arc<[String]>,
    pub credentials: Arc<[String]>,
    /// Name of the admin key or person that opened the session.
    pub opened_by: Option<Arc<str>>,
}

/// Looks for the tool `name` of this upstream on the list, byte for byte.
pub fn lists(list: &[String], upstream: UpstreamRef<'_>, name: &str, wildcard: Wildcard) -> bool {
    let entries = list.iter().filter_map(|entry| Entry::of(entry).at(upstream));
    { entries }.any(|entry| entry == name || (wildcard == Wildcard::Honoured && entry == "*"))
}

/// Looks for a resource, prompt or method on the list: byte for byte, a resource by its canonical
/// form and also by an entry that ends in `*`, since its addresses are rarely known beforehand. The
/// entries are canonical; a doubtful URI is on no list.
pub fn lists_data(list: &[String], what: Data, name: &str, wildcard: Wildcard) -> bool {
    match what {
        Data::Resource => uri::canonical(name).is_ok_and(|uri| lists_uri(list, &uri, wildcard)),
        Data::Task => false,
        Data::Prompt | Data::Method => {
            let every = wildcard == Wildcard::Honoured && list.iter().any(|entry| entry == "*");
            every || list.iter().any(|entry| entry == name)
        }
    }
}

/// Checks that all resources are on the list to which a template can expand, or the template itself.
pub fn lists_template(list: &[String], template: &str, wildcard: Wildcard) -> bool {
    let listed = |uri: Canonical| lists_uri(list, &uri, wildcard);
    uri::canonical(template).is_ok_and(listed) || uri::of_template(template).is_ok_and(listed)
}

fn lists_uri(list: &[String], uri: &Canonical, wildcard: Wildcard) -> bool {
    let honoured = |entry: &&String| *entry != "*" || wildcard == Wildcard::Honoured;
    list.iter().filter(honoured).any(|entry| uri::covers(entry, uri.text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_does_not_reach_out_of_its_folder() {
        let list = vec!["file:///projects/*".to_owned(), "file:///b".to_owned()];
        let check = |uri: &str, expected: bool| {
            let listed = lists_data(&list, Data::Resource, uri, Wildcard::Literal);
            assert_eq!(listed, expected, "{uri}");
        };
        check("file:///projects/a/b.txt", true);
        check("FILE://localhost/%70rojects/./a", true);
        check("file:///projects/..a/b...txt", true);
        check("file:///other", false);
        check("file:///projects/../etc/passwd", false);
        check("file:///projects/%2e%2E/etc/passwd", false);
        check("file:///projects/..%2fetc/passwd", false);
        check("file:///projects/..\\etc", false);
        check("file:///a/../b", true);
        let every = vec!["*".to_owned(), "tasks/*".to_owned()];
        assert!(lists_data(&every, Data::Method, "tasks/get", Wildcard::Honoured));
        for what in [Data::Method, Data::Prompt, Data::Resource] {
            assert!(!lists_data(&every, what, "other:x", Wildcard::Literal), "{what:?}");
            assert!(lists_data(&every, what, "other:x", Wildcard::Honoured), "{what:?}");
        }
        assert!(!lists_data(&every, Data::Resource, "other:%2F", Wildcard::Honoured));
        assert!(!lists_data(&every, Data::Method, "tasks/get", Wildcard::Literal));
    }

    fn check(list: &[&str], name: &str, wildcard: Wildcard, expected: bool) {
        let list: Vec<String> = list.iter().map(|&entry| entry.to_owned()).collect();
        assert_eq!(
            lists(&list, UpstreamRef::default(), name, wildcard),
            expected,
            "{list:?} {name:?}"
        );
    }

    #[test]
    fn an_entry_that_names_an_upstream_lists_its_tools_only() {
        let list = ["read", "a:write", "b:*", "*:ns:x"].map(str::to_owned);
        let check = |upstream: &str, name: &str, wildcard: Wildcard, expected: bool| {
            let at = UpstreamRef { name: Some(upstream) };
            assert_eq!(lists(&list, at, name, wildcard), expected, "{upstream} {name}");
        };
        check("a", "read", Wildcard::Literal, true);
        check("b", "read", Wildcard::Literal, true);
        check("a", "write", Wildcard::Literal, true);
        check("b", "write", Wildcard::Literal, false);
        check("b", "write", Wildcard::Honoured, true);
        check("a", "other", Wildcard::Honoured, false);
        // A tool whose own name looks like an entry for another upstream.
        check("b", "a:write", Wildcard::Literal, false);
        check("a", "a:write", Wildcard::Literal, false);
        check("a", "ns:x", Wildcard::Literal, true);
    }

    #[test]
    fn names_are_compared_byte_for_byte() {
        check(&["read_file", "list"], "list", Wildcard::Literal, true);
        check(&["read_file"], "Read_file", Wildcard::Literal, false);
        check(&["read_file"], "read_file ", Wildcard::Literal, false);
        check(&["read_file"], "read_fil", Wildcard::Literal, false);
        // One letter as one code point, and as a letter with a combining accent.
        check(&["caf\u{e9}"], "cafe\u{301}", Wildcard::Literal, false);
        check(&[], "", Wildcard::Honoured, false);
    }

    #[test]
    fn a_star_is_a_wildcard_alone_and_only_where_allowed() {
        check(&["*"], "rm", Wildcard::Honoured, true);
        check(&["*"], "rm", Wildcard::Literal, false);
        check(&["r*"], "rm", Wildcard::Honoured, false);
    }
}
