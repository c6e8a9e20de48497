//! Paths: segments decoded once, dot segments resolved.

use super::{Doubt, escape, is_web};

/// Number of decodings of query and fragment in search of a `..`: servers decode once, some twice.
const ROUNDS: usize = 4;

/// The canonical path; for web schemes also the one of servers that ignore `;` parameters.
pub(super) fn canonical(scheme: &str, path: &str) -> Result<Vec<String>, Doubt> {
    let segments = segments(path)?;
    let mut paths = vec![join(&segments)];
    if is_web(scheme) && segments.iter().any(|segment| segment.contains(';')) {
        let plain = segments.iter().map(|s| s.split(';').next().unwrap_or_default().to_owned());
        paths.push(join(&plain.collect::<Vec<_>>()));
    }
    Ok(paths)
}

/// The canonical beginning of paths: whole segments, and the beginning of one more.
pub(super) fn canonical_prefix(path: &str) -> Result<String, Doubt> {
    let (whole, begun) = path.rsplit_once('/').ok_or(Doubt::Syntax)?;
    if whole.ends_with('/') {
        return Err(Doubt::EmptySegment);
    }
    let mut out = join(&segments(whole)?);
    if !out.ends_with('/') {
        out.push('/');
    }
    let begun = escape::decode(begun)?;
    if begun != "." && dots(&begun).is_some() {
        return Err(Doubt::Climbs);
    }
    escape::encode(&begun, escape::in_segment, &mut out);
    Ok(out)
}

/// The segments of a path, decoded. A `/` at the end makes none.
fn segments(path: &str) -> Result<Vec<String>, Doubt> {
    let mut segments = Vec::new();
    let mut rest = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(raw) = rest.next() {
        let segment = escape::decode(raw)?;
        match dots(&segment) {
            Some(Dots::Here) => {}
            Some(Dots::Up) => drop(segments.pop().ok_or(Doubt::Climbs)?),
            Some(Dots::Hidden) => return Err(Doubt::Climbs),
            None if !segment.is_empty() => segments.push(segment),
            None if rest.peek().is_none() => {}
            None => return Err(Doubt::EmptySegment),
        }
    }
    Ok(segments)
}

fn join(segments: &[String]) -> String {
    if segments.is_empty() {
        return "/".to_owned();
    }
    let mut out = String::new();
    for segment in segments {
        out.push('/');
        escape::encode(segment, escape::in_segment, &mut out);
    }
    out
}

enum Dots {
    Here,
    Up,
    /// Servers that cut parameters or spaces off read a dot segment here.
    Hidden,
}

fn dots(segment: &str) -> Option<Dots> {
    let name = segment.split(';').next().unwrap_or_default().trim();
    match (name, name == segment) {
        (".", true) => Some(Dots::Here),
        ("..", true) => Some(Dots::Up),
        ("." | "..", false) => Some(Dots::Hidden),
        _ => None,
    }
}

/// Returns an opaque URI's path with unreserved escapes decoded.
pub(super) fn opaque(path: &str) -> Result<String, Doubt> {
    // What comes before a `?` that is left out must not end in what readers cut off.
    if path.trim().len() != path.len() {
        return Err(Doubt::Control);
    }
    let mut rest = path.as_bytes();
    let mut out = Vec::with_capacity(path.len());
    while let Some((byte, escaped, left)) = escape::first(rest)? {
        match byte {
            b'\\' if !escaped => return Err(Doubt::Backslash),
            b'/' | b'\\' | b'%' | 0..0x20 | 0x7F if escaped => return Err(Doubt::Encoded),
            _ if escape::unreserved(byte) || (!escaped && byte != b'*') => out.push(byte),
            _ => {
                let mut escape = String::with_capacity(3);
                escape::push(&mut escape, byte, false);
                out.extend_from_slice(escape.as_bytes());
            }
        }
        rest = left;
    }
    // Only ASCII was decoded, so what was text still is.
    let text = String::from_utf8(out).ok().ok_or(Doubt::NotText)?;
    if text.split('/').any(|segment| matches!(dots(segment), Some(Dots::Up | Dots::Hidden))) {
        return Err(Doubt::Climbs);
    }
    if text.is_empty() { Err(Doubt::Syntax) } else { Ok(text) }
}

/// Reports whether a `..` lies in a query or fragment, encoded or not: servers build paths of their
/// values.
pub(super) fn climbs_in_tail(tail: &str) -> bool {
    let mut text = tail.as_bytes().to_vec();
    for _ in 0..ROUNDS {
        let decoded = decoded_once(&text);
        if decoded == text {
            return String::from_utf8_lossy(&text)
                .split(['/', '\\', '?', '#', '=', '&'])
                .any(|part| part.split(';').next().unwrap_or_default().trim() == "..");
        }
        text = decoded;
    }
    true
}

/// Undoes percent-encoding; what is no valid escape stays.
fn decoded_once(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, left)) = rest.split_first() {
        let decoded = escape::first(rest).ok().flatten();
        let (byte, left) = decoded.map_or((byte, left), |(byte, _, left)| (byte, left));
        out.push(byte);
        rest = left;
    }
    out
}
