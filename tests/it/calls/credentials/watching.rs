//! Time for which, and agents for whom, a secret is looked for.

use axum::body::{Body, Bytes};
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use serde_json::json;

use super::{JSON, Keys, OTHER, TOKEN, answered, hides, inject, reads, text, trusted};
use crate::support::harness::{Agent, Gateway, PATIENCE, with_headers};

/// Returns the answer of a careless upstream that reports everything.
fn everything() -> String {
    json!({"keys": [TOKEN, OTHER]}).to_string()
}

#[tokio::test]
async fn a_later_response_of_the_session_is_scrubbed_too() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    let answer = answered(&gateway, &session, 200, JSON, everything()).await;
    hides(&answer, TOKEN, "a later response");
    // What was not injected is not known to be a secret of this session.
    assert_eq!(answer.json()["keys"][1], OTHER);
    inject(&gateway, &session, "other").await;
    let answer = answered(&gateway, &session, 200, JSON, everything()).await;
    hides(&answer, TOKEN, "a still later response");
    hides(&answer, OTHER, "a still later response");
}

#[tokio::test]
async fn another_session_neither_sends_nor_scrubs_it() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let ours = gateway.session(json!({"authorized_credentials": ["token"]})).await;
    let theirs = gateway.session(json!({"authorized_credentials": ["other"]})).await;
    let bare = gateway.session(json!({})).await;
    inject(&gateway, &ours, "token").await;
    inject(&gateway, &theirs, "other").await;
    for (session, shown) in [
        (&ours, json!(["[CREDENTIAL]", OTHER])),
        (&theirs, json!([TOKEN, "[CREDENTIAL]"])),
        (&bare, json!([TOKEN, OTHER])),
    ] {
        let answer = answered(&gateway, session, 200, JSON, everything()).await;
        assert_eq!(answer.json()["keys"], shown);
    }
    let refused = gateway.call(&theirs, reads("${CRED:token}")).await;
    assert_eq!(refused.code(), "CredentialNotAuthorized");
}

#[tokio::test]
async fn a_restart_in_mid_session_forgets_nothing() {
    let keys = Keys::usual();
    let setup = keys.setup().with("proxy.require_session", false);
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({"authorized_credentials": ["token"]})).await;
    inject(&gateway, &session, "token").await;
    gateway.kill();
    gateway.start_again();
    // First without the session, which then has not been seen since.
    for claims_session in [false, true] {
        gateway.upstream.answer_with(|_| with_headers(200, JSON, Body::from(everything())));
        let answer = if claims_session {
            gateway.call(&session, reads("a.txt")).await
        } else {
            without_session(&gateway, &gateway.agent).await
        };
        assert_eq!(answer.status, 200, "{answer:?}");
        hides(&answer, TOKEN, "after a restart");
        assert_eq!(answer.json()["keys"][1], OTHER);
    }
}

async fn without_session(gateway: &Gateway, agent: &Agent) -> crate::support::harness::Answer {
    let request = gateway.client.post(format!("http://{}/", gateway.proxy));
    let request = request.bearer_auth(&agent.token).header("content-type", "application/json");
    gateway.send(request.body(reads("a.txt"))).await
}

#[tokio::test]
async fn leaving_the_session_out_is_no_way_around() {
    let keys = Keys::usual();
    let setup = keys
        .setup()
        .with("proxy.require_session", false)
        .with("proxy.deny_non_post_methods", false);
    let gateway = Gateway::start(setup).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    gateway.upstream.answer_with(|_| with_headers(200, JSON, Body::from(everything())));
    let answer = without_session(&gateway, &gateway.agent).await;
    hides(&answer, TOKEN, "a call without the session");
    let request = gateway.client.get(format!("http://{}/", gateway.proxy));
    let answer = gateway.send(request.bearer_auth(&gateway.agent.token)).await;
    assert_eq!(answer.status, 200);
    hides(&answer, TOKEN, "a GET");
    let stranger = gateway.register(json!({})).await;
    assert!(text(&without_session(&gateway, &stranger).await).contains(TOKEN));
}

#[tokio::test]
async fn a_stream_that_was_open_before_is_scrubbed_of_what_is_injected_meanwhile() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    for kind in ["text/event-stream", "application/json", "text/plain"] {
        let (senders, mut asked) = mpsc::unbounded();
        gateway.upstream.answer_with(move |_| {
            let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(0);
            senders.unbounded_send(sender).unwrap();
            // Only a refusal may be no JSON-RPC.
            let status = if kind == "text/plain" { 404 } else { 200 };
            with_headers(status, &[("content-type", kind)], Body::from_stream(receiver))
        });
        // A session of its own for each, or the first would have made it known.
        let session =
            if kind == "text/event-stream" { session.clone() } else { trusted(&gateway).await };
        let open = gateway.request(&session, reads("a.txt")).send();
        let begin = async {
            let mut sender = asked.next().await.unwrap();
            sender.send(Ok(Bytes::from("data: [1,\n\n"))).await.unwrap();
            sender
        };
        let (answer, mut sender) =
            tokio::time::timeout(PATIENCE, async { tokio::join!(open, begin) }).await.unwrap();
        let mut answer = answer.unwrap();
        let first = tokio::time::timeout(PATIENCE, answer.chunk()).await.unwrap();
        assert_eq!(first.unwrap().unwrap(), "data: [1,\n\n");
        inject(&gateway, &session, "token").await;
        sender.send(Ok(Bytes::from(format!("data: \"{TOKEN}\"\n\n")))).await.unwrap();
        drop(sender);
        let rest = tokio::time::timeout(PATIENCE, answer.bytes()).await.unwrap().unwrap();
        assert_eq!(std::str::from_utf8(&rest).unwrap(), "data: \"[CREDENTIAL]\"\n\n", "{kind}");
    }
}
