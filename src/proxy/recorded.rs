//! Members of a record that come from the request's head, borrowed from the head.

use http::HeaderName;
use http::header::USER_AGENT;
use pingora::protocols::SocketDigest;
use pingora::proxy::Session;

use super::forwarding::{self, Forwarding};
use crate::gate::{Carried, HeadParts};
use crate::mcp::trace;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const MCP_SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// Collects the parts of a request's head that go on record. The client's address is the peer's, or
/// the one that trusted proxies give.
pub(super) fn parts<'s>(session: &'s Session, forwarding: &Forwarding) -> HeadParts<'s> {
    let head = session.req_header();
    let text = |name: &HeaderName| str::from_utf8(head.headers.get(name)?.as_bytes()).ok();
    HeadParts {
        client_addr: forwarding.client_addr(forwarding::peer(session), &head.headers),
        user_agent: text(&USER_AGENT),
        http_method: Some(head.method.as_str()),
        path: Some(head.uri.path()),
        trace_id: text(&TRACEPARENT).and_then(trace::trace_id),
    }
}

/// Returns the parts of a request's head that its trace needs.
pub(super) fn carried(session: &Session) -> Carried<'_> {
    let headers = &session.req_header().headers;
    let text = |name: &HeaderName| str::from_utf8(headers.get(name)?.as_bytes()).ok();
    Carried {
        traceparent: text(&TRACEPARENT),
        tracestate: text(&TRACESTATE),
        mcp_session: text(&MCP_SESSION),
    }
}

/// Returns what is known of a request whose head was refused unread: the address of its peer.
pub(super) fn connection<'s>(socket: Option<&SocketDigest>) -> HeadParts<'s> {
    let peer = socket.and_then(SocketDigest::peer_addr).and_then(|address| address.as_inet());
    let client_addr = peer.map(|address| address.ip().to_canonical());
    HeadParts { client_addr, ..HeadParts::default() }
}
