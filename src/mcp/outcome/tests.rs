//! Outcomes of answers, however they are cut, and agreement with a reading of the whole.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::mcp::message;
use crate::mcp::plain::nearly;

const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t"}}"#;

fn answers(request: &str) -> Answers {
    let doc = Doc::parse(request.as_bytes()).unwrap();
    Answers::to(&message::read(&doc).unwrap()).unwrap()
}

fn read<C: AsRef<[u8]>>(
    request: &str,
    carrier: Carrier,
    chunks: impl IntoIterator<Item = C>,
) -> Vec<&'static str> {
    let mut answers = answers(request);
    answers.begin(carrier);
    for chunk in chunks {
        answers.push(chunk.as_ref());
    }
    answers.outcomes().map(ToolOutcome::as_str).collect()
}

/// Reads an answer at once and byte by byte.
fn check(request: &str, carrier: Carrier, answer: &str, expected: &[&str]) {
    assert_eq!(read(request, carrier, [answer]), expected, "{answer}");
    assert_eq!(read(request, carrier, answer.as_bytes().chunks(1)), expected, "split: {answer}");
}

fn json(answer: &str, expected: &str) {
    check(CALL, Carrier::Json, answer, &[expected]);
    let event = format!("id: 4\nevent: message\ndata: {answer}\n\n");
    check(CALL, Carrier::Events, &event, &[expected]);
}

#[test]
fn each_end_of_a_call_has_its_word() {
    for (result, expected) in [
        (r#"{"content":[]}"#, "ok"),
        (r#"{"isError":false,"content":[{"isError":true}]}"#, "ok"),
        (
            r#"{"content":[{"type":"text","text":"{\"isError\":true}\\"}],"isError" : true }"#,
            "tool_error",
        ),
        (r#"{"isError":true,"isError":false}"#, "ok"),
        (r#"{"is\u0045rror":true}"#, "tool_error"),
        (r#"{"isError":"true"}"#, "unknown"),
        (r#"{"isError":[true]}"#, "unknown"),
        (r#"{"IsError":true}"#, "ok"),
        (r#"{"resultType":"complete","isError":true,"task":{}}"#, "tool_error"),
        (r#"{"resultType":"input_required","inputRequests":{"resultType":{}}}"#, "input_required"),
        (r#"{"task":{"taskId":"a"}}"#, "task"),
        (r#"{"task":null,"content":[]}"#, "ok"),
        (r#"{"resultType":"ta\u0073k","taskId":"a"}"#, "task"),
        (r#"{"resultType":"complete_","content":[]}"#, "unknown"),
        (r#"{"resultType":{"a":"complete"}}"#, "unknown"),
        ("{}", "ok"),
        ("[]", "unknown"),
        ("\"x\"", "unknown"),
    ] {
        json(&format!(r#"{{"jsonrpc":"2.0","id":7,"result":{result}}}"#), expected);
        json(&format!(r#"{{"result":{result} , "error" : null,"id":7.0}}"#), expected);
        json(&format!("[ {{\"result\":{result}\t, \"id\":7}}]"), expected);
    }
    json(r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"result"}}"#, "rpc_error");
    json(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700}}"#, "rpc_error");
    json(r#"{"error":{"code":-32700}}"#, "rpc_error");
}

#[test]
fn only_an_answer_to_the_call_counts() {
    for other in [
        r#"{"jsonrpc":"2.0","id":8,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":"7","result":{}}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":[7],"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{"result":{}}}"#,
        r#"{"id":7,"result":null}"#,
        r#"{"params":{"id":7,"result":{}}}"#,
        r#"[["id",7,"id",7,"result",{}]]"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{"content":["#,
        "not json",
        "7",
        "",
    ] {
        json(other, "unknown");
    }
    let page = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
    check(CALL, Carrier::Other, page, &["unknown"]);
    let long = format!(r#"{{"id":{}7,"result":{{}}}}"#, " ".repeat(10_000));
    json(&long, "ok");
    let long = format!(r#"{{"id":"{}","result":{{}}}}"#, "7".repeat(100_000));
    json(&long, "unknown");
}

#[test]
fn ids_are_the_same_in_every_spelling() {
    let request = CALL.replace('7', r#""a\u00e9/""#);
    let answer = r#"{"id":"\u0061é\/","result":{"isError":true}}"#;
    check(&request, Carrier::Json, answer, &["tool_error"]);
}

#[test]
fn in_a_stream_the_last_whole_event_with_the_id_decides() {
    let ok = r#"{"id":7,"result":{}}"#;
    let bad = r#"{"id":7,"error":{}}"#;
    let progress = r#"{"method":"notifications/progress","params":{"id":7,"error":{}}}"#;
    for (stream, expected) in [
        (format!("data: {progress}\n\ndata: {ok}\n\n"), "ok"),
        (format!("data: {bad}\n\ndata: {ok}\n\n"), "ok"),
        (format!("\u{feff}data:{ok}\r\n\r\n:{bad}\r\n\r\ndata: {bad}\r\n"), "ok"),
        (format!("\u{feff}event:x\ndata: {bad}\n\n"), "unknown"),
        (format!("data: {bad}\nevent: x\n\ndata: {ok}\n\n"), "ok"),
        (format!("event: x\nevent\ndata: {bad}\n\n"), "rpc_error"),
        (format!("event: message2\ndata: {bad}\n\n"), "unknown"),
        (format!("events: x\ndata: {bad}\n\n"), "rpc_error"),
        ("data: {\"id\":7,\ndata:\"result\"\r\ndata\r\ndata: :{}}\r\r".to_owned(), "ok"),
        (format!("data: {{\"open\n\ndata: {ok}\n\n"), "ok"),
        (format!("data : {ok}\n\n"), "unknown"),
        (format!("data: {ok}\n"), "unknown"),
    ] {
        check(CALL, Carrier::Events, &stream, &[expected]);
    }
}

#[test]
fn the_calls_of_a_batch_end_each_by_itself_and_the_worst_counts() {
    let call = |id: &str| CALL.replace('7', id);
    let list = r#"{"jsonrpc":"2.0","id":"l","method":"tools/list"}"#;
    let note = CALL.replace(r#""id":7,"#, "");
    let batch = format!("[{},{list},{},{},{note}]", call("1"), call("\"1\""), call("10e0"));
    let answer =
        r#"[{"id":10,"result":{"isError":true}},{"id":"l","error":{}},{"id":"1","result":{}}]"#;
    check(&batch, Carrier::Json, answer, &["unknown", "ok", "tool_error", "unknown"]);
    let stream = format!("data: {answer}\n\ndata: {{\"error\":{{}}}}\n\n");
    check(&batch, Carrier::Events, &stream, &["rpc_error", "ok", "tool_error", "rpc_error"]);
    let mut answers = answers(&batch);
    assert_eq!(answers.whole(), ToolOutcome::Unknown);
    answers.begin(Carrier::Json);
    answers.push(answer.as_bytes());
    assert_eq!(answers.whole(), ToolOutcome::ToolError);
    let doc = Doc::parse(list.as_bytes()).unwrap();
    assert!(Answers::to(&message::read(&doc).unwrap()).is_none());
}

/// The outcome as a reading of the whole document has it.
fn reference(answer: &Value) -> &'static str {
    if answer.get("id") != Some(&json!(7)) {
        let is_nameless = answer.get("id").is_none_or(Value::is_null);
        let error = answer.get("error").is_some_and(|error| !error.is_null());
        return if is_nameless && error { "rpc_error" } else { "unknown" };
    }
    match (answer.get("error"), answer.get("result")) {
        (Some(error), _) if !error.is_null() => "rpc_error",
        (_, Some(Value::Object(result))) => match (result.get("resultType"), result.get("isError"))
        {
            (Some(Value::String(kind)), _) if kind == "input_required" => "input_required",
            (Some(Value::String(kind)), _) if kind == "task" => "task",
            (None, _) if result.get("task").is_some_and(Value::is_object) => "task",
            (Some(kind), _) if kind != "complete" => "unknown",
            (_, Some(Value::Bool(true))) => "tool_error",
            (_, Some(Value::Bool(false)) | None) => "ok",
            (_, Some(_)) => "unknown",
        },
        _ => "unknown",
    }
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        Just(json!(7)),
        "(complete|input_required|task|[\"\\\\{}\\[\\],: é\n]{0,6})".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let key = "(id|error|result|isError|resultType|task|[\"\\\\{}é]{0,3})";
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(key, inner, 0..5)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn a_scan_agrees_with_a_reading_of_the_whole(
        mut answer in anything(), has_id in any::<bool>(), size in 1_usize..40,
    ) {
        if let (true, Value::Object(members)) = (has_id, &mut answer) {
            members.insert("id".to_owned(), json!(7));
        }
        let text = answer.to_string();
        let expected = if answer.is_object() { Some(reference(&answer)) } else { None };
        let found = read(CALL, Carrier::Json, text.as_bytes().chunks(size));
        if let Some(expected) = expected {
            prop_assert_eq!(&found, &[expected], "{}", text);
        }
        let event = format!("data: {text}\n\n");
        prop_assert_eq!(read(CALL, Carrier::Events, event.as_bytes().chunks(size)), found);
    }

    #[test]
    fn no_bytes_and_no_cuts_make_a_difference_or_a_panic(
        bytes in proptest::collection::vec(
            proptest::sample::select(br#"[]{}",:\de7 "result"id:"#.as_slice()), 0..60),
        size in 1_usize..9,
    ) {
        for carrier in [Carrier::Json, Carrier::Events] {
            let whole = read(CALL, carrier, [&bytes]);
            prop_assert_eq!(read(CALL, carrier, bytes.chunks(size)), whole);
        }
    }

    #[test]
    fn a_plain_answer_says_at_one_look_what_it_says_byte_by_byte(answer in nearly::plain()) {
        let event = [b"data: ", answer.as_slice(), b"\n\n"].concat();
        for (carrier, bytes) in [(Carrier::Json, &answer), (Carrier::Events, &event)] {
            let found = read(CALL, carrier, [bytes]);
            prop_assert_eq!(found, read(CALL, carrier, bytes.chunks(1)), "{}", bytes.escape_ascii());
        }
    }
}
