//! A response on its way back: decoded, filtered, scrubbed, chunk by chunk.
//!
//! The stages come in this order because each needs what the one before it leaves: text, then whole
//! lists, then the bytes that the agent would see. None holds back what can go.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora::http::ResponseHeader;
use smallvec::SmallVec;

use super::handed::Handed;
use crate::credentials::{Content, Patterns, Scrubber, SseScrubber, scrub_header_value};
use crate::decode::{Bounds, DecodeError, Decoder};
use crate::firewall::denial::{Cause, Denial};
use crate::gate::continued::Keeping;
use crate::gate::injected::Watch;
use crate::gate::listening::Listening;
use crate::gate::view::ListView;
use crate::gate::{Cleared, Due};
use crate::mcp::continued::TaskStatus;
use crate::mcp::filter::{ListKind, ListKinds, Notice, Oddities, filter_list};
use crate::mcp::outcome::Carrier;
use crate::mcp::sse::EventMeter;
use crate::mcp::sse_filter::{Passes, SseFilter};

type Keep = Box<dyn Fn(ListKind, &str) -> bool + Send + Sync>;

/// Processing of one response.
pub(super) struct Flow {
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
    watch: Option<Watch>,
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

impl Flow {
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

    /// Judges the head and prepares for the body.
    pub(super) fn begin(
        &mut self,
        head: &mut ResponseHeader,
        carrier: Carrier,
        cleared: &Cleared,
        listening: Option<&Arc<Listening>>,
    ) -> Result<(), Denial> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(broken("the MCP server tried to switch protocols"));
        }
        if matches!(
            head.status,
            StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        ) {
            return Err(Denial::upstream(
                Cause::Credentials,
                "the MCP server does not accept the gateway's own credentials: ask your operator \
                 to renew them",
            ));
        }
        // What it says is free text, and nobody reads it.
        let _never_fails = head.set_reason_phrase(None);
        self.streams = carrier == Carrier::Events;
        framing(&head.headers)?;
        if head.status.is_success() {
            is_due(cleared.due(), carrier)?;
        }
        self.decode(head)?;
        if !self.streams && declared_length(&head.headers).is_some_and(|n| n > self.max_bytes) {
            return Err(too_large(self.max_bytes));
        }
        // On streams that last, questions are judged as notifications are.
        let lasts = self.streams && listening.is_some_and(|one| one.is_lasting());
        if let Some(asked) = cleared.asked().filter(|_| !lasts) {
            let handout = cleared.handout().filter(|_| head.status.is_success());
            self.handed = Handed::of(asked, handout, self.streams);
        }
        let view = cleared.lists().filter(|_| head.status.is_success());
        if self.streams {
            self.lists = self.filtered_stream(view, listening);
        } else if let Some(view) = view {
            let due = head.status == StatusCode::OK;
            // Nothing would come to be judged.
            if due && declared_length(&head.headers) == Some(0) {
                return Err(broken("the MCP server's answer to a list request is empty"));
            }
            self.lists = Lists::Whole { view: view.clone(), held: Vec::new(), due };
        }
        if view.is_some() {
            keep_private(head)?;
        }
        if let Some(watch) = cleared.scrub() {
            let patterns = watch.patterns();
            self.watch = Some(watch.clone());
            self.scrub = if self.streams {
                Scrub::Stream(Box::new(SseScrubber::new(patterns.clone(), self.max_bytes)))
            } else {
                let is_json = carrier == Carrier::Json;
                let content = if is_json { Content::Json } else { Content::Other };
                Scrub::Body(Box::new(Scrubber::new(patterns.clone(), content)))
            };
            self.scrub_headers(head, &patterns)?;
        }
        let unchanged = !self.streams
            && self.decoder.is_none()
            && matches!(self.scrub, Scrub::Nothing)
            && matches!(self.lists, Lists::None);
        if !unchanged {
            head.remove_header(&header::CONTENT_LENGTH);
            head.remove_header(&header::ETAG);
        }
        drop_own(head);
        if self.streams {
            let _infallible = head.insert_header("X-Accel-Buffering", "no");
        }
        Ok(())
    }

    /// The filter of a stream on which lists or notifications can come.
    fn filtered_stream(
        &self,
        view: Option<&ListView>,
        listening: Option<&Arc<Listening>>,
    ) -> Lists {
        let passes: Option<Passes> = listening.map(|listening| {
            let judge = Arc::clone(listening);
            Box::new(move |notice: Notice<'_>| judge.passes(notice)) as Passes
        });
        let (kinds, keep): (ListKinds, Keep) = match (view.cloned(), &passes) {
            (None, None) => return Lists::None,
            (None, Some(_)) => (ListKinds::default(), Box::new(|_, _| true)),
            (Some(judge), _) => {
                let kinds = judge.kinds();
                (kinds, Box::new(move |kind, label| judge.shows(kind, label)))
            }
        };
        let filter = SseFilter::new(kinds, self.max_bytes, keep).with_notices(passes);
        Lists::Stream(Box::new(filter))
    }

    fn decode(&mut self, head: &mut ResponseHeader) -> Result<(), Denial> {
        let mut codings = head.headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(coding) = codings.next() else { return Ok(()) };
        let unknown =
            || broken("the MCP server's answer has a content coding that is not understood");
        if codings.next().is_some() {
            return Err(unknown());
        }
        let coding = coding.to_str().map_err(|_not_text| unknown())?.trim().to_ascii_lowercase();
        if coding != "identity" {
            let most = u64::try_from(self.max_bytes).unwrap_or(u64::MAX);
            let bounds = if self.streams { Bounds::stream(most) } else { Bounds::body(most) };
            self.decoder = Some(Decoder::for_coding(&coding, bounds).ok_or_else(unknown)?);
        }
        head.remove_header(&header::CONTENT_ENCODING);
        Ok(())
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
}

/// Form of the body that a head announces.
pub(super) fn carrier(headers: &HeaderMap) -> Carrier {
    match essence(headers) {
        Some(kind) if is_event_kind(kind) => Carrier::Events,
        Some(kind) if is_json_kind(kind) => Carrier::Json,
        Some(_) | None => Carrier::Other,
    }
}

/// Reports whether a success is of the kind that is owed, as far as its head tells.
fn is_due(due: Due, carrier: Carrier) -> Result<(), Denial> {
    let fits = match due {
        Due::Rpc => matches!(carrier, Carrier::Events | Carrier::Json),
        Due::Events => carrier == Carrier::Events,
        Due::Anything => true,
    };
    if fits {
        return Ok(());
    }
    Err(broken(
        "the MCP server's answer is no JSON-RPC: ask your operator whether its URL is right",
    ))
}

impl Flow {
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
        let patterns = self.watch.as_ref().map(Watch::patterns);
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
                // A name is no place for text of ours, so such a trailer goes as a whole.
                (Some(_), _) => {}
            }
        }
        Ok(held_back)
    }

    fn scrub_headers(
        &mut self,
        head: &mut ResponseHeader,
        patterns: &Arc<Patterns>,
    ) -> Result<(), Denial> {
        // A name is no place for text of ours, so such a header goes as a whole.
        let as_written = head.case_header_iter().map(|(name, _)| name.as_slice());
        let telling: Vec<_> = as_written
            .chain(head.headers.keys().map(|name| name.as_str().as_bytes()))
            .filter_map(|name| {
                let (_, count) = scrub_header_value(patterns, name)?;
                Some((HeaderName::from_bytes(name).ok()?, count))
            })
            .collect();
        for (name, count) in telling {
            if head.remove_header(&name).is_some() {
                self.scrubbed_headers = self.scrubbed_headers.saturating_add(count);
            }
        }
        let mut clean = Vec::new();
        for name in head.headers.keys() {
            let values = head.headers.get_all(name).iter();
            let scrubbed: Vec<_> = values
                .map(|value| (value, scrub_header_value(patterns, value.as_bytes())))
                .collect();
            if scrubbed.iter().any(|(_, found)| found.is_some()) {
                let kept = scrubbed.into_iter().map(|(value, found)| match found {
                    Some((text, count)) => {
                        self.scrubbed_headers = self.scrubbed_headers.saturating_add(count);
                        HeaderValue::from_bytes(&text)
                    }
                    None => Ok(value.clone()),
                });
                let kept: Result<Vec<_>, _> = kept.collect();
                let kept =
                    kept.map_err(|_invalid| broken("a header of the answer cannot be scrubbed"))?;
                clean.push((name.clone(), kept));
            }
        }
        for (name, values) in clean {
            head.remove_header(&name);
            for value in values {
                head.append_header(name.clone(), value)
                    .map_err(|_too_many| broken("a header of the answer cannot be scrubbed"))?;
            }
        }
        Ok(())
    }
}

/// Says that an answer is for this client alone, and removes what would identify or check the body
/// from before it was filtered.
fn keep_private(head: &mut ResponseHeader) -> Result<(), Denial> {
    for name in [
        "last-modified",
        "accept-ranges",
        "content-md5",
        "digest",
        "content-digest",
        "repr-digest",
        "expires",
        "surrogate-control",
        "cdn-cache-control",
    ] {
        head.remove_header(name);
    }
    head.insert_header(header::CACHE_CONTROL, "private, no-cache")
        .map_err(|_too_many| broken("the head of the answer has too many headers"))
}

/// Refuses a body in a transfer coding that is not undone here: it would pass unread.
fn framing(headers: &HeaderMap) -> Result<(), Denial> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let plain = codings.next().is_none_or(|c| c.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if plain && codings.next().is_none() {
        return Ok(());
    }
    Err(broken("the MCP server's answer has a transfer coding that is not understood"))
}

/// Leaves of an interim response its status: its headers are advice that nobody needs, and could
/// say what the final ones must not.
pub(super) fn bare(head: &mut ResponseHeader) {
    let names: Vec<_> = head.headers.keys().cloned().collect();
    for name in names {
        head.remove_header(&name);
    }
    let _never_fails = head.set_reason_phrase(None);
}

/// Removes what only the gateway may say.
fn drop_own(head: &mut ResponseHeader) {
    let names = head.headers.keys();
    let own: SmallVec<[HeaderName; 4]> =
        names.filter(|name| is_gateways_own(name)).cloned().collect();
    for name in own {
        head.remove_header(&name);
    }
}

/// Reports whether a header of an answer is the gateway's to set: challenges would send clients to
/// an authorization server of the upstream's choice, cookies and cross-origin rights would be given
/// for the gateway's name, another service would lead around it, and the rest names the upstream's
/// software.
fn is_gateways_own(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-arbiter-")
        || name.starts_with("access-control-")
        || name.starts_with("proxy-")
        || matches!(
            name,
            "www-authenticate"
                | "authentication-info"
                | "server"
                | "x-powered-by"
                | "set-cookie"
                | "set-cookie2"
                | "alt-svc"
                | "keep-alive"
        )
}

fn essence(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim())
}

pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    essence(headers).is_some_and(is_event_kind)
}

fn is_event_kind(kind: &str) -> bool {
    kind.eq_ignore_ascii_case("text/event-stream")
}

fn is_json_kind(kind: &str) -> bool {
    let ends_with = |tail: &str| {
        let from = kind.len().checked_sub(tail.len());
        from.and_then(|from| kind.get(from..)).is_some_and(|end| end.eq_ignore_ascii_case(tail))
    };
    kind.eq_ignore_ascii_case("application/json") || ends_with("+json")
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
