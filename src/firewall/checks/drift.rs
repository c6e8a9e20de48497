//! Drift: a tool that does more than the session said it would do.
//!
//! Both sides are read from words: the declared intent for its tier, the tool's name for its
//! operation. The check finds agents that wander off, not tools that lie about themselves.

mod flags;

pub use crate::firewall::operation::{Does, Operation, Tools, operation};
pub use crate::firewall::terms::UnknownIntent;
pub use flags::FlagHistory;

use crate::firewall::call::{CallKind, UpstreamRef};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::policy::words::Phrase;
use crate::firewall::session::{IntentTier, WorkOrder};
use crate::firewall::terms::Terms;

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

/// The highest tier of which the intent contains a keyword, as whole words, in any case.
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

/// The result for one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// For the record: operation and tier.
    pub flag: Option<&'static str>,
    /// True if the flag counts towards a demotion.
    pub counts: bool,
    pub refuse: bool,
}

impl Finding {
    const FINE: Self = Self { flag: None, counts: false, refuse: false };

    fn drift(flag: &'static str, refuse: bool) -> Self {
        Self { flag: Some(flag), counts: true, refuse }
    }
}

/// The findings of all calls of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Each flag once.
    pub flags: Vec<&'static str>,
    /// Number of calls that count towards a demotion.
    pub counted: u32,
    pub refuse: bool,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        if let Some(flag) = finding.flag
            && !self.flags.contains(&flag)
        {
            self.flags.push(flag);
        }
        self.counted = self.counted.saturating_add(u32::from(finding.counts));
        self.refuse |= finding.refuse;
    }
}

/// Compares the calls with the session's declared intent.
pub fn look<'c>(
    terms: &Terms,
    order: &WorkOrder,
    calls: impl IntoIterator<Item = &'c CallKind<'c>>,
    upstream: UpstreamRef<'_>,
) -> Findings {
    let mut findings = Findings::default();
    for call in calls {
        if let CallKind::Tool { name, .. } = call {
            let (tier, unknown) = (order.intent_tier, terms.unknown_intent);
            let does = terms.tools.does(upstream, name);
            let finding = compare(tier, does, unknown, terms.escalate_anomalies);
            let counts = finding.counts && !names(&order.declared_intent, does.operation);
            findings.add(Finding { counts, ..finding });
        }
    }
    findings
}

/// Checks whether the intent's own words name the operation, or a stronger one, by a verb that is no keyword:
/// "read the page and invite Dora" has the tier read, and its agent does what was asked.
fn names(intent: &str, wanted: Operation) -> bool {
    let Does { operation, is_guess } = operation(intent);
    !is_guess && operation >= wanted
}

/// Refuses what goes beyond the intent, where that is to be refused.
pub fn check(findings: &Findings) -> Result<(), Denial> {
    if findings.refuse {
        return Err(Denial::new(
            Code::DriftDetected,
            "this call goes beyond the session's declared intent: keep to it, or ask your operator \
             for a session that declares what you need",
        ));
    }
    Ok(())
}

/// Holds an operation against an intent. `escalate` is `sessions.escalate_anomalies`. A flag that rests
/// on a guess does not count: an honest agent cannot know how its tools are called.
pub fn compare(
    tier: IntentTier,
    does: impl Into<Does>,
    unknown: UnknownIntent,
    escalate: bool,
) -> Finding {
    let Does { operation, is_guess } = does.into();
    let finding = compare_known(tier, operation, unknown, escalate);
    Finding { counts: finding.counts && !is_guess, ..finding }
}

fn compare_known(
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
                UnknownIntent::Flag => Finding { flag: Some(flag), counts: false, refuse: false },
                UnknownIntent::Enforce => Finding::drift(flag, escalate),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn each_tier_allows_what_it_says() {
        let fine = |tier, operation| {
            compare(tier, operation, UnknownIntent::Enforce, true) == Finding::default()
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
            let finding = compare(IntentTier::Admin, Operation::Delete, unknown, true);
            let expected =
                Finding { flag: Some("delete_under_admin"), counts: false, refuse: false };
            assert_eq!(finding, expected);
        }
    }

    #[test]
    fn drift_is_refused_only_if_anomalies_escalate() {
        let finding =
            |escalate| compare(IntentTier::Write, Operation::Delete, UnknownIntent::Flag, escalate);
        assert_eq!(finding(false), Finding::drift("delete_under_write", false));
        assert_eq!(finding(true), Finding::drift("delete_under_write", true));
        for tier in TIERS {
            for operation in OPERATIONS {
                assert!(!compare(tier, operation, UnknownIntent::Enforce, false).refuse);
            }
        }
    }

    #[test]
    fn a_guess_is_flagged_and_refused_but_never_counted() {
        let guess = operation("frobnicate");
        for escalate in [false, true] {
            let finding = compare(IntentTier::Read, guess, UnknownIntent::Flag, escalate);
            let expected =
                Finding { flag: Some("write_under_read"), counts: false, refuse: escalate };
            assert_eq!(finding, expected);
        }
        assert!(compare(IntentTier::Read, operation("write_x"), UnknownIntent::Flag, false).counts);
    }

    #[test]
    fn a_flag_does_not_count_where_the_intent_names_the_operation() {
        for (intent, tool, named) in [
            ("read the page and invite Dora", "invite_user", true),
            ("read the page and invite Dora", "remove_user", false),
            ("list what is new, then purge the cache", "add_entry", true),
            ("list what is new, then purge the cache", "clear_cache", true),
            ("list what is new, then purge the cache", "grant_role", false),
            ("read and analyze customer history", "send_mail", false),
            ("look at the inviting page", "invite_user", false),
            ("", "send_mail", false),
        ] {
            assert_eq!(names(intent, operation(tool).operation), named, "{intent}: {tool}");
        }
    }

    #[test]
    fn an_unknown_intent_is_as_it_is_configured() {
        let finding = |unknown| compare(IntentTier::Unknown, Operation::Admin, unknown, true);
        assert_eq!(finding(UnknownIntent::Off), Finding::default());
        let flagged = Finding { flag: Some("admin_under_unknown"), counts: false, refuse: false };
        assert_eq!(finding(UnknownIntent::Flag), flagged);
        assert_eq!(finding(UnknownIntent::Enforce), Finding::drift("admin_under_unknown", true));
        assert_eq!(UnknownIntent::default(), UnknownIntent::Flag);
    }
}
