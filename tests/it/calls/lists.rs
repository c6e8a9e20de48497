//! Lists show what the session could use and nothing else; every other byte stays as it came.

use axum::body::Body;
use serde_json::{Value, json};

use crate::support::harness::{Gateway, Setup, json_response, stream_response};

const POLICIES: &str = r#"
[[policies]]
id = "some"
effect = "allow"
allowed_tools = ["read_*", "only_policy"]
allowed_resources = ["file:///a*", "file:///policy"]
allowed_prompts = ["greet", "only_policy"]

[[policies]]
id = "not-this-one"
effect = "deny"
allowed_tools = ["read_denied"]
priority = 900
"#;

async fn start() -> (Gateway, String) {
    let gateway = Gateway::start(Setup::default().policies(POLICIES)).await;
    let order = json!({
        "authorized_tools": ["read_file", "read_denied", "only_session"],
        "authorized_resources": ["file:///a", "file:///session"],
        "authorized_prompts": ["greet", "only_session"],
    });
    let session = gateway.session(order).await;
    (gateway, session)
}

fn ask(method: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": method}).to_string()
}

/// The answer that the upstream gives, and the items of it that must be left.
const LISTS: &[(&str, &str, &str, &[&str])] = &[
    (
        "tools/list",
        r#"{ "jsonrpc":"2.0", "id":1,"result" :{"nextCursor":"c\u0031","tools":[{"name":"read_file", "description":"é \u00e9","n":1.10e+2},{"name":"read_denied"} ,{"name":"only_policy"},{"name":"only_session"},{"name":"re\u0061d_other"},{"nameless":1},7],"_meta":{ }} }"#,
        "tools",
        &[r#"{"name":"read_file", "description":"é \u00e9","n":1.10e+2}"#],
    ),
    (
        "resources/list",
        r#"{"jsonrpc":"2.0","id":1,"result":{"resources":[{"uri":"file:///policy"},{"uri":"file:///a","name":"A"},{"uri":"file:///ab"},{"uri":"file:///session"}]}}"#,
        "resources",
        &[r#"{"uri":"file:///a","name":"A"}"#],
    ),
    (
        "prompts/list",
        r#"{"jsonrpc":"2.0","id":1,"result":{"prompts":[{"name":"only_session"},{"name":"only_policy"},{"name":"greet","arguments":[]}],"nextCursor":""}}"#,
        "prompts",
        &[r#"{"name":"greet","arguments":[]}"#],
    ),
];

/// The answer with its list replaced; what stands around the list is what came.
fn expected(answer: &str, member: &str, kept: &[&str]) -> (String, String, Vec<Value>) {
    let list = answer.find(&format!("\"{member}\":[")).unwrap() + member.len() + 4;
    let mut depth = 1;
    let end = answer[list..].char_indices().find(|(_, c)| {
        depth += match c {
            '[' => 1,
            ']' => -1,
            _ => 0,
        };
        depth == 0
    });
    let end = list + end.unwrap().0;
    let kept = kept.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
    (answer[..list].to_owned(), answer[end..].to_owned(), kept)
}

fn check(sent: &str, member: &str, kept: &[&str], got: &str) {
    let (before, after, items) = expected(sent, member, kept);
    assert!(got.starts_with(&before) && got.ends_with(&after), "{got}");
    let body: Value = serde_json::from_str(got).unwrap();
    assert_eq!(body["result"][member], json!(items), "{got}");
    for item in kept {
        assert!(got.contains(item), "{got}");
    }
}

#[tokio::test]
async fn a_list_shows_what_the_session_could_use() {
    let (gateway, session) = start().await;
    for (method, sent, member, kept) in LISTS {
        gateway.upstream.answer_with(|_| json_response(sent));
        let answer = gateway.call(&session, ask(method)).await;
        assert_eq!(answer.status, 200);
        let got = std::str::from_utf8(&answer.body).unwrap();
        check(sent, member, kept, got);
        let length: usize =
            answer.header("content-length").map_or(got.len(), |n| n.parse().unwrap());
        assert_eq!(length, got.len());
    }
}

#[tokio::test]
async fn a_list_in_an_event_stream_is_filtered_and_the_rest_of_the_stream_is_not() {
    let (gateway, session) = start().await;
    for (method, sent, member, kept) in LISTS {
        let before = ": hello\n\nevent: message\nid: 6\nretry: 10\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"tools\":[{\"name\":\"x\"}]}}\n\nid: 7\ndata: ";
        let after = "\n\n: bye\n\n";
        let stream = format!("{before}{sent}{after}");
        gateway.upstream.answer_with(move |_| stream_response(Body::from(stream.clone())));
        let answer = gateway.call(&session, ask(method)).await;
        let got = std::str::from_utf8(&answer.body).unwrap();
        let data = got.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        check(sent, member, kept, data.unwrap_or_else(|| panic!("{got}")));
    }
}

#[tokio::test]
async fn what_is_no_list_passes_as_it_is() {
    let (gateway, session) = start().await;
    let sent =
        r#"{"jsonrpc":"2.0", "id":1,"result":{"tools":[{"name":"anything"}],"content":[ ]}}"#;
    gateway.upstream.answer_with(move |_| json_response(sent));
    let call = crate::support::harness::tool_call("read_file", json!({}));
    let answer = gateway.call(&session, call).await;
    assert_eq!(answer.body, sent);
    let sent = r#"{"jsonrpc":"2.0", "id":1,"error":{"code":-32601,"message":"no tools here"}}"#;
    gateway.upstream.answer_with(move |_| json_response(sent));
    let answer = gateway.call(&session, ask("tools/list")).await;
    assert_eq!(answer.body, sent);
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_not_passed_on() {
    let (gateway, session) = start().await;
    for sent in [
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"}],"tools":[]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":{"name":"a"}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"}]}"#,
        "tools: a, b, c",
    ] {
        gateway.upstream.answer_with(move |_| json_response(sent));
        let answer = gateway.call(&session, ask("tools/list")).await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "UpstreamFailed"), "{sent}");
    }
}
