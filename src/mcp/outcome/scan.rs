//! A scanner of JSON-RPC messages for the members that say how a call ended, byte by byte across any
//! chunks.
//!
//! The scanner knows where a message is (the root, or an item of an array at the root), the message's `id`,
//! `error` and `result`, and the `isError`, `resultType` and `task` of a result. Deeper members are
//! skipped. The last of two equal members counts, as for clients. Text that is no JSON gives some answer or
//! none; whether it is JSON is decided elsewhere.

use std::borrow::Cow;

use memchr::memchr2;
use smallvec::SmallVec;

use super::{MAX_ANSWERED_ID, ToolOutcome};
use crate::json::Doc;
use crate::mcp::plain::PlainAnswer;

/// Longest key that matters, each character escaped.
const MAX_KEY: usize = 64;

/// Stands for an id that is no id, and so equals none.
const NO_ID: &[u8] = b"[";

/// Facts of one message.
#[derive(Debug, Default)]
pub(super) struct Response {
    id: SmallVec<[u8; 40]>,
    has_error: bool,
    result: Option<ResultFacts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ResultFacts {
    is_object: bool,
    is_error: Option<Truth>,
    kind: Option<ResultKind>,
    has_task: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    True,
    False,
    Neither,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResultKind {
    Complete,
    InputRequired,
    Task,
    Unheard,
}

impl From<PlainAnswer<'_>> for Response {
    fn from(plain: PlainAnswer<'_>) -> Self {
        let is_error = plain.is_error.map(|is| if is { Truth::True } else { Truth::False });
        let result = ResultFacts { is_object: true, is_error, ..ResultFacts::default() };
        Self { id: SmallVec::from_slice(plain.id), has_error: false, result: Some(result) }
    }
}

impl Response {
    /// The id as it is written; none if it is missing, null or no id.
    pub(super) fn id(&self) -> Option<&str> {
        let id = str::from_utf8(&self.id).ok()?;
        (!id.is_empty() && id != "null").then_some(id)
    }

    /// Outcome that the message has for its call; none if it is no response.
    pub(super) fn outcome(&self) -> Option<ToolOutcome> {
        if self.has_error {
            return Some(ToolOutcome::RpcError);
        }
        let result = self.result?;
        Some(match (result.is_object, result.kind) {
            (false, _) | (true, Some(ResultKind::Unheard)) => ToolOutcome::Unknown,
            (true, Some(ResultKind::InputRequired)) => ToolOutcome::InputRequired,
            (true, Some(ResultKind::Task)) => ToolOutcome::Task,
            (true, None) if result.has_task => ToolOutcome::Task,
            (true, Some(ResultKind::Complete) | None) => match result.is_error {
                Some(Truth::True) => ToolOutcome::ToolError,
                Some(Truth::False) | None => ToolOutcome::Ok,
                Some(Truth::Neither) => ToolOutcome::Unknown,
            },
        })
    }
}

/// Member whose value comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Member {
    #[default]
    Other,
    Id,
    Error,
    Result,
    IsError,
    ResultType,
    Task,
}

/// Position within the grammar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Between tokens.
    #[default]
    Between,
    Text,
    /// Behind a backslash of a text.
    Escape,
    /// Within a number or a word.
    Scalar,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of the place in the text")]
pub(super) struct Scanner {
    at: At,
    /// Open objects and arrays.
    depth: usize,
    /// 1 if the messages are items of an array, else 0.
    base: usize,
    begun: bool,
    /// True once nothing more can follow.
    over: bool,
    /// True where an object's next text is a key.
    key_next: bool,
    member: Member,
    /// True within an object that is a message, and within its result.
    in_message: bool,
    in_result: bool,
    /// The key, or the value of a member that matters, that is under way.
    token: SmallVec<[u8; 40]>,
    /// Longest that `token` may become; 0 while nothing is kept.
    room: usize,
    too_long: bool,
    response: Response,
}

impl Scanner {
    /// Reads on, and gives `each` the messages that end.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&Response)) {
        if !self.begun
            && self.at == At::Between
            && let Some(plain) = PlainAnswer::read(bytes)
        {
            (self.begun, self.over) = (true, true);
            each(&Response::from(plain));
            return;
        }
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.over {
                return;
            }
            match self.at {
                At::Text => bytes = self.text(bytes),
                At::Escape => {
                    self.keep(&[byte]);
                    self.at = At::Text;
                    bytes = rest;
                }
                At::Scalar => bytes = self.scalar(bytes),
                At::Between => {
                    self.between(byte, &mut each);
                    bytes = rest;
                }
            }
        }
    }

    /// Passes what belongs to a text, up to its end or an escape.
    fn text<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some(at) = memchr2(b'"', b'\\', bytes) else {
            self.keep(bytes);
            return &[];
        };
        let (passed, rest) = bytes.split_at_checked(at + 1).unwrap_or((bytes, &[]));
        self.keep(passed);
        if passed.last() == Some(&b'\\') {
            self.at = At::Escape;
        } else {
            self.at = At::Between;
            if self.key_next { self.end_key() } else { self.end_value() }
        }
        rest
    }

    /// Passes what belongs to a number or a word.
    fn scalar<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
        let at = bytes.iter().position(ends);
        let (passed, rest) = bytes.split_at_checked(at.unwrap_or(bytes.len())).unwrap_or_default();
        self.keep(passed);
        if at.is_some() {
            self.at = At::Between;
            self.end_value();
        }
        rest
    }

    fn between(&mut self, byte: u8, each: &mut impl FnMut(&Response)) {
        match byte {
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => self.close(each),
            b'"' => {
                self.at = At::Text;
                self.begin(if self.key_next { MAX_KEY } else { self.value_room() }, byte);
            }
            b',' => {
                self.member = Member::Other;
                self.key_next = self.is_read();
            }
            b':' => self.key_next = false,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            // A byte order mark may open a body.
            0xEF | 0xBB | 0xBF if !self.begun => {}
            _ => {
                self.over = !self.begun;
                self.at = At::Scalar;
                self.begin(self.value_room(), byte);
            }
        }
    }

    /// Depth below the place where messages are.
    fn level(&self) -> usize {
        self.depth.saturating_sub(self.base)
    }

    /// Reports whether the members of the innermost object are looked at.
    fn is_read(&self) -> bool {
        match self.level() {
            1 => self.in_message,
            2 => self.in_result,
            _ => false,
        }
    }

    fn open(&mut self, byte: u8) {
        let is_object = byte == b'{';
        if !std::mem::replace(&mut self.begun, true) && !is_object {
            self.base = 1;
            self.depth = 1;
            return;
        }
        match self.level() {
            0 => {
                self.response = Response::default();
                self.in_message = is_object;
            }
            1 if self.in_message => self.container_in_message(is_object),
            2 if self.in_result && is_object && self.member == Member::Task => {
                self.response.result.get_or_insert_default().has_task = true;
            }
            2 if self.in_result => self.odd_value(),
            _ => {}
        }
        self.member = Member::Other;
        self.depth = self.depth.saturating_add(1);
        self.key_next = is_object && self.is_read();
    }

    fn container_in_message(&mut self, is_object: bool) {
        match self.member {
            Member::Result => {
                self.in_result = is_object;
                self.response.result = Some(ResultFacts { is_object, ..ResultFacts::default() });
            }
            Member::Error => self.response.has_error = true,
            Member::Id => self.response.id = SmallVec::from_slice(NO_ID),
            Member::Other | Member::IsError | Member::ResultType | Member::Task => {}
        }
    }

    fn close(&mut self, each: &mut impl FnMut(&Response)) {
        self.depth = self.depth.saturating_sub(1);
        self.key_next = false;
        self.member = Member::Other;
        if self.level() == 1 {
            self.in_result = false;
        }
        if self.depth == self.base && std::mem::take(&mut self.in_message) {
            each(&std::mem::take(&mut self.response));
        }
        self.over = self.depth == 0;
    }

    /// Room for the value that begins, if it matters.
    fn value_room(&self) -> usize {
        match self.member {
            Member::Id => MAX_ANSWERED_ID,
            Member::Error | Member::Result => 8,
            Member::IsError | Member::ResultType | Member::Task => MAX_KEY,
            Member::Other => 0,
        }
    }

    fn begin(&mut self, room: usize, first: u8) {
        self.token.clear();
        self.too_long = false;
        self.room = room;
        self.keep(&[first]);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.room == 0 || self.too_long {
            return;
        }
        self.too_long = bytes.len() > self.room.saturating_sub(self.token.len());
        if !self.too_long {
            self.token.extend_from_slice(bytes);
        }
    }

    fn end_key(&mut self) {
        let key = if self.too_long { None } else { text_of(&self.token) };
        self.member = match (self.level(), key.as_deref()) {
            (1, Some("id")) => Member::Id,
            (1, Some("error")) => Member::Error,
            (1, Some("result")) => Member::Result,
            (2, Some("isError")) => Member::IsError,
            (2, Some("resultType")) => Member::ResultType,
            (2, Some("task")) => Member::Task,
            _ => Member::Other,
        };
    }

    /// Takes the value of a member that is neither object nor array.
    fn end_value(&mut self) {
        let token: &[u8] = if self.too_long { &[] } else { &self.token };
        let response = &mut self.response;
        match self.member {
            Member::Other => {}
            Member::Id if self.too_long => response.id = SmallVec::from_slice(NO_ID),
            Member::Id => response.id = SmallVec::from_slice(token),
            // JSON-RPC 1.0 has both members in each response, one of them null.
            Member::Error => response.has_error = token != b"null",
            Member::Result => {
                response.result = (token != b"null").then(ResultFacts::default);
            }
            Member::IsError => {
                let truth = match token {
                    b"true" => Truth::True,
                    b"false" => Truth::False,
                    _ => Truth::Neither,
                };
                response.result.get_or_insert_default().is_error = Some(truth);
            }
            Member::ResultType => {
                let kind = match text_of(token).as_deref() {
                    Some("complete") => ResultKind::Complete,
                    Some("input_required") => ResultKind::InputRequired,
                    Some("task") => ResultKind::Task,
                    _ => ResultKind::Unheard,
                };
                response.result.get_or_insert_default().kind = Some(kind);
            }
            Member::Task => response.result.get_or_insert_default().has_task = false,
        }
        self.member = Member::Other;
    }

    /// Takes an object or array where a result has a truth or a text.
    fn odd_value(&mut self) {
        let result = self.response.result.get_or_insert_default();
        match self.member {
            Member::IsError => result.is_error = Some(Truth::Neither),
            Member::ResultType => result.kind = Some(ResultKind::Unheard),
            Member::Task => result.has_task = false,
            Member::Other | Member::Id | Member::Error | Member::Result => {}
        }
    }
}

/// The text of a JSON string; none for other values.
fn text_of(token: &[u8]) -> Option<Cow<'_, str>> {
    if !token.contains(&b'\\') {
        let text = token.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        return str::from_utf8(text).ok().map(Cow::Borrowed);
    }
    let doc = Doc::parse(token).ok()?;
    doc.root().as_str().map(|text| Cow::Owned(text.into_owned()))
}
