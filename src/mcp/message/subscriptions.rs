//! Subscriptions: what a `subscriptions/listen` asks to be notified about.
//!
//! The method is granted like any other; each resource that it names must be granted as well, like a
//! read of that resource, and each task must be the session's own.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::firewall::call::{Call, CallKind, Data};
use crate::json::{Kind, Value};
use crate::mcp::list_changes::ListChanges;

use super::params::{object, pick, text};
use super::{Fault, MAX_NAME_BYTES, MAX_URI_BYTES};

/// The method that opens a stream of notifications.
pub const LISTEN: &str = "subscriptions/listen";

/// Most resources, and most tasks, that one message may subscribe to.
pub const MAX_SUBSCRIPTIONS: usize = 1000;

/// Subscriptions of one message.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions<'d> {
    /// Each with the index of the member that asks for it.
    resources: Vec<(usize, Cow<'d, str>)>,
    tasks: BTreeMap<Cow<'d, str>, usize>,
    /// Lists whose changes are asked for.
    pub lists: ListChanges,
}

impl<'d> Subscriptions<'d> {
    /// Reads the subscriptions of the member at `index` and adds them to those of the members before.
    pub(super) fn add(&mut self, index: usize, call: &Call<'d>) -> Result<(), Fault> {
        let Some(params) = call.params else { return Ok(()) };
        let [wanted, _] = pick(params, ["notifications", "_meta"], "params.")?;
        let Some(wanted) = object(wanted, "params.notifications")? else { return Ok(()) };
        let path = "params.notifications.";
        let [uris, tasks, tools, prompts, resources] = pick(
            wanted,
            [
                "resourceSubscriptions",
                "taskIds",
                "toolsListChanged",
                "promptsListChanged",
                "resourcesListChanged",
            ],
            path,
        )?;
        let uris = texts(uris, "params.notifications.resourceSubscriptions", MAX_URI_BYTES)?;
        self.resources.extend(uris.into_iter().map(|uri| (index, uri)));
        let tasks = texts(tasks, "params.notifications.taskIds", MAX_NAME_BYTES)?;
        self.tasks.extend(tasks.into_iter().map(|id| (id, index)));
        if self.resources.len() > MAX_SUBSCRIPTIONS || self.tasks.len() > MAX_SUBSCRIPTIONS {
            let most =
                format!("subscribe to at most {MAX_SUBSCRIPTIONS} resources and as many tasks");
            return Err(format!("{most}; open several streams").into());
        }
        let asked = |flag: Option<Value<'_>>| flag.is_some_and(|flag| flag.kind() == Kind::True);
        self.lists = ListChanges::new(asked(tools), asked(prompts), asked(resources));
        Ok(())
    }

    /// Returns the ids of the tasks.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(AsRef::as_ref)
    }

    /// Returns the message's own calls, and behind them a read of each resource and of each task.
    pub fn with_reads(&self, calls: &[Call<'d>]) -> Vec<Call<'d>> {
        let reads = self.resources.iter().map(|(_, uri)| read_of(uri.clone()));
        let tasks = self.tasks.keys().map(|id| get_of(id.clone()));
        calls.iter().cloned().chain(reads).chain(tasks).collect()
    }

    /// Returns the index of the member that a call of [`Self::with_reads`] belongs to, where the message
    /// has so many `members`.
    pub fn member(&self, at: usize, members: usize) -> usize {
        let of_resources = self.resources.iter().map(|(member, _)| member);
        let mut of_reads = of_resources.chain(self.tasks.values());
        at.checked_sub(members).and_then(|read| of_reads.nth(read)).map_or(at, |member| *member)
    }
}

/// The call that reads a resource.
pub fn read_of(uri: Cow<'_, str>) -> Call<'_> {
    Call {
        method: Some("resources/read".into()),
        id: None,
        params: None,
        meta: None,
        kind: CallKind::Data { what: Data::Resource, target: uri },
    }
}

/// The call that asks for the state of a task.
pub fn get_of(id: Cow<'_, str>) -> Call<'_> {
    Call {
        method: Some("tasks/get".into()),
        id: None,
        params: None,
        meta: None,
        kind: CallKind::Data { what: Data::Task, target: id },
    }
}

/// A list of texts; none if it is not there.
fn texts<'d>(
    list: Option<Value<'d>>,
    field: &'static str,
    max_bytes: usize,
) -> Result<Vec<Cow<'d, str>>, Fault> {
    let Some(list) = list else { return Ok(Vec::new()) };
    if list.kind() != Kind::Array {
        return Err(format!("`{field}` must be an array").into());
    }
    // One more than fits, so that the caller sees that it does not.
    let items = list.items().take(MAX_SUBSCRIPTIONS + 1);
    items.map(|item| text(Some(item), field, max_bytes)).collect()
}
