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

    /// Reads a number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Option<&'b [u8]> {
        let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let length = self.0.iter().position(|b| !is_part(b))?;
        let (scalar, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        (matches!(scalar, b"true" | b"false" | b"null") || is_number(scalar)).then_some(scalar)
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
        let mut nesting = Nesting::default();
        loop {
            match *self.0.first()? {
                b'"' => self.skip_text()?,
                opening @ (b'{' | b'[') => {
                    self.next()?;
                    self.space();
                    nesting.open(opening == b'{')?;
                    if *self.0.first()? != nesting.closing() {
                        self.skip_key(&nesting)?;
                        continue;
                    }
                }
                _ => self.scalar().map(|_scalar| ())?,
            }
            // Here a value has ended, or an object or array without any ends.
            loop {
                if nesting.depth == 0 {
                    return Some(());
                }
                self.space();
                match self.next()? {
                    b',' => break,
                    closing if closing == nesting.closing() => nesting.close(),
                    _ => return None,
                }
            }
            self.space();
            self.skip_key(&nesting)?;
        }
    }

    /// Passes the key that a value of an object has.
    fn skip_key(&mut self, nesting: &Nesting) -> Option<()> {
        if nesting.is_object() {
            self.skip_text()?;
            self.space();
            self.expect(b':')?;
            self.space();
        }
        Some(())
    }

    /// Passes a text, in which control characters are not looked for: no reader takes them for anything else.
    fn skip_text(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let at = memchr2(b'"', b'\\', self.0)?;
            self.0 = self.0.get(at..)?;
            if self.next()? == b'"' {
                return Some(());
            }
            match self.next()? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                b'u' => {
                    let (digits, rest) = self.0.split_at_checked(4)?;
                    self.0 = digits.iter().all(u8::is_ascii_hexdigit).then_some(rest)?;
                }
                _ => return None,
            }
        }
    }
}

/// Most objects and arrays within each other.
const MAX_DEPTH: u32 = 64;

/// Objects and arrays that are open.
#[derive(Default)]
struct Nesting {
    /// A bit each, which says that it is an object; the innermost's is the lowest.
    objects: u64,
    depth: u32,
}

impl Nesting {
    fn open(&mut self, is_object: bool) -> Option<()> {
        self.objects = self.objects << 1 | u64::from(is_object);
        self.depth += 1;
        (self.depth <= MAX_DEPTH).then_some(())
    }

    fn close(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
    }

    fn is_object(&self) -> bool {
        self.objects & 1 == 1
    }

    /// Returns the sign that ends the innermost one.
    fn closing(&self) -> u8 {
        if self.is_object() { b'}' } else { b']' }
    }
}

/// Number as RFC 8259, section 6, has it.
fn is_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, mut rest) = text.split_at(digits(text));
    if whole.is_empty() || (whole.len() > 1 && whole.starts_with(b"0")) {
        return false;
    }
    if let [b'.', fraction @ ..] = rest {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        (_, rest) = fraction.split_at(length);
    }
    match rest {
        [] => true,
        [b'e' | b'E', b'+' | b'-', exponent @ ..] | [b'e' | b'E', exponent @ ..] => {
            !exponent.is_empty() && digits(exponent) == exponent.len()
        }
        _ => false,
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
                    // A whole member is put where one may be.
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

    proptest::proptest! {
        #[test]
        fn what_is_plain_is_json(answer in nearly::plain()) {
            if PlainAnswer::read(&answer).is_some() && str::from_utf8(&answer).is_ok() {
                let json = serde_json::from_slice::<serde::de::IgnoredAny>(&answer);
                proptest::prop_assert!(json.is_ok(), "{}", answer.escape_ascii());
            }
        }

        #[test]
        fn numbers_are_those_of_json(text in "-?[0-9]{0,3}[.]?[0-9]{0,2}[eE]?[-+]?[0-9]{0,2}") {
            let is_json = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            proptest::prop_assert_eq!(is_number(text.as_bytes()), is_json, "{}", text);
        }
    }

    #[test]
    fn objects_and_arrays_within_each_other_are_plain_to_a_depth() {
        let nested = |depth: usize| {
            let (open, close) = ("[{\"a\":".repeat(depth / 2), "}]".repeat(depth / 2));
            format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":{open}1{close}}}}}"#)
        };
        assert_eq!(read(&nested(64)), Some(("1", None)));
        assert_eq!(read(&nested(66)), None);
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
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[1,-2e:{}]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[1:2]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[1,]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[,]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[1}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":{"a"}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":{"a":1,}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":{1:1}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":nul}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[01]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[-]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[1.]}}"#,
            r#"{"jsonrpc":"2.0","id":01,"result":{"content":[]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}} {}"#,
            r#"[{"jsonrpc":"2.0","id":1,"result":{"content":[]}}]"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
