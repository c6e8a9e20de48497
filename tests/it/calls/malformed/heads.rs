//! Headers and paths that are missing, doubled, or say what they must not.

use serde_json::json;

use super::{message, still_serves};
use crate::support::harness::{Gateway, Setup};
use crate::support::raw::{Raw, request_with};

type Headers = &'static [(&'static str, &'static str)];

/// Headers in the place of the usual ones (`-`: none), the status, and what the answer must name.
const HEADERS: &[(Headers, u16, &str)] = &[
    (&[("Authorization", "-")], 401, "Authorization"),
    (&[("Authorization", "Bearer")], 401, "Authorization"),
    (&[("Authorization", "")], 401, "Authorization"),
    (&[("Authorization", "Basic YTpi")], 401, "Bearer"),
    (&[("Authorization", "Bearer a.b.c")], 401, "token"),
    (&[("Authorization", "Bearer x"), ("Authorization", "Bearer y")], 401, "exactly one"),
    (&[("x-agent-id", "-")], 403, "x-agent-id"),
    (&[("x-agent-id", "nonsense")], 403, "x-agent-id"),
    (&[("x-agent-id", "00000000-0000-0000-0000-000000000000")], 403, "x-agent-id"),
    (&[("x-agent-id", "a"), ("X-Agent-Id", "a")], 400, "x-agent-id"),
    (&[("x-arbiter-session", "-")], 403, "x-arbiter-session"),
    (&[("x-arbiter-session", "nonsense")], 403, "session"),
    (&[("x-arbiter-session", "a, b")], 403, "session"),
    (&[("x-arbiter-session", "é")], 400, "x-arbiter-session"),
    (&[("x-arbiter-session", "a"), ("x-arbiter-session", "a")], 400, "x-arbiter-session"),
    (&[("Content-Type", "-")], 415, "Content-Type"),
    (&[("Content-Type", "")], 415, "Content-Type"),
    (&[("Content-Type", "text/plain")], 415, "Content-Type"),
    (&[("Content-Type", "application/jsonx")], 415, "Content-Type"),
    (&[("Content-Type", "application/json, text/plain")], 415, "Content-Type"),
    (&[("Content-Type", "multipart/form-data")], 415, "Content-Type"),
    (&[("Content-Type", "application/json; charset=latin1")], 415, "UTF-8"),
    (&[("Content-Type", "application/json; charset=utf-16")], 415, "UTF-8"),
    (&[("Content-Type", "text/plain"), ("Content-Type", "application/json")], 400, "content-type"),
    (&[("Content-Encoding", "gzip")], 415, "Content-Encoding"),
    (&[("Content-Encoding", "br")], 415, "Content-Encoding"),
    (&[("Content-Encoding", "gzip, identity")], 415, "Content-Encoding"),
    (&[("Content-Encoding", "identity"), ("Content-Encoding", "gzip")], 400, "content-encoding"),
    (&[("Origin", "null")], 403, "origin"),
    (&[("Origin", "")], 403, "origin"),
    (&[("Origin", "http://localhost")], 403, "origin"),
    (&[("Mcp-Method", "tools/list")], 400, "Mcp-Method"),
    (&[("Mcp-Method", "TOOLS/CALL")], 400, "Mcp-Method"),
    (&[("Mcp-Method", "")], 400, "Mcp-Method"),
    (&[("Mcp-Name", "write_file")], 400, "Mcp-Name"),
    (&[("Mcp-Name", "=?base64?!!?=")], 400, "Mcp-Name"),
    (&[("Mcp-Name", "=?base64?d3JpdGVfZmlsZQ==?=")], 400, "Mcp-Name"),
    (&[("Mcp-Name", "é")], 400, "mcp-name"),
    (&[("Mcp-Name", "read_file"), ("Mcp-Name", "read_file")], 400, "mcp-name"),
    (&[("MCP-Protocol-Version", "2026-07-28")], 400, "protocolVersion"),
    (&[("MCP-Protocol-Version", "1999-01-01")], 400, "protocol version"),
    (&[("MCP-Protocol-Version", "latest")], 400, "protocol version"),
    (
        &[("MCP-Protocol-Version", "2025-06-18"), ("MCP-Protocol-Version", "2025-06-18")],
        400,
        "mcp-protocol-version",
    ),
    (&[("Mcp-Param-Path", "/etc/passwd")], 400, "mcp-param-path"),
    (&[("Mcp-Param-Path", "=?base64?%%?=")], 400, "mcp-param-path"),
    (&[("Mcp-Session-Id", "a"), ("Mcp-Session-Id", "b")], 400, "mcp-session-id"),
    (&[("Connection", "upgrade"), ("Upgrade", "websocket")], 405, "upgrade"),
    (&[("Upgrade", "h2c, websocket")], 405, "upgrade"),
    (&[("Connection", "content-length")], 400, "Connection"),
    (&[("Connection", "a(b")], 400, "Connection"),
    (&[("Connection", "x-arbiter-session")], 403, "x-arbiter-session"),
    (&[("Connection", "authorization")], 401, "Authorization"),
    (&[("Host", "-")], 400, "Host"),
    (&[("Host", "")], 400, "Host"),
    (&[("Host", "a/b")], 400, "Host"),
    (&[("Host", "a b")], 400, "Host"),
    (&[("Content-Length", "90, 90")], 400, "Content-Length"),
    (&[("Content-Length", "90"), ("Content-Length", "90")], 400, "content-length"),
];

/// Request lines in the place of the usual one.
const LINES: &[(&str, u16, &str)] = &[
    ("POST http://HOST/ HTTP/1.1", 400, "origin form"),
    ("POST localhost:80 HTTP/1.1", 400, "origin form"),
    ("POST * HTTP/1.1", 400, "origin form"),
    ("OPTIONS * HTTP/1.1", 400, "origin form"),
    ("POST  / HTTP/1.1", 400, "origin form"),
    ("POST /#a HTTP/1.1", 400, "fragment"),
    ("POST /é HTTP/1.1", 400, "percent-encoded"),
    ("POST /%zz HTTP/1.1", 403, "path"),
    ("POST /a%00b HTTP/1.1", 403, "path"),
    ("POST /admin HTTP/1.1", 403, "path"),
    ("POST /x/%2e%2e/ADMIN HTTP/1.1", 403, "path"),
    ("post / HTTP/1.1", 405, "POST"),
    ("GET / HTTP/1.1", 405, "POST"),
    ("PUT / HTTP/1.1", 405, "POST"),
    ("TRACE / HTTP/1.1", 405, "POST"),
    ("POST / HTTP/1.0", 505, "HTTP/1.0"),
];

#[tokio::test]
async fn every_malformed_head_is_told_what_is_wrong_with_it() {
    let gateway =
        Gateway::start(Setup::default().with("proxy.blocked_paths", r#"["/admin"]"#)).await;
    let session = gateway.session(json!({})).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":{}}}"#;
    let headers = HEADERS.iter().map(|(headers, status, part)| {
        (format!("{headers:?}"), request_with(&gateway, &session, headers, body), *status, *part)
    });
    let usual = request_with(&gateway, &session, &[], body);
    let lines = LINES.iter().map(|(line, status, part)| {
        (
            (*line).to_owned(),
            usual.replacen("POST / HTTP/1.1", &line.replace("HOST", &gateway.proxy), 1),
            *status,
            *part,
        )
    });
    for (name, bytes, status, part) in headers.chain(lines) {
        let mut raw = Raw::connect(&gateway.proxy).await;
        raw.send(bytes).await;
        let answer = raw.answer().await.unwrap_or_else(|| panic!("{name}: closed"));
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert!(message(&answer).contains(part), "{name}: {answer:?}");
        assert!(!answer.request_id().is_empty());
    }
    still_serves(&gateway, &session).await;
}
