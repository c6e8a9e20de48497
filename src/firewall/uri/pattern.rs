//! Patterns of URIs: exact ones, and beginnings that end in `*`.

use super::{Doubt, authority, clean, escape, hierarchical, is_scheme, path, split_scheme, tails};

/// Reports whether a canonical pattern covers a canonical URI. A beginning that ends in `/` covers
/// the URI that lacks only this `/`, as servers make no difference between the two.
pub fn covers(pattern: &str, uri: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => uri.starts_with(start) || start.strip_suffix('/') == Some(uri),
        None => pattern == uri,
    }
}

/// Brings an exact URI, or a beginning followed by `*`, into its canonical form.
pub fn pattern(text: &str) -> Result<String, Doubt> {
    let start = text.strip_suffix('*');
    if start.unwrap_or(text).contains('*') {
        return Err(Doubt::Star);
    }
    match start {
        None => super::canonical(text).map(|uri| uri.text),
        Some(start) => beginning(start).map(|mut start| {
            start.push('*');
            start
        }),
    }
}

/// The canonical form of what URIs begin with.
pub(super) fn beginning(start: &str) -> Result<String, Doubt> {
    clean(start)?;
    let Some((scheme, rest)) = start.split_once(':') else {
        let whole = start.is_empty() || is_scheme(start);
        return if whole { Ok(start.to_ascii_lowercase()) } else { Err(Doubt::Syntax) };
    };
    if is_scheme(scheme) && matches!(rest, "" | "/" | "//") {
        return Ok(format!("{}:{rest}", scheme.to_ascii_lowercase()));
    }
    let (scheme, rest) = split_scheme(start).ok_or(Doubt::Syntax)?;
    let (body, tails) = tails(rest)?;
    let tail = tails.into_iter().next().unwrap_or_default();
    // `a?*` and `a#*`: the sign is there although nothing follows it.
    let tail = match (rest.split_once('#'), rest.split_once('?')) {
        (Some((_, "")), _) => tail + "#",
        (None, Some((_, ""))) => tail + "?",
        _ => tail,
    };
    let Some((authority, path)) = hierarchical(&scheme, body)? else {
        return Ok(format!("{scheme}:{}{tail}", path::opaque(body)?));
    };
    if path.is_empty() && tail.is_empty() {
        return open_host(&scheme, authority);
    }
    let authority = authority::canonical(&scheme, authority)?.into_iter().next();
    let authority = authority.unwrap_or_default();
    let path = if tail.is_empty() {
        path::canonical_prefix(path)?
    } else {
        path::canonical(&scheme, path)?.into_iter().next().unwrap_or_default()
    };
    Ok(format!("{scheme}://{authority}{path}{tail}"))
}

/// A beginning that ends within a host: only what no reading of hosts changes.
fn open_host(scheme: &str, host: &str) -> Result<String, Doubt> {
    let plain = |byte: u8| escape::unreserved(byte);
    if scheme == "file" || !host.bytes().all(plain) {
        return Err(Doubt::OpenHost);
    }
    Ok(format!("{scheme}://{}", host.to_ascii_lowercase()))
}
