//! What is asked: tool calls, data calls, protocol messages, with the facts the checks need.

use std::borrow::Cow;

use crate::json;

/// One member of a message, classed by what it touches (contract 4).
#[derive(Clone, Debug)]
pub struct Call<'d> {
    /// The method as it was written; `None` for a JSON-RPC response.
    pub method: Option<Cow<'d, str>>,
    /// The request's id, absent for notifications; for a response the id it answers, perhaps null.
    pub id: Option<json::Value<'d>>,
    /// Always an object.
    pub params: Option<json::Value<'d>>,
    /// `params._meta`, always an object.
    pub meta: Option<json::Value<'d>>,
    pub kind: CallKind<'d>,
}

impl Call<'_> {
    /// Whether an answer is owed.
    pub fn is_request(&self) -> bool {
        self.method.is_some() && self.id.is_some()
    }

    /// Whether it has a method but no id. A tool call sent like that is a tool call all the same.
    pub fn is_notification(&self) -> bool {
        self.method.is_some() && self.id.is_none()
    }

    /// Whether it answers something the server asked.
    pub fn is_response(&self) -> bool {
        self.method.is_none()
    }
}

#[derive(Clone, Debug)]
pub enum CallKind<'d> {
    Tool { name: Cow<'d, str>, arguments: Option<json::Value<'d>> },
    Data { what: Data, target: Cow<'d, str> },
    Protocol,
}

/// Which of several upstreams a call goes to, so that lists can tell their tools apart.
///
/// An entry `name:tool` of a policy or a session speaks of one upstream if `name` is the name of
/// one; every other entry, whatever it looks like, speaks of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// None if the upstream has no name.
    pub upstream: Option<&'a str>,
    /// The names of all upstreams.
    pub known: &'a [Box<str>],
}

impl Place<'_> {
    /// The tool's name in an entry that speaks of this place; none if it speaks of another one.
    pub fn entry<'e>(&self, entry: &'e str) -> Option<&'e str> {
        match self.qualified(entry) {
            None => Some(entry),
            Some((name, tool)) => (self.upstream == Some(name)).then_some(tool),
        }
    }

    /// Cuts an entry that names an upstream in two.
    pub fn qualified<'e>(&self, entry: &'e str) -> Option<(&'e str, &'e str)> {
        let (name, tool) = entry.split_once(':')?;
        self.known.iter().any(|known| **known == *name).then_some((name, tool))
    }
}

/// Which list of a policy and a session grants a data call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// By URI: `authorized_resources`, `allowed_resources`.
    Resource,
    /// By name: `authorized_prompts`, `allowed_prompts`.
    Prompt,
    /// By method: `authorized_methods`, `allowed_methods`.
    Method,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_speaks_of_one_upstream_only_if_it_names_one() {
        let known = ["git".into(), "files".into()];
        let check = |upstream: Option<&str>, entry: &'static str, expected: Option<&str>| {
            let place = Place { upstream, known: &known };
            assert_eq!(place.entry(entry), expected, "{upstream:?} {entry}");
        };
        check(Some("git"), "commit", Some("commit"));
        check(Some("git"), "git:commit", Some("commit"));
        check(Some("git"), "files:commit", None);
        check(Some("git"), "Git:commit", Some("Git:commit"));
        check(Some("git"), "git:files:commit", Some("files:commit"));
        check(Some("git"), "git:", Some(""));
        check(None, "git:commit", None);
        check(None, "other:commit", Some("other:commit"));
        assert_eq!(Place::default().entry("git:commit"), Some("git:commit"));
    }
}
