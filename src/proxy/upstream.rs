//! One MCP server behind the gateway: where it is, and how it is addressed.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;
use pingora::protocols::ALPN;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{Error, ErrorType, OrErr, Result};
use smallvec::SmallVec;
use smol_str::SmolStr;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::contain;
use super::diagnosis::{NO_ADDRESS, Reports};
use super::forwarding::Forwarding;
use super::head_rules;
use super::health::Health;
use super::wire;
use crate::config;
use crate::firewall::time::Mono;
use crate::gate::Cleared;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);

/// Calls on one HTTP/2 connection at a time.
const MAX_H2_STREAMS: usize = 64;

/// Time for which a resolved name is cached.
const NAME_TTL_US: u64 = 10_000_000;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-arbiter-request-id");
const AGENT_ID: HeaderName = HeaderName::from_static("x-agent-id");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// The headers configured for an upstream, credentials already put in; replaced as a whole.
pub type Headers = Vec<(HeaderName, HeaderValue)>;

struct Resolved {
    addresses: Vec<SocketAddr>,
    at: Mono,
}

/// One server, by URL.
pub struct Upstream {
    url: config::Upstream,
    /// Value of `Host` sent upstream.
    authority: HeaderValue,
    /// Name in records.
    pub(super) name: Arc<str>,
    /// Address, if the URL gives a numeric one.
    fixed: Option<SocketAddr>,
    ca: Option<Arc<CaType>>,
    /// Longest silence inside a response.
    read_timeout: Duration,
    /// Time for which an idle connection is kept.
    idle_timeout: Duration,
    headers: Arc<ArcSwap<Headers>>,
    resolved: ArcSwapOption<Resolved>,
    pub(super) health: Health,
    /// Limit the log lines about its failures and its lists.
    pub(super) failures: Reports,
    pub(super) oddities: Reports,
}

impl Upstream {
    pub fn new(
        url: config::Upstream,
        ca: Option<Arc<CaType>>,
        read_timeout: Duration,
        idle_timeout: Duration,
        headers: Arc<ArcSwap<Headers>>,
    ) -> Self {
        // What the configuration lets pass as a host is text.
        let authority = HeaderValue::from_str(&url.authority())
            .unwrap_or_else(|_never| HeaderValue::from_static(""));
        let name = format!("{}:{}", url.host, url.port).into();
        let fixed = url.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, url.port));
        Self {
            url,
            authority,
            name,
            fixed,
            ca,
            read_timeout,
            idle_timeout,
            headers,
            resolved: ArcSwapOption::empty(),
            health: Health::default(),
            failures: Reports::default(),
            oddities: Reports::default(),
        }
    }

    pub(super) fn url(&self) -> &config::Upstream {
        &self.url
    }

    /// The address to connect to after so many tries.
    pub(super) async fn peer(&self, tries: usize, now: Mono) -> Result<Box<HttpPeer>> {
        let address = match self.fixed {
            Some(fixed) => fixed,
            None => self.named(tries, now).await?,
        };
        let tls = self.url.scheme == config::Scheme::Https;
        let name = if tls { self.url.host.clone() } else { String::new() };
        let mut peer = HttpPeer::new(address, tls, name);
        let options = &mut peer.options;
        options.connection_timeout = Some(CONNECT_TIMEOUT);
        options.total_connection_timeout = Some(CONNECT_TIMEOUT.saturating_add(TLS_TIMEOUT));
        options.write_timeout = Some(WRITE_TIMEOUT);
        options.idle_timeout = Some(self.idle_timeout);
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        options.ca.clone_from(&self.ca);
        if tls {
            options.read_timeout = Some(self.read_timeout);
            options.alpn = ALPN::H2H1;
            options.max_h2_streams = MAX_H2_STREAMS;
        } else {
            // Its silences are timed by the replaying session.
            options.alpn = wire::protocol();
        }
        Ok(Box::new(peer))
    }

    /// The address for this try among those that the upstream's name has.
    async fn named(&self, tries: usize, now: Mono) -> Result<SocketAddr> {
        let addresses = self.addresses(now).await?;
        let address = addresses.get(tries.checked_rem(addresses.len()).unwrap_or(0)).copied();
        address.ok_or_else(|| {
            Error::explain(ErrorType::Custom(NO_ADDRESS), "the upstream's name has no address")
        })
    }

    /// Between how many addresses of the server there is a choice.
    pub(super) fn addresses_known(&self) -> usize {
        self.resolved.load().as_ref().map_or(1, |known| known.addresses.len())
    }

    /// Reports whether the server takes connections.
    pub(super) async fn look(&self, now: Mono) -> bool {
        let addresses = match self.fixed {
            Some(fixed) => vec![fixed],
            None => self.addresses(now).await.unwrap_or_default(),
        };
        tokio::net::TcpStream::connect(addresses.as_slice()).await.is_ok()
    }

    async fn addresses(&self, now: Mono) -> Result<Vec<SocketAddr>> {
        let known = self.resolved.load_full();
        if let Some(known) = &known
            && now.since(known.at) < NAME_TTL_US
        {
            return Ok(known.addresses.clone());
        }
        match tokio::net::lookup_host((self.url.host.as_str(), self.url.port)).await {
            Ok(found) => {
                let addresses: Vec<_> = found.collect();
                self.resolved
                    .store(Some(Arc::new(Resolved { addresses: addresses.clone(), at: now })));
                Ok(addresses)
            }
            // A name server that is away must not take the upstream with it.
            Err(e) => known.map(|known| known.addresses.clone()).ok_or_else(|| {
                Error::because(ErrorType::Custom(NO_ADDRESS), "resolving the upstream", e)
            }),
        }
    }

    /// Addresses a head that was prepared to this server. `path` is what of its path is this server's.
    pub(super) fn address(&self, request: &mut RequestHeader, path: &str) -> Result<()> {
        request.insert_header(header::HOST, self.authority.clone())?;
        for (name, value) in self.headers.load().iter() {
            request.insert_header(name.clone(), value.clone())?;
        }
        let path = match path {
            "" | "/" => self.url.path.as_deref().unwrap_or("/"),
            other => other,
        };
        if path != request.uri.path() {
            let target = match request.uri.query() {
                Some(query) => format!("{path}?{query}"),
                None => path.to_owned(),
            };
            request.set_raw_path(target.as_bytes())?;
        }
        Ok(())
    }
}

/// Turns the client's head into what every server of an upstream gets of it, once for all attempts,
/// and returns the request's id as a header's value.
pub(super) fn prepare(
    head: &mut RequestHeader,
    forwarding: &Forwarding,
    peer: Option<IpAddr>,
    cleared: &Cleared,
) -> Result<HeaderValue> {
    // A target that is no URI is kept as it was written.
    let target = head.uri.path_and_query().map(|target| target.as_str().as_bytes());
    let raw = (target != Some(head.raw_path())).then(|| head.raw_path().to_vec());
    let ends = head.send_end_stream();
    // As parts it has no second map, of how each name was spelt.
    let nothing = http::Request::new(()).into_parts().0;
    let mut parts: Parts = std::mem::replace(head, nothing.into()).into();
    let edited = edit(&mut parts, forwarding, peer, cleared);
    *head = parts.into();
    if let Some(ends) = ends {
        head.set_send_end_stream(ends);
    }
    if let Some(raw) = raw {
        head.set_raw_path(&raw)?;
    }
    edited
}

fn edit(
    parts: &mut Parts,
    forwarding: &Forwarding,
    peer: Option<IpAddr>,
    cleared: &Cleared,
) -> Result<HeaderValue> {
    forwarding.apply(parts, peer)?;
    let headers = &mut parts.headers;
    let behind: SmallVec<[SmolStr; 8]> = headers
        .keys()
        .map(HeaderName::as_str)
        .filter(|name| stays_behind(name))
        .map(SmolStr::new)
        .collect();
    for name in behind {
        headers.remove(name.as_str());
    }
    headers.remove(header::TRANSFER_ENCODING);
    if parts.method == http::Method::POST || !cleared.body().is_empty() {
        let length = cleared.body().len();
        let mut said = headers.get_all(header::CONTENT_LENGTH).iter();
        let is_said =
            said.next().is_some_and(|one| is_length(one, length)) && said.next().is_none();
        if !is_said {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
    } else {
        headers.remove(header::CONTENT_LENGTH);
    }
    headers.insert(header::ACCEPT_ENCODING, IDENTITY);
    let [request, agent] = ids([cleared.request_id(), cleared.agent().0])?;
    headers.insert(REQUEST_ID, request.clone());
    headers.insert(AGENT_ID, agent);
    cleared.pass_trace_on(headers);
    Ok(request)
}

/// Reports whether a header gives this length as the gateway would write it (RFC 9110 section 8.6).
fn is_length(said: &HeaderValue, length: usize) -> bool {
    let canonical = matches!(said.as_bytes(), [b'0'] | [b'1'..=b'9', ..]);
    canonical && said.to_str().is_ok_and(|text| text.parse() == Ok(length))
}

fn stays_behind(name: &str) -> bool {
    head_rules::stays_behind(name) && !contain::is_failpoint(name)
}

/// Two ids as values of headers, which share one allocation.
fn ids(ids: [Uuid; 2]) -> Result<[HeaderValue; 2]> {
    let texts = ids.map(|id| {
        let mut text = [0; Hyphenated::LENGTH];
        id.as_hyphenated().encode_lower(&mut text);
        text
    });
    let bytes = Bytes::from_owner(Texts(texts));
    let value = |part: Range<usize>| {
        HeaderValue::from_maybe_shared(bytes.slice(part))
            .or_err(ErrorType::InvalidHTTPHeader, "an id as a header")
    };
    Ok([value(0..Hyphenated::LENGTH)?, value(Hyphenated::LENGTH..2 * Hyphenated::LENGTH)?])
}

/// The texts of two ids, one behind the other.
struct Texts([[u8; Hyphenated::LENGTH]; 2]);

impl AsRef<[u8]> for Texts {
    fn as_ref(&self) -> &[u8] {
        self.0.as_flattened()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_length_in_plain_digits_is_left_as_it_is() {
        let is = |said, length| is_length(&HeaderValue::from_static(said), length);
        assert!(is("0", 0) && is("318", 318) && is("1", 1));
        for said in [
            "",
            "00",
            "0318",
            "+318",
            "-318",
            " 318",
            "318 ",
            "3180",
            "31",
            "318,318",
            "0x13e",
            "18446744073709551934",
        ] {
            assert!(!is(said, 318) && !is(said, 0), "{said}");
        }
    }

    #[test]
    fn two_ids_are_two_values() {
        let [one, two] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let values = ids([one, two]).unwrap();
        assert_eq!(values, [one, two].map(|id| HeaderValue::from_str(&id.to_string()).unwrap()));
    }
}
