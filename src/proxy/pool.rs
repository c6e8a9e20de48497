//! The servers of one upstream: which of them gets a call.
//!
//! A call that belongs to a session goes to the session's server and to no other: a second one would
//! not know the session. Any other goes to the next server in turn that is worth trying; if none
//! is, to the next in turn all the same. Another try is made only while nothing was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::upstreams::peer::HttpPeer;
use smallvec::SmallVec;
use tracing::warn;

use super::affinity::{SealKey, Seals};
use super::diagnosis;
use super::location;
use super::memory::BodyMemory;
use super::upstream::Upstream;
use crate::firewall::agent::AgentId;
use crate::firewall::denial::{Cause, Code, Denial};
use crate::firewall::time::Mono;
use crate::gate::Destination;
use crate::json::Doc;
use crate::mcp::filter::Oddities;

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// Number of connection attempts before a call fails.
const MAX_TRIES: usize = 3;

/// One upstream.
pub struct Pool {
    pub destination: Arc<Destination>,
    /// Path prefix of the pool; `/` for all.
    pub path: String,
    /// Its own canonical URI, if it has one (RFC 9728).
    pub resource: Option<String>,
    /// Memory for the bodies on their way to it.
    pub memory: Arc<BodyMemory>,
    servers: Vec<Upstream>,
    seals: ArcSwap<Seals>,
    next: AtomicUsize,
}

/// The way of one call through a pool.
pub(super) struct Route {
    pub(super) pool: Arc<Pool>,
    agent: AgentId,
    /// The server that the call's session belongs to, and what it calls the session.
    owner: Option<(usize, HeaderValue)>,
    /// True if the client named a session that is not its own, or that has gone.
    stale: bool,
    tried: SmallVec<[usize; MAX_TRIES]>,
}

impl Pool {
    pub fn new(
        destination: Arc<Destination>,
        path: String,
        resource: Option<String>,
        memory: Arc<BodyMemory>,
        servers: Vec<Upstream>,
        keys: &[SealKey],
    ) -> Self {
        let seals = ArcSwap::from_pointee(Seals::of(keys, &destination.urls));
        Self { destination, path, resource, memory, servers, seals, next: AtomicUsize::new(0) }
    }

    /// Seals ids with the first of these keys from now on, and takes back those of all.
    pub(super) fn seal_with(&self, keys: &[SealKey]) {
        self.seals.store(Arc::new(Seals::of(keys, &self.destination.urls)));
    }

    /// The upstream's name in metrics.
    pub(super) fn label(&self) -> Arc<str> {
        self.destination.name.clone().unwrap_or_else(|| Arc::from("default"))
    }

    pub fn servers(&self) -> &[Upstream] {
        &self.servers
    }

    /// Returns the rest of a path after this pool's own; none if the path is another pool's.
    pub(super) fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        if self.path == "/" {
            return Some(path);
        }
        path.strip_prefix(&self.path).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn owner(&self, agent: AgentId, id: &HeaderValue) -> Option<(usize, HeaderValue)> {
        let (server, own) = self.seals.load().owner(agent, id.to_str().ok()?)?;
        Some((server, HeaderValue::from_str(own).ok()?))
    }

    fn pick(&self, tried: &[usize], now: Mono) -> usize {
        let count = self.servers.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = |n: usize| first.wrapping_add(n).checked_rem(count).unwrap_or(0);
        let new = |server: &usize| !tried.contains(server);
        let well = |server: &usize| self.servers.get(*server).is_some_and(|s| s.health.is_in(now));
        let in_turn = || (0..count).map(turn);
        in_turn()
            .find(|server| new(server) && well(server))
            .or_else(|| in_turn().find(new))
            .or_else(|| in_turn().find(well))
            .unwrap_or_else(|| turn(0))
    }
}

/// Longest message that may be an `initialize`.
const MAX_INITIALIZE: usize = 64 * 1024;

/// Reports whether a body opens a session of the protocol.
fn is_initialize(body: &[u8]) -> bool {
    let method = |doc: &Doc<'_>| {
        doc.root()
            .get("method")
            .and_then(|method| method.as_str().map(|method| method == "initialize"))
    };
    body.len() <= MAX_INITIALIZE && Doc::parse(body).is_ok_and(|doc| method(&doc) == Some(true))
}

impl Route {
    /// `request` names the session that the call belongs to.
    pub(super) fn new(pool: Arc<Pool>, request: &RequestHeader, agent: AgentId) -> Self {
        let id = request.headers.get(SESSION_ID);
        let owner = id.and_then(|id| pool.owner(agent, id));
        let stale = id.is_some() && owner.is_none();
        Self { pool, agent, owner, stale, tried: SmallVec::new() }
    }

    /// Refuses a call in a session that is not the agent's. An `initialize` opens a new one, whatever
    /// session it names.
    pub(super) fn in_session(
        &mut self,
        head: &mut RequestHeader,
        body: &[u8],
    ) -> Result<(), Denial> {
        if !self.stale {
            return Ok(());
        }
        if !is_initialize(body) {
            return Err(Denial::new(
                Code::McpSessionUnknown,
                "there is no such MCP session: send `initialize` again, without Mcp-Session-Id",
            ));
        }
        head.remove_header(&SESSION_ID);
        self.stale = false;
        Ok(())
    }

    fn server(&self) -> Option<&Upstream> {
        self.pool.servers.get(*self.tried.last()?)
    }

    /// Returns the recorded name of the last tried server.
    pub(super) fn server_name(&self) -> Option<Arc<str>> {
        self.server().map(|server| server.name.clone())
    }

    /// The server for the next try.
    pub(super) async fn peer(&mut self, now: Mono) -> Result<Box<HttpPeer>> {
        let owner = self.owner.as_ref().map(|(server, _)| *server);
        let server = owner.unwrap_or_else(|| self.pool.pick(&self.tried, now));
        let earlier = self.tries_at(server);
        self.tried.push(server);
        let Some(server) = self.server() else {
            return pingora::Error::e_explain(pingora::ErrorType::ConnectError, "no such server");
        };
        server.peer(earlier, now).await
    }

    fn tries_at(&self, server: usize) -> usize {
        self.tried.iter().filter(|tried| **tried == server).count()
    }

    /// Logs now and then why a server failed.
    pub(super) fn report(&self, cause: Cause, error: &pingora::Error, now: Mono) {
        let Some(server) = self.server() else { return };
        let Some(silenced) = server.failures.due(now) else { return };
        let reason = diagnosis::reason(error);
        let (upstream, server) = (self.pool.destination.name.as_deref(), &server.name);
        let cause = cause.as_str();
        warn!(upstream, %server, cause, reason, silenced, "MCP server failed; call refused");
    }

    /// Logs now and then which entries of a server's lists were hidden or passed unread.
    pub(super) fn report_oddities(&self, odd: &Oddities, now: Mono) {
        let Some(server) = self.server() else { return };
        let Some(silenced) = server.oddities.due(now) else { return };
        let named: Vec<String> = odd.named.iter().map(ToString::to_string).collect();
        let (upstream, server) = (self.pool.destination.name.as_deref(), &server.name);
        let (hidden, unread, entries) = (odd.hidden, odd.unread, named.join("; "));
        warn!(upstream, %server, hidden, unread, entries, silenced, "odd entries in a list");
    }

    /// The server could not be reached; whether there is another, or another address of it.
    pub(super) fn failed(&self, now: Mono) -> bool {
        let (Some(&last), Some(server)) = (self.tried.last(), self.server()) else { return false };
        server.health.failed(now);
        let another = self.owner.is_none() && self.pool.servers.len() > 1;
        self.may_retry() && (another || server.addresses_known() > self.tries_at(last))
    }

    /// Reports whether another try may be made, if what went wrong allows it.
    pub(super) fn may_retry(&self) -> bool {
        self.tried.len() < MAX_TRIES
    }

    /// Turns a prepared head into the one the server gets.
    pub(super) fn address(&self, request: &mut RequestHeader) -> Result<()> {
        let Some(server) = self.server() else { return Ok(()) };
        let uri = request.uri.clone();
        let path = uri.path();
        server.address(request, self.pool.rest(path).unwrap_or(path))?;
        if let Some((_, own)) = &self.owner {
            request.insert_header(SESSION_ID, own.clone())?;
        }
        Ok(())
    }

    /// Turns what the server says of itself into what the client can use.
    pub(super) fn answered(&self, response: &mut ResponseHeader) -> Result<()> {
        let Some(server) = self.server() else { return Ok(()) };
        server.health.answered();
        location::localize(response, server.url(), &self.pool.path)?;
        let seals = self.pool.seals.load();
        let Some(seal) = self.tried.last().and_then(|server| seals.get(*server)) else {
            return Ok(());
        };
        let ids: Vec<_> = response.headers.get_all(SESSION_ID).iter().cloned().collect();
        response.remove_header(&SESSION_ID);
        for id in ids {
            // A seal is made of visible characters only.
            if let Ok(sealed) = HeaderValue::from_bytes(&seal.put_on(self.agent, id.as_bytes())) {
                response.append_header(SESSION_ID, sealed)?;
            }
        }
        Ok(())
    }
}
