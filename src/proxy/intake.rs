//! From Pingora's session to the gate's verdict: head, token, body, in that order.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, header};
use pingora::http::RequestHeader;
use pingora::protocols::http::v1::common::is_expect_continue_req;
use pingora::proxy::Session;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout, timeout_at};

use super::browser::Browsers;
use super::contain;
use super::head_rules::{self, HeadRules, HeadSize};
use super::held::{self, Progress};
use super::memory::Held;
use super::pool::{Pool, Route};
use super::turn::{BULK_BYTES, Turn};
use super::upstreams::Upstreams;
use super::{Gateway, recorded};
use crate::config;
use crate::firewall::denial::{Code, Denial};
use crate::gate::{Arrived, Carried, Claims, Cleared, Denied, Gate, Kind, Read, Refused};
use crate::json;
use crate::mcp::headers::ProtocolHeaders;
use crate::saturate::SaturatingFrom as _;

const SESSION: HeaderName = HeaderName::from_static("x-arbiter-session");
const AGENT_ID: HeaderName = HeaderName::from_static("x-agent-id");

/// Time within which a client must accept written data.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_mins(1);

/// Time that a body may take however slow it comes.
const BODY_GRACE: Duration = Duration::from_secs(5);

/// Time that a call is given before its client is watched, where calls may be held.
const UNWATCHED: Duration = Duration::from_millis(50);

/// Time for which the rest of a refused body is read, so that the refusal can be received.
const DRAIN: Duration = Duration::from_secs(2);

/// Most that is reserved for a body before its first byte has come.
const INITIAL_BUFFER: usize = 64 * 1024;

/// Number of bytes that must have come before as many are reserved as are declared.
const BELIEVED: usize = 256 * 1024;

/// Reads requests and brings them before the gate.
pub struct Intake {
    head: HeadRules,
    max_body_bytes: usize,
    min_body_rate: u32,
    bulk: Handle,
}

type Passed = (Box<Cleared>, Held, Route);

/// A request whose sender is known and whose body has come, and the way that it is to go.
struct Whole {
    read: Read,
    held: Held,
    route: Route,
}

impl Intake {
    /// `bulk` has threads for work on large bodies.
    pub fn new(settings: &config::Proxy, browsers: Arc<Browsers>, bulk: Handle) -> Self {
        Self {
            head: HeadRules {
                blocked_paths: settings.blocked_paths.clone(),
                browsers,
                deny_non_post_methods: settings.deny_non_post_methods,
                legacy_streams: settings.legacy_streams,
                size: HeadSize::of(settings),
            },
            max_body_bytes: settings.max_request_body_bytes,
            min_body_rate: settings.min_body_rate_bytes,
            bulk,
        }
    }

    /// Reports whether a request is a preflight whose head is in order.
    pub(super) fn is_preflight(&self, session: &Session) -> bool {
        head_rules::preflight(session.req_header(), &self.head)
    }

    /// Takes a request through every check; what comes back is on record.
    pub(super) async fn check(
        &self,
        gateway: &Gateway,
        session: &mut Session,
    ) -> Result<Passed, Refused> {
        let Gateway { gate, upstreams, forwarding, browsers, .. } = gateway;
        let head = gate.head(&recorded::parts(session, forwarding));
        let traced = gate.is_traced();
        let carried = if traced { recorded::carried(session) } else { Carried::default() };
        let arrived = gate.receive(head, &carried).await?;
        let request_id = arrived.request_id();
        let admitted = {
            let checking = pin!(self.check_arrived(gate, (upstreams, browsers), session, arrived));
            contain::caught(checking).await
        };
        let Some(admitted) = admitted else {
            // Where this request ends is not certain.
            session.set_keepalive(None);
            return Err(gate.refuse_recorded(request_id, contain::internal_error()));
        };
        admitted
    }

    async fn check_arrived(
        &self,
        gate: &Arc<Gate>,
        (upstreams, browsers): (&Upstreams, &Browsers),
        session: &mut Session,
        arrived: Arrived,
    ) -> Result<Passed, Refused> {
        let whole = match self.read(gate, upstreams, session, arrived).await {
            Ok(whole) => whole,
            Err(denied) => return Err(gate.refuse(denied).await),
        };
        contain::failpoint(session.req_header(), "judge");
        let Whole { read, held, route } = whole;
        if read.kind() == Kind::Message && gate.holds_calls() {
            let judged = self.judge_watched((gate, browsers), session, read);
            return Box::pin(judged).await.map(|cleared| (cleared, held, route));
        }
        let head = session.req_header();
        if read.kind() == Kind::Message && read.body().len() > BULK_BYTES {
            // Boxed, because few requests come this way and all would carry its room.
            let judged = Box::pin(self.judge_apart(gate, head, read)).await;
            return judged.map(|cleared| (cleared, held, route));
        }
        let claims = match claims(&head.headers) {
            Ok(claims) => claims,
            Err(denial) => return Err(gate.refuse(read.denied(denial)).await),
        };
        let cleared = gate.judge(read, &claims).await?;
        Ok((cleared, held, route))
    }

    /// Judges a message for which a person may be asked, for as long as its client is there: one that
    /// leaves withdraws what it asked for.
    async fn judge_watched(
        &self,
        (gate, browsers): (&Arc<Gate>, &Browsers),
        session: &mut Session,
        mut read: Read,
    ) -> Result<Box<Cleared>, Refused> {
        let request_id = read.request_id();
        let (show_wait, mut wait) = watch::channel(None);
        if held::takes_streams(&session.req_header().headers) {
            read.show_wait(show_wait);
        }
        let head = session.req_header().clone();
        let mut judged = Box::pin(async {
            if read.body().len() > BULK_BYTES {
                return self.judge_apart(gate, &head, read).await;
            }
            match claims(&head.headers) {
                Ok(claims) => gate.judge(read, &claims).await,
                Err(denial) => Err(gate.refuse(read.denied(denial)).await),
            }
        });
        // Most are judged before a look at the connection would be worth its cost.
        if let Ok(judged) = timeout(UNWATCHED, &mut judged).await {
            return judged;
        }
        let mut progress: Option<Progress> = None;
        loop {
            let due = async {
                match &mut progress {
                    Some(progress) => progress.due().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                judged = &mut judged => return judged,
                _gone = session.downstream_session.read_body_or_idle(true) => break,
                Ok(()) = wait.changed() => {}
                () = due => {}
            }
            let token = wait.borrow_and_update().clone();
            let shown = match (&mut progress, token) {
                (Some(progress), _) => progress.notify(session).await,
                (None, Some(token)) => {
                    let begun = Progress::begin(token, session, request_id, browsers).await;
                    begun.map(|begun| progress = Some(begun))
                }
                (None, None) => Ok(()),
            };
            if shown.is_err() {
                break;
            }
        }
        // What is dropped with it leaves the record.
        drop(judged);
        session.set_keepalive(None);
        Err(gate.left(request_id))
    }

    /// Judges a large body on threads of its own, so that small calls do not wait behind it. Ends
    /// with the request: a client that leaves takes the work with it.
    async fn judge_apart(
        &self,
        gate: &Arc<Gate>,
        head: &RequestHeader,
        read: Read,
    ) -> Result<Box<Cleared>, Refused> {
        let request_id = read.request_id();
        let (apart, head) = (gate.clone(), head.clone());
        let judged = self.bulk.spawn(async move {
            contain::failpoint(&head, "bulk");
            match claims(&head.headers) {
                Ok(claims) => apart.judge(read, &claims).await,
                Err(denial) => Err(apart.refuse(read.denied(denial)).await),
            }
        });
        match AbortOnDrop(judged).await {
            Ok(judged) => judged,
            Err(_panicked) => Err(gate.refuse_recorded(request_id, contain::internal_error())),
        }
    }

    async fn read(
        &self,
        gate: &Gate,
        upstreams: &Upstreams,
        session: &mut Session,
        mut arrived: Arrived,
    ) -> Result<Whole, Box<Denied>> {
        let (kind, pool, token) = match self.read_head(upstreams, session, &mut arrived) {
            Ok(head) => head,
            Err(denial) => return Err(arrived.denied(denial)),
        };
        let identified = gate.identify(arrived, token).await?;
        let agent = identified.caller().agent.id;
        let mut route = Route::new(pool, session.req_header(), agent);
        let mut held = route.pool.memory.held_by(agent);
        let body = match self.body(session, &mut held).await {
            Ok(body) => body,
            Err(denial) => return Err(identified.denied(denial)),
        };
        let read = identified.read(kind, body, route.pool.destination.clone());
        if let Err(denial) = route.in_session(session.req_header_mut(), read.body()) {
            return Err(read.denied(denial));
        }
        if matches!(kind, Kind::Legacy(_)) && !read.body().is_empty() {
            let message = "send GET and DELETE without a body";
            return Err(read.denied(Denial::new(Code::MalformedRequest, message)));
        }
        Ok(Whole { read, held, route })
    }

    /// Reads what the head says of a request: its kind, its upstream and its token.
    fn read_head<'s>(
        &self,
        upstreams: &Upstreams,
        session: &'s mut Session,
        arrived: &mut Arrived,
    ) -> Result<(Kind, Arc<Pool>, Option<&'s str>), Denial> {
        drop_nominated(session)?;
        head_rules::drop_offers(session.req_header_mut());
        let kind = head_rules::kind(session.req_header(), &self.head)?;
        let path = session.req_header().uri.path();
        let pool = upstreams.find(path).cloned().ok_or_else(head_rules::not_served)?;
        arrived.bound_for(&pool.destination);
        let token = bearer(&session.req_header().headers)?;
        Ok((kind, pool, token))
    }

    /// Reads the whole body, within the limits of size, time and memory.
    async fn body(&self, session: &mut Session, held: &mut Held) -> Result<Bytes, Denial> {
        let max = self.max_body_bytes;
        let declared = session
            .req_header()
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if let Some(length) = declared
            && length > max
        {
            if length <= max.saturating_mul(4) {
                session.set_close_on_response_before_downstream_finish(false);
                session.set_total_drain_timeout(Some(DRAIN));
            }
            return Err(too_large(max));
        }
        // No more than what is about to be held: a length is only a claim.
        held.cover(declared.unwrap_or(max).min(INITIAL_BUFFER))?;
        if is_expect_continue_req(session.req_header()) {
            // Else the interim response itself would end the connection.
            session.set_close_on_response_before_downstream_finish(false);
            let written = session.write_continue_response().await;
            session.set_close_on_response_before_downstream_finish(true);
            written.map_err(|_gone| broken_body())?;
        }
        let body = self.whole_body(session, held, declared).await;
        if body.is_err() {
            // Where this body ends is not certain, so neither is where another request begins.
            session.set_keepalive(None);
        }
        body
    }

    async fn whole_body(
        &self,
        session: &mut Session,
        held: &mut Held,
        declared: Option<usize>,
    ) -> Result<Bytes, Denial> {
        let max = self.max_body_bytes;
        let (mut whole, mut body) = (Bytes::new(), BytesMut::new());
        // A piece of HTTP/2 may hold on to more than itself.
        let may_keep = !session.is_http2();
        let began = Instant::now();
        let mut turn = Turn::default();
        loop {
            let by = began.checked_add(patience(whole.len().max(body.len()), self.min_body_rate));
            let read = session.read_request_body();
            let part = match by {
                Some(by) => timeout_at(by, read).await.map_err(|_late| self.too_slow())?,
                None => read.await,
            };
            let Some(part) = part.map_err(|_broken| broken_body())? else { break };
            let length = whole.len().max(body.len()).saturating_add(part.len());
            if length > max {
                return Err(too_large(max));
            }
            held.cover(length)?;
            if may_keep && whole.is_empty() && declared == Some(part.len()) {
                // All of it in one piece: nothing to gather.
                whole = part;
                continue;
            }
            if body.is_empty() {
                body.reserve(declared.unwrap_or(0).min(INITIAL_BUFFER));
                body.extend_from_slice(&std::mem::take(&mut whole));
            }
            if body.len() < BELIEVED && length >= BELIEVED {
                // Not copied again and again while it grows. What never comes takes no memory: no page
                // of it is touched.
                body.reserve(declared.unwrap_or(0).saturating_sub(body.len()));
            }
            body.extend_from_slice(&part);
            turn.took(part.len()).await;
        }
        let body = if body.is_empty() { whole } else { body.freeze() };
        // Before it is parsed: its values take more than its text.
        let parsed = if body.len() > BULK_BYTES {
            let text = body.clone();
            let counted = self.bulk.spawn(async move { json::bytes_of(&text) });
            AbortOnDrop(counted).await.map_err(|_panicked| contain::internal_error())?
        } else {
            json::bytes_of(&body)
        };
        held.cover_parsed(parsed)?;
        Ok(body)
    }

    fn too_slow(&self) -> Denial {
        let rate = self.min_body_rate;
        let message = format!("the body comes too slowly: send at least {rate} bytes a second");
        Denial::new(Code::RequestTooSlow, message).with("min_body_rate_bytes", rate)
    }
}

/// Time that a body may take of which `received` bytes have come.
fn patience(received: usize, min_rate: u32) -> Duration {
    let received = u64::saturating_from(received);
    let micros = received.saturating_mul(1_000_000).checked_div(min_rate.into()).unwrap_or(0);
    BODY_GRACE.max(Duration::from_micros(micros))
}

fn too_large(max: usize) -> Denial {
    let message = format!("the body is larger than {max} bytes: send less");
    Denial::new(Code::BodyTooLarge, message).with("max_request_body_bytes", max)
}

/// A task that ends when nobody waits for it any more.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn broken_body() -> Denial {
    Denial::new(Code::MalformedRequest, "the body broke off or is framed wrongly")
}

/// Drops the headers that `Connection` names, before anything is read from them (RFC 9110 7.6.1).
fn drop_nominated(session: &mut Session) -> Result<(), Denial> {
    let head = session.req_header_mut();
    let mut nominated: Vec<HeaderName> = Vec::new();
    for value in head.headers.get_all(header::CONNECTION) {
        for name in value.as_bytes().split(|b| *b == b',') {
            let name = name.trim_ascii();
            if name.is_empty()
                || name.eq_ignore_ascii_case(b"close")
                || name.eq_ignore_ascii_case(b"keep-alive")
            {
                continue;
            }
            let Ok(name) = HeaderName::from_bytes(name) else {
                return Err(Denial::new(
                    Code::MalformedRequest,
                    "header Connection names something that is no header",
                ));
            };
            nominated.push(name);
        }
    }
    for name in nominated {
        if name == header::UPGRADE {
            continue;
        }
        if matches!(name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::HOST) {
            return Err(Denial::new(
                Code::MalformedRequest,
                "header Connection must not name a header that frames the message",
            ));
        }
        head.remove_header(&name);
    }
    Ok(())
}

/// The bearer token of the one `Authorization` header (RFC 6750 section 2.1).
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denial> {
    let invalid = || {
        Denial::new(Code::TokenInvalid, "send exactly one header `Authorization: Bearer <token>`")
    };
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid());
    }
    let text = value.to_str().map_err(|_not_text| invalid())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(invalid)?;
    let token = token.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(invalid());
    }
    Ok(Some(token))
}

fn claims(headers: &HeaderMap) -> Result<Claims<'_>, Denial> {
    let text = |name: &HeaderName| match headers.get(name) {
        None => Ok(None),
        Some(value) => value.to_str().map(Some).map_err(|_not_text| {
            Denial::new(
                Code::MalformedRequest,
                format!("header {name} holds a forbidden character"),
            )
        }),
    };
    Ok(Claims {
        session: text(&SESSION)?,
        agent: text(&AGENT_ID)?,
        protocol: ProtocolHeaders::read(headers)
            .map_err(|bad| Denial::new(bad.code(), bad.to_string()))?,
    })
}
