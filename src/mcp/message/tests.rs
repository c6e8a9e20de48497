//! One table of what is refused and why, one of what is read.

use super::*;
use crate::firewall::call::Data;
use proptest::prelude::*;

fn refusal(text: &str) -> Malformed {
    let doc = Doc::parse(text.as_bytes()).unwrap();
    match read(&doc) {
        Ok(message) => panic!("{text} was read as {message:?}"),
        Err(malformed) => malformed,
    }
}

fn malformed(text: &str, reason: &str) {
    let found = refusal(text);
    assert!(!found.not_mcp, "{text}");
    assert_eq!(found.code(), Code::MalformedRequest);
    assert!(found.reason.contains(reason), "{text}: {}", found.reason);
}

/// A request with `id` 1 whose other members are `rest`.
fn request(rest: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,{rest}}}"#)
}

fn one<R>(text: &str, check: impl FnOnce(&Call<'_>) -> R) -> R {
    let doc = Doc::parse(text.as_bytes()).unwrap();
    let message = read(&doc).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert!(!message.batch);
    assert_eq!(message.calls.len(), 1);
    check(&message.calls[0])
}

#[test]
fn broken_json_rpc_is_refused_with_the_fields_name() {
    let call = r#""method":"tools/call","params":{"name":"t"}"#;
    for (text, reason) in [
        // Version.
        (format!(r#"{{"id":1,{call}}}"#), "`jsonrpc`"),
        (format!(r#"{{"jsonrpc":"1.0","id":1,{call}}}"#), "`jsonrpc`"),
        (format!(r#"{{"jsonrpc":2.0,"id":1,{call}}}"#), "`jsonrpc`"),
        (format!(r#"{{"jsonrpc":"2.0 ","id":1,{call}}}"#), "`jsonrpc`"),
        (format!(r#"{{"jsonrpc":null,"id":1,{call}}}"#), "`jsonrpc`"),
        (format!(r#"{{"jsonrpc":["2.0"],"id":1,{call}}}"#), "`jsonrpc`"),
        // Id.
        (format!(r#"{{"jsonrpc":"2.0","id":null,{call}}}"#), "`id`"),
        (format!(r#"{{"jsonrpc":"2.0","id":true,{call}}}"#), "`id`"),
        (format!(r#"{{"jsonrpc":"2.0","id":[1],{call}}}"#), "`id`"),
        (format!(r#"{{"jsonrpc":"2.0","id":{{}},{call}}}"#), "`id`"),
        (format!(r#"{{"jsonrpc":"2.0","id":1.5,{call}}}"#), "`id`"),
        (format!(r#"{{"jsonrpc":"2.0","id":1.5,{call}}}"#), "`id`"),
        (format!(r#"{{"jsonrpc":"2.0","id":1.5,{call}}}"#), "`id`"),
        (format!(r#"{{"jsonrpc":"2.0","id":"{}",{call}}}"#, "x".repeat(1024)), "`id` is longer"),
        // Method.
        (request(r#""params":{}"#), "`method` is missing"),
        (r#"{"jsonrpc":"2.0","id":1}"#.to_owned(), "`method` is missing"),
        (r#"{"jsonrpc":"2.0"}"#.to_owned(), "`method` is missing"),
        (request(r#""method":null"#), "`method` must be a string"),
        (request(r#""method":1"#), "`method` must be a string"),
        (request(r#""method":["tools/call"]"#), "`method` must be a string"),
        (request(r#""method":"""#), "`method` must not be empty"),
        (request(r#""method":"a\nb""#), "`method` must not hold control"),
        (request(&format!(r#""method":"{}""#, "m".repeat(257))), "`method` is longer"),
        // Request or response, not both.
        (request(r#""method":"ping","result":{}"#), "not both"),
        (request(r#""method":"ping","error":{}"#), "not both"),
        (request(r#""method":"ping","result":null"#), "not both"),
        // Params.
        (request(r#""method":"ping","params":[]"#), "`params` must be an object"),
        (request(r#""method":"ping","params":null"#), "`params` must be an object"),
        (request(r#""method":"ping","params":"x""#), "`params` must be an object"),
        (request(r#""method":"tools/call","params":["t",{}]"#), "`params` must be an object"),
        (request(r#""method":"ping","params":{"_meta":1}"#), "`params._meta` must be an object"),
        (
            request(
                r#""method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":1}}"#,
            ),
            "protocolVersion\"]` must be a string",
        ),
        // Responses.
        (request(r#""result":{},"error":{}"#), "not both"),
        (request(r#""result":{},"params":{}"#), "`method` is missing"),
        (r#"{"jsonrpc":"2.0","result":{}}"#.to_owned(), "`id` is missing"),
        (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#.to_owned(), "`id`"),
        (r#"{"jsonrpc":"2.0","id":[],"error":{}}"#.to_owned(), "`id`"),
        (request(r#""error":"no""#), "`error` must be an object"),
        (request(r#""error":null"#), "`error` must be an object"),
    ] {
        malformed(&text, reason);
    }
}

#[test]
fn calls_without_a_readable_target_are_refused() {
    let long_uri =
        format!(r#""method":"resources/read","params":{{"uri":"{}"}}"#, "u".repeat(8193));
    let long_name = format!(r#""method":"tools/call","params":{{"name":"{}"}}"#, "n".repeat(1025));
    for (rest, reason) in [
        (r#""method":"tools/call""#, "`params.name` is missing"),
        (r#""method":"tools/call","params":{}"#, "`params.name` is missing"),
        (r#""method":"tools/call","params":{"name":null}"#, "`params.name` must be a string"),
        (r#""method":"tools/call","params":{"name":["t"]}"#, "`params.name` must be a string"),
        (r#""method":"tools/call","params":{"name":7}"#, "`params.name` must be a string"),
        (r#""method":"tools/call","params":{"name":""}"#, "`params.name` must not be empty"),
        (r#""method":"tools/call","params":{"name":"a\u0000b"}"#, "must not hold control"),
        (r#""method":"tools/call","params":{"name":"a\u007fb"}"#, "must not hold control"),
        (r#""method":"tools/call","params":{"name":"a\u0085b"}"#, "must not hold control"),
        (&long_name, "`params.name` is longer"),
        (r#""method":"tools/call","params":{"name":"t","arguments":[]}"#, "`params.arguments`"),
        (r#""method":"tools/call","params":{"name":"t","arguments":null}"#, "`params.arguments`"),
        (r#""method":"tools/call","params":{"name":"t","arguments":"{}"}"#, "`params.arguments`"),
        (r#""method":"resources/read""#, "`params.uri` is missing"),
        (r#""method":"resources/read","params":{"uri":1}"#, "`params.uri` must be a string"),
        (r#""method":"resources/read","params":{"uri":""}"#, "`params.uri` must not be empty"),
        (&long_uri, "`params.uri` is longer"),
        (r#""method":"prompts/get","params":{"uri":"x"}"#, "`params.name` is missing"),
        (r#""method":"prompts/get","params":{"name":{}}"#, "`params.name` must be a string"),
        (r#""method":"prompts/get","params":{"name":"p","arguments":1}"#, "`params.arguments`"),
        (r#""method":"completion/complete""#, "`params.ref` is missing"),
        (r#""method":"completion/complete","params":{"ref":"x"}"#, "`params.ref` must be"),
        (r#""method":"completion/complete","params":{"ref":{}}"#, "`params.ref.type`"),
        (r#""method":"completion/complete","params":{"ref":{"type":"ref/tool"}}"#, "ref.type`"),
        (r#""method":"completion/complete","params":{"ref":{"type":"ref/prompt"}}"#, "ref.name`"),
        (
            r#""method":"completion/complete","params":{"ref":{"type":"ref/resource","name":"x"}}"#,
            "`params.ref.uri` is missing",
        ),
    ] {
        malformed(&request(rest), reason);
    }
}

#[test]
fn keys_that_differ_by_case_alone_are_refused() {
    let call = r#""method":"tools/call""#;
    for (text, reason) in [
        (r#"{"Jsonrpc":"2.0","id":1,"method":"ping"}"#.to_owned(), "`jsonrpc` by case"),
        (r#"{"jsonrpc":"2.0","ID":1,"method":"ping"}"#.to_owned(), "`id` by case"),
        (r#"{"jsonrpc":"2.0","id":1,"Method":"ping"}"#.to_owned(), "`method` by case"),
        (request(r#""method":"ping","METHOD":"tools/call""#), "`method` by case"),
        (request(r#""method":"ping","Params":{}"#), "`params` by case"),
        (request("\"method\":\"ping\",\"param\u{17F}\":{}"), "`params` by case"),
        (request(r#""method":"ping","par\u0041ms":{}"#), "`params` by case"),
        (request(r#""result":{},"Error":{}"#), "`error` by case"),
        (request(r#""Result":{},"error":{}"#), "`result` by case"),
        (
            request(&format!(r#"{call},"params":{{"name":"t","Name":"u"}}"#)),
            "`params.name` by case",
        ),
        (request(&format!(r#"{call},"params":{{"NAME":"u"}}"#)), "`params.name` by case"),
        (
            request(&format!(r#"{call},"params":{{"name":"t","Arguments":{{}}}}"#)),
            "`params.arguments` by case",
        ),
        (
            request(&format!(r#"{call},"params":{{"name":"t","_META":{{}}}}"#)),
            "`params._meta` by case",
        ),
        (
            request(r#""method":"resources/read","params":{"uri":"a","URI":"b"}"#),
            "`params.uri` by case",
        ),
        (
            request(r#""method":"prompts/get","params":{"name":"a","namE":"b"}"#),
            "`params.name` by case",
        ),
        (request(r#""method":"completion/complete","params":{"Ref":{}}"#), "`params.ref` by case"),
        (
            request(
                r#""method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"a","Type":"ref/resource"}}"#,
            ),
            "`params.ref.type` by case",
        ),
        (
            request(
                r#""method":"ping","params":{"_meta":{"io.modelcontextprotocol/ProtocolVersion":"x"}}"#,
            ),
            "by case",
        ),
    ] {
        malformed(&text, reason);
    }
}

#[test]
fn case_matters_only_for_keys_the_checks_read() {
    one(
        &request(r#""method":"tools/call","params":{"name":"t","URI":"x","arguments":{"Name":1}}"#),
        |c| {
            assert!(matches!(c.kind, CallKind::Tool { .. }));
        },
    );
    one(&request(r#""method":"tools/list","params":{"Name":"x"},"extra":1"#), |_| ());
}

#[test]
fn broken_batches_are_refused_whole() {
    let ping = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
    for (text, reason) in [
        ("[]".to_owned(), "must not be empty"),
        (format!("[{},{{\"x\":1}}]", ping("1")), "batch member 1: `jsonrpc`"),
        (format!("[{{\"x\":1}},{}]", ping("1")), "batch member 0: `jsonrpc`"),
        (format!("[{},7]", ping("1")), "batch member 1: a message must be an object"),
        (format!("[[{}]]", ping("1")), "batch member 0: a message must be an object"),
        (format!("[{},{}]", ping("1"), ping("1")), "occurs twice"),
        (format!("[{},{}]", ping(r#""a""#), ping(r#""\u0061""#)), "occurs twice"),
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}]"#.to_owned(),
            "`initialize` comes alone",
        ),
        (
            format!("[{}]", vec![r#"{"jsonrpc":"2.0","method":"x/y"}"#; 1001].join(",")),
            "at most 1000",
        ),
    ] {
        malformed(&text, reason);
        assert_eq!(refusal(&text).id, None);
    }
}

#[test]
fn what_does_not_try_to_be_json_rpc_is_not_mcp() {
    for text in [
        "{}",
        r#"{"x":1}"#,
        r#"{"id":1,"params":{}}"#,
        "7",
        "null",
        r#""tools/call""#,
        "[1]",
        r#"[{"x":1},"y"]"#,
        r#"{"methods":[]}"#,
        r#"{"query":"{ a }"}"#,
    ] {
        let found = refusal(text);
        assert!(found.not_mcp, "{text}");
        assert_eq!(found.code(), Code::NotMcp);
    }
    for text in [r#"{"method":"x"}"#, r#"{"Method":"x"}"#, r#"{"JSONRPC":"2.0"}"#, "[[]]", "[]"] {
        assert!(!refusal(text).not_mcp, "{text}");
    }
}

#[test]
fn a_refusal_echoes_the_id_as_it_was_written() {
    for (id, echo) in [
        ("1", Some("1")),
        ("-12345678901234567890", Some("-12345678901234567890")),
        (r#""a\u0062""#, Some(r#""a\u0062""#)),
        (r#""""#, Some(r#""""#)),
        ("1.5", None),
        ("null", None),
        ("{}", None),
    ] {
        let found = refusal(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":7}}"#));
        assert_eq!(found.id.as_deref(), echo);
    }
    assert_eq!(refusal(r#"{"jsonrpc":"1.0","id":5,"method":"ping"}"#).id.as_deref(), Some("5"));
    assert_eq!(refusal(r#"{"jsonrpc":"2.0","id":5,"Method":"ping"}"#).id.as_deref(), Some("5"));
}

#[test]
fn tool_calls_are_read() {
    let text = request(
        r#""method":"tools/call","params":{"name":"read_\u0066ile","arguments":{"big":9007199254740993},"_meta":{"progressToken":1}}"#,
    );
    one(&text, |call| {
        let CallKind::Tool { name, arguments } = &call.kind else { panic!("{call:?}") };
        assert_eq!(name, "read_file");
        assert_eq!(arguments.unwrap().raw(), r#"{"big":9007199254740993}"#);
        assert_eq!(call.meta.unwrap().raw(), r#"{"progressToken":1}"#);
        assert!(call.params.unwrap().get("arguments").is_some());
        assert!(call.is_request() && !call.is_notification() && !call.is_response());
    });
    one(r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"t"}}"#, |call| {
        assert!(matches!(&call.kind, CallKind::Tool { name, arguments: None } if name == "t"));
        assert!(call.is_notification() && !call.is_request());
    });
}

#[test]
fn data_calls_name_their_target() {
    for (rest, what, target) in [
        (r#""method":"resources/read","params":{"uri":"file:///a"}"#, Data::Resource, "file:///a"),
        (r#""method":"resources/subscribe","params":{"uri":"b"}"#, Data::Resource, "b"),
        (r#""method":"resources/unsubscribe","params":{"uri":"c"}"#, Data::Resource, "c"),
        (
            r#""method":"prompts/get","params":{"name":"p","arguments":{"a":"b"}}"#,
            Data::Prompt,
            "p",
        ),
        (
            r#""method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"q"},"argument":{}}"#,
            Data::Prompt,
            "q",
        ),
        (
            r#""method":"completion/complete","params":{"ref":{"uri":"file:///{x}","type":"ref/resource"}}"#,
            Data::Resource,
            "file:///{x}",
        ),
        (r#""method":"subscriptions/listen","params":{}"#, Data::Method, "subscriptions/listen"),
        (r#""method":"tasks/get","params":{"taskId":"1"}"#, Data::Task, "1"),
        (r#""method":"tasks/other","params":{"taskId":"1"}"#, Data::Method, "tasks/other"),
        (r#""method":"Tools/Call","params":{"name":"t"}"#, Data::Method, "Tools/Call"),
        (r#""method":"tools/call ","params":{"name":"t"}"#, Data::Method, "tools/call "),
    ] {
        one(&request(rest), |call| match &call.kind {
            CallKind::Data { what: found, target: at } => {
                assert_eq!((*found, &**at), (what, target), "{rest}");
            }
            CallKind::Tool { .. } | CallKind::Protocol => panic!("{rest}: {call:?}"),
        });
    }
}

#[test]
fn protocol_messages_need_no_grant() {
    for text in [
        r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"x"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":-3,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":"r","error":{"code":1,"message":"m"}}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}"#,
        r#"{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}"#,
        r#"{"json\u0072pc":"2\u002e0","id":1,"method":"ping","x":{"Method":"tools/call"}}"#,
    ] {
        one(text, |call| {
            assert!(matches!(call.kind, CallKind::Protocol), "{text}");
            assert_eq!(call.is_response(), call.method.is_none());
        });
    }
}

#[test]
fn a_batch_keeps_its_order() {
    let text = r#" [ {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}},
        {"jsonrpc":"2.0","method":"notifications/x"}, {"jsonrpc":"2.0","id":"1","method":"ping"},
        {"jsonrpc":"2.0","id":1,"result":{}} ] "#;
    let doc = Doc::parse(text.as_bytes()).unwrap();
    let message = read(&doc).unwrap();
    assert!(message.batch);
    let methods: Vec<_> = message.calls.iter().map(|c| c.method.as_deref()).collect();
    assert_eq!(methods, [Some("tools/call"), Some("notifications/x"), Some("ping"), None]);
    let single = Doc::parse(br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#).unwrap();
    assert!(read(&single).unwrap().batch);
}

proptest! {
    #[test]
    fn any_name_that_is_read_is_the_one_that_was_sent(name in "\\PC{1,40}") {
        let quoted = serde_json::to_string(&name).unwrap();
        let text = request(&format!(r#""method":"tools/call","params":{{"name":{quoted}}}"#));
        one(&text, |call| match &call.kind {
            CallKind::Tool { name: read, .. } => assert_eq!(read, &name),
            CallKind::Data { .. } | CallKind::Protocol => panic!("{call:?}"),
        });
    }

    #[test]
    fn no_document_makes_the_reader_panic(text in "[\\[\\]{}:,\"jsonrpcidmethoda2.0 ]{0,60}") {
        if let Ok(doc) = Doc::parse(text.as_bytes()) {
            let message = read(&doc);
            prop_assert!(message.map_or(true, |m| !m.calls.is_empty()));
        }
    }
}
