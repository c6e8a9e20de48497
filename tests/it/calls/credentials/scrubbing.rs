//! Responses: no secret in any spelling, part of an answer, coding or chunking.

use std::io::Write as _;

use axum::body::{Body, Bytes};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use super::spellings::spellings;
use super::{
    BREAKER, HEADER, JSON, Keys, OTHER, TOKEN, answered, hides, inject, result_of, text, trusted,
};
use crate::support::harness::{Gateway, Seen, tool_call, with_headers};

const MARK: &str = "[CREDENTIAL]";

#[tokio::test]
async fn every_spelling_is_scrubbed_whatever_the_type_and_status() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    for (name, secret) in [("token", TOKEN), ("other", OTHER), ("breaker", BREAKER)] {
        inject(&gateway, &session, name).await;
        for (spelling, form) in spellings(secret) {
            let what = format!("{name} {spelling}");
            let body = result_of(&[format!("before {form} after"), "innocent".to_owned()]);
            let answer = answered(&gateway, &session, 200, JSON, body.to_string()).await;
            hides(&answer, secret, &what);
            assert_eq!(answer.json()["result"]["content"][1]["text"], "innocent", "{what}");
            assert!(text(&answer).contains(MARK), "{what}");
        }
    }
    for (status, kind) in [
        (402, Some("text/plain")),
        (403, Some("application/octet-stream")),
        (405, Some("text/html; charset=utf-8")),
        (409, None),
        (400, Some("application/json")),
        (404, Some("text/plain")),
        (500, Some("application/json")),
        (503, None),
    ] {
        let headers: Vec<_> = kind.into_iter().map(|kind| ("content-type", kind)).collect();
        let body = format!("{{\"error\":\"no such key: {TOKEN}\"}}");
        let answer = answered(&gateway, &session, status, &headers, body).await;
        assert_eq!(answer.status, status);
        hides(&answer, TOKEN, &format!("{status} {kind:?}"));
        assert!(text(&answer).contains("no such key: [CREDENTIAL]"));
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["credentials_scrubbed"], 1);
    }
    assert!(gateway.metric("arbiter_credentials_scrubbed_total").await >= 8.0);
}

#[tokio::test]
async fn an_answer_without_a_secret_passes_byte_for_byte() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    let mut body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    body.extend_from_slice(&TOKEN.as_bytes()[..TOKEN.len() - 1]);
    let answer =
        answered(&gateway, &session, 404, &[("content-type", "image/png")], body.clone()).await;
    assert!(answer.body == body);
    let text = " {\"a\" : 1.0e2, \"tok_\":\"tok_live\\u0041é\"}\n";
    assert_eq!(answered(&gateway, &session, 200, JSON, text).await.body, text.as_bytes());
}

#[tokio::test]
async fn header_values_are_scrubbed() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    inject(&gateway, &session, "other").await;
    for secret in [TOKEN, OTHER] {
        for (spelling, form) in spellings(secret) {
            let headers = [
                ("content-type", "application/json"),
                ("x-debug", form.as_str()),
                ("x-note", &format!("a={form}; Path=/")),
                ("x-note", "b=innocent"),
                ("set-cookie", &format!("a={form}; Path=/")),
                ("etag", &format!("\"{form}\"")),
            ];
            let answer = answered(&gateway, &session, 200, &headers, "{}").await;
            hides(&answer, secret, spelling);
            let notes: Vec<_> = answer.headers.get_all("x-note").iter().collect();
            assert_eq!(notes, ["a=[CREDENTIAL]; Path=/", "b=innocent"], "{spelling}");
            assert_eq!(answer.header("set-cookie"), None, "nobody's cookies are the gateway's");
        }
    }
    // What the upstream may not say in our name.
    let ours = [("x-arbiter-request-id", TOKEN), ("X-Arbiter-Warning", TOKEN)];
    let answer = answered(&gateway, &session, 200, &ours, "{}").await;
    assert_eq!(answer.request_id().len(), 36);
    hides(&answer, TOKEN, "our headers");
}

fn packed(coding: &str, body: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" | "x-gzip" | "GZip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "raw deflate" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
            encoder.write_all(body).unwrap();
            encoder.into_inner()
        }
        "zstd" => zstd::stream::encode_all(body, 3).unwrap(),
        other => panic!("no such coding: {other}"),
    }
}

#[tokio::test]
async fn a_body_that_comes_compressed_is_read_all_the_same() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    let body = result_of(&[format!("the key is {TOKEN}!"), "x".repeat(5_000)]).to_string();
    let clean = body.replace(TOKEN, MARK);
    for coding in ["gzip", "x-gzip", "GZip", "deflate", "raw deflate", "br", "zstd"] {
        let bytes = packed(coding, body.as_bytes());
        let header = if coding == "raw deflate" { "deflate" } else { coding };
        let headers = [("content-type", "application/json"), ("content-encoding", header)];
        let answer = answered(&gateway, &session, 200, &headers, bytes.clone()).await;
        assert_eq!(answer.status, 200, "{coding}");
        assert_eq!(std::str::from_utf8(&answer.body).unwrap(), clean, "{coding}");
        assert!(!answer.headers.contains_key("content-encoding"), "{coding}");
        assert_eq!(gateway.upstream.seen().pop().unwrap().headers["accept-encoding"], "identity");

        // In small chunks, as an event stream whose events are split anyhow.
        let stream = format!(
            "data: {body}\n\ndata: {{\"d\":\"tok_live_4f9a\"}}\n\ndata: {{\"d\":\"C2e7B1d8Kq3Z\"}}\n\n"
        );
        let bytes = packed(coding, stream.as_bytes());
        let header = header.to_owned();
        gateway.upstream.answer_with(move |_: &Seen| {
            let chunks: Vec<Result<Bytes, std::io::Error>> =
                bytes.chunks(7).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
            let headers =
                [("content-type", "text/event-stream"), ("content-encoding", header.as_str())];
            with_headers(200, &headers, Body::from_stream(futures::stream::iter(chunks)))
        });
        let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
        let expected =
            format!("data: {clean}\n\ndata: {{\"d\":\"{MARK}\"}}\n\ndata: {{\"d\":\"\"}}\n\n");
        assert_eq!(std::str::from_utf8(&answer.body).unwrap(), expected, "{coding}");
    }
}

#[tokio::test]
async fn a_coding_that_is_not_understood_is_refused() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    let body = format!("{{\"key\":\"{TOKEN}\"}}");
    let gzip = packed("gzip", body.as_bytes());
    let twice = packed("gzip", &gzip);
    let one = |coding| vec![("content-encoding", coding)];
    for (headers, bytes) in [
        (one("rot13"), body.clone().into_bytes()),
        (one("compress"), body.clone().into_bytes()),
        (one(""), body.clone().into_bytes()),
        (one("gzip, gzip"), twice.clone()),
        (one("identity, gzip"), gzip.clone()),
        (vec![("content-encoding", "gzip"), ("content-encoding", "gzip")], twice),
        (vec![("content-encoding", "identity"), ("content-encoding", "gzip")], gzip.clone()),
    ] {
        let answer = answered(&gateway, &session, 200, &headers, bytes).await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "UpstreamFailed"), "{headers:?}");
        hides(&answer, TOKEN, "an unknown coding");
    }
    // Broken inside; what is said to be packed and is not.
    for bytes in [body.into_bytes(), gzip[..gzip.len() - 4].to_vec(), [&gzip[..], b"more"].concat()]
    {
        gateway.upstream.answer_with(move |_| {
            with_headers(200, &[("content-encoding", "gzip")], Body::from(bytes.clone()))
        });
        let request = gateway.request(&session, tool_call("read_file", json!({})));
        let sent = request.header("connection", "close").send().await.unwrap();
        // Either it is refused, or the connection breaks off before the body is whole.
        let status = sent.status();
        let body = sent.bytes().await;
        assert!(status == 502 || body.is_err(), "{status} {body:?}");
    }
}

#[tokio::test]
async fn events_are_scrubbed_however_they_are_split() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    let delta = |text: &str| {
        format!("event: message\ndata: {}\n\n", json!({"method": "n", "params": {"delta": text}}))
    };
    let base64 = &spellings(TOKEN).into_iter().find(|(n, _)| *n == "base64 after 1").unwrap().1;
    let streams = [
        delta(&format!("whole {TOKEN} here")),
        [delta("over tok_live_"), delta("4f9aC2e7"), delta("B1d8Kq3Z events")].concat(),
        TOKEN.chars().map(|c| delta(&c.to_string())).collect(),
        [delta(&base64[..9]), delta(&base64[9..])].concat(),
        [delta("interrupted tok_live_4f9aC2"), ": ping\n\n".into(), delta("e7B1d8Kq3Z")].concat(),
        "data: over lines tok_live_4f9a\ndata: C2e7B1d8Kq3Z\n\n".to_owned(),
        "data: over lines tok_live_4f9a\r\ndata:C2e7B1d8Kq3Z\r\n\r\n".to_owned(),
        format!(": comment {TOKEN}\nid: {TOKEN}\nevent: {TOKEN}\nretry: 1\ndata: x\n\n"),
        format!("data: cut off {TOKEN}"),
    ];
    for stream in streams {
        for size in [1, 3, 16, stream.len()] {
            let sent = stream.clone();
            gateway.upstream.answer_with(move |_| {
                let chunks: Vec<Result<Bytes, std::io::Error>> =
                    sent.as_bytes().chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
                let body = Body::from_stream(futures::stream::iter(chunks));
                with_headers(200, &[("content-type", "text/event-stream")], body)
            });
            let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
            hides(&answer, TOKEN, &stream);
            let got = std::str::from_utf8(&answer.body).unwrap();
            assert!(got.contains(MARK), "{stream}\n{got}");
            let joined: String =
                got.lines().filter_map(|l| l.strip_prefix("data:")).map(delta_of).collect();
            assert!(!joined.contains(TOKEN) && !joined.contains(base64.as_str()), "{got}");
        }
    }
}

/// Returns the text that a client appends.
fn delta_of(data: &str) -> String {
    let value: Value = serde_json::from_str(data).unwrap_or_default();
    value["params"]["delta"].as_str().unwrap_or_else(|| data.trim_start()).to_owned()
}

#[tokio::test]
async fn a_secret_of_the_upstreams_headers_is_sent_and_never_comes_back() {
    let keys = Keys::usual();
    let literal = "key-written-down-88";
    let headers = format!(
        "{{ Authorization = \"Bearer ${{CRED:header}}\", x-plain = \"production\", x-api-key = \"{literal}\" }}"
    );
    let setup = keys
        .setup()
        .with("proxy.upstream_headers", headers)
        .with("proxy.deny_non_post_methods", false)
        .with("proxy.require_session", false);
    let gateway = Gateway::start(setup).await;
    let bare = gateway.session(json!({})).await;
    let trusted = trusted(&gateway).await;
    let said = json!({"got": HEADER, "also": literal, "env": "production"}).to_string();
    let shown = json!({"got": MARK, "also": MARK, "env": "production"});
    for session in [&bare, &trusted] {
        let headers = [JSON[0], ("x-echo", HEADER)];
        let answer = answered(&gateway, session, 200, &headers, said.clone()).await;
        assert_eq!(answer.json(), shown);
        assert_eq!(answer.headers["x-echo"], MARK);
        let seen = gateway.upstream.seen().pop().unwrap();
        assert_eq!(seen.headers["authorization"], format!("Bearer {HEADER}").as_str());
        assert_eq!(seen.headers["x-api-key"], literal);
    }
    let url = format!("http://{}/files", gateway.proxy);
    for method in ["GET", "PUT", "DELETE"] {
        let request = gateway.client.request(method.parse().unwrap(), &url);
        let answer = gateway.send(request.bearer_auth(&gateway.agent.token)).await;
        assert_eq!(answer.json(), shown, "{method}");
        let seen = gateway.upstream.seen().pop().unwrap();
        assert_eq!(seen.headers["authorization"], format!("Bearer {HEADER}").as_str());
    }
    // Without a session there are no credentials, but there is the header's.
    let request = gateway.client.post(format!("http://{}/", gateway.proxy));
    let request =
        request.bearer_auth(&gateway.agent.token).header("content-type", "application/json");
    let answer = gateway.send(request.body(tool_call("read_file", json!({})))).await;
    assert_eq!(answer.json(), shown);
}
