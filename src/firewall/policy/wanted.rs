//! Target of a call, in the form in which policies compare it.

use super::Target;
use super::model::{Effect, Policy};
use super::name::Name;
use crate::firewall::uri::{Canonical, Doubt, canonical, of_template};

/// The target of a call, with a resource's URI in canonical form.
#[derive(Debug)]
pub(super) enum Wanted<'a> {
    /// A tool, and the upstream that has it if that is known and has a name.
    Tool(Option<&'a str>, &'a str),
    Resource(Result<Canonical, Doubt>),
    Prompt(&'a str),
    Method(&'a str),
}

impl<'a> Wanted<'a> {
    pub(super) fn of(target: Target<'a>) -> Self {
        match target {
            Target::Tool(name) => Self::Tool(None, name),
            Target::ToolAt(upstream, name) => Self::Tool(upstream.name, name),
            Target::Resource(uri) => Self::Resource(canonical(uri)),
            Target::Template(template) => Self::Resource(of_template(template)),
            Target::Prompt(name) => Self::Prompt(name),
            Target::Method(name) => Self::Method(name),
        }
    }

    pub(super) fn is_tool(&self) -> bool {
        matches!(self, Self::Tool(..))
    }

    /// Reason why the URI has no canonical form.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        match self {
            Self::Resource(Err(doubt)) => Some(*doubt),
            Self::Resource(Ok(_)) | Self::Tool(..) | Self::Prompt(_) | Self::Method(_) => None,
        }
    }
}

/// Application of a policy's names to what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    None,
    /// The names apply if a server ignores a part of the URI, or whatever a doubtful one means.
    Perhaps,
    Full,
}

impl Policy {
    /// The names that this policy has for what is asked.
    fn names(&self, wanted: &Wanted<'_>) -> &[Name] {
        match wanted {
            Wanted::Tool(..) => &self.allowed_tools,
            Wanted::Resource(_) => &self.allowed_resources,
            Wanted::Prompt(_) => &self.allowed_prompts,
            Wanted::Method(_) => &self.allowed_methods,
        }
    }

    /// Checks the policy's names against what is asked.
    pub(super) fn coverage(&self, wanted: &Wanted<'_>) -> Coverage {
        let names = self.names(wanted);
        let full = match wanted {
            Wanted::Tool(at, tool) => names.iter().any(|name| name.covers_tool(*at, tool)),
            Wanted::Prompt(name) | Wanted::Method(name) => {
                names.iter().any(|entry| entry.covers(name))
            }
            Wanted::Resource(Err(_)) if names.is_empty() => return Coverage::None,
            Wanted::Resource(Err(_)) => return Coverage::Perhaps,
            Wanted::Resource(Ok(uri)) => {
                let covered = |uri: &str| names.iter().any(|name| name.covers_uri(uri));
                if !covered(uri.text()) && uri.others().iter().any(|other| covered(other)) {
                    return Coverage::Perhaps;
                }
                covered(uri.text())
            }
        };
        if full { Coverage::Full } else { Coverage::None }
    }

    pub(super) fn refuses(&self) -> bool {
        match self.effect {
            Effect::Allow => false,
            Effect::Escalate | Effect::Deny => true,
        }
    }
}
