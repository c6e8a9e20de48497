//! Head of the audit log, plain and signed, for operators who keep it elsewhere; and notice that
//! the log file was moved.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use schemars::JsonSchema;
use serde::Serialize;

use super::Admin;
use super::endpoint::{Answer, Input};
use super::error::{ApiError, Code};
use super::record::Change;

#[derive(Serialize, JsonSchema)]
pub(crate) struct AuditHead {
    /// Sequence of the last record; 0 before the first.
    sequence: u64,
    /// `chain_record_hash` of the last record.
    hash: String,
    healthy: bool,
}

pub(super) async fn head(admin: Arc<Admin>, _input: Input) -> Result<Answer, ApiError> {
    let head = admin.audit.head();
    Answer::of(&AuditHead { sequence: head.sequence, hash: head.hash, healthy: head.healthy })
}

/// The last checkpoint, byte for byte as it was signed.
pub(super) async fn checkpoint(admin: Arc<Admin>, _input: Input) -> Result<Answer, ApiError> {
    let Some(note) = admin.audit.checkpoint() else {
        return Err(ApiError::not_found("checkpoint"));
    };
    let response = ([(CONTENT_TYPE, "text/plain; charset=utf-8")], note).into_response();
    Ok(Answer::Whole(Box::new(response)))
}

/// Reopens the log if its file was moved away.
pub(super) async fn reopen(admin: Arc<Admin>, input: Input) -> Result<Answer, ApiError> {
    let announced = admin.announce(&input.actor, Change::new("audit.reopen")).await?;
    if let Err(error) = admin.audit.reopen().await {
        let message = format!("{error}: see the log for the cause");
        return Err(announced.refused(ApiError::new(Code::AuditUnavailable, message)));
    }
    announced.done();
    head(admin, input).await
}
