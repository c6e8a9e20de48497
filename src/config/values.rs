//! Texts that stand for something: URLs, origins, header names, keywords.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

use crate::firewall::elicitation::Elicitation;

/// Transport to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// Destination of checked calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub scheme: Scheme,
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
    /// Path of the URL, which replaces a request's `/`; none without one.
    pub path: Option<String>,
}

impl Upstream {
    /// `host:port`, as the `Host` header writes it; the scheme's own port is left out.
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => host,
            (Scheme::Http | Scheme::Https, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.path.as_deref().unwrap_or_default())
    }
}

/// Reads an upstream's URL. The text is never quoted: it may hold a password.
pub(super) fn upstream(text: &str) -> Result<Upstream, String> {
    let uri = url(text)?;
    if uri.query().is_some() {
        return Err("holds a query (`?`); give only scheme, host, port and path".to_owned());
    }
    let scheme = if uri.scheme_str() == Some("https") { Scheme::Https } else { Scheme::Http };
    let default_port = match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let path = Some(uri.path()).filter(|path| !matches!(*path, "" | "/")).map(str::to_owned);
    Ok(Upstream { scheme, host, port: uri.port_u16().unwrap_or(default_port), path })
}

/// Reads an absolute http or https URL without user name, password and fragment.
pub(super) fn url(text: &str) -> Result<Uri, String> {
    const FORM: &str = "is not a URL such as `https://host:port/path`";
    if text.contains('#') {
        return Err("holds a fragment (`#`); leave it out".to_owned());
    }
    let uri: Uri = text.parse().map_err(|error| format!("{FORM}: {error}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(_) => return Err("has a scheme other than http and https".to_owned()),
        None => return Err(FORM.to_owned()),
    }
    let authority = uri.authority().ok_or(FORM)?.as_str();
    if authority.contains('@') {
        let advice = "send credentials by `proxy.upstream_headers`";
        return Err(format!("holds a user name or password; {advice}"));
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(FORM)?;
    // `Uri` calls a port that fits no u16 absent; the text after the host shows it.
    if authority != host && uri.port_u16().is_none_or(|port| port == 0) {
        return Err("has no valid port; use 1 to 65535".to_owned());
    }
    Ok(uri)
}

/// Reads the URL of an OTLP collector: without a path, that of traces is added.
pub(super) fn otlp_endpoint(text: &str) -> Result<String, String> {
    if text.contains('@') {
        let advice = "send credentials by the environment variable OTEL_EXPORTER_OTLP_HEADERS";
        return Err(format!("holds a user name or password; {advice}"));
    }
    let uri = url(text)?;
    let bare = uri.query().is_none() && matches!(uri.path(), "" | "/");
    Ok(if bare { format!("{}/v1/traces", text.trim_end_matches('/')) } else { text.to_owned() })
}

/// A URL over which keys or tokens are fetched: https, or plain http within this machine.
pub fn provider_url(text: &str, allow_http: bool) -> Result<String, String> {
    let uri = url(text)?;
    let local = uri.host().is_some_and(is_loopback);
    if uri.scheme_str() == Some("http") && !local && !allow_http {
        let advice =
            "use https, or set `allow_http = true` for this issuer if the network is yours";
        return Err(format!("is plain http to another machine; {advice}"));
    }
    Ok(text.to_owned())
}

/// Checks a URL that others see or send to: https, or plain http within this machine.
pub(super) fn safe_url(text: &str) -> Result<(), String> {
    let uri = url(text)?;
    if uri.scheme_str() == Some("http") && !uri.host().is_some_and(is_loopback) {
        return Err("is plain http to another machine; use https".to_owned());
    }
    Ok(())
}

/// Checks that metadata can be fetched from below an issuer's URL (RFC 8414 section 2).
pub(super) fn discoverable(issuer_url: &str, allow_http: bool) -> Result<(), String> {
    provider_url(issuer_url, allow_http)?;
    if issuer_url.contains('?') { Err("it holds a query (`?`)".to_owned()) } else { Ok(()) }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_matches(['[', ']']);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `scheme://host[:port]`, as a browser writes it; or `loopback`, for pages of this machine.
pub(super) fn origin(text: &str) -> Result<(), String> {
    if text == "loopback" {
        return Ok(());
    }
    let advice = "write it as the browser does: `https://host[:port]`, lower case, no path";
    let shaped = text.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && !rest.is_empty() && !rest.contains('/')
    });
    if shaped && text == text.to_ascii_lowercase() && !text.contains([' ', '*', '?', '#', '@']) {
        Ok(())
    } else {
        Err(format!("is not an origin; {advice}"))
    }
}

/// A name under which this port is reached, or an address.
pub(super) fn host(text: &str) -> Result<(), String> {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '[' | ']');
    if !text.is_empty() && text.len() <= 255 && text.chars().all(plain) {
        Ok(())
    } else {
        Err("is not a host name such as `mcp.example.com`".to_owned())
    }
}

/// A host to which people may be sent, or `*.` and what it lies below.
pub(super) fn elicitation_host(text: &str) -> Result<(), String> {
    Elicitation::parse(&[text]).map(|_read| ())
}

/// A path that begins with a slash.
pub(super) fn path(text: &str) -> Result<(), String> {
    if text.starts_with('/') && !text.contains(['?', '#', ' ']) && text.is_ascii() {
        Ok(())
    } else {
        Err("is not a path such as `/internal`".to_owned())
    }
}

/// One whole word: what an intent's words are compared with.
pub(super) fn keyword(text: &str) -> Result<(), String> {
    if text.len() <= 64 && text.chars().all(char::is_alphanumeric) {
        Ok(())
    } else {
        Err("is not one word of letters and digits".to_owned())
    }
}

/// Headers that Arbiter or HTTP itself sets, so that configuration cannot.
const RESERVED_HEADERS: [&str; 16] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-agent-id",
    "x-arbiter-request-id",
    "x-arbiter-session",
];

/// A header to send upstream.
pub(super) fn header_name(text: &str) -> Result<http::HeaderName, String> {
    let name = http::HeaderName::from_bytes(text.as_bytes())
        .map_err(|error| format!("is not a header name: {error}"))?;
    if RESERVED_HEADERS.contains(&name.as_str()) {
        return Err("is set by Arbiter or by HTTP itself; leave it out".to_owned());
    }
    Ok(name)
}

/// A header's value; references in it must be well formed.
pub(super) fn header_value(text: &str) -> Result<(), String> {
    if http::HeaderValue::from_str(text).is_err() || text.trim() != text || text.is_empty() {
        return Err("is not a header value: visible characters, no space at either end".to_owned());
    }
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once("${") {
        let name = behind.strip_prefix("CRED:").and_then(|name| name.split_once('}'));
        let Some((name, after)) = name else {
            return Err("holds `${` that is not a reference `${CRED:name}`".to_owned());
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
            return Err("refers to a credential by a name that no credential can have".to_owned());
        }
        rest = after;
    }
    Ok(())
}
