//! Items of a list that were hidden or passed for reasons that no policy gave.

use std::fmt;

use super::ListKind;
use crate::json::Problem;

/// Items of one answer that are named; the others are counted only.
const MAX_NAMED: usize = 8;

/// Characters of a name that are kept.
const MAX_NAME_CHARS: usize = 64;

/// A flaw of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// Hidden: the label is missing, unreadable or written twice.
    NoName,
    /// Hidden: another item has the same name.
    SharedName,
    /// Hidden: its bytes are not UTF-8.
    NotUtf8,
    /// Passed as it came, although it is not strict JSON.
    Unread(Problem),
}

impl Oddity {
    fn hides(self) -> bool {
        match self {
            Self::NoName | Self::SharedName | Self::NotUtf8 => true,
            Self::Unread(_) => false,
        }
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => f.write_str("hidden: no readable name"),
            Self::SharedName => f.write_str("hidden: two entries have the name"),
            Self::NotUtf8 => f.write_str("hidden: not UTF-8"),
            Self::Unread(problem) => write!(f, "passed unread: {problem}"),
        }
    }
}

/// An item with a flaw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub list: &'static str,
    /// Clipped, and fit for a log.
    pub name: String,
    pub flaw: Oddity,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}` {}", self.list, self.name, self.flaw)
    }
}

/// Oddities of the lists of one answer; bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    pub hidden: u64,
    pub unread: u64,
    /// The first few.
    pub named: Vec<Named>,
}

impl Oddities {
    pub fn is_empty(&self) -> bool {
        self.hidden == 0 && self.unread == 0
    }

    pub(super) fn note(&mut self, kind: ListKind, name: &str, flaw: Oddity) {
        let count = if flaw.hides() { &mut self.hidden } else { &mut self.unread };
        *count = count.saturating_add(1);
        if self.named.len() < MAX_NAMED {
            let name = name.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect();
            self.named.push(Named { list: kind.member(), name, flaw });
        }
    }

    /// Adds those of a later part of the same answer.
    pub fn add(&mut self, later: Self) {
        self.hidden = self.hidden.saturating_add(later.hidden);
        self.unread = self.unread.saturating_add(later.unread);
        let room = MAX_NAMED.saturating_sub(self.named.len());
        self.named.extend(later.named.into_iter().take(room));
    }
}
