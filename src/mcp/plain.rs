//! Plain answers: results of one call that hand out nothing and ask nothing.
//!
//! Most answers are of this kind. One look recognises them when they come whole, so that
//! [`outcome`](super::outcome) and [`continued`](super::continued) follow only the others step by step.
//! Whatever is not exactly of this form is none, and is read by those; a law holds that they find in a
//! plain answer what is found here.

use memchr::memchr2;

/// Longest answer that is looked at.
const MAX_BYTES: usize = 64 * 1024;
/// Longest id.
const MAX_ID: usize = 64;

/// One result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlainAnswer<'b> {
    /// The id as it is written.
    pub(super) id: &'b [u8],
    pub(super) is_error: Option<bool>,
}

impl<'b> PlainAnswer<'b> {
    /// Reads a whole body or event; none if it is no plain answer.
    pub(super) fn read(bytes: &'b [u8]) -> Option<Self> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let mut rest = Rest(bytes);
        let (mut id, mut is_error, mut has_result, mut has_version) = (None, None, false, false);
        rest.object(|key, rest| match key {
            b"jsonrpc" if !has_version => {
                has_version = true;
                rest.text().map(|_version| ())
            }
            b"id" if id.is_none() => {
                id = Some(rest.id()?);
                Some(())
            }
            b"result" if !has_result => {
                has_result = true;
                rest.result(&mut is_error)
            }
            _ => None,
        })?;
        rest.space();
        (rest.0.is_empty() && has_version && has_result).then_some(Self { id: id?, is_error })
    }
}

/// Bytes that have not been read yet.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// Reads an object, whose values `member` reads.
    fn object(&mut self, mut member: impl FnMut(&'b [u8], &mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        loop {
            self.space();
            let key = self.text()?;
            self.space();
            self.expect(b':')?;
            self.space();
            member(key, self)?;
            self.space();
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Reads a text without escapes.
    fn text(&mut self) -> Option<&'b [u8]> {
        self.expect(b'"')?;
        let length = memchr2(b'"', b'\\', self.0)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        self.expect(b'"')?;
        Some(text)
    }

    /// Reads a number or a word, up to what must follow one.
    fn scalar(&mut self) -> Option<&'b [u8]> {
        let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let length = self.0.iter().position(|b| !is_part(b))?;
        let (scalar, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        (!scalar.is_empty()).then_some(scalar)
    }

    fn id(&mut self) -> Option<&'b [u8]> {
        let from = self.0;
        let id = if from.starts_with(b"\"") {
            let inner = self.text()?;
            from.get(..inner.len() + 2)?
        } else {
            self.scalar().filter(|id| id.iter().all(u8::is_ascii_digit))?
        };
        (id.len() <= MAX_ID).then_some(id)
    }

    /// Reads a result, and what it says of being an error.
    fn result(&mut self, is_error: &mut Option<bool>) -> Option<()> {
        let mut has_type = false;
        self.object(|key, rest| match key {
            b"content" | b"structuredContent" | b"_meta" => rest.skip(),
            b"isError" if is_error.is_none() => {
                *is_error = Some(match rest.scalar()? {
                    b"true" => true,
                    b"false" => false,
                    _ => return None,
                });
                Some(())
            }
            b"resultType" if !has_type => {
                has_type = true;
                (rest.text()? == b"complete").then_some(())
            }
            _ => None,
        })
    }

    /// Passes a value, whatever it is.
    fn skip(&mut self) -> Option<()> {
        match self.0.first()? {
            b'"' => self.skip_text(),
            b'{' | b'[' => self.skip_nested(),
            _ => self.scalar().map(|_scalar| ()),
        }
    }

    fn skip_text(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let at = memchr2(b'"', b'\\', self.0)?;
            self.0 = self.0.get(at..)?;
            if self.next()? == b'"' {
                return Some(());
            }
            // An escape takes at least one byte more, which may be a quote.
            self.next()?;
        }
    }

    /// Passes an object or array. A text, an object or an array may begin only where a value or key may, so
    /// that no reader takes its first byte for a part of something else.
    fn skip_nested(&mut self) -> Option<()> {
        let (mut depth, mut begins) = (0_usize, true);
        loop {
            match *self.0.first()? {
                b'"' if begins => {
                    self.skip_text()?;
                    begins = false;
                    continue;
                }
                b'{' | b'[' if begins => depth += 1,
                b'"' | b'{' | b'[' => return None,
                b'}' | b']' => {
                    depth -= 1;
                    begins = false;
                    if depth == 0 {
                        self.next()?;
                        return Some(());
                    }
                }
                b',' | b':' => begins = true,
                b' ' | b'\t' | b'\n' | b'\r' => {}
                _ => begins = false,
            }
            self.next()?;
        }
    }
}

/// Plain answers with a few bytes changed, for the readers that must find in them what they find step by step.
#[cfg(test)]
pub(super) mod nearly {
    use proptest::prelude::*;

    const ANSWERS: [&str; 3] = [
        r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"a \"}"}],"isError":false}}"#,
        r#"{"result":{"isError":true,"_meta":{"a":[1,-2e5,{}]},"resultType":"complete"},"id":7,"jsonrpc":"2.0"}"#,
        r#" {"jsonrpc":"2.0", "id" : "7" , "result":{ "structuredContent" :null,"content":""} } "#,
    ];
    const PIECES: [&str; 24] = [
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "1",
        "e",
        "true",
        "null",
        "\\u0061",
        "\u{feff}",
        "é",
        "id",
        "\"task\":{},",
        "\"TaskId\":\"a\",",
        "\"taskId\":\"a\",",
        "\"error\":{},",
        "\"method\":\"x\",",
        "{\"a\":",
        "isError",
    ];

    pub(in crate::mcp) fn plain() -> impl Strategy<Value = Vec<u8>> {
        let change = (any::<prop::sample::Index>(), 0..4_usize, prop::sample::select(&PIECES[..]));
        let changes = prop::collection::vec(change, 0..3);
        (prop::sample::select(&ANSWERS[..]), changes).prop_map(|(answer, changes)| {
            let mut bytes = answer.as_bytes().to_vec();
            for (place, cut, piece) in changes {
                if piece.ends_with(',') && piece.len() > 1 {
                    // A whole member goes where one can stand.
                    let opens = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'{');
                    let places: Vec<usize> = opens.map(|(at, _)| at + 1).collect();
                    if !places.is_empty() {
                        let at = places[place.index(places.len())];
                        bytes.splice(at..at, piece.bytes());
                    }
                    continue;
                }
                let from = place.index(bytes.len() + 1);
                let to = (from + cut).min(bytes.len());
                bytes.splice(from..to, piece.bytes());
            }
            bytes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(&str, Option<bool>)> {
        let plain = PlainAnswer::read(text.as_bytes())?;
        Some((str::from_utf8(plain.id).unwrap(), plain.is_error))
    }

    #[test]
    fn results_that_say_nothing_else_are_plain() {
        let text = r#"{"jsonrpc":"2.0","id":42,"result":{"content":[{"type":"text","text":"a \"}"}],"isError":false}}"#;
        assert_eq!(read(text), Some(("42", Some(false))));
        let text = " { \"result\" : { \"structuredContent\" : {\"a\":[1, {}, -2e5]} , \"_meta\":null } ,\n\"id\":\"x\",\"jsonrpc\":\"2.0\"} \r\n";
        assert_eq!(read(text.trim_start()), Some(("\"x\"", None)));
        let text = r#"{"jsonrpc":"2.0","id":1,"result":{"content":"é","resultType":"complete","isError":true}}"#;
        assert_eq!(read(text), Some(("1", Some(true))));
    }

    #[test]
    fn whatever_differs_is_not_plain() {
        for text in [
            "",
            "{}",
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#,
            r#"{"jsonrpc":"2.0","id":null,"result":{"content":[]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"id":2,"result":{"content":[]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{"content":[]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]},"Result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"taskId":"1"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"TaskId":"1"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"t\u0061sk":"1"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"task"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[1"}"]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[1{]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}} {}"#,
            r#"[{"jsonrpc":"2.0","id":1,"result":{"content":[]}}]"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
