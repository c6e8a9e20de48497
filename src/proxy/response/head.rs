//! A response's head: judged, prepared for its body, and freed of what only the gateway may say.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora::http::ResponseHeader;
use smallvec::SmallVec;

use super::{Keep, Lists, ResponsePipeline, Scrub, broken, too_large};
use crate::credentials::{Content, Patterns, Scrubber, SseScrubber, scrub_header_value};
use crate::decode::{Bounds, Decoder};
use crate::firewall::denial::{Cause, Denial};
use crate::gate::listening::Listening;
use crate::gate::view::ListView;
use crate::gate::{Cleared, ExpectedReply};
use crate::mcp::filter::{ListKinds, Notice};
use crate::mcp::outcome::Carrier;
use crate::mcp::sse_filter::{Passes, SseFilter};
use crate::proxy::handed::Handed;
use crate::saturate::SaturatingFrom as _;

impl ResponsePipeline {
    /// Judges the head and prepares for the body.
    pub(in crate::proxy) fn begin(
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
            let stream = Arc::clone(listening);
            Box::new(move |notice: Notice<'_>| stream.passes(notice)) as Passes
        });
        let (kinds, keep): (ListKinds, Keep) = match (view.cloned(), &passes) {
            (None, None) => return Lists::None,
            (None, Some(_)) => (ListKinds::default(), Box::new(|_, _| true)),
            (Some(reader), _) => {
                let kinds = reader.kinds();
                (kinds, Box::new(move |kind, label| reader.shows(kind, label)))
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
            let most = u64::saturating_from(self.max_bytes);
            let bounds = if self.streams { Bounds::stream(most) } else { Bounds::body(most) };
            self.decoder = Some(Decoder::for_coding(&coding, bounds).ok_or_else(unknown)?);
        }
        head.remove_header(&header::CONTENT_ENCODING);
        Ok(())
    }

    fn scrub_headers(
        &mut self,
        head: &mut ResponseHeader,
        patterns: &Arc<Patterns>,
    ) -> Result<(), Denial> {
        // A name cannot hold the replacement text, so the whole header is removed.
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

/// Form of the body that a head announces.
pub(in crate::proxy) fn carrier(headers: &HeaderMap) -> Carrier {
    match essence(headers) {
        Some(kind) if is_event_kind(kind) => Carrier::Events,
        Some(kind) if is_json_kind(kind) => Carrier::Json,
        Some(_) | None => Carrier::Other,
    }
}

/// Refuses a success whose head announces another kind of body than the request expects.
fn is_due(due: ExpectedReply, carrier: Carrier) -> Result<(), Denial> {
    let fits = match due {
        ExpectedReply::Rpc => matches!(carrier, Carrier::Events | Carrier::Json),
        ExpectedReply::Events => carrier == Carrier::Events,
        ExpectedReply::Anything => true,
    };
    if fits {
        return Ok(());
    }
    Err(broken(
        "the MCP server's answer is no JSON-RPC: ask your operator whether its URL is right",
    ))
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
pub(in crate::proxy) fn bare(head: &mut ResponseHeader) {
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
pub(super) fn is_gateways_own(name: &HeaderName) -> bool {
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

pub(in crate::proxy) fn is_event_stream(headers: &HeaderMap) -> bool {
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
