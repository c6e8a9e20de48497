//! Calls: tool calls, data calls and protocol messages, with the facts that the checks need.

use std::borrow::Cow;

use crate::json;
use crate::saturate::SaturatingFrom as _;

/// One member of a message, classed by what it touches.
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
    /// Reports whether an answer is owed.
    pub fn is_request(&self) -> bool {
        self.method.is_some() && self.id.is_some()
    }

    /// Reports whether it has a method but no id. A tool call sent like that is a tool call all the
    /// same.
    pub fn is_notification(&self) -> bool {
        self.method.is_some() && self.id.is_none()
    }

    /// Returns the id of the task that the call is about.
    pub fn task(&self) -> Option<&str> {
        match &self.kind {
            CallKind::Data { what: Data::Task, target } => Some(target),
            CallKind::Tool { .. } | CallKind::Data { .. } | CallKind::Protocol => None,
        }
    }

    /// Returns the client's answers to what the server asked in the round before, by key.
    pub fn inputs(&self) -> Option<json::Value<'_>> {
        self.params?.get("inputResponses")
    }

    /// Returns the state by which a server knows the round before.
    pub fn state(&self) -> Option<Cow<'_, str>> {
        self.params?.get("requestState")?.as_str()
    }

    /// Reports whether it answers something the server asked.
    pub fn is_response(&self) -> bool {
        self.method.is_none()
    }
}

/// Returns the number of calls that a message costs: its tool calls.
pub fn price(calls: &[Call<'_>]) -> u64 {
    let tools = calls.iter().filter(|call| matches!(call.kind, CallKind::Tool { .. })).count();
    u64::saturating_from(tools)
}

#[derive(Clone, Debug)]
pub enum CallKind<'d> {
    Tool { name: Cow<'d, str>, arguments: Option<json::Value<'d>> },
    Data { what: Data, target: Cow<'d, str> },
    Protocol,
}

/// The upstream that a call goes to, so that lists can distinguish the tools of several upstreams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamRef<'a> {
    /// None if the upstream has no name.
    pub name: Option<&'a str>,
}

/// An entry of a list of tools: `tool` or `*:tool` at any upstream, `name:tool` at one.
///
/// A name before a colon is always an upstream's: a tool whose own name holds a colon is written
/// `*:ns:delete`, so that a misspelt upstream is found rather than taken for such a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'e> {
    /// None for any.
    pub upstream: Option<&'e str>,
    pub tool: &'e str,
}

impl<'e> Entry<'e> {
    pub fn of(text: &'e str) -> Self {
        match text.split_once(':') {
            Some(("*", tool)) => Self { upstream: None, tool },
            Some((name, tool)) => Self { upstream: Some(name), tool },
            None => Self { upstream: None, tool: text },
        }
    }

    /// The tool if the entry applies at this upstream.
    pub fn at(self, upstream: UpstreamRef<'_>) -> Option<&'e str> {
        (self.upstream.is_none() || self.upstream == upstream.name).then_some(self.tool)
    }
}

/// Says what is wrong with an entry whose upstream is not among the known ones.
pub fn unknown_upstream(entry: &str, known: &[Box<str>]) -> String {
    let name = Entry::of(entry).upstream.unwrap_or_default();
    let known = if known.is_empty() {
        "no upstream has a name".to_owned()
    } else {
        format!("upstreams are `{}`", known.join("`, `"))
    };
    format!(
        "no upstream is called `{name}` ({known}); for a tool with a colon in its name write `*:{entry}`"
    )
}

/// List of policies and sessions that grants a data call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// By URI: `authorized_resources`, `allowed_resources`.
    Resource,
    /// By name: `authorized_prompts`, `allowed_prompts`.
    Prompt,
    /// By method: `authorized_methods`, `allowed_methods`.
    Method,
    /// By the tool whose call began the task with this id.
    Task,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_applies_to_any_upstream_or_to_the_one_it_names() {
        let check = |upstream: Option<&str>, entry: &'static str, expected: Option<&str>| {
            let upstream = UpstreamRef { name: upstream };
            assert_eq!(Entry::of(entry).at(upstream), expected, "{upstream:?} {entry}");
        };
        check(Some("git"), "commit", Some("commit"));
        check(Some("git"), "git:commit", Some("commit"));
        check(Some("git"), "files:commit", None);
        check(Some("git"), "Git:commit", None);
        check(Some("git"), "git:files:commit", Some("files:commit"));
        check(Some("git"), "*:files:commit", Some("files:commit"));
        check(None, "git:commit", None);
        check(None, "*:git:commit", Some("git:commit"));
        check(None, "commit", Some("commit"));
    }
}
