//! From Pingora's session to the gate's verdict: head, token, body, in the contract's order.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, header};
use pingora::protocols::http::v1::common::is_expect_continue_req;
use pingora::proxy::Session;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::browser::Browsers;
use super::hygiene::{self, HeadRules, Route};
use super::pool::Way;
use super::upstreams::Upstreams;
use crate::config;
use crate::firewall::agent::Caller;
use crate::firewall::denial::{Code, Denial};
use crate::gate::ticket::Ticket;
use crate::gate::{Claims, Cleared, Gate, Refused};
use crate::mcp::headers::ProtocolHeaders;

const SESSION: HeaderName = HeaderName::from_static("x-arbiter-session");
const AGENT_ID: HeaderName = HeaderName::from_static("x-agent-id");

/// How long an idle connection is kept for the client's next request.
pub(super) const KEEP_ALIVE_SECS: u64 = 60;

/// How long a client may take to accept what is written to it.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_mins(1);

/// How long the whole body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_mins(1);

/// How long the rest of a refused body is read, so that the refusal can be received.
const DRAIN: Duration = Duration::from_secs(2);

/// What one permit of the memory budget stands for.
const PERMIT_BYTES: usize = 1024;

/// Most that is reserved for a body before its first byte has come.
const INITIAL_BUFFER: usize = 64 * 1024;

/// Reads requests and brings them before the gate.
pub struct Intake {
    head: HeadRules,
    max_body_bytes: usize,
}

type Passed = (Cleared, Option<OwnedSemaphorePermit>, Way);

/// A request whose sender is known and whose body has come.
struct Arrived {
    route: Route,
    caller: Caller,
    body: Bytes,
    share: Option<OwnedSemaphorePermit>,
    way: Way,
}

/// Memory for request bodies, divided evenly: an upstream that does not answer holds up no more
/// than its own part. Each part lets the largest body through.
pub fn memory_for_each(settings: &config::Proxy, upstreams: usize) -> Arc<Semaphore> {
    let share = settings.max_in_flight_body_bytes.checked_div(upstreams).unwrap_or(0);
    let permits = share.max(settings.max_request_body_bytes).div_ceil(PERMIT_BYTES);
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}

impl Intake {
    pub fn new(settings: &config::Proxy, browsers: Arc<Browsers>) -> Self {
        Self {
            head: HeadRules {
                blocked_paths: settings.blocked_paths.clone(),
                browsers,
                deny_non_post_methods: settings.deny_non_post_methods,
                legacy_streams: settings.legacy_streams,
            },
            max_body_bytes: settings.max_request_body_bytes,
        }
    }

    /// Whether a request is a preflight whose head is in order.
    pub(super) fn is_preflight(&self, session: &Session) -> bool {
        let whole = session.as_http1().is_none() || hygiene::raw_head(&session.to_h1_raw()).is_ok();
        hygiene::preflight(session.req_header(), &self.head) && whole
    }

    /// Takes a request through every check; what comes back is on record.
    pub(super) async fn admit(
        &self,
        gate: &Arc<Gate>,
        upstreams: &Upstreams,
        session: &mut Session,
    ) -> Result<Passed, Refused> {
        let mut ticket = gate.open().await?;
        match self.read(gate, upstreams, session, &mut ticket).await {
            Ok(Arrived { route, caller, body, share, way }) => {
                let to = &way.pool.destination;
                let head = session.req_header();
                let claims = match claims(&head.headers) {
                    Ok(claims) => claims,
                    Err(denial) => return Err(gate.refuse(ticket, denial).await),
                };
                let cleared = match route {
                    Route::Mcp => gate.judge(ticket, &caller, &claims, body, to).await?,
                    Route::Legacy(verb) => {
                        gate.judge_legacy(ticket, &caller, &claims, verb, to).await?
                    }
                    Route::Unchecked => gate.pass_unchecked(ticket, &caller, body).await?,
                };
                Ok((cleared, share, way))
            }
            Err(denial) => Err(gate.refuse(ticket, denial).await),
        }
    }

    async fn read(
        &self,
        gate: &Gate,
        upstreams: &Upstreams,
        session: &mut Session,
        ticket: &mut Ticket,
    ) -> Result<Arrived, Denial> {
        if session.as_http1().is_some() {
            hygiene::raw_head(&session.to_h1_raw())?;
        }
        drop_nominated(session)?;
        hygiene::drop_offers(session.req_header_mut());
        let route = hygiene::route(session.req_header(), &self.head)?;
        let path = session.req_header().uri.path();
        let pool = upstreams.find(path).cloned().ok_or_else(hygiene::not_served)?;
        ticket.bound_for(&pool.destination);
        let token = bearer(&session.req_header().headers)?;
        let caller = gate.identify(ticket, token).await?;
        let way = Way::new(pool, session.req_header(), caller.agent.id)?;
        let (body, share) = self.body(session, &way.pool.memory).await?;
        if matches!(route, Route::Legacy(_)) && !body.is_empty() {
            return Err(Denial::new(Code::MalformedRequest, "send GET and DELETE without a body"));
        }
        Ok(Arrived { route, caller, body, share, way })
    }

    /// Reads the whole body, within the limits of size, time and memory.
    async fn body(
        &self,
        session: &mut Session,
        memory: &Arc<Semaphore>,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Denial> {
        let max = self.max_body_bytes;
        let too_large = || {
            Denial::new(
                Code::BodyTooLarge,
                format!("the body is larger than {max} bytes: send less"),
            )
            .with("max_request_body_bytes", max)
        };
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
            return Err(too_large());
        }
        if is_expect_continue_req(session.req_header()) {
            // Else the interim response itself would end the connection.
            session.set_close_on_response_before_downstream_finish(false);
            let written = session.write_continue_response().await;
            session.set_close_on_response_before_downstream_finish(true);
            written.map_err(|_gone| broken_body())?;
        }
        let mut share = None;
        // No more than what is about to be held: a length is only a claim.
        reserve(memory, &mut share, declared.unwrap_or(max).min(INITIAL_BUFFER))?;
        let mut body = BytesMut::with_capacity(declared.unwrap_or(0).min(INITIAL_BUFFER));
        let whole = tokio::time::timeout(BODY_DEADLINE, async {
            while let Some(part) =
                session.read_request_body().await.map_err(|_broken| broken_body())?
            {
                let length = body.len().saturating_add(part.len());
                if length > max {
                    return Err(too_large());
                }
                reserve(memory, &mut share, length)?;
                body.extend_from_slice(&part);
            }
            Ok(())
        });
        match whole.await {
            Ok(Ok(())) => Ok((body.freeze(), share)),
            Ok(Err(denial)) => {
                // Where this body ends is not certain, so neither is where another request begins.
                session.set_keepalive(None);
                Err(denial)
            }
            Err(_late) => {
                session.set_keepalive(None);
                let secs = BODY_DEADLINE.as_secs();
                let late = format!("the body did not arrive within {secs} s");
                Err(Denial::new(Code::MalformedRequest, late))
            }
        }
    }
}

/// Makes `share` cover `bytes`, or refuses when too much is in flight already.
fn reserve(
    memory: &Arc<Semaphore>,
    share: &mut Option<OwnedSemaphorePermit>,
    bytes: usize,
) -> Result<(), Denial> {
    let wanted = bytes.div_ceil(PERMIT_BYTES);
    let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let Some(more) = wanted.checked_sub(held).filter(|n| *n > 0) else { return Ok(()) };
    let overloaded = || {
        Denial::new(Code::Overloaded, "too many request bodies are in flight: try again")
            .retry_after(1)
    };
    let more = u32::try_from(more).map_err(|_too_many| overloaded())?;
    let permit = memory.clone().try_acquire_many_owned(more).map_err(|_none| overloaded())?;
    match share {
        Some(held) => held.merge(permit),
        None => *share = Some(permit),
    }
    Ok(())
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
