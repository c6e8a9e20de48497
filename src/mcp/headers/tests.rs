//! The agreement table, for both eras.

use super::super::message;
use super::*;
use crate::json::Doc;
use http::{HeaderName, HeaderValue};

/// Headers as `name: value` lines.
fn era_of(headers: &[&str], body: &str) -> Result<Era, HeaderDenial> {
    let mut map = HeaderMap::new();
    for line in headers {
        let (name, value) = line.split_once(": ").unwrap();
        map.append(
            HeaderName::try_from(name).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    let doc = Doc::parse(body.as_bytes()).unwrap();
    agree(&ProtocolHeaders::read(&map)?, &message::read(&doc).unwrap()).map(Version::era)
}

fn agrees(headers: &[&str], body: &str, era: Era) {
    assert_eq!(era_of(headers, body), Ok(era), "{headers:?} {body}");
}

fn differs(headers: &[&str], body: &str) {
    let denial = era_of(headers, body).expect_err(&format!("{headers:?} {body}"));
    assert_eq!(denial.code(), Code::HeaderMismatch, "{headers:?} {body}: {denial}");
}

fn malformed(headers: &[&str], body: &str, reason: &str) {
    let denial = era_of(headers, body).expect_err(&format!("{headers:?} {body}"));
    assert_eq!(denial.code().name(), "MalformedRequest", "{headers:?} {body}: {denial}");
    assert!(denial.to_string().contains(reason), "{denial}");
}

fn with_meta(method: &str, params: &str, version: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}"_meta":{{"{META_KEY}":"{version}","{CAPABILITIES_KEY}":{{}}}}}}}}"#
    )
}

fn modern(method: &str, params: &str) -> String {
    with_meta(method, params, "2026-07-28")
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":{}}}"#;
const V: &str = "mcp-protocol-version: 2026-07-28";

#[test]
fn a_modern_message_and_its_headers_agree() {
    let tool = modern("tools/call", r#""name":"read_file","#);
    let m = "Mcp-Method: tools/call";
    agrees(&[V, m, "Mcp-Name: read_file"], &tool, Era::Modern);
    agrees(&[V, m, "Mcp-Name:   read_file\t"], &tool, Era::Modern);
    agrees(&[V, m, "Mcp-Name: =?base64?cmVhZF9maWxl?="], &tool, Era::Modern);
    agrees(&[V, "Mcp-Method: tools/list"], &modern("tools/list", ""), Era::Modern);
    agrees(&[V, "Mcp-Method: server/discover"], &modern("server/discover", ""), Era::Modern);
    agrees(
        &[V, "Mcp-Method: resources/read", "Mcp-Name: file:///a b"],
        &modern("resources/read", r#""uri":"file:///a b","#),
        Era::Modern,
    );
    agrees(
        &[V, "Mcp-Method: prompts/get", "Mcp-Name: =?base64?5a+G?="],
        &modern("prompts/get", r#""name":"\u5bc6","#),
        Era::Modern,
    );
    agrees(
        &[V, "Mcp-Method: tasks/get", "Mcp-Name: t-1"],
        &modern("tasks/get", r#""taskId":"t-1","#),
        Era::Modern,
    );
    let complete = r#""ref":{"type":"ref/prompt","name":"p"},"#;
    agrees(
        &[V, "Mcp-Method: completion/complete"],
        &modern("completion/complete", complete),
        Era::Modern,
    );
    agrees(
        &[V, "Mcp-Method: subscriptions/listen"],
        &modern("subscriptions/listen", ""),
        Era::Modern,
    );
}

#[test]
fn a_modern_message_is_refused_when_a_header_is_missing_or_differs() {
    let tool = modern("tools/call", r#""name":"read_file","#);
    let m = "Mcp-Method: tools/call";
    let n = "Mcp-Name: read_file";
    for headers in [
        &[][..],
        &[m, n],
        &[V, n],
        &[V, m],
        &[V],
        &[V, "Mcp-Method: Tools/Call", n],
        &[V, "Mcp-Method: tools/list", n],
        &[V, "Mcp-Method: =?base64?dG9vbHMvY2FsbA==?=", n],
        &[V, m, "Mcp-Name: Read_file"],
        &[V, m, "Mcp-Name: forbidden"],
        &[V, m, "Mcp-Name: "],
        &[V, m, "Mcp-Name: =?base64?cmVhZF9maWx?="],
        &[V, m, "Mcp-Name: =?base64?!!!!?="],
        &[V, m, "Mcp-Name: =?base64?/w==?="],
        &[V, m, "Mcp-Name: =?BASE64?cmVhZF9maWxl?="],
        &[V, m, "Mcp-Name: réad_file"],
        &[V, m, n, n],
        &[V, m, m, n],
        &[V, V, m, n],
        &["mcp-protocol-version: 2026-07-29", m, n],
        &["mcp-protocol-version: 2025-11-25", m, n],
        &["mcp-protocol-version: 1999-01-01", m, n],
    ] {
        differs(headers, &tool);
    }
    differs(&[V, m, n], &with_meta("tools/call", r#""name":"read_file","#, "2025-11-25"));
    differs(&[V, "Mcp-Method: resources/read"], &modern("resources/read", r#""uri":"a","#));
    differs(&[V, "Mcp-Method: prompts/get"], &modern("prompts/get", r#""name":"a","#));
    differs(&[V, "Mcp-Method: tools/list", "Mcp-Name: x"], &modern("tools/list", ""));
    differs(&[V, "Mcp-Method: tasks/get", "Mcp-Name: x"], &modern("tasks/get", r#""taskId":"y","#));
}

#[test]
fn modern_notifications_and_responses_need_no_mirrors() {
    let note = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}"#;
    agrees(&[V], note, Era::Modern);
    agrees(&[V, "Mcp-Method: notifications/cancelled"], note, Era::Modern);
    differs(&[V, "Mcp-Method: ping"], note);
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    agrees(&[V], response, Era::Modern);
    differs(&[V, "Mcp-Method: ping"], response);
    differs(&[V, "Mcp-Name: x"], response);
    // Without an id a tool call is a notification, but what it carries must be true.
    let call = r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"t"}}"#;
    agrees(&[V], call, Era::Modern);
    differs(&[V, "Mcp-Name: x"], call);
}

#[test]
fn a_modern_request_without_its_meta_lacks_params() {
    let request = |meta: &str| {
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{meta}}}}}"#);
        era_of(&[V, "Mcp-Method: tools/list"], &body)
    };
    let version = format!(r#""{META_KEY}":"2026-07-28""#);
    let capabilities = format!(r#""{CAPABILITIES_KEY}":{{}}"#);
    assert_eq!(request(&format!(r#""_meta":{{{version},{capabilities}}}"#)), Ok(Era::Modern));
    for (meta, missing) in [
        (String::new(), META_KEY),
        (r#""_meta":{}"#.to_owned(), META_KEY),
        (format!(r#""_meta":{{{capabilities}}}"#), META_KEY),
        (format!(r#""_meta":{{{version}}}"#), CAPABILITIES_KEY),
        (format!(r#""_meta":{{{version},"{CAPABILITIES_KEY}":null}}"#), CAPABILITIES_KEY),
    ] {
        let denial = request(&meta).expect_err(&meta);
        assert_eq!(denial, HeaderDenial::MetaMissing(missing), "{meta}");
        assert_eq!(denial.code().row().rpc, -32602);
    }
    let denial = era_of(&[V, "Mcp-Method: tools/call", "Mcp-Name: read_file"], CALL).unwrap_err();
    assert_eq!(denial, HeaderDenial::MetaMissing(META_KEY));
}

#[test]
fn a_version_that_nobody_knows_is_answered_as_the_revision_says() {
    let body = with_meta("server/discover", "", "v999.0.0");
    let denial = era_of(&["mcp-protocol-version: v999.0.0"], &body).unwrap_err().denial();
    assert_eq!((denial.code.row().status, denial.code.row().rpc), (400, -32022));
    assert_eq!(denial.details["requested"], "v999.0.0");
    assert_eq!(denial.details["supported"], serde_json::json!(SUPPORTED_MODERN));
    // Where only the header says it, any version can be sent instead. One to come is as unknown as
    // one that never was.
    for version in ["1999-01-01", "2027-01-01"] {
        let header = format!("mcp-protocol-version: {version}");
        let denial = era_of(&[&header], CALL).unwrap_err().denial();
        assert_eq!(denial.details["supported"], serde_json::json!(SUPPORTED), "{version}");
    }
}

#[test]
fn a_subscription_without_a_resource_is_malformed_where_it_exists() {
    let method = "Mcp-Method: resources/subscribe";
    let body = modern("resources/subscribe", "");
    agrees(&[V, method], &body, Era::Modern);
    malformed(&[], r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe"}"#, "params.uri");
}

#[test]
fn legacy_messages_need_no_headers_but_those_sent_must_be_true() {
    agrees(&[], CALL, Era::Legacy);
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        agrees(&[&format!("MCP-Protocol-Version: {version}")], CALL, Era::Legacy);
        agrees(&[], &with_meta("tools/call", r#""name":"t","#, version), Era::Legacy);
    }
    agrees(&["Mcp-Method: tools/call", "Mcp-Name: read_file"], CALL, Era::Legacy);
    agrees(&["Mcp-Name: =?base64?cmVhZF9maWxl?="], CALL, Era::Legacy);
    differs(&["Mcp-Method: tools/list"], CALL);
    differs(&["Mcp-Name: other"], CALL);
    differs(&["Mcp-Name: =?base64?x?="], CALL);
    differs(&["Mcp-Param-Path: x"], CALL);
    differs(
        &["MCP-Protocol-Version: 2025-06-18"],
        &with_meta("tools/call", r#""name":"t","#, "2025-11-25"),
    );
    differs(&["MCP-Protocol-Version: 2025-11-25"], &modern("tools/call", r#""name":"t","#));
}

#[test]
fn initialize_negotiates_in_its_body_without_claiming_a_version() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2026-07-28"}}"#;
    agrees(&[], body, Era::Legacy);
    agrees(&["MCP-Protocol-Version: 2025-11-25"], body, Era::Legacy);
}

#[test]
fn versions_nobody_knows_are_refused_naming_those_that_are() {
    for version in ["1999-01-01", "2026-01-01", "2025-03-27", "latest", "2026-07-28, 2026-07-28"] {
        let header = format!("MCP-Protocol-Version: {version}");
        malformed(&[&header], CALL, "2025-11-25");
        malformed(&[], &with_meta("ping", "", version), "2026-07-28");
        malformed(&[&header], &with_meta("ping", "", version), "2026-07-28");
    }
    malformed(&["MCP-Protocol-Version: "], CALL, "2025-11-25");
}

#[test]
fn batches_end_with_2025_06_18() {
    let batch = format!("[{CALL}]");
    agrees(&[], &batch, Era::Legacy);
    agrees(&["MCP-Protocol-Version: 2024-11-05"], &batch, Era::Legacy);
    agrees(&["MCP-Protocol-Version: 2025-03-26", "Mcp-Method: tools/call"], &batch, Era::Legacy);
    malformed(&["MCP-Protocol-Version: 2025-06-18"], &batch, "batches");
    malformed(&["MCP-Protocol-Version: 2025-11-25"], &batch, "batches");
    let modern_batch = format!("[{}]", modern("ping", ""));
    malformed(&[V, "Mcp-Method: ping"], &modern_batch, "batches");
    let mixed = format!(r#"[{CALL},{{"jsonrpc":"2.0","id":2,"method":"ping"}}]"#);
    differs(&["Mcp-Method: tools/call"], &mixed);
    let two_versions =
        format!("[{},{CALL}]", with_meta("tools/list", "", "2025-11-25").replace(":1,", ":2,"));
    malformed(&[], &two_versions, "batches");
}

#[test]
fn param_headers_are_the_value_of_some_argument() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":
        {"region":"us-west1","n":42.0,"big":9007199254740993,"deep":{"on":true,"t":"a\nb"},
         "list":["inside"],"none":null,"text":" padded "}}}"#;
    for header in [
        "Mcp-Param-Region: us-west1",
        "Mcp-Param-Region: =?base64?dXMtd2VzdDE=?=",
        "mcp-param-n: 42",
        "mcp-param-n: 42.0",
        "mcp-param-big: 9007199254740993",
        "mcp-param-on: true",
        "mcp-param-t: =?base64?YQpi?=",
        "mcp-param-text: =?base64?IHBhZGRlZCA=?=",
    ] {
        agrees(&[header], body, Era::Legacy);
    }
    for header in [
        "Mcp-Param-Region: us-east1",
        "Mcp-Param-Region: US-WEST1",
        "Mcp-Param-Region: =?base64?dXMtd2VzdDE?=",
        "mcp-param-n: 43",
        "mcp-param-big: 9007199254740992",
        "mcp-param-on: false",
        "mcp-param-on: True",
        "mcp-param-list: inside",
        "mcp-param-none: null",
        "mcp-param-text: padded",
        "mcp-param-key: region",
        "mcp-param-name: t",
    ] {
        differs(&[header], body);
    }
    agrees(&["Mcp-Param-A: us-west1", "Mcp-Param-B: true"], body, Era::Legacy);
    differs(&["Mcp-Param-A: us-west1", "Mcp-Param-B: no"], body);
    differs(&["Mcp-Param-A: us-west1", "Mcp-Param-A: us-west1"], body);
    differs(&["Mcp-Param-A: x"], r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    let many: Vec<_> = (0..=MAX_PARAM_HEADERS).map(|n| format!("Mcp-Param-P{n}: true")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    differs(&many, body);
    agrees(&many[1..], body, Era::Legacy);
}
