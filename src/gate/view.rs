//! What a session may see of the lists that a server answers with.

use std::sync::Arc;

use super::Destination;
use crate::firewall::agent::Caller;
use crate::firewall::call::Data;
use crate::firewall::checks::{drift, sensitivity, whitelist};
use crate::firewall::policy::{Facts, Target};
use crate::firewall::rules::Rules;
use crate::firewall::session::WorkOrder;
use crate::mcp::filter::{ListKind, ListKinds};
use crate::mcp::message::Message;
use crate::sessions::Live;

/// The lists that a message asks for, and by what they are filtered.
#[derive(Clone, Debug)]
pub struct ListView {
    kinds: ListKinds,
    rules: Arc<Rules>,
    caller: Caller,
    live: Option<Arc<Live>>,
    at: Arc<Destination>,
}

impl ListView {
    /// What to filter in the answer to `message`; nothing if it asks for no list.
    pub(super) fn of(
        message: &Message<'_>,
        rules: Arc<Rules>,
        caller: &Caller,
        live: Option<Arc<Live>>,
        at: &Arc<Destination>,
    ) -> Option<Self> {
        let kinds = ListKinds::asked_by(message);
        let (caller, at) = (caller.clone(), at.clone());
        (!kinds.is_empty()).then_some(Self { kinds, rules, caller, live, at })
    }

    /// Every list, for a stream on which the server may answer any earlier request again.
    pub(super) fn of_stream(
        rules: Arc<Rules>,
        caller: &Caller,
        live: Option<Arc<Live>>,
        at: &Arc<Destination>,
    ) -> Self {
        Self { kinds: ListKinds::all(), rules, caller: caller.clone(), live, at: at.clone() }
    }

    pub fn kinds(&self) -> ListKinds {
        self.kinds
    }

    /// Whether the session could use the item that a list shows under `label`.
    pub fn shows(&self, kind: ListKind, label: &str) -> bool {
        let allowed = |target| self.allowed(kind, target);
        self.listed(kind, label)
            && match kind {
                ListKind::Tools => allowed(Target::ToolAt(self.at.place(), label)),
                ListKind::Resources => allowed(Target::Resource(label)),
                // Granted as it is written, or with all that it can expand to.
                ListKind::ResourceTemplates => {
                    allowed(Target::Resource(label)) || allowed(Target::Template(label))
                }
                ListKind::Prompts => allowed(Target::Prompt(label)),
            }
    }

    fn listed(&self, kind: ListKind, label: &str) -> bool {
        let Some(live) = &self.live else { return true };
        let order = &live.order;
        match kind {
            ListKind::Tools => {
                let (place, wildcard) = (self.at.place(), self.rules.terms.wildcard);
                whitelist::lists(&order.authorized_tools, place, label, wildcard)
            }
            ListKind::Resources => whitelist::lists_data(
                &order.authorized_resources,
                Data::Resource,
                label,
                self.rules.terms.wildcard,
            ),
            ListKind::ResourceTemplates => whitelist::lists_template(
                &order.authorized_resources,
                label,
                self.rules.terms.wildcard,
            ),
            ListKind::Prompts => whitelist::lists_data(
                &order.authorized_prompts,
                Data::Prompt,
                label,
                self.rules.terms.wildcard,
            ),
        }
    }

    fn allowed(&self, kind: ListKind, target: Target<'_>) -> bool {
        let facts = Facts {
            agent: &self.caller.agent,
            principal: &self.caller.principal,
            intent: self.live.as_ref().map(|live| live.order.declared_intent.as_ref()),
        };
        let Some(policy) = self.rules.policies.would_allow(&facts, target) else { return false };
        let Some(live) = &self.live else { return true };
        sensitivity::reaches(live.order.ceiling, policy.data_sensitivity)
            && (kind != ListKind::Tools || self.fits_intent(&live.order, target.name()))
    }

    /// Whether drift would let the tool pass.
    fn fits_intent(&self, order: &WorkOrder, tool: &str) -> bool {
        let terms = &self.rules.terms;
        let does = terms.tools.does(self.at.place(), tool);
        let escalate = terms.escalate_anomalies;
        !drift::judge(order.intent_tier, does, terms.unknown_intent, escalate).refuse
    }
}
