//! Places of an answer that no client library shows: trailers, reason phrases, header names,
//! interim responses, transfer codings.

use serde_json::json;

use super::spellings::leaks;
use super::{Keys, TOKEN, reads, trusted};
use crate::support::harness::{Gateway, Upstream};
use crate::support::raw::{Raw, request_with, upstream_that_says};

/// All that a client gets when the upstream answers with these bytes the call that injects.
async fn all_of(upstream_says: &str) -> String {
    let keys = Keys::usual();
    let mut upstream = Upstream::start().await;
    upstream.address = upstream_that_says(upstream_says).await;
    let gateway = Gateway::start_before(upstream, keys.setup()).await;
    let session = trusted(&gateway).await;
    let mut raw = Raw::connect(&gateway.proxy).await;
    let body = reads("${CRED:token}");
    raw.send(request_with(&gateway, &session, &[("Connection", "close")], &body)).await;
    let got = String::from_utf8(raw.rest().await).unwrap();
    let hidden = [leaks(TOKEN, got.as_bytes()), leaks(&TOKEN.to_lowercase(), got.as_bytes())];
    assert_eq!(hidden, [None, None], "{upstream_says}\n\n{got}");
    got
}

#[tokio::test]
async fn trailers_stay_behind() {
    let got = all_of(&format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nTrailer: x-key\r\n\r\n\
         5\r\nhello\r\n8\r\ntok_live\r\n0\r\nx-key: {TOKEN}\r\n{TOKEN}: 1\r\n\r\n"
    ))
    .await;
    // What could have gone on as a secret comes all the same.
    assert!(got.contains("hello") && got.contains("tok_live"), "{got}");
}

#[tokio::test]
async fn a_reason_phrase_says_nothing() {
    let got = all_of(&format!("HTTP/1.1 500 No {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}")).await;
    assert!(got.starts_with("HTTP/1.1 500 Internal Server Error\r\n"), "{got}");
}

#[tokio::test]
async fn a_header_whose_name_tells_goes_as_a_whole() {
    let got = all_of(&format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{TOKEN}: 1\r\nX-{TOKEN}-y: 2\r\nX-Kept: 3\r\nContent-Length: 2\r\n\r\n{{}}"
    ))
    .await;
    assert!(got.to_lowercase().contains("x-kept: 3\r\n") && got.contains("{}"), "{got}");
}

#[tokio::test]
async fn interim_responses_say_nothing() {
    for interim in ["100 Continue", "102 Processing", "103 Early Hints"] {
        let got = all_of(&format!(
            "HTTP/1.1 {interim}\r\nLink: <https://x/{TOKEN}>\r\n{TOKEN}: 1\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        ))
        .await;
        assert!(got.contains("HTTP/1.1 200 OK\r\n") && got.contains("{}"), "{got}");
    }
}

#[tokio::test]
async fn a_transfer_coding_that_is_not_understood_is_refused() {
    for coding in ["gzip, chunked", "identity", "chunked\r\nTransfer-Encoding: chunked"] {
        let got = all_of(&format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: {coding}\r\n\r\n19\r\n{TOKEN}\r\n0\r\n\r\n"
        ))
        .await;
        assert!(got.starts_with("HTTP/1.1 502 "), "{coding}: {got}");
        assert!(got.contains("UpstreamFailed"), "{got}");
    }
}

#[tokio::test]
async fn a_body_up_to_the_end_of_the_connection_is_scrubbed() {
    let got = all_of(&format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\nthe key is {TOKEN}"
    ))
    .await;
    assert!(got.contains("the key is [CREDENTIAL]"), "{got}");
}

#[tokio::test]
async fn pieces_are_not_asked_for() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = gateway.session(json!({})).await;
    let request = gateway.request(&session, reads("a")).header("range", "bytes=0-5");
    assert_eq!(gateway.send(request.header("if-range", "\"x\"")).await.status, 200);
    let seen = gateway.upstream.seen().pop().unwrap();
    assert!(!seen.headers.contains_key("range") && !seen.headers.contains_key("if-range"));
}
