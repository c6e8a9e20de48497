//! Conditions of a request: a known host, a right key, a role that may, a rate that is not used up.
//!
//! A source that sent too many wrong keys is refused before its key counts for anything
//! ([`sources`](super::sources)). Endpoints without a key (health, readiness, this API's
//! description) are neither counted nor refused. Requests without the right key, and those whose
//! key may not, are on record before they are answered.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, HOST, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::access::{Actor, NOBODY, PEOPLE, TakesAway, too_many};
use super::endpoint::{self, Route};
use super::error::{ApiError, Code};
use super::keys::Key;
use super::limit::Counted;
use super::people::Person;
use super::routes::ROUTES;
use super::sources::{Attempt, Source};
use super::{Admin, Peer, record};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Endpoints that probes may request under any host name; they reveal nothing.
const PROBED: [&str; 3] = ["/health", "/ready", "/metrics"];

/// Lets a request through, or answers it.
pub(super) async fn guard(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response {
    // A body may not be held while somebody is waited for.
    let (mut head, body) = request.into_parts();
    let source = source_of(&head);
    let asked = Asked::of(&head);
    let (label, response) = match authorize(&admin, &head, &asked, source).await {
        Ok(mut actor) => {
            actor.place = Some(asked.place());
            let label = Arc::clone(&actor.label);
            head.extensions.insert(actor);
            (label, next.run(Request::from_parts(head, body)).await)
        }
        Err(refused) => {
            let Refused { error, by } = *refused;
            let label =
                by.as_ref().map_or_else(|| Arc::from(NOBODY), |actor| Arc::clone(&actor.label));
            if matches!(error.code, Code::Unauthorized | Code::Forbidden) || by.is_none() {
                record::refused(&admin, asked.place(), source, by.as_ref(), &error).await;
            }
            (label, error.into_response())
        }
    };
    admin.metrics.admin_request(&label, response.status());
    decorated(response)
}

/// Adds headers that keep answers out of caches, since they may contain tokens.
fn decorated(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Finds the endpoint that a request is for.
struct Asked {
    method: &'static str,
    /// `None` for a path or method that is not in the table.
    route: Option<&'static Route>,
}

impl Asked {
    fn of(head: &Parts) -> Self {
        let path = head.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        // What was sent may be any token, and a record holds few words.
        let method = match head.method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "POST" => "POST",
            "PUT" => "PUT",
            "DELETE" => "DELETE",
            _ => "(other)",
        };
        // A GET's head alone is asked for with the rights of the GET.
        let wanted = if method == "HEAD" { "GET" } else { method };
        let route = ROUTES
            .iter()
            .find(|route| Some(route.path) == path && endpoint::verb(route.method) == wanted);
        Self { method, route }
    }

    /// Method and path as a record may hold them.
    fn place(&self) -> (&'static str, &'static str) {
        (self.method, self.route.map_or("(other)", |route| route.path))
    }
}

/// Reason why a request was not let through, and by whom it was sent if that is known.
struct Refused {
    error: ApiError,
    by: Option<Actor>,
}

impl From<ApiError> for Box<Refused> {
    fn from(error: ApiError) -> Self {
        Self::new(Refused { error, by: None })
    }
}

async fn authorize(
    admin: &Admin,
    head: &Parts,
    asked: &Asked,
    source: IpAddr,
) -> Result<Actor, Box<Refused>> {
    let route = asked.route;
    if route.is_none_or(|route| !PROBED.contains(&route.path)) {
        admin.settings.hosts.check(head)?;
    }
    let metrics_need_key = admin.settings.metrics.require_auth;
    let may = match route.map(|route| route.access) {
        Some(access) => match access.roles(metrics_need_key) {
            Some(roles) => Some(roles),
            None => return Ok(Actor::nobody(source)),
        },
        // Paths that are not in the table need a key too, so that nobody learns which there are.
        None => None,
    };
    let known = identify(admin, &head.headers, source).await?;
    let takes_away = route.map_or(TakesAway::Never, |route| route.takes_away);
    let counted = match takes_away {
        TakesAway::AtOnce => Ok(Counted::Regular),
        TakesAway::Never | TakesAway::Always | TakesAway::Sometimes => {
            let reserve = takes_away != TakesAway::Never;
            known.limits(admin).count(reserve, admin.clock.mono())
        }
    };
    let mut actor = known.into_actor(source);
    match counted {
        Ok(counted) => actor.counted = counted,
        Err(secs) => return Err(Box::new(Refused { error: too_many(secs), by: Some(actor) })),
    }
    if let Some(may) = may
        && let Err(error) = actor.has_one_of(may)
    {
        return Err(Box::new(Refused { error, by: Some(actor) }));
    }
    Ok(actor)
}

/// Caller that was recognised.
pub(super) enum Known {
    Key(Arc<Key>),
    Person(Person),
}

impl Known {
    /// Returns a person whose token is not revoked, with the person's identity.
    pub(super) fn person(admin: &Admin, person: Person) -> Option<([u8; 32], Self)> {
        let revoked = person.token_id.as_deref().is_some_and(|id| admin.registry.is_revoked(id));
        (!revoked).then(|| (person.identity(), Self::Person(person)))
    }

    fn limits(&self, admin: &Admin) -> Arc<super::limit::Limits> {
        match self {
            Self::Key(key) => Arc::clone(&key.limits),
            Self::Person(person) => admin.keys.limits_of(&person.name),
        }
    }

    pub(super) fn into_actor(self, source: IpAddr) -> Actor {
        let nobody = Actor::nobody(source);
        match self {
            Self::Key(key) => Actor {
                name: Arc::clone(&key.name),
                label: Arc::clone(&key.name),
                roles: key.roles,
                scope: key.scope.clone(),
                ..nobody
            },
            Self::Person(person) => {
                Actor { name: person.name, label: Arc::from(PEOPLE), roles: person.roles, ..nobody }
            }
        }
    }
}

/// Finds out who sent a request, by the key or token that it has.
async fn identify(admin: &Admin, headers: &HeaderMap, source: IpAddr) -> Result<Known, ApiError> {
    recognise(admin, &credential(headers)?, source).await
}

/// Recognises a key or token, and counts a wrong one against its source.
pub(super) async fn recognise(
    admin: &Admin,
    sent: &Sent<'_>,
    source: IpAddr,
) -> Result<Known, ApiError> {
    let now = admin.clock.now();
    let known = match (admin.keys.find(sent.text, now.wall), &admin.people) {
        (Some(key), _) => Some((key.hash, Known::Key(key))),
        (None, Some(people)) if sent.is_bearer => {
            // From a source that guesses, only tokens that are known already are looked at.
            let may_ask = !admin.sources.0.is_refused(Source::from(source), now.mono);
            let person = people.recognise(sent.text, may_ask, now).await?;
            person.and_then(|person| Known::person(admin, person))
        }
        (None, _) => None,
    };
    checked(admin, known, source)
}

/// Counts a right or a wrong key against its source.
pub(super) fn checked(
    admin: &Admin,
    known: Option<([u8; 32], Known)>,
    source: IpAddr,
) -> Result<Known, ApiError> {
    let identity = known.as_ref().map(|(identity, _)| identity);
    match admin.sources.0.attempt(Source::from(source), identity, admin.clock.mono()) {
        Attempt::Right => {}
        Attempt::RightAndNew(pair) => admin.keep_pair(pair),
        Attempt::Wrong => return Err(unauthorized("the key is not a right one")),
        Attempt::TooMany { retry_after_secs } => {
            let message = format!(
                "too many wrong keys came from this address; try again in {retry_after_secs} s"
            );
            return Err(ApiError::new(Code::RateLimited, message).retry_after(retry_after_secs));
        }
    }
    known.map(|(_, known)| known).ok_or_else(|| unauthorized("the key is not a right one"))
}

fn unauthorized(problem: &str) -> ApiError {
    let advice = "send an admin key as the header `x-api-key` or as a Bearer token";
    ApiError::new(Code::Unauthorized, format!("{problem}: {advice}"))
}

/// A key or token as it was sent.
pub(super) struct Sent<'h> {
    pub(super) text: &'h [u8],
    pub(super) is_bearer: bool,
}

/// The one key or token of a request. Without one nothing was guessed, so nothing is counted.
fn credential(headers: &HeaderMap) -> Result<Sent<'_>, ApiError> {
    let mut keys = headers.get_all(API_KEY).iter();
    let mut tokens = headers.get_all(AUTHORIZATION).iter();
    match (keys.next(), tokens.next(), keys.next(), tokens.next()) {
        (Some(key), None, None, None) => Ok(Sent { text: key.as_bytes(), is_bearer: false }),
        (None, Some(token), None, None) => match bearer(token.as_bytes()) {
            Some(text) => Ok(Sent { text, is_bearer: true }),
            None => Err(unauthorized("`Authorization` holds no Bearer token")),
        },
        (None, None, _, _) => Err(unauthorized("the request has no key")),
        _ => Err(unauthorized("the request has more than one key")),
    }
}

/// The token of `Bearer <token>` (RFC 6750 section 2.1); the scheme's case does not count.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let token = rest.strip_prefix(b" ")?.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

/// The peer's address; a router that is asked without a socket has none.
pub fn source_of(head: &Parts) -> IpAddr {
    let peer = head.extensions.get::<ConnectInfo<Peer>>();
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.0.ip().to_canonical())
}

/// Hosts that the API answers to, against DNS rebinding.
#[derive(Clone, Debug)]
pub struct Hosts {
    named: Vec<String>,
    listen: IpAddr,
}

impl Hosts {
    /// `named` are lower-case names or addresses; without any, those of this machine.
    pub fn new(named: Vec<String>, listen: IpAddr) -> Self {
        Self { named, listen }
    }

    pub(super) fn check(&self, head: &Parts) -> Result<(), ApiError> {
        let denied = |problem: &str| {
            let advice = "add it to `admin.allowed_hosts` if it is one of this gateway's names";
            Err(ApiError::new(Code::HostDenied, format!("{problem}; {advice}")))
        };
        let mut given = head.headers.get_all(HOST).iter();
        let host = match (given.next(), given.next(), head.uri.host()) {
            (_, Some(_), _) => return denied("the request has more than one `Host`"),
            (Some(host), None, None) => match host.to_str().ok().and_then(without_port) {
                Some(host) => host,
                None => return denied("`Host` is not a host"),
            },
            (_, None, Some(host)) => host,
            // A browser always sends one, and only browsers can be misled by names.
            (None, None, None) => return Ok(()),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if self.allows(&host) { Ok(()) } else { denied("this `Host` is not known here") }
    }

    fn allows(&self, host: &str) -> bool {
        if !self.named.is_empty() {
            return self.named.iter().any(|named| named == host);
        }
        match host.parse::<IpAddr>() {
            // An address cannot be made to mean another machine.
            Ok(address) => {
                address.is_loopback() || address == self.listen || self.listen.is_unspecified()
            }
            Err(_name) => host == "localhost" || host.ends_with(".localhost"),
        }
    }
}

/// The host of `host[:port]`.
fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.rfind(']') {
        Some(end) => host.split_at_checked(end + 1)?,
        None => {
            host.find(':').map_or((host, ""), |at| host.split_at_checked(at).unwrap_or((host, "")))
        }
    };
    let port = port.strip_prefix(':').unwrap_or(port);
    (!name.is_empty() && port.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_port_and_case() {
        for (host, name) in [
            ("localhost", Some("localhost")),
            ("localhost:3000", Some("localhost")),
            ("[::1]:3000", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("a:b", None),
            (":3000", None),
            ("", None),
            ("[::1]x", None),
        ] {
            assert_eq!(without_port(host), name, "{host}");
        }
    }

    #[test]
    fn without_a_list_only_this_machine_is_meant() {
        let local = Hosts::new(Vec::new(), "127.0.0.1".parse().unwrap());
        let any = Hosts::new(Vec::new(), "0.0.0.0".parse().unwrap());
        let named = Hosts::new(vec!["arbiter.example".to_owned()], "0.0.0.0".parse().unwrap());
        for (host, by_local, by_any, by_named) in [
            ("localhost", true, true, false),
            ("127.0.0.1", true, true, false),
            ("::1", true, true, false),
            ("10.0.0.5", false, true, false),
            ("arbiter.example", false, false, true),
            ("evil.example", false, false, false),
            ("localhost.evil.example", false, false, false),
        ] {
            let allowed = (local.allows(host), any.allows(host), named.allows(host));
            assert_eq!(allowed, (by_local, by_any, by_named), "{host}");
        }
    }

    #[test]
    fn a_bearer_token_is_read_as_rfc_6750_has_it() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        for bad in [&b"Bearer"[..], b"Bearer ", b"Basic abc", b"Bearerabc", b"abc"] {
            assert_eq!(bearer(bad), None);
        }
    }
}
