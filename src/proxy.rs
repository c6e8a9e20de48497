//! Pingora's callbacks, translated: nothing here decides.
//!
//! A request walks through [`Ctx`]'s states: it arrives, it is refused or cleared by the gate, and
//! only a [`Cleared`] opens the way to the upstream. Every request ends in `logging`, broken-off
//! ones too.

pub mod affinity;
mod contain;
pub mod guard;
mod head;
mod health;
mod hygiene;
pub mod intake;
pub mod leave;
pub mod listen;
pub mod local;
mod location;
pub mod memory;
pub mod pool;
pub mod probe;
mod replay;
mod reply;
mod response;
pub mod upstream;
pub mod upstreams;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result, RetryType};
use tracing::{debug, warn};

use crate::firewall::denial::{Code, Denial};
use crate::gate::{Cleared, Ended, Gate, cut_off};
use intake::Intake;
use memory::Held;
use pool::Way;
use response::Flow;
use upstreams::Upstreams;

/// The proxy port's service.
pub struct Gateway {
    pub gate: Arc<Gate>,
    pub intake: Intake,
    pub upstreams: Arc<Upstreams>,
    pub local: local::Local,
    /// Longest wait for the upstream's response header.
    pub upstream_timeout: Duration,
    pub max_response_body_bytes: usize,
    /// Longest silence inside a response.
    pub idle_timeout: Duration,
    /// Whether clients can ask for the rest of a stream that broke off.
    pub legacy_streams: bool,
}

/// Where a request stands.
enum State {
    Arrived,
    /// Answered by the gateway itself: health, metrics, metadata.
    Local,
    /// Refused and on record; the answer has been or is being written.
    Refused,
    Cleared(Box<InFlight>),
}

/// A cleared call on its way.
struct InFlight {
    cleared: Cleared,
    flow: Flow,
    /// The request body's share of the memory that all bodies together may take.
    _held: Held,
    way: Way,
    upstream_status: Option<u16>,
    /// How much of the answer's body went to the client.
    bytes_out: u64,
    /// Set when the call failed after it was cleared.
    failed: Option<Denial>,
}

pub struct Ctx {
    state: State,
    slot: replay::Slot,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx { state: State::Arrived, slot: replay::Slot::default() }
    }

    async fn early_request_filter(&self, _session: &mut Session, _ctx: &mut Ctx) -> Result<()> {
        guard::head_arrived();
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let kept = (!self.gate.drain.is_leaving()).then_some(intake::KEEP_ALIVE_SECS);
        session.set_keepalive(kept);
        session.set_write_timeout(Some(intake::WRITE_TIMEOUT));
        if self.local.answer(session, &self.gate).await? {
            ctx.state = State::Local;
            return Ok(true);
        }
        match self.intake.admit(&self.gate, &self.upstreams, session).await {
            Ok((cleared, held, way)) => {
                let flow = Flow::new(self.max_response_body_bytes);
                let body = cleared.body().clone();
                replay::install(
                    &mut session.downstream_session,
                    body,
                    &ctx.slot,
                    replay::Patience {
                        first_byte: self.upstream_timeout,
                        silence: self.idle_timeout,
                        ending: self.gate.drain.ending(),
                        streams: self.gate.metrics.open_streams.clone(),
                    },
                );
                ctx.state = State::Cleared(Box::new(InFlight {
                    cleared,
                    flow,
                    _held: held,
                    way,
                    upstream_status: None,
                    bytes_out: 0,
                    failed: None,
                }));
                Ok(false)
            }
            Err(refused) => {
                ctx.state = State::Refused;
                let challenge = self.local.challenge(session, &refused, &self.gate);
                reply::write(session, &refused, challenge).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let State::Cleared(call) = &mut ctx.state else {
            return Error::e_explain(ErrorType::InternalError, "not cleared for any upstream");
        };
        call.way.peer(self.gate.clock.mono()).await
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let State::Cleared(call) = &ctx.state else {
            return Error::e_explain(ErrorType::InternalError, "not cleared for any upstream");
        };
        call.way.address(request, &call.cleared)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut e: Box<Error>,
    ) -> Box<Error> {
        if let State::Cleared(call) = &ctx.state {
            e.set_retry(call.way.failed(self.gate.clock.mono()));
        }
        e
    }

    /// Retries only what the upstream has seen nothing of, or says that it did not touch: a tool may
    /// have done its work although its answer never came.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        ctx: &mut Ctx,
        _reused: bool,
    ) -> Box<Error> {
        let mut e = e.more_context(format!("peer {peer}"));
        let unanswered = session.response_written().is_none_or(|r| r.status.is_informational());
        let State::Cleared(call) = &ctx.state else {
            e.set_retry(false);
            return e;
        };
        let unseen = !ctx.slot.head_sent() && *e.etype() == ErrorType::WriteError;
        let retry = unanswered
            && *e.esource() == ErrorSource::Upstream
            && (unseen || untouched(&e))
            && call.way.may_retry();
        e.set_retry(retry);
        e
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let State::Cleared(call) = &mut ctx.state else { return Ok(()) };
        // 101 is informational by its number only: no other response follows it.
        let interim = response.status.is_informational()
            && response.status != StatusCode::SWITCHING_PROTOCOLS;
        if interim {
            response::bare(response);
            return Ok(());
        }
        call.upstream_status = Some(response.status.as_u16());
        self.gate.upstream_answered(&mut call.cleared);
        call.way.answered(response)?;
        let accepted = contain::refused(|| {
            contain::failpoint(session.req_header(), "answer");
            call.flow.begin(response, &call.cleared)
        });
        accepted.or_else(|denial| {
            let reason = denial.message.clone();
            call.failed = Some(denial);
            Error::e_explain(ErrorType::HTTPStatus(502), reason)
        })
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let State::Cleared(call) = &mut ctx.state else { return Ok(()) };
        reply::decorate(response, call.cleared.request_id(), call.cleared.warnings())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        let State::Cleared(call) = &mut ctx.state else { return Ok(None) };
        let pushed = contain::refused(|| {
            contain::failpoint(session.req_header(), "event");
            call.flow.push(body.take(), end_of_stream)
        });
        match pushed {
            Ok(out) => {
                let length = out.as_ref().map_or(0, Bytes::len);
                call.bytes_out = call.bytes_out.saturating_add(u64::try_from(length).unwrap_or(0));
                *body = out;
                Ok(None)
            }
            Err(denial) => {
                let reason = denial.message.clone();
                call.failed = Some(denial);
                Error::e_explain(ErrorType::HTTPStatus(502), reason)
            }
        }
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Ctx,
    ) -> Result<Option<Bytes>> {
        let State::Cleared(call) = &mut ctx.state else { return Ok(None) };
        match contain::refused(|| call.flow.trailers(trailers)) {
            Ok(held_back) => Ok(held_back),
            Err(denial) => {
                let reason = denial.message.clone();
                call.failed = Some(denial);
                Error::e_explain(ErrorType::HTTPStatus(502), reason)
            }
        }
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Ctx) -> FailToProxy {
        let gone = FailToProxy { error_code: 0, can_reuse_downstream: false };
        let State::Cleared(call) = &mut ctx.state else { return gone };
        if call.failed.is_none() {
            call.failed = failure(e);
        }
        let Some(denial) = &call.failed else { return gone };
        let begun = session.response_written().is_some_and(|r| !r.status.is_informational());
        let refused = call.cleared.failed(denial.clone());
        if begun {
            let message = reply::message(&refused);
            let event = message.and_then(|m| call.flow.last_event(&m, self.legacy_streams));
            if let Some(event) = event
                && let Err(e) = reply::end_with(session, event).await
            {
                debug!(error = %e, "could not tell the client that the stream broke off");
            }
            return gone;
        }
        // Pingora closes the connection after a failure; the answer must say so, or the client's
        // next request is lost on it. Only the real session can be told.
        replay::uninstall(&mut session.downstream_session, &ctx.slot);
        session.set_keepalive(None);
        if let Err(e) = reply::write(session, &refused, None).await {
            warn!(error = %e, "could not tell the client that the upstream failed");
        }
        FailToProxy { error_code: refused.denial.code.row().status, can_reuse_downstream: false }
    }

    /// Failures of the upstream are in the record and the metrics; a log line each would be noise
    /// that a dead upstream could flood.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        replay::uninstall(&mut session.downstream_session, &ctx.slot);
        let state = std::mem::replace(&mut ctx.state, State::Refused);
        if let State::Cleared(call) = state {
            let InFlight { cleared, flow, way, upstream_status, bytes_out, failed, .. } = *call;
            let server = way.server_name();
            let scrubbed = flow.scrubbed();
            self.gate.finish(
                cleared,
                &Ended {
                    server,
                    upstream_status,
                    scrubbed,
                    bytes_out,
                    failed,
                    whole: error.is_none(),
                },
            );
        }
    }
}

/// Whether a server of HTTP/2 has said that it did not process the request (RFC 9113 section 8.7):
/// it refused the stream, is going away, or wants HTTP/1.1. Pingora marks these, and one thing more:
/// an answer that is not valid, which may follow upon work that was done.
fn untouched(e: &Error) -> bool {
    matches!(e.retry, RetryType::Decided(true)) && *e.etype() != ErrorType::InvalidH2
}

/// What an error of Pingora's means to the agent; `None` when the client itself is gone.
fn failure(e: &Error) -> Option<Denial> {
    let late = || {
        Denial::new(
            Code::UpstreamTimeout,
            "the MCP server did not answer in time: try again later, or with a smaller request",
        )
    };
    match (e.etype(), e.esource()) {
        (ErrorType::Custom(replay::FIRST_BYTE_LATE | replay::SILENT), _) => Some(late()),
        (ErrorType::Custom(replay::CUT_OFF), _) => Some(cut_off()),
        (_, ErrorSource::Downstream) => None,
        (ErrorType::ReadTimedout | ErrorType::WriteTimedout, _) => Some(late()),
        _ => Some(Denial::new(
            Code::UpstreamFailed,
            "the MCP server could not be reached or broke off: try again later",
        )),
    }
}
