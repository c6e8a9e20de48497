//! The operators' side: agents, sessions, policies and the audit log's head over REST.
//!
//! One table ([`routes`]) says which endpoints there are and which roles may use each; the router and
//! the OpenAPI document both come from it. One guard runs before all of them: the host, the key,
//! its rate, its role ([`guard`]). Every change goes on record before it is made ([`record`]), with
//! the name of the key, so that none is made unseen: with the audit log down the answer is 503 and
//! nothing has changed.

mod access;
mod agents;
mod approvals;
mod audit;
mod backup;
mod body;
mod check;
mod door;
mod draining;
mod endpoint;
mod error;
mod explain;
mod freeze;
mod guard;
mod keys;
mod limit;
mod lru;
mod openapi;
mod people;
mod policy;
mod query;
mod record;
mod records;
mod routes;
mod sessions;
mod sources;
mod system;
mod terms;
mod tokens;

#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, RawPathParams, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};

use crate::approvals::Approvals;
use crate::audit::Audit;
use crate::clock::Clock;
use crate::config;
use crate::continuations::Continuations;
use crate::firewall::checks::drift::Keywords;
use crate::freezer::Freezer;
use crate::gate::drain::Drain;
use crate::identity::mint::Minter;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::reload::Reloader;
use crate::rulebook::Rulebook;
use crate::sessions::Sessions;
use crate::store::{Freshness, Store};
use crate::telemetry::Causes;

pub use crate::identity::code::Bond;
pub use access::Actor;
pub use body::MAX_BODY_BYTES;
pub use door::{Ask, Holder, Pace};
pub use error::{ApiError, Code};
pub use explain::explain_offline;
pub use guard::{Hosts, source_of};
pub use keys::{Keyring, NewKeys};
pub use openapi::document as openapi;
pub use people::People;
pub use records::Searches;
pub(crate) use terms::SessionTerms;

use access::Access;
pub use endpoint::Method;
use endpoint::{Handler, Input, Route};
use routes::ROUTES;
pub use sources::Pair;
use sources::Sources;

/// State that the endpoints work on.
pub struct Admin {
    pub store: Arc<Store>,
    pub registry: Arc<Registry>,
    pub sessions: Arc<Sessions>,
    pub freezer: Arc<Freezer>,
    /// Freshness of this node's knowledge of changes by other nodes.
    pub freshness: Arc<Freshness>,
    /// Progress of this gateway on its way out of service.
    pub drain: Arc<Drain>,
    pub rulebook: Arc<Rulebook>,
    pub approvals: Arc<Approvals>,
    pub continuations: Arc<Continuations>,
    pub reloader: Reloader,
    pub audit: Arc<Audit>,
    pub minter: Arc<Minter>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    pub keys: Arc<Keyring>,
    /// Sign-in of people, if there is one.
    pub people: Option<People>,
    pub sources: WrongKeys,
    pub searches: Searches,
    pub settings: Settings,
}

impl Admin {
    /// Keeps over a restart that a key succeeded from a source; nobody waits for it.
    fn keep_pair(&self, pair: Pair) {
        let (store, now) = (Arc::clone(&self.store), self.clock.now().wall);
        tokio::spawn(async move {
            if let Err(error) = store.keep_admin_pair(pair, now, sources::MAX_PAIRS_KEPT).await {
                let error = Causes(&error);
                tracing::warn!(%error, "an admin key's source is not kept over a restart");
            }
        });
    }
}

/// The other end of an admin connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Counts wrong keys by their source.
pub struct WrongKeys(Sources);

impl WrongKeys {
    pub fn new(limit_per_minute: u32) -> Self {
        Self(Sources::new(limit_per_minute))
    }

    /// Remembers which keys succeeded from which sources before, the least recently used first.
    pub fn remember(&self, pairs: Vec<Pair>) {
        self.0.remember(pairs);
    }
}

/// The part of the configuration that matters here.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Interval between checkpoints, in seconds; none without a key.
    pub checkpoint_secs: Option<u64>,
    /// Names that this gateway is called by.
    pub hosts: Hosts,
    pub token_expiry_secs: u64,
    /// `audit.require_healthy`.
    pub require_healthy: bool,
    pub metrics: config::Metrics,
    pub sessions: config::Sessions,
    pub keywords: Keywords,
    /// The names of all upstreams.
    pub upstreams: Vec<Box<str>>,
}

impl Settings {
    pub fn of(config: &config::Config) -> Self {
        let sessions = &config.sessions;
        Self {
            checkpoint_secs: config
                .audit
                .checkpoint_key_file
                .as_ref()
                .map(|_key| config.audit.checkpoint_secs),
            hosts: Hosts::new(config.admin.allowed_hosts.clone(), config.admin.listen.ip()),
            token_expiry_secs: config.admin.token_expiry_secs,
            require_healthy: config.audit.require_healthy,
            metrics: config.metrics.clone(),
            keywords: Keywords {
                read: sessions.read_intent_keywords.clone(),
                write: sessions.write_intent_keywords.clone(),
                admin: sessions.admin_intent_keywords.clone(),
            },
            sessions: sessions.clone(),
            upstreams: config.upstream_names(),
        }
    }
}

/// The service of the admin port.
pub fn router(admin: Arc<Admin>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let serve = move |State(admin): State<Arc<Admin>>,
                          Extension(actor): Extension<Actor>,
                          parameters: Result<RawPathParams, _>,
                          request: Request| async move {
            // What is not UTF-8 in a path is none of our ids.
            let parameters = match parameters {
                Ok(parameters) => id_of(&parameters),
                Err::<_, axum::extract::rejection::RawPathParamsRejection>(_) => None,
            };
            answer(route, admin, actor, parameters, request).await
        };
        router = router.route(route.path, on(filter(route), serve));
    }
    router
        .fallback(async || ApiError::not_found("path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(Code::MethodNotAllowed, "see the header `Allow` for the methods")
        })
        .layer(from_fn_with_state(Arc::clone(&admin), guard::guard))
        .with_state(admin)
}

fn filter(route: &Route) -> MethodFilter {
    match route.method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
        Method::Delete => MethodFilter::DELETE,
    }
}

/// Every path has at most one parameter.
fn id_of(parameters: &RawPathParams) -> Option<String> {
    parameters.iter().next().map(|(_, value)| value.to_owned())
}

async fn answer(
    route: &'static Route,
    admin: Arc<Admin>,
    actor: Actor,
    id: Option<String>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let by = actor.clone();
    let input = async {
        let query = query::Parameters::read(&head.uri, route.query)?;
        let body = match route.body {
            Some(_) => body::read(&head.headers, body).await?,
            None => bytes::Bytes::new(),
        };
        Ok::<_, ApiError>(Input { actor, id, query, body })
    };
    match perform(route, &admin, &by, input).await {
        Ok(endpoint::Answer::Json(value)) => (route.status, axum::Json(value)).into_response(),
        Ok(endpoint::Answer::Whole(response)) => *response,
        Err(error) => error.into_response(),
    }
}

/// Runs an endpoint's function for an actor whose role may ask for it.
async fn perform(
    route: &'static Route,
    admin: &Arc<Admin>,
    by: &Actor,
    input: impl Future<Output = Result<Input, ApiError>>,
) -> Result<endpoint::Answer, ApiError> {
    draining::check(admin, route)?;
    // What other nodes did before this was asked is known when it is answered; without the store
    // what this node knows has to do.
    if matches!(route.access, Access::Roles(_))
        && let Err(error) = admin.freshness.catch_up(&admin.clock).await
    {
        tracing::warn!(error = %Causes(&error), "answered from what is known: the store did not answer");
    }
    let answered = match input.await {
        Ok(input) => match route.handler {
            Handler::Call(handler) => handler(Arc::clone(admin), input).await,
            Handler::Description => Ok(endpoint::Answer::Json(openapi::kept().clone())),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = &answered {
        if error.code == Code::Forbidden {
            let place = (endpoint::verb(route.method), route.path);
            record::refused(admin, place, by.source, Some(by), error).await;
        }
        if error.code == Code::Internal {
            tracing::error!(route = route.path, message = error.message, "admin call failed");
        }
    }
    answered
}
