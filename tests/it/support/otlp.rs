//! A collector of traces that reads OTLP by itself: protobuf's wire format by hand, so that it shares
//! no code with what encodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::harness::{eventually, with_headers};

/// One span as the collector read it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub trace: String,
    pub id: String,
    /// Empty for a root.
    pub parent: String,
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    pub attributes: BTreeMap<String, String>,
    /// 2 is an error.
    pub status: u64,
    /// Attributes of the resource.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    pub(crate) fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// A running collector.
#[derive(Clone)]
pub(crate) struct Collector {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector = Self { address, got: Arc::default() };
        let router = axum::Router::new()
            .route("/v1/traces", axum::routing::post(take))
            .with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        collector
    }

    /// The collector's URL as a value of the configuration.
    pub(crate) fn url(&self) -> String {
        format!("\"http://{}\"", self.address)
    }

    /// The requests so far: their headers and bodies.
    pub(crate) fn requests(&self) -> Vec<(HeaderMap, Bytes)> {
        self.got.lock().unwrap().clone()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.requests().iter().flat_map(|(_, body)| spans(body)).collect()
    }

    /// The spans of one request of the gateway's, its server span first, once they have come.
    pub(crate) async fn trace_of(&self, request_id: &str) -> Vec<Span> {
        let found = eventually(|| async {
            let all = self.spans();
            let of = |span: &&Span| span.attribute("arbiter.request_id") == request_id;
            let server = all.iter().find(of)?.clone();
            let mut found = vec![server.clone()];
            found.extend(all.into_iter().filter(|span| span.parent == server.id));
            Some(found)
        });
        found.await.unwrap_or_else(|| panic!("no span of {request_id}"))
    }
}

async fn take(State(collector): State<Collector>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    assert_eq!(head.headers["content-type"], "application/x-protobuf");
    collector.got.lock().unwrap().push((head.headers, body));
    let headers = [("content-type", "application/x-protobuf")];
    with_headers(StatusCode::OK.as_u16(), &headers, Body::empty())
}

/// A field of a protobuf message.
enum Field<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// The fields of a message, with their numbers.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => Field::Number(u64::from_le_bytes(split(&mut bytes, 8).try_into().unwrap())),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                Field::Bytes(split(&mut bytes, length))
            }
            5 => {
                let four: [u8; 4] = split(&mut bytes, 4).try_into().unwrap();
                Field::Number(u32::from_le_bytes(four).into())
            }
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, field));
    }
    found
}

fn split<'b>(bytes: &mut &'b [u8], length: usize) -> &'b [u8] {
    let (head, rest) = bytes.split_at(length);
    *bytes = rest;
    head
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = split(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}

/// The messages under one number of a message.
fn messages(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    let under = |(at, field)| match field {
        Field::Bytes(bytes) if at == number => Some(bytes),
        Field::Bytes(_) | Field::Number(_) => None,
    };
    fields(bytes).into_iter().filter_map(under).collect()
}

fn text(bytes: &[u8], number: u64) -> String {
    let found = messages(bytes, number).first().copied().unwrap_or_default();
    String::from_utf8(found.to_vec()).unwrap()
}

fn hex(bytes: &[u8], number: u64) -> String {
    let found = messages(bytes, number).first().copied().unwrap_or_default();
    let digits = found.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn number(bytes: &[u8], wanted: u64) -> u64 {
    let under = |(at, field): &(u64, Field<'_>)| match field {
        Field::Number(value) if *at == wanted => Some(*value),
        Field::Bytes(_) | Field::Number(_) => None,
    };
    fields(bytes).iter().find_map(under).unwrap_or(0)
}

/// Attributes as texts, those that are numbers too.
fn attributes(bytes: &[u8], number_of_field: u64) -> BTreeMap<String, String> {
    let one = |pair: &[u8]| {
        let value = messages(pair, 2).first().copied().unwrap_or_default();
        let shown = match fields(value).first() {
            Some((1, Field::Bytes(text))) => String::from_utf8(text.to_vec()).unwrap(),
            Some((3, Field::Number(number))) => number.to_string(),
            _ => panic!("an attribute that is neither text nor number"),
        };
        (text(pair, 1), shown)
    };
    messages(bytes, number_of_field).into_iter().map(one).collect()
}

/// Reads an `ExportTraceServiceRequest`.
fn spans(body: &[u8]) -> Vec<Span> {
    let mut found = Vec::new();
    for of_resource in messages(body, 1) {
        let resource = messages(of_resource, 1).first().copied().unwrap_or_default();
        let resource = attributes(resource, 1);
        for of_scope in messages(of_resource, 2) {
            for span in messages(of_scope, 2) {
                let status = messages(span, 15).first().copied().unwrap_or_default();
                found.push(Span {
                    trace: hex(span, 1),
                    id: hex(span, 2),
                    parent: hex(span, 4),
                    name: text(span, 5),
                    kind: number(span, 6),
                    start_ns: number(span, 7),
                    end_ns: number(span, 8),
                    attributes: attributes(span, 9),
                    status: number(status, 3),
                    resource: resource.clone(),
                });
            }
        }
    }
    found
}
