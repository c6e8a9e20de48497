//! The task: its id belongs to the session whose call began it, and that call's tool is still allowed.
//!
//! Whatever is missing, the answer is the same, so that nobody learns which ids there are.

use crate::firewall::call::Place;
use crate::firewall::checks::whitelist;
use crate::firewall::denial::{Code, Denial};
use crate::firewall::rules::Terms;
use crate::firewall::session::WorkOrder;

/// Refuses a task that the session does not own, or whose tool it does not list.
pub fn check(
    terms: &Terms,
    order: &WorkOrder,
    tool: Option<&str>,
    place: Place<'_>,
) -> Result<(), Denial> {
    let listed = |tool| whitelist::lists(&order.authorized_tools, place, tool, terms.wildcard);
    if tool.is_some_and(listed) { Ok(()) } else { Err(unknown()) }
}

/// The refusal of a task that does not exist, or not for this caller.
pub fn unknown() -> Denial {
    let message = "task not found: it does not exist, has expired, or began in another session";
    Denial::new(Code::TaskUnknown, message)
}
