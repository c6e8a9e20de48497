//! Notifications that name what a session may not know about, and questions that nobody may be asked, taken
//! out of a stream.
//!
//! A server notifies about resources long after it was asked to. Only what a client could read as such
//! a notification is looked at; all else passes as it came, whatever its form.

use super::sloppy::Legible;
use super::{Edit, FilterError, edited, list_cuts};
use crate::json::keys::disguised_as;
use crate::json::{Doc, Kind, Value};
use crate::mcp::continued::{Questions, asked_by};
use crate::mcp::list_changes::ListChanges;

const UPDATED: &str = "notifications/resources/updated";
/// Beginning of the methods by which a task's state is announced, in all revisions.
const OF_TASKS: &str = "notifications/tasks";
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// Texts without one of which no message asks anything, in whichever case a reader may take a key.
const ASKING: [&str; 4] = ["elicitation", "sampling/createmessage", "roots/list", "inputrequests"];

/// A notification whose passing is to be decided or noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice<'n> {
    /// A resource has changed; without a readable URI it is none that anyone could allow.
    Updated(Option<&'n str>),
    /// A task has changed; without a readable id it is nobody's.
    Task(Option<&'n str>),
    /// The server puts questions; none if they cannot be read.
    Asks(Option<&'n Questions>),
    /// The server has begun to notify about changes of these lists.
    Acknowledged(ListChanges),
}

/// Rest of a message, or of a batch of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    All,
    Some(Vec<u8>),
    Nothing,
}

/// Reports whether a text could be read as a notification that is looked at. A letter can be written
/// as an escape, so a text with one that stands for a visible ASCII character could be.
pub fn may_notify(text: &[u8]) -> bool {
    let holds = |needle: &str| memchr::memmem::find(text, needle.as_bytes()).is_some();
    let escaped = || {
        memchr::memmem::find_iter(text, br"\u00")
            .any(|at| matches!(text.get(at + 4), Some(b'2'..=b'7')))
    };
    (holds("notifications") && (holds("updated") || holds("acknowledged") || holds("tasks")))
        || ASKING.iter().any(|needle| holds_in_any_case(text, needle.as_bytes()))
        || escaped()
}

/// Looks for a needle in small letters.
fn holds_in_any_case(text: &[u8], needle: &[u8]) -> bool {
    let Some(&first) = needle.first() else { return true };
    memchr::memchr2_iter(first, first.to_ascii_uppercase(), text).any(|at| {
        let found = text.get(at..at.saturating_add(needle.len()));
        found.is_some_and(|found| found.eq_ignore_ascii_case(needle))
    })
}

/// Removes the notifications for which `passes` says no.
pub fn pass_notices(
    text: &[u8],
    passes: &(impl Fn(Notice<'_>) -> bool + ?Sized),
) -> Result<Kept, FilterError> {
    if let Ok(doc) = Doc::parse(text) {
        return Ok(kept(doc.root(), text, passes));
    }
    let legible = Legible::of(text);
    let doc = Doc::parse_leniently(&legible.text)?;
    Ok(kept(doc.root(), text, passes))
}

fn kept(root: Value<'_>, text: &[u8], passes: &(impl Fn(Notice<'_>) -> bool + ?Sized)) -> Kept {
    if root.kind() != Kind::Array {
        return if stays(root, passes) { Kept::All } else { Kept::Nothing };
    }
    let members: Vec<bool> = root.items().map(|member| stays(member, passes)).collect();
    if members.iter().all(|stays| *stays) {
        return Kept::All;
    }
    if !members.contains(&true) {
        return Kept::Nothing;
    }
    let mut edits: Vec<Edit> = Vec::new();
    list_cuts(root, &members, &mut edits);
    Kept::Some(edited(text, &edits))
}

fn stays(message: Value<'_>, passes: &(impl Fn(Notice<'_>) -> bool + ?Sized)) -> bool {
    let is = |wanted: fn(&str) -> bool| {
        all(message, "method").any(|method| method.as_str().is_some_and(|method| wanted(&method)))
    };
    if is(|method| method == UPDATED) && !each(message, "uri", |uri| passes(Notice::Updated(uri))) {
        return false;
    }
    if is(|method| method.starts_with(OF_TASKS))
        && !each(message, "taskId", |id| passes(Notice::Task(id)))
    {
        return false;
    }
    match asked_by(message) {
        Ok(None) => {}
        Ok(Some(asked)) if passes(Notice::Asks(Some(&asked))) => {}
        Err(_unreadable) if passes(Notice::Asks(None)) => {}
        Ok(Some(_)) | Err(_) => return false,
    }
    if is(|method| method == ACKNOWLEDGED) {
        let honoured = message.get("params").and_then(|params| params.get("notifications"));
        let says = |key: &str| {
            honoured.and_then(|h| h.get(key)).is_some_and(|flag| flag.kind() == Kind::True)
        };
        let lists = ListChanges::new(
            says("toolsListChanged"),
            says("promptsListChanged"),
            says("resourcesListChanged"),
        );
        return passes(Notice::Acknowledged(lists));
    }
    true
}

/// Decides for a notification by a member of its parameters. Whichever a reader takes: each must be
/// allowed, and there must be one.
fn each(message: Value<'_>, key: &'static str, allowed: impl Fn(Option<&str>) -> bool) -> bool {
    let named = || all(message, "params").flat_map(|params| all(params, key));
    if named().next().is_none() {
        return allowed(None);
    }
    named().all(|one| allowed(one.as_str().as_deref()))
}

/// The members that some reader could take for the one called `key`.
fn all<'d>(object: Value<'d>, key: &'static str) -> impl Iterator<Item = Value<'d>> {
    object.entries().filter_map(move |entry| {
        let name = entry.key();
        (name == key || disguised_as(&name, &[key]).is_some()).then_some(entry.value)
    })
}
