//! What a tool does, read from the words of its name.

/// What a tool does, as far as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Read,
    Write,
    Delete,
    Admin,
}

/// Changes who may do what, or runs whatever it is given.
#[rustfmt::skip]
const ADMIN_VERBS: &[&str] = &[
    "admin", "administer", "bash", "chmod", "chown", "configure", "deploy", "eval", "exec",
    "execute", "grant", "impersonate", "install", "kill", "manage", "provision", "reboot",
    "restart", "revoke", "shell", "shutdown", "sudo", "terminate", "uninstall",
];

/// Ends the existence of something.
#[rustfmt::skip]
const DELETE_VERBS: &[&str] = &[
    "clear", "del", "delete", "destroy", "discard", "drop", "erase", "prune", "purge", "remove",
    "rm", "rmdir", "trash", "truncate", "unlink", "wipe",
];

/// Needed beside a reading verb only, since a name without a known verb is a write anyway. Words
/// that are as often nouns (`post`, `commit`, `merge`) are therefore left out: `get_commit` reads.
#[rustfmt::skip]
const WRITE_VERBS: &[&str] = &[
    "add", "append", "apply", "approve", "assign", "cancel", "close", "copy", "create", "disable",
    "edit", "enable", "import", "insert", "invite", "lock", "modify", "move", "overwrite",
    "publish", "put", "register", "reject", "rename", "replace", "reply", "reset", "restore",
    "run", "save", "schedule", "send", "set", "share", "start", "stop", "submit", "sync",
    "trigger", "unlock", "update", "upload", "upsert", "write",
];

/// Leaves things as they are. Words that are first of all nouns (`status`, `time`) are left out:
/// a tool with an unknown verb before one must stay a write.
#[rustfmt::skip]
const READ_VERBS: &[&str] = &[
    "analyse", "analyze", "browse", "calculate", "cat", "check", "compare", "compute", "convert",
    "count", "describe", "diff", "echo", "explain", "fetch", "find", "get", "grep", "inspect",
    "list", "lookup", "ls", "monitor", "peek", "ping", "preview", "query", "read", "retrieve",
    "scan", "search", "select", "show", "stat", "summarise", "summarize", "tail", "translate",
    "validate", "verify", "view", "watch",
];

/// The strongest operation that the words of a tool's name speak of; a write if they speak of none.
///
/// Words end at every character that is not a letter (`_ - . / :`, space, digits) and where a
/// capital begins a new one: `deleteUser`, `HTTPGet`.
pub fn operation(tool: &str) -> Operation {
    let operations = name_words(tool).filter_map(|word| {
        let known = |verbs: &[&str]| verbs.iter().any(|verb| verb.eq_ignore_ascii_case(word));
        [
            (ADMIN_VERBS, Operation::Admin),
            (DELETE_VERBS, Operation::Delete),
            (WRITE_VERBS, Operation::Write),
            (READ_VERBS, Operation::Read),
        ]
        .into_iter()
        .find(|(verbs, _)| known(verbs))
        .map(|(_, operation)| operation)
    });
    operations.max().unwrap_or(Operation::Write)
}

fn name_words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_alphabetic()).flat_map(humps)
}

/// Cuts camel case: before a capital that follows a small letter or that a small letter follows.
fn humps(run: &str) -> impl Iterator<Item = &str> {
    let mut rest = run;
    std::iter::from_fn(move || {
        let mut before: Option<char> = None;
        let mut chars = rest.char_indices().peekable();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            let small_follows = chars.peek().is_some_and(|(_, next)| next.is_lowercase());
            if before.is_some_and(|b| c.is_uppercase() && (!b.is_uppercase() || small_follows)) {
                end = at;
                break;
            }
            before = Some(c);
        }
        let (word, left) = rest.split_at(end);
        rest = left;
        (!word.is_empty()).then_some(word)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tools_words_say_what_it_does() {
        for (tool, expected) in [
            ("read_file", Operation::Read),
            ("get_time", Operation::Read),
            ("echo", Operation::Read),
            ("search", Operation::Read),
            ("files:list", Operation::Read),
            ("getUserById", Operation::Read),
            ("HTTPGet", Operation::Read),
            ("get_commit", Operation::Read),
            ("list_deleted_items", Operation::Read),
            ("read_configuration", Operation::Read),
            ("write_file", Operation::Write),
            ("get_and_update", Operation::Write),
            ("set_view", Operation::Write),
            ("frobnicate", Operation::Write),
            ("transfer", Operation::Write),
            ("", Operation::Write),
            ("readfile", Operation::Write),
            ("read_and_delete_file", Operation::Delete),
            ("deleteEverything", Operation::Delete),
            ("db.table/drop", Operation::Delete),
            ("DELETE FILE", Operation::Delete),
            ("delete2", Operation::Delete),
            ("HTTPDelete", Operation::Delete),
            ("userDELETE", Operation::Delete),
            ("getUser:rm", Operation::Delete),
            ("admin_reset", Operation::Admin),
            ("delete-and-deploy", Operation::Admin),
            ("execute_sql", Operation::Admin),
        ] {
            assert_eq!(operation(tool), expected, "{tool}");
        }
    }

    #[test]
    fn names_are_cut_at_signs_and_capitals() {
        for (name, words) in [
            ("getUserById", vec!["get", "User", "By", "Id"]),
            ("HTTPServerGet", vec!["HTTP", "Server", "Get"]),
            ("a_b-c.d/e:f g9h", vec!["a", "b", "c", "d", "e", "f", "g", "h"]),
            ("ÜberÄndern", vec!["Über", "Ändern"]),
            ("DELETE", vec!["DELETE"]),
            ("getX", vec!["get", "X"]),
            ("X", vec!["X"]),
            ("__", vec![]),
        ] {
            assert_eq!(name_words(name).collect::<Vec<_>>(), words, "{name}");
        }
    }

    #[test]
    fn a_verb_stands_in_one_list_only() {
        let mut all: Vec<_> =
            [ADMIN_VERBS, DELETE_VERBS, WRITE_VERBS, READ_VERBS].into_iter().flatten().collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    proptest! {
        #[test]
        fn every_name_has_an_operation(name in "\\PC{0,30}") {
            let words: String = name_words(&name).collect();
            let letters: String = name.chars().filter(|c| c.is_alphabetic()).collect();
            prop_assert_eq!(words, letters);
            operation(&name);
        }
    }
}
