//! Scrubbing costs a stream nothing that its reader would notice.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use serde_json::json;

use super::{Keys, TOKEN, inject, reads, trusted};
use crate::support::harness::{Gateway, PATIENCE, with_headers};

const EVENTS: u32 = 200;

type Sender = mpsc::Sender<Result<Bytes, std::io::Error>>;

/// Has the upstream answer with a stream of events that the test writes.
fn stream(gateway: &Gateway) -> mpsc::UnboundedReceiver<Sender> {
    let (senders, asked) = mpsc::unbounded();
    gateway.upstream.answer_with(move |_| -> Response {
        let (sender, receiver) = mpsc::channel(0);
        senders.unbounded_send(sender).unwrap();
        with_headers(200, &[("content-type", "text/event-stream")], Body::from_stream(receiver))
    });
    asked
}

fn event(n: u32) -> String {
    // Ends as a secret begins, so that the scrubber has something to think about.
    let params = json!({"progress": n, "message": format!("step {n} of the work to")});
    format!(
        "event: message\ndata: {}\n\n",
        json!({"jsonrpc": "2.0", "method": "n", "params": params})
    )
}

/// Opens a stream, sends its first event, and gives both ends.
async fn open(
    asked: &mut mpsc::UnboundedReceiver<Sender>,
    request: reqwest::RequestBuilder,
) -> (reqwest::Response, Sender) {
    let begin = async {
        let mut sender = asked.next().await.unwrap();
        sender.send(Ok(Bytes::from(event(0)))).await.unwrap();
        sender
    };
    let both = async { tokio::join!(request.send(), begin) };
    let (answer, sender) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    let mut answer = answer.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), event(0));
    (answer, sender)
}

/// Sends events one by one, each only after the one before has come; gives the median and the
/// longest time from sending to coming.
async fn measure(mut answer: reqwest::Response, mut sender: Sender) -> (Duration, Duration) {
    let mut took = Vec::new();
    for n in 1..=EVENTS {
        let event = event(n);
        let start = Instant::now();
        sender.send(Ok(Bytes::from(event.clone()))).await.unwrap();
        let mut got = Vec::new();
        while got.len() < event.len() {
            let chunk = tokio::time::timeout(PATIENCE, answer.chunk()).await;
            got.extend_from_slice(&chunk.expect("the event is held back").unwrap().unwrap());
        }
        took.push(start.elapsed());
        assert_eq!(got, event.as_bytes());
    }
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() - 1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_leave_at_once_and_no_later_for_being_scrubbed() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let bare = gateway.session(json!({})).await;
    let scrubbed = trusted(&gateway).await;
    for name in ["token", "other", "breaker", "nested", "tiny_ok"] {
        inject(&gateway, &scrubbed, name).await;
    }
    let mut asked = stream(&gateway);
    let url = format!("http://{}/mcp", gateway.upstream.address);
    let mut medians = Vec::new();
    for (what, request) in [
        ("straight", gateway.client.post(url)),
        ("through, nothing to scrub", gateway.request(&bare, reads("a"))),
        ("through, five secrets", gateway.request(&scrubbed, reads("a"))),
    ] {
        let (answer, sender) = open(&mut asked, request).await;
        let (median, longest) = measure(answer, sender).await;
        println!("{what}: median {median:?}, longest {longest:?} of {EVENTS} events");
        medians.push(median);
    }
    // On a busy machine, in a build without optimisation; an event that waited for another would
    // never have come.
    assert!(medians[2] < medians[1] + Duration::from_millis(20), "{medians:?}");
}

#[tokio::test]
async fn only_what_may_go_on_as_a_secret_waits_and_for_one_event_at_most() {
    let keys = Keys::usual();
    let gateway = Gateway::start(keys.setup()).await;
    let session = trusted(&gateway).await;
    inject(&gateway, &session, "token").await;
    let mut asked = stream(&gateway);
    let (mut answer, mut sender) = open(&mut asked, gateway.request(&session, reads("a"))).await;
    let delta = |text: &str| format!("data: {}\n\n", json!({"delta": text}));
    let half = delta(&TOKEN[..12]);
    sender.send(Ok(Bytes::from(half.clone()))).await.unwrap();
    let other = delta("innocent");
    sender.send(Ok(Bytes::from(other.clone()))).await.unwrap();
    let mut got = Vec::new();
    while got.len() < half.len() + other.len() {
        let chunk = tokio::time::timeout(PATIENCE, answer.chunk()).await.unwrap();
        got.extend_from_slice(&chunk.unwrap().unwrap());
    }
    assert_eq!(std::str::from_utf8(&got).unwrap(), half + &other);
}
