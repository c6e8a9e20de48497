//! The task that encodes traces and sends them by OTLP/HTTP.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

use super::span::{Finished, Role, Span, Value};
use super::{Item, Queue, Traces};
use crate::config;
use crate::firewall::time::Mono;
use crate::http_client;
use crate::metrics::SpanEnd;
use crate::saturate::SaturatingFrom as _;

/// Most traces in one request to the collector.
const BATCH: usize = 256;
/// Time for which a batch gathers traces once it has the first.
const GATHER: Duration = Duration::from_millis(500);
/// Time for one request to the collector.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for a batch, with the attempts that the exporter makes.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest time between two warnings about the collector.
const WARN_EVERY_US: u64 = 60_000_000;

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the client for `tracing.otlp_endpoint` could not be made")]
    Client(#[from] reqwest::Error),
    #[error("the exporter for `tracing.otlp_endpoint` could not be made")]
    Exporter(#[from] ExporterBuildError),
}

/// Sender of finished traces.
pub struct Export {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    traces: Arc<Traces>,
    /// Time of the last warning, and spans that were lost since.
    warned: Option<Mono>,
    lost: u64,
}

impl Export {
    /// Prepares to send; `node_id` names this gateway among others of the service.
    pub fn new(
        settings: &config::Tracing,
        endpoint: &str,
        node_id: String,
        traces: Arc<Traces>,
    ) -> Result<Self, ExportError> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(http_client::client(REQUEST_TIMEOUT, None)?)
            .with_endpoint(endpoint)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(BATCH_TIMEOUT)
            .build()?;
        let version = env!("CARGO_PKG_VERSION");
        let resource = Resource::builder_empty()
            .with_service_name(settings.service_name.clone())
            .with_attribute(KeyValue::new("service.version", version))
            .with_attribute(KeyValue::new("service.instance.id", node_id))
            .build();
        exporter.set_resource(&resource);
        let scope = InstrumentationScope::builder("arbiter").with_version(version).build();
        Ok(Self { exporter, scope, traces, warned: None, lost: 0 })
    }

    /// Sends what comes until nothing can come any more.
    pub async fn run(mut self, mut queue: Queue) {
        while let Some(first) = queue.0.recv().await {
            let (mut batch, mut flushed) = (Vec::new(), Vec::new());
            let mut take = |item| match item {
                Item::Finished(finished) => {
                    batch.push(*finished);
                    true
                }
                Item::Flush(done) => {
                    flushed.push(done);
                    false
                }
            };
            if take(first) {
                let gathered = async {
                    let mut taken: usize = 1;
                    while taken < BATCH
                        && let Some(next) = queue.0.recv().await
                        && take(next)
                    {
                        taken = taken.saturating_add(1);
                    }
                };
                // The time is over: what has come by then is sent.
                let _over = timeout(GATHER, gathered).await;
            }
            self.send(&batch).await;
            for done in flushed {
                // Nobody waits any more if an error comes of it.
                let _gone = done.send(());
            }
        }
    }

    async fn send(&mut self, batch: &[Finished]) {
        let spans: Vec<_> = batch.iter().flat_map(|one| data(one, &self.scope)).collect();
        if spans.is_empty() {
            return;
        }
        let count = u64::saturating_from(spans.len());
        let sent = timeout(BATCH_TIMEOUT, self.exporter.export(spans)).await;
        let problem = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_late) => Some("the collector did not answer in time".to_owned()),
        };
        let end = if problem.is_none() { SpanEnd::Exported } else { SpanEnd::Failed };
        self.traces.metrics.operation.spans(end, count);
        match problem {
            Some(problem) => self.warn(&problem, count),
            None if self.warned.take().is_some() => info!("the collector takes traces again"),
            None => {}
        }
    }

    /// Reports that spans were lost: at once, then now and then.
    fn warn(&mut self, problem: &str, count: u64) {
        self.lost = self.lost.saturating_add(count);
        let now = self.traces.clock.mono();
        if self.warned.is_some_and(|last| now.since(last) < WARN_EVERY_US) {
            return;
        }
        let spans = std::mem::take(&mut self.lost);
        self.warned = Some(now);
        warn!(spans, error = problem, "traces could not be sent to `tracing.otlp_endpoint`");
    }
}

/// Returns the spans of a request in the terms of the library.
fn data(finished: &Finished, scope: &InstrumentationScope) -> Vec<SpanData> {
    let ids = finished.request.ids;
    let (server, parent) = (SpanId::from_bytes(ids.server), ids.parent);
    let spans = finished.spans().into_iter().map(|span| {
        let Span { role, name, start_us, end_us, attributes, error } = span;
        let (id, kind) = match role {
            Role::Server => (server, SpanKind::Server),
            Role::Decision => (SpanId::from_bytes(random_id()), SpanKind::Internal),
            Role::Upstream => (SpanId::from_bytes(ids.upstream), SpanKind::Client),
        };
        let outer = role == Role::Server;
        let above = parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.parent));
        SpanData {
            span_context: SpanContext::new(
                TraceId::from_bytes(ids.trace),
                id,
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: if outer { above } else { server },
            parent_span_is_remote: outer && parent.is_some(),
            span_kind: kind,
            name,
            start_time: system_time(start_us),
            end_time: system_time(end_us),
            attributes: attributes.into_iter().map(attribute).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: error.map_or(Status::Unset, Status::error),
            instrumentation_scope: scope.clone(),
        }
    });
    spans.collect()
}

fn random_id() -> [u8; 8] {
    super::low(Uuid::new_v4())
}

fn attribute((key, value): (&'static str, Value)) -> KeyValue {
    match value {
        Value::Text(text) => KeyValue::new(key, text),
        Value::Number(number) => KeyValue::new(key, number),
    }
}

fn system_time(us: i64) -> SystemTime {
    let since = Duration::from_micros(u64::try_from(us).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}
