//! The whitelist: the names that a session was opened for.

use super::task::{self, Owned};
use crate::firewall::call::{Call, CallKind, Data, UpstreamRef};
use crate::firewall::denial::{Code, Denial};
use crate::firewall::granted::{lists, lists_data};
use crate::firewall::session::WorkOrder;
use crate::firewall::terms::Terms;

pub use crate::firewall::terms::Wildcard;

/// Refuses calls that the session does not list, and tasks by the tool whose call began them.
pub fn check_all(
    terms: &Terms,
    order: &WorkOrder,
    calls: &[Call<'_>],
    tasks: &[Owned<'_>],
    upstream: UpstreamRef<'_>,
) -> Result<(), Denial> {
    calls.iter().try_for_each(|call| match call.task() {
        Some(_) => task::check(terms, order, task::tool_of(tasks, call), upstream),
        None => check(terms, order, &call.kind, upstream),
    })
}

/// Refuses what the session does not list.
pub fn check(
    terms: &Terms,
    order: &WorkOrder,
    kind: &CallKind<'_>,
    upstream: UpstreamRef<'_>,
) -> Result<(), Denial> {
    match kind {
        CallKind::Tool { name, .. } => {
            if lists(&order.grants.tools, upstream, name, terms.wildcard) {
                return Ok(());
            }
            Err(Denial::new(
                Code::ToolNotAuthorized,
                "this tool is not among the session's authorized_tools: use one that tools/list \
                 shows, or ask your operator for a session that includes it",
            ))
        }
        CallKind::Data { what, target } => {
            let (list, code, field) = match what {
                Data::Resource => {
                    (&order.grants.resources, Code::ResourceNotAuthorized, "authorized_resources")
                }
                Data::Prompt => {
                    (&order.grants.prompts, Code::PromptNotAuthorized, "authorized_prompts")
                }
                Data::Method => {
                    (&order.grants.methods, Code::MethodNotAuthorized, "authorized_methods")
                }
                // Granted by its tool alone.
                Data::Task => return Err(task::unknown()),
            };
            if lists_data(list, *what, target, terms.wildcard) {
                return Ok(());
            }
            Err(Denial::new(
                code,
                format!(
                    "this is not among the session's {field}: ask your operator for a session \
                     that includes it"
                ),
            ))
        }
        CallKind::Protocol => Ok(()),
    }
}
