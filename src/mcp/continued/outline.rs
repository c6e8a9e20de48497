//! The outline of an answer: of each message the members that matter here, everything else a zero.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use smallvec::SmallVec;

use super::{Answer, Unreadable, answers};
use crate::json::Doc;
use crate::json::keys::disguised_as;
use crate::mcp::plain::PlainAnswer;

/// Largest outline that is copied.
const MAX_BYTES: usize = 1024 * 1024;
/// Outlines of answers by which no call goes on are shorter, and need no memory of their own.
const USUAL_BYTES: usize = 128;

/// Members of `result` that are copied.
const OF_RESULT: [&str; 8] =
    ["resultType", "taskId", "task", "status", "ttlMs", "ttl", "inputRequests", "requestState"];
/// Members of `result` without which there is nothing to read in it.
const TELLING: [&str; 4] = ["taskId", "task", "inputRequests", "requestState"];
/// Members of `params` that are copied.
const OF_PARAMS: [&str; 4] = ["mode", "url", "requestedSchema", "inputRequests"];

/// Place of the next byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the message.
    #[default]
    Start,
    /// In front of a key or a message, a comma or the end of an object or of the batch.
    Between,
    Key {
        escaped: bool,
    },
    AfterKey,
    BeforeValue,
    /// Inside a value, with so many objects and arrays open.
    Value(Text, usize),
    /// Behind the message, or in what is none.
    Over,
}

/// Place in a text inside a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    None,
    In,
    Escape,
}

/// Object whose members are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Within {
    /// None: between the messages of a batch.
    #[default]
    Batch,
    Message,
    Result,
    Params,
    Error,
    /// `data` of an error.
    Data,
}

impl Within {
    /// Object around this one.
    fn around(self) -> Self {
        match self {
            Self::Batch | Self::Message => Self::Batch,
            Self::Result | Self::Params | Self::Error => Self::Message,
            Self::Data => Self::Error,
        }
    }

    fn key(self, key: &str) -> Key {
        match (self, key) {
            (Self::Message, "result") => Key::Opens(Self::Result),
            (Self::Message, "params") => Key::Opens(Self::Params),
            (Self::Message, "error") => Key::Opens(Self::Error),
            (Self::Error, "data") => Key::Opens(Self::Data),
            (Self::Message, "method") | (Self::Data, "elicitations") => Key::Copied,
            (Self::Result, key) if OF_RESULT.contains(&key) => Key::Copied,
            (Self::Params, key) if OF_PARAMS.contains(&key) => Key::Copied,
            _ => Key::Other,
        }
    }

    /// Keys that no other key may be mistaken for. Other members of `params` are compared once they matter.
    fn known(self) -> &'static [&'static str] {
        match self {
            Self::Batch => &[],
            Self::Params => &["inputRequests"],
            Self::Message => &["result", "error", "params", "method", "id"],
            Self::Result => &TELLING,
            Self::Error => &["data"],
            Self::Data => &["elicitations"],
        }
    }
}

/// The key whose value comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    /// Its value is read member by member if it is an object.
    Opens(Within),
    Copied,
    #[default]
    Other,
}

/// Copies the outline of one message, or of a batch, from its bytes as they pass.
#[derive(Debug, Default)]
pub struct Outline {
    /// True if what a `result` hands out matters.
    reads_results: bool,
    at: At,
    out: SmallVec<[u8; USUAL_BYTES]>,
    within: Within,
    is_batch: bool,
    key_from: usize,
    key: Key,
    /// True if the message under way has an `id`, and a `method`.
    has_id_and_method: (bool, bool),
    /// True if something is to be read.
    tells: bool,
}

impl Outline {
    /// Prepares to read questions, and what a `result` hands out if that matters.
    pub fn new(reads_results: bool) -> Self {
        Self { reads_results, ..Self::default() }
    }

    /// Takes note of what passes.
    pub fn push(&mut self, mut chunk: &[u8]) -> Result<(), Unreadable> {
        if self.at == At::Start && PlainAnswer::read(chunk).is_some() {
            self.at = At::Over;
            return Ok(());
        }
        while let Some((&byte, rest)) = chunk.split_first() {
            chunk = match self.at {
                At::Over => return Ok(()),
                // Most of an answer is values that nothing is copied of.
                At::Value(text, depth) if self.key != Key::Copied => self.skip(chunk, text, depth),
                At::Key { escaped: false } | At::Value(Text::In, _) => {
                    let plain = memchr2(b'"', b'\\', chunk).unwrap_or(chunk.len());
                    let (plain, rest) = chunk.split_at_checked(plain).unwrap_or((chunk, &[]));
                    self.copy(plain)?;
                    let Some((&special, rest)) = rest.split_first() else { return Ok(()) };
                    self.step(special)?;
                    rest
                }
                _ => {
                    self.step(byte)?;
                    rest
                }
            };
        }
        Ok(())
    }

    /// Follows a value of which nothing is copied, and gives what is behind it.
    fn skip<'c>(&mut self, mut chunk: &'c [u8], mut text: Text, mut depth: usize) -> &'c [u8] {
        loop {
            if text == Text::In {
                let at = memchr2(b'"', b'\\', chunk).unwrap_or(chunk.len());
                chunk = chunk.get(at..).unwrap_or_default();
            }
            let Some((&byte, rest)) = chunk.split_first() else {
                self.at = At::Value(text, depth);
                return chunk;
            };
            // A number or a word ends before this byte.
            if text == Text::None && depth == 0 && matches!(byte, b',' | b'}' | b']') {
                self.at = At::Between;
                return chunk;
            }
            let ends;
            (text, depth, ends) = after(byte, text, depth);
            if ends {
                self.at = At::Between;
                return rest;
            }
            chunk = rest;
        }
    }

    /// Reports whether what has passed could ask something or hand something out.
    pub fn may_tell(&self) -> bool {
        self.tells || matches!(self.within, Within::Error | Within::Data)
    }

    /// Ends the message and reads how its call goes on, if it does.
    pub fn finish(&mut self) -> Result<Vec<Answer>, Unreadable> {
        let whole = std::mem::replace(self, Self::new(self.reads_results));
        if whole.tells { answers(&whole.out) } else { Ok(Vec::new()) }
    }

    fn step(&mut self, byte: u8) -> Result<(), Unreadable> {
        let blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.at {
            At::Start if byte == b'{' => self.open(Within::Message),
            At::Start if byte == b'[' => {
                self.out.push(byte);
                self.is_batch = true;
                self.at = At::Between;
            }
            At::Start if !blank => self.at = At::Over,
            At::Between => self.between(byte)?,
            At::Key { escaped } => self.key(byte, escaped)?,
            At::AfterKey if byte == b':' => {
                self.copy(&[byte])?;
                self.at = At::BeforeValue;
            }
            At::BeforeValue if !blank => self.begin_value(byte)?,
            At::Start | At::Over | At::AfterKey | At::BeforeValue => {}
            // A number or a word ends before this byte.
            At::Value(Text::None, 0) if matches!(byte, b',' | b'}' | b']') => {
                self.at = At::Between;
                self.between(byte)?;
            }
            At::Value(text, depth) => {
                self.copy(&[byte])?;
                self.value(byte, text, depth);
            }
        }
        Ok(())
    }

    fn open(&mut self, within: Within) {
        if within == Within::Message {
            self.has_id_and_method = (false, false);
        }
        self.out.push(b'{');
        self.within = within;
        self.at = At::Between;
    }

    fn between(&mut self, byte: u8) -> Result<(), Unreadable> {
        match (byte, self.within) {
            (b',', _) => self.copy(&[byte])?,
            (b'{', Within::Batch) => self.open(Within::Message),
            (b']', Within::Batch) => {
                self.copy(&[byte])?;
                self.at = At::Over;
            }
            (b' ' | b'\t' | b'\n' | b'\r', _) => {}
            (_, Within::Batch) => {
                self.key = Key::Other;
                self.begin_value(byte)?;
            }
            (b'"', _) => {
                self.key_from = self.out.len();
                self.copy(&[byte])?;
                self.at = At::Key { escaped: false };
            }
            (b'}', within) => {
                self.copy(&[byte])?;
                self.within = within.around();
                if self.within == Within::Batch && !self.is_batch {
                    self.at = At::Over;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn key(&mut self, byte: u8, escaped: bool) -> Result<(), Unreadable> {
        self.copy(&[byte])?;
        self.at = At::Key { escaped: !escaped && byte == b'\\' };
        if escaped || byte != b'"' {
            return Ok(());
        }
        self.at = At::AfterKey;
        let key = text(self.out.get(self.key_from..).unwrap_or_default());
        self.key = self.within.key(&key);
        self.tells |= match self.within {
            Within::Message => {
                let (has_id, has_method) = self.has_id_and_method;
                self.has_id_and_method = (has_id || key == "id", has_method || key == "method");
                // Nothing but a request has both.
                self.has_id_and_method == (true, true)
            }
            Within::Result => TELLING.contains(&&*key),
            Within::Params => key == "inputRequests",
            Within::Data => key == "elicitations",
            Within::Batch | Within::Error => false,
        };
        match disguised_as(&key, self.within.known()) {
            Some(protocol) => Err(Unreadable::Disguised(protocol)),
            None => Ok(()),
        }
    }

    fn begin_value(&mut self, byte: u8) -> Result<(), Unreadable> {
        if let Key::Opens(within) = self.key
            && byte == b'{'
            && (within != Within::Result || self.reads_results)
        {
            self.open(within);
            return Ok(());
        }
        self.copy(&[if self.key == Key::Copied { byte } else { b'0' }])?;
        self.value(byte, Text::None, 0);
        Ok(())
    }

    /// Follows a value that is copied.
    fn value(&mut self, byte: u8, text: Text, depth: usize) {
        let (text, depth, ends) = after(byte, text, depth);
        self.at = if ends { At::Between } else { At::Value(text, depth) };
    }

    fn copy(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        if self.out.len().saturating_add(bytes.len()) > MAX_BYTES {
            return Err(Unreadable::TooLarge(MAX_BYTES));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// Returns the place behind a byte of a value, and true if the value ends with it.
fn after(byte: u8, text: Text, depth: usize) -> (Text, usize, bool) {
    let (text, depth, may_end) = match (text, byte) {
        (Text::In, b'\\') => (Text::Escape, depth, false),
        (Text::In, b'"') => (Text::None, depth, true),
        (Text::In | Text::Escape, _) | (Text::None, b'"') => (Text::In, depth, false),
        (Text::None, b'{' | b'[') => (Text::None, depth.saturating_add(1), false),
        (Text::None, b'}' | b']') => (Text::None, depth.saturating_sub(1), true),
        (Text::None, _) => (Text::None, depth, false),
    };
    (text, depth, may_end && depth == 0)
}

/// Returns the text of a key with its quotation marks. A key that is no text has no name that a reader
/// could look for.
fn text(raw: &[u8]) -> Cow<'_, str> {
    if memchr(b'\\', raw).is_none() {
        let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
        return std::str::from_utf8(inner).unwrap_or_default().into();
    }
    let doc = Doc::parse(raw).ok();
    doc.and_then(|doc| Some(doc.root().as_str()?.into_owned())).unwrap_or_default().into()
}
