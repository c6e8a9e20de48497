//! Names in the four lists of a policy: exact, or a beginning that ends in `*`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::firewall::call::Entry;
use crate::firewall::uri;

/// A name as a policy gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The upstream that the name is limited to; only tools have one.
    upstream: Option<Box<str>>,
    fixed: Box<str>,
    is_prefix: bool,
}

impl Name {
    /// The name that covers all names.
    pub(super) fn every() -> Self {
        Self { upstream: None, fixed: "".into(), is_prefix: true }
    }

    /// Reads the name of a prompt or method.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (fixed, is_prefix) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        if fixed.contains('*') {
            return Err("may have a `*` only at its end".to_owned());
        }
        if fixed.is_empty() && !is_prefix {
            return Err("must not be empty".to_owned());
        }
        Ok(Self { upstream: None, fixed: fixed.into(), is_prefix })
    }

    /// Reads the name of a tool, perhaps of one upstream (`github:create_*`).
    pub(super) fn parse_tool(text: &str) -> Result<Self, String> {
        let entry = Entry::of(text);
        if entry.tool.is_empty() {
            return Err("names no tool behind its `:`".to_owned());
        }
        if entry.upstream.is_some_and(|name| name.is_empty() || name.contains('*')) {
            let why = "must name one upstream before its `:`, or all by `*:`";
            return Err(why.to_owned());
        }
        Ok(Self { upstream: entry.upstream.map(Into::into), ..Self::parse(entry.tool)? })
    }

    /// Reads a URI or the beginning of some, and brings it into canonical form.
    pub(super) fn parse_uri(text: &str) -> Result<Self, String> {
        let canonical = uri::pattern(text).map_err(|doubt| doubt.to_string())?;
        Self::parse(&canonical)
    }

    pub(super) fn upstream(&self) -> Option<&str> {
        self.upstream.as_deref()
    }

    /// The name without its `*`, under which the index files it.
    pub(super) fn fixed(&self) -> &str {
        &self.fixed
    }

    pub(super) fn is_prefix(&self) -> bool {
        self.is_prefix
    }

    /// The name if it is one name of any upstream.
    pub(super) fn exact(&self) -> Option<Cow<'_, str>> {
        match (&self.upstream, self.is_prefix) {
            (_, true) => None,
            (None, false) => Some(Cow::Borrowed(&*self.fixed)),
            (Some(upstream), false) => Some(Cow::Owned(format!("{upstream}:{}", self.fixed))),
        }
    }

    pub(super) fn covers(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&*self.fixed) } else { *self.fixed == *name }
    }

    /// Checks a canonical URI: one that lacks only the `/` at the end of a beginning is covered too.
    pub(super) fn covers_uri(&self, uri: &str) -> bool {
        self.covers(uri) || (self.is_prefix && self.fixed.strip_suffix('/') == Some(uri))
    }

    /// Checks a tool of an upstream; none if it has no name.
    pub(super) fn covers_tool(&self, upstream: Option<&str>, tool: &str) -> bool {
        (self.upstream.is_none() || self.upstream() == upstream) && self.covers(tool)
    }
}

impl JsonSchema for Name {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^(\*:)?([^*]+\*?|\*)$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_in_a_star_or_have_none() {
        let covers = |name: &str, text: &str| Name::parse(name).unwrap().covers(text);
        assert!(covers("read_*", "read_"));
        assert!(covers("read_*", "read_file"));
        assert!(!covers("read_*", "read"));
        assert!(covers("*", "anything"));
        assert!(!covers("read", "Read"));
        for bad in ["", "*_file", "a*b", "**", "a**"] {
            assert!(Name::parse(bad).is_err(), "{bad}");
            assert!(Name::parse_tool(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tool_may_be_limited_to_an_upstream() {
        let covers = |name: &str, upstream: Option<&str>, tool: &str| {
            Name::parse_tool(name).unwrap().covers_tool(upstream, tool)
        };
        assert!(covers("git:commit", Some("git"), "commit"));
        assert!(covers("git:*", Some("git"), "commit"));
        assert!(!covers("git:commit", Some("files"), "commit"));
        assert!(!covers("git:commit", None, "git:commit"));
        assert!(!covers("git:commit", Some("files"), "git:commit"));
        assert!(covers("*:ns:delete", None, "ns:delete"));
        assert!(covers("*:ns:*", Some("git"), "ns:delete"));
        assert!(!covers("*:ns:delete", Some("ns"), "delete"));
        assert!(covers("ns*", None, "ns:delete"));
        for bad in ["git:", ":x", "*:", "g*:x"] {
            assert!(Name::parse_tool(bad).is_err(), "{bad}");
        }
    }
}
