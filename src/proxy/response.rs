//! A response on its way back: decoded, filtered, scrubbed, chunk by chunk.
//!
//! The stages come in this order because each needs what the one before it leaves: text, then whole
//! lists, then the bytes that the agent would see. None holds back what can go.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use memchr::memchr2;

use super::handed::Handed;
use super::turn::BULK_BYTES;
use crate::credentials::{Scrubber, SseScrubber, scrub_header_value};
use crate::decode::{DecodeError, Decoder};
use crate::firewall::denial::{Cause, Denial};
use crate::gate::ScrubSet;
use crate::gate::continued::Keeping;
use crate::gate::view::ListView;
use crate::mcp::continued::TaskStatus;
use crate::mcp::filter::{ListKind, Oddities, filter_list};
use crate::mcp::sse::EventMeter;
use crate::mcp::sse_filter::SseFilter;
use head::is_gateways_own;
pub(super) use head::{bare, carrier, is_event_stream};

mod head;

type Keep = Box<dyn Fn(ListKind, &str) -> bool + Send + Sync>;

/// Processing of one response.
pub(super) struct ResponsePipeline {
    max_bytes: usize,
    /// Bytes that came from the upstream; streams have no end and are not counted.
    seen: usize,
    streams: bool,
    /// Meter of received events, and of those sent.
    came: EventMeter,
    left: EventMeter,
    decoder: Option<Decoder>,
    handed: Handed,
    waiting: Waiting,
    lists: Lists,
    scrub: Scrub,
    watch: Option<ScrubSet>,
    scrubbed_headers: u64,
    oddities: Oddities,
}

enum Scrub {
    Nothing,
    Body(Box<Scrubber>),
    Stream(Box<SseScrubber>),
}

enum Lists {
    None,
    /// A list is judged whole: the answer is held until it is complete.
    Whole {
        view: ListView,
        held: Vec<u8>,
        /// True until an answer that must have a body has had one.
        due: bool,
    },
    Stream(Box<SseFilter<Keep>>),
}

/// Bytes that wait for the rest of an answer, which decides if they may leave. No client reads half of one, so
/// that they lose no time.
#[derive(Default)]
struct Waiting {
    first: Bytes,
    /// All that waits, if that has come in several parts.
    joined: BytesMut,
    /// True once more has come than may wait.
    is_over: bool,
}

/// Most bytes that wait; a longer answer that is refused breaks off.
const MAX_WAITING_BYTES: usize = 64 * 1024;

impl Waiting {
    /// Takes a part in and gives what may leave: all, if everything `is_judged`.
    fn take(&mut self, part: Bytes, is_judged: bool) -> Bytes {
        let length = self.first.len().max(self.joined.len()).saturating_add(part.len());
        self.is_over |= length > MAX_WAITING_BYTES;
        let leaves = is_judged || self.is_over;
        if self.first.is_empty() {
            self.first = part;
        } else if !part.is_empty() {
            if self.joined.is_empty() {
                self.joined.extend_from_slice(&self.first);
            }
            self.joined.extend_from_slice(&part);
        }
        if !leaves {
            return Bytes::new();
        }
        let first = std::mem::take(&mut self.first);
        if self.joined.is_empty() { first } else { std::mem::take(&mut self.joined).freeze() }
    }
}

fn broken(reason: impl Into<String>) -> Denial {
    Denial::upstream(Cause::Protocol, reason)
}

fn too_large(max_bytes: usize) -> Denial {
    Denial::upstream(
        Cause::TooLarge,
        format!("the MCP server's answer is larger than {max_bytes} bytes: ask for less"),
    )
    .with("max_response_body_bytes", max_bytes)
}

impl ResponsePipeline {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            seen: 0,
            streams: false,
            came: EventMeter::new(max_bytes),
            left: EventMeter::new(usize::MAX),
            decoder: None,
            handed: Handed::default(),
            waiting: Waiting::default(),
            lists: Lists::None,
            scrub: Scrub::Nothing,
            watch: None,
            scrubbed_headers: 0,
            oddities: Oddities::default(),
        }
    }

    /// Oddities of the lists in the answer.
    pub(super) fn oddities(&self) -> &Oddities {
        &self.oddities
    }

    /// Reports whether what has left of a stream ends with an event, so that a comment could
    /// follow.
    pub(super) fn is_between_events(&self) -> bool {
        let within = self.left.within_line() || self.left.within_event();
        self.streams && self.decoder.is_none() && !within
    }

    /// Reports whether the head must wait for the body, the first of which leaves when it is judged.
    pub(super) fn holds_head(&self) -> bool {
        matches!(self.lists, Lists::Whole { .. }) || (self.handed.is_read() && !self.streams)
    }

    /// Takes the notes of what the answer handed out, which its next bytes wait for.
    pub(super) fn take_keeping(&mut self) -> Vec<Keeping> {
        self.handed.take_keeping()
    }

    /// Returns the state of the task that the answer described.
    pub(super) fn task(&self) -> Option<TaskStatus> {
        self.handed.status()
    }

    /// Returns the hosts to which the answer's questions send people.
    pub(super) fn elicited(&self) -> &[Box<str>] {
        self.handed.hosts()
    }

    /// Returns the number of credentials removed.
    pub(super) fn scrubbed(&self) -> u64 {
        let in_body = match &self.scrub {
            Scrub::Nothing => 0,
            Scrub::Body(scrubber) => scrubber.replaced(),
            Scrub::Stream(scrubber) => scrubber.replaced(),
        };
        in_body.saturating_add(self.scrubbed_headers)
    }

    /// Reports whether work on a part would keep its thread from other calls for long: a list or an event that
    /// ends, or something compressed, of which nobody knows how much comes of it.
    pub(super) fn is_long(&self, part: Option<&[u8]>, end: bool) -> bool {
        let part = part.unwrap_or_default();
        let reads = !matches!((&self.scrub, &self.lists), (Scrub::Nothing, Lists::None))
            || self.handed.is_read();
        if self.decoder.is_some() && !part.is_empty() {
            return true;
        }
        let before = match &self.lists {
            Lists::Whole { held, .. } if end => held.len(),
            _ if self.streams => self.came.event_bytes(),
            _ => 0,
        };
        let whole = !self.streams || end || memchr2(b'\n', b'\r', part).is_some();
        reads && whole && before.saturating_add(part.len()) > BULK_BYTES
    }

    /// Takes what came from the upstream and gives what may go to the client.
    pub(super) fn push(
        &mut self,
        chunk: Option<Bytes>,
        end: bool,
    ) -> Result<Option<Bytes>, Denial> {
        let chunk = chunk.unwrap_or_default();
        let chunk = self.decoded(chunk, end)?;
        let fits = if self.streams {
            self.came.push(&chunk).is_ok()
        } else {
            self.seen = self.seen.saturating_add(chunk.len());
            self.seen <= self.max_bytes
        };
        if !fits {
            return Err(too_large(self.max_bytes));
        }
        self.handed.read(&chunk, end)?;
        let chunk = self.filtered(chunk, end)?;
        let chunk = self.scrubbed_chunk(chunk, end)?;
        let chunk = self.waiting.take(chunk, end || !self.handed.is_open());
        if self.streams {
            // Without a limit nothing is too large.
            let _unlimited = self.left.push(&chunk);
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// The end of a stream that broke off: `message` as its last event. Nothing if this is no
    /// stream, or if the client can ask for the rest of it (`resumable`).
    pub(super) fn last_event(&self, message: &[u8], resumable: bool) -> Option<Bytes> {
        if !self.streams || (resumable && self.left.has_ids()) {
            return None;
        }
        let mut event = BytesMut::new();
        if self.left.within_line() {
            event.extend_from_slice(b"\n");
        }
        if self.left.within_event() {
            // Half an event has left. Of another type than `message` no client reads it.
            event.extend_from_slice(b"event: broken-off\n\n");
        }
        event.extend_from_slice(b"event: message\ndata: ");
        event.extend_from_slice(message);
        event.extend_from_slice(b"\n\n");
        Some(event.freeze())
    }

    fn decoded(&mut self, chunk: Bytes, end: bool) -> Result<Bytes, Denial> {
        let Some(decoder) = &mut self.decoder else { return Ok(chunk) };
        let max_bytes = self.max_bytes;
        let refuse = |error| match error {
            DecodeError::TooLarge => too_large(max_bytes),
            DecodeError::Broken | DecodeError::Truncated | DecodeError::Trailing => {
                broken(format!("the MCP server's answer is refused: {error}"))
            }
        };
        let mut out = BytesMut::new();
        decoder.push(&chunk, &mut out).map_err(refuse)?;
        if end {
            decoder.finish().map_err(refuse)?;
        }
        Ok(out.freeze())
    }

    fn filtered(&mut self, chunk: Bytes, end: bool) -> Result<Bytes, Denial> {
        match &mut self.lists {
            Lists::None => Ok(chunk),
            Lists::Whole { view, held, due } => {
                held.extend_from_slice(&chunk);
                if !end {
                    return Ok(Bytes::new());
                }
                let whole = std::mem::take(held);
                // The end can come twice, before trailers and after them: what was due has come then.
                if whole.is_empty() && !std::mem::take(due) {
                    return Ok(Bytes::new());
                }
                *due = false;
                let kept = filter_list(&whole, view.kinds(), |kind, label| view.shows(kind, label))
                    .map_err(|error| {
                        broken(format!("the MCP server's answer is refused: {error}"))
                    })?;
                self.oddities.add(kept.oddities);
                Ok(kept.body.unwrap_or(whole).into())
            }
            Lists::Stream(filter) => {
                let mut out = Vec::with_capacity(chunk.len());
                let unreadable =
                    |error| broken(format!("the MCP server's stream is refused: {error}"));
                filter.push(&chunk, &mut out).map_err(unreadable)?;
                if end {
                    filter.finish(&mut out).map_err(unreadable)?;
                }
                self.oddities.add(filter.take_oddities());
                if end {
                    self.lists = Lists::None;
                }
                Ok(out.into())
            }
        }
    }

    /// Another call of the session may have injected more since the response began.
    fn keep_up(&mut self) {
        let Some(watch) = &self.watch else { return };
        match &mut self.scrub {
            Scrub::Nothing => {}
            Scrub::Body(scrubber) => {
                if let Some(newer) = watch.newer(scrubber.patterns()) {
                    scrubber.look_for(newer);
                }
            }
            Scrub::Stream(scrubber) => {
                if let Some(newer) = watch.newer(scrubber.patterns()) {
                    scrubber.look_for(newer);
                }
            }
        }
    }

    fn scrubbed_chunk(&mut self, chunk: Bytes, end: bool) -> Result<Bytes, Denial> {
        self.keep_up();
        let (out, last) = match &mut self.scrub {
            Scrub::Nothing => return Ok(chunk),
            Scrub::Body(scrubber) => {
                let out = scrubber.push(chunk);
                (out, if end { scrubber.finish() } else { Bytes::new() })
            }
            Scrub::Stream(scrubber) => {
                let refuse = |error| broken(format!("the MCP server's stream is refused: {error}"));
                let out = scrubber.push(chunk).map_err(refuse)?;
                (out, if end { scrubber.finish().map_err(refuse)? } else { Bytes::new() })
            }
        };
        if last.is_empty() {
            return Ok(out);
        }
        let mut joined = BytesMut::from(out.as_ref());
        joined.extend_from_slice(&last);
        Ok(joined.freeze())
    }

    /// Ends a body that trailers follow; gives what was held back, and then the trailers go. Else
    /// they pass, scrubbed as headers are.
    pub(super) fn trailers(&mut self, trailers: &mut HeaderMap) -> Result<Option<Bytes>, Denial> {
        let passed = std::mem::take(trailers);
        let held_back = self.push(None, true)?;
        let patterns = self.watch.as_ref().map(ScrubSet::patterns);
        let scrubbed = |text: &[u8]| scrub_header_value(patterns.as_ref()?, text);
        for (name, value) in &passed {
            if is_gateways_own(name) {
                continue;
            }
            let in_name = scrubbed(name.as_str().as_bytes());
            let in_value = scrubbed(value.as_bytes());
            let found = [&in_name, &in_value].into_iter().flatten().map(|(_, count)| *count);
            self.scrubbed_headers = found.fold(self.scrubbed_headers, u64::saturating_add);
            match (in_name, in_value) {
                (None, None) => _ = trailers.append(name, value.clone()),
                (None, Some((text, _))) => {
                    if let Ok(value) = HeaderValue::from_bytes(&text) {
                        trailers.append(name, value);
                    }
                }
                // A name cannot hold the replacement text, so the whole trailer is removed.
                (Some(_), _) => {}
            }
        }
        Ok(held_back)
    }
}
