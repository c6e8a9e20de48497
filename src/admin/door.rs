//! The console's way to the API: the same hosts, keys, wrong-key count, limits, roles, records and
//! functions.
//!
//! Pages are rendered from what the API's own functions answer, and every act is a call of one of
//! them. This file adds the sign-in of a person, who is recognised afterwards.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::request::Parts;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;

use super::access::{Actor, NOBODY, TakesAway, too_many};
use super::endpoint::{Answer, Input, Method, Route, verb};
use super::error::{ApiError, Code};
use super::guard::{self, Known, Sent};
use super::limit::Window;
use super::lru::Lru;
use super::people::People;
use super::query::Parameters;
use super::record::Change;
use super::routes::ROUTES;
use super::sources::Source;
use super::{Admin, perform, record};
use crate::config::Roles;
use crate::firewall::time::{Mono, Now, Timestamp};
use crate::identity::code::Bond;

/// Largest answer that is read back into a value.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Somebody who has signed in.
#[derive(Clone, Debug)]
pub struct Holder {
    kind: Kind,
    name: Arc<str>,
    roles: Roles,
}

#[derive(Clone, Debug)]
enum Kind {
    /// By the hash of the key.
    Key([u8; 32]),
    Person {
        token_id: Option<String>,
        until: Timestamp,
    },
}

impl Holder {
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    #[cfg(test)]
    pub(crate) fn for_tests(name: &str) -> Self {
        Self { kind: Kind::Key([0; 32]), name: Arc::from(name), roles: Roles::NONE }
    }
}

/// A call of one endpoint.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: Method,
    /// Path as the table of routes has it.
    pub path: &'static str,
    pub id: Option<String>,
    /// Query string, without its `?`.
    pub query: String,
    pub body: Option<Value>,
}

impl Ask {
    pub fn get(path: &'static str) -> Self {
        Self { method: Method::Get, path, id: None, query: String::new(), body: None }
    }

    pub fn of(method: Method, path: &'static str, id: &str) -> Self {
        Self { method, id: Some(id.to_owned()), ..Self::get(path) }
    }
}

fn route(method: Method, path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.method == method && route.path == path)
}

impl Admin {
    /// Refuses a host that is not known here.
    pub fn check_host(&self, head: &Parts) -> Result<(), ApiError> {
        self.settings.hosts.check(head)
    }

    /// Recognises a key or token, and counts a wrong one.
    pub async fn sign_in(&self, text: &str, source: IpAddr) -> Result<Holder, ApiError> {
        let sent = Sent { text: text.as_bytes(), is_bearer: true };
        self.signed_in(guard::recognise(self, &sent, source).await, source).await
    }

    /// Returns the address at the identity provider to which a person is sent.
    pub async fn begin_sign_in(
        &self,
        bond: &Bond,
        redirect_uri: &str,
        source: IpAddr,
    ) -> Result<String, ApiError> {
        self.people(source)?.begin(bond, redirect_uri, self.clock.now()).await
    }

    /// Signs in the person for whom the identity provider gave a code. A code that proves nobody counts
    /// as a wrong key.
    pub async fn end_sign_in(
        &self,
        answer: (&str, Option<&str>),
        bond: &Bond,
        redirect_uri: &str,
        source: IpAddr,
    ) -> Result<Holder, ApiError> {
        let person = self.people(source)?.end(answer, bond, redirect_uri, self.clock.now()).await?;
        let known = person.and_then(|person| Known::person(self, person));
        self.signed_in(guard::checked(self, known, source), source).await
    }

    /// Returns those who sign in at the provider; refused for a source that guesses.
    fn people(&self, source: IpAddr) -> Result<&People, ApiError> {
        if self.sources.0.is_refused(Source::from(source), self.clock.mono()) {
            let message = "too many wrong keys came from this address; try again in a minute";
            return Err(ApiError::new(Code::RateLimited, message).retry_after(60));
        }
        self.people.as_ref().ok_or_else(|| ApiError::not_found("page"))
    }

    /// Puts a sign-in or its refusal on record.
    async fn signed_in(
        &self,
        recognised: Result<Known, ApiError>,
        source: IpAddr,
    ) -> Result<Holder, ApiError> {
        match recognised {
            Ok(known) => {
                let holder = Holder::of(known);
                let actor = holder.actor(source);
                match self.announce(&actor, Change::new("console.sign_in")).await {
                    Ok(announced) => announced.done(),
                    // Looking changes nothing, and is needed most when something is broken.
                    Err(error) => {
                        tracing::warn!(%source, message = error.message, "a sign-in is not on record");
                    }
                }
                Ok(holder)
            }
            Err(error) => {
                record::refused(self, ("POST", "/console/sign-in"), source, None, &error).await;
                self.metrics.admin_request(NOBODY, error.code.status());
                Err(error)
            }
        }
    }

    /// Returns the actor behind a sign-in; none if the key or token no longer counts, or has other
    /// roles by now.
    pub fn actor_of(&self, holder: &Holder, source: IpAddr, now: Now) -> Option<Actor> {
        match &holder.kind {
            Kind::Key(hash) => {
                let key = self.keys.with_hash(hash, now.wall)?;
                let same = key.name == holder.name && key.roles == holder.roles;
                same.then(|| Known::Key(key).into_actor(source))
            }
            Kind::Person { token_id, until } => {
                let revoked = token_id.as_ref().is_some_and(|id| self.registry.is_revoked(id));
                (now.wall < *until && !revoked).then(|| holder.actor(source))
            }
        }
    }

    /// Reports whether an actor's roles allow an endpoint.
    pub fn may(&self, actor: &Actor, method: Method, path: &str) -> bool {
        let needed = route(method, path).map(|route| route.access.roles(true));
        needed.is_some_and(|needed| needed.is_none_or(|roles| actor.roles.meets(roles)))
    }

    /// Reads from an endpoint, for a page.
    pub async fn read(self: &Arc<Self>, actor: &Actor, ask: Ask) -> Result<Value, ApiError> {
        let route = route(ask.method, ask.path).ok_or_else(|| ApiError::not_found("path"))?;
        self.ask(route, actor, ask).await
    }

    /// Calls an endpoint for a person's act, counted and limited as if the API had been asked.
    pub async fn act(
        self: &Arc<Self>,
        holder: &Holder,
        actor: &Actor,
        ask: Ask,
    ) -> Result<Value, ApiError> {
        let route = route(ask.method, ask.path).ok_or_else(|| ApiError::not_found("path"))?;
        let answered = self.counted(route, holder, actor, ask).await;
        let status = answered.as_ref().map_or_else(|error| error.code.status(), |_| route.status);
        self.metrics.admin_request(&actor.label, status);
        answered
    }

    async fn counted(
        self: &Arc<Self>,
        route: &'static Route,
        holder: &Holder,
        actor: &Actor,
        ask: Ask,
    ) -> Result<Value, ApiError> {
        let now = self.clock.now();
        let limits = match &holder.kind {
            Kind::Key(hash) => {
                let key = self.keys.with_hash(hash, now.wall);
                let gone =
                    || ApiError::new(Code::Unauthorized, "the key is not a right one any more");
                Arc::clone(&key.ok_or_else(gone)?.limits)
            }
            Kind::Person { .. } => self.keys.limits_of(&holder.name),
        };
        let takes_away = route.takes_away != TakesAway::Never;
        let counted = limits.count(takes_away, now.mono).map_err(too_many)?;
        self.ask(route, &Actor { counted, ..actor.clone() }, ask).await
    }

    async fn ask(
        self: &Arc<Self>,
        route: &'static Route,
        actor: &Actor,
        ask: Ask,
    ) -> Result<Value, ApiError> {
        if let Some(roles) = route.access.roles(true)
            && let Err(error) = actor.has_one_of(roles)
        {
            record::refused(
                self,
                (verb(route.method), route.path),
                actor.source,
                Some(actor),
                &error,
            )
            .await;
            return Err(error);
        }
        let Ask { id, query, body, .. } = ask;
        let input = async {
            let malformed =
                |_bad| ApiError::new(Code::MalformedRequest, "the query cannot be read");
            let uri = format!("/?{query}").parse().map_err(malformed)?;
            let query = Parameters::read(&uri, route.query)?;
            let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
            Ok(Input { actor: actor.clone(), id, query, body })
        };
        match perform(route, self, actor, input).await? {
            Answer::Json(value) => Ok(value),
            Answer::Whole(response) => {
                let broken = |error: axum::Error| ApiError::new(Code::Internal, error.to_string());
                let bytes = axum::body::to_bytes(response.into_body(), MAX_ANSWER_BYTES);
                let bytes = bytes.await.map_err(broken)?;
                Ok(serde_json::from_slice(&bytes)
                    .unwrap_or_else(|_text| Value::from(String::from_utf8_lossy(&bytes))))
            }
        }
    }
}

impl Holder {
    fn of(known: Known) -> Self {
        match known {
            Known::Key(key) => {
                Self { kind: Kind::Key(key.hash), name: Arc::clone(&key.name), roles: key.roles }
            }
            Known::Person(person) => Self {
                kind: Kind::Person { token_id: person.token_id, until: person.until },
                name: person.name,
                roles: person.roles,
            },
        }
    }

    fn actor(&self, source: IpAddr) -> Actor {
        let label = match self.kind {
            Kind::Key(_) => Arc::clone(&self.name),
            Kind::Person { .. } => Arc::from(super::access::PEOPLE),
        };
        let name = Arc::clone(&self.name);
        Actor { name, label, roles: self.roles, ..Actor::nobody(source) }
    }
}

/// Pace of pages, for each person.
#[derive(Debug)]
pub struct Pace {
    per_minute: u32,
    people: Mutex<Lru<Arc<str>, Window>>,
}

impl Pace {
    /// Remembers the pages of at most `people`.
    pub fn new(per_minute: u32, people: usize) -> Self {
        Self { per_minute, people: Mutex::new(Lru::new(people)) }
    }

    /// Counts a page, or refuses it.
    pub fn count(&self, person: &Arc<str>, now: Mono) -> Result<(), ApiError> {
        let mut people = self.people.lock();
        if people.get(person).is_none() {
            people.put(Arc::clone(person), Window::default());
        }
        let window = people.get(person);
        window.map_or(Ok(()), |window| window.count(self.per_minute, now).map_err(too_many))
    }
}
