//! Finds `${CRED:name}` in a message, and refuses it wherever it must not stand.
//!
//! A reference counts in the string values of a tool call's `arguments` and nowhere else: in a key,
//! an id, a name or another method it would be reflected, logged or compared before it is replaced.
//! Text is judged as a parser reads it (`\u0024{CRED:…}` is a reference) and found in the bytes as
//! they were written. A message without one costs two searches for a few bytes.

use std::ops::Range;

use crate::json::{Doc, Kind, Value};

const OPENING: &str = "${CRED:";
/// Longest name of a credential.
pub const MAX_NAME_BYTES: usize = 64;
/// Most references in one message.
pub(crate) const MAX_REFERENCES: usize = 64;

/// One reference: which name, and where it stands in the message's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub name: String,
    pub span: Range<usize>,
    /// Number of the tool call that the reference belongs to.
    pub call: usize,
}

/// A reference where none may stand, or one that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    #[error(
        "a credential reference stands outside the values of a tool call's `arguments`; move it \
         into a string value there"
    )]
    Misplaced,
    #[error("a credential reference stands in a key of `arguments`; move it into a string value")]
    InKey,
    #[error(
        "a credential reference cannot be read; write `${{CRED:name}}` with a name of at most 64 \
         letters, digits, `_`, `.` or `-`, closed by `}}`, and none inside another"
    )]
    Malformed,
    #[error("more than 64 credential references in one message; send fewer")]
    TooMany,
}

/// Reports whether `name` may be the name of a credential.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// Every reference of a message whose tool calls have these `arguments`.
pub fn references(doc: &Doc<'_>, arguments: &[Value<'_>]) -> Result<Vec<Reference>, Misuse> {
    let mut found = Vec::new();
    if !may_hold_reference(doc.text().as_bytes()) {
        return Ok(found);
    }
    let mut starts: Vec<(usize, usize)> =
        arguments.iter().enumerate().map(|(call, a)| (a.span().start, call)).collect();
    starts.sort_unstable();
    walk(doc.root(), None, &starts, &mut found)?;
    Ok(found)
}

/// Reports whether the text, once unescaped, could hold the opening. None of its characters has
/// another escape than `\u00…`.
fn may_hold_reference(text: &[u8]) -> bool {
    let begins = |mark: u8, rest: &[u8]| {
        let behind = |at: usize| text.get(at.saturating_add(1)..).unwrap_or_default();
        memchr::memchr_iter(mark, text).any(|at| behind(at).starts_with(rest))
    };
    begins(b'$', OPENING.as_bytes().get(1..).unwrap_or_default()) || begins(b'\\', b"u00")
}

/// Visits a value and all below it; `call` is the tool call whose arguments it belongs to. As deep
/// as the parser lets a document be.
fn walk(
    value: Value<'_>,
    call: Option<usize>,
    starts: &[(usize, usize)],
    found: &mut Vec<Reference>,
) -> Result<(), Misuse> {
    let call = call.or_else(|| {
        let at = value.span().start;
        let n = starts.binary_search_by_key(&at, |(start, _)| *start).ok()?;
        starts.get(n).map(|(_, call)| *call)
    });
    match value.kind() {
        Kind::String => match call {
            Some(call) => read_string(value, call, found),
            None if holds_opening(value) => Err(Misuse::Misplaced),
            None => Ok(()),
        },
        Kind::Object => value.entries().try_for_each(|entry| {
            if holds_opening(entry.key_value()) {
                return Err(if call.is_some() { Misuse::InKey } else { Misuse::Misplaced });
            }
            walk(entry.value, call, starts, found)
        }),
        Kind::Array => value.items().try_for_each(|item| walk(item, call, starts, found)),
        Kind::Number | Kind::True | Kind::False | Kind::Null => Ok(()),
    }
}

fn holds_opening(string: Value<'_>) -> bool {
    if may_hold_reference(string.raw().as_bytes()) {
        Characters::of(string).any_opening().is_some()
    } else {
        false
    }
}

fn read_string(string: Value<'_>, call: usize, found: &mut Vec<Reference>) -> Result<(), Misuse> {
    if !may_hold_reference(string.raw().as_bytes()) {
        return Ok(());
    }
    let mut characters = Characters::of(string);
    while let Some(start) = characters.any_opening() {
        let mut name = String::new();
        let end = loop {
            match characters.next() {
                Some((b'}', _, end)) if !name.is_empty() => break end,
                Some((byte, _, _)) if is_name_byte(byte) && name.len() < MAX_NAME_BYTES => {
                    name.push(char::from(byte));
                }
                Some(_) | None => return Err(Misuse::Malformed),
            }
        };
        if found.len() == MAX_REFERENCES {
            return Err(Misuse::TooMany);
        }
        found.push(Reference { name, span: start..end, call });
    }
    Ok(())
}

/// The characters of a string, unescaped, each with where it stands in the document. Characters
/// beyond ASCII are given as [`OTHER`], since no reference holds one.
struct Characters<'d> {
    inner: &'d [u8],
    at: usize,
    offset: usize,
}

const OTHER: u8 = 0xFF;

impl<'d> Characters<'d> {
    fn of(string: Value<'d>) -> Self {
        let raw = string.raw().as_bytes();
        let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
        Self { inner, at: 0, offset: string.span().start + 1 }
    }

    /// The next character: its byte, where it starts and where it ends.
    fn next(&mut self) -> Option<(u8, usize, usize)> {
        let start = self.at;
        let rest = self.inner.get(start..)?;
        let (byte, len) = match rest {
            [] => return None,
            [b'\\', b'u', digits @ ..] => {
                let digits = digits.first_chunk::<4>().map_or(b"ffff", |d| d);
                (unit(*digits), 6)
            }
            [b'\\', b'"' | b'\\' | b'/', ..] => (*rest.get(1)?, 2),
            [b'\\', ..] => (OTHER, 2),
            [byte, ..] => (if byte.is_ascii() { *byte } else { OTHER }, 1),
        };
        self.at += len;
        Some((byte, self.offset + start, self.offset + self.at))
    }

    /// Moves behind the next opening and gives back where it started.
    fn any_opening(&mut self) -> Option<usize> {
        let mut matched = 0;
        let mut opening = 0;
        loop {
            if matched == 0 {
                // Only these two can start one; all else is skipped at once.
                let rest = self.inner.get(self.at..)?;
                self.at += memchr::memchr2(b'$', b'\\', rest)?;
            }
            let (byte, start, _) = self.next()?;
            if OPENING.as_bytes().get(matched) == Some(&byte) {
                if matched == 0 {
                    opening = start;
                }
                matched += 1;
            } else if byte == b'$' {
                opening = start;
                matched = 1;
            } else {
                matched = 0;
            }
            if matched == OPENING.len() {
                return Some(opening);
            }
        }
    }
}

fn unit(digits: [u8; 4]) -> u8 {
    let number = digits
        .iter()
        .fold(0, |number, &digit| number * 16 + char::from(digit).to_digit(16).unwrap_or(0xFFFF));
    u8::try_from(number).ok().filter(u8::is_ascii).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Result<Vec<(String, String)>, Misuse> {
        let doc = Doc::parse(text.as_bytes()).unwrap();
        let arguments: Vec<_> =
            doc.root().get("params").and_then(|p| p.get("arguments")).into_iter().collect();
        let found = references(&doc, &arguments)?;
        Ok(found.into_iter().map(|r| (r.name, text.get(r.span).unwrap().to_owned())).collect())
    }

    fn finds(argument: &str, expected: &[(&str, &str)]) {
        let text = format!("{{\"id\":1,\"params\":{{\"arguments\":{argument}}}}}");
        let expected: Vec<_> =
            expected.iter().map(|(n, s)| ((*n).to_owned(), (*s).to_owned())).collect();
        assert_eq!(find(&text), Ok(expected), "{text}");
    }

    fn refuses(text: &str, misuse: Misuse) {
        assert_eq!(find(text), Err(misuse), "{text}");
    }

    #[test]
    fn a_reference_is_found_however_it_is_written() {
        finds(r#"{"a":"x"}"#, &[]);
        finds(r#"{"a":"${CRED:k}"}"#, &[("k", "${CRED:k}")]);
        finds(
            r#"{"a":["-${CRED:k}${CRED:a.b-c_D9}!"]}"#,
            &[("k", "${CRED:k}"), ("a.b-c_D9", "${CRED:a.b-c_D9}")],
        );
        finds(
            r#"{"a":"é\n\u0024{CR\u0045D:\u006b\u007D"}"#,
            &[("k", r"\u0024{CR\u0045D:\u006b\u007D")],
        );
        finds(r#"{"a":"$${CRED:k}"}"#, &[("k", "${CRED:k}")]);
        finds(r#"{"a":"${${CRED:k}}"}"#, &[("k", "${CRED:k}")]);
        finds(r#"{"a":"\\${CRED:k}"}"#, &[("k", "${CRED:k}")]);
        finds(r#""${CRED:k}""#, &[("k", "${CRED:k}")]);
    }

    #[test]
    fn what_looks_alike_is_text() {
        for text in
            ["${cred:k}", "$ {CRED:k}", "$CRED:k", "{CRED:k}", "${CRED k}", "\\\\u0024{CRED:k}"]
        {
            finds(&format!("{{\"a\":\"{text}\"}}"), &[]);
        }
    }

    #[test]
    fn a_reference_elsewhere_is_refused() {
        for text in [
            r#"{"id":"${CRED:k}"}"#,
            r#"{"method":"x${CRED:k}"}"#,
            r#"{"params":{"name":"${CRED:k}","arguments":{}}}"#,
            r#"{"params":{"_meta":{"a":["${CRED:k}"]},"arguments":{}}}"#,
            r#"{"${CRED:k}":1}"#,
            r#"{"params":{"uri":"\u0024{CRED:k}"}}"#,
            r#"{"params":{"uri":"${CRED:"}}"#,
        ] {
            refuses(text, Misuse::Misplaced);
        }
        refuses(r#"{"params":{"arguments":{"${CRED:k}":1}}}"#, Misuse::InKey);
        refuses(r#"{"params":{"arguments":{"a":{"\u0024{CRED:k}":1}}}}"#, Misuse::InKey);
    }

    #[test]
    fn a_reference_that_cannot_be_read_is_refused() {
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        for name in ["${CRED:}", "${CRED:a b}", "${CRED:a", "${CRED:", "${CRED:a${CRED:b}}", &long]
        {
            let name = if name == long { format!("${{CRED:{long}}}") } else { name.to_owned() };
            refuses(&format!("{{\"params\":{{\"arguments\":[\"{name}\"]}}}}"), Misuse::Malformed);
        }
        let longest = "n".repeat(MAX_NAME_BYTES);
        finds(&format!("\"${{CRED:{longest}}}\""), &[(&longest, &format!("${{CRED:{longest}}}"))]);
    }

    #[test]
    fn each_reference_knows_its_call() {
        let text = r#"[{"arguments":["${CRED:b}"]},{"arguments":"${CRED:a}"}]"#;
        let doc = Doc::parse(text.as_bytes()).unwrap();
        let arguments: Vec<_> = doc.root().items().filter_map(|m| m.get("arguments")).collect();
        let calls: Vec<_> =
            references(&doc, &arguments).unwrap().into_iter().map(|r| (r.name, r.call)).collect();
        assert_eq!(calls, [("b".to_owned(), 0), ("a".to_owned(), 1)]);
    }
}
