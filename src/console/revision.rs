//! Numbers by which a page knows that it is out of date.

use std::fmt;

use super::Console;

/// Numbers that change with what the pages show. A page carries those of before it was made, so that
/// nothing that changes until its stream is open goes unnoticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Revision {
    approvals: u64,
    sample: u64,
    verification: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.approvals, self.sample, self.verification)
    }
}

impl Revision {
    /// Reads what a page carries.
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut numbers = text.splitn(3, '-').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self { approvals: next()?, sample: next()?, verification: next()? })
    }

    /// Returns the part that the pages of a topic show.
    pub(super) fn of(self, topic: Topic) -> Self {
        let Self { approvals, verification, .. } = self;
        match topic {
            Topic::Live => Self::default(),
            Topic::Overview => Self { verification: 0, ..self },
            Topic::Approvals => Self { approvals, ..Self::default() },
            Topic::Verification => Self { verification, ..Self::default() },
        }
    }
}

/// Subject of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Live,
    Overview,
    Approvals,
    Verification,
}

impl Topic {
    pub(super) fn of(text: &str) -> Option<Self> {
        Some(match text {
            "live" => Self::Live,
            "overview" => Self::Overview,
            "approvals" => Self::Approvals,
            "verification" => Self::Verification,
            _ => return None,
        })
    }
}

impl Console {
    /// Returns the revision of what pages made now would show.
    pub(super) fn revision(&self) -> Revision {
        Revision {
            approvals: self.admin.approvals.revision(),
            sample: self.history.last().map_or(0, |at| at.0),
            verification: self.verification.progress(),
        }
    }
}
