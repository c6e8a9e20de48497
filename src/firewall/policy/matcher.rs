//! Matchers by meaning: what a path, URL, mailbox or identifier denotes, not how it is written.
//!
//! Each reads a value as the usual libraries do. A value that these libraries read differently is
//! *unclear*: no allow policy matches it, and a refusal applies. A negated matcher (`not_host_in`)
//! leaves it unclear.

mod host;
mod id;
mod intent;
mod mailbox;
mod path;

use crate::json::{Kind, Value};

pub(in crate::firewall) use host::Hosts;
pub(super) use id::Ids;
pub(super) use mailbox::Domains;
pub(super) use path::Folders;

/// Result of one matcher on one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    In,
    Out,
    Unclear,
}

impl Reading {
    fn of(is_in: bool) -> Self {
        if is_in { Self::In } else { Self::Out }
    }

    fn negated(self) -> Self {
        match self {
            Self::In => Self::Out,
            Self::Out => Self::In,
            Self::Unclear => Self::Unclear,
        }
    }
}

/// Meaning that a value must have.
#[derive(Debug)]
pub(super) enum Meaning {
    PathUnder(Folders),
    HostIn(Hosts),
    DomainIn(Domains),
    IdIn(Ids),
    FromIntent,
}

/// A matcher, perhaps negated.
#[derive(Debug)]
pub(super) struct Matcher {
    pub(super) meaning: Meaning,
    pub(super) negated: bool,
}

impl Matcher {
    /// Reads a value that is not null. `intent` is the session's, if there is one.
    pub(super) fn read(&self, value: Value<'_>, intent: Option<&str>) -> Reading {
        let reading = self.meaning.read(value, intent);
        if self.negated { reading.negated() } else { reading }
    }

    /// Reason why a value is not as the matcher wants it.
    pub(super) fn failing(&self) -> &'static str {
        match (&self.meaning, self.negated) {
            (Meaning::PathUnder(_), false) => "is not below any folder of `path_under`",
            (Meaning::PathUnder(_), true) => "is below a folder of `not_path_under`",
            (Meaning::HostIn(_), false) => "is for no host of `host_in`",
            (Meaning::HostIn(_), true) => "is for a host of `not_host_in`",
            (Meaning::DomainIn(_), false) => "is a mailbox of no domain of `domain_in`",
            (Meaning::DomainIn(_), true) => "is a mailbox of a domain of `not_domain_in`",
            (Meaning::IdIn(_), false) => "is not among `id_in`",
            (Meaning::IdIn(_), true) => "is among `not_id_in`",
            (Meaning::FromIntent, _) => "does not stand in the declared intent",
        }
    }

    /// Reason why a value cannot be read with certainty.
    pub(super) fn unclear(&self) -> &'static str {
        match &self.meaning {
            Meaning::PathUnder(_) => "is not a path that all servers read alike",
            Meaning::HostIn(_) => {
                "is not a URL that all clients read alike, or has an unlisted scheme or port"
            }
            Meaning::DomainIn(_) => "is not one plain mailbox (local@domain)",
            Meaning::IdIn(_) => "is no identifier, or one of the list in another case or form",
            Meaning::FromIntent => "cannot be looked up in a declared intent",
        }
    }
}

impl Meaning {
    fn read(&self, value: Value<'_>, intent: Option<&str>) -> Reading {
        match self {
            Self::IdIn(ids) => return ids.read(value),
            Self::FromIntent => {
                let text = match value.kind() {
                    Kind::Number => value.as_number().map(Into::into),
                    Kind::String => value.as_str(),
                    Kind::Object | Kind::Array | Kind::True | Kind::False | Kind::Null => None,
                };
                return match (text, intent) {
                    (Some(text), Some(intent)) => Reading::of(intent::stands_in(&text, intent)),
                    _ => Reading::Unclear,
                };
            }
            Self::PathUnder(_) | Self::HostIn(_) | Self::DomainIn(_) => {}
        }
        let Some(text) = value.as_str() else { return Reading::Unclear };
        match self {
            Self::PathUnder(folders) => folders.read(&text),
            Self::HostIn(hosts) => hosts.read(&text),
            Self::DomainIn(domains) => domains.read(&text),
            Self::IdIn(_) | Self::FromIntent => Reading::Unclear,
        }
    }
}

/// Names of hosts or domains: exact ones, and `*.` for what lies below one.
#[derive(Debug, Default)]
struct Names {
    exact: Vec<Box<str>>,
    below: Vec<Box<str>>,
}

impl Names {
    /// Adds `corp.com` or `*.corp.com`, in the form in which hosts are compared.
    fn add(&mut self, entry: &str) -> Result<(), String> {
        let (name, list) = match entry.strip_prefix("*.") {
            Some(name) => (name, &mut self.below),
            None => (entry, &mut self.exact),
        };
        let bad = || {
            "must be a host such as `corp.com`, or `*.corp.com` for what lies below it".to_owned()
        };
        if name.contains(['*', '@', '/', '%', '\\']) || name.trim() != name {
            return Err(bad());
        }
        let host = url::Host::parse(name).ok().ok_or_else(bad)?;
        if entry.starts_with("*.") && !matches!(host, url::Host::Domain(_)) {
            return Err("cannot have a `*` before an address".to_owned());
        }
        list.push(compared(&host).into());
        list.sort_unstable();
        list.dedup();
        Ok(())
    }

    /// Looks up a name in lower case without a dot at its end.
    fn hold(&self, name: &str) -> bool {
        let listed = |list: &[Box<str>], name: &str| {
            // Most lists are short: comparing is quicker than searching then.
            if list.len() <= 8 {
                list.iter().any(|entry| **entry == *name)
            } else {
                list.binary_search_by(|entry| (**entry).cmp(name)).is_ok()
            }
        };
        if listed(&self.exact, name) {
            return true;
        }
        let mut rest = name;
        while !self.below.is_empty()
            && let Some((_, parent)) = rest.split_once('.')
        {
            if listed(&self.below, parent) {
                return true;
            }
            rest = parent;
        }
        false
    }
}

/// The form in which hosts are compared: no dot at the end, and an IPv4 address that is written as IPv6
/// (`[::ffff:10.0.0.1]`) as what it is.
fn compared(host: &url::Host) -> String {
    if let url::Host::Ipv6(address) = host
        && let Some(address) = address.to_ipv4_mapped()
    {
        return address.to_string();
    }
    let mut host = host.to_string();
    if host.ends_with('.') {
        host.pop();
    }
    host
}

/// Letters in another form (full width, for example) that become other ASCII text when they are mapped:
/// some libraries map them and some do not. True only for names whose labels stay what they are.
fn labels_are_plain(written: &str, mapped: &str) -> bool {
    written.is_ascii()
        || written.strip_suffix('.').unwrap_or(written).split('.').count()
            == mapped.split('.').count()
            && written
                .split('.')
                .zip(mapped.split('.'))
                .all(|(label, mapped)| label.is_ascii() || mapped.starts_with("xn--"))
}

#[cfg(test)]
mod tests;
