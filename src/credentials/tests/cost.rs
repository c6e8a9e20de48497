//! The scrubber's law of cost: every byte of a text is read a bounded number of times, whatever the
//! text, its size and its chunks.
//!
//! Reads are counted, not timed, so the law holds on any machine.

use std::sync::Arc;

use bytes::Bytes;

use super::super::decoded::bytes_read;
use super::super::{Content, Patterns, Scrubber, SseScrubber, scrub_header_value};

const SECRETS: [&str; 7] = [
    "tok_live_4f9aC2e7B1d8Kq3Z",
    "S3cr3t-P@ss/w+rd=Zq9&x y",
    "pa\"ss\\wo'rd{}[]:,<>&\u{e9}",
    "-----BEGIN KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX\n-----END KEY-----",
    "12345678",
    "%41%42&amp;\\u0041",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
];

/// Pieces that are repeated: each escape of each coding, over each other and mixed, and beginnings of
/// secrets in them.
const PIECES: &[&str] = &[
    "a",
    "-----",
    "&amp;",
    "&#38;",
    "&#x26;",
    "&amp;amp;",
    "&amp;#38;#38;",
    "&#000000038;",
    "&#0",
    "&",
    "%25",
    "%2525",
    "%252525",
    "%25%32%35",
    "%2d",
    "%61",
    "%",
    "\\",
    "\\\\",
    "\\\"",
    "\\u0026",
    "\\u0061",
    "\\\\u0026",
    "\\\\\\\\u005c",
    "\\ud83d",
    "\\ud83d\\udd11",
    "\\x41",
    "\\x5c",
    "QUJD\r\n",
    "QUJD\\r\\n",
    "\n",
    "\r\n",
    "+",
    " ",
    "61:",
    "6161 ",
    "2d2d2d2d2d",
    "746f6b",
    "&amp;%26\\u0026",
    "%5c%5c",
    "&#x5c;&#x5c;",
    "%26%23%33%38%3b",
    "%5c%75%30%30%36%31",
    "\"",
    "\\n",
    "tok_live_",
    "tok_live_4f9aC2e7B1d8Kq3",
    "%74%6f%6b%5f",
    "-----BEGIN KEY-----\n",
    "12345678,",
    "-----BEGIN KEY-----\\n\n\n\n\n\n",
    "dG9rX2xpdmVf",
    "LS0tLS1C",
    "LS0t\n",
    "ORXWWX3M",
];

/// Most reads of one byte, on average over a text.
const MOST_READS: u64 = 256;

fn check(what: &str, piece: &str, bytes: usize, run: impl FnOnce()) {
    let before = bytes_read();
    run();
    let read = bytes_read() - before;
    // A few more for texts that are hardly longer than an escape.
    let most = MOST_READS * (u64::try_from(bytes).unwrap() + 64);
    assert!(read <= most, "{what} of {piece:?}, {bytes} bytes: {read} reads");
}

#[test]
fn every_byte_is_read_a_bounded_number_of_times() {
    let patterns = Arc::new(Patterns::new(SECRETS.iter().map(|s| s.as_bytes())));
    for piece in PIECES {
        for size in [1 << 10, 1 << 14] {
            let text = Bytes::from(piece.repeat(size / piece.len() + 1));
            for chunk in [1, 7, 4096] {
                check("a body", piece, text.len(), || {
                    let mut scrubber = Scrubber::new(Arc::clone(&patterns), Content::Json);
                    text.chunks(chunk).for_each(|c| drop(scrubber.push(Bytes::copy_from_slice(c))));
                    scrubber.finish();
                });
            }
            check("a header", piece, text.len(), || {
                scrub_header_value(&patterns, &text);
            });
            // Each event is looked at as it stands, joined, and string by string.
            let event = [b"data: \"", &*text, b"\"\n\n"].concat();
            check("an event", piece, 4 * text.len(), || {
                let mut scrubber = SseScrubber::new(Arc::clone(&patterns), 1 << 20);
                event.chunks(4096).for_each(|c| {
                    drop(scrubber.push(Bytes::copy_from_slice(c)));
                });
                drop(scrubber.finish());
            });
        }
    }
}
