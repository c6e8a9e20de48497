//! Values for the metrics that are read when somebody asks.

use std::sync::Arc;

use super::parts::Parts;
use super::tls::Certificate;
use crate::gate::Readiness;
use crate::metrics::Snapshot;
use crate::proxy::upstreams::Upstreams;

/// Lets the metrics read the state of this gateway.
pub(super) fn connect(
    parts: &Parts,
    upstreams: Arc<Upstreams>,
    certificate: Option<Arc<Certificate>>,
) {
    let (gate, state) = (parts.gate.clone(), parts.state.clone());
    parts.state.metrics.read_snapshot_with(move || {
        let now = state.clock.now();
        let (slots, free) = state.audit.journal_slots();
        Snapshot {
            ready: gate.readiness() == Readiness::Ready,
            unix_seconds: now.wall.unix_seconds(),
            log_bytes: state.audit.log_bytes(),
            journal_slots: slots,
            journal_slots_free: free,
            store_staleness: state.freshness.staleness(now.mono),
            certificate_expires: certificate.as_ref().and_then(|shown| shown.expires()),
            issuers: state.identity.issuer_keys(now.mono),
            upstreams: upstreams.snapshot(),
        }
    });
}
