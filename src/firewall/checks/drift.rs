//! Drift: whether a tool does what the session said it would do (contract 11).
//!
//! Both sides are read from words: the declared intent for its tier, the tool's name for its
//! operation. That finds agents that wander off, not tools that lie about themselves.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::firewall::policy::words::Phrase;
use crate::firewall::session::IntentTier;
use crate::firewall::time::Mono;

/// The words by which an intent is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keywords {
    pub read: Vec<String>,
    pub write: Vec<String>,
    pub admin: Vec<String>,
}

impl Default for Keywords {
    fn default() -> Self {
        let list = |words: &[&str]| words.iter().copied().map(str::to_owned).collect();
        Self {
            read: list(&["read", "analyze", "query", "search", "list", "get"]),
            write: list(&["write", "create", "update", "modify", "edit"]),
            admin: list(&["admin", "manage", "configure", "deploy", "delete"]),
        }
    }
}

/// The highest tier of which a keyword stands in the intent, as whole words, in any case.
pub fn tier(intent: &str, keywords: &Keywords) -> IntentTier {
    let occurs = |list: &[String]| {
        list.iter().filter_map(|word| Phrase::parse(word)).any(|word| word.occurs_in(intent))
    };
    if occurs(&keywords.admin) {
        IntentTier::Admin
    } else if occurs(&keywords.write) {
        IntentTier::Write
    } else if occurs(&keywords.read) {
        IntentTier::Read
    } else {
        IntentTier::Unknown
    }
}

/// What a tool does, as far as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Read,
    Write,
    Delete,
    Admin,
}

/// Changes who may do what, or runs whatever it is given.
const ADMIN_VERBS: &[&str] = &[
    "admin",
    "administer",
    "bash",
    "chmod",
    "chown",
    "configure",
    "deploy",
    "eval",
    "exec",
    "execute",
    "grant",
    "impersonate",
    "install",
    "kill",
    "manage",
    "provision",
    "reboot",
    "restart",
    "revoke",
    "shell",
    "shutdown",
    "sudo",
    "terminate",
    "uninstall",
];

/// Ends the existence of something.
const DELETE_VERBS: &[&str] = &[
    "clear", "del", "delete", "destroy", "discard", "drop", "erase", "prune", "purge", "remove",
    "rm", "rmdir", "trash", "truncate", "unlink", "wipe",
];

/// Needed beside a reading verb only, since a name without a known verb is a write anyway. Words
/// that are as often nouns (`post`, `commit`, `merge`) are therefore left out: `get_commit` reads.
const WRITE_VERBS: &[&str] = &[
    "add",
    "append",
    "apply",
    "approve",
    "assign",
    "cancel",
    "close",
    "copy",
    "create",
    "disable",
    "edit",
    "enable",
    "import",
    "insert",
    "invite",
    "lock",
    "modify",
    "move",
    "overwrite",
    "publish",
    "put",
    "register",
    "reject",
    "rename",
    "replace",
    "reply",
    "reset",
    "restore",
    "run",
    "save",
    "schedule",
    "send",
    "set",
    "share",
    "start",
    "stop",
    "submit",
    "sync",
    "trigger",
    "unlock",
    "update",
    "upload",
    "upsert",
    "write",
];

/// Leaves things as they are. Words that are first of all nouns (`status`, `time`) are left out:
/// a tool with an unknown verb before one must stay a write.
const READ_VERBS: &[&str] = &[
    "analyse",
    "analyze",
    "browse",
    "calculate",
    "cat",
    "check",
    "compare",
    "compute",
    "convert",
    "count",
    "describe",
    "diff",
    "echo",
    "explain",
    "fetch",
    "find",
    "get",
    "grep",
    "inspect",
    "list",
    "lookup",
    "ls",
    "monitor",
    "peek",
    "ping",
    "preview",
    "query",
    "read",
    "retrieve",
    "scan",
    "search",
    "select",
    "show",
    "stat",
    "summarise",
    "summarize",
    "tail",
    "translate",
    "validate",
    "verify",
    "view",
    "watch",
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

/// What happens under an intent of which no keyword is known (`sessions.unknown_intent`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownIntent {
    /// Nothing is checked.
    Off,
    /// What is not a read is flagged and counted, never refused.
    #[default]
    Flag,
    /// As a read intent.
    Enforce,
}

/// What drift says of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// For the record: operation and tier.
    pub flag: Option<&'static str>,
    /// Whether the flag counts towards a demotion.
    pub counts: bool,
    pub refuse: bool,
}

impl Finding {
    const FINE: Self = Self { flag: None, counts: false, refuse: false };

    fn drift(flag: &'static str, refuse: bool) -> Self {
        Self { flag: Some(flag), counts: true, refuse }
    }
}

/// Holds an operation against an intent. `escalate` is `sessions.escalate_anomalies`.
pub fn judge(
    tier: IntentTier,
    operation: Operation,
    unknown: UnknownIntent,
    escalate: bool,
) -> Finding {
    match (tier, operation) {
        (_, Operation::Read)
        | (IntentTier::Write | IntentTier::Admin, Operation::Write)
        | (IntentTier::Admin, Operation::Admin) => Finding::FINE,
        (IntentTier::Read, Operation::Write) => Finding::drift("write_under_read", escalate),
        (IntentTier::Read, Operation::Delete) => Finding::drift("delete_under_read", escalate),
        (IntentTier::Read, Operation::Admin) => Finding::drift("admin_under_read", escalate),
        (IntentTier::Write, Operation::Delete) => Finding::drift("delete_under_write", escalate),
        (IntentTier::Write, Operation::Admin) => Finding::drift("admin_under_write", escalate),
        (IntentTier::Admin, Operation::Delete) => {
            Finding { flag: Some("delete_under_admin"), counts: false, refuse: false }
        }
        (IntentTier::Unknown, Operation::Write | Operation::Delete | Operation::Admin) => {
            let flag = match operation {
                Operation::Admin => "admin_under_unknown",
                Operation::Delete => "delete_under_unknown",
                Operation::Write | Operation::Read => "write_under_unknown",
            };
            match unknown {
                UnknownIntent::Off => Finding::FINE,
                UnknownIntent::Flag => Finding::drift(flag, false),
                UnknownIntent::Enforce => Finding::drift(flag, escalate),
            }
        }
    }
}

/// Weight of a fresh flag. Whole numbers, so that five fresh ones are exactly five.
const FLAG_WEIGHT: u64 = 1 << FORGOTTEN_AFTER_HOURS;

/// At this age a flag's weight would be half of the smallest number that is counted with.
const FORGOTTEN_AFTER_HOURS: u64 = 16;

const FLAGS_TO_DEMOTE: u64 = 5;

const HOUR_US: u64 = 3_600_000_000;

/// The counted flags of one agent. Each halves its weight per full hour of age.
#[derive(Clone, Debug, Default)]
pub struct FlagHistory {
    /// When each flag was given, oldest first.
    // INVARIANT: never more than five per hour of memory, since the fifth in an hour demotes.
    given: VecDeque<Mono>,
}

impl FlagHistory {
    /// Adds flags given at `now`. True if the agent is to be demoted; the count then starts anew.
    #[must_use]
    pub fn add(&mut self, flags: u32, now: Mono) -> bool {
        self.given.retain(|given| age_hours(*given, now) <= FORGOTTEN_AFTER_HOURS);
        let old: u64 = self.given.iter().map(|given| FLAG_WEIGHT >> age_hours(*given, now)).sum();
        let fresh = u64::from(flags).saturating_mul(FLAG_WEIGHT);
        if flags > 0 && old.saturating_add(fresh) >= FLAGS_TO_DEMOTE * FLAG_WEIGHT {
            self.given.clear();
            return true;
        }
        self.given.extend((0..flags).map(|_| now));
        false
    }
}

fn age_hours(given: Mono, now: Mono) -> u64 {
    now.since(given) / HOUR_US
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIERS: [IntentTier; 4] =
        [IntentTier::Unknown, IntentTier::Read, IntentTier::Write, IntentTier::Admin];
    const OPERATIONS: [Operation; 4] =
        [Operation::Read, Operation::Write, Operation::Delete, Operation::Admin];

    #[test]
    fn an_intent_has_the_tier_of_its_highest_keyword() {
        let tier = |intent| tier(intent, &Keywords::default());
        assert_eq!(tier("read and analyze customer history"), IntentTier::Read);
        assert_eq!(tier("LIST all, then Update one"), IntentTier::Write);
        assert_eq!(tier("read, write and delete"), IntentTier::Admin);
        assert_eq!(tier("summarize the thread, already widespread"), IntentTier::Unknown);
        assert_eq!(tier("budget getter for the administrator"), IntentTier::Unknown);
        assert_eq!(tier(""), IntentTier::Unknown);
    }

    #[test]
    fn keywords_are_configurable() {
        let keywords =
            Keywords { read: vec!["look at".into()], write: vec!["--".into()], admin: vec![] };
        assert_eq!(tier("Look at this", &keywords), IntentTier::Read);
        assert_eq!(tier("read -- and delete", &keywords), IntentTier::Unknown);
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

    #[test]
    fn each_tier_allows_what_it_says() {
        let fine = |tier, operation| {
            judge(tier, operation, UnknownIntent::Enforce, true) == Finding::default()
        };
        let allowed = |tier| OPERATIONS.into_iter().filter(move |op| fine(tier, *op));
        assert!(allowed(IntentTier::Unknown).eq([Operation::Read]));
        assert!(allowed(IntentTier::Read).eq([Operation::Read]));
        assert!(allowed(IntentTier::Write).eq([Operation::Read, Operation::Write]));
        assert!(allowed(IntentTier::Admin).eq([
            Operation::Read,
            Operation::Write,
            Operation::Admin
        ]));
    }

    #[test]
    fn a_delete_under_admin_is_on_record_only() {
        for unknown in [UnknownIntent::Off, UnknownIntent::Flag, UnknownIntent::Enforce] {
            let finding = judge(IntentTier::Admin, Operation::Delete, unknown, true);
            let expected =
                Finding { flag: Some("delete_under_admin"), counts: false, refuse: false };
            assert_eq!(finding, expected);
        }
    }

    #[test]
    fn drift_is_refused_only_if_anomalies_escalate() {
        let finding =
            |escalate| judge(IntentTier::Write, Operation::Delete, UnknownIntent::Flag, escalate);
        assert_eq!(finding(false), Finding::drift("delete_under_write", false));
        assert_eq!(finding(true), Finding::drift("delete_under_write", true));
        for tier in TIERS {
            for operation in OPERATIONS {
                assert!(!judge(tier, operation, UnknownIntent::Enforce, false).refuse);
            }
        }
    }

    #[test]
    fn an_unknown_intent_is_as_it_is_configured() {
        let finding = |unknown| judge(IntentTier::Unknown, Operation::Admin, unknown, true);
        assert_eq!(finding(UnknownIntent::Off), Finding::default());
        assert_eq!(finding(UnknownIntent::Flag), Finding::drift("admin_under_unknown", false));
        assert_eq!(finding(UnknownIntent::Enforce), Finding::drift("admin_under_unknown", true));
        assert_eq!(UnknownIntent::default(), UnknownIntent::Flag);
    }

    #[test]
    fn the_fifth_flag_demotes_and_the_count_starts_anew() {
        let mut history = FlagHistory::default();
        for _ in 0..2 {
            for second in 0..4 {
                assert!(!history.add(1, Mono(second * 1_000_000)));
            }
            assert!(history.add(1, Mono(HOUR_US - 1)));
        }
    }

    #[test]
    fn flags_weigh_half_after_each_full_hour() {
        let mut history = FlagHistory::default();
        assert!(!history.add(4, Mono(0)));
        // 2 + 2, then one more.
        assert!(!history.add(2, Mono(HOUR_US)));
        assert!(history.add(1, Mono(HOUR_US)));

        let mut history = FlagHistory::default();
        assert!(!history.add(4, Mono(0)));
        // 1 + 3 at two hours.
        assert!(!history.add(3, Mono(2 * HOUR_US)));
        assert!(history.add(1, Mono(3 * HOUR_US - 1)));
    }

    #[test]
    fn many_flags_at_once_demote_once() {
        let mut history = FlagHistory::default();
        assert!(history.add(u32::MAX, Mono(0)));
        assert!(history.given.is_empty());
        assert!(!history.add(0, Mono(0)));
        assert!(!history.add(4, Mono(0)));
    }

    proptest! {
        #[test]
        fn the_history_stays_small(steps in prop::collection::vec((0..6_u32, 0..3 * HOUR_US), 0..300)) {
            let mut history = FlagHistory::default();
            let mut now = 0;
            for (flags, later) in steps {
                now += later;
                if history.add(flags, Mono(now)) {
                    prop_assert!(flags > 0);
                }
                prop_assert!(history.given.len() <= 5 * 17);
            }
        }

        #[test]
        fn every_name_has_an_operation(name in "\\PC{0,30}") {
            let words: String = name_words(&name).collect();
            let letters: String = name.chars().filter(|c| c.is_alphabetic()).collect();
            prop_assert_eq!(words, letters);
            operation(&name);
        }
    }
}
