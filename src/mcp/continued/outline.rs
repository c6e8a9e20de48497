//! The outline of an answer: its `result` with the members that matter here, everything else a zero.

use memchr::memchr2;

use super::{Answer, Unreadable, answer};
use crate::json::Doc;
use crate::json::keys::disguised_as;

/// Largest outline that is copied.
const MAX_BYTES: usize = 1024 * 1024;

/// Members of `result` that are copied.
const COPIED: [&str; 8] =
    ["resultType", "taskId", "task", "status", "ttlMs", "ttl", "inputRequests", "requestState"];
/// Members of `result` without which there is nothing to read.
const TELLING: [&str; 4] = ["taskId", "task", "inputRequests", "requestState"];

/// Place of the next byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the message.
    #[default]
    Start,
    /// In front of a key, a comma or the end of an object.
    Between,
    Key {
        escaped: bool,
    },
    AfterKey,
    BeforeValue,
    /// Inside a value, with so many objects and arrays open.
    Value(Text, usize),
    /// Behind the message, or in one that is no object.
    Over,
}

/// Place in a text inside a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    None,
    In,
    Escape,
}

/// The key whose value comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    Result,
    Copied,
    #[default]
    Other,
}

/// Copies the outline of one message from its bytes as they pass.
#[derive(Debug, Default)]
pub struct Outline {
    at: At,
    out: Vec<u8>,
    /// Objects that are open: the message, and its result.
    level: u8,
    key_from: usize,
    key: Key,
    tells: bool,
}

impl Outline {
    /// Takes note of what passes.
    pub fn push(&mut self, mut chunk: &[u8]) -> Result<(), Unreadable> {
        while let Some((&byte, rest)) = chunk.split_first() {
            if let At::Value(Text::In, depth) = self.at
                && self.key != Key::Copied
            {
                // Most of an answer is text that nothing is copied of.
                let Some(at) = memchr2(b'"', b'\\', chunk) else { return Ok(()) };
                let special = chunk.get(at).copied().unwrap_or_default();
                chunk = chunk.get(at.saturating_add(1)..).unwrap_or_default();
                self.value(special, Text::In, depth);
                continue;
            }
            chunk = rest;
            self.step(byte)?;
        }
        Ok(())
    }

    /// Ends the message and reads how its call goes on, if it does.
    pub fn finish(&mut self) -> Result<Option<Answer>, Unreadable> {
        let whole = std::mem::take(self);
        if whole.tells { answer(&whole.out) } else { Ok(None) }
    }

    fn step(&mut self, byte: u8) -> Result<(), Unreadable> {
        let blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.at {
            At::Start if byte == b'{' => self.open(),
            At::Start if !blank => self.at = At::Over,
            At::Between => self.between(byte)?,
            At::Key { escaped } => self.key(byte, escaped)?,
            At::AfterKey if byte == b':' => {
                self.copy(byte)?;
                self.at = At::BeforeValue;
            }
            At::BeforeValue if !blank => self.begin_value(byte)?,
            At::Start | At::Over | At::AfterKey | At::BeforeValue => {}
            // A number or a word ends before this byte.
            At::Value(Text::None, 0) if matches!(byte, b',' | b'}') => {
                self.at = At::Between;
                self.between(byte)?;
            }
            At::Value(text, depth) => {
                if self.key == Key::Copied {
                    self.copy(byte)?;
                }
                self.value(byte, text, depth);
            }
        }
        Ok(())
    }

    fn open(&mut self) {
        self.out.push(b'{');
        self.level = self.level.saturating_add(1);
        self.at = At::Between;
    }

    fn between(&mut self, byte: u8) -> Result<(), Unreadable> {
        match byte {
            b'"' => {
                self.key_from = self.out.len();
                self.copy(byte)?;
                self.at = At::Key { escaped: false };
            }
            b',' => self.copy(byte)?,
            b'}' => {
                self.copy(byte)?;
                self.level = self.level.saturating_sub(1);
                if self.level == 0 {
                    self.at = At::Over;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn key(&mut self, byte: u8, escaped: bool) -> Result<(), Unreadable> {
        self.copy(byte)?;
        self.at = At::Key { escaped: !escaped && byte == b'\\' };
        if escaped || byte != b'"' {
            return Ok(());
        }
        self.at = At::AfterKey;
        let raw = self.out.get(self.key_from..).unwrap_or_default();
        // A key that is no text has no name that a reader could look for.
        let doc = Doc::parse(raw).ok();
        let key = doc.as_ref().and_then(|doc| doc.root().as_str()).unwrap_or_default();
        self.key = match self.level {
            1 if key == "result" => Key::Result,
            2 if COPIED.contains(&&*key) => Key::Copied,
            _ => Key::Other,
        };
        self.tells |= self.level == 2 && TELLING.contains(&&*key);
        let known: &[&'static str] = if self.level == 1 { &["result"] } else { &TELLING };
        match disguised_as(&key, known) {
            Some(protocol) => Err(Unreadable::Disguised(protocol)),
            None => Ok(()),
        }
    }

    fn begin_value(&mut self, byte: u8) -> Result<(), Unreadable> {
        if self.key == Key::Result && byte == b'{' {
            self.open();
            return Ok(());
        }
        self.copy(if self.key == Key::Copied { byte } else { b'0' })?;
        self.value(byte, Text::None, 0);
        Ok(())
    }

    /// Follows a value to its end.
    fn value(&mut self, byte: u8, text: Text, depth: usize) {
        let (text, depth, may_end) = match (text, byte) {
            (Text::In, b'\\') => (Text::Escape, depth, false),
            (Text::In, b'"') => (Text::None, depth, true),
            (Text::In | Text::Escape, _) | (Text::None, b'"') => (Text::In, depth, false),
            (Text::None, b'{' | b'[') => (Text::None, depth.saturating_add(1), false),
            (Text::None, b'}' | b']') => (Text::None, depth.saturating_sub(1), true),
            (Text::None, _) => (Text::None, depth, false),
        };
        let ends = may_end && depth == 0;
        self.at = if ends { At::Between } else { At::Value(text, depth) };
    }

    fn copy(&mut self, byte: u8) -> Result<(), Unreadable> {
        if self.out.len() >= MAX_BYTES {
            return Err(Unreadable::TooLarge(MAX_BYTES));
        }
        self.out.push(byte);
        Ok(())
    }
}
