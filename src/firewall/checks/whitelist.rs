//! The whitelist: the names that a session was opened for.

use crate::firewall::call::{Data, Place};
use crate::firewall::policy::uri::climbs;

/// Whether an entry that is `*` alone stands for every name (`sessions.allow_wildcard_tools`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wildcard {
    Honoured,
    Literal,
}

/// Whether the tool `name` of this upstream is on the list, byte for byte.
pub fn lists(list: &[String], place: Place<'_>, name: &str, wildcard: Wildcard) -> bool {
    let entries = list.iter().filter_map(|entry| place.entry(entry));
    { entries }.any(|entry| entry == name || (wildcard == Wildcard::Honoured && entry == "*"))
}

/// Whether a resource, prompt or method is on the list: byte for byte, a resource also by an entry
/// that ends in `*`, since its addresses are rarely known beforehand.
///
/// A URI that a server may resolve to another place than it names is never matched by a prefix.
pub fn lists_data(list: &[String], what: Data, name: &str, wildcard: Wildcard) -> bool {
    let by_prefix = |entry: &String| {
        let prefix = entry.strip_suffix('*').filter(|prefix| !prefix.is_empty());
        what == Data::Resource && prefix.is_some_and(|p| name.starts_with(p)) && !climbs(name)
    };
    lists(list, Place::default(), name, wildcard) || list.iter().any(by_prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_does_not_reach_out_of_its_folder() {
        let list = vec!["file:///projects/*".to_owned(), "file:///a/../b".to_owned()];
        let check = |uri: &str, expected: bool| {
            assert_eq!(
                lists_data(&list, Data::Resource, uri, Wildcard::Literal),
                expected,
                "{uri}"
            );
        };
        check("file:///projects/a/b.txt", true);
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
            assert!(!lists_data(&every, what, "other", Wildcard::Literal), "{what:?}");
        }
        assert!(!lists_data(&every, Data::Method, "tasks/get", Wildcard::Literal));
    }

    fn check(list: &[&str], name: &str, wildcard: Wildcard, expected: bool) {
        let list: Vec<String> = list.iter().map(|&entry| entry.to_owned()).collect();
        assert_eq!(lists(&list, Place::default(), name, wildcard), expected, "{list:?} {name:?}");
    }

    #[test]
    fn an_entry_that_names_an_upstream_lists_its_tools_only() {
        let known = ["a".into(), "b".into()];
        let list = ["read", "a:write", "b:*"].map(str::to_owned);
        let check = |upstream: &str, name: &str, wildcard: Wildcard, expected: bool| {
            let place = Place { upstream: Some(upstream), known: &known };
            assert_eq!(lists(&list, place, name, wildcard), expected, "{upstream} {name}");
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
