//! Traces of requests, as a collector gets them.

use serde_json::{Value, json};

use crate::support::harness::{Gateway, Seen, Setup, eventually, json_response, tool_call};
use crate::support::otlp::{Collector, Span};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

async fn traced(setup: Setup) -> (Gateway, Collector) {
    let collector = Collector::start().await;
    let setup = setup.with("tracing.otlp_endpoint", collector.url());
    (Gateway::start(setup).await, collector)
}

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}: {spans:?}"))
}

fn sent(seen: &Seen, name: &str) -> Option<String> {
    seen.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_call_is_one_trace_from_the_agent_to_the_tool() {
    let mut setup = Setup::default().with("tracing.service_name", "\"edge\"");
    setup.env.push(("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=north".to_owned()));
    let (gateway, collector) = traced(setup).await;
    let session = gateway.session(json!({})).await;
    gateway.upstream.answer_with(|_| {
        json_response(r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}"#)
    });
    let body = tool_call("read_file", json!({"path": "/a-telling-argument"}));
    let request = gateway
        .request(&session, body.clone())
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
        .header("tracestate", "agent=1")
        .header("mcp-protocol-version", "2025-06-18");
    let answer = gateway.send(request).await;
    assert_eq!(answer.status, 200);

    let spans = collector.trace_of(answer.request_id()).await;
    assert_eq!(spans.len(), 3, "{spans:?}");
    let server = named(&spans, "tools/call read_file");
    let (decision, upstream) = (named(&spans, "decision"), named(&spans, "upstream"));
    assert_eq!((server.trace.as_str(), server.parent.as_str()), (TRACE, PARENT));
    assert_eq!([server.kind, decision.kind, upstream.kind], [2, 1, 3]);
    for (key, expected) in [
        ("mcp.method.name", "tools/call"),
        ("gen_ai.operation.name", "execute_tool"),
        ("gen_ai.tool.name", "read_file"),
        ("mcp.protocol.version", "2025-06-18"),
        ("jsonrpc.request.id", "1"),
        ("error.type", "tool_error"),
        ("arbiter.tool_outcome", "tool_error"),
        ("arbiter.decision", "allow"),
        ("arbiter.agent_id", &gateway.agent.id),
    ] {
        assert_eq!(server.attribute(key), expected, "{key} of {server:?}");
    }
    let hash = blake3::hash(session.as_bytes()).to_hex();
    assert_eq!(server.attribute("mcp.session.id"), &hash[..32]);
    assert_eq!(decision.attribute("arbiter.policy"), "all");
    assert_eq!(upstream.attribute("http.response.status_code"), "200");
    assert_eq!(upstream.attribute("server.address"), "127.0.0.1");
    assert_eq!(upstream.attribute("server.port"), gateway.upstream.address.port().to_string());
    for span in &spans {
        assert_eq!(span.trace, TRACE);
        assert!(server.start_ns <= span.start_ns && span.end_ns <= server.end_ns, "{span:?}");
        assert_eq!(span.resource["service.name"], "edge");
        assert!(span.resource.contains_key("service.instance.id"));
    }
    assert!(decision.end_ns <= upstream.start_ns);

    // The tool's span belongs under the gateway's, and the body is the one that was checked.
    let seen = gateway.upstream.seen().pop().unwrap();
    let onward = format!("00-{TRACE}-{}-01", upstream.id);
    assert_eq!(sent(&seen, "traceparent").as_deref(), Some(onward.as_str()));
    assert_eq!(sent(&seen, "tracestate").as_deref(), Some("agent=1"));
    assert_eq!(seen.body, body.as_bytes());
    assert_eq!(gateway.record_of(answer.request_id()).await["trace_id"], TRACE);
    for (headers, bytes) in collector.requests() {
        assert_eq!(headers["x-tenant"], "north");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("telling"), "an argument left in a span");
        assert!(!text.contains(&session), "a session's id left in a span");
    }
}

#[tokio::test]
async fn refusals_are_traces_that_their_records_name() {
    let (gateway, collector) = traced(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let unlisted = gateway.call(&session, tool_call("made_up", json!({}))).await;
    let unknown = gateway.client.post(format!("http://{}/", gateway.proxy)).body("{}");
    let unknown = gateway.send(unknown.header("content-type", "application/json")).await;
    let malformed = gateway.call(&session, "{").await;
    for (answer, code, name) in [
        (&unlisted, "ToolNotAuthorized", "tools/call"),
        (&unknown, "TokenMissing", "request"),
        (&malformed, "MalformedRequest", "request"),
    ] {
        assert_eq!(answer.code(), code);
        let spans = collector.trace_of(answer.request_id()).await;
        let server = named(&spans, name);
        assert_eq!((spans.len(), server.parent.as_str(), server.status), (2, "", 2), "{spans:?}");
        assert_eq!(server.attribute("error.type"), code);
        assert_eq!(named(&spans, "decision").attribute("arbiter.denial_code"), code);
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["trace_id"], server.trace.as_str());
        assert_eq!(server.attribute("arbiter.decision"), record["authorization_decision"]);
    }
    assert_eq!(gateway.upstream.calls(), 0);
}

#[tokio::test]
async fn a_context_in_the_message_is_read_and_passed_on_in_the_header() {
    let (gateway, collector) = traced(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    for flag in ["01", "00"] {
        let traceparent = format!("00-{TRACE}-{PARENT}-{flag}");
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "read_file", "arguments": {},
                       "_meta": {"traceparent": traceparent, "tracestate": "agent=2"}},
        });
        let request = gateway.request(&session, body.to_string()).header("tracestate", "stray=1");
        let answer = gateway.send(request).await;
        assert_eq!(answer.status, 200);
        let seen = gateway.upstream.seen().pop().unwrap();
        assert_eq!(seen.body, body.to_string().as_bytes(), "read, never rewritten");
        assert_eq!(sent(&seen, "tracestate").as_deref(), Some("agent=2"));
        let passed = sent(&seen, "traceparent").unwrap();
        let record = gateway.record_of(answer.request_id()).await;
        assert_eq!(record["trace_id"], TRACE);
        if flag == "00" {
            assert_eq!(passed, traceparent, "a trace that nobody records keeps its parent");
            continue;
        }
        let spans = collector.trace_of(answer.request_id()).await;
        let server = named(&spans, "tools/call read_file");
        assert_eq!((server.trace.as_str(), server.parent.as_str()), (TRACE, PARENT));
        assert_eq!(passed, format!("00-{TRACE}-{}-01", named(&spans, "upstream").id));
    }
    let servers = collector.spans().into_iter().filter(|span| span.kind == 2).count();
    assert_eq!(servers, 1, "the agent's own choice not to sample holds");
}

#[tokio::test]
async fn agents_cannot_have_more_traces_than_the_limit() {
    let (gateway, collector) = traced(Setup::default().with("tracing.max_traces_per_sec", 1)).await;
    let session = gateway.session(json!({})).await;
    let began = std::time::Instant::now();
    let calls = (0..40).map(|_| {
        let request = gateway.request(&session, tool_call("read_file", json!({})));
        gateway.send(request.header("traceparent", format!("00-{TRACE}-{PARENT}-01")))
    });
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.status, 200, "tracing refuses nobody");
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    let sent = "arbiter_trace_spans_total{outcome=\"exported\"}";
    let more = "arbiter_trace_spans_total{outcome=\"over_limit\"}";
    let all = eventually(|| async {
        let (sent, more) = (gateway.metric(sent).await, gateway.metric(more).await);
        (sent + more >= 120.0).then_some(sent)
    });
    let exported = all.await.expect("each call's three spans are counted");
    let servers = collector.spans().into_iter().filter(|span| span.kind == 2).count();
    let spans = 3.0 * f64::from(u32::try_from(servers).unwrap());
    assert!((exported - spans).abs() < 0.5, "{exported} for {servers} traces");
    assert!((1..=seconds + 2).contains(&servers), "{servers} traces in {seconds} s");
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_one_line() {
    let nowhere = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let setup = Setup::default().with("tracing.otlp_endpoint", format!("\"http://{nowhere}\""));
    let mut gateway = Gateway::start(setup).await;
    let session = gateway.session(json!({})).await;
    for _ in 0..3 {
        let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
        assert_eq!(answer.status, 200);
    }
    let lost = eventually(|| async {
        let lost = gateway.metric("arbiter_trace_spans_total{outcome=\"failed\"}").await;
        (lost > 0.0).then_some(lost)
    });
    assert!(lost.await.is_some(), "{}", gateway.metrics().await);
    gateway.call(&session, tool_call("read_file", json!({}))).await;
    gateway.stop();
    let log = std::fs::read_to_string(gateway.folder.path().join("log.txt")).unwrap();
    let lines = log.lines().filter(|line| line.contains("traces could not be sent")).count();
    assert_eq!(lines, 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_traces_are_sent_before_the_process_ends() {
    let (mut gateway, collector) = traced(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
    let request_id = answer.request_id().to_owned();
    gateway.stop();
    let sent = collector.spans();
    let of = |span: &Span| span.attribute("arbiter.request_id") == request_id;
    assert!(sent.iter().any(of), "{sent:?}");
}

#[tokio::test]
async fn without_a_collector_a_context_passes_as_it_came() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({})).await;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let request = gateway.request(&session, tool_call("read_file", json!({})));
    let answer = gateway.send(request.header("traceparent", &traceparent)).await;
    let seen = gateway.upstream.seen().pop().unwrap();
    assert_eq!(sent(&seen, "traceparent"), Some(traceparent));
    assert_eq!(gateway.record_of(answer.request_id()).await["trace_id"], TRACE);
    let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
    assert_eq!(gateway.record_of(answer.request_id()).await["trace_id"], Value::Null);
}
