//! Connections to the proxy port, and why they ended without a request.

use prometheus::{IntCounter, IntGauge, Registry};

use super::register::{counters, gauge};

/// Reason why a connection has ended before or between requests, or was not kept at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Every place was busy.
    Full,
    /// Its source had all the places that one may have.
    SourceFull,
    /// The connection was idle, and another needed its place.
    ForAnother,
    /// The client sent no first byte in time.
    Silent,
    /// The client sent no further request in time.
    Idle,
    /// Its TLS handshake failed.
    Handshake,
    /// HTTP/2 broke off.
    Broken,
    /// Not the connection: one stream of it, which HTTP/2 reset before it was a request.
    StreamReset,
    /// The system could not accept it.
    NotAccepted,
}

impl Closed {
    const ALL: [(Self, &str); 9] = [
        (Self::Full, "full"),
        (Self::SourceFull, "source_full"),
        (Self::ForAnother, "for_another"),
        (Self::Silent, "silent"),
        (Self::Idle, "idle"),
        (Self::Handshake, "handshake"),
        (Self::Broken, "broken"),
        (Self::StreamReset, "stream_reset"),
        (Self::NotAccepted, "not_accepted"),
    ];
}

/// Connections to the proxy port.
pub(super) struct Connections {
    pub(super) open: IntGauge,
    /// In the order of [`Closed::ALL`].
    pub(super) closed: Vec<(Closed, IntCounter)>,
}

impl Connections {
    pub(super) fn new(registry: &Registry) -> Self {
        let help = "Connections that were refused, or ended without a request";
        let closed = counters(registry, "arbiter_connections_closed_total", help, "cause");
        let child = |(why, name): &(Closed, &str)| (*why, closed.with_label_values(&[name]));
        Self {
            open: gauge(registry, "arbiter_connections", "Connections to the proxy port"),
            closed: Closed::ALL.iter().map(child).collect(),
        }
    }
}
