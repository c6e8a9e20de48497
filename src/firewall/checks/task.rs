//! The task: its id belongs to the session whose call began it, and that call's tool is still allowed.
//!
//! Every refusal has one answer, so that an agent cannot learn which ids exist.

use crate::firewall::call::{Call, CallKind, UpstreamRef};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::granted;
use crate::firewall::session::WorkOrder;
use crate::firewall::terms::Terms;

/// Task that the session owns, and the tool whose call began it.
#[derive(Clone, Copy, Debug)]
pub struct Owned<'a> {
    pub id: &'a str,
    pub tool: &'a str,
}

/// Returns the tool whose call began the task that a call is about; none if the session does not own it.
pub fn tool_of<'a>(owned: &[Owned<'a>], call: &Call<'_>) -> Option<&'a str> {
    let id = call.task()?;
    owned.iter().find(|task| task.id == id).map(|task| task.tool)
}

/// Returns the calls that began these tasks, without their arguments.
pub fn begun<'a>(owned: &[Owned<'a>]) -> Vec<CallKind<'a>> {
    let begun = |task: &Owned<'a>| CallKind::Tool { name: task.tool.into(), arguments: None };
    owned.iter().map(begun).collect()
}

/// Refuses a task that the session does not own, or whose tool it does not list.
pub fn check(
    terms: &Terms,
    order: &WorkOrder,
    tool: Option<&str>,
    upstream: UpstreamRef<'_>,
) -> Result<(), Denial> {
    let listed = |tool| granted::lists(&order.grants.tools, upstream, tool, terms.wildcard);
    if tool.is_some_and(listed) { Ok(()) } else { Err(unknown()) }
}

/// The refusal of a task that does not exist, or not for this caller.
pub fn unknown() -> Denial {
    let message = "task not found: it does not exist, has expired, or began in another session";
    Denial::new(Code::TaskUnknown, message)
}
