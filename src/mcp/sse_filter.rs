//! Filtering lists and notifications inside a `text/event-stream`, event by event, holding back as little
//! as it can.
//!
//! Lines before an event's first `data` line leave as soon as they end: they are never
//! rewritten, and keep-alive comments must not wait. From the first `data` line on an event is held
//! until the empty line that ends it. Then it leaves as it came, or, if it is a response with a list
//! that was asked for or a notification that may not pass, with its data replaced or removed and every
//! other line kept, so that its id still counts for a client that resumes.
//!
//! Data that is no JSON object or array cannot be an answer and passes. Data that looks like one but
//! is not strict JSON breaks the stream: a lenient client might read a list in it.

use super::filter::{
    FilterError, Kept, ListKind, ListKinds, Notice, Oddities, filter_list, may_notify, pass_notices,
};
use super::sse::{Cutter, EventTooLarge, Piece, content, data, split_mark};

/// Reason why a stream cannot go on. Bytes already written to `out` may be sent, nothing after.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    #[error(transparent)]
    TooLarge(#[from] EventTooLarge),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("the stream has already failed")]
    Broken,
}

/// Decides for a notification if it passes.
pub type Passes = Box<dyn Fn(Notice<'_>) -> bool + Send + Sync>;

/// Filters the events of one stream as its bytes arrive.
pub struct SseFilter<K> {
    kinds: ListKinds,
    keep: K,
    /// `None`: notifications are not looked at.
    passes: Option<Passes>,
    max_event_bytes: usize,
    cutter: Cutter,
    /// Bytes that may not leave yet: an unfinished line, and before it the event it belongs to if
    /// that event already has data.
    held: Vec<u8>,
    line_start: usize,
    has_data: bool,
    /// True if `held` opens with the stream's first line, which may carry a byte order mark.
    held_first_line: bool,
    oddities: Oddities,
    broken: bool,
}

impl<K: Fn(ListKind, &str) -> bool> SseFilter<K> {
    /// Filters the lists in `kinds` by `keep`, and holds back `max_event_bytes` at most.
    pub fn new(kinds: ListKinds, max_event_bytes: usize, keep: K) -> Self {
        Self {
            kinds,
            keep,
            passes: None,
            max_event_bytes,
            cutter: Cutter::default(),
            held: Vec::new(),
            line_start: 0,
            has_data: false,
            held_first_line: true,
            oddities: Oddities::default(),
            broken: false,
        }
    }

    /// Removes notifications for which `passes` says no.
    #[must_use]
    pub fn with_notices(mut self, passes: Option<Passes>) -> Self {
        self.passes = passes;
        self
    }

    /// Takes a chunk in and appends to `out` what may leave.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), SseError> {
        self.guarded(|filter| filter.push_pieces(chunk, out))
    }

    /// Takes what was odd about the lists that have left.
    pub fn take_oddities(&mut self) -> Oddities {
        std::mem::take(&mut self.oddities)
    }

    /// Ends the stream. An event that the server left unfinished is filtered like any other:
    /// some clients take it for whole.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), SseError> {
        self.guarded(|filter| {
            filter.end_line(true, out)?;
            filter.release(out)
        })
    }

    /// Once something has failed, nothing more leaves.
    fn guarded(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<(), SseError>,
    ) -> Result<(), SseError> {
        if self.broken {
            return Err(SseError::Broken);
        }
        let result = step(self);
        self.broken = result.is_err();
        result
    }

    fn push_pieces(&mut self, mut chunk: &[u8], out: &mut Vec<u8>) -> Result<(), SseError> {
        while let Some(piece) = self.cutter.next(&mut chunk) {
            match piece {
                Piece::Tail(bytes) if self.held.is_empty() => out.extend_from_slice(bytes),
                Piece::Tail(bytes) => {
                    self.hold(bytes)?;
                    self.line_start = self.held.len();
                }
                Piece::Part(bytes) => self.hold(bytes)?,
                Piece::End(bytes) => {
                    self.hold(bytes)?;
                    self.end_line(false, out)?;
                }
            }
        }
        Ok(())
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), EventTooLarge> {
        if bytes.len() > self.max_event_bytes - self.held.len() {
            return Err(EventTooLarge { max_bytes: self.max_event_bytes });
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// Looks at the line that ends the held bytes.
    fn end_line(&mut self, stream_ends: bool, out: &mut Vec<u8>) -> Result<(), SseError> {
        let line = self.held.get(self.line_start..).unwrap_or_default();
        let first = self.held_first_line && self.line_start == 0;
        let line = content(if first { split_mark(line).1 } else { line });
        let blank = line.is_empty() && !stream_ends;
        self.has_data |= data(line).is_some();
        self.line_start = self.held.len();
        if blank || !self.has_data { self.release(out) } else { Ok(()) }
    }

    /// Lets go what is held, filtered if it holds data.
    fn release(&mut self, out: &mut Vec<u8>) -> Result<(), SseError> {
        match self.rewritten()? {
            Some(event) => out.extend_from_slice(&event),
            None => out.extend_from_slice(&self.held),
        }
        self.held.clear();
        self.line_start = 0;
        self.has_data = false;
        self.held_first_line = false;
        Ok(())
    }

    /// The held event with its list filtered; `None` if it may leave as it is.
    fn rewritten(&mut self) -> Result<Option<Vec<u8>>, FilterError> {
        if !self.has_data || (self.kinds.is_empty() && self.passes.is_none()) {
            return Ok(None);
        }
        let mut text = self.data_text();
        if !looks_like_json(&text) {
            return Ok(None);
        }
        let mut changed = false;
        if let Some(passes) = &self.passes
            && may_notify(&text)
        {
            match pass_notices(&text, passes)? {
                Kept::All => {}
                Kept::Some(rest) => (text, changed) = (rest, true),
                Kept::Nothing => return Ok(Some(self.with_data(None))),
            }
        }
        let filtered = filter_list(&text, self.kinds, &self.keep)?;
        self.oddities.add(filtered.oddities);
        let body = filtered.body.or_else(|| changed.then_some(text));
        Ok(body.map(|text| self.with_data(Some(&text))))
    }

    /// The held lines, each with the byte order mark before it, and its end.
    fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8], &[u8])> {
        let mut rest = self.held.as_slice();
        let mut cutter = Cutter::default();
        let mut marked = self.held_first_line;
        std::iter::from_fn(move || {
            let (Piece::Part(line) | Piece::End(line) | Piece::Tail(line)) =
                cutter.next(&mut rest)?;
            let (mark, line) =
                if std::mem::take(&mut marked) { split_mark(line) } else { (&[][..], line) };
            let (content, end) = line.split_at(content(line).len());
            Some((mark, content, end))
        })
    }

    /// The event's data as a client joins it.
    fn data_text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.held.len());
        let values = self.lines().filter_map(|(_, line, _)| data(line));
        for (n, (value, _)) in values.enumerate() {
            if n > 0 {
                text.push(b'\n');
            }
            text.extend_from_slice(value);
        }
        text
    }

    /// The held event with `text` as its data, where its first `data` line was; or without data, which
    /// no client takes for a message.
    fn with_data(&self, text: Option<&[u8]>) -> Vec<u8> {
        let mut event = Vec::with_capacity(self.held.len());
        let mut written = false;
        for (mark, line, end) in self.lines() {
            event.extend_from_slice(mark);
            let Some((_, before)) = data(line) else {
                event.extend_from_slice(line);
                event.extend_from_slice(end);
                continue;
            };
            let Some(text) = text.filter(|_| !written) else { continue };
            written = true;
            // A first line without a colon has no value, and its text begins with a line feed.
            let label = line.get(..before).filter(|l| l.contains(&b':')).unwrap_or(b"data:");
            let joint = if end.is_empty() { b"\n" } else { end };
            for (n, part) in text.split(|&b| b == b'\n').enumerate() {
                if n > 0 {
                    event.extend_from_slice(joint);
                }
                event.extend_from_slice(label);
                event.extend_from_slice(part);
            }
            event.extend_from_slice(end);
        }
        event
    }
}

/// Reports whether any JSON reader could take `text` for an object or an array. Invisible bytes
/// before it are skipped more freely than JSON allows.
fn looks_like_json(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let blank = |c: char| {
        c.is_whitespace() || c.is_control() || matches!(c, '\u{FEFF}' | '\u{FFFD}' | '\u{200B}')
    };
    text.trim_start_matches(blank).starts_with(['{', '['])
}

#[cfg(test)]
mod tests;
