//! Answers of the proxy port itself: health, metrics, and OAuth metadata (RFC 9728).

use std::sync::Arc;

use http::{Method, StatusCode, header};
use pingora::Result;
use pingora::proxy::Session;
use serde_json::{Value, json};

use super::reply;
use crate::firewall::denial::Code;
use crate::gate::{Gate, Readiness, Refused};
use crate::metrics::Metrics;

const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// The gateway's own answers.
pub struct Local {
    pub metrics: Arc<Metrics>,
    /// Whether metrics are served on this port at all.
    pub serve_metrics: bool,
    /// How agents reach this port.
    pub scheme: &'static str,
    /// The canonical URI of this resource, where configured.
    pub resource: Option<String>,
    pub authorization_servers: Vec<String>,
}

impl Local {
    /// Answers if the request is one of the gateway's own.
    pub(super) async fn answer(&self, session: &mut Session, gate: &Gate) -> Result<bool> {
        let head = session.req_header();
        if head.method != Method::GET && head.method != Method::HEAD {
            return Ok(false);
        }
        match head.uri.path() {
            "/health" => {
                let asked = head.uri.query().is_some_and(|query| query == "ready");
                let (status, said) = if asked { ready(gate) } else { (StatusCode::OK, "ok") };
                let body = json!({"status": said}).to_string();
                reply::plain(session, status, "application/json", body).await?;
            }
            "/metrics" if self.serve_metrics => {
                let body = self.metrics.render();
                reply::plain(session, StatusCode::OK, "text/plain; version=0.0.4", body).await?;
            }
            path => {
                let Some(rest) = behind_metadata_path(path) else { return Ok(false) };
                let Some(resource) = self.resource(session, rest) else { return Ok(false) };
                let body = self.metadata(&resource, &gate.scopes_asked()).to_string();
                reply::plain(session, StatusCode::OK, "application/json", body).await?;
            }
        }
        Ok(true)
    }

    /// What clients need to know to get a token (RFC 9728 section 2).
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
            self.metadata_url(session).map(|url| format!("resource_metadata=\"{url}\"")),
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

    /// The resource whose metadata lies at the path that was asked for (RFC 9728 section 3.3).
    fn resource(&self, session: &Session, rest: &str) -> Option<String> {
        let path = if rest.is_empty() { "/" } else { rest };
        self.resource.clone().or_else(|| Some(format!("{}{path}", self.origin(session)?)))
    }

    /// Where the metadata of the configured resource lies (RFC 9728 section 3.1).
    fn metadata_url(&self, session: &Session) -> Option<String> {
        let Some(resource) = &self.resource else {
            return Some(format!("{}{METADATA_PATH}", self.origin(session)?));
        };
        let (scheme, rest) = resource.split_once("://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let separator = if path.is_empty() { "" } else { "/" };
        Some(format!("{scheme}://{authority}{METADATA_PATH}{separator}{path}"))
    }

    /// The origin the client used, if its `Host` or `:authority` is fit to be quoted.
    fn origin(&self, session: &Session) -> Option<String> {
        let head = session.req_header();
        let named = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = named.or_else(|| head.uri.authority().map(http::uri::Authority::as_str))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        (!host.is_empty() && host.chars().all(plain)).then(|| format!("{}://{host}", self.scheme))
    }
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

fn behind_metadata_path(path: &str) -> Option<&str> {
    path.strip_prefix(METADATA_PATH).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Scopes as a challenge may hold them (RFC 6750 section 3); others no server can grant.
fn quotable(scopes: &[impl AsRef<str>]) -> String {
    let fits = |c: char| matches!(c, '!' | '#'..='[' | ']'..='~');
    let scopes = scopes.iter().map(AsRef::as_ref);
    let scopes: Vec<&str> = scopes.filter(|s| !s.is_empty() && s.chars().all(fits)).collect();
    scopes.join(" ")
}
