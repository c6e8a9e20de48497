//! Tool calls that went upstream, and how their tools ended.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Destination, Gate};
use crate::firewall::call::CallKind;
use crate::mcp::message::Message;
use crate::mcp::outcome::{Answers, ToolOutcome};
use crate::metrics::Metrics;

/// Labels under which the tools of a message are counted, in the order of its calls.
pub(super) type Labels = SmallVec<[Arc<str>; 1]>;

/// The tools that one message calls, and what its answer has said of each so far.
#[derive(Debug)]
pub struct Tools {
    labels: Labels,
    pub(super) answers: Answers,
}

impl Tools {
    pub(super) fn of(message: &Message<'_>, labels: Labels) -> Option<Box<Self>> {
        Answers::to(message).map(|answers| Box::new(Self { labels, answers }))
    }

    /// Reads bytes of the answer that go to the client.
    pub fn read(&mut self, bytes: &[u8]) {
        self.answers.push(bytes);
    }

    /// Outcome of the message: of several calls the worst.
    pub(super) fn outcome(&self) -> ToolOutcome {
        self.answers.whole()
    }

    pub(super) fn count(&self, metrics: &Metrics) {
        for (label, outcome) in self.labels.iter().zip(self.answers.outcomes()) {
            metrics.tool_ended(label, outcome);
        }
    }
}

impl Gate {
    /// Counts the tools that a message calls.
    pub(super) fn count_tools(&self, message: &Message<'_>, to: &Destination) -> Labels {
        let mut labels = Labels::new();
        for call in &message.calls {
            if let CallKind::Tool { name, .. } = &call.kind {
                labels.push(self.state.metrics.tool_call(to.name.as_deref(), name));
            }
        }
        labels
    }
}
