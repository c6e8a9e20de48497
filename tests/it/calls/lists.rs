//! Lists show what the session could use and nothing else; every other byte stays as it came.

use axum::body::Body;
use serde_json::{Value, json};

use crate::support::harness::{
    Answer, Gateway, Setup, json_response, stream_response, with_headers,
};

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

const MODERN: &str = "2026-07-28";

/// Sends a request as clients of 2026-07-28 do; `declared` are their capabilities.
async fn ask_modern(
    gateway: &Gateway,
    session: &str,
    (method, mut params): (&str, Value),
    declared: Value,
) -> Answer {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": declared,
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    });
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let mut request = gateway
        .request(session, body)
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", method);
    if let Some(uri) = params["uri"].as_str() {
        request = request.header("mcp-name", uri);
    }
    gateway.send(request).await
}

#[tokio::test]
async fn a_list_is_for_its_reader_alone_and_not_for_long() {
    let (gateway, session) = start().await;
    let shown = |scope: &str, ttl: u64| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"complete","tools":[ {{"name":"read_file"}} ],"ttlMs":{ttl} ,"cacheScope":"{scope}"}}}}"#
        )
    };
    let sent = shown("public", 86_400_000);
    let headers = [
        ("content-type", "application/json"),
        ("etag", "\"whole\""),
        ("last-modified", "Sat, 28 Nov 2026 10:00:00 GMT"),
        ("repr-digest", "sha-256=:AAAA:"),
        ("cache-control", "public, max-age=86400"),
    ];
    let body = sent.clone();
    gateway.upstream.answer_with(move |_| with_headers(200, &headers, Body::from(body.clone())));
    let answer = ask_modern(&gateway, &session, ("tools/list", json!({})), json!({})).await;
    assert_eq!(std::str::from_utf8(&answer.body).unwrap(), shown("private", 60_000));
    for gone in ["etag", "last-modified", "repr-digest"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    assert_eq!(answer.header("cache-control"), Some("private, no-cache"));

    // In a stream, and for older clients, alike.
    let stream = format!("data: {sent}\n\n");
    gateway.upstream.answer_with(move |_| stream_response(Body::from(stream.clone())));
    let answer = gateway.call(&session, ask("tools/list")).await;
    let got = std::str::from_utf8(&answer.body).unwrap();
    assert_eq!(got, format!("data: {}\n\n", shown("private", 60_000)));

    // The server's description is kept like a list, and says so where it must.
    let described = r#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"]}}"#;
    gateway.upstream.answer_with(move |_| json_response(described));
    let answer = ask_modern(&gateway, &session, ("server/discover", json!({})), json!({})).await;
    let result = &answer.json()["result"];
    assert_eq!((&result["cacheScope"], &result["ttlMs"]), (&json!("private"), &json!(0)));

    // What is no list keeps what it says.
    let read = r#"{"jsonrpc":"2.0","id":1,"result":{"contents":[],"ttlMs":86400000,"cacheScope":"public"}}"#;
    gateway.upstream.answer_with(move |_| json_response(read));
    let uri = json!({"uri": "file:///a"});
    let answer = ask_modern(&gateway, &session, ("resources/read", uri), json!({})).await;
    assert_eq!(answer.body, read);
}

#[tokio::test]
async fn the_longest_time_to_keep_a_list_is_a_setting() {
    let setup = Setup::default().with("proxy.max_list_ttl_ms", 5);
    let gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    let sent = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"ttlMs":6,"cacheScope":"private"}}"#;
    gateway.upstream.answer_with(move |_| json_response(sent));
    let answer = gateway.call(&session, ask("tools/list")).await;
    assert_eq!(answer.body, sent.replace(":6,", ":5,"));
}

#[tokio::test]
async fn skills_and_folders_are_reached_by_uri() {
    let (gateway, session) = start().await;
    let before = gateway.upstream.calls();
    for (method, uri, allowed) in [
        ("skills/get", "file:///a", true),
        ("resources/directory/read", "file:///a", true),
        // Listed by the session only, and allowed by a policy only.
        ("skills/get", "file:///session", false),
        ("resources/directory/read", "file:///ab", false),
    ] {
        gateway.upstream.answer_with(|_| json_response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
        let answer = ask_modern(&gateway, &session, (method, json!({"uri": uri})), json!({})).await;
        assert_eq!(answer.status == 200, allowed, "{method} {uri}");
    }
    assert_eq!(gateway.upstream.calls(), before + 2);
    let nameless = gateway.call(&session, ask("skills/get")).await;
    assert_eq!((nameless.status, nameless.code().as_str()), (400, "MalformedRequest"));

    let skills = r#"{"jsonrpc":"2.0","id":1,"result":{"skills":[{"uri":"file:///a","frontmatter":{"name":"s"}},{"uri":"file:///session"},{"name":"no uri"}]}}"#;
    let kept = r#"{"uri":"file:///a","frontmatter":{"name":"s"}}"#;
    gateway.upstream.answer_with(move |_| json_response(skills));
    let answer = gateway.call(&session, ask("skills/list")).await;
    check(skills, "skills", &[kept], std::str::from_utf8(&answer.body).unwrap());

    let folder = r#"{"jsonrpc":"2.0","id":1,"result":{"resources":[{"uri":"file:///policy"},{"uri":"file:///a"}]}}"#;
    gateway.upstream.answer_with(move |_| json_response(folder));
    let body = json!({
        "jsonrpc": "2.0", "id": 1, "method": "resources/directory/read",
        "params": {"uri": "file:///a"},
    });
    let answer = gateway.call(&session, body.to_string()).await;
    let shown = std::str::from_utf8(&answer.body).unwrap();
    check(folder, "resources", &[r#"{"uri":"file:///a"}"#], shown);
}

#[tokio::test]
async fn tools_for_applications_are_shown_to_clients_that_have_them() {
    let (gateway, session) = start().await;
    let sent = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read_file","_meta":{"ui":{"visibility":["app"]}}}],"ttlMs":0,"cacheScope":"private"}}"#;
    gateway.upstream.answer_with(move |_| json_response(sent));
    let apps = json!({"extensions": {"io.modelcontextprotocol/ui": {}}});
    let count = |answer: &Answer| answer.json()["result"]["tools"].as_array().unwrap().len();
    let list = || ("tools/list", json!({}));
    assert_eq!(count(&ask_modern(&gateway, &session, list(), json!({})).await), 0);
    assert_eq!(count(&ask_modern(&gateway, &session, list(), apps.clone()).await), 1);
    // Before 2026-07-28 a client declares it once for its session.
    assert_eq!(count(&gateway.call(&session, ask("tools/list")).await), 0);
    let begin = |capabilities: Value| {
        json!({
            "jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {"protocolVersion": "2025-11-25", "capabilities": capabilities},
        })
    };
    gateway.call(&session, begin(apps).to_string()).await;
    assert_eq!(count(&gateway.call(&session, ask("tools/list")).await), 1);
    gateway.call(&session, begin(json!({})).to_string()).await;
    assert_eq!(count(&gateway.call(&session, ask("tools/list")).await), 0);
}
