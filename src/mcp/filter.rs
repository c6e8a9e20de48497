//! Filter of lists: items that the reader may not use are removed, every other byte passes unchanged.
//!
//! An answer is recognised by its shape, not by its id: where `tools/list` was asked, EVERY
//! response's `result.tools` is filtered. Ids are not reliable enough, since a server may echo
//! `9007199254740993` as `9007199254740992`, and an agent chooses the ids of its batch. Answers to
//! anything else have no such list and pass untouched, as do errors, requests and notifications.

use std::borrow::Cow;
use std::collections::HashSet;

use super::message::Message;
use crate::json::keys::disguised_as;
use crate::json::{Doc, JsonError, Kind, Problem, Value};
pub use caching::Caching;
use caching::{Edit, SCOPE, TTL};
pub use notices::{Kept, Notice, may_notify, pass_notices};
pub use oddities::{Named, Oddities, Oddity};
use sloppy::Legible;

mod caching;
mod notices;
mod oddities;
mod sloppy;

/// A list that a session sees only in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    Tools,
    Resources,
    ResourceTemplates,
    Prompts,
    Skills,
    Tasks,
}

impl ListKind {
    pub const ALL: [Self; 6] = [
        Self::Tools,
        Self::Resources,
        Self::ResourceTemplates,
        Self::Prompts,
        Self::Skills,
        Self::Tasks,
    ];

    /// The list that `method` asks for.
    pub fn of_method(method: &str) -> Option<Self> {
        match method {
            "tools/list" => Some(Self::Tools),
            // A folder's listing names resources as the whole list does.
            "resources/list" | "resources/directory/read" => Some(Self::Resources),
            "resources/templates/list" => Some(Self::ResourceTemplates),
            "prompts/list" => Some(Self::Prompts),
            "skills/list" => Some(Self::Skills),
            "tasks/list" => Some(Self::Tasks),
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
            Self::Skills => "skills",
            Self::Tasks => "tasks",
        }
    }

    /// Returns the member of an item by which policies and sessions name the item.
    fn label(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources | Self::Skills => "uri",
            Self::ResourceTemplates => "uriTemplate",
            Self::Tasks => "taskId",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Tools => 1,
            Self::Resources => 2,
            Self::ResourceTemplates => 4,
            Self::Prompts => 8,
            Self::Skills => 16,
            Self::Tasks => 32,
        }
    }
}

/// The lists that one request, or the members of one batch, asked for, and how their answers may be
/// kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListKinds {
    lists: u8,
    /// True if every request asks for a list, so that no result can be the answer to anything else.
    only: bool,
    /// True if the server was asked to describe itself, which clients keep like a list.
    discovers: bool,
    caching: Option<Caching>,
    /// True if tools that are for applications, and not for the model, are left out.
    for_model: bool,
}

impl ListKinds {
    /// Returns the lists that the members of a message ask for.
    pub fn asked_by(message: &Message<'_>) -> Self {
        let methods = || message.calls.iter().filter_map(|call| call.method.as_deref());
        let lists: Self = methods().filter_map(ListKind::of_method).collect();
        let only = methods().all(|method| ListKind::of_method(method).is_some());
        Self { only, discovers: methods().any(|method| method == "server/discover"), ..lists }
    }

    /// Bounds the time for which the answers say that they may be cached.
    #[must_use]
    pub fn kept_within(mut self, caching: Caching) -> Self {
        self.caching = Some(caching);
        self
    }

    /// Leaves out tools that are not for the model.
    #[must_use]
    pub fn for_model(mut self) -> Self {
        self.for_model = true;
        self
    }

    pub fn contains(self, kind: ListKind) -> bool {
        self.lists & kind.bit() != 0
    }

    /// Every list: for streams on which answers to any request can come.
    pub fn all() -> Self {
        let lists: Self = ListKind::ALL.into_iter().collect();
        Self { discovers: true, ..lists }
    }

    /// Reports whether there is nothing to filter.
    pub fn is_empty(self) -> bool {
        self.lists == 0 && !self.discovers
    }
}

impl FromIterator<ListKind> for ListKinds {
    fn from_iter<I: IntoIterator<Item = ListKind>>(kinds: I) -> Self {
        let lists = kinds.into_iter().fold(0, |bits, kind| bits | kind.bit());
        Self { lists, ..Self::default() }
    }
}

/// Reason why an answer cannot be filtered, and so cannot be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("the answer to a list request is not strict JSON")]
    NotJson(#[from] JsonError),
    #[error("the answer to a list request is not a JSON-RPC message or a batch of them")]
    NotRpc,
    #[error("`result` of a list answer is not an object")]
    NotAResult,
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

/// Removes the items for which `keep` returns false.
///
/// `keep` is asked with a tool's or prompt's name, a resource's URI or a template's URI template. An
/// item without a readable one is removed, and so are all that share a tool's or prompt's name. In a
/// text that is not strict JSON, the message, its `result`, the list and each label must be; other
/// members of an item pass as bytes as long as every reader agrees on where the item ends.
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
        let mut edits = Vec::new();
        match root.kind() {
            Kind::Object => self.message(root, &mut edits)?,
            Kind::Array => {
                for item in root.items() {
                    if item.kind() != Kind::Object {
                        return Err(FilterError::NotRpc);
                    }
                    self.message(item, &mut edits)?;
                }
            }
            Kind::String | Kind::Number | Kind::True | Kind::False | Kind::Null => {
                return Err(FilterError::NotRpc);
            }
        }
        let removed = || edits.iter().map(|edit| edit.span.clone()).collect::<Vec<_>>();
        if let Some(at) = self.sloppy.and_then(|legible| legible.outside(&removed())) {
            return Err(JsonError { problem: Problem::Utf8, at }.into());
        }
        self.out.body = (!edits.is_empty()).then(|| edited(body, &edits));
        Ok(self.out)
    }

    /// Adds the edits of one message, in the order of their offsets.
    fn message(&mut self, message: Value<'_>, edits: &mut Vec<Edit>) -> Result<(), FilterError> {
        self.distinct(message)?;
        for entry in message.entries() {
            let key = entry.key();
            if key != "result" {
                if let Some(protocol) = disguised_as(&key, &["result"]) {
                    return Err(FilterError::Disguised(protocol));
                }
                continue;
            }
            self.result(entry.value, edits)?;
        }
        Ok(())
    }

    fn result(&mut self, result: Value<'_>, edits: &mut Vec<Edit>) -> Result<(), FilterError> {
        if self.kinds.only && result.kind() != Kind::Object {
            return Err(FilterError::NotAResult);
        }
        self.distinct(result)?;
        let (kinds, caching, first) = (self.kinds, self.kinds.caching, edits.len());
        let mut is_kept = false;
        for entry in result.entries() {
            let key = entry.key();
            let asked = || ListKind::ALL.into_iter().filter(|kind| kinds.contains(*kind));
            if let Some(kind) = asked().find(|kind| key == kind.member()) {
                if entry.value.kind() != Kind::Array {
                    return Err(FilterError::NotAList(kind.member()));
                }
                is_kept = true;
                let kept = self.kept(entry.value, kind);
                list_cuts(entry.value, &kept, edits);
            } else if let Some(kind) = asked().find(|k| disguised_as(&key, &[k.member()]).is_some())
            {
                return Err(FilterError::Disguised(kind.member()));
            } else if let Some(caching) = caching {
                if let Some(hint) = disguised_as(&key, &[SCOPE, TTL]) {
                    return Err(FilterError::Disguised(hint));
                }
                is_kept |= kinds.discovers && key == "supportedVersions";
                edits.extend(caching.bound(&key, entry.value));
            }
        }
        if let Some(edit) = caching.filter(|_| is_kept).and_then(|c| c.complete(result)) {
            edits.insert(first, edit);
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
                Some(_) if self.kinds.for_model && kind == ListKind::Tools && !for_model(item) => {
                    false
                }
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

/// Reports whether a tool is shown to the model; a tool without the member is (SEP-1865). A member
/// that is no list names nobody.
fn for_model(tool: Value<'_>) -> bool {
    let ui = tool.get("_meta").and_then(|meta| meta.get("ui"));
    let Some(visibility) = ui.and_then(|ui| ui.get("visibility")) else { return true };
    visibility.items().any(|viewer| viewer.as_str().as_deref() == Some("model"))
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

/// Adds the cuts that leave the kept items byte for byte as they were, each with the comma and
/// the space behind it, the last one without.
fn list_cuts(list: Value<'_>, kept: &[bool], edits: &mut Vec<Edit>) {
    // Where the run of items to remove begins, and where the last item seen ends.
    let mut cut_from = None;
    let mut kept_end = None;
    let mut last_end = 0;
    for (item, &keep) in list.items().zip(kept) {
        let span = item.span();
        last_end = span.end;
        if keep {
            if let Some(from) = cut_from.take() {
                edits.push(Edit::cut(from..span.start));
            }
            kept_end = Some(span.end);
        } else {
            cut_from.get_or_insert(span.start);
        }
    }
    if let Some(from) = cut_from {
        edits.push(Edit::cut(kept_end.unwrap_or(from)..last_end));
    }
}

fn edited(body: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut at = 0;
    for Edit { span, put } in edits {
        out.extend_from_slice(body.get(at..span.start).unwrap_or_default());
        out.extend_from_slice(put.as_bytes());
        at = span.end;
    }
    out.extend_from_slice(body.get(at..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests;
