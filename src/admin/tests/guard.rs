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
    let bearer = |text: String| {
        let request = bare("GET", "/agents").header("authorization", text);
        bench.send(request.body(Body::empty()).unwrap())
    };
    assert_eq!(bearer(format!("Bearer {KEY}")).await.status, 200);
    bearer(format!("Basic {KEY}")).await.is(401, "Unauthorized");
    let both = bare("GET", "/agents")
        .header("authorization", format!("Bearer {KEY}"))
        .header("x-api-key", KEY);
    bench.send(both.body(Body::empty()).unwrap()).await.is(401, "Unauthorized");
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
async fn wrong_keys_shut_out_a_source_but_not_who_worked_from_there() {
    let settings = "[admin]\nrate_limit_per_minute = 100\nwrong_keys_per_minute = 3";
    let other = blake3::hash(b"another right key");
    let entry = format!(
        "\n[[admin.keys]]\nname = \"other\"\nrole = \"viewer\"\nkey_hash = \"blake3:{other}\""
    );
    let bench = Bench::with(&(settings.to_owned() + &entry)).await;
    let ask = async |key: &'static str, from: &str| {
        let peer: std::net::SocketAddr = from.parse().unwrap();
        let request = bare("GET", "/agents").header("x-api-key", key);
        let request = request.extension(axum::extract::ConnectInfo(crate::admin::Peer(peer)));
        bench.send(request.body(Body::empty()).unwrap()).await
    };
    let (office, elsewhere) = ("192.0.2.1:1000", "192.0.2.2:1000");
    assert_eq!(ask(KEY, office).await.status, 200);
    // Without a key nothing was guessed.
    for _ in 0..10 {
        bench
            .send(bare("GET", "/agents").body(Body::empty()).unwrap())
            .await
            .is(401, "Unauthorized");
    }
    for _ in 0..3 {
        ask("wrong", office).await.is(401, "Unauthorized");
    }
    let told = ask("wrong", office).await;
    told.is(429, "RateLimited");
    assert_eq!(told.retry_after.as_deref(), Some("60"));
    ask("another right key", office).await.is(429, "RateLimited");
    assert_eq!(ask(KEY, office).await.status, 200, "it had succeeded from there");
    assert_eq!(ask("another right key", elsewhere).await.status, 200);
    bench.admin.clock.advance_us(60_000_000);
    assert_eq!(ask("another right key", office).await.status, 200);
    let records = bench.records();
    let of = |code: &str| {
        let all = records.iter().filter(|record| record["event"] == "admin.unauthorized");
        all.filter(|record| record["denial_code"] == code).count()
    };
    assert_eq!((of("Unauthorized"), of("RateLimited")), (13, 2));
    let last = records.iter().rev().find(|record| record["denial_code"] == "RateLimited").unwrap();
    assert_eq!(last["client_addr"], "192.0.2.1");
    assert_eq!((&last["http_method"], &last["path"]), (&json!("GET"), &json!("/agents")));
    assert_eq!(last["authorization_decision"], "deny");
    assert!(!last.to_string().contains("another right key"));
}

#[tokio::test]
async fn a_key_that_asks_too_often_can_still_take_away() {
    let bench = Bench::with("[admin]\nrate_limit_per_minute = 4").await;
    let agent = bench.agent(&[]).await;
    let session = bench.session(&agent).await.body["session_id"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        bench.get("/agents").await;
    }
    let told = bench.get("/agents").await;
    told.is(429, "RateLimited");
    assert_eq!(told.retry_after.as_deref(), Some("60"));
    let trust = format!("/agents/{agent}/trust");
    let raise = Some(json!({"trust_level": "trusted"}));
    bench.call("PUT", &trust, raise).await.is(429, "RateLimited");
    let lower = Some(json!({"trust_level": "untrusted"}));
    assert_eq!(bench.call("PUT", &trust, lower).await.status, 200);
    for path in [format!("/sessions/{session}"), "/tokens/x".into(), format!("/agents/{agent}")] {
        assert_eq!(bench.call("DELETE", &path, None).await.status, 200, "{path}");
    }
    bench.session(&agent).await.is(429, "RateLimited");
    bench.admin.clock.advance_us(60_000_000);
    assert_eq!(bench.get("/agents").await.status, 200);
}

#[tokio::test]
async fn a_host_that_is_not_this_gateways_is_refused() {
    let bench = Bench::new().await;
    let ask = async |path: &str, host: &str| {
        let request = bare("GET", path).header("x-api-key", KEY).header("host", host);
        bench.send(request.body(Body::empty()).unwrap()).await
    };
    for host in ["localhost", "LOCALHOST:3000", "127.0.0.1:3000", "[::1]"] {
        assert_eq!(ask("/agents", host).await.status, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:3000", "localhost.evil.example", "a@localhost", ""] {
        ask("/agents", host).await.is(403, "HostDenied");
        ask("/openapi.json", host).await.is(403, "HostDenied");
        // Probes know this machine by names of their own.
        assert_eq!(ask("/ready", host).await.status, 200, "{host}");
    }
    let named = Bench::with("[admin]\nallowed_hosts = [\"Arbiter.example\"]").await;
    let request =
        bare("GET", "/agents").header("x-api-key", KEY).header("host", "arbiter.EXAMPLE:8");
    assert_eq!(named.send(request.body(Body::empty()).unwrap()).await.status, 200);
    let request = bare("GET", "/agents").header("x-api-key", KEY).header("host", "localhost");
    named.send(request.body(Body::empty()).unwrap()).await.is(403, "HostDenied");
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

/// Body of this many KiB of spaces, of undeclared length.
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
