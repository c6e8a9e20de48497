//! Redirects that name the upstream: turned into paths of the gateway.
//!
//! Some servers answer `/mcp/` with a redirect to `http://upstream:8081/mcp`. An agent cannot reach
//! that address and should not learn it; clients follow redirects within the origin only.

use http::{Uri, header};
use pingora::Result;
use pingora::http::ResponseHeader;

use crate::config::{Scheme, Upstream};

/// Rewrites `Location` if it names this server, or only a path of it.
pub(super) fn localize(head: &mut ResponseHeader, server: &Upstream, prefix: &str) -> Result<()> {
    if !head.status.is_redirection() {
        return Ok(());
    }
    let Some(location) = head.headers.get(header::LOCATION).and_then(|v| v.to_str().ok()) else {
        return Ok(());
    };
    if let Some(local) = local(location, server, prefix) {
        head.insert_header(header::LOCATION, local)?;
    }
    Ok(())
}

fn local(location: &str, server: &Upstream, prefix: &str) -> Option<String> {
    let prefix = prefix.trim_end_matches('/');
    // Two slashes begin an authority, not a path.
    let named = if let Some(authority) = location.strip_prefix("//") {
        format!("http://{authority}")
    } else if location.starts_with('/') {
        return (!prefix.is_empty()).then(|| format!("{prefix}{location}"));
    } else {
        location.to_owned()
    };
    let uri: Uri = named.parse().ok()?;
    let port = uri.port_u16().or(match uri.scheme_str()? {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    })?;
    let host = uri.host()?.trim_matches(['[', ']']);
    // A server behind its own terminator may name the other scheme with that scheme's port.
    let default = matches!((server.scheme, server.port), (Scheme::Https, 443) | (Scheme::Http, 80));
    let same_port = port == server.port || (default && uri.port().is_none());
    if !host.eq_ignore_ascii_case(&server.host) || !same_port {
        return None;
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    Some(format!("{prefix}{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(location: &str, prefix: &str, expected: Option<&str>) {
        let server = Upstream {
            scheme: Scheme::Http,
            host: "mcp".to_owned(),
            port: 8081,
            path: Some("/mcp".to_owned()),
        };
        assert_eq!(local(location, &server, prefix).as_deref(), expected, "{location} {prefix}");
    }

    #[test]
    fn only_the_upstreams_own_origin_becomes_a_path() {
        check("http://mcp:8081/mcp", "/", Some("/mcp"));
        check("http://MCP:8081/mcp/?a=b", "/", Some("/mcp/?a=b"));
        check("https://mcp:8081/mcp", "/", Some("/mcp"));
        check("//mcp:8081/mcp", "/", Some("/mcp"));
        check("http://mcp:8081", "/", Some("/"));
        check("http://mcp/mcp", "/", None);
        check("http://mcp:8082/mcp", "/", None);
        check("http://mcp.evil:8081/mcp", "/", None);
        check("http://mcp:8081@evil/mcp", "/", None);
        check("https://login.example/x", "/", None);
        check("/mcp/", "/", None);
        check("mcp/", "/git", None);
        check("http://mcp:8081/mcp/", "/git", Some("/git/mcp/"));
        check("/mcp/", "/git", Some("/git/mcp/"));
        check("//evil/mcp/", "/git", None);
    }
}
