//! The lists that a server answers with, as far as a session may see them.

use std::borrow::Cow;
use std::sync::Arc;

use super::frozen::Above;
use super::hearing::{Hearing, Passed};
use super::{Destination, Gate};
use crate::clock::Clock;
use crate::continuations::Continuations;
use crate::firewall::agent::Caller;
use crate::firewall::call::{CallKind, Data};
use crate::firewall::freeze::Frozen;
use crate::firewall::preview::{self, Reader};
use crate::firewall::rules::Rules;
use crate::freezer::Freezer;
use crate::mcp::capabilities;
use crate::mcp::filter::{Caching, ListKind, ListKinds};
use crate::mcp::message::Message;
use crate::sessions::Live;

/// The reader of lists, and by what they are filtered.
#[derive(Clone, Debug)]
pub(super) struct Viewer {
    pub(super) rules: Arc<Rules>,
    pub(super) caller: Caller,
    pub(super) live: Option<Arc<Live>>,
    pub(super) at: Arc<Destination>,
    pub(super) freezer: Arc<Freezer>,
    pub(super) continuations: Arc<Continuations>,
    /// Agents that the caller acts for.
    pub(super) above: Above,
    pub(super) clock: Clock,
}

impl Gate {
    /// Returns the reader of the lists that a message asks for.
    pub(super) fn viewer(&self, hearing: &Hearing<'_, '_>, passed: &Passed) -> Viewer {
        Viewer {
            rules: Arc::clone(&passed.rules),
            above: self.above(hearing.caller),
            caller: hearing.caller.clone(),
            live: passed.live.clone(),
            at: Arc::clone(hearing.to),
            freezer: Arc::clone(&self.state.freezer),
            continuations: Arc::clone(&self.state.continuations),
            clock: self.state.clock.clone(),
        }
    }
}

/// The lists that a message asks for, and their reader.
#[derive(Clone, Debug)]
pub struct ListView {
    kinds: ListKinds,
    viewer: Viewer,
}

impl ListView {
    /// The lists to filter in the answer to `message`; none if it asks for none.
    pub(super) fn of(
        message: &Message<'_>,
        caching: Caching,
        viewer: impl FnOnce() -> Viewer,
    ) -> Option<Self> {
        let kinds = ListKinds::asked_by(message);
        let declared = || message.calls.iter().any(capabilities::declare_apps);
        (!kinds.is_empty()).then(|| Self::to(kinds, caching, declared(), viewer()))
    }

    /// Every list, for a stream on which the server may answer any earlier request again.
    pub(super) fn of_stream(caching: Caching, viewer: Viewer) -> Self {
        Self::to(ListKinds::all(), caching, false, viewer)
    }

    fn to(kinds: ListKinds, caching: Caching, declared: bool, viewer: Viewer) -> Self {
        let kinds = kinds.kept_within(caching);
        let has_apps = declared || viewer.live.as_ref().is_some_and(|live| live.has_apps());
        Self { kinds: if has_apps { kinds } else { kinds.for_model() }, viewer }
    }

    pub fn kinds(&self) -> ListKinds {
        self.kinds
    }

    /// Decides if the session sees the item that a list shows under `label`.
    pub fn shows(&self, kind: ListKind, label: &str) -> bool {
        let Viewer { rules, caller, live, at, freezer, continuations, above, clock } = &self.viewer;
        // Read each time: a list on a long stream hides what was frozen meanwhile.
        let freezes = freezer.in_force();
        let reader = Reader {
            rules,
            caller,
            order: live.as_ref().map(|live| &*live.order),
            upstream: at.upstream(),
            frozen: Frozen { freezes: &freezes, above },
            now: clock.now(),
        };
        let data = |what, target| CallKind::Data { what, target: Cow::Borrowed(target) };
        let shows = |item: CallKind<'_>| preview::shows(&reader, &item);
        match kind {
            ListKind::Tools => {
                shows(CallKind::Tool { name: Cow::Borrowed(label), arguments: None })
            }
            ListKind::Prompts => shows(data(Data::Prompt, label)),
            ListKind::Resources | ListKind::Skills => shows(data(Data::Resource, label)),
            ListKind::ResourceTemplates => preview::shows_template(&reader, label),
            ListKind::Tasks => live.as_ref().is_some_and(|live| {
                let upstream = at.name.as_deref();
                let marks = continuations.marks_of_task(live.order.id, upstream, label);
                let task = continuations.get(&marks, reader.now.wall);
                let tool = task.as_deref().and_then(|task| task.tool.as_deref());
                tool.is_some_and(|tool| preview::shows_task(&reader, tool))
            }),
        }
    }
}
