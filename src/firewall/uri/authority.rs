//! Host, port and user information.

use super::{Doubt, escape, is_web};

/// The canonical authority, and the one of servers that ignore user information or the host of a `file:` URI.
pub(super) fn canonical(scheme: &str, authority: &str) -> Result<Vec<String>, Doubt> {
    let (user, place) = match authority.rsplit_once('@') {
        None => (String::new(), authority),
        Some((user, _)) if user.contains('@') => return Err(Doubt::Syntax),
        Some((user, place)) => {
            let mut out = String::new();
            escape::encode(&escape::decode(user)?, escape::in_segment, &mut out);
            (out, place)
        }
    };
    let (host, port) = split_port(place)?;
    let host = if is_web(scheme) { web_host(host)? } else { host_name(host)? };
    let host = if scheme == "file" && host == "localhost" { String::new() } else { host };
    if host.is_empty() && (!user.is_empty() || port.is_some() || is_web(scheme)) {
        return Err(Doubt::Host);
    }
    let place = match port.filter(|port| default_port(scheme) != Some(*port)) {
        Some(port) => format!("{host}:{port}"),
        None => host,
    };
    let ignored = scheme == "file" && !place.is_empty();
    Ok(match (user.is_empty(), ignored) {
        (true, false) => vec![place],
        (true, true) => vec![place, String::new()],
        (false, false) => vec![format!("{user}@{place}"), place],
        (false, true) => vec![format!("{user}@{place}"), place, String::new()],
    })
}

fn split_port(place: &str) -> Result<(&str, Option<u16>), Doubt> {
    let (host, port) = match place.strip_prefix('[') {
        Some(inside) => {
            let end = inside.find(']').and_then(|at| at.checked_add(2)).ok_or(Doubt::Host)?;
            let (host, rest) = place.split_at_checked(end).ok_or(Doubt::Host)?;
            match rest.strip_prefix(':') {
                Some(port) => (host, port),
                None if rest.is_empty() => (host, ""),
                None => return Err(Doubt::Host),
            }
        }
        None => place.split_once(':').unwrap_or((place, "")),
    };
    if port.is_empty() {
        return Ok((host, None));
    }
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Doubt::Host);
    }
    port.parse().map(|port| (host, Some(port))).ok().ok_or(Doubt::Host)
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        "ftp" => Some(21),
        _ => None,
    }
}

/// A host as web clients read it: IDNA, every spelling of an IP address, no trailing dot.
fn web_host(host: &str) -> Result<String, Doubt> {
    if escape::decode(host)?.contains('*') {
        return Err(Doubt::Host);
    }
    let host = url::Host::parse(host).ok().ok_or(Doubt::Host)?.to_string();
    Ok(host.strip_suffix('.').map_or(host.clone(), str::to_owned))
}

fn host_name(host: &str) -> Result<String, Doubt> {
    if host.starts_with('[') {
        return url::Host::parse(host).map(|address| address.to_string()).ok().ok_or(Doubt::Host);
    }
    let lower = escape::decode(host)?.to_lowercase();
    let mut out = String::with_capacity(lower.len());
    escape::encode(
        &lower,
        |byte| escape::in_segment(byte) && !matches!(byte, b':' | b'@'),
        &mut out,
    );
    Ok(out)
}
