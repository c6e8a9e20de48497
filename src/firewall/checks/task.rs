//! The task: whatever is missing, the answer is the same, so that nobody learns which ids there are.

use crate::firewall::denial::{Code, Denial};

/// The refusal of a task that does not exist, or not for this caller.
pub fn unknown() -> Denial {
    let message = "task not found: it does not exist, has expired, or began in another session";
    Denial::new(Code::TaskUnknown, message)
}
