//! Ends of tool calls, read from their answers as those pass: nothing is held back or stored.
//!
//! A gateway's `completed, 200` says that an answer came, not that the tool did its work: an error of
//! the tool, an error of the protocol and a good result all come with status 200. The members that distinguish
//! them apart lie at the top of a message, so an incremental scanner finds them however the bytes are cut.

use std::collections::{BTreeMap, HashMap};

use smallvec::SmallVec;

use super::message::Message;
use super::sse::{Cutter, Piece, content, split_mark};
use crate::firewall::call::CallKind;
use crate::json::Doc;
use crate::json::number::Number;
use scan::{Response, Scanner};

mod scan;

/// End of a tool call, as its answer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolOutcome {
    /// A result without `isError`.
    Ok,
    /// A result that says `isError`.
    ToolError,
    /// A JSON-RPC error.
    RpcError,
    /// A result that asks for input; the call goes on in a retry.
    InputRequired,
    /// A result that names a task; the call goes on in it.
    Task,
    /// No answer with the call's id has passed, or one that is none of these.
    Unknown,
}

impl ToolOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::RpcError => "rpc_error",
            Self::InputRequired => "input_required",
            Self::Task => "task",
            Self::Unknown => "unknown",
        }
    }

    /// Order in which the outcomes of a batch stand for the whole of it: the worst counts.
    fn rank(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Task => 1,
            Self::InputRequired => 2,
            Self::Unknown => 3,
            Self::ToolError => 4,
            Self::RpcError => 5,
        }
    }
}

/// Form of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Json,
    Events,
    /// Something that holds no JSON-RPC.
    Other,
}

/// Most bytes of an id in an answer, each character of which may be escaped.
const MAX_ANSWERED_ID: usize = 6 * super::message::MAX_ID_BYTES;

/// Tool calls of one message, and what has been learned of their ends.
#[derive(Debug)]
pub struct Answers {
    ends: Ends,
    carrier: Carrier,
    lines: Lines,
    scanner: Scanner,
}

#[derive(Debug)]
struct Ends {
    /// In the order of the message.
    calls: SmallVec<[Awaited; 1]>,
    /// Places in `calls` by id, if there are several.
    by_id: HashMap<Id, usize>,
    /// Answers of the event under way, which count once it is whole.
    pending: BTreeMap<usize, ToolOutcome>,
    /// True if an error without an id has passed: it answers whatever else is unanswered.
    nameless_error: bool,
}

#[derive(Debug)]
struct Awaited {
    /// The id as the message has it; none for a notification.
    id: Option<Box<str>>,
    outcome: Option<ToolOutcome>,
}

/// Value of an id: a number or a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Id {
    Number(Number),
    Text(Box<str>),
}

impl Id {
    fn parse(raw: &str) -> Option<Self> {
        if !raw.starts_with('"') {
            return Number::parse(raw).map(Self::Number);
        }
        let doc = Doc::parse(raw.as_bytes()).ok()?;
        doc.root().as_str().map(|text| Self::Text(text.as_ref().into()))
    }
}

impl Answers {
    /// Prepares for the answer to a message; `None` if it calls no tool.
    pub fn to(message: &Message<'_>) -> Option<Self> {
        let is_tool = |kind: &CallKind<'_>| matches!(kind, CallKind::Tool { .. });
        let calls: SmallVec<[Awaited; 1]> = message
            .calls
            .iter()
            .filter(|call| is_tool(&call.kind))
            .map(|call| Awaited { id: call.id.map(|id| id.raw().into()), outcome: None })
            .collect();
        if calls.is_empty() {
            return None;
        }
        let mut by_id = HashMap::new();
        if calls.len() > 1 {
            let id_at = |(at, call): (usize, &Awaited)| Some((Id::parse(call.id.as_deref()?)?, at));
            by_id = calls.iter().enumerate().filter_map(id_at).collect();
        }
        let ends = Ends { calls, by_id, pending: BTreeMap::new(), nameless_error: false };
        Some(Self {
            ends,
            carrier: Carrier::Other,
            lines: Lines::default(),
            scanner: Scanner::default(),
        })
    }

    /// Begins with an answer of this form.
    pub fn begin(&mut self, carrier: Carrier) {
        self.carrier = carrier;
    }

    /// Looks at bytes that pass.
    pub fn push(&mut self, chunk: &[u8]) {
        let Self { ends, carrier, lines, scanner } = self;
        match carrier {
            Carrier::Other => {}
            Carrier::Json => {
                scanner.push(chunk, |response| {
                    if let Some((at, outcome)) = ends.read(response) {
                        ends.settle(at, outcome);
                    }
                });
            }
            Carrier::Events => lines.push(chunk, scanner, ends),
        }
    }

    /// Outcomes in the order of the message's calls.
    pub fn outcomes(&self) -> impl Iterator<Item = ToolOutcome> {
        let otherwise =
            if self.ends.nameless_error { ToolOutcome::RpcError } else { ToolOutcome::Unknown };
        self.ends.calls.iter().map(move |call| call.outcome.unwrap_or(otherwise))
    }

    /// Outcome of the message as a whole: of several calls the worst.
    pub fn whole(&self) -> ToolOutcome {
        self.outcomes().max_by_key(|outcome| outcome.rank()).unwrap_or(ToolOutcome::Unknown)
    }
}

impl Ends {
    /// Finds the call that a message answers, and how.
    fn read(&mut self, response: &Response) -> Option<(usize, ToolOutcome)> {
        let outcome = response.outcome()?;
        let Some(id) = response.id() else {
            self.nameless_error |= outcome == ToolOutcome::RpcError;
            return None;
        };
        Some((self.position(id)?, outcome))
    }

    fn settle(&mut self, at: usize, outcome: ToolOutcome) {
        if let Some(call) = self.calls.get_mut(at) {
            call.outcome = Some(outcome);
        }
    }

    /// Ends an event: what it answered counts if clients read events of its type.
    fn dispatch(&mut self, counts: bool) {
        for (at, outcome) in std::mem::take(&mut self.pending) {
            if counts {
                self.settle(at, outcome);
            }
        }
    }

    /// Finds the call with an id, however the server has spelt the id.
    fn position(&self, raw: &str) -> Option<usize> {
        if let [call] = self.calls.as_slice() {
            let asked = call.id.as_deref()?;
            let equal =
                asked == raw || Id::parse(raw).is_some_and(|id| Id::parse(asked) == Some(id));
            return equal.then_some(0);
        }
        self.by_id.get(&Id::parse(raw)?).copied()
    }
}

/// A byte order mark, `event` and one byte more: whatever is longer matters no more.
const MAX_NAME: usize = 9;
/// `message` and one byte more.
const MAX_KIND: usize = 8;

/// Lines of an event stream, as far as they hold data or name an event's type.
#[derive(Debug, Default)]
struct Lines {
    cutter: Cutter,
    name: SmallVec<[u8; MAX_NAME]>,
    field: Field,
    /// True behind the colon of a line, where a space belongs to no value.
    after_colon: bool,
    after_first_line: bool,
    /// Data lines of the event under way.
    has_data: bool,
    /// Type of the event under way, as far as it matters.
    kind: SmallVec<[u8; MAX_KIND]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Field {
    /// The name is not read yet.
    #[default]
    Unnamed,
    Data,
    Kind,
    Other,
}

impl Lines {
    fn push(&mut self, mut chunk: &[u8], scanner: &mut Scanner, ends: &mut Ends) {
        while let Some(piece) = self.cutter.next(&mut chunk) {
            let (text, is_end) = match piece {
                Piece::Part(bytes) => (bytes, false),
                Piece::End(bytes) => (content(bytes), true),
                Piece::Tail(_) => continue,
            };
            self.read(text, |data| {
                scanner.push(data, |response| {
                    if let Some((at, outcome)) = ends.read(response) {
                        ends.pending.insert(at, outcome);
                    }
                });
            });
            if is_end && self.end_line() {
                ends.dispatch(self.kind.is_empty() || &*self.kind == b"message");
                *scanner = Scanner::default();
                self.has_data = false;
                self.kind.clear();
            }
        }
    }

    /// Reads on in a line and gives `data` what belongs to a value of `data`.
    fn read(&mut self, mut text: &[u8], mut data: impl FnMut(&[u8])) {
        if self.field == Field::Unnamed {
            let at = memchr::memchr(b':', text);
            let (name, rest) = text.split_at_checked(at.unwrap_or(text.len())).unwrap_or_default();
            keep(&mut self.name, name, MAX_NAME);
            if at.is_none() {
                return;
            }
            self.begin_value(&mut data);
            self.after_colon = true;
            text = rest.get(1..).unwrap_or_default();
        }
        if self.after_colon && !text.is_empty() {
            self.after_colon = false;
            text = text.strip_prefix(b" ").unwrap_or(text);
        }
        match self.field {
            Field::Data => data(text),
            Field::Kind => keep(&mut self.kind, text, MAX_KIND),
            Field::Unnamed | Field::Other => {}
        }
    }

    fn begin_value(&mut self, data: &mut impl FnMut(&[u8])) {
        self.field = match self.field_name() {
            b"data" => Field::Data,
            b"event" => Field::Kind,
            _ => Field::Other,
        };
        match self.field {
            Field::Data if std::mem::replace(&mut self.has_data, true) => data(b"\n"),
            Field::Kind => self.kind.clear(),
            Field::Data | Field::Unnamed | Field::Other => {}
        }
    }

    /// Ends a line and reports whether that ends an event.
    fn end_line(&mut self) -> bool {
        let is_blank = self.field == Field::Unnamed && self.field_name().is_empty();
        if self.field == Field::Unnamed && self.field_name() == b"event" {
            self.kind.clear();
        }
        self.name.clear();
        self.field = Field::Unnamed;
        self.after_colon = false;
        self.after_first_line = true;
        is_blank
    }

    fn field_name(&self) -> &[u8] {
        if self.after_first_line { &self.name } else { split_mark(&self.name).1 }
    }
}

/// Appends to a short text, no more than makes it differ from every text that matters.
fn keep<const N: usize>(kept: &mut SmallVec<[u8; N]>, bytes: &[u8], most: usize)
where
    [u8; N]: smallvec::Array<Item = u8>,
{
    let room = most.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
}

#[cfg(test)]
mod tests;
