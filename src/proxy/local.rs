//! Answers of the proxy port's own: health, metrics, preflights, and OAuth metadata (RFC 9728).

use std::sync::Arc;

use axum::extract::ConnectInfo;
use http::{HeaderName, Method, StatusCode, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use uuid::Uuid;

use super::browser::Browsers;
use super::head_rules::{MAX_PATH_BYTES, METADATA_PATH, behind, is_metadata};
use super::reply;
use super::upstreams::Upstreams;
use crate::firewall::denial::Code;
use crate::gate::{Gate, Readiness, Refused};
use crate::metrics::Metrics;

const EXPOSITION: &str = "text/plain; version=0.0.4";
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const MAX_SCRAPE_BYTES: usize = 16 * 1024 * 1024;

/// The readers of metrics on this port.
pub enum Scrapes {
    Nobody,
    Anyone,
    /// Holders of a key that may, as this service of the admin port judges.
    Keyholders(axum::Router),
}
/// Paths at which clients of protocol version 2025-03-26 look for an authorization server's metadata. This
/// gateway is none, and its issuers publish their own.
const SERVER_METADATA_PATHS: [&str; 2] =
    ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"];

/// The gateway's own answers.
pub struct Local {
    pub metrics: Arc<Metrics>,
    pub scrapes: Scrapes,
    /// Scheme by which agents reach this port.
    pub scheme: &'static str,
    /// The canonical URI of this resource, where configured.
    pub resource: Option<String>,
    pub authorization_servers: Vec<String>,
    pub browsers: Arc<Browsers>,
    /// Methods of MCP paths, for preflights.
    pub methods: &'static str,
}

/// Reports whether [`Local::answer`] could have an answer. Asked first, so that calls do not carry its room.
pub(super) fn may_answer(session: &Session) -> bool {
    matches!(session.req_header().method, Method::GET | Method::HEAD | Method::OPTIONS)
}

impl Local {
    /// Answers if the request is one of the gateway's own.
    pub(super) async fn answer(
        &self,
        session: &mut Session,
        gate: &Gate,
        upstreams: &Upstreams,
    ) -> Result<bool> {
        let head = session.req_header();
        let path = head.uri.path();
        let is_health = matches!(path, "/health" | "/health/");
        if head.method == Method::OPTIONS && is_health {
            let mut header = ResponseHeader::build(StatusCode::NO_CONTENT, Some(4))?;
            header.insert_header(header::ALLOW, "GET, HEAD, OPTIONS")?;
            self.bare(session, header).await?;
            return Ok(true);
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            return Ok(false);
        }
        let (status, kind, body) = match path {
            _ if is_health => {
                let asked = head.uri.query().is_some_and(|query| query == "ready");
                let (status, said) = if asked { ready(gate) } else { (StatusCode::OK, "ok") };
                (status, JSON, json!({"status": said}).to_string())
            }
            "/metrics" => match &self.scrapes {
                Scrapes::Nobody => return Ok(false),
                Scrapes::Anyone => (StatusCode::OK, EXPOSITION, self.metrics.render()),
                Scrapes::Keyholders(admin) => scrape(admin.clone(), session).await,
            },
            _ if SERVER_METADATA_PATHS.iter().any(|place| behind(path, place).is_some()) => {
                let advice = "this gateway is no authorization server: see \
                              /.well-known/oauth-protected-resource";
                let body = json!({"error": "not_found", "error_description": advice});
                (StatusCode::NOT_FOUND, JSON, body.to_string())
            }
            _ => {
                let Some(rest) = behind(path, METADATA_PATH) else { return Ok(false) };
                // Refused like any other request for a host that is not served.
                if self.browsers.host(head).is_err() {
                    return Ok(false);
                }
                let Some(resource) = self.resource(head, rest, upstreams) else {
                    return Ok(false);
                };
                let metadata = self.metadata(&resource, &gate.scopes_asked());
                (StatusCode::OK, JSON, metadata.to_string())
            }
        };
        reply::plain(session, status, kind, body, &self.browsers).await?;
        Ok(true)
    }

    /// Answers a preflight of an allowed origin.
    pub(super) async fn preflight(&self, session: &mut Session) -> Result<bool> {
        let head = session.req_header();
        let methods = if is_metadata(head.uri.path()) { "GET" } else { self.methods };
        let Some(answer) = self.browsers.preflight(head, methods)? else { return Ok(false) };
        self.bare(session, answer).await?;
        Ok(true)
    }

    /// Writes an answer without a body.
    async fn bare(&self, session: &mut Session, mut header: ResponseHeader) -> Result<()> {
        reply::decorate(&mut header, Uuid::new_v4(), &[])?;
        reply::announce(&mut header, reply::kept_secs(session))?;
        session.write_response_header(Box::new(header), true).await
    }

    /// Builds the protected-resource metadata (RFC 9728 section 2).
    fn metadata(&self, resource: &str, scopes: &[String]) -> Value {
        let mut metadata = serde_json::Map::new();
        metadata.insert("resource".to_owned(), json!(resource));
        metadata.insert("resource_name".to_owned(), json!("Arbiter"));
        metadata.insert("bearer_methods_supported".to_owned(), json!(["header"]));
        let lists =
            [("authorization_servers", &*self.authorization_servers), ("scopes_supported", scopes)];
        // A list that would be empty is left out (section 3.2).
        for (name, values) in lists.into_iter().filter(|(_, values)| !values.is_empty()) {
            metadata.insert(name.to_owned(), json!(values));
        }
        Value::Object(metadata)
    }

    /// The `WWW-Authenticate` of a refusal that asks for a (better) token.
    pub(super) fn challenge(
        &self,
        session: &Session,
        refused: &Refused,
        gate: &Gate,
        upstreams: &Upstreams,
    ) -> Option<String> {
        let error = match refused.denial.code {
            Code::TokenMissing => None,
            Code::TokenInvalid | Code::TokenExpired => Some("invalid_token"),
            Code::InsufficientScope => Some("insufficient_scope"),
            _ => return None,
        };
        let missing = refused.denial.details.get("scope").and_then(|scope| scope.as_str());
        let scope = match missing {
            Some(missing) => quotable(&missing.split(' ').collect::<Vec<_>>()),
            None => quotable(&gate.scopes_asked()),
        };
        let members = [
            self.metadata_url(session.req_header(), upstreams)
                .map(|url| format!("resource_metadata=\"{url}\"")),
            (!scope.is_empty()).then(|| format!("scope=\"{scope}\"")),
            error.map(|error| format!("error=\"{error}\"")),
        ];
        let members: Vec<_> = members.into_iter().flatten().collect();
        Some(if members.is_empty() {
            "Bearer realm=\"arbiter\"".to_owned()
        } else {
            format!("Bearer {}", members.join(", "))
        })
    }

    /// The resource whose metadata lies at the path that was asked for (RFC 9728 section 3.3); none
    /// where nothing is served.
    fn resource(&self, head: &RequestHeader, rest: &str, upstreams: &Upstreams) -> Option<String> {
        let path = if rest.is_empty() { "/" } else { rest };
        let known = upstreams.find(path).and_then(|pool| pool.resource.as_deref());
        let Some(known) = known.or(self.resource.as_deref()) else {
            upstreams.find(path)?;
            return Some(format!("{}{path}", self.origin(head)?));
        };
        let (origin, own) = split(known)?;
        let asked = path.trim_end_matches('/');
        // At the root it is the resource as it was configured.
        if asked.is_empty() || asked == own.trim_end_matches('/') {
            return Some(known.to_owned());
        }
        upstreams.find(path)?;
        Some(format!("{origin}{asked}"))
    }

    /// Address of the metadata of the path that was called (RFC 9728 section 3.1).
    fn metadata_url(&self, head: &RequestHeader, upstreams: &Upstreams) -> Option<String> {
        let path = head.uri.path().trim_end_matches('/');
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%".contains(&b);
        let path = if path.len() <= MAX_PATH_BYTES && path.bytes().all(plain) { path } else { "" };
        let pool = upstreams.find(if path.is_empty() { "/" } else { path });
        let known = pool.and_then(|pool| pool.resource.as_deref()).or(self.resource.as_deref());
        let Some(known) = known else {
            let path = if pool.is_some() { path } else { "" };
            return Some(format!("{}{METADATA_PATH}{path}", self.origin(head)?));
        };
        let (origin, own) = split(known)?;
        let path = if path.is_empty() || pool.is_none() { own.trim_end_matches('/') } else { path };
        Some(format!("{origin}{METADATA_PATH}{path}"))
    }

    /// The origin the client used, if its `Host` or `:authority` is fit to be quoted.
    fn origin(&self, head: &RequestHeader) -> Option<String> {
        let named = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = named.or_else(|| head.uri.authority().map(http::uri::Authority::as_str))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        (!host.is_empty() && host.chars().all(plain)).then(|| format!("{}://{host}", self.scheme))
    }
}

/// Asks the admin port's service for the metrics, with the key that this request has. Roles, rates and
/// the bound on wrong keys are the same there and here.
async fn scrape(admin: axum::Router, session: &Session) -> (StatusCode, &'static str, String) {
    let failed = (StatusCode::INTERNAL_SERVER_ERROR, EXPOSITION, String::new());
    let mut request = http::Request::new(axum::body::Body::empty());
    *request.uri_mut() = http::Uri::from_static("/metrics");
    let given = &session.req_header().headers;
    for name in [API_KEY, header::AUTHORIZATION] {
        for value in given.get_all(&name) {
            request.headers_mut().append(name.clone(), value.clone());
        }
    }
    let peer = session.client_addr().and_then(|address| address.as_inet());
    if let Some(peer) = peer {
        request.extensions_mut().insert(ConnectInfo(*peer));
    }
    let Ok(response) = admin.oneshot(request).await;
    let status = response.status();
    let Ok(body) = axum::body::to_bytes(response.into_body(), MAX_SCRAPE_BYTES).await else {
        return failed;
    };
    let kind = if status.is_success() { EXPOSITION } else { "application/json" };
    String::from_utf8(body.to_vec()).map_or(failed, |body| (status, kind, body))
}

/// Readiness as the admin port's `/ready` reports it, in a word.
fn ready(gate: &Gate) -> (StatusCode, &'static str) {
    match gate.readiness() {
        Readiness::Ready => (StatusCode::OK, "ready"),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Readiness::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "store unavailable"),
        Readiness::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "audit unavailable"),
    }
}

const JSON: &str = "application/json";

/// A URI's origin and its path.
fn split(uri: &str) -> Option<(&str, &str)> {
    let authority = uri.find("://")?.checked_add(3)?;
    let path = uri.get(authority..)?.find('/').map_or(uri.len(), |at| authority.saturating_add(at));
    uri.split_at_checked(path)
}

/// Scopes as a challenge may hold them (RFC 6750 section 3); others no server can grant.
fn quotable(scopes: &[impl AsRef<str>]) -> String {
    let fits = |c: char| matches!(c, '!' | '#'..='[' | ']'..='~');
    let scopes = scopes.iter().map(AsRef::as_ref);
    let scopes: Vec<&str> = scopes.filter(|s| !s.is_empty() && s.chars().all(fits)).collect();
    scopes.join(" ")
}
