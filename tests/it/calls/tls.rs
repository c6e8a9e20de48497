//! TLS on both sides: HTTP/2 by ALPN, bodies of every size, trailers, clients that leave.
//!
//! The client is curl, which speaks both versions; certificates are made by openssl for each test.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Response};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::support::certificate::Certificate;
use crate::support::harness::{API_KEY, Gateway, PATIENCE, eventually, stream_response, tool_call};

/// Output of curl.
struct Said {
    version: String,
    status: u16,
    headers: String,
    body: Vec<u8>,
}

fn curl(gateway: &Gateway, certificate: &Certificate, session: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "--max-time", "20", "--cacert"])
        .arg(certificate.certificate())
        .args(["-H", &format!("authorization: Bearer {}", gateway.agent.token)])
        .args(["-H", &format!("x-agent-id: {}", gateway.agent.id)])
        .args(["-H", &format!("x-arbiter-session: {session}")])
        .args(["-H", "content-type: application/json"]);
    curl
}

/// Sends a body and reads the whole answer.
async fn ask(
    gateway: &Gateway,
    certificate: &Certificate,
    session: &str,
    options: &[&str],
    body: &[u8],
) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("request"), body).unwrap();
    let mut curl = curl(gateway, certificate, session);
    curl.args(options)
        .arg("-D")
        .arg(file("head"))
        .arg("-o")
        .arg(file("answer"))
        .args(["-w", "%{http_version} %{http_code}"])
        .arg("--data-binary")
        .arg(format!("@{}", file("request").display()))
        .arg(format!("https://{}/", gateway.proxy));
    // It waits for servers that live on this test's runtime.
    let done = tokio::task::spawn_blocking(move || curl.output()).await.unwrap().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8(done.stdout).unwrap();
    let (version, status) = said.split_once(' ').unwrap();
    Said {
        version: version.to_owned(),
        status: status.parse().unwrap(),
        headers: std::fs::read_to_string(file("head")).unwrap(),
        body: std::fs::read(file("answer")).unwrap_or_default(),
    }
}

#[tokio::test]
async fn agents_speak_either_version_and_bodies_of_any_size_arrive() {
    let certificate = Certificate::make();
    // With this key any body goes through the replay, not only what is JSON-RPC.
    let setup = certificate.setup().with("proxy.deny_non_post_methods", false);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        for length in [0, 1, 65 * 1024, 1024 * 1024] {
            let body = b"x".repeat(length);
            let said = ask(&gateway, &certificate, &session, &[option, "-X", "PUT"], &body).await;
            assert_eq!((said.version.as_str(), said.status), (version, 200), "{length}");
            let seen = gateway.upstream.seen().pop().unwrap();
            assert!(seen.method == "PUT" && seen.body == body, "{version} {length}");
        }
        let call = tool_call("read_file", json!({"path": "x".repeat(100_000)}));
        let said = ask(&gateway, &certificate, &session, &[option], call.as_bytes()).await;
        assert_eq!(said.status, 200);
        assert_eq!(gateway.upstream.seen().pop().unwrap().body, call.as_bytes());
        let ended = eventually(|| {
            let record = gateway.records().pop().filter(|r| r["tool_called"] == "read_file");
            async move { record }
        });
        assert_eq!(ended.await.unwrap()["tool_outcome"], "ok", "HTTP/{version}");
        let refused = ask(&gateway, &certificate, &session, &[option], b"{").await;
        assert_eq!(refused.status, 400);
        assert!(refused.headers.to_lowercase().contains("x-arbiter-request-id"));
        let unknown =
            ask(&gateway, &certificate, &session, &[option, "-H", "authorization: x"], b"{}").await;
        let place = format!("https://{}/.well-known/oauth-protected-resource", gateway.proxy);
        assert!(unknown.status == 401 && unknown.headers.contains(&place), "{}", unknown.headers);
    }
    // Without TLS there is nothing to speak to.
    let plain = gateway.client.get(format!("http://{}/health", gateway.proxy)).send().await;
    assert!(plain.is_err());
}

#[tokio::test]
async fn a_certificate_is_renewed_without_a_restart() {
    let (old, new) = (Certificate::make(), Certificate::make());
    let first = std::fs::read(old.certificate()).unwrap();
    let gateway = Gateway::start(old.setup()).await;
    let session = gateway.session(json!({})).await;
    let body = tool_call("read_file", json!({}));
    // curl trusts what is said here, and nothing else.
    let trusts = Certificate { folder: tempfile::tempdir().unwrap() };
    let accepted = async |certificate: &[u8]| {
        std::fs::write(trusts.certificate(), certificate).unwrap();
        let mut curl = curl(&gateway, &trusts, &session);
        curl.args(["--data-binary", &body, "-o", "/dev/null"])
            .arg(format!("https://{}/", gateway.proxy));
        tokio::task::spawn_blocking(move || curl.output()).await.unwrap().unwrap().status.success()
    };
    assert!(accepted(&first).await);
    // Half of the renewal is no certificate at all: the old one goes on.
    std::fs::copy(new.certificate(), old.certificate()).unwrap();
    hang_up(&gateway);
    let log = gateway.folder.path().join("log.txt");
    let says = async |what: &str| {
        let said = || async { std::fs::read_to_string(&log).unwrap().contains(what).then_some(()) };
        eventually(said).await.unwrap_or_else(|| panic!("the log does not say `{what}`"));
    };
    says("the old one stays in force").await;
    assert!(accepted(&first).await);
    std::fs::copy(new.key(), old.key()).unwrap();
    // Nobody tells: the change is noticed.
    says("certificate reloaded").await;
    assert!(accepted(&std::fs::read(new.certificate()).unwrap()).await);
    let reloads: Vec<_> = gateway
        .records()
        .into_iter()
        .filter(|record| record["event"] == "certificate.reload")
        .map(|record| (record["detail"]["trigger"].clone(), record["outcome"].clone()))
        .collect();
    assert!(reloads.contains(&(json!("sighup"), json!("refused"))), "{reloads:?}");
    assert!(reloads.contains(&(json!("watch"), json!("completed"))), "{reloads:?}");
    assert!(!accepted(&first).await);
}

fn hang_up(gateway: &Gateway) {
    let pid = gateway.pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_stops_the_start() {
    let (one, other) = (Certificate::make(), Certificate::make());
    std::fs::copy(other.key(), one.key()).unwrap();
    let started = tokio::spawn(Gateway::start(one.setup())).await;
    let message = started.map(|_| ()).unwrap_err().into_panic();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(message.contains("do not go together"), "{message}");
}

#[tokio::test]
async fn a_client_that_leaves_is_gone_for_the_upstream_too() {
    let certificate = Certificate::make();
    let gateway = Gateway::start(certificate.setup()).await;
    let session = gateway.session(json!({})).await;
    let gone = Arc::new(Notify::new());
    let tell = gone.clone();
    gateway.upstream.answer_with(move |_| {
        let guard = OnDrop(tell.clone());
        let first = futures::stream::once(async { Ok::<_, std::io::Error>(": hello\n\n") });
        let for_ever = futures::stream::once(async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok("")
        });
        stream_response(Body::from_stream(futures::StreamExt::chain(first, for_ever)))
    });
    for option in ["--http2", "--http1.1"] {
        let mut curl = curl(&gateway, &certificate, &session)
            .args([option, "-N", "--data-binary", &tool_call("read_file", json!({}))])
            .arg(format!("https://{}/", gateway.proxy))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Curl itself gives up in the end.
        let mut output = curl.stdout.take().unwrap();
        let read = tokio::task::spawn_blocking(move || output.read_exact(&mut [0; 9]));
        read.await.unwrap().unwrap();
        let left = Instant::now();
        curl.kill().unwrap();
        tokio::time::timeout(PATIENCE, gone.notified()).await.unwrap();
        let took = left.elapsed();
        curl.wait().unwrap();
        assert!(took < Duration::from_millis(100), "{option} {took:?}");
    }
}

struct OnDrop(Arc<Notify>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// An upstream that speaks HTTP/2 over TLS, echoes bodies and adds trailers.
async fn echo_with_trailers(certificate: &Certificate) -> (String, Arc<Mutex<Vec<usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("\"https://{}/mcp\"", listener.local_addr().unwrap());
    let acceptor = certificate.acceptor();
    let lengths: Arc<Mutex<Vec<usize>>> = Arc::default();
    let seen = lengths.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(echo(request, respond, seen.clone()));
                }
            });
        }
    });
    (url, lengths)
}

async fn echo(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    seen: Arc<Mutex<Vec<usize>>>,
) {
    let mut body = request.into_body();
    let mut length = 0;
    while let Some(Ok(part)) = body.data().await {
        length += part.len();
        body.flow_control().release_capacity(part.len()).unwrap();
    }
    seen.lock().unwrap().push(length);
    let head = Response::builder().header("content-type", "application/json").body(()).unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    let answer = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"secret":"hidden-value-1","length":{length}}}}}"#
    );
    stream.send_data(answer.into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "intact".parse().unwrap());
    trailers.insert("x-key", "hidden-value-1".parse().unwrap());
    trailers.insert("x-arbiter-request-id", "forged".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

#[tokio::test]
async fn an_upstream_over_tls_is_spoken_to_in_http_2_trailers_and_all() {
    let certificate = Certificate::make();
    let (url, lengths) = echo_with_trailers(&certificate).await;
    let ca = json!(certificate.certificate().display().to_string()).to_string();
    let mut setup =
        certificate.setup().with("proxy.upstream_url", url).with("proxy.upstream_ca_file", ca);
    setup.env = vec![
        ("ARBITER_CREDENTIALS__PROVIDER", "env".to_owned()),
        ("ARBITER_CRED_up", "hidden-value-1".to_owned()),
        ("ARBITER_PROXY__UPSTREAM_HEADERS", r#"{"x-key":"${CRED:up}"}"#.to_owned()),
    ];
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    for option in ["--http2", "--http1.1"] {
        for length in [200, 65 * 1024, 1024 * 1024] {
            let frame = tool_call("read_file", json!({"path": ""})).len();
            let call = tool_call("read_file", json!({"path": "x".repeat(length - frame)}));
            let said = ask(&gateway, &certificate, &session, &[option], call.as_bytes()).await;
            assert_eq!(said.status, 200, "{option} {length}");
            assert_eq!(lengths.lock().unwrap().pop(), Some(length));
            let expected = format!(
                r#"{{"jsonrpc":"2.0","id":1,"result":{{"secret":"[CREDENTIAL]","length":{length}}}}}"#
            );
            assert_eq!(String::from_utf8(said.body).unwrap(), expected, "{option}");
            assert!(!said.headers.contains("hidden-value-1") && !said.headers.contains("forged"));
            if option == "--http2" {
                assert!(said.headers.contains("x-checksum: intact"), "{}", said.headers);
                assert!(said.headers.contains("x-key: [CREDENTIAL]"), "{}", said.headers);
            }
        }
    }
}

/// Streams of HTTP/2 that Pingora would answer by itself, or the library reset.
#[tokio::test]
async fn streams_that_are_no_request_are_answered_or_counted() {
    let certificate = Certificate::make();
    let gateway = Gateway::start(certificate.setup()).await;
    let session = gateway.session(json!({})).await;
    let (mut client, _connection) = http2(&gateway, &certificate).await;

    let tunnel = http::Request::builder().method("CONNECT").uri("localhost:443").body(()).unwrap();
    let (answer, _) = client.send_request(tunnel, true).unwrap();
    let mut answer = answer.await.unwrap();
    assert_eq!(answer.status(), 405);
    assert_eq!(answer.headers()["allow"], "POST");
    assert!(answer.headers().get("server").is_none());
    let request_id = answer.headers()["x-arbiter-request-id"].to_str().unwrap().to_owned();
    let body = answer.body_mut().data().await.unwrap().unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"]["data"]["code"], "MethodNotAllowed");
    assert_eq!(gateway.record_of(&request_id).await["denial_code"], "MethodNotAllowed");

    let two_hosts = http::Request::builder()
        .method("POST")
        .uri("https://localhost/")
        .header("host", "another")
        .body(())
        .unwrap();
    let (answer, _) = client.send_request(two_hosts, true).unwrap();
    assert!(answer.await.map_or(true, |answer| answer.status() == 400));
    let counted = eventually(|| async {
        let url = format!("http://{}/metrics", gateway.admin);
        let asked = gateway.client.get(url).header("x-api-key", API_KEY).send().await.unwrap();
        let text = asked.text().await.unwrap();
        text.contains("arbiter_connections_closed_total{cause=\"stream_reset\"} 1").then_some(())
    });
    counted.await.unwrap();
    let call = tool_call("read_file", json!({}));
    let said = ask(&gateway, &certificate, &session, &["--http2"], call.as_bytes()).await;
    assert_eq!((said.version.as_str(), said.status), ("2", 200));
}

type Client = h2::client::SendRequest<Bytes>;
type Connection = tokio::task::JoinHandle<Result<(), h2::Error>>;

/// A connection of HTTP/2, and the task that ends with it.
async fn http2(gateway: &Gateway, certificate: &Certificate) -> (Client, Connection) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate.certificate()).unwrap()).unwrap();
    let _installed_already = rustls::crypto::ring::default_provider().install_default();
    let mut config =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tokio::net::TcpStream::connect(&gateway.proxy).await.unwrap();
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    (client, tokio::spawn(connection))
}

/// Asks for the gateway's health: the status, or none if the connection takes no request any more.
async fn health(client: &mut Client) -> Option<Result<u16, h2::Error>> {
    std::future::poll_fn(|cx| client.poll_ready(cx)).await.ok()?;
    let request = http::Request::get("https://localhost/health").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).ok()?;
    match answer.await {
        // Written behind the answer to the farewell: surely not processed, so any client sends it
        // again (RFC 9113, sections 6.8 and 8.7).
        Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => None,
        answer => Some(answer.map(|answer| answer.status().as_u16())),
    }
}

/// Waits for the end of a connection, which a `GOAWAY` must have announced.
async fn says_farewell(mut client: Client, connection: Connection) {
    let ended = tokio::time::timeout(PATIENCE, connection).await.expect("it ends").unwrap();
    // Both ends close at once, so the client's last bytes may find nobody.
    assert!(ended.as_ref().err().is_none_or(h2::Error::is_io), "{ended:?}");
    let gone = std::future::poll_fn(|cx| client.poll_ready(cx)).await.unwrap_err();
    assert!(gone.is_go_away() && gone.is_remote(), "{gone:?}");
}

#[tokio::test]
async fn connections_of_http2_end_with_a_farewell_and_lose_no_request() {
    let certificate = Certificate::make();
    let setup = certificate.setup().with("proxy.idle_connection_secs", 1);
    let gateway = Gateway::start(setup.with("proxy.max_requests_per_connection", 3)).await;
    let tries = (0..40_u64).map(|number| {
        let (gateway, certificate) = (&gateway, &certificate);
        async move {
            let (mut client, connection) = http2(gateway, certificate).await;
            assert_eq!(health(&mut client).await.unwrap().unwrap(), 200);
            tokio::time::sleep(Duration::from_millis(990 + number / 2)).await;
            let answered = health(&mut client).await.map(|status| status.unwrap());
            assert!(answered.is_none_or(|status| status == 200), "{answered:?}");
            says_farewell(client, connection).await;
        }
    });
    futures::future::join_all(tries).await;

    // The last of the requests that one connection may bring is answered, too.
    let (mut client, connection) = http2(&gateway, &certificate).await;
    for _ in 0..3 {
        assert_eq!(health(&mut client).await.unwrap().unwrap(), 200);
    }
    says_farewell(client, connection).await;
}

#[tokio::test]
async fn a_gateway_that_drains_says_farewell_to_connections_of_http2() {
    let certificate = Certificate::make();
    let setup = certificate.setup().with("proxy.drain_delay_secs", 2);
    let mut gateway = Gateway::start(setup).await;
    let (mut client, connection) = http2(&gateway, &certificate).await;
    assert_eq!(health(&mut client).await.unwrap().unwrap(), 200);
    gateway.signal("TERM");
    says_farewell(client, connection).await;
    // A new one is still served, once.
    let (mut client, connection) = http2(&gateway, &certificate).await;
    let answered = health(&mut client).await.map(|status| status.unwrap());
    assert!(answered.is_none_or(|status| status == 200), "{answered:?}");
    says_farewell(client, connection).await;
    assert_eq!(gateway.wait_for_end(), Some(0));
}
