//! Key, rate, and what is not there.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use hyper::body::Frame;

use super::*;

fn bare(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path)
}

#[tokio::test]
async fn the_key_is_asked_for_and_must_be_right() {
    let bench = Bench::new().await;
    let ask = async |keys: &[&str]| {
        let mut request = bare("GET", "/agents");
        for key in keys {
            request = request.header("x-api-key", *key);
        }
        bench.send(request.body(Body::empty()).unwrap()).await
    };
    assert_eq!(ask(&[KEY]).await.status, 200);
    for keys in [&[][..], &["wrong"], &["0123456789abcdeg"], &[KEY, KEY], &[""]] {
        ask(keys).await.is(401, "Unauthorized");
    }
    let bearer = bare("GET", "/agents").header("authorization", format!("Bearer {KEY}"));
    bench.send(bearer.body(Body::empty()).unwrap()).await.is(401, "Unauthorized");
}

#[tokio::test]
async fn a_path_that_is_not_there_is_told_to_key_holders_only() {
    let bench = Bench::new().await;
    bench.send(bare("GET", "/nope").body(Body::empty()).unwrap()).await.is(401, "Unauthorized");
    bench.get("/nope").await.is(404, "NotFound");
    bench.get("/agents/").await.is(404, "NotFound");
}

#[tokio::test]
async fn a_method_that_is_not_there_is_405_with_allow() {
    let bench = Bench::new().await;
    let told = bench.call("PATCH", "/agents", None).await;
    told.is(405, "MethodNotAllowed");
    let allow = told.allow.unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
}

#[tokio::test]
async fn what_needs_no_key_answers_without_one() {
    let bench = Bench::with("[admin]\nrate_limit_per_minute = 1").await;
    for path in ["/health", "/ready", "/openapi.json", "/metrics", "/health"] {
        let told = bench.send(bare("GET", path).body(Body::empty()).unwrap()).await;
        assert_eq!(told.status, 200, "{path}");
    }
}

#[tokio::test]
async fn metrics_need_the_key_only_if_told_so() {
    let bench = Bench::with("[metrics]\nrequire_auth = true").await;
    let told = bench.send(bare("GET", "/metrics").body(Body::empty()).unwrap()).await;
    told.is(401, "Unauthorized");
    let told = bench.get("/metrics").await;
    assert!(told.status == 200 && told.text.contains("arbiter_requests_total"), "{told:?}");
    let off = Bench::with("[metrics]\nenabled = false").await;
    off.get("/metrics").await.is(404, "NotFound");
}

#[tokio::test]
async fn wrong_keys_use_up_the_rate_and_a_minute_gives_it_back() {
    let bench = Bench::with("[admin]\nrate_limit_per_minute = 3").await;
    for _ in 0..3 {
        let wrong = bare("GET", "/agents").header("x-api-key", "wrong");
        bench.send(wrong.body(Body::empty()).unwrap()).await.is(401, "Unauthorized");
    }
    let wrong = || bare("GET", "/agents").header("x-api-key", "wrong").body(Body::empty()).unwrap();
    let told = bench.send(wrong()).await;
    told.is(429, "RateLimited");
    assert_eq!(told.retry_after.as_deref(), Some("60"));
    // Whoever holds the key is not locked out by those who guess it.
    for _ in 0..3 {
        assert_eq!(bench.get("/agents").await.status, 200);
    }
    bench.get("/agents").await.is(429, "RateLimited");
    bench.admin.clock.advance_us(60_000_000);
    bench.send(wrong()).await.is(401, "Unauthorized");
    assert_eq!(bench.get("/agents").await.status, 200);
}

#[tokio::test]
async fn answers_are_not_to_be_kept_by_caches() {
    let bench = Bench::new().await;
    for path in ["/agents", "/health", "/nope"] {
        let request = bare("GET", path).header("x-api-key", KEY).body(Body::empty()).unwrap();
        let response = bench.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store", "{path}");
    }
}

#[tokio::test]
async fn bodies_are_json_small_and_plain() {
    let bench = Bench::new().await;
    let send = async |kind: Option<&str>, body: Body| {
        let mut request = bare("POST", "/agents").header("x-api-key", KEY);
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        bench.send(request.body(body).unwrap()).await
    };
    let json = Some("application/json");
    send(None, Body::from("{}")).await.is(415, "UnsupportedMediaType");
    send(Some("text/plain"), Body::from("{}")).await.is(415, "UnsupportedMediaType");
    send(json, Body::from(vec![b' '; 65_537])).await.is(413, "BodyTooLarge");
    send(json, Body::from("")).await.is(400, "MalformedRequest");
    send(json, Body::from("[".repeat(50_000))).await.is(400, "MalformedRequest");
    send(json, Body::from(vec![0xFF, 0xFE])).await.is(400, "MalformedRequest");
    let twice = r#"{"owner":"a","owner":"b","model":"m"}"#;
    send(json, Body::from(twice)).await.is(400, "MalformedRequest");
    // Without a declared length the limit holds while reading.
    send(json, Body::new(Kibibytes(70))).await.is(413, "BodyTooLarge");
}

/// So many KiB of spaces, of a length that is not declared.
struct Kibibytes(usize);

impl HttpBody for Kibibytes {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let left = self.0.checked_sub(1);
        let frame = left.map(|left| {
            self.0 = left;
            Ok(Frame::data(bytes::Bytes::from(vec![b' '; 1_024])))
        });
        Poll::Ready(frame)
    }
}

#[tokio::test]
async fn without_the_audit_log_nothing_changes() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["read"]).await;
    let session = bench.session(&agent).await.body["session_id"].as_str().unwrap().to_owned();
    bench.break_audit().await;
    let calls = [
        ("POST", "/agents".to_owned(), Some(json!({"owner": "o", "model": "m"}))),
        ("DELETE", format!("/agents/{agent}"), None),
        ("PUT", format!("/agents/{agent}/trust"), Some(json!({"trust_level": "trusted"}))),
        ("DELETE", format!("/sessions/{session}"), None),
        ("POST", format!("/agents/{agent}/token"), Some(json!({}))),
        ("DELETE", "/tokens/x".to_owned(), None),
        ("POST", "/policy/reload".to_owned(), None),
    ];
    for (method, path, body) in calls {
        bench.call(method, &path, body).await.is(503, "AuditUnavailable");
    }
    bench.session(&agent).await.is(503, "AuditUnavailable");
    bench.get("/ready").await.is(503, "AuditUnavailable");
    assert_eq!(bench.get(&format!("/agents/{agent}")).await.body["trust_level"], "basic");
    assert_eq!(bench.get(&format!("/sessions/{session}")).await.body["status"], "active");
    assert_eq!(bench.get("/agents").await.body["agents"].as_array().unwrap().len(), 1);
}
