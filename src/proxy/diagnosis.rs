//! Reason why an upstream failed: one word for the agent, the record and the metrics, and a log
//! line now and then for each server.

use std::sync::atomic::{AtomicU64, Ordering};

use pingora::{Error, ErrorSource, ErrorType};

use super::replay;
use crate::firewall::denial::{Cause, Denial};
use crate::firewall::time::Mono;

/// Error type for a server whose name could not be resolved.
pub(super) const NO_ADDRESS: &str = "name not resolved";

/// Pause between two log lines about one server, in microseconds.
const PAUSE_US: u64 = 10_000_000;

/// Longest reason in a log line.
const MAX_REASON_CHARS: usize = 200;

/// Limits the log lines about one server.
#[derive(Debug, Default)]
pub(super) struct Reports {
    silent_until_us: AtomicU64,
    silenced: AtomicU64,
}

impl Reports {
    /// Reports whether a line is due, and how many were left out since the last.
    pub(super) fn due(&self, now: Mono) -> Option<u64> {
        let until = self.silent_until_us.load(Ordering::Relaxed);
        let next = now.0.saturating_add(PAUSE_US);
        let due = now.0 >= until
            && self
                .silent_until_us
                .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if due {
            return Some(self.silenced.swap(0, Ordering::Relaxed));
        }
        self.silenced.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// The refusal that an error of Pingora's means to the agent; `None` when the client itself is gone.
pub(super) fn denial(error: &Error) -> Option<Denial> {
    let late = matches!(error.etype(), ErrorType::Custom(replay::FIRST_BYTE_LATE | replay::SILENT));
    if !late && *error.esource() == ErrorSource::Downstream {
        return None;
    }
    let cause = cause(error.etype());
    let message = match cause {
        Cause::Timeout => {
            "the MCP server did not answer in time: try again later, or with a smaller request"
        }
        Cause::Dns
        | Cause::Refused
        | Cause::Tls
        | Cause::Reset
        | Cause::Protocol
        | Cause::TooLarge
        | Cause::Credentials => "the MCP server could not be reached or broke off: try again later",
    };
    Some(Denial::upstream(cause, message))
}

fn cause(kind: &ErrorType) -> Cause {
    match kind {
        ErrorType::Custom(replay::FIRST_BYTE_LATE | replay::SILENT)
        | ErrorType::ConnectTimedout
        | ErrorType::ReadTimedout
        | ErrorType::WriteTimedout => Cause::Timeout,
        ErrorType::Custom(NO_ADDRESS) => Cause::Dns,
        ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::ConnectProxyFailure
        | ErrorType::BindError
        | ErrorType::SocketError => Cause::Refused,
        ErrorType::TLSWantX509Lookup
        | ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => Cause::Tls,
        ErrorType::ConnectionClosed
        | ErrorType::ReadError
        | ErrorType::WriteError
        | ErrorType::Custom("PrematureBodyEnd") => Cause::Reset,
        _ => Cause::Protocol,
    }
}

/// Returns the innermost cause for the log, which quotes nothing that was sent.
pub(super) fn reason(error: &Error) -> String {
    let root = error.root_cause();
    let text = match root.downcast_ref::<Error>() {
        // Their contexts may quote what an upstream sent.
        Some(own) => own.etype().as_str().to_owned(),
        None => root.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_reported_now_and_then_with_what_was_left_out() {
        let reports = Reports::default();
        assert_eq!(reports.due(Mono(0)), Some(0));
        assert_eq!(reports.due(Mono(1)), None);
        assert_eq!(reports.due(Mono(PAUSE_US - 1)), None);
        assert_eq!(reports.due(Mono(PAUSE_US)), Some(2));
        assert_eq!(reports.due(Mono(2 * PAUSE_US)), Some(0));
    }

    #[test]
    fn each_error_has_one_cause() {
        for (kind, expected) in [
            (ErrorType::Custom(NO_ADDRESS), Cause::Dns),
            (ErrorType::ConnectRefused, Cause::Refused),
            (ErrorType::TLSHandshakeFailure, Cause::Tls),
            (ErrorType::ConnectTimedout, Cause::Timeout),
            (ErrorType::Custom(replay::SILENT), Cause::Timeout),
            (ErrorType::ConnectionClosed, Cause::Reset),
            (ErrorType::ReadError, Cause::Reset),
            (ErrorType::InvalidHTTPHeader, Cause::Protocol),
            (ErrorType::H2Error, Cause::Protocol),
        ] {
            assert_eq!(cause(&kind), expected, "{kind:?}");
        }
        assert!(denial(&Error::new_down(ErrorType::WriteError)).is_none());
        let gone = Error::new_up(ErrorType::ConnectionClosed);
        assert_eq!(denial(&gone).unwrap().details["cause"], "reset");
    }

    #[test]
    fn a_reason_quotes_nothing_that_was_sent() {
        let error = Error::explain(ErrorType::InvalidHTTPHeader, "buf: secret");
        assert_eq!(reason(&error), "InvalidHTTPHeader");
        let io = std::io::Error::other("broken\r\npipe");
        assert_eq!(reason(&Error::because(ErrorType::ReadError, "x", io)), "brokenpipe");
    }
}
