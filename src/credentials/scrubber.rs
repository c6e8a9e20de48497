//! Takes secrets out of a body while it passes, whatever its chunks.
//!
//! A push state machine: bytes in, bytes out. The scrubber keeps back only the tail that could
//! still become (more of) a match, which is usually nothing; a chunk without matches comes out as
//! the very `Bytes` that went in. Event streams need [`super::sse`] on top of this.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use zeroize::Zeroize as _;

use super::bare::{Bare, REPLACEMENT};
use super::decoded::Text;
use super::patterns::{Patterns, Span};

/// Kind of a body; in JSON a replaced number must become a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Json,
    Other,
}

/// Scrubs one body (or one header value).
#[derive(Debug)]
pub struct Scrubber {
    patterns: Arc<Patterns>,
    held: Held,
    /// Length of the part of `held` that belongs to a match whose replacement was already sent.
    covered: usize,
    /// The last byte before `held` that is no white space.
    before: Option<u8>,
    bare: Bare,
    replaced: u64,
}

/// Text that may be the start of a secret; wiped when it goes.
#[derive(Default)]
struct Held(BytesMut);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Scrubber {
    pub fn new(patterns: Arc<Patterns>, content: Content) -> Self {
        let bare = match content {
            Content::Json if patterns.can_be_bare() => Bare::watching(),
            Content::Json | Content::Other => Bare::ignoring(),
        };
        Self { patterns, held: Held::default(), covered: 0, before: None, bare, replaced: 0 }
    }

    /// Returns the number of secrets replaced so far.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Returns the patterns that are searched for.
    pub fn patterns(&self) -> &Arc<Patterns> {
        &self.patterns
    }

    /// Looks for more from here on: `patterns` must find all that those before it did. A number that
    /// only the new ones find is replaced without quotes.
    pub fn look_for(&mut self, patterns: Arc<Patterns>) {
        self.patterns = patterns;
    }

    /// Takes a chunk; gives back all that can go.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if chunk.is_empty() || (self.patterns.is_empty() && self.held.0.is_empty()) {
            return chunk;
        }
        if self.held.0.is_empty() {
            return self.pass(&chunk, false);
        }
        let mut joined = BytesMut::with_capacity(self.held.0.len() + chunk.len());
        joined.extend_from_slice(&self.held.0);
        joined.extend_from_slice(&chunk);
        self.held = Held::default();
        self.pass(&joined.freeze(), false)
    }

    /// The body is over; gives back what was kept.
    pub fn finish(&mut self) -> Bytes {
        let last = std::mem::take(&mut self.held);
        if last.0.is_empty() {
            return Bytes::new();
        }
        self.pass(&Bytes::copy_from_slice(&last.0), true)
    }

    fn pass(&mut self, text: &Bytes, complete: bool) -> Bytes {
        let (keep, out) = self.split(text, complete);
        out.unwrap_or_else(|| text.slice(..keep.min(text.len())))
    }

    /// Searches `text` and keeps its tail: where the tail starts, and what goes out if that is not
    /// simply all before it.
    fn split(&mut self, text: &[u8], complete: bool) -> (usize, Option<Bytes>) {
        let mut scan =
            self.patterns.scan(Text { bytes: text, complete, before: self.before }, self.covered);
        if !complete {
            scan.hold = self.bare.hold(text, scan.hold);
            scan.spans.retain(|span| span.continues || span.start < scan.hold);
        }
        let (out, count) = if scan.spans.is_empty() {
            self.bare.skip(text.get(..scan.hold).unwrap_or_default());
            (None, 0)
        } else {
            let (out, count) = replace(text, &scan.spans, scan.hold, &mut self.bare);
            (Some(out), count)
        };
        self.replaced += count;
        let gone = text.get(..scan.hold).unwrap_or_default();
        self.before = gone.trim_ascii_end().last().copied().or(self.before);
        let covered_to = scan.spans.last().map_or(0, |span| span.end);
        self.covered = covered_to.saturating_sub(scan.hold);
        self.held.0.extend_from_slice(text.get(scan.hold..).unwrap_or_default());
        (scan.hold, out)
    }
}

/// `text` up to `end`, with each span replaced.
fn replace(text: &[u8], spans: &[Span], end: usize, bare: &mut Bare) -> (Bytes, u64) {
    let mut out = BytesMut::with_capacity(end + REPLACEMENT.len() * spans.len());
    let mut count = 0;
    let mut at = 0;
    for span in spans {
        let before = text.get(at..span.start).unwrap_or_default();
        bare.skip(before);
        out.extend_from_slice(before);
        if span.continues {
            at = span.end;
            continue;
        }
        count += 1;
        // The number that holds one secret may hold more: it has gone as a whole.
        if span.start >= at {
            at = bare.place(text, span.start..span.end, &mut out);
        }
        at = at.max(span.end);
    }
    let rest = text.get(at.min(end)..end).unwrap_or_default();
    bare.skip(rest);
    out.extend_from_slice(rest);
    (out.freeze(), count)
}

/// `value` without secrets, if it holds any.
pub fn scrub_header_value(patterns: &Arc<Patterns>, value: &[u8]) -> Option<(Vec<u8>, u64)> {
    let spans = patterns.scan(Text::whole(value), 0).spans;
    if spans.is_empty() {
        return None;
    }
    let (out, count) = replace(value, &spans, value.len(), &mut Bare::ignoring());
    Some((out.to_vec(), count))
}
