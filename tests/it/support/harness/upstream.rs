//! A server behind the gateway that records what it is sent, and answers what a test has it answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::PATIENCE;

/// One request as the upstream saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub(crate) type Handler = Arc<dyn Fn(&Seen) -> Response + Send + Sync>;

/// A recording upstream that answers what a test tells it to.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    count: watch::Sender<usize>,
    handler: Arc<Mutex<Handler>>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            count: watch::Sender::default(),
            handler: Arc::new(Mutex::new(Arc::new(echo_result))),
        };
        let router = axum::Router::new().fallback(serve).with_state(upstream.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        upstream
    }

    /// Gives what answered until now.
    pub(crate) fn answer_with(
        &self,
        handler: impl Fn(&Seen) -> Response + Send + Sync + 'static,
    ) -> Handler {
        self.set_handler(Arc::new(handler))
    }

    pub(crate) fn set_handler(&self, handler: Handler) -> Handler {
        std::mem::replace(&mut *self.handler.lock().unwrap(), handler)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until this many requests have come.
    pub(crate) async fn wait_for_calls(&self, calls: usize) {
        let mut count = self.count.subscribe();
        let enough = count.wait_for(|count| *count >= calls);
        tokio::time::timeout(PATIENCE, enough).await.unwrap().unwrap();
    }
}

async fn serve(State(upstream): State<Upstream>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let method = head.method.to_string();
    let seen = Seen { method, path: head.uri.to_string(), headers: head.headers, body };
    let handler = upstream.handler.lock().unwrap().clone();
    upstream.seen.lock().unwrap().push(seen.clone());
    upstream.count.send_modify(|count| *count += 1);
    handler(&seen)
}

/// A stream whose events a test sends one by one; the stream ends when the sender goes.
pub(crate) fn events() -> (tokio::sync::mpsc::UnboundedSender<String>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<String>();
    let chunks = futures::stream::unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(chunk), receiver))
    });
    (sender, Body::from_stream(chunks))
}

/// Reads a response until `mark` has come; gives all that came, or what there was at its end.
pub(crate) async fn read_until(response: &mut reqwest::Response, mark: &str) -> String {
    let mut text = String::new();
    while !text.contains(mark) {
        let chunk = tokio::time::timeout(PATIENCE, response.chunk()).await.unwrap();
        match chunk.unwrap() {
            Some(chunk) => text.push_str(std::str::from_utf8(&chunk).unwrap()),
            None => break,
        }
    }
    text
}

fn echo_result(seen: &Seen) -> Response {
    let id = serde_json::from_slice::<Value>(&seen.body)
        .ok()
        .and_then(|body| body.get("id").cloned())
        .unwrap_or(Value::Null);
    json_response(&json!({"jsonrpc": "2.0", "id": id, "result": {"content": []}}).to_string())
}

pub(crate) fn json_response(body: &str) -> Response {
    ([("content-type", "application/json")], body.to_owned()).into_response()
}

pub(crate) fn stream_response(body: Body) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}

pub(crate) fn with_headers(status: u16, headers: &[(&str, &str)], body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        response.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
    }
    response
}
