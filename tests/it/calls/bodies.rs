//! Bodies of every size reach the upstream byte for byte: the trap that Pingora sets (see
//! `src/proxy/replay.rs`) is checked at every upgrade by this file.

use serde_json::json;

use crate::support::harness::{Gateway, Setup, eventually, tool_call};

/// A tool call of exactly `length` bytes.
fn call_of(length: usize) -> String {
    let frame = tool_call("read_file", json!({"path": ""})).len();
    let call = tool_call("read_file", json!({"path": "x".repeat(length - frame)}));
    assert_eq!(call.len(), length);
    call
}

#[tokio::test]
async fn bodies_up_to_the_limit_arrive_unchanged_with_and_without_length() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    for length in [200, 63 * 1024, 64 * 1024, 64 * 1024 + 1, 1024 * 1024, 10 * 1024 * 1024] {
        let body = call_of(length);
        let with_length = gateway.call(&session, body.clone()).await;
        assert_eq!(with_length.status, 200, "{length}");
        let chunks: Vec<Result<Vec<u8>, std::io::Error>> =
            body.as_bytes().chunks(50_000).map(|chunk| Ok(chunk.to_vec())).collect();
        let stream = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
        let request = gateway.request(&session, Vec::new()).body(stream);
        let chunked = gateway.send(request).await;
        assert_eq!(chunked.status, 200, "{length} chunked");
        let seen = gateway.upstream.seen();
        for seen in seen.iter().rev().take(2) {
            assert!(seen.body == body.as_bytes(), "{length}: the body was changed");
            assert_eq!(seen.headers["content-length"], length.to_string().as_str());
        }
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_nothing_is_forwarded() {
    let gateway =
        Gateway::start(Setup::default().with("proxy.max_request_body_bytes", 10_000)).await;
    let session = gateway.session(json!({})).await;
    let refused = gateway.call(&session, call_of(10_001)).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "BodyTooLarge"));
    let chunks: Vec<Result<Vec<u8>, std::io::Error>> =
        call_of(30_000).as_bytes().chunks(4_000).map(|chunk| Ok(chunk.to_vec())).collect();
    let stream = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    let refused = gateway.send(gateway.request(&session, Vec::new()).body(stream)).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "BodyTooLarge"));
    assert_eq!(gateway.call(&session, call_of(10_000)).await.status, 200);
    assert_eq!(gateway.upstream.calls(), 1);
}

/// Memory of the gateway's process in MiB, by the name that the kernel gives it.
fn memory(gateway: &Gateway, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// Bodies that are made to take much memory take no more than was charged, and what they took goes back:
/// 8 of 3 MB, in the long form 24 of 9 MB.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_take_the_memory_that_is_set_aside_for_them_and_give_it_back() {
    let (count, length) = match std::env::var("HOSTILE_BODIES").as_deref() {
        Ok("large") => (24, 9_000_000),
        _ => (8, 3_000_000),
    };
    let mut gateway = Gateway::start(Setup::default()).await;
    let mut callers = Vec::new();
    for _ in 0..count {
        gateway.agent = gateway.register(json!({})).await;
        let session = gateway.session(json!({})).await;
        callers.push((gateway.agent.clone(), session));
    }
    let (before, anonymous) = (memory(&gateway, "VmRSS"), memory(&gateway, "RssAnon"));
    let body = |piece: &str| {
        let items = piece.repeat(length / piece.len());
        tool_call("read_file", json!({"a": "[]"})).replace("\"[]\"", &format!("[{items}0]"))
    };
    // As many values as a body of its length may hold; and more, which are not read to their end.
    for (piece, statuses) in [("123456,", [200, 429, 503]), ("1,", [413, 429, 503])] {
        let mut requests = Vec::new();
        for (agent, session) in &callers {
            gateway.agent = agent.clone();
            requests.push(gateway.request(session, body(piece)));
        }
        let answers = requests.into_iter().map(|request| gateway.send(request));
        for answer in futures::future::join_all(answers).await {
            assert!(statuses.contains(&answer.status), "{piece}: {}", answer.status);
        }
    }
    let peak = memory(&gateway, "VmHWM") - before;
    let sent = count * length / 1_000_000;
    assert!(peak < 5 * sent, "{peak} MiB for {sent} MB of bodies");
    // Without the pages of the program's own file, which a debug build has many of.
    let kept = || memory(&gateway, "RssAnon");
    let given_back = eventually(|| async { (kept() < anonymous + 24).then_some(()) });
    assert!(given_back.await.is_some(), "{} MiB are kept, of {anonymous} before", kept());
}

#[tokio::test]
async fn numbers_spaces_and_escapes_are_forwarded_as_written() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let body = "{ \"jsonrpc\" : \"2.0\",\t\"id\":12345678901234567890,\"method\":\"tools\\/call\",\n\
        \"params\":{\"name\":\"read\\u005ffile\",\"arguments\":{\"n\":1.10e+2,\"big\":99999999999999999999999,\"s\":\"\\u00e9\\ud83d\\ude00é\"}}}";
    let answer = gateway.call(&session, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gateway.upstream.seen()[0].body, body.as_bytes());
    let record = gateway.record_of(answer.request_id()).await;
    assert_eq!(record["tool_called"], "read_file");
}

#[tokio::test]
async fn the_upstream_sees_verified_identity_and_nothing_of_ours() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let mcp_session = gateway.mcp_session(&session, "abc").await;
    let request = gateway
        .request(&session, tool_call("read_file", json!({})))
        .header("x_agent_id", "someone-else")
        .header("x-arbiter-anything", "1")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("mcp-session-id", mcp_session);
    let answer = gateway.send(request).await;
    assert_eq!(answer.status, 200);
    let seen = &gateway.upstream.seen()[1];
    assert_eq!(seen.path, "/mcp");
    assert_eq!(seen.headers["x-agent-id"], gateway.agent.id.as_str());
    assert_eq!(seen.headers["x-arbiter-request-id"], answer.request_id());
    assert_eq!(seen.headers["accept-encoding"], "identity");
    assert_eq!(seen.headers["mcp-session-id"], "abc");
    assert!(seen.headers.contains_key("traceparent"));
    assert_eq!(seen.headers["host"], gateway.upstream.address.to_string().as_str());
    for absent in ["authorization", "x-arbiter-session", "x_agent_id", "x-arbiter-anything"] {
        assert!(!seen.headers.contains_key(absent), "{absent}");
    }
}
