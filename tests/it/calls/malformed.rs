//! Requests that are not what they should be: each is told what is wrong with it, or loses its
//! connection where nothing after it can be read any more, and nothing of it is forwarded.

mod admin;
mod bodies;
mod framing;
mod heads;

use crate::support::harness::{Answer, Gateway, tool_call};

/// Ends a table: nothing went upstream, and the gateway serves valid requests.
async fn still_serves(gateway: &Gateway, session: &str) {
    assert_eq!(gateway.upstream.calls(), 0);
    let answer = gateway.call(session, tool_call("read_file", serde_json::json!({}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gateway.upstream.calls(), 1);
}

/// Returns the message of a refusal.
fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
}
