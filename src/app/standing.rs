//! Values for the metrics that are read when somebody asks.

use std::sync::Arc;

use super::parts::Parts;
use super::tls::Certificate;
use crate::gate::Readiness;
use crate::metrics::Standing;
use crate::proxy::upstreams::Upstreams;

/// Lets the metrics read the state of this gateway.
pub(super) fn connect(
    parts: &Parts,
    upstreams: Arc<Upstreams>,
    certificate: Option<Arc<Certificate>>,
) {
    let (gate, audit) = (parts.gate.clone(), parts.audit.clone());
    parts.metrics.read_standing_with(move || {
        let now = gate.clock.now();
        let (slots, free) = audit.journal_slots();
        Standing {
            ready: gate.readiness() == Readiness::Ready,
            unix_seconds: now.wall.unix_seconds(),
            log_bytes: audit.log_bytes(),
            journal_slots: slots,
            journal_slots_free: free,
            store_staleness: gate.followed.staleness(now.mono),
            certificate_expires: certificate.as_ref().and_then(|shown| shown.expires()),
            issuers: gate.identity.issuers_standing(now.mono),
            upstreams: upstreams.standing(),
        }
    });
}
