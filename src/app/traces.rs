//! Traces of requests: made and sent if a collector is configured.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;
use tracing::warn;

use super::settings::audit_settings;
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::traces::export::Export;
use crate::traces::{Queue, Traces};

/// Time for which a stopping gateway waits for the collector.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// The task that sends traces, before it runs.
pub(super) struct Sending {
    export: Export,
    queue: Queue,
}

impl Sending {
    pub(super) async fn run(self) {
        self.export.run(self.queue).await;
    }
}

/// Makes the source of traces and the task that sends them; none of both without a collector.
pub(super) fn prepare(
    config: &Config,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> Result<Option<(Arc<Traces>, Sending)>> {
    let Some(endpoint) = &config.tracing.otlp_endpoint else { return Ok(None) };
    let (traces, queue) = Traces::new(&config.tracing, Arc::clone(metrics), clock.clone());
    let node_id = audit_settings(config)?.node_id;
    let export = Export::new(&config.tracing, endpoint, node_id, Arc::clone(&traces));
    let export = export.context("preparing to send traces")?;
    Ok(Some((traces, Sending { export, queue })))
}

/// Sends the traces of the last requests.
pub(super) async fn flush(traces: &Traces) {
    if timeout(LAST_SPANS, traces.flush()).await.is_err() {
        warn!("the last traces were not sent: the collector did not take them in time");
    }
}
