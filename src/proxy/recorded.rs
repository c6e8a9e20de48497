//! Members of a record that come from the request's head, borrowed from the head.

use http::HeaderName;
use http::header::USER_AGENT;
use pingora::protocols::SocketDigest;
use pingora::proxy::Session;

use super::forwarding::{self, Forwarding};
use crate::gate::HeadParts;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

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
        trace_id: text(&TRACEPARENT).and_then(trace_id),
    }
}

/// Returns what is known of a request whose head was refused unread: the address of its peer.
pub(super) fn connection<'s>(socket: Option<&SocketDigest>) -> HeadParts<'s> {
    let peer = socket.and_then(SocketDigest::peer_addr).and_then(|address| address.as_inet());
    let client_addr = peer.map(|address| address.ip().to_canonical());
    HeadParts { client_addr, ..HeadParts::default() }
}

/// Returns the trace id of a `traceparent` header (W3C Trace Context section 3.2.2).
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut fields = traceparent.split('-');
    let (version, trace, parent, flags) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let whole = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    // Later versions may add fields; version ff is none.
    let known = version != "ff" && (version != "00" || fields.next().is_none());
    (whole && known && trace.bytes().any(|b| b != b'0')).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_read_as_w3c_defines_it() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace_id(good), Some("0af7651916cd43dd8448eb211c80319c"));
        assert!(trace_id(&good.replacen("00", "01", 1)).is_some());
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }
}
