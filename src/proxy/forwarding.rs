//! Headers that say for whom a request was forwarded: believed from trusted proxies only.
//!
//! Any client can write `X-Forwarded-For`, and many MCP servers believe it. Such headers are therefore
//! dropped unless the peer of the connection is in `proxy.trusted_proxies`; then the peer's own address
//! is appended, as the next hop of the chain (RFC 7239 section 5.2).

use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr, Result};
use smallvec::SmallVec;

use crate::config::Network;
use crate::saturate::SaturatingFrom as _;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Hops of one chain that are read.
const MAX_HOPS: usize = 64;

/// Names other than `forwarded` and `x-forwarded-*` under which proxies and content networks pass on the
/// client's address, country or certificate (RFC 9440), or the host and scheme that it used.
const CLIENT_HEADERS: &[&str] = &[
    "ali-cdn-real-ip",
    "cdn-src-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-ipcountry",
    "cf-pseudo-ipv4",
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "do-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded-for",
    "forwarded-host",
    "forwarded-proto",
    "front-end-https",
    "incap-client-ip",
    "remote-addr",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-coming-from",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "x-host",
    "x-nf-client-connection-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-remote-addr",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-scheme",
    "x-sucuri-clientip",
    "x-true-client-ip",
    "x-url-scheme",
    "x-vercel-forwarded-for",
    "x-vercel-ip",
];

/// Configuration of forwarding.
#[derive(Clone, Debug, Default)]
pub struct Forwarding {
    /// Peers whose word counts.
    pub trusted: Vec<Network>,
    /// True if upstreams get a `Forwarded` of the gateway's own.
    pub send: bool,
    /// Scheme of the proxy port.
    pub scheme: &'static str,
}

/// The address at the other end of the connection.
pub fn peer(session: &Session) -> Option<IpAddr> {
    let address = session.client_addr()?.as_inet()?.ip();
    Some(address.to_canonical())
}

impl Forwarding {
    /// The client's address: the peer's, or what trusted proxies say of it.
    ///
    /// A chain is read from its end, and the first address that is not of a trusted proxy counts; what
    /// lies before it may be anything.
    pub fn client_addr(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let mut client = peer?;
        if !self.trusts(client) {
            return Some(client);
        }
        for hop in hops(headers) {
            let Some(hop) = hop else { break };
            client = hop;
            if !self.trusts(hop) {
                break;
            }
        }
        Some(client)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Turns what a client said of forwarding into what its upstream may believe.
    pub(super) fn apply(&self, request: &mut Parts, peer: Option<IpAddr>) -> Result<()> {
        if peer.is_some_and(|peer| self.trusts(peer)) {
            append(&mut request.headers, &FORWARDED_FOR, peer.map(|peer| peer.to_string()))?;
        } else {
            let names = request.headers.keys();
            let dropped: SmallVec<[_; 4]> =
                names.filter(|name| tells_of_client(name)).cloned().collect();
            for name in dropped {
                request.headers.remove(&name);
            }
        }
        let present = request.headers.contains_key(header::FORWARDED);
        if self.send || present {
            let own = self.element(request, peer);
            let value = match combined(&request.headers, &header::FORWARDED) {
                Some(before) => format!("{before}, {own}"),
                None => own,
            };
            request.headers.insert(header::FORWARDED, text(value)?);
        }
        Ok(())
    }

    /// The gateway's own element of `Forwarded` (RFC 7239 section 4).
    fn element(&self, request: &Parts, peer: Option<IpAddr>) -> String {
        let node = match peer {
            Some(IpAddr::V4(address)) => address.to_string(),
            Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
            None => "unknown".to_owned(),
        };
        let named = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = named.or_else(|| request.uri.authority().map(http::uri::Authority::as_str));
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        match host.filter(|host| host.chars().all(fits)) {
            Some(host) => format!("for={node};host=\"{host}\";proto={}", self.scheme),
            None => format!("for={node};proto={}", self.scheme),
        }
    }
}

/// Adds a hop to a chain that is there.
fn append(headers: &mut HeaderMap, name: &HeaderName, hop: Option<String>) -> Result<()> {
    if let (Some(before), Some(hop)) = (combined(headers, name), hop) {
        headers.insert(name.clone(), text(format!("{before}, {hop}"))?);
    }
    Ok(())
}

fn text(value: String) -> Result<HeaderValue> {
    HeaderValue::try_from(value).or_err(ErrorType::InvalidHTTPHeader, "a header about forwarding")
}

/// All values of a list header as one (RFC 9110 section 5.3).
fn combined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values = headers.get_all(name).iter();
    let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// For each first letter the lengths that [`CLIENT_HEADERS`] with it have, a bit each.
const CLIENT_HEADER_LENGTHS: [u64; 26] = {
    let mut lengths = [0; 26];
    let mut n = 0;
    while n < CLIENT_HEADERS.len() {
        #[expect(clippy::indexing_slicing, reason = "evaluated when this is compiled")]
        {
            let name = CLIENT_HEADERS[n].as_bytes();
            lengths[(name[0] - b'a') as usize] |= 1 << name.len();
        }
        n += 1;
    }
    lengths
};

fn tells_of_client(name: &HeaderName) -> bool {
    let name = name.as_str();
    let letter = name.as_bytes().first().map_or(0, |first| first.wrapping_sub(b'a'));
    let lengths = CLIENT_HEADER_LENGTHS.get(usize::from(letter)).copied().unwrap_or_default();
    let length = u32::saturating_from(name.len());
    // Few names have the first letter and the length of one of the list.
    (lengths.unbounded_shr(length) & 1 == 1 && CLIENT_HEADERS.binary_search(&name).is_ok())
        || name.starts_with("x-forwarded")
        || name == header::FORWARDED.as_str()
}

/// The addresses of a chain, last hop first; `None` for a hop that names none.
fn hops(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let last_first = |name: &HeaderName| {
        let values: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
        let texts = values.into_iter().rev().filter_map(|value| value.to_str().ok());
        texts.flat_map(|text| text.rsplit(',')).map(str::trim).take(MAX_HOPS).collect::<Vec<_>>()
    };
    let listed = last_first(&FORWARDED_FOR);
    if !listed.is_empty() {
        return listed.into_iter().map(address).collect();
    }
    let of_element = |element: &str| {
        let node = element.split(';').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
        })?;
        address(node)
    };
    last_first(&header::FORWARDED).into_iter().map(of_element).collect()
}

/// An address with or without a port; those of version 6 in brackets or bare.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let host = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => text.split(':').next()?,
    };
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarding(trusted: &[&str], send: bool) -> Forwarding {
        let trusted = trusted.iter().map(|text| text.parse().unwrap()).collect();
        Forwarding { trusted, send, scheme: "https" }
    }

    fn request(headers: &[(&'static str, &str)]) -> Parts {
        let mut request = http::Request::post("/").header("host", "mcp.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    #[test]
    fn the_list_is_in_order_for_the_search() {
        assert!(CLIENT_HEADERS.is_sorted());
    }

    #[test]
    fn what_a_stranger_says_of_its_address_is_dropped() {
        let said = [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "a"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("true-client-ip", "10.0.0.1"),
            ("cf-connecting-ip", "10.0.0.1"),
            ("cf-ipcountry", "CH"),
            ("client-cert", ":AA==:"),
            ("x-client-ip", "10.0.0.1"),
        ];
        let mut head = request(&said);
        forwarding(&["10.0.0.0/8"], false).apply(&mut head, ip("192.0.2.7")).unwrap();
        assert_eq!(head.headers.len(), 1, "{:?}", head.headers);
        let mut head = request(&said);
        forwarding(&[], true).apply(&mut head, ip("2001:db8::7")).unwrap();
        assert_eq!(
            head.headers.get("forwarded").unwrap(),
            "for=\"[2001:db8::7]\";host=\"mcp.example\";proto=https"
        );
        assert_eq!(head.headers.len(), 2);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_appended_to() {
        let mut head = request(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2"),
            ("forwarded", "for=192.0.2.1"),
            ("x-real-ip", "192.0.2.1"),
        ]);
        forwarding(&["10.0.0.0/8"], false).apply(&mut head, ip("10.1.2.3")).unwrap();
        let get = |name: &str| head.headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(get("x-forwarded-for"), ["192.0.2.1, 192.0.2.2, 10.1.2.3"]);
        let own = "for=192.0.2.1, for=10.1.2.3;host=\"mcp.example\";proto=https";
        assert_eq!(get("forwarded"), [own]);
        assert_eq!(get("x-real-ip"), ["192.0.2.1"]);
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_no_trusted_proxy() {
        let check = |peer: &str, headers: &[(&'static str, &str)], expected: &str| {
            let trusts = forwarding(&["10.0.0.0/8", "fd00::/8"], false);
            let found = trusts.client_addr(ip(peer), &request(headers).headers);
            assert_eq!(found, ip(expected), "{peer} {headers:?}");
        };
        check("192.0.2.9", &[("x-forwarded-for", "192.0.2.1")], "192.0.2.9");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.0.0.2")], "192.0.2.1");
        check("10.0.0.1", &[("x-forwarded-for", "192.0.2.1:443")], "192.0.2.1");
        check("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, junk, 10.0.0.2")], "10.0.0.2");
        check("fd00::1", &[("forwarded", "for=\"[2001:db8::5]:99\";proto=http")], "2001:db8::5");
        check("10.0.0.1", &[("forwarded", "for=_hidden")], "10.0.0.1");
    }
}
