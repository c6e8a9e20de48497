//! Taking from a list what its reader may not use, and leaving every other byte as it is.
//!
//! An answer is recognised by its shape, not by its id: where `tools/list` was asked, EVERY
//! response's `result.tools` is filtered. Ids cannot carry that weight, since a server may echo
//! `9007199254740993` as `9007199254740992`, and an agent chooses the ids of its batch. Answers to
//! anything else have no such list and pass untouched, as do errors, requests and notifications.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use super::message::Message;
use crate::json::keys::disguised_as;
use crate::json::{Doc, JsonError, Kind, Problem, Value};
pub use oddities::{Named, Oddities, Oddity};
use sloppy::Legible;

mod oddities;
mod sloppy;

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
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::ResourceTemplates => "resourceTemplates",
            Self::Prompts => "prompts",
        }
    }

    /// The member of an item that policies and sessions name it by.
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
    /// Returns the lists that the members of a message ask for.
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

    /// Reports whether there is nothing to filter.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<ListKind> for ListKinds {
    fn from_iter<I: IntoIterator<Item = ListKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | kind.bit()))
    }
}

/// Reason why an answer cannot be filtered, and so cannot be passed on.
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
    #[error("a key of a list answer or of its `result` occurs twice")]
    Twice,
}

/// A filtered answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// `None` when nothing had to go.
    pub body: Option<Vec<u8>>,
    pub oddities: Oddities,
}

/// Removes the items for which `keep` says no.
///
/// `keep` is asked with a tool's or prompt's name, a resource's URI or a template's URI template.
/// An item without a readable one is removed, and so are all that share a tool's or prompt's name.
/// Where a text is not strict JSON, the message, its `result`, the list and each label must be; what
/// else an item holds passes as bytes as long as every reader agrees on where the item ends.
pub fn filter_list(
    body: &[u8],
    kinds: ListKinds,
    keep: impl Fn(ListKind, &str) -> bool,
) -> Result<Filtered, FilterError> {
    if kinds.is_empty() {
        return Ok(Filtered::default());
    }
    if let Ok(doc) = Doc::parse(body) {
        return Filter { kinds, keep, sloppy: None, out: Filtered::default() }
            .run(doc.root(), body);
    }
    let legible = Legible::of(body);
    let doc = Doc::parse_leniently(&legible.text)?;
    let sloppy = Some(&legible);
    Filter { kinds, keep, sloppy, out: Filtered::default() }.run(doc.root(), body)
}

struct Filter<'l, K> {
    kinds: ListKinds,
    keep: K,
    /// Set while a text is read that is not strict JSON.
    sloppy: Option<&'l Legible<'l>>,
    out: Filtered,
}

impl<K: Fn(ListKind, &str) -> bool> Filter<'_, K> {
    fn run(mut self, root: Value<'_>, body: &[u8]) -> Result<Filtered, FilterError> {
        let mut cuts = Vec::new();
        match root.kind() {
            Kind::Object => self.message(root, &mut cuts)?,
            Kind::Array => {
                for item in root.items() {
                    if item.kind() != Kind::Object {
                        return Err(FilterError::NotRpc);
                    }
                    self.message(item, &mut cuts)?;
                }
            }
            Kind::String | Kind::Number | Kind::True | Kind::False | Kind::Null => {
                return Err(FilterError::NotRpc);
            }
        }
        if let Some(at) = self.sloppy.and_then(|legible| legible.outside(&cuts)) {
            return Err(JsonError { problem: Problem::Utf8, at }.into());
        }
        self.out.body = (!cuts.is_empty()).then(|| without(body, &cuts));
        Ok(self.out)
    }

    /// Adds the cuts of one message, in the order in which they stand.
    fn message(
        &mut self,
        message: Value<'_>,
        cuts: &mut Vec<Range<usize>>,
    ) -> Result<(), FilterError> {
        self.distinct(message)?;
        for entry in message.entries() {
            let key = entry.key();
            if key != "result" {
                if let Some(protocol) = disguised_as(&key, &["result"]) {
                    return Err(FilterError::Disguised(protocol));
                }
                continue;
            }
            self.distinct(entry.value)?;
            for entry in entry.value.entries() {
                let (key, kinds) = (entry.key(), self.kinds);
                let asked = || ListKind::ALL.into_iter().filter(|kind| kinds.contains(*kind));
                if let Some(kind) = asked().find(|kind| key == kind.member()) {
                    if entry.value.kind() != Kind::Array {
                        return Err(FilterError::NotAList(kind.member()));
                    }
                    let kept = self.kept(entry.value, kind);
                    list_cuts(entry.value, &kept, cuts);
                } else if let Some(kind) =
                    asked().find(|k| disguised_as(&key, &[k.member()]).is_some())
                {
                    return Err(FilterError::Disguised(kind.member()));
                }
            }
        }
        Ok(())
    }

    /// Refuses an object with a repeated key; a strict reading has none.
    fn distinct(&self, object: Value<'_>) -> Result<(), FilterError> {
        if self.sloppy.is_none() {
            return Ok(());
        }
        let mut seen = HashSet::new();
        let distinct = object.entries().all(|entry| seen.insert(entry.key()));
        if distinct { Ok(()) } else { Err(FilterError::Twice) }
    }

    /// Decides for each item of a list whether it stays.
    fn kept(&mut self, list: Value<'_>, kind: ListKind) -> Vec<bool> {
        let labels: Vec<_> = list.items().map(|item| label(item, kind)).collect();
        let mut shared = HashSet::new();
        if matches!(kind, ListKind::Tools | ListKind::Prompts) {
            let mut seen = HashSet::new();
            shared = labels.iter().flatten().filter(|name| !seen.insert(*name)).collect();
        }
        let mut noted = HashSet::new();
        let mut kept = Vec::with_capacity(labels.len());
        for (item, name) in list.items().zip(&labels) {
            let stays = match name {
                None => {
                    self.out.oddities.note(kind, "", Oddity::NoName);
                    false
                }
                Some(name) if !(self.keep)(kind, name) => false,
                Some(name) if shared.contains(name) => {
                    if noted.insert(name) {
                        self.out.oddities.note(kind, name, Oddity::SharedName);
                    }
                    false
                }
                Some(name) => self.legible(item, kind, name),
            };
            kept.push(stays);
        }
        kept
    }

    /// Reports whether an item's bytes may pass; notes what passes unread.
    fn legible(&mut self, item: Value<'_>, kind: ListKind, name: &str) -> bool {
        let Some(legible) = self.sloppy else { return true };
        if legible.touches(&item.span()) {
            self.out.oddities.note(kind, name, Oddity::NotUtf8);
            return false;
        }
        if let Err(error) = Doc::parse(item.raw().as_bytes()) {
            self.out.oddities.note(kind, name, Oddity::Unread(error.problem));
        }
        true
    }
}

/// The one readable label of an item.
fn label(item: Value<'_>, kind: ListKind) -> Option<Cow<'_, str>> {
    let wanted = kind.label();
    let mut found = None;
    for entry in item.entries() {
        let key = entry.key();
        // Two names that different readers would pick are no readable name.
        if disguised_as(&key, &[wanted]).is_some() || (key == wanted && found.is_some()) {
            return None;
        }
        if key == wanted {
            found = Some(entry.value);
        }
    }
    found?.as_str()
}

/// Adds what to cut so that the items that are kept stand as they stood, each with the comma and
/// the space behind it, the last one without.
fn list_cuts(list: Value<'_>, kept: &[bool], cuts: &mut Vec<Range<usize>>) {
    // Where the run of items to remove begins, and where the last item seen ends.
    let mut cut_from = None;
    let mut kept_end = None;
    let mut last_end = 0;
    for (item, &keep) in list.items().zip(kept) {
        let span = item.span();
        last_end = span.end;
        if keep {
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
