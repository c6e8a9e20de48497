//! Who may ask: one rate for all, one key, compared in constant time.
//!
//! The rate comes first and counts wrong keys too, so that it bounds guessing. What needs no key
//! (health, readiness, this API's description) is neither counted nor refused.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::Admin;
use super::error::{ApiError, Code};
use super::routes::{Access, ROUTES};
use crate::config::Secret;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Lets a request through, or answers it.
pub(super) async fn guard(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match check(&admin, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    // Answers hold tokens: no cache may keep one.
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn check(admin: &Admin, request: &Request) -> Result<(), ApiError> {
    if !needs_key(admin, request.uri().path()) {
        return Ok(());
    }
    let trusted = holds_key(request.headers(), &admin.settings.api_key);
    let limiter = if trusted { &admin.limiter } else { &admin.wrong_keys };
    limiter.admit(admin.clock.mono()).map_err(|secs| {
        let message = format!("too many admin requests; try again in {secs} s");
        ApiError::new(Code::RateLimited, message).retry_after(secs)
    })?;
    if trusted {
        return Ok(());
    }
    tracing::warn!(path = route_of(request.uri().path()), "admin request without the right key");
    Err(ApiError::new(Code::Unauthorized, "send the admin key as the header `x-api-key`"))
}

/// Paths that are not in the table need the key too, so that nobody learns which there are.
fn needs_key(admin: &Admin, path: &str) -> bool {
    let access = ROUTES.iter().find(|route| route.path == path).map(|route| route.access);
    match access {
        Some(Access::Open) => false,
        Some(Access::Metrics) => admin.settings.metrics.require_auth,
        Some(Access::Key) | None => true,
    }
}

/// Exactly one header, and the right one. Hashes are compared, so length tells nothing either.
fn holds_key(headers: &HeaderMap, key: &Secret) -> bool {
    let mut given = headers.get_all(API_KEY).iter();
    let (Some(first), None) = (given.next(), given.next()) else { return false };
    let given = blake3::hash(first.as_bytes());
    let wanted = blake3::hash(key.expose().as_bytes());
    given.as_bytes().ct_eq(wanted.as_bytes()).into()
}

/// A path that a log line may hold: one of ours, or none.
fn route_of(path: &str) -> &'static str {
    ROUTES.iter().find(|route| route.path == path).map_or("(other)", |route| route.path)
}
