//! Taking from a list what its reader may not use, and leaving every other byte as it is.
//!
//! An answer is recognised by its shape, not by its id: where `tools/list` was asked, EVERY
//! response's `result.tools` is filtered. Ids cannot carry that weight, since a server may echo
//! `9007199254740993` as `9007199254740992`, and an agent chooses the ids of its batch. Answers to
//! anything else have no such list and pass untouched, as do errors, requests and notifications.

use std::ops::Range;

use super::message::Message;
use crate::json::keys::disguised_as;
use crate::json::{Doc, JsonError, Kind, Value};

/// A list that a session sees only in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    Tools,
    Resources,
    ResourceTemplates,
    Prompts,
}

impl ListKind {
    pub const ALL: [Self; 4] =
        [Self::Tools, Self::Resources, Self::ResourceTemplates, Self::Prompts];

    /// The list that `method` asks for.
    pub fn of_method(method: &str) -> Option<Self> {
        match method {
            "tools/list" => Some(Self::Tools),
            "resources/list" => Some(Self::Resources),
            "resources/templates/list" => Some(Self::ResourceTemplates),
            "prompts/list" => Some(Self::Prompts),
            _ => None,
        }
    }

    /// The member of `result` that holds the list.
    fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::ResourceTemplates => "resourceTemplates",
            Self::Prompts => "prompts",
        }
    }

    /// The member of an item that policies and sessions speak of.
    fn label(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::ResourceTemplates => "uriTemplate",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Tools => 1,
            Self::Resources => 2,
            Self::ResourceTemplates => 4,
            Self::Prompts => 8,
        }
    }
}

/// The lists that one request, or the members of one batch, asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListKinds(u8);

impl ListKinds {
    /// What the members of a message ask for.
    pub fn asked_by(message: &Message<'_>) -> Self {
        let methods = message.calls.iter().filter_map(|call| call.method.as_deref());
        methods.filter_map(ListKind::of_method).collect()
    }

    pub fn contains(self, kind: ListKind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Every list: for streams on which answers to any request can come.
    pub fn all() -> Self {
        ListKind::ALL.into_iter().collect()
    }

    /// Whether there is nothing to filter.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<ListKind> for ListKinds {
    fn from_iter<I: IntoIterator<Item = ListKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | kind.bit()))
    }
}

/// Why an answer cannot be filtered, and so cannot be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("the answer to a list request is not strict JSON")]
    NotJson(#[from] JsonError),
    #[error("the answer to a list request is not a JSON-RPC message or a batch of them")]
    NotRpc,
    #[error("`result.{0}` of a list answer is not an array")]
    NotAList(&'static str),
    #[error("a key of a list answer differs from `{0}` by case only")]
    Disguised(&'static str),
}

/// Removes the items for which `keep` says no; `None` when nothing had to go.
///
/// `keep` is asked with a tool's or prompt's name, a resource's URI or a template's URI template.
/// An item without a readable one is removed.
pub fn filter_list(
    body: &[u8],
    kinds: ListKinds,
    keep: impl Fn(ListKind, &str) -> bool,
) -> Result<Option<Vec<u8>>, FilterError> {
    if kinds.is_empty() {
        return Ok(None);
    }
    let doc = Doc::parse(body)?;
    let root = doc.root();
    let mut cuts = Vec::new();
    match root.kind() {
        Kind::Object => message_cuts(root, kinds, &keep, &mut cuts)?,
        Kind::Array => {
            for item in root.items() {
                if item.kind() != Kind::Object {
                    return Err(FilterError::NotRpc);
                }
                message_cuts(item, kinds, &keep, &mut cuts)?;
            }
        }
        Kind::String | Kind::Number | Kind::True | Kind::False | Kind::Null => {
            return Err(FilterError::NotRpc);
        }
    }
    Ok((!cuts.is_empty()).then(|| without(body, &cuts)))
}

/// Adds the cuts of one message, in the order in which they stand.
fn message_cuts(
    message: Value<'_>,
    kinds: ListKinds,
    keep: &impl Fn(ListKind, &str) -> bool,
    cuts: &mut Vec<Range<usize>>,
) -> Result<(), FilterError> {
    for entry in message.entries() {
        let key = entry.key();
        if key != "result" {
            if let Some(protocol) = disguised_as(&key, &["result"]) {
                return Err(FilterError::Disguised(protocol));
            }
            continue;
        }
        for entry in entry.value.entries() {
            let key = entry.key();
            let asked = || ListKind::ALL.into_iter().filter(|kind| kinds.contains(*kind));
            if let Some(kind) = asked().find(|kind| key == kind.member()) {
                if entry.value.kind() != Kind::Array {
                    return Err(FilterError::NotAList(kind.member()));
                }
                list_cuts(entry.value, |item| kept(item, kind, keep), cuts);
            } else if let Some(kind) = asked().find(|k| disguised_as(&key, &[k.member()]).is_some())
            {
                return Err(FilterError::Disguised(kind.member()));
            }
        }
    }
    Ok(())
}

fn kept(item: Value<'_>, kind: ListKind, keep: &impl Fn(ListKind, &str) -> bool) -> bool {
    let label = kind.label();
    let disguised = |key: &str| disguised_as(key, &[label]).is_some();
    // Two names that different readers would pick are no readable name.
    if item.entries().any(|entry| disguised(&entry.key())) {
        return false;
    }
    item.get(label).and_then(|v| v.as_str()).is_some_and(|name| keep(kind, &name))
}

/// Adds what to cut so that the items that are kept stand as they stood, each with the comma and
/// the space behind it, the last one without.
fn list_cuts(list: Value<'_>, keep: impl Fn(Value<'_>) -> bool, cuts: &mut Vec<Range<usize>>) {
    // Where the run of items to remove begins, and where the last item seen ends.
    let mut cut_from = None;
    let mut kept_end = None;
    let mut last_end = 0;
    for item in list.items() {
        let span = item.span();
        last_end = span.end;
        if keep(item) {
            if let Some(from) = cut_from.take() {
                cuts.push(from..span.start);
            }
            kept_end = Some(span.end);
        } else {
            cut_from.get_or_insert(span.start);
        }
    }
    if let Some(from) = cut_from {
        cuts.push(kept_end.unwrap_or(from)..last_end);
    }
}

fn without(body: &[u8], cuts: &[Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut at = 0;
    for cut in cuts {
        out.extend_from_slice(body.get(at..cut.start).unwrap_or_default());
        at = cut.end;
    }
    out.extend_from_slice(body.get(at..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests;
