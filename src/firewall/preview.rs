//! The preview: what a list shows to a session, by the same checks as a decision.
//!
//! A list names things without the arguments that a call would bring. An item is hidden if every call
//! of it would be refused, and shown if some arguments may pass.

use super::agent::Caller;
use super::call::{CallKind, Data, UpstreamRef};
use super::checks::{drift, freeze, policy, sensitivity, task, whitelist};
use super::freeze::Frozen;
use super::granted;
use super::policy::{Decision, Facts, Policy, Target};
use super::rules::Rules;
use super::session::WorkOrder;
use super::time::Now;

/// The reader of a list.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    pub rules: &'a Rules,
    pub caller: &'a Caller,
    /// The session's terms, if there is a session.
    pub order: Option<&'a WorkOrder>,
    /// The upstream that the list comes from.
    pub upstream: UpstreamRef<'a>,
    pub frozen: Frozen<'a>,
    pub now: Now,
}

/// Decides for a list's item, given as the call that would use it, if the reader sees it.
pub fn shows(reader: &Reader<'_>, item: &CallKind<'_>) -> bool {
    let Reader { rules, caller, order, upstream, frozen, now } = *reader;
    let Some(asked) = policy::asked(item, upstream) else { return false };
    let terms = &rules.terms;
    freeze::check(frozen, &caller.agent, [item], upstream, now).is_ok()
        && order.is_none_or(|order| whitelist::check(terms, order, item, upstream).is_ok())
        && allows(reader, asked.target, item)
        && order
            .is_none_or(|order| drift::check(&drift::look(terms, order, [item], upstream)).is_ok())
}

/// Decides for a task, given the tool whose call began it, if the reader may go on with it.
pub fn shows_task(reader: &Reader<'_>, tool: &str) -> bool {
    let Reader { rules, caller, order, upstream, frozen, now } = *reader;
    let begun = CallKind::Tool { name: tool.into(), arguments: None };
    let facts = Facts {
        agent: &caller.agent,
        principal: &caller.principal,
        intent: order.map(|order| &*order.declared_intent),
    };
    let decision = policy::of_task(&rules.policies, &facts, (Some(tool), None), upstream);
    freeze::check(frozen, &caller.agent, [&begun], upstream, now).is_ok()
        && order.is_some_and(|order| {
            task::check(&rules.terms, order, Some(tool), upstream).is_ok()
                && sensitivity::check(order, &begun, &decision).is_ok()
        })
        && matches!(decision, Decision::Allow(_))
}

/// Decides for a resource template if the reader sees it: granted as it is written, or with all that
/// it can expand to.
pub fn shows_template(reader: &Reader<'_>, template: &str) -> bool {
    let wildcard = reader.rules.terms.wildcard;
    let listed =
        |order: &WorkOrder| granted::lists_template(&order.grants.resources, template, wildcard);
    let item = CallKind::Data { what: Data::Resource, target: template.into() };
    let Reader { caller, upstream, frozen, now, .. } = *reader;
    freeze::check(frozen, &caller.agent, [&item], upstream, now).is_ok()
        && reader.order.is_none_or(listed)
        && (allows(reader, Target::Resource(template), &item)
            || allows(reader, Target::Template(template), &item))
}

/// Asks the policies if some use of a target is allowed below the session's ceiling.
fn allows(reader: &Reader<'_>, target: Target<'_>, item: &CallKind<'_>) -> bool {
    let Reader { rules, caller, order, .. } = *reader;
    let facts = Facts {
        agent: &caller.agent,
        principal: &caller.principal,
        intent: order.map(|order| &*order.declared_intent),
    };
    let within = |policy: &Policy| {
        let decision = Decision::Allow(policy);
        order.is_none_or(|order| sensitivity::check(order, item, &decision).is_ok())
    };
    rules.policies.would_allow(&facts, target, within)
}
