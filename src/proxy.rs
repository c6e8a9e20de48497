//! Pingora's callbacks, translated: nothing here decides.
//!
//! A request walks through [`Ctx`]'s states: it arrives, it is refused or cleared by the gate, and
//! only a [`Cleared`] opens the way to the upstream. Every request ends in `logging`, broken-off
//! ones too.

pub mod affinity;
mod apart;
mod at_once;
pub mod browser;
mod buffered;
mod contain;
mod diagnosis;
pub mod forwarding;
pub mod guard;
mod handed;
pub mod head;
mod head_rules;
mod health;
mod held;
pub mod intake;
pub mod leave;
pub mod listen;
pub mod local;
mod location;
pub mod memory;
pub mod pool;
pub mod probe;
mod recorded;
mod replay;
mod reply;
mod response;
pub mod seats;
mod turn;
pub mod upstream;
pub mod upstreams;
pub mod wire;

use std::future::poll_fn;
use std::mem;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, OrErr as _, Result, RetryType};
use tokio::runtime::Handle;
use tracing::{debug, warn};

use crate::firewall::denial::Denial;
use crate::gate::listening::Listening;
use crate::gate::{Cleared, Ended, Gate, cut_off};
use crate::saturate::SaturatingFrom as _;
use apart::{Apart, NOT_MADE, WORK, Workers};
use at_once::{Done, at_once};
use browser::Browsers;
use forwarding::Forwarding;
use held::Rest;
use intake::Intake;
use memory::Held;
use pool::Route;
use response::ResponsePipeline;
use upstreams::Upstreams;
use wire::Attempt;

/// The proxy port's service.
pub struct Gateway {
    pub gate: Arc<Gate>,
    pub intake: Intake,
    /// Threads for long work on answers.
    pub answers: Handle,
    pub upstreams: Arc<Upstreams>,
    pub local: local::Local,
    pub browsers: Arc<Browsers>,
    pub forwarding: Forwarding,
    /// Longest wait for the upstream's response header.
    pub upstream_timeout: Duration,
    pub max_response_body_bytes: usize,
    /// Longest silence inside a response.
    pub idle_timeout: Duration,
    /// Time that clients are told an idle connection waits for their next request.
    pub keep_alive_secs: u64,
    /// Interval between comments on a silent stream; `None`: no comments.
    pub stream_keepalive: Option<Duration>,
    /// True if clients can ask for the rest of a stream that broke off.
    pub legacy_streams: bool,
}

/// State of a request.
enum Disposition {
    Arrived,
    /// Answered by the gateway itself: health, metrics, metadata.
    Local,
    /// Refused and on record; the answer has been or is being written.
    Refused,
    Cleared(Box<InFlight>),
}

/// A cleared call on its way.
struct InFlight {
    cleared: Box<Cleared>,
    /// The request's id as a header's value.
    request_id: HeaderValue,
    pipeline: ResponsePipeline,
    /// Set if notifications can come on the answer's stream.
    listening: Option<Arc<Listening>>,
    /// The request body's share of the memory that all bodies together may take.
    _held: Held,
    route: Route,
    /// The connection of the last attempt, if it can be watched.
    attempt: Option<Attempt>,
    /// Seconds for which the client's connection is kept afterwards, unless this fails.
    kept_secs: Option<u64>,
    upstream_status: Option<u16>,
    /// Length of the answer's body as the client got it.
    bytes_out: u64,
    /// True if the message was sent once more.
    repeated: bool,
    /// True if the client had the head of an answer before the server was asked.
    begun: bool,
    /// Set when the call failed after it was cleared.
    failed: Option<Denial>,
}

impl InFlight {
    /// Notes bytes of the answer that go to the client.
    fn passes(&mut self, bytes: &[u8]) {
        self.cleared.answer_passes(bytes);
        self.count(bytes);
    }

    fn count(&mut self, bytes: &[u8]) {
        self.bytes_out = self.bytes_out.saturating_add(u64::saturating_from(bytes.len()));
    }

    /// Lends what works on the answer's bytes.
    fn workers(&mut self, request: &RequestHeader) -> Workers {
        let pipeline = mem::replace(&mut self.pipeline, ResponsePipeline::new(0));
        let fails = contain::fails_at(request, "apart");
        Workers { pipeline, tools: self.cleared.lend_tools(), fails }
    }

    /// Takes back what was lent, if its work is done.
    fn take_back(&mut self, apart: &Apart) {
        self.restore(apart.take_back());
    }

    /// Takes back what was lent, once nobody works with it.
    async fn wait_for(&mut self, apart: &Apart) {
        self.restore(apart.wait_for().await);
    }

    fn restore(&mut self, back: Option<(Workers, Option<apart::Outcome>)>) {
        let Some((Workers { pipeline, tools, .. }, made)) = back else { return };
        self.pipeline = pipeline;
        self.cleared.take_tools_back(tools);
        match made {
            None => {}
            Some(Ok(bytes)) => self.count(&bytes),
            Some(Err(denial)) => self.failed = Some(denial),
        }
    }
}

pub struct Ctx {
    state: Disposition,
    slot: replay::Slot,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx { state: Disposition::Arrived, slot: replay::Slot::default() }
    }

    /// Adds none: what a client gets is never compressed here.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let kept = (!self.gate.drain().note_request()).then_some(self.keep_alive_secs);
        session.set_keepalive(kept);
        session.set_write_timeout(Some(intake::WRITE_TIMEOUT));
        let answered = (self.intake.is_preflight(session) && self.local.preflight(session).await?)
            || (local::may_answer(session)
                && self.local.answer(session, &self.gate, &self.upstreams).await?);
        if answered {
            ctx.state = Disposition::Local;
            return Ok(true);
        }
        match self.intake.check(self, session).await {
            Ok((mut cleared, held, route)) => {
                let listening = self.gate.listen(&mut cleared);
                let pipeline = ResponsePipeline::new(self.max_response_body_bytes);
                let peer = forwarding::peer(session);
                let request_id =
                    upstream::prepare(session.req_header_mut(), &self.forwarding, peer, &cleared)?;
                // A client that watched its call wait has the head of an answer.
                let begun = held::is_begun(session);
                let rest = begun.then(|| Rest::new(held::unanswered(&cleared)));
                let body = cleared.body().clone();
                let kept_secs = reply::kept_secs(session);
                replay::install(
                    &mut session.downstream_session,
                    body,
                    &ctx.slot,
                    replay::Patience {
                        first_byte: self.upstream_timeout,
                        silence: self.idle_timeout,
                        comment: self.stream_keepalive,
                        ending: self.gate.drain().ending(),
                        streams: self.gate.metrics().open_streams.clone(),
                        listening: listening.clone().filter(|one| one.is_lasting()),
                        rest,
                    },
                );
                ctx.state = Disposition::Cleared(Box::new(InFlight {
                    cleared,
                    request_id,
                    pipeline,
                    listening,
                    _held: held,
                    route,
                    attempt: None,
                    kept_secs,
                    upstream_status: None,
                    bytes_out: 0,
                    repeated: false,
                    begun,
                    failed: None,
                }));
                Ok(false)
            }
            Err(refused) => {
                ctx.state = Disposition::Refused;
                if held::is_begun(session) {
                    held::end(session, &refused).await?;
                    return Ok(true);
                }
                let challenge =
                    self.local.challenge(session, &refused, &self.gate, &self.upstreams);
                reply::write(session, &refused, challenge, &self.browsers).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let Disposition::Cleared(call) = &mut ctx.state else {
            return Error::e_explain(ErrorType::InternalError, "not cleared for any upstream");
        };
        call.route.peer(self.gate.mono()).await
    }

    /// Lets through what was cleared, which `request_filter` has seen to.
    fn proxy_upstream_filter<'a, 'b, 'c, 'f>(
        &'a self,
        _session: &'b mut Session,
        _ctx: &'c mut Ctx,
    ) -> Done<'f, Result<bool>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        Box::pin(poll_fn(|_cx| Poll::Ready(Ok(true))))
    }

    at_once! {
        fn early_request_filter<'a, 'b, 'c>(
            self,
            _session: &'b mut Session,
            _ctx: &'c mut Ctx,
        ) -> Result<()> {
            Ok(())
        }

        /// Changes nothing: what is replayed is what was checked.
        fn request_body_filter<'a, 'b, 'c, 'd>(
            self,
            _session: &'b mut Session,
            _body: &'c mut Option<Bytes>,
            _end_of_stream: bool,
            _ctx: &'d mut Ctx,
        ) -> Result<()> {
            Ok(())
        }

        fn upstream_request_filter<'a, 'b, 'c, 'd>(
            self,
            _session: &'b mut Session,
            request: &'c mut RequestHeader,
            ctx: &'d mut Ctx,
        ) -> Result<()> {
            let Disposition::Cleared(call) = &ctx.state else {
                return Error::e_explain(ErrorType::InternalError, "not cleared for any upstream");
            };
            contain::without_failpoint(request);
            call.route.address(request)
        }

        fn connected_to_upstream<'a, 'b, 'c, 'd, 'e>(
            self,
            _session: &'b mut Session,
            _reused: bool,
            _peer: &'c HttpPeer,
            _fd: RawFd,
            digest: Option<&'d Digest>,
            ctx: &'e mut Ctx,
        ) -> Result<()> {
            if let Disposition::Cleared(call) = &mut ctx.state {
                call.attempt = Attempt::on(digest);
            }
            Ok(())
        }

        fn upstream_response_filter<'a, 'b, 'c, 'd>(
            self,
            session: &'b mut Session,
            response: &'c mut ResponseHeader,
            ctx: &'d mut Ctx,
        ) -> Result<()> {
            self.judge_response(session, response, ctx)
        }

        fn response_filter<'a, 'b, 'c, 'd>(
            self,
            session: &'b mut Session,
            response: &'c mut ResponseHeader,
            ctx: &'d mut Ctx,
        ) -> Result<()> {
            let Disposition::Cleared(call) = &mut ctx.state else { return Ok(()) };
            reply::decorate_passed(response, &call.request_id, call.cleared.warnings())?;
            if !response.status.is_informational() {
                reply::announce(response, call.kept_secs)?;
            }
            self.browsers.share(session.req_header(), response)
        }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut e: Box<Error>,
    ) -> Box<Error> {
        if let Disposition::Cleared(call) = &ctx.state {
            e.set_retry(call.route.failed(self.gate.mono()));
        }
        e
    }

    /// Retries only what the upstream has seen nothing of, or says that it did not touch: a tool may
    /// have done its work although its answer never came. A message that only asks is sent once more
    /// when a kept connection turned out to be dead.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        ctx: &mut Ctx,
        reused: bool,
    ) -> Box<Error> {
        let mut e = e.more_context(format!("peer {peer}"));
        let unanswered = session.response_written().is_none_or(|r| r.status.is_informational());
        let Disposition::Cleared(call) = &mut ctx.state else {
            e.set_retry(false);
            return e;
        };
        let nothing_sent = match &call.attempt {
            Some(attempt) => attempt.nothing_sent(),
            None => !ctx.slot.head_sent(),
        };
        let reused = reused || call.attempt.as_ref().is_some_and(Attempt::on_kept);
        let unseen = nothing_sent && *e.etype() == ErrorType::WriteError;
        let again = reused && call.cleared.is_repeatable() && !call.repeated && died(&e);
        let retry = unanswered
            && *e.esource() == ErrorSource::Upstream
            && (unseen || untouched(&e) || again)
            && call.route.may_retry();
        call.repeated |= retry && again;
        e.set_retry(retry);
        e
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        let Disposition::Cleared(call) = &mut ctx.state else { return Ok(None) };
        if end_of_stream && let Some(attempt) = &call.attempt {
            attempt.answered();
        }
        call.take_back(ctx.slot.apart());
        if ctx.slot.apart().is_due() || call.pipeline.is_long(body.as_deref(), end_of_stream) {
            let part = (body.take(), end_of_stream);
            ctx.slot.allow_comments(false);
            let workers = || call.workers(session.req_header());
            let put_off = ctx.slot.apart().put_off(part, &self.answers, workers);
            return put_off.or_err(NOT_MADE, WORK).map(|()| None);
        }
        let pushed = contain::refused(|| {
            contain::failpoint(session.req_header(), "event");
            call.pipeline.push(body.take(), end_of_stream)
        });
        match pushed {
            Ok(out) => {
                call.passes(out.as_deref().unwrap_or_default());
                *body = out;
                ctx.slot.wait_for(call.pipeline.take_keeping());
                ctx.slot.allow_comments(!end_of_stream && call.pipeline.is_between_events());
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
        let Disposition::Cleared(call) = &mut ctx.state else { return Ok(None) };
        let made = ctx.slot.made_apart().await;
        call.wait_for(ctx.slot.apart()).await;
        let made = made.or_err(NOT_MADE, WORK)?;
        match contain::refused(|| call.pipeline.trailers(trailers)) {
            Ok(held_back) => {
                call.passes(held_back.as_deref().unwrap_or_default());
                ctx.slot.wait_for(call.pipeline.take_keeping());
                let Some(made) = made else { return Ok(held_back) };
                let parts = [made, held_back.unwrap_or_default()].concat();
                Ok(Some(parts.into()))
            }
            Err(denial) => {
                let reason = denial.message.clone();
                call.failed = Some(denial);
                Error::e_explain(ErrorType::HTTPStatus(502), reason)
            }
        }
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Ctx) -> FailToProxy {
        let gone = FailToProxy { error_code: 0, can_reuse_downstream: false };
        let Disposition::Cleared(call) = &mut ctx.state else { return gone };
        call.wait_for(ctx.slot.apart()).await;
        if call.failed.is_none() {
            call.failed = match e.etype() {
                ErrorType::Custom(replay::CUT_OFF) => Some(cut_off()),
                ErrorType::Custom(replay::TAKEN_BACK) => {
                    call.listening.as_ref().and_then(|listening| listening.ended())
                }
                _ => diagnosis::denial(e),
            };
        }
        if let Some(Denial { cause: Some(cause), .. }) = call.failed {
            call.route.report(cause, e, self.gate.mono());
        }
        let Some(denial) = &call.failed else { return gone };
        let begun = session.response_written().is_some_and(|r| !r.status.is_informational());
        let refused = call.cleared.failed(denial.clone());
        if begun {
            let message = reply::message(&refused);
            let event = message.and_then(|m| call.pipeline.last_event(&m, self.legacy_streams));
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
        if call.begun {
            if let Err(e) = held::end(session, &refused).await {
                debug!(error = %e, "could not tell the client that the upstream failed");
            }
            return gone;
        }
        if let Err(e) = reply::write(session, &refused, None, &self.browsers).await {
            warn!(error = %e, "could not tell the client that the upstream failed");
        }
        FailToProxy { error_code: refused.denial.code.row().status, can_reuse_downstream: false }
    }

    /// A client chooses path and host, which are for the record.
    fn request_summary(&self, _session: &Session, _ctx: &Ctx) -> String {
        "of a client".to_owned()
    }

    /// Failures of the upstream are in the record and the metrics, and logged now and then for each
    /// server; a line each would be noise that a dead upstream could flood.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        replay::uninstall(&mut session.downstream_session, &ctx.slot);
        let state = mem::replace(&mut ctx.state, Disposition::Refused);
        if let Disposition::Cleared(mut call) = state {
            call.wait_for(ctx.slot.apart()).await;
            let InFlight {
                cleared,
                pipeline,
                route,
                listening,
                upstream_status,
                bytes_out,
                failed,
                ..
            } = *call;
            let server = route.server_name();
            let (scrubbed, task) = (pipeline.scrubbed(), pipeline.task());
            let mut elicited = pipeline.elicited().to_vec();
            elicited.extend(listening.iter().flat_map(|listening| listening.elicited()));
            if let Some(denial) = &failed {
                self.gate.metrics().operation.upstream_failed(&route.pool.label(), denial);
            }
            let odd = pipeline.oddities();
            if !odd.is_empty() {
                self.gate.metrics().odd_list_entries(odd.hidden, odd.unread);
                route.report_oddities(odd, self.gate.mono());
            }
            let whole = error.is_none();
            self.gate.finish(
                cleared,
                &Ended {
                    server,
                    upstream_status,
                    scrubbed,
                    bytes_out,
                    failed,
                    whole,
                    task,
                    elicited,
                },
            );
        }
    }
}

impl Gateway {
    /// Judges the head of a response and prepares for its body.
    fn judge_response(
        &self,
        session: &Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let Disposition::Cleared(call) = &mut ctx.state else { return Ok(()) };
        // 101 is informational by its number only: no other response follows it.
        let interim = response.status.is_informational()
            && response.status != StatusCode::SWITCHING_PROTOCOLS;
        if interim {
            response::bare(response);
            return Ok(());
        }
        call.upstream_status = Some(response.status.as_u16());
        self.gate.upstream_answered(&mut call.cleared);
        call.route.answered(response)?;
        let carrier = response::carrier(&response.headers);
        let accepted = contain::refused(|| {
            contain::failpoint(session.req_header(), "answer");
            call.pipeline.begin(response, carrier, &call.cleared, call.listening.as_ref())
        });
        call.cleared.answer_comes(carrier);
        ctx.slot.hold_head(call.pipeline.holds_head());
        ctx.slot.allow_comments(call.pipeline.is_between_events());
        accepted.or_else(|denial| {
            let reason = denial.message.clone();
            call.failed = Some(denial);
            Error::e_explain(ErrorType::HTTPStatus(502), reason)
        })
    }
}

/// Reports whether a connection has ended, rather than brought something wrong.
fn died(e: &Error) -> bool {
    matches!(e.etype(), ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError)
}

/// Reports that a server of HTTP/2 did not process the request (RFC 9113 section 8.7): it refused
/// the stream, is going away, or requires HTTP/1.1. Pingora marks these, and also an invalid
/// answer, which may follow work that was done.
fn untouched(e: &Error) -> bool {
    matches!(e.retry, RetryType::Decided(true)) && *e.etype() != ErrorType::InvalidH2
}
