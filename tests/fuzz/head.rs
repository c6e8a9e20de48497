//! Heads of requests against `httparse`, on which Pingora's parser is built: what passes is read by it
//! whole and as the same request, wherever the bytes are cut on their way.

use arbiter::proxy::head::{Arrival, HeadSize, Scan};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::driver::{Input, changed, changes, cuts, fuzz, soup};

const PIECES: &[&str] = &[
    "GET",
    "POST",
    "CONNECT",
    "PRI",
    "P@ST",
    " ",
    "  ",
    "\t",
    "/",
    "/mcp?x=1",
    "/a#b",
    "*",
    "http://a/",
    "//a",
    "/%00",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "HTTP/1.2",
    "http/1.1",
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    "Host: a",
    "Host: a:80",
    "host:b",
    "Host : a",
    " folded",
    "Content-Length: 10",
    "content-length: 0",
    "Content-Length: +1",
    "Transfer-Encoding: chunked",
    "transfer-encoding: gzip",
    "Connection: close",
    "Connection: host, x",
    "A: b",
    "A:",
    ": b",
    "x-y.z_0: caf\u{e9}",
    "A: \u{0}",
    "A: \u{7f}",
    "\u{1}",
    "Upgrade: h2c",
    ",",
    ":",
    "Authorization: Bearer x.y.z",
];

const HEAD: &str = "POST /mcp?x=1 HTTP/1.1\r\nHost: a:80\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\
                    Authorization: Bearer x.y.z\r\nx-agent-id: 7\r\n\r\n";

/// Looks at a head as its pieces arrive, until it is judged.
fn look(head: &[u8], cuts: &[Index]) -> Arrival {
    let mut scan = Scan::default();
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(head.len() + 1)).collect();
    places.push(head.len());
    places.sort_unstable();
    let looks = places.iter().map(|&end| scan.look(&head[..end], HeadSize::default()));
    looks
        .fold(Arrival::Partial, |before, now| if before == Arrival::Partial { now } else { before })
}

fn compare(head: &[u8], cuts: &[Index]) -> Result<(), TestCaseError> {
    let judged = look(head, &[]);
    prop_assert_eq!(&look(head, cuts), &judged, "cut otherwise");
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut headers);
    match (judged, request.parse(head)) {
        (Arrival::Whole, Ok(httparse::Status::Complete(_))) => {
            prop_assert_eq!(request.version, Some(1));
            let path = request.path.unwrap();
            prop_assert!(path.starts_with('/') && !path.contains('#'), "{path}");
            let count = |name: &str| {
                request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).count()
            };
            let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
            prop_assert!(lengths + codings <= 1, "the body's end is open to doubt");
            prop_assert!(count("host") <= 1);
        }
        (Arrival::Whole, parsed) => prop_assert!(false, "passed, and is {parsed:?}"),
        (Arrival::Partial, Ok(httparse::Status::Complete(_))) => {
            prop_assert!(false, "whole, and awaited further");
        }
        (Arrival::Partial | Arrival::Refused(_), _) => {}
    }
    Ok(())
}

#[test]
fn head_of_a_request() {
    let heads = prop_oneof![
        soup(PIECES, 24),
        changes(PIECES).prop_map(|changes| Input(changed(HEAD.as_bytes(), &changes))),
    ];
    fuzz("head of a request", &(heads, cuts()), |(Input(head), cuts)| compare(&head, &cuts));
}
