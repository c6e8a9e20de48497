//! Hosts to which a URL may lead (`host_in`), as WHATWG URL reads them.

use std::borrow::Cow;

use url::{Host, Url};

use super::{Names, Reading, compared, labels_are_plain};

/// Hosts, schemes and ports. Lists of schemes and ports that are empty were not given.
#[derive(Debug, Default)]
pub(in crate::firewall) struct Hosts {
    names: Names,
    schemes: Vec<String>,
    ports: Vec<u16>,
}

/// Host, port and scheme that a URL leads to.
struct Place<'u> {
    scheme: Cow<'u, str>,
    host: Cow<'u, str>,
    /// None for the scheme's own.
    port: Option<u16>,
    /// An IPv6 address that a network may translate into an IPv4 address.
    is_translated: bool,
}

impl Hosts {
    pub(in crate::firewall) fn parse(entries: &[&str]) -> Result<Self, String> {
        let mut hosts = Self::default();
        for entry in entries {
            hosts.names.add(entry).map_err(|why| format!("`{entry}` {why}"))?;
        }
        Ok(hosts)
    }

    pub(in super::super) fn limit(&mut self, schemes: Vec<String>, ports: Vec<u16>) {
        (self.schemes, self.ports) = (schemes, ports);
    }

    /// Returns the host to which a web address (`http`, `https`) leads, if that is certain.
    pub(in crate::firewall) fn of_web(url: &str) -> Option<String> {
        let place = plain(url).or_else(|| parsed(url))?;
        matches!(&*place.scheme, "https" | "http").then(|| place.host.into_owned())
    }

    /// Reports whether an address certainly leads to one of them.
    pub(in crate::firewall) fn hold(&self, url: &str) -> bool {
        self.read(url) == Reading::In
    }

    pub(super) fn read(&self, url: &str) -> Reading {
        let Some(place) = plain(url).or_else(|| parsed(url)) else { return Reading::Unclear };
        if !self.names.hold(&place.host) {
            return if place.is_translated { Reading::Unclear } else { Reading::Out };
        }
        let scheme = if self.schemes.is_empty() {
            matches!(&*place.scheme, "https" | "http").then_some(true)
        } else {
            Some(self.schemes.iter().any(|scheme| **scheme == *place.scheme))
        };
        let port = if self.ports.is_empty() {
            place.port.is_none().then_some(true)
        } else {
            let port = place.port.or_else(|| default_port(&place.scheme));
            Some(port.is_some_and(|port| self.ports.contains(&port)))
        };
        match (scheme, port) {
            (Some(false), _) | (_, Some(false)) => Reading::Out,
            (Some(true), Some(true)) => Reading::In,
            // The host is the one, but nobody said whether another service there is.
            (None, _) | (_, None) => Reading::Unclear,
        }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" | "wss" => Some(443),
        "http" | "ws" => Some(80),
        "ftp" => Some(21),
        _ => None,
    }
}

/// Reads the URLs of which all parsers agree, without copying.
fn plain(url: &str) -> Option<Place<'_>> {
    let (scheme, rest) = match url.strip_prefix("https://") {
        Some(rest) => ("https", rest),
        None => ("http", url.strip_prefix("http://")?),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at_checked(end)?;
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let mut before = b'.';
    let letters = host.bytes().all(|byte| {
        let fine = match byte {
            b'.' => before != b'.',
            b'a'..=b'z' | b'0'..=b'9' => true,
            // `xn--` and its like are for the parser.
            b'-' => before != b'.' && before != b'-',
            _ => false,
        };
        before = byte;
        fine
    });
    let last = host.rsplit('.').next()?;
    let named = last.starts_with(|c: char| c.is_ascii_lowercase());
    if !letters || !named || !tail.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return None;
    }
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            Some(digits.parse().ok()?).filter(|port| default_port(scheme) != Some(*port))
        }
        Some(_) => return None,
    };
    let (scheme, host) = (Cow::Borrowed(scheme), Cow::Borrowed(host));
    Some(Place { scheme, host, port, is_translated: false })
}

/// Reads any other URL; none where parsers differ.
fn parsed(url: &str) -> Option<Place<'_>> {
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    if url.chars().any(odd) {
        return None;
    }
    let (_, rest) =
        url.split_once("://").filter(|(scheme, _)| !scheme.contains([':', '/', '?', '#']))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest.get(..end).filter(|authority| !authority.is_empty())?;
    if authority.contains(['@', '%']) {
        return None;
    }
    let written = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    let url = Url::parse(url).ok()?;
    let found = match url.host()? {
        // Schemes that WHATWG does not know keep their host as it is written.
        Host::Domain(name) => Host::Domain(name.to_ascii_lowercase()),
        Host::Ipv4(address) => Host::Ipv4(address),
        Host::Ipv6(address) => Host::Ipv6(address),
    };
    let is_translated = matches!(found, Host::Ipv6(address) if embeds_another(address.segments()));
    let host = compared(&found);
    let port = url.port();
    (!host.is_empty() && labels_are_plain(written, &host)).then(|| Place {
        scheme: Cow::Owned(url.scheme().to_owned()),
        host: Cow::Owned(host),
        port,
        is_translated,
    })
}

/// IPv4-compatible addresses, NAT64 (RFC 6052, RFC 8215), 6to4 and Teredo: which IPv4 address these
/// lead to is a matter of the network. A mapped one is IPv4 everywhere and is compared as such.
fn embeds_another(segments: [u16; 8]) -> bool {
    match segments {
        [0, 0, 0, 0, 0, 0, high, _] => high != 0,
        [0x64, 0xff9b, 0 | 1, ..]
        | [0x2002, ..]
        | [0x2001, 0, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_quick_way_reads_what_the_parser_reads(
            url in "https?://[a-c0x.-]{1,12}(:(80|443|8443|0443|))?[/?#]?[a-c/@:%.é ]{0,6}",
        ) {
            if let Some(quick) = plain(&url) {
                let Some(full) = parsed(&url) else {
                    panic!("{url} is read by the quick way only");
                };
                prop_assert_eq!((quick.scheme, quick.host, quick.port), (full.scheme, full.host, full.port));
            }
        }
    }
}
