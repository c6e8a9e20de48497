//! Folders in which a path must lie (`path_under`).
//!
//! A path is resolved by its text alone: what a symbolic link in it points to is known to the server only.

use std::borrow::Cow;

use super::Reading;
use crate::json::keys::{folded, spelled_out};

/// Folders, all of them resolved.
#[derive(Debug)]
pub(in super::super) struct Folders(Box<[Folder]>);

/// A folder as it is written, and without differences of case and Unicode form.
#[derive(Debug)]
struct Folder {
    exact: Box<str>,
    folded: Box<str>,
}

/// Characters that some libraries or code pages turn into dots, slashes or backslashes.
const LOOKALIKES: &[char] = &[
    '\u{A5}', '\u{20A9}', '\u{2024}', '\u{2025}', '\u{2026}', '\u{2044}', '\u{2215}', '\u{2216}',
    '\u{29F5}', '\u{29F8}', '\u{FE52}', '\u{FE68}', '\u{FF0E}', '\u{FF0F}', '\u{FF3C}', '\u{FF5E}',
    '\u{FF05}',
];

impl Folders {
    pub(in super::super) fn parse(entries: &[&str]) -> Result<Self, String> {
        let folders = entries.iter().map(|entry| {
            if entry.contains('*') {
                return Err(format!(
                    "`{entry}` must be a folder; leave out `*`, all below it is meant"
                ));
            }
            let plain = !entry.contains(['%', '\\']) && is_readable(entry);
            let resolved = plain.then(|| resolve(entry)).flatten();
            resolved
                .map(|exact| Folder { folded: fold(&exact).into(), exact: exact.into() })
                .ok_or_else(|| format!("`{entry}` is not a plain path such as `/projects`"))
        });
        folders.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn read(&self, path: &str) -> Reading {
        if is_plain(path) {
            return self.look_up(path.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(path));
        }
        self.read_doubtful(path)
    }

    /// Every way in which a server may read the path must lead to one answer.
    fn read_doubtful(&self, path: &str) -> Reading {
        let Some(decoded) = decoded_once(path) else { return Reading::Unclear };
        let mut found: Option<Reading> = None;
        for text in [path, &*decoded] {
            if !is_readable(text) {
                return Reading::Unclear;
            }
            for text in [Cow::Borrowed(text), Cow::Owned(text.replace('\\', "/"))] {
                let Some(resolved) = resolve(&text) else { return Reading::Unclear };
                let reading = self.look_up(&resolved);
                if *found.get_or_insert(reading) != reading
                    || self.reads_otherwise_folded(&text, reading)
                {
                    return Reading::Unclear;
                }
            }
        }
        found.unwrap_or(Reading::Unclear)
    }

    /// Finds that a server which normalizes Unicode takes the path elsewhere: some characters become dots then.
    fn reads_otherwise_folded(&self, text: &str, reading: Reading) -> bool {
        if text.is_ascii() {
            return false;
        }
        let text = fold(text);
        let resolved = is_readable(&text).then(|| resolve(&text)).flatten();
        resolved.is_none_or(|path| {
            let is_in = self.0.iter().any(|folder| is_under(&path, &folder.folded));
            is_in != (reading == Reading::In)
        })
    }

    /// Finds a folder that the path lies in once case and Unicode form are left aside.
    fn are_alike(&self, path: &str) -> bool {
        let mut folders = self.0.iter().map(|folder| &*folder.folded);
        if !path.is_ascii() {
            let path = fold(path);
            return folders.any(|folder| is_under(&path, folder));
        }
        folders.any(|folder| {
            path.split_at_checked(folder.len()).is_some_and(|(start, rest)| {
                start.eq_ignore_ascii_case(folder) && (rest.is_empty() || rest.starts_with('/'))
            })
        })
    }

    /// Looks up a resolved path. A path that is below a folder in another case or form may be so for
    /// some servers, and one that is relative to an unknown folder may be anywhere.
    fn look_up(&self, path: &str) -> Reading {
        let mut reading = Reading::Out;
        for folder in &self.0 {
            if is_under(path, &folder.exact) {
                return Reading::In;
            }
            if path.starts_with('/') != folder.exact.starts_with('/') {
                reading = Reading::Unclear;
            }
        }
        if reading == Reading::Out && self.are_alike(path) {
            return Reading::Unclear;
        }
        reading
    }
}

fn is_under(path: &str, folder: &str) -> bool {
    if folder == "/" {
        return path.starts_with('/');
    }
    // A relative path that climbs out of its folder has not been resolved.
    if folder == "." {
        return !path.starts_with('/');
    }
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn fold(path: &str) -> String {
    if path.is_ascii() { path.to_ascii_lowercase() } else { folded(&spelled_out(path)).collect() }
}

/// A path that every server reads alike: absolute, in ASCII, without `.` and `..`.
fn is_plain(path: &str) -> bool {
    let mut before = b'x';
    path.starts_with('/')
        && path.bytes().all(|byte| {
            let fine = match byte {
                b'/' | b'.' => before != b'/',
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => true,
                _ => false,
            };
            before = byte;
            fine
        })
}

/// Refuses what means something else to a shell, to Windows, or to a library that maps characters.
fn is_readable(path: &str) -> bool {
    let mut first = path.trim_start_matches(['/', '\\']).chars();
    let drive = first.next().is_some_and(|c| c.is_ascii_alphabetic()) && first.next() == Some(':');
    let mut start = path.chars();
    let slash = |c: Option<char>| matches!(c, Some('/' | '\\'));
    let unc = slash(start.next()) && slash(start.next());
    let odd = |c: char| c.is_control() || c == '~' || LOOKALIKES.contains(&c) || is_invisible(c);
    !path.is_empty() && path.trim() == path && !drive && !unc && !path.chars().any(odd)
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

/// Undoes percent-encoding once; none if the rest still holds encoded dots or separators, or is no text.
fn decoded_once(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [byte, left @ ..] = rest {
        let code = if *byte == b'%' { code(left) } else { None };
        out.push(code.unwrap_or(*byte));
        rest = if code.is_some() { left.get(2..)? } else { left };
    }
    let decoded = String::from_utf8(out).ok()?;
    let bytes = decoded.as_bytes();
    let mut escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    let again = escapes.any(|(at, _)| {
        let rest = bytes.get(at.saturating_add(1)..).unwrap_or_default();
        // Some servers also decode `%u002e`.
        matches!(code(rest), Some(b'.' | b'/' | b'\\' | b'%' | b'~' | 0))
            || matches!(rest, [b'u' | b'U', code, ..] if code.is_ascii_hexdigit())
    });
    (!again).then_some(Cow::Owned(decoded))
}

fn code(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

/// Resolves `.`, `..` and `//`; none if the path leaves an unknown folder, or hides a dot segment.
fn resolve(path: &str) -> Option<String> {
    let is_absolute = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." if is_absolute => drop(kept.pop()),
            ".." => drop(kept.pop()?),
            _ if hides_dots(segment) => return None,
            _ => kept.push(segment),
        }
    }
    let joined = kept.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => Some(format!("/{joined}")),
        (false, true) => Some(".".to_owned()),
        (false, false) => Some(joined),
    }
}

/// True for `...`, `.. `, `. .`, `..;x` or `..:x`: some servers cut such a segment down to a `..`.
fn hides_dots(segment: &str) -> bool {
    let name = segment.split([';', ':']).next().unwrap_or_default();
    let mut kept = name.chars().filter(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-'));
    kept.next() == Some('.') && kept.all(|c| c == '.')
}
