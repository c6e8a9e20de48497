//! The lists that a server answers with, as far as a session may see them.

use std::borrow::Cow;
use std::sync::Arc;

use super::Destination;
use crate::firewall::agent::Caller;
use crate::firewall::call::{CallKind, Data};
use crate::firewall::preview::{self, Reader};
use crate::firewall::rules::Rules;
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
    /// The lists to filter in the answer to `message`; none if it asks for none.
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

    /// Decides if the session sees the item that a list shows under `label`.
    pub fn shows(&self, kind: ListKind, label: &str) -> bool {
        let reader = Reader {
            rules: &self.rules,
            caller: &self.caller,
            order: self.live.as_ref().map(|live| &*live.order),
            place: self.at.place(),
        };
        let data = |what, target| CallKind::Data { what, target: Cow::Borrowed(target) };
        let shows = |item: CallKind<'_>| preview::shows(&reader, &item);
        match kind {
            ListKind::Tools => {
                shows(CallKind::Tool { name: Cow::Borrowed(label), arguments: None })
            }
            ListKind::Prompts => shows(data(Data::Prompt, label)),
            ListKind::Resources => shows(data(Data::Resource, label)),
            ListKind::ResourceTemplates => preview::shows_template(&reader, label),
        }
    }
}
