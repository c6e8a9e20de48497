//! Results of a constraint, and how many items of a list must meet it.

use std::fmt;

/// Result of a constraint for a call's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Satisfaction {
    Met,
    Unmet(&'static str),
    /// The argument is required and absent.
    Absent,
    /// The argument is present in a form that cannot be judged.
    Unclear(&'static str),
    /// The argument is optional and absent.
    Silent,
}

impl fmt::Display for Satisfaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "is as it must be",
            Self::Unmet(why) | Self::Unclear(why) => why,
            Self::Absent => "is missing",
            Self::Silent => "is not present",
        })
    }
}

/// Items of a list that must meet a constraint: an allow needs all of them, a refusal any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Need {
    All,
    Any,
}
