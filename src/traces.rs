//! Traces of requests for OpenTelemetry: spans made from what goes on record, sent by OTLP/HTTP.
//!
//! A request has a [`Draft`] until its decision, then, if it is sampled, a [`Trace`] until its end.
//! Both are fed with the entry and the outcome that the audit record is written from, so that a span
//! and its record cannot differ. A request waits for nothing: a finished trace goes into a bounded
//! queue or is counted as dropped, and a task encodes and sends ([`export`]). With traces off there
//! is no draft, and a request costs one test of an `Option`.
//!
//! A span holds names and ids of the agent's request, clipped and without known secrets, and never an
//! argument.

pub mod export;
mod sampler;
mod span;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::audit::record::{Entry, Outcome};
use crate::clock::Clock;
use crate::config;
use crate::firewall::time::{Mono, Now};
use crate::mcp::message::Message;
use crate::mcp::trace::{TraceContext, in_meta, is_state};
use crate::mcp::version::Version;
use crate::metrics::{Metrics, SpanEnd};
use sampler::{Choice, Sampler};
pub use span::Decided;
use span::{Finished, Ids, Request, Said};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Traces that wait to be sent: of the longest names about 6 MiB.
const QUEUE: usize = 2_048;

/// Source of traces, shared by all requests.
#[derive(Debug)]
pub struct Traces {
    sampler: Sampler,
    queue: mpsc::Sender<Item>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// Entry of the queue.
#[derive(Debug)]
enum Item {
    Finished(Box<Finished>),
    /// Answered when every earlier entry has been sent or dropped.
    Flush(oneshot::Sender<()>),
}

/// Receiving end of the queue, for the exporter.
#[derive(Debug)]
pub struct Queue(mpsc::Receiver<Item>);

/// Parts of a request's head that its trace needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried<'h> {
    pub traceparent: Option<&'h str>,
    pub tracestate: Option<&'h str>,
    /// The MCP session's id as the client knows it.
    pub mcp_session: Option<&'h str>,
}

/// Place where a trace context was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Head,
    Meta,
}

/// Trace of a request that is not decided yet.
#[derive(Debug)]
pub struct Draft {
    traces: Arc<Traces>,
    context: Option<(TraceContext, Source)>,
    state: Option<Box<str>>,
    session: Option<Box<str>>,
    version: Option<Version>,
    named: bool,
}

/// Trace of a request that was decided.
#[derive(Debug)]
pub struct Trace {
    traces: Arc<Traces>,
    /// The context that the upstream gets.
    onward: TraceContext,
    state: Option<Box<str>>,
    /// True if the client's own `tracestate` header belongs to `onward`.
    keeps_state: bool,
    /// None if the request is not sampled.
    request: Option<Request>,
}

impl Traces {
    pub fn new(
        settings: &config::Tracing,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> (Arc<Self>, Queue) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let sampler = Sampler::new(settings.sample_ratio, settings.max_traces_per_sec);
        (Arc::new(Self { sampler, queue, metrics, clock }), Queue(receiver))
    }

    /// Begins the trace of a request.
    pub fn draft(self: &Arc<Self>, carried: &Carried<'_>) -> Box<Draft> {
        let context = carried.traceparent.and_then(TraceContext::parse);
        Box::new(Draft {
            traces: Arc::clone(self),
            context: context.map(|context| (context, Source::Head)),
            state: carried
                .tracestate
                .filter(|state| context.is_some() && is_state(state))
                .map(Box::from),
            session: carried.mcp_session.map(span::hashed),
            version: None,
            named: false,
        })
    }

    /// Waits until all traces that have ended are sent or given up.
    pub async fn flush(&self) {
        let (sender, done) = oneshot::channel();
        if self.queue.send(Item::Flush(sender)).await.is_ok() {
            // An error means that the task has ended, and its traces with it.
            let _gone = done.await;
        }
    }
}

impl Draft {
    /// Notes what the message says: the context that it carries, which counts if the head has none.
    /// `named` is true if operators named its tool, so that the name is one of a bounded number.
    pub fn describes(&mut self, message: &Message<'_>, named: bool) {
        self.named = named;
        if self.context.is_none()
            && let Some((context, state)) = in_meta(message)
        {
            self.context = Some((context, Source::Meta));
            self.state = state.map(String::into_boxed_str);
        }
    }

    pub fn in_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// Settles whether the request is traced, and names its trace in the record. `id` is the
    /// JSON-RPC id as it was written.
    #[expect(clippy::boxed_local, reason = "boxed to be small in the tickets that carry it")]
    pub fn decided(
        self: Box<Self>,
        entry: &mut Entry,
        id: Option<&str>,
        decided: Decided,
    ) -> Option<Box<Trace>> {
        let Self { traces, context, state, session, version, named } = *self;
        let parent = context.map(|(context, _)| context);
        let meta = matches!(context, Some((_, Source::Meta)));
        let keeps_state = matches!(context, Some((_, Source::Head)));
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        let (random, _) = first.as_u64_pair();
        let trace = parent.map_or_else(|| *first.as_bytes(), |parent| parent.trace);
        let choice = traces.sampler.choose(parent.as_ref(), random, decided.at);
        if choice == Choice::OverLimit {
            traces.metrics.operation.spans(SpanEnd::OverLimit, span::count(entry));
        }
        if choice != Choice::Sampled {
            // The client's own header passes as it came; what only `_meta` says is put in one.
            let onward = parent.filter(|_| meta)?;
            entry.head.in_trace(&onward.trace_id());
            return Some(Box::new(Trace { traces, onward, state, keeps_state, request: None }));
        }
        let ids = Ids { trace, server: low(second), upstream: low(first), parent };
        let onward = TraceContext { trace, parent: ids.upstream, sampled: true };
        entry.head.in_trace(&onward.trace_id());
        let request = Request::of(entry, ids, decided, Said { id, session, version, named });
        Some(Box::new(Trace { traces, onward, state, keeps_state, request: Some(request) }))
    }

    /// Ends the trace of a request that was never decided.
    pub fn broken_off(
        self: Box<Self>,
        entry: &mut Entry,
        outcome: Outcome,
        arrived: Now,
        from: Mono,
    ) {
        let at = self.traces.clock.mono();
        if let Some(trace) = self.decided(entry, None, Decided { arrived, from, at }) {
            trace.end(outcome, at);
        }
    }
}

/// Returns the lower half of a random UUID, which is never all zeros: two of its bits say so.
fn low(id: Uuid) -> [u8; 8] {
    id.as_u64_pair().1.to_be_bytes()
}

impl Trace {
    /// Puts the context that the upstream gets into the head that it gets.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        let Ok(traceparent) = HeaderValue::from_str(&self.onward.traceparent()) else { return };
        headers.insert(TRACEPARENT, traceparent);
        if self.keeps_state {
            return;
        }
        // A state belongs to the context that it came with.
        headers.remove(TRACESTATE);
        let state = self.state.as_deref().and_then(|state| HeaderValue::from_str(state).ok());
        if let Some(state) = state {
            headers.insert(TRACESTATE, state);
        }
    }

    /// Ends the trace as the record ends.
    pub fn end(self: Box<Self>, outcome: Outcome, now: Mono) {
        let Self { traces, request, .. } = *self;
        let Some(request) = request else { return };
        let finished = Finished { request, outcome, ended: now };
        let count = finished.count();
        if traces.queue.try_send(Item::Finished(Box::new(finished))).is_err() {
            traces.metrics.operation.spans(SpanEnd::Dropped, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::Decision;
    use crate::firewall::time::Timestamp;

    const NOW: Now = Now { wall: Timestamp(7), mono: Mono(7) };

    fn traces() -> (Arc<Traces>, Queue, Arc<Metrics>) {
        let settings = config::Tracing {
            otlp_endpoint: None,
            service_name: String::new(),
            sample_ratio: 1.0,
            max_traces_per_sec: 100_000,
        };
        let metrics = Arc::new(Metrics::new());
        let (traces, queue) = Traces::new(&settings, Arc::clone(&metrics), Clock::system());
        (traces, queue, metrics)
    }

    /// A `traceparent` up to its parent.
    fn trace_of(traceparent: &str) -> Option<&str> {
        traceparent.get(..36)
    }

    fn decided(draft: Box<Draft>, entry: &mut Entry) -> Option<Box<Trace>> {
        draft.decided(entry, None, Decided { arrived: NOW, from: NOW.mono, at: NOW.mono })
    }

    #[test]
    fn a_full_queue_drops_spans_and_counts_them() {
        let (traces, _queue, metrics) = traces();
        for _ in 0..QUEUE + 3 {
            let mut entry = Entry::new(NOW.wall, Uuid::new_v4(), Decision::Deny);
            let trace = decided(traces.draft(&Carried::default()), &mut entry).unwrap();
            trace.end(Outcome::default(), NOW.mono);
        }
        let dropped = "arbiter_trace_spans_total{outcome=\"dropped\"} 6\n";
        assert!(metrics.render().contains(dropped), "{}", metrics.render());
    }

    #[test]
    fn the_upstream_gets_the_state_of_the_context_that_it_gets() {
        const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (traces, ..) = traces();
        let passed = |traceparent: Option<&str>, meta: Option<&str>| {
            let tracestate = Some("of=head");
            let mut draft = traces.draft(&Carried { traceparent, tracestate, mcp_session: None });
            if let Some(meta) = meta {
                let context = TraceContext::parse(meta).unwrap();
                draft.context = draft.context.or(Some((context, Source::Meta)));
                if traceparent.is_none() {
                    draft.state = Some("of=meta".into());
                }
            }
            let mut entry = Entry::new(NOW.wall, Uuid::new_v4(), Decision::Allow);
            let trace = decided(draft, &mut entry).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(TRACESTATE, HeaderValue::from_static("of=head"));
            trace.pass_on(&mut headers);
            let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            (text(TRACEPARENT).unwrap(), text(TRACESTATE))
        };
        let (traceparent, state) = passed(Some(PARENT), None);
        assert_eq!((trace_of(&traceparent), state.as_deref()), (PARENT.get(..36), Some("of=head")));
        let parents = [&*traceparent, PARENT].map(|text| text.get(36..52));
        assert_ne!(parents[0], parents[1], "the parent is the gateway's own span");
        let (traceparent, state) = passed(None, Some(PARENT));
        assert_eq!((trace_of(&traceparent), state.as_deref()), (PARENT.get(..36), Some("of=meta")));
        assert_eq!(passed(None, None).1, None, "a state without its context is nobody's");
    }
}
