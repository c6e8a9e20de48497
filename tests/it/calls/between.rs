//! Obstacles that a gateway once put between a client and its server, kind by kind; real clients meet the same in
//! `tests/clients/between.py`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::harness::{
    Answer, Gateway, Setup, Upstream, events, json_response, read_until, stream_response,
    tool_call, with_headers,
};
use crate::support::raw::{Raw, request_with};

const PAGE: &str = "http://localhost:6274";

fn call() -> String {
    tool_call("read_file", json!({}))
}

fn list() -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string()
}

async fn over_a_socket(gateway: &Gateway, headers: &[(&str, &str)]) -> Answer {
    let session = gateway.session(json!({})).await;
    let mut raw = Raw::connect(&gateway.proxy).await;
    raw.send(request_with(gateway, &session, headers, &call())).await;
    raw.answer().await.unwrap()
}

#[tokio::test]
async fn offers_to_upgrade_are_ignored_where_they_may_be() {
    let gateway = Gateway::start(Setup::default()).await;
    let settings = ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA");
    for offer in ["h2c", "TLS/1.0", "TLS/1.2, h2c"] {
        let connection = ("Connection", "Upgrade, HTTP2-Settings");
        let answer = over_a_socket(&gateway, &[connection, ("Upgrade", offer), settings]).await;
        assert_eq!(answer.status, 200, "{offer}: {answer:?}");
        let seen = gateway.upstream.seen().pop().unwrap();
        assert!(!seen.headers.contains_key("upgrade"), "{offer}");
        assert!(!seen.headers.contains_key("http2-settings"), "{offer}");
    }
    let calls = gateway.upstream.calls();
    for offer in ["websocket", "h2c, websocket", "foo/1"] {
        let answer =
            over_a_socket(&gateway, &[("Connection", "Upgrade"), ("Upgrade", offer)]).await;
        assert_eq!((answer.status, &*answer.code()), (405, "MethodNotAllowed"), "{offer}");
    }
    assert_eq!(gateway.upstream.calls(), calls);
}

#[tokio::test]
async fn pages_of_allowed_origins_can_call_and_read() {
    let gateway =
        Gateway::start(Setup::default().with("proxy.allowed_origins", format!("[\"{PAGE}\"]")))
            .await;
    let base = format!("http://{}/mcp", gateway.proxy);
    let ask = |origin: &str| {
        let preflight = gateway.client.request(reqwest::Method::OPTIONS, &base);
        let preflight = preflight
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,x-arbiter-session,x-evil");
        gateway.send(preflight)
    };
    let granted = ask(PAGE).await;
    assert_eq!((granted.status, granted.body.len()), (204, 0));
    assert_eq!(granted.header("access-control-allow-origin"), Some(PAGE));
    assert_eq!(granted.header("access-control-allow-methods"), Some("POST"));
    let headers = granted.header("access-control-allow-headers");
    assert_eq!(headers, Some("authorization, x-arbiter-session"));
    assert_eq!(granted.header("vary"), Some("Origin"));
    assert!(granted.header("x-arbiter-request-id").is_some());
    let other = ask("http://evil.example").await;
    assert_eq!((other.status, &*other.code()), (403, "OriginDenied"));
    assert_eq!(other.header("access-control-allow-origin"), None);

    gateway.upstream.answer_with(|_| {
        let theirs = [
            ("content-type", "application/json"),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
        ];
        with_headers(200, &theirs, Body::from("{}"))
    });
    let session = gateway.session(json!({})).await;
    let served = gateway.send(gateway.request(&session, call()).header("origin", PAGE)).await;
    let bare = gateway.client.post(&base).header("origin", PAGE);
    let refused = gateway.send(bare.header("content-type", "application/json").body("{}")).await;
    let place = format!("http://{}/.well-known/oauth-protected-resource/mcp", gateway.proxy);
    let metadata = gateway.send(gateway.client.get(place).header("origin", PAGE)).await;
    for (answer, status) in [(served, 200), (refused, 401), (metadata, 200)] {
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert!(answer.header("access-control-expose-headers").unwrap().contains("Retry-After"));
        assert!(answer.header("vary").unwrap().contains("Origin"));
    }
    let plain = gateway.call(&session, call()).await;
    assert_eq!(plain.header("access-control-allow-origin"), None, "no page asked");
}

#[tokio::test]
async fn only_the_named_hosts_are_served_calls_and_metadata() {
    let hosts = Setup::default().with("proxy.allowed_hosts", r#"["mcp.example"]"#);
    let gateway = Gateway::start(hosts).await;
    for (host, status) in [("MCP.example:8080", 200), ("evil.example", 403), ("127.0.0.1", 403)] {
        let answer = over_a_socket(&gateway, &[("Host", host)]).await;
        assert_eq!(answer.status, status, "{host}");
        let place = format!("http://{}/.well-known/oauth-protected-resource", gateway.proxy);
        let metadata = gateway.send(gateway.client.get(place).header("host", host)).await;
        assert_eq!(metadata.status, status, "{host}");
        if status == 403 {
            assert_eq!((&*answer.code(), &*metadata.code()), ("HostDenied", "HostDenied"));
        }
    }
    assert_eq!(gateway.upstream.calls(), 1);
    let health = gateway.client.get(format!("http://{}/health/", gateway.proxy));
    assert_eq!(gateway.send(health).await.status, 200, "probes come with any host");
}

#[tokio::test]
async fn what_a_client_says_of_its_address_is_believed_of_proxies_only() {
    let said =
        [("X-Forwarded-For", "10.0.0.1"), ("X-Real-IP", "10.0.0.1"), ("Forwarded", "for=10.0.0.1")];
    for (trusted, believed) in [("[]", false), (r#"["127.0.0.0/8"]"#, true)] {
        let setup = Setup::default()
            .with("proxy.trusted_proxies", trusted)
            .with("proxy.send_forwarded", believed);
        let gateway = Gateway::start(setup).await;
        assert_eq!(over_a_socket(&gateway, &said).await.status, 200);
        let seen = gateway.upstream.seen().pop().unwrap().headers;
        let text = |name: &str| seen.get(name).map(|value| value.to_str().unwrap());
        if believed {
            assert_eq!(text("x-forwarded-for"), Some("10.0.0.1, 127.0.0.1"));
            assert_eq!(text("x-real-ip"), Some("10.0.0.1"));
            assert!(text("forwarded").unwrap().starts_with("for=10.0.0.1, for=127.0.0.1;host="));
        } else {
            assert_eq!([text("x-forwarded-for"), text("x-real-ip"), text("forwarded")], [None; 3]);
        }
    }
}

#[tokio::test]
async fn a_challenge_of_the_upstream_is_the_gateways_matter() {
    for style in ["http", "result"] {
        let setup = Setup::default().with("proxy.refusal_style", format!("\"{style}\""));
        let gateway = Gateway::start(setup).await;
        let session = gateway.session(json!({})).await;
        for status in [401, 407] {
            gateway.upstream.answer_with(move |_| {
                let evil = "Bearer resource_metadata=\"http://evil.example/x\"";
                let headers = [
                    ("www-authenticate", evil),
                    ("proxy-authenticate", "Basic"),
                    ("content-type", "application/json"),
                ];
                with_headers(status, &headers, Body::from("{\"error\":\"invalid_token\"}"))
            });
            let answer = gateway.call(&session, call()).await;
            assert_eq!(answer.header("www-authenticate"), None);
            assert_eq!(answer.header("proxy-authenticate"), None);
            let body = answer.json();
            let data = match style {
                "http" => &body["error"]["data"],
                _ => &body["result"]["_meta"]["arbiter/refusal"],
            };
            assert_eq!(answer.status, if style == "http" { 502 } else { 200 });
            assert_eq!(
                (&data["code"], &data["cause"]),
                (&json!("UpstreamFailed"), &json!("credentials"))
            );
            let record = gateway.record_of(answer.request_id()).await;
            assert_eq!(
                (&record["upstream_status"], &record["upstream_cause"]),
                (&json!(status), &json!("credentials"))
            );
            assert_eq!(record["outcome"], "upstream_failed");
        }
    }
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    gateway.upstream.answer_with(|_| {
        let headers = [
            ("content-type", "application/json"),
            ("server", "secret/1"),
            ("x-powered-by", "secret"),
            ("set-cookie", "a=b"),
            ("proxy-status", "x"),
            ("x-kept", "yes"),
        ];
        with_headers(200, &headers, Body::from("{}"))
    });
    let answer = gateway.call(&session, call()).await;
    for name in ["server", "x-powered-by", "set-cookie", "proxy-status"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-kept"), Some("yes"));
}

#[tokio::test]
async fn why_an_upstream_failed_is_said_recorded_and_logged() {
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, cause) in [
        (format!("http://{nowhere}"), "refused"),
        ("http://no-such-host.invalid:80".to_owned(), "dns"),
        ("https://TLS".to_owned(), "tls"),
    ] {
        let plain = Upstream::start().await;
        let url = url.replace("TLS", &plain.address.to_string());
        let gateway =
            Gateway::start(Setup::default().with("proxy.upstream_url", format!("\"{url}\""))).await;
        let session = gateway.session(json!({})).await;
        let answer = gateway.call(&session, call()).await;
        assert_eq!((answer.status, &*answer.code()), (502, "UpstreamFailed"), "{url}");
        assert_eq!(answer.json()["error"]["data"]["cause"], cause, "{url}");
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["upstream_cause"], cause, "{url}");
        for _ in 0..20 {
            gateway.call(&session, call()).await;
        }
        let log = std::fs::read_to_string(gateway.folder.path().join("log.txt")).unwrap();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("MCP server failed")).collect();
        assert_eq!(lines.len(), 1, "one line for all of a server: {log}");
        assert!(lines[0].contains(cause), "{}", lines[0]);
    }
}

#[tokio::test]
async fn a_list_that_fails_behind_its_head_is_a_clean_refusal() {
    let gateway =
        Gateway::start(Setup::default().with("proxy.max_response_body_bytes", 5_000)).await;
    let session = gateway.session(json!({})).await;
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(6_000));
    for (late, code) in [
        (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":null}}"#, "UpstreamFailed"),
        (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, "UpstreamFailed"),
        (r#"{"jsonrpc":"2.0","id":1,"result":[{"name":"read_file"}]}"#, "UpstreamFailed"),
        ("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[]}}", "UpstreamFailed"),
        (r#"{"jsonrpc":"2.0","id":1,"result":{"too"#, "UpstreamFailed"),
        ("", "UpstreamFailed"),
        (&large, "UpstreamResponseTooLarge"),
    ] {
        let late = late.to_owned();
        gateway.upstream.answer_with(move |_| {
            let (sender, body) = events();
            let late = late.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                // A gateway that has seen enough has gone.
                let _gone = sender.send(late);
            });
            with_headers(200, &[("content-type", "application/json")], body)
        });
        let answer = gateway.call(&session, list()).await;
        assert_eq!((answer.status, &*answer.code()), (502, code), "{answer:?}");
        assert_eq!(answer.json()["id"], 1);
    }
    gateway.upstream.answer_with(|_| json_response(""));
    let answer = gateway.call(&session, list()).await;
    assert_eq!((answer.status, &*answer.code()), (502, "UpstreamFailed"), "no body at all");
    gateway.upstream.answer_with(|_| with_headers(202, &[], Body::empty()));
    let notification = json!({"jsonrpc": "2.0", "method": "tools/list"}).to_string();
    assert_eq!(gateway.call(&session, notification).await.status, 202, "nobody waits for a list");
    let good = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#;
    gateway.upstream.answer_with(move |_| json_response(good));
    assert_eq!(gateway.call(&session, list()).await.body, good);
}

#[tokio::test]
async fn silent_streams_get_comments_between_events_only() {
    let gateway = Gateway::start(Setup::default().with("proxy.stream_keepalive_secs", 1)).await;
    let session = gateway.session(json!({})).await;
    let (sender, body) = events();
    let body = Mutex::new(Some(body));
    gateway
        .upstream
        .answer_with(move |_| stream_response(body.lock().unwrap().take().unwrap_or_default()));
    let mut response = gateway.request(&session, call()).send().await.unwrap();
    assert_eq!(read_until(&mut response, "\n\n").await, ": keep-alive\n\n", "before the first");
    sender.send("data: half".to_owned()).unwrap();
    assert_eq!(read_until(&mut response, "half").await, "data: half");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    sender.send(" whole\n\n".to_owned()).unwrap();
    assert_eq!(read_until(&mut response, "\n\n").await, " whole\n\n", "none inside an event");
    assert_eq!(read_until(&mut response, "\n\n").await, ": keep-alive\n\n");
    assert_eq!(read_until(&mut response, "\n\n").await, ": keep-alive\n\n", "and again");
    sender.send("data: last\n\n".to_owned()).unwrap();
    drop(sender);
    assert_eq!(read_until(&mut response, "never").await, "data: last\n\n");
}

/// A server that closes a kept connection when its second request has come, unanswered; gives its
/// address and counts the requests that it read.
async fn closes_on_the_second() -> (std::net::SocketAddr, std::sync::Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                for nth in 0..2 {
                    let mut read = 0;
                    // Requests here are small: the body is there when its closing brace is.
                    while read == 0 || buffer[read - 1] != b'}' {
                        match stream.read(&mut buffer[read..]).await {
                            Ok(0) | Err(_) => return,
                            Ok(more) => read += more,
                        }
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    if nth == 0 {
                        let body = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
                        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
                        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_kept_connection_that_dies_costs_no_protocol_call() {
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    for (body, status, reads) in [(ping, 200, 3), (list(), 200, 3), (call(), 502, 2)] {
        let (address, count) = closes_on_the_second().await;
        let mut upstream = Upstream::start().await;
        upstream.address = address;
        let gateway = Gateway::start_before(upstream, Setup::default()).await;
        let session = gateway.session(json!({})).await;
        assert_eq!(gateway.call(&session, body.clone()).await.status, 200);
        let second = gateway.call(&session, body.clone()).await;
        assert_eq!(second.status, status, "{body}");
        assert_eq!(count.load(Ordering::SeqCst), reads, "{body}");
    }
}

#[tokio::test]
async fn an_initialize_opens_a_session_whatever_session_it_names() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}});
    for (body, status) in [(initialize.to_string(), 200), (list(), 404), (call(), 404)] {
        let request = gateway.request(&session, body.clone()).header("mcp-session-id", "gone");
        assert_eq!(gateway.send(request).await.status, status, "{body}");
    }
    let seen = gateway.upstream.seen();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].headers.contains_key("mcp-session-id"));
}

#[tokio::test]
async fn what_clients_look_for_has_an_answer() {
    let gateway = Gateway::start(Setup::default()).await;
    let ask = |method: reqwest::Method, path: &str| {
        gateway.send(gateway.client.request(method, format!("http://{}{path}", gateway.proxy)))
    };
    for path in [
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/mcp",
        "/.well-known/openid-configuration",
    ] {
        let answer = ask(reqwest::Method::GET, path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_ne!(answer.json(), Value::Null, "{path}");
    }
    assert_eq!(ask(reqwest::Method::GET, "/health/").await.status, 200);
    let options = ask(reqwest::Method::OPTIONS, "/health").await;
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
    let session = gateway.session(json!({})).await;
    let float = call().replacen("\"id\":1", "\"id\":1.0", 1);
    assert_eq!(gateway.call(&session, float).await.status, 200, "an integer, as the schema has it");
}
