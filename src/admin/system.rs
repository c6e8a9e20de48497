//! Endpoints for machines: liveness, readiness, metrics and the API's description.

use std::sync::Arc;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::IntoResponse;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::endpoint::{Answer, Input};
use super::error::{ApiError, Code};
use super::{Admin, draining};

#[derive(Serialize, JsonSchema)]
pub(crate) struct Health {
    status: &'static str,
    version: &'static str,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Ready {
    status: &'static str,
}

pub(super) async fn health(_admin: Arc<Admin>, _input: Input) -> Result<Answer, ApiError> {
    Answer::of(&Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

pub(super) async fn ready(admin: Arc<Admin>, _input: Input) -> Result<Answer, ApiError> {
    if admin.drain.is_leaving() {
        let draining = draining::refusal();
        let body = json!({
            "error": draining.code.name(), "message": draining.message, "status": "draining",
        });
        let answer = (draining.code.status(), [(RETRY_AFTER, "1")], axum::Json(body));
        return Ok(Answer::Whole(Box::new(answer.into_response())));
    }
    if let Some(message) = store_trouble(&admin) {
        return Err(ApiError::new(Code::StoreUnavailable, message).retry_after(1));
    }
    if admin.audit.healthy() || !admin.settings.require_healthy {
        return Answer::of(&Ready { status: "ready" });
    }
    let message = "the audit log cannot be written, so calls are refused";
    Err(ApiError::new(Code::AuditUnavailable, message).retry_after(1))
}

/// Returns why calls that need the store are refused, if they are.
fn store_trouble(admin: &Admin) -> Option<&'static str> {
    let now = admin.clock.mono();
    if admin.store.is_failing() {
        Some("the store cannot be written to, so calls are refused")
    } else if admin.freshness.is_stale(now) {
        Some("the store has not answered for too long, so calls are refused")
    } else if admin.freshness.is_late(now) {
        Some("the store does not answer, so calls are refused as leases are used up")
    } else if admin.freshness.is_out_of_time() {
        Some("this machine's clock is too far from the store's")
    } else {
        None
    }
}

pub(super) async fn metrics(admin: Arc<Admin>, _input: Input) -> Result<Answer, ApiError> {
    if !admin.settings.metrics.enabled {
        return Err(ApiError::not_found("path (`metrics.enabled` is false)"));
    }
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok(Answer::Whole(Box::new((kind, admin.metrics.render()).into_response())))
}
