//! Sections of the console, and a page at one of them.

use maud::Markup;

use crate::admin::Method;

/// One page.
pub(super) struct Shown {
    pub(super) section: Section,
    pub(super) title: String,
    pub(super) body: Markup,
    /// Event stream that keeps the page current.
    pub(super) topic: Option<String>,
}

impl Shown {
    pub(super) fn at(section: Section, body: Markup) -> Self {
        Self { section, title: section.name().to_owned(), body, topic: None }
    }
}

/// Entry of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Live,
    Why,
    Sessions,
    Agents,
    Approvals,
    Policies,
    Audit,
    Health,
}

impl Section {
    pub(super) const ALL: [Self; 9] = [
        Self::Overview,
        Self::Live,
        Self::Why,
        Self::Sessions,
        Self::Agents,
        Self::Approvals,
        Self::Policies,
        Self::Audit,
        Self::Health,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Live => "Live",
            Self::Why => "Why",
            Self::Sessions => "Sessions",
            Self::Agents => "Agents",
            Self::Approvals => "Approvals",
            Self::Policies => "Policies",
            Self::Audit => "Audit",
            Self::Health => "Health",
        }
    }

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Overview => "/console",
            Self::Live => "/console/live",
            Self::Why => "/console/why",
            Self::Sessions => "/console/sessions",
            Self::Agents => "/console/agents",
            Self::Approvals => "/console/approvals",
            Self::Policies => "/console/policies",
            Self::Audit => "/console/audit",
            Self::Health => "/console/health",
        }
    }

    /// Returns the endpoint whose roles may see the page.
    pub(super) fn needs(self) -> (Method, &'static str) {
        (
            Method::Get,
            match self {
                Self::Sessions => "/sessions",
                Self::Approvals => "/approvals",
                Self::Audit | Self::Why => "/audit/records",
                Self::Overview | Self::Live | Self::Agents | Self::Policies | Self::Health => {
                    "/agents"
                }
            },
        )
    }
}
