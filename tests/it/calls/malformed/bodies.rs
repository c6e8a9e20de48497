//! Bodies that are not JSON, not JSON-RPC, or not MCP.

use serde_json::json;

use super::{message, still_serves};
use crate::support::harness::{Gateway, Setup};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// Not strict JSON, and what the answer calls it.
const NOT_JSON: &[(&str, &str)] = &[
    ("", "ends too early"),
    (" \n", "ends too early"),
    ("{", "ends too early"),
    ("[", "ends too early"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"ping}"#, "ends too early"),
    ("}", "unexpected character"),
    ("nul", "unexpected character"),
    ("NaN", "unexpected character"),
    ("Infinity", "unexpected character"),
    ("{'jsonrpc':'2.0'}", "unexpected character"),
    (r#"{jsonrpc:"2.0"}"#, "unexpected character"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"ping",}"#, "unexpected character"),
    ("// c\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", "unexpected character"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"ping" /* c */}"#, "unexpected character"),
    (r#"{"jsonrpc" "2.0"}"#, "unexpected character"),
    (r#"{"jsonrpc":"2.0" "id":1}"#, "unexpected character"),
    (r#"{"jsonrpc":TRUE}"#, "unexpected character"),
    (r#"{"jsonrpc":"2.0","id":01,"method":"ping"}"#, "unexpected character"),
    (r#"{"jsonrpc":"2.0","id":+1,"method":"ping"}"#, "unexpected character"),
    (r#"{"jsonrpc":"2.0","id":.5,"method":"ping"}"#, "unexpected character"),
    (r#"{"jsonrpc":"2.0","id":0x1,"method":"ping"}"#, "unexpected character"),
    (r#"{"jsonrpc":"2.0","id":1.,"method":"ping"}"#, "malformed number"),
    (r#"{"jsonrpc":"2.0","id":1e,"method":"ping"}"#, "malformed number"),
    (r#"{"jsonrpc":"2.0","id":-,"method":"ping"}"#, "malformed number"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"ping"} x"#, "after the end"),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0","id":2,"method":"ping"}"#,
        "after the end",
    ),
    ("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", "byte order mark"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"pi\x6eg"}"#, "invalid escape"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"\u12"}"#, "invalid escape"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, "lone surrogate"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"\udc00\ud800"}"#, "lone surrogate"),
    ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\tb\"}", "control character"),
    (r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"ping"}"#, "key occurs twice"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#, "key occurs twice"),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":{"a":{"b":1,"b":2}}}}"#,
        "key occurs twice",
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","name":"write_file"}}"#,
        "key occurs twice",
    ),
];

const NOT_MCP: &[&str] = &[
    "{}",
    r#"{"a":1}"#,
    "42",
    r#""tools/call""#,
    "null",
    "true",
    "[1]",
    "[{}]",
    r#"{"query":"{ me }"}"#,
];

/// A message around these members, and the field or rule that the answer must name.
const NOT_RPC: &[(&str, &str)] = &[
    (r#""jsonrpc":"1.0","id":1,"method":"ping""#, "`jsonrpc`"),
    (r#""jsonrpc":2.0,"id":1,"method":"ping""#, "`jsonrpc`"),
    (r#""jsonrpc":null,"id":1,"method":"ping""#, "`jsonrpc`"),
    (r#""id":1,"method":"ping""#, "`jsonrpc`"),
    (r#""JSONRPC":"2.0","id":1,"method":"ping""#, "`jsonrpc` by case"),
    (r#""jsonrpc":"2.0""#, "`method`"),
    (r#""jsonrpc":"2.0","id":1"#, "`method`"),
    (r#""jsonrpc":"2.0","id":1,"method":7"#, "`method`"),
    (r#""jsonrpc":"2.0","id":1,"method":null"#, "`method`"),
    (r#""jsonrpc":"2.0","id":1,"method":"""#, "`method`"),
    (r#""jsonrpc":"2.0","id":1,"method":["tools/call"]"#, "`method`"),
    (r#""jsonrpc":"2.0","id":1,"method":"a\u0000b""#, "`method`"),
    (r#""jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call""#, "`method` by case"),
    (r#""jsonrpc":"2.0","id":1,"params":{"name":"read_file"}"#, "`method`"),
    (r#""jsonrpc":"2.0","id":1,"method":"ping","result":{}"#, "`result`"),
    (r#""jsonrpc":"2.0","id":1,"method":"ping","error":{}"#, "`error`"),
    (r#""jsonrpc":"2.0","id":{},"method":"ping""#, "`id`"),
    (r#""jsonrpc":"2.0","id":[1],"method":"ping""#, "`id`"),
    (r#""jsonrpc":"2.0","id":true,"method":"ping""#, "`id`"),
    (r#""jsonrpc":"2.0","id":null,"method":"ping""#, "`id`"),
    (r#""jsonrpc":"2.0","id":1.5,"method":"ping""#, "`id`"),
    (r#""jsonrpc":"2.0","id":1.5,"method":"ping""#, "`id`"),
    (r#""jsonrpc":"2.0","ID":1,"method":"ping""#, "`id` by case"),
    (r#""jsonrpc":"2.0","result":{}"#, "`id`"),
    (r#""jsonrpc":"2.0","id":null,"result":{}"#, "`id`"),
    (r#""jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"m"}"#, "`result`"),
    (r#""jsonrpc":"2.0","id":1,"error":"x""#, "`error`"),
    (r#""jsonrpc":"2.0","id":1,"method":"ping","params":[]"#, "`params`"),
    (r#""jsonrpc":"2.0","id":1,"method":"ping","params":"x""#, "`params`"),
    (r#""jsonrpc":"2.0","id":1,"method":"ping","params":null"#, "`params`"),
    (r#""jsonrpc":"2.0","id":1,"method":"ping","params":1"#, "`params`"),
    (r#""jsonrpc":"2.0","id":1,"method":"tools/call""#, "`params.name`"),
    (r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{}"#, "`params.name`"),
    (r#""jsonrpc":"2.0","method":"tools/call","params":{}"#, "`params.name`"),
    (r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}"#, "`params.name`"),
    (r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":null}"#, "`params.name`"),
    (r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":""}"#, "`params.name`"),
    (
        r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["read_file"]}"#,
        "`params.name`",
    ),
    (
        r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read\u0000file"}"#,
        "`params.name`",
    ),
    (
        r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","Name":"write_file"}"#,
        "`params.name` by case",
    ),
    (
        r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":"x"}"#,
        "`params.arguments`",
    ),
    (
        r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":[1]}"#,
        "`params.arguments`",
    ),
    (
        r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":null}"#,
        "`params.arguments`",
    ),
    (
        r#""jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","_meta":"x"}"#,
        "`params._meta`",
    ),
    (
        r#""jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":7}}"#,
        "protocolVersion",
    ),
    (
        r#""jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"1066-10-14"}}"#,
        "protocol version",
    ),
    (r#""jsonrpc":"2.0","id":1,"method":"resources/read""#, "`params.uri`"),
    (r#""jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":7}"#, "`params.uri`"),
    (r#""jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":""}"#, "`params.uri`"),
    (
        r#""jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a","URI":"file:///b"}"#,
        "`params.uri` by case",
    ),
    (r#""jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{}"#, "`params.uri`"),
    (r#""jsonrpc":"2.0","id":1,"method":"prompts/get","params":{}"#, "`params.name`"),
    (r#""jsonrpc":"2.0","id":1,"method":"completion/complete","params":{}"#, "`params.ref`"),
    (
        r#""jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/other"}}"#,
        "`params.ref.type`",
    ),
];

const BATCHES: &[(&str, &str)] = &[
    ("[]", "empty"),
    ("[[]]", "batch member 0: a message must be an object"),
    (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},7]"#, "batch member 1"),
    (r#"[[{"jsonrpc":"2.0","id":1,"method":"ping"}]]"#, "batch member 0"),
    (
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"id":2,"method":"ping"}]"#,
        "batch member 1: `jsonrpc`",
    ),
    (
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
        "batch member 1: `id`",
    ),
    (r#"[{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}]"#, "`initialize`"),
];

/// Returns generated bodies: over-long ones, and bytes that no text literal holds.
fn made() -> Vec<(Vec<u8>, u16, &'static str)> {
    let call = |name: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}"}}}}"#)
    };
    let nested = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{}1{}}}"#,
        r#"{"a":"#.repeat(70),
        "}".repeat(70)
    );
    let utf16: Vec<u8> = PING.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with = |bytes: &[u8]| [br#"{"jsonrpc":"2.0","id":1,"method":""#, bytes, br#""}"#].concat();
    vec![
        (nested.into_bytes(), 400, "nested deeper than 64"),
        ("[".repeat(50_000).into_bytes(), 400, "nested deeper than 64"),
        (format!("[{}]", vec![PING; 1_001].join(",")).into_bytes(), 400, "`id`"),
        (
            format!("[{}]", vec![r#"{"jsonrpc":"2.0","method":"ping"}"#; 1_001].join(","))
                .into_bytes(),
            400,
            "at most 1000",
        ),
        (call(&"n".repeat(1_100)).into_bytes(), 400, "`params.name`"),
        (PING.replace("ping", &"m".repeat(300)).into_bytes(), 400, "`method`"),
        (PING.replace(":1,", &format!(":\"{}\",", "i".repeat(2_000))).into_bytes(), 400, "`id`"),
        (call(&"n".repeat(200_000)).into_bytes(), 413, "larger than 100000 bytes"),
        (utf16, 400, "unexpected character"),
        (with(b"\xff"), 400, "UTF-8"),
        (with(b"\xc0\xaf"), 400, "UTF-8"),
        (with(b"\xed\xa0\x80"), 400, "UTF-8"),
        (with(b"a\0b"), 400, "control character"),
        ([PING.as_bytes(), b"\0"].concat(), 400, "after the end"),
        (b"\x1f\x8b\x08\x00".to_vec(), 400, "UTF-8"),
    ]
}

#[tokio::test]
async fn every_malformed_body_is_told_what_is_wrong_with_it() {
    let gateway =
        Gateway::start(Setup::default().with("proxy.max_request_body_bytes", 100_000)).await;
    let session = gateway.session(json!({"authorized_resources": ["file:///a"]})).await;
    let text = |body: &str| body.as_bytes().to_vec();
    let mut cases = made();
    cases.extend(NOT_JSON.iter().map(|(body, part)| (text(body), 400, *part)));
    cases.extend(NOT_MCP.iter().map(|body| (text(body), 403, "not a JSON-RPC message")));
    cases.extend(
        NOT_RPC.iter().map(|(body, part)| (format!("{{{body}}}").into_bytes(), 400, *part)),
    );
    cases.extend(BATCHES.iter().map(|(body, part)| (text(body), 400, *part)));
    assert!(cases.len() > 100, "{}", cases.len());
    for (body, status, part) in cases {
        let shown: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        let answer = gateway.call(&session, body).await;
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        assert!(message(&answer).contains(part), "{shown}: {}", message(&answer));
        let code = answer.json()["error"]["code"].as_i64().unwrap();
        let expected: &[i64] = match status {
            400 => &[-32_700, -32_600, -32_022],
            403 => &[403],
            _ => &[413],
        };
        assert!(expected.contains(&code), "{shown}: {code}");
    }
    still_serves(&gateway, &session).await;
}
