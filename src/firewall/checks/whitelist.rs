//! The whitelist: the names that a session was opened for.

/// Whether an entry that is `*` alone stands for every name (`sessions.allow_wildcard_tools`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wildcard {
    Honoured,
    Literal,
}

/// Whether `name` is on the list, byte for byte.
pub fn lists(list: &[String], name: &str, wildcard: Wildcard) -> bool {
    list.iter().any(|entry| entry == name || (wildcard == Wildcard::Honoured && entry == "*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &[&str], name: &str, wildcard: Wildcard, expected: bool) {
        let list: Vec<String> = list.iter().map(|&entry| entry.to_owned()).collect();
        assert_eq!(lists(&list, name, wildcard), expected, "{list:?} {name:?}");
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
