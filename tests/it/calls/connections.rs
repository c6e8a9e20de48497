//! Connections: how many, how long they may be silent, and heads that are no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::StreamExt;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::harness::{Gateway, Setup, Upstream, eventually, stream_response, tool_call};
use crate::support::raw::{Raw, request, request_with};

fn closed(cause: &str) -> String {
    format!("arbiter_connections_closed_total{{cause=\"{cause}\"}}")
}

async fn counted(gateway: &Gateway, cause: &str, count: f64) {
    let series = closed(cause);
    let found = eventually(|| async { (gateway.metric(&series).await >= count).then_some(()) });
    assert!(found.await.is_some(), "{series} is {}", gateway.metric(&series).await);
}

/// Refusals with this code: those on record by themselves and those that were counted together.
fn on_record(gateway: &Gateway, code: &str) -> u64 {
    let of_code = |record: &serde_json::Value| {
        let count = record["detail"]["count"].as_u64().unwrap_or(1);
        if record["denial_code"] == code { count } else { 0 }
    };
    gateway.records().iter().map(of_code).sum()
}

#[tokio::test]
async fn heads_that_are_no_request_are_answered_counted_and_recorded() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let good = tool_call("read_file", json!({}));
    let plain = |line: &str| {
        let usual = request(&gateway, &session, &good);
        usual.replacen("Host:", &format!("{line}\r\nHost:"), 1)
    };
    let first =
        |line: &str| request(&gateway, &session, &good).replacen("POST / HTTP/1.1", line, 1);
    let many: Vec<String> = (0..300).map(|n| format!("x-{n}: 1")).collect();
    let cases = [
        (400, "MalformedRequest", plain("x: a\r\n b")),
        (400, "MalformedRequest", plain("x: a\0b")),
        (400, "MalformedRequest", plain("x : a")),
        (400, "MalformedRequest", plain("x: a\rb")),
        (400, "MalformedRequest", plain("Content-Length: 3")),
        (400, "MalformedRequest", plain("Host: other")),
        (400, "MalformedRequest", plain("Transfer-Encoding: gzip")),
        (400, "MalformedRequest", first("POST http://other/ HTTP/1.1")),
        (400, "MalformedRequest", first("nonsense")),
        (400, "MalformedRequest", "\u{16}\u{3}\u{1}\0\u{1}\0\n\n\r\n\r\n".to_owned()),
        (505, "HttpVersionNotSupported", first("POST / HTTP/1.2")),
        (505, "HttpVersionNotSupported", "GET /\r\n\r\n".to_owned()),
        (505, "HttpVersionNotSupported", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        (405, "MethodNotAllowed", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned()),
        (431, "HeadTooLarge", plain(&many.join("\r\n"))),
        (431, "HeadTooLarge", plain(&format!("x: {}", "a".repeat(2_000_000)))),
        (414, "UriTooLong", first(&format!("POST /{} HTTP/1.1", "a".repeat(20_000)))),
    ];
    let total = cases.len();
    for (status, code, bytes) in cases {
        let shown: String = bytes.chars().take(60).collect();
        let before = gateway.metric(&format!("arbiter_denials_total{{code=\"{code}\"}}")).await;
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(bytes).await;
        let answer = raw.answer().await.unwrap_or_else(|| panic!("{shown:?}: no answer"));
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{shown:?}");
        assert_eq!(answer.json()["error"]["data"]["request_id"], answer.request_id());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(answer.header("server"), None, "{shown:?}");
        assert!(answer.header("date").is_some(), "{shown:?}");
        assert_eq!(answer.header("allow"), (status == 405).then_some("POST"), "{shown:?}");
        assert!(raw.rest().await.is_empty(), "{shown:?}: the connection goes on");
        let after = gateway.metric(&format!("arbiter_denials_total{{code=\"{code}\"}}")).await;
        assert!((after - before - 1.0).abs() < 0.1, "{shown:?}: {after} after {before}");
    }
    let recorded = eventually(|| async {
        let codes = [
            "MalformedRequest",
            "HttpVersionNotSupported",
            "MethodNotAllowed",
            "HeadTooLarge",
            "UriTooLong",
        ];
        let sum: u64 = codes.iter().map(|code| on_record(&gateway, code)).sum();
        (usize::try_from(sum).unwrap() == total).then_some(())
    });
    recorded.await.unwrap();
    assert_eq!(gateway.upstream.calls(), 0);
    assert_eq!(gateway.call(&session, good).await.status, 200);
}

#[tokio::test]
async fn idle_connections_give_way_and_busy_ones_do_not() {
    const MAX: usize = 8;
    let gateway = Gateway::start(Setup::default().with("proxy.max_connections", MAX)).await;
    let session = gateway.session(json!({})).await;
    let call = tool_call("read_file", json!({}));
    let mut silent = Vec::new();
    for _ in 0..4 * MAX {
        silent.push(Raw::connect(&gateway.proxy).await);
    }
    let mut known = Raw::connect(&gateway.proxy).await;
    for _ in 0..3 {
        known.send(request(&gateway, &session, &call)).await;
        assert_eq!(known.answer().await.unwrap().status, 200);
        silent.push(Raw::connect(&gateway.proxy).await);
    }
    assert!(silent[0].rest().await.is_empty());
    counted(&gateway, "for_another", 24.0).await;

    // Streams are busy for as long as they are open.
    gateway.upstream.answer_with(|_| {
        let begun = futures::stream::iter([Ok::<_, std::io::Error>("data: {}\n\n")]);
        stream_response(Body::from_stream(begun.chain(futures::stream::pending())))
    });
    let mut busy = Vec::new();
    for _ in 0..MAX {
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(request(&gateway, &session, &call)).await;
        let (head, _) = raw.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        busy.push(raw);
    }
    let mut late = Raw::connect(&gateway.proxy).await;
    late.send(request(&gateway, &session, &call)).await;
    assert!(late.rest().await.is_empty());
    drop(busy);
    let room = eventually(|| async {
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(request(&gateway, &session, &call)).await;
        raw.head().await
    });
    assert!(room.await.unwrap().0.starts_with("HTTP/1.1 200"));
    counted(&gateway, "full", 1.0).await;
}

#[tokio::test]
async fn one_source_has_its_own_limit_if_one_is_set() {
    let gateway =
        Gateway::start(Setup::default().with("proxy.max_connections_per_source", 3)).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(Raw::connect(&gateway.proxy).await);
    }
    let mut late = Raw::connect(&gateway.proxy).await;
    assert!(late.rest().await.is_empty());
    drop(held);
    // What asks for metrics comes from the same source.
    let free = eventually(|| async {
        let url = format!("http://{}/health", gateway.proxy);
        gateway.client.get(url).send().await.ok()
    });
    free.await.unwrap();
    counted(&gateway, "source_full", 1.0).await;
}

#[tokio::test]
async fn silence_and_slowness_end_a_connection() {
    let setup = Setup::default()
        .with("proxy.first_byte_timeout_secs", 1)
        .with("proxy.idle_connection_secs", 1)
        .with("proxy.max_requests_per_connection", 3);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let call = tool_call("read_file", json!({}));
    let mut silent = Raw::connect(&gateway.proxy).await;
    let mut dripping = Raw::connect(&gateway.proxy).await;
    dripping.send("POST / HTTP/1.1\r\nx: ").await;
    let mut kept = Raw::connect(&gateway.proxy).await;
    for number in 1..=3 {
        kept.send(request_with(&gateway, &session, &[], &call)).await;
        let answer = kept.answer().await.unwrap();
        assert_eq!(answer.status, 200);
        let closes = answer.header("connection") == Some("close");
        assert_eq!(closes, number == 3, "answer {number}");
    }
    assert!(kept.rest().await.is_empty());
    assert!(silent.rest().await.is_empty());
    counted(&gateway, "silent", 1.0).await;
    let mut idle = Raw::connect(&gateway.proxy).await;
    idle.send(request(&gateway, &session, &call)).await;
    assert_eq!(idle.answer().await.unwrap().status, 200);
    assert!(idle.rest().await.is_empty());
    counted(&gateway, "idle", 1.0).await;

    let drip = async {
        for _ in 0..12 {
            dripping.send("a").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        dripping.answer().await.unwrap()
    };
    let answer = drip.await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "RequestTooSlow"));
}

#[tokio::test]
async fn a_request_at_the_end_of_the_announced_time_is_answered() {
    const TRIES: u64 = 200;
    // `tests/run long` sets 60: what load balancers keep by default.
    let kept_secs: u64 = std::env::var("KEEP_ALIVE_SECS").map_or(2, |secs| secs.parse().unwrap());
    let announced = format!("timeout={kept_secs}");
    let setup = Setup::default().with("proxy.idle_connection_secs", kept_secs);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({"call_budget": 1_000})).await;
    let call = tool_call("read_file", json!({}));
    let tries = (0..TRIES).map(|number| {
        let (gateway, session, call, announced) = (&gateway, &session, &call, &*announced);
        async move {
            // One after the other, so that none has to wait for the others' answers.
            tokio::time::sleep(Duration::from_millis(10 * number)).await;
            let mut kept = Raw::connect(&gateway.proxy).await;
            kept.send(request(gateway, session, call)).await;
            let answer = kept.answer().await.unwrap();
            assert_eq!(answer.header("keep-alive"), Some(announced));
            assert_eq!(answer.header("connection"), Some("keep-alive"));
            // From 10 ms before to 10 ms after.
            let silent = Duration::from_micros(kept_secs * 1_000_000 - 10_000 + 100 * number);
            tokio::time::sleep(silent).await;
            kept.send(request(gateway, session, call)).await;
            let answer = kept.answer().await.unwrap_or_else(|| panic!("try {number} is lost"));
            assert_eq!(answer.status, 200, "try {number}");
            let closes = answer.header("connection") == Some("close");
            assert_eq!(answer.header("keep-alive"), (!closes).then_some(announced));
            closes
        }
    });
    let closed = futures::future::join_all(tries).await;
    // Too late is the second half.
    assert!(closed.iter().any(|closes| *closes));
    assert_eq!(gateway.upstream.calls() as u64, 2 * TRIES);

    // A refusal, an answer of the gateway's own and one without a body announce it, too.
    let mut kept = Raw::connect(&gateway.proxy).await;
    for line in ["GET /health", "OPTIONS /health", "GET /nowhere"] {
        kept.send(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = kept.answer().await.unwrap();
        assert_eq!(answer.header("keep-alive"), Some(&*announced), "{line}");
    }
    kept.send("GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let answer = kept.answer().await.unwrap();
    assert_eq!((answer.header("connection"), answer.header("keep-alive")), (Some("close"), None));
}

/// An upstream that counts the connections on which requests came, and those of them that ended.
async fn counts_connections() -> (std::net::SocketAddr, Arc<[AtomicUsize; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let shared = Arc::clone(&counts);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counts = Arc::clone(&shared);
            tokio::spawn(async move {
                let mut raw = Raw::over(stream);
                let mut requests = 0;
                while let Some((_, headers)) = raw.head().await {
                    raw.body(&headers).await;
                    requests += 1;
                    counts[0].fetch_add(usize::from(requests == 1), Ordering::SeqCst);
                    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
                    let length = answer.len();
                    raw.send(format!("{head}Content-Length: {length}\r\n\r\n{answer}")).await;
                }
                counts[1].fetch_add(usize::from(requests > 0), Ordering::SeqCst);
            });
        }
    });
    (address, counts)
}

#[tokio::test]
async fn an_idle_connection_to_a_server_is_kept_for_as_long_as_was_set() {
    let (address, counts) = counts_connections().await;
    let count = |which: usize| counts[which].load(Ordering::SeqCst);
    let mut upstream = Upstream::start().await;
    upstream.address = address;
    let setup = Setup::default().with("proxy.upstream_idle_secs", 2);
    let gateway = Gateway::start_before(upstream, setup).await;
    let session = gateway.session(json!({})).await;
    let call = || gateway.call(&session, tool_call("read_file", json!({})));
    for _ in 0..3 {
        assert_eq!(call().await.status, 200);
    }
    let idle = Instant::now();
    assert_eq!((count(0), count(1)), (1, 0), "one connection carried all");
    let ended = eventually(|| async { (count(1) == 1).then_some(()) });
    ended.await.expect("the gateway lets go of it");
    let kept = idle.elapsed();
    assert!((Duration::from_millis(1_500)..Duration::from_secs(6)).contains(&kept), "{kept:?}");
    assert_eq!(call().await.status, 200);
    assert_eq!(count(0), 2);
}
