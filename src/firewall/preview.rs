//! The preview: what a list shows to a session, by the same checks as a decision.
//!
//! A list names things without the arguments that a call would bring. An item is hidden if every call
//! of it would be refused, and shown if some arguments may pass.

use super::agent::Caller;
use super::call::{CallKind, Place};
use super::checks::{drift, policy, sensitivity, whitelist};
use super::policy::{Decision, Facts, Policy};
use super::rules::Rules;
use super::session::WorkOrder;

/// The reader of a list.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    pub rules: &'a Rules,
    pub caller: &'a Caller,
    /// The session's terms, if there is a session.
    pub order: Option<&'a WorkOrder>,
    /// The upstream that the list comes from.
    pub place: Place<'a>,
}

/// Decides for a list's item, given as the call that would use it, if the reader sees it.
pub fn shows(reader: &Reader<'_>, item: &CallKind<'_>) -> bool {
    let Reader { rules, caller, order, place } = *reader;
    let Some(asked) = policy::asked(item, place) else { return false };
    let facts = Facts {
        agent: &caller.agent,
        principal: &caller.principal,
        intent: order.map(|order| &*order.declared_intent),
    };
    let terms = &rules.terms;
    let within = |policy: &Policy| {
        let decision = Decision::Allow(policy);
        order.is_none_or(|order| sensitivity::check(order, item, &decision).is_ok())
    };
    order.is_none_or(|order| whitelist::check(terms, order, item, place).is_ok())
        && rules.policies.would_allow(&facts, asked.target, within)
        && order.is_none_or(|order| drift::check(&drift::look(terms, order, [item])).is_ok())
}
