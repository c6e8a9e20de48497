//! A request's head as it was sent, judged before any library reads it.
//!
//! Pingora answers a head that its parser refuses by itself, without a record, a request id or JSON,
//! and repairs others in silence. So whatever it would refuse is refused here first, and what two
//! parsers may read differently with it (RFC 9112 sections 2.2, 3, 5 and 6).

pub use super::head_rules::HeadSize;
use crate::firewall::denial::{Code, Denial};

/// State of a head of which some bytes have come.
#[derive(Debug, PartialEq)]
pub enum Arrival {
    Partial,
    Whole,
    Refused(Box<Denial>),
}

/// A head of which some bytes have come: each line is judged once, when its end has.
#[derive(Debug, Default)]
pub struct Scan {
    seen: usize,
    /// Start of the line that has not ended yet.
    line: usize,
    /// True if the request line has come.
    begun: bool,
    fields: Fields,
    /// The first fault, which is reported once the head is whole.
    fault: Option<Box<Denial>>,
}

impl Scan {
    /// Looks at what has come so far of a request.
    pub fn look(&mut self, read: &[u8], size: HeadSize) -> Arrival {
        while let Some(found) = memchr::memchr(b'\n', read.get(self.seen..).unwrap_or_default()) {
            let end = self.seen + found;
            let line = read.get(self.line..end).unwrap_or_default();
            (self.seen, self.line) = (end + 1, end + 1);
            let is_blank = line.trim_ascii_end().is_empty();
            let is_last = is_blank && self.begun;
            if self.fault.is_none()
                && let Err(fault) = self.check_line(line, is_blank, size)
            {
                self.fault = Some(Box::new(fault));
            }
            self.begun |= !is_blank;
            if is_last {
                return self.whole(end + 1, size);
            }
        }
        self.seen = read.len();
        if !self.begun && read.len().saturating_sub(self.line) > size.uri_bytes + METHOD_AND_VERSION
        {
            return refused(size.uri_too_long());
        }
        if read.len() > size.bytes { refused(size.too_large()) } else { Arrival::Partial }
    }

    /// Checks one line without its newline.
    fn check_line(&mut self, line: &[u8], is_blank: bool, size: HeadSize) -> Result<(), Denial> {
        let line = line
            .strip_suffix(b"\r")
            .ok_or_else(|| malformed("header lines must end with CR LF (RFC 9112 section 2.2)"))?;
        match (self.begun, line.is_empty()) {
            // Empty lines before the request are allowed (RFC 9112 section 2.2).
            (false, true) => Ok(()),
            (false, false) => request_line(line, size),
            (true, true) if is_blank => self.fields.agree(),
            (true, _) => self.fields.add(line, size),
        }
    }

    /// Ends the head, which has so many bytes, the empty line at its end included.
    fn whole(&mut self, bytes: usize, size: HeadSize) -> Arrival {
        if bytes > size.bytes {
            return refused(size.too_large());
        }
        self.fault.take().map_or(Arrival::Whole, Arrival::Refused)
    }
}

/// Room for the rest of a request line beside its target.
const METHOD_AND_VERSION: usize = 64;

fn refused(denial: Denial) -> Arrival {
    Arrival::Refused(Box::new(denial))
}

fn malformed(reason: impl Into<String>) -> Denial {
    Denial::new(Code::MalformedRequest, reason)
}

fn request_line(line: &[u8], size: HeadSize) -> Result<(), Denial> {
    let mut parts = line.splitn(2, |b| *b == b' ');
    let (method, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if method.is_empty() || !are_token(method) {
        return Err(malformed("the request does not begin with a method (RFC 9112 section 3)"));
    }
    let Some(at) = memchr::memrchr(b' ', rest) else {
        // A request line without a version is one of HTTP/0.9.
        return Err(if method == b"GET" && rest.starts_with(b"/") {
            version()
        } else {
            bad_line()
        });
    };
    let (target, version_text) = rest.split_at(at);
    match version_text {
        b" HTTP/1.1" => {}
        [b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(version());
        }
        _ => return Err(bad_line()),
    }
    if method == b"CONNECT" {
        return Err(Denial::new(Code::MethodNotAllowed, "tunnels are not served here"));
    }
    if target.len() > size.uri_bytes {
        return Err(size.uri_too_long());
    }
    if !target.starts_with(b"/") {
        return Err(malformed(
            "the request target must be a path (origin form, RFC 9112 section 3.2.1)",
        ));
    }
    if target.iter().any(|b| !b.is_ascii_graphic()) {
        return Err(malformed("the request target holds a character that must be percent-encoded"));
    }
    if target.contains(&b'#') {
        return Err(malformed("the request target must not hold a fragment (`#`)"));
    }
    Ok(())
}

fn bad_line() -> Denial {
    malformed("the request line is not `<method> <path> HTTP/1.1` (RFC 9112 section 3)")
}

fn version() -> Denial {
    let message = "only HTTP/1.1 and HTTP/2 are supported; HTTP/1.0 and others are not";
    Denial::new(Code::HttpVersionNotSupported, message)
}

/// Facts in the header lines about the message's end and its addressee.
#[derive(Debug, Default)]
struct Fields {
    count: usize,
    hosts: usize,
    lengths: usize,
    codings: usize,
}

impl Fields {
    fn add(&mut self, line: &[u8], size: HeadSize) -> Result<(), Denial> {
        self.count += 1;
        if self.count > size.headers {
            return Err(size.too_many());
        }
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return Err(malformed("header lines must not be folded (RFC 9112 section 5.2)"));
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return Err(malformed("a header line has no colon (RFC 9112 section 5)"));
        };
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !are_token(name) {
            return Err(malformed(
                "a header name holds a character that it must not, as a space before the colon",
            ));
        }
        // All of it, without stopping at the first: so many bytes at once.
        let control = |b: &u8| (*b < b' ' && *b != b'\t') || *b == 0x7f;
        if value.iter().fold(false, |found, b| found | control(b)) {
            return Err(malformed("a header value holds a control character"));
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value),
            10 if name.eq_ignore_ascii_case(b"connection") => connection(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.coding(value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Denial> {
        self.hosts += 1;
        if self.hosts > 1 {
            return Err(malformed("header host must occur once"));
        }
        if value.contains(&b'@') {
            return Err(malformed("header Host is not a host name with an optional port"));
        }
        Ok(())
    }

    fn length(&mut self, value: &[u8]) -> Result<(), Denial> {
        self.lengths += 1;
        if self.lengths > 1 {
            return Err(malformed("header content-length must occur once"));
        }
        // More digits than any limit here allows.
        if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
            return Err(malformed("Content-Length must be one decimal number"));
        }
        Ok(())
    }

    fn coding(&mut self, value: &[u8]) -> Result<(), Denial> {
        self.codings += 1;
        if self.codings > 1 {
            return Err(malformed("header transfer-encoding must occur once"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(malformed("Transfer-Encoding must be chunked"));
        }
        Ok(())
    }

    fn agree(&self) -> Result<(), Denial> {
        if self.lengths > 0 && self.codings > 0 {
            return Err(malformed(
                "Content-Length and Transfer-Encoding together are refused (RFC 9112 section 6.1)",
            ));
        }
        Ok(())
    }
}

fn connection(value: &[u8]) -> Result<(), Denial> {
    let framing = |name: &[u8]| {
        let names: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];
        names.iter().any(|framing| name.trim_ascii().eq_ignore_ascii_case(framing))
    };
    if value.split(|b| *b == b',').any(framing) {
        return Err(malformed("header Connection must not name a header that frames the message"));
    }
    Ok(())
}

/// True for each byte that may be part of a token (RFC 9110 section 5.6.2).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "below 256")]
        {
            table[byte] = is_token(byte as u8);
        }
        byte += 1;
    }
    table
};

fn are_token(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| TOKEN.get(usize::from(*b)).is_some_and(|is| *is))
}

const fn is_token(byte: u8) -> bool {
    let sign = matches!(
        byte,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    );
    sign || byte.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(head: &[u8]) -> Arrival {
        Scan::default().look(head, HeadSize::default())
    }

    fn check(head: impl AsRef<[u8]>, expected: Option<Code>) {
        let head = head.as_ref();
        let found = match look(head) {
            Arrival::Whole => None,
            Arrival::Refused(denial) => Some(denial.code),
            Arrival::Partial => panic!("{} goes on", head.escape_ascii()),
        };
        assert_eq!(found, expected, "{}", head.escape_ascii());
    }

    fn with(line: &str) -> String {
        format!("POST /mcp?x=1 HTTP/1.1\r\nHost: a:80\r\n{line}\r\n\r\n")
    }

    #[test]
    fn good_heads_pass() {
        for line in ["A: b", "A:", "x-y.z_0: caf\u{e9}\t x", "Content-Length: 10", "A: b\r\nA: c"] {
            check(with(line), None);
        }
        check(with("Transfer-Encoding: Chunked"), None);
        check(format!("\r\n\r\n{}", with("A: b")), None);
        check("DELETE / HTTP/1.1\r\n\r\n", None);
    }

    #[test]
    fn what_pingora_would_refuse_by_itself_is_refused_here() {
        let malformed = Some(Code::MalformedRequest);
        for line in [
            "A : b",
            ": b",
            "A\tb",
            "A: b\r\n c: d",
            "A: b\r\n\tc",
            "A: b\0c",
            "A: b\rc",
            "A: \x7f",
            "A(: b",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: +1",
            "Content-Length: 0x1",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Host: b",
            "Connection: close, Host",
            "A: b\nC: d",
        ] {
            check(with(line), malformed);
        }
        check("POST / HTTP/1.1\r\nHost: u@a\r\n\r\n", malformed);
        for line in [
            "POST http://a/ HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "POST a:80 HTTP/1.1",
            "POST  / HTTP/1.1",
            "POST /  HTTP/1.1",
            "POST / HTTP/1.1 ",
            "POST / HTTP/11",
            "POST / http/1.1",
            "POST /\0 HTTP/1.1",
            "POST /a#b HTTP/1.1",
            "POST /\u{e9} HTTP/1.1",
            "P@ST / HTTP/1.1",
            " POST / HTTP/1.1",
            "POST /",
            "hello",
            "\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}",
        ] {
            check(format!("{line}\r\nHost: a\r\n\r\n"), malformed);
        }
        for version in ["0.9", "1.0", "1.2", "2.0", "3.0"] {
            let head = format!("POST / HTTP/{version}\r\nHost: a\r\n\r\n");
            check(head, Some(Code::HttpVersionNotSupported));
        }
        check("GET /\r\n\r\n", Some(Code::HttpVersionNotSupported));
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Code::HttpVersionNotSupported));
        check("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Some(Code::MethodNotAllowed));
    }

    #[test]
    fn large_heads_are_refused_before_they_are_whole() {
        let many: Vec<String> = (0..101).map(|n| format!("x-{n}: 1")).collect();
        check(with(&many.join("\r\n")), Some(Code::HeadTooLarge));
        check(with(&format!("A: {}", "b".repeat(70_000))), Some(Code::HeadTooLarge));
        let endless = format!("POST / HTTP/1.1\r\nA: {}", "b".repeat(70_000));
        check(endless, Some(Code::HeadTooLarge));
        check(format!("POST /{}", "a".repeat(8_300)), Some(Code::UriTooLong));
        check(format!("POST /{} HTTP/1.1\r\n\r\n", "a".repeat(8_192)), Some(Code::UriTooLong));
        assert_eq!(look(b""), Arrival::Partial);
        assert_eq!(look(b"POST / HTTP/1.1\r\nA: b\r\n"), Arrival::Partial);
        assert_eq!(look(b"\r\n\r\n"), Arrival::Partial);
    }

    proptest! {
        /// A request cut anywhere on its way: its head is found at the same place and judged alike.
        #[test]
        fn where_a_head_is_cut_changes_nothing(
            lines in prop::collection::vec("[ -~]{0,12}", 0..5),
            broken in any::<bool>(),
            cut in 0_usize..80,
        ) {
            let end = if broken { "\n" } else { "\r\n" };
            let head = format!("POST / HTTP/1.1{end}{}{end}{end}body\r\n\r\n", lines.join("\r\n"));
            let head = head.as_bytes();
            let whole = look(head);
            let mut scan = Scan::default();
            let cut = cut.min(head.len());
            let mut found = scan.look(&head[..cut], HeadSize::default());
            if found == Arrival::Partial {
                found = scan.look(head, HeadSize::default());
            }
            prop_assert_eq!(found, whole);
        }
    }
}
