//! Operations of tools, configured or read from the words of their names.

use std::collections::HashMap;
use std::sync::Arc;

use crate::firewall::call::{Entry, UpstreamRef};
use crate::saturate::SaturatingFrom as _;

/// Operation of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Read,
    Write,
    Delete,
    Admin,
}

impl Operation {
    /// Reads the name of an operation.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "read" => Some(Self::Read),
            "write" => Some(Self::Write),
            "delete" => Some(Self::Delete),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

/// An operation, and whether it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Does {
    pub operation: Operation,
    /// True if the tool's name holds no known verb.
    pub is_guess: bool,
}

impl From<Operation> for Does {
    fn from(operation: Operation) -> Self {
        Self { operation, is_guess: false }
    }
}

/// Operations of tools whose names do not say them.
#[derive(Clone, Debug, Default)]
pub struct Tools(Arc<HashMap<Box<str>, Operation>>);

impl Tools {
    /// Takes entries as in policies: `tool`, `upstream:tool`, or `*:tool`.
    pub fn of(entries: impl IntoIterator<Item = (String, Operation)>) -> Self {
        let named = entries.into_iter().map(|(entry, operation)| {
            let name = entry.strip_prefix("*:").unwrap_or(&entry);
            let sign = if Entry::of(&entry).upstream.is_some() { "" } else { ":" };
            (format!("{sign}{name}").into(), operation)
        });
        Self(Arc::new(named.collect()))
    }

    /// Returns the operation of a tool of this upstream: as configured, or by its name.
    pub fn does(&self, upstream: UpstreamRef<'_>, tool: &str) -> Does {
        if self.0.is_empty() {
            return operation(tool);
        }
        let at = upstream.name.and_then(|name| self.0.get(format!("{name}:{tool}").as_str()));
        let known = at.or_else(|| self.0.get(format!(":{tool}").as_str()));
        known.map_or_else(|| operation(tool), |known| (*known).into())
    }
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

/// Needed with a reading verb only, since a name without a known verb is a write anyway. Words
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

/// Verbs of one operation in alphabetical order, and their lengths by first letter: most words are no verb, and
/// few letters begin one of their length.
struct Verbs {
    operation: Operation,
    words: &'static [&'static str],
    /// For each letter the lengths that verbs with it have, a bit each.
    lengths: [u32; 26],
}

impl Verbs {
    #[expect(clippy::indexing_slicing, reason = "evaluated when this is compiled")]
    const fn of(operation: Operation, verbs: &'static [&'static str]) -> Self {
        let mut lengths = [0; 26];
        let mut n = 0;
        while n < verbs.len() {
            let verb = verbs[n].as_bytes();
            lengths[(verb[0] - b'a') as usize] |= 1 << verb.len();
            n += 1;
        }
        Self { operation, words: verbs, lengths }
    }

    fn have(&self, word: &str) -> bool {
        let letter = word.as_bytes().first().map_or(0, u8::to_ascii_lowercase);
        let of_letter = self.lengths.get(usize::from(letter.wrapping_sub(b'a')));
        let length = u32::saturating_from(word.len());
        let first = |verb: &&str| verb.as_bytes().first().copied().unwrap_or_default();
        of_letter.is_some_and(|lengths| lengths.unbounded_shr(length) & 1 == 1)
            && self
                .words
                .get(self.words.partition_point(|verb| first(verb) < letter)..)
                .unwrap_or_default()
                .iter()
                .take_while(|verb| first(verb) == letter)
                .any(|verb| verb.eq_ignore_ascii_case(word))
    }
}

/// All verbs, those of the strongest operation first.
static VERBS: [Verbs; 4] = [
    Verbs::of(Operation::Admin, ADMIN_VERBS),
    Verbs::of(Operation::Delete, DELETE_VERBS),
    Verbs::of(Operation::Write, WRITE_VERBS),
    Verbs::of(Operation::Read, READ_VERBS),
];

/// The strongest operation that the words of a tool's name mean; a write if they mean none.
///
/// Words end at every character that is not a letter (`_ - . / :`, space, digits) and where a
/// capital begins a new one: `deleteUser`, `HTTPGet`.
pub fn operation(tool: &str) -> Does {
    let of_word = |word: &str| VERBS.iter().find(|verbs| verbs.have(word)).map(|v| v.operation);
    let strongest = if tool.is_ascii() {
        ascii_words(tool).filter_map(of_word).max()
    } else {
        name_words(tool).filter_map(of_word).max()
    };
    strongest.map_or(Does { operation: Operation::Write, is_guess: true }, Does::from)
}

fn name_words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_alphabetic()).flat_map(humps)
}

/// Finds the words of a name of ASCII characters, which are those of [`name_words`].
fn ascii_words(name: &str) -> impl Iterator<Item = &str> {
    let bytes = name.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        at += bytes.get(at..)?.iter().position(u8::is_ascii_alphabetic)?;
        let (start, mut before) = (at, *bytes.get(at)?);
        at += 1;
        while let Some(byte) = bytes.get(at).filter(|byte| byte.is_ascii_alphabetic()) {
            let small_follows = bytes.get(at + 1).is_some_and(u8::is_ascii_lowercase);
            if byte.is_ascii_uppercase() && (!before.is_ascii_uppercase() || small_follows) {
                break;
            }
            before = *byte;
            at += 1;
        }
        name.get(start..at)
    })
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
    fn verbs_are_found_whatever_their_case() {
        for verbs in &VERBS {
            assert!(verbs.words.is_sorted(), "{:?}", verbs.operation);
            for verb in verbs.words {
                assert!(verbs.have(verb) && verbs.have(&verb.to_uppercase()), "{verb}");
                assert!(
                    !verbs.have(&format!("{verb}s")) || verbs.words.contains(&&*format!("{verb}s")),
                    "{verb}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn ascii_names_have_the_words_that_all_names_have(name in "[a-cA-C_ 1]{0,12}|[ -~]{0,20}") {
            let words: Vec<_> = ascii_words(&name).collect();
            prop_assert_eq!(words, name_words(&name).collect::<Vec<_>>());
        }
    }

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
            assert_eq!(operation(tool).operation, expected, "{tool}");
        }
    }

    #[test]
    fn a_name_without_a_known_verb_is_a_guess_until_it_is_configured() {
        let tools = Tools::of([
            ("pay_bill".into(), Operation::Admin),
            ("git:blame".into(), Operation::Read),
            ("*:ns:look".into(), Operation::Read),
            ("get_all".into(), Operation::Delete),
        ]);
        let does = |upstream, tool| {
            let does = tools.does(UpstreamRef { name: upstream }, tool);
            (does.operation, does.is_guess)
        };
        assert_eq!(does(None, "pay_bill"), (Operation::Admin, false));
        assert_eq!(does(Some("git"), "pay_bill"), (Operation::Admin, false));
        assert_eq!(does(Some("git"), "blame"), (Operation::Read, false));
        assert_eq!(does(Some("files"), "blame"), (Operation::Write, true));
        assert_eq!(does(None, "ns:look"), (Operation::Read, false));
        assert_eq!(does(None, "get_all"), (Operation::Delete, false));
        assert_eq!(does(None, "write_file"), (Operation::Write, false));
        assert_eq!(does(None, "frobnicate"), (Operation::Write, true));
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
