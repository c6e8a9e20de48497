//! Rules for browsers and their pages: origins, hosts, cross-origin answers.
//!
//! A page may call only from an allowed origin. Each of its calls is preflighted, since it carries JSON
//! and a token; the preflight itself carries none and reaches nothing. A page of another site that has
//! pointed its own name at this address is recognised by `Host` (DNS rebinding).

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::firewall::denial::{Code, Denial};

/// The entry of `allowed_origins` for pages of this machine.
const LOOPBACK: &str = "loopback";

/// Time for which a browser may remember a preflight, in seconds.
const MAX_AGE: &str = "7200";

/// Headers of an answer that a page may read.
const EXPOSED: &str =
    "Mcp-Session-Id, WWW-Authenticate, x-arbiter-request-id, X-Arbiter-Warning, Retry-After";

/// Request headers that a page may send; `mcp-param-*` as well.
const SENDABLE: &[&str] = &[
    "accept",
    "accept-language",
    "authorization",
    "baggage",
    "cache-control",
    "content-language",
    "content-type",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "traceparent",
    "tracestate",
    "x-agent-id",
    "x-arbiter-session",
];

/// Configuration of the rules for browsers.
#[derive(Clone, Debug, Default)]
pub struct Browsers {
    origins: Vec<String>,
    loopback: bool,
    /// Lower-case names without ports; empty if any will do.
    hosts: Vec<String>,
}

impl Browsers {
    pub fn new(origins: &[String], hosts: &[String]) -> Self {
        Self {
            origins: origins.iter().filter(|origin| *origin != LOOPBACK).cloned().collect(),
            loopback: origins.iter().any(|origin| origin == LOOPBACK),
            hosts: hosts.iter().map(|host| without_port(host).to_ascii_lowercase()).collect(),
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.origins.iter().any(|allowed| allowed == origin)
            || (self.loopback && is_loopback(origin))
    }

    /// Refuses a host that is not served here.
    pub(super) fn host(&self, head: &RequestHeader) -> Result<(), Denial> {
        if self.hosts.is_empty() {
            return Ok(());
        }
        let named = head.headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
        let authority = head.uri.authority().map(http::uri::Authority::as_str);
        let served = |host: &str| {
            let host = without_port(host);
            self.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
        };
        let mut hosts = named.into_iter().chain(authority).peekable();
        if hosts.peek().is_some() && hosts.all(served) {
            return Ok(());
        }
        Err(Denial::new(
            Code::HostDenied,
            "this host is not served here: use a name that is in proxy.allowed_hosts",
        ))
    }

    /// Refuses an origin that may not call.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Result<(), Denial> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        if self.allows(origin) {
            return Ok(());
        }
        Err(Denial::new(
            Code::OriginDenied,
            "this origin may not call: browsers are served only from proxy.allowed_origins",
        ))
    }

    /// Lets the page that asked read the answer, if its origin is allowed.
    pub(super) fn share(&self, request: &RequestHeader, answer: &mut ResponseHeader) -> Result<()> {
        let Some(origin) = self.sharing(request) else { return Ok(()) };
        answer.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
        answer.append_header(header::VARY, "Origin")?;
        answer.insert_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)?;
        Ok(())
    }

    fn sharing(&self, request: &RequestHeader) -> Option<HeaderValue> {
        request.headers.get(header::ORIGIN).filter(|origin| self.allows(origin)).cloned()
    }

    /// The answer to a preflight of an allowed origin, if the request is one; `methods` are those that
    /// its path serves.
    pub(super) fn preflight(
        &self,
        request: &RequestHeader,
        methods: &'static str,
    ) -> Result<Option<ResponseHeader>> {
        if !is_preflight(request) {
            return Ok(None);
        }
        let Some(origin) = self.sharing(request) else { return Ok(None) };
        let mut answer = ResponseHeader::build(204, Some(8))?;
        answer.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
        answer.insert_header(header::VARY, "Origin")?;
        answer.insert_header(header::ACCESS_CONTROL_ALLOW_METHODS, methods)?;
        let asked = request.headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
        let asked = asked.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        let asked = asked.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
        let granted: Vec<HeaderName> = asked.filter(is_sendable).collect();
        if !granted.is_empty() {
            let names: Vec<&str> = granted.iter().map(HeaderName::as_str).collect();
            answer.insert_header(header::ACCESS_CONTROL_ALLOW_HEADERS, names.join(", "))?;
        }
        answer.insert_header(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE)?;
        Ok(Some(answer))
    }
}

/// Reports whether a browser asks here if a page may call.
pub(super) fn is_preflight(request: &RequestHeader) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(header::ORIGIN)
        && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn is_sendable(name: &HeaderName) -> bool {
    SENDABLE.contains(&name.as_str()) || name.as_str().starts_with("mcp-param-")
}

/// Reports whether a page comes from a server on this machine, at any port.
fn is_loopback(origin: &str) -> bool {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let Some(authority) = rest else { return false };
    let host = without_port(authority);
    let port = authority.get(host.len()..).unwrap_or_default();
    let number = port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    matches!(host, "localhost" | "127.0.0.1" | "[::1]") && (port.is_empty() || number)
}

/// A host without its port; an address of version 6 keeps its brackets.
fn without_port(host: &str) -> &str {
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']').map(|at| at.saturating_add(2)),
        // An address of version 6 without brackets has colons and no port.
        None if host.matches(':').count() == 1 => host.find(':'),
        None => None,
    };
    end.and_then(|end| host.get(..end)).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn browsers(origins: &[&str], hosts: &[&str]) -> Browsers {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        Browsers::new(&owned(origins), &owned(hosts))
    }

    fn head(method: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build(method, b"/mcp", None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn origins_are_compared_whole() {
        let rules = browsers(&["https://app.example", "loopback"], &[]);
        let check = |origin: &str, allowed: bool| {
            let found = rules.origin(&head("POST", &[("origin", origin)]).headers).is_ok();
            assert_eq!(found, allowed, "{origin}");
        };
        for origin in [
            "https://app.example",
            "http://localhost",
            "http://localhost:6274",
            "https://127.0.0.1:1",
            "http://[::1]:65535",
        ] {
            check(origin, true);
        }
        for origin in [
            "null",
            "https://app.example.evil",
            "http://app.example",
            "http://localhost.evil",
            "http://localhost:evil",
            "http://localhost:",
            "http://127.0.0.1.evil",
            "http://127.0.0.2",
            "http://[::1].evil",
            "ftp://localhost",
            "localhost",
            "http://user@localhost",
        ] {
            check(origin, false);
        }
        let exact = browsers(&["https://app.example"], &[]);
        let local = head("POST", &[("origin", "http://localhost")]);
        assert!(exact.origin(&local.headers).is_err());
    }

    #[test]
    fn hosts_are_exact_names_in_any_case_at_any_port() {
        let rules = browsers(&[], &["mcp.example", "127.0.0.1", "[::1]"]);
        let check = |host: &str, served: bool| {
            assert_eq!(rules.host(&head("POST", &[("host", host)])).is_ok(), served, "{host}");
        };
        for host in ["mcp.example", "MCP.Example:8080", "127.0.0.1:1", "[::1]", "[::1]:80"] {
            check(host, true);
        }
        for host in
            ["evil.example", "mcp.example.evil", "x.mcp.example", "127.0.0.2", "", "[::2]:1"]
        {
            check(host, false);
        }
        assert!(rules.host(&head("POST", &[])).is_err(), "a host must be named");
        assert!(browsers(&[], &[]).host(&head("POST", &[("host", "any")])).is_ok());
        let mut h2 = head("POST", &[("host", "mcp.example")]);
        h2.set_uri("https://evil.example/mcp".parse().unwrap());
        assert!(rules.host(&h2).is_err(), "both names count");
    }

    #[test]
    fn a_preflight_grants_what_a_client_may_send() {
        let rules = browsers(&["https://app.example"], &[]);
        let ask = |origin: &str, method: &str| {
            let asked = "authorization, Content-Type,x-evil,mcp-param-region,cookie";
            let head = head(
                method,
                &[
                    ("origin", origin),
                    ("access-control-request-method", "POST"),
                    ("access-control-request-headers", asked),
                ],
            );
            rules.preflight(&head, "POST").unwrap()
        };
        let answer = ask("https://app.example", "OPTIONS").unwrap();
        let get = |name: &str| answer.headers.get(name).unwrap().to_str().unwrap();
        assert_eq!(answer.status, 204);
        assert_eq!(get("access-control-allow-origin"), "https://app.example");
        let granted = "authorization, content-type, mcp-param-region";
        assert_eq!(get("access-control-allow-headers"), granted);
        assert_eq!((get("access-control-allow-methods"), get("vary")), ("POST", "Origin"));
        assert!(ask("https://evil.example", "OPTIONS").is_none());
        assert!(ask("https://app.example", "POST").is_none());
    }
}
