//! Canonical form of resource URIs: the form in which policies and sessions compare them.
//!
//! Servers understand many spellings of one resource (`file:///%65tc/passwd`, `FILE://localhost/etc/./passwd`),
//! and a rule that compares bytes is evaded by the next spelling. The canonical form follows RFC 3986
//! section 6.2.2 and 6.2.3 and goes a little further, because the usual servers do: escapes that need not be
//! there are decoded, `.` and `..` are resolved, scheme and host are in lower case, default ports, the
//! `localhost` of `file:` and a trailing `/` are left out. The agent's own bytes are what is forwarded.
//!
//! A URI that servers resolve differently has no canonical form and is *doubtful*: nothing is allowed
//! for it, and every rule that refuses resources applies to it. Parts that some servers ignore (query,
//! fragment, user information, the host of a `file:` URI, `;` parameters) belong to the canonical form, but a
//! refusal also applies if the URI without them is refused: see [`Canonical::others`].

mod authority;
mod escape;
mod path;
mod pattern;

use std::fmt;

pub use pattern::{covers, pattern};

/// A URI as rules compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical {
    text: String,
    others: Vec<String>,
}

impl Canonical {
    /// The canonical form itself.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Canonical forms of what servers reach that ignore a part of this URI.
    pub fn others(&self) -> &[String] {
        &self.others
    }
}

/// Reason why a URI has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    Syntax,
    Climbs,
    EmptySegment,
    Encoded,
    Backslash,
    Control,
    NotText,
    Host,
    /// A pattern that ends within the host.
    OpenHost,
    /// A pattern with a `*` before its end.
    Star,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "is not a URI: it needs a scheme and valid escapes (RFC 3986)",
            Self::Climbs => "climbs above its root or hides a `..`",
            Self::EmptySegment => "has an empty path segment (`//`)",
            Self::Encoded => "holds an encoded `/`, `\\`, `%` or control character",
            Self::Backslash => "holds a backslash",
            Self::Control => "holds a control character or begins or ends with a space",
            Self::NotText => "holds escapes that are not UTF-8",
            Self::Host => "has no valid host or port",
            Self::OpenHost => "ends within the host: write `/` behind the host, before the `*`",
            Self::Star => "may have a `*` only at its end",
        })
    }
}

/// Schemes of which clients and servers agree that a host follows (WHATWG URL, special schemes).
const WEB: &[&str] = &["http", "https", "ws", "wss", "ftp"];

fn is_web(scheme: &str) -> bool {
    WEB.contains(&scheme)
}

/// Brings a URI into its canonical form.
pub fn canonical(uri: &str) -> Result<Canonical, Doubt> {
    clean(uri)?;
    let (scheme, rest) = split_scheme(uri).ok_or(Doubt::Syntax)?;
    let (body, tails) = tails(rest)?;
    let heads = match hierarchical(&scheme, body)? {
        Some((authority, path)) => {
            let authorities = authority::canonical(&scheme, authority)?;
            let paths = path::canonical(&scheme, path)?;
            let mut heads = Vec::with_capacity(authorities.len() * paths.len());
            for authority in &authorities {
                heads.extend(paths.iter().map(|path| format!("{scheme}://{authority}{path}")));
            }
            heads
        }
        None => vec![format!("{scheme}:{}", path::opaque(body)?)],
    };
    let mut all =
        heads.iter().flat_map(|head| tails.iter().map(move |tail| format!("{head}{tail}")));
    let text = all.next().ok_or(Doubt::Syntax)?;
    Ok(Canonical { others: all.collect(), text })
}

/// Prefix of all URIs that a template (RFC 6570) can expand to: its text up to the first
/// expression.
pub fn of_template(template: &str) -> Result<Canonical, Doubt> {
    let start = template.split('{').next().unwrap_or_default();
    Ok(Canonical { text: pattern::beginning(start)?, others: Vec::new() })
}

/// Refuses what no URI holds and what readers cut off.
fn clean(uri: &str) -> Result<(), Doubt> {
    if uri.trim().len() != uri.len() || uri.chars().any(char::is_control) {
        return Err(Doubt::Control);
    }
    Ok(())
}

/// The scheme in lower case, and what follows its colon.
fn split_scheme(uri: &str) -> Option<(String, &str)> {
    let (scheme, rest) = uri.split_once(':')?;
    (is_scheme(scheme) && !rest.is_empty()).then(|| (scheme.to_ascii_lowercase(), rest))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// Authority and path of a URI that has them; none for an opaque one.
fn hierarchical<'u>(scheme: &str, body: &'u str) -> Result<Option<(&'u str, &'u str)>, Doubt> {
    if let Some(rest) = body.strip_prefix("//") {
        let end = rest.find('/').unwrap_or(rest.len());
        return Ok(rest.split_at_checked(end));
    }
    if is_web(scheme) {
        // Browsers take `https:host` and `https:/host` for `https://host`, others do not.
        return Err(Doubt::Syntax);
    }
    match (body.starts_with('/'), scheme) {
        (true, _) => Ok(Some(("", body))),
        (false, "file") => Err(Doubt::Syntax),
        (false, _) => Ok(None),
    }
}

/// Text before query and fragment, and these two: as they are, without the fragment, and
/// without both, as far as these differ.
fn tails(rest: &str) -> Result<(&str, Vec<String>), Doubt> {
    let (before, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (body, query) = before.split_once('?').unwrap_or((before, ""));
    let mut tails = Vec::with_capacity(1);
    let query = tail('?', query)?;
    let fragment = tail('#', fragment)?;
    if !fragment.is_empty() {
        tails.push(format!("{query}{fragment}"));
    }
    if !query.is_empty() {
        tails.push(query);
    }
    tails.push(String::new());
    Ok((body, tails))
}

/// A query or fragment with its sign, in canonical form; nothing if it is empty.
fn tail(sign: char, text: &str) -> Result<String, Doubt> {
    if text.is_empty() {
        return Ok(String::new());
    }
    if path::climbs_in_tail(text) {
        return Err(Doubt::Climbs);
    }
    let mut out = String::from(sign);
    escape::normalise(text, escape::in_query, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests;
