//! Rules for a request's head, checked before anything else looks at the request.
//!
//! Pingora's parser is lenient where a firewall must not be: what two parsers may read differently
//! is refused here (RFC 9112 sections 2.2, 3.2, 6.1 and 11.2).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use pingora::http::RequestHeader;

use super::browser::{self, Browsers};
use crate::config;
use crate::firewall::denial::{Code, Denial};
use crate::gate::{Kind, Verb};

pub(super) const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";
/// Most of a path that a metadata document or a challenge repeats.
pub(super) const MAX_PATH_BYTES: usize = 1_024;

/// Headers that must not occur twice, since their meaning would depend on who reads them.
const SINGLE: &[&str] = &[
    "content-type",
    "content-encoding",
    "content-length",
    "transfer-encoding",
    "host",
    "origin",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "mcp-session-id",
    "x-agent-id",
    "x-arbiter-session",
];

/// Configuration of head checks.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadRules {
    pub(super) blocked_paths: Vec<String>,
    pub(super) browsers: Arc<Browsers>,
    pub(super) deny_non_post_methods: bool,
    /// True if GET and DELETE of the 2025 era are served (`legacy_streams`).
    pub(super) legacy_streams: bool,
    pub(super) size: HeadSize,
}

/// Largest head that is read.
#[derive(Clone, Copy, Debug)]
pub struct HeadSize {
    pub bytes: usize,
    pub headers: usize,
    pub uri_bytes: usize,
}

impl Default for HeadSize {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self { bytes: 64 * 1024, headers: 100, uri_bytes: 8 * 1024 }
    }
}

impl HeadSize {
    pub(super) fn of(settings: &config::Proxy) -> Self {
        Self {
            bytes: settings.max_header_bytes,
            headers: settings.max_headers,
            uri_bytes: settings.max_uri_bytes,
        }
    }

    pub(super) fn uri_too_long(self) -> Denial {
        let max = self.uri_bytes;
        let message = format!("the request target is longer than {max} bytes");
        Denial::new(Code::UriTooLong, message).with("max_uri_bytes", max)
    }

    pub(super) fn too_large(self) -> Denial {
        let max = self.bytes;
        let message = format!("the request head is larger than {max} bytes");
        Denial::new(Code::HeadTooLarge, message).with("max_header_bytes", max)
    }

    pub(super) fn too_many(self) -> Denial {
        let max = self.headers;
        let message = format!("the request has more than {max} headers");
        Denial::new(Code::HeadTooLarge, message).with("max_headers", max)
    }

    /// Judges a head that a library has read, each line counted as it is written.
    fn check(self, head: &RequestHeader) -> Result<(), Denial> {
        if head.raw_path().len() > self.uri_bytes {
            return Err(self.uri_too_long());
        }
        if head.headers.len() > self.headers {
            return Err(self.too_many());
        }
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
        let total: usize = head.headers.iter().map(line).sum();
        if total > self.bytes { Err(self.too_large()) } else { Ok(()) }
    }
}

/// Judges path, method, host, origin and media type, in that order.
pub(super) fn kind(head: &RequestHeader, rules: &HeadRules) -> Result<Kind, Denial> {
    rules.size.check(head)?;
    framing(head)?;
    path(head, &rules.blocked_paths)?;
    let preflight = browser::is_preflight(head);
    // Metadata and preflights that are left here are those of hosts and origins that are not served.
    if preflight || is_metadata(head.uri.path()) {
        rules.browsers.host(head)?;
    }
    if preflight {
        rules.browsers.origin(&head.headers)?;
    }
    let kind = method(head, rules)?;
    rules.browsers.host(head)?;
    rules.browsers.origin(&head.headers)?;
    if kind == Kind::Message {
        media_type(&head.headers)?;
    }
    Ok(kind)
}

/// Reports whether a preflight may be answered: its form, its path and its host are in order.
pub(super) fn preflight(head: &RequestHeader, rules: &HeadRules) -> bool {
    browser::is_preflight(head)
        && rules.size.check(head).is_ok()
        && framing(head).is_ok()
        && path(head, &rules.blocked_paths).is_ok()
        && rules.browsers.host(head).is_ok()
}

fn malformed(reason: impl Into<String>) -> Denial {
    Denial::new(Code::MalformedRequest, reason)
}

fn framing(head: &RequestHeader) -> Result<(), Denial> {
    if head.version < Version::HTTP_11 {
        return Err(Denial::new(
            Code::HttpVersionNotSupported,
            "HTTP/1.0 is not supported: use HTTP/1.1 or newer",
        ));
    }
    let headers = &head.headers;
    // As many values as names: then none occurs twice, and none has to be looked for.
    if headers.len() != headers.keys_len() {
        for name in SINGLE {
            if headers.get_all(*name).iter().nth(1).is_some() {
                return Err(malformed(format!("header {name} must occur once")));
            }
        }
    }
    if head.version == Version::HTTP_11 {
        let Some(host) = headers.get(header::HOST) else {
            return Err(malformed("header Host is missing (RFC 9112 section 3.2)"));
        };
        let authority = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:[]%".contains(b);
        if host.is_empty() || !host.as_bytes().iter().all(authority) {
            return Err(malformed("header Host is not a host name with an optional port"));
        }
    }
    if let Some(coding) = headers.get(header::TRANSFER_ENCODING) {
        if headers.contains_key(header::CONTENT_LENGTH) {
            return Err(framed_twice());
        }
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(malformed("Transfer-Encoding must be chunked"));
        }
    }
    if headers
        .get(header::CONTENT_LENGTH)
        .is_some_and(|v| !v.as_bytes().iter().all(u8::is_ascii_digit))
    {
        return Err(malformed("Content-Length must be one decimal number"));
    }
    Ok(())
}

fn framed_twice() -> Denial {
    malformed("Content-Length and Transfer-Encoding together are refused (RFC 9112 section 6.1)")
}

/// The refusal of a path.
pub(super) fn not_served() -> Denial {
    Denial::new(Code::PathBlocked, "this path is not served here: use the MCP endpoint's path")
}

fn path(head: &RequestHeader, blocked: &[String]) -> Result<(), Denial> {
    let refused = not_served;
    let raw = head.raw_path();
    if !raw.starts_with(b"/") {
        return Err(malformed(
            "the request target must be a path (origin form, RFC 9112 section 3.2.1)",
        ));
    }
    if raw.iter().any(|b| !b.is_ascii_graphic()) {
        return Err(malformed("the request target holds a character that must be percent-encoded"));
    }
    let path = raw.split(|b| matches!(b, b'?' | b'#')).next().unwrap_or_default();
    // Most gateways block none; then a path that needs no decoding needs no comparing.
    if blocked.is_empty() && !path.iter().any(|b| matches!(b, b'%' | b'\\')) {
        return Ok(());
    }
    let Some(plain) = plain_path(path) else { return Err(refused()) };
    let hit = |entry: &String| {
        let entry = entry.trim_end_matches('/').to_lowercase();
        plain.strip_prefix(&entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if blocked.iter().any(hit) { Err(refused()) } else { Ok(()) }
}

/// The path as the most generous server would read it: decoded until nothing changes, without
/// parameters, dot segments and doubled slashes, in lower case. `None` when it cannot be agreed on.
fn plain_path(raw: &[u8]) -> Option<String> {
    let mut bytes = raw.to_vec();
    for round in 0.. {
        let decoded = percent_decode(&bytes)?;
        if decoded == bytes {
            break;
        }
        if round == 4 {
            return None;
        }
        bytes = decoded;
    }
    if bytes.iter().any(|b| b.is_ascii_control() || *b == b'\\') {
        return None;
    }
    let text = String::from_utf8(bytes).ok()?.to_lowercase();
    let mut kept: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default().trim_end_matches(' ') {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    Some(format!("/{}", kept.join("/")))
}

fn percent_decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(&byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<&u8>| char::from(*b?).to_digit(16);
            let value = digit(rest.next())? * 16 + digit(rest.next())?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

fn method(head: &RequestHeader, rules: &HeadRules) -> Result<Kind, Denial> {
    let refused = || not_allowed(rules.legacy_streams);
    if head.headers.contains_key(header::UPGRADE) {
        return Err(Denial::new(Code::MethodNotAllowed, "protocol upgrades are not served here"));
    }
    match head.method {
        Method::POST => Ok(Kind::Message),
        Method::GET if rules.legacy_streams && accepts_events(&head.headers) => {
            Ok(Kind::Legacy(Verb::Get))
        }
        Method::DELETE if rules.legacy_streams => Ok(Kind::Legacy(Verb::Delete)),
        Method::GET
        | Method::HEAD
        | Method::OPTIONS
        | Method::PUT
        | Method::DELETE
        | Method::PATCH
            if !rules.deny_non_post_methods =>
        {
            Ok(Kind::Unchecked)
        }
        // CONNECT and TRACE never; nor what only looks like a method: `post` is POST to some.
        _ => Err(refused()),
    }
}

/// The refusal of a method, with those that are served.
fn not_allowed(legacy_streams: bool) -> Denial {
    if !legacy_streams {
        return Denial::new(Code::MethodNotAllowed, "only POST is served here");
    }
    let message = "only POST, GET with `Accept: text/event-stream`, and DELETE are served here";
    Denial::new(Code::MethodNotAllowed, message).with("allow", "GET, POST, DELETE")
}

/// Drops an offer to go on in another version of HTTP or in TLS, which a server may ignore (RFC 9110
/// section 7.8); some clients make it with every request. Other offers are refused later.
pub(super) fn drop_offers(head: &mut RequestHeader) {
    let ignorable = |offer: &[u8]| {
        let offer = offer.trim_ascii();
        let tls = offer.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"TLS/"));
        tls || offer.eq_ignore_ascii_case(b"h2c")
    };
    let mut offers = head.headers.get_all(header::UPGRADE).iter().peekable();
    if offers.peek().is_some()
        && offers.all(|value| value.as_bytes().split(|b| *b == b',').all(ignorable))
    {
        head.remove_header(&header::UPGRADE);
        head.remove_header("http2-settings");
    }
}

/// Reports whether the client asks for an event stream by name.
fn accepts_events(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    ranges.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|r| r.eq_ignore_ascii_case("text/event-stream"));
        let unwanted = |p: &str| {
            let zero = p.strip_prefix("q=").or_else(|| p.strip_prefix("Q="));
            zero.is_some_and(|q| q.bytes().all(|b| matches!(b, b'0' | b'.')))
        };
        named && !parts.any(unwanted)
    })
}

fn media_type(headers: &HeaderMap) -> Result<(), Denial> {
    let refused = |reason: &str| Err(Denial::new(Code::UnsupportedMediaType, reason));
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()) else {
        return refused("send Content-Type: application/json");
    };
    let mut parts = value.split(';');
    let essence = parts.next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return refused("send Content-Type: application/json");
    }
    for parameter in parts {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        let utf8 = ["utf-8", "utf8"].iter().any(|name| value.eq_ignore_ascii_case(name));
        if name.trim().eq_ignore_ascii_case("charset") && !utf8 {
            return refused("the body must be UTF-8");
        }
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => refused(
            "send the body without Content-Encoding: what is checked must be what is forwarded",
        ),
        Some(_) | None => Ok(()),
    }
}

/// Reports whether a header of the client's stays behind: ours, those that change a request's
/// meaning behind the checks, and names that some servers read as others (CGI turns `_` and `.`
/// alike into `-`).
pub(super) fn stays_behind(name: &str) -> bool {
    name.bytes().any(|byte| matches!(byte, b'_' | b'.'))
        || name.starts_with("x-arbiter-")
        || matches!(
            name,
            "authorization"
                | "proxy-authorization"
                | "x-agent-id"
                | "x-http-method"
                | "x-http-method-override"
                | "x-method-override"
                | "x-original-url"
                | "x-rewrite-url"
                | "x-principal"
                | "x-delegation-chain"
                | "expect"
                | "accept-encoding"
                // A piece of an answer can hold a piece of a secret, which nothing recognises.
                | "range"
                | "if-range"
        )
}

/// Reports whether a path is one of the protected resources' metadata.
pub(super) fn is_metadata(path: &str) -> bool {
    behind(path, METADATA_PATH).is_some()
}

/// Returns the part of a path behind `place`.
pub(super) fn behind<'p>(path: &'p str, place: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(place)?;
    (rest.len() <= MAX_PATH_BYTES && (rest.is_empty() || rest.starts_with('/'))).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build(method, path.as_bytes(), None).unwrap();
        for (name, value) in headers {
            head.append_header((*name).to_owned(), *value).unwrap();
        }
        head
    }

    fn rules() -> HeadRules {
        HeadRules {
            blocked_paths: vec!["/admin".to_owned(), "/internal/debug".to_owned()],
            browsers: Arc::new(Browsers::new(&["https://app.example".to_owned()], &[])),
            deny_non_post_methods: true,
            legacy_streams: false,
            size: HeadSize::default(),
        }
    }

    fn check(method: &str, path: &str, extra: &[(&str, &str)], expected: Result<Kind, Code>) {
        let mut headers = vec![("Host", "localhost"), ("Content-Type", "application/json")];
        headers.retain(|(n, _)| !extra.iter().any(|(e, _)| e.eq_ignore_ascii_case(n)));
        headers.extend_from_slice(extra);
        headers.retain(|(_, v)| *v != "-");
        let found = kind(&head(method, path, &headers), &rules()).map_err(|d| d.code);
        assert_eq!(found, expected, "{method} {path} {extra:?}");
    }

    #[test]
    fn blocked_paths_are_blocked_in_every_spelling() {
        for path in [
            "/admin",
            "/admin/",
            "/admin/x",
            "/%61dmin",
            "/%2561dmin",
            "//admin",
            "/x/../admin",
            "/mcp/%2e%2e/admin",
            "/admin;x=1",
            "/./admin",
            "/ADMIN",
            "/x/..;/admin",
            "/admin?x=1",
            "/internal//debug",
            "/x%2f..%2fadmin",
            "/mcp\\..\\admin",
            "/adm%00in",
            "/%zz",
        ] {
            check("POST", path, &[], Err(Code::PathBlocked));
        }
        for path in ["/", "/mcp", "/administrator", "/internal", "/mcp?x=/admin", "/a%20b"] {
            check("POST", path, &[], Ok(Kind::Message));
        }
    }

    #[test]
    fn methods_origins_and_media_types_are_judged() {
        for method in
            ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "post"]
        {
            check(method, "/", &[], Err(Code::MethodNotAllowed));
        }
        check("POST", "/", &[("Upgrade", "websocket")], Err(Code::MethodNotAllowed));
        check("POST", "/", &[("Origin", "https://app.example")], Ok(Kind::Message));
        check("POST", "/", &[("Origin", "null")], Err(Code::OriginDenied));
        check("POST", "/", &[("Origin", "https://app.example.evil")], Err(Code::OriginDenied));
        check("POST", "/", &[("Content-Type", "text/plain")], Err(Code::UnsupportedMediaType));
        check("POST", "/", &[("Content-Type", "-")], Err(Code::UnsupportedMediaType));
        for charset in ["UTF-8", "utf8", "\"Utf8\""] {
            let kind = format!("application/json; charset={charset}");
            check("POST", "/", &[("Content-Type", &kind)], Ok(Kind::Message));
        }
        check(
            "POST",
            "/",
            &[("Content-Type", "application/json; charset=utf-16")],
            Err(Code::UnsupportedMediaType),
        );
        check("POST", "/", &[("Content-Encoding", "gzip")], Err(Code::UnsupportedMediaType));
        check("POST", "/", &[("Content-Encoding", "identity")], Ok(Kind::Message));
    }

    #[test]
    fn offers_that_may_be_ignored_are() {
        let check = |offers: &[&str], dropped: bool| {
            let mut headers: Vec<_> = offers.iter().map(|offer| ("Upgrade", *offer)).collect();
            headers.push(("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"));
            let mut head = head("POST", "/", &headers);
            drop_offers(&mut head);
            assert_eq!(!head.headers.contains_key("upgrade"), dropped, "{offers:?}");
            assert_eq!(!head.headers.contains_key("http2-settings"), dropped, "{offers:?}");
        };
        check(&["h2c"], true);
        check(&["H2C"], true);
        check(&["TLS/1.0"], true);
        check(&["h2c, tls/1.2"], true);
        check(&["h2c", "TLS/1.3"], true);
        check(&["websocket"], false);
        check(&["h2c, websocket"], false);
        check(&["h2c", "websocket"], false);
        check(&["h2c,"], false);
        check(&["TLS"], false);
    }

    #[test]
    fn streams_of_the_2025_era_pass_only_where_they_are_served() {
        let rules = HeadRules { legacy_streams: true, ..rules() };
        let served = |method: &str, accept: &[&str]| {
            let mut headers = vec![("Host", "localhost")];
            headers.extend(accept.iter().map(|value| ("Accept", *value)));
            kind(&head(method, "/", &headers), &rules).map_err(|denial| denial.code)
        };
        let refused = Err(Code::MethodNotAllowed);
        for accept in [
            &["text/event-stream"][..],
            &["application/json, Text/Event-Stream;q=0.5"],
            &["application/json", "text/event-stream"],
        ] {
            assert_eq!(served("GET", accept), Ok(Kind::Legacy(Verb::Get)), "{accept:?}");
        }
        for accept in [&[][..], &["*/*"], &["text/*"], &["text/event-stream;q=0"], &["x/text"]] {
            assert_eq!(served("GET", accept), refused, "{accept:?}");
        }
        assert_eq!(served("DELETE", &[]), Ok(Kind::Legacy(Verb::Delete)));
        for method in ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get"] {
            assert_eq!(served(method, &["text/event-stream"]), refused, "{method}");
        }
    }

    #[test]
    fn framing_that_two_parsers_read_differently_is_refused() {
        check("POST", "/", &[("Host", "-")], Err(Code::MalformedRequest));
        check("POST", "/", &[("Host", "a b")], Err(Code::MalformedRequest));
        check(
            "POST",
            "/",
            &[("x-agent-id", "a"), ("X-Agent-Id", "a")],
            Err(Code::MalformedRequest),
        );
        check(
            "POST",
            "/",
            &[("Content-Length", "1"), ("Content-Length", "1")],
            Err(Code::MalformedRequest),
        );
        check("POST", "/", &[("Content-Length", "3, 3")], Err(Code::MalformedRequest));
        check(
            "POST",
            "/",
            &[("Content-Length", "3"), ("Transfer-Encoding", "chunked")],
            Err(Code::MalformedRequest),
        );
        check("POST", "/", &[("Transfer-Encoding", "gzip, chunked")], Err(Code::MalformedRequest));
    }

    #[test]
    fn heads_beyond_their_limits_are_refused() {
        let path = |length: usize| format!("/{}", "a".repeat(length - 1));
        check("POST", &path(8_192), &[], Ok(Kind::Message));
        check("POST", &path(8_193), &[], Err(Code::UriTooLong));
        let names: Vec<String> = (0..99).map(|n| format!("x-{n}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        check("POST", "/", &many[..98], Ok(Kind::Message));
        check("POST", "/", &many, Err(Code::HeadTooLarge));
        // What is there without it: `Host: localhost` and `Content-Type: application/json`, and
        // each line has four bytes of its own.
        let rest = 65_536 - (4 + 9 + 4) - (12 + 16 + 4) - (1 + 4);
        check("POST", "/", &[("x", &"1".repeat(rest))], Ok(Kind::Message));
        check("POST", "/", &[("x", &"1".repeat(rest + 1))], Err(Code::HeadTooLarge));
    }

    #[test]
    fn headers_that_pass_for_ours_stay_behind() {
        for name in [
            "authorization",
            "x-arbiter-session",
            "x_agent_id",
            "x_arbiter_session",
            "mcp_name",
            "x-http-method-override",
        ] {
            assert!(stays_behind(name), "{name}");
        }
        for name in ["mcp-name", "traceparent", "accept", "mcp-session-id", "cookie"] {
            assert!(!stays_behind(name), "{name}");
        }
    }
}
