//! What the proxy port answers by itself: health, metrics, and OAuth metadata (RFC 9728).

use std::sync::Arc;

use http::{Method, StatusCode, header};
use pingora::Result;
use pingora::proxy::Session;
use serde_json::json;

use super::reply;
use crate::firewall::denial::Code;
use crate::gate::Refused;
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
    pub(super) async fn answer(&self, session: &mut Session) -> Result<bool> {
        let head = session.req_header();
        if head.method != Method::GET && head.method != Method::HEAD {
            return Ok(false);
        }
        match head.uri.path() {
            "/health" => {
                let body = json!({"status": "ok"}).to_string();
                reply::plain(session, StatusCode::OK, "application/json", body).await?;
            }
            "/metrics" if self.serve_metrics => {
                let body = self.metrics.render();
                reply::plain(session, StatusCode::OK, "text/plain; version=0.0.4", body).await?;
            }
            path if is_metadata(path) => {
                let Some(resource) = self.resource(session) else { return Ok(false) };
                let body = json!({
                    "resource": resource,
                    "authorization_servers": self.authorization_servers,
                    "bearer_methods_supported": ["header"],
                });
                let body = body.to_string();
                reply::plain(session, StatusCode::OK, "application/json", body).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The `WWW-Authenticate` of a refusal that asks for a (better) token.
    pub(super) fn challenge(&self, session: &Session, refused: &Refused) -> Option<String> {
        let error = match refused.denial.code {
            Code::TokenMissing => None,
            Code::TokenInvalid | Code::TokenExpired => Some("invalid_token"),
            Code::InsufficientScope => Some("insufficient_scope"),
            _ => return None,
        };
        let scope = refused.denial.details.get("scope").and_then(|scope| scope.as_str());
        let members = [
            self.metadata_url(session).map(|url| format!("resource_metadata=\"{url}\"")),
            scope.map(|scope| format!("scope=\"{scope}\"")),
            error.map(|error| format!("error=\"{error}\"")),
        ];
        let members: Vec<_> = members.into_iter().flatten().collect();
        Some(if members.is_empty() {
            "Bearer realm=\"arbiter\"".to_owned()
        } else {
            format!("Bearer {}", members.join(", "))
        })
    }

    fn resource(&self, session: &Session) -> Option<String> {
        self.resource.clone().or_else(|| Some(format!("{}/", self.origin(session)?)))
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

fn is_metadata(path: &str) -> bool {
    path.strip_prefix(METADATA_PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
